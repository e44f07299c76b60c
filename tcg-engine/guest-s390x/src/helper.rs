//! What lifted code calls: work that no operation of the IR does, over any [`Env`].

use ir::{BulkOp, BulkRef, Env, MemRef, Regs, Slot, Stop};

use crate::{Mode, PSW, ar, float, program, r, stop};

/// Numbers of helpers.
pub mod id {
    /// Quotient of signed `a` by `b`, which must fit `imm` bits; else a fixed-point-divide exception.
    pub const DIVIDE_SIGNED: u16 = 0;
    /// Quotient of unsigned `a` by `b`, which must fit `imm` bits.
    pub const DIVIDE_LOGICAL: u16 = 1;
    /// Quotient of `a` : general register `imm`, unsigned, by `b`.
    pub const DIVIDE_128: u16 = 2;
    /// Whether a byte of the `b` bytes at `a` is not zero.
    pub const ANY_BYTE: u16 = 3;
    /// TRANSLATE.
    pub const TRANSLATE: u16 = 4;
    /// MOVE INVERSE.
    pub const COPY_INVERSE: u16 = 5;
    /// MOVE WITH KEY; 1 if more than 256 bytes were asked for.
    pub const COPY_WITH_KEY: u16 = 6;
    /// Access register `imm` becomes `a`. An environment that resolves [`crate::space::BY_REGISTER`] looks on.
    pub const SET_ACCESS: u16 = 7;
    /// Binary floating point on second operand `a` and third operand `b`; `imm` says what.
    pub const FLOAT: u16 = 8;
    /// The floating-point control register becomes `a`, if that is valid.
    pub const SET_FPC: u16 = 9;
}

/// Immediate of the storage helpers: base registers, which select address spaces, and a byte.
pub(crate) fn by_bases(b1: u32, b2: u32, low: u32) -> u32 {
    low & 0xff | b1 << 8 | b2 << 12
}

/// Run helper `id` with `env`; `None` for an unknown one. Rules of [`Env::call`].
pub fn call<E: Env>(env: &mut E, regs: &mut Regs, id: u16, a: u64, b: u64, imm: u32) -> Option<Result<u64, Stop>> {
    Some(match id {
        id::DIVIDE_SIGNED => quotient(env, signed(a, b, imm)),
        id::DIVIDE_LOGICAL => {
            let fits = |q: &u64| imm >= 64 || q >> imm == 0;
            quotient(env, a.checked_div(b).filter(fits))
        }
        id::DIVIDE_128 => {
            let dividend = u128::from(a) << 64 | u128::from(regs.get(r(imm & 15)));
            quotient(env, dividend.checked_div(u128::from(b)).and_then(|q| u64::try_from(q).ok()))
        }
        id::ANY_BYTE => any_byte(env, &Operands::of(regs, imm), a, b),
        id::TRANSLATE => translate(env, &Operands::of(regs, imm), a, b),
        id::COPY_INVERSE => copy_inverse(env, &Operands::of(regs, imm), a, b),
        id::COPY_WITH_KEY => copy_with_key(env, regs, imm, a, b),
        id::SET_ACCESS => {
            regs.set(ar(imm & 15), a);
            Ok(0)
        }
        id::FLOAT => float::execute(env, regs, a, b, imm),
        id::SET_FPC => float::set_control(env, regs, a),
        _ => return None,
    })
}

fn quotient<E: Env>(env: &mut E, q: Option<u64>) -> Result<u64, Stop> {
    q.ok_or_else(|| stop(env, program::FIXED_DIVIDE, 0))
}

fn signed(a: u64, b: u64, bits: u32) -> Option<u64> {
    let q = a.cast_signed().checked_div(b.cast_signed())?;
    let up = 64 - bits.clamp(1, 64);
    ((q << up) >> up == q).then_some(q.cast_unsigned())
}

/// The storage operands of a helper, as the current PSW reaches them.
struct Operands {
    first: MemRef,
    second: MemRef,
    len: u64,
    mask: u64,
}

impl Operands {
    fn of(regs: &Regs, imm: u32) -> Operands {
        let mode = Mode::of(regs.get(PSW));
        let by = |base: u32| MemRef {
            space: mode.space_of(base & 15),
            key: mode.access_key(),
            wrap: mode.addressing.wrap(),
            ..MemRef::new(0)
        };
        Operands {
            first: by(imm >> 8),
            second: by(imm >> 12),
            len: u64::from(imm & 0xff) + 1,
            mask: mode.addressing.mask(),
        }
    }

    fn at(&self, address: u64, offset: u64) -> u64 {
        address.wrapping_add(offset) & self.mask
    }

    /// Store `bytes` to the first operand, which has been checked.
    fn store<E: Env>(&self, env: &mut E, dst: u64, bytes: &[u8]) -> Result<u64, Stop> {
        let mut last = Ok(0);
        for (i, byte) in bytes.iter().enumerate() {
            // FinishInstruction is not a failure: all bytes are stored, and the last word on it is handed on.
            match env.store(self.at(dst, i as u64), self.first, u64::from(*byte)) {
                Ok(()) => {}
                Err(Stop::FinishInstruction) => last = Err(Stop::FinishInstruction),
                Err(s) => return Err(s),
            }
        }
        last
    }

    /// Fetch the first operand, checking the right to store it.
    fn fetch_first<E: Env>(&self, env: &mut E, dst: u64) -> Result<Vec<u8>, Stop> {
        let m = MemRef { write_intent: true, ..self.first };
        (0..self.len).map(|i| env.load(self.at(dst, i), m).map(|v| v as u8)).collect()
    }
}

fn any_byte<E: Env>(env: &mut E, o: &Operands, at: u64, len: u64) -> Result<u64, Stop> {
    for i in 0..len.min(256) {
        if env.load(o.at(at, i), o.first)? != 0 {
            return Ok(1);
        }
    }
    Ok(0)
}

/// Each byte of the first operand selects one of the second. All are fetched before the first is stored, so that a fault
/// leaves the operand unchanged; only table entries that are selected are accessed. A table that the operand overlaps
/// shows the change of earlier bytes to later ones, as byte-by-byte processing must.
fn translate<E: Env>(env: &mut E, o: &Operands, dst: u64, table: u64) -> Result<u64, Stop> {
    let mut bytes = o.fetch_first(env, dst)?;
    for i in 0..bytes.len() {
        let entry = o.at(table, u64::from(bytes[i]));
        let done = entry.wrapping_sub(dst) & o.mask;
        bytes[i] = if (done as usize) < i && o.first.space == o.second.space {
            bytes[done as usize]
        } else {
            env.load(entry, o.second)? as u8
        };
    }
    o.store(env, dst, &bytes)
}

/// The second operand runs from right to left from its address.
fn copy_inverse<E: Env>(env: &mut E, o: &Operands, dst: u64, src: u64) -> Result<u64, Stop> {
    o.fetch_first(env, dst)?;
    let bytes: Result<Vec<u8>, Stop> =
        (0..o.len).map(|i| env.load(src.wrapping_sub(i) & o.mask, o.second).map(|v| v as u8)).collect();
    o.store(env, dst, &bytes?)
}

fn copy_with_key<E: Env>(env: &mut E, regs: &Regs, imm: u32, dst: u64, src: u64) -> Result<u64, Stop> {
    let o = Operands::of(regs, imm);
    let length = regs.get(r(imm & 15));
    let length = if o.mask == u64::MAX { length } else { length & 0xffff_ffff };
    let key = (regs.get(r(imm >> 4 & 15)) >> 4) as u8 & 15;
    let how = BulkRef {
        whole: true,
        dst_space: o.first.space,
        src_space: o.second.space,
        dst_key: o.first.key,
        src_key: if key == 0 { 0 } else { key + 1 },
        wrap: o.first.wrap,
        ..BulkRef::new(Slot(0))
    };
    if length > 0 {
        env.bulk(BulkOp::Copy, dst, src, length.min(256), how)?;
    }
    Ok(u64::from(length > 256))
}
