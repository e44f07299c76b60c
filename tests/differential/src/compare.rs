//! Comparing two outcomes: everything, but for two reviewed lists: flags that the architecture leaves undefined, and, between
//! the host and the translator, choices that it leaves to the processor.

use std::fmt::Write as _;

use iced_x86::Instruction;

use crate::case::{CS32, Case, Outcome, RW_LEN};
use crate::rules;

/// CF, PF, AF, ZF, SF, OF, DF, NT, AC, ID: the flags that a program can see change.
const VISIBLE_FLAGS: u64 = 0x24_4cd5;

/// Differences between what the host and the guest made of a case, a line each; none if they agree.
pub fn differences(case: &Case, i: &Instruction, host: &Outcome, guest: &Outcome) -> Vec<String> {
    let exact = lines(case, i, SIDES, host, guest);
    if exact.is_empty() {
        return exact;
    }
    let mut settled = Box::new(guest.clone());
    rules::settle(case, i, host, &mut settled);
    lines(case, i, SIDES, host, &settled)
}

/// Differences between the outcomes of the two tiers: nothing is left to choose, but flags that are undefined.
pub fn tiers(case: &Case, i: &Instruction, t0: &Outcome, t1: &Outcome) -> Vec<String> {
    if t0 == t1 { vec![] } else { lines(case, i, ["T0", "T1"], t0, t1) }
}

const SIDES: [&str; 2] = ["host", "translator"];

fn lines(case: &Case, i: &Instruction, sides: [&str; 2], host: &Outcome, guest: &Outcome) -> Vec<String> {
    let [left, right] = sides;
    let mut out = vec![];
    let mut differ = |what: &str, h: u128, g: u128| {
        if h != g {
            out.push(format!("{what}: {left} {h:#x}, {right} {g:#x}"));
        }
    };
    let (h, g) = (&host.state, &guest.state);
    differ("vector", host.stop.vector.into(), guest.stop.vector.into());
    differ("error code", host.stop.error.into(), guest.stop.error.into());
    differ("CR2", host.stop.cr2.into(), guest.stop.cr2.into());
    differ("RIP", h.rip.into(), g.rip.into());
    let (count, mask) = if case.long() { (16, u64::MAX) } else { (8, 0xffff_ffff) };
    // Leaving 64-bit code makes the upper halves of registers undefined (SDM vol. 1, 3.4.1.1).
    let mask = if h.sel[1] == CS32 { 0xffff_ffff } else { mask };
    for (n, name) in NAMES.iter().enumerate().take(count) {
        differ(name, (h.gpr[n] & mask).into(), (g.gpr[n] & mask).into());
    }
    let flags = VISIBLE_FLAGS & !rules::undefined_flags(case, i);
    differ("EFLAGS", (h.eflags & flags).into(), (g.eflags & flags).into());
    for n in 0..6 {
        differ(["ES", "CS", "SS", "DS", "FS", "GS"][n], selector(h.sel[n]).into(), selector(g.sel[n]).into());
    }
    differ("base of FS", h.base[0].into(), g.base[0].into());
    differ("base of GS", h.base[1].into(), g.base[1].into());
    let (a, b) = (&h.fx, &g.fx);
    differ("x87 control", a.cw.into(), b.cw.into());
    differ("x87 status", a.sw.into(), b.sw.into());
    differ("x87 tags", a.tags.into(), b.tags.into());
    differ("x87 opcode", a.op.into(), b.op.into());
    differ("x87 instruction pointer", a.ip.into(), b.ip.into());
    differ("x87 data pointer", a.dp.into(), b.dp.into());
    differ("MXCSR", a.mxcsr.into(), b.mxcsr.into());
    for n in 0..8 {
        differ(&format!("ST({n})"), a.st[n] << 48 >> 48, b.st[n]);
    }
    for n in 0..count {
        differ(&format!("XMM{n}"), a.xmm[n], b.xmm[n]);
        differ(&format!("upper half of YMM{n}"), h.ymm_upper[n], g.ymm_upper[n]);
    }
    memory(sides, host, guest, &mut out);
    out
}

const NAMES: [&str; 16] =
    ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

/// A selector as it is after the return from the host's kernel to its program, which clears the level of a null selector.
fn selector(s: u16) -> u16 {
    if s < 4 { 0 } else { s }
}

fn memory([left, right]: [&str; 2], host: &Outcome, guest: &Outcome, out: &mut Vec<String>) {
    if host.rw == guest.rw {
        return;
    }
    let differ: Vec<usize> = (0..RW_LEN as usize).filter(|n| host.rw[*n] != guest.rw[*n]).collect();
    let (first, last) = (differ[0], differ[differ.len() - 1]);
    let mut line = format!("memory at offset {first:#x}..={last:#x}: {left}");
    let show = first..=last.min(first + 15);
    for n in show.clone() {
        let _ = write!(line, " {:02x}", host.rw[n]);
    }
    let _ = write!(line, ", {right}");
    for n in show {
        let _ = write!(line, " {:02x}", guest.rw[n]);
    }
    out.push(line);
}
