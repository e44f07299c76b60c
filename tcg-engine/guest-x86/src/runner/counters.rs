//! What a run loop counts, for whoever looks at it: names and values, one for one.

use emit_x64::T1;

use super::Runner;
use crate::bus::Bus;
use crate::memory::Miss;

/// Names of the values of [`Runner::counters`], in their order. `docs/translator.md` says what each of them counts.
pub const COUNTERS: [&str; 30] = [
    "code-blocks",
    "code-instructions",
    "code-guest-bytes",
    "code-host-bytes",
    "code-memory-used",
    "code-memory",
    "code-clears",
    "code-reclaims",
    "code-reclaimed",
    "code-hot",
    "code-counted",
    "code-entries",
    "code-exits-unlinked",
    "code-exits-jump",
    "code-exits-budget",
    "code-exits-operation",
    "code-exits-resume",
    "code-interpreted",
    "blocks-interpreted",
    "translation-ns",
    "reclaim-ns",
    "lookups",
    "tlb-recalled",
    "tlb-walked",
    "tlb-faulted",
    "tlb-device",
    "pages-mirrored",
    "check-compared",
    "check-skipped",
    "check-different",
];

impl<B: Bus> Runner<B> {
    /// The values of [`COUNTERS`] since the vCPU was made.
    pub fn counters(&self) -> [u64; COUNTERS.len()] {
        let s = self.t1.as_ref().map(T1::stats).unwrap_or_default();
        let (used, size) = self.t1.as_ref().map(T1::memory_use).unwrap_or_default();
        let misses = self.cpu.misses;
        let check = self.check.as_ref().map_or([0; 3], |c| [c.compared, c.skipped, c.different]);
        [
            s.blocks,
            s.instructions,
            s.guest_bytes,
            s.host_bytes,
            used as u64,
            size as u64,
            s.clears,
            s.reclaims,
            self.cache.stats().reclaimed,
            s.hot,
            s.counted,
            s.entries,
            s.direct,
            s.jumps,
            s.budgets,
            s.stopped,
            s.resumed,
            s.interpreted,
            self.interpreted,
            self.translation_ns,
            self.reclaim_ns,
            self.lookups,
            misses.of(Miss::Recalled),
            misses.of(Miss::Walked),
            misses.of(Miss::Faulted),
            misses.of(Miss::Device),
            self.cpu.mirror.as_ref().map_or(0, mem::Mirror::put),
            check[0],
            check[1],
            check[2],
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_explained() {
        let text = include_str!("../../../../docs/translator.md");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
        for name in COUNTERS {
            let quoted = format!("`{name}`");
            let explained = |row: &&str| row.split('|').nth(1).is_some_and(|first| first.contains(&quoted));
            assert!(rows.iter().any(explained), "{name}");
        }
    }
}
