//! The `dirty` memfd: who has written what, and which pages hold translated code.
//!
//! One bit per 4 KiB of guest-physical space from the start of RAM, indexed like the RAM file, in little-endian atomic
//! words; on x86, where RAM starts at 0, `D` therefore *is* a vhost dirty log (`VHOST_SET_LOG_BASE`: bit n of the log is
//! the page at guest-physical n × 4096). This file owns the layout, the marks, and where the parties of a harvest, and those who
//! have code dropped, find their words; in which order they use them is `harvest.rs` and `stale.rs`.
#![expect(unsafe_code, reason = "says which types may lie in shared memory")]

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::harvest::{self, Rounds, Silent, VcpuEnd, VcpuLine};
use crate::mutants::{Mutant, on};
use crate::stale::{self, Tickets, Unheard};
use crate::{Access, Error, PAGE_SIZE, Ram, Result, Shared, SharedMap, futex};

/// "AtollDLg" in a little-endian word.
const MAGIC: u64 = u64::from_le_bytes(*b"AtollDLg");
/// Changes with the layout.
const VERSION: u64 = 3;
/// vCPUs that the ack page has room for.
pub(crate) const MAX_VCPUS: usize = 64;
/// Offset of the per-vCPU acks: a page of 64 cache lines.
const ACKS: u64 = PAGE_SIZE;
/// Offset of the first bitmap.
const BITMAPS: u64 = 2 * PAGE_SIZE;

/// Between two looks of a writer at whether it should give up waiting for the engine.
const LOOK: Duration = Duration::from_millis(100);

/// A page of a bitmap.
type WordsOfPage = [AtomicU64; PAGE_SIZE as usize / 8];

/// Where everything lies in the `dirty` memfd, as a function of the RAM file's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyLayout {
    /// Pages of 4 KiB that have a bit.
    pub pages: u64,
    /// Bytes of each bitmap, a multiple of 4096.
    pub bitmap_len: u64,
    /// Offset of `D`: written since the last harvest. This offset and `bitmap_len` are what a vhost back end is given.
    pub d: u64,
    /// Offset of the code-page bitmap: pages that translated code was made from.
    pub code: u64,
    /// Offset of `B`: what the current harvest found.
    pub b: u64,
    /// Offset of the write barrier of a background snapshot: pages that must be saved before they are written.
    pub barrier: u64,
    /// Offset of the stale pages: written by a process that is no engine, with translated code that is still to be dropped.
    pub stale: u64,
    /// Length of the memfd.
    pub len: u64,
}

impl DirtyLayout {
    /// The layout for a RAM file of `ram_len` bytes.
    pub const fn new(ram_len: u64) -> Self {
        let pages = ram_len.div_ceil(PAGE_SIZE);
        let bitmap_len = pages.div_ceil(8 * PAGE_SIZE) * PAGE_SIZE;
        Self {
            pages,
            bitmap_len,
            d: BITMAPS,
            code: BITMAPS + bitmap_len,
            b: BITMAPS + 2 * bitmap_len,
            barrier: BITMAPS + 3 * bitmap_len,
            stale: BITMAPS + 4 * bitmap_len,
            len: BITMAPS + 5 * bitmap_len,
        }
    }
}

/// The header, on the memfd's first page. The harvest number has a cache line of its own: every safepoint reads it. So have the
/// tickets of those who have code dropped.
#[repr(C)]
struct Header {
    magic: AtomicU64,
    version: AtomicU64,
    ram_len: AtomicU64,
    _line_of_magic: [AtomicU64; 5],
    harvest: AtomicU64,
    _line_of_harvest: [AtomicU64; 7],
    asked: AtomicU64,
    dropped: AtomicU64,
    /// Changes whenever `dropped` has: the futex.
    bell: AtomicU32,
}

// SAFETY: atomics and padding that nobody reads.
unsafe impl Shared for Header {}

// SAFETY: atomics and padding that nobody reads.
unsafe impl Shared for VcpuLine {}

/// The mapped `dirty` memfd.
#[derive(Debug)]
pub struct DirtyLog {
    map: SharedMap,
    layout: DirtyLayout,
}

impl DirtyLog {
    /// Writes the header of a fresh memfd of [`DirtyLayout::len`] bytes.
    ///
    /// # Errors
    /// A descriptor that is too short, unsealed or cannot be mapped.
    pub fn format(fd: BorrowedFd<'_>, ram_len: u64) -> Result<()> {
        let map = SharedMap::map(fd, 0, PAGE_SIZE, Access::ReadWrite, "dirty")?;
        if let Some(header) = map.typed::<Header>(0) {
            header.version.store(VERSION, Ordering::Relaxed);
            header.ram_len.store(ram_len, Ordering::Relaxed);
            header.magic.store(MAGIC, Ordering::Release);
        }
        Ok(())
    }

    /// Maps the `dirty` memfd of a VM whose RAM file has `ram_len` bytes.
    ///
    /// # Errors
    /// A descriptor that is too short, unsealed or cannot be mapped, or whose header does not fit.
    pub fn map(fd: BorrowedFd<'_>, ram_len: u64) -> Result<Self> {
        let layout = DirtyLayout::new(ram_len);
        let map = SharedMap::map(fd, 0, layout.len, Access::ReadWrite, "dirty")?;
        let log = Self { map, layout };
        let header = log.header();
        let fields = [
            ("magic", &header.magic, MAGIC),
            ("version", &header.version, VERSION),
            ("ram_len", &header.ram_len, ram_len),
        ];
        for (field, word, want) in fields {
            let have = word.load(Ordering::Acquire);
            if have != want {
                return Err(Error::BadHeader { field, have, want });
            }
        }
        Ok(log)
    }

    /// The layout in use.
    pub fn layout(&self) -> &DirtyLayout {
        &self.layout
    }

    fn at<T: Shared>(&self, off: u64) -> &T {
        // The layout is ours and the map was checked to hold all of it, so the offset of a field is always inside.
        self.map.typed(off).unwrap_or_else(|| unreachable!("field at {off:#x} of the dirty memfd"))
    }

    fn header(&self) -> &Header {
        self.at(0)
    }

    fn lines(&self) -> &[VcpuLine; MAX_VCPUS] {
        self.at(ACKS)
    }

    /// The end of vCPU `n`; `None` from 64 on.
    #[inline]
    pub fn vcpu(&self, n: usize) -> Option<VcpuEnd<'_>> {
        Some(VcpuEnd { harvest: &self.header().harvest, line: self.lines().get(n)? })
    }

    /// Begin a session of harvests, whatever there was before: every page is marked, and no write tag is older than that.
    ///
    /// # Errors
    /// As [`DirtyLog::harvest`].
    pub fn start(&self, ring: impl FnOnce(), wait: impl FnMut() -> bool) -> std::result::Result<u64, Silent> {
        self.mark_all();
        self.rounds().round(|| (), ring, wait)
    }

    /// One round, up to where the pages of `B` may be copied; see [`Rounds::round`]. Only one process at a time may do this.
    /// What an earlier round has left in `B` stays there.
    ///
    /// # Errors
    /// As [`Rounds::round`].
    pub fn harvest(&self, ring: impl FnOnce(), wait: impl FnMut() -> bool) -> std::result::Result<u64, Silent> {
        let collect = || {
            for off in (0..self.layout.bitmap_len).step_by(PAGE_SIZE as usize) {
                let (d, b) = (self.at::<WordsOfPage>(self.layout.d + off), self.at::<WordsOfPage>(self.layout.b + off));
                d.iter().zip(b).for_each(|(d, b)| harvest::collect(d, b));
            }
        };
        self.rounds().round(collect, ring, wait)
    }

    fn rounds(&self) -> Rounds<'_> {
        Rounds { harvest: &self.header().harvest, vcpus: self.lines() }
    }

    /// RAM offsets of the pages of `B`, ascending, by groups of 64 pages: offset of the first and a bit for each.
    pub fn harvested(&self) -> impl Iterator<Item = (u64, u64)> {
        let words = (0..self.layout.pages).step_by(64);
        words.filter_map(|page| {
            let bits = self.word(self.layout.b, page)?.0.load(Ordering::Acquire);
            // Whatever a foreign back end may have set behind the end of RAM.
            let inside = u64::MAX >> 64u64.saturating_sub(self.layout.pages - page);
            let bits = bits & inside;
            (bits != 0).then_some((page * PAGE_SIZE, bits))
        })
    }

    /// Pages of such a group have been copied.
    pub fn copied(&self, first: u64, bits: u64) {
        if let Some((word, _)) = self.word(self.layout.b, first / PAGE_SIZE) {
            word.fetch_and(!bits, Ordering::AcqRel);
        }
    }

    #[inline(always)]
    fn word(&self, bitmap: u64, page: u64) -> Option<(&AtomicU64, u64)> {
        if page >= self.layout.pages {
            return None;
        }
        Some((self.map.typed(bitmap + page / 64 * 8)?, 1 << (page % 64)))
    }

    /// The pages that `off..off+len` touches, clipped to RAM, by words of a bitmap: the first page of each, and the bits.
    fn words_of(&self, off: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
        let end = len.checked_sub(1).map_or(0, |n| off.saturating_add(n) / PAGE_SIZE + 1).min(self.layout.pages);
        let mut page = off / PAGE_SIZE;
        std::iter::from_fn(move || {
            let n = (64 - page % 64).min(end.checked_sub(page)?);
            if n == 0 {
                return None;
            }
            let word = (page, (u64::MAX >> (64 - n)) << (page % 64));
            page += n;
            Some(word)
        })
    }

    /// Marks the pages of `off..off+len` (RAM offsets) as written. A vCPU marks before it installs a write tag or stores
    /// without one; everybody else writes by [`DirtyLog::write`].
    #[inline]
    pub fn mark(&self, off: u64, len: u64) {
        if !on(Mutant::NotMarked) {
            for (page, bits) in self.words_of(off, len) {
                if let Some((word, _)) = self.word(self.layout.d, page) {
                    harvest::mark(word, bits);
                }
            }
        }
    }

    /// How a process that is no engine writes `len` bytes of RAM at `off`: `write` does, and the pages are marked when it has.
    /// Says whether translated code was made from any of them: then [`DirtyLog::drop_code`] must have returned before the guest is
    /// told of the data. One call is enough for any number of writes.
    #[inline]
    #[must_use = "code of the pages must be dropped"]
    pub fn write<R>(&self, off: u64, len: u64, write: impl FnOnce() -> R) -> (R, bool) {
        let write = || harvest::write_then_mark(write, || self.mark(off, len));
        stale::write_then_look::<AtomicU64, _>(write, || self.note_stale(off, len))
    }

    /// [`DirtyLog::write`] of `bytes` to `ram`; `None`, and nothing is written, if they do not lie in it.
    #[inline]
    pub fn write_bytes(&self, ram: &Ram, off: u64, bytes: &[u8]) -> Option<bool> {
        let (done, code) = self.write(off, bytes.len() as u64, || ram.write(off, bytes));
        done.map(|()| code)
    }

    /// Those of the pages that `off..off+len` touches that hold code are stale; answers whether any is.
    fn note_stale(&self, off: u64, len: u64) -> bool {
        self.words_of(off, len).fold(false, |any, (page, bits)| {
            let words = (self.word(self.layout.code, page), self.word(self.layout.stale, page));
            let (Some((code, _)), Some((stale, _))) = words else { return any };
            stale::note(code, stale, bits) || any
        })
    }

    fn tickets(&self) -> Tickets<'_> {
        let header = self.header();
        Tickets { asked: &header.asked, dropped: &header.dropped }
    }

    /// Have the engine drop the code of pages that were [written](DirtyLog::write) to: `ring` rings its eventfd `stale`. Sleeps until
    /// it has; `wait` is asked from time to time whether the engine may still come to it.
    ///
    /// # Errors
    /// [`Unheard`] if `wait` says no. The guest must not be told of the data then.
    pub fn drop_code(&self, ring: impl FnOnce(), mut wait: impl FnMut() -> bool) -> std::result::Result<(), Unheard> {
        let bell = &self.header().bell;
        let mut seen = bell.load(Ordering::Acquire);
        self.tickets().ask(ring, || {
            // What has been published since `seen` was read keeps this from sleeping.
            futex::wait(bell, seen, Some(LOOK));
            seen = bell.load(Ordering::Acquire);
            wait()
        })
    }

    /// The engine, when it was rung, and once before: `drop` is given the RAM offsets of the stale pages, and comes back when no vCPU
    /// has blocks of them any more. Whoever waits goes on then.
    pub fn serve_writers(&self, drop: impl FnOnce(&mut dyn Iterator<Item = u64>)) {
        self.tickets().serve(|| {
            let words = (0..self.layout.pages).step_by(64);
            let mut pages = words.flat_map(|first| {
                let bits = self.word(self.layout.stale, first).map_or(0, |(word, _)| stale::take(word));
                (0..64).filter(move |n| bits >> n & 1 != 0).map(move |n| (first + n) * PAGE_SIZE)
            });
            drop(&mut pages);
        });
        let bell = &self.header().bell;
        bell.fetch_add(1, Ordering::AcqRel);
        futex::wake_all(bell);
    }

    /// Whether the page at `off` is marked.
    pub fn is_marked(&self, off: u64) -> bool {
        self.word(self.layout.d, off / PAGE_SIZE).is_some_and(|(w, bit)| w.load(Ordering::SeqCst) & bit != 0)
    }

    /// Marks every page of RAM, as each migration session starts.
    pub fn mark_all(&self) {
        self.mark(0, self.layout.pages * PAGE_SIZE);
    }

    /// Records that translated code was made from the page at `off`; answers whether it was recorded already. Set the
    /// bit before reading the page's bytes: a writer then either is seen in them or sees the bit.
    #[inline]
    pub fn set_code(&self, off: u64) -> bool {
        self.word(self.layout.code, off / PAGE_SIZE)
            .is_some_and(|(w, bit)| w.fetch_or(bit, Ordering::SeqCst) & bit != 0)
    }

    /// Whether the page at `off` holds translated code.
    #[inline]
    pub fn is_code(&self, off: u64) -> bool {
        self.word(self.layout.code, off / PAGE_SIZE).is_some_and(|(w, bit)| w.load(Ordering::SeqCst) & bit != 0)
    }

    /// Forgets the page's code; answers whether there was any.
    #[inline]
    pub fn clear_code(&self, off: u64) -> bool {
        self.word(self.layout.code, off / PAGE_SIZE)
            .is_some_and(|(w, bit)| w.fetch_and(!bit, Ordering::SeqCst) & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Memfd, VcpuState};
    use std::os::fd::AsFd;

    const RAM: u64 = 300 * PAGE_SIZE;

    fn log() -> (std::os::fd::OwnedFd, DirtyLog) {
        let fd = Memfd::create("dirty", DirtyLayout::new(RAM).len).unwrap();
        DirtyLog::format(fd.as_fd(), RAM).unwrap();
        let log = DirtyLog::map(fd.as_fd(), RAM).unwrap();
        (fd, log)
    }

    #[test]
    fn layouts_do_not_overlap_and_cover_ram() {
        for ram in [4096, 128 << 20, (128 << 20) + 4096, 6 << 30, 1 << 40] {
            let l = DirtyLayout::new(ram);
            assert!(l.bitmap_len * 8 >= l.pages && l.bitmap_len.is_multiple_of(4096), "{ram}");
            let mut ends = BITMAPS;
            for start in [l.d, l.code, l.b, l.barrier, l.stale, l.len] {
                assert_eq!(start, ends);
                ends = start + l.bitmap_len;
            }
        }
        assert_eq!(DirtyLayout::new(6 << 30).bitmap_len, 192 << 10);
    }

    #[test]
    fn marks_are_a_vhost_log() {
        let (fd, log) = log();
        log.mark(5 * PAGE_SIZE + 4095, 2);
        log.mark(64 * PAGE_SIZE, 1);
        log.mark(100 * PAGE_SIZE, 100 * PAGE_SIZE);
        log.mark(299 * PAGE_SIZE, u64::MAX);
        log.mark(7, 0);
        log.mark(u64::MAX, 5);
        // The back end's view: plain bytes, bit n%8 of byte n/8.
        let bytes =
            SharedMap::map(fd.as_fd(), log.layout().d, log.layout().bitmap_len, Access::ReadOnly, "dirty").unwrap();
        for page in 0..log.layout().bitmap_len * 8 {
            let bit = bytes.load::<u8>(page / 8).unwrap() >> (page % 8) & 1;
            let want = matches!(page, 5 | 6 | 64 | 100..=199 | 299);
            assert_eq!(bit == 1, want, "page {page}");
            assert_eq!(log.is_marked(page * PAGE_SIZE), want, "page {page}");
        }
    }

    #[test]
    fn mark_all_stops_at_the_end_of_ram() {
        let (_fd, log) = log();
        log.mark_all();
        assert!((0..300).all(|p| log.is_marked(p * PAGE_SIZE)));
        assert_eq!(log.map.load::<u64>(log.layout.d + 300 / 64 * 8), Some((1 << (300 % 64)) - 1));
        assert_eq!(log.map.load::<u64>(log.layout.code), Some(0));
    }

    #[test]
    fn code_bits_are_their_own() {
        let (_fd, log) = log();
        assert!(!log.set_code(3 * PAGE_SIZE + 9));
        assert!(log.set_code(3 * PAGE_SIZE));
        assert!(log.is_code(3 * PAGE_SIZE + 4095) && !log.is_code(4 * PAGE_SIZE) && !log.is_marked(3 * PAGE_SIZE));
        assert!(log.clear_code(3 * PAGE_SIZE) && !log.clear_code(3 * PAGE_SIZE));
        assert!(!log.set_code(RAM) && !log.is_code(RAM), "outside RAM nothing is recorded");
    }

    #[test]
    fn vcpus_have_lines_and_headers_are_checked() {
        let (fd, log) = log();
        let v = log.vcpu(63).unwrap();
        assert_eq!(v.line.state(), VcpuState::Parked);
        v.leave(VcpuState::Blocked);
        assert_eq!(log.harvest(|| (), || false), Ok(1));
        let again = DirtyLog::map(fd.as_fd(), RAM).unwrap();
        assert_eq!(again.vcpu(63).unwrap().line.state(), VcpuState::Blocked);
        assert_eq!(again.harvest(|| (), || false), Ok(2));
        assert!(log.vcpu(64).is_none());
        assert_eq!(size_of::<VcpuLine>(), 64);
        assert!(matches!(DirtyLog::map(fd.as_fd(), RAM - 4096), Err(Error::BadHeader { field: "ram_len", .. })));
        let empty = Memfd::create("dirty", DirtyLayout::new(RAM).len).unwrap();
        assert!(matches!(DirtyLog::map(empty.as_fd(), RAM), Err(Error::BadHeader { field: "magic", .. })));
    }

    #[test]
    fn a_running_vcpu_is_waited_for_and_drops_its_tags_once() {
        let (_fd, log) = log();
        let (v, mut seen, mut drops) = (log.vcpu(5).unwrap(), 0, 0);
        v.enter();
        v.safepoint(&mut seen, || drops += 1);
        assert_eq!(drops, 0, "nothing was harvested");
        let mut patience = 3;
        let mut wait = || {
            patience -= 1;
            patience > 0
        };
        assert_eq!(log.harvest(|| (), &mut wait), Err(Silent(5)));
        // It acknowledges while the harvester waits, and both of its numbers at once.
        let acks = || {
            v.safepoint(&mut seen, || drops += 1);
            true
        };
        assert_eq!(log.harvest(|| (), acks), Ok(2));
        v.safepoint(&mut seen, || drops += 1);
        assert_eq!((drops, seen), (1, 2));
        for away in [VcpuState::Blocked, VcpuState::Parked] {
            v.leave(away);
            assert!(log.harvest(|| (), || false).is_ok());
        }
        v.enter();
        assert_eq!(log.harvest(|| (), || false), Err(Silent(5)));
    }

    #[test]
    fn a_session_begins_with_every_page_and_a_round_takes_what_is_marked() {
        let (_fd, log) = log();
        let pages = |log: &DirtyLog| {
            let bits =
                |(first, bits): (u64, u64)| (0..64).filter(move |n| bits >> n & 1 != 0).map(move |n| first / 4096 + n);
            log.harvested().flat_map(bits).collect::<Vec<_>>()
        };
        log.start(|| (), || false).unwrap();
        assert!(pages(&log).is_empty());
        log.harvest(|| (), || false).unwrap();
        assert_eq!(pages(&log), (0..300).collect::<Vec<_>>());
        for (first, bits) in log.harvested() {
            log.copied(first, bits);
        }
        assert!(pages(&log).is_empty() && !log.is_marked(0));
        log.mark(70 * PAGE_SIZE, 2 * PAGE_SIZE);
        log.harvest(|| (), || false).unwrap();
        log.mark(299 * PAGE_SIZE, 1);
        log.harvest(|| (), || false).unwrap();
        assert_eq!(pages(&log), [70, 71, 299], "what was not copied stays");
        log.word(log.layout.d, 299).unwrap().0.fetch_or(1 << 63, Ordering::SeqCst);
        log.harvest(|| (), || false).unwrap();
        log.copied(64 * PAGE_SIZE, 1 << 6);
        assert_eq!(pages(&log), [71, 299]);
    }

    #[test]
    fn what_a_device_writes_is_marked_and_hits_code() {
        let (_fd, log) = log();
        let ram = Memfd::create("ram", RAM).unwrap();
        let ram = Ram::map(ram.as_fd(), RAM, Access::ReadWrite).unwrap();
        log.set_code(9 * PAGE_SIZE);
        assert_eq!(log.write_bytes(&ram, 5 * PAGE_SIZE - 1, &[7; 2]), Some(false));
        assert!(log.is_marked(4 * PAGE_SIZE) && log.is_marked(5 * PAGE_SIZE) && !log.is_marked(6 * PAGE_SIZE));
        assert_eq!(ram.load_u16(5 * PAGE_SIZE - 1), Some(0x707));
        assert_eq!(log.write_bytes(&ram, 9 * PAGE_SIZE - 1, &[7; 2]), Some(true));
        assert_eq!(log.write_bytes(&ram, RAM - 1, &[7; 2]), None);
        let order = log.write(0, 1, || log.is_marked(0));
        assert_eq!((order, log.is_marked(0)), ((false, false), true), "marked when it is written");
        let order = log.write(0, 1, || log.set_code(0));
        assert_eq!(order, (false, true), "code is looked for when it is written");
    }

    /// What the engine finds stale.
    fn stale(log: &DirtyLog) -> Vec<u64> {
        let mut found = Vec::new();
        log.serve_writers(|pages| found.extend(pages.map(|at| at / PAGE_SIZE)));
        found
    }

    #[test]
    fn pages_with_code_that_are_written_are_stale_until_the_engine_takes_them() {
        let (_fd, log) = log();
        for page in [3, 63, 64, 70, 299] {
            log.set_code(page * PAGE_SIZE);
        }
        assert!(!log.write(0, 3 * PAGE_SIZE, || ()).1 && !log.write(4 * PAGE_SIZE, 0, || ()).1);
        assert!(stale(&log).is_empty());
        assert!(log.write(3 * PAGE_SIZE - 1, 2, || ()).1);
        assert!(log.write(63 * PAGE_SIZE, 7 * PAGE_SIZE, || ()).1);
        assert!(log.write(299 * PAGE_SIZE + 5, u64::MAX, || ()).1);
        assert!(!log.write(RAM, 1, || ()).1);
        assert_eq!(stale(&log), [3, 63, 64, 299]);
        assert!(stale(&log).is_empty(), "they are taken once");
        assert!(log.write(0, 4 * PAGE_SIZE, || ()).1, "the code is there until the engine says otherwise");
        assert_eq!(stale(&log), [3]);
    }

    #[test]
    fn a_writer_sleeps_until_the_engine_has_come_to_its_ticket() {
        let (fd, log) = log();
        log.set_code(9 * PAGE_SIZE);
        let rings = AtomicU64::new(0);
        let done = AtomicU64::new(0);
        std::thread::scope(|s| {
            for n in 0..3 {
                let (fd, rings, done) = (&fd, &rings, &done);
                s.spawn(move || {
                    let log = DirtyLog::map(fd.as_fd(), RAM).unwrap();
                    assert!(log.write(9 * PAGE_SIZE + n, 1, || ()).1);
                    let ring = || assert!(rings.fetch_add(1, Ordering::SeqCst) < 3);
                    log.drop_code(ring, || true).unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
            while rings.load(Ordering::SeqCst) < 3 {
                std::thread::yield_now();
            }
            log.serve_writers(|pages| {
                assert_eq!(pages.collect::<Vec<_>>(), [9 * PAGE_SIZE]);
                std::thread::sleep(Duration::from_millis(5));
                assert_eq!(done.load(Ordering::SeqCst), 0, "nothing is dropped yet");
            });
        });
        assert_eq!(done.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_writer_gives_up_or_dies_and_nothing_is_lost() {
        let (_fd, log) = log();
        log.set_code(9 * PAGE_SIZE);
        let mut looks = 3;
        let mut patience = || {
            looks -= 1;
            looks > 0
        };
        assert!(log.write(9 * PAGE_SIZE, 1, || ()).1);
        assert_eq!(log.drop_code(|| (), &mut patience), Err(Unheard));
        // Another one dies without a ticket; its page goes with the next.
        log.set_code(10 * PAGE_SIZE);
        assert!(log.write(10 * PAGE_SIZE, 1, || ()).1);
        let mut found = Vec::new();
        log.drop_code(|| found = stale(&log), || false).unwrap();
        assert_eq!(found, [9, 10]);
    }
}
