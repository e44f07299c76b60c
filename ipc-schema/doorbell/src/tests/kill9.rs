//! A real device process, killed for real, at moments of a seeded schedule, under a load of two vCPUs.
#![expect(unsafe_code, reason = "fork")]

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Per vCPU: reads so far, the last posted value, and posted values that did not follow their predecessor.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Ledger {
    vcpus: [[u64; 3]; 2],
}

struct Accountant;

impl Device for Accountant {
    type State = Ledger;

    fn access(&mut self, state: &mut Ledger, access: &Access) -> Answer {
        let row = &mut state.vcpus[usize::from(access.vcpu) % 2];
        match access.operation {
            Operation::Write => {
                row[2] += u64::from(access.value != row[1] + 1);
                row[1] = access.value;
                Answer::Done(0)
            }
            _ => {
                row[0] += 1;
                // The answer tells everything: reads so far, the last posted value, errors.
                Answer::Done(row[0] << 32 | row[1] << 4 | row[2].min(15))
            }
        }
    }

    fn publish(&mut self, state: &Ledger, area: &DeviceArea) {
        for (n, row) in state.vcpus.iter().enumerate() {
            area.set_shadow(n as u16, row[1], false);
        }
    }
}

/// Starts a device process. Nothing is allocated in it: the test process has other threads.
fn start(area: DeviceArea, kick: &EventFd) -> Pid {
    // SAFETY: the child only makes system calls and touches its own stack and the window area.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let Ok((mut server, _)) = Server::attach(area, 1, Ledger { vcpus: [[0; 3]; 2] }) else {
                // SAFETY: leaves without running anything of the parent's.
                unsafe { libc::_exit(3) }
            };
            server.recover(&mut Accountant);
            loop {
                server.serve(&mut Accountant);
                if server.fall_asleep() {
                    let _ = poll(&mut [PollFd::new(kick.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
                    let _ = kick.drain();
                    server.wake_up();
                }
            }
        }
    }
}

#[test]
fn two_vcpus_notice_nothing_of_a_thousand_kills() {
    const KILLS: u32 = 1000;
    let fd = create_windows().unwrap();
    let kick = EventFd::new().unwrap();
    let engine = DeviceClient::new(area(&fd, 0), kick.try_clone().unwrap(), 1, SpinPolicy::Spin(50));
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let last = std::thread::scope(|s| {
        for vcpu in 0..2u16 {
            let (engine, stop, done) = (&engine, &stop, &done);
            s.spawn(move || {
                let mut random = SmallRng::seed_from_u64(u64::from(vcpu));
                let (mut reads, mut posted) = (0, 0);
                while !stop.load(SeqCst) {
                    for _ in 0..random.random_range(0..5) {
                        posted += 1;
                        engine.post(&write(vcpu, posted), 1 << vcpu, &NO_EXIT).unwrap();
                    }
                    if let Some(seen) = engine.shadow(vcpu) {
                        assert_eq!(seen, posted, "a shadow that holds is up to date");
                    }
                    reads += 1;
                    let answer = engine.request(&read(vcpu), &NO_EXIT).unwrap();
                    assert_eq!(answer, reads << 32 | posted << 4, "vCPU {vcpu}");
                    assert_eq!(engine.shadow(vcpu), Some(posted));
                    done.fetch_add(1, SeqCst);
                }
            });
        }
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..KILLS {
            let device = start(area(&fd, 0), &kick);
            // The moment is counted in completed accesses plus a short spin, not in time.
            let target = done.load(SeqCst) + random.random_range(0..4);
            while done.load(SeqCst) < target {
                std::thread::yield_now();
            }
            for _ in 0..random.random_range(0..3000) {
                std::hint::spin_loop();
            }
            kill(device, Signal::SIGKILL).unwrap();
            waitpid(device, None).unwrap();
        }
        stop.store(true, SeqCst);
        start(area(&fd, 0), &kick)
    });
    // The scope has joined both vCPUs: their last requests were answered by this last device.
    kill(last, Signal::SIGKILL).unwrap();
    waitpid(last, None).unwrap();
    assert!(done.load(SeqCst) > u64::from(KILLS));
}
