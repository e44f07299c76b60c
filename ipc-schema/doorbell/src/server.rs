//! The device's side: serves posted writes and requests, each exactly once, whenever the process dies.
//!
//! One round goes: posted writes and requests change the private working state; one commit makes state, answers and ring
//! position permanent together; then everything that follows from the committed state is published (shadow registers,
//! line levels, ring position, answers, wake-ups). What precedes the commit has not happened; what follows it is
//! repeated by the successor from the committed copy, and repeating it is harmless.

use std::sync::atomic::Ordering::{Acquire, SeqCst};

use crate::area::DeviceArea;
use crate::committed::{Committed, Handled, Plain};
use crate::layout::*;
use crate::slot::Access;
use crate::{Result, may_die_here};

/// What a device makes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done; the value read, or anything for a write.
    Done(u64),
    /// Not now, and the state is unchanged: a posted write stays in the ring with everything behind it, a request stays
    /// unanswered. The device calls [`Server::serve`] again when it can go on.
    Stall,
}

/// A device with registers.
pub trait Device {
    /// Everything that must survive the process.
    type State: Plain;

    /// Carries out one access on the working state. No effect outside that state (and outside parts of the area that a
    /// later commit puts in force): the process may die before the commit.
    fn access(&mut self, state: &mut Self::State, access: &Access) -> Answer;

    /// Publishes what follows from the committed state: shadow registers, formulas, line levels, interrupts. Called after
    /// every commit and once by a successor; must be harmless when repeated.
    fn publish(&mut self, state: &Self::State, area: &DeviceArea);
}

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Posted writes that took effect.
    pub posted: u64,
    /// Requests that were answered.
    pub requests: u32,
    /// The device stalled: more is waiting.
    pub stalled: bool,
    /// The ring's indices were impossible (more than 256 entries); its content was dropped. Only a broken or hostile
    /// engine, or predecessor, leaves that.
    pub corrupt: bool,
}

/// The state and the protocol of one device process.
#[derive(Debug)]
pub struct Server<T> {
    area: DeviceArea,
    committed: Committed<T>,
    /// vCPUs whose slots must be looked at.
    backlog: u64,
    stalled: bool,
}

impl<T: Plain> Server<T> {
    /// Takes over the area: the predecessor's committed state, or `fresh` for the first. The second value says whether there
    /// was a predecessor, whose state the device must bound before use (see [`Server::state_mut`]). Call
    /// [`Server::recover`] next.
    ///
    /// # Errors
    /// As [`Committed::attach`].
    pub fn attach(area: DeviceArea, version: u64, fresh: T) -> Result<(Self, bool)> {
        let (committed, successor) = Committed::attach(&area, version, fresh)?;
        Ok((Self { area, committed, backlog: u64::MAX, stalled: false }, successor))
    }

    /// The area.
    pub fn area(&self) -> &DeviceArea {
        &self.area
    }

    /// The working state.
    pub fn state(&self) -> &T {
        &self.committed.state
    }

    /// The working state, to be changed before [`Server::recover`]; later changes go through [`Server::update`].
    pub fn state_mut(&mut self) -> &mut T {
        &mut self.committed.state
    }

    /// Commits the state, then repeats all that a predecessor may have left undone: published registers, answers,
    /// wake-ups, the device's own [`Device::publish`].
    pub fn recover(&mut self, device: &mut impl Device<State = T>) {
        self.committed.commit(&self.area);
        self.publish(device, true);
        for vcpu in 0..MAX_VCPUS {
            let Handled { sequence, reply } = self.committed.head.handled[vcpu];
            let slot = self.area.slot(vcpu);
            if sequence != 0 {
                slot.publish(sequence, reply);
            }
            // An answer may have been published without its wake-up.
            slot.wake();
        }
        self.backlog = u64::MAX;
    }

    /// Changes the state for a reason of the device's own (input arrived, output went), commits and publishes.
    pub fn update<R>(
        &mut self,
        device: &mut impl Device<State = T>,
        change: impl FnOnce(&mut T, &DeviceArea) -> R,
    ) -> R {
        let result = change(&mut self.committed.state, &self.area);
        may_die_here();
        self.committed.commit(&self.area);
        self.publish(device, false);
        result
    }

    fn publish(&mut self, device: &mut impl Device<State = T>, recovering: bool) {
        device.publish(&self.committed.state, &self.area);
        may_die_here();
        self.area.control().consumed.swap(self.committed.head.consumed, SeqCst);
        may_die_here();
        self.area.made_room(recovering);
    }

    /// Serves everything that waits, in one commit: posted writes first, then requests (whose vCPUs posted before they
    /// asked).
    pub fn serve(&mut self, device: &mut impl Device<State = T>) -> Served {
        let mut served = Served::default();
        // Slots before the ring: what a vCPU posted before its request is then in the ring for sure.
        self.backlog |= self.area.control().pending.swap(0, SeqCst);
        may_die_here();
        let mut asked = [(0u8, 0u64, None); MAX_VCPUS];
        let mut count = 0;
        for vcpu in 0..MAX_VCPUS {
            if self.backlog >> vcpu & 1 == 0 {
                continue;
            }
            match self.area.slot(vcpu).waiting() {
                Some((sequence, access)) => {
                    asked[count] = (vcpu as u8, sequence, access);
                    count += 1;
                }
                None => self.backlog &= !(1 << vcpu),
            }
        }
        self.serve_posted(device, &mut served);
        let mut answered = 0;
        for &(vcpu, sequence, access) in &asked[..count] {
            if served.stalled {
                break;
            }
            if self.serve_request(device, vcpu.into(), sequence, access, &mut served) {
                answered |= 1u64 << vcpu;
            }
        }
        if served.posted != 0 || served.requests != 0 || served.corrupt {
            self.committed.commit(&self.area);
            self.publish(device, false);
        }
        for &(vcpu, sequence, _) in &asked[..count] {
            if answered >> vcpu & 1 == 1 {
                let handled = self.committed.head.handled[usize::from(vcpu)];
                debug_assert_eq!(handled.sequence, sequence);
                self.area.slot(vcpu.into()).publish(handled.sequence, handled.reply);
                self.backlog &= !(1 << vcpu);
            }
        }
        self.stalled = served.stalled;
        served
    }

    /// Calls `each` with every posted write that has not taken effect, in order, and leaves them where they are: what a device
    /// that stalls has before it.
    pub fn waiting(&self, mut each: impl FnMut(&Access)) {
        use std::sync::atomic::Ordering::Relaxed;
        let (head, tail) = (self.committed.head.consumed, self.area.control().tail.load(Acquire));
        let count = tail.wrapping_sub(head);
        for n in 0..if count > POSTED_ENTRIES { 0 } else { count } {
            let entry = self.area.posted(head.wrapping_add(n));
            let fields = [&entry.what, &entry.address, &entry.value].map(|f| f.load(Relaxed));
            if let Some(access) = Access::unpack(fields[0], fields[1], fields[2]) {
                each(&access);
            }
        }
    }

    fn serve_posted(&mut self, device: &mut impl Device<State = T>, served: &mut Served) {
        let tail = self.area.control().tail.load(Acquire);
        let head = &mut self.committed.head;
        if tail.wrapping_sub(head.consumed) > POSTED_ENTRIES {
            head.consumed = tail;
            served.corrupt = true;
        }
        while head.consumed != tail {
            use std::sync::atomic::Ordering::Relaxed;
            let entry = self.area.posted(head.consumed);
            let fields = [&entry.what, &entry.address, &entry.value].map(|f| f.load(Relaxed));
            // What no engine writes has no effect.
            let access = Access::unpack(fields[0], fields[1], fields[2]);
            let answer = access.map_or(Answer::Done(0), |a| device.access(&mut self.committed.state, &a));
            may_die_here();
            if answer == Answer::Stall {
                served.stalled = true;
                return;
            }
            head.consumed = head.consumed.wrapping_add(1);
            served.posted += 1;
        }
    }

    /// Answers whether the request has an answer now (committed with this round, or long ago).
    fn serve_request(
        &mut self,
        device: &mut impl Device<State = T>,
        vcpu: usize,
        sequence: u64,
        access: Option<Access>,
        served: &mut Served,
    ) -> bool {
        if self.committed.head.handled[vcpu].sequence == sequence {
            // Took effect in a predecessor's commit; only the answer is missing.
            return true;
        }
        let slot = self.area.slot(vcpu);
        if !slot.claim(sequence) {
            return false;
        }
        may_die_here();
        // Nonsense reads as an absent device.
        let answer = match access {
            Some(a) => device.access(&mut self.committed.state, &Access { vcpu: vcpu as u16, ..a }),
            None => Answer::Done(u64::MAX),
        };
        may_die_here();
        match answer {
            Answer::Done(reply) => {
                self.committed.head.handled[vcpu] = Handled { sequence, reply };
                served.requests += 1;
                true
            }
            Answer::Stall => {
                slot.unclaim(sequence);
                // The vCPU may have been asked to leave while the request was claimed.
                slot.wake();
                served.stalled = true;
                false
            }
        }
    }

    /// Prepares to sleep: answers whether there is nothing to do, so that whoever brings work will ring. While the
    /// device is stalled, work that waits behind the stall does not count.
    pub fn fall_asleep(&self) -> bool {
        self.area.fall_asleep();
        let control = self.area.control();
        let posted = control.tail.load(SeqCst) != self.committed.head.consumed;
        let asked = control.pending.load(SeqCst) != 0 || self.backlog != 0;
        if (posted || asked) && !self.stalled {
            self.area.awake();
            return false;
        }
        true
    }

    /// After sleeping: the engine need not ring any more.
    pub fn wake_up(&self) {
        self.area.awake();
    }
}
