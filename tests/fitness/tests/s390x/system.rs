//! What `qemu-user` cannot run (the supervisor state, keys, address spaces) or runs wrongly, against tables made by hand from
//! the Principles of Operation; the section is named at each.

use fitness::bench::{ALIGNMENT, Bench, FAULT, NO_SPACE, PROTECTION};
use fitness::gdb::unhex;
use fitness::{CODE, DATA, DATA_LEN};
use guest_s390x::mode::{self, BASIC, EXTENDED, KEY_SHIFT, SPACE_SHIFT};
use guest_s390x::{EarlySpecification, FP_CONTROL, PROGRAM_CODE, PSW, ar, event, f, load_psw, program, r};
use ir::flags::materialise;
use ir::op::PC;
use ir::{Regs, t0};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::encodings::ENCODINGS;
use super::{helper, random, registers, run_one};

/// Supervisor state, 64-bit addresses, DAT on, primary space.
const SUPERVISOR: u64 = EXTENDED | BASIC | mode::DAT;

struct Machine {
    bench: Bench,
    g: Regs,
}

impl Machine {
    fn new(psw: u64) -> Machine {
        let mut g = Regs::default();
        g.set(PSW, psw);
        g.set(ir::op::FLAG_KIND, ir::flags::kind_word(ir::flags::Kind::S390Explicit, 64));
        let mut bench = Bench::new(helper);
        for (n, byte) in bench.data.iter_mut().enumerate() {
            *byte = n as u8 ^ (n >> 8) as u8;
        }
        Machine { bench, g }
    }

    fn with(mut self, values: &[(u32, u64)]) -> Machine {
        for (n, v) in values {
            self.g.set(r(*n), *v);
        }
        self
    }

    /// Run one instruction at the start of the code.
    fn run(&mut self, code: &str) -> t0::Exit {
        let bytes = unhex(code).unwrap();
        self.bench.code[..bytes.len()].copy_from_slice(&bytes);
        self.g.set(PC, CODE);
        self.bench.raised = None;
        run_one(&mut self.bench, &mut self.g).0
    }

    /// The same; it must raise `vector` and change nothing but, if it restarts, its operands' registers.
    fn faults(&mut self, code: &str, vector: u8) {
        let data = self.bench.data.clone();
        assert_eq!(self.run(code), t0::Exit::Fault, "{code} must fault");
        assert_eq!(self.bench.raised.map(|r| r.0), Some(vector), "{code}");
        assert_eq!(self.g.get(PC), CODE, "{code}");
        assert!(self.bench.data == data, "{code} faults and changes storage");
    }

    /// The same; it must be done.
    fn done(&mut self, code: &str) {
        let exit = self.run(code);
        assert!(matches!(exit, t0::Exit::Direct(_) | t0::Exit::Indirect), "{code}: {exit:?} {:x?}", self.bench.raised);
    }

    fn r(&self, n: u32) -> u64 {
        self.g.get(r(n))
    }

    fn cc(&self) -> u64 {
        materialise(&self.g)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = (at - DATA) as usize;
        self.bench.data[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

const LPSWE: &str = "b2b25000";

/// "LOAD PSW EXTENDED", "Early Exception Recognition".
#[test]
fn lpswe_loads_and_refuses() {
    let mut user = Machine::new(SUPERVISOR | mode::PROBLEM).with(&[(5, DATA)]);
    user.faults(LPSWE, program::PRIVILEGED);
    let mut odd = Machine::new(SUPERVISOR).with(&[(5, DATA + 4)]);
    odd.faults(LPSWE, ALIGNMENT);
    let mut outside = Machine::new(SUPERVISOR).with(&[(5, DATA + DATA_LEN - 8)]);
    outside.faults(LPSWE, FAULT);

    let key9 = 9 << KEY_SHIFT;
    #[rustfmt::skip]
    let table: &[(u64, u64, bool)] = &[
        (EXTENDED | BASIC | 2 << mode::CC_SHIFT, 0xffff_ffff_ffff_fffe, true),
        (BASIC | key9 | mode::PROBLEM, 0x7fff_fffe, true),
        (mode::OVERFLOW_MASK, 0x00ff_fffe, true),
        // An odd address is refused when the instruction there is fetched, not here.
        (EXTENDED | BASIC, 1, true),
        // Address bits that the mode does not have.
        (BASIC, 0x8000_0000, false),
        (0, 0x0100_0000, false),
        // Extended without basic addressing.
        (EXTENDED, 0, false),
        // Unassigned bits: 0, 2, 4, 12, 24, 30, 33, 63.
        (1 << 63, 0, false),
        (1 << 61, 0, false),
        (1 << 59, 0, false),
        (1 << 51, 0, false),
        (1 << 39, 0, false),
        (1 << 33, 0, false),
        (1 << 30, 0, false),
        (1, 0, false),
    ];
    for (left, address, valid) in table {
        let mut m = Machine::new(SUPERVISOR).with(&[(5, DATA)]);
        m.put(DATA, &left.to_be_bytes());
        m.put(DATA + 8, &address.to_be_bytes());
        assert_eq!(m.run(LPSWE), t0::Exit::Event(event::LOAD_PSW));
        let loaded = load_psw(&mut m.g);
        assert_eq!(loaded, if *valid { Ok(()) } else { Err(EarlySpecification) }, "{left:#x} {address:#x}");
        // Refused or not, the new PSW is the current one.
        assert_eq!(m.g.get(PC), *address);
        assert_eq!(m.g.get(PSW) | m.cc() << mode::CC_SHIFT, *left);
    }
}

/// The mode that LPSWE loads is the mode of what runs next.
#[test]
fn lpswe_changes_the_addressing_mode() {
    let mut m = Machine::new(SUPERVISOR).with(&[(5, DATA), (7, 0xffff_ffff_8000_0000 | (DATA + 16))]);
    m.put(DATA, &BASIC.to_be_bytes());
    m.put(DATA + 8, &CODE.to_be_bytes());
    m.put(DATA + 16, &0x1122_3344u32.to_be_bytes());
    m.faults("58107000", FAULT); // L 1,0(7): nothing there with 64 bits
    m.run(LPSWE);
    load_psw(&mut m.g).unwrap();
    m.done("58107000");
    assert_eq!(m.r(1), 0x1122_3344);
}

/// "Key-Controlled Protection": access key, storage key, fetch protection -> fetch, store.
#[test]
fn storage_keys() {
    #[rustfmt::skip]
    let table: &[(u64, u8, bool, bool)] = &[
        (0, 0x58, true, true),
        (5, 0x50, true, true),
        (5, 0x58, true, true),
        (3, 0x50, true, false),
        (3, 0x58, false, false),
        (15, 0x08, false, false),
        (15, 0x00, true, false),
    ];
    for (access, storage, fetch, store) in table {
        let machine = || {
            let psw = SUPERVISOR | access << KEY_SHIFT;
            let mut m = Machine::new(psw).with(&[(5, DATA + 0x100), (7, DATA + 0x1100), (1, 1), (2, 0)]);
            m.bench.keys[0] = *storage;
            // The second page lets every key fetch and key `access` store.
            m.bench.keys[1] = (*access as u8) << 4;
            m
        };
        let check = |code: &str, allowed: bool| {
            let mut m = machine();
            if allowed { m.done(code) } else { m.faults(code, PROTECTION) }
        };
        check("e31050000004", *fetch); // LG 1,0(5)
        check("bf175000", *fetch); // ICM 1,7,0(5)
        check("d50f50007000", *fetch); // CLC 0(16,5),0(7)
        check("d20f70005000", *fetch); // MVC 0(16,7),0(5)
        check("e31050000024", *store); // STG 1,0(5)
        check("eb0f50000024", *store); // STMG 0,15,0(5)
        check("d20f50007000", *store); // MVC 0(16,5),0(7)
        check("d70f50005000", *store); // XC 0(16,5),0(5)
        check("96015000", *store); // OI 0(5),1
        check("ba125000", *store); // CS 1,2,0(5)
        check("dc0f50007000", *store); // TR 0(16,5),0(7)
    }
}

/// "Types of Instruction Ending": an operand that begins on a page that may be stored into and ends on one that may not is
/// left unchanged.
#[test]
fn a_protected_second_page_leaves_the_first_unchanged() {
    let at = DATA + 0x1000 - 24;
    for code in
        ["eb0350000024", "d23f50007000", "d73f50005000", "d43f50007000", "dc3f50007000", "e83f50007000", "90075000"]
    {
        let mut m = Machine::new(SUPERVISOR | 3 << KEY_SHIFT).with(&[(5, at), (7, DATA + 0x200), (0, 1), (2, 3)]);
        m.bench.keys = vec![0x30, 0x50];
        m.faults(code, PROTECTION);
    }
    // "COMPARE LOGICAL": no access exception is due to bytes behind the first difference.
    let mut m = Machine::new(SUPERVISOR | 3 << KEY_SHIFT).with(&[(5, at), (7, DATA + 0x200)]);
    m.bench.keys = vec![0x30, 0x58];
    m.put(at, &[1, 2, 3]);
    m.put(DATA + 0x200, &[1, 2, 4]);
    m.done("d53f50007000");
    assert_eq!(m.cc(), 1);
    // Equal up to the page boundary: the pair behind it is accessed.
    let equal = m.bench.data[0x1000 - 24..0x1000].to_vec();
    m.put(DATA + 0x200, &equal);
    m.faults("d53f50007000", PROTECTION);
}

/// "MOVE LONG EXTENDED": up to the protected page the registers show the progress; resolved, the move goes on.
#[test]
fn mvcle_restarts_after_a_protection_exception() {
    let (dst, src) = (DATA + 0x1000 - 150, DATA + 0x100);
    let mut m = Machine::new(SUPERVISOR | 3 << KEY_SHIFT).with(&[(2, dst), (3, 300), (4, src), (5, 200)]);
    m.bench.keys = vec![0x30, 0x50];
    let before = m.bench.data.clone();
    let mvcle = "a8240040"; // MVCLE 2,4,64(0)
    let mut partial = 0;
    while m.run(mvcle) != t0::Exit::Fault {
        assert_eq!(m.cc(), 3);
        partial += 1;
    }
    assert!(partial > 0);
    assert_eq!(m.bench.raised.map(|r| r.0), Some(PROTECTION));
    assert_eq!([m.r(2), m.r(3), m.r(4), m.r(5)], [DATA + 0x1000, 150, src + 150, 50]);
    m.bench.keys[1] = 0x30;
    loop {
        m.done(mvcle);
        if m.cc() != 3 {
            break;
        }
    }
    // The first operand was the longer one when the last part began: padded.
    assert_eq!(m.cc(), 2);
    assert_eq!([m.r(2), m.r(3), m.r(4), m.r(5)], [dst + 300, 0, src + 200, 0]);
    let to = (dst - DATA) as usize;
    assert_eq!(m.bench.data[to..to + 200], before[0x100..0x100 + 200]);
    assert!(m.bench.data[to + 200..to + 300].iter().all(|b| *b == 64));
}

/// "MOVE LONG": condition code 3 and nothing moved for a destructive overlap; while bytes remain, the PSW stays.
#[test]
fn mvcl_stays_at_itself_until_it_is_done() {
    let mut m = Machine::new(SUPERVISOR).with(&[(2, DATA + 0x300), (3, 1000), (4, DATA + 0x1000), (5, 1000)]);
    let from = m.bench.data[0x1000..0x1000 + 1000].to_vec();
    let mut parts = 0;
    while {
        m.done("0e24");
        m.g.get(PC) == CODE
    } {
        parts += 1;
        assert_eq!(m.r(2) - (DATA + 0x300), 1000 - m.r(3));
    }
    assert!(parts > 1, "the bench does a hundred bytes at once");
    assert_eq!((m.cc(), m.r(3), m.r(5)), (0, 0, 0));
    assert_eq!(m.bench.data[0x300..0x300 + 1000], from[..]);
    let mut m = Machine::new(SUPERVISOR).with(&[(2, DATA + 0x310), (3, 64), (4, DATA + 0x300), (5, 32)]);
    m.done("0e24");
    assert_eq!((m.cc(), m.r(2), m.r(3)), (3, DATA + 0x310, 64));
}

/// "MOVE WITH KEY": the second operand by the key in bits 56 to 59 of R3, the first by the PSW's.
#[test]
fn mvck_fetches_with_its_own_key() {
    let machine = |key: u64, len: u64| {
        let psw = SUPERVISOR | 3 << KEY_SHIFT;
        let mut m = Machine::new(psw).with(&[(1, len), (2, key << 4), (5, DATA), (7, DATA + 0x1000)]);
        m.bench.keys = vec![0x30, 0x58];
        m
    };
    let mvck = "d91250007002"; // MVCK 0(1,5),2(7),2
    machine(3, 16).faults(mvck, PROTECTION);
    let mut m = machine(5, 16);
    m.done(mvck);
    assert_eq!(m.cc(), 0);
    assert_eq!(m.bench.data[..16], m.bench.data[0x1002..0x1012]);
    let mut m = machine(5, 257);
    m.done(mvck);
    assert_eq!(m.cc(), 3);
    assert_eq!(m.bench.data[..256], m.bench.data[0x1002..0x1102]);
    let mut m = machine(3, 0);
    m.done(mvck);
}

/// "Address Spaces", "Access-Register-Specified Address Spaces".
#[test]
fn address_spaces() {
    let machine = |space: u64| {
        let mut m = Machine::new(SUPERVISOR | space << SPACE_SHIFT).with(&[(5, DATA), (7, DATA + 0x100)]);
        m.bench.data.fill(0x11);
        m.bench.others[0].fill(0x22);
        m.bench.others[1].fill(0x33);
        m
    };
    let load = "58105000"; // L 1,0(5)
    for (space, value) in [(0, 0x1111_1111), (2, 0x2222_2222), (3, 0x3333_3333)] {
        let mut m = machine(space);
        m.done(load);
        assert_eq!(m.r(1), value, "space control {space}");
    }
    // Access-register mode: SAR 5,8 decides what base register 5 means.
    for (alet, value) in [(0, 0x1111_1111), (1, 0x2222_2222), (2, 0x3333_3333)] {
        let mut m = machine(1).with(&[(8, alet)]);
        m.done("b24e0058");
        assert_eq!(m.g.get(ar(5)), alet);
        m.done(load);
        assert_eq!(m.r(1), value, "ALET {alet}");
        // An index register selects nothing: L 1,0(5,0) is in the primary space.
        m.done("58150000");
        assert_eq!(m.r(1), 0x1111_1111);
    }
    machine(1).with(&[(8, 7)]).done("b24e0058");
    let mut m = machine(1).with(&[(8, 7)]);
    m.done("b24e0058");
    m.faults(load, NO_SPACE);
    // Both operands of MVC 0(16,5),0(7) by their own register: from the home to the secondary space.
    let mut m = machine(1).with(&[(8, 1), (9, 2)]);
    m.done("b24e0058");
    m.done("b24e0079");
    m.done("d20f50007000");
    assert_eq!(m.bench.others[0][..17], [&[0x33; 16][..], &[0x22]].concat());
    // Also where a helper makes the accesses: TR, and NC's look at its result.
    m.done("dc0f50007000");
    m.done("d40f50007000");
    assert_eq!((m.cc(), m.bench.others[0][0]), (1, 0x33));
    assert!(m.bench.data.iter().all(|b| *b == 0x11));
}

/// "Fixed-Point-Overflow Exception": completes, and then interrupts if the program mask has bit 20. Everything but that is
/// as without the mask, which is compared with qemu.
#[test]
fn fixed_point_overflow_completes_and_interrupts() {
    const OVERFLOWS: [&str; 16] = [
        "ar ", "agr ", "sr ", "sgr ", "a ", "ag ", "s ", "ahi ", "aghi ", "lcr ", "lcgr ", "lpr ", "lpgr ", "sla ",
        "slag ", "laag ",
    ];
    let mut seen = [0; 2];
    for (text, bytes, _) in ENCODINGS.iter().filter(|(t, ..)| OVERFLOWS.iter().any(|o| t.starts_with(o))) {
        let mut rng = SmallRng::seed_from_u64(7);
        for _ in 0..fitness::states() {
            let s = random(&mut rng, text);
            let run = |psw: u64| {
                let mut m = Machine { bench: Bench::new(helper), g: registers(CODE, &s) };
                m.g.set(PSW, psw);
                m.bench.data.copy_from_slice(&s.data);
                let exit = m.run(bytes);
                (exit, m)
            };
            let ((quiet, a), (exit, b)) = (run(s.psw), run(s.psw | mode::OVERFLOW_MASK));
            let state = |m: &Machine| ((0..16).map(|n| m.r(n)).collect::<Vec<_>>(), m.cc(), m.g.get(PC));
            assert_eq!(state(&a), state(&b), "{text}");
            assert!(a.bench.data == b.bench.data);
            let overflow = quiet != t0::Exit::Fault && a.cc() == 3;
            assert_eq!(exit == t0::Exit::Event(event::PROGRAM), overflow, "{text}: {exit:?}");
            if overflow {
                assert_eq!(b.g.get(PROGRAM_CODE), u64::from(program::FIXED_OVERFLOW));
            }
            seen[usize::from(overflow)] += 1;
        }
    }
    assert!(seen[0] > 100 && seen[1] > 100, "{seen:?}");
}

/// Specification exceptions that qemu 7.2 does not have: "COMPARE DOUBLE AND SWAP" (even registers), "LOAD RELATIVE LONG"
/// and "STORE RELATIVE LONG" (alignment).
#[test]
fn specification_exceptions() {
    let machine = || Machine::new(SUPERVISOR).with(&[(5, DATA), (1, 1)]);
    machine().faults("eb125000003e", program::SPECIFICATION); // CDSG 1,2,0(5)
    machine().faults("eb215000003e", program::SPECIFICATION); // CDSG 2,1,0(5)
    machine().faults("c41800000003", ALIGNMENT); // LGRL 1,.+6
    machine().faults("c41800000006", ALIGNMENT); // LGRL 1,.+12
    machine().done("c41800000008");
    let strl = format!("c41f{:08x}", (DATA - CODE + 2) / 2);
    machine().faults(&strl, ALIGNMENT);
    // An EXECUTE of itself.
    machine().faults("c60000000000", program::EXECUTE);
}

/// "ROTATE THEN AND / OR / EXCLUSIVE OR SELECTED BITS", T bit: only the condition code. qemu 7.2 ends in the translation.
#[test]
fn rotate_then_test() {
    #[rustfmt::skip]
    let table: &[(&str, u64, u64, u64)] = &[
        // R1, R2 -> condition code; bits 128+50 (test) to 63, rotated by 8
        ("ec12b23f0854", 0x0001, 0x0000_0000_0000_0100, 0), // RNSBG
        ("ec12b23f0854", 0x3fff, 0x0100_0000_0000_0000, 1),
        ("ec12b23f0856", 0x0000, 0x00c0_0000_0000_0000, 0), // ROSBG
        ("ec12b23f0856", 0x0001, 0x0000_0000_0000_0000, 1),
        ("ec12b23f0857", 0x0001, 0x0100_0000_0000_0000, 0), // RXSBG
        ("ec12b23f0857", 0x0003, 0x0100_0000_0000_0000, 1),
        // Bits 128+62 to 1, around the corner.
        ("ec12be010057", 0x8000_0000_0000_0001, 0x8000_0000_0000_0001, 0),
        ("ec12be010057", 0xc000_0000_0000_0001, 0x8000_0000_0000_0001, 1),
    ];
    for (code, a, b, cc) in table {
        let mut m = Machine::new(SUPERVISOR).with(&[(1, *a), (2, *b)]);
        m.done(code);
        assert_eq!((m.cc(), m.r(1)), (*cc, *a), "{code} {a:x} {b:x}");
    }
}

/// "LOAD ADDRESS", "LOAD ADDRESS RELATIVE LONG": what the narrow modes leave of the register.
#[test]
fn load_address_in_narrow_modes() {
    for (bits, value) in
        [(EXTENDED | BASIC, 0x5555_0000_ff80_1010u64), (BASIC, 0x9999_8888_7f80_1010), (0, 0x9999_8888_0080_1010)]
    {
        let mut m = Machine::new(bits).with(&[(1, 0x9999_8888_7777_6666), (5, 0x5555_0000_ff80_1000)]);
        m.done("41105010");
        assert_eq!(m.r(1), value);
    }
}

const SNAN: u64 = 0x7ff4_0000_0000_0001;
const SNAN2: u64 = 0xfff4_0000_0000_0002;
const QNAN: u64 = 0x7ff8_0000_0000_0003;
const QNAN2: u64 = 0xfff8_0000_0000_0004;
const QUIET: u64 = 1 << 51;
const ONE: u64 = 0x3ff0_0000_0000_0000;
const INFINITY: u64 = 0x7ff0_0000_0000_0000;
const DEFAULT: u64 = 0x7ff8_0000_0000_0000;
const INVALID: u64 = 0x80 << 16;

/// "Results: MULTIPLY AND ADD": the third operand's NaN before the second's before the first's, signalling ones before all;
/// infinity times zero before any.
#[test]
fn multiply_and_add_nans() {
    // First, second, third operand -> result, flags.
    #[rustfmt::skip]
    let table: &[(u64, u64, u64, u64, u64)] = &[
        (QNAN, ONE, ONE, QNAN, 0),
        (QNAN, QNAN2, ONE, QNAN2, 0),
        (ONE, QNAN2, QNAN, QNAN, 0),
        (QNAN2, QNAN2, QNAN, QNAN, 0),
        (SNAN, QNAN, QNAN2, SNAN | QUIET, INVALID),
        (SNAN, SNAN2, QNAN, SNAN2 | QUIET, INVALID),
        (SNAN, SNAN2, SNAN, SNAN | QUIET, INVALID),
        (QNAN, INFINITY, 0, DEFAULT, INVALID),
        (SNAN2, 0, INFINITY, DEFAULT, INVALID),
        (INFINITY | 1 << 63, INFINITY, ONE, DEFAULT, INVALID),
    ];
    for (first, second, third, result, flags) in table {
        let mut m = Machine::new(SUPERVISOR);
        for (n, v) in [(0, first), (2, second), (4, third)] {
            m.g.set(f(n), *v);
        }
        m.done("b31e0042"); // MADBR 0,4,2
        assert_eq!((m.g.get(f(0)), m.g.get(FP_CONTROL)), (*result, *flags), "{first:x} {second:x} {third:x}");
    }
    // The negation of MULTIPLY AND SUBTRACT does not touch a NaN.
    let mut m = Machine::new(SUPERVISOR);
    for (n, v) in [(0, QNAN), (2, ONE), (4, ONE)] {
        m.g.set(f(n), v);
    }
    m.done("b31f0042");
    assert_eq!(m.g.get(f(0)), QNAN);
}

/// "LOAD AND TEST" (BFP) and "Results: CONVERT TO FIXED": flags, and what a trap leaves.
#[test]
fn floating_point_that_qemu_does_otherwise() {
    let machine = |v: u64, fpc: u64| {
        let mut m = Machine::new(SUPERVISOR).with(&[(1, 0x1111_2222_3333_4444)]);
        m.g.set(f(2), v);
        m.g.set(f(0), ONE);
        m.g.set(FP_CONTROL, fpc);
        m
    };
    let mut m = machine(SNAN, 0);
    m.done("b3120002"); // LTDBR 0,2
    assert_eq!((m.g.get(f(0)), m.cc(), m.g.get(FP_CONTROL)), (SNAN | QUIET, 3, INVALID));
    let mut m = machine(SNAN, 0x8000_0000);
    m.faults("b3120002", program::DATA);
    assert_eq!((m.bench.raised, m.g.get(f(0)), m.g.get(FP_CONTROL)), (Some((program::DATA, 0x80)), ONE, 0x8000_0000));
    // 2^31 to 32 bits: the largest number, condition code 3, invalid and inexact, or invalid alone if M4 says so.
    let big = 0x41e0_0000_0000_0000;
    for (code, fpc) in [("b3990012", 0x88 << 16), ("b3990412", 0x80 << 16)] {
        let mut m = machine(big, 0);
        m.done(code);
        assert_eq!((m.r(1), m.cc(), m.g.get(FP_CONTROL)), (0x1111_2222_7fff_ffff, 3, fpc));
    }
    let mut m = machine(QNAN, 0);
    m.done("b3a90012"); // CGDBRA 1,0,2,0
    assert_eq!((m.r(1), m.cc(), m.g.get(FP_CONTROL)), (1 << 63, 3, 0x88 << 16));
    let mut m = machine(QNAN, 0x8000_0000);
    m.faults("b3a90012", program::DATA);
    assert_eq!(m.bench.raised, Some((program::DATA, 0x80)));
}

/// Every row of the decoder's table is tried, here or against qemu.
#[test]
fn every_row_is_tried() {
    const HERE: [&str; 2] = ["LPSWE", "MVCK"];
    let tried: Vec<String> = ENCODINGS
        .iter()
        .flat_map(|(text, ..)| text.split("; ").map(|i| i.split(' ').next().unwrap_or_default().to_uppercase()))
        .collect();
    let missing: Vec<_> = guest_s390x::table::ROWS
        .iter()
        .map(|row| row.name)
        .filter(|name| !HERE.contains(name) && !tried.iter().any(|t| t == name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
