//! RAM once more in this process, page by page in any order.
//!
//! The idea: whoever runs guest code would like pages that are next to each other for the guest to be so for the host. So addresses are
//! reserved before lock-down, and pages of the RAM memfd are mapped there as they are wanted, over what is there. That takes
//! mmap(2) for data, with a descriptor, over one's own addresses, and the descriptor is RAM's: a process that may do no more
//! reaches nothing that it does not reach anyhow.
#![expect(unsafe_code, reason = "maps pages of RAM over others")]

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::mapping::{HUGE, huge_place};
use crate::{Error, PAGE_SIZE, Result, sealed_against_shrinking};

const WHAT: &str = "ram";

/// Places for pages of RAM. There is nothing at those where none was [put](Arrangement::put).
#[derive(Debug)]
pub struct Arrangement {
    base: NonNull<u8>,
    len: usize,
    file: Arc<OwnedFd>,
    /// Bytes of the file.
    ram: u64,
}

// SAFETY: the mapping belongs to the process, and nothing is read or written through this type.
unsafe impl Send for Arrangement {}

impl Arrangement {
    /// `len` bytes of places (a multiple of 4096), from a multiple of 2 MiB on, for pages of the first `ram` bytes of the `ram` memfd, which
    /// stays open.
    ///
    /// # Errors
    /// A file that is not sealed against shrinking, a bad length, or mmap's own failure.
    pub fn new(file: Arc<OwnedFd>, ram: u64, len: u64) -> Result<Self> {
        let bad = || Error::BadRange { what: WHAT, offset: 0, len };
        let size = usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or_else(bad)?;
        if !len.is_multiple_of(PAGE_SIZE) {
            return Err(bad());
        }
        sealed_against_shrinking(file.as_fd(), WHAT)?;
        let place = huge_place(size).map_err(|errno| Error::System { what: WHAT, call: "mmap", errno })?;
        let base = NonNull::without_provenance(place);
        Ok(Arrangement { base, len: size.get(), file, ram })
    }

    /// What has to stay open.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Where place 0 is.
    pub fn address(&self) -> u64 {
        self.base.as_ptr().addr() as u64
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// The page of RAM at offset `off`, or the 2 MiB if `huge`, is at `place` (bytes from the first) from now on. Takes some
    /// microseconds.
    ///
    /// # Errors
    /// A place or an offset that is not aligned, or not there; or mmap's own failure, for one that the process has too
    /// many mappings (`vm.max_map_count`): then what is at the place is not defined.
    pub fn put(&mut self, place: u64, off: u64, huge: bool) -> Result<()> {
        let len = if huge { HUGE as u64 } else { PAGE_SIZE };
        let within = |at: u64, all: u64| at.is_multiple_of(len) && at < all && all - at >= len;
        if !within(place, self.len()) || !within(off, self.ram) {
            return Err(Error::BadRange { what: WHAT, offset: off, len });
        }
        let bad = || Error::BadRange { what: WHAT, offset: off, len };
        let at = NonZeroUsize::new(self.base.as_ptr().addr() + place as usize);
        let size = NonZeroUsize::new(len as usize).ok_or_else(bad)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED | MapFlags::MAP_POPULATE;
        let from = i64::try_from(off).map_err(|_| bad())?;
        // SAFETY: within the reservation, into which no reference is ever made; whoever uses its addresses knows that pages move.
        unsafe { mmap(at, size, protection, flags, self.file.as_fd(), from) }.map(drop).map_err(|errno| Error::System {
            what: WHAT,
            call: "mmap",
            errno,
        })
    }
}

impl Drop for Arrangement {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and whoever has had its addresses does not use them any more.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Memfd, Ram};

    const PAGES: u64 = 8;

    fn both() -> (Ram, Arrangement) {
        let (fd, len) = (Arc::new(Memfd::create("ram", PAGES * PAGE_SIZE).unwrap()), PAGES * PAGE_SIZE);
        let ram = Ram::map(fd.as_fd(), len, Access::ReadWrite).unwrap();
        for page in 0..PAGES {
            ram.store_u64(page * PAGE_SIZE + 8, 100 + page).unwrap();
        }
        (ram, Arrangement::new(fd, len, 1 << 30).unwrap())
    }

    fn word(a: &Arrangement, place: u64) -> *mut u64 {
        a.base.as_ptr().wrapping_add(place as usize + 8).cast()
    }

    #[test]
    fn pages_are_where_they_were_put() {
        let (ram, mut a) = both();
        let places = [0, 1, 2, 77, a.len() / PAGE_SIZE - 1];
        for round in 0..PAGES {
            for (n, place) in places.into_iter().enumerate() {
                a.put(place * PAGE_SIZE, (n as u64 * 3 + round) % PAGES * PAGE_SIZE, false).unwrap();
            }
            for (n, place) in places.into_iter().enumerate() {
                let page = (n as u64 * 3 + round) % PAGES;
                // SAFETY: a page was put there.
                unsafe {
                    assert_eq!(*word(&a, place * PAGE_SIZE), 100 + page);
                    *word(&a, place * PAGE_SIZE) = 100 + page;
                    *word(&a, place * PAGE_SIZE).wrapping_add(1) = round;
                }
                assert_eq!(ram.load_u64(page * PAGE_SIZE + 16), Some(round), "the same memory");
            }
        }
    }

    #[test]
    fn huge_ones_are_put_as_a_whole() {
        let len = 2 * HUGE as u64;
        let fd = Arc::new(Memfd::create("ram", len).unwrap());
        let ram = Ram::map(fd.as_fd(), len, Access::ReadWrite).unwrap();
        let mut a = Arrangement::new(fd, len, 1 << 30).unwrap();
        assert!(a.address().is_multiple_of(HUGE as u64));
        a.put(3 * len, len / 2, true).unwrap();
        for at in (0..HUGE as u64).step_by(4096) {
            ram.store_u64(len / 2 + at + 8, at).unwrap();
            // SAFETY: 2 MiB were put there.
            assert_eq!(unsafe { *word(&a, 3 * len + at) }, at);
        }
        for (place, off) in [(4096, 0), (0, 4096), (len, len), (1 << 30, 0)] {
            assert!(matches!(a.put(place, off, true), Err(Error::BadRange { .. })), "{place:#x} {off:#x}");
        }
    }

    #[test]
    fn nothing_is_put_elsewhere() {
        let (_ram, mut a) = both();
        let len = a.len();
        for (place, off) in
            [(len, 0), (u64::MAX - 4095, 0), (0, PAGES * PAGE_SIZE), (0, u64::MAX - 4095), (8, 0), (0, 8)]
        {
            assert!(matches!(a.put(place, off, false), Err(Error::BadRange { .. })), "{place:#x} {off:#x}");
        }
    }
}
