//! [`ir::Env`] for the vCPU: the hit paths here, everything else out of line.

use ir::{AtomicOp, BulkOp, BulkRef, Env, MemRef, Regs, Stop, Then};

use super::Right;
use super::access::Target;
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exception::{self, Exception};

#[inline(always)]
fn extend(v: u64, m: MemRef) -> u64 {
    if !m.signed {
        return v;
    }
    match m.log2 {
        0 => v as i8 as u64,
        1 => v as i16 as u64,
        2 => v as i32 as u64,
        _ => v,
    }
}

fn finish(then: Then) -> Result<(), Stop> {
    match then {
        Then::Continue => Ok(()),
        Then::FinishInstruction => Err(Stop::FinishInstruction),
    }
}

impl<B: Bus> Cpu<B> {
    /// A load that missed, or has rules of its own. Not extended.
    #[cold]
    #[inline(never)]
    pub(super) fn load_slow(&mut self, addr: u64, m: MemRef) -> Result<u64, Stop> {
        let right = if m.write_intent { Right::Write } else { Right::Read };
        let va = self.linear(addr, m, m.bytes(), right)?;
        self.read_linear(va, m.bytes(), right)
    }

    /// A store that missed.
    #[cold]
    #[inline(never)]
    pub(super) fn store_slow(&mut self, addr: u64, m: MemRef, value: u64) -> Result<Then, Stop> {
        let va = self.linear(addr, m, m.bytes(), Right::Write)?;
        self.write_linear(va, m.bytes(), value)
    }

    #[cold]
    #[inline(never)]
    fn load128_slow(&mut self, addr: u64, m: MemRef) -> Result<u128, Stop> {
        let right = if m.write_intent { Right::Write } else { Right::Read };
        let va = self.linear(addr, m, 16, right)?;
        self.probe(va, 16, right)?;
        let low = self.read_linear(va, 8, right)?;
        let high = self.read_linear(self.fold(va.wrapping_add(8)), 8, right)?;
        Ok(u128::from(low) | u128::from(high) << 64)
    }

    #[cold]
    #[inline(never)]
    fn store128_slow(&mut self, addr: u64, m: MemRef, value: u128) -> Result<Then, Stop> {
        let va = self.linear(addr, m, 16, Right::Write)?;
        self.probe(va, 16, Right::Write)?;
        let a = self.write_linear(va, 8, value as u64)?;
        let b = self.write_linear(self.fold(va.wrapping_add(8)), 8, (value >> 64) as u64)?;
        Ok(if a == Then::FinishInstruction { a } else { b })
    }

    /// Where an atomic operation takes place, if that is RAM, within a line of the host's caches: a locked operation across two
    /// stops all of the host, and some hosts end a process for it.
    fn atomic_place(&mut self, addr: u64, m: MemRef) -> Result<Result<u64, u64>, Stop> {
        let whole = |va: u64| va % LINE <= LINE - m.bytes();
        if m.space == super::FLAT
            && whole(addr)
            && let Some(at) = self.tlb.write(addr, m.bytes())
        {
            return Ok(Ok(at));
        }
        let va = self.linear(addr, m, m.bytes(), Right::Write)?;
        if whole(va)
            && let Target::Ram(at) = self.find(va, Right::Write)?
        {
            return Ok(Ok(at));
        }
        Ok(Err(va))
    }

    /// Run `f` on RAM, or do with a load and a store where there is none or where the access straddles lines, while no other vCPU
    /// does anything.
    fn atomic_with(
        &mut self,
        addr: u64,
        m: MemRef,
        f: impl Fn(&guest_memory::Ram, u64) -> Option<u64>,
        next: impl Fn(u64) -> u64,
    ) -> Result<(u64, Then), Stop> {
        match self.atomic_place(addr, m)? {
            Ok(at) => {
                let old = f(&self.mem.ram, at).unwrap_or(u64::MAX);
                Ok((old, self.stored(at, m.bytes())))
            }
            Err(va) => {
                self.bus.alone(true);
                self.take_orders();
                let done = self.read_linear(va, m.bytes(), Right::Write).and_then(|old| {
                    let then = self.write_linear(va, m.bytes(), next(old))?;
                    Ok((old, then))
                });
                self.bus.alone(false);
                done
            }
        }
    }
}

/// Bytes of a line of the host's caches.
const LINE: u64 = 64;

/// A word of any width as 64 bits.
fn wide<T: Into<u64>>(v: T) -> u64 {
    v.into()
}

macro_rules! by_size {
    ($m:expr, $t:ident => $e:expr) => {
        match $m.log2 {
            0 => {
                type $t = u8;
                $e
            }
            1 => {
                type $t = u16;
                $e
            }
            2 => {
                type $t = u32;
                $e
            }
            _ => {
                type $t = u64;
                $e
            }
        }
    };
}

impl<B: Bus> Env for Cpu<B> {
    #[inline(always)]
    fn load(&mut self, addr: u64, m: MemRef) -> Result<u64, Stop> {
        if m.space == super::FLAT
            && !m.write_intent
            && let Some(at) = self.tlb.read(addr, m.bytes())
        {
            let ram = &self.mem.ram;
            let v = match m.log2 {
                0 => ram.load_u8(at).map(u64::from),
                1 => ram.load_u16(at).map(u64::from),
                2 => ram.load_u32(at).map(u64::from),
                _ => ram.load_u64(at),
            };
            if let Some(v) = v {
                return Ok(extend(v, m));
            }
        }
        Ok(extend(self.load_slow(addr, m)?, m))
    }

    #[inline(always)]
    fn store(&mut self, addr: u64, m: MemRef, value: u64) -> Result<(), Stop> {
        if m.space == super::FLAT
            && let Some(at) = self.tlb.write(addr, m.bytes())
        {
            let ram = &self.mem.ram;
            let done = match m.log2 {
                0 => ram.store_u8(at, value as u8),
                1 => ram.store_u16(at, value as u16),
                2 => ram.store_u32(at, value as u32),
                _ => ram.store_u64(at, value),
            };
            if done.is_some() {
                return Ok(());
            }
        }
        finish(self.store_slow(addr, m, value)?)
    }

    #[inline(always)]
    fn load128(&mut self, addr: u64, m: MemRef) -> Result<u128, Stop> {
        if m.space == super::FLAT
            && !m.write_intent
            && !(m.aligned && addr & m.low_bits() != 0)
            && let Some(at) = self.tlb.read(addr, 16)
            && let Some(v) = self.mem.ram.load_u128(at)
        {
            return Ok(v);
        }
        self.load128_slow(addr, m)
    }

    #[inline(always)]
    fn store128(&mut self, addr: u64, m: MemRef, value: u128) -> Result<(), Stop> {
        if m.space == super::FLAT
            && !(m.aligned && addr & m.low_bits() != 0)
            && let Some(at) = self.tlb.write(addr, 16)
            && self.mem.ram.store_u128(at, value).is_some()
        {
            return Ok(());
        }
        finish(self.store128_slow(addr, m, value)?)
    }

    fn atomic(&mut self, addr: u64, m: MemRef, op: AtomicOp, operand: u64) -> Result<(u64, Then), Stop> {
        let bits = 8 * m.bytes() as u32;
        let next = |old| ir::t0::atomic_result(op, bits, old, operand);
        self.atomic_with(
            addr,
            m,
            |ram, at| {
                by_size!(m, T => match op {
                    AtomicOp::Add => ram.fetch_add(at, operand as T),
                    AtomicOp::Swap => ram.swap(at, operand as T),
                    _ => ram.fetch_update(at, |old: T| next(wide(old)) as T),
                }
                .map(wide))
            },
            next,
        )
    }

    fn cas(&mut self, addr: u64, m: MemRef, expected: u64, new: u64) -> Result<(u64, Then), Stop> {
        let mask = u64::MAX >> (64 - 8 * m.bytes());
        self.atomic_with(
            addr,
            m,
            |ram, at| by_size!(m, T => ram.compare_exchange(at, expected as T, new as T).map(wide)),
            // The destination is written even if the comparison fails.
            |old| if old == expected & mask { new } else { old },
        )
    }

    fn cas128(&mut self, addr: u64, m: MemRef, expected: u128, new: u128) -> Result<(u128, Then), Stop> {
        // CMPXCHG16B must be aligned, so it never straddles.
        let m = MemRef { aligned: true, ..m };
        let va = self.linear(addr, m, 16, Right::Write)?;
        match self.find(va, Right::Write)? {
            Target::Ram(at) => {
                let old = self.mem.ram.compare_exchange_u128(at, expected, new).unwrap_or(u128::MAX);
                Ok((old, self.stored(at, 16)))
            }
            _ => {
                let old = self.load128_slow(addr, m)?;
                let then = self.store128_slow(addr, m, if old == expected { new } else { old })?;
                Ok((old, then))
            }
        }
    }

    fn load_exclusive(&mut self, addr: u64, m: MemRef) -> Result<u64, Stop> {
        // x86 has no monitors; the lifter makes none of these.
        self.load(addr, m)
    }

    fn store_exclusive(&mut self, addr: u64, m: MemRef, value: u64) -> Result<(bool, Then), Stop> {
        let then = self.store_slow(addr, m, value)?;
        Ok((true, then))
    }

    fn clear_exclusive(&mut self) {}

    fn bulk(&mut self, op: BulkOp, dst: u64, src: u64, len: u64, r: BulkRef) -> Result<(u64, Then), Stop> {
        self.bulk_op(op, dst, src, len, r)
    }

    #[inline]
    fn call(&mut self, regs: &mut Regs, id: u16, a: u64, b: u64, imm: u32) -> Result<(u64, Then), Stop> {
        crate::helpers::dispatch(self, regs, id, a, b, imm)
    }

    fn raise(&mut self, vector: u8, error: u64) {
        let e = Exception::fault(vector);
        let error = exception::has_error_code(vector).then_some(error as u32);
        self.pending = Some(Exception { error, ..e });
    }

    fn raise_fp(&mut self, _flags: u32) {
        // The interpreter has set the flags in MXCSR already.
        let vector = if self.sys.cr4 & crate::state::cr4::OSXMMEXCPT != 0 { exception::XM } else { exception::UD };
        self.pending = Some(Exception::fault(vector));
    }
}
