//! The client side: connect, call with a deadline, follow events.
//!
//! The one idea: the VM outlives any connection (its supervisor may be replaced), so a connection is cheap, a call that
//! loses it says so, and [`Follow`] makes a new one and goes on after the last event that it has seen.
//!
//! Everything here runs on a `tokio` current-thread runtime inside a `LocalSet`.

use std::{
    future::Future,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use capnp::message::ReaderOptions;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty::VatNetwork};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{io::AsyncReadExt, net::UnixStream, sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use crate::{
    DESCRIPTORS_NAME,
    control_capnp::{event_sink, subscription, vm},
    convert,
    server::Action,
    types::{Event, EventPage, Inspection, Job, Problem, RunState, Sandbox, Status, event_kind},
};

/// How long a call may take that a VM answers from what it knows.
pub const SOON: Duration = Duration::from_secs(30);
/// Longest message of a server, in words of 8 bytes.
const SERVER_WORDS: usize = 1 << 20;
/// The wait before another attempt to connect, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// How long [`Follow`] tries before the VM counts as gone.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(5);
/// Descriptors in a parcel.
const MAX_PARCEL: usize = 32;
/// Events that may wait for who reads them.
const QUEUE: usize = 64;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens there.
    #[error("{} cannot be reached: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection ended, or what came was not of this protocol.
    #[error("the connection to {} is lost: {why}", path.display())]
    Lost {
        /// The socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The VM did not answer in time.
    #[error("{} did not answer within {} s", path.display(), limit.as_secs())]
    Deadline {
        /// The socket.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// The VM answered with an error.
    #[error(transparent)]
    Problem(#[from] Problem),
}

/// A connection to a VM.
pub struct Client {
    path: PathBuf,
    vm: vm::Client,
    system: JoinHandle<Result<(), capnp::Error>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.system.abort();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Deadline`].
    pub async fn connect(path: &Path, within: Duration) -> Result<Self, Error> {
        let connecting = tokio::time::timeout(within, UnixStream::connect(path)).await;
        let stream = connecting
            .map_err(|_| Error::Deadline { path: path.into(), limit: within })?
            .map_err(|source| Error::Connect { path: path.into(), source })?;
        Ok(Self::over(stream, path))
    }

    /// A client over a connection that exists; `path` is for messages.
    #[must_use]
    pub fn over(stream: UnixStream, path: &Path) -> Self {
        let (reader, writer) = stream.into_split();
        let mut options = ReaderOptions::new();
        options.traversal_limit_in_words(Some(SERVER_WORDS)).nesting_limit(16);
        let network = VatNetwork::new(reader.compat(), writer.compat_write(), Side::Client, options);
        let mut system = RpcSystem::new(Box::new(network), None);
        let vm = system.bootstrap(Side::Server);
        Self { path: path.into(), vm, system: tokio::task::spawn_local(system) }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, capnp::Error>>,
    ) -> Result<T, Error> {
        let lost = |error: capnp::Error| Error::Lost { path: self.path.clone(), why: error.to_string() };
        match tokio::time::timeout(limit, call).await {
            Ok(result) => result.map_err(lost),
            Err(_) => Err(Error::Deadline { path: self.path.clone(), limit }),
        }
    }

    /// Everything about the VM.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Deadline`], [`Error::Problem`]; this holds for all calls.
    pub async fn inspect(&self) -> Result<Inspection, Error> {
        let call = self.vm.inspect_request().send().promise;
        let answer = self.within(SOON, async {
            let response = call.await?;
            let answer = response.get()?;
            match convert::read_problem(answer.get_problem()?)? {
                Some(problem) => Ok(Err(problem)),
                None => Ok(Ok(convert::read_inspection(answer.get_inspection()?)?)),
            }
        });
        Ok(answer.await??)
    }

    /// What each process may do.
    ///
    /// # Errors
    /// As [`Self::inspect`].
    pub async fn sandbox(&self) -> Result<Vec<Sandbox>, Error> {
        let call = self.vm.sandbox_request().send().promise;
        let answer = self.within(SOON, async {
            let response = call.await?;
            let answer = response.get()?;
            match convert::read_problem(answer.get_problem()?)? {
                Some(problem) => Ok(Err(problem)),
                None => {
                    let list: capnp::Result<_> = answer.get_processes()?.iter().map(convert::read_sandbox).collect();
                    Ok(Ok(list?))
                }
            }
        });
        Ok(answer.await??)
    }

    /// Does something and waits until it is done.
    ///
    /// # Errors
    /// As [`Self::inspect`].
    pub async fn act(&self, action: Action, within: Duration) -> Result<(), Error> {
        macro_rules! call {
            ($request:expr) => {{
                let call = $request.send().promise;
                let answer =
                    self.within(within, async { convert::read_problem(call.await?.get()?.get_problem()?) }).await?;
                answer.map_or(Ok(()), |problem| Err(problem.into()))
            }};
        }
        match action {
            Action::Pause => call!(self.vm.pause_request()),
            Action::Resume => call!(self.vm.resume_request()),
            Action::Reset => call!(self.vm.reset_request()),
            Action::Kill => call!(self.vm.kill_request()),
            Action::Wakeup => call!(self.vm.wakeup_request()),
            Action::CancelJob { job } => {
                let mut request = self.vm.cancel_job_request();
                request.get().set_job(job);
                call!(request)
            }
            Action::Stop { timeout } => {
                let mut request = self.vm.stop_request();
                request.get().set_timeout_seconds(timeout);
                call!(request)
            }
        }
    }

    /// The names of the files of a snapshot of this VM.
    ///
    /// # Errors
    /// As [`Self::inspect`].
    pub async fn snapshot_files(&self) -> Result<Vec<String>, Error> {
        let call = self.vm.snapshot_files_request().send().promise;
        let answer = self.within(SOON, async {
            let response = call.await?;
            let answer = response.get()?;
            match convert::read_problem(answer.get_problem()?)? {
                Some(problem) => Ok(Err(problem)),
                None => Ok(Ok(convert::texts(answer.get_files()?)?)),
            }
        });
        Ok(answer.await??)
    }

    /// Begins a snapshot into `files` (name and descriptor of each); answers the number of the job.
    ///
    /// # Errors
    /// As [`Self::inspect`]; [`Error::Connect`] if the VM's socket for descriptors cannot be used.
    pub async fn snapshot(&self, files: &[(String, OwnedFd)]) -> Result<u64, Error> {
        let lane = self.path.with_file_name(DESCRIPTORS_NAME);
        let token = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), &self.path);
        let descriptors: Vec<BorrowedFd<'_>> = files.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
        send_parcel(&lane, token, &descriptors).await.map_err(|source| Error::Connect { path: lane, source })?;
        let mut request = self.vm.snapshot_request();
        request.get().set_token(token);
        let mut names = request.get().init_files(convert::count(files.len()));
        for (index, (name, _)) in (0..).zip(files) {
            names.set(index, name.as_str());
        }
        let call = request.send().promise;
        let answer = self.within(SOON, async {
            let response = call.await?;
            let answer = response.get()?;
            match convert::read_problem(answer.get_problem()?)? {
                Some(problem) => Ok(Err(problem)),
                None => Ok(Ok(answer.get_job())),
            }
        });
        Ok(answer.await??)
    }

    /// Jobs, the oldest first.
    ///
    /// # Errors
    /// As [`Self::inspect`].
    pub async fn jobs(&self) -> Result<Vec<Job>, Error> {
        let call = self.vm.jobs_request().send().promise;
        self.within(SOON, async {
            let response = call.await?;
            response.get()?.get_jobs()?.iter().map(convert::read_job).collect()
        })
        .await
    }

    /// Waits until a job is over.
    ///
    /// # Errors
    /// As [`Self::inspect`].
    pub async fn wait_job(&self, job: u64, within: Duration) -> Result<Job, Error> {
        let mut request = self.vm.wait_job_request();
        request.get().set_job(job);
        let call = request.send().promise;
        let answer = self.within(within, async {
            let response = call.await?;
            let answer = response.get()?;
            match convert::read_problem(answer.get_problem()?)? {
                Some(problem) => Ok(Err(problem)),
                None => Ok(Ok(convert::read_job(answer.get_job()?)?)),
            }
        });
        Ok(answer.await??)
    }

    /// Events after number `after`, as many as fit into one answer.
    ///
    /// # Errors
    /// As [`Self::inspect`].
    pub async fn events(&self, after: u64) -> Result<EventPage, Error> {
        let mut request = self.vm.events_request();
        request.get().set_after(after);
        let call = request.send().promise;
        let answer = self.within(SOON, async {
            let response = call.await?;
            let answer = response.get()?;
            match convert::read_problem(answer.get_problem()?)? {
                Some(problem) => Ok(Err(problem)),
                None => {
                    let events: capnp::Result<_> = answer.get_events()?.iter().map(convert::read_event).collect();
                    Ok(Ok(EventPage { events: events?, last: answer.get_last() }))
                }
            }
        });
        Ok(answer.await??)
    }

    /// Waits until the VM is in `status`.
    ///
    /// # Errors
    /// As [`Self::inspect`]; also a problem where the VM can never be in that status.
    pub async fn wait_status(&self, status: Status, within: Duration) -> Result<RunState, Error> {
        let mut request = self.vm.wait_state_request();
        request.get().set_status(convert::write_status(status));
        let call = request.send().promise;
        let answer = self.within(within, async {
            let response = call.await?;
            let answer = response.get()?;
            match convert::read_problem(answer.get_problem()?)? {
                Some(problem) => Ok(Err(problem)),
                None => Ok(Ok(convert::read_state(answer.get_state()?)?)),
            }
        });
        Ok(answer.await??)
    }

    /// Starts a stream of events after number `after`.
    async fn subscribe(&self, after: u64) -> Result<(mpsc::Receiver<Event>, subscription::Client), Error> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut request = self.vm.subscribe_request();
        request.get().set_after(after);
        request.get().set_sink(capnp_rpc::new_client(Sink { sender }));
        let call = request.send().promise;
        let answer = self.within(SOON, async {
            let response = call.await?;
            let answer = response.get()?;
            match convert::read_problem(answer.get_problem()?)? {
                Some(problem) => Ok(Err(problem)),
                None => Ok(Ok(answer.get_subscription()?)),
            }
        });
        Ok((receiver, answer.await??))
    }
}

/// Sends descriptors with their number, and waits until they are taken.
async fn send_parcel(lane: &Path, token: u64, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut stream = UnixStream::connect(lane).await?;
    stream.writable().await?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PARCEL))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("these are too many descriptors"));
    }
    let bytes = token.to_le_bytes();
    sendmsg(&stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    let taken = tokio::time::timeout(SOON, stream.read(&mut [0])).await;
    taken.map_err(|_| io::ErrorKind::TimedOut)?.map(drop)
}

struct Sink {
    sender: mpsc::Sender<Event>,
}

impl event_sink::Server for Sink {
    async fn event(
        self: Rc<Self>,
        params: event_sink::EventParams,
        _: event_sink::EventResults,
    ) -> Result<(), capnp::Error> {
        let event = convert::read_event(params.get()?.get_event()?)?;
        // Whoever follows has stopped; so does the stream.
        self.sender.send(event).await.map_err(|_| capnp::Error::failed("nobody listens any more".into()))
    }
}

/// A stream of events that survives connections and supervisors.
pub struct Follow {
    path: PathBuf,
    after: u64,
    ended: bool,
    stream: Option<(Client, mpsc::Receiver<Event>, subscription::Client)>,
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow").field("path", &self.path).field("after", &self.after).finish_non_exhaustive()
    }
}

impl Follow {
    /// Follows the VM whose control socket is at `path`, from after event `after` on.
    #[must_use]
    pub fn new(path: &Path, after: u64) -> Self {
        Self { path: path.into(), after, ended: false, stream: None }
    }

    /// The number of the last event that was returned.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.after
    }

    /// The next event; `None` after the last one of the VM.
    ///
    /// # Errors
    /// The VM cannot be reached for five seconds, or answers with a problem.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        let mut wait = RETRY.0;
        let mut give_up = Instant::now() + FOLLOW_PATIENCE;
        while !self.ended {
            if let Some((_, receiver, _)) = &mut self.stream {
                match receiver.recv().await {
                    Some(event) if event.sequence > self.after => {
                        self.after = event.sequence;
                        self.ended = event.kind == event_kind::ENDED;
                        return Ok(Some(event));
                    }
                    // Seen before the connection was lost.
                    Some(_) => continue,
                    None => {
                        self.stream = None;
                        (wait, give_up) = (RETRY.0, Instant::now() + FOLLOW_PATIENCE);
                    }
                }
            }
            match self.connect().await {
                Ok(stream) => self.stream = Some(stream),
                Err(error @ Error::Problem(_)) => return Err(error),
                Err(error) if Instant::now() >= give_up => return Err(error),
                Err(_) => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
        Ok(None)
    }

    async fn connect(&self) -> Result<(Client, mpsc::Receiver<Event>, subscription::Client), Error> {
        let client = Client::connect(&self.path, FOLLOW_PATIENCE).await?;
        let (receiver, subscription) = client.subscribe(self.after).await?;
        Ok((client, receiver, subscription))
    }
}
