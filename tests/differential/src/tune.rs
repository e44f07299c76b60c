//! What random values alone would hardly ever hit: equal operands for compares, quotients that fit, frames that return.

use iced_x86::{MemorySize, Mnemonic, OpKind, Register};

use crate::build::Draft;
use crate::case::{CS32, CS64, DATA, DATA_HIGH, DS, FS32, GS32};
use crate::random;
use crate::rng::Rng;

/// A selector to branch to.
pub fn code_selector(r: &mut Rng) -> u16 {
    if r.percent(70) { r.pick(&[CS64, CS32]) } else { any_selector(r) }
}

/// A selector of any kind. That of the processor's number (0x7b) is not among them: its limit is that number.
fn any_selector(r: &mut Rng) -> u16 {
    match r.below(10) {
        0 => r.pick(&[0, 1, 2, 3]),
        1 => r.pick(&[0x10, 0x13, 0x18, 0x1b, 0x08, 0x0b]),
        2 => r.pick(&[0x20, 0x21, 0x28, 0x2a, 0x30, 0x32]),
        3 => r.pick(&[0x40, 0x43, 0x48, 0x50, 0x60, 0x63, 0x80, 0x83, 0xfffb, 0x17, 0xffff]),
        4 => r.pick(&[FS32, GS32, FS32 & !3, GS32 & !1]),
        _ => r.pick(&[CS64, CS32, DS, FS32, GS32]),
    }
}

/// A selector for the stack, mostly one that works.
fn stack_selector(r: &mut Rng) -> u16 {
    if r.percent(80) { DS } else { any_selector(r) }
}

/// Flags as a stack may hold them: anything but TF, which would trap behind the instruction.
fn flags(r: &mut Rng) -> u64 {
    r.next() & !(1 << 8) & 0x3f_ffff
}

/// Adjust registers and memory to the instruction; false if the draft is of no use.
pub fn tune(d: &mut Draft<'_>) -> bool {
    floating(d);
    integer(d);
    strings(d);
    control(d);
    system(d)
}

fn width(d: &Draft<'_>, operand: u32) -> u32 {
    match d.i.op_kind(operand) {
        OpKind::Register => d.i.op_register(operand).size() as u32,
        _ => d.i.memory_size().size() as u32,
    }
}

/// The general register of an operand.
fn number(d: &Draft<'_>, operand: u32) -> Option<usize> {
    let register = d.i.op_register(operand);
    (d.i.op_kind(operand) == OpKind::Register && register.is_gpr())
        .then(|| register.full_register() as usize - Register::RAX as usize)
}

fn integer(d: &mut Draft<'_>) {
    use Mnemonic::*;
    match d.i.mnemonic() {
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd if d.r.percent(60) => {
            let count = d.r.pick(&[0, 1, 2, 7, 8, 9, 15, 16, 17, 18, 31, 32, 33, 34, 63, 64, 65]);
            let v = d.get(1) & !0xff | count;
            d.set(1, v);
        }
        Div | Idiv if d.r.percent(70) => divide(d),
        Bt | Bts | Btr | Btc if d.i.op0_kind() == OpKind::Memory && d.r.percent(70) => {
            if let Some(n) = number(d, 1) {
                let v = d.r.below(1 << 12).wrapping_sub(1 << 11);
                d.set(n, v);
            }
        }
        Cmpxchg if d.r.percent(50) => {
            let v = match d.target {
                Some(t) => d.peek(t, width(d, 0) as usize),
                None => number(d, 0).map_or(0, |n| d.get(n)),
            };
            d.set(0, v);
        }
        Cmpxchg8b | Cmpxchg16b if d.r.percent(60) => {
            let half = width(d, 0) as usize / 2;
            if let Some(t) = d.target {
                let (low, high) = (d.peek(t, half), d.peek(t.wrapping_add(half as u64), half));
                let junk = if half == 4 { d.r.next() << 32 } else { 0 };
                d.set(0, low | junk);
                d.set(2, high | junk);
            }
        }
        Bound if d.r.percent(70) => {
            let (Some(t), Some(n)) = (d.target, number(d, 0)) else { return };
            let half = width(d, 1) as usize / 2;
            let v = d.get(n);
            let (below, above) = (d.r.below(3), d.r.below(3));
            d.poke(t, &v.wrapping_sub(below).to_le_bytes()[..half]);
            d.poke(t.wrapping_add(half as u64), &v.wrapping_add(above).to_le_bytes()[..half]);
        }
        Daa | Das | Aaa | Aas | Aad | Aam if d.r.percent(50) => {
            let digits = d.r.below(10) | d.r.below(10) << d.r.pick(&[4, 8]);
            let v = d.get(0) & !0xffff | digits;
            d.set(0, v);
        }
        Enter if d.r.percent(70) => {
            let frame = d.r.below(0x100) as u16;
            let level = d.r.below(34) as u8;
            d.i.set_immediate16(frame);
            d.i.set_immediate8_2nd(level);
        }
        _ => {}
    }
}

/// A dividend whose quotient mostly fits.
fn divide(d: &mut Draft<'_>) {
    let signed = d.i.mnemonic() == Mnemonic::Idiv;
    let bits = 8 * width(d, 0).max(1);
    let (rax, rdx) = (d.get(0), d.get(2));
    if bits == 8 {
        let v = rax & !0xff00 | if signed && rax & 0x80 != 0 { 0xff00 } else { d.r.below(4) << 8 };
        d.set(0, v);
        return;
    }
    let keep = if bits == 64 { 0 } else { !0 << bits };
    let negative = rax >> (bits - 1) & 1 != 0;
    let high = if signed && negative { !0 } else { d.r.below(3) };
    d.set(2, rdx & keep | high & !keep);
}

fn strings(d: &mut Draft<'_>) {
    use Mnemonic::*;
    let repeated = d.i.has_rep_prefix() || d.i.has_repne_prefix();
    if repeated && d.r.percent(80) {
        let junk = if d.r.percent(50) { 0 } else { d.get(1) & !0xffff_ffff };
        let count = d.r.below(40);
        // A count that only half an address size sees.
        d.set(1, junk | count);
        if d.r.percent(70) {
            d.set(1, count);
        }
    }
    match d.i.mnemonic() {
        Movsb | Movsw | Movsd | Movsq => {
            // Not through both views of the same memory: overlap is then seen by the bytes, but not by the addresses.
            let (from, to) = (d.get(6), d.get(7));
            let view =
                if d.i.segment_prefix() == Register::None { from } else { d.case.state.base[0].wrapping_add(from) };
            if view.abs_diff(to) > 1 << 31 && to.abs_diff(DATA_HIGH) < 1 << 31 {
                d.case.state.gpr[7] = to.wrapping_sub(DATA_HIGH).wrapping_add(DATA);
            } else if view.abs_diff(to) > 1 << 31 && to.abs_diff(DATA) < 1 << 31 {
                d.case.state.gpr[7] = to.wrapping_sub(DATA).wrapping_add(DATA_HIGH);
            }
        }
        Cmpsb | Cmpsw | Cmpsd | Cmpsq if d.r.percent(60) => {
            let (from, to) = (d.get(6), d.get(7));
            let down = d.case.state.eflags >> 10 & 1 != 0;
            for i in 0..d.r.below(48) {
                let step = |a: u64| if down { a.wrapping_sub(i) } else { a.wrapping_add(i) };
                let b = d.peek(step(from), 1) as u8;
                d.poke(step(to), &[b]);
            }
        }
        Scasb | Scasw | Scasd | Scasq if d.r.percent(60) => {
            let (al, to) = (d.get(0), d.get(7));
            let size = d.i.memory_size().size();
            let down = d.case.state.eflags >> 10 & 1 != 0;
            let first = if d.r.percent(50) { 0 } else { d.r.below(10) };
            for i in first..first + d.r.below(16) {
                let by = i * size as u64;
                let a = if down { to.wrapping_sub(by) } else { to.wrapping_add(by) };
                d.poke(a, &al.to_le_bytes()[..size]);
            }
        }
        Pcmpestri | Pcmpestrm | Pcmpestri64 | Pcmpestrm64 if d.r.percent(70) => {
            for n in [0, 2] {
                let v = d.r.below(40).wrapping_sub(20);
                d.set(n, v);
            }
        }
        _ => {}
    }
}

fn control(d: &mut Draft<'_>) {
    use Mnemonic::*;
    match d.i.mnemonic() {
        Jmp | Call => {
            let t = d.branch_target();
            match d.i.op0_kind() {
                OpKind::Register => {
                    if let Some(n) = number(d, 0) {
                        d.set(n, t);
                    }
                }
                OpKind::Memory => far_pointer(d, t),
                _ => {}
            }
        }
        Ret => {
            let t = d.branch_target();
            let stack = d.stack();
            d.poke(stack, &t.to_le_bytes());
        }
        Loop | Loope | Loopne if d.r.percent(60) => {
            let v = d.r.below(3) | d.r.pick(&[0, 0, 1 << 16, 1 << 32]);
            d.set(1, v);
        }
        Jcxz | Jecxz | Jrcxz if d.r.percent(60) => {
            let v = d.r.pick(&[0, 1 << 16, 1 << 32, 1 << 15, 1 << 31]);
            d.set(1, v);
        }
        Int => {
            let v = d.r.pick(&[0u8, 1, 2, 3, 4, 5, 6, 13, 14, 32, 0x7f, 0x81, 0xff]);
            d.i.set_immediate8(v);
        }
        Retf => frame(d, 2),
        Iret | Iretd | Iretq => frame(d, 5),
        Popf | Popfd | Popfq => {
            let (v, stack) = (flags(d.r), d.stack());
            d.poke(stack, &v.to_le_bytes());
        }
        _ => {}
    }
}

/// Memory that a far or near indirect branch reads its target from.
fn far_pointer(d: &mut Draft<'_>, t: u64) {
    let Some(at) = d.target else { return };
    let offset = match d.i.memory_size() {
        MemorySize::SegPtr16 => 2,
        MemorySize::SegPtr32 => 4,
        MemorySize::SegPtr64 => 8,
        _ => return d.poke(at, &t.to_le_bytes()),
    };
    let selector = code_selector(d.r);
    d.poke(at, &t.to_le_bytes()[..offset]);
    d.poke(at.wrapping_add(offset as u64), &selector.to_le_bytes());
}

/// A frame for a far return (two words) or an interrupt return (five).
fn frame(d: &mut Draft<'_>, words: usize) {
    use iced_x86::Code::*;
    let size = match d.i.code() {
        Retfw | Retfw_imm16 | Iretw => 2,
        Retfd | Retfd_imm16 | Iretd => 4,
        _ => 8,
    };
    let list = [
        d.branch_target(),
        code_selector(d.r).into(),
        flags(d.r),
        random::data_address(d.r, if size == 8 { 64 } else { 32 }),
        stack_selector(d.r).into(),
    ];
    if words == 5 {
        // If AC is popped, a misaligned stack faults, which some hypervisors take for a split lock, and wait for ever.
        let sp = d.get(4) & !7;
        d.set(4, sp);
    }
    let stack = d.stack();
    for (i, w) in list.iter().take(words).enumerate() {
        d.poke(stack.wrapping_add((i * size) as u64), &w.to_le_bytes()[..size]);
    }
    if words == 2 && d.r.percent(70) {
        d.i.set_immediate16(d.r.below(0x40) as u16);
    }
}

fn system(d: &mut Draft<'_>) -> bool {
    use Mnemonic::*;
    match d.i.mnemonic() {
        Lar | Lsl | Verr | Verw => {
            let v = any_selector(d.r);
            set_source(d, d.i.op_count() - 1, v.into());
        }
        Mov if d.i.op0_register().is_segment_register() => {
            let v = if d.i.op0_register() == Register::SS { stack_selector(d.r) } else { any_selector(d.r) };
            let junk = d.r.next() << 16;
            set_source(d, 1, junk | u64::from(v));
        }
        Pop if d.i.op0_register().is_segment_register() => {
            let v = if d.i.op0_register() == Register::SS { stack_selector(d.r) } else { any_selector(d.r) };
            let (stack, junk) = (d.stack(), d.r.next() << 16);
            d.poke(stack, &(junk | u64::from(v)).to_le_bytes());
        }
        Lds | Les | Lss | Lfs | Lgs => {
            let v = if d.i.mnemonic() == Lss { stack_selector(d.r) } else { any_selector(d.r) };
            let offset = width(d, 1) as u64 - 2;
            if let Some(t) = d.target {
                d.poke(t.wrapping_add(offset), &v.to_le_bytes());
            }
        }
        Arpl => {
            let v = any_selector(d.r);
            set_source(d, 0, v.into());
        }
        Wrfsbase | Wrgsbase if d.r.percent(70) => {
            if let Some(n) = number(d, 0) {
                let v = d.get(n) & 0x7fff_ffff_ffff;
                d.set(n, v);
            }
        }
        Xsave | Xsave64 | Xsaveopt | Xsaveopt64 | Xrstor | Xrstor64 => {
            // Only components that the model has: the host has more. An address must not depend on the two.
            let v = d.r.below(d.model.xcr0 + 1);
            d.set(0, v);
            d.set(2, 0);
            return d.get(0) == v && d.get(2) == 0;
        }
        _ => {}
    }
    true
}

/// Give an operand a value, in its register or in memory.
fn set_source(d: &mut Draft<'_>, operand: u32, v: u64) {
    if let Some(n) = number(d, operand) {
        d.set(n, v);
    } else if let (OpKind::Memory, Some(t)) = (d.i.op_kind(operand), d.target) {
        let n = d.i.memory_size().size().min(8);
        d.poke(t, &v.to_le_bytes()[..n]);
    }
}

/// Memory operands of floating-point instructions, and images that they load.
fn floating(d: &mut Draft<'_>) {
    use Mnemonic::*;
    let Some(t) = d.target else { return };
    match d.i.mnemonic() {
        Ldmxcsr => {
            let v = if d.r.percent(85) { d.r.next() as u32 & 0xffff } else { d.r.next() as u32 };
            return d.poke(t, &v.to_le_bytes());
        }
        Fldcw => {
            let v = control_word(d.r);
            return d.poke(t, &v.to_le_bytes());
        }
        Fldenv | Frstor => {
            let step = if matches!(d.i.memory_size(), MemorySize::FpuEnv14 | MemorySize::FpuState94) { 2 } else { 4 };
            let (cw, sw, tags) = (control_word(d.r), d.r.next() as u16, d.r.next() as u16);
            for (i, w) in [cw, sw, tags].iter().enumerate() {
                d.poke(t.wrapping_add(i as u64 * step), &w.to_le_bytes());
            }
            return;
        }
        Fxrstor | Fxrstor64 | Xrstor | Xrstor64 => return image(d, t),
        _ => {}
    }
    if !d.r.percent(75) {
        return;
    }
    match d.i.memory_size() {
        MemorySize::Float32 => {
            let v = random::single(d.r);
            d.poke(t, &v.to_le_bytes());
        }
        MemorySize::Float64 => {
            let v = random::double(d.r);
            d.poke(t, &v.to_le_bytes());
        }
        MemorySize::Float80 => {
            let v = random::extended(d.r);
            d.poke(t, &v.to_le_bytes()[..10]);
        }
        MemorySize::Bcd => {
            let mut bytes: [u8; 10] = std::array::from_fn(|_| (d.r.below(10) | d.r.below(10) << 4) as u8);
            bytes[9] = d.r.pick(&[0, 0x80, 0x7f, 0xff]);
            d.poke(t, &bytes);
        }
        MemorySize::Packed128_Float32
        | MemorySize::Packed64_Float32
        | MemorySize::Packed128_Float64
        | MemorySize::Packed256_Float32
        | MemorySize::Packed256_Float64 => {
            let n = d.i.memory_size().size();
            for at in (0..n).step_by(16) {
                let v = random::vector(d.r);
                d.poke(t.wrapping_add(at as u64), &v.to_le_bytes()[..n.min(16)]);
            }
        }
        _ => {}
    }
}

fn control_word(r: &mut Rng) -> u16 {
    if r.percent(70) { r.next() as u16 | 0x3f } else { r.next() as u16 }
}

/// An image for FXRSTOR or XRSTOR.
fn image(d: &mut Draft<'_>, t: u64) {
    let cw = control_word(d.r);
    d.poke(t, &cw.to_le_bytes());
    let mxcsr = if d.r.percent(85) { d.r.next() as u32 & 0xffff } else { d.r.next() as u32 };
    d.poke(t.wrapping_add(24), &mxcsr.to_le_bytes());
    let mut header = [0; 64];
    header[0] = d.r.below(d.model.xcr0 + 1) as u8;
    match d.r.below(20) {
        // Components that neither side has, the compact form, and reserved bytes.
        0 => header[0] |= 8,
        1 => header[6] = 4,
        2 => header[8] = 1,
        3 => header[8 + d.r.below(56) as usize] = 1,
        _ => {}
    }
    d.poke(t.wrapping_add(512), &header);
}
