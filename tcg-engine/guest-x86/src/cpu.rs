//! One vCPU's environment: system state, TLB and bus. The guest words ([`ir::Regs`]) and the block cache lie beside it, so
//! that an interpreter can borrow a block, the words and this at the same time.

use std::sync::Arc;

use cpu_model::{Facts, Model};
use ir::{PC, Regs};
use mem::{Bank, Memory, PAGE, Tlb};

use crate::bus::{Bus, Order};
use crate::exception::Exception;
use crate::flags;
use crate::lift::Scratch;
use crate::memory::Misses;
use crate::mode::Mode;
use crate::state::{EFLAGS, KERNEL_GS_BASE, Seg, Segment, Shadow, SysState, cr0, cr4, seg_base, seg_selector};

/// Events of [`ir::Op::ExitEvent`].
pub mod event {
    /// HLT: the vCPU waits; [`crate::SysState::halted`] is set.
    pub const HLT: u8 = 1;
    /// STI or a load of SS: [`crate::SysState::shadow`] may be set, run one more instruction before taking interrupts.
    pub const SHADOW: u8 = 2;
    /// PAUSE: a spinning guest; another vCPU may have better use of this host CPU.
    pub const PAUSE: u8 = 3;
}

/// The vCPU's environment. `B` is the machine around it.
#[derive(Debug)]
pub struct Cpu<B: Bus> {
    /// System state. Write it through the methods here where they exist: modes and banks are derived from it.
    pub sys: SysState,
    /// The machine around this vCPU.
    pub bus: B,
    /// Software TLB.
    pub tlb: Tlb,
    /// Runs of pages that user mode's accesses need not look up, if RAM is there as a whole.
    pub mirror: Option<mem::Mirror>,
    /// How its misses ended.
    pub(crate) misses: Misses,
    /// RAM, its layout and marks.
    pub mem: Arc<Memory>,
    /// The exception that stopped the last operation with [`ir::Stop::Fault`]; taken by [`Cpu::deliver_pending`].
    pub pending: Option<Exception>,
    /// This vCPU's bit in [`mem::CodePages`].
    pub(crate) number: u8,
    /// Ranges of RAM (offset, length) whose blocks are stale: taken by [`Cpu::drop_stale`].
    pub(crate) stale: Vec<(u64, u64)>,
    /// Pages among them whose claims are to be given up.
    released: Vec<u64>,
    /// The bus has asked for the run loop ([`ir::Then::FinishInstruction`]); taken by it.
    pub look: bool,
    /// Accesses reach devices; off while the CPU accesses its own tables and frames, which lie in memory.
    pub(crate) devices: bool,
    /// An instruction has made single-step traps after it moot (it was an INT, or a SYSCALL that has masked TF).
    pub(crate) no_step: bool,
    /// A third operand for the helper that follows [`crate::helpers::Helper::Note`].
    pub(crate) note: u64,
    /// Mode bits of the next block; kept by [`Cpu::update_mode`].
    pub(crate) mode: Mode,
    /// What lifting works in.
    pub(crate) scratch: Option<Box<Scratch>>,
    /// Bits that a physical address may have.
    pub(crate) phys_mask: u64,
    /// Mode bits of the CPU model.
    level: Mode,
    /// What CPUID and RDMSR answer from.
    pub(crate) model: &'static Model,
}

impl<B: Bus> Cpu<B> {
    /// A vCPU as after a reset; [`Cpu::reset`] the guest words too.
    pub fn new(model: &'static Model, mem: Arc<Memory>, bus: B) -> Self {
        Self::with_tlb(model, mem, bus, Tlb::new())
    }

    /// The same, in the memory of a TLB whose vCPU does not need it any more. What it has is forgotten.
    pub fn with_tlb(model: &'static Model, mem: Arc<Memory>, bus: B, mut tlb: Tlb) -> Self {
        tlb.set_origin(mem.ram.as_ptr() as u64);
        let number = bus.apic_id() as u8;
        Cpu {
            number,
            sys: SysState::reset(model),
            bus,
            tlb,
            mirror: None,
            misses: Misses::default(),
            mem,
            pending: None,
            stale: Vec::new(),
            released: Vec::new(),
            look: false,
            devices: true,
            no_step: false,
            note: 0,
            mode: Mode::empty(),
            scratch: None,
            level: Mode::of_model(model),
            phys_mask: (1 << model.phys_bits) - 1,
            model,
        }
    }

    /// Put the vCPU and its words into the state after a reset.
    pub fn reset(&mut self, regs: &mut Regs) {
        *regs = Regs::default();
        self.sys = SysState::reset(self.model);
        self.pending = None;
        regs.set(PC, 0xfff0);
        regs.set(EFLAGS, flags::ONE);
        crate::state::set_arithmetic(regs, 0);
        // RDX holds the processor signature.
        let signature = self.cpuid(1, 0)[0];
        regs.set(crate::state::RDX, u64::from(signature));
        regs.set(ir::op::FPC, 0x1f80);
        regs.set(crate::state::FPU_CW, 0x40);
        // All empty but for the tag word FFFFh of FNINIT; after a reset the registers hold zeros (tag 5555h).
        regs.set(crate::state::FPU_TAG, 0xff);
        self.tlb.flush_all();
        self.refresh(regs);
    }

    /// The CPU model.
    pub fn model(&self) -> &'static Model {
        self.model
    }

    /// After `sys` or EFLAGS were written from outside: everything derived from them.
    pub fn refresh(&mut self, regs: &mut Regs) {
        for s in Seg::ALL {
            regs.set(seg_base(s), self.sys.seg(s).base);
            regs.set(seg_selector(s), self.sys.seg(s).selector.into());
        }
        regs.set(KERNEL_GS_BASE, self.sys.kernel_gs_base);
        let pcid = if self.sys.cr4 & cr4::PCIDE != 0 { self.sys.cr3 & 0xfff } else { 0 };
        self.tlb.select_space(pcid as u16);
        self.update_mode(regs);
    }

    /// After a change of segments, control registers, CPL or EFLAGS.
    pub fn update_mode(&mut self, regs: &Regs) {
        self.settle_bases(regs);
        self.mode = Mode::now(&self.sys, regs) | self.level;
        self.update_bank(regs);
    }

    /// Take over what lifted code has written: the bases of FS and GS, and IA32_KERNEL_GS_BASE.
    pub(crate) fn settle_bases(&mut self, regs: &Regs) {
        for s in [Seg::Fs, Seg::Gs] {
            self.sys.seg[s as usize].base = regs.get(seg_base(s));
        }
        self.sys.kernel_gs_base = regs.get(KERNEL_GS_BASE);
    }

    /// After a change of CPL, CR0.AM, CR4.SMAP or EFLAGS.AC: whose rights accesses have.
    pub fn update_bank(&mut self, regs: &Regs) {
        let ac = regs.get(EFLAGS) & flags::AC != 0;
        let bank = if self.sys.cpl == 3 {
            if ac && self.sys.cr0 & cr0::AM != 0 { Bank::Checked } else { Bank::User }
        } else if self.sys.cr4 & cr4::SMAP != 0 && !ac {
            Bank::Strict
        } else {
            Bank::Supervisor
        };
        self.tlb.select_bank(bank);
    }

    /// Mode bits that the block at the current program counter depends on.
    #[inline(always)]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Have blocks of programs be lifted for where they are mapped, as those of the kernel are: an oracle for those that are not. The
    /// mode must be updated then.
    pub fn place_blocks(&mut self) {
        self.level |= Mode::PLACED;
    }

    /// Linear address of the next instruction.
    #[inline(always)]
    pub fn linear_pc(&self, regs: &Regs) -> u64 {
        let pc = regs.get(PC);
        if self.mode.contains(Mode::CODE64) {
            pc
        } else {
            self.sys.seg(Seg::Cs).base.wrapping_add(pc & 0xffff_ffff) & 0xffff_ffff
        }
    }

    /// Load a segment register with everything that hangs on it.
    pub(crate) fn set_seg(&mut self, regs: &mut Regs, s: Seg, value: Segment) {
        self.sys.seg[s as usize] = value;
        regs.set(seg_base(s), value.base);
        regs.set(seg_selector(s), value.selector.into());
    }

    /// Set a segment's base alone (FS and GS).
    pub(crate) fn set_base(&mut self, regs: &mut Regs, s: Seg, base: u64) {
        self.sys.seg[s as usize].base = base;
        regs.set(seg_base(s), base);
    }

    /// CPUID as the guest sees it.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let facts = Facts {
            apic_id: self.bus.apic_id(),
            vcpus: self.bus.vcpus(),
            apic_enabled: self.bus.apic_base() & 1 << 11 != 0,
            osxsave: self.sys.cr4 & cr4::OSXSAVE != 0,
            xcr0: self.sys.xcr0,
        };
        self.model.cpuid(leaf, subleaf, &facts)
    }

    /// Whether an external interrupt would be taken now.
    #[inline]
    pub fn can_take_interrupt(&self, regs: &Regs) -> bool {
        regs.get(EFLAGS) & flags::IF != 0 && self.sys.shadow == Shadow::None
    }

    /// Whether an NMI would be taken now.
    #[inline]
    pub fn can_take_nmi(&self) -> bool {
        !self.sys.nmi_blocked && self.sys.shadow != Shadow::MovSs
    }

    /// Whether a single-step trap follows the next instruction.
    #[inline]
    pub fn stepping(&self, regs: &Regs) -> bool {
        regs.get(EFLAGS) & flags::TF != 0
    }

    /// A page that another vCPU or a device has written to: drop its blocks at the next [`Cpu::drop_stale`].
    pub fn invalidate(&mut self, at: u64, len: u64) {
        self.stale.push((at, len));
    }

    /// Whether [`Cpu::drop_stale`] has anything to do.
    #[inline(always)]
    pub fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Drop the blocks whose bytes have changed; before any block is looked up again.
    pub fn drop_stale(&mut self, cache: &mut code::Cache) {
        while let Some((at, len)) = self.stale.pop() {
            let mut gone = Vec::new();
            cache.invalidate(at, len, |page| gone.push(page));
            for page in gone {
                self.mem.code.empty(&self.mem.marks, page, self.number);
            }
        }
        while let Some(page) = self.released.pop() {
            self.mem.code.release(&self.mem.marks, page, self.number);
        }
    }

    /// Begin the next of the cache's epochs, of which there are so many: the oldest blocks go, and pages that have no others are data
    /// again.
    pub(crate) fn begin_epoch(&self, cache: &mut code::Cache, epochs: usize) {
        cache.begin_epoch(epochs, |page| self.mem.code.empty(&self.mem.marks, page, self.number));
    }

    /// Drop all blocks.
    pub(crate) fn forget_blocks(&mut self, cache: &mut code::Cache) {
        for page in cache.code_pages() {
            self.mem.code.release(&self.mem.marks, page, self.number);
        }
        cache.clear();
    }

    /// Follow what other vCPUs have ordered: at each turn of the run loop, and wherever this one has waited for somebody else,
    /// before it touches guest memory again.
    pub fn take_orders(&mut self) {
        while let Some(order) = self.bus.next_order() {
            match order {
                Order::Protect(at) => self.tlb.protect(at),
                Order::Invalidate(at, len) => self.stale.push((at, len)),
                Order::Release(at) => {
                    self.stale.push((at, PAGE));
                    self.released.push(at);
                }
            }
        }
    }

    /// Have `others` follow `order`; see [`Bus::order`].
    pub(crate) fn order(&mut self, others: mem::Vcpus, order: Order) {
        self.bus.order(others, order);
        self.take_orders();
    }

    /// Whether paging is on.
    pub fn paging(&self) -> bool {
        self.sys.cr0 & cr0::PG != 0
    }
}

impl<B: Bus> emit_x64::Host for Cpu<B> {
    #[inline]
    fn tlb(&self) -> &Tlb {
        &self.tlb
    }

    fn refill(&mut self, va: u64, write: bool) -> Option<u64> {
        Cpu::refill(self, va, write)
    }

    fn run_around(&mut self, va: u64, write: bool) -> Option<mem::Run> {
        Cpu::run_around(self, va, write)
    }

    #[inline]
    fn mode_bits(&self) -> u32 {
        // Blocks of one instruction are not emitted, so the bit that says so is free. The TLB's bank tells user mode.
        let bits = self.mode.difference(Mode::ONE | Mode::KERNEL | Mode::USER).bits();
        bits | if self.mode.contains(Mode::KERNEL) { Mode::ONE.bits() } else { 0 }
    }

    #[inline]
    fn asked(&self) -> bool {
        self.bus.asked()
    }

    #[inline]
    fn attention(&self, regs: &Regs) -> bool {
        self.look || self.bus.asked() || self.has_stale() || self.sys.shadow != Shadow::None || self.stepping(regs)
    }
}
