//! Mapping a memfd once, and typed windows on it ([`SharedMap`]).
//!
//! A mapping knows its readable and its writable length (0 when mapped read-only); every access is one comparison with
//! one of them. The descriptor is only borrowed: it can be closed once the mapping exists.
#![expect(unsafe_code, reason = "mmap, and references into memory that other processes write")]

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use nix::sys::stat::fstat;

use crate::host_x64::{self, Word};
use crate::{Access, Error, PAGE_SIZE, Result, sealed_against_shrinking};

/// A mapped range of a memfd. Dropping it unmaps; an islet never drops its mappings (munmap is not in its filter), it
/// ends instead.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// `len`, or 0 when mapped read-only.
    writable: usize,
    what: &'static str,
}

// SAFETY: the mapping belongs to the process, not to a thread, and every access goes through instructions that are
// defined under races.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Bytes of a huge page of the host.
pub(crate) const HUGE: usize = 2 << 20;

/// An address that huge pages can begin at, with room for `size` bytes: reserved, until a mapping is made there. Where that fails the
/// reservation is left, since the kernel does not say whether it still stands, and somebody else's may be there by then.
pub(crate) fn huge_place(size: NonZeroUsize) -> nix::Result<NonZeroUsize> {
    let all = size.checked_add(HUGE).ok_or(Errno::ENOMEM)?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: as for any fresh mapping.
    let start = unsafe { mmap_anonymous(None, all, ProtFlags::PROT_NONE, flags)? };
    let before = start.addr().get().wrapping_neg() % HUGE;
    let (end, after) = (before + size.get(), HUGE - before);
    for (from, len) in [(0, before), (end, after)] {
        if len != 0 {
            // SAFETY: a part of the reservation, which nobody uses.
            unsafe { munmap(start.byte_add(from), len)? };
        }
    }
    Ok(start.addr().saturating_add(before))
}

impl Mapping {
    pub(crate) fn new(fd: BorrowedFd<'_>, offset: u64, len: u64, access: Access, what: &'static str) -> Result<Self> {
        let bad = || Error::BadRange { what, offset, len };
        let aligned = offset.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE);
        if !aligned || offset.checked_add(len).is_none_or(|end| end > 1 << 46) {
            return Err(bad());
        }
        let size = usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or_else(bad)?;
        let file_offset = i64::try_from(offset).map_err(|_| bad())?;
        sealed_against_shrinking(fd, what)?;
        let stat = fstat(fd).map_err(|errno| Error::System { what, call: "fstat", errno })?;
        let have = u64::try_from(stat.st_size).unwrap_or(0);
        if have < offset + len {
            return Err(Error::TooShort { what, have, offset, len });
        }
        let (prot, writable) = match access {
            Access::ReadOnly => (ProtFlags::PROT_READ, 0),
            Access::ReadWrite => (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, size.get()),
        };
        let mut flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        let place = if size.get() >= HUGE {
            let place = huge_place(size).map_err(|errno| Error::System { what, call: "mmap", errno })?;
            flags |= MapFlags::MAP_FIXED;
            Some(place)
        } else {
            None
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice, or in place of a reservation, touches no existing memory.
        let base = unsafe { mmap(place, size, prot, flags, fd.as_fd(), file_offset) }
            .map_err(|errno| Error::System { what, call: "mmap", errno })?;
        Ok(Self { base: base.cast(), len: size.get(), writable, what })
    }

    /// See [`crate::Ram::collapse`].
    pub(crate) fn collapse(&self, off: u64, len: u64) -> Result<()> {
        let what = self.what;
        let place = self.writable(off, len).filter(|place| (place.addr() | len as usize).is_multiple_of(HUGE));
        let place = place.ok_or(Error::BadRange { what, offset: off, len })?;
        // SAFETY: the range is ours, and what it holds stays the same.
        let done = unsafe { libc::madvise(place.cast(), len as usize, libc::MADV_COLLAPSE) };
        Errno::result(done).map(drop).map_err(|errno| Error::System { what, call: "madvise", errno })
    }

    pub(crate) fn prefer_huge_pages(&self) {
        // A kernel that has none says so, and nothing is lost.
        // SAFETY: the range is ours, and what it holds stays the same.
        let _ = unsafe { madvise(self.base.cast(), self.len, MmapAdvise::MADV_HUGEPAGE) };
    }

    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    pub(crate) fn access(&self) -> Access {
        if self.writable == 0 { Access::ReadOnly } else { Access::ReadWrite }
    }

    pub(crate) fn what(&self) -> &'static str {
        self.what
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The address of `n` readable bytes at `off`, or `None` if any of them lies outside.
    #[inline(always)]
    pub(crate) fn readable(&self, off: u64, n: u64) -> Option<*mut u8> {
        if off.checked_add(n)? > self.len as u64 {
            return None;
        }
        // SAFETY: off + n <= len.
        Some(unsafe { self.base.as_ptr().add(off as usize) })
    }

    /// The address of `n` writable bytes at `off`, or `None` if any of them lies outside or the mapping is read-only.
    #[inline(always)]
    pub(crate) fn writable(&self, off: u64, n: u64) -> Option<*mut u8> {
        if off.checked_add(n)? > self.writable as u64 {
            return None;
        }
        // SAFETY: off + n <= writable <= len.
        Some(unsafe { self.base.as_ptr().add(off as usize) })
    }

    #[inline(always)]
    pub(crate) fn load<T: Word>(&self, off: u64) -> Option<T> {
        let p = self.readable(off, size_of::<T>() as u64)?;
        // SAFETY: checked to be readable.
        Some(unsafe { T::load(p) })
    }

    #[inline(always)]
    pub(crate) fn store<T: Word>(&self, off: u64, v: T) -> Option<()> {
        let p = self.writable(off, size_of::<T>() as u64)?;
        // SAFETY: checked to be writable.
        unsafe { T::store(p, v) };
        Some(())
    }

    pub(crate) fn read(&self, off: u64, to: &mut [u8]) -> Option<()> {
        let p = self.readable(off, to.len() as u64)?;
        // SAFETY: checked to be readable; `to` is ours alone.
        unsafe { host_x64::copy_up(to.as_mut_ptr(), p, to.len()) };
        Some(())
    }

    pub(crate) fn write(&self, off: u64, from: &[u8]) -> Option<()> {
        let p = self.writable(off, from.len() as u64)?;
        // SAFETY: checked to be writable; `from` cannot lie in the mapping, of which no slice is ever made.
        unsafe { host_x64::copy_up(p, from.as_ptr(), from.len()) };
        Some(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and no reference into it outlives the mapping.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// A type that may lie in shared memory.
///
/// # Safety
/// Every field must be an atomic integer (or an array or `repr(C)` struct of such): valid for every bit pattern,
/// interior mutable, and without padding that means anything.
pub unsafe trait Shared: Sync {}

// SAFETY: atomics themselves.
unsafe impl Shared for AtomicU8 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU16 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU32 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU64 {}
// SAFETY: an array of such.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// A range of a memfd, mapped, with bounds-checked typed access. Offsets count from the start of the mapped range.
#[derive(Debug)]
pub struct SharedMap {
    map: Mapping,
}

impl SharedMap {
    /// Maps bytes `offset..offset+len` (multiples of 4096) of `fd`, which must be sealed against shrinking. `what` names the
    /// memfd in errors.
    ///
    /// # Errors
    /// A range that is unaligned or outside the file, a missing seal, or mmap's own failure.
    pub fn map(fd: BorrowedFd<'_>, offset: u64, len: u64, access: Access, what: &'static str) -> Result<Self> {
        Ok(Self { map: Mapping::new(fd, offset, len, access, what)? })
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> u64 {
        self.map.len()
    }

    /// What the mapping allows.
    pub fn access(&self) -> Access {
        self.map.access()
    }

    /// A `T` at `off`, to load from and store to: `None` if it is out of bounds, misaligned, or the mapping is read-only.
    #[inline]
    pub fn typed<T: Shared>(&self, off: u64) -> Option<&T> {
        let p = self.map.writable(off, size_of::<T>() as u64)?.cast::<T>();
        // SAFETY: in bounds, aligned, and `T: Shared` is valid for every bit pattern and interior mutable; the
        // reference cannot outlive the mapping.
        p.is_aligned().then(|| unsafe { &*p })
    }

    /// A `T` at `off` to load from only, also in a read-only mapping, where a store ends the process with SIGSEGV.
    #[inline]
    pub fn typed_read<T: Shared>(&self, off: u64) -> Option<&T> {
        let p = self.map.readable(off, size_of::<T>() as u64)?.cast::<T>();
        // SAFETY: as in `typed`; loads of at most 8 bytes are plain loads on read-only pages too.
        p.is_aligned().then(|| unsafe { &*p })
    }

    /// Copies bytes out; `None` (and nothing copied) if any lies outside.
    pub fn read(&self, off: u64, to: &mut [u8]) -> Option<()> {
        self.map.read(off, to)
    }

    /// Copies bytes in; `None` (and nothing copied) if any lies outside or the mapping is read-only.
    pub fn write(&self, off: u64, from: &[u8]) -> Option<()> {
        self.map.write(off, from)
    }

    /// Loads one word, at any alignment.
    #[inline]
    pub fn load<T: Word>(&self, off: u64) -> Option<T> {
        self.map.load(off)
    }

    /// Stores one word, at any alignment.
    #[inline]
    pub fn store<T: Word>(&self, off: u64, v: T) -> Option<()> {
        self.map.store(off, v)
    }

    /// The address of `len` writable bytes, for system calls that take a pointer. Valid while the map lives.
    pub fn pointer(&self, off: u64, len: u64) -> Option<*mut u8> {
        self.map.writable(off, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memfd;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn two_maps_of_one_memfd_share_it_and_bounds_hold() {
        let fd = Memfd::create("t", 8192).unwrap();
        let a = SharedMap::map(fd.as_fd(), 0, 8192, Access::ReadWrite, "t").unwrap();
        let b = SharedMap::map(fd.as_fd(), 4096, 4096, Access::ReadOnly, "t").unwrap();
        drop(fd);
        a.typed::<AtomicU32>(4100).unwrap().store(7, Relaxed);
        assert_eq!(b.typed_read::<AtomicU32>(4).unwrap().load(Relaxed), 7);
        assert_eq!(b.load::<u16>(4), Some(7));
        assert!(b.typed::<AtomicU32>(4).is_none(), "read-only");
        assert!(a.typed::<AtomicU32>(2).is_none(), "misaligned");
        assert!(a.typed::<AtomicU64>(8188).is_none(), "misaligned and out of bounds");
        assert!(a.typed::<AtomicU32>(8192).is_none());
        assert!(a.typed::<[AtomicU64; 1024]>(0).is_some());
        assert!(a.typed::<[AtomicU64; 1025]>(0).is_none());
        assert!(a.typed::<AtomicU32>(u64::MAX - 3).is_none());
        assert_eq!(b.store(0, 1u8), None);
        assert_eq!(a.read(8191, &mut [0; 2]), None);
        assert!(a.pointer(8000, 192).is_some() && a.pointer(8000, 193).is_none() && b.pointer(0, 1).is_none());
    }

    #[test]
    fn wrong_ranges_are_refused() {
        let fd = Memfd::create("t", 8192).unwrap();
        for (off, len) in [(0, 0), (1, 4096), (0, 100), (u64::MAX - 4095, 4096), (1 << 46, 4096)] {
            let got = SharedMap::map(fd.as_fd(), off, len, Access::ReadWrite, "t");
            assert!(matches!(got, Err(Error::BadRange { .. })), "{off} {len}: {got:?}");
        }
        let got = SharedMap::map(fd.as_fd(), 4096, 8192, Access::ReadWrite, "t");
        assert!(matches!(got, Err(Error::TooShort { have: 8192, .. })));
    }
}
