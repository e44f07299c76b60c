//! Who gets which part of guest memory while a guest is loaded.
//!
//! The idea: one sorted list of claims over the usable ranges of the memory map. Everything that is written is claimed
//! first, so two things can never overlap, and all of it together can never be more than the memory.

use machine_model::{E820Entry, E820Kind};

use crate::error::LoadError;

/// End of what a 32-bit pointer reaches.
pub const FOUR_GIB: u64 = 1 << 32;
/// Size of the pages that tables and files are aligned to.
pub const PAGE: u64 = 4096;

/// Where in the memory something may be placed, and from which side the search goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Lowest address allowed.
    pub from: u64,
    /// First address that is not allowed any more.
    pub below: u64,
    /// Prefer the highest place instead of the lowest.
    pub from_top: bool,
}

impl Window {
    /// The lowest place in `from..below`.
    pub const fn lowest(from: u64, below: u64) -> Self {
        Self { from, below, from_top: false }
    }

    /// The highest place in `from..below`.
    pub const fn highest(from: u64, below: u64) -> Self {
        Self { from, below, from_top: true }
    }

    /// Any place that a 32-bit pointer reaches, the lowest first.
    pub const fn any32() -> Self {
        Self::lowest(PAGE, FOUR_GIB)
    }
}

/// What to do when something does not fit.
pub(crate) const MORE_MEMORY: &str = "give the machine more memory";

#[derive(Debug, Clone)]
struct Claim {
    start: u64,
    end: u64,
    what: String,
}

/// The claims on the usable memory of one machine.
#[derive(Debug)]
pub(crate) struct Layout {
    usable: Vec<(u64, u64)>,
    claims: Vec<Claim>,
}

impl Layout {
    /// Starts with nothing claimed but page 0 (interrupt vectors and BIOS data, where null pointers point).
    ///
    /// Fails if a region runs past the end of the address space.
    pub fn new(map: &[E820Entry]) -> Result<Self, LoadError> {
        let mut usable = Vec::new();
        for region in map {
            let Some(end) = region.span.start.checked_add(region.span.len) else {
                return Err(LoadError::Machine(format!(
                    "the memory region at {:#x} with {:#x} bytes ends past the last address",
                    region.span.start, region.span.len
                )));
            };
            if region.kind == E820Kind::Usable && region.span.len > 0 {
                usable.push((region.span.start, end));
            }
        }
        usable.sort_unstable();
        // Neighbours are one range, so that something may lie across their border.
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(usable.len());
        for (start, end) in usable {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        let claims = vec![Claim { start: 0, end: PAGE, what: "the interrupt vectors and BIOS data".into() }];
        Ok(Self { usable: merged, claims })
    }

    /// Marks a range as taken without asking whether it is usable: for tables that are written to reserved ranges.
    pub fn mark(&mut self, start: u64, size: u64, what: &str) {
        if size > 0 {
            let at = self.claims.partition_point(|claim| claim.start <= start);
            self.claims.insert(at, Claim { start, end: start.saturating_add(size), what: what.to_owned() });
        }
    }

    /// Takes exactly `start..start + size`, or says who has it.
    pub fn claim(&mut self, start: u64, size: u64, what: &str) -> Result<(), LoadError> {
        let end = start.checked_add(size).filter(|&end| self.usable.iter().any(|&(s, e)| s <= start && end <= e));
        let Some(end) = end else {
            return Err(self.no_room(what, size, format!(" at {start:#x}"), MORE_MEMORY));
        };
        if let Some(other) = self.claims.iter().find(|claim| claim.start < end && start < claim.end) {
            return Err(LoadError::Collision {
                what: what.to_owned(),
                start,
                end,
                other: other.what.clone(),
                other_start: other.start,
                other_end: other.end,
                remedy: "link the kernel to another address",
            });
        }
        self.mark(start, size, what);
        Ok(())
    }

    /// Finds and takes `size` bytes at a multiple of `align` inside `window`. `align` is a power of two.
    pub fn place(&mut self, size: u64, align: u64, window: Window, what: &str) -> Result<u64, LoadError> {
        let mut found = None;
        for (start, end) in self.gaps() {
            let (start, end) = (start.max(window.from), end.min(window.below));
            let Some(lowest) = start.checked_next_multiple_of(align) else { continue };
            let Some(highest) = end.checked_sub(size).map(|at| at & !(align - 1)) else { continue };
            if lowest > highest {
                continue;
            }
            found = Some(if window.from_top { highest } else { lowest });
            if !window.from_top {
                break;
            }
        }
        let Some(start) = found else {
            let place = format!(" in {:#x}..{:#x}", window.from, window.below);
            return Err(self.no_room(what, size, place, MORE_MEMORY));
        };
        self.mark(start, size, what);
        Ok(start)
    }

    /// The usable ranges in the order of their addresses.
    pub fn usable(&self) -> &[(u64, u64)] {
        &self.usable
    }

    /// The error for something that does not fit, with what there is.
    pub fn no_room(&self, what: &str, size: u64, place: String, remedy: &'static str) -> LoadError {
        let have = match self.usable.as_slice() {
            [] => "no usable memory at all".to_owned(),
            ranges => {
                let mut text = String::from("usable:");
                for (start, end) in ranges.iter().take(8) {
                    text.push_str(&format!(" {start:#x}..{end:#x}"));
                }
                text
            }
        };
        LoadError::NoRoom { what: what.to_owned(), size, place, have, remedy }
    }

    /// The unclaimed parts of the usable ranges, ascending.
    fn gaps(&self) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        for &(start, end) in &self.usable {
            let mut at = start;
            for claim in &self.claims {
                if claim.end <= at || claim.start >= end {
                    continue;
                }
                if claim.start > at {
                    gaps.push((at, claim.start));
                }
                at = at.max(claim.end);
            }
            if at < end {
                gaps.push((at, end));
            }
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use machine_model::Span;

    use super::*;

    fn layout() -> Layout {
        let usable = |start, len| E820Entry { span: Span { start, len }, kind: E820Kind::Usable };
        Layout::new(&[usable(0x10_0000, 0x10_0000), usable(0, 0x9_f000), usable(0x20_0000, 0x10_0000)]).unwrap()
    }

    #[test]
    fn the_lowest_and_the_highest_place() {
        let mut l = layout();
        assert_eq!(l.place(0x100, 16, Window::any32(), "a").unwrap(), PAGE);
        assert_eq!(l.place(0x100, PAGE, Window::any32(), "b").unwrap(), 2 * PAGE);
        assert_eq!(l.place(0x100, PAGE, Window::highest(0, FOUR_GIB), "c").unwrap(), 0x2f_f000);
        assert_eq!(l.place(0x100, PAGE, Window::highest(0, FOUR_GIB), "d").unwrap(), 0x2f_e000);
    }

    #[test]
    fn neighbours_are_one_range() {
        let mut l = layout();
        l.claim(0x10_0000, 0x20_0000, "kernel").unwrap();
        let error = l.claim(0x2f_ffff, 1, "again").unwrap_err().to_string();
        assert!(error.contains("kernel is at 0x100000..0x300000"), "{error}");
    }

    #[test]
    fn holes_and_overflow_are_not_usable() {
        let mut l = layout();
        assert!(matches!(l.claim(0x9_e000, 0x2000, "x"), Err(LoadError::NoRoom { .. })));
        assert!(matches!(l.claim(u64::MAX, 2, "x"), Err(LoadError::NoRoom { .. })));
        assert!(matches!(l.claim(0, 1, "x"), Err(LoadError::Collision { .. })));
        assert!(l.place(u64::MAX, PAGE, Window::any32(), "x").is_err());
        assert!(l.place(1 << 40, PAGE, Window::any32(), "x").is_err());
        let wrapping = E820Entry { span: Span { start: u64::MAX, len: 2 }, kind: E820Kind::Reserved };
        assert!(matches!(Layout::new(&[wrapping]), Err(LoadError::Machine(_))));
    }

    #[test]
    fn a_mark_on_reserved_memory_cuts_usable_memory_too() {
        let mut l = layout();
        l.mark(0x9_0000, 0x7_0000, "tables");
        assert!(l.claim(0x9_1000, 16, "x").is_err());
        assert_eq!(l.place(PAGE, PAGE, Window::highest(0, 0x10_0000), "y").unwrap(), 0x8_f000);
    }
}
