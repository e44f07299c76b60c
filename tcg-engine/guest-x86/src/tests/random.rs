//! Random programs in every mode: whatever a guest executes, the engine neither panics nor hangs, and every block that it lifts
//! satisfies the verifier.

use super::harness::*;
use crate::state::{Seg, Segment, Table, cr4};
use crate::{Runner, X86Core, flags};

/// A small generator; the sequence is the same at every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    /// Numbers that tend to be interesting: small, near powers of two, addresses of the test machine.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(0x100),
            1 => (1u64 << self.below(64)).wrapping_sub(self.below(3)),
            2 => {
                [CODE, DATA, STACK, GDT, IDT, TSS, CR3, DEVICE, ROM, HIGH][self.below(10) as usize] + self.below(0x1100)
            }
            3 => self.next() as i32 as u64,
            _ => self.next(),
        }
    }

    /// Bytes that decode as something more often than not.
    fn program(&mut self, len: usize) -> Vec<u8> {
        const STARTS: &[u8] = &[
            0x0f, 0x0f, 0x0f, 0x48, 0x66, 0xf3, 0xf0, 0x8b, 0x89, 0x8e, 0xff, 0xf7, 0x00, 0x01, 0x83, 0x9a, 0xea, 0xcf,
            0xcb, 0xcd, 0xa4, 0xa5, 0x67, 0xd9, 0xdb, 0xdd, 0x6c, 0xee, 0xc8, 0x9d,
        ];
        (0..len)
            .map(|_| match self.below(3) {
                0 => STARTS[self.below(STARTS.len() as u64) as usize],
                1 => self.below(0x20) as u8,
                _ => self.next() as u8,
            })
            .collect()
    }
}

/// Random registers, flags, and bytes as code.
pub fn prepare(m: &mut Runner<TestBus>, r: &mut Random) {
    for n in 0..16 {
        let v = r.value();
        m.set(n, v);
    }
    if r.below(2) == 0 {
        m.set(4, STACK);
    }
    let code = r.program(0x1800);
    m.poke(CODE, &code);
    let at = CODE + r.below(0x1000);
    m.set_pc(at);
    let f = r.next() & flags::ALL & !flags::VM & !(if r.below(4) != 0 { flags::TF } else { 0 });
    m.set_flags(f);
}

/// Have a machine run 16-bit code, with segments anywhere.
pub fn sixteen(mut m: Runner<TestBus>, r: &mut Random) -> Runner<TestBus> {
    for s in Seg::ALL {
        m.cpu.sys.seg[s as usize].base = if s == Seg::Cs { 0 } else { r.value() & 0xff_ffff };
        m.cpu.sys.seg[s as usize].attr &= !crate::state::attr::DB;
    }
    m.cpu.sys.seg[Seg::Cs as usize].limit = u32::MAX;
    m.cpu.refresh(&mut m.regs.0);
    m
}

fn run(mut make: impl FnMut(&mut Random) -> Runner<TestBus>, seed: u64, programs: u32) {
    let mut r = Random(seed | 1);
    for _ in 0..programs {
        let mut m = make(&mut r);
        prepare(&mut m, &mut r);
        for _ in 0..60 {
            if m.run(20) == crate::Why::Shutdown {
                break;
            }
            match r.below(8) {
                0 if m.cpu.can_take_interrupt(&m.regs.0) => {
                    m.cpu.interrupt(&mut m.regs.0, r.next() as u8);
                }
                1 if m.cpu.can_take_nmi() => {
                    m.cpu.nmi(&mut m.regs.0);
                }
                // Somewhere else, so that not every program ends in its first fault.
                2 => m.set_pc(CODE + r.below(0x1000)),
                _ => {}
            }
        }
        // Whatever became of it can be saved and loaded.
        let saved = m.cpu.save_state(&m.regs.0);
        m.cpu.load_state(&mut m.regs.0, &saved).unwrap();
    }
}

/// Programs of each test; more of them with `ATOLL_LONG=1`.
fn programs() -> u32 {
    if std::env::var_os("ATOLL_LONG").is_some() { 2000 } else { 20 }
}

#[test]
fn in_long_mode() {
    run(|_| long(), 1, programs());
}

#[test]
fn in_user_mode() {
    run(
        |r| {
            let mut m = long();
            m.cpu.sys.cr4 |= r.next() & (cr4::SMEP | cr4::SMAP | cr4::FSGSBASE | cr4::OSXSAVE);
            user(&mut m);
            m
        },
        2,
        programs(),
    );
}

#[test]
fn in_protected_mode() {
    run(
        |r| {
            let mut m = protected();
            if r.below(2) == 0 {
                user(&mut m);
            }
            m
        },
        3,
        programs(),
    );
}

#[test]
fn in_16_bit_code_and_real_mode() {
    run(
        |r| {
            let m = if r.below(2) == 0 { machine() } else { protected() };
            sixteen(m, r)
        },
        4,
        programs(),
    );
}

#[test]
fn from_any_state_that_loads() {
    run(
        |r| {
            let mut m = long();
            let mut c: X86Core = m.cpu.save_state(&m.regs.0);
            for _ in 0..1 + r.below(4) {
                let v = r.value();
                match r.below(12) {
                    0 => c.cr[0] = v & crate::state::cr0::ALL,
                    1 => c.cr[2] = v,
                    2 => c.cr[3] = v & crate::state::cr4::ALL,
                    3 => c.cpl = v as u8 & 3,
                    4 => c.gdtr = Table { base: v, limit: r.next() as u16 },
                    5 => c.idtr = Table { base: v, limit: r.next() as u16 },
                    6 => {
                        c.tr =
                            Segment { selector: v as u16, attr: r.next() as u16 & 0xf0ff, limit: 0x67, base: r.value() }
                    }
                    7 => {
                        let n = r.below(6) as usize;
                        c.seg[n] = Segment {
                            selector: v as u16,
                            attr: r.next() as u16 & 0xf0ff,
                            limit: r.next() as u32,
                            base: r.value(),
                        };
                    }
                    8 => {
                        c.ldtr = Segment { selector: v as u16, attr: r.next() as u16 & 0xf0ff, limit: 0xffff, base: v }
                    }
                    9 => c.rflags = v & flags::ALL,
                    10 => c.rip = v,
                    _ => c.pdpte = [v, r.value(), r.value(), r.value()],
                }
            }
            let efer = r.next() & crate::state::efer::ALL | if r.below(2) == 0 { crate::state::efer::LMA } else { 0 };
            if r.below(3) == 0 {
                c.msrs.retain(|m| m.0 != cpu_model::msr::EFER);
                c.msrs.push((cpu_model::msr::EFER, efer));
            }
            if m.cpu.load_state(&mut m.regs.0, &c).is_err() {
                return long();
            }
            m
        },
        5,
        programs(),
    );
}
