//! userfaultfd: pages of a mapping that somebody else places when they are touched.
//!
//! The idea: a process that maps guest RAM makes a [`Uffd`], registers the mapping, and hands the descriptor and the mapping's
//! address to the pager; the pager needs no mapping of its own, it names addresses of the other process. This crate has the
//! ioctls of both sides and nothing else: which page holds what is the pager's business. Pages are 4096 bytes.
//!
//! Guest RAM is a shared memfd, so a page that was placed through one descriptor is there for every process; whoever waits for it
//! in another mapping must be woken through that mapping's descriptor ([`Uffd::wake`]).
//!
//! Source: the kernel's `Documentation/admin-guide/mm/userfaultfd.rst` and `ioctl_userfaultfd(2)`.

mod error;
mod ioctl;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

pub use error::{Error, Result};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Faults of what a descriptor reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Every access, also those that the kernel makes for the process (needs CAP_SYS_PTRACE or
    /// vm.unprivileged_userfaultfd).
    All,
    /// Accesses of the process itself; a system call that is given a missing page fails with EFAULT.
    UserMode,
}

/// How many pages an operation has placed, and how many were there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Placed {
    /// Bytes placed now.
    pub placed: u64,
    /// Bytes whose pages were there already, whoever placed them; they are as they were.
    pub present: u64,
}

/// A userfaultfd.
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
}

impl Uffd {
    /// Makes one for this process's memory and agrees on the protocol with the kernel. It does not block.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] where nobody may have one, [`Error::Missing`] if the kernel lacks missing faults on shared memory.
    pub fn create() -> Result<Self> {
        Self::create_scoped(Scope::All).or_else(|e| match e {
            Error::NotPermitted { errno: Errno::EPERM } => Self::create_scoped(Scope::UserMode),
            e => Err(e),
        })
    }

    /// As [`Uffd::create`], for faults of `scope`.
    ///
    /// # Errors
    /// As [`Uffd::create`]; [`Error::NotPermitted`] also if this process may not have [`Scope::All`].
    pub fn create_scoped(scope: Scope) -> Result<Self> {
        let fd = ioctl::userfaultfd(scope == Scope::UserMode).map_err(|errno| Error::NotPermitted { errno })?;
        let uffd = Uffd { fd };
        let have = ioctl::api(uffd.fd.as_fd(), ioctl::FEATURE_MISSING_SHMEM)
            .map_err(|errno| Error::System { what: "the handshake", errno })?;
        if have & ioctl::FEATURE_MISSING_SHMEM == 0 {
            return Err(Error::Missing { features: have });
        }
        Ok(uffd)
    }

    /// Report accesses to pages of `base..base+len` that are not there; both multiples of 4096. The range must be mapped, from
    /// shared memory, in the process that made the descriptor.
    ///
    /// # Errors
    /// A bad range, or one that is not of shared memory; [`Error::Missing`] if pages cannot be placed in it.
    pub fn register_missing(&self, base: u64, len: u64) -> Result<()> {
        let range = ioctl::Range::new(base, len)?;
        let can = ioctl::register(self.fd.as_fd(), range, ioctl::REGISTER_MISSING).map_err(|errno| Error::Range {
            what: "register",
            base,
            len,
            errno,
        })?;
        if can & ioctl::NEEDED_IOCTLS != ioctl::NEEDED_IOCTLS {
            return Err(Error::Missing { features: can });
        }
        Ok(())
    }

    /// No longer report accesses to `base..base+len`. Who waits there runs on; pages that are not there read as zeros.
    ///
    /// # Errors
    /// A bad range, or [`Error::Gone`].
    pub fn unregister(&self, base: u64, len: u64) -> Result<()> {
        let range = ioctl::Range::new(base, len)?;
        ioctl::unregister(self.fd.as_fd(), range).map_err(|errno| range_error("unregister", base, len, errno))
    }

    /// Place pages with the bytes of `from` (a multiple of 4096) at address `to` of the process that made the descriptor, each of
    /// them in one piece, and wake who waits for them. A page that is there already stays as it is, and is success.
    ///
    /// # Errors
    /// [`Error::Gone`] if that process has ended; a range that is not registered; no memory.
    pub fn copy(&self, to: u64, from: &[u8]) -> Result<Placed> {
        self.each(to, from.len() as u64, "copy to", |at, len| {
            let rest = from.get(at as usize..(at + len) as usize).unwrap_or_default();
            ioctl::copy(self.fd.as_fd(), to + at, rest)
        })
    }

    /// Place pages of zeros at `to..to+len`, as [`Uffd::copy`].
    ///
    /// # Errors
    /// As [`Uffd::copy`].
    pub fn zeropage(&self, to: u64, len: u64) -> Result<Placed> {
        self.each(to, len, "zero", |at, len| ioctl::zeropage(self.fd.as_fd(), ioctl::Range::new(to + at, len)?))
    }

    /// Wake who waits in `base..base+len`, after pages came there by another way. Who finds its page still missing waits on, and is
    /// reported anew.
    ///
    /// # Errors
    /// A bad range.
    pub fn wake(&self, base: u64, len: u64) -> Result<()> {
        let range = ioctl::Range::new(base, len)?;
        ioctl::wake(self.fd.as_fd(), range).map_err(|errno| range_error("wake", base, len, errno))
    }

    /// The addresses (page starts) of accesses that wait, as many as fit and are there; 0 if there are none now: poll the
    /// descriptor for POLLIN. Each is reported once, to whoever reads first.
    ///
    /// # Errors
    /// [`Error::System`] if the descriptor is no userfaultfd.
    pub fn read_faults(&self, out: &mut [u64]) -> Result<usize> {
        ioctl::read_faults(self.fd.as_fd(), out).map_err(|errno| Error::System { what: "reading faults", errno })
    }

    /// Work through `len` bytes from `to` on: the kernel stops at a page that is there, and may stop anywhere else.
    fn each(
        &self,
        to: u64,
        len: u64,
        what: &'static str,
        mut place: impl FnMut(u64, u64) -> Result<std::result::Result<u64, Errno>>,
    ) -> Result<Placed> {
        ioctl::Range::new(to, len)?;
        let (mut at, mut sum) = (0, Placed::default());
        let mut stalled = 0;
        while at < len {
            match place(at, len - at)? {
                Ok(n) if n > 0 && n <= len - at && n.is_multiple_of(PAGE) => {
                    (at, sum.placed, stalled) = (at + n, sum.placed + n, 0);
                }
                Err(Errno::EEXIST) => {
                    // Nobody was woken for it: it may have come through another mapping.
                    self.wake(to + at, PAGE)?;
                    (at, sum.present, stalled) = (at + PAGE, sum.present + PAGE, 0);
                }
                // The mappings of the process are being changed, or nothing was said: once more.
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) if stalled < STALLS => {
                    stalled += 1;
                    std::thread::yield_now();
                }
                Ok(_) => return Err(range_error(what, to + at, len - at, Errno::EAGAIN)),
                Err(errno) => return Err(range_error(what, to + at, len - at, errno)),
            }
        }
        Ok(sum)
    }
}

/// How often an operation without progress is tried again.
const STALLS: u32 = 100_000;

fn range_error(what: &'static str, base: u64, len: u64, errno: Errno) -> Error {
    // ESRCH: the memory of that process is gone with it.
    if errno == Errno::ESRCH { Error::Gone } else { Error::Range { what, base, len, errno } }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Uffd {
    /// A descriptor that another process made with [`Uffd::create`] and sent.
    fn from(fd: OwnedFd) -> Self {
        Uffd { fd }
    }
}

impl From<Uffd> for OwnedFd {
    fn from(uffd: Uffd) -> Self {
        uffd.fd
    }
}
