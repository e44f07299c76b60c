//! Code memory: one memfd mapped twice, once to write and once to execute, and behind the latter data that code can reach by a
//! distance from itself.
//!
//! It is made before lock-down, when mappings can still be made; nothing can be made executable after. No address is both
//! writable and executable, so a stray store cannot become code.
#![expect(unsafe_code, reason = "maps memory, and writes to the alias of memory that is executed")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Why there is no code memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("code memory of {len} bytes cannot be made ({what}): {source}; --engine tcg-t0 does without")]
    Kernel {
        /// The call.
        what: &'static str,
        /// How much was asked for.
        len: usize,
        /// Why.
        source: std::io::Error,
    },
}

/// Code memory.
#[derive(Debug)]
pub struct CodeMemory {
    write: *mut u8,
    /// The mapping that is executed, and data behind it.
    exec: *mut u8,
    len: usize,
}

/// One mapping, until it is taken.
struct Mapping(*mut u8, usize);

impl Mapping {
    /// What `fd` holds, or nothing but zeros; at an address of the kernel's choice or over what is `at`.
    fn new(at: Option<*mut u8>, len: usize, protection: i32, fd: Option<&OwnedFd>) -> Option<Mapping> {
        let kind = if fd.is_some() { libc::MAP_SHARED } else { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS };
        let fixed = if at.is_some() { libc::MAP_FIXED } else { 0 };
        let (place, fd) = (at.unwrap_or(std::ptr::null_mut()), fd.map_or(-1, AsRawFd::as_raw_fd));
        // SAFETY: a new mapping, or one over a mapping that the caller has made for it.
        let p = unsafe { libc::mmap(place.cast(), len, protection, kind | fixed, fd, 0) };
        (p != libc::MAP_FAILED).then_some(Mapping(p.cast(), len))
    }

    fn take(self) -> *mut u8 {
        let p = self.0;
        std::mem::forget(self);
        p
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and whoever has had the address does not use it any more.
        unsafe { libc::munmap(self.0.cast(), self.1) };
    }
}

// SAFETY: the mappings belong to this value alone; whoever has it may write from any thread.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// `len` bytes, a multiple of 4096.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn new(len: usize) -> Result<CodeMemory, Error> {
        let failed = |what| Error::Kernel { what, len, source: std::io::Error::last_os_error() };
        // SAFETY: a name that lives as long as the program.
        let fd = unsafe { libc::memfd_create(c"code".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(failed("memfd_create"));
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: no memory is involved.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) } != 0 {
            return Err(failed("ftruncate"));
        }
        let (read, write, execute) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        let alias = Mapping::new(None, len, read | write, Some(&fd)).ok_or_else(|| failed("mmap to write"))?;
        let both = Mapping::new(None, len + Self::data_len(len), read | write, None).ok_or_else(|| failed("mmap"))?;
        let code =
            Mapping::new(Some(both.0), len, read | execute, Some(&fd)).ok_or_else(|| failed("mmap to execute"))?;
        code.take();
        Ok(CodeMemory { write: alias.take(), exec: both.take(), len })
    }

    const fn data_len(len: usize) -> usize {
        (len / 4).next_multiple_of(4096)
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where offset 0 is executed.
    pub fn exec(&self) -> *const u8 {
        self.exec
    }

    /// Data behind the code, zeros at first, aligned to pages: code at offset `x` reaches it by a distance of [`CodeMemory::len`]
    /// less `x`. It is never executed.
    pub fn data(&mut self) -> (*mut u8, usize) {
        (self.exec.wrapping_add(self.len), Self::data_len(self.len))
    }

    /// Write `bytes` at `offset`; answers whether they fit.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        if offset > self.len || bytes.len() > self.len - offset {
            return false;
        }
        // SAFETY: within the mapping, which nobody else writes; code that runs is not reading these bytes as data.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.write.add(offset), bytes.len()) };
        true
    }

    /// What lies at `offset`, for printing.
    pub fn read(&self, offset: usize, len: usize) -> &[u8] {
        if offset > self.len || len > self.len - offset {
            return &[];
        }
        // SAFETY: within the mapping, and `self` is borrowed, so that nobody writes meanwhile.
        unsafe { std::slice::from_raw_parts(self.write.add(offset), len) }
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        drop(Mapping(self.write, self.len));
        drop(Mapping(self.exec, self.len + Self::data_len(self.len)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_executed() {
        let mut m = CodeMemory::new(8192).unwrap();
        // mov eax, 42; ret
        assert!(m.write(4096, &[0xb8, 42, 0, 0, 0, 0xc3]));
        // SAFETY: the bytes above are such a function.
        let f: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(m.exec().add(4096)) };
        assert_eq!(f(), 42);
        assert!(!m.write(8190, &[0; 3]) && !m.write(usize::MAX, &[0]) && m.write(8192, &[]));
        assert_eq!(m.read(4096, 1), [0xb8]);
    }

    #[test]
    fn code_reaches_its_data() {
        let mut m = CodeMemory::new(8192).unwrap();
        // mov eax, [rip + distance]; ret
        let mut code = vec![0x8b, 0x05];
        code.extend_from_slice(&(8192 - 6 + 8i32).to_le_bytes());
        code.push(0xc3);
        assert!(m.write(0, &code));
        let (data, len) = m.data();
        assert_eq!(len, 4096);
        // SAFETY: within the data, which nobody else uses.
        unsafe { data.add(8).cast::<u32>().write(7) };
        // SAFETY: the bytes above are such a function.
        let f: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(m.exec()) };
        assert_eq!(f(), 7);
    }
}
