//! Eventfds: the bell that wakes a process which polls. A ring is never lost, rings may merge.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd as Raw};
use nix::unistd::{read, write};

use crate::{Error, Result};

/// A non-blocking eventfd.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// Makes one: non-blocking, close-on-exec, counter 0.
    ///
    /// # Errors
    /// [`Error::EventFd`] if the kernel has no descriptor to give.
    pub fn new() -> Result<Self> {
        let fd = Raw::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|errno| Error::EventFd { call: "eventfd2", errno })?;
        Ok(Self { fd: fd.into() })
    }

    /// Another descriptor of the same eventfd.
    ///
    /// # Errors
    /// [`Error::EventFd`] if the kernel has no descriptor to give.
    pub fn try_clone(&self) -> Result<Self> {
        let errno =
            |e: std::io::Error| Error::EventFd { call: "dup", errno: Errno::from_raw(e.raw_os_error().unwrap_or(0)) };
        Ok(Self { fd: self.fd.try_clone().map_err(errno)? })
    }

    /// Rings. A counter that is already full (EAGAIN) has rung.
    ///
    /// # Errors
    /// [`Error::EventFd`] if the descriptor is no eventfd.
    pub fn ring(&self) -> Result<()> {
        loop {
            match write(&self.fd, &1u64.to_ne_bytes()) {
                Ok(_) | Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::EventFd { call: "write", errno }),
            }
        }
    }

    /// Takes the rings so far; answers how many (0: none).
    ///
    /// # Errors
    /// [`Error::EventFd`] if the descriptor is no eventfd.
    pub fn drain(&self) -> Result<u64> {
        let mut count = [0; 8];
        loop {
            match read(&self.fd, &mut count) {
                Ok(_) => return Ok(u64::from_ne_bytes(count)),
                Err(Errno::EAGAIN) => return Ok(0),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::EventFd { call: "read", errno }),
            }
        }
    }
}

impl From<OwnedFd> for EventFd {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn rings_merge_and_are_taken_once() {
        let a = EventFd::new().unwrap();
        let b = a.try_clone().unwrap();
        assert_eq!(b.drain().unwrap(), 0);
        a.ring().unwrap();
        b.ring().unwrap();
        assert_eq!(b.drain().unwrap(), 2);
        assert_eq!(a.drain().unwrap(), 0);
    }
}
