//! Guest RAM: the whole `ram` memfd, mapped, with the accesses an interpreter makes.
//!
//! The file offset is the guest-physical address minus the start of RAM (0 on x86), so the PCI hole is a hole of the
//! file that is never allocated, and RAM, `D` and `B` share one index. Which offsets are RAM is [`crate::Layout`]'s
//! business; this type only guards the file's end.
#![expect(unsafe_code, reason = "accesses to guest memory, which the guest and other processes write at the same time")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::host_x64::{self, Word};
use crate::mapping::Mapping;
use crate::{Access, Error, Result};

/// The mapped RAM of a VM.
///
/// Offsets are bytes from the start of RAM. Every access answers `None`, and touches nothing, if any byte of it lies outside
/// the mapping, or for a store if the mapping is read-only. Widths up to 8 bytes are single-copy atomic when they do not cross
/// a cache line, 16 bytes when aligned; loads acquire and stores release; values are little-endian.
#[derive(Debug)]
pub struct Ram {
    map: Mapping,
    fd: Option<OwnedFd>,
}

macro_rules! by_width {
    ($($load:ident $store:ident $t:ty),*) => {$(
        #[doc = concat!("Loads a `", stringify!($t), "`, at any alignment.")]
        #[inline(always)]
        pub fn $load(&self, off: u64) -> Option<$t> {
            self.map.load(off)
        }
        #[doc = concat!("Stores a `", stringify!($t), "`, at any alignment.")]
        #[inline(always)]
        #[must_use = "None means that nothing was stored"]
        pub fn $store(&self, off: u64, v: $t) -> Option<()> {
            self.map.store(off, v)
        }
    )*};
}

impl Ram {
    /// Maps the first `len` bytes (a multiple of 4096) of the `ram` memfd. The descriptor may be closed afterwards.
    ///
    /// # Errors
    /// A file that is too short or not sealed against shrinking, a bad length, or mmap's own failure.
    pub fn map(fd: BorrowedFd<'_>, len: u64, access: Access) -> Result<Self> {
        Ok(Self { map: Mapping::new(fd, 0, len, access, "ram")?, fd: None })
    }

    /// As [`Ram::map`], keeping the descriptor for [`Ram::discard`].
    ///
    /// # Errors
    /// As [`Ram::map`].
    pub fn map_and_keep(fd: OwnedFd, len: u64, access: Access) -> Result<Self> {
        Ok(Self { map: Mapping::new(fd.as_fd(), 0, len, access, "ram")?, fd: Some(fd) })
    }

    /// Pages that this process is the first to touch may come 2 MiB at a time from now on: fewer page faults, and fewer misses of
    /// the host's TLB. So they do on hosts that allow it for shared memory (`transparent_hugepage/shmem_enabled`: `advise`).
    ///
    /// Not where pages are to come from elsewhere when they are touched, since a large one would cover them.
    pub fn prefer_huge_pages(&self) {
        self.map.prefer_huge_pages();
    }

    /// The `len` bytes at `off`, both multiples of 2 MiB, are huge pages from now on, with what they hold; what was a hole of them
    /// takes memory then. Others that use them meanwhile may wait a moment. Works whatever the host's settings for huge pages are (`MADV_COLLAPSE`, Linux 6.1).
    ///
    /// # Errors
    /// A range that is not aligned or not in the mapping, a read-only mapping, or madvise's own failure: then some of the range
    /// may be as it was.
    pub fn collapse(&self, off: u64, len: u64) -> Result<()> {
        self.map.collapse(off, len)
    }

    /// Length of the mapping in bytes: the end of RAM in guest-physical space minus its start.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    #[inline(always)]
    pub fn len(&self) -> u64 {
        self.map.len()
    }

    /// What the mapping allows.
    pub fn access(&self) -> Access {
        self.map.access()
    }

    /// The mapping's address, for code emitters and system calls. Whoever uses it does the checks of this type alone.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.base()
    }

    by_width!(load_u8 store_u8 u8, load_u16 store_u16 u16, load_u32 store_u32 u32, load_u64 store_u64 u64);

    /// Loads one word of any width up to 64 bits.
    #[inline(always)]
    pub fn load<T: Word>(&self, off: u64) -> Option<T> {
        self.map.load(off)
    }

    /// Stores one word of any width up to 64 bits.
    #[inline(always)]
    #[must_use = "None means that nothing was stored"]
    pub fn store<T: Word>(&self, off: u64, v: T) -> Option<()> {
        self.map.store(off, v)
    }

    /// Loads 16 bytes, at any alignment; atomic if aligned and the host has AVX.
    #[inline(always)]
    pub fn load_u128(&self, off: u64) -> Option<u128> {
        let p = self.map.readable(off, 16)?;
        // SAFETY: checked to be readable.
        Some(unsafe { host_x64::load_u128(p) })
    }

    /// Stores 16 bytes, at any alignment; atomic if aligned and the host has AVX.
    #[inline(always)]
    #[must_use = "None means that nothing was stored"]
    pub fn store_u128(&self, off: u64, v: u128) -> Option<()> {
        let p = self.map.writable(off, 16)?;
        // SAFETY: checked to be writable.
        unsafe { host_x64::store_u128(p, v) };
        Some(())
    }

    #[inline(always)]
    fn word<T: Word>(&self, off: u64) -> Option<*mut u8> {
        self.map.writable(off, size_of::<T>() as u64)
    }

    /// Adds (wrapping), atomically and sequentially consistent; answers the previous value. Like all the read-modify-writes
    /// here it is atomic at any alignment; across a cache line the host takes its bus lock, which is slow.
    #[inline(always)]
    pub fn fetch_add<T: Word>(&self, off: u64, v: T) -> Option<T> {
        let p = self.word::<T>(off)?;
        // SAFETY: checked to be writable.
        Some(unsafe { T::fetch_add(p, v) })
    }

    /// Stores `v` and answers the previous value, atomically.
    #[inline(always)]
    pub fn swap<T: Word>(&self, off: u64, v: T) -> Option<T> {
        let p = self.word::<T>(off)?;
        // SAFETY: checked to be writable.
        Some(unsafe { T::swap(p, v) })
    }

    /// Bitwise and, atomically; answers the previous value.
    #[inline(always)]
    pub fn fetch_and<T: Word>(&self, off: u64, v: T) -> Option<T> {
        self.fetch_update(off, |old: T| old.and(v))
    }

    /// Bitwise or, atomically; answers the previous value.
    #[inline(always)]
    pub fn fetch_or<T: Word>(&self, off: u64, v: T) -> Option<T> {
        self.fetch_update(off, |old: T| old.or(v))
    }

    /// Bitwise exclusive or, atomically; answers the previous value.
    #[inline(always)]
    pub fn fetch_xor<T: Word>(&self, off: u64, v: T) -> Option<T> {
        self.fetch_update(off, |old: T| old.xor(v))
    }

    /// Replaces the word by `f` of it, atomically (`f` may run several times); answers the previous value.
    #[inline(always)]
    pub fn fetch_update<T: Word>(&self, off: u64, f: impl Fn(T) -> T) -> Option<T> {
        let p = self.word::<T>(off)?;
        // SAFETY: checked to be writable.
        Some(unsafe { host_x64::fetch_update(p, f) })
    }

    /// Stores `new` if the word equals `current`, atomically; answers the previous value, so the exchange happened if
    /// that equals `current`.
    #[inline(always)]
    pub fn compare_exchange<T: Word>(&self, off: u64, current: T, new: T) -> Option<T> {
        let p = self.word::<T>(off)?;
        // SAFETY: checked to be writable.
        Some(unsafe { T::compare_exchange(p, current, new) })
    }

    /// The 16-byte compare-exchange; answers the previous value. `None` also if `off` is not a multiple of 16: the
    /// host instruction faults there, as the guest's does.
    #[inline]
    pub fn compare_exchange_u128(&self, off: u64, current: u128, new: u128) -> Option<u128> {
        let p = self.map.writable(off, 16)?;
        if !off.is_multiple_of(16) {
            return None;
        }
        // SAFETY: checked to be writable; the base is page-aligned, so `p` is as aligned as `off`.
        Some(unsafe { host_x64::compare_exchange_u128(p, current, new) })
    }

    /// Copies bytes out of guest memory. Not atomic as a whole.
    #[inline]
    pub fn read(&self, off: u64, to: &mut [u8]) -> Option<()> {
        self.map.read(off, to)
    }

    /// Copies bytes into guest memory. Not atomic as a whole.
    #[inline]
    #[must_use = "None means that nothing was stored"]
    pub fn write(&self, off: u64, from: &[u8]) -> Option<()> {
        self.map.write(off, from)
    }

    /// Copies `len` bytes from `src` to `dst`, as memmove: the ranges may overlap.
    #[must_use = "None means that nothing was stored"]
    pub fn copy_within(&self, src: u64, dst: u64, len: u64) -> Option<()> {
        let from = self.map.readable(src, len)?;
        let to = self.map.writable(dst, len)?;
        // SAFETY: both ranges are checked; the direction follows the overlap.
        unsafe {
            if dst > src && dst - src < len {
                host_x64::copy_down(to, from, len as usize);
            } else {
                host_x64::copy_up(to, from, len as usize);
            }
        }
        Some(())
    }

    /// Sets `len` bytes to `value`.
    #[must_use = "None means that nothing was stored"]
    pub fn fill(&self, off: u64, len: u64, value: u8) -> Option<()> {
        let p = self.map.writable(off, len)?;
        // SAFETY: checked to be writable.
        unsafe { host_x64::fill(p, len as usize, value) };
        Some(())
    }

    /// Gives `off..off+len` back to the host: the range reads as zeros and costs nothing until it is touched again.
    ///
    /// # Errors
    /// A range outside the mapping, a read-only mapping, a descriptor that was not kept, or fallocate's own failure.
    pub fn discard(&self, off: u64, len: u64) -> Result<()> {
        let fd = self.fd.as_ref().ok_or(Error::NoDescriptor)?;
        if self.map.writable(off, len).is_none() {
            return Err(Error::OutOfRange { what: self.map.what(), offset: off, len, have: self.map.len() });
        }
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        loop {
            match fallocate(fd, flags, off as i64, len as i64) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::System { what: "ram", call: "fallocate", errno }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memfd;
    use std::sync::Barrier;

    const LEN: u64 = 64 * 1024;

    fn ram() -> Ram {
        Ram::map_and_keep(Memfd::create("ram", LEN).unwrap(), LEN, Access::ReadWrite).unwrap()
    }

    /// Whether the mapping that begins at `ram` is advised to have huge pages ("VmFlags" in proc_pid_smaps(5)).
    fn is_advised(ram: &Ram) -> bool {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-", ram.as_ptr() as usize);
        let ours = text.lines().skip_while(|line| !line.starts_with(&start));
        ours.take(40).find_map(|line| line.strip_prefix("VmFlags:")).unwrap().split(' ').any(|flag| flag == "hg")
    }

    #[test]
    fn huge_pages_are_asked_for_where_the_kernel_has_them() {
        let r = ram();
        assert!(!is_advised(&r));
        r.store_u64(8, 5).unwrap();
        r.prefer_huge_pages();
        assert_eq!(is_advised(&r), std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists());
        assert_eq!(r.load_u64(8), Some(5));
    }

    /// Where the kernel has none, it says so.
    #[test]
    fn huge_pages_keep_what_they_hold() {
        const HUGE: u64 = 2 << 20;
        let r =
            Ram::map(Memfd::create("ram", 2 * HUGE + LEN).unwrap().as_fd(), 2 * HUGE + LEN, Access::ReadWrite).unwrap();
        assert!(r.as_ptr().addr().is_multiple_of(HUGE as usize));
        for off in (0..2 * HUGE).step_by(4096) {
            r.store_u64(off, off ^ 0x5a).unwrap();
        }
        if let Err(e) = r.collapse(0, 2 * HUGE) {
            assert!(matches!(e, Error::System { call: "madvise", .. }), "{e}");
        }
        assert!((0..2 * HUGE).step_by(4096).all(|off| r.load_u64(off) == Some(off ^ 0x5a)));
        for (off, len) in [(4096, HUGE), (0, 4096), (2 * HUGE, HUGE), (HUGE, u64::MAX - HUGE + 1), (u64::MAX, HUGE)] {
            assert!(matches!(r.collapse(off, len), Err(Error::BadRange { .. })), "{off:#x} {len:#x}");
        }
    }

    #[test]
    fn every_width_at_every_alignment() {
        let r = ram();
        for off in 100..132 {
            r.store_u64(off, 0x1122_3344_5566_7788).unwrap();
            assert_eq!(r.load_u64(off), Some(0x1122_3344_5566_7788));
            assert_eq!(r.load_u8(off), Some(0x88));
            assert_eq!(r.load_u16(off + 1), Some(0x6677));
            assert_eq!(r.load_u32(off + 3), Some(0x2233_4455));
            r.store_u16(off, 0xffee).unwrap();
            r.store_u8(off + 7, 0xaa).unwrap();
            assert_eq!(r.load_u64(off), Some(0xaa22_3344_5566_ffee));
            r.store_u128(off, 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10).unwrap();
            assert_eq!(r.load_u128(off), Some(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));
            assert_eq!(r.load_u32(off), Some(0x0d0e_0f10));
        }
    }

    #[test]
    fn the_end_holds_for_every_access() {
        let r = ram();
        assert_eq!(r.load_u64(LEN - 8), Some(0));
        assert_eq!(r.load_u64(LEN - 7), None);
        assert_eq!(r.load_u8(LEN), None);
        assert_eq!(r.load_u128(LEN - 15), None);
        assert_eq!(r.store_u16(LEN - 1, 1), None);
        assert_eq!(r.load_u8(LEN - 1), Some(0), "nothing of it was stored");
        assert_eq!(r.load_u64(u64::MAX), None);
        assert_eq!(r.load_u64(u64::MAX - 7), None);
        assert_eq!(r.fetch_add(LEN - 3, 1u32), None);
        assert_eq!(r.compare_exchange(LEN, 0u8, 1), None);
        assert_eq!(r.copy_within(0, LEN - 10, 11), None);
        assert_eq!(r.copy_within(LEN - 10, 0, 11), None);
        assert_eq!(r.fill(LEN - 1, 2, 1), None);
        assert_eq!(r.read(1, &mut vec![0; LEN as usize]), None);
        assert_eq!(r.write(u64::MAX, &[1]), None);
        assert_eq!(r.read(LEN, &mut []), Some(()), "an empty range at the end is inside");
    }

    #[test]
    fn read_only_means_it() {
        let fd = Memfd::create("ram", LEN).unwrap();
        let w = Ram::map(fd.as_fd(), LEN, Access::ReadWrite).unwrap();
        let r = Ram::map(fd.as_fd(), LEN, Access::ReadOnly).unwrap();
        w.store_u32(8, 5).unwrap();
        assert_eq!(r.load_u32(8), Some(5));
        assert_eq!(r.store_u32(8, 6), None);
        assert_eq!(r.swap(8, 6u32), None);
        assert_eq!(r.store_u128(16, 6), None);
        assert_eq!(r.compare_exchange_u128(16, 0, 6), None);
        assert_eq!(r.copy_within(0, 8, 4), None);
        assert_eq!(r.fill(0, 1, 1), None);
        assert!(matches!(w.discard(0, 4096), Err(Error::NoDescriptor)));
    }

    #[test]
    fn read_modify_write_answers_the_previous_value_at_every_alignment() {
        let r = ram();
        // Offset 62 crosses a cache line from u32 on.
        for off in [0, 1, 3, 62, 4094] {
            r.store_u64(off, 0x00ff_00ff_00ff_00f0).unwrap();
            assert_eq!(r.fetch_add(off, 0x10u8), Some(0xf0));
            assert_eq!(r.load_u16(off), Some(0), "a byte wraps into nothing else");
            assert_eq!(r.swap(off, 0xbeefu16), Some(0));
            assert_eq!(r.fetch_or(off, 0x1000_0000u32), Some(0x00ff_beef));
            assert_eq!(r.fetch_and(off, 0x0f0f_0f0f_0f0f_0f0fu64), Some(0x00ff_00ff_10ff_beef));
            assert_eq!(r.fetch_xor(off, u32::MAX), Some(0x000f_0e0f));
            assert_eq!(r.load_u64(off), Some(0x000f_000f_fff0_f1f0));
            assert_eq!(r.compare_exchange(off, 1u64, 2), Some(0x000f_000f_fff0_f1f0));
            assert_eq!(r.compare_exchange(off, 0x000f_000f_fff0_f1f0u64, 2), Some(0x000f_000f_fff0_f1f0));
            assert_eq!(r.load_u64(off), Some(2));
        }
        assert_eq!(r.compare_exchange_u128(32, 1, 7), Some(0));
        assert_eq!(r.compare_exchange_u128(32, 0, u128::MAX - 1), Some(0));
        assert_eq!(r.compare_exchange_u128(32, u128::MAX - 1, 5 << 64), Some(u128::MAX - 1));
        assert_eq!(r.load_u128(32), Some(5 << 64));
        assert_eq!(r.compare_exchange_u128(40, 5, 7), None, "unaligned");
    }

    #[test]
    fn concurrent_operations_lose_nothing() {
        let r = ram();
        let start = Barrier::new(4);
        std::thread::scope(|s| {
            for t in 0..4u64 {
                let (r, start) = (&r, &start);
                s.spawn(move || {
                    start.wait();
                    for i in 0..10_000u64 {
                        r.fetch_add(50, 1u64).unwrap();
                        if i % 100 == 0 {
                            // Across a cache line: atomic too, but the host takes its time.
                            r.fetch_add(1020, 1u64).unwrap();
                        }
                        r.fetch_update(128, |v: u32| v.wrapping_add(1)).unwrap();
                        let mut seen = r.load_u128(256).unwrap();
                        loop {
                            let was = r.compare_exchange_u128(256, seen, seen + (1 << 64) + 1).unwrap();
                            if was == seen {
                                break;
                            }
                            seen = was;
                        }
                        // Four writers of one aligned word: a reader sees one of their values, whole.
                        r.store_u64(512, t * 0x0101_0101_0101_0101).unwrap();
                        let v = r.load_u64(512).unwrap();
                        assert_eq!(v % 0x0101_0101_0101_0101, 0, "torn at {i}");
                    }
                });
            }
        });
        assert_eq!((r.load_u64(50), r.load_u64(1020)), (Some(40_000), Some(400)));
        assert_eq!(r.load_u32(128), Some(40_000));
        assert_eq!(r.load_u128(256), Some((40_000 << 64) + 40_000));
    }

    #[test]
    fn bulk_operations_match_a_vector() {
        let r = ram();
        let mut model: Vec<u8> = (0..LEN).map(|i| (i * 7 % 251) as u8).collect();
        r.write(0, &model).unwrap();
        for (src, dst, len) in [
            (0, 1, 300),
            (1, 0, 300),
            (10, 13, 7),
            (13, 10, 7),
            (0, 8, 4096),
            (5000, 5000, 77),
            (9, 40_000, 9000),
            (3, 4, 1),
            (100, 164, 64),
        ] {
            r.copy_within(src, dst, len).unwrap();
            model.copy_within(src as usize..(src + len) as usize, dst as usize);
        }
        r.fill(77, 5000, 0xcc).unwrap();
        model[77..5077].fill(0xcc);
        let mut got = vec![0; LEN as usize];
        r.read(0, &mut got).unwrap();
        assert!(got == model);
        for n in [0usize, 1, 7, 8, 9, 63, 64, 65] {
            let mut part = vec![0; n];
            r.read(6000, &mut part).unwrap();
            assert_eq!(part, model[6000..6000 + n]);
        }
    }

    #[test]
    fn discarded_pages_read_as_zeros_and_cost_nothing() {
        let r = ram();
        r.fill(0, LEN, 1).unwrap();
        let blocks = |r: &Ram| nix::sys::stat::fstat(r.fd.as_ref().unwrap()).unwrap().st_blocks;
        let before = blocks(&r);
        r.discard(4096, 8192).unwrap();
        assert_eq!(blocks(&r), before - 16);
        assert_eq!((r.load_u8(4095), r.load_u8(4096), r.load_u8(12_288)), (Some(1), Some(0), Some(1)));
        assert!(matches!(r.discard(LEN - 4096, 8192), Err(Error::OutOfRange { .. })));
        r.discard(LEN, 0).unwrap();
    }
}
