//! The islet's role: locks down as far as asked and does one action.
//!
//! The stages are those of an islet's start: `spawned` (namespaces and empty root only), `restricted` (capabilities,
//! limits, Landlock as well), `sealed` (the filter as well). A loosening leaves one step out, or adds something that
//! must not be there, so that the audit has something to find.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::Context;
use enter::status::StatusPage;
use enter::{ThreadGate, exit};
use profile::{Kind, Profile};
use spawn::CONTROL_FD;

use crate::actions;
use crate::keeper::{STATUS_FD, control_socket};

/// Never returns; see the rules of `enter`.
pub(crate) fn run(profile: &str, stage: &str, action: &str, loosening: &str) -> anyhow::Result<()> {
    enter::begin();
    let kind = Kind::from_name(profile).with_context(|| format!("no profile {profile:?}"))?;
    match act(kind.profile(), stage, action, loosening) {
        Ok(()) => exit::clean(),
        Err(error) => exit::error(&format_args!("{error:#}")),
    }
}

fn act(profile: &'static Profile, stage: &str, action: &str, loosening: &str) -> anyhow::Result<()> {
    let status = status_memfd();
    let page = StatusPage::map(status.as_fd(), 0)?;
    if loosening != "not-reported" {
        enter::attach_status(page);
    }
    drop(status);
    // As a file, since the standard library's sockets use calls (sendto, recvfrom) that this profile lacks.
    let mut control = File::from(OwnedFd::from(control_socket()));
    let _planted = plant(loosening)?;
    if stage != "spawned" && loosening != "nothing-restricted" {
        let lax = without(profile, loosening);
        let report = enter::before_threads(&lax)?;
        eprintln!("{report}");
    }
    // The action can also be done by a second thread, whose filter is the same.
    let (orders, inbox) = channel::<String>();
    let (answers, results) = channel::<String>();
    let mut gate = ThreadGate::new();
    gate.spawn("second", move || second(&inbox, &answers))?;
    if loosening == "extra-thread" {
        gate.spawn("third", || {})?;
    }
    gate.wait(Duration::from_secs(30))?;
    if stage == "sealed" {
        if loosening != "extra-descriptor" {
            enter::close_all_but(&[CONTROL_FD])?;
        }
        seal(profile, &gate, loosening)?;
    }
    gate.release();
    let line = match action.strip_prefix("second:") {
        Some(action) => in_second(action, &orders, &results)?,
        None if action == "wait" => wait(&mut control)?,
        None if action == "works" => actions::report(action, works(&orders, &results)),
        None => actions::report(action, actions::perform(action)),
    };
    control.write_all(line.as_bytes())?;
    Ok(())
}

/// The status memfd that the keeper placed.
#[expect(unsafe_code, reason = "the start-up convention gives this process the descriptor, and nobody else uses it")]
fn status_memfd() -> File {
    // SAFETY: the descriptor was placed by the keeper, and is taken once.
    File::from(unsafe { OwnedFd::from_raw_fd(STATUS_FD) })
}

/// Tells the test that it is ready and waits until the keeper closes its end.
fn wait(control: &mut File) -> anyhow::Result<String> {
    control.write_all(b"waiting\n")?;
    // Not read_to_end, which asks for the file's size first.
    while control.read(&mut [0; 64])? > 0 {}
    Ok(String::new())
}

fn second(inbox: &Receiver<String>, answers: &Sender<String>) {
    while let Ok(action) = inbox.recv() {
        if answers.send(actions::report(&action, actions::perform(&action))).is_err() {
            break;
        }
    }
}

fn in_second(action: &str, orders: &Sender<String>, results: &Receiver<String>) -> anyhow::Result<String> {
    orders.send(action.to_owned())?;
    Ok(results.recv()?)
}

/// What every islet relies on after lock-down: memory, hash maps, clocks, locks between threads, the log.
fn works(orders: &Sender<String>, results: &Receiver<String>) -> Result<(), nix::errno::Errno> {
    let mut map = std::collections::HashMap::new();
    for number in 0..10_000u32 {
        map.insert(number, vec![number; 10]);
    }
    let start = std::time::Instant::now();
    for _ in 0..100 {
        let answer = in_second("allocate", orders, results).map_err(|_| nix::errno::Errno::EPIPE)?;
        if answer != "allocate\tok" {
            return Err(nix::errno::Errno::EIO);
        }
    }
    eprintln!("{} entries after {:?}", map.len(), start.elapsed());
    std::thread::sleep(Duration::ZERO);
    if map.len() == 10_000 { Ok(()) } else { Err(nix::errno::Errno::EIO) }
}

/// The profile with one thing left out.
fn without(profile: &Profile, loosening: &str) -> Profile {
    let mut lax = Profile { ..*profile };
    match loosening {
        "no-landlock" => lax.landlock = profile::Landlock::None,
        "no-limits" => lax.limits = &[],
        "mmap-allowed" => lax.policy = profile::Policy::AllowOnly(WITH_MMAP),
        _ => {}
    }
    lax
}

/// The probe's list and mmap.
const WITH_MMAP: &[profile::Rule] = &[
    rule(libc::SYS_restart_syscall),
    rule(libc::SYS_getrandom),
    rule(libc::SYS_rt_sigreturn),
    rule(libc::SYS_clock_gettime),
    rule(libc::SYS_exit_group),
    rule(libc::SYS_futex),
    rule(libc::SYS_read),
    rule(libc::SYS_write),
    rule(libc::SYS_recvmsg),
    rule(libc::SYS_mmap),
];

const fn rule(call: i64) -> profile::Rule {
    profile::Rule { call, check: None, why: "a planted loosening" }
}

/// Plants what must not be there; the descriptors returned stay open.
fn plant(loosening: &str) -> anyhow::Result<Vec<OwnedFd>> {
    let mut kept = Vec::new();
    match loosening {
        "extra-descriptor" => kept.push(nix::sys::eventfd::EventFd::new()?.into()),
        "shared-memory" => actions::map_memfd()?,
        "executable-map" => actions::map_writable_executable()?,
        "thread-before" => {
            // Starts before the restrictions, so they do not reach it; before_threads must refuse.
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            });
        }
        _ => {}
    }
    Ok(kept)
}

/// The last step, or what a loosening makes of it.
fn seal(profile: &Profile, gate: &ThreadGate, loosening: &str) -> anyhow::Result<()> {
    match loosening {
        "no-filter" => Ok(()),
        // Without TSYNC the filter holds for the calling thread only.
        "one-thread-free" => Ok(actions::filter_this_thread(&profile.program()?)?),
        _ => Ok(enter::seal(&without(profile, loosening), gate)?),
    }
}
