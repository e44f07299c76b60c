//! What one stay in emitted code may do at most: time between two looks, and memory.

use iced_x86::code_asm::rax;

use super::harness::*;
use crate::Why;
use crate::runner::Check;

/// A request is seen after the operation during which it came, however long the program would run.
#[test]
fn a_request_ends_a_stay_at_the_next_operation_that_is_interpreted() {
    let mut m = long();
    let code = asm64(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.cpuid()?;
        a.jmp(top)
    });
    m.poke(CODE, &code);
    m.set_pc(CODE);
    m.cpu.bus.asked = true;
    let before = m.instructions;
    assert_eq!(m.run(1000), Why::Look);
    assert!(m.instructions - before <= 4, "{}", m.instructions - before);
    m.cpu.bus.asked = false;
    assert_eq!(m.run(1000), Why::Budget);
}

/// A block that a request has kept from being begun has not run, which is no difference between the tiers.
#[test]
fn a_request_is_no_difference_to_the_interpreter() {
    let mut m = long();
    if m.t1.is_none() {
        return;
    }
    m.check = Some(Check::default());
    let code = asm64(|a| {
        a.inc(rax)?;
        a.jmp(CODE)
    });
    m.poke(CODE, &code);
    m.set_pc(CODE);
    for (asked, compared) in [(true, 0), (false, 1)] {
        m.cpu.bus.asked = asked;
        m.run(1);
        let check = m.check.as_ref().unwrap();
        assert_eq!((check.compared, check.skipped), (compared, 1));
        assert!(check.differences.is_empty(), "{:?}", check.differences);
        assert_eq!(m.get(0), compared);
    }
}

/// String operations, and what else takes long, count for what they do: bytes one by one, because the copy overlaps itself.
#[test]
fn a_string_operation_takes_much_of_the_budget() {
    let mut m = long();
    let code = asm64(|a| {
        a.rep().movsb()?;
        a.hlt()
    });
    m.poke(CODE, &code);
    m.set_pc(CODE);
    let (count, source, destination) = (1, 6, 7);
    m.set(source, 0x20_0000);
    m.set(destination, 0x20_0001);
    m.set(count, 0x20_0000);
    assert_eq!(m.run(64), Why::Budget);
    let done = 0x20_0000 - m.get(count);
    assert!((1..=16 << 10).contains(&done), "{done} bytes, one by one");
}

/// Each of these takes two bytes, an operation and a site.
#[test]
fn a_program_of_nothing_but_calls_of_the_interpreter_takes_no_memory_without_end() {
    let mut m = long();
    let from = 0x20_0000;
    let count = 0x20_0000u64;
    let mut code = [0x0f, 0xa2].repeat(count as usize);
    code.push(0xf4);
    m.poke(from, &code);
    for _ in 0..2 {
        m.set_pc(from);
        let mut budget = 1_000;
        while m.run(1_000) == Why::Budget {
            budget -= 1;
            assert!(budget > 0, "the program does not end: at {:#x}", m.pc());
        }
        assert_eq!(m.pc(), from + 2 * count + 1);
    }
    assert!(m.t1.as_ref().is_none_or(|t1| t1.stats().reclaims > 1));
}
