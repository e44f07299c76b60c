//! Code memory: the same pages mapped twice, once to write and once to execute, and behind the latter data that code can reach by a
//! distance from itself.
//!
//! It is made before lock-down, when mappings can still be made; nothing can be made executable after. No address is both
//! writable and executable, so a stray store cannot become code. The pages have no file: profilers take a map of names
//! (`perf-PID.map`) for such memory only.
#![expect(unsafe_code, reason = "maps memory, and writes to the alias of memory that is executed")]

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
    /// Zeros that can be read and written, at an address of the kernel's choice.
    fn new(len: usize) -> Option<Mapping> {
        let (protection, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, kind, -1, 0) };
        (p != libc::MAP_FAILED).then_some(Mapping(p.cast(), len))
    }

    /// Have the beginning of `over` be another mapping of the same pages, to execute.
    fn alias(&self, over: &Mapping) -> bool {
        if over.1 < self.1 {
            return false;
        }
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: over a mapping of this module, which nobody uses yet. With an old length of 0 the old mapping stays as it is
        // (mremap(2)).
        let p = unsafe { libc::mremap(self.0.cast(), 0, self.1, how, over.0.cast::<libc::c_void>()) };
        // SAFETY: what was just mapped.
        p != libc::MAP_FAILED && unsafe { libc::mprotect(p, self.1, libc::PROT_READ | libc::PROT_EXEC) } == 0
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
        let alias = Mapping::new(len).ok_or_else(|| failed("mmap to write"))?;
        let both = Mapping::new(len + Self::data_len(len)).ok_or_else(|| failed("mmap"))?;
        if !alias.alias(&both) {
            return Err(failed("a second mapping, to execute"));
        }
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
