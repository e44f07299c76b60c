//! x87, MMX and SSE instructions through the lifter and the interpreter: when they are available, which exceptions they
//! raise and what those leave undone, and the forms that move state to and from memory. Values of arithmetic are compared
//! with hardware elsewhere.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::os::fd::AsFd;
use std::sync::Arc;

use guest_memory::{Access, DirtyLayout, DirtyLog, Kind, Layout, Memfd, Ram, Region};
use guest_x86::bus::{Attrs, Bus, Order, Refused};
use guest_x86::state::{self, FPU_SW, FPU_TAG, Seg, Segment, cr0, cr4, fpr, gpr, xmm};
use guest_x86::{Cpu, exception};
use iced_x86::code_asm::*;
use ir::op::FPC;
use ir::{PC, Regs, Stop, Then};

/// A machine with nothing in it.
struct Nothing;

impl Bus for Nothing {
    fn mmio_read(&mut self, _: u64, _: u8, _: Attrs) -> Result<u64, Stop> {
        Ok(u64::MAX)
    }
    fn mmio_write(&mut self, _: u64, _: u8, _: u64, _: Attrs) -> Result<Then, Stop> {
        Ok(Then::Continue)
    }
    fn io_read(&mut self, _: u16, _: u8) -> Result<u32, Stop> {
        Ok(u32::MAX)
    }
    fn io_write(&mut self, _: u16, _: u8, _: u32) -> Result<Then, Stop> {
        Ok(Then::Continue)
    }
    fn apic_base(&self) -> u64 {
        0
    }
    fn set_apic_base(&mut self, _: u64) -> Result<(), Refused> {
        Err(Refused)
    }
    fn x2apic_read(&mut self, _: u32) -> Result<u64, Refused> {
        Err(Refused)
    }
    fn x2apic_write(&mut self, _: u32, _: u64) -> Result<Then, Refused> {
        Err(Refused)
    }
    fn cr8(&self) -> u8 {
        0
    }
    fn set_cr8(&mut self, _: u8) -> Then {
        Then::Continue
    }
    fn tsc_deadline(&mut self) -> u64 {
        0
    }
    fn set_tsc_deadline(&mut self, _: u64) -> Then {
        Then::Continue
    }
    fn tsc(&mut self) -> u64 {
        0
    }
    fn set_tsc(&mut self, _: u64) {}
    fn tsc_adjust(&mut self) -> u64 {
        0
    }
    fn set_tsc_adjust(&mut self, _: u64) {}
    fn random(&mut self) -> Option<u64> {
        None
    }
    fn apic_id(&self) -> u32 {
        0
    }
    fn vcpus(&self) -> u32 {
        1
    }
    fn order(&mut self, _: mem::Vcpus, _: Order) {}
    fn next_order(&mut self) -> Option<Order> {
        None
    }
    fn alone(&mut self, _: bool) {}
}

/// Assembles one instruction.
type Insn = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;

const CODE: u64 = 0x1000;
const DATA: u64 = 0x4000;

/// A vCPU in 64-bit mode without paging, SSE and XSAVE enabled, RSI pointing to data.
struct Rig {
    cpu: Cpu<Nothing>,
    regs: Regs,
}

impl Rig {
    fn new() -> Self {
        let len = 0x10000;
        let layout = Layout::new(vec![Region { base: 0, len, offset: 0, kind: Kind::Ram }]).unwrap();
        let ram = Ram::map(Memfd::create("ram", len).unwrap().as_fd(), len, Access::ReadWrite).unwrap();
        let dirty = Memfd::create("dirty", DirtyLayout::new(len).len).unwrap();
        DirtyLog::format(dirty.as_fd(), len).unwrap();
        let marks = DirtyLog::map(dirty.as_fd(), len).unwrap();
        let memory = Arc::new(mem::Memory::new(ram, layout, marks));
        let mut cpu = Cpu::new(cpu_model::MODELS[0], memory, Nothing);
        let mut regs = Regs::default();
        cpu.reset(&mut regs);
        cpu.sys.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::MP;
        cpu.sys.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        cpu.sys.efer = 0x500;
        cpu.sys.xcr0 = 3;
        cpu.sys.seg = [Segment { selector: 16, attr: 0xc093, limit: u32::MAX, base: 0 }; 6];
        cpu.sys.seg[Seg::Cs as usize] = Segment { selector: 8, attr: 0xa09b, limit: u32::MAX, base: 0 };
        let mut rig = Rig { cpu, regs };
        guest_x86::fpu::init(&mut rig.regs);
        rig.regs.set(gpr(6), DATA);
        rig
    }

    /// Runs instructions one by one until one raises an exception: its vector.
    fn run(&mut self, build: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Option<u8> {
        let mut a = CodeAssembler::new(64).unwrap();
        build(&mut a).unwrap();
        let bytes = a.assemble(CODE).unwrap();
        self.cpu.mem.ram.write(CODE, &bytes).unwrap();
        self.cpu.refresh(&mut self.regs);
        self.cpu.pending = None;
        self.regs.set(PC, CODE);
        while self.regs.get(PC) < CODE + bytes.len() as u64 {
            let lift = self.cpu.lift(&self.regs, 1, false).unwrap();
            ir::verify::verify(&lift.block).unwrap();
            ir::t0::run(&lift.block, &mut self.regs, &mut self.cpu);
            if let Some(e) = self.cpu.pending {
                return Some(e.vector);
            }
        }
        None
    }

    fn read(&self, at: u64) -> u128 {
        self.cpu.mem.ram.load_u128(at).unwrap()
    }

    fn write(&self, at: u64, value: u128) {
        self.cpu.mem.ram.store_u128(at, value).unwrap();
    }
}

#[test]
fn units_are_available_as_control_registers_say() {
    let x87: Insn = |a| a.fld1();
    let mmx: Insn = |a| a.paddb(mm0, mm1);
    let sse: Insn = |a| a.addps(xmm0, xmm1);
    let moves: Insn = |a| a.movups(xmm0, xmmword_ptr(rsi));
    let mxcsr: Insn = |a| a.stmxcsr(dword_ptr(rsi));
    let fxsave: Insn = |a| a.fxsave(ptr(rsi));
    let xsave: Insn = |a| a.xsave(ptr(rsi));
    let wait: Insn = |a| a.wait();
    let all = [x87, mmx, sse, moves, mxcsr, fxsave, xsave, wait];
    let (ud, nm) = (Some(exception::UD), Some(exception::NM));
    for (set0, clear4, want) in [
        (0, 0, [None; 8]),
        (cr0::TS, 0, [nm; 8]),
        (cr0::EM, 0, [nm, ud, ud, ud, ud, nm, None, None]),
        (0, cr4::OSFXSR, [None, None, ud, ud, ud, None, None, None]),
        (0, cr4::OSXSAVE, [None, None, None, None, None, None, ud, None]),
        (cr0::TS, cr4::OSFXSR | cr4::OSXSAVE, [nm, nm, ud, ud, ud, nm, ud, nm]),
    ] {
        for (n, insn) in all.into_iter().enumerate() {
            let mut rig = Rig::new();
            rig.cpu.sys.cr0 |= set0;
            rig.cpu.sys.cr4 &= !clear4;
            assert_eq!(rig.run(insn), want[n], "instruction {n} with CR0 {set0:#x}, without CR4 {clear4:#x}");
        }
    }
    // WAIT looks at TS only together with MP.
    let mut rig = Rig::new();
    rig.cpu.sys.cr0 = rig.cpu.sys.cr0 & !cr0::MP | cr0::TS;
    assert_eq!(rig.run(|a| a.wait()), None);
}

#[test]
fn an_unmasked_simd_exception_writes_flags_only() {
    for (mask, vector) in [(cr4::OSXMMEXCPT, exception::XM), (0, exception::UD)] {
        let mut rig = Rig::new();
        rig.cpu.sys.cr4 = rig.cpu.sys.cr4 & !cr4::OSXMMEXCPT | mask;
        rig.regs.set(FPC, 0x1f80 & !(1 << 9));
        rig.regs.set128(xmm(0), 0x3f80_0000);
        assert_eq!(rig.run(|a| a.divss(xmm0, xmm1)), Some(vector));
        assert_eq!(rig.regs.get128(xmm(0)), 0x3f80_0000);
        assert_eq!(rig.regs.get(FPC) & 0x3f, 4);
        assert_eq!(rig.regs.get(PC), CODE);
    }
}

#[test]
fn masked_simd_exceptions_are_sticky() {
    let mut rig = Rig::new();
    rig.regs.set128(xmm(0), 0x3f80_0000);
    assert_eq!(rig.run(|a| a.divss(xmm0, xmm1)), None);
    assert_eq!(rig.regs.get128(xmm(0)), 0x7f80_0000);
    rig.run(|a| a.stmxcsr(dword_ptr(rsi)));
    assert_eq!(rig.read(DATA) as u32, 0x1f84);
    rig.write(DATA, 0x1_0000);
    assert_eq!(rig.run(|a| a.ldmxcsr(dword_ptr(rsi))), Some(exception::GP));
    rig.write(DATA, 0x9fc0);
    assert_eq!(rig.run(|a| a.ldmxcsr(dword_ptr(rsi))), None);
    assert_eq!(rig.regs.get(FPC), 0x9fc0);
}

#[test]
fn alignment_of_128_bit_operands() {
    let gp = Some(exception::GP);
    let mut rig = Rig::new();
    rig.regs.set(gpr(6), DATA + 8);
    assert_eq!(rig.run(|a| a.movaps(xmm0, xmmword_ptr(rsi))), gp);
    assert_eq!(rig.run(|a| a.movdqa(xmmword_ptr(rsi), xmm0)), gp);
    assert_eq!(rig.run(|a| a.addps(xmm0, xmmword_ptr(rsi))), gp);
    assert_eq!(rig.run(|a| a.pxor(xmm0, xmmword_ptr(rsi))), gp);
    assert_eq!(rig.run(|a| a.movups(xmm0, xmmword_ptr(rsi))), None);
    assert_eq!(rig.run(|a| a.movdqu(xmmword_ptr(rsi), xmm0)), None);
    assert_eq!(rig.run(|a| a.addsd(xmm0, qword_ptr(rsi))), None);
    assert_eq!(rig.run(|a| a.pcmpistri(xmm0, xmmword_ptr(rsi), 0)), None);
    assert_eq!(rig.run(|a| a.fxsave(ptr(rsi))), gp);
    rig.regs.set(gpr(6), DATA + 16);
    assert_eq!(rig.run(|a| a.fxsave(ptr(rsi))), None);
    assert_eq!(rig.run(|a| a.xsave(ptr(rsi))), gp);
}

#[test]
fn an_unmasked_x87_exception_waits_for_the_next_waiting_instruction() {
    let mut rig = Rig::new();
    rig.write(DATA, 0x037b);
    let divide = |a: &mut CodeAssembler| {
        a.fldcw(word_ptr(rsi))?;
        a.fld1()?;
        a.fldz()?;
        a.fdivp(st1, st0)
    };
    assert_eq!(rig.run(divide), None);
    assert_ne!(rig.regs.get(FPU_SW) & 0x80, 0);
    // Not popped: both operands are there.
    assert_eq!(rig.regs.get(FPU_TAG), 0xc0);
    assert_eq!(rig.run(|a| a.fnstsw(ax)), None);
    assert_eq!(rig.regs.get(gpr(0)) & 0x3f, 4);
    let waiting: [Insn; 4] = [|a| a.wait(), |a| a.fld1(), |a| a.paddb(mm0, mm0), |a| a.fstp(tbyte_ptr(rsi))];
    for insn in waiting {
        assert_eq!(rig.run(insn), Some(exception::MF));
    }
    assert_eq!(rig.regs.get(FPU_TAG), 0xc0, "MMX did not start");
    assert_eq!(rig.run(|a| a.fnclex()), None);
    assert_eq!(rig.run(|a| a.wait()), None);
}

#[test]
fn a_store_that_faults_leaves_the_stack() {
    let mut rig = Rig::new();
    rig.run(|a| a.fld1());
    let (sw, tag) = (rig.regs.get(FPU_SW), rig.regs.get(FPU_TAG));
    // Not canonical.
    rig.regs.set(gpr(6), 1 << 62);
    assert_eq!(rig.run(|a| a.fstp(qword_ptr(rsi))), Some(exception::GP));
    assert_eq!((rig.regs.get(FPU_SW), rig.regs.get(FPU_TAG)), (sw, tag));
    rig.regs.set(gpr(6), DATA);
    assert_eq!(rig.run(|a| a.fstp(tbyte_ptr(rsi))), None);
    assert_eq!(rig.read(DATA), 0x3fff_8000_0000_0000_0000);
    assert_eq!(rig.regs.get(FPU_TAG), 0);
    assert_eq!((rig.regs.get(state::FPU_IP), rig.regs.get(state::FPU_DP)), (CODE, DATA));
}

#[test]
fn mmx_takes_the_registers_over_and_emms_gives_them_back() {
    let mut rig = Rig::new();
    rig.run(|a| a.fld1());
    rig.regs.set(gpr(0), 0x1234);
    assert_eq!(rig.run(|a| a.movd(mm3, eax)), None);
    assert_eq!(rig.regs.get128(fpr(3)), 0xffff << 64 | 0x1234);
    assert_eq!((rig.regs.get(FPU_TAG), rig.regs.get(FPU_SW) & 0x3800), (0xff, 0));
    assert_eq!(rig.run(|a| a.emms()), None);
    assert_eq!(rig.regs.get(FPU_TAG), 0);
}

#[test]
fn fxsave_and_fxrstor_round_trip() {
    let mut rig = Rig::new();
    rig.regs.set128(xmm(15), 77);
    rig.run(|a| {
        a.fldpi()?;
        a.fxsave64(ptr(rsi))?;
        a.fninit()?;
        a.pxor(xmm15, xmm15)?;
        a.fxrstor64(ptr(rsi))
    });
    assert_eq!(rig.regs.get128(xmm(15)), 77);
    assert_eq!((rig.regs.get(FPU_TAG), rig.regs.get(FPU_SW)), (0x80, 7 << 11));
    assert_eq!(rig.read(DATA + 16) >> 64, 0xffff_0000_1f80, "MXCSR and its mask");
    rig.write(DATA + 16, 1 << 80 | 1 << 64);
    assert_eq!(rig.run(|a| a.fxrstor(ptr(rsi))), Some(exception::GP));
    assert_eq!(rig.regs.get128(xmm(15)), 77);
}

#[test]
fn xsave_writes_what_is_asked_for_and_xrstor_checks_the_header() {
    let mut rig = Rig::new();
    rig.regs.set128(xmm(2), 9);
    rig.write(DATA, u128::MAX);
    rig.regs.set(gpr(0), 2);
    rig.regs.set(gpr(2), 0);
    assert_eq!(rig.run(|a| a.xsave64(ptr(rsi))), None);
    assert_eq!(rig.read(DATA), u128::MAX, "x87 was not asked for");
    assert_eq!((rig.read(DATA + 160 + 32), rig.read(DATA + 512)), (9, 2));
    // A component that is not in the image is initialised, MXCSR is loaded all the same.
    rig.write(DATA + 512, 0);
    rig.regs.set(FPC, 0x1fa0);
    assert_eq!(rig.run(|a| a.xrstor64(ptr(rsi))), None);
    assert_eq!((rig.regs.get128(xmm(2)), rig.regs.get(FPC)), (0, 0x1f80));
    for header in [4, 1 << 63, 1 << 64, 1 << 127] {
        rig.write(DATA + 512, header);
        assert_eq!(rig.run(|a| a.xrstor64(ptr(rsi))), Some(exception::GP), "{header:x}");
    }
    rig.write(DATA + 512, 0);
    rig.write(DATA + 528, 1);
    assert_eq!(rig.run(|a| a.xrstor64(ptr(rsi))), Some(exception::GP));
    rig.write(DATA + 528, 1 << 64);
    assert_eq!(rig.run(|a| a.xrstor64(ptr(rsi))), None, "the last 40 bytes are not looked at");
}

#[test]
fn environments_are_28_and_14_bytes() {
    let mut rig = Rig::new();
    rig.write(DATA + 16, u128::MAX);
    rig.run(|a| {
        a.fld1()?;
        a.fnstenv(ptr(rsi))
    });
    assert_eq!(rig.read(DATA) as u64, 0xffff_3800_ffff_037f);
    assert_eq!(rig.read(DATA + 16) >> 96, 0xffff_ffff, "28 bytes");
    rig.run(|a| {
        a.fninit()?;
        a.fldenv(ptr(rsi))
    });
    assert_eq!((rig.regs.get(FPU_SW), rig.regs.get(FPU_TAG)), (7 << 11, 0x80));
    rig.run(|a| {
        a.fnsave(ptr(rsi))?;
        a.frstor(ptr(rsi))
    });
    assert_eq!(rig.read(DATA + 28) & ((1 << 80) - 1), 0x3fff_8000_0000_0000_0000);
    assert_eq!((rig.regs.get(FPU_SW), rig.regs.get(FPU_TAG)), (7 << 11, 0x80));
}

#[test]
fn masked_moves_touch_chosen_bytes_only() {
    let mut rig = Rig::new();
    rig.write(DATA, u128::MAX);
    rig.regs.set(gpr(7), DATA);
    rig.regs.set128(xmm(1), 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100);
    rig.regs.set128(xmm(2), 0x8000_0000_0000_0000_0000_0000_0000_ff7f);
    assert_eq!(rig.run(|a| a.maskmovdqu(xmm1, xmm2)), None);
    assert_eq!(rig.read(DATA), 0x0fff_ffff_ffff_ffff_ffff_ffff_ffff_01ff);
}

#[test]
fn string_comparison_with_lengths() {
    let mut rig = Rig::new();
    rig.regs.set128(xmm(0), u128::from_le_bytes(*b"aeiouaeiouaeioua"));
    rig.regs.set128(xmm(1), u128::from_le_bytes(*b"rhythm and blues"));
    rig.regs.set(gpr(0), 5);
    rig.regs.set(gpr(2), 16);
    assert_eq!(rig.run(|a| a.pcmpestri(xmm0, xmm1, 0)), None);
    assert_eq!(rig.regs.get(gpr(1)), 7);
    assert_eq!(state::eflags(&rig.regs) & 0x8d5, 0x81);
    assert_eq!(rig.run(|a| a.pcmpestrm(xmm0, xmm1, 0)), None);
    assert_eq!(rig.regs.get128(xmm(0)), 1 << 7 | 1 << 13 | 1 << 14);
}
