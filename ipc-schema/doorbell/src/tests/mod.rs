//! What the tests share: a windows memfd, a device that records everything, and accesses by hand.

mod bus;
mod kill9;
mod protocol;
mod rows;
mod streams;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU32;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::*;

pub(super) static NO_EXIT: AtomicU32 = AtomicU32::new(0);

pub(super) fn area(fd: &OwnedFd, device: u16) -> DeviceArea {
    DeviceArea::map(fd.as_fd(), device).unwrap()
}

pub(super) fn client(fd: &OwnedFd, device: u16) -> DeviceClient {
    DeviceClient::new(area(fd, device), EventFd::new().unwrap(), 1, SpinPolicy::Block)
}

pub(super) fn write(vcpu: u16, value: u64) -> Access {
    let attributes = Attributes::default();
    Access { operation: Operation::Write, space: Space::Port, address: 0x3f8, width: 8, value, attributes, vcpu }
}

pub(super) fn read(vcpu: u16) -> Access {
    Access { operation: Operation::Read, value: 0, ..write(vcpu, 0) }
}

/// Every access that took effect, in order: writes by value, reads as 1000 + vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Journal {
    pub(super) len: u64,
    pub(super) entries: [u64; 64],
}

impl Journal {
    pub(super) const EMPTY: Self = Self { len: 0, entries: [0; 64] };

    pub(super) fn list(&self) -> &[u64] {
        &self.entries[..self.len as usize]
    }
}

/// Answers a read with the journal's length before it; publishes the length as shadow 0. Stalls on writes of `stall_on`.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) stall_on: Option<u64>,
}

impl Device for Recorder {
    type State = Journal;

    fn access(&mut self, state: &mut Journal, access: &Access) -> Answer {
        if access.operation == Operation::Write && Some(access.value) == self.stall_on {
            return Answer::Stall;
        }
        let entry = if access.operation == Operation::Write { access.value } else { 1000 + u64::from(access.vcpu) };
        let before = state.len;
        state.entries[before as usize] = entry;
        state.len += 1;
        Answer::Done(before)
    }

    fn publish(&mut self, state: &Journal, area: &DeviceArea) {
        area.set_shadow(0, state.len, false);
        area.set_level(0, state.len % 2 == 1);
    }
}

pub(super) fn recorder(fd: &OwnedFd, device: u16) -> Server<Journal> {
    let (mut server, _) = Server::attach(area(fd, device), 1, Journal::EMPTY).unwrap();
    server.recover(&mut Recorder::default());
    server
}
