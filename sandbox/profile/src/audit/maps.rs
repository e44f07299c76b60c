//! The address space: every map must be a piece of the binary, the kernel's, a row of the manifest, or memory of the
//! process's own, of which there is exactly what its arena and its threads need.

use std::collections::BTreeMap;

use super::compare::{Expectation, Private};
use super::{Facts, Finding, MapFacts};

/// The kernel's, and the main thread's stack.
const KERNEL: [&str; 5] = ["[stack]", "[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"];
/// What the program break holds before `main`: the main thread's local data, and the kernel's rounding.
const BREAK: u64 = 16 << 10;
/// What a binary has beside its arena in the same zeroed memory.
const BESIDE_ARENA: u64 = 1 << 20;
/// A thread's stack, which the standard library asks for.
const STACK: u64 = 2 << 20;

/// A shared map as the manifest has it.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) protection: String,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

pub(super) fn compare_maps(facts: &Facts, expected: &Expectation, findings: &mut Vec<Finding>) {
    let mut shared = Vec::new();
    let (mut private, mut segments) = (Vec::new(), Vec::new());
    for map in &facts.maps {
        let can = |right: char| map.protection.contains(right);
        if can('w') && can('x') {
            findings.push(Finding::WritableExecutable { name: map.name.clone(), start: map.start });
            continue;
        }
        let of_process = map.protection.ends_with('p');
        match map.name.as_str() {
            "" | "[heap]" if of_process && !can('x') => private.push(map),
            name if of_process && KERNEL.contains(&name) && (!can('x') || name.starts_with("[v")) => {}
            name if of_process && name == facts.executable => segments.push(map),
            _ => shared.push(row(map)),
        }
    }
    compare_segments(&segments, findings);
    compare_shared(shared, expected.shared.clone(), findings);
    compare_private(facts, &segments, &private, expected, findings);
}

fn row(map: &MapFacts) -> Shared {
    let (name, protection) = (map.name.clone(), map.protection.clone());
    Shared { name, protection, offset: map.offset, bytes: map.end - map.start }
}

fn unexpected(row: Shared) -> Finding {
    let Shared { name, protection, offset, bytes } = row;
    Finding::UnexpectedMap { name, protection, offset, bytes }
}

/// One piece of code, one of data, and what can only be read.
fn compare_segments(segments: &[&MapFacts], findings: &mut Vec<Finding>) {
    let mut seen = Vec::new();
    for map in segments {
        let once = ["r-xp", "rw-p"].contains(&map.protection.as_str()) && !seen.contains(&&map.protection);
        if !once && map.protection != "r--p" {
            findings.push(unexpected(row(map)));
        }
        seen.push(&map.protection);
    }
}

/// Exactly the rows of the manifest. The kernel joins neighbours, so both sides are joined first.
fn compare_shared(found: Vec<Shared>, expected: Vec<Shared>, findings: &mut Vec<Finding>) {
    let mut left = joined(expected);
    for row in joined(found) {
        let same = |other: &Shared| {
            (&other.name, &other.protection, other.offset, other.bytes)
                == (&row.name, &row.protection, row.offset, row.bytes)
        };
        match left.iter().position(same) {
            Some(at) => drop(left.swap_remove(at)),
            None => findings.push(unexpected(row)),
        }
    }
    for Shared { name, protection, offset, bytes } in left {
        findings.push(Finding::MissingMap { name, protection, offset, bytes });
    }
}

/// Pieces of a file that follow each other with the same rights become one.
fn joined(mut rows: Vec<Shared>) -> Vec<Shared> {
    rows.sort_by(|a, b| (&a.name, &a.protection, a.offset, a.bytes).cmp(&(&b.name, &b.protection, b.offset, b.bytes)));
    let mut all: Vec<Shared> = Vec::new();
    for row in rows {
        let before = |other: &&mut Shared| {
            (&other.name, &other.protection) == (&row.name, &row.protection) && other.offset + other.bytes == row.offset
        };
        match all.iter_mut().find(before) {
            Some(other) => other.bytes += row.bytes,
            None => all.push(row),
        }
    }
    all
}

fn compare_private(
    facts: &Facts,
    segments: &[&MapFacts],
    private: &[&MapFacts],
    expected: &Expectation,
    findings: &mut Vec<Finding>,
) {
    let length = |map: &MapFacts| map.end - map.start;
    let (heap, anonymous): (Vec<&MapFacts>, Vec<&MapFacts>) = private.iter().partition(|map| map.name == "[heap]");
    let heap: u64 = heap.into_iter().map(length).sum();
    let usable: Vec<&MapFacts> = anonymous.into_iter().filter(|map| !map.protection.starts_with("---")).collect();
    let mut differs = |expected: String, found: String| findings.push(Finding::AnonymousMemory { expected, found });
    let arena = match expected.private {
        Private::Unchecked => return,
        Private::AtMost(bytes) => {
            let found = usable.into_iter().map(length).sum::<u64>() + heap;
            if found > bytes {
                differs(format!("at most {bytes:#x} bytes"), format!("{found:#x} bytes"));
            }
            return;
        }
        Private::Arena(bytes) => bytes,
    };
    if heap > BREAK {
        differs(format!("at most {BREAK:#x} bytes of program break"), format!("{heap:#x} bytes"));
    }
    // The arena is the binary's zeroed memory, which follows its data.
    let data = segments.iter().find(|map| map.protection == "rw-p").map(|map| map.end);
    let (zeroed, stacks): (Vec<&MapFacts>, Vec<&MapFacts>) =
        usable.into_iter().partition(|map| Some(map.start) == data && map.protection == "rw-p");
    let zeroed: u64 = zeroed.into_iter().map(length).sum();
    if !(arena..=arena + BESIDE_ARENA).contains(&zeroed) {
        differs(format!("an arena of {arena:#x} bytes"), format!("{zeroed:#x} bytes"));
    }
    let mut count: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    for map in stacks {
        *count.entry((&map.protection, length(map))).or_default() += 1;
    }
    let threads = facts.threads.len();
    let needed = [(("rw-p", facts.signal_stack), threads), (("rw-p", STACK), threads.saturating_sub(1))];
    let needed: BTreeMap<_, _> = needed.into_iter().filter(|(_, count)| *count > 0).collect();
    if count != needed {
        let text = |list: &BTreeMap<(&str, u64), usize>| {
            let parts = list.iter().map(|((protection, bytes), count)| format!("{count} of {bytes:#x} ({protection})"));
            parts.collect::<Vec<_>>().join(", ")
        };
        differs(format!("{} for {threads} threads", text(&needed)), text(&count));
    }
}
