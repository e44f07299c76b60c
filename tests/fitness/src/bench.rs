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
    /// Data at the same addresses in other address spaces: s390x secondary and home space.
    pub others: [Vec<u8>; 2],
    /// Storage keys, one per page of data (s390x). They are the same pages for all spaces.
    pub keys: Vec<u8>,
    /// Access registers as an environment knows them (s390x): 0 is the primary, 1 the secondary, 2 the home space.
    pub access: [u32; 16],
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
/// Vector of an access register that designates no address space.
pub const NO_SPACE: u8 = 0xf4;

/// Most bytes that a bulk operation does at once unless it must do the whole: less than is asked, so that what follows a
/// partial result is tested.
const PIECE: u64 = 100;

/// What memory an address is in.
#[derive(Clone, Copy)]
enum Bank {
    Code,
    Data,
    Other(usize),
}

impl Bench {
    /// Zeroed memory.
    pub fn new(helper: Helper) -> Bench {
        let data = vec![0; DATA_LEN as usize];
        Bench {
            code: vec![0; CODE_LEN as usize],
            others: [data.clone(), data.clone()],
            data,
            keys: vec![0; 2],
            access: [0; 16],
            raised: None,
            monitor: None,
            helper,
        }
    }

    fn stop<T>(&mut self, vector: u8, error: u64) -> Result<T, Stop> {
        self.raised = Some((vector, error));
        Err(Stop::Fault)
    }

    /// Spaces 0 to 2 are fixed; 16 and up go by access register.
    fn bank(&mut self, space: u8) -> Result<Bank, Stop> {
        let which = if space >= 16 { self.access[usize::from(space & 15)] } else { u32::from(space) };
        match which {
            0 => Ok(Bank::Data),
            1 | 2 => Ok(Bank::Other(which as usize - 1)),
            _ => self.stop(NO_SPACE, u64::from(which)),
        }
    }

    fn place(&mut self, addr: u64, len: u64, m: MemRef, write: bool) -> Result<(Bank, usize), Stop> {
        let write = write || m.write_intent;
        if m.aligned && addr & (len - 1) != 0 {
            return self.stop(ALIGNMENT, addr);
        }
        let inside = |start: u64, size: u64| addr >= start && addr.checked_add(len).is_some_and(|e| e <= start + size);
        if inside(DATA, DATA_LEN) {
            let bank = self.bank(m.space)?;
            let at = (addr - DATA) as usize;
            // Access key against storage key (Principles of Operation, "Key-Controlled Protection"): the storage key's left
            // four bits must equal the access key, unless that is 0; fetches are let through if the next bit is 0.
            for page in [at >> 12, (at + len as usize - 1) >> 12] {
                let key = self.keys[page];
                let (wanted, have) = (m.key.wrapping_sub(1) & 15, key >> 4);
                if m.key > 1 && wanted != have && (write || key & 8 != 0) {
                    return self.stop(PROTECTION, addr);
                }
            }
            return Ok((bank, at));
        }
        if !write && inside(CODE, CODE_LEN) {
            return Ok((Bank::Code, (addr - CODE) as usize));
        }
        self.stop(FAULT, addr)
    }

    fn memory(&mut self, bank: Bank) -> &mut [u8] {
        match bank {
            Bank::Code => &mut self.code,
            Bank::Data => &mut self.data,
            Bank::Other(n) => &mut self.others[n],
        }
    }

    fn bytes(&mut self, addr: u64, len: u64, m: MemRef) -> Result<u128, Stop> {
        let (bank, at) = self.place(addr, len, m, false)?;
        let mut b = [0; 16];
        b[..len as usize].copy_from_slice(&self.memory(bank)[at..at + len as usize]);
        if m.big {
            b[..len as usize].reverse();
        }
        Ok(u128::from_le_bytes(b))
    }

    fn put(&mut self, addr: u64, len: u64, m: MemRef, value: u128) -> Result<(), Stop> {
        let (bank, at) = self.place(addr, len, m, true)?;
        let mut b = value.to_le_bytes();
        if m.big {
            b[..len as usize].reverse();
        }
        self.memory(bank)[at..at + len as usize].copy_from_slice(&b[..len as usize]);
        Ok(())
    }

    /// One byte of a bulk operation at offset `i`; `false` ends a comparison.
    fn bulk_byte(&mut self, op: BulkOp, dst: u64, src: u64, i: u64, r: BulkRef) -> Result<bool, Stop> {
        let (to, from) = bulk_refs(r);
        let (d, s) = (bulk_address(dst, i, r), bulk_address(src, i, r));
        let new = if op == BulkOp::Fill { src & 0xff } else { self.load(s, from)? };
        if op == BulkOp::Compare {
            return Ok(self.load(d, to)? == new);
        }
        let old = if matches!(op, BulkOp::Copy | BulkOp::Fill) { 0 } else { self.load(d, to)? };
        let v = match op {
            BulkOp::Xor => old ^ new,
            BulkOp::And => old & new,
            BulkOp::Or => old | new,
            _ => new,
        };
        self.store(d, to, v)?;
        Ok(true)
    }
}

/// How bytes of the destination and of the source are reached.
fn bulk_refs(r: BulkRef) -> (MemRef, MemRef) {
    (
        MemRef { space: r.dst_space, key: r.dst_key, ..MemRef::new(0) },
        MemRef { space: r.src_space, key: r.src_key, ..MemRef::new(0) },
    )
}

fn bulk_address(base: u64, i: u64, r: BulkRef) -> u64 {
    let a = if r.backward { base.wrapping_sub(i) } else { base.wrapping_add(i) };
    match r.wrap {
        0 => a,
        1 => a & 0xffff_ffff,
        2 => a & 0x7fff_ffff,
        _ => a & 0x00ff_ffff,
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
        let old = self.load(addr, MemRef { signed: false, write_intent: true, ..m })?;
        let new = ir::t0::atomic_result(op, 8 * m.bytes() as u32, old, operand);
        self.store(addr, m, new)?;
        Ok((extend(old, m), Then::Continue))
    }
    fn cas(&mut self, addr: u64, m: MemRef, expected: u64, new: u64) -> Result<(u64, Then), Stop> {
        // An update needs the right to store even where the comparison fails.
        let m = MemRef { signed: false, write_intent: true, ..m };
        let old = self.load(addr, m)?;
        if old == extend(expected, m) {
            self.store(addr, m, new)?;
        }
        Ok((old, Then::Continue))
    }
    fn cas128(&mut self, addr: u64, m: MemRef, expected: u128, new: u128) -> Result<(u128, Then), Stop> {
        let old = self.load128(addr, MemRef { write_intent: true, ..m })?;
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
        if r.whole && op != BulkOp::Compare {
            let (to, from) = bulk_refs(r);
            for i in 0..len {
                self.place(bulk_address(dst, i, r), 1, to, true)?;
                if op != BulkOp::Fill {
                    self.place(bulk_address(src, i, r), 1, from, false)?;
                }
            }
        }
        let most = if r.whole || op == BulkOp::Compare { len } else { len.min(PIECE) };
        for i in 0..most {
            match self.bulk_byte(op, dst, src, i, r) {
                Ok(true) => {}
                // A comparison that cannot go on says how far it came; the lifted code looks at the next pair itself.
                Ok(false) => return Ok((i, Then::Continue)),
                Err(_) if i > 0 || op == BulkOp::Compare => {
                    self.raised = None;
                    return Ok((i, Then::Continue));
                }
                Err(s) => return Err(s),
            }
        }
        Ok((most, Then::Continue))
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
