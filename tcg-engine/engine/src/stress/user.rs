//! Programs of user mode, and the little kernel below them.
//!
//! The idea: only accesses of hot blocks of user mode remember pages, and only where they go to many pages they remember runs of
//! them. So these programs go to [`PAGES`] pages, one after the other and in pseudo-random order, which lie in another order in RAM and on both sides of
//! where one window of a mirror ends, and know of each what they have written to it last.

use guest_x86::state::attr;
use guest_x86::{Attrs, Bus, Segment, X86Core};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::programs::{barrier, end};
use super::{CODE, DONE, SHARED, TABLES, WRONG, pte};
use crate::machine::Machine;
use crate::vcpu::Vcpu;

/// Pages of data: linear addresses from [`DATA`] on.
const PAGES: u64 = 256;
/// As many before as behind a multiple of 1 GiB.
const DATA: u64 = (1 << 30) - (PAGES / 2) * 0x1000;
/// Their tables: the last of the first GiB, the first of the second, and the latter's directory.
const DATA_TABLES: u64 = 0x5000;
const DIRECTORY: u64 = 0x7000;
/// Table entry of the first of them; those of the others follow.
const DATA_PTE: u64 = DATA_TABLES + (512 - PAGES / 2) * 8;
/// Each page has two places, this far apart.
const PLACES: u64 = 0x20_0000;
const APART: u64 = PAGES << 12;
/// What vCPU n knows of each page: the last number that it has written, and the last that it has seen of another's.
const KNOWN: u64 = 0x5_0000;
const SEEN: u64 = 8 * PAGES;
/// What each page's function returns at least.
const RETURNED: u64 = 0x5_8000;
/// In a page: a function, and where vCPU n writes. Its last word and the first of the next page are written at once.
const FUNCTION: i32 = 0x800;
const WORDS: i32 = 0x100;
/// The end of all.
const STOP: u64 = SHARED + 8;
/// The page that vCPU n looks at.
const HERE: u64 = SHARED + 0x40;

/// The kernel's pages, from here on to [`KERNEL_END`]: code, stacks and interrupt tables of vCPU n, then what they share.
const KERNEL: u64 = 0x1_0000;
const STACKS: u64 = 0x1_3000;
const IDT: u64 = 0x1_6000;
const GDT: u64 = 0x1_9000;
const TSS: u64 = 0x1_9800;
/// A shoot-down: its number, the page, and what vCPU n has answered.
const REQUEST: u64 = 0x1_a000;
const KERNEL_END: u64 = 0x1_b000;
/// The local APIC, seen by the kernel.
const APIC: u64 = 0x1f_e000;
const ICR: i32 = 0x300;
const EOI: i32 = 0xb0;

/// Interrupts: of the kernel's call, and of a shoot-down.
const CALL: u8 = 0x80;
const SHOOT: u8 = 0x40;
/// Fixed, to all but the sender.
const TO_OTHERS: u32 = 0xc_4000 | SHOOT as u32;

/// Where page `n` is at first.
fn place(n: u64) -> u64 {
    PLACES + (n * 77 + 13) % PAGES * 0x1000
}

/// The kernel, and the pages of programs.
pub fn prepare(machine: &Machine, vcpus: u64) {
    let ram = &machine.memory.ram;
    let set = |at: u64, v: u64| ram.store_u64(at, v).unwrap();
    for at in (KERNEL..KERNEL_END).step_by(0x1000) {
        set(pte(at), at | 3);
    }
    set(pte(APIC), 0xfee0_0000 | 0x13);
    // All places, for the kernel.
    set(TABLES + 0x2000 + 8, PLACES | 0x83);
    set(TABLES + 0x2000 + 8 * 511, DATA_TABLES | 7);
    set(TABLES + 0x1000 + 8, DIRECTORY | 7);
    set(DIRECTORY, (DATA_TABLES + 0x1000) | 7);
    for n in 0..PAGES {
        set(DATA_PTE + 8 * n, place(n) | 7);
        // mov eax, 0; ret
        ram.write(place(n) + FUNCTION as u64, &[0xb8, 0, 0, 0, 0, 0xc3]).unwrap();
    }
    for (n, descriptor) in
        [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff]
            .iter()
            .enumerate()
    {
        set(GDT + 8 * n as u64, *descriptor);
    }
    for me in 0..vcpus {
        set(TSS + 0x80 * me + 4, STACKS + 0x1000 * (me + 1));
        let mut next = KERNEL + 0x1000 * me;
        let mut handler = |vectors: &[u8], code: fn(&mut CodeAssembler, u64, u64) -> Result<(), IcedError>| {
            let mut a = CodeAssembler::new(64).unwrap();
            code(&mut a, me, vcpus).unwrap();
            let code = a.assemble(next).unwrap();
            ram.write(next, &code).unwrap();
            for vector in vectors {
                let gate = IDT + 0x1000 * me + 16 * u64::from(*vector);
                let rights = if *vector == CALL { 0xee } else { 0x8e };
                set(gate, next & 0xffff | 8 << 16 | rights << 40 | (next >> 16) << 48);
            }
            next = (next + code.len() as u64).next_multiple_of(64);
        };
        handler(&(0..32).collect::<Vec<_>>(), |a, _, _| halt(a));
        handler(&[14], |a, _, _| page_fault(a));
        handler(&[CALL], |a, _, vcpus| migrate(a, vcpus));
        handler(&[SHOOT], |a, me, _| shot_down(a, me));
        assert!(next < KERNEL + 0x1000 * (me + 1));
    }
}

/// Privilege level 3, interrupts on.
pub fn state(me: u64) -> X86Core {
    let mut state = super::state(me);
    for (n, segment) in state.seg.iter_mut().enumerate() {
        let selector = if n == guest_x86::Seg::Cs as usize { 0x23 } else { 0x1b };
        *segment = Segment { selector, attr: segment.attr | 3 << 5, ..*segment };
    }
    (state.cpl, state.rflags) = (3, 0x202);
    state.tr = Segment { selector: 0x28, attr: attr::P | 0xb, limit: 0x67, base: TSS + 0x80 * me };
    state.gdtr = guest_x86::state::Table { base: GDT, limit: 0x27 };
    state.idtr = guest_x86::state::Table { base: IDT + 0x1000 * me, limit: 0xfff };
    state
}

/// Switch its local APIC on.
pub fn enable_interrupts(vcpu: &mut Vcpu) {
    vcpu.bus().mmio_write(0xfee0_00f0, 4, 0x1ff, Attrs { user: false }).unwrap();
}

/// A program ends with a HLT, which is the kernel's to do; any other exception is wrong.
fn halt(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut there, mut wrong) = (a.create_label(), a.create_label());
    // With or without an error code, this is no program's address in both cases.
    a.mov(rax, qword_ptr(rsp + 8))?;
    a.mov(rcx, CODE)?;
    a.cmp(rax, rcx)?;
    a.jb(wrong)?;
    a.cmp(byte_ptr(rax), 0xf4)?;
    a.je(there)?;
    a.set_label(&mut wrong)?;
    a.mov(rax, WRONG)?;
    a.lock().inc(qword_ptr(rax))?;
    a.mov(rax, DONE)?;
    a.lock().inc(qword_ptr(rax))?;
    a.set_label(&mut there)?;
    a.hlt()?;
    a.jmp(there)
}

/// A page is on its way: try again.
fn page_fault(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.pause()?;
    a.add(rsp, 8)?;
    a.iretq()
}

/// Move page RAX to its other place, and leave rubbish where it was. Keeps RSI and R9 and above.
fn migrate(a: &mut CodeAssembler, vcpus: u64) -> Result<(), IcedError> {
    a.push(rsi)?;
    a.push(r10)?;
    a.push(r11)?;
    a.mov(r10, DATA_PTE)?;
    a.lea(r10, qword_ptr(r10 + rax * 8))?;
    a.shl(rax, 12)?;
    a.mov(rdx, DATA)?;
    a.add(rdx, rax)?;
    // Nobody is to have it.
    a.xor(r11d, r11d)?;
    a.xchg(qword_ptr(r10), r11)?;
    a.invlpg(byte_ptr(rdx))?;
    a.mov(r8, REQUEST)?;
    a.mov(qword_ptr(r8 + 8), rdx)?;
    a.inc(qword_ptr(r8))?;
    a.mov(rcx, qword_ptr(r8))?;
    a.mov(rax, APIC)?;
    a.mov(dword_ptr(rax + ICR), TO_OTHERS as i32)?;
    for n in 1..vcpus as i32 {
        let mut answer = a.create_label();
        a.nop()?;
        a.set_label(&mut answer)?;
        a.pause()?;
        a.cmp(qword_ptr(r8 + 0x40 * n), rcx)?;
        a.jb(answer)?;
    }
    a.and(r11, -0x1000)?;
    a.mov(rsi, r11)?;
    a.mov(rdi, r11)?;
    a.xor(rdi, APART as i32)?;
    a.mov(rdx, rdi)?;
    a.mov(ecx, 512)?;
    a.rep().movsq()?;
    a.mov(rdi, r11)?;
    a.mov(rax, -1i64 as u64)?;
    a.mov(ecx, 512)?;
    a.rep().stosq()?;
    a.or(rdx, 7)?;
    a.mov(qword_ptr(r10), rdx)?;
    a.pop(r11)?;
    a.pop(r10)?;
    a.pop(rsi)?;
    a.iretq()
}

/// Another vCPU takes a page away. Every other time all pages are dropped.
fn shot_down(a: &mut CodeAssembler, me: u64) -> Result<(), IcedError> {
    let (mut all, mut done) = (a.create_label(), a.create_label());
    a.push(rax)?;
    a.push(rcx)?;
    a.push(rdx)?;
    a.mov(rax, REQUEST)?;
    a.mov(rcx, qword_ptr(rax))?;
    a.mov(rdx, qword_ptr(rax + 8))?;
    a.test(cl, 1)?;
    a.jz(all)?;
    a.invlpg(byte_ptr(rdx))?;
    a.jmp(done)?;
    a.set_label(&mut all)?;
    a.mov(rdx, cr3)?;
    a.mov(cr3, rdx)?;
    a.set_label(&mut done)?;
    a.mov(qword_ptr(rax + 0x40 * me as i32), rcx)?;
    a.mov(rax, APIC)?;
    a.mov(dword_ptr(rax + EOI), 0)?;
    a.pop(rdx)?;
    a.pop(rcx)?;
    a.pop(rax)?;
    a.iretq()
}

/// R9: what is known; R10: the data; R12: the number; R13 and R15 make pseudo-random numbers.
fn begin(a: &mut CodeAssembler, me: u64) -> Result<(), IcedError> {
    a.mov(rsp, SHARED + 0x8000 + 0x1000 * me)?;
    a.mov(r9, KNOWN + 0x2000 * me)?;
    a.mov(r10, DATA)?;
    a.xor(r12d, r12d)?;
    a.mov(r13, me * 1000 + 7)?;
    a.mov(r15, 6_364_136_223_846_793_005u64)
}

/// RBX: the number of some page; R14: its address.
fn pick(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.imul_2(r13, r15)?;
    a.add(r13, 12345)?;
    a.mov(rbx, r13)?;
    a.shr(rbx, 64 - PAGES.ilog2())?;
    locate(a)
}

/// R14: the address of page RBX.
fn locate(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(r14, rbx)?;
    a.shl(r14, 12)?;
    a.add(r14, r10)
}

/// Count something wrong unless the last comparison says that both are the same. Uses RAX.
fn wrong_if_other(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut right = a.create_label();
    a.je(right)?;
    a.mov(rax, WRONG)?;
    a.lock().inc(qword_ptr(rax))?;
    a.set_label(&mut right)?;
    a.nop()
}

/// The page in RBX is one of those of vCPU `me`, or it is left alone.
fn unless_own(a: &mut CodeAssembler, me: u64, skip: CodeLabel) -> Result<(), IcedError> {
    a.mov(eax, ebx)?;
    a.and(eax, 3)?;
    a.cmp(eax, me as i32)?;
    a.jne(skip)
}

/// Looks at a page one after the other.
const STAY: u64 = 8;
/// Looks of a vCPU before anything else is done: to most of the pages.
const LEAST: u64 = 4096;

/// Look at a page, [`STAY`] times in a row, and write to it; all pages one after the other, and then as many in some order: what was written last is there, and others' numbers do not go back.
fn touch(a: &mut CodeAssembler, me: u64, vcpus: u64) -> Result<(), IcedError> {
    let (own, other) = (WORDS + 0x40 * me as i32, WORDS + 0x40 * ((me + 1) % vcpus) as i32);
    let (mut right, mut skip, mut stay) = (a.create_label(), a.create_label(), a.create_label());
    let (mut some, mut here) = (a.create_label(), a.create_label());
    // It stays for a while, and says where.
    a.test(r12b, STAY as i32 - 1)?;
    a.jnz(stay)?;
    a.test(r12d, (STAY * PAGES) as i32)?;
    a.jnz(some)?;
    a.mov(ebx, r12d)?;
    a.shr(ebx, STAY.ilog2())?;
    a.and(ebx, PAGES as i32 - 1)?;
    locate(a)?;
    a.jmp(here)?;
    a.set_label(&mut some)?;
    pick(a)?;
    a.set_label(&mut here)?;
    a.mov(rax, HERE + 8 * me)?;
    a.mov(qword_ptr(rax), rbx)?;
    a.set_label(&mut stay)?;
    a.mov(rdx, qword_ptr(r9 + rbx * 8))?;
    for at in [own, own + 8] {
        a.cmp(qword_ptr(r14 + at), rdx)?;
        wrong_if_other(a)?;
    }
    a.mov(rcx, qword_ptr(r14 + other))?;
    a.cmp(rcx, qword_ptr(r9 + rbx * 8 + SEEN as i32))?;
    a.jae(right)?;
    a.mov(rax, WRONG)?;
    a.lock().inc(qword_ptr(rax))?;
    a.set_label(&mut right)?;
    a.mov(qword_ptr(r9 + rbx * 8 + SEEN as i32), rcx)?;
    a.inc(r12)?;
    a.mov(qword_ptr(r14 + own), r12)?;
    a.mov(qword_ptr(r14 + own + 8), r12)?;
    a.mov(qword_ptr(r9 + rbx * 8), r12)?;
    // Across two pages, each of which may move or be marked.
    unless_own(a, me, skip)?;
    a.mov(ecx, dword_ptr(r14 + 0xffc))?;
    a.cmp(ecx, dword_ptr(r14 + 0x1000))?;
    wrong_if_other(a)?;
    a.mov(ecx, r12d)?;
    a.mov(rdx, r12)?;
    a.shl(rdx, 32)?;
    a.or(rcx, rdx)?;
    a.mov(qword_ptr(r14 + 0xffc), rcx)?;
    a.set_label(&mut skip)?;
    a.nop()
}

/// vCPU 0 has its kernel move pages, which all write to: nothing is written to where a page was, nor read from there.
pub fn moving(a: &mut CodeAssembler, me: u64, vcpus: u64, rounds: u64) -> Result<(), IcedError> {
    let (mut first, mut again, mut turn) = (a.create_label(), a.create_label(), a.create_label());
    begin(a, me)?;
    // All pages are remembered before the first is moved.
    a.mov(rsi, LEAST)?;
    a.set_label(&mut first)?;
    touch(a, me, vcpus)?;
    a.dec(rsi)?;
    a.jnz(first)?;
    a.xor(ebp, ebp)?;
    barrier(a, vcpus)?;
    a.mov(rsi, rounds)?;
    a.set_label(&mut again)?;
    a.mov(ebp, 4)?;
    a.set_label(&mut turn)?;
    touch(a, me, vcpus)?;
    a.dec(ebp)?;
    a.jnz(turn)?;
    a.mov(rdi, STOP)?;
    if me == 0 {
        // The page that another one is at, or some page.
        let mut some = a.create_label();
        pick(a)?;
        a.mov(rax, rbx)?;
        a.test(sil, 1)?;
        a.jz(some)?;
        a.mov(rax, HERE + 8)?;
        a.mov(rax, qword_ptr(rax))?;
        a.set_label(&mut some)?;
        a.int(u32::from(CALL))?;
        a.dec(rsi)?;
        a.jnz(again)?;
        a.mov(rdi, STOP)?;
        a.mov(qword_ptr(rdi), 1)?;
    } else {
        a.cmp(qword_ptr(rdi), 0)?;
        a.je(again)?;
    }
    end(a)
}

/// As many pages have moved as were asked to.
pub fn moved(machine: &Machine, _: u64, rounds: u64) {
    assert_eq!(machine.memory.ram.load_u64(REQUEST).unwrap(), rounds);
}

/// Pages of data have functions in them, which their owners rewrite and all call: they are never older than is known, and the data
/// beside them is what was written.
pub fn mixed(a: &mut CodeAssembler, me: u64, vcpus: u64, rounds: u64) -> Result<(), IcedError> {
    let (mut again, mut skip, mut next) = (a.create_label(), a.create_label(), a.create_label());
    begin(a, me)?;
    a.mov(r8, RETURNED)?;
    a.mov(rsi, rounds)?;
    a.set_label(&mut again)?;
    touch(a, me, vcpus)?;
    a.test(sil, 7)?;
    a.jnz(next)?;
    unless_own(a, me, skip)?;
    a.mov(dword_ptr(r14 + FUNCTION + 1), r12d)?;
    a.mov(dword_ptr(r8 + rbx * 4), r12d)?;
    a.set_label(&mut skip)?;
    pick(a)?;
    a.mov(ebp, dword_ptr(r8 + rbx * 4))?;
    a.lea(rdx, qword_ptr(r14 + FUNCTION))?;
    a.call(rdx)?;
    a.cmp(eax, ebp)?;
    super::programs::wrong_if_below(a)?;
    a.set_label(&mut next)?;
    a.dec(rsi)?;
    a.jnz(again)?;
    end(a)
}

/// Where vCPU `me` of [`restless`] counts its looks.
pub fn count_of(me: u64) -> u64 {
    HERE + 0x80 + 8 * me
}

/// [`touch`] for ever, for those who stop it.
pub fn restless(a: &mut CodeAssembler, me: u64, vcpus: u64, _: u64) -> Result<(), IcedError> {
    let mut again = a.create_label();
    begin(a, me)?;
    a.set_label(&mut again)?;
    touch(a, me, vcpus)?;
    a.mov(rax, count_of(me))?;
    a.inc(dword_ptr(rax))?;
    a.jmp(again)
}

/// What [`sweeping`] waits for: how often it may go on.
pub const MAY_SWEEP: u64 = HERE + 0xc0;

/// Writes to the pages of one window one after the other, so often that they are one run, counts, and waits; then once, counts, and
/// waits; for ever.
pub fn sweeping(a: &mut CodeAssembler, me: u64, _: u64, _: u64) -> Result<(), IcedError> {
    let (mut sweep, mut page, mut wait) = (a.create_label(), a.create_label(), a.create_label());
    begin(a, me)?;
    a.mov(r8, count_of(me))?;
    a.mov(rdi, MAY_SWEEP)?;
    a.xor(esi, esi)?;
    a.mov(ebp, 16)?;
    a.set_label(&mut sweep)?;
    a.mov(ebx, PAGES as i32 / 2)?;
    a.set_label(&mut page)?;
    locate(a)?;
    a.inc(r12)?;
    a.mov(qword_ptr(r14 + WORDS + 0x40 * me as i32), r12)?;
    a.inc(rbx)?;
    a.cmp(rbx, PAGES as i32)?;
    a.jb(page)?;
    a.dec(ebp)?;
    a.jnz(sweep)?;
    a.inc(esi)?;
    a.mov(dword_ptr(r8), esi)?;
    a.set_label(&mut wait)?;
    a.pause()?;
    a.cmp(dword_ptr(rdi), esi)?;
    a.jb(wait)?;
    a.mov(ebp, 1)?;
    a.test(esi, 1)?;
    a.jnz(sweep)?;
    a.mov(ebp, 16)?;
    a.jmp(sweep)
}
