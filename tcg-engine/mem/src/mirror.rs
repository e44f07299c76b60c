//! Pieces of the guest's linear address space, laid out in this process as the guest sees them.
//!
//! The idea: a program's data lies on pages that are next to each other for the program, and anywhere in RAM. Accesses that go from page
//! to page would have to look each of them up; but once the host's MMU has the same pages in the same order
//! ([`guest_memory::Arrangement`]), the way from a linear to a host address is one and the same for all of them, and an access
//! needs to know no more than where such a run of pages begins and ends.
//!
//! A run is found page by page, by asking the TLB: it consists of pages that the guest may access now. It may be believed for as long as
//! [`crate::Tlb::shrinks`] stands still, and until then nothing within it is put elsewhere. To put a page costs some
//! microseconds of the host's kernel, so that has to be [earned](Mirror::earn).

use guest_memory::{Arrangement, Error};

use crate::PAGE;

/// Bytes of a window, the linear address space between two multiples of which it shows.
const WINDOW: u64 = 1 << WINDOW_LOG2;
const WINDOW_LOG2: u32 = 30;
/// Windows there are.
const WINDOWS: usize = 8;
/// Bytes of addresses that a mirror wants.
pub const MIRROR: u64 = WINDOW * WINDOWS as u64;
/// Pages that are looked at in each direction before a run is given out; it grows each time that it meets another one.
const STEPS: u64 = 256;
/// Runs of a window that are kept.
const RUNS: usize = 4;
/// Stretches of a window that are noted as given out; with more of them, all from the first to the last is. More than the pages that
/// may be put at once: a program that reads here and there has each of them given out by itself before they come together.
const GIVEN: usize = 2 * SAVED as usize;
/// Pages of a piece of 2 MiB.
const PIECE: u64 = 512;
/// Instructions that a page has to be put for.
const EARNED: u64 = 256 << 10;
/// Pages that may be put at once after a while. What a program copies begins with up to 511 small pages, and so does where to; an access
/// that finds no run there is looked up from then on, also in the large pages behind.
const SAVED: u64 = 2048;

/// What no TLB's [`crate::Tlb::shrinks`] will be.
const NEVER: u64 = u64::MAX;

/// Linear addresses that can be accessed by one and the same addend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first; a multiple of 4096.
    pub start: u64,
    /// Bytes, a multiple of 4096.
    pub len: u64,
    /// Host address minus linear address.
    pub addend: u64,
}

/// Page numbers, within a window.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    first: u64,
    end: u64,
}

impl Span {
    fn has(self, page: u64) -> bool {
        (self.first..self.end).contains(&page)
    }

    /// All pages from the first to the last of both.
    fn over(self, other: Span) -> Span {
        Span { first: self.first.min(other.first), end: self.end.max(other.end) }
    }

    /// All pages of both, if there are none between them.
    fn with(self, other: Span) -> Option<Span> {
        let near = self.first <= other.end && other.first <= self.end;
        near.then(|| self.over(other))
    }
}

/// What was put into a piece since the window shows its region.
#[derive(Clone)]
enum Piece {
    Nothing,
    /// A large page of the guest: the number in RAM of its first page.
    Whole(u64),
    /// By page: the number in RAM plus one, or 0.
    Pages(Box<[u32; PIECE as usize]>),
}

struct Window {
    /// The linear address of its first byte, in windows.
    region: u64,
    pieces: Vec<Piece>,
    /// Where a page, or a large one, was put at any time: each may be a mapping of its own.
    taken: Vec<u64>,
    /// Runs that were found, and whether they are for stores; valid while `shrinks` is the TLB's.
    runs: [(Span, bool); RUNS],
    next: usize,
    /// All pages that runs were given out for, and more if there are too many of them: ascending, with others between any two.
    given: Vec<Span>,
    shrinks: u64,
    used: u64,
}

impl Window {
    fn new() -> Self {
        let pages = WINDOW / PAGE;
        Window {
            region: u64::MAX,
            pieces: vec![Piece::Nothing; (pages / PIECE) as usize],
            taken: vec![0; (pages / 64) as usize],
            runs: Default::default(),
            next: 0,
            given: Vec::new(),
            shrinks: NEVER,
            used: 0,
        }
    }

    /// The number in RAM of the page that lies there, and whether its whole piece does.
    fn page(&self, page: u64) -> Option<(u64, bool)> {
        match &self.pieces[(page / PIECE) as usize] {
            Piece::Nothing => None,
            Piece::Whole(first) => Some((first + page % PIECE, true)),
            Piece::Pages(pages) => u64::from(pages[(page % PIECE) as usize]).checked_sub(1).map(|ram| (ram, false)),
        }
    }

    /// What is noted of a single page: its number in RAM plus one.
    fn note(&mut self, page: u64, value: u32) {
        let piece = &mut self.pieces[(page / PIECE) as usize];
        if !matches!(piece, Piece::Pages(_)) {
            *piece = Piece::Pages(Box::new([0; PIECE as usize]));
        }
        if let Piece::Pages(pages) = piece {
            pages[(page % PIECE) as usize] = value;
        }
    }

    /// Where a run around `page` begins and ends, of pages that are where `known` says. It ends at runs that are known.
    fn around(&self, page: u64, write: bool, known: impl Fn(u64) -> Option<(u64, bool)>) -> Span {
        let met = |page: u64| self.runs.iter().any(|(old, stores)| *stores == write && old.has(page));
        // A large page is as one page, but stores are known of by small ones.
        let same = |page: u64| {
            let (there, (ram, large)) = (self.page(page)?, known(page)?);
            (there.0 == ram).then_some(there.1 && large && !write)
        };
        let whole = same(page).unwrap_or(false);
        let start = if whole { page & !(PIECE - 1) } else { page };
        let mut span = Span { first: start, end: if whole { start + PIECE } else { page + 1 } };
        // A small page may have parts of a large one for neighbours, if both ways to see it are in the TLB.
        let step = |border: u64, whole: bool| if whole && border.is_multiple_of(PIECE) { PIECE } else { 1 };
        for _ in 0..STEPS {
            let next = span.first.checked_sub(1).filter(|page| !met(*page));
            let Some(whole) = next.and_then(same) else { break };
            span.first -= step(span.first, whole);
        }
        for _ in 0..STEPS {
            let next = Some(span.end).filter(|page| *page < WINDOW / PAGE && !met(*page));
            let Some(whole) = next.and_then(same) else { break };
            span.end += step(span.end, whole);
        }
        span
    }

    /// The run around `page`, and all that is known of what lies next to it.
    fn run(&mut self, page: u64, write: bool, known: impl Fn(u64) -> Option<(u64, bool)>) -> Span {
        let found = self.runs.iter().position(|(old, stores)| *stores == write && old.has(page));
        let mut span = match found {
            Some(n) => self.runs[n].0,
            None => {
                let span = self.around(page, write, known);
                self.give(span);
                span
            }
        };
        // Those that it meets go into it, or accesses would go from one to the next for ever.
        let mut to = found;
        for (n, (old, stores)) in self.runs.iter_mut().enumerate() {
            if *stores == write
                && let Some(both) = span.with(*old)
            {
                (span, *old) = (both, Span::default());
                to = to.or(Some(n));
            }
        }
        let to = to.unwrap_or_else(|| {
            self.next = (self.next + 1) % RUNS;
            self.next
        });
        self.runs[to] = (span, write);
        span
    }

    fn settle(&mut self, shrinks: u64) {
        if self.shrinks != shrinks {
            (self.shrinks, self.runs) = (shrinks, Default::default());
            self.given.clear();
        }
    }

    /// `span` is given out.
    fn give(&mut self, span: Span) {
        // Those that it meets become one with it.
        let first = self.given.partition_point(|old| old.end < span.first);
        let met = self.given[first..].partition_point(|old| old.first <= span.end);
        let all = self.given[first..first + met].iter().fold(span, |all, old| all.over(*old));
        self.given.splice(first..first + met, [all]);
        if self.given.len() > GIVEN {
            let all = self.given.drain(..).fold(span, Span::over);
            self.given.push(all);
        }
    }

    /// Whether any page of these was given out.
    fn is_given(&self, span: Span) -> bool {
        let next = self.given.partition_point(|old| old.end <= span.first);
        self.given.get(next).is_some_and(|old| old.first < span.end)
    }
}

/// The mirror of one vCPU.
pub struct Mirror {
    map: Arrangement,
    windows: Vec<Window>,
    /// Places where a page may still be put for the first time.
    places: u64,
    /// Instructions that have not been used to put pages.
    saved: u64,
    clock: u64,
    /// Pages put.
    put: u64,
    /// Why one could not be put.
    failure: Option<Error>,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("places", &self.places).field("put", &self.put).finish_non_exhaustive()
    }
}

impl Mirror {
    /// In `map`, of at least [`MIRROR`] bytes, with mappings for at most about `places` pages.
    pub fn new(map: Arrangement, places: u64) -> Self {
        let windows = (map.len() / WINDOW) as usize;
        Mirror {
            map,
            windows: (0..windows).map(|_| Window::new()).collect(),
            places,
            saved: SAVED * EARNED,
            clock: 0,
            put: 0,
            failure: None,
        }
    }

    /// It belongs to another TLB from now on.
    pub fn begin(&mut self) {
        for w in &mut self.windows {
            w.settle(NEVER);
        }
    }

    /// So many instructions have run.
    #[inline]
    pub fn earn(&mut self, instructions: u64) {
        self.saved = (self.saved + instructions).min(SAVED * EARNED);
    }

    /// The descriptor that it needs.
    pub fn descriptor(&self) -> std::os::fd::RawFd {
        self.map.descriptor()
    }

    /// Pages that were put.
    pub fn put(&self) -> u64 {
        self.put
    }

    /// Why a page could not be put, since this was asked for the last time.
    #[inline]
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// The run of pages around `va`, which may be accessed now. `known` says of a page, by a linear address of it, where in RAM it
    /// lies, if it may be accessed so (`write`) now, and whether it is a part of a large page, all of which may be loaded from. `None` if
    /// the page cannot be put in its place now.
    pub fn run(
        &mut self,
        va: u64,
        write: bool,
        shrinks: u64,
        known: impl Fn(u64) -> Option<(u64, bool)>,
    ) -> Option<Run> {
        let (region, page) = (va >> WINDOW_LOG2, va % WINDOW / PAGE);
        let known = |page: u64| known(region * WINDOW + page * PAGE).map(|(at, large)| (at / PAGE, large));
        let (ram, large) = known(page)?;
        let n = self.window(region, shrinks)?;
        self.put_page(n, page, ram, large)?;
        let span = self.windows[n].run(page, write, known);
        Some(Run {
            start: region * WINDOW + span.first * PAGE,
            len: (span.end - span.first) * PAGE,
            addend: self.map.address().wrapping_add(n as u64 * WINDOW).wrapping_sub(region * WINDOW),
        })
    }

    /// The window that shows `region`, which may have to take the place of another one.
    fn window(&mut self, region: u64, shrinks: u64) -> Option<usize> {
        self.clock += 1;
        let n = match self.windows.iter().position(|w| w.region == region) {
            Some(n) => n,
            None => {
                // Runs of it may still be believed otherwise.
                let idle = self.windows.iter().enumerate().filter(|(_, w)| w.shrinks != shrinks);
                let (n, _) = idle.min_by_key(|(_, w)| w.used)?;
                let w = &mut self.windows[n];
                w.region = region;
                w.pieces.fill(Piece::Nothing);
                n
            }
        };
        self.windows[n].settle(shrinks);
        self.windows[n].used = self.clock;
        Some(n)
    }

    /// Have page `page` of window `n` be page `ram` of RAM, with the 2 MiB around it if it is `large`.
    fn put_page(&mut self, n: usize, page: u64, ram: u64, large: bool) -> Option<()> {
        let w = &mut self.windows[n];
        let there = w.page(page);
        if there.is_some_and(|(there, whole)| there == ram && (whole || !large)) {
            return Some(());
        }
        let (first, len, ram) = match ram.checked_sub(page % PIECE) {
            Some(base) if large && base.is_multiple_of(PIECE) => (page & !(PIECE - 1), PIECE, base),
            // The guest's large page does not lie so in RAM.
            _ if there.is_some_and(|(there, _)| there == ram) => return Some(()),
            _ => (page, 1, ram),
        };
        // What was given out may be believed to be where it is.
        if w.is_given(Span { first, end: first + len }) {
            return None;
        }
        let (word, bit) = (first as usize / 64, 1u64 << (first % 64));
        let new = w.taken[word] & bit == 0;
        let value = u32::try_from(ram + 1).ok()?;
        if self.saved < EARNED || new && self.places == 0 {
            return None;
        }
        self.saved -= EARNED;
        // Nothing is what it was there, whether that succeeds or not.
        if len > 1 {
            w.pieces[(first / PIECE) as usize] = Piece::Nothing;
        } else {
            w.note(page, 0);
        }
        if let Err(e) = self.map.put(n as u64 * WINDOW + first * PAGE, ram * PAGE, len > 1) {
            // Too many mappings, most likely.
            self.places = 0;
            self.failure = Some(e);
            return None;
        }
        if len > 1 {
            w.pieces[(first / PIECE) as usize] = Piece::Whole(ram);
        } else {
            w.note(page, value);
        }
        w.taken[word] |= bit;
        self.places -= u64::from(new);
        self.put += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use guest_memory::{Access, Memfd, Ram};

    use super::*;

    /// Pages of RAM.
    const RAM: u64 = 4 * SAVED;
    /// Where things are mapped.
    const VA: u64 = 0x7f12_3456_7000;

    struct World {
        mirror: Mirror,
        /// Keeps what is in RAM.
        _ram: Ram,
        /// What the guest may load from, and store to: page to page in RAM, and whether it is a part of a large one.
        tables: [HashMap<u64, (u64, bool)>; 2],
        shrinks: u64,
    }

    impl World {
        fn new(places: u64) -> World {
            let file = Arc::new(Memfd::create("ram", RAM * PAGE).unwrap());
            let ram = Ram::map(file.as_fd(), RAM * PAGE, Access::ReadWrite).unwrap();
            let mirror = Mirror::new(Arrangement::new(file, RAM * PAGE, MIRROR).unwrap(), places);
            World { mirror, _ram: ram, tables: Default::default(), shrinks: 1 }
        }

        /// Pages from `va` on are these of RAM, for loads and for stores.
        fn map(&mut self, va: u64, pages: impl IntoIterator<Item = u64>) {
            for (n, page) in pages.into_iter().enumerate() {
                for table in &mut self.tables {
                    table.insert(va / PAGE + n as u64, (page, false));
                }
            }
        }

        fn run(&mut self, va: u64, write: bool) -> Option<Run> {
            let table = &self.tables[usize::from(write)];
            let known = |va: u64| table.get(&(va / PAGE)).map(|(page, large)| (page * PAGE, *large));
            self.mirror.run(va, write, self.shrinks, known)
        }

        fn pages(&mut self, va: u64, write: bool) -> Option<(u64, u64)> {
            self.run(va, write).map(|run| (run.start.wrapping_sub(VA) / PAGE, run.len / PAGE))
        }
    }

    #[test]
    fn a_run_grows_as_its_pages_are_met() {
        let mut w = World::new(100);
        w.map(VA, [5, 9, 3]);
        w.map(VA + 4 * PAGE, [1]);
        assert_eq!(w.pages(VA + 8, false), Some((0, 1)));
        assert_eq!(w.pages(VA + 2 * PAGE, false), Some((2, 1)));
        assert_eq!(w.pages(VA + 4 * PAGE, false), Some((4, 1)));
        assert_eq!(w.pages(VA + PAGE + 5, false), Some((0, 3)));
        assert_eq!((w.pages(VA, false), w.pages(VA + 2 * PAGE, false)), (Some((0, 3)), Some((0, 3))));
        assert_eq!((w.pages(VA + 3 * PAGE, false), w.mirror.put()), (None, 4), "nobody knows it");
        // What is in its place already is found again at once.
        w.shrinks += 1;
        assert_eq!((w.pages(VA, false), w.mirror.put()), (Some((0, 3)), 4));
    }

    #[test]
    fn what_cannot_be_put_is_said_once_and_no_place_is_tried_after_it() {
        let mut w = World::new(100);
        w.map(VA, [5, RAM, 3]);
        assert_eq!(w.pages(VA, false), Some((0, 1)));
        assert!(w.mirror.take_failure().is_none());
        assert_eq!(w.pages(VA + PAGE, false), None);
        assert!(w.mirror.take_failure().is_some() && w.mirror.take_failure().is_none());
        assert_eq!((w.pages(VA + 2 * PAGE, false), w.mirror.put()), (None, 1));
        assert!(w.mirror.take_failure().is_none());
    }

    #[test]
    fn what_may_be_loaded_from_may_not_be_stored_to() {
        let mut w = World::new(100);
        w.map(VA, [5, 9, 3]);
        for page in 0..3 {
            w.run(VA + page * PAGE, false);
        }
        assert_eq!(w.pages(VA, false), Some((0, 3)));
        w.tables[1].remove(&(VA / PAGE + 1));
        assert_eq!((w.pages(VA, true), w.pages(VA + 2 * PAGE, true)), (Some((0, 1)), Some((2, 1))));
        assert_eq!(w.pages(VA + PAGE, true), None);
    }

    #[test]
    fn nothing_that_was_given_out_is_put_elsewhere() {
        let mut w = World::new(100);
        w.map(VA, [5, 9]);
        w.run(VA, false);
        w.run(VA + PAGE, false);
        // Another page, without a flush: as long as the old one may be believed, it stays.
        w.map(VA + PAGE, [7]);
        assert_eq!(w.run(VA + PAGE, true), None);
        w.shrinks += 1;
        assert_eq!(w.pages(VA, false), Some((0, 1)));
        assert_eq!(w.pages(VA + PAGE, true), Some((0, 2)));
        assert_eq!((w.pages(VA + PAGE, false), w.mirror.put()), (Some((0, 2)), 3));
        // So does a window, and there are no more.
        for n in 1..=WINDOWS as u64 {
            w.map(VA + n * WINDOW, [n]);
            assert_eq!(w.run(VA + n * WINDOW, false).is_some(), n < WINDOWS as u64, "{n}");
        }
        w.shrinks += 1;
        let n = WINDOWS as u64;
        assert!(w.run(VA + n * WINDOW, false).is_some());
        assert!(w.run(VA, false).is_some(), "in place of another one");
    }

    #[test]
    fn what_was_given_out_for_another_tlb_is_forgotten() {
        let mut w = World::new(100);
        w.map(VA, [5]);
        w.run(VA, false);
        w.map(VA, [7]);
        assert_eq!(w.run(VA, false), None);
        w.mirror.begin();
        assert_eq!((w.pages(VA, false), w.mirror.put()), (Some((0, 1)), 2));
    }

    /// The kernel may have taken away what was there before it refused.
    #[test]
    fn where_nothing_can_be_put_nothing_is() {
        const START: u64 = VA & !(PIECE * PAGE - 1);
        let mut w = World::new(100);
        w.map(START, 0..4);
        for page in 0..4 {
            w.run(START + page * PAGE, false);
        }
        w.shrinks += 1;
        // A large page that is not in RAM.
        w.tables[0].insert(START / PAGE + 9, (RAM + 9, true));
        assert_eq!((w.run(START + 9 * PAGE, false), w.mirror.put()), (None, 4));
        assert_eq!((w.run(START, false).map(|run| run.len), w.mirror.put()), (Some(PAGE), 5), "it is put once more");
        assert_eq!(w.run(START + 20 * PAGE, false), None);
        w.map(START + 20 * PAGE, [1]);
        assert_eq!(w.run(START + 20 * PAGE, false), None, "there are no more places");
    }

    /// There are more stretches that were given out than are noted: what lies between them counts as given out as well, and nothing less.
    #[test]
    fn of_many_stretches_none_is_forgotten() {
        let mut w = World::new(u64::MAX);
        let many = GIVEN as u64 + 300;
        for n in 0..many {
            w.mirror.earn(EARNED);
            w.map(VA + 2 * n * PAGE, [n]);
            assert!(w.run(VA + 2 * n * PAGE, false).is_some());
        }
        for n in 0..many {
            w.mirror.earn(EARNED);
            w.map(VA + 2 * n * PAGE, [100 + n]);
            assert_eq!(w.run(VA + 2 * n * PAGE, false), None, "{n}");
        }
        w.shrinks += 1;
        for n in 0..many {
            w.mirror.earn(EARNED);
            assert!(w.run(VA + 2 * n * PAGE, false).is_some(), "{n}");
        }
    }

    /// A program that reads here and there meets each page by itself at first.
    #[test]
    fn pages_that_are_met_in_any_order_come_together() {
        let mut w = World::new(u64::MAX);
        w.map(VA, 0..SAVED);
        for n in 0..SAVED {
            assert!(w.run(VA + n * 195 % SAVED * PAGE, false).is_some(), "{n}");
        }
        for n in 0..SAVED {
            w.run(VA + n * 195 % SAVED * PAGE, false);
        }
        assert_eq!((w.pages(VA, false), w.mirror.put()), (Some((0, SAVED)), SAVED));
    }

    #[test]
    fn large_pages_take_places_too() {
        const START: u64 = VA & !(PIECE * PAGE - 1);
        let mut w = World::new(1);
        for n in 0..2 {
            w.tables[0].insert(START / PAGE + n * PIECE, (n * PIECE, true));
        }
        assert_eq!([0, 1].map(|n| w.run(START + n * PIECE * PAGE, false).is_some()), [true, false]);
    }

    #[test]
    fn a_window_that_shows_something_else_knows_nothing_of_before() {
        let mut w = World::new(1000);
        for n in 0..=WINDOWS as u64 {
            w.map(VA + n * WINDOW, [5, 9]);
            w.run(VA + n * WINDOW, false);
            w.run(VA + n * WINDOW + PAGE, false);
            w.shrinks += 1;
        }
        let put = w.mirror.put();
        w.map(VA, [5, 7]);
        assert_eq!(w.pages(VA, false), Some((0, 1)));
        assert_eq!((w.pages(VA + PAGE, false), w.mirror.put()), (Some((0, 2)), put + 2));
    }

    #[test]
    fn large_pages_are_put_as_a_whole() {
        const START: u64 = VA & !(PIECE * PAGE - 1);
        let mut w = World::new(100);
        for n in 0..2 * PIECE {
            // The second one lies before the first in RAM.
            let page = if n < PIECE { 2 * PIECE + n } else { n };
            w.tables[0].insert(START / PAGE + n, (page, true));
            w.tables[1].insert(START / PAGE + n, (page, true));
        }
        assert_eq!(w.run(START + 5, false).map(|run| run.len), Some(PIECE * PAGE));
        assert_eq!(
            w.run(START + PIECE * PAGE + 0x5005, false).map(|run| (run.start, run.len)),
            Some((START, 2 * PIECE * PAGE))
        );
        assert_eq!(w.mirror.put(), 2);
        // Stores go by small ones, of which each was marked; all that is met at first is what is near.
        w.tables[1].retain(|page, _| *page == START / PAGE + 7);
        assert_eq!(w.run(START + 7 * PAGE, true).map(|run| (run.start, run.len)), Some((START + 7 * PAGE, PAGE)));
        assert_eq!(w.mirror.put(), 2);
        // The guest's large page becomes small ones, and one is another.
        w.shrinks += 1;
        for n in 0..PIECE {
            w.tables[0].insert(START / PAGE + n, (if n == 3 { 1 } else { 2 * PIECE + n }, false));
        }
        assert_eq!(w.run(START, false).map(|run| run.len), Some(3 * PAGE));
        assert_eq!(w.run(START + 3 * PAGE, false).map(|run| (run.start, run.len)), Some((START, 4 * PAGE)));
    }

    /// The guest has made small pages of a large one and a large one of them again, which takes no flush: one is still known as small.
    #[test]
    fn a_small_page_among_parts_of_a_large_one_moves_no_border_beyond_it() {
        const PAGES: u64 = WINDOW / PAGE;
        let whole = PIECE * PAGE;
        for first in [0, 7 * PIECE, PAGES - PIECE] {
            for small in [0, 1, 7, PIECE - 1] {
                let mut w = World::new(100);
                let start = (VA & !(WINDOW - 1)) + first * PAGE;
                for n in 0..PIECE {
                    w.tables[0].insert(start / PAGE + n, (n, true));
                }
                assert_eq!(w.run(start, false).map(|run| (run.start, run.len)), Some((start, whole)));
                w.shrinks += 1;
                w.tables[0].insert(start / PAGE + small, (small, false));
                let run = w.run(start + small * PAGE, false).unwrap();
                assert!(run.start >= start && run.start + run.len <= start + whole, "{first} {small}: {run:x?}");
                assert!(run.len > PAGE, "its neighbours are known");
            }
        }
    }

    #[test]
    fn putting_pages_has_to_be_earned_and_places_are_few() {
        let mut w = World::new(3);
        w.map(VA, 0..RAM);
        let put =
            |w: &mut World, pages: u64| (0..pages).filter(|page| w.run(VA + page * PAGE, false).is_some()).count();
        assert_eq!(put(&mut w, 10), 3);
        w.shrinks += 1;
        w.map(VA, 100..110);
        assert_eq!(put(&mut w, 10), 3, "the places are those of before");
        let mut w = World::new(u64::MAX);
        w.map(VA, 0..RAM);
        assert_eq!(put(&mut w, RAM), SAVED as usize);
        w.mirror.earn(2 * EARNED + 5);
        assert_eq!(put(&mut w, RAM), SAVED as usize + 2);
    }
}
