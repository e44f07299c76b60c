//! The interrupt thread: waits for the eventfds of interrupt lines and of the board, and delivers.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use doorbell::EventFd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};

use crate::machine::Machine;

/// An interrupt line and the eventfd that a device rings when it rises.
#[derive(Debug)]
pub struct Line {
    /// Row of the route table.
    pub number: usize,
    /// Rung at each rising edge.
    pub bell: EventFd,
}

/// Serve `lines` and the board's bell for ever.
pub fn serve(machine: &Arc<Machine>, lines: &[Line], notify: &EventFd) {
    let bells: Vec<&EventFd> = lines.iter().map(|l| &l.bell).chain([notify]).collect();
    let mut fds: Vec<PollFd<'_>> = bells.iter().map(|b| PollFd::new(descriptor(b), PollFlags::POLLIN)).collect();
    loop {
        match ppoll(&mut fds, None, None) {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(e) => enter::exit::error(&format_args!("the interrupt thread cannot wait: {e}")),
        }
        for (n, fd) in fds.iter().enumerate() {
            if !fd.any().unwrap_or(false) {
                continue;
            }
            // Emptied before the effect: a ring that comes meanwhile is a new one.
            let rung = bells[n].drain().unwrap_or(0) != 0;
            match lines.get(n) {
                Some(line) if rung => machine.line_rose(line.number),
                None if rung => machine.board_rang(),
                _ => {}
            }
        }
    }
}

fn descriptor(bell: &EventFd) -> BorrowedFd<'_> {
    bell.as_fd()
}
