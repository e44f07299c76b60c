//! A machine for tests: RAM, ports and devices that record what they are asked, and ways to get into each mode.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::Arc;

use guest_memory::{Access, Arrangement, DirtyLayout, DirtyLog, Kind, Layout, Memfd, Ram, Region};
use ir::{Regs, Stop, Then};
use mem::{MIRROR, Memory, Mirror, Vcpus};

use crate::bus::{Attrs, Bus, Order, Refused};
use crate::runner::COUNTERS;
use crate::state::{Seg, Segment, Table, attr, cr0, cr4, efer, gpr};
use crate::{Cpu, Runner, Why, flags};

/// RAM of the test machine in bytes.
pub const RAM: u64 = 8 << 20;
/// Read-only memory.
pub const ROM: u64 = 0x70_0000;
/// A device register that counts its reads.
pub const DEVICE: u64 = 0xfe00_0000;

/// What another vCPU does while this one waits for a device, and then tells it.
pub type AtDevice = Box<dyn FnOnce() -> Order + Send>;

/// What the devices saw.
#[derive(Default)]
pub struct TestBus {
    pub io: Vec<(u16, u8, u32)>,
    pub mmio: Vec<(u64, u8, u64)>,
    pub mmio_reads: u64,
    pub inputs: HashMap<u16, u32>,
    /// What other vCPUs were told to do.
    pub ordered: Vec<(Vcpus, Order)>,
    /// What they tell this one, at its next order.
    pub orders: VecDeque<Order>,
    /// At the next read of a device.
    pub at_device: Option<AtDevice>,
    /// When other vCPUs were to stand still, and when no more.
    pub alone: Vec<bool>,
    pub tsc: u64,
    pub cr8: u8,
    pub x2apic: HashMap<u32, u64>,
    /// Register accesses to answer with "again".
    pub restarts: u32,
    /// Somebody asks the vCPU to look up.
    pub asked: bool,
    /// Memory is harvested during every access to a device, by these marks.
    pub harvested: Option<Arc<Memory>>,
    /// The last harvest that the vCPU has acknowledged.
    pub harvest: u64,
}

impl TestBus {
    /// A device takes its time.
    fn wait(&self) {
        if let Some(m) = &self.harvested {
            m.marks.harvest(|| (), || false).unwrap();
        }
    }
}

impl std::fmt::Debug for TestBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestBus").finish_non_exhaustive()
    }
}

impl Bus for TestBus {
    fn asked(&self) -> bool {
        self.asked
    }

    fn mmio_read(&mut self, gpa: u64, bytes: u8, _: Attrs) -> Result<u64, Stop> {
        if self.restarts > 0 {
            self.restarts -= 1;
            return Err(Stop::Restart);
        }
        self.wait();
        self.mmio_reads += 1;
        if let Some(f) = self.at_device.take() {
            self.orders.push_back(f());
        }
        let v = if gpa >= DEVICE { 0x1122_3344_5566_7788u64 } else { u64::MAX };
        Ok(v & (u64::MAX >> (64 - 8 * u32::from(bytes))))
    }
    fn mmio_write(&mut self, gpa: u64, bytes: u8, value: u64, _: Attrs) -> Result<Then, Stop> {
        self.wait();
        self.mmio.push((gpa, bytes, value & (u64::MAX >> (64 - 8 * u32::from(bytes)))));
        Ok(Then::Continue)
    }
    fn safepoint(&mut self, drop_tags: &mut dyn FnMut()) {
        if let Some(m) = &self.harvested {
            m.marks.vcpu(0).unwrap().safepoint(&mut self.harvest, drop_tags);
        }
    }
    fn io_read(&mut self, port: u16, _: u8) -> Result<u32, Stop> {
        self.wait();
        Ok(self.inputs.get(&port).copied().unwrap_or(u32::MAX))
    }
    fn io_write(&mut self, port: u16, bytes: u8, value: u32) -> Result<Then, Stop> {
        self.wait();
        self.io.push((port, bytes, value));
        Ok(Then::Continue)
    }
    fn apic_base(&self) -> u64 {
        0xfee0_0900
    }
    fn set_apic_base(&mut self, _: u64) -> Result<(), Refused> {
        Ok(())
    }
    fn x2apic_read(&mut self, index: u32) -> Result<u64, Refused> {
        self.x2apic.get(&index).copied().ok_or(Refused)
    }
    fn x2apic_write(&mut self, index: u32, value: u64) -> Result<Then, Refused> {
        self.x2apic.insert(index, value);
        Ok(Then::Continue)
    }
    fn cr8(&self) -> u8 {
        self.cr8
    }
    fn set_cr8(&mut self, value: u8) -> Then {
        self.cr8 = value;
        Then::Continue
    }
    fn tsc_deadline(&mut self) -> u64 {
        0
    }
    fn set_tsc_deadline(&mut self, _: u64) -> Then {
        Then::Continue
    }
    fn tsc(&mut self) -> u64 {
        self.tsc += 1;
        self.tsc
    }
    fn set_tsc(&mut self, value: u64) {
        self.tsc = value;
    }
    fn tsc_adjust(&mut self) -> u64 {
        0
    }
    fn set_tsc_adjust(&mut self, _: u64) {}
    fn random(&mut self) -> Option<u64> {
        Some(0x0123_4567_89ab_cdef)
    }
    fn apic_id(&self) -> u32 {
        0
    }
    fn vcpus(&self) -> u32 {
        1
    }
    fn order(&mut self, others: Vcpus, order: Order) {
        self.ordered.push((others, order));
    }
    fn next_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }
    fn alone(&mut self, begin: bool) {
        self.alone.push(begin);
    }
}

/// Fresh memory: RAM with a page of ROM at [`ROM`]; and what mirrors it.
pub fn memory() -> (Arc<Memory>, Mirror) {
    let region = |base, len, kind| Region { base, len, offset: base, kind };
    let layout = Layout::new(vec![
        region(0, ROM, Kind::Ram),
        region(ROM, 0x1000, Kind::Rom),
        region(ROM + 0x1000, 0xf_f000, Kind::Ram),
    ])
    .unwrap();
    let file = Arc::new(Memfd::create("ram", RAM).unwrap());
    let ram = Ram::map(file.as_fd(), RAM, Access::ReadWrite).unwrap();
    let mirror = Mirror::new(Arrangement::new(file, RAM, MIRROR).unwrap(), 1 << 10);
    let dirty = Memfd::create("dirty", DirtyLayout::new(RAM).len).unwrap();
    DirtyLog::format(dirty.as_fd(), RAM).unwrap();
    (Arc::new(Memory::new(ram, layout, DirtyLog::map(dirty.as_fd(), RAM).unwrap())), mirror)
}

/// A vCPU in its reset state.
pub fn machine() -> Runner<TestBus> {
    machine_of("atoll-v2")
}

/// One of this CPU model.
pub fn machine_of(model: &str) -> Runner<TestBus> {
    let model = cpu_model::by_name(model).unwrap();
    let (memory, mirror) = memory();
    let mut m = Runner::new(Cpu::new(model, memory, TestBus::default()));
    m.cpu.mirror = Some(mirror);
    // Every program runs by emitted code where that is possible, and with ATOLL_TIER=t0 by the interpreter.
    if std::env::var_os("ATOLL_TIER").is_none_or(|t| t != "t0") {
        m.use_t1(code::CodeMemory::new(1 << 20).unwrap()).unwrap();
    }
    m
}

/// The page tables' root in [`long`]: the first 8 MiB of RAM are mapped one to one in 4 KiB pages with all rights, and again
/// at [`HIGH`]; the device page at [`DEVICE`] too.
pub const CR3: u64 = 0x10_0000;
/// Second mapping of RAM, in the upper half.
pub const HIGH: u64 = 0xffff_8000_0000_0000;
/// Global descriptor table of [`long`] and [`protected`].
pub const GDT: u64 = 0x1_0000;
/// Interrupt descriptor table.
pub const IDT: u64 = 0x1_1000;
/// Task state segment.
pub const TSS: u64 = 0x1_2000;
/// Stack of privilege level 0 in the TSS.
pub const STACK0: u64 = 0x3_0000;
/// Stack that tests start with.
pub const STACK: u64 = 0x2_0000;
/// Where test programs lie.
pub const CODE: u64 = 0x4_0000;
/// Data for test programs.
pub const DATA: u64 = 0x5_0000;

pub const KERNEL_CS: u16 = 0x08;
pub const KERNEL_SS: u16 = 0x10;
pub const USER_CS: u16 = 0x23;
pub const USER_SS: u16 = 0x1b;

pub fn flat(selector: u16, kind: u16, long: bool) -> Segment {
    let size = if long { attr::L } else { attr::DB };
    let attr = attr::P | attr::S | attr::G | size | kind | (selector & 3) << 5;
    Segment { selector, attr, limit: u32::MAX, base: 0 }
}

/// An interrupt (`0xe`) or trap (`0xf`) gate to `target` in kernel code, in both layouts' low half.
pub fn gate_low(target: u64, kind: u64, dpl: u64, ist: u64) -> u64 {
    target & 0xffff
        | u64::from(KERNEL_CS) << 16
        | ist << 32
        | (kind | dpl << 5 | 0x80) << 40
        | (target >> 16 & 0xffff) << 48
}

impl Runner<TestBus> {
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        self.cpu.mem.ram.write(at, bytes).unwrap();
    }
    pub fn poke64(&self, at: u64, v: u64) {
        self.cpu.mem.ram.store_u64(at, v).unwrap();
    }
    pub fn peek64(&self, at: u64) -> u64 {
        self.cpu.mem.ram.load_u64(at).unwrap()
    }
    pub fn get(&self, n: usize) -> u64 {
        self.regs.0.get(gpr(n))
    }
    pub fn set(&mut self, n: usize, v: u64) {
        self.regs.0.set(gpr(n), v);
    }
    /// A counter by its name.
    pub fn counter(&self, name: &str) -> u64 {
        COUNTERS.iter().zip(self.counters()).find(|(own, _)| **own == name).unwrap().1
    }
    pub fn pc(&self) -> u64 {
        self.regs.0.get(ir::PC)
    }
    pub fn set_pc(&mut self, v: u64) {
        self.regs.0.set(ir::PC, v);
    }
    pub fn flags(&self) -> u64 {
        crate::state::eflags(&self.regs.0)
    }
    pub fn set_flags(&mut self, v: u64) {
        crate::state::set_eflags(&mut self.regs.0, v);
        self.cpu.update_mode(&self.regs.0);
    }

    /// Point a 64-bit gate at `target`.
    pub fn gate64(&self, vector: u64, target: u64, kind: u64, dpl: u64, ist: u64) {
        self.poke64(IDT + 16 * vector, gate_low(target, kind, dpl, ist));
        self.poke64(IDT + 16 * vector + 8, target >> 32);
    }

    /// Point a 32-bit gate at `target`.
    pub fn gate32(&self, vector: u64, target: u64, kind: u64, dpl: u64) {
        self.poke64(IDT + 8 * vector, gate_low(target, kind, dpl, 0));
    }

    /// Every exception vector to a HLT of its own at `0x6_0000 + 16 * vector`.
    pub fn catch64(&self) {
        for v in 0..256 {
            self.poke(0x6_0000 + 16 * v, &[0xf4]);
            self.gate64(v, 0x6_0000 + 16 * v, 0xe, 3, 0);
        }
    }

    /// The same for 32-bit gates.
    pub fn catch32(&self) {
        for v in 0..256 {
            self.poke(0x6_0000 + 16 * v, &[0xf4]);
            self.gate32(v, 0x6_0000 + 16 * v, 0xe, 3);
        }
    }

    /// The vector that a `catch` handler has halted in.
    pub fn caught(&self) -> Option<u64> {
        let at = self.pc().wrapping_sub(0x6_0001);
        (at < 0x1000 && at.is_multiple_of(16)).then_some(at / 16)
    }

    /// Words of the stack from its top.
    pub fn stack(&self, n: u64) -> u64 {
        self.peek64(self.get(4) + 8 * n)
    }

    pub fn stack32(&self, n: u64) -> u64 {
        u64::from(self.cpu.mem.ram.load_u32(self.get(4) + 4 * n).unwrap())
    }

    /// Load `code` at [`CODE`] and run it until it halts.
    pub fn run_code(&mut self, code: &[u8]) -> Why {
        self.poke(CODE, code);
        // Written from outside, as a device would.
        self.cpu.invalidate(CODE, code.len() as u64);
        self.set_pc(CODE);
        self.run_on()
    }

    /// Run until something other than the budget ends it; a program that does not is a failure.
    pub fn run_on(&mut self) -> Why {
        let why = self.run(100_000);
        assert_ne!(why, Why::Budget, "the program does not end: at {:#x}", self.pc());
        why
    }
}

fn descriptor(s: Segment) -> u64 {
    let limit = u64::from(if s.attr & attr::G != 0 { s.limit >> 12 } else { s.limit });
    limit & 0xffff
        | (s.base & 0xff_ffff) << 16
        | u64::from(s.attr) << 40
        | (limit >> 16 & 0xf) << 48
        | (s.base >> 24 & 0xff) << 56
}

fn tables(m: &Runner<TestBus>, long: bool) {
    m.poke64(GDT, 0);
    m.poke64(GDT + 0x08, descriptor(flat(KERNEL_CS, 0xb, long)));
    m.poke64(GDT + 0x10, descriptor(flat(KERNEL_SS, 3, false)));
    m.poke64(GDT + 0x18, descriptor(flat(USER_SS, 3, false)));
    m.poke64(GDT + 0x20, descriptor(flat(USER_CS, 0xb, long)));
    // 32-bit user code and kernel code, for compatibility mode.
    m.poke64(GDT + 0x28, descriptor(flat(0x2b, 0xb, false)));
    m.poke64(GDT + 0x30, descriptor(flat(0x30, 0xb, false)));
    let tss = Segment { selector: 0x40, attr: attr::P | 9, limit: 0x67, base: TSS };
    m.poke64(GDT + 0x40, descriptor(tss));
    m.poke64(GDT + 0x48, 0);
}

/// Page tables of [`long`] with 4 KiB pages.
fn map_long(m: &Runner<TestBus>) {
    let rw = 7;
    m.poke64(CR3, (CR3 + 0x1000) | rw);
    m.poke64(CR3 + 8 * 256, (CR3 + 0x1000) | rw);
    m.poke64(CR3 + 0x1000, (CR3 + 0x2000) | rw);
    m.poke64(CR3 + 0x1000 + 8 * 3, (CR3 + 0x8000) | rw);
    for i in 0..4 {
        m.poke64(CR3 + 0x2000 + 8 * i, (CR3 + 0x3000 + 0x1000 * i) | rw);
        for j in 0..512 {
            m.poke64(CR3 + 0x3000 + 0x1000 * i + 8 * j, (i << 21 | j << 12) | rw);
        }
    }
    m.poke64(CR3 + 0x8000 + 8 * (DEVICE >> 21 & 0x1ff), (CR3 + 0x9000) | rw);
    m.poke64(CR3 + 0x9000, DEVICE | rw);
}

/// The page-table entry of `va` (below 8 MiB) in [`long`].
pub fn pte(va: u64) -> u64 {
    CR3 + 0x3000 + (va >> 12) * 8
}

/// A vCPU in 64-bit mode at privilege level 0, with tables, handlers and a stack.
pub fn long() -> Runner<TestBus> {
    long_on(machine())
}

/// The same of the model `atoll-v3`, with AVX on.
pub fn long_v3() -> Runner<TestBus> {
    let mut m = long_on(machine_of("atoll-v3"));
    m.cpu.sys.cr4 |= cr4::OSXSAVE;
    m.cpu.sys.xcr0 = 7;
    let regs = &mut m.regs.0;
    m.cpu.refresh(regs);
    m
}

fn long_on(mut m: Runner<TestBus>) -> Runner<TestBus> {
    tables(&m, true);
    map_long(&m);
    m.poke64(TSS + 4, STACK0);
    let s = &mut m.cpu.sys;
    s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::WP | cr0::NE;
    s.cr3 = CR3;
    s.cr4 = cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    s.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
    common(&mut m, true);
    m.catch64();
    m
}

/// A vCPU in flat 32-bit protected mode without paging.
pub fn protected() -> Runner<TestBus> {
    let mut m = machine();
    tables(&m, false);
    m.poke(TSS + 4, &(STACK0 as u32).to_le_bytes());
    m.poke(TSS + 8, &KERNEL_SS.to_le_bytes());
    m.cpu.sys.cr0 = cr0::PE | cr0::ET | cr0::NE;
    m.cpu.sys.cr4 = cr4::OSFXSR;
    common(&mut m, false);
    m.catch32();
    m
}

fn common(m: &mut Runner<TestBus>, long: bool) {
    let s = &mut m.cpu.sys;
    s.gdtr = Table { base: GDT, limit: 0x4f };
    s.idtr = Table { base: IDT, limit: 0xfff };
    s.tr = Segment { selector: 0x40, attr: attr::P | 0xb, limit: 0x67, base: TSS };
    s.seg = [flat(KERNEL_SS, 3, false); 6];
    s.seg[Seg::Cs as usize] = flat(KERNEL_CS, 0xb, long);
    m.set(4, STACK);
    m.set_pc(CODE);
    let regs: &mut Regs = &mut m.regs.0;
    crate::state::set_eflags(regs, flags::ONE);
    m.cpu.refresh(regs);
}

/// Put a vCPU of [`long`] or [`protected`] at privilege level 3.
pub fn user(m: &mut Runner<TestBus>) {
    let long = m.cpu.sys.long_mode();
    m.cpu.sys.seg = [flat(USER_SS, 3, false); 6];
    m.cpu.sys.seg[Seg::Cs as usize] = flat(USER_CS, 0xb, long);
    m.cpu.sys.cpl = 3;
    m.cpu.refresh(&mut m.regs.0);
}

/// The first exception of a program, if it has one.
pub fn fault(
    m: &mut Runner<TestBus>,
    f: impl FnOnce(&mut iced_x86::code_asm::CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Option<u64> {
    m.set(4, STACK);
    let code = asm64(|a| {
        f(a)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    m.caught()
}

/// Assemble 64-bit code at [`CODE`].
pub fn asm64(f: impl FnOnce(&mut iced_x86::code_asm::CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Vec<u8> {
    asm(64, f)
}

/// Assemble code of `bits` at [`CODE`].
pub fn asm(
    bits: u32,
    f: impl FnOnce(&mut iced_x86::code_asm::CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Vec<u8> {
    let mut a = iced_x86::code_asm::CodeAssembler::new(bits).unwrap();
    f(&mut a).unwrap();
    a.assemble(CODE).unwrap()
}
