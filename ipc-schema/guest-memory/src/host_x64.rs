//! The accesses themselves: one host instruction each, written as such.
//!
//! Shared memory is read and written by other processes at any time, so a plain Rust access would be a data race. Each
//! access here is an `asm!` block: the compiler treats it as opaque and orders it with its neighbours, and the host's
//! architecture says what a race does. On x86-64 that is (Intel SDM vol. 3A, 10.1.1 and 10.2): a `mov` that does not
//! cross a cache line is single-copy atomic, aligned or not; loads are acquire and stores are release (TSO), which is
//! all that TSO guests need short of a fence; `lock`ed operations are atomic at any alignment (one that crosses a
//! cache line takes the bus lock, as it would on the guest's own hardware; the host kernel may slow it down).
#![expect(unsafe_code, reason = "accesses to memory that other processes write at the same time")]

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "guest-memory has its accesses written for x86-64 hosts only; add a module beside host_x64 for this one"
);

use std::arch::asm;
use std::arch::x86_64::__m128i;

mod sealed {
    /// The operations behind [`super::Word`]. All take a pointer into a live mapping, at any alignment.
    pub trait Raw: Copy + Eq {
        /// # Safety
        /// `p` must point to `size_of::<Self>()` mapped, readable bytes.
        unsafe fn load(p: *const u8) -> Self;
        /// # Safety
        /// `p` must point to `size_of::<Self>()` mapped, writable bytes.
        unsafe fn store(p: *mut u8, v: Self);
        /// # Safety
        /// As `store`.
        unsafe fn fetch_add(p: *mut u8, v: Self) -> Self;
        /// # Safety
        /// As `store`.
        unsafe fn swap(p: *mut u8, v: Self) -> Self;
        /// Answers the previous value; the exchange happened if it equals `current`.
        /// # Safety
        /// As `store`.
        unsafe fn compare_exchange(p: *mut u8, current: Self, new: Self) -> Self;
        fn and(self, v: Self) -> Self;
        fn or(self, v: Self) -> Self;
        fn xor(self, v: Self) -> Self;
    }
}
pub(crate) use sealed::Raw;

/// An integer that guest memory is accessed as, in the host's (little-endian) byte order: `u8`, `u16`, `u32`, `u64`.
pub trait Word: sealed::Raw {}

macro_rules! word {
    ($t:ty, $wide:ty, $class:ident, $load:literal, $store:literal, $xadd:literal, $xchg:literal, $cas:literal, $acc:tt) => {
        impl Word for $t {}
        impl sealed::Raw for $t {
            #[inline(always)]
            unsafe fn load(p: *const u8) -> Self {
                let v: $wide;
                // SAFETY: the caller passes a readable pointer; the instruction writes only its register.
                unsafe { asm!($load, v = out(reg) v, p = in(reg) p, options(nostack, preserves_flags)) };
                v as $t
            }
            #[inline(always)]
            unsafe fn store(p: *mut u8, v: Self) {
                // SAFETY: the caller passes a writable pointer of this width.
                unsafe { asm!($store, v = in($class) v, p = in(reg) p, options(nostack, preserves_flags)) };
            }
            #[inline(always)]
            unsafe fn fetch_add(p: *mut u8, v: Self) -> Self {
                let old: $t;
                // SAFETY: the caller passes a writable pointer of this width.
                unsafe { asm!($xadd, v = inout($class) v => old, p = in(reg) p, options(nostack)) };
                old
            }
            #[inline(always)]
            unsafe fn swap(p: *mut u8, v: Self) -> Self {
                let old: $t;
                // SAFETY: the caller passes a writable pointer of this width.
                unsafe {
                    asm!($xchg, v = inout($class) v => old, p = in(reg) p, options(nostack, preserves_flags));
                }
                old
            }
            #[inline(always)]
            unsafe fn compare_exchange(p: *mut u8, current: Self, new: Self) -> Self {
                let old: $t;
                // SAFETY: the caller passes a writable pointer of this width.
                unsafe {
                    asm!($cas, n = in($class) new, p = in(reg) p, inout($acc) current => old, options(nostack));
                }
                old
            }
            #[inline(always)]
            fn and(self, v: Self) -> Self {
                self & v
            }
            #[inline(always)]
            fn or(self, v: Self) -> Self {
                self | v
            }
            #[inline(always)]
            fn xor(self, v: Self) -> Self {
                self ^ v
            }
        }
    };
}

#[rustfmt::skip]
mod words {
    use super::*;
    word!(u8, u32, reg_byte, "movzx {v:e}, byte ptr [{p}]", "mov byte ptr [{p}], {v}",
        "lock xadd byte ptr [{p}], {v}", "xchg byte ptr [{p}], {v}", "lock cmpxchg byte ptr [{p}], {n}", "al");
    word!(u16, u32, reg, "movzx {v:e}, word ptr [{p}]", "mov word ptr [{p}], {v:x}",
        "lock xadd word ptr [{p}], {v:x}", "xchg word ptr [{p}], {v:x}", "lock cmpxchg word ptr [{p}], {n:x}", "ax");
    word!(u32, u32, reg, "mov {v:e}, dword ptr [{p}]", "mov dword ptr [{p}], {v:e}",
        "lock xadd dword ptr [{p}], {v:e}", "xchg dword ptr [{p}], {v:e}", "lock cmpxchg dword ptr [{p}], {n:e}", "eax");
    word!(u64, u64, reg, "mov {v}, qword ptr [{p}]", "mov qword ptr [{p}], {v}",
        "lock xadd qword ptr [{p}], {v}", "xchg qword ptr [{p}], {v}", "lock cmpxchg qword ptr [{p}], {n}", "rax");
}

/// `f` applied to the word at `p`, atomically; answers the previous value.
///
/// # Safety
/// `p` must point to a mapped, writable word.
#[inline(always)]
pub(crate) unsafe fn fetch_update<T: Word>(p: *mut u8, f: impl Fn(T) -> T) -> T {
    // SAFETY: passed on to the caller.
    let mut seen = unsafe { T::load(p) };
    loop {
        // SAFETY: passed on to the caller.
        let was = unsafe { T::compare_exchange(p, seen, f(seen)) };
        if was == seen {
            return was;
        }
        seen = was;
    }
}

/// 16 bytes. Aligned: one instruction, atomic on every host with AVX (Intel SDM vol. 3A, 10.1.1). Unaligned: no promise.
///
/// # Safety
/// `p` must point to 16 mapped, readable bytes.
#[inline(always)]
pub(crate) unsafe fn load_u128(p: *const u8) -> u128 {
    let x: __m128i;
    if (p as usize).is_multiple_of(16) {
        // SAFETY: the caller passes 16 readable bytes; aligned, as movdqa demands.
        unsafe {
            asm!("movdqa {x}, xmmword ptr [{p}]", x = out(xmm_reg) x, p = in(reg) p, options(nostack, preserves_flags))
        };
    } else {
        // SAFETY: the caller passes 16 readable bytes.
        unsafe {
            asm!("movdqu {x}, xmmword ptr [{p}]", x = out(xmm_reg) x, p = in(reg) p, options(nostack, preserves_flags))
        };
    }
    // SAFETY: both types are 16 bytes of any value.
    unsafe { std::mem::transmute(x) }
}

/// 16 bytes; see [`load_u128`].
///
/// # Safety
/// `p` must point to 16 mapped, writable bytes.
#[inline(always)]
pub(crate) unsafe fn store_u128(p: *mut u8, v: u128) {
    // SAFETY: both types are 16 bytes of any value.
    let x: __m128i = unsafe { std::mem::transmute(v) };
    if (p as usize).is_multiple_of(16) {
        // SAFETY: the caller passes 16 writable bytes; aligned, as movdqa demands.
        unsafe {
            asm!("movdqa xmmword ptr [{p}], {x}", x = in(xmm_reg) x, p = in(reg) p, options(nostack, preserves_flags))
        };
    } else {
        // SAFETY: the caller passes 16 writable bytes.
        unsafe {
            asm!("movdqu xmmword ptr [{p}], {x}", x = in(xmm_reg) x, p = in(reg) p, options(nostack, preserves_flags))
        };
    }
}

/// `lock cmpxchg16b`; answers the previous value. Every x86-64-v2 host has it.
///
/// # Safety
/// `p` must point to 16 mapped, writable bytes and be 16-byte aligned.
#[inline]
pub(crate) unsafe fn compare_exchange_u128(p: *mut u8, current: u128, new: u128) -> u128 {
    let (mut low, mut high) = (current as u64, (current >> 64) as u64);
    // rbx is reserved by the compiler's back end, so it is swapped in and out by hand; the pointer has a register of its
    // own, since the compiler may choose rbx for an unnamed one.
    // SAFETY: the caller passes 16 aligned, writable bytes; rbx is restored.
    unsafe {
        asm!(
            "xchg {n}, rbx",
            "lock cmpxchg16b xmmword ptr [rdi]",
            "mov rbx, {n}",
            n = inout(reg) new as u64 => _,
            in("rdi") p,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack)
        );
    }
    (high as u128) << 64 | low as u128
}

/// Up to this many bytes a loop of word accesses beats the start-up cost of `rep movsb`.
const SHORT: usize = 64;

/// Copies upwards, as memcpy (or memmove with `dst` below `src`).
///
/// # Safety
/// `n` readable bytes at `src`, `n` writable ones at `dst`.
#[inline]
pub(crate) unsafe fn copy_up(dst: *mut u8, src: *const u8, n: usize) {
    if n > SHORT {
        // SAFETY: passed on to the caller. The direction flag is clear by the ABI.
        unsafe {
            asm!("rep movsb", inout("rcx") n => _, inout("rdi") dst => _, inout("rsi") src => _,
                options(nostack, preserves_flags));
        }
        return;
    }
    let mut i = 0;
    while n - i >= 8 {
        // SAFETY: i + 8 <= n.
        unsafe { u64::store(dst.add(i), u64::load(src.add(i))) };
        i += 8;
    }
    while i < n {
        // SAFETY: i < n.
        unsafe { u8::store(dst.add(i), u8::load(src.add(i))) };
        i += 1;
    }
}

/// Copies downwards: for overlapping ranges with `dst` above `src`. Each word is loaded before a store can reach it.
///
/// # Safety
/// As [`copy_up`].
pub(crate) unsafe fn copy_down(dst: *mut u8, src: *const u8, n: usize) {
    let mut i = n;
    while i >= 8 {
        i -= 8;
        // SAFETY: i + 8 <= n.
        unsafe { u64::store(dst.add(i), u64::load(src.add(i))) };
    }
    while i > 0 {
        i -= 1;
        // SAFETY: i < n.
        unsafe { u8::store(dst.add(i), u8::load(src.add(i))) };
    }
}

/// Sets `n` bytes.
///
/// # Safety
/// `n` writable bytes at `dst`.
#[inline]
pub(crate) unsafe fn fill(dst: *mut u8, n: usize, value: u8) {
    // SAFETY: passed on to the caller. The direction flag is clear by the ABI.
    unsafe {
        asm!("rep stosb", inout("rcx") n => _, inout("rdi") dst => _, in("al") value, options(nostack, preserves_flags));
    }
}
