//! The header of the `windows` memfd: the guest clock, the interrupt routes, and what engine and board exchange.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use guest_memory::{Access as MapAccess, Memfd, SharedMap};
use nix::time::{ClockId, clock_gettime};

use crate::flip::Flip;
use crate::layout::*;
use crate::{Error, Result};

/// Makes the `windows` memfd of a VM, sealed, with its identity page.
///
/// # Errors
/// The memfd could not be made or mapped.
pub fn create_windows() -> Result<OwnedFd> {
    let fd = Memfd::create("windows", WINDOWS_LEN)?;
    let map = SharedMap::map(fd.as_fd(), 0, CLOCK_PAGES.1, MapAccess::ReadWrite, "windows")?;
    for (n, value) in identity().into_iter().enumerate().rev() {
        map.store(8 * n as u64, value.1);
    }
    Ok(fd)
}

/// The words of the identity page.
fn identity() -> [(&'static str, u64); 5] {
    [
        ("magic", MAGIC),
        ("version", VERSION),
        ("length", WINDOWS_LEN),
        ("devices", MAX_DEVICES as u64),
        ("area length", AREA_LEN),
    ]
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic_ns() -> u64 {
    // The clock exists on every Linux; 0 would merely stop guest time.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(|t| (t.tv_sec(), t.tv_nsec())).unwrap_or((0, 0));
    (now.0 as u64).wrapping_mul(1_000_000_000).wrapping_add(now.1 as u64)
}

/// Which part of the header a process maps, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Clock read/write, exchange page, routes read-only.
    Engine,
    /// Clock read-only, exchange page, routes read/write.
    Board,
    /// Clock read-only; nothing else.
    Device,
}

/// The guest's time: `monotonic + offset` while it runs, a constant while it is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockState {
    /// Stands at this many nanoseconds.
    Paused(u64),
    /// Guest nanoseconds = [`monotonic_ns`] + this (wrapping).
    Running(u64),
}

impl ClockState {
    /// Guest nanoseconds at the host's `monotonic` time.
    pub fn at(self, monotonic: u64) -> u64 {
        match self {
            Self::Paused(ns) => ns,
            Self::Running(offset) => monotonic.wrapping_add(offset),
        }
    }
}

/// What happens when an interrupt line rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Nothing: masked or not connected.
    None,
    /// The engine sends this message (x86: a local APIC message, Intel SDM vol. 3A 11.11).
    Msi {
        /// Message address.
        address: u64,
        /// Message data.
        data: u32,
    },
    /// The board decides: a level-triggered line, or one that goes through the PIC. The engine sets the line's
    /// forwarded bit and rings the board.
    Forward,
}

/// The mapped header.
#[derive(Debug)]
pub struct Header {
    clock: SharedMap,
    exchange: Option<SharedMap>,
    board: Option<SharedMap>,
}

type Bits = [AtomicU64; MAX_LINES / 64];

impl Header {
    /// Maps what `role` may reach of the `windows` memfd.
    ///
    /// # Errors
    /// A descriptor that is too short, unsealed or cannot be mapped, or whose identity page does not fit.
    pub fn map(fd: BorrowedFd<'_>, role: Role) -> Result<Self> {
        let part = |(offset, len), access| SharedMap::map(fd, offset, len, access, "windows");
        let (read, write) = (MapAccess::ReadOnly, MapAccess::ReadWrite);
        let header = Self {
            clock: part(CLOCK_PAGES, if role == Role::Engine { write } else { read })?,
            exchange: if role == Role::Device { None } else { Some(part(EXCHANGE_PAGES, write)?) },
            board: match role {
                Role::Engine => Some(part(BOARD_PAGES, read)?),
                Role::Board => Some(part(BOARD_PAGES, write)?),
                Role::Device => None,
            },
        };
        for (n, (field, want)) in identity().into_iter().enumerate() {
            let have = header.clock.load::<u64>(8 * n as u64).unwrap_or(0);
            if have != want {
                return Err(Error::BadHeader { field, have, want });
            }
        }
        Ok(header)
    }

    fn clock_row(&self) -> Option<&Flip<2>> {
        self.clock.typed_read(CLOCK)
    }

    /// The guest clock's state.
    pub fn clock(&self) -> ClockState {
        match self.clock_row().map(Flip::read) {
            Some([1, offset]) => ClockState::Running(offset),
            Some([_, ns]) => ClockState::Paused(ns),
            None => ClockState::Paused(0),
        }
    }

    /// Guest time now, in nanoseconds.
    #[inline]
    pub fn guest_ns(&self) -> u64 {
        let generation = || self.clock_row().map(|row| row.read_with_generation().0);
        loop {
            // A state that changed meanwhile does not belong to this instant. (While the engine is freezing the clock, and
            // no vCPU runs, a reader may still be ahead by the few nanoseconds that this takes it.)
            let before = generation();
            let now = self.clock().at(monotonic_ns());
            if generation() == before {
                return now;
            }
        }
    }

    fn set_clock(&self, state: ClockState) {
        let words = match state {
            ClockState::Paused(ns) => [0, ns],
            ClockState::Running(offset) => [1, offset],
        };
        if let Some(row) = self.clock.typed::<Flip<2>>(CLOCK) {
            row.write(&words);
        }
    }

    /// Engine: guest time runs on from `guest_ns`.
    pub fn run_clock(&self, guest_ns: u64) {
        self.set_clock(ClockState::Running(guest_ns.wrapping_sub(monotonic_ns())));
    }

    /// Engine: guest time stands at `guest_ns`.
    pub fn freeze_clock(&self, guest_ns: u64) {
        self.set_clock(ClockState::Paused(guest_ns));
    }

    /// The route of `line`, and the row's generation, which changes with every write (for caches of decoded rows).
    pub fn route(&self, line: usize) -> (u64, Route) {
        let row = (line < MAX_LINES).then_some(ROUTES + line as u64 * ROUTE_LEN);
        let row = row.and_then(|at| self.board.as_ref()?.typed_read::<Flip<3>>(at));
        let Some((generation, [kind, address, data])) = row.map(Flip::read_with_generation) else {
            return (0, Route::None);
        };
        let route = match kind {
            1 => Route::Msi { address, data: data as u32 },
            2 => Route::Forward,
            _ => Route::None,
        };
        (generation, route)
    }

    /// Board: changes the route of `line` (below 256). Ring the engine afterwards only if something that is pending
    /// changes with it: the engine reads the row at each interrupt.
    pub fn set_route(&self, line: usize, route: Route) {
        let words = match route {
            Route::None => [0; 3],
            Route::Msi { address, data } => [1, address, data.into()],
            Route::Forward => [2, 0, 0],
        };
        let row = (line < MAX_LINES).then_some(ROUTES + line as u64 * ROUTE_LEN);
        if let Some(row) = row.and_then(|at| self.board.as_ref()?.typed::<Flip<3>>(at)) {
            row.write(&words);
        }
    }

    fn board_word(&self) -> Option<&AtomicU32> {
        self.board.as_ref()?.typed_read(EXTINT)
    }

    /// Whether the PIC asserts INTR: a vCPU whose LINT0 is in ExtINT mode then asks the board for the vector.
    pub fn extint(&self) -> bool {
        self.board_word().is_some_and(|w| w.load(Acquire) != 0)
    }

    /// Board: sets INTR; answers whether that changed it, and then the engine must be rung.
    pub fn set_extint(&self, asserted: bool) -> bool {
        let word = self.board.as_ref().and_then(|m| m.typed::<AtomicU32>(EXTINT));
        word.is_some_and(|w| w.swap(asserted.into(), SeqCst) != u32::from(asserted))
    }

    fn bits(&self, at: u64) -> Option<&Bits> {
        self.exchange.as_ref()?.typed(at)
    }

    fn set_bit(&self, at: u64, n: usize) {
        if let Some(word) = self.bits(at).and_then(|b| b.get(n / 64)) {
            word.fetch_or(1 << (n % 64), SeqCst);
        }
    }

    fn take_bits(&self, at: u64, mut each: impl FnMut(usize)) {
        for (n, word) in self.bits(at).into_iter().flatten().enumerate() {
            // A plain look first: these words are mostly empty and a read-modify-write takes the line from its owner. What
            // is set after the look comes with a ring of its own.
            if word.load(Relaxed) == 0 {
                continue;
            }
            let mut left = word.swap(0, SeqCst);
            while left != 0 {
                each(64 * n + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }

    /// Engine: the local APIC has ended a level-triggered interrupt of `vector`. Ring the board afterwards.
    pub fn end_of_interrupt(&self, vector: u8) {
        self.set_bit(EOI, vector.into());
    }

    /// Board: calls `each` with every vector ended since the last call.
    pub fn take_ended(&self, each: impl FnMut(usize)) {
        self.take_bits(EOI, each);
    }

    /// Engine: `line`, whose route is [`Route::Forward`], has risen. Ring the board afterwards.
    pub fn forward(&self, line: usize) {
        self.set_bit(FORWARDED, line);
    }

    /// Board: calls `each` with every line forwarded since the last call.
    pub fn take_forwarded(&self, each: impl FnMut(usize)) {
        self.take_bits(FORWARDED, each);
    }

    /// Board: one of its own sources raises `line`; the engine applies the line's route. Ring the engine afterwards.
    pub fn raise(&self, line: usize) {
        self.set_bit(RAISED, line);
    }

    /// Engine: calls `each` with every line that the board raised since the last call.
    pub fn take_raised(&self, each: impl FnMut(usize)) {
        self.take_bits(RAISED, each);
    }
}

const _: () = assert!(size_of::<Flip<3>>() as u64 <= ROUTE_LEN);
