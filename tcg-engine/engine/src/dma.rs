//! Code that devices have written to: the thread that has vCPUs drop their blocks of it.
//!
//! The idea: a device notes the pages and rings ([`guest_memory::stale`]); this thread is no vCPU, but leaves them orders as vCPUs
//! do, and tells the device when they have been followed. vCPUs that do not run are not waited for, so it goes on while they are
//! halted, paused, or wait for that very device.

use std::os::fd::AsFd;

use doorbell::EventFd;
use guest_memory::DirtyLog;
use guest_x86::Order;
use mem::CodePages;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};

use crate::machine::Machine;
use crate::orders::Orders;
use crate::park::Gate;

/// Serve for ever those who ring `bell`.
pub fn thread(machine: &Machine, bell: &EventFd) {
    let (memory, mut fds) = (&machine.memory, [PollFd::new(bell.as_fd(), PollFlags::POLLIN)]);
    loop {
        // Emptied before the pages are taken: a ring that comes meanwhile is a new one. The first time is for rings of before.
        let _ = bell.drain();
        drop_stale(&memory.marks, &memory.code, &machine.orders, &machine.gate);
        match ppoll(&mut fds, None, None) {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(e) => enter::exit::error(&format_args!("the thread that drops code cannot wait: {e}")),
        }
    }
}

/// Have every block dropped that was made from a page that is noted as stale.
pub fn drop_stale(marks: &DirtyLog, code: &CodePages, orders: &Orders, gate: &Gate) {
    marks.serve_writers(|pages| {
        let owned = pages.map(|at| (code.owners(at), Order::Release(at)));
        orders.tell(gate, owned.filter(|(owners, _)| *owners != 0));
    });
}

#[cfg(test)]
#[path = "dma_tests.rs"]
mod tests;
