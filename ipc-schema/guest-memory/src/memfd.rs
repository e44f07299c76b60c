//! Making memfds. One idea: whoever maps a memfd must be able to rely on its length, so every memfd is born sealed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use crate::{Error, Result};

/// The page size that lengths and offsets are multiples of. (The host's is 4 KiB on x86-64; the dirty unit is too.)
pub const PAGE_SIZE: u64 = 4096;

/// MFD_NOEXEC_SEAL (Linux 6.3): never executable, and sealed so. Older kernels answer EINVAL.
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(8);

/// A sealed memfd: its length never changes, whoever holds it.
#[derive(Debug)]
pub struct Memfd;

impl Memfd {
    /// Makes a sparse memfd of `len` bytes (rounded up to whole pages), sealed against shrinking, growing and further
    /// sealing, close-on-exec. Only the pages that are touched cost memory.
    ///
    /// # Errors
    /// [`Error::Create`] with the step that failed.
    pub fn create(name: &str, len: u64) -> Result<OwnedFd> {
        let fail = |step| move |errno| Error::Create { name: name.to_owned(), len, step, errno };
        let size = len
            .checked_next_multiple_of(PAGE_SIZE)
            .and_then(|v| i64::try_from(v).ok())
            .ok_or(Error::Create { name: name.to_owned(), len, step: "rounding the size", errno: Errno::EFBIG })?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = match memfd_create(name, flags | NOEXEC_SEAL) {
            Err(Errno::EINVAL) => memfd_create(name, flags),
            other => other,
        }
        .map_err(fail("memfd_create"))?;
        ftruncate(&fd, size).map_err(fail("ftruncate"))?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(fail("fcntl(F_ADD_SEALS)"))?;
        Ok(fd)
    }
}

/// Checks that the file behind `fd` cannot shrink under a mapping.
///
/// # Errors
/// [`Error::NotSealed`], naming the descriptor as `what`.
pub fn sealed_against_shrinking(fd: BorrowedFd<'_>, what: &'static str) -> Result<()> {
    let seals = fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS).unwrap_or(0);
    if seals & SealFlag::F_SEAL_SHRINK.bits() == 0 {
        return Err(Error::NotSealed { what, seals });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memfd_keeps_its_length() {
        let fd = Memfd::create("t", 5000).unwrap();
        assert_eq!(nix::sys::stat::fstat(&fd).unwrap().st_size, 8192);
        assert_eq!(ftruncate(&fd, 4096), Err(Errno::EPERM));
        assert_eq!(ftruncate(&fd, 16384), Err(Errno::EPERM));
        sealed_against_shrinking(fd.as_fd(), "test").unwrap();
    }

    #[test]
    fn other_descriptors_are_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(sealed_against_shrinking(null.as_fd(), "ram"), Err(Error::NotSealed { what: "ram", .. })));
    }
}
