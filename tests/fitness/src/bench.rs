//! The environment that T0 runs on: the code page and the data pages, flat, with aarch64's and s390x's rules as options.

use ir::{AtomicOp, BulkOp, BulkRef, Env, MemRef, Regs, Stop, Then};

use crate::{CODE, CODE_LEN, DATA, DATA_LEN};

/// Runs a helper of the architecture; `None` for an unknown one.
pub type Helper = fn(&mut Bench, &mut Regs, u16, u64, u64, u32) -> Option<Result<u64, Stop>>;

/// The bench.
pub struct Bench {
    /// Code, writable by the test only.
    pub code: Vec<u8>,
    /// Data.
    pub data: Vec<u8>,
    /// Storage keys, one per page of data (s390x).
    pub keys: Vec<u8>,
    /// Vector of the last exception raised.
    pub raised: Option<(u8, u64)>,
    monitor: Option<(u64, u64)>,
    helper: Helper,
}

/// Vector of an access outside memory.
pub const FAULT: u8 = 0xf0;
/// Vector of a misaligned access.
pub const ALIGNMENT: u8 = 0xf1;
/// Vector of a key-controlled protection exception.
pub const PROTECTION: u8 = 0xf2;

impl Bench {
    /// Zeroed memory.
    pub fn new(helper: Helper) -> Bench {
        Bench {
            code: vec![0; CODE_LEN as usize],
            data: vec![0; DATA_LEN as usize],
            keys: vec![0; 2],
            raised: None,
            monitor: None,
            helper,
        }
    }

    fn place(&mut self, addr: u64, len: u64, m: MemRef, write: bool) -> Result<(bool, usize), Stop> {
        if m.aligned && addr & (len - 1) != 0 {
            self.raised = Some((ALIGNMENT, addr));
            return Err(Stop::Fault);
        }
        let inside = |start: u64, size: u64| addr >= start && addr.checked_add(len).is_some_and(|e| e <= start + size);
        if inside(DATA, DATA_LEN) {
            let at = (addr - DATA) as usize;
            // Access key against storage key (Principles of Operation, "Key-Controlled Protection"): fetch protection bit 8.
            for page in [at >> 12, (at + len as usize - 1) >> 12] {
                let key = self.keys[page];
                let (wanted, have) = (m.key.wrapping_sub(1) & 15, key >> 4);
                if m.key > 1 && wanted != have && (write || key & 8 != 0) {
                    self.raised = Some((PROTECTION, addr));
                    return Err(Stop::Fault);
                }
            }
            return Ok((false, at));
        }
        if !write && inside(CODE, CODE_LEN) {
            return Ok((true, (addr - CODE) as usize));
        }
        self.raised = Some((FAULT, addr));
        Err(Stop::Fault)
    }

    fn bytes(&mut self, addr: u64, len: u64, m: MemRef) -> Result<u128, Stop> {
        let (code, at) = self.place(addr, len, m, false)?;
        let from = if code { &self.code } else { &self.data };
        let mut b = [0; 16];
        b[..len as usize].copy_from_slice(&from[at..at + len as usize]);
        if m.big {
            b[..len as usize].reverse();
        }
        Ok(u128::from_le_bytes(b))
    }

    fn put(&mut self, addr: u64, len: u64, m: MemRef, value: u128) -> Result<(), Stop> {
        let (_, at) = self.place(addr, len, m, true)?;
        let mut b = value.to_le_bytes();
        if m.big {
            b[..len as usize].reverse();
        }
        self.data[at..at + len as usize].copy_from_slice(&b[..len as usize]);
        Ok(())
    }
}

fn extend(v: u64, m: MemRef) -> u64 {
    let up = 64 - 8 * m.bytes().min(8) as u32;
    if m.signed { ((v << up) as i64 >> up) as u64 } else { v << up >> up }
}

impl Env for Bench {
    fn load(&mut self, addr: u64, m: MemRef) -> Result<u64, Stop> {
        Ok(extend(self.bytes(addr, m.bytes(), m)? as u64, m))
    }
    fn store(&mut self, addr: u64, m: MemRef, value: u64) -> Result<(), Stop> {
        self.put(addr, m.bytes(), m, u128::from(value))
    }
    fn load128(&mut self, addr: u64, m: MemRef) -> Result<u128, Stop> {
        self.bytes(addr, 16, m)
    }
    fn store128(&mut self, addr: u64, m: MemRef, value: u128) -> Result<(), Stop> {
        self.put(addr, 16, m, value)
    }
    fn atomic(&mut self, addr: u64, m: MemRef, op: AtomicOp, operand: u64) -> Result<(u64, Then), Stop> {
        let old = self.load(addr, MemRef { signed: false, ..m })?;
        let new = ir::t0::atomic_result(op, 8 * m.bytes() as u32, old, operand);
        self.store(addr, m, new)?;
        Ok((extend(old, m), Then::Continue))
    }
    fn cas(&mut self, addr: u64, m: MemRef, expected: u64, new: u64) -> Result<(u64, Then), Stop> {
        let m = MemRef { signed: false, ..m };
        let old = self.load(addr, m)?;
        if old == extend(expected, m) {
            self.store(addr, m, new)?;
        }
        Ok((old, Then::Continue))
    }
    fn cas128(&mut self, addr: u64, m: MemRef, expected: u128, new: u128) -> Result<(u128, Then), Stop> {
        let old = self.load128(addr, m)?;
        if old == expected {
            self.store128(addr, m, new)?;
        }
        Ok((old, Then::Continue))
    }
    fn load_exclusive(&mut self, addr: u64, m: MemRef) -> Result<u64, Stop> {
        let v = self.load(addr, m)?;
        self.monitor = Some((addr, v));
        Ok(v)
    }
    fn store_exclusive(&mut self, addr: u64, m: MemRef, value: u64) -> Result<(bool, Then), Stop> {
        let holds = match self.monitor.take() {
            Some((at, seen)) => at == addr && self.load(addr, m)? == seen,
            None => false,
        };
        if holds {
            self.store(addr, m, value)?;
        }
        Ok((holds, Then::Continue))
    }
    fn clear_exclusive(&mut self) {
        self.monitor = None;
    }
    fn bulk(&mut self, op: BulkOp, dst: u64, src: u64, len: u64, r: BulkRef) -> Result<(u64, Then), Stop> {
        let m = MemRef { space: r.dst_space, ..MemRef::new(0) };
        for i in 0..len {
            let step = |a: u64| if r.backward { a.wrapping_sub(i) } else { a.wrapping_add(i) };
            let one = (|| {
                let old = if matches!(op, BulkOp::Copy | BulkOp::Fill) { 0 } else { self.load(step(dst), m)? };
                let new = if op == BulkOp::Fill { src & 0xff } else { self.load(step(src), m)? };
                let v = match op {
                    BulkOp::Copy | BulkOp::Fill => new,
                    BulkOp::Xor => old ^ new,
                    BulkOp::And => old & new,
                    BulkOp::Or => old | new,
                };
                self.store(step(dst), m, v)
            })();
            match one {
                Ok(()) => {}
                Err(s) if i == 0 => return Err(s),
                Err(_) => return Ok((i, Then::Continue)),
            }
        }
        Ok((len, Then::Continue))
    }
    fn call(&mut self, regs: &mut Regs, id: u16, a: u64, b: u64, imm: u32) -> Result<(u64, Then), Stop> {
        let helper = self.helper;
        match helper(self, regs, id, a, b, imm) {
            Some(r) => Ok((r?, Then::Continue)),
            None => {
                self.raise(0xff, u64::from(id));
                Err(Stop::Fault)
            }
        }
    }
    fn raise(&mut self, vector: u8, error: u64) {
        self.raised = Some((vector, error));
    }
    fn raise_fp(&mut self, flags: u32) {
        self.raised = Some((0xf3, u64::from(flags)));
    }
}
