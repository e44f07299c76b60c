//! What holds of code memory whenever emitted code does not run, for tests: what leads somewhere leads to code that is there, and what
//! is remembered of code is of code that is there.

use std::collections::BTreeMap;
use std::ops::Range;

use super::T1;

impl T1 {
    /// What does not hold, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut found = Vec::new();
        let used: Vec<Range<usize>> = self.parts.areas().collect();
        let there = |at: usize| used.iter().any(|area| area.contains(&at));
        let heads: BTreeMap<usize, usize> =
            self.blocks.iter().enumerate().filter_map(|(n, b)| Some((b.as_ref()?.head as usize, n))).collect();
        let leads = |hole: u32| {
            let distance = self.memory.read(hole as usize, 4).try_into().map_or(0, i32::from_le_bytes);
            (i64::from(hole) + 4 + i64::from(distance)) as usize
        };
        let listed = |to: usize, hole: u32| {
            let block = heads.get(&to).and_then(|n| self.blocks[*n].as_ref());
            block.is_some_and(|b| b.incoming.iter().any(|(known, _)| *known == hole))
        };

        for (n, b) in self.blocks.iter().enumerate().filter_map(|(n, b)| Some((n, b.as_ref()?))) {
            if !there(b.head as usize) || !there((b.head + b.len) as usize - 1) {
                found.push(format!("block {n} has no code at {:#x}", b.head));
            }
            for (hole, unlinked) in &b.incoming {
                if !there(*hole as usize)
                    || !there(*unlinked as usize)
                    || leads(*hole) != b.head as usize
                    || b.from & self.parts.bit(*hole) == 0
                {
                    found.push(format!("block {n} knows of a link at {hole:#x} that leads to {:#x}", leads(*hole)));
                }
            }
        }
        let (exits, across): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (self.parts.exits().collect(), self.parts.across().collect());
        for (number, e) in &exits {
            let to = leads(e.hole);
            let known =
                to == e.unlinked as usize || across.get(number).is_some_and(|x| x.at == to) || listed(to, e.hole);
            if !there(e.hole as usize) || !known {
                found.push(format!("exit {number:#x} leads to {to:#x}"));
            }
        }
        for (number, x) in &across {
            let (to, own) = (leads(x.hole), x.at..x.at + x.len);
            if !exits.contains_key(number) {
                found.push(format!("there is no exit {number:#x}, which leads over {:#x}", x.at));
            } else if !own.clone().all(there) || !own.contains(&to) && !listed(to, x.hole) {
                found.push(format!("exit {number:#x} leads over {own:#x?} to {to:#x}"));
            }
        }
        for j in &self.jumps {
            let head = (j.code as usize).wrapping_sub(self.memory.exec() as usize);
            if j.code != 0 && !heads.contains_key(&head) {
                found.push(format!("a jump leads to {head:#x}"));
            }
        }
        if !self.memos.are_listed() {
            found.push("what a memo remembers will not be forgotten".into());
        }
        found
    }
}
