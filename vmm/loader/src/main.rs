//! The loader's process: receives descriptors, locks itself down, loads, answers, and ends.
//!
//! The idea: it lives for one load and parses hostile files, so everything is opened and mapped first, and at the moment
//! of parsing it can do little more than read its files and write guest memory. It is run anew for every reset.
//!
//! Messages (islet.capnp): `setup` in; `ready`, then `loaded` or `failed` out, all in reply to the setup's id. Exit code
//! 0 after `loaded`.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use capnp::message::{Builder, HeapAllocator};
use enter::ThreadGate;
use enter::status::StatusPage;
use guest_memory::{Access, Ram};
use link::capnp::{recv_message, send_message};
use link::{Deadline, Inbox, Link, LinkError, Peer};
use loader::message::{FileOrder, Order, Problem, write_loaded};
use loader::{FileSource, GuestRam, Loaded, Request, Source};
use machine_model::Span;
use profile::Kind;
use wire::islet_capnp::{from_islet, to_islet};

// The inbox, one bounce buffer, headers and tables; files are never held whole.
arena::global!(8 << 20);

/// Where the keeper leaves the control socket.
const CONTROL: RawFd = 3;
/// The setup was sent before this process was started, and the peer of every answer is waiting.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    enter::begin();
    match run() {
        Ok(()) => enter::exit::clean(),
        Err(End::Peer(error)) => enter::exit::lost_peer(&error),
        Err(End::Own(problem)) => enter::exit::error(&problem),
    }
}

/// Why the process ends without having loaded.
enum End {
    /// There is nobody to answer to.
    Peer(LinkError),
    /// Something else, which has been answered with `failed`.
    Own(Problem),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        End::Peer(error)
    }
}

/// Who asked, so that answers find their question.
#[derive(Clone, Copy)]
struct Question {
    id: u64,
    incarnation: u32,
}

fn run() -> Result<(), End> {
    let link = Link::inherited(CONTROL, Peer::new("supervisor", 0))?;
    let mut inbox = Inbox::new();
    let incoming = recv_message(&link, &mut inbox, Deadline::after(PATIENCE))?;
    let mut question = Question { id: 0, incarnation: 0 };
    let prepared = match incoming.reader.get_root::<to_islet::Reader<'_>>() {
        Ok(message) => {
            question = Question { id: message.get_id(), incarnation: message.get_incarnation() };
            read_order(message).and_then(|order| prepare(order, incoming.descriptors, &link))
        }
        Err(error) => Err(Problem::setup(error)),
    };
    let outcome = prepared.and_then(|prepared| {
        // Never dropped: unmapping guest memory is a call that the filter traps. The process's end does it.
        let mut prepared = ManuallyDrop::new(prepared);
        // If the supervisor is gone, the answer below fails in the same way.
        let _ = answer(&link, question, |mut message| message.set_ready(()));
        prepared.load()
    });
    match outcome {
        Ok(loaded) => Ok(answer(&link, question, |message| write_loaded(&loaded, message.init_loaded()))?),
        Err(problem) => {
            answer(&link, question, |message| problem.write(message.init_failed()))?;
            Err(End::Own(problem))
        }
    }
}

/// Sends one message in reply to `question`.
fn answer(link: &Link, question: Question, fill: impl FnOnce(from_islet::Builder<'_>)) -> Result<(), LinkError> {
    let mut message: Builder<HeapAllocator> = Builder::new_default();
    let mut root = message.init_root::<from_islet::Builder<'_>>();
    root.set_in_reply_to(question.id);
    root.set_incarnation(question.incarnation);
    fill(root);
    send_message(link, &message, &[], Deadline::after(PATIENCE))
}

fn read_order(message: to_islet::Reader<'_>) -> Result<Order, Problem> {
    match message.which() {
        Ok(to_islet::Setup(setup)) => Order::read(setup.map_err(Problem::setup)?),
        Ok(_) => Err(Problem::setup("the first message was another request")),
        Err(error) => Err(Problem::setup(error)),
    }
}

/// Everything that the load needs, after lock-down.
struct Prepared {
    order: Order,
    kernel: FileSource,
    initrd: Option<FileSource>,
    memory: Memory,
}

impl Prepared {
    fn load(&mut self) -> Result<Loaded, Problem> {
        let request = Request {
            kernel: &self.kernel,
            initrd: self.initrd.as_ref().map(|source| source as &dyn Source),
            command_line: &self.order.command_line,
            machine: &self.order.machine,
        };
        Ok(loader::load(&request, &mut self.memory)?)
    }
}

/// Maps memory, takes the files, and locks the process down, in the order of `enter`'s documentation.
fn prepare(order: Order, descriptors: &mut Vec<OwnedFd>, link: &Link) -> Result<Prepared, Problem> {
    let mut received: Vec<Option<OwnedFd>> = descriptors.drain(..).map(Some).collect();
    let mut take = |name: &str| {
        let index = order.descriptors.iter().find(|(known, _)| known == name).map(|(_, index)| *index);
        let descriptor = index.and_then(|index| received.get_mut(index)).and_then(Option::take);
        descriptor.ok_or_else(|| Problem::setup(format!("there is no descriptor '{name}' with it")))
    };
    let status = take("status")?;
    let page = StatusPage::map(status.as_fd(), usize::from(order.status_row)).map_err(Problem::setup)?;
    enter::attach_status(page);
    drop(status);

    let ram = take("ram")?;
    let mapped = Ram::map(ram.as_fd(), order.ram_len, Access::ReadWrite).map_err(Problem::setup)?;
    drop(ram);
    let mut open = |file: &FileOrder| -> Result<(FileSource, RawFd), Problem> {
        let descriptor = take(&file.descriptor)?;
        let kept = descriptor.as_raw_fd();
        let source = FileSource::new(&file.title, File::from(descriptor)).map_err(|error| Problem {
            what: file.title.clone(),
            why: error.to_string(),
            remedy: "pass a regular file that can be read",
            code: "loader.file",
        })?;
        Ok((source, kept))
    };
    let (kernel, kernel_number) = open(&order.kernel)?;
    let initrd = order.initrd.as_ref().map(open).transpose()?;
    drop(received);

    let profile = Kind::Loader.profile();
    let locked = |error: enter::Error| Problem {
        what: "the loader's sandbox".into(),
        why: error.to_string(),
        remedy: "run 'atoll doctor' to see what this host lacks",
        code: "loader.sandbox",
    };
    enter::before_threads(profile).map_err(locked)?;
    let mut keep = vec![link.as_fd().as_raw_fd(), kernel_number];
    keep.extend(initrd.as_ref().map(|(_, number)| *number));
    enter::close_all_but(&keep).map_err(locked)?;
    enter::seal(profile, &ThreadGate::new()).map_err(locked)?;
    let memory = Memory { ram: mapped, spans: order.ram.clone() };
    Ok(Prepared { order, kernel, initrd: initrd.map(|(source, _)| source), memory })
}

/// The guest's RAM by address: file offset and address are the same, and what is between the ranges is no RAM.
struct Memory {
    ram: Ram,
    spans: Vec<Span>,
}

impl Memory {
    fn check(&self, start: u64, len: u64) -> Result<(), &'static str> {
        let inside = |span: &&Span| span.start <= start && start.checked_add(len).is_some_and(|end| end <= span.end());
        self.spans.iter().find(inside).map(|_| ()).ok_or("the machine has no RAM there")
    }
}

impl GuestRam for Memory {
    type Error = &'static str;

    fn write(&mut self, start: u64, bytes: &[u8]) -> Result<(), Self::Error> {
        self.check(start, bytes.len() as u64)?;
        self.ram.write(start, bytes).ok_or("it is outside the mapping")
    }

    fn zero(&mut self, start: u64, len: u64) -> Result<(), Self::Error> {
        self.check(start, len)?;
        self.ram.fill(start, len, 0).ok_or("it is outside the mapping")
    }
}
