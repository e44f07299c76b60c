//! The system calls, one function each: numbers and structures of `linux/userfaultfd.h`.
#![expect(
    unsafe_code,
    reason = "system calls that take pointers to structures; there is no safe wrapper for userfaultfd"
)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::{Error, PAGE};

/// UFFD_API.
const API: u64 = 0xaa;
/// UFFD_FEATURE_MISSING_SHMEM.
pub const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
/// UFFDIO_REGISTER_MODE_MISSING.
pub const REGISTER_MISSING: u64 = 1;
/// UFFD_USER_MODE_ONLY.
const USER_MODE_ONLY: i32 = 1;
/// UFFD_EVENT_PAGEFAULT.
const EVENT_PAGEFAULT: u8 = 0x12;
/// What must be possible on a registered range: _UFFDIO_WAKE, _UFFDIO_COPY, _UFFDIO_ZEROPAGE.
pub const NEEDED_IOCTLS: u64 = 1 << 2 | 1 << 3 | 1 << 4;

/// An ioctl number: direction (1 write, 2 read), size of the argument, type 0xaa, number.
const fn number(direction: u64, size: usize, n: u64) -> u64 {
    direction << 30 | (size as u64) << 16 | 0xaa << 8 | n
}

/// struct uffdio_range.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Range {
    start: u64,
    len: u64,
}

impl Range {
    /// Whole pages, at least one, below the end of user space.
    pub fn new(start: u64, len: u64) -> crate::Result<Range> {
        let end = start.checked_add(len).filter(|end| *end < 1 << 56);
        if len == 0 || end.is_none() || !start.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(Error::Range { what: "use", base: start, len, errno: Errno::EINVAL });
        }
        Ok(Range { start, len })
    }
}

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct ZeroPage {
    range: Range,
    mode: u64,
    zeroed: i64,
}

/// struct uffd_msg, as far as it says where a page fault is.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

/// userfaultfd(2), closed on exec and not blocking.
pub fn userfaultfd(user_mode_only: bool) -> Result<OwnedFd, Errno> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | if user_mode_only { USER_MODE_ONLY } else { 0 };
    // SAFETY: takes flags only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One ioctl on `fd`.
///
/// # Safety
/// `T` is the structure that the kernel expects for `number`, and pointers in it are valid for what that ioctl does.
unsafe fn ioctl<T>(fd: BorrowedFd<'_>, number: u64, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: the argument is a live structure of the right size, by this function's contract.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), number, std::ptr::from_mut(argument)) }).map(drop)
}

/// UFFDIO_API; the features that the kernel has.
pub fn api(fd: BorrowedFd<'_>, features: u64) -> Result<u64, Errno> {
    let mut a = Api { api: API, features, ioctls: 0 };
    // SAFETY: struct uffdio_api, without pointers.
    unsafe { ioctl(fd, number(3, size_of::<Api>(), 0x3f), &mut a) }?;
    Ok(a.features)
}

/// UFFDIO_REGISTER; the ioctls that are possible on the range.
pub fn register(fd: BorrowedFd<'_>, range: Range, mode: u64) -> Result<u64, Errno> {
    let mut r = Register { range, mode, ioctls: 0 };
    // SAFETY: struct uffdio_register; the kernel only notes the range.
    unsafe { ioctl(fd, number(3, size_of::<Register>(), 0), &mut r) }?;
    Ok(r.ioctls)
}

/// UFFDIO_UNREGISTER.
pub fn unregister(fd: BorrowedFd<'_>, mut range: Range) -> Result<(), Errno> {
    // SAFETY: struct uffdio_range; the kernel only forgets the range.
    unsafe { ioctl(fd, number(2, size_of::<Range>(), 1), &mut range) }
}

/// UFFDIO_WAKE.
pub fn wake(fd: BorrowedFd<'_>, mut range: Range) -> Result<(), Errno> {
    // SAFETY: struct uffdio_range; nothing is written.
    unsafe { ioctl(fd, number(2, size_of::<Range>(), 2), &mut range) }
}

/// UFFDIO_COPY; the bytes placed. The error is the kernel's for the first page that was not.
pub fn copy(fd: BorrowedFd<'_>, to: u64, from: &[u8]) -> crate::Result<Result<u64, Errno>> {
    Range::new(to, from.len() as u64)?;
    let mut c = Copy { to, from: from.as_ptr() as u64, len: from.len() as u64, mode: 0, copied: 0 };
    // SAFETY: struct uffdio_copy; `from` is readable for `len` bytes, and the kernel fills only pages that were registered for it
    // and are not there yet, of which no reference can exist in whoever registered them.
    let done = unsafe { ioctl(fd, number(3, size_of::<Copy>(), 3), &mut c) };
    Ok(progress(done, c.copied))
}

/// UFFDIO_ZEROPAGE, as [`copy`].
pub fn zeropage(fd: BorrowedFd<'_>, range: Range) -> crate::Result<Result<u64, Errno>> {
    let mut z = ZeroPage { range, mode: 0, zeroed: 0 };
    // SAFETY: struct uffdio_zeropage, without pointers; for the pages see `copy`.
    let done = unsafe { ioctl(fd, number(3, size_of::<ZeroPage>(), 4), &mut z) };
    Ok(progress(done, z.zeroed))
}

/// The kernel answers with an error also if some pages were placed, and counts them.
fn progress(done: Result<(), Errno>, bytes: i64) -> Result<u64, Errno> {
    match (done, u64::try_from(bytes)) {
        (Err(_), Ok(n)) if n > 0 => Ok(n),
        (Err(errno), _) => Err(errno),
        (Ok(()), Ok(n)) => Ok(n),
        (Ok(()), Err(_)) => Err(Errno::EIO),
    }
}

/// read(2): page faults that wait, until `out` is full or there are none.
pub fn read_faults(fd: BorrowedFd<'_>, out: &mut [u64]) -> Result<usize, Errno> {
    /// Messages of one read.
    const BATCH: usize = 32;
    let mut n = 0;
    while n < out.len() {
        let mut batch = [Message { event: 0, reserved: [0; 7], flags: 0, address: 0, thread: 0 }; BATCH];
        let want = (out.len() - n).min(BATCH);
        // SAFETY: the buffer holds `want` messages, and every bit pattern is a valid one.
        let got = Errno::result(unsafe {
            libc::read(fd.as_raw_fd(), batch.as_mut_ptr().cast(), want * size_of::<Message>())
        });
        let bytes = match got {
            Ok(0) | Err(Errno::EAGAIN) => break,
            Ok(bytes) => bytes as usize,
            Err(Errno::EINTR) => continue,
            Err(_) if n > 0 => break,
            Err(e) => return Err(e),
        };
        let messages = &batch[..(bytes / size_of::<Message>()).min(want)];
        for m in messages.iter().filter(|m| m.event == EVENT_PAGEFAULT) {
            out[n] = m.address & !(PAGE - 1);
            n += 1;
        }
        if messages.len() < want {
            break;
        }
    }
    Ok(n)
}
