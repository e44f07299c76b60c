//! The engine's side of one device: requests that wait, posted writes that do not, and which shadows hold.
//!
//! A request is pending until it is answered, however often the device dies meanwhile; there is no time-out. The only
//! way out is the caller's exit-request word, and it takes the request back only if no device has touched it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::{Mutex, PoisonError, atomic::AtomicU32};

use guest_memory::futex;

use crate::area::DeviceArea;
use crate::eventfd::EventFd;
use crate::layout::*;
use crate::slot::{self, Access, Attributes, Operation, Space};

/// How a vCPU waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpinPolicy {
    /// Sleeps at once: the right choice unless device and vCPU run on different CPUs and CPUs are to spare.
    Block,
    /// Looks this many times before it sleeps.
    Spin(u32),
}

/// Why an access has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The exit-request word was set and the access was taken back: nothing has happened, restart the instruction.
    #[error("the access was withdrawn because the vCPU must leave")]
    Withdrawn,
    /// The device wrote what the protocol does not allow into the slot.
    #[error(
        "device {device} broke the register slot of vCPU {vcpu}: control word {control:#x}; end the device process, its successor starts clean"
    )]
    Broken {
        /// The device's area.
        device: u16,
        /// The vCPU.
        vcpu: u16,
        /// What was found.
        control: u64,
    },
    /// No such vCPU: there are 64 slots.
    #[error("vCPU {0} has no register slot: there are 64")]
    NoSlot(u16),
    /// The device's eventfd cannot be rung.
    #[error("the doorbell of device {0} cannot be rung: its descriptor is no eventfd")]
    NoBell(u16),
}

/// The engine's side of one device area. Shared by all vCPU threads.
#[derive(Debug)]
pub struct DeviceClient {
    area: DeviceArea,
    kick: EventFd,
    spin: SpinPolicy,
    incarnation: u32,
    /// Posted writes so far. Kept here, so that nothing another process writes can lead the producer astray.
    tail: Mutex<u64>,
    /// Per vCPU, the sequence of its last request.
    sequences: [AtomicU64; MAX_VCPUS],
    /// Per shadow cell, how many posted writes must have been consumed for it to hold.
    invalid_until: [AtomicU64; SHADOW_CELLS as usize],
}

impl DeviceClient {
    /// Takes over the engine's side of an area. Requests that an earlier engine left are withdrawn, all shadows count as stale
    /// until the ring is empty, and the device is rung once.
    pub fn new(area: DeviceArea, kick: EventFd, incarnation: u32, spin: SpinPolicy) -> Self {
        let tail = area.control().tail.load(Acquire);
        let sequences = std::array::from_fn(|vcpu| {
            let slot = area.slot(vcpu);
            let sequence = slot::sequence_of(slot.control.load(Acquire));
            slot.withdraw(sequence);
            AtomicU64::new(sequence)
        });
        let invalid_until = std::array::from_fn(|_| AtomicU64::new(tail));
        let client = Self { area, kick, spin, incarnation, tail: Mutex::new(tail), sequences, invalid_until };
        // An earlier engine may have died between clearing the device's sleep flag and ringing. A descriptor that cannot
        // be rung is reported by the first access.
        let _ = client.kick.ring();
        client
    }

    /// The area.
    pub fn area(&self) -> &DeviceArea {
        &self.area
    }

    /// The device's eventfd, for the list of descriptors that a process keeps.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Rings the device if it sleeps: after something was set on the exchange page.
    ///
    /// # Errors
    /// [`Unanswered::NoBell`].
    pub fn ring(&self) -> Result<(), Unanswered> {
        if self.area.must_ring() {
            self.kick.ring().map_err(|_| Unanswered::NoBell(self.area.device()))?;
        }
        Ok(())
    }

    /// Carries out `access` (whose `vcpu` names the slot) and waits for the answer: the value read, masked to the width.
    /// While it waits it looks at `exit`: set that to non-zero and call [`DeviceClient::wake`] to get the vCPU back.
    ///
    /// A request that a device has claimed is not withdrawn but waited for: its device, or that one's successor, answers it.
    /// One thread per vCPU.
    ///
    /// # Errors
    /// [`Unanswered`]; in all cases but `Broken` nothing has happened in the device.
    pub fn request(&self, access: &Access, exit: &AtomicU32) -> Result<u64, Unanswered> {
        let sequence = self.begin(access, exit)?;
        if let Err(error) = self.ring()
            && self.area.slot(access.vcpu.into()).withdraw(sequence)
        {
            return Err(error);
        }
        self.wait(access.vcpu, sequence, exit).map(|v| v & Access::mask(access.width))
    }

    /// An interrupt-acknowledge cycle of `vcpu`: the PIC's vector.
    ///
    /// # Errors
    /// As [`DeviceClient::request`].
    pub fn interrupt_acknowledge(&self, vcpu: u16, exit: &AtomicU32) -> Result<u8, Unanswered> {
        let (operation, attributes) = (Operation::InterruptAcknowledge, Attributes::default());
        let access = Access { operation, space: Space::Port, address: 0, width: 1, value: 0, attributes, vcpu };
        self.request(&access, exit).map(|v| v as u8)
    }

    /// Puts the request into the slot; answers its sequence.
    pub(crate) fn begin(&self, access: &Access, exit: &AtomicU32) -> Result<u64, Unanswered> {
        let vcpu = usize::from(access.vcpu);
        let last = self.sequences.get(vcpu).ok_or(Unanswered::NoSlot(access.vcpu))?;
        let slot = self.area.slot(vcpu);
        loop {
            // Only a request of an earlier engine, claimed when that died, can still be here.
            let bell = slot.bell();
            if slot::state_of(slot.control.load(Acquire)) != slot::CLAIMED {
                break;
            }
            if exit.load(SeqCst) != 0 {
                return Err(Unanswered::Withdrawn);
            }
            slot.sleep(bell);
        }
        let sequence = last.load(Relaxed) + 1;
        last.store(sequence, Relaxed);
        slot.submit(sequence, access, self.incarnation);
        self.area.control().pending.fetch_or(1 << vcpu, SeqCst);
        Ok(sequence)
    }

    /// Waits for the answer to `sequence`.
    pub(crate) fn wait(&self, vcpu: u16, sequence: u64, exit: &AtomicU32) -> Result<u64, Unanswered> {
        let slot = self.area.slot(vcpu.into());
        let mut looks = match self.spin {
            SpinPolicy::Block => 0,
            SpinPolicy::Spin(n) => n,
        };
        loop {
            let bell = slot.bell();
            if let Some(reply) = slot.answer(sequence) {
                return Ok(reply);
            }
            if exit.load(SeqCst) != 0 && slot.withdraw(sequence) {
                return Err(Unanswered::Withdrawn);
            }
            let control = slot.control.load(Acquire);
            let waits = [slot::REQUEST, slot::CLAIMED, slot::REPLY].map(|s| slot::control(sequence, s));
            if !waits.contains(&control) {
                return Err(Unanswered::Broken { device: self.area.device(), vcpu, control });
            }
            if looks > 0 {
                looks -= 1;
                std::hint::spin_loop();
            } else {
                slot.sleep(bell);
            }
        }
    }

    /// Makes `vcpu` look at its exit-request word if it waits for this device: for an answer or for room in the ring.
    pub fn wake(&self, vcpu: u16) {
        if usize::from(vcpu) < MAX_VCPUS {
            self.area.slot(vcpu.into()).wake();
        }
        self.area.wake_room();
    }

    /// Posts a write that makes the shadow cells of the mask `invalidates` stale until it is consumed; answers `false`,
    /// and posts nothing, if the ring is full.
    ///
    /// # Errors
    /// [`Unanswered::NoBell`]: posted, but the device may not learn of it.
    pub fn try_post(&self, access: &Access, invalidates: u64) -> Result<bool, Unanswered> {
        {
            let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
            let control = self.area.control();
            // A consumer beyond the producer is nonsense and counts as full, like a consumer that stands still.
            if tail.wrapping_sub(control.consumed.load(SeqCst)) >= POSTED_ENTRIES {
                return Ok(false);
            }
            let entry = self.area.posted(*tail);
            entry.what.store(access.pack(), Relaxed);
            entry.address.store(access.address, Relaxed);
            entry.value.store(access.value, Relaxed);
            *tail = tail.wrapping_add(1);
            let mut left = invalidates;
            while left != 0 {
                self.invalid_until[left.trailing_zeros() as usize].store(*tail, SeqCst);
                left &= left - 1;
            }
            control.tail.swap(*tail, SeqCst);
        }
        self.ring()?;
        Ok(true)
    }

    /// As [`DeviceClient::try_post`], waiting for room.
    ///
    /// # Errors
    /// [`Unanswered::Withdrawn`] if `exit` was set while there was no room: nothing was posted.
    pub fn post(&self, access: &Access, invalidates: u64, exit: &AtomicU32) -> Result<(), Unanswered> {
        let control = self.area.control();
        loop {
            let room = control.room.load(SeqCst);
            if self.try_post(access, invalidates)? {
                return Ok(());
            }
            if exit.load(SeqCst) != 0 {
                return Err(Unanswered::Withdrawn);
            }
            control.room_waiters.swap(1, SeqCst);
            // Room that was made before the flag was seen shows in `consumed` now; later room changes `room`.
            if self.try_post(access, invalidates)? {
                return Ok(());
            }
            futex::wait(&control.room, room, None);
        }
    }

    /// The value of shadow register `cell`, if it holds: every posted write that may change it was consumed, and reading
    /// it has no effect now.
    #[inline]
    pub fn shadow(&self, cell: u16) -> Option<u64> {
        let until = self.invalid_until.get(usize::from(cell))?.load(SeqCst);
        let consumed = self.area.control().consumed.load(SeqCst);
        // Compared as a distance, so that the counters may wrap.
        if (consumed.wrapping_sub(until) as i64) < 0 {
            return None;
        }
        self.area.shadow(cell)
    }

    /// Posted writes that the device has not consumed.
    pub fn backlog(&self) -> u64 {
        let tail = *self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.wrapping_sub(self.area.control().consumed.load(SeqCst))
    }
}
