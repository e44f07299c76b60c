//! The oracle is the host's instruction with the guest's exceptions really unmasked: a SIGFPE handler notes the trap and
//! steps over the instruction, and MXCSR shows the flags that hardware raised.
#![expect(unsafe_code, reason = "the oracle lets the host trap, and steps over the instruction in a signal handler")]

use super::{FpOp, eval, exec, mxcsr, traps};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::cell::Cell;

thread_local! {
    static TRAPPED: Cell<bool> = const { Cell::new(false) };
}

/// Length of a register-to-register SSE instruction at `code`.
///
/// # Safety
/// `code` points to such an instruction.
unsafe fn length(code: *const u8) -> usize {
    // SAFETY: the bytes belong to one instruction that the processor has just decoded.
    let at = |i: usize| unsafe { *code.add(i) };
    let mut i = 0;
    while matches!(at(i), 0x66 | 0xf2 | 0xf3 | 0x40..=0x4f) {
        i += 1;
    }
    assert_eq!(at(i), 0x0f);
    match at(i + 1) {
        0x3a => i + 5,
        0x38 => i + 4,
        0xc2 => i + 4,
        _ => i + 3,
    }
}

extern "C" fn on_sigfpe(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a ucontext_t, and RIP points to the instruction that trapped.
    unsafe {
        let rip = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize];
        *rip += length(*rip as *const u8) as i64;
    }
    TRAPPED.with(|t| t.set(true));
}

fn install_handler() {
    // SAFETY: the handler only touches a thread-local without a destructor and the saved context.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigfpe as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGFPE, &action, std::ptr::null_mut()), 0);
    }
}

/// The host's own verdict: (result, flags, whether it trapped).
fn hardware(op: FpOp, a: u128, b: u128, imm: u8, guest: u32) -> (u128, u32, bool) {
    let mut frame = exec::Frame { a, b, guest: guest & !mxcsr::FLAGS, host: 0 };
    TRAPPED.with(|t| t.set(false));
    exec::dispatch(op, imm, &mut frame);
    (frame.a, frame.guest & mxcsr::FLAGS, TRAPPED.with(Cell::get))
}

const SPECIAL32: [u32; 24] = [
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x0040_0000,
    0x0080_0000,
    0x0080_0001,
    0x8080_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x3f00_0000,
    0x4f00_0000,
    0xcf00_0000,
    0x5f00_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f00_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_1234,
    0x7f80_0001,
    0xffa5_5555,
];

const SPECIAL64: [u64; 24] = [
    0,
    1 << 63,
    1,
    1 << 63 | 1,
    0x000f_ffff_ffff_ffff,
    0x0008_0000_0000_0000,
    0x0010_0000_0000_0000,
    0x0010_0000_0000_0001,
    0x8010_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x3ff0_0000_0000_0001,
    0x36a0_0000_0000_0000,
    0x3810_0000_0000_0000,
    0x380f_ffff_ffff_ffff,
    0x43e0_0000_0000_0000,
    0xc3e0_0000_0000_0000,
    0x41e0_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x47ef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_1234,
    0x7ff0_0000_0000_0001,
];

/// Lanes of both widths, special or random with an exponent near the middle or anywhere.
fn operand(rng: &mut SmallRng) -> u128 {
    let lane32 = |rng: &mut SmallRng| match rng.random_range(0..4) {
        0 | 1 => SPECIAL32[rng.random_range(0..24)],
        2 => rng.random(),
        _ => rng.random::<u32>() & 0x83ff_ffff | 0x3c00_0000,
    };
    if rng.random() {
        (0..4).fold(0, |v, _| v << 32 | u128::from(lane32(rng)))
    } else {
        (0..2).fold(0, |v, _| {
            let lane = match rng.random_range(0..4) {
                0 | 1 => SPECIAL64[rng.random_range(0..24)],
                2 => rng.random(),
                _ => rng.random::<u64>() & 0x83ff_ffff_ffff_ffff | 0x3c00_0000_0000_0000,
            };
            v << 64 | u128::from(lane)
        })
    }
}

/// Whether the operation as passed to `dispatch` is the instruction itself, without work before or after it.
fn is_direct(op: FpOp) -> bool {
    !matches!(
        op,
        FpOp::RoundPs
            | FpOp::RoundPd
            | FpOp::RoundSs
            | FpOp::RoundSd
            | FpOp::DpPs
            | FpOp::DpPd
            | FpOp::ComiSs
            | FpOp::ComiSd
            | FpOp::UcomiSs
            | FpOp::UcomiSd
            | FpOp::CvtPi2Ps
            | FpOp::CvtPs2Pi
            | FpOp::CvttPs2Pi
            | FpOp::CvtPd2Pi
            | FpOp::CvttPd2Pi
    )
}

#[test]
fn every_op_agrees_with_hardware_masked_or_not() {
    install_handler();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut trapped = 0;
    let mut bad = std::collections::BTreeMap::<String, (u32, String)>::new();
    // Those of AVX, F16C and FMA are portable code: `fused` has its own test, and whole instructions are compared elsewhere.
    for &op in FpOp::ALL.iter().filter(|op| (**op as u8) < FpOp::VcmpPs as u8) {
        for _ in 0..6000 {
            let (mut a, mut b) = (operand(&mut rng), operand(&mut rng));
            let imm: u8 = rng.random();
            let mut guest = rng.random::<u32>() & mxcsr::WRITABLE;
            if rng.random_range(0..4) == 0 {
                guest |= mxcsr::MASKS;
            }
            let (value, flags) = eval(op, a, b, imm, guest);
            let mut hardware_guest = guest;
            match op {
                FpOp::RoundPs | FpOp::RoundPd | FpOp::RoundSs | FpOp::RoundSd => {
                    if imm & 4 == 0 {
                        hardware_guest = guest & !mxcsr::RC | u32::from(imm & 3) << mxcsr::RC_SHIFT;
                    }
                    if imm & 8 != 0 {
                        hardware_guest |= mxcsr::PE << mxcsr::MASK_SHIFT;
                    }
                }
                FpOp::DpPs | FpOp::DpPd => {
                    (a, b) = (a & exec::dp_lanes(op, imm >> 4), b & exec::dp_lanes(op, imm >> 4));
                }
                FpOp::CvtPi2Ps | FpOp::CvtPs2Pi | FpOp::CvttPs2Pi => b &= u128::from(u64::MAX),
                _ => {}
            }
            let (want, mut want_flags, trap) = hardware(op, a, b, imm, hardware_guest);
            if matches!(op, FpOp::RoundPs | FpOp::RoundPd | FpOp::RoundSs | FpOp::RoundSd) && imm & 8 != 0 {
                want_flags &= !mxcsr::PE;
            }
            trapped += u32::from(trap);
            let same = flags == want_flags && traps(flags, guest) == trap;
            let same_value = trap || !is_direct(op) || value == want;
            if !same || !same_value {
                let entry = bad.entry(format!("{op:?}")).or_default();
                entry.0 += 1;
                entry.1 = format!(
                    "a {a:032x} b {b:032x} imm {imm:02x} mxcsr {guest:04x}: {value:032x} {flags:02x} want {want:032x} {want_flags:02x} trap {trap}"
                );
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(trapped > 10_000, "only {trapped} traps: the oracle does not trap");
}

/// Compares [`eval`] with the instruction itself, encoded with each of the given immediates.
macro_rules! with_immediates {
    ($rng:expr, $op:expr, $mnemonic:literal, [$($imm:literal)*]) => {
        for _ in 0..2000 {
            let (a, b) = (operand($rng), operand($rng));
            let guest = $rng.random::<u32>() & (mxcsr::DAZ | mxcsr::RC | mxcsr::FTZ) | mxcsr::MASKS;
            // A partly masked guest takes another path to the same values.
            let unmasked = guest & !(mxcsr::DE << mxcsr::MASK_SHIFT);
            $({
                let mut frame = exec::Frame { a, b, guest, host: 0 };
                exec::on_host!(&mut frame, concat!($mnemonic, " xmm0, xmm1, ", $imm););
                let want = (frame.a, frame.guest & mxcsr::FLAGS);
                assert_eq!(eval($op, a, b, $imm, guest), want, "{} {:#x} {a:032x} {b:032x} {guest:x}", $mnemonic, $imm);
                if want.1 & mxcsr::DE == 0 {
                    assert_eq!(eval($op, a, b, $imm, unmasked), want, "{} {:#x} {a:032x} {b:032x}", $mnemonic, $imm);
                }
            })*
        }
    };
}

#[test]
fn immediates_agree_with_hardware() {
    let rng = &mut SmallRng::seed_from_u64(2);
    with_immediates!(rng, FpOp::DpPs, "dpps", [0x00 0x0f 0xf0 0xff 0xf1 0x71 0x3f 0x5a 0x96 0x18 0x84]);
    with_immediates!(rng, FpOp::DpPd, "dppd", [0x00 0x0f 0xf0 0xff 0x31 0x32 0x13 0x23 0xcc 0x11]);
    with_immediates!(rng, FpOp::RoundPs, "roundps", [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
    with_immediates!(rng, FpOp::RoundPd, "roundpd", [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
    with_immediates!(rng, FpOp::RoundSs, "roundss", [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 0xf4]);
    with_immediates!(rng, FpOp::RoundSd, "roundsd", [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 0x38]);
    with_immediates!(rng, FpOp::CmpPs, "cmpps", [0 1 2 3 4 5 6 7]);
    with_immediates!(rng, FpOp::CmpSd, "cmpsd", [0 1 2 3 4 5 6 7]);
}

#[test]
fn compare_to_flags() {
    let bits = |x: f64| u128::from(x.to_bits());
    let compare = |op, a, b| eval(op, a, b, 0, mxcsr::RESET);
    assert_eq!(compare(FpOp::ComiSd, bits(1.0), bits(2.0)), (0x01, 0));
    assert_eq!(compare(FpOp::ComiSd, bits(2.0), bits(1.0)), (0x00, 0));
    assert_eq!(compare(FpOp::ComiSd, bits(2.0), bits(2.0)), (0x40, 0));
    assert_eq!(compare(FpOp::ComiSd, bits(f64::NAN), bits(2.0)), (0x45, mxcsr::IE));
    assert_eq!(compare(FpOp::UcomiSd, bits(f64::NAN), bits(2.0)), (0x45, 0));
}

#[test]
fn mmx_conversions_use_the_low_half_and_keep_the_upper() {
    let a = 0x1111_2222_3333_4444_5555_6666_7777_8888;
    // The upper half of an MMX operand does not exist, whatever it holds.
    let (value, flags) = eval(FpOp::CvtPi2Ps, a, 0xffff_ffff_0123_4567_0000_0002_ffff_ffff, 0, mxcsr::RESET);
    assert_eq!((value, flags), (0x1111_2222_3333_4444_4000_0000_bf80_0000, 0));
    let (value, flags) = eval(FpOp::CvtPs2Pi, a, 0x7fc0_0000_7fc0_0000_4000_0000_bf80_0000, 0, mxcsr::RESET);
    assert_eq!((value, flags), (0x0000_0002_ffff_ffff, 0));
    let (value, flags) = eval(FpOp::CvttPd2Pi, a, 0xbff8_0000_0000_0000_4004_0000_0000_0000, 0, mxcsr::RESET);
    assert_eq!((value, flags), (0xffff_ffff_0000_0002, mxcsr::PE));
}

#[test]
fn the_host_keeps_its_own_mxcsr() {
    let third = || std::hint::black_box(1.0_f32) / std::hint::black_box(3.0_f32);
    let before = third();
    // Round up: would change the quotient if it leaked.
    let _ = eval(FpOp::DivSs, 0, 0, 0, mxcsr::MASKS | 2 << mxcsr::RC_SHIFT);
    assert_eq!(third().to_bits(), before.to_bits());
}

/// The host's fused a × b + c (213 form: the first factor is the second source, which decides the order of NaNs), for the portable tests: (bits, flags).
pub(crate) fn host_fma(double: bool, a: u64, b: u64, c: u64, guest: u32) -> (u64, u32) {
    let mut frame = exec::Frame { a: a.into(), b: b.into(), guest: guest & !mxcsr::FLAGS, host: 0 };
    let third = c;
    let mut out: u64;
    // SAFETY: as in `exec::on_host`; the caller has checked that the host has FMA, and everything is masked.
    unsafe {
        std::arch::asm!(
            "stmxcsr [{f} + 36]",
            "ldmxcsr [{f} + 32]",
            "movdqa xmm0, [{f}]",
            "movdqa xmm1, [{f} + 16]",
            "movq xmm2, {c}",
            "test {d:e}, {d:e}",
            "jz 2f",
            "vfmadd213sd xmm1, xmm0, xmm2",
            "jmp 3f",
            "2:",
            "vfmadd213ss xmm1, xmm0, xmm2",
            "3:",
            "movq {c}, xmm1",
            "stmxcsr [{f} + 32]",
            "ldmxcsr [{f} + 36]",
            f = in(reg) &raw mut frame,
            c = inout(reg) third => out,
            d = in(reg) u32::from(double),
            out("xmm0") _, out("xmm1") _, out("xmm2") _,
            options(nostack),
        );
    }
    (if double { out } else { out & 0xffff_ffff }, frame.guest & mxcsr::FLAGS)
}
