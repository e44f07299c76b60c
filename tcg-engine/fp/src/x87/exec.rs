//! One assembly block per instruction: guest control word in, operands pushed, operate, status out, result stored.
#![expect(unsafe_code, reason = "the operation is one host instruction in inline assembly")]

use super::{BinaryOp, CompareOp, Constant, F80, IntWidth, Operand, Pair, PairOp, UnaryOp, sw};
use core::arch::asm;

/// Operands, results and control words, at offsets that the assembly below names.
#[repr(C, align(16))]
struct Frame {
    /// +0: first operand (ST(0)), 80 bits.
    a: u128,
    /// +16: second operand, in the format of the instruction.
    b: u128,
    /// +32: the result, in the format of the instruction.
    result: u128,
    /// +48: what lies under the result on the stack.
    second: u128,
    /// +64: control word of the guest.
    guest_cw: u16,
    /// +66: control word of the host while the guest's is loaded.
    host_cw: u16,
    /// +68: status word after the operation.
    sw: u16,
    /// +70: AH after LAHF, in the low byte.
    ah: u16,
}

impl Frame {
    fn new(cw: u16, a: F80, b: u128) -> Self {
        // Bits 13 to 15 are reserved; bit 6 is a reserved one.
        let guest_cw = cw & super::CW_WRITABLE | super::CW_FIXED;
        Self { a: a.to_bits(), b, result: 0, second: 0, guest_cw, host_cw: 0, sw: 0, ah: 0 }
    }

    /// The flags and condition codes of the status word; the rest is about the host's stack.
    fn status(&self) -> u16 {
        self.sw & (sw::EXCEPTIONS | sw::CONDITIONS)
    }

    fn outcome(&self) -> (F80, u16) {
        (F80::from_bits(self.result), self.status())
    }
}

/// Runs instructions on the host's empty x87 stack under the frame's guest control word: loads and the operation, then, once
/// the status word is taken and the exceptions are cleared, the stores.
///
/// A store may find an empty stack (the operation was stopped by an unmasked exception): it then writes nothing or an
/// indefinite value that nobody reads, and FNINIT, which does not wait, removes the pending stack fault.
macro_rules! on_host {
    ($frame:expr; $($insn:expr),+ => $($store:expr),*) => {{
        let frame: *mut Frame = $frame;
        // SAFETY: `frame` points to a live, exclusively borrowed Frame, the only memory touched. The ABI promises an empty
        // x87 stack here and FNINIT leaves one; the host's control word is put back. No waiting instruction runs between
        // the operation and FNCLEX, nor between the last store and FNINIT, so a pending exception cannot trap. Every
        // register that is written is declared, and the machine stack is not used.
        unsafe {
            asm!(
                "fnstcw word ptr [{f} + 66]",
                "fninit",
                "fldcw word ptr [{f} + 64]",
                $($insn,)+
                "fnstsw word ptr [{f} + 68]",
                "fnclex",
                $($store,)*
                "fninit",
                "fldcw word ptr [{f} + 66]",
                f = in(reg) frame,
                out("rax") _,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nostack),
            );
        }
    }};
}

/// Pushes `b`, then `a`, and operates on both.
macro_rules! on_two {
    ($frame:expr, $insn:expr) => {
        on_host!($frame; "fld tbyte ptr [{f} + 16]", "fld tbyte ptr [{f}]", $insn => "fstp tbyte ptr [{f} + 32]")
    };
}

/// Pushes `a` and operates on it (and perhaps on memory).
macro_rules! on_one {
    ($frame:expr, $insn:expr) => {
        on_host!($frame; "fld tbyte ptr [{f}]", $insn => "fstp tbyte ptr [{f} + 32]")
    };
}

/// Operates on an empty stack, leaving one value.
macro_rules! on_none {
    ($frame:expr, $insn:expr) => {
        on_host!($frame; $insn => "fstp tbyte ptr [{f} + 32]")
    };
}

/// Pushes `a` and stores it with a converting instruction, which pops or not.
macro_rules! store {
    ($frame:expr, $insn:expr) => {
        on_host!($frame; "fld tbyte ptr [{f}]", $insn =>)
    };
}

/// The arithmetic instructions with a memory form, in all their forms.
macro_rules! arithmetic {
    ($frame:expr, $b:expr, $mnemonic:literal) => {
        match $b {
            Operand::Reg(_) => on_two!($frame, concat!($mnemonic, " st, st(1)")),
            Operand::F32(_) => on_one!($frame, concat!($mnemonic, " dword ptr [{f} + 16]")),
            Operand::F64(_) => on_one!($frame, concat!($mnemonic, " qword ptr [{f} + 16]")),
        }
    };
}

impl Operand {
    fn bits(self) -> u128 {
        match self {
            Self::Reg(value) => value.to_bits(),
            Self::F32(value) => value.into(),
            Self::F64(value) => value.into(),
        }
    }
}

/// Two-operand arithmetic: (result, status bits). See [`BinaryOp`] for the roles of `a` and `b`.
///
/// The result replaces the destination unless [`super::unmasked`] of the status has one of [`sw::PRE`]; with overflow or
/// underflow unmasked it is the hardware's bias-adjusted one, which the register does receive.
///
/// Operations beyond division have no memory form: for those, a memory operand is converted as a load does.
#[must_use]
pub fn binary(op: BinaryOp, cw: u16, a: F80, b: Operand) -> (F80, u16) {
    let mut frame = Frame::new(cw, a, b.bits());
    let f = &mut frame;
    match op {
        BinaryOp::Add => arithmetic!(f, b, "fadd"),
        BinaryOp::Sub => arithmetic!(f, b, "fsub"),
        BinaryOp::SubR => arithmetic!(f, b, "fsubr"),
        BinaryOp::Mul => arithmetic!(f, b, "fmul"),
        BinaryOp::Div => arithmetic!(f, b, "fdiv"),
        BinaryOp::DivR => arithmetic!(f, b, "fdivr"),
        _ => {
            let (loaded, status) = match b {
                Operand::Reg(value) => (value, 0),
                Operand::F32(value) => load_f32(cw, value),
                Operand::F64(value) => load_f64(cw, value),
            };
            f.b = loaded.to_bits();
            stack_only(op, f);
            f.sw |= status;
        }
    }
    frame.outcome()
}

fn stack_only(op: BinaryOp, f: &mut Frame) {
    match op {
        BinaryOp::Prem => on_two!(f, "fprem"),
        BinaryOp::Prem1 => on_two!(f, "fprem1"),
        BinaryOp::Scale => on_two!(f, "fscale"),
        BinaryOp::Patan => on_two!(f, "fpatan"),
        BinaryOp::Yl2x => on_two!(f, "fyl2x"),
        BinaryOp::Yl2xp1 => on_two!(f, "fyl2xp1"),
        // Not reached: these have a memory form and are handled by the caller.
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::SubR | BinaryOp::Mul | BinaryOp::Div | BinaryOp::DivR => {}
    }
}

/// One-operand arithmetic: (result, status bits).
#[must_use]
pub fn unary(op: UnaryOp, cw: u16, a: F80) -> (F80, u16) {
    let mut frame = Frame::new(cw, a, 0);
    let f = &mut frame;
    match op {
        UnaryOp::Chs => on_one!(f, "fchs"),
        UnaryOp::Abs => on_one!(f, "fabs"),
        UnaryOp::Sqrt => on_one!(f, "fsqrt"),
        UnaryOp::Rndint => on_one!(f, "frndint"),
        UnaryOp::F2xm1 => on_one!(f, "f2xm1"),
        UnaryOp::Sin => on_one!(f, "fsin"),
        UnaryOp::Cos => on_one!(f, "fcos"),
    }
    frame.outcome()
}

/// Operations with two results. See [`Pair`].
#[must_use]
pub fn pair(op: PairOp, cw: u16, a: F80) -> Pair {
    let mut frame = Frame::new(cw, a, 0);
    let f = &mut frame;
    match op {
        PairOp::Sincos => {
            on_host!(f; "fld tbyte ptr [{f}]", "fsincos" => "fstp tbyte ptr [{f} + 32]", "fstp tbyte ptr [{f} + 48]");
        }
        PairOp::Ptan => {
            on_host!(f; "fld tbyte ptr [{f}]", "fptan" => "fstp tbyte ptr [{f} + 32]", "fstp tbyte ptr [{f} + 48]");
        }
        PairOp::Xtract => {
            on_host!(f; "fld tbyte ptr [{f}]", "fxtract" => "fstp tbyte ptr [{f} + 32]", "fstp tbyte ptr [{f} + 48]");
        }
    }
    // One value was pushed onto the empty stack: TOP 7. Two: TOP 6.
    let (top, second) = (F80::from_bits(frame.result), F80::from_bits(frame.second));
    if (frame.sw & sw::TOP) >> sw::TOP_SHIFT == 6 {
        Pair { replaced: second, pushed: Some(top), sw: frame.status() }
    } else {
        Pair { replaced: top, pushed: None, sw: frame.status() }
    }
}

/// Compares `a` with `b`: status bits, with the outcome in C3, C2 and C0.
#[must_use]
pub fn compare(op: CompareOp, cw: u16, a: F80, b: Operand) -> u16 {
    let mut frame = Frame::new(cw, a, b.bits());
    let f = &mut frame;
    match (op, b) {
        (CompareOp::Ordered, Operand::Reg(_)) => on_two!(f, "fcom st(1)"),
        (CompareOp::Ordered, Operand::F32(_)) => on_one!(f, "fcom dword ptr [{f} + 16]"),
        (CompareOp::Ordered, Operand::F64(_)) => on_one!(f, "fcom qword ptr [{f} + 16]"),
        (CompareOp::Unordered, Operand::Reg(_)) => on_two!(f, "fucom st(1)"),
        (CompareOp::Unordered, Operand::F32(_) | Operand::F64(_)) => {
            // No such instruction; a load, then the comparison.
            let (loaded, status) =
                if let Operand::F64(value) = b { load_f64(cw, value) } else { load_f32(cw, b.bits() as u32) };
            f.b = loaded.to_bits();
            on_two!(f, "fucom st(1)");
            f.sw |= status;
        }
    }
    frame.status()
}

/// Compares `a` with `b` into EFLAGS (`fcomi`, `fucomi`): (ZF, PF and CF at their places in EFLAGS, status bits).
#[must_use]
pub fn compare_flags(op: CompareOp, cw: u16, a: F80, b: F80) -> (u32, u16) {
    let mut frame = Frame::new(cw, a, b.to_bits());
    let f = &mut frame;
    match op {
        CompareOp::Ordered => {
            on_host!(f; "fld tbyte ptr [{f} + 16]", "fld tbyte ptr [{f}]", "fcomi st, st(1)", "lahf",
                "mov byte ptr [{f} + 70], ah" =>);
        }
        CompareOp::Unordered => {
            on_host!(f; "fld tbyte ptr [{f} + 16]", "fld tbyte ptr [{f}]", "fucomi st, st(1)", "lahf",
                "mov byte ptr [{f} + 70], ah" =>);
        }
    }
    (u32::from(frame.ah & 0x45), frame.status())
}

/// Class of a register that is not empty (`fxam`): C3, C2, C0 the class, C1 the sign.
#[must_use]
pub fn examine(a: F80) -> u16 {
    let mut frame = Frame::new(super::CW_RESET, a, 0);
    let f = &mut frame;
    on_one!(f, "fxam");
    frame.status() & sw::CONDITIONS
}

/// The constant, rounded as the control word says.
#[must_use]
pub fn constant(which: Constant, cw: u16) -> F80 {
    let mut frame = Frame::new(cw, F80::default(), 0);
    let f = &mut frame;
    match which {
        Constant::Zero => on_none!(f, "fldz"),
        Constant::One => on_none!(f, "fld1"),
        Constant::Pi => on_none!(f, "fldpi"),
        Constant::L2t => on_none!(f, "fldl2t"),
        Constant::L2e => on_none!(f, "fldl2e"),
        Constant::Lg2 => on_none!(f, "fldlg2"),
        Constant::Ln2 => on_none!(f, "fldln2"),
    }
    F80::from_bits(frame.result)
}

/// `fld m32`: (value, status). With an unmasked exception among the status nothing is pushed.
#[must_use]
pub fn load_f32(cw: u16, value: u32) -> (F80, u16) {
    let mut frame = Frame::new(cw, F80::default(), value.into());
    let f = &mut frame;
    on_none!(f, "fld dword ptr [{f} + 16]");
    frame.outcome()
}

/// `fld m64`: (value, status). With an unmasked exception among the status nothing is pushed.
#[must_use]
pub fn load_f64(cw: u16, value: u64) -> (F80, u16) {
    let mut frame = Frame::new(cw, F80::default(), value.into());
    let f = &mut frame;
    on_none!(f, "fld qword ptr [{f} + 16]");
    frame.outcome()
}

/// `fild`: an integer of any width, sign-extended; exact and without exceptions.
#[must_use]
pub fn load_i64(value: i64) -> F80 {
    let mut frame = Frame::new(super::CW_RESET, F80::default(), value.cast_unsigned().into());
    let f = &mut frame;
    on_none!(f, "fild qword ptr [{f} + 16]");
    F80::from_bits(frame.result)
}

/// `fbld`: a packed decimal of 18 digits and a sign; invalid digits give the hardware's (undefined) result.
#[must_use]
pub fn load_bcd(value: [u8; 10]) -> F80 {
    let mut frame = Frame::new(super::CW_RESET, F80::default(), F80::from_bytes(value).to_bits());
    let f = &mut frame;
    on_none!(f, "fbld tbyte ptr [{f} + 16]");
    F80::from_bits(frame.result)
}

/// `fst m32`: (value, status). Memory is not written and nothing is popped when invalid, overflow or underflow is raised
/// unmasked.
#[must_use]
pub fn store_f32(cw: u16, a: F80) -> (u32, u16) {
    let mut frame = Frame::new(cw, a, 0);
    let f = &mut frame;
    store!(f, "fst dword ptr [{f} + 32]");
    (frame.result as u32, frame.status())
}

/// `fst m64`: (value, status), as [`store_f32`].
#[must_use]
pub fn store_f64(cw: u16, a: F80) -> (u64, u16) {
    let mut frame = Frame::new(cw, a, 0);
    let f = &mut frame;
    store!(f, "fst qword ptr [{f} + 32]");
    (frame.result as u64, frame.status())
}

/// `fist`, `fistp` and, with `truncate`, `fisttp`: (value zero-extended from `width`, status). Memory is not written and
/// nothing is popped when invalid is raised unmasked.
#[must_use]
pub fn store_int(cw: u16, a: F80, width: IntWidth, truncate: bool) -> (u64, u16) {
    let mut frame = Frame::new(cw, a, 0);
    let f = &mut frame;
    match (width, truncate) {
        (IntWidth::W16, false) => store!(f, "fistp word ptr [{f} + 32]"),
        (IntWidth::W32, false) => store!(f, "fistp dword ptr [{f} + 32]"),
        (IntWidth::W64, false) => store!(f, "fistp qword ptr [{f} + 32]"),
        (IntWidth::W16, true) => store!(f, "fisttp word ptr [{f} + 32]"),
        (IntWidth::W32, true) => store!(f, "fisttp dword ptr [{f} + 32]"),
        (IntWidth::W64, true) => store!(f, "fisttp qword ptr [{f} + 32]"),
    }
    (frame.result as u64, frame.status())
}

/// `fbstp`: (packed decimal, status). Memory is not written and nothing is popped when invalid is raised unmasked.
#[must_use]
pub fn store_bcd(cw: u16, a: F80) -> ([u8; 10], u16) {
    let mut frame = Frame::new(cw, a, 0);
    let f = &mut frame;
    store!(f, "fbstp tbyte ptr [{f} + 32]");
    (F80::from_bits(frame.result).to_bytes(), frame.status())
}
