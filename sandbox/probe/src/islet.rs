//! The islet's role: locks down as far as asked and does one action.
//!
//! The stages are those of an islet's start: `spawned` (namespaces and empty root only), `restricted` (capabilities,
//! limits, Landlock as well), `sealed` (the filter as well). A loosening ([`probe::plant`], and three that are this file's)
//! leaves one step out, or adds something that must not be there, so that the audit has something to find.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::Context;
use enter::status::StatusPage;
use enter::{ThreadGate, exit};
use probe::plant;
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
    let planted = plant::before_restrictions(loosening)?;
    if stage != "spawned" && loosening != "nothing-restricted" {
        let report = enter::before_threads(&plant::loosened(profile, loosening))?;
        eprintln!("{report}");
    }
    plant::after_restrictions(loosening)?;
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
        let kept = planted.iter().map(AsRawFd::as_raw_fd).chain([CONTROL_FD]).collect::<Vec<_>>();
        enter::close_all_but(&kept)?;
        plant::seal(profile, &gate, loosening)?;
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
