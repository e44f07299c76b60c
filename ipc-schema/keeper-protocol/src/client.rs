//! The two clients of a keeper: [`Keeper`] for the supervisor, [`Launcher`] for who starts it.
//!
//! Calls wait for their answer with a deadline; the keeper answers in microseconds (`Spawn` in milliseconds), so an event
//! loop may call them directly. It watches [`Keeper::as_fd`](std::os::fd::AsFd) for exits and takes them with
//! [`Keeper::next_exit`], which does not wait; exits that came while a call waited for its answer are kept for it.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use link::{Deadline, Inbox, Link, LinkError, Peer};

use crate::{
    Access, BeginFlags, Exited, FromKeeper, Grant, HeldEntry, HeldId, HeldKind, Hello, LauncherAnswer, LauncherMessage,
    MAX_HELD, MAX_PROCESSES, MemfdFlags, Name, ProcessEntry, ProcessId, ProtocolError, Refusal, Reply, Request, SendTo,
    SocketKind, Spawn, wire::Header,
};

/// Why a call of a keeper failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The keeper's end is closed, or it did not answer in time. Without its keeper a VM does not run.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// What came is not of this protocol, or what was to be sent does not fit.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The keeper did not do it, and says why.
    #[error("the keeper refused: {0}")]
    Refused(#[from] Refusal),
    /// The keeper sent a message that does not belong there.
    #[error("the keeper sent {0} out of turn")]
    OutOfTurn(&'static str),
    /// The keeper could not start the VM.
    #[error("the VM cannot be started: {0}")]
    NotStarted(String),
}

/// What a new supervisor finds. Exits follow by [`Keeper::next_exit`].
#[derive(Debug)]
pub struct Adoption {
    /// The VM and its last supervisor.
    pub hello: Hello,
    /// Everything that is held, in order of ids.
    pub held: Vec<HeldEntry>,
    /// Every process that runs, or whose exit is not acknowledged, in order of ids.
    pub processes: Vec<ProcessEntry>,
}

impl Adoption {
    /// The first held descriptor of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<HeldId> {
        self.held.iter().find(|entry| entry.name.as_str() == name).map(|entry| entry.id)
    }
}

/// A process just started.
#[derive(Debug)]
pub struct Spawned {
    /// Its number.
    pub process: ProcessId,
    /// The supervisor's end of its control socket; the keeper holds a copy under [`Self::socket_id`].
    pub socket: OwnedFd,
    /// See [`Self::socket`].
    pub socket_id: HeldId,
}

/// The supervisor's side of its keeper link.
#[derive(Debug)]
pub struct Keeper {
    link: Link,
    inbox: Inbox,
    outbox: Vec<u8>,
    incarnation: u32,
    last_id: u64,
    exits: VecDeque<Exited>,
}

impl Keeper {
    /// Receives what the keeper says to a new supervisor over `link` (descriptor 3, see
    /// [`crate::KEEPER_DESCRIPTOR`] and [`Link::inherited`]).
    ///
    /// # Errors
    /// [`ClientError`]; a keeper of another version is [`ClientError::Protocol`].
    pub fn adopt(link: Link, deadline: Deadline) -> Result<(Self, Adoption), ClientError> {
        let (inbox, outbox, exits) = (Inbox::new(), Vec::new(), VecDeque::new());
        let mut keeper = Self { link, inbox, outbox, incarnation: 0, last_id: 0, exits };
        let hello = match keeper.receive(deadline)? {
            (header, FromKeeper::Hello(hello), _) => {
                keeper.incarnation = header.incarnation;
                hello
            }
            _ => return Err(ClientError::OutOfTurn("a message before Hello")),
        };
        let (mut held, mut processes) = (Vec::new(), Vec::new());
        let sizes = (hello.held as usize, hello.processes as usize);
        if sizes.0 > MAX_HELD || sizes.1 > MAX_PROCESSES {
            return Err(ClientError::OutOfTurn("more entries than a keeper can have"));
        }
        while (held.len(), processes.len()) != sizes {
            match keeper.receive(deadline)?.1 {
                FromKeeper::HeldTable(entries) if held.len() < sizes.0 => held.extend(entries),
                FromKeeper::ProcessTable(entries) if processes.len() < sizes.1 => processes.extend(entries),
                _ => return Err(ClientError::OutOfTurn("a message before the end of the tables")),
            }
        }
        Ok((keeper, Adoption { hello, held, processes }))
    }

    /// Goes on with a link on which somebody else (the same supervisor before an exec) has already received `Hello`, the tables and
    /// what followed. `first_id` must be beyond every id of a request that was sent on it.
    #[must_use]
    pub fn resume(link: Link, incarnation: u32, first_id: u64) -> Self {
        let (inbox, outbox, exits) = (Inbox::new(), Vec::new(), VecDeque::new());
        Self { link, inbox, outbox, incarnation, last_id: first_id, exits }
    }

    /// Which start of the supervisor this is, from 1.
    #[must_use]
    pub const fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// The next process that has ended, without waiting; `None` when there is none now.
    ///
    /// # Errors
    /// [`ClientError`], in particular that the keeper is gone.
    pub fn next_exit(&mut self) -> Result<Option<Exited>, ClientError> {
        loop {
            if let Some(exited) = self.exits.pop_front() {
                return Ok(Some(exited));
            }
            match self.link.try_recv_into(&mut self.inbox)? {
                None => return Ok(None),
                Some(message) => match FromKeeper::decode(message.bytes, message.descriptors.len())?.1 {
                    FromKeeper::Exited(exited) => return Ok(Some(exited)),
                    // An answer that came after its deadline.
                    _ => continue,
                },
            }
        }
    }

    /// Waits for the next process that ends.
    ///
    /// # Errors
    /// [`ClientError`]; [`LinkError::Deadline`] when none ends in time.
    pub fn wait_exit(&mut self, deadline: Deadline) -> Result<Exited, ClientError> {
        loop {
            if let Some(exited) = self.next_exit()? {
                return Ok(exited);
            }
            if let FromKeeper::Exited(exited) = self.receive(deadline)?.1 {
                return Ok(exited);
            }
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] is the keeper's word that nothing has changed.
    pub fn call(
        &mut self,
        request: &Request<'_>,
        descriptors: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(Reply, Option<OwnedFd>), ClientError> {
        self.call_with(request, descriptors, deadline, |_| Err(ClientError::OutOfTurn("a table")))
    }

    /// Makes and holds a memfd.
    ///
    /// # Errors
    /// As [`Self::call`]; this holds for all the calls below.
    pub fn make_memfd(
        &mut self,
        name: Name,
        size: u64,
        flags: MemfdFlags,
        deadline: Deadline,
    ) -> Result<HeldId, ClientError> {
        Ok(HeldId(self.call(&Request::MakeMemfd { name, size, flags }, &[], deadline)?.0.a))
    }

    /// Makes and holds a non-blocking eventfd.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn make_eventfd(&mut self, name: Name, deadline: Deadline) -> Result<HeldId, ClientError> {
        Ok(HeldId(self.call(&Request::MakeEventfd { name, initial: 0 }, &[], deadline)?.0.a))
    }

    /// Makes and holds a pair of connected sockets.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn make_socketpair(
        &mut self,
        left: Name,
        right: Name,
        kind: SocketKind,
        deadline: Deadline,
    ) -> Result<(HeldId, HeldId), ClientError> {
        let (reply, _) = self.call(&Request::MakeSocketpair { left, right, kind }, &[], deadline)?;
        Ok((HeldId(reply.a), HeldId(reply.b)))
    }

    /// Gives the keeper a descriptor to hold.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn hold(
        &mut self,
        name: Name,
        kind: HeldKind,
        descriptor: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> Result<HeldId, ClientError> {
        Ok(HeldId(self.call(&Request::Hold { name, kind }, &[descriptor], deadline)?.0.a))
    }

    /// Fetches a held descriptor.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn get(&mut self, id: HeldId, access: Access, deadline: Deadline) -> Result<OwnedFd, ClientError> {
        let (_, descriptor) = self.call(&Request::Get { id, access }, &[], deadline)?;
        descriptor.ok_or(ClientError::OutOfTurn("an answer without its descriptor"))
    }

    /// Lets go of a held descriptor.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn release(&mut self, id: HeldId, deadline: Deadline) -> Result<(), ClientError> {
        self.call(&Request::Release { id }, &[], deadline).map(drop)
    }

    /// Starts a process and sends it its first message.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn spawn(&mut self, spawn: Spawn<'_>, deadline: Deadline) -> Result<Spawned, ClientError> {
        let (reply, socket) = self.call(&Request::Spawn(spawn), &[], deadline)?;
        let socket = socket.ok_or(ClientError::OutOfTurn("an answer without its descriptor"))?;
        Ok(Spawned { process: ProcessId(reply.a), socket, socket_id: HeldId(reply.b) })
    }

    /// Sends a signal to a process.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn kill(
        &mut self,
        process: ProcessId,
        incarnation: u32,
        signal: u32,
        deadline: Deadline,
    ) -> Result<(), ClientError> {
        self.call(&Request::Kill { process, incarnation, signal }, &[], deadline).map(drop)
    }

    /// Sends a message with held descriptors to a process.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn send_to(
        &mut self,
        process: ProcessId,
        incarnation: u32,
        grants: Vec<Grant>,
        payload: &[u8],
        deadline: Deadline,
    ) -> Result<(), ClientError> {
        self.call(&Request::SendTo(SendTo { process, incarnation, grants, payload }), &[], deadline).map(drop)
    }

    /// The two tables as they are now.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn list(&mut self, deadline: Deadline) -> Result<(Vec<HeldEntry>, Vec<ProcessEntry>), ClientError> {
        let (mut held, mut processes) = (Vec::new(), Vec::new());
        self.call_with(&Request::List, &[], deadline, |piece| {
            match piece {
                FromKeeper::HeldTable(entries) => held.extend(entries),
                FromKeeper::ProcessTable(entries) => processes.extend(entries),
                _ => return Err(ClientError::OutOfTurn("something else than a table")),
            }
            if held.len() > MAX_HELD || processes.len() > MAX_PROCESSES {
                return Err(ClientError::OutOfTurn("more entries than a keeper can have"));
            }
            Ok(())
        })?;
        Ok((held, processes))
    }

    /// Says which held memfd has the status pages.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn set_status(&mut self, id: HeldId, deadline: Deadline) -> Result<(), ClientError> {
        self.call(&Request::SetStatus { id }, &[], deadline).map(drop)
    }

    /// Says that an exit is dealt with.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn acknowledge(&mut self, process: ProcessId, deadline: Deadline) -> Result<(), ClientError> {
        self.call(&Request::Acknowledge { process }, &[], deadline).map(drop)
    }

    /// Says that this supervisor has taken over and works.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn serving(&mut self, deadline: Deadline) -> Result<(), ClientError> {
        self.call(&Request::Serving, &[], deadline).map(drop)
    }

    /// Ends the VM: the keeper exits with `status`, and the kernel kills everything in its pid namespace, the caller
    /// included. Returns only when that did not happen.
    ///
    /// # Errors
    /// Always: that the keeper is gone (which is what was asked for), or why it did not end.
    pub fn exit(&mut self, status: u8, deadline: Deadline) -> ClientError {
        match self.call(&Request::Exit { status }, &[], deadline) {
            Ok(_) => ClientError::OutOfTurn("an answer to Exit"),
            Err(error) => error,
        }
    }

    fn call_with(
        &mut self,
        request: &Request<'_>,
        descriptors: &[BorrowedFd<'_>],
        deadline: Deadline,
        mut piece: impl FnMut(FromKeeper) -> Result<(), ClientError>,
    ) -> Result<(Reply, Option<OwnedFd>), ClientError> {
        self.last_id += 1;
        let id = self.last_id;
        request.encode(id, self.incarnation, &mut self.outbox)?;
        self.link.send(&self.outbox, descriptors, deadline)?;
        loop {
            match self.receive(deadline)? {
                (_, FromKeeper::Exited(exited), _) => self.exits.push_back(exited),
                // Late answers to calls whose deadline had passed.
                (header, ..) if header.id != id => {}
                (_, FromKeeper::Reply(reply), descriptor) => return Ok((reply, descriptor)),
                (_, FromKeeper::Refusal(refusal), _) => return Err(refusal.into()),
                (_, other, _) => piece(other)?,
            }
        }
    }

    fn receive(&mut self, deadline: Deadline) -> Result<(Header, FromKeeper, Option<OwnedFd>), ClientError> {
        let received = self.link.recv_into(&mut self.inbox, deadline)?;
        let (header, message) = FromKeeper::decode(received.bytes, received.descriptors.len())?;
        Ok((header, message, received.descriptors.pop()))
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

/// For event loops that ask for a number, as tokio's `AsyncFd` does.
impl AsRawFd for Keeper {
    fn as_raw_fd(&self) -> RawFd {
        self.link.as_raw_fd()
    }
}

/// The launcher's side of the link to a keeper that it has started.
#[derive(Debug)]
pub struct Launcher {
    link: Link,
    outbox: Vec<u8>,
    held: u32,
}

impl Launcher {
    /// Introduces a VM. `link` is the other end of the keeper's descriptor 3; `patience`, in seconds, is how long a supervisor may
    /// stand still.
    ///
    /// # Errors
    /// [`ClientError::Link`].
    pub fn begin(
        mut link: Link,
        vm: Name,
        flags: BeginFlags,
        (uid, gid): (u32, u32),
        patience: u32,
        deadline: Deadline,
    ) -> Result<Self, ClientError> {
        link.set_peer(Peer::new("keeper", 1));
        let mut launcher = Self { link, outbox: Vec::new(), held: 0 };
        launcher.send(LauncherMessage::Begin { flags, uid, gid, patience, vm }, &[], deadline)?;
        Ok(launcher)
    }

    /// Gives the keeper a descriptor to hold. [`crate::SUPERVISOR_BINARY`] must be among them.
    ///
    /// # Errors
    /// [`ClientError::Link`].
    pub fn hold(
        &mut self,
        name: Name,
        kind: HeldKind,
        descriptor: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> Result<HeldId, ClientError> {
        self.send(LauncherMessage::Hold { name, kind }, &[descriptor], deadline)?;
        self.held += 1;
        Ok(HeldId(self.held.into()))
    }

    /// Starts the VM: returns the link, whose end the keeper watches if it runs in the foreground, and the pid of
    /// the supervisor in the VM's namespace.
    ///
    /// # Errors
    /// [`ClientError::NotStarted`] with the keeper's reason, or [`ClientError::Link`].
    pub fn go(mut self, deadline: Deadline) -> Result<(Link, u32), ClientError> {
        let held = self.held;
        self.send(LauncherMessage::Go { held }, &[], deadline)?;
        match self.answer(deadline)? {
            LauncherAnswer::Started { pid } => Ok((self.link, pid)),
            LauncherAnswer::Refused { why } => Err(ClientError::NotStarted(why)),
        }
    }

    fn send(
        &mut self,
        message: LauncherMessage,
        descriptors: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), ClientError> {
        message.encode(&mut self.outbox)?;
        match self.link.send(&self.outbox, descriptors, deadline) {
            // A keeper that refused something says so before it ends.
            Err(LinkError::PeerGone { peer }) => match self.answer(deadline) {
                Ok(LauncherAnswer::Refused { why }) => Err(ClientError::NotStarted(why)),
                _ => Err(LinkError::PeerGone { peer }.into()),
            },
            other => Ok(other?),
        }
    }

    fn answer(&self, deadline: Deadline) -> Result<LauncherAnswer, ClientError> {
        let message = self.link.recv(deadline)?;
        Ok(LauncherAnswer::decode(&message.bytes, message.descriptors.len())?)
    }
}
