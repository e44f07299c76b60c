//! Where guest state lives: the layout of guest words in [`ir::Regs`], and [`SysState`], what no lifted operation touches.
//!
//! The idea: whatever user-mode code changes all the time is a word that lifted operations name; whatever only helpers and
//! the memory system look at is a plain struct beside it. Some things are in both and are only written through
//! [`crate::Cpu`]: segment bases and selectors, the arithmetic flags (lazy in the flag words), and what EFLAGS.AC means for SMAP.
//! Three of them lifted operations of 64-bit code write as well, so that the words are ahead of the struct: the bases of FS and GS, and
//! [`KERNEL_GS_BASE`]. Whoever reads the struct has [`crate::Cpu::settle_bases`] before.

use ir::Slot;
use ir::op::{FLAG_A, FLAG_B, FLAG_KIND, FLAG_R};

use crate::flags;

/// General registers RAX to R15 in encoding order.
pub const fn gpr(n: usize) -> Slot {
    Slot(8 + (n as u16 & 15))
}
/// RAX.
pub const RAX: Slot = gpr(0);
/// RCX.
pub const RCX: Slot = gpr(1);
/// RDX.
pub const RDX: Slot = gpr(2);
/// RBX.
pub const RBX: Slot = gpr(3);
/// RSP.
pub const RSP: Slot = gpr(4);
/// RBP.
pub const RBP: Slot = gpr(5);
/// RSI.
pub const RSI: Slot = gpr(6);
/// RDI.
pub const RDI: Slot = gpr(7);
/// R11, where SYSCALL saves the flags.
pub const R11: Slot = gpr(11);
/// EFLAGS without CF, PF, AF, ZF, SF, OF: see [`crate::flags`]. Bit 1 is set.
pub const EFLAGS: Slot = Slot(24);
/// What program counters of blocks that can be run wherever their code is mapped are counted from: where the page of the first
/// byte of the block begins that runs. Whoever enters a block sets it.
pub const CODE_BASE: Slot = Slot(25);
/// Linear base of a segment, see [`Seg`].
pub const fn seg_base(s: Seg) -> Slot {
    Slot(26 + s as u16)
}
/// XMM registers: 128 bits in the pair at this slot, the lower half of a YMM register of four words.
pub const fn xmm(n: usize) -> Slot {
    Slot(32 + 4 * (n as u16 & 15))
}
/// The upper halves of YMM registers.
pub const fn ymm_upper(n: usize) -> Slot {
    Slot(xmm(n).0 + 2)
}
/// x87 data registers by physical number (not relative to TOP): low word the significand (and the MMX register), high word
/// sign and exponent in its low 16 bits.
pub const fn fpr(n: usize) -> Slot {
    Slot(96 + 2 * (n as u16 & 7))
}
/// x87 control word.
pub const FPU_CW: Slot = Slot(112);
/// x87 status word, with TOP in bits 11..=13.
pub const FPU_SW: Slot = Slot(113);
/// x87 tag word in the abridged form of FXSAVE: bit n = physical register n is not empty.
pub const FPU_TAG: Slot = Slot(114);
/// Address of the last x87 instruction.
pub const FPU_IP: Slot = Slot(115);
/// Address of its operand.
pub const FPU_DP: Slot = Slot(116);
/// Its opcode (11 bits).
pub const FPU_OP: Slot = Slot(117);
/// Visible selector of a segment register: what instructions read.
pub const fn seg_selector(s: Seg) -> Slot {
    Slot(118 + s as u16)
}
/// IA32_KERNEL_GS_BASE, which SWAPGS exchanges with the base of GS.
pub const KERNEL_GS_BASE: Slot = Slot(124);

/// Segment registers in encoding order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Seg {
    /// Extra.
    Es = 0,
    /// Code.
    Cs = 1,
    /// Stack.
    Ss = 2,
    /// Data.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

impl Seg {
    /// All, in encoding order.
    pub const ALL: [Seg; 6] = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];

    /// From its encoding.
    pub const fn from_index(n: usize) -> Option<Seg> {
        if n < 6 { Some(Seg::ALL[n]) } else { None }
    }
}

/// A segment register, LDTR or TR with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Attributes in the layout of a descriptor's bits 40..=55: type 0..=3, S 4, DPL 5..=6, P 7, AVL 12, L 13, D/B 14, G 15.
    pub attr: u16,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

impl Segment {
    /// Type field.
    pub const fn kind(&self) -> u16 {
        self.attr & 15
    }
    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        (self.attr >> 5 & 3) as u8
    }
    /// Present and, for data, loaded with something other than a null selector.
    pub const fn present(&self) -> bool {
        self.attr & attr::P != 0
    }
    /// Code segment (as opposed to data).
    pub const fn is_code(&self) -> bool {
        self.attr & 8 != 0
    }
    /// 64-bit code.
    pub const fn long(&self) -> bool {
        self.attr & attr::L != 0
    }
    /// 32-bit default size (code), 32-bit stack pointer (stack).
    pub const fn big(&self) -> bool {
        self.attr & attr::DB != 0
    }
    /// Data segment that grows down.
    pub const fn expand_down(&self) -> bool {
        self.attr & 0xc == 4
    }
    /// Readable (every data segment is).
    pub const fn readable(&self) -> bool {
        self.attr & 8 == 0 || self.attr & 2 != 0
    }
    /// Writable data.
    pub const fn writable(&self) -> bool {
        self.attr & 0xa == 2
    }
    /// The unusable segment that a null selector loads.
    pub const fn null(selector: u16) -> Segment {
        Segment { selector, attr: 0, limit: 0, base: 0 }
    }
    /// As real mode loads it: base = selector × 16; limit and attributes stay.
    pub const fn real(self, selector: u16) -> Segment {
        Segment { selector, base: (selector as u64) << 4, ..self }
    }
    /// Present data or code with base 0 and a limit of 4 GiB, growing up.
    pub const fn is_flat(&self) -> bool {
        self.present() && self.base == 0 && self.limit == u32::MAX && !self.expand_down()
    }
}

/// Attribute bits of [`Segment::attr`].
pub mod attr {
    /// Code or data (not system).
    pub const S: u16 = 1 << 4;
    /// Present.
    pub const P: u16 = 1 << 7;
    /// 64-bit code.
    pub const L: u16 = 1 << 13;
    /// Default size.
    pub const DB: u16 = 1 << 14;
    /// Limit counts pages.
    pub const G: u16 = 1 << 15;
    /// Real-mode data: present, writable, accessed.
    pub const REAL_DATA: u16 = P | S | 3;
    /// Real-mode code: present, readable, accessed.
    pub const REAL_CODE: u16 = P | S | 0xb;
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// Linear base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// CR0 bits.
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// Emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type, always 1.
    pub const ET: u64 = 1 << 4;
    /// Numeric error.
    pub const NE: u64 = 1 << 5;
    /// Write protect.
    pub const WP: u64 = 1 << 16;
    /// Alignment mask.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
    /// What can be set.
    pub const ALL: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}

/// CR4 bits that the CPU model has.
pub mod cr4 {
    /// Time stamp disable.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// Page size extensions.
    pub const PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine check enable.
    pub const MCE: u64 = 1 << 6;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// RDPMC in user mode.
    pub const PCE: u64 = 1 << 8;
    /// FXSAVE and SSE enabled.
    pub const OSFXSR: u64 = 1 << 9;
    /// Unmasked SIMD exceptions raise #XM.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// RDFSBASE and its family.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Process-context identifiers.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE and XCR0 enabled.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Supervisor-mode execution prevention.
    pub const SMEP: u64 = 1 << 20;
    /// Supervisor-mode access prevention.
    pub const SMAP: u64 = 1 << 21;
    /// What can be set.
    pub const ALL: u64 =
        TSD | DE | PSE | PAE | MCE | PGE | PCE | OSFXSR | OSXMMEXCPT | FSGSBASE | PCIDE | OSXSAVE | SMEP | SMAP;
}

/// IA32_EFER bits.
pub mod efer {
    /// SYSCALL enable.
    pub const SCE: u64 = 1;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute enable.
    pub const NXE: u64 = 1 << 11;
    /// What WRMSR may set (LMA follows paging).
    pub const ALL: u64 = SCE | LME | NXE;
}

/// Interrupts are held back until the next instruction is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Shadow {
    /// They are not.
    #[default]
    None,
    /// STI has just set IF.
    Sti,
    /// MOV SS or POP SS has just run; also NMIs and debug traps wait.
    MovSs,
}

/// System state: everything that is not a guest word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SysState {
    /// ES, CS, SS, DS, FS, GS by [`Seg`]. The bases are also guest words ([`seg_base`]).
    pub seg: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: Table,
    /// Interrupt descriptor table.
    pub idtr: Table,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR0 to DR3. Breakpoints are stored, they do not trap.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// Current privilege level.
    pub cpl: u8,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// Values of the model's [`cpu_model::Access::Stored`] registers, in the order of its table (others unused).
    pub stored: Vec<u64>,
    /// The four page-directory-pointer entries that PAE paging loads with CR3.
    pub pdpte: [u64; 4],
    /// Interrupt shadow.
    pub shadow: Shadow,
    /// NMIs are blocked until the next IRET.
    pub nmi_blocked: bool,
    /// HLT waits for an interrupt.
    pub halted: bool,
}

impl SysState {
    /// As after a reset (SDM vol. 3A, table "IA-32 and Intel 64 processor states following power-up, reset, or INIT").
    pub fn reset(model: &cpu_model::Model) -> SysState {
        let data = Segment { selector: 0, attr: attr::REAL_DATA, limit: 0xffff, base: 0 };
        let mut seg = [data; 6];
        seg[Seg::Cs as usize] = Segment { selector: 0xf000, attr: attr::REAL_CODE, limit: 0xffff, base: 0xffff_0000 };
        let reset = |index| model.msr(index).map_or(0, |m| m.reset);
        SysState {
            seg,
            ldtr: Segment { attr: attr::P | 2, limit: 0xffff, ..Segment::default() },
            tr: Segment { attr: attr::P | 0xb, limit: 0xffff, ..Segment::default() },
            gdtr: Table { base: 0, limit: 0xffff },
            idtr: Table { base: 0, limit: 0xffff },
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            xcr0: 1,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            efer: 0,
            cpl: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_aux: 0,
            pat: reset(cpu_model::msr::PAT),
            stored: model.msrs.iter().map(|m| m.reset).collect(),
            pdpte: [0; 4],
            shadow: Shadow::None,
            nmi_blocked: false,
            halted: false,
        }
    }

    /// A segment register.
    #[inline(always)]
    pub fn seg(&self, s: Seg) -> &Segment {
        &self.seg[s as usize]
    }

    /// CR0.PE.
    #[inline(always)]
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// IA32_EFER.LMA: long mode is active (64-bit or compatibility mode).
    #[inline(always)]
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// 64-bit mode.
    #[inline(always)]
    pub fn code64(&self) -> bool {
        self.long_mode() && self.seg(Seg::Cs).long()
    }
}

/// EFLAGS as PUSHF would see them, lazy flags evaluated. RF and VM are as stored.
pub fn eflags(regs: &ir::Regs) -> u64 {
    ir::flags::materialise(regs) | regs.get(EFLAGS) & !flags::ARITHMETIC | flags::ONE
}

/// Set EFLAGS as a whole. The caller masks what may not change; the memory system must be told about AC
/// ([`crate::Cpu::update_bank`]).
pub fn set_eflags(regs: &mut ir::Regs, v: u64) {
    set_arithmetic(regs, v);
    regs.set(EFLAGS, v & flags::ALL & !flags::ARITHMETIC | flags::ONE);
}

/// Set CF, PF, AF, ZF, SF and OF from these EFLAGS bits.
pub fn set_arithmetic(regs: &mut ir::Regs, v: u64) {
    regs.set(FLAG_KIND, ir::flags::kind_word(ir::flags::Kind::X86Explicit, 64));
    regs.set(FLAG_A, 0);
    regs.set(FLAG_B, 0);
    regs.set(FLAG_R, v & flags::ARITHMETIC);
}
