//! Programs whose pages are mapped at several places and run at each in turn: what depends on the program counter is right there, and
//! nothing is translated again.
//!
//! The idea: the same bytes are run in every way that blocks can be run, and what they have to come to is said for one place.

use emit_x64::mutants::{Mutant, plant};

use super::harness::*;
use super::tiers::code::{Base, Code, Ins, Operand};
use crate::runner::Check;
use crate::state::FPU_IP;
use crate::{Runner, flags};

/// Where the program's pages are mapped, of which the first is what it is made for.
const PLACES: [u64; 3] = [0x60_0000, 0x2c_5000, HIGH + 0x2c_5000];
/// A page of the program behind that of its code. At the first place it is another one than at the others.
const OTHER: u64 = 0x1000;
/// One that is the same everywhere.
const SHARED: u64 = 0x2000;
/// Vector that ends programs.
const END: u8 = 0x80;

/// How blocks are run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// By the interpreter, lifted for where they are mapped.
    Placed,
    Interpreted,
    Emitted,
    Hot,
    /// By emitted code and the interpreter.
    Checked,
}

const WAYS: [Way; 5] = [Way::Placed, Way::Interpreted, Way::Emitted, Way::Hot, Way::Checked];

/// RAM of [`OTHER`] at a place.
fn other(place: u64) -> u64 {
    if place == PLACES[0] { DATA } else { DATA + 0x1000 }
}

fn mapped(way: Way) -> Runner<TestBus> {
    let mut m = long();
    m.t1 = None;
    if !matches!(way, Way::Placed | Way::Interpreted) {
        m.use_t1(code::CodeMemory::new(1 << 20).unwrap()).unwrap();
        m.t1.as_mut().unwrap().set_hot(if way == Way::Hot { 0 } else { 2 });
    }
    m.check = (way == Way::Checked).then(Check::default);
    if way == Way::Placed {
        m.cpu.place_blocks();
    }
    // The third place is the second once more.
    for place in &PLACES[..2] {
        for (page, at) in [(0, CODE), (OTHER, other(*place)), (SHARED, DATA + 0x2000)] {
            m.poke64(pte(place + page), at | 7);
        }
    }
    m
}

/// Run from `at` on in user mode until an exception; its vector, and the program counter in its frame.
fn run_at(m: &mut Runner<TestBus>, at: u64) -> (u8, u64) {
    user(m);
    m.set(4, STACK);
    m.set_flags(flags::ONE);
    m.set_pc(at);
    m.run_on();
    let v = m.caught().unwrap() as u8;
    if let Some(check) = &m.check {
        assert_eq!(check.differences, Vec::<String>::new());
    }
    (v, m.stack(u64::from(matches!(v, 8 | 10..=14 | 17))))
}

/// Run `code` at every place, there and back, in every way. It has to end by `vector`, `at` bytes from its beginning. `right` looks at
/// the machine and is told the place.
fn everywhere(code: &Code, (vector, at): (u8, usize), right: impl Fn(&mut Runner<TestBus>, u64)) {
    for way in WAYS {
        let mut m = mapped(way);
        m.poke(CODE, &code.bytes);
        let mut first = None;
        for place in PLACES.into_iter().chain(PLACES).chain(PLACES) {
            let end = run_at(&mut m, place);
            assert_eq!((end.0, end.1.wrapping_sub(place)), (vector, at as u64), "{way:?} at {place:#x}");
            right(&mut m, place);
            let lifted = *first.get_or_insert(m.cache.stats().inserted);
            assert!(way == Way::Placed || m.cache.stats().inserted == lifted, "{way:?} lifts again at {place:#x}");
        }
    }
}

fn program() -> Code {
    Code::new(PLACES[0])
}

/// An instruction with a memory operand that is `at` from the beginning of the program.
fn by_pc(c: &mut Code, size: u8, prefixes: &[u8], op: &[u8], reg: u8, at: u64) {
    let rm = Operand::Mem { base: Base::Pc, index: None, disp: (PLACES[0] + at) as i32 };
    c.ins(Ins { size, prefixes, op, reg, rm, imm: &[], rex: false });
}

/// End the program; where that is.
fn end(c: &mut Code) -> (u8, usize) {
    c.raw(&[0xcd, END]);
    (END, c.bytes.len())
}

#[test]
fn addresses_count_from_where_the_instruction_is() {
    let mut c = program();
    // FNINIT
    c.raw(&[0xdb, 0xe3]);
    // LEA of three sizes of result, the last with an address of 32 bits.
    by_pc(&mut c, 8, &[], &[0x8d], 0, 0x123);
    by_pc(&mut c, 4, &[], &[0x8d], 3, 0x123);
    by_pc(&mut c, 8, &[0x67], &[0x8d], 1, 0x123);
    // MOV RDX; MOV RSI, once more, with FS; ADD; a shared one, by all there is of accesses: XADD, MOVDQU, FLD, INC
    by_pc(&mut c, 8, &[], &[0x8b], 2, OTHER + 8);
    by_pc(&mut c, 8, &[0x64], &[0x8b], 6, OTHER + 8);
    by_pc(&mut c, 8, &[], &[0x01], 2, OTHER + 16);
    by_pc(&mut c, 8, &[0xf0], &[0x0f, 0xc1], 0, SHARED);
    by_pc(&mut c, 4, &[0xf3], &[0x0f, 0x6f], 3, OTHER + 8);
    by_pc(&mut c, 4, &[0xf3], &[0x0f, 0x7f], 3, SHARED + 16);
    by_pc(&mut c, 4, &[], &[0xdd], 0, OTHER + 8);
    by_pc(&mut c, 4, &[], &[0xdd], 3, SHARED + 32);
    by_pc(&mut c, 8, &[], &[0xff], 0, SHARED + 8);
    let fnop = c.bytes.len() as u64;
    c.raw(&[0xd9, 0xd0]);
    let at = end(&mut c);
    // Something that tells the places apart.
    let mark = |place| 0x3ff0_0000_0000_0000 | other(place);
    everywhere(&c, at, |m, place| {
        let here = place + 0x123;
        if m.get(2) != mark(place) {
            // The first time nothing is there yet.
            for place in PLACES {
                m.poke64(other(place) + 8, mark(place));
            }
            m.poke64(SHARED, 0);
            return;
        }
        assert_eq!((m.get(3), m.get(1)), (u64::from(here as u32), u64::from(here as u32)));
        assert_eq!(m.get(6), mark(place), "{place:#x}");
        assert_eq!(m.peek64(DATA + 0x2010), mark(place));
        assert_eq!(m.peek64(DATA + 0x2020), mark(place));
        assert_eq!(m.regs.0.get(FPU_IP), place + fnop);
    });
}

#[test]
fn calls_push_where_they_are_and_jumps_lead_as_far() {
    let mut c = program();
    let (near, far, back, over) = (c.label(), c.label(), c.label(), c.label());
    // call near; lea rdx, [rip + near]; call rdx; jmp far
    c.towards(&[0xe8], near);
    let first = c.bytes.len() as u64;
    c.raw(&[0x48, 0x89, 0xc3]);
    c.towards(&[0x48, 0x8d, 0x15], near);
    c.raw(&[0xff, 0xd2]);
    let second = c.bytes.len() as u64;
    c.towards(&[0xe9], far);
    // near: mov rax, [rsp]; ret
    c.place(near);
    c.raw(&[0x48, 0x8b, 0x04, 0x24]);
    c.raw(&[0xc3]);
    c.place(back);
    // mov ecx, 300; over: add rsi, rcx; loop over; xor ecx, ecx; jrcxz +2; int 0x81
    c.raw(&[0xb9, 0x2c, 1, 0, 0]);
    c.place(over);
    c.raw(&[0x48, 0x01, 0xce]);
    c.raw(&[0xe2, 0xfb]);
    c.raw(&[0x31, 0xc9]);
    c.raw(&[0xe3, 0x02]);
    c.raw(&[0xcd, 0x81]);
    let at = end(&mut c);
    c.bytes.resize(0xf00, 0x90);
    // On the same page a jump back.
    c.place(far);
    c.raw(&[0x31, 0xf6]);
    c.towards(&[0x0f, 0x84], back);
    c.finish();
    everywhere(&c, at, |m, place| {
        assert_eq!((m.get(3), m.get(0)), (place + first, place + second));
        assert_eq!(m.get(6), (1..=300).sum::<u64>());
    });
}

/// What the program is that leads to its other page differs from place to place. Answers where something else is found, and how.
fn found_elsewhere() -> Option<(Way, u64)> {
    let mut c = program();
    // je +0; mov eax, 7 at the end of the page, with its last byte on the next one; then int END there.
    c.raw(&[0x31, 0xc0]);
    let to = c.label();
    c.towards(&[0x0f, 0x84], to);
    c.bytes.resize(0xffc, 0xcc);
    c.place(to);
    c.raw(&[0xb8, 7, 0, 0]);
    c.finish();
    for way in WAYS {
        let mut m = mapped(way);
        m.poke(CODE, &c.bytes);
        for place in PLACES {
            let mark = (other(place) >> 12) as u8;
            // mov eax, mark << 24 | 7; mov ebx, mark; int END
            m.poke(other(place), &[mark, 0xbb, mark, 0, 0, 0, 0xcd, END]);
        }
        for place in PLACES.into_iter().chain(PLACES).chain(PLACES) {
            let mark = other(place) >> 12 & 0xff;
            let end = run_at(&mut m, place);
            if (end, m.get(0), m.get(3)) != ((END, place + 0x1008), mark << 24 | 7, mark) {
                return Some((way, place));
            }
        }
    }
    None
}

#[test]
fn other_pages_are_what_is_mapped_there() {
    assert_eq!(found_elsewhere(), None);
    plant(Some(Mutant::LinkPlace));
    let found = found_elsewhere();
    plant(None);
    assert!(found.is_some(), "a planted bug");
}

#[test]
fn exceptions_show_where_they_happened() {
    // Each with the length of its instruction, if that has been completed: INT3, UD2, a load of what is not mapped, a division by
    // zero, HLT, a jump to what is not canonical, REP STOSB into what is not mapped.
    let cases: [(&[u8], u8, usize); 7] = [
        (&[0xcc], 3, 1),
        (&[0x0f, 0x0b], 6, 0),
        (&[0x48, 0x8b, 0x07], 14, 0),
        (&[0xf7, 0xf1], 0, 0),
        (&[0xf4], 13, 0),
        (&[0xff, 0xe2], 13, 0),
        (&[0xf3, 0xaa], 14, 0),
    ];
    for (bytes, vector, done) in cases {
        let mut c = program();
        // xor ecx, ecx; mov edi, 0xa0_0000; mov rdx, 1 << 48; add [rsp - 8], rdi; nop
        c.raw(&[0x31, 0xc9]);
        c.raw(&[0xbf, 0, 0, 0xa0, 0]);
        c.raw(&[0x48, 0xba, 0, 0, 0, 0, 0, 0, 1, 0]);
        c.raw(&[0x48, 0x01, 0x7c, 0x24, 0xf8]);
        if bytes[0] == 0xf3 {
            c.raw(&[0xb9, 3, 0, 0, 0]);
        }
        let at = c.bytes.len();
        c.raw(bytes);
        c.raw(&[0x90, 0xeb, 0xfd]);
        everywhere(&c, (vector, at + done), |_, _| ());
    }
}

#[test]
fn steps_and_system_calls_show_where_they_go_on() {
    let mut c = program();
    // pushf; or word [rsp], 0x100; popf; nop; the trap is behind that
    c.raw(&[0x9c]);
    c.raw(&[0x66, 0x81, 0x0c, 0x24, 0, 1]);
    c.raw(&[0x9d]);
    c.raw(&[0x90]);
    let at = (1, c.bytes.len());
    c.raw(&[0x90]);
    everywhere(&c, at, |_, _| ());

    let mut c = program();
    c.raw(&[0x0f, 0x05]);
    let next = c.bytes.len() as u64;
    let at = end(&mut c);
    for way in WAYS {
        let mut m = mapped(way);
        m.poke(CODE, &c.bytes);
        // mov rcx to rax; sysretq to where it came from
        m.poke(0x5_f000, &[0x48, 0x89, 0xc8, 0x48, 0x0f, 0x07]);
        m.cpu.sys.lstar = 0x5_f000;
        m.cpu.sys.star = u64::from(KERNEL_CS) << 32 | 0x13 << 48;
        for place in PLACES.into_iter().chain(PLACES) {
            assert_eq!(run_at(&mut m, place), (END, place + at.1 as u64), "{way:?}");
            assert_eq!(m.get(0), place + next);
        }
    }
}

/// A jump from a page of its own to the program, which goes to its other page and back in every way that is remembered, and says where
/// it was mapped and what it was like.
struct Trampoline {
    m: Runner<TestBus>,
    /// What its pages were made for.
    first: u8,
    second: u8,
}

impl Trampoline {
    const AT: u64 = DATA + 0x4000;

    fn new(way: Way, rights: u64) -> Trampoline {
        let m = mapped(way);
        // jmp rdi
        m.poke(Self::AT, &[0xff, 0xe7]);
        for place in &PLACES[..2] {
            m.poke64(pte(*place), CODE | rights);
        }
        let mut t = Trampoline { m, first: 0, second: 0 };
        t.write_first(1);
        t.write_second(1);
        t
    }

    /// The first page is another one from now on.
    fn write_first(&mut self, what: u8) {
        self.first = what;
        let mut c = program();
        let (again, far) = (c.label(), c.label());
        // mov ebx, what; mov ecx, 4; again: call far; lea rax, [again]; dec ecx; jne again; jmp OTHER
        c.raw(&[0xbb, what, 0, 0, 0]);
        c.raw(&[0xb9, 4, 0, 0, 0]);
        c.place(again);
        c.towards(&[0xe8], far);
        c.towards(&[0x48, 0x8d, 0x05], again);
        c.raw(&[0xff, 0xc9]);
        c.towards(&[0x0f, 0x85], again);
        c.bytes.extend([0xe9]);
        let distance = OTHER as u32 - c.bytes.len() as u32 - 4;
        c.bytes.extend(distance.to_le_bytes());
        let len = c.bytes.len();
        c.bytes.resize(OTHER as usize + 0x20, 0xcc);
        c.place(far);
        c.finish();
        self.m.poke(CODE, &c.bytes[..len]);
        self.m.cpu.invalidate(CODE, 0x40);
    }

    /// The other page is.
    fn write_second(&mut self, what: u8) {
        self.second = what;
        for place in &PLACES[..2] {
            // lea rdx, [rip]; mov r8d, mark; int END; and behind that: lea rsi, [rip]; ret
            let mark = what << 1 | u8::from(*place == PLACES[0]);
            let mut other_page = vec![0x48, 0x8d, 0x15, 0, 0, 0, 0, 0x41, 0xb8, mark, 0, 0, 0, 0xcd, END];
            other_page.resize(0x20, 0xcc);
            other_page.extend([0x48, 0x8d, 0x35, 0, 0, 0, 0, 0xc3]);
            self.m.poke(other(*place), &other_page);
            self.m.cpu.invalidate(other(*place), 0x40);
        }
    }

    /// Whether the program is what it should be at a place, and is right about where it is.
    fn is_right(&mut self, place: u64) -> bool {
        self.m.set(7, place);
        let end = run_at(&mut self.m, Self::AT);
        let mark = u64::from(self.second) << 1 | u64::from(place == PLACES[0]);
        let said = [0, 2, 6, 8, 3].map(|n| self.m.get(n));
        let there = place + OTHER;
        (end, said) == ((END, there + 15), [place + 10, there + 7, there + 0x27, mark, self.first.into()])
    }
}

/// Whether the program is found at each place, and nothing that it was.
fn all_is_right(way: Way, rights: u64) -> bool {
    let mut t = Trampoline::new(way, rights);
    (1..8).all(|what| {
        // There and back, and more than once; what has changed is found where it was before.
        let right = (0..7).flat_map(|n| [PLACES[n % 3]; 3]).all(|place| t.is_right(place));
        if what & 1 != 0 {
            t.write_second(what)
        } else {
            t.write_first(what)
        }
        right
    })
}

const GLOBAL: u64 = 0x100;

#[test]
fn what_is_remembered_is_right_at_each_place_until_it_changes() {
    for way in WAYS {
        for rights in [7, 7 | GLOBAL] {
            assert!(all_is_right(way, rights), "{way:?}");
        }
    }
}

#[test]
fn planted_bugs_of_places_are_found() {
    for (mutant, way, rights) in [
        (Mutant::Base, Way::Emitted, 7),
        (Mutant::Base, Way::Hot, 7),
        (Mutant::LinkBase, Way::Emitted, 7),
        (Mutant::LinkPlace, Way::Emitted, 7),
        (Mutant::LinkUndone, Way::Emitted, 7),
        (Mutant::ReturnBase, Way::Hot, 7),
        (Mutant::Elsewhere, Way::Emitted, 7),
        (Mutant::Anonymous, Way::Emitted, 7 | GLOBAL),
    ] {
        plant(Some(mutant));
        // Some end in what is no handler.
        let right = std::panic::catch_unwind(|| all_is_right(way, rights)).unwrap_or(false);
        plant(None);
        assert!(!right, "{mutant:?}");
    }
}

/// A block that becomes hot at one place is hot at the others, and its accesses find what is mapped there.
#[test]
fn what_is_hot_at_one_place_is_hot_at_the_others() {
    let mut c = program();
    let head = c.label();
    // mov ecx, 2_000_000; head: add rax, [OTHER]; dec ecx; jne head
    c.raw(&[0xb9, 0x80, 0x84, 0x1e, 0]);
    c.place(head);
    by_pc(&mut c, 8, &[], &[0x03], 0, OTHER);
    c.raw(&[0xff, 0xc9]);
    c.towards(&[0x0f, 0x85], head);
    let at = end(&mut c);
    c.finish();
    let mut m = mapped(Way::Emitted);
    m.poke(CODE, &c.bytes);
    for (n, place) in [(3, PLACES[0]), (5, PLACES[1])] {
        m.poke64(other(place), n);
    }
    let mut hot = None;
    for place in PLACES.into_iter().chain(PLACES) {
        m.set(0, 0);
        assert_eq!(run_at(&mut m, place), (END, place + at.1 as u64));
        assert_eq!(m.get(0), 2_000_000 * m.peek64(other(place)));
        let now = (m.counter("code-hot"), m.counter("code-blocks"));
        assert!(now.0 > 0);
        assert_eq!(*hot.get_or_insert(now), now, "at {place:#x}");
    }
}
