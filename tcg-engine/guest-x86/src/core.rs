//! Architectural state in and out: what is saved of a vCPU, in a form that names nothing of the translator.
//!
//! Lazy flags are evaluated, translation caches and TLBs do not appear. Registers that the bus owns (local APIC, clocks) are
//! saved with it, not here.

use cpu_model::Access;
use ir::{PC, Regs};

use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::state::{
    FPU_CW, FPU_DP, FPU_IP, FPU_OP, FPU_SW, FPU_TAG, Segment, Shadow, Table, eflags, fpr, gpr, set_eflags, xmm,
    ymm_upper,
};

/// The architectural state of one vCPU.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct X86Core {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Instruction pointer (offset in CS).
    pub rip: u64,
    /// EFLAGS with every flag evaluated.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub seg: [Segment; 6],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: Table,
    /// IDTR.
    pub idtr: Table,
    /// CR0, CR2, CR3, CR4.
    pub cr: [u64; 4],
    /// XCR0.
    pub xcr0: u64,
    /// DR0 to DR3, DR6, DR7.
    pub dr: [u64; 6],
    /// PAE page-directory-pointer entries.
    pub pdpte: [u64; 4],
    /// Current privilege level.
    pub cpl: u8,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// The upper halves of YMM0 to YMM15; zero on a CPU model without AVX.
    pub ymm_upper: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
    /// x87 data registers by physical number, 80 bits each.
    pub fpr: [u128; 8],
    /// x87 control word.
    pub fcw: u16,
    /// x87 status word.
    pub fsw: u16,
    /// Abridged tag: bit n = physical register n is not empty.
    pub ftw: u8,
    /// Last x87 instruction's opcode.
    pub fop: u16,
    /// Its address.
    pub fip: u64,
    /// Its operand's address.
    pub fdp: u64,
    /// STI shadow.
    pub sti_shadow: bool,
    /// MOV SS shadow.
    pub mov_ss_shadow: bool,
    /// NMIs blocked until IRET.
    pub nmi_blocked: bool,
    /// In HLT.
    pub halted: bool,
    /// (index, value) of the model-specific registers kept by the vCPU, in the order of the model's table.
    pub msrs: Vec<(u32, u64)>,
}

/// A state that cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The model has no such register, or it may not have this value.
    #[error(
        "register {index:#x} cannot be {value:#x} on this CPU model; load the state on the model that it was saved on"
    )]
    Msr {
        /// Its index.
        index: u32,
        /// The value.
        value: u64,
    },
    /// A control register, the privilege level or XCR0 holds what this CPU model cannot have.
    #[error("{what} cannot be {value:#x} on this CPU model; the state is damaged or from another model")]
    Value {
        /// Which one.
        what: &'static str,
        /// The value.
        value: u64,
    },
}

impl X86Core {
    /// Whether a processor can be in this state: modes that exclude each other, reserved bits. [`Cpu::load_state`] takes more than
    /// this, whatever the guest then makes of it; a state that comes from outside is asked first. The register is named as the
    /// schema has it.
    ///
    /// # Errors
    /// [`LoadError::Value`].
    pub fn check(&self, model: &cpu_model::Model) -> Result<(), LoadError> {
        use crate::flags;
        use crate::state::{cr0, cr4, efer};
        let [cr0, _, cr3, cr4] = self.cr;
        let efer = self.msrs.iter().find(|m| m.0 == cpu_model::msr::EFER).map_or(0, |m| m.1);
        let long = efer & efer::LMA != 0;
        let beyond = |v: u64, mask: u64| v & !mask != 0;
        let wrong = [
            ("cr0", cr0, beyond(cr0, cr0::ALL) || cr0 & cr0::ET == 0),
            ("cr0", cr0, cr0 & cr0::PG != 0 && cr0 & cr0::PE == 0 || cr0 & cr0::NW != 0 && cr0 & cr0::CD == 0),
            ("efer", efer, beyond(efer, efer::ALL | efer::LMA)),
            ("efer", efer, long != (efer & efer::LME != 0 && cr0 & cr0::PG != 0)),
            ("cr4", cr4, beyond(cr4, cr4::ALL) || cr4 & cr4::PCIDE != 0 && !long || long && cr4 & cr4::PAE == 0),
            ("cr3", cr3, long && beyond(cr3, (1 << model.phys_bits) - 1)),
            // Virtual-8086 mode is left out (see the crate's page).
            ("rflags", self.rflags, beyond(self.rflags, flags::ALL & !flags::VM) || self.rflags & flags::ONE == 0),
            ("xcr0", self.xcr0, !model.xcr0_may_be(self.xcr0)),
            ("debug[4]", self.dr[4], beyond(self.dr[4], u32::MAX.into())),
            ("debug[5]", self.dr[5], beyond(self.dr[5], u32::MAX.into())),
            ("xsave.mxcsr", self.mxcsr.into(), self.mxcsr > 0xffff),
        ];
        match wrong.into_iter().find(|(_, _, wrong)| *wrong) {
            Some((what, value, _)) => Err(LoadError::Value { what, value }),
            None => Ok(()),
        }
    }
}

impl<B: Bus> Cpu<B> {
    /// The state, with lazy values evaluated.
    pub fn save_state(&mut self, regs: &Regs) -> X86Core {
        self.settle_bases(regs);
        let s = self.sys.clone();
        let mut msrs = Vec::new();
        for m in self.model().msrs {
            let owned = match m.access {
                Access::Stored { .. } => true,
                Access::Engine => !is_bus_register(m.index),
                _ => false,
            };
            if owned && let Some(v) = self.read_msr(m.index) {
                msrs.push((m.index, v));
            }
        }
        X86Core {
            gpr: std::array::from_fn(|n| regs.get(gpr(n))),
            rip: regs.get(PC),
            rflags: eflags(regs),
            seg: s.seg,
            ldtr: s.ldtr,
            tr: s.tr,
            gdtr: s.gdtr,
            idtr: s.idtr,
            cr: [s.cr0, s.cr2, s.cr3, s.cr4],
            xcr0: s.xcr0,
            dr: [s.dr[0], s.dr[1], s.dr[2], s.dr[3], s.dr6, s.dr7],
            pdpte: s.pdpte,
            cpl: s.cpl,
            xmm: std::array::from_fn(|n| regs.get128(xmm(n))),
            ymm_upper: std::array::from_fn(|n| regs.get128(ymm_upper(n))),
            mxcsr: regs.get(ir::op::FPC) as u32,
            fpr: std::array::from_fn(|n| regs.get128(fpr(n))),
            fcw: regs.get(FPU_CW) as u16,
            fsw: regs.get(FPU_SW) as u16,
            ftw: regs.get(FPU_TAG) as u8,
            fop: regs.get(FPU_OP) as u16,
            fip: regs.get(FPU_IP),
            fdp: regs.get(FPU_DP),
            sti_shadow: s.shadow == Shadow::Sti,
            mov_ss_shadow: s.shadow == Shadow::MovSs,
            nmi_blocked: s.nmi_blocked,
            halted: s.halted,
            msrs,
        }
    }

    /// Load a state. Registers that it does not name get their reset values. The block cache stays valid: it belongs to memory.
    ///
    /// # Errors
    /// [`LoadError`]; the vCPU must then be reset or loaded again.
    pub fn load_state(&mut self, regs: &mut Regs, c: &X86Core) -> Result<(), LoadError> {
        self.check(c)?;
        self.reset(regs);
        self.load_words(regs, c);
        let s = &mut self.sys;
        (s.seg, s.ldtr, s.tr, s.gdtr, s.idtr) = (c.seg, c.ldtr, c.tr, c.gdtr, c.idtr);
        [s.cr0, s.cr2, s.cr3, s.cr4] = c.cr;
        s.xcr0 = c.xcr0;
        let [d0, d1, d2, d3, dr6, dr7] = c.dr;
        (s.dr, s.dr6, s.dr7, s.pdpte, s.cpl) = ([d0, d1, d2, d3], dr6, dr7, c.pdpte, c.cpl);
        s.shadow = match (c.sti_shadow, c.mov_ss_shadow) {
            (_, true) => Shadow::MovSs,
            (true, _) => Shadow::Sti,
            _ => Shadow::None,
        };
        (s.nmi_blocked, s.halted) = (c.nmi_blocked, c.halted);
        for &(index, value) in &c.msrs {
            self.load_msr(regs, index, value)?;
        }
        self.refresh(regs);
        Ok(())
    }

    fn check(&self, c: &X86Core) -> Result<(), LoadError> {
        use crate::state::{cr0, cr4};
        let bad = |what, value| Err(LoadError::Value { what, value });
        if c.cr[0] & !cr0::ALL != 0 || c.cr[0] & cr0::PG != 0 && c.cr[0] & cr0::PE == 0 {
            return bad("CR0", c.cr[0]);
        }
        if c.cr[3] & !cr4::ALL != 0 {
            return bad("CR4", c.cr[3]);
        }
        if !self.model().xcr0_may_be(c.xcr0) {
            return bad("XCR0", c.xcr0);
        }
        if c.cpl > 3 {
            return bad("the privilege level", u64::from(c.cpl));
        }
        Ok(())
    }

    fn load_words(&self, regs: &mut Regs, c: &X86Core) {
        for (n, v) in c.gpr.iter().enumerate() {
            regs.set(gpr(n), *v);
        }
        for (n, v) in c.xmm.iter().enumerate() {
            regs.set128(xmm(n), *v);
        }
        for (n, v) in c.ymm_upper.iter().enumerate() {
            regs.set128(ymm_upper(n), *v);
        }
        for (n, v) in c.fpr.iter().enumerate() {
            regs.set128(fpr(n), *v);
        }
        regs.set(PC, c.rip);
        set_eflags(regs, c.rflags);
        for (slot, v) in [
            (ir::op::FPC, u64::from(c.mxcsr & 0xffff)),
            (FPU_CW, u64::from(c.fcw)),
            (FPU_SW, u64::from(c.fsw)),
            (FPU_TAG, u64::from(c.ftw)),
            (FPU_OP, u64::from(c.fop)),
            (FPU_IP, c.fip),
            (FPU_DP, c.fdp),
        ] {
            regs.set(slot, v);
        }
    }

    fn load_msr(&mut self, regs: &mut Regs, index: u32, value: u64) -> Result<(), LoadError> {
        use crate::state::efer;
        let error = LoadError::Msr { index, value };
        if is_bus_register(index) {
            return Err(error);
        }
        if index == cpu_model::msr::EFER {
            // The guest cannot write LMA, a saved state has it.
            if value & !(efer::ALL | efer::LMA) != 0 {
                return Err(error);
            }
            self.sys.efer = value;
            return Ok(());
        }
        self.write_msr(regs, index, value).map(|_| ()).ok_or(error)
    }
}

/// Registers whose state is the bus's.
fn is_bus_register(index: u32) -> bool {
    use cpu_model::msr;
    matches!(index, msr::TSC | msr::TSC_ADJUST | msr::TSC_DEADLINE | msr::APIC_BASE)
        || (msr::X2APIC_FIRST..=msr::X2APIC_LAST).contains(&index)
}
