//! What accesses of hot blocks remember: nothing that the TLB has given up, and nothing beyond the page.

use emit_x64::mutants::{Mutant, plant};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use mem::tlb::Bank;

use super::harness::*;
use crate::flags;
use crate::memory::Right;
use crate::state::{cr0, cr4};
use crate::{Runner, Why};

/// A machine whose user program is one access by RDI, emitted as a hot block.
struct Access(Runner<TestBus>);

/// How an access ended: the vector (13 is the HLT behind it) and RAX.
type Ended = (Option<u64>, u64);

impl Access {
    fn new(access: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Access {
        let mut m = long();
        m.t1 = None;
        m.use_t1(code::CodeMemory::new(1 << 20).unwrap()).unwrap();
        m.t1.as_mut().unwrap().set_hot(0);
        m.poke64(DATA + 8, 0x1111);
        m.poke64(DATA + 0x2008, 0x2222);
        m.poke64(DATA + 0xff8, 0x3333);
        m.poke64(pte(DATA + 0x1000), 0);
        let code = asm64(|a| {
            access(a)?;
            a.hlt()
        });
        m.poke(CODE, &code);
        Access(m)
    }

    /// The same, and what it remembers is a run of pages. Behind the first page lies one that is elsewhere in RAM.
    fn of_run(access: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Access {
        let mut m = Access::new(access);
        m.0.t1.as_mut().unwrap().set_runs(true);
        m.0.poke64(pte(DATA + 0x1000), (DATA + 0x3000) | 7);
        m.0.poke64(DATA + 0x3000, 0x4444);
        m.0.poke64(DATA + 0x3008, 0x5555);
        m.0.poke64(pte(DATA + 0x2000), 0);
        for address in [DATA + 8, DATA + 0x1008, DATA + 8, DATA + 0x1008, DATA + 8] {
            m.at(address);
        }
        m
    }

    fn at(&mut self, address: u64) -> Ended {
        let m = &mut self.0;
        user(m);
        m.set(4, STACK);
        m.set(7, address);
        m.set_pc(CODE);
        m.run_on();
        (m.caught(), m.get(0))
    }

    /// The same, and how many operations were interpreted.
    fn counted(&mut self, address: u64) -> (Ended, u64) {
        let before = self.0.counter("code-interpreted");
        (self.at(address), self.0.counter("code-interpreted") - before)
    }

    /// So often that it is remembered: the first fills the TLB, and the next the memo. Answers how it ended, and how many
    /// operations are interpreted when the access is not.
    fn settle(&mut self, address: u64) -> (Ended, u64) {
        let first = self.counted(address).1;
        self.at(address);
        let (ended, usual) = self.counted(address);
        assert_eq!(usual + 1, first, "the access is not remembered");
        (ended, usual)
    }

    /// Another page where the first data page was.
    fn remap(&mut self) {
        self.0.poke64(pte(DATA), (DATA + 0x2000) | 7);
    }
}

fn load(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rax, qword_ptr(rdi))
}

fn store(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(qword_ptr(rdi), rdi)
}

/// Everything that takes pages away.
type Change = (&'static str, fn(&mut Access));
const CHANGES: [Change; 6] = [
    ("INVLPG", |m| m.0.cpu.tlb.flush_page(DATA)),
    ("INVLPG of another page", |m| m.0.cpu.tlb.flush_page(DATA + 0x5000)),
    ("a full flush", |m| m.0.cpu.tlb.flush_all()),
    ("a flush of the address space", |m| m.0.cpu.tlb.flush_space(0)),
    ("a flush of all address spaces", |m| m.0.cpu.tlb.flush_spaces()),
    ("another address space", |m| {
        m.0.cpu.sys.cr4 |= cr4::PCIDE;
        m.0.cpu.sys.cr3 |= 5;
    }),
];

/// The first change after which a load still finds the old page.
fn stale() -> Option<&'static str> {
    [|| Access::new(load), || Access::of_run(load)].into_iter().find_map(stale_of)
}

fn stale_of(new: fn() -> Access) -> Option<&'static str> {
    CHANGES.iter().find_map(|(name, change)| {
        let mut m = new();
        for _ in 0..3 {
            assert_eq!(m.at(DATA + 8), (Some(13), 0x1111));
        }
        m.remap();
        change(&mut m);
        if *name == "INVLPG of another page" {
            m.0.cpu.tlb.flush_page(DATA);
        }
        (m.at(DATA + 8) != (Some(13), 0x2222)).then_some(*name)
    })
}

#[test]
fn nothing_is_remembered_that_was_flushed() {
    assert_eq!(stale(), None);
    for mutant in [Mutant::Memos, Mutant::Runs] {
        plant(Some(mutant));
        let found = stale();
        plant(None);
        assert!(found.is_some(), "{mutant:?}");
    }
}

#[test]
fn the_end_of_the_page_is_the_end() {
    let across = || {
        let mut m = Access::new(load);
        m.settle(DATA + 8);
        assert_eq!(m.at(DATA + 0xff8), (Some(13), 0x3333));
        let ended = m.at(DATA + 0xff9);
        (ended.0, m.0.cpu.sys.cr2)
    };
    assert_eq!(across(), (Some(14), DATA + 0x1000));
    plant(Some(Mutant::MemoEnd));
    let found = across();
    plant(None);
    assert_ne!(found, (Some(14), DATA + 0x1000));
}

#[test]
fn a_store_that_is_remembered_is_marked_again_after_a_harvest() {
    let mut m = Access::new(store);
    m.settle(DATA + 8);
    m.0.cpu.mem.marks.harvest(|| (), || false).unwrap();
    m.0.cpu.tlb.drop_write_tags();
    m.at(DATA + 8);
    assert!(m.0.cpu.mem.marks.is_marked(DATA));
}

#[test]
fn a_store_that_is_remembered_notices_code() {
    let mut m = Access::new(store);
    let (_, usual) = m.settle(DATA + 8);
    m.0.cpu.mem.marks.set_code(DATA);
    m.0.cpu.tlb.protect(DATA);
    assert_eq!(m.counted(DATA + 8).1, usual + 1);
}

/// The bank has nothing, but what is remembered is not asked for its bank.
#[test]
fn alignment_is_checked_where_it_was_not() {
    let mut m = Access::new(load);
    m.settle(DATA + 9);
    m.0.cpu.sys.cr0 |= cr0::AM;
    let flags = m.0.flags();
    m.0.set_flags(flags | flags::AC);
    assert_eq!(m.at(DATA + 9).0, Some(17));
    assert_eq!(m.0.cpu.tlb.bank(), Bank::Supervisor);
}

/// A page that a supervisor's access has in the TLB is none of the user's.
#[test]
fn a_change_of_privilege_is_no_way_to_a_page() {
    let mut m = Access::new(load);
    m.settle(DATA + 8);
    m.0.poke64(pte(DATA), DATA | 3);
    m.0.cpu.tlb.flush_page(DATA);
    let cpu = &mut m.0.cpu;
    cpu.sys.cpl = 0;
    cpu.refresh(&mut m.0.regs.0);
    assert_eq!(cpu.read_linear(DATA + 8, 8, Right::Read).ok(), Some(0x1111));
    assert_eq!(m.at(DATA + 8).0, Some(14));
}

/// Two accesses that lie beside each other; RAX is what both have loaded.
fn two(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rax, qword_ptr(rdi))?;
    a.mov(rcx, qword_ptr(rdi + 8))?;
    a.add(rax, rcx)
}

#[test]
fn a_group_across_pages_faults_where_it_should() {
    let across = || {
        let mut m = Access::new(two);
        m.0.poke64(DATA + 0x10, 0x10);
        for _ in 0..3 {
            assert_eq!(m.at(DATA + 8), (Some(13), 0x1121));
        }
        let ended = m.at(DATA + 0xff8);
        (ended, m.0.cpu.sys.cr2)
    };
    // The first has been done.
    assert_eq!(across(), ((Some(14), 0x3333), DATA + 0x1000));
    plant(Some(Mutant::Apart));
    let found = across();
    plant(None);
    assert_ne!(found.0.0, Some(14));
}

/// A load, and a store beside it: one group.
fn load_and_store(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rax, qword_ptr(rdi))?;
    a.mov(qword_ptr(rdi + 8), rdi)
}

#[test]
fn a_load_makes_sure_of_the_right_to_store_for_its_group() {
    let kept = || {
        let mut m = Access::new(load_and_store);
        for _ in 0..3 {
            assert_eq!(m.at(DATA + 8), (Some(13), 0x1111));
        }
        m.0.poke64(DATA + 0x10, 0x77);
        m.0.poke64(pte(DATA), DATA | 5);
        m.0.cpu.tlb.flush_page(DATA);
        let ended: Vec<Ended> = (0..3).map(|_| m.at(DATA + 8)).collect();
        (ended, m.0.peek64(DATA + 0x10))
    };
    assert_eq!(kept(), (vec![(Some(14), 0x1111); 3], 0x77));
    plant(Some(Mutant::GroupRight));
    let found = kept();
    plant(None);
    assert_ne!(found.1, 0x77);
}

/// One that has no right to store is not asked again and again.
#[test]
fn a_group_that_never_stores_is_taken_apart() {
    let mut m = Access::new(|a| {
        let mut out = a.create_label();
        a.mov(rax, qword_ptr(rdi))?;
        a.test(rax, rax)?;
        a.jnz(out)?;
        a.mov(qword_ptr(rdi + 8), rdi)?;
        a.set_label(&mut out)?;
        a.nop()
    });
    m.0.poke64(pte(DATA), DATA | 5);
    for _ in 0..200 {
        assert_eq!(m.at(DATA + 8), (Some(13), 0x1111));
    }
    assert_eq!(m.counted(DATA + 8).1, Access::new(load).settle(DATA + 8).1);
}

/// What the interpreter runs makes sure of nothing, though it lies beside what follows: that may fault, and shows its flags.
#[test]
fn an_interpreted_access_makes_sure_of_nothing() {
    let mut m = Access::new(|a| {
        a.shl(qword_ptr(rdi), 1)?;
        a.mov(eax, 0xff)?;
        a.add(al, 1)?;
        a.mov(rcx, qword_ptr(rdi + 8))?;
        a.xor(eax, eax)
    });
    for _ in 0..3 {
        assert_eq!(m.at(DATA + 0xff8).0, Some(14));
        let shown = m.0.peek64(m.0.get(4) + 24);
        assert_eq!(shown & flags::ARITHMETIC, flags::CF | flags::PF | flags::AF | flags::ZF);
    }
}

/// How many hot blocks are emitted while two accesses lie across two pages again and again.
fn crossing(mirror: bool) -> u64 {
    let mut m = Access::new(two);
    if !mirror {
        m.0.cpu.mirror = None;
    }
    m.0.poke64(pte(DATA + 0x1000), (DATA + 0x1000) | 7);
    m.0.poke64(DATA + 0x1000, 1);
    for _ in 0..250 {
        assert_eq!(m.at(DATA + 0xff8), (Some(13), 0x3334));
    }
    m.0.t1.as_ref().unwrap().stats().hot
}

/// A division of bytes is interpreted, and changes AX without being asked for a result.
#[test]
fn a_register_that_an_interpreted_operation_changes_begins_another_group() {
    let mut m = Access::new(|a| {
        a.mov(rax, rdi)?;
        a.mov(rcx, qword_ptr(rax))?;
        a.mov(edx, 0x41)?;
        a.div(dl)?;
        a.mov(rax, qword_ptr(rax))
    });
    m.0.poke64(pte(DATA), 0);
    for _ in 0..4 {
        assert_eq!(m.at(DATA + 0x2008).0, Some(14));
        assert_eq!(m.0.cpu.sys.cr2, DATA + (0x2008 % 0x41) * 0x100 + 0x2008 / 0x41);
    }
}

#[test]
fn a_group_across_two_pages_remembers_a_run_or_is_taken_apart() {
    let usual = {
        let mut m = Access::new(two);
        m.at(DATA + 8);
        m.0.t1.as_ref().unwrap().stats().hot
    };
    assert_eq!(crossing(true), usual + 1, "to remember the run");
    assert_eq!(crossing(false), usual + 2, "once more, since that was too short");
}

#[test]
fn a_group_does_not_outlive_a_device_access() {
    let marked = || {
        let mut m = Access::new(|a| {
            a.mov(qword_ptr(rdi), rdi)?;
            a.mov(eax, dword_ptr(rsi))?;
            a.mov(qword_ptr(rdi + 8), rdi)
        });
        m.0.set(6, DEVICE);
        m.at(DATA + 8);
        m.at(DATA + 8);
        m.0.cpu.bus.harvested = Some(m.0.cpu.mem.clone());
        assert_eq!(m.at(DATA + 8).0, Some(13));
        m.0.cpu.mem.marks.is_marked(DATA)
    };
    assert!(marked());
    plant(Some(Mutant::Shrunk));
    let found = marked();
    plant(None);
    assert!(!found);
}

#[test]
fn a_run_goes_on_over_pages_that_are_apart() {
    let ends = || {
        let mut m = Access::of_run(load);
        // One more, which is gone again.
        m.0.poke64(pte(DATA + 0x2000), (DATA + 0x2000) | 7);
        m.settle(DATA + 0x2008);
        m.0.poke64(pte(DATA + 0x2000), 0);
        m.0.cpu.tlb.flush_page(DATA + 0x2000);
        m.at(DATA + 0x1008);
        let before = m.0.counter("tlb-recalled");
        let (_, usual) = m.counted(DATA + 8);
        let mut expected = [0; 8];
        expected[..4].copy_from_slice(&m.0.peek64(DATA + 0xff8).to_le_bytes()[4..]);
        expected[4..].copy_from_slice(&0x4444u32.to_le_bytes());
        for (address, value) in [(8, 0x1111), (0x1008, 0x5555), (0xffc, u64::from_le_bytes(expected)), (0x1000, 0x4444)]
        {
            assert_eq!(m.counted(DATA + address), ((Some(13), value), usual), "{address:#x}");
        }
        assert_eq!(m.0.counter("tlb-recalled"), before, "it was remembered");
        let ended = m.at(DATA + 0x1ffc);
        (ended.0, m.0.cpu.sys.cr2)
    };
    assert_eq!(ends(), (Some(14), DATA + 0x2000));
    plant(Some(Mutant::RunEnd));
    let found = ends();
    plant(None);
    assert_ne!(found, (Some(14), DATA + 0x2000));
}

#[test]
fn a_run_of_stores_has_only_pages_that_are_marked_and_hold_no_code() {
    let mut m = Access::of_run(store);
    let (_, usual) = m.counted(DATA + 0x1008);
    m.0.cpu.mem.marks.harvest(|| (), || false).unwrap();
    m.0.cpu.tlb.drop_write_tags();
    let marked = |m: &Access| [DATA, DATA + 0x3000].map(|at| m.0.cpu.mem.marks.is_marked(at));
    for (address, after) in [(0x1008, [false, true]), (0x1010, [false, true]), (8, [true, true])] {
        m.at(DATA + address);
        assert_eq!(marked(&m), after, "{address:#x}");
    }
    for address in [8, 0x1008, 8, 0x1008] {
        m.at(DATA + address);
    }
    assert_eq!(m.counted(DATA + 0x1008).1, usual, "remembered again");
    m.0.cpu.mem.marks.set_code(DATA + 0x3000);
    m.0.cpu.tlb.protect(DATA + 0x3000);
    m.at(DATA + 8);
    assert_eq!((m.counted(DATA + 0x1008).1, m.counted(DATA + 8).1), (usual + 1, usual));
}

#[test]
fn a_group_may_lie_across_the_pages_of_a_run() {
    let mut m = Access::of_run(two);
    let (_, usual) = m.counted(DATA + 8);
    assert_eq!(m.counted(DATA + 0xff8), ((Some(13), 0x3333 + 0x4444), usual));
}

#[test]
fn an_access_that_changes_pages_remembers_their_run() {
    let m = looped(0x1000, DATA, true);
    assert_eq!(m.get(0), 2 * TURNS);
    let mirror = m.cpu.mirror.as_ref().unwrap();
    assert_eq!((mirror.put(), m.t1.as_ref().unwrap().stats().hot), (2, 2));
    assert!(m.counter("code-exits-operation") < 100);
}

/// Where two pages of 2 MiB lie, of the RAM at 2 and at 4 MiB.
const LARGE: u64 = 8 << 20;
const LARGE_BYTES: u64 = 2 << 20;

fn map_large(m: &Runner<TestBus>) {
    for n in 1..3 {
        m.poke64(CR3 + 0x2000 + 8 * (3 + n), (n * LARGE_BYTES) | 0x87);
        m.poke64(n * LARGE_BYTES + 8, 0x1111 * n);
        m.poke64(n * LARGE_BYTES + 0x1f_f008, 0x1010 * n);
    }
}

#[test]
fn a_load_remembers_all_of_a_large_page_and_nothing_behind_it() {
    let mut m = Access::new(load);
    map_large(&m.0);
    m.settle(LARGE + 8);
    let before = m.0.counter("tlb-recalled");
    assert_eq!(m.at(LARGE + 0x1f_f008), (Some(13), 0x1010));
    assert_eq!(m.0.counter("tlb-recalled"), before, "it was remembered");
    assert_eq!(m.at(LARGE + LARGE_BYTES + 0x1f_f008), (Some(13), 0x2020));
    assert_eq!(m.at(LARGE + 2 * LARGE_BYTES - 4).0, Some(14));
    assert_eq!(m.0.cpu.sys.cr2, LARGE + 2 * LARGE_BYTES);
    m.at(LARGE + 8);
    m.0.poke64(CR3 + 0x2000 + 8 * 4, (2 * LARGE_BYTES) | 0x87);
    m.0.cpu.tlb.flush_page(LARGE + 0x5000);
    assert_eq!(m.at(LARGE + 8), (Some(13), 0x2222), "flushed by another of its pages");
}

#[test]
fn a_store_remembers_a_small_page_of_a_large_one() {
    let mut m = Access::new(store);
    map_large(&m.0);
    m.settle(LARGE + 8);
    m.0.cpu.mem.marks.harvest(|| (), || false).unwrap();
    m.0.cpu.tlb.drop_write_tags();
    for page in [0, 0x1000] {
        m.at(LARGE + page);
        assert!(m.0.cpu.mem.marks.is_marked(LARGE_BYTES + page));
    }
}

/// The loop of [`portions`] goes to and fro between two large pages, and then beyond their end. Without a mirror there are no runs,
/// and that takes a while to be seen.
fn beyond() -> (Option<u64>, u64) {
    let mut m = looped(LARGE_BYTES as i32, LARGE + 8, false);
    assert_eq!(m.t1.as_ref().unwrap().stats().hot, 3);
    assert_eq!(m.get(0), (0x1111 + 0x2222) * 4 * TURNS);
    for (n, v) in [(1, 1), (7, LARGE + 2 * LARGE_BYTES - 4)] {
        m.set(n, v);
    }
    m.set_pc(CODE);
    user(&mut m);
    m.run_on();
    (m.caught(), m.cpu.sys.cr2)
}

#[test]
fn an_access_that_changes_large_pages_remembers_their_run() {
    let m = looped(LARGE_BYTES as i32, LARGE + 8, true);
    assert_eq!(m.get(0), (0x1111 + 0x2222) * TURNS / 2);
    assert_eq!((m.cpu.mirror.as_ref().unwrap().put(), m.t1.as_ref().unwrap().stats().hot), (2, 2));
}

#[test]
fn without_a_run_large_pages_are_looked_up() {
    assert_eq!(beyond(), (Some(14), LARGE + 2 * LARGE_BYTES));
    plant(Some(Mutant::WideEnd));
    let found = beyond();
    plant(None);
    assert_ne!(found, (Some(14), LARGE + 2 * LARGE_BYTES));
}

/// Runs a loop of user mode in portions, RDI changing by `step` with each turn; answers how many hot blocks were emitted.
fn portions(step: i32) -> u64 {
    let m = looped(step, DATA, true);
    assert_eq!((m.get(0), m.get(1)), (if step == 0 { TURNS } else { 2 * TURNS }, 0));
    m.t1.as_ref().unwrap().stats().hot
}

const TURNS: u64 = 1 << 20;

fn looped(step: i32, start: u64, mirror: bool) -> Runner<TestBus> {
    let mut m = long();
    let turns = if mirror { TURNS } else { 8 * TURNS };
    if !mirror {
        m.cpu.mirror = None;
    }
    map_large(&m);
    m.t1 = None;
    m.use_t1(code::CodeMemory::new(1 << 20).unwrap()).unwrap();
    m.poke64(DATA, 1);
    m.poke64(DATA + 0x1000, 3);
    let code = asm64(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.add(rax, qword_ptr(rdi))?;
        a.xor(rdi, step)?;
        a.dec(rcx)?;
        a.jne(again)?;
        a.hlt()
    });
    m.poke(CODE, &code);
    user(&mut m);
    for (n, v) in [(0, 0), (1, turns), (4, STACK), (7, start)] {
        m.set(n, v);
    }
    m.set_pc(CODE);
    while m.run(64) == Why::Budget {}
    assert_eq!(m.caught(), Some(13));
    m
}

#[test]
fn a_loop_becomes_hot_and_an_access_that_changes_pages_gets_another_memo() {
    assert_eq!(portions(0), 1, "the loop");
    assert_eq!(portions(0x1000), 2, "the loop, and once more with the other memo");
}
