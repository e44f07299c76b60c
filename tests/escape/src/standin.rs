//! The attacker in place of a binary of a VM that is otherwise real: it takes the descriptors that this process gets, maps
//! of them what it can, locks itself down as this kind of process, and makes every attempt.
//!
//! A trapped call returns to the attempt ([`probe::escape::survive_traps`]), so one process makes them all; or a test has
//! written one item's name into its copy of the binary ([`CHOICE`]), and the process ends as one that was attacked does.
//! What is found goes to the log of the VM, which every process may write.

use std::fs::File;
use std::hint::black_box;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context, bail};
use enter::ThreadGate;
use enter::status::StatusPage;
use link::capnp::recv_message;
use link::{Deadline, Inbox, Link, Peer};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use probe::escape::{Item, Place, TABLE, placed, survive_traps};
use profile::Kind;
use wire::islet_capnp::{setup, streamer_setup, to_islet};

/// The one item to try: the bytes after the colon up to the first dot; all if there are none.
static CHOICE: [u8; 64] = *b"the item of this stand-in:......................................";
const PREFIX: usize = b"the item of this stand-in:".len();

/// Where every process of a VM finds its control socket.
const CONTROL: RawFd = 3;
const PATIENCE: Duration = Duration::from_secs(30);

/// Never returns, except in a keeper.
pub(crate) fn run() -> anyhow::Result<()> {
    let name = std::env::args().next().unwrap_or_default();
    match name.as_str() {
        "keeper" => {
            let place = Place::keeper(None, CONTROL)?;
            attempt(Kind::Keeper, &place, || Ok(()))
        }
        _ => {
            enter::begin();
            let done = if name == "supervisor" { supervisor() } else { islet() };
            match done {
                Ok(()) => enter::exit::clean(),
                Err(error) => enter::exit::error(&format_args!("{error:#}")),
            }
        }
    }
}

/// With the descriptor that it starts with: the link to its keeper.
fn supervisor() -> anyhow::Result<()> {
    let place = Place::inside(None, CONTROL);
    attempt(Kind::Supervisor, &place, || {
        enter::before_threads(Kind::Supervisor.profile())?;
        enter::close_all_but(&[CONTROL])?;
        Ok(())
    })
}

/// With all descriptors of its setup that a process of the kind keeps after lock-down.
fn islet() -> anyhow::Result<()> {
    let link = Link::inherited(CONTROL, Peer::new("supervisor", 0))?;
    let mut inbox = Inbox::new();
    let incoming = recv_message(&link, &mut inbox, Deadline::after(PATIENCE))?;
    let received: Vec<OwnedFd> = incoming.descriptors.drain(..).collect();
    let to_islet::Setup(setup) = incoming.reader.get_root::<to_islet::Reader<'_>>()?.which()? else {
        bail!("the first message is not a setup");
    };
    let setup = setup?;
    let kind = kind(setup)?;
    let named = |wanted: &str| -> anyhow::Result<Option<&OwnedFd>> {
        for descriptor in setup.get_descriptors()? {
            if descriptor.get_name()?.to_str()? == wanted {
                return Ok(received.get(usize::from(descriptor.get_index())));
            }
        }
        Ok(None)
    };
    let status = named("status")?.context("no descriptor 'status'")?;
    enter::attach_status(StatusPage::map(status.as_fd(), usize::from(setup.get_status_slot()))?);
    let window = named("windows")?.or(named("ram")?).map(AsRawFd::as_raw_fd);
    // Memory's descriptors are closed by those who map it; the others work with files.
    let works_with_files = matches!(kind, Kind::Loader | Kind::StreamerSource | Kind::StreamerTarget);
    let mut kept = vec![CONTROL];
    for descriptor in &received {
        let is_file = File::from(descriptor.try_clone()?).metadata()?.is_file();
        if works_with_files || !is_file {
            kept.push(descriptor.as_raw_fd());
        }
    }
    let place = Place::inside(window, kept.last().copied().unwrap_or(CONTROL));
    attempt(kind, &place, || {
        enter::before_threads(kind.profile())?;
        enter::close_all_but(&kept)?;
        Ok(())
    })?;
    // The process ends; whatever is closed already is not closed again.
    std::mem::forget(received);
    std::mem::forget(link);
    Ok(())
}

fn kind(setup: setup::Reader<'_>) -> anyhow::Result<Kind> {
    Ok(match setup.get_role().which()? {
        setup::role::Engine(_) => Kind::EngineTcg,
        setup::role::Board(_) => Kind::Board,
        setup::role::Serial(_) => Kind::Serial,
        setup::role::Loader(_) => Kind::Loader,
        setup::role::Streamer(role) => match role?.which()? {
            streamer_setup::Save(_) => Kind::StreamerSource,
            streamer_setup::Restore(_) => Kind::StreamerTarget,
        },
    })
}

/// Locks the process down and makes one attempt, or all.
fn attempt(kind: Kind, place: &Place, restrict: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let choice = black_box(&CHOICE)[PREFIX..].split(|byte| *byte == b'.').next().unwrap_or_default();
    let chosen = Item::of(std::str::from_utf8(choice)?);
    restrict()?;
    if chosen.is_none() {
        survive_traps()?;
    }
    enter::seal(kind.profile(), &ThreadGate::new())?;
    for item in TABLE.iter().filter(|item| chosen.map_or(!item.kills, |chosen| chosen.name == item.name)) {
        if item.is_tried_by(kind) {
            say(kind, item.name, &item.attempt(place).to_string());
        }
    }
    say(kind, "all", "made");
    if kind == Kind::Supervisor {
        // Its keeper starts another one, and the VM can be ended meanwhile; one that does not answer would be waited for.
        bail!("the attempts are made");
    }
    // Whoever started the VM waits for this process, and the log can be read meanwhile, until the other end is gone.
    let control = placed(CONTROL);
    ppoll(&mut [PollFd::new(control.as_fd(), PollFlags::empty())], Some(TimeSpec::from(PATIENCE)), None)?;
    std::mem::forget(control);
    Ok(())
}

/// One line in one write, so that lines of several processes do not mix.
fn say(kind: Kind, item: &str, outcome: &str) {
    let line = format!("escape {kind} {item} {outcome}\n");
    // Nothing could be done about a log that is gone; the test then misses the line.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}
