//! A stand-in for the serial port's process that has one thing wrong with it, for audits to find.
//!
//! It takes its descriptors and maps as the serial port does, locks itself down in the same order, and answers that it is
//! ready; then it only says yes to whatever the supervisor asks. What is wrong stands in the binary itself, in [`CHOICE`],
//! which a test overwrites in its copy of the file: nothing else reaches a process of a VM.

use std::hint::black_box;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use capnp::message::{Builder, HeapAllocator};
use doorbell::DeviceArea;
use enter::ThreadGate;
use enter::status::StatusPage;
use link::capnp::{recv_message, send_message};
use link::{Deadline, Inbox, Link, Peer};
use probe::plant;
use profile::Kind;
use serial::order::Order;
use wire::islet_capnp::{from_islet, to_islet};

// As the serial port's.
arena::global!(4 << 20);

/// What is planted: the bytes after the colon up to the first dot. The part before it is how a test finds the place.
static CHOICE: [u8; 64] = *b"the loosening of this stand-in:.................................";
const PREFIX: usize = b"the loosening of this stand-in:".len();

/// Where the keeper leaves the control socket.
const CONTROL: RawFd = 3;
/// The guest is paused, so a stand-in may wait for long.
const PATIENCE: Duration = Duration::from_secs(3600);
/// An area that is another device's.
const NEIGHBOUR: u16 = 0;

type Failure = Box<dyn std::error::Error>;

fn main() {
    enter::begin();
    match run() {
        Ok(()) => enter::exit::clean(),
        Err(error) => enter::exit::error(&error),
    }
}

fn run() -> Result<(), Failure> {
    let link = Link::inherited(CONTROL, Peer::new("supervisor", 0))?;
    let mut inbox = Inbox::new();
    let incoming = recv_message(&link, &mut inbox, Deadline::after(PATIENCE))?;
    let message = incoming.reader.get_root::<to_islet::Reader<'_>>()?;
    let (id, incarnation) = (message.get_id(), message.get_incarnation());
    let to_islet::Setup(setup) = message.which()? else { return Err("the first message is not a setup".into()) };
    let order = Order::read(setup?).map_err(|problem| problem.to_string())?;
    let received = incoming.descriptors.drain(..).map(Some).collect();
    let choice = black_box(&CHOICE)[PREFIX..].split(|byte| *byte == b'.').next().unwrap_or_default();
    prepare(&order, received, &link, std::str::from_utf8(choice)?)?;
    let say = |id: u64, fill: fn(from_islet::Builder<'_>)| -> Result<(), Failure> {
        let mut message: Builder<HeapAllocator> = Builder::new_default();
        let mut root = message.init_root::<from_islet::Builder<'_>>();
        root.set_in_reply_to(id);
        root.set_incarnation(incarnation);
        fill(root);
        Ok(send_message(&link, &message, &[], Deadline::after(PATIENCE))?)
    };
    say(id, |mut message| message.set_ready(()))?;
    loop {
        let incoming = recv_message(&link, &mut inbox, Deadline::after(PATIENCE))?;
        let message = incoming.reader.get_root::<to_islet::Reader<'_>>()?;
        match message.which() {
            Ok(to_islet::Statistics(())) => say(message.get_id(), |message| {
                message.init_statistics();
            })?,
            Ok(to_islet::Quit(())) => {
                say(message.get_id(), |mut message| message.set_done(()))?;
                return Ok(());
            }
            _ => say(message.get_id(), |mut message| message.set_done(()))?,
        }
    }
}

/// As the serial port does it, but for what is planted.
fn prepare(order: &Order, mut received: Vec<Option<OwnedFd>>, link: &Link, loosening: &str) -> Result<(), Failure> {
    let mut take = |name: &str| order.take(name, &mut received).map_err(|problem| problem.to_string());
    let status = take("status")?;
    enter::attach_status(StatusPage::map(status.as_fd(), usize::from(order.status_row))?);
    drop(status);
    let windows = take("windows")?;
    let mut areas = vec![DeviceArea::map(windows.as_fd(), order.area)?];
    if loosening != "missing-map" {
        areas.push(DeviceArea::map(windows.as_fd(), order.area)?);
    }
    if loosening == "neighbour" {
        areas.push(DeviceArea::map(windows.as_fd(), NEIGHBOUR)?);
    }
    let saved = state::StateArea::map(take("state")?.as_fd(), order.state_row)?;
    // Mapped for as long as the process lives.
    std::mem::forget((areas, saved));
    let (kick, irq) = (take("kick")?, take("irq")?);
    let (irq, dropped) = match loosening {
        "missing-descriptor" => (None, vec![windows, irq]),
        "other-descriptor" => (Some(windows), vec![irq]),
        _ => (Some(irq), vec![windows]),
    };
    drop((dropped, received));
    let planted = plant::before_restrictions(loosening)?;

    let profile = Kind::Serial.profile();
    enter::before_threads(&plant::loosened(profile, loosening))?;
    plant::after_restrictions(loosening)?;
    let mut gate = ThreadGate::new();
    if ["extra-thread", "one-thread-free"].contains(&loosening) {
        gate.spawn("second", || {})?;
    }
    gate.wait(PATIENCE)?;
    let kept = planted.iter().chain([&kick]).chain(&irq).map(AsRawFd::as_raw_fd);
    let kept: Vec<RawFd> = kept.chain([link.as_fd().as_raw_fd()]).collect();
    enter::close_all_but(&kept)?;
    plant::seal(profile, &gate, loosening)?;
    gate.release();
    std::mem::forget((planted, kick, irq));
    Ok(())
}
