//! Division, rotation through carry, decimal adjustment, CRC-32C.

use ir::Regs;

use super::{Ret, done};
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exception::{self, Exception};
use crate::flags;
use crate::state::{RAX, RDX, set_arithmetic};

fn low(v: u64, bits: u32) -> u64 {
    v & (u64::MAX >> (64 - bits))
}

fn signed(v: u64, bits: u32) -> i64 {
    (v << (64 - bits)) as i64 >> (64 - bits)
}

/// Write 16 bits of a register.
fn set16(regs: &mut Regs, s: ir::Slot, v: u64) {
    regs.set(s, regs.get(s) & !0xffff | v & 0xffff);
}

/// Store quotient and remainder of a division of 8 or 16 bits.
fn store(regs: &mut Regs, bits: u32, quotient: u64, remainder: u64) {
    if bits == 8 {
        return set16(regs, RAX, low(quotient, 8) | low(remainder, 8) << 8);
    }
    set16(regs, RAX, quotient);
    set16(regs, RDX, remainder);
}

/// The dividend: AX for bytes, else DX:AX.
fn dividend(regs: &Regs, bits: u32) -> u64 {
    let ax = low(regs.get(RAX), 16);
    if bits == 8 { ax } else { low(regs.get(RDX), 16) << 16 | ax }
}

pub(super) fn div<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, a: u64, _: u64, bits: u32) -> Ret {
    let (n, d) = (dividend(regs, bits), low(a, bits));
    match n.checked_div(d) {
        Some(q) if q == low(q, bits) => {
            store(regs, bits, q, n % d);
            done(0)
        }
        _ => cpu.fault(Exception::fault(exception::DE)),
    }
}

pub(super) fn idiv<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, a: u64, _: u64, bits: u32) -> Ret {
    let (n, d) = (signed(dividend(regs, bits), 2 * bits), signed(a, bits));
    match n.checked_div(d) {
        Some(q) if q == signed(q as u64, bits) => {
            store(regs, bits, q as u64, (n % d) as u64);
            done(0)
        }
        _ => cpu.fault(Exception::fault(exception::DE)),
    }
}

/// (value, CF) of rotating `bits` and the carry as one ring.
fn through_carry(value: u64, carry: bool, count: u64, imm: u32) -> (u64, bool) {
    let (bits, right) = (imm & 0xff, imm >> 8 != 0);
    let ring = bits + 1;
    let count = (count % u64::from(ring)) as u32;
    let v = u128::from(low(value, bits)) | u128::from(carry) << bits;
    let left = if right { (ring - count) % ring } else { count };
    let v = v << left | v >> (ring - left);
    (low(v as u64, bits), v >> bits & 1 != 0)
}

fn carry(regs: &Regs) -> bool {
    ir::flags::materialise(regs) & flags::CF != 0
}

pub(super) fn rotate_carry<B: Bus>(_: &mut Cpu<B>, regs: &mut Regs, a: u64, b: u64, imm: u32) -> Ret {
    done(through_carry(a, carry(regs), b, imm).0)
}

pub(super) fn rotate_carry_flags<B: Bus>(_: &mut Cpu<B>, regs: &mut Regs, a: u64, b: u64, imm: u32) -> Ret {
    let (bits, right) = (imm & 0xff, imm >> 8 != 0);
    // A masked count of zero changes no flag; one that is a multiple of the ring does not either.
    if b != 0 {
        let (r, cf) = through_carry(a, carry(regs), b, imm);
        let top = r >> (bits - 1) & 1;
        let of = if right { top ^ (r >> (bits - 2) & 1) } else { top ^ u64::from(cf) };
        let f = ir::flags::materialise(regs) & !(flags::CF | flags::OF);
        set_arithmetic(regs, f | u64::from(cf) | of << 11);
    }
    done(0)
}

/// CRC-32C, reflected, as SSE4.2 has it.
pub(super) fn crc32<B: Bus>(_: &mut Cpu<B>, _: &mut Regs, a: u64, b: u64, bits: u32) -> Ret {
    let mut crc = a as u32;
    for i in 0..bits / 8 {
        crc = crc >> 8 ^ CRC[((crc ^ (b >> (8 * i)) as u32) & 0xff) as usize];
    }
    done(u64::from(crc))
}

/// Remainders of one byte modulo the polynomial 1EDC6F41h, bit-reversed.
static CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut c = n as u32;
        let mut k = 0;
        while k < 8 {
            c = if c & 1 != 0 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 };
            k += 1;
        }
        table[n] = c;
        n += 1;
    }
    table
};

/// SF, ZF and PF of a byte.
fn byte_flags(v: u64) -> u64 {
    ir::flags::compute(ir::flags::Kind::X86Logic, 8, 0, 0, v)
}

pub(super) fn daa<B: Bus>(_: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, subtract: u32) -> Ret {
    let f = ir::flags::materialise(regs);
    let al = regs.get(RAX) & 0xff;
    let mut correction = 0;
    let mut out = 0;
    if al & 15 > 9 || f & flags::AF != 0 {
        correction = 6;
        out |= flags::AF;
        // DAS: a borrow out of the low correction carries too.
        if subtract != 0 && al < 6 {
            out |= flags::CF;
        }
    }
    if al > 0x99 || f & flags::CF != 0 {
        correction |= 0x60;
        out |= flags::CF;
    }
    let r = if subtract != 0 { al.wrapping_sub(correction) } else { al + correction } & 0xff;
    regs.set(RAX, regs.get(RAX) & !0xff | r);
    set_arithmetic(regs, out | byte_flags(r));
    done(0)
}

pub(super) fn aaa<B: Bus>(_: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, subtract: u32) -> Ret {
    let f = ir::flags::materialise(regs);
    let ax = regs.get(RAX) & 0xffff;
    let adjust = ax & 15 > 9 || f & flags::AF != 0;
    let r = match (adjust, subtract != 0) {
        (true, false) => ax + 0x106,
        (true, true) => ax.wrapping_sub(0x106),
        _ => ax,
    };
    set16(regs, RAX, r & 0xff0f);
    set_arithmetic(regs, if adjust { flags::AF | flags::CF } else { 0 } | byte_flags(r & 15));
    done(0)
}

pub(super) fn aam<B: Bus>(cpu: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, base: u32) -> Ret {
    let base = u64::from(base & 0xff);
    if base == 0 {
        return cpu.fault(Exception::fault(exception::DE));
    }
    let al = regs.get(RAX) & 0xff;
    set16(regs, RAX, ((al / base) << 8) | (al % base));
    set_arithmetic(regs, byte_flags(al % base));
    done(0)
}

pub(super) fn aad<B: Bus>(_: &mut Cpu<B>, regs: &mut Regs, _: u64, _: u64, base: u32) -> Ret {
    let ax = regs.get(RAX);
    let tens = (ax >> 8 & 0xff) * u64::from(base & 0xff);
    let al = ((ax & 0xff) + tens) & 0xff;
    set16(regs, RAX, al);
    // CF, AF and OF are undefined; processors give those of the addition.
    set_arithmetic(regs, ir::flags::compute(ir::flags::Kind::X86Add, 8, ax, tens, al));
    done(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_through_carry_is_a_ring() {
        // 8 bits right by 1: the carry enters at the top.
        assert_eq!(through_carry(0x01, false, 1, 8 | 1 << 8), (0x00, true));
        assert_eq!(through_carry(0x80, true, 1, 8), (0x01, true));
        for bits in [8u32, 16, 32, 64] {
            for n in 0..=u64::from(bits) {
                let (v, c) = through_carry(0x9234_5678_9abc_def1, true, n, bits);
                let back = through_carry(v, c, n, bits | 1 << 8);
                assert_eq!(back, (low(0x9234_5678_9abc_def1, bits), true), "{bits} by {n}");
            }
        }
    }

    #[test]
    fn crc_of_the_standard_check_string() {
        let mut crc = u32::MAX;
        for b in b"123456789" {
            crc = crc >> 8 ^ CRC[((crc ^ u32::from(*b)) & 0xff) as usize];
        }
        assert_eq!(!crc, 0xe306_9283);
    }
}
