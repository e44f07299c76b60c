//! Code memory: one memfd mapped twice, once to write and once to execute.
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
    exec: *const u8,
    len: usize,
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
        let map = |protection| {
            // SAFETY: a new mapping at an address that the kernel chooses.
            let p = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
            (p != libc::MAP_FAILED).then_some(p.cast::<u8>())
        };
        let write = map(libc::PROT_READ | libc::PROT_WRITE).ok_or_else(|| failed("mmap to write"))?;
        let Some(exec) = map(libc::PROT_READ | libc::PROT_EXEC) else {
            let e = failed("mmap to execute");
            // SAFETY: just mapped, and nobody has its address.
            unsafe { libc::munmap(write.cast(), len) };
            return Err(e);
        };
        Ok(CodeMemory { write, exec, len })
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
        // SAFETY: both mappings were made in `new` and end with this value.
        unsafe {
            libc::munmap(self.write.cast(), self.len);
            libc::munmap(self.exec.cast_mut().cast(), self.len);
        }
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
}
