//! Paging in its modes: translation, rights, error codes, accessed and dirty bits, invalidation.

use iced_x86::code_asm::*;
use mem::Bank;

use super::harness::*;
use crate::memory::Right;
use crate::state::{cr0, cr4, efer};
use crate::{Runner, Why};

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const XD: u64 = 1 << 63;

/// Load RAX from `va` and halt.
fn load(va: u64) -> Vec<u8> {
    asm64(|a| {
        a.mov(rdi, va)?;
        a.mov(rax, qword_ptr(rdi))?;
        a.hlt()
    })
}

fn store(va: u64) -> Vec<u8> {
    asm64(|a| {
        a.mov(rdi, va)?;
        a.mov(qword_ptr(rdi), rdi)?;
        a.hlt()
    })
}

fn jump(va: u64) -> Vec<u8> {
    asm64(|a| {
        a.mov(rdi, va)?;
        a.jmp(rdi)
    })
}

/// (vector, error code, CR2) of the page fault that `code` ends in, `None` if it halts.
fn outcome(m: &mut Runner<TestBus>, code: &[u8]) -> Option<(u64, u64)> {
    assert_eq!(m.run_code(code), Why::Halt);
    match m.caught() {
        None => None,
        Some(14) => Some((m.stack(0), m.cpu.sys.cr2)),
        Some(v) => panic!("vector {v}"),
    }
}

fn sup() -> Runner<TestBus> {
    long()
}

fn usr() -> Runner<TestBus> {
    let mut m = long();
    // HLT is privileged: a user program ends with UD2, to be told apart by its vector.
    user(&mut m);
    m
}

/// As [`outcome`], for user code: it ends with #GP at its HLT.
fn user_outcome(m: &mut Runner<TestBus>, code: &[u8]) -> Option<(u64, u64)> {
    assert_eq!(m.run_code(code), Why::Halt);
    match m.caught() {
        Some(13) => None,
        Some(14) => Some((m.stack(0), m.cpu.sys.cr2)),
        v => panic!("{v:?}"),
    }
}

#[test]
fn rights_of_the_supervisor() {
    let va = DATA + 0x3000;
    let entry = |bits: u64| va & 0x000f_ffff_ffff_f000 | bits;
    for (bits, read, write, fetch) in [
        (P | W | U, None, None, None),
        (P | W, None, None, None),
        (P, None, Some(3), None),
        (0, Some(0), Some(2), Some(0x10)),
        (P | W | XD, None, None, Some(0x11)),
        (P | W | 1 << 45, Some(9), Some(0xb), Some(0x19)),
    ] {
        let go = |code: Vec<u8>| {
            let mut m = sup();
            m.poke(va, &[0xf4]);
            m.poke64(pte(va), entry(bits));
            outcome(&mut m, &code)
        };
        let want = |code: Option<u64>| code.map(|c| (c, va));
        assert_eq!(go(load(va)), want(read), "{bits:#x}");
        assert_eq!(go(store(va)), want(write), "{bits:#x}");
        assert_eq!(go(jump(va)), want(fetch), "{bits:#x}");
    }
}

#[test]
fn rights_of_the_user() {
    let va = DATA + 0x3000;
    for (bits, read, write, fetch) in [
        (P | W | U, None, None, None),
        (P | U, None, Some(7), None),
        (P | W, Some(5), Some(7), Some(0x15)),
        (0, Some(4), Some(6), Some(0x14)),
        (P | U | W | XD, None, None, Some(0x15)),
    ] {
        let go = |code: Vec<u8>| {
            let mut m = usr();
            m.poke(va, &[0xf4]);
            m.poke64(pte(va), va | bits);
            user_outcome(&mut m, &code)
        };
        let want = |code: Option<u64>| code.map(|c| (c, va));
        assert_eq!(go(load(va)), want(read), "{bits:#x}");
        assert_eq!(go(store(va)), want(write), "{bits:#x}");
        assert_eq!(go(jump(va)), want(fetch), "{bits:#x}");
    }
}

#[test]
fn a_right_must_be_granted_at_every_level() {
    let mut m = usr();
    // The directory denies writing, for 2 MiB in which nothing else lies.
    let va = 0x30_0000;
    m.poke64(CR3 + 0x2008, (CR3 + 0x4000) | P | U);
    assert_eq!(user_outcome(&mut m, &load(va)), None);
    user(&mut m);
    m.set(4, STACK);
    assert_eq!(user_outcome(&mut m, &store(va)), Some((7, va)));
}

#[test]
fn write_protection_of_the_supervisor_can_be_off() {
    let mut m = sup();
    m.poke64(pte(DATA), DATA | P);
    m.cpu.sys.cr0 &= !cr0::WP;
    assert_eq!(outcome(&mut m, &store(DATA)), None);
}

#[test]
fn without_nxe_the_bit_is_reserved() {
    let mut m = sup();
    m.cpu.sys.efer &= !efer::NXE;
    m.poke64(pte(DATA), DATA | P | W | XD);
    assert_eq!(outcome(&mut m, &load(DATA)), Some((9, DATA)));
    // A fetch does not say so in its error code then.
    let mut m = sup();
    m.cpu.sys.efer &= !efer::NXE;
    m.poke64(pte(DATA), 0);
    assert_eq!(outcome(&mut m, &jump(DATA)), Some((0, DATA)));
}

#[test]
fn smep_keeps_the_supervisor_out_of_user_code() {
    // Its own code and handlers must be supervisor pages first.
    let make = || {
        let mut m = sup();
        for page in (0..0x10_0000).step_by(0x1000) {
            m.poke64(pte(page), page | P | W);
        }
        m.poke64(pte(DATA), DATA | P | W | U);
        m.poke(DATA, &[0xf4]);
        m.cpu.sys.cr4 |= cr4::SMEP;
        m
    };
    assert_eq!(outcome(&mut make(), &jump(DATA)), Some((0x11, DATA)));
    assert_eq!(outcome(&mut make(), &load(DATA)), None);
}

#[test]
fn smap_keeps_the_supervisor_out_of_user_data_unless_ac_is_set() {
    let make = || {
        let mut m = sup();
        for page in (0..0x10_0000).step_by(0x1000) {
            m.poke64(pte(page), page | P | W);
        }
        m.poke64(pte(DATA), DATA | P | W | U);
        m.cpu.sys.cr4 |= cr4::SMAP;
        let m2 = &mut m;
        let (cpu, regs) = (&mut m2.cpu, &m2.regs.0);
        cpu.update_mode(regs);
        m
    };
    assert_eq!(outcome(&mut make(), &load(DATA)), Some((1, DATA)));
    assert_eq!(outcome(&mut make(), &store(DATA)), Some((3, DATA)));
    let code = asm64(|a| {
        a.mov(rdi, DATA)?;
        a.stac()?;
        a.mov(rax, qword_ptr(rdi))?;
        a.mov(qword_ptr(rdi), rdi)?;
        a.clac()?;
        a.mov(rax, qword_ptr(rdi))?;
        a.hlt()
    });
    let mut m = make();
    assert_eq!(outcome(&mut m, &code), Some((1, DATA)), "also what is in the TLB");
    assert_eq!(m.stack(1), CODE + code.len() as u64 - 4);
    assert_eq!(m.peek64(DATA), DATA);
}

#[test]
fn accessed_and_dirty_bits() {
    let mut m = sup();
    let va = DATA + 0x3000;
    m.poke64(pte(va), va | P | W);
    m.poke64(CR3 + 0x2000, m.peek64(CR3 + 0x2000) & !A);
    assert_eq!(outcome(&mut m, &load(va)), None);
    assert_eq!(m.peek64(pte(va)), va | P | W | A);
    assert_ne!(m.peek64(CR3 + 0x2000) & A, 0, "in every level");
    assert!(m.cpu.mem.marks.is_marked(pte(va)), "a page table is memory");
    assert_eq!(outcome(&mut m, &store(va)), None);
    assert_eq!(m.peek64(pte(va)), va | P | W | A | D, "although the page was in the TLB for reading");
    assert!(m.cpu.mem.marks.is_marked(va));
    assert_eq!(m.peek64(CR3 + 0x2000) & D, 0, "only in the last level");
    // A denied access sets nothing.
    let mut m = sup();
    m.poke64(pte(va), va | P);
    assert!(outcome(&mut m, &store(va)).is_some());
    assert_eq!(m.peek64(pte(va)), va | P);
}

#[test]
fn large_pages() {
    let mut m = sup();
    // 2 MiB at 4 MiB linear, 1 GiB at 2 GiB linear, both from physical 0.
    m.poke64(CR3 + 0x2000 + 8 * 2, P | W | PS);
    m.poke64(CR3 + 0x1000 + 8 * 2, P | W | PS);
    m.poke64(DATA + 0x10, 0x1234);
    assert_eq!(outcome(&mut m, &load(0x40_0000 + DATA + 0x10)), None);
    assert_eq!(m.get(0), 0x1234);
    assert_eq!(outcome(&mut m, &load(0x8000_0000 + DATA + 0x10)), None);
    assert_eq!(m.get(0), 0x1234);
    assert_eq!(m.peek64(CR3 + 0x1000 + 8 * 2), P | W | PS | A);
    // Address bits within the page are reserved; so is PS in the top level.
    for (at, entry, va) in [
        (CR3 + 0x2000 + 8 * 2, P | W | PS | 1 << 13, 0x40_0000),
        (CR3 + 0x1000 + 8 * 2, P | W | PS | 1 << 29, 0x8000_0000),
        (CR3 + 8, P | W | PS, 0x80_0000_0000),
    ] {
        let mut m = sup();
        m.poke64(at, entry);
        assert_eq!(outcome(&mut m, &load(va)), Some((9, va)), "{entry:#x}");
    }
}

#[test]
fn one_invlpg_drops_a_large_page_as_a_whole() {
    let mut m = sup();
    m.poke64(CR3 + 0x2000 + 8 * 2, P | W | PS);
    let code = asm64(|a| {
        a.mov(rdi, 0x40_0000u64)?;
        a.mov(rax, qword_ptr(rdi + 0x1000))?;
        a.mov(rax, qword_ptr(rdi + 0x9000))?;
        a.mov(rsi, CR3 + 0x2000 + 8 * 2)?;
        a.mov(qword_ptr(rsi), 0)?;
        a.mov(rax, qword_ptr(rdi + 0x1000))?;
        a.invlpg(byte_ptr(rdi + 0x5000))?;
        a.mov(rax, qword_ptr(rdi + 0x9000))?;
        a.hlt()
    });
    assert_eq!(outcome(&mut m, &code), Some((0, 0x40_9000)));
}

#[test]
fn walks_outside_of_memory_end_in_a_fault() {
    for (level, at) in [(4, CR3), (3, CR3 + 0x1000), (2, CR3 + 0x2000), (1, pte(DATA))] {
        let mut m = sup();
        let outside = if level == 1 { 0x8000_0000 } else { 0xff_ffff_f000u64 };
        m.poke64(at, outside | P | W);
        // All ones have reserved bits; the last level leads to a device that is not there.
        m.poke(CODE, &load(DATA));
        m.set_pc(CODE);
        if level == 1 {
            assert_eq!(m.run_on(), Why::Halt);
            assert_eq!((m.caught(), m.get(0)), (None, u64::MAX));
        } else {
            // Code, handlers and stacks are behind the same entry: nothing can be delivered.
            assert_eq!(m.run_on(), Why::Shutdown, "level {level}");
        }
    }
    let mut m = sup();
    m.cpu.sys.cr3 = 0xff_ffff_f000;
    assert_eq!(m.run_code(&load(DATA)), Why::Shutdown);
}

#[test]
fn a_flush_is_needed_and_enough() {
    let other = 0x20_0000;
    let run = |global: bool, flush: &dyn Fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>| {
        let mut m = sup();
        m.poke64(DATA, 1);
        m.poke64(other, 2);
        let g = if global { G } else { 0 };
        m.poke64(pte(DATA), DATA | P | W | g);
        let code = asm64(|a| {
            a.mov(rdi, DATA)?;
            a.mov(rbx, qword_ptr(rdi))?;
            a.mov(rsi, pte(DATA))?;
            a.mov(rax, other | P | W | g)?;
            a.mov(qword_ptr(rsi), rax)?;
            flush(a)?;
            a.mov(rax, qword_ptr(rdi))?;
            a.hlt()
        });
        assert_eq!(m.run_code(&code), Why::Halt);
        assert_eq!(m.caught(), None);
        assert_eq!(m.get(3), 1);
        m.get(0)
    };
    let reload = |a: &mut CodeAssembler| {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)
    };
    assert_eq!(run(false, &|_| Ok(())), 1, "the TLB may remember");
    assert_eq!(run(false, &reload), 2);
    assert_eq!(run(true, &reload), 1, "global pages survive a load of CR3");
    assert_eq!(run(true, &|a| a.invlpg(byte_ptr(rdi))), 2);
    assert_eq!(
        run(true, &|a| {
            a.mov(rax, cr4)?;
            a.btc(rax, 7)?;
            a.mov(cr4, rax)?;
            a.btc(rax, 7)?;
            a.mov(cr4, rax)
        }),
        2,
        "toggling CR4.PGE forgets everything"
    );
    assert_eq!(
        run(true, &|a| {
            a.push(0)?;
            a.push(0)?;
            a.mov(eax, 2)?;
            a.invpcid(rax, xmmword_ptr(rsp))
        }),
        2
    );
    assert_eq!(
        run(true, &|a| {
            a.push(0)?;
            a.push(0)?;
            a.mov(eax, 3)?;
            a.invpcid(rax, xmmword_ptr(rsp))
        }),
        1,
        "type 3 keeps global pages"
    );
}

#[test]
fn process_contexts_keep_their_translations() {
    let mut m = sup();
    // A second set of tables that differs in one page.
    let other = 0x18_0000;
    for i in 0..0x1_0000 / 8 {
        m.poke64(other + 8 * i, m.peek64(CR3 + 8 * i));
    }
    for at in [other, other + 8 * 256, other + 0x1000, other + 0x2000] {
        m.poke64(at, m.peek64(at) + (other - CR3));
    }
    m.poke64(pte(DATA) - CR3 + other, 0x20_0007);
    m.poke64(DATA, 1);
    m.poke64(0x20_0000, 2);
    m.cpu.sys.cr4 |= cr4::PCIDE;
    let (regs, cpu) = (&mut m.regs.0, &mut m.cpu);
    cpu.refresh(regs);
    let keep = 1u64 << 63;
    let code = asm64(|a| {
        a.mov(rdi, DATA)?;
        a.mov(rax, qword_ptr(rdi))?;
        a.mov(rbx, other | 5)?;
        a.mov(cr3, rbx)?;
        // Change the first context's page behind its back: it was told to be kept, so it still answers 1.
        a.mov(rsi, pte(DATA))?;
        a.mov(qword_ptr(rsi), 0)?;
        a.mov(rbx, CR3 | keep)?;
        a.mov(cr3, rbx)?;
        a.mov(r9, qword_ptr(rdi))?;
        a.mov(rbx, other | 5)?;
        a.mov(cr3, rbx)?;
        a.mov(r8, qword_ptr(rdi))?;
        // Without the bit it is flushed.
        a.mov(rbx, CR3)?;
        a.mov(cr3, rbx)?;
        a.mov(r10, cr3)?;
        a.mov(r11, qword_ptr(rdi))?;
        a.hlt()
    });
    assert_eq!(outcome(&mut m, &code), Some((0, DATA)));
    assert_eq!((m.get(0), m.get(8), m.get(9), m.get(10)), (1, 2, 1, CR3));
}

/// A machine with 32-bit or PAE paging, RAM mapped one to one.
fn legacy(pae: bool) -> Runner<TestBus> {
    let mut m = protected();
    if pae {
        for i in 0..4 {
            m.poke64(CR3 + 8 * i, if i == 0 { (CR3 + 0x1000) | P } else { 0 });
        }
        for i in 0..4 {
            m.poke64(CR3 + 0x1000 + 8 * i, i << 21 | P | W | U | PS);
        }
        m.cpu.sys.cr4 |= cr4::PAE;
        m.cpu.load_pdptes(CR3).unwrap();
    } else {
        m.poke(CR3, &((CR3 + 0x1000) as u32 | 7).to_le_bytes());
        m.poke(CR3 + 4, &(0x40_0000u32 | 0x87).to_le_bytes());
        for i in 0..1024u32 {
            m.poke(CR3 + 0x1000 + 4 * u64::from(i), &(i << 12 | 7).to_le_bytes());
        }
        m.cpu.sys.cr4 |= cr4::PSE;
    }
    m.cpu.sys.cr3 = CR3;
    m.cpu.sys.cr0 |= cr0::PG | cr0::WP;
    m
}

#[test]
fn paging_of_32_bit_code() {
    for pae in [false, true] {
        let code = asm(32, |a| {
            a.mov(edi, DATA as u32)?;
            a.mov(eax, dword_ptr(edi))?;
            a.mov(dword_ptr(edi + 0x40_0000 - DATA as i32), eax)?;
            a.mov(ebx, dword_ptr(0x00c0_0000u32))?;
            a.hlt()
        });
        let mut m = legacy(pae);
        m.poke64(DATA, 0x77);
        assert_eq!(m.run_code(&code), Why::Halt);
        assert_eq!((m.caught(), m.cpu.sys.cr2), (Some(14), 0xc0_0000), "pae {pae}");
        assert_eq!(m.stack32(0), 0);
        assert_eq!(m.peek64(0x40_0000), 0x77);
        if !pae {
            assert_eq!(m.peek64(CR3 + 4) & (A | D), A | D, "a 4 MiB page has both");
        }
    }
}

#[test]
fn pae_entries_are_loaded_with_cr3_and_checked() {
    let mut m = legacy(true);
    // Changing the entry in memory does nothing until CR3 is loaded.
    let code = asm(32, |a| {
        a.mov(dword_ptr(CR3 as u32), 0)?;
        a.mov(eax, dword_ptr(DATA as u32))?;
        a.mov(dword_ptr(CR3 as u32), (CR3 as u32 + 0x1000) | 3)?;
        a.mov(eax, cr3)?;
        a.mov(cr3, eax)?;
        a.hlt()
    });
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.caught(), Some(13), "the write bit is reserved in these entries");
}

#[test]
fn non_canonical_addresses() {
    for (base, vector) in [("rdi", 13), ("rbp", 12), ("rsp", 12)] {
        let mut m = long();
        let code = asm64(|a| {
            a.mov(rax, 0x8000_0000_0000u64)?;
            match base {
                "rdi" => a.mov(rbx, qword_ptr(rax))?,
                "rbp" => {
                    a.mov(rbp, rax)?;
                    a.mov(rbx, qword_ptr(rbp))?;
                }
                _ => {
                    // The handler needs a stack of its own.
                    a.mov(rsp, rax)?;
                    a.pop(rbx)?;
                }
            }
            a.hlt()
        });
        if base == "rsp" {
            m.poke64(TSS + 0x24, STACK0);
            m.gate64(12, 0x6_0000 + 16 * 12, 0xe, 0, 1);
        }
        assert_eq!(m.run_code(&code), Why::Halt);
        assert_eq!((m.caught(), m.stack(0)), (Some(vector), 0), "{base}");
    }
    // An access that only ends outside.
    let mut m = long();
    m.run_code(&load(0x7fff_ffff_fffc));
    assert_eq!(m.caught(), Some(13));
}

/// Each miss is counted by what answered it, and a hit is none.
#[test]
fn misses_of_the_tlb_are_counted() {
    let mut m = machine();
    let counts =
        |m: &Runner<TestBus>| ["recalled", "walked", "faulted", "device"].map(|kind| m.counter(&format!("tlb-{kind}")));
    let read = |m: &mut Runner<TestBus>, va| m.cpu.read_linear(va, 8, Right::Read);
    // Without paging pages are the supervisor's, whatever its rights on those of users.
    m.cpu.tlb.select_bank(Bank::Supervisor);
    read(&mut m, 0x3000).unwrap();
    read(&mut m, 0x3008).unwrap();
    assert_eq!(counts(&m), [0, 1, 0, 0]);
    m.cpu.tlb.select_bank(Bank::Strict);
    read(&mut m, 0x3010).unwrap();
    read(&mut m, 0x3018).unwrap();
    assert_eq!(counts(&m), [1, 1, 0, 0]);
    // What is no memory is asked for each time.
    read(&mut m, 0xfee0_0000).unwrap();
    read(&mut m, 0xfee0_0000).unwrap();
    assert_eq!(counts(&m), [1, 1, 0, 2]);

    let mut m = long();
    m.poke64(pte(DATA), 0);
    let before = counts(&m);
    assert!(read(&mut m, DATA).is_err());
    assert_eq!(counts(&m), [before[0], before[1], before[2] + 1, before[3]]);
}
