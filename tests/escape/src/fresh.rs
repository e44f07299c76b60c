//! The campaign with a process for each attempt: started, locked down and ended as a process of a VM is.
//!
//! A launcher starts a keeper, which is pid 1, and that one an islet for each kind and item, through the same code as in a
//! VM. A trapped call ends the islet; what it was comes from its status page. The keeper's own attempts are made by one
//! keeper each.

use std::fs::File;
use std::io::{Read, Write, stderr, stdout};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, ensure};
use enter::ThreadGate;
use enter::status::{STATUS_PAGE_SIZE, StatusPage};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use probe::escape::{Item, Outcome, Place, TABLE, placed};
use probe::plant;
use profile::Kind;
use spawn::{CONTROL_FD, Command, ExitCause, Image, Spawner};

/// Where an islet finds its status memfd.
const STATUS_FD: RawFd = 4;
/// Where an islet finds a memfd that others have as well.
const MEMORY_FD: RawFd = 5;
const MEMORY_BYTES: u64 = 8192;

/// Every attempt in place of every kind; lines on standard output.
pub(crate) fn campaign(loosening: &str) -> anyhow::Result<()> {
    let image = Image::open(std::env::current_exe()?)?;
    let start = |arguments: [&str; 2]| -> anyhow::Result<()> {
        let (log, lines) = (stderr(), stdout());
        let [role, argument] = arguments;
        let command = Command::new("escape", &image).arg(role).arg(argument).log(log.as_fd()).control(lines.as_fd());
        let exit = spawn::keeper(&command)?.wait(None)?.context("a wait without limit ends with an exit")?;
        let cause = ExitCause::decode(exit, None);
        ensure!(cause == ExitCause::Clean, "{role} {argument} {cause}");
        Ok(())
    };
    start(["first", loosening])?;
    for item in TABLE.iter().filter(|item| item.is_tried_by(Kind::Keeper) && loosening.is_empty()) {
        start(["keeper", item.name])?;
    }
    Ok(())
}

/// The keeper of all islets.
pub(crate) fn first(loosening: &str) -> anyhow::Result<()> {
    let mut lines = File::from(placed(CONTROL_FD));
    enter::before_threads(Kind::Keeper.profile())?;
    let spawner = Spawner::new()?;
    // The spawn thread gets the filter too, and so does everything that it starts.
    enter::seal(Kind::Keeper.profile(), &ThreadGate::new())?;
    let image = Image::open("/proc/self/exe")?;
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Keeper) {
        for item in TABLE {
            let outcome = one(&spawner, &image, kind, item, loosening)?;
            writeln!(lines, "{kind}\t{}\t{outcome}", item.name)?;
        }
    }
    Ok(())
}

fn one(spawner: &Spawner, image: &Image, kind: Kind, item: &Item, loosening: &str) -> anyhow::Result<Outcome> {
    let memfd = |name, bytes| -> anyhow::Result<File> {
        let memfd = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
        memfd.set_len(bytes)?;
        Ok(memfd)
    };
    let (status, memory) = (memfd(c"status", STATUS_PAGE_SIZE as u64)?, memfd(c"memory", MEMORY_BYTES)?);
    let (mut control, theirs) = UnixStream::pair()?;
    let log = stderr();
    let mut command = Command::new(kind.name(), image).log(log.as_fd()).control(theirs.as_fd());
    for argument in ["islet", kind.name(), item.name, loosening] {
        command = command.arg(argument);
    }
    let command = command.fd(status.as_fd(), STATUS_FD).fd(memory.as_fd(), MEMORY_FD);
    let child = spawner.spawn(&command)?;
    drop(command);
    drop(theirs);
    let mut text = String::new();
    control.read_to_string(&mut text)?;
    let exit = child.wait(None)?.context("a wait without limit ends with an exit")?;
    // A page for each attempt stays mapped until the campaign ends.
    let page = StatusPage::map(status.as_fd(), 0)?.snapshot();
    match ExitCause::decode(exit, Some(&page)) {
        ExitCause::Trapped { call, .. } => Ok(Outcome::Trapped(call.into_iter().collect())),
        ExitCause::Clean => Outcome::parse(&text).with_context(|| format!("{kind} {}: said {text:?}", item.name)),
        // Without a filter the limit of a file's size denies it in its own way.
        ExitCause::Signal { number, .. } if number == Signal::SIGXFSZ as i32 => Ok(Outcome::Refused(Errno::EFBIG)),
        cause => anyhow::bail!("{kind} {}: the process {cause}", item.name),
    }
}

/// One attempt in place of a process; never returns.
pub(crate) fn islet(kind: &str, item: &str, loosening: &str) -> anyhow::Result<()> {
    enter::begin();
    match locked_down(kind, item, loosening) {
        Ok(()) => enter::exit::clean(),
        Err(error) => enter::exit::error(&format_args!("{error:#}")),
    }
}

fn locked_down(kind: &str, item: &str, loosening: &str) -> anyhow::Result<()> {
    let profile = Kind::from_name(kind).context("no such kind")?.profile();
    let item = Item::of(item).context("no such item")?;
    let status = placed(STATUS_FD);
    enter::attach_status(StatusPage::map(status.as_fd(), 0)?);
    drop(status);
    let place = Place::inside(Some(MEMORY_FD), MEMORY_FD);
    let mut control = File::from(placed(CONTROL_FD));
    let planted = plant::before_restrictions(loosening)?;
    enter::before_threads(&plant::loosened(profile, loosening))?;
    let gate = ThreadGate::new();
    let kept: Vec<RawFd> = planted.iter().map(AsRawFd::as_raw_fd).chain([CONTROL_FD, MEMORY_FD]).collect();
    enter::close_all_but(&kept)?;
    plant::seal(profile, &gate, loosening)?;
    let outcome = item.attempt(&place);
    control.write_all(outcome.to_string().as_bytes())?;
    Ok(())
}

/// One attempt in place of the keeper.
pub(crate) fn keeper(item: &str) -> anyhow::Result<()> {
    let item = Item::of(item).context("no such item")?;
    let mut lines = File::from(placed(CONTROL_FD));
    let memory = File::from(memfd_create(c"memory", MFdFlags::MFD_CLOEXEC)?);
    memory.set_len(MEMORY_BYTES)?;
    let place = Place::keeper(Some(memory.as_raw_fd()), memory.as_raw_fd())?;
    enter::before_threads(Kind::Keeper.profile())?;
    enter::seal(Kind::Keeper.profile(), &ThreadGate::new())?;
    writeln!(lines, "keeper\t{}\t{}", item.name, item.attempt(&place))?;
    Ok(())
}
