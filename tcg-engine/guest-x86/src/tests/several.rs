//! What a vCPU does because there are others: pages that become code, code of others that it writes to, and what it is told.

use iced_x86::code_asm::*;

use super::harness::*;
use crate::{Order, Why};

/// Another vCPU.
const OTHER: u8 = 5;

#[test]
fn before_code_is_read_others_drop_their_write_tags() {
    let mut m = long();
    m.cpu.mem.code.note_writer(CODE + 0x123, OTHER);
    let code = asm64(|a| a.hlt());
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.cpu.bus.ordered, [(1 << OTHER, Order::Protect(CODE))]);
    // And not again for another block of that page.
    m.poke(CODE + 0x100, &code);
    m.set_pc(CODE + 0x100);
    assert_eq!(m.run_on(), Why::Halt);
    assert_eq!(m.cpu.bus.ordered.len(), 1);
}

#[test]
fn a_page_that_has_become_another_vcpus_code_is_written_to_with_an_order() {
    let mut m = long();
    let code = asm64(|a| {
        a.mov(rdi, DATA)?;
        a.mov(rsi, DEVICE)?;
        a.mov(dword_ptr(rdi + 4), 1)?;
        // Here the vCPU waits for a device.
        a.mov(eax, dword_ptr(rsi))?;
        a.mov(dword_ptr(rdi + 0x44), 2)?;
        a.mov(dword_ptr(rdi + 0x80), 3)?;
        a.hlt()
    });
    m.cpu.mem.code.claim(&m.cpu.mem.marks, DATA, OTHER);
    m.cpu.mem.code.settle(DATA);
    assert!(m.cpu.mem.code.add(DATA + 0x40, 0x10, OTHER));
    m.cpu.bus.orders.push_back(Order::Protect(DATA));
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.cpu.bus.ordered, [(1 << OTHER, Order::Invalidate(DATA + 0x44, 4))]);
}

#[test]
fn a_write_tag_goes_when_another_vcpu_wants_it_to() {
    let mut m = long();
    // The first store gets a tag; while the vCPU waits for the device, another one makes a block from the same page.
    let code = asm64(|a| {
        a.mov(rdi, DATA)?;
        a.mov(rsi, DEVICE)?;
        a.mov(dword_ptr(rdi), 1)?;
        a.mov(eax, dword_ptr(rsi))?;
        a.mov(dword_ptr(rdi), 2)?;
        a.hlt()
    });
    let mem = m.cpu.mem.clone();
    m.cpu.bus.at_device = Some(Box::new(move || {
        assert_eq!(mem.code.claim(&mem.marks, DATA, OTHER), Some(1), "vCPU 0 may have a tag");
        mem.code.settle(DATA);
        assert!(mem.code.add(DATA, 4, OTHER));
        Order::Protect(DATA)
    }));
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.cpu.bus.ordered, [(1 << OTHER, Order::Invalidate(DATA, 4))]);
}

#[test]
fn an_order_to_drop_blocks_is_followed_before_the_next_block() {
    let mut m = long();
    let code = asm64(|a| {
        let mut again = a.create_label();
        a.mov(ecx, 2)?;
        a.mov(rsi, DEVICE)?;
        a.set_label(&mut again)?;
        a.mov(eax, 1)?;
        a.mov(edx, dword_ptr(rsi))?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()
    });
    let at = CODE + code.windows(5).position(|w| w == [0xb8, 1, 0, 0, 0]).unwrap() as u64;
    let mem = m.cpu.mem.clone();
    // Another vCPU changes the instruction in the loop while this one waits for the device.
    m.cpu.bus.at_device = Some(Box::new(move || {
        mem.ram.store_u8(at + 1, 7).unwrap();
        Order::Invalidate(at + 1, 1)
    }));
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.get(0), 7);
}

#[test]
fn a_page_that_a_device_writes_is_data_again_and_becomes_code_when_it_runs() {
    let mut m = long();
    let function = asm64(|a| {
        a.mov(eax, 1)?;
        a.ret()
    });
    m.poke(DATA, &function);
    let code = asm64(|a| {
        a.mov(rsi, DEVICE)?;
        a.mov(rbx, DATA)?;
        a.call(rbx)?;
        a.mov(edx, dword_ptr(rsi))?;
        a.hlt()
    });
    let mem = m.cpu.mem.clone();
    m.cpu.bus.at_device = Some(Box::new(move || {
        let (done, stale) = mem.marks.write(DATA + 1, 1, || mem.ram.store_u8(DATA + 1, 7));
        assert!(done.is_some() && stale && mem.code.owners(DATA) == 1);
        Order::Release(DATA)
    }));
    assert_eq!(m.run_code(&code), Why::Halt);
    assert!(!m.cpu.mem.marks.is_code(DATA) && m.cpu.mem.marks.is_code(CODE));
    assert_eq!(m.cpu.mem.code.owners(DATA), 0);
    assert_eq!(m.run_code(&code), Why::Halt);
    assert_eq!(m.get(0), 7);
    assert!(m.cpu.mem.marks.is_code(DATA));
}

#[test]
fn a_locked_operation_across_lines_is_done_alone() {
    // How far behind its beginning a line ends.
    for (at, ends) in [(0xffc, 4), (0x43c, 4), (0x43f, 1), (0x439, 7), (0x438, 8), (0x403, 61)] {
        let at = DATA + at;
        let mut m = long();
        m.poke64(at, u64::MAX - 1);
        m.poke64(at + 0x100, 7);
        let code = asm64(|a| {
            let mut again = a.create_label();
            a.mov(rdi, at)?;
            a.mov(ecx, 3)?;
            a.set_label(&mut again)?;
            a.mov(eax, 5)?;
            a.lock().xadd(qword_ptr(rdi), rax)?;
            a.lock().or(dword_ptr(rdi + 0x100), 8)?;
            a.mov(edx, 6)?;
            a.xchg(word_ptr(rdi + 0x200), dx)?;
            a.mov(eax, 15)?;
            a.lock().cmpxchg(qword_ptr(rdi + 0x100), rdx)?;
            a.lock().inc(byte_ptr(rdi))?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.hlt()
        });
        assert_eq!(m.run_code(&code), Why::Halt);
        assert_eq!(m.peek64(at), (u64::MAX - 1).wrapping_add(18), "{at:#x}");
        // XADD and CMPXCHG of 8 bytes, OR of 4, XCHG of 2.
        let alone: usize = [8, 8, 4, 2].iter().filter(|bytes| **bytes > ends).count() * 3;
        assert_eq!(m.cpu.bus.alone, [true, false].repeat(alone), "{at:#x}");
    }
}

#[test]
fn blocks_that_are_forgotten_are_no_longer_anybodys() {
    let mut m = long();
    let code = asm64(|a| a.hlt());
    assert_eq!(m.run_code(&code), Why::Halt);
    assert!(m.cpu.mem.marks.is_code(CODE));
    m.forget_code();
    assert!(!m.cpu.mem.marks.is_code(CODE));
    assert_eq!(m.cpu.mem.code.hit(&m.cpu.mem.marks, CODE, 1, OTHER), 0);
}
