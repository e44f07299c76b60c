//! The control socket: a client that sends anything, in pieces, and leaves when it likes.
//!
//! An input is a row of pieces: what is done after it, its length, its bytes. What must hold: another client is served all the
//! while, and nothing of a connection is left when it has ended.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Socket;
use std::rc::Rc;
use std::time::Duration;

use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty::VatNetwork};
use control::control_capnp::{event_sink, vm};
use control::server::{Action, Answer, Backend, serve};
use control::types::*;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use fuzz::{Plant, Seen, Target, Verdict};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use crate::bytes::{Bytes, holds, index};

pub static TARGET: Target = Target {
    name: "control_messages",
    run,
    seeds,
    words,
    longest: 4096,
    head: 3,
    plants: &[
        "stop: seconds become milliseconds in 32 bits",
        "waitJob: the number of a job is an index",
        "snapshot: there are taken to be two files",
        "events: the difference to the last event is not below 0",
    ],
};

/// Events that there are.
const EVENTS: u64 = 5;

/// A VM that remembers how often it was asked what.
struct Toy {
    plant: Plant,
    asked: RefCell<Vec<(String, u64)>>,
}

impl Toy {
    fn asked(&self, what: impl Into<String>, number: u64) {
        self.asked.borrow_mut().push((what.into(), number));
    }
}

fn job(id: u64) -> Job {
    Job { id, kind: "snapshot".into(), ..Job::default() }
}

impl Backend for Toy {
    fn inspect(self: Rc<Self>) -> Answer<Inspection> {
        self.asked("inspect", 0);
        let problem = Problem::new("vm.ending", "what", "why", "remedy");
        async { Err(problem) }.boxed_local()
    }

    fn sandbox(self: Rc<Self>) -> Answer<Vec<Sandbox>> {
        self.asked("sandbox", 0);
        async { Ok(Vec::new()) }.boxed_local()
    }

    fn act(self: Rc<Self>, action: Action) -> Answer<()> {
        let number = match action {
            Action::Stop { timeout } => timeout.into(),
            Action::CancelJob { job } => job,
            _ => 0,
        };
        let text = format!("{action:?}");
        self.asked(text.split(['{', ' ']).next().unwrap_or_default(), number);
        if let Action::Stop { timeout } = action
            && self.plant.is(0)
        {
            // What an overflow check says.
            assert!(timeout.checked_mul(1000).is_some(), "attempt to multiply with overflow");
        }
        async move { if action == Action::Kill { std::future::pending().await } else { Ok(()) } }.boxed_local()
    }

    fn snapshot_files(&self) -> Vec<String> {
        vec!["manifest".into(), "memory".into()]
    }

    fn snapshot(self: Rc<Self>, token: u64, files: Vec<String>) -> Answer<u64> {
        self.asked(format!("snapshot of {}", files.len().min(9)), token);
        if self.plant.is(2) {
            index(files.len(), 1);
        }
        async { Ok(7) }.boxed_local()
    }

    fn jobs(&self) -> Vec<Job> {
        self.asked("jobs", 0);
        (1..4).map(job).collect()
    }

    fn wait_job(self: Rc<Self>, id: u64) -> Answer<Job> {
        self.asked("waitJob", id);
        if self.plant.is(1) {
            index(4, id);
        }
        async move { Ok(job(id)) }.boxed_local()
    }

    fn events(&self, after: u64) -> Result<EventPage, Problem> {
        self.asked("events", after);
        assert!(!self.plant.is(3) || after <= EVENTS, "attempt to subtract with overflow");
        let event = |sequence| Event { sequence, kind: "RESET".into(), ..Event::default() };
        Ok(EventPage { events: (after.min(EVENTS) + 1..=EVENTS).map(event).collect(), last: EVENTS })
    }

    fn wait_event(self: Rc<Self>, _: u64) -> LocalBoxFuture<'static, ()> {
        std::future::pending().boxed_local()
    }

    fn wait_status(self: Rc<Self>, status: Status) -> Answer<RunState> {
        self.asked(format!("waitStatus {status:?}"), 0);
        async move { Ok(RunState { status, resume_to: status }) }.boxed_local()
    }
}

/// Another client comes if the length of the answer, in bytes, is a multiple of this (and so if there is none).
const OTHERS: usize = 128;
/// Messages here have no time to wait for anything else.
const SOON: Duration = Duration::from_secs(5);

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
}

fn pair() -> (UnixStream, Socket) {
    let (ours, theirs) = Socket::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (UnixStream::from_std(ours).unwrap(), theirs)
}

fn run(input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    RUNTIME.with(|runtime| LocalSet::new().block_on(runtime, talk(input, seen, plant)))
}

async fn settle(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

async fn talk(input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    let toy = Rc::new(Toy { plant, asked: RefCell::default() });
    let (server, mut client) = pair();
    let mut serving = tokio::task::spawn_local(serve(server, toy.clone()));
    let mut input = Bytes(input);
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    let mut open = true;
    while !input.is_empty() && open {
        let (what, length) = (input.byte(), input.number(2) as usize);
        let _ = client.write(input.take(length));
        match what & 3 {
            0 => {}
            1 => settle(8).await,
            2 => {
                settle(8).await;
                while let Ok(length @ 1..) = client.read(&mut buffer) {
                    answer.extend_from_slice(&buffer[..length]);
                }
            }
            _ => {
                let how = [std::net::Shutdown::Write, std::net::Shutdown::Read, std::net::Shutdown::Both];
                let _ = client.shutdown(how[usize::from(what >> 2) % 3]);
                open = false;
            }
        }
    }
    settle(8).await;
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..length]);
    }
    seen.count("answered", answer.len() as u64);
    answers(&answer, seen);
    if answer.len().is_multiple_of(OTHERS) {
        other_client(toy.clone()).await?;
    }
    drop(client);
    match tokio::time::timeout(SOON, &mut serving).await {
        Err(_) => return Err("the connection does not end".into()),
        Ok(Err(error)) => return Err(format!("the server panicked: {error}")),
        Ok(Ok(_)) => {}
    }
    for _ in 0..50 {
        if Rc::strong_count(&toy) == 1 {
            break;
        }
        settle(4).await;
    }
    holds!(Rc::strong_count(&toy) == 1, "{} holders of the VM are left", Rc::strong_count(&toy) - 1);
    let asked = toy.asked.borrow();
    asked.iter().for_each(|(what, number)| seen.count(what, *number));
    seen.count("asked", asked.len() as u64);
    Ok(())
}

/// Which kinds of messages came back, and with which reasons.
fn answers(mut bytes: &[u8], seen: &mut Seen) {
    while let Ok(message) = capnp::serialize::read_message_from_flat_slice(&mut bytes, Default::default()) {
        let root = message.get_root::<capnp_rpc::rpc_capnp::message::Reader<'_>>();
        let Ok(Ok(kind)) = root.map(|root| root.which()) else { return };
        use capnp_rpc::rpc_capnp::{message, return_};
        let exception = |exception: capnp::Result<capnp_rpc::rpc_capnp::exception::Reader<'_>>| {
            let reason = exception.and_then(|exception| exception.get_reason());
            reason.map_or_else(|_| String::new(), |reason| String::from_utf8_lossy(reason.as_bytes()).into_owned())
        };
        match kind {
            message::Abort(Ok(abort)) => seen.text("abort", &exception(Ok(abort))),
            message::Return(Ok(answer)) => match answer.which() {
                Ok(return_::Exception(problem)) => seen.text("exception", &exception(problem)),
                Ok(_) => seen.hit("return", 0),
                Err(_) => {}
            },
            message::Unimplemented(_) => seen.hit("unimplemented", 0),
            message::Call(_) => seen.hit("call", 0),
            message::Finish(_) => seen.hit("finish", 0),
            message::Resolve(_) => seen.hit("resolve", 0),
            message::Release(_) => seen.hit("release", 0),
            message::Disembargo(_) => seen.hit("disembargo", 0),
            _ => seen.hit("other", 0),
        }
    }
}

fn connect(stream: UnixStream) -> (vm::Client, tokio::task::JoinHandle<()>) {
    let (reader, writer) = stream.into_split();
    let network = VatNetwork::new(reader.compat(), writer.compat_write(), Side::Client, Default::default());
    let mut system = RpcSystem::new(Box::new(network), None);
    let client: vm::Client = system.bootstrap(Side::Server);
    (client, tokio::task::spawn_local(async { drop(system.await) }))
}

/// Somebody else is served as ever.
async fn other_client(toy: Rc<Toy>) -> Verdict {
    let (server, theirs) = pair();
    let serving = tokio::task::spawn_local(serve(server, toy));
    let (client, system) = connect(UnixStream::from_std(theirs).unwrap());
    let request = client.sandbox_request().send();
    let served = matches!(tokio::time::timeout(SOON, request.promise).await, Ok(Ok(_)));
    drop(client);
    system.abort();
    let ended = tokio::time::timeout(SOON, serving).await;
    holds!(served, "another client is not served");
    holds!(matches!(ended, Ok(Ok(None))), "another client's connection ends badly");
    Ok(())
}

struct Sink;

impl event_sink::Server for Sink {}

/// The bytes that a client sends.
fn recorded(ask: impl Fn(&vm::Client)) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (ours, mut theirs) = pair();
        let (client, system) = connect(ours);
        ask(&client);
        settle(50).await;
        let mut bytes = vec![0; 4096];
        let length = theirs.read(&mut bytes).unwrap();
        bytes.truncate(length);
        system.abort();
        bytes
    })
}

fn seeds() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    macro_rules! asks {
        ($($request:ident $(($set:ident $value:expr))?;)*) => {
            $(all.push(recorded(|client| {
                let request = client.$request();
                $(let request = { let mut request = request; request.get().$set($value); request };)?
                tokio::task::spawn_local(request.send().promise);
            }));)*
        };
    }
    asks! {
        inspect_request;
        sandbox_request;
        pause_request;
        stop_request(set_timeout_seconds 12);
        kill_request;
        events_request(set_after 2);
        wait_state_request(set_status control::control_capnp::Status::Paused);
        jobs_request;
        wait_job_request(set_job 3);
        cancel_job_request(set_job 2);
    }
    all.push(recorded(|client| {
        let mut request = client.snapshot_request();
        let mut files = request.get().init_files(2);
        files.set(0, "manifest");
        files.set(1, "memory");
        tokio::task::spawn_local(request.send().promise);
    }));
    all.push(recorded(|client| {
        let mut request = client.subscribe_request();
        request.get().set_after(1);
        request.get().set_sink(capnp_rpc::new_client(Sink));
        tokio::task::spawn_local(request.send().promise);
    }));
    let piece = |what: u8, bytes: &[u8]| [&[what][..], &(bytes.len() as u16).to_le_bytes(), bytes].concat();
    let mut seeds: Vec<Vec<u8>> = all.iter().map(|bytes| piece(2, bytes)).collect();
    seeds.push([piece(1, &all[0]), piece(3, &[])].concat());
    seeds.push([piece(1, &all[3][..20]), piece(2, &all[3][20..])].concat());
    seeds
}

fn words() -> Vec<Vec<u8>> {
    let mut words = (super::islet_messages::TARGET.words)();
    // The interface, as calls name it.
    words.push(<vm::Client as capnp::traits::HasTypeId>::TYPE_ID.to_le_bytes().to_vec());
    words.extend((0..16u8).map(|method| vec![method, 0, 0, 0]));
    words
}
