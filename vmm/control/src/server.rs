//! The server side: one connection's RPC, in terms of a [`Backend`].
//!
//! The one idea: a client can hurt nobody but itself. What it may send, what it may ask before it takes the answers, and what
//! it may subscribe to are bounded, what it does not take stops only its own stream of events, and the end of its connection
//! drops everything that it had.

use std::{cell::Cell, rc::Rc, time::Duration};

use capnp::message::ReaderOptions;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty::VatNetwork};
use futures::future::{AbortHandle, Abortable, LocalBoxFuture};
use tokio::net::UnixStream;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use crate::{
    bounded::{Bounded, Meter},
    control_capnp::{event_sink, subscription, vm},
    convert,
    types::{Event, EventPage, Inspection, Job, Problem, RunState, Sandbox, Status},
};

/// What a method answers, when it does.
pub type Answer<T> = LocalBoxFuture<'static, Result<T, Problem>>;

/// Longest message of a client, in words of 8 bytes: its requests have a few dozen.
pub const CLIENT_WORDS: usize = 1024;
/// Subscriptions of one connection at a time.
pub const SUBSCRIPTIONS: usize = 16;
/// Events that a subscription holds at a time.
const FED_EVENTS: usize = 16;
/// How long a client that is about to be cut off may take to take the reason.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How long a client may take to take an event before its subscription ends.
const SINK_PATIENCE: Duration = Duration::from_secs(30);
/// Most events in one answer.
pub const PAGE_EVENTS: usize = 256;

/// What a client asks to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let vCPUs and the guest clock stand.
    Pause,
    /// Let them go on.
    Resume,
    /// As after power-on.
    Reset,
    /// Press the power button; kill the VM after so many seconds (0: never).
    Stop {
        /// Seconds.
        timeout: u32,
    },
    /// End the VM at once.
    Kill,
    /// Let a sleeping guest wake.
    Wakeup,
    /// Give up a job.
    CancelJob {
        /// Its number.
        job: u64,
    },
}

/// What serves the socket. Everything happens on one thread, between awaits.
pub trait Backend: 'static {
    /// Everything about the VM.
    fn inspect(self: Rc<Self>) -> Answer<Inspection>;
    /// What each process may do.
    fn sandbox(self: Rc<Self>) -> Answer<Vec<Sandbox>>;
    /// Does something; answers when it is done.
    fn act(self: Rc<Self>, action: Action) -> Answer<()>;
    /// The files of a snapshot of this VM.
    fn snapshot_files(&self) -> Vec<String>;
    /// Begins a snapshot into the files whose descriptors came with `token`, in this order; answers the number of the job.
    fn snapshot(self: Rc<Self>, token: u64, files: Vec<String>) -> Answer<u64>;
    /// Jobs, the oldest first.
    fn jobs(&self) -> Vec<Job>;
    /// Answers once the job is over.
    fn wait_job(self: Rc<Self>, id: u64) -> Answer<Job>;
    /// At most [`PAGE_EVENTS`] events after number `after`, as far as they are kept.
    ///
    /// # Errors
    /// The log cannot be read.
    fn events(&self, after: u64) -> Result<EventPage, Problem>;
    /// Answers once there is an event after number `after`.
    fn wait_event(self: Rc<Self>, after: u64) -> LocalBoxFuture<'static, ()>;
    /// Answers once the VM is in this status, or can never be.
    fn wait_status(self: Rc<Self>, status: Status) -> Answer<RunState>;
}

/// Serves one client until it leaves, or asks for more than is kept for it: then says why. To be run on a `LocalSet`.
pub async fn serve(stream: UnixStream, backend: Rc<dyn Backend>) -> Option<String> {
    let (reader, writer) = stream.into_split();
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(CLIENT_WORDS)).nesting_limit(16);
    let network = VatNetwork::new(reader.compat(), writer.compat_write(), Side::Server, options);
    let client: vm::Client = capnp_rpc::new_client(Service { backend, subscriptions: Rc::default() });
    let meter = Rc::new(Meter::default());
    let system = RpcSystem::new(Box::new(Bounded::new(network, Rc::clone(&meter))), Some(client.client));
    let cut = async {
        meter.exceeded().await;
        tokio::time::sleep(LAST_WORD).await;
    };
    tokio::select! {
        // An error is the client's: it left in the middle, or sent garbage.
        _ = system => {}
        () = cut => {}
    }
    meter.excess()
}

struct Service {
    backend: Rc<dyn Backend>,
    subscriptions: Rc<Cell<usize>>,
}

/// The two endings that every method has.
macro_rules! answer {
    ($results:expr, $outcome:expr, |$to:ident, $value:ident| $fill:expr) => {{
        let mut $to = $results.get();
        match $outcome {
            Ok($value) => $fill,
            Err(problem) => convert::write_problem(&problem, $to.reborrow().init_problem()),
        }
        Ok(())
    }};
}

impl Service {
    async fn act(self: Rc<Self>, action: Action) -> Result<(), Problem> {
        Rc::clone(&self.backend).act(action).await
    }
}

impl vm::Server for Service {
    async fn inspect(
        self: Rc<Self>,
        _: vm::InspectParams,
        mut results: vm::InspectResults,
    ) -> Result<(), capnp::Error> {
        let outcome = Rc::clone(&self.backend).inspect().await;
        answer!(results, outcome, |to, value| convert::write_inspection(&value, to.reborrow().init_inspection()))
    }

    async fn sandbox(
        self: Rc<Self>,
        _: vm::SandboxParams,
        mut results: vm::SandboxResults,
    ) -> Result<(), capnp::Error> {
        let outcome = Rc::clone(&self.backend).sandbox().await;
        answer!(results, outcome, |to, value| {
            let mut list = to.reborrow().init_processes(convert::count(value.len()));
            for (index, sandbox) in (0..).zip(&value) {
                convert::write_sandbox(sandbox, list.reborrow().get(index));
            }
        })
    }

    async fn pause(self: Rc<Self>, _: vm::PauseParams, mut results: vm::PauseResults) -> Result<(), capnp::Error> {
        answer!(results, self.act(Action::Pause).await, |_to, _done| ())
    }

    async fn resume(self: Rc<Self>, _: vm::ResumeParams, mut results: vm::ResumeResults) -> Result<(), capnp::Error> {
        answer!(results, self.act(Action::Resume).await, |_to, _done| ())
    }

    async fn stop(self: Rc<Self>, params: vm::StopParams, mut results: vm::StopResults) -> Result<(), capnp::Error> {
        let timeout = params.get()?.get_timeout_seconds();
        answer!(results, self.act(Action::Stop { timeout }).await, |_to, _done| ())
    }

    async fn kill(self: Rc<Self>, _: vm::KillParams, mut results: vm::KillResults) -> Result<(), capnp::Error> {
        answer!(results, self.act(Action::Kill).await, |_to, _done| ())
    }

    async fn reset(self: Rc<Self>, _: vm::ResetParams, mut results: vm::ResetResults) -> Result<(), capnp::Error> {
        answer!(results, self.act(Action::Reset).await, |_to, _done| ())
    }

    async fn wakeup(self: Rc<Self>, _: vm::WakeupParams, mut results: vm::WakeupResults) -> Result<(), capnp::Error> {
        answer!(results, self.act(Action::Wakeup).await, |_to, _done| ())
    }

    async fn snapshot_files(
        self: Rc<Self>,
        _: vm::SnapshotFilesParams,
        mut results: vm::SnapshotFilesResults,
    ) -> Result<(), capnp::Error> {
        results.get().set_files(&self.backend.snapshot_files()[..])
    }

    async fn snapshot(
        self: Rc<Self>,
        params: vm::SnapshotParams,
        mut results: vm::SnapshotResults,
    ) -> Result<(), capnp::Error> {
        let (token, files) = (params.get()?.get_token(), convert::texts(params.get()?.get_files()?)?);
        let outcome = Rc::clone(&self.backend).snapshot(token, files).await;
        answer!(results, outcome, |to, job| to.set_job(job))
    }

    async fn jobs(self: Rc<Self>, _: vm::JobsParams, mut results: vm::JobsResults) -> Result<(), capnp::Error> {
        let jobs = self.backend.jobs();
        let mut list = results.get().init_jobs(convert::count(jobs.len()));
        for (index, job) in (0..).zip(&jobs) {
            convert::write_job(job, list.reborrow().get(index));
        }
        Ok(())
    }

    async fn wait_job(
        self: Rc<Self>,
        params: vm::WaitJobParams,
        mut results: vm::WaitJobResults,
    ) -> Result<(), capnp::Error> {
        let outcome = Rc::clone(&self.backend).wait_job(params.get()?.get_job()).await;
        answer!(results, outcome, |to, job| convert::write_job(&job, to.reborrow().init_job()))
    }

    async fn cancel_job(
        self: Rc<Self>,
        params: vm::CancelJobParams,
        mut results: vm::CancelJobResults,
    ) -> Result<(), capnp::Error> {
        let job = params.get()?.get_job();
        answer!(results, self.act(Action::CancelJob { job }).await, |_to, _done| ())
    }

    async fn events(
        self: Rc<Self>,
        params: vm::EventsParams,
        mut results: vm::EventsResults,
    ) -> Result<(), capnp::Error> {
        let outcome = self.backend.events(params.get()?.get_after());
        answer!(results, outcome, |to, page| {
            to.set_last(page.last);
            let mut list = to.reborrow().init_events(convert::count(page.events.len()));
            for (index, event) in (0..).zip(&page.events) {
                convert::write_event(event, list.reborrow().get(index));
            }
        })
    }

    async fn subscribe(
        self: Rc<Self>,
        params: vm::SubscribeParams,
        mut results: vm::SubscribeResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let (after, sink) = (params.get_after(), params.get_sink()?);
        if self.subscriptions.get() >= SUBSCRIPTIONS {
            let why = format!("this connection has {SUBSCRIPTIONS} subscriptions already");
            let problem = Problem::new("client.subscriptions", "the subscription", why, "end one, or connect anew");
            convert::write_problem(&problem, results.get().init_problem());
            return Ok(());
        }
        let (handle, registration) = AbortHandle::new_pair();
        let feed = Abortable::new(feed(Rc::clone(&self.backend), after, sink), registration);
        tokio::task::spawn_local(feed);
        let subscription = Subscription::new(handle, Rc::clone(&self.subscriptions));
        results.get().set_subscription(capnp_rpc::new_client(subscription));
        Ok(())
    }

    async fn wait_state(
        self: Rc<Self>,
        params: vm::WaitStateParams,
        mut results: vm::WaitStateResults,
    ) -> Result<(), capnp::Error> {
        let status = convert::read_status(params.get()?.get_status()?);
        let outcome = Rc::clone(&self.backend).wait_status(status).await;
        answer!(results, outcome, |to, value| convert::write_state(value, to.reborrow().init_state()))
    }
}

/// Sends events to a client, one at a time, as it takes them.
async fn feed(backend: Rc<dyn Backend>, mut after: u64, sink: event_sink::Client) {
    loop {
        let Ok(mut page) = backend.events(after) else { return };
        page.events.truncate(FED_EVENTS);
        page.events.shrink_to_fit();
        for event in &page.events {
            if send_event(&sink, event).await.is_none() {
                return;
            }
            after = event.sequence;
        }
        if page.events.is_empty() {
            Rc::clone(&backend).wait_event(after).await;
        }
    }
}

async fn send_event(sink: &event_sink::Client, event: &Event) -> Option<()> {
    let mut request = sink.event_request();
    convert::write_event(event, request.get().init_event());
    tokio::time::timeout(SINK_PATIENCE, request.send().promise).await.ok()?.ok().map(drop)
}

/// Its end is the end of the stream.
struct Subscription {
    handle: AbortHandle,
    /// How many there are.
    count: Rc<Cell<usize>>,
}

impl Subscription {
    fn new(handle: AbortHandle, count: Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self { handle, count }
    }
}

impl subscription::Server for Subscription {}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        self.handle.abort();
    }
}
