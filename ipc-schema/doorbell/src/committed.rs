//! Device state that survives kill -9: two copies in the window area and one commit word.
//!
//! The device works on a private copy. [`Committed::commit`] writes it over the copy that is not in force and then
//! makes that the one in force by a single store. A kill before the store leaves the old state, after it the new; there
//! is nothing in between. With the device's own state the copy holds what the slot protocol needs to be exactly-once:
//! the last request of each vCPU with its answer, and how many posted writes took effect.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::area::DeviceArea;
use crate::layout::*;
use crate::{Error, Result, may_die_here};

/// State that is plain data: no pointers, no padding, every bit pattern a value (which its device then bounds).
pub trait Plain: FromBytes + IntoBytes + Immutable + KnownLayout {}
impl<T: FromBytes + IntoBytes + Immutable + KnownLayout> Plain for T {}

/// The last request of one vCPU that took effect.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Handled {
    pub(crate) sequence: u64,
    pub(crate) reply: u64,
}

/// What precedes the device's state in each copy.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Head {
    /// Version of the state's layout, chosen by the device.
    version: u64,
    /// Bytes of the state.
    size: u64,
    /// Posted writes that took effect.
    pub(crate) consumed: u64,
    pub(crate) handled: [Handled; MAX_VCPUS],
}

const LIMIT: u64 = STATE_COPY_LEN - size_of::<Head>() as u64;

/// A device's state with its two copies in shared memory.
#[derive(Debug)]
pub struct Committed<T> {
    generation: u64,
    pub(crate) head: Head,
    /// The device's private working copy.
    pub state: T,
}

impl<T: Plain> Committed<T> {
    /// Takes over what a predecessor committed, or starts with `fresh` if nobody ever did. `version` names the layout of
    /// `T`. The second value says whether there was a predecessor. Nothing is written yet.
    ///
    /// # Errors
    /// [`Error::ForeignState`] if the committed state is of another version or size, [`Error::StateTooLarge`].
    pub fn attach(area: &DeviceArea, version: u64, fresh: T) -> Result<(Self, bool)> {
        let size = size_of::<T>();
        if size as u64 > LIMIT {
            return Err(Error::StateTooLarge { size, limit: LIMIT });
        }
        let handled = [Handled::default(); MAX_VCPUS];
        let mut this =
            Self { generation: 0, head: Head { version, size: size as u64, consumed: 0, handled }, state: fresh };
        this.generation = Self::word(area).load(Acquire);
        if this.generation == 0 {
            return Ok((this, false));
        }
        let at = copy_offset(this.generation);
        let wanted = [("version", version), ("size", size as u64)];
        // The map holds the whole area, so these reads are always inside.
        let _ = area.shared().read(at, this.head.as_mut_bytes());
        for ((field, want), have) in wanted.into_iter().zip([this.head.version, this.head.size]) {
            if have != want {
                return Err(Error::ForeignState { field, have, want });
            }
        }
        let _ = area.shared().read(at + size_of::<Head>() as u64, this.state.as_mut_bytes());
        Ok((this, true))
    }

    fn word(area: &DeviceArea) -> &AtomicU64 {
        area.at(STATE)
    }

    /// Makes the working copy the committed state, by one store.
    pub fn commit(&mut self, area: &DeviceArea) {
        // Generation 0 means "never": skip it, and keep the parity, when the counter wraps.
        let next = if self.generation == u64::MAX { 2 } else { self.generation + 1 };
        let at = copy_offset(next);
        let _ = area.shared().write(at, self.head.as_bytes());
        may_die_here();
        let _ = area.shared().write(at + size_of::<Head>() as u64, self.state.as_bytes());
        may_die_here();
        Self::word(area).store(next, Release);
        self.generation = next;
        may_die_here();
    }
}

fn copy_offset(generation: u64) -> u64 {
    STATE + STATE_COPIES + (generation & 1) * STATE_COPY_LEN
}
