//! Code and tables where nobody keeps them: devices, page tables that map themselves, pages that go from under the code that runs.
//!
//! Each program runs by the interpreter, by emitted code, and by emitted code that is hot from the beginning.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::harness::*;
use crate::{Runner, Why};

/// A page of code that may lead anywhere, and another page of RAM.
const HERE: u64 = DATA + 0x3000;
const OTHER: u64 = DATA + 0x4000;
const RIGHTS: u64 = 7;

/// The same program on each way to run it: `check` has the machine after `prepare` and the code of `f`.
fn each(
    prepare: impl Fn(&Runner<TestBus>),
    f: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    check: impl Fn(&mut Runner<TestBus>),
) {
    for (t1, hot) in [(false, false), (true, false), (true, true)] {
        let mut m = long();
        if !t1 {
            m.t1 = None;
        } else if hot {
            m.t1.as_mut().unwrap().set_hot(0);
        }
        prepare(&m);
        assert_eq!(m.run_code(&asm64(&f)), Why::Halt, "T1 {t1}, hot {hot}");
        check(&mut m);
    }
}

/// An exception with its program counter, and its error code if it has one.
fn raised(m: &Runner<TestBus>, vector: u64, error: Option<u64>, rip: u64) {
    assert_eq!(m.caught(), Some(vector));
    let at = u64::from(error.is_some());
    assert_eq!((error, m.stack(at)), (error.map(|_| m.stack(0)), rip));
}

#[test]
fn a_device_is_no_place_for_code() {
    let none = |_: &Runner<TestBus>| {};
    let check = |m: &mut Runner<TestBus>| {
        raised(m, 6, None, DEVICE + 8);
        assert_eq!(m.cpu.bus.mmio_reads, 0);
    };
    let load = |a: &mut CodeAssembler| a.mov(rdi, DEVICE + 8);
    each(none, |a| load(a).and_then(|()| a.jmp(rdi)), check);
    each(none, |a| load(a).and_then(|()| a.call(rdi)), check);
    each(none, |a| load(a).and_then(|()| a.push(rdi)).and_then(|()| a.ret()), check);
}

#[test]
fn code_does_not_go_on_into_a_device() {
    // Its last byte, and then the first of an instruction that ends in the device.
    let prepare = |m: &Runner<TestBus>| {
        m.poke(HERE + 0xffe, &[0x90, 0xb8]);
        m.poke64(pte(OTHER), DEVICE | RIGHTS);
    };
    each(prepare, |a| a.jmp(HERE + 0xffe), |m| raised(m, 6, None, HERE + 0xfff));
}

#[test]
fn a_page_that_has_become_a_device_is_code_no_more() {
    // A function is called often enough to be linked, then its page leads to the device.
    let prepare = |m: &Runner<TestBus>| m.poke(HERE, &[0xff, 0xc0, 0xc3]);
    let f = |a: &mut CodeAssembler| {
        let mut again = a.create_label();
        a.xor(eax, eax)?;
        a.mov(ecx, 100)?;
        a.set_label(&mut again)?;
        a.call(HERE)?;
        a.cmp(ecx, 50)?;
        let mut keep = a.create_label();
        a.jne(keep)?;
        a.mov(rdx, DEVICE | RIGHTS)?;
        a.mov(rbx, pte(HERE))?;
        a.mov(qword_ptr(rbx), rdx)?;
        a.mov(rbx, HERE)?;
        a.invlpg(ptr(rbx))?;
        a.set_label(&mut keep)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    };
    each(prepare, f, |m| {
        raised(m, 6, None, HERE);
        assert_eq!((m.get(0), m.get(1), m.cpu.bus.mmio_reads), (51, 49, 0));
    });
}

/// The entry of the top table that leads to that table.
const SELF: u64 = 510;
/// Where the table of level `n` lies that entry `index` of the top table leads to, with every index below it `SELF`.
const fn through(indices: [u64; 4]) -> u64 {
    let [a, b, c, d] = indices;
    0xffff_0000_0000_0000 | a << 39 | b << 30 | c << 21 | d << 12
}
/// The top table by way of itself.
const TOP: u64 = through([SELF; 4]);

fn recursive(m: &Runner<TestBus>) {
    m.poke64(CR3 + 8 * SELF, CR3 | RIGHTS);
}

#[test]
fn tables_are_data_by_way_of_themselves() {
    // The page-table entry of HERE, found through the tables: it is loaded, and leads elsewhere from then on.
    let entry = through([SELF, 0, 0, HERE >> 21]) + (HERE >> 12 & 0x1ff) * 8;
    let prepare = |m: &Runner<TestBus>| {
        recursive(m);
        m.poke64(HERE, 1);
        m.poke64(OTHER, 2);
    };
    let f = |a: &mut CodeAssembler| {
        a.mov(rsi, TOP)?;
        a.mov(r8, qword_ptr(rsi + 8 * SELF as i32))?;
        a.mov(rdi, HERE)?;
        a.mov(r9, qword_ptr(rdi))?;
        a.mov(rbx, entry)?;
        a.mov(r10, qword_ptr(rbx))?;
        a.mov(eax, (OTHER | RIGHTS) as u32)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.invlpg(ptr(rdi))?;
        a.mov(r11, qword_ptr(rdi))?;
        a.hlt()
    };
    each(prepare, f, |m| {
        assert_eq!(m.caught(), None);
        // Accessed, by walking; not dirty, since nothing is stored through the top table as a page.
        assert_eq!([8, 9, 10, 11].map(|n| m.get(n)), [CR3 | RIGHTS | 0x20, 1, HERE | RIGHTS | 0x20, 2]);
    });
}

#[test]
fn tables_are_code_by_way_of_themselves() {
    // Entries that nobody walks, as instructions; they are changed by their other address.
    let at = 8 * 300;
    let prepare = |m: &Runner<TestBus>| {
        recursive(m);
        m.poke(CR3 + at, &[0xb8, 1, 0, 0, 0, 0xc3]);
    };
    let f = |a: &mut CodeAssembler| {
        a.mov(rsi, TOP + at)?;
        a.call(rsi)?;
        a.mov(r8d, eax)?;
        a.mov(rbx, CR3 + at + 1)?;
        a.mov(byte_ptr(rbx), 2)?;
        a.call(rsi)?;
        a.mov(r9d, eax)?;
        a.mov(byte_ptr(rsi + 1), 3)?;
        a.call(rsi)?;
        a.hlt()
    };
    each(prepare, f, |m| assert_eq!((m.caught(), m.get(8), m.get(9), m.get(0)), (None, 1, 2, 3)));
}

#[test]
fn what_tables_do_not_have_faults_by_way_of_themselves() {
    // The table of a part of the address space that has none.
    let missing = through([SELF, SELF, SELF, 1]);
    each(
        recursive,
        |a| a.mov(rdi, missing).and_then(|()| a.mov(rax, qword_ptr(rdi))),
        |m| {
            raised(m, 14, Some(0), CODE + 10);
            assert_eq!(m.cpu.sys.cr2, missing);
        },
    );
    each(
        recursive,
        |a| a.mov(rdi, missing).and_then(|()| a.jmp(rdi)),
        |m| {
            raised(m, 14, Some(0x10), missing);
            assert_eq!(m.cpu.sys.cr2, missing);
        },
    );
}

/// Code at `HERE` that has another page there and does `flush`, and how it goes on: in this page with 1, in the other one with 2.
fn remapped(flush: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) {
    let page = |n: u32| {
        let mut a = CodeAssembler::new(64).unwrap();
        a.mov(rbx, pte(HERE)).unwrap();
        a.mov(eax, (OTHER | RIGHTS) as u32).unwrap();
        a.mov(rdi, HERE).unwrap();
        a.mov(qword_ptr(rbx), rax).unwrap();
        flush(&mut a).unwrap();
        a.mov(eax, n).unwrap();
        a.hlt().unwrap();
        a.assemble(HERE).unwrap()
    };
    let prepare = |m: &Runner<TestBus>| {
        m.poke(HERE, &page(1));
        m.poke(OTHER, &page(2));
    };
    each(prepare, |a| a.jmp(HERE), |m| assert_eq!((m.caught(), m.get(0)), (None, 2)));
}

#[test]
fn code_that_maps_another_page_over_itself_goes_on_there() {
    remapped(|a| a.invlpg(ptr(rdi)));
    remapped(|a| a.mov(rax, cr3).and_then(|()| a.mov(cr3, rax)));
}
