//! Both sides against each other over a real socket.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use tokio::{net::UnixListener, sync::Notify, task::LocalSet};

use crate::{
    client::{Client, Error, Follow, SOON},
    server::{Action, Answer, Backend, PAGE_EVENTS, serve},
    types::*,
};

/// A VM that remembers what it was asked.
pub struct Toy {
    events: RefCell<Vec<Event>>,
    changed: Notify,
    asked: RefCell<Vec<Action>>,
    status: Cell<Status>,
}

impl Toy {
    pub fn new() -> Rc<Self> {
        let status = Cell::new(Status::Running);
        Rc::new(Self { events: RefCell::default(), changed: Notify::new(), asked: RefCell::default(), status })
    }

    pub fn emit(&self, kind: &str) {
        let sequence = self.events.borrow().len() as u64 + 1;
        self.events.borrow_mut().push(Event {
            sequence,
            kind: kind.into(),
            process: "serial0".into(),
            incarnation: 3,
            unix_nanoseconds: -5,
            guest_nanoseconds: 7,
            cause: "was killed by SIGKILL".into(),
            detail: "€".into(),
        });
        self.changed.notify_waiters();
    }
}

fn inspection(status: Status) -> Inspection {
    let counter = |name: &str, value| Counter { name: name.into(), value, per_vcpu: Vec::new() };
    Inspection {
        name: "debian".into(),
        version: "0.1.0".into(),
        machine: "q35-0".into(),
        engine: "tcg".into(),
        engine_why: "because".into(),
        vcpus: 2,
        memory_bytes: 1 << 30,
        state: RunState { status, resume_to: Status::Suspended },
        processes: vec![Process {
            name: "engine".into(),
            kind: "engine-tcg".into(),
            pid: 4,
            host_pid: 400,
            incarnation: 1,
            state: "running".into(),
            restarts: 2,
            last_cause: "c".into(),
            restart_policy: "ends the VM".into(),
            grant_bytes: 1 << 30,
            counters: vec![counter("x", u64::MAX)],
        }],
        statistics: Statistics {
            instructions: 9,
            run_nanoseconds: 8,
            counters: vec![Counter { per_vcpu: vec![1, 2], ..counter("blocks", 3) }],
            registers: vec![RegisterCounter {
                device: "board".into(),
                window: "pit".into(),
                offset: 3,
                write: true,
                synchronous: 4,
                local: 5,
            }],
        },
        instructions_per_second: 77,
        resets: 6,
        guest_nanoseconds: 5,
        kernel: "vmlinuz".into(),
        command_line: "console=ttyS0".into(),
        console: "stdio".into(),
    }
}

fn sandboxes() -> Vec<Sandbox> {
    let list = |text: &str| vec![text.to_owned(), String::new()];
    vec![Sandbox {
        name: "board".into(),
        profile: "p".into(),
        system_calls: list("read"),
        budget: 16,
        descriptors: list("kick"),
        namespaces: list("user"),
        limits: list("core 0"),
        landlock: "denies all".into(),
    }]
}

impl Backend for Toy {
    fn inspect(self: Rc<Self>) -> Answer<Inspection> {
        async move { Ok(inspection(self.status.get())) }.boxed_local()
    }
    fn sandbox(self: Rc<Self>) -> Answer<Vec<Sandbox>> {
        async { Ok(sandboxes()) }.boxed_local()
    }
    fn act(self: Rc<Self>, action: Action) -> Answer<()> {
        async move {
            self.asked.borrow_mut().push(action);
            match action {
                Action::Reset => Err(Problem::new("vm.ending", "the reset", "the VM is ending", "start it anew")),
                Action::Kill => std::future::pending().await,
                Action::Pause => {
                    self.status.set(Status::Paused);
                    Ok(())
                }
                _ => Ok(()),
            }
        }
        .boxed_local()
    }
    fn snapshot_files(&self) -> Vec<String> {
        vec!["manifest".into(), "memory".into()]
    }
    fn snapshot(self: Rc<Self>, _: u64, files: Vec<String>) -> Answer<u64> {
        let problem = Problem::new("snapshot.files", "the snapshot", format!("{files:?}"), "send them");
        async move { if files == self.snapshot_files() { Ok(7) } else { Err(problem) } }.boxed_local()
    }
    fn jobs(&self) -> Vec<Job> {
        let job = |id, state| Job { id, kind: "snapshot".into(), state, ..Job::default() };
        JobState::ALL.iter().zip(1..).map(|(state, id)| job(id, *state)).collect()
    }
    fn wait_job(self: Rc<Self>, id: u64) -> Answer<Job> {
        let job = Job {
            id,
            kind: "snapshot".into(),
            state: JobState::Failed,
            phase: "memory".into(),
            done: 5,
            total: u64::MAX,
            problem: Some(Problem::new("c", "what", "why", "remedy")),
            cancelled: false,
        };
        async move { Ok(job) }.boxed_local()
    }
    fn events(&self, after: u64) -> Result<EventPage, Problem> {
        let all = self.events.borrow();
        let events = all.iter().filter(|event| event.sequence > after).take(PAGE_EVENTS).cloned().collect();
        Ok(EventPage { events, last: all.len() as u64 })
    }
    fn wait_event(self: Rc<Self>, after: u64) -> LocalBoxFuture<'static, ()> {
        async move {
            while self.events.borrow().len() as u64 <= after {
                self.changed.notified().await;
            }
        }
        .boxed_local()
    }
    fn wait_status(self: Rc<Self>, status: Status) -> Answer<RunState> {
        async move { Ok(RunState { status, resume_to: self.status.get() }) }.boxed_local()
    }
}

struct Socket(PathBuf);

impl Socket {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("atoll-control-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn listen(&self) -> UnixListener {
        let _ = std::fs::remove_file(&self.0);
        UnixListener::bind(&self.0).unwrap()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), future).await.expect("nothing hangs");
    });
}

async fn accept_all(listener: UnixListener, toy: Rc<Toy>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::task::spawn_local(serve(stream, toy.clone()));
    }
}

#[test]
fn every_method_carries_what_it_should() {
    let socket = Socket::new("methods");
    run(async {
        let toy = Toy::new();
        tokio::task::spawn_local(accept_all(socket.listen(), toy.clone()));
        let client = Client::connect(&socket.0, SOON).await.unwrap();
        assert_eq!(client.inspect().await.unwrap(), inspection(Status::Running));
        assert_eq!(client.sandbox().await.unwrap(), sandboxes());
        client.act(Action::Pause, SOON).await.unwrap();
        client.act(Action::Stop { timeout: 12 }, SOON).await.unwrap();
        let problem = client.act(Action::Reset, SOON).await.unwrap_err();
        assert!(matches!(&problem, Error::Problem(problem) if problem.code == "vm.ending"), "{problem}");
        let late = client.act(Action::Kill, Duration::from_millis(10)).await.unwrap_err();
        assert!(matches!(late, Error::Deadline { .. }), "{late}");
        client.act(Action::Wakeup, SOON).await.unwrap();
        client.act(Action::CancelJob { job: 9 }, SOON).await.unwrap();
        let asked = [
            Action::Pause,
            Action::Stop { timeout: 12 },
            Action::Reset,
            Action::Kill,
            Action::Wakeup,
            Action::CancelJob { job: 9 },
        ];
        assert_eq!(*toy.asked.borrow(), asked);
        let state = client.wait_status(Status::Resetting, SOON).await.unwrap();
        assert_eq!(state, RunState { status: Status::Resetting, resume_to: Status::Paused });
        assert_eq!(client.snapshot_files().await.unwrap(), toy.snapshot_files());
        assert_eq!(client.jobs().await.unwrap(), toy.jobs());
        assert_eq!(client.wait_job(3, SOON).await.unwrap(), toy.clone().wait_job(3).await.unwrap());
        toy.emit("STOP");
        let page = client.events(0).await.unwrap();
        assert_eq!((page.last, &page.events), (1, &*toy.events.borrow()));
        assert!(client.events(1).await.unwrap().events.is_empty());
    });
}

/// A server that can be ended as a process can: with everything that it has. It knows so many events.
struct Incarnation {
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Incarnation {
    fn start(socket: &Socket, events: usize) -> Self {
        let _ = std::fs::remove_file(&socket.0);
        let listener = std::os::unix::net::UnixListener::bind(&socket.0).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, async {
                let toy = Toy::new();
                (0..events).for_each(|_| toy.emit("RESET"));
                tokio::task::spawn_local(accept_all(UnixListener::from_std(listener).unwrap(), toy));
                let _ = stopped.await;
            });
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

#[test]
fn a_stream_goes_on_after_the_last_event_when_its_server_is_replaced() {
    let socket = Socket::new("follow");
    run(async {
        let mut follow = Follow::new(&socket.0, 2);
        let mut seen = Vec::new();
        for events in [5, 305, 605] {
            let server = Incarnation::start(&socket, events);
            while seen.len() < events - 2 {
                seen.push(follow.next().await.unwrap().unwrap().sequence);
            }
            server.end();
        }
        assert_eq!(seen, (3..=605).collect::<Vec<u64>>());
    });
}

#[test]
fn the_stream_ends_with_the_vm_and_a_vm_that_is_gone_is_an_error() {
    let socket = Socket::new("gone");
    run(async {
        let toy = Toy::new();
        let serving = tokio::task::spawn_local(accept_all(socket.listen(), toy.clone()));
        let mut follow = Follow::new(&socket.0, 0);
        toy.emit("ENDED");
        assert_eq!(follow.next().await.unwrap().unwrap().kind, "ENDED");
        assert_eq!(follow.next().await.unwrap(), None);
        serving.abort();
        let _ = serving.await;
        let error = Client::connect(&socket.0, SOON).await.unwrap_err();
        assert!(matches!(&error, Error::Connect { .. }) && error.to_string().contains("atoll-control-gone"), "{error}");
    });
}

#[test]
fn garbage_ends_only_the_connection_that_sent_it() {
    let socket = Socket::new("garbage");
    run(async {
        let toy = Toy::new();
        tokio::task::spawn_local(accept_all(socket.listen(), toy.clone()));
        let good = Client::connect(&socket.0, SOON).await.unwrap();
        for garbage in [&[0xff_u8; 64][..], &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f], b"GET / HTTP/1.1\r\n\r\n"] {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut bad = tokio::net::UnixStream::connect(&socket.0).await.unwrap();
            bad.write_all(garbage).await.unwrap();
            bad.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let _ = bad.read_to_end(&mut answer).await;
        }
        assert_eq!(good.inspect().await.unwrap().name, "debian");
    });
}
