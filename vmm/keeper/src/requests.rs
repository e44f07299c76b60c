//! Carrying out one request: all of it, or nothing and a reason.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use enter::status::StatusPage;
use keeper_protocol::{
    Access, Grant, HeldId, HeldKind, MemfdFlags, Name, ProcessEntry, ProcessId, ProcessState, Refusal, RefusalCode,
    Request, SendTo, SocketKind, Spawn,
};
use link::{Link, Peer, Sent};
use profile::Kind;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags as Memfd, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};
use spawn::{Child, Command, Image, Spawner};

use crate::logs::Source;
use crate::table::{Held, Passed, Process, State, Table, os, refused};

/// What a request came to.
#[derive(Debug)]
pub enum Outcome {
    /// Answer with these.
    Done { a: u64, b: u64, descriptor: Option<OwnedFd> },
    /// Send the tables, then answer.
    Tables,
    /// The supervisor works.
    Serving,
    /// End the VM.
    Exit(u8),
}

impl Outcome {
    const NOTHING: Self = Self::Done { a: 0, b: 0, descriptor: None };

    fn held(id: HeldId) -> Self {
        Self::Done { a: id.0, b: 0, descriptor: None }
    }
}

/// Carries out `request`, which came with `descriptor` if it is one that must.
pub fn execute(
    table: &mut Table,
    spawner: &Spawner,
    request: Request<'_>,
    descriptor: Option<OwnedFd>,
) -> Result<Outcome, Refusal> {
    match request {
        Request::MakeMemfd { name, size, flags } => make_memfd(table, name, size, flags).map(Outcome::held),
        Request::MakeEventfd { name, initial } => {
            let fd = eventfd(initial, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|error| os("making an eventfd", &error))?;
            table.hold(Held { name, kind: HeldKind::Eventfd, guarded: false, fd }).map(Outcome::held)
        }
        Request::MakeSocketpair { left, right, kind } => {
            table.room_for(2)?;
            let kind = match kind {
                SocketKind::Seqpacket => SocketType::SEQPACKET,
                SocketKind::Stream => SocketType::STREAM,
            };
            let (a, b) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
                .map_err(|error| os("making a socket pair", &error))?;
            let a = table.hold(Held { name: left, kind: HeldKind::Socket, guarded: false, fd: a })?;
            let b = table.hold(Held { name: right, kind: HeldKind::Socket, guarded: false, fd: b })?;
            Ok(Outcome::Done { a: a.0, b: b.0, descriptor: None })
        }
        Request::Hold { name, kind } => {
            let fd = descriptor.ok_or_else(|| refused(RefusalCode::Malformed, "no descriptor came with Hold"))?;
            table.hold(Held { name, kind, guarded: false, fd }).map(Outcome::held)
        }
        Request::Get { id, access } => get(table, id, access),
        Request::Release { id } => table.release(id).map(|()| Outcome::NOTHING),
        Request::Spawn(spawn) => start_process(table, spawner, &spawn),
        Request::Kill { process, incarnation, signal } => {
            let (_, child) = table.running(process, incarnation)?;
            let signal = i32::try_from(signal).ok().and_then(Signal::from_named_raw);
            let signal = signal.ok_or_else(|| refused(RefusalCode::Malformed, "there is no such signal"))?;
            match pidfd_send_signal(child.pidfd(), signal) {
                // It has ended and will be reaped in this turn of the loop.
                Ok(()) | Err(Errno::SRCH) => Ok(Outcome::NOTHING),
                Err(error) => Err(os("sending a signal", &error)),
            }
        }
        Request::SendTo(send) => send_to(table, &send),
        Request::List => Ok(Outcome::Tables),
        Request::SetStatus { id } => table.set_status(id).map(|()| Outcome::NOTHING),
        Request::Acknowledge { process } => table.acknowledge(process).map(|()| Outcome::NOTHING),
        Request::Serving => Ok(Outcome::Serving),
        Request::Exit { status } => Ok(Outcome::Exit(status)),
    }
}

fn make_memfd(table: &mut Table, name: Name, size: u64, flags: MemfdFlags) -> Result<HeldId, Refusal> {
    table.room_for(1)?;
    let failed = |what: &'static str| move |error: Errno| os(what, &error);
    let base = Memfd::CLOEXEC | Memfd::ALLOW_SEALING;
    let fd = match memfd_create(name.as_str(), base | Memfd::NOEXEC_SEAL) {
        // Linux before 6.3 does not know the flag.
        Err(Errno::INVAL) => memfd_create(name.as_str(), base),
        other => other,
    }
    .map_err(failed("making a memfd"))?;
    ftruncate(&fd, size).map_err(failed("sizing a memfd"))?;
    let seals = [
        (MemfdFlags::SEAL_SHRINK, SealFlags::SHRINK),
        (MemfdFlags::SEAL_GROW, SealFlags::GROW),
        (MemfdFlags::SEAL_SEAL, SealFlags::SEAL),
    ];
    let wanted = seals.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, seal)| seal).collect();
    fcntl_add_seals(&fd, wanted).map_err(failed("sealing a memfd"))?;
    table.hold(Held { name, kind: HeldKind::Memfd, guarded: flags.contains(MemfdFlags::GUARDED), fd })
}

fn get(table: &Table, id: HeldId, access: Access) -> Result<Outcome, Refusal> {
    let held = table.get(id)?;
    if held.guarded {
        let why = format!("{id} ({}) is guarded: only processes get it, by Spawn and SendTo", held.name);
        return Err(refused(RefusalCode::NotAllowed, why));
    }
    let descriptor = match table.pass(id, access)? {
        Passed::Same(fd) => fd.try_clone_to_owned().map_err(|error| os("copying a descriptor", &error))?,
        Passed::New(fd) => fd,
    };
    Ok(Outcome::Done { a: 0, b: 0, descriptor: Some(descriptor) })
}

/// Sends a message with held descriptors on a control socket.
fn send(table: &Table, link: &Link, grants: &[Grant], payload: &[u8]) -> Result<(), Refusal> {
    let passed = grants.iter().map(|grant| table.pass(grant.id, grant.access)).collect::<Result<Vec<_>, Refusal>>()?;
    let descriptors: Vec<BorrowedFd<'_>> = passed.iter().map(AsFd::as_fd).collect();
    match link.try_send(payload, &descriptors) {
        Ok(Sent::Sent) => Ok(()),
        Ok(Sent::Full) => {
            Err(refused(RefusalCode::NotTaken, format!("the queue of {} is full: it does not read", link.peer())))
        }
        Err(error) => Err(refused(RefusalCode::NotTaken, error.to_string())),
    }
}

fn send_to(table: &Table, request: &SendTo<'_>) -> Result<Outcome, Refusal> {
    let (process, _) = table.running(request.process, request.incarnation)?;
    let failed = |error: &dyn std::fmt::Display| os("the control socket", error);
    let socket = table.get(process.socket)?.fd.try_clone().map_err(|error| failed(&error))?;
    let link = Link::new(socket, Peer::new(process.name.as_str(), process.incarnation));
    send(table, &link.map_err(|error| failed(&error))?, &request.grants, request.payload)?;
    Ok(Outcome::NOTHING)
}

fn start_process(table: &mut Table, spawner: &Spawner, request: &Spawn<'_>) -> Result<Outcome, Refusal> {
    let Spawn { name, role, incarnation, status_slot, .. } = *request;
    if !Kind::from_name(role.as_str()).is_some_and(|kind| !matches!(kind, Kind::Keeper | Kind::Supervisor)) {
        return Err(refused(RefusalCode::NoSuchRole, format!("{name}: there is no role {role} for a process")));
    }
    table.room_for_process()?;
    table.room_for(1)?;
    let image = table.image(request.binary)?;
    let (ours, theirs) = Link::pair(Peer::new("supervisor", 0), Peer::new(name.as_str(), incarnation))
        .map_err(|error| os("making a control socket", &error))?;
    // First the message, then the process: what cannot be sent starts nothing.
    send(table, &ours, &request.grants, request.payload)?;
    let socket = ours.into_inner();
    let copy = socket.try_clone().map_err(|error| os("copying a descriptor", &error))?;
    if let Some(page) = table.status_page(status_slot) {
        StatusPage::clear(page);
    }
    let (child, log) = launch(spawner, name.as_str(), incarnation, &image, theirs.as_fd())?;
    let socket = table.hold(Held { name, kind: HeldKind::Control, guarded: false, fd: socket })?;
    let (pid, state) = (child.pid().cast_unsigned(), ProcessState::Running);
    let entry = ProcessEntry { id: ProcessId(0), socket, incarnation, status_slot, pid, state, name, role };
    let id = table.add_process(Process { entry, state: State::Running { child, log } });
    Ok(Outcome::Done { a: id.0, b: socket.0, descriptor: Some(copy) })
}

/// Starts a sandboxed process with a log pipe and a control socket.
pub fn launch(
    spawner: &Spawner,
    name: &str,
    incarnation: u32,
    image: &Image,
    control: BorrowedFd<'_>,
) -> Result<(Child, Source), Refusal> {
    let (log, theirs) =
        Source::pipe(format!("{name}[{incarnation}]")).map_err(|error| os("making a log pipe", &error))?;
    let command = Command::new(name, image).log(theirs.as_fd()).control(control);
    let child = spawner.spawn(&command).map_err(|error| refused(RefusalCode::Spawn, error.to_string()))?;
    Ok((child, log))
}
