//! Starting a VM: every descriptor that it begins with, its keeper, and what the launcher keeps of it.
//!
//! The idea: all that has a name is opened here, by the user who asked for it, and nothing afterwards can open anything.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use capnp::message::Builder;
use keeper_protocol::client::{ClientError, Launcher};
use keeper_protocol::{BeginFlags, HeldKind, Name};
use link::{Deadline, Link, Peer};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getegid, geteuid};
use spawn::{Child, Command, ExitCause, Image};
use wire::vm_capnp::vm_config;

use crate::commands::ps;
use crate::commands::restore::Restore;
use crate::directory::{Claim, MAX_SOCKET_PATH, Place};
use crate::failure::{Result, problem};
use crate::files::{Programs, sealed_bytes, sealed_copy};
use crate::options::Merged;
use crate::plan::{Console, Plan};

/// How long the keeper may take to start the supervisor.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a keeper may take to end that does not listen any more.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// The keeper as events and logs name a process; a VM has one in its life.
pub const KEEPER: &str = "keeper[1]";

/// A VM whose keeper runs.
#[derive(Debug)]
pub struct Launched {
    pub place: Place,
    pub keeper: Child,
    /// In the foreground its end is the VM's.
    pub link: Link,
    /// Where the supervisor's reports come.
    pub report: Link,
    /// The other end of a stdio console.
    pub console: Option<UnixStream>,
    /// What keeper and processes write to their descriptor 2; in the background that goes to a file.
    pub log: Option<OwnedFd>,
    /// The console's socket, if it was made outside the VM's directory.
    pub console_socket: Option<PathBuf>,
}

/// What the guest's serial port is connected to.
struct Wire {
    held: Option<(&'static str, HeldKind, OwnedFd)>,
    ours: Option<UnixStream>,
    socket: Option<PathBuf>,
}

/// Starts the VM under the name that was claimed. On failure nothing of it is left but the claimed directory.
pub fn launch(plan: &Plan, merged: &Merged, restore: Option<&Restore>, claim: Claim) -> Result<Launched> {
    let kernel = sealed_copy("kernel", &plan.kernel, &merged.origin("kernel"))?;
    let initrd = plan.initrd.as_deref().map(|path| sealed_copy("initrd", path, &merged.origin("initrd")));
    let initrd = initrd.transpose()?;
    let programs = Programs::find()?;
    let Claim { place, lock } = claim;
    let listener = listen(&place.control(), "the control socket", "run.control-socket")?;
    let lane = listen(&place.descriptors(), "the socket for descriptors", "run.control-socket")?;
    let log = plan.log_translation.as_deref().map(|path| output("log-translation", path, merged)).transpose()?;
    let map = plan.perf_map.as_deref().map(|path| output("perf-map", path, merged)).transpose()?;
    let wire = connect(&plan.console, &place)?;
    let failed = |what: &'static str| {
        move |error: &dyn std::fmt::Display| problem("run.start", format!("the VM was not started: {what}"), error, "")
    };
    let config = config(plan, &place).and_then(|bytes| sealed_bytes("config", &bytes));
    let config = config.map_err(|error| failed("its configuration")(&error))?;
    let restore_message = restore.map(|restore| sealed_bytes("restore", &restore.message)).transpose();
    let restore_message = restore_message.map_err(|error| failed("the snapshot's manifest")(&error))?;
    let snapshot = restore.map_or(&[][..], |restore| &restore.files);
    let snapshot: Vec<(String, &OwnedFd)> =
        snapshot.iter().map(|(name, fd)| (format!("snapshot:{name}"), fd)).collect();
    let (report, report_theirs) =
        Link::pair(Peer::new("launcher", 0), Peer::new("supervisor", 0)).map_err(|error| failed("a socket")(&error))?;

    let mut held: Vec<(&str, HeldKind, BorrowedFd<'_>)> = Vec::new();
    held.extend(programs.islets.iter().map(|(name, fd)| (*name, HeldKind::Binary, fd.as_fd())));
    held.push(("config", HeldKind::Memfd, config.as_fd()));
    held.push(("kernel", HeldKind::Memfd, kernel.as_fd()));
    held.extend(initrd.as_ref().map(|fd| ("initrd", HeldKind::Memfd, fd.as_fd())));
    held.extend(restore_message.as_ref().map(|fd| ("restore", HeldKind::Memfd, fd.as_fd())));
    held.extend(snapshot.iter().map(|(name, fd)| (name.as_str(), HeldKind::File, fd.as_fd())));
    held.push(("control-listener", HeldKind::Listener, listener.as_fd()));
    held.push(("descriptor-listener", HeldKind::Listener, lane.as_fd()));
    held.push(("lock", HeldKind::File, lock.as_fd()));
    held.push(("report", HeldKind::Socket, report_theirs.as_fd()));
    held.extend(wire.held.as_ref().map(|(name, kind, fd)| (*name, *kind, fd.as_fd())));

    held.extend(log.as_ref().map(|fd| ("translation-log", HeldKind::File, fd.as_fd())));
    held.extend(map.as_ref().map(|fd| ("perf-map", HeldKind::File, fd.as_fd())));

    let (keeper, link, log) = start_keeper(plan, &programs, &place, &held)?;
    if let Err(error) = place.write_keeper(keeper.pid()) {
        drop(link);
        let _ = keeper.kill();
        let _ = keeper.wait(Some(PATIENCE));
        return Err(failed("noting the keeper's pid")(&error));
    }
    let Wire { ours: console, socket: console_socket, .. } = wire;
    Ok(Launched { place, keeper, link, report, console, log, console_socket })
}

/// Starts the keeper and hands it everything.
fn start_keeper(
    plan: &Plan,
    programs: &Programs,
    place: &Place,
    held: &[(&str, HeldKind, BorrowedFd<'_>)],
) -> Result<(Child, Link, Option<OwnedFd>)> {
    let doctor = "'atoll doctor' says what this host lacks";
    let failed = |why: &dyn std::fmt::Display| problem("run.keeper", "the VM's keeper was not started", why, doctor);
    let (ours, theirs) =
        Link::pair(Peer::new("launcher", 0), Peer::new("keeper", 1)).map_err(|error| failed(&error))?;
    let image = Image::open(&programs.keeper).map_err(|error| failed(&error))?;
    let (log, log_theirs) = if plan.detach {
        (None, OwnedFd::from(append(&place.log()).map_err(|error| failed(&error))?))
    } else {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(&e))?;
        (Some(reader), writer)
    };
    let command = Command::new("keeper", &image).log(log_theirs.as_fd()).control(theirs.as_fd());
    let keeper = spawn::keeper(&command).map_err(|error| failed(&error))?;
    drop((theirs, log_theirs));
    match introduce(plan, place, held, ours) {
        Ok(link) => Ok((keeper, link, log)),
        Err(error) => {
            let what = "the VM's keeper did not start the supervisor";
            let why = match error {
                ClientError::NotStarted(why) => why,
                other => last_words(&keeper, log, place).unwrap_or_else(|| other.to_string()),
            };
            let _ = keeper.kill();
            let _ = keeper.wait(Some(PATIENCE));
            Err(problem("run.keeper", what, why, doctor))
        }
    }
}

/// How a keeper has ended that ends by itself. What it has said in the foreground is passed on.
fn last_words(keeper: &Child, log: Option<OwnedFd>, place: &Place) -> Option<String> {
    let exit = keeper.wait(Some(END_PATIENCE)).ok()??;
    let words = match log {
        None => ps::last_words(&place.log()),
        Some(log) => {
            let mut buffer = [0; 4096];
            // Whoever still holds the other end is not waited for.
            let set = rustix::fs::fcntl_setfl(&log, rustix::fs::OFlags::NONBLOCK);
            let count = set.and_then(|()| rustix::io::read(&log, &mut buffer)).unwrap_or(0);
            // Nobody is told of what standard error does not take.
            let _ = io::stderr().write_all(&buffer[..count]);
            String::new()
        }
    };
    Some(format!("{KEEPER} {}{words}", ExitCause::decode(exit, None)))
}

fn introduce(
    plan: &Plan,
    place: &Place,
    held: &[(&str, HeldKind, BorrowedFd<'_>)],
    link: Link,
) -> std::result::Result<Link, ClientError> {
    let soon = || Deadline::after(PATIENCE);
    let name = |text: &str| Name::new(text).map_err(|error| ClientError::NotStarted(format!("'{text}': {error}")));
    let flags = if plan.detach { BeginFlags::empty() } else { BeginFlags::FOREGROUND };
    let ids = (geteuid().as_raw(), getegid().as_raw());
    let mut launcher = Launcher::begin(link, name(&place.name)?, flags, ids, plan.patience.into(), soon())?;
    for (text, kind, fd) in held {
        launcher.hold(name(text)?, *kind, *fd, soon())?;
    }
    Ok(launcher.go(soon())?.0)
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// A file for the engine to write to, for `option`: emptied, and only appended to. Nobody who reads a pipe slowly stops a vCPU.
fn output(option: &str, path: &Path, merged: &Merged) -> Result<OwnedFd> {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(nonblock);
    let opened = options.open(path).and_then(|file| {
        if file.metadata()?.is_file() {
            file.set_len(0)?;
        }
        Ok(file)
    });
    let file = opened.map_err(|error| {
        let what = format!("the file {} ({}) cannot be opened", path.display(), merged.origin(option));
        problem(
            &format!("run.{option}"),
            what,
            error,
            "choose a file that you may write, or a pipe that somebody reads",
        )
    })?;
    Ok(file.into())
}

/// A listening socket of mode 0600. One that nobody listens on any more is replaced.
fn listen(path: &Path, what: &str, code: &str) -> Result<UnixListener> {
    let failed =
        |why: String, remedy: &str| problem(code, format!("{what} {} cannot be made", path.display()), why, remedy);
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        let why = format!("its path has {length} bytes, and a socket's path has at most {MAX_SOCKET_PATH}");
        return Err(failed(why, "choose a shorter path, or set XDG_RUNTIME_DIR to a shorter one"));
    }
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(|error| failed(error.to_string(), "remove it"))?;
            }
            _ => return Err(failed("somebody listens there".into(), "choose another path")),
        }
    }
    let old = umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR);
    let bound = UnixListener::bind(path);
    umask(old);
    let listener = bound.map_err(|error| failed(error.to_string(), "choose a path that is free and can be written"))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|error| failed(error.to_string(), ""))?;
    Ok(listener)
}

/// Makes what the serial port is connected to.
fn connect(console: &Console, place: &Place) -> Result<Wire> {
    let code = "run.console";
    Ok(match console {
        Console::None => Wire { held: None, ours: None, socket: None },
        Console::Stdio => {
            let pair = UnixStream::pair().and_then(|(ours, theirs)| {
                ours.set_nonblocking(true)?;
                theirs.set_nonblocking(true)?;
                Ok((ours, theirs))
            });
            let (ours, theirs) = pair.map_err(|error| problem(code, "the console cannot be made", error, ""))?;
            Wire { held: Some(("console", HeldKind::Socket, theirs.into())), ours: Some(ours), socket: None }
        }
        Console::Socket(given) => {
            let path = given.clone().unwrap_or_else(|| place.console());
            let listener = listen(&path, "the console's socket", code)?;
            let held = Some(("console-listener", HeldKind::Listener, listener.into()));
            Wire { held, ours: None, socket: given.clone() }
        }
        Console::File(path) => {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let file = options.open(path).map_err(|error| {
                let what = format!("the console's file {} cannot be opened", path.display());
                problem(code, what, error, "choose a file that you may write: --console file:PATH")
            })?;
            Wire { held: Some(("console", HeldKind::File, file.into())), ours: None, socket: None }
        }
    })
}

/// The message for the supervisor.
fn config(plan: &Plan, place: &Place) -> io::Result<Vec<u8>> {
    // A snapshot may be restored from another directory.
    let name = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let mut message = Builder::new_default();
    let mut config = message.init_root::<vm_config::Builder<'_>>();
    config.set_name(&place.name);
    config.set_machine(plan.machine);
    config.set_engine(plan.engine);
    config.set_engine_why(&plan.engine_why);
    config.set_cpu_model(plan.cpu_model);
    config.set_vcpus(plan.vcpus);
    config.set_memory_bytes(plan.memory_bytes);
    config.set_kernel_name(name(&plan.kernel));
    config.set_initrd_name(plan.initrd.as_deref().map(name).unwrap_or_default());
    config.set_command_line(&plan.command_line);
    config.set_paused(plan.paused);
    config.set_no_reboot(plan.no_reboot);
    config.set_patience_seconds(plan.patience);
    config.set_detach(plan.detach);
    config.set_log_translation(plan.log_translation.is_some());
    config.set_perf_map(plan.perf_map.is_some());
    let mut filter = config.reborrow().init_log_filter(plan.log_filter.len() as u32);
    for (index, (first, last)) in (0..).zip(&plan.log_filter) {
        let mut range = filter.reborrow().get(index);
        range.set_first(*first);
        range.set_last(*last);
    }
    let mut console = config.init_console();
    match &plan.console {
        Console::None => console.set_none(()),
        Console::Stdio => console.set_stdio(()),
        Console::Socket(path) => console.set_socket(name(path.as_deref().unwrap_or(&place.console()))),
        Console::File(path) => console.set_file(name(path)),
    }
    Ok(capnp::serialize::write_message_to_words(&message))
}
