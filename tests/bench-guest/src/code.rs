//! Code that is written while it is used, as by linkers at run time and compilers of scripting languages.
#![expect(unsafe_code, reason = "pages of code, and calls into them")]

use std::ptr::NonNull;

use crate::integer::Random;
use crate::{Failure, Watch};

const SIZE: usize = 4096;

/// A page that may be written and run, and starts with a function without arguments.
struct Page(NonNull<u8>);

impl Page {
    fn new() -> Result<Self, Failure> {
        let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, which nothing else knows of.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, rights, kind, -1, 0) };
        match NonNull::new(page.cast::<u8>()) {
            Some(page) if page.as_ptr().cast() != libc::MAP_FAILED => Ok(Page(page)),
            _ => Err(Failure::last("mmap of a page of code")),
        }
    }

    /// Writes code at an offset; what goes beyond the page is left out.
    fn write(&mut self, at: usize, code: &[u8]) {
        for (at, byte) in (at..SIZE).zip(code) {
            // SAFETY: within the page. Volatile, since the compiler does not know that the page is called.
            unsafe { self.0.as_ptr().add(at).write_volatile(*byte) };
        }
    }

    /// Writes four bytes at an offset at once.
    fn write_word(&mut self, at: usize, word: u32) {
        // SAFETY: `at` is masked to be within the page.
        unsafe { self.0.as_ptr().add(at & (SIZE - 8)).add(at & 3).cast::<u32>().write_unaligned(word) };
    }

    fn call(&self) -> u32 {
        // SAFETY: the page holds one of the functions of this file, which use EAX and ECX alone.
        unsafe {
            let function: extern "C" fn() -> u32 = std::mem::transmute(self.0.as_ptr());
            function()
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping is this page's own.
        unsafe { libc::munmap(self.0.as_ptr().cast(), SIZE) };
    }
}

/// `mov eax, imm32; ret`, with another constant each time.
pub(crate) fn rewrite(watch: &mut Watch) -> Result<(), Failure> {
    let mut page = Page::new()?;
    page.write(0, &[0xb8, 0, 0, 0, 0, 0xc3]);
    watch.time(|| {
        let mut sum = 0_u64;
        for n in 0..30_000_u32 {
            page.write_word(1, n.wrapping_mul(2_654_435_761));
            sum = sum.rotate_left(1).wrapping_add(u64::from(page.call()));
        }
        Ok(sum)
    })
}

/// A function that does sixteen operations on EAX, 100 times.
fn emit(random: &mut Random) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend((random.next() as u32).to_le_bytes());
    code.extend([0xb9, 100, 0, 0, 0]);
    let head = code.len();
    for _ in 0..16 {
        let number = random.next();
        match number >> 32 & 3 {
            0 => code.push(0x05),                    // add eax, imm32
            1 => code.push(0x35),                    // xor eax, imm32
            2 => code.extend([0x69, 0xc0]),          // imul eax, eax, imm32
            _ => code.extend([0xc1, 0xc0, 7, 0x2d]), // rol eax, 7; sub eax, imm32
        }
        code.extend((number as u32 | 1).to_le_bytes());
    }
    code.extend([0xff, 0xc9, 0x0f, 0x85]); // dec ecx; jnz head
    let back = head as i32 - (code.len() as i32 + 4);
    code.extend(back.to_le_bytes());
    code.push(0xc3);
    code
}

pub(crate) fn jit(watch: &mut Watch) -> Result<(), Failure> {
    let mut page = Page::new()?;
    let mut random = Random(5);
    let functions: Vec<Vec<u8>> = (0..64).map(|_| emit(&mut random)).collect();
    watch.time(|| {
        let mut sum = 0_u64;
        for function in functions.iter().cycle().take(2500) {
            page.write(0, function);
            sum = sum.rotate_left(1).wrapping_add(u64::from(page.call()));
        }
        Ok(sum)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_runs() {
        let mut page = Page::new().unwrap();
        page.write(0, &[0xb8, 1, 2, 3, 4, 0xc3]);
        assert_eq!(page.call(), 0x0403_0201);
        page.write_word(1, 77);
        assert_eq!(page.call(), 77);
        page.write(0, &emit(&mut Random(5)));
        let first = page.call();
        page.write(0, &emit(&mut Random(6)));
        assert_ne!(page.call(), first);
    }
}
