//! A register slot: one cache line that carries one access of one vCPU to one device, and its answer.
//!
//! The line's first word holds sequence and state together, so that each step is one store or one compare-and-swap:
//!
//! ```text
//! engine: fields, then n|REQUEST          (a new sequence n)
//! device: n|REQUEST -> n|CLAIMED          by compare-and-swap; from here on the engine cannot withdraw
//! device: effect and answer committed     (see `server`: one store, in the device's own state)
//! device: reply field, then n|REPLY       repeated by a successor if need be
//! engine: n|REQUEST -> n|IDLE             by compare-and-swap: withdrawn, nothing has happened
//! ```
#![expect(unsafe_code, reason = "says that a slot may lie in shared memory")]

use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use guest_memory::{Shared, futex};

use crate::may_die_here;

pub(crate) const IDLE: u64 = 0;
pub(crate) const REQUEST: u64 = 1;
pub(crate) const CLAIMED: u64 = 2;
pub(crate) const REPLY: u64 = 3;

/// The bits of the control word that hold the state; the sequence is above them.
const STATE_BITS: u32 = 8;

pub(crate) fn control(sequence: u64, state: u64) -> u64 {
    sequence << STATE_BITS | state
}

pub(crate) fn sequence_of(control: u64) -> u64 {
    control >> STATE_BITS
}

pub(crate) fn state_of(control: u64) -> u64 {
    control & ((1 << STATE_BITS) - 1)
}

/// What the vCPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// A load.
    Read = 1,
    /// A store.
    Write = 2,
    /// A write to PCI configuration space; the address is bus << 20 | device << 15 | function << 12 | register, however
    /// the guest got there (0xCFC or ECAM).
    ConfigWrite = 3,
    /// An interrupt-acknowledge cycle: the answer is the PIC's vector.
    InterruptAcknowledge = 4,
}

/// Which address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Space {
    /// Guest-physical memory.
    Memory = 0,
    /// x86 I/O ports.
    Port = 1,
}

/// Memory attributes of an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// From the secure world (aarch64).
    pub secure: bool,
    /// From user mode.
    pub user: bool,
    /// Requester id of a DMA; 0 for a vCPU.
    pub requester: u16,
}

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What is done.
    pub operation: Operation,
    /// In which address space.
    pub space: Space,
    /// The guest's address, not relative to the window.
    pub address: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub width: u8,
    /// What is written, zero-extended; 0 for reads.
    pub value: u64,
    /// Memory attributes.
    pub attributes: Attributes,
    /// The vCPU.
    pub vcpu: u16,
}

impl Access {
    /// All bits that `width` bytes have.
    pub const fn mask(width: u8) -> u64 {
        if width >= 8 { u64::MAX } else { (1 << (8 * width as u32)) - 1 }
    }

    /// Operation, width, space, attributes and vCPU in one word.
    pub(crate) fn pack(&self) -> u64 {
        let a = self.attributes;
        u64::from(self.operation as u8)
            | u64::from(self.width) << 8
            | u64::from(self.space as u8) << 16
            | u64::from(a.secure) << 24
            | u64::from(a.user) << 25
            | u64::from(a.requester) << 32
            | u64::from(self.vcpu) << 48
    }

    /// The reverse of [`Access::pack`]; `None` for what no engine writes. The vCPU is where the access was found, or
    /// in the posted ring what the word says.
    pub(crate) fn unpack(word: u64, address: u64, value: u64) -> Option<Self> {
        let operation = match word as u8 {
            1 => Operation::Read,
            2 => Operation::Write,
            3 => Operation::ConfigWrite,
            4 => Operation::InterruptAcknowledge,
            _ => return None,
        };
        let space = match (word >> 16) as u8 {
            0 => Space::Memory,
            1 => Space::Port,
            _ => return None,
        };
        let width = (word >> 8) as u8;
        if !matches!(width, 1 | 2 | 4 | 8) {
            return None;
        }
        let attributes =
            Attributes { secure: word >> 24 & 1 == 1, user: word >> 25 & 1 == 1, requester: (word >> 32) as u16 };
        let value = value & Self::mask(width);
        Some(Self { operation, space, address, width, value, attributes, vcpu: (word >> 48) as u16 })
    }
}

/// The cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) control: AtomicU64,
    what: AtomicU64,
    address: AtomicU64,
    value: AtomicU64,
    reply: AtomicU64,
    /// Of the engine that asked; for diagnosis.
    incarnation: AtomicU32,
    /// Counts wake-ups: the futex. Whoever changes what the vCPU waits for adds 1 afterwards.
    bell: AtomicU32,
    /// Not 0 while the vCPU may sleep on `bell`.
    sleeping: AtomicU32,
    _reserved: AtomicU32,
}

// SAFETY: atomics only.
unsafe impl Shared for Slot {}

const _: () = assert!(size_of::<Slot>() as u64 == crate::layout::SLOT_LEN);

impl Slot {
    /// Engine: puts an access with a new sequence into the slot.
    pub(crate) fn submit(&self, sequence: u64, access: &Access, incarnation: u32) {
        self.what.store(access.pack(), Relaxed);
        self.address.store(access.address, Relaxed);
        self.value.store(access.value, Relaxed);
        self.incarnation.store(incarnation, Relaxed);
        // Sequentially consistent: the device's sleep flag is read after it.
        self.control.swap(control(sequence, REQUEST), SeqCst);
    }

    /// Engine: the answer to `sequence`, if it has come.
    pub(crate) fn answer(&self, sequence: u64) -> Option<u64> {
        (self.control.load(Acquire) == control(sequence, REPLY)).then(|| self.reply.load(Relaxed))
    }

    /// Engine: takes back what no device has claimed; answers whether it could.
    pub(crate) fn withdraw(&self, sequence: u64) -> bool {
        self.control.compare_exchange(control(sequence, REQUEST), control(sequence, IDLE), SeqCst, SeqCst).is_ok()
    }

    /// Device: the access that waits here, and its sequence.
    pub(crate) fn waiting(&self) -> Option<(u64, Option<Access>)> {
        let word = self.control.load(Acquire);
        if !matches!(state_of(word), REQUEST | CLAIMED) {
            return None;
        }
        let fields = [&self.what, &self.address, &self.value].map(|f| f.load(Relaxed));
        Some((sequence_of(word), Access::unpack(fields[0], fields[1], fields[2])))
    }

    /// Device: makes the access its own (again, for a successor); answers whether it is still there.
    pub(crate) fn claim(&self, sequence: u64) -> bool {
        let request = control(sequence, REQUEST);
        let claimed = control(sequence, CLAIMED);
        match self.control.compare_exchange(request, claimed, SeqCst, SeqCst) {
            Ok(_) => true,
            Err(now) => now == claimed,
        }
    }

    /// Device: gives a claimed access back, unserved.
    pub(crate) fn unclaim(&self, sequence: u64) {
        let _ = self.control.compare_exchange(control(sequence, CLAIMED), control(sequence, REQUEST), SeqCst, SeqCst);
    }

    /// Device: publishes a committed answer. Harmless if it was published before.
    pub(crate) fn publish(&self, sequence: u64, reply: u64) {
        let word = self.control.load(Acquire);
        if sequence_of(word) != sequence || !matches!(state_of(word), REQUEST | CLAIMED) {
            return;
        }
        self.reply.store(reply, Relaxed);
        may_die_here();
        self.control.swap(control(sequence, REPLY), SeqCst);
        may_die_here();
        self.wake();
    }

    /// Wakes the vCPU if it sleeps. A device that died between answer and wake-up leaves that to its successor.
    pub(crate) fn wake(&self) {
        self.bell.fetch_add(1, SeqCst);
        may_die_here();
        if self.sleeping.load(SeqCst) != 0 {
            futex::wake_all(&self.bell);
        }
    }

    /// Engine: the wake-up count, to be read before looking at what is waited for.
    pub(crate) fn bell(&self) -> u32 {
        self.bell.load(SeqCst)
    }

    /// Engine: sleeps unless the wake-up count has moved on from `bell`.
    pub(crate) fn sleep(&self, bell: u32) {
        self.sleeping.swap(1, SeqCst);
        if self.bell.load(SeqCst) == bell {
            futex::wait(&self.bell, bell, None);
        }
        self.sleeping.store(0, Relaxed);
    }
}
