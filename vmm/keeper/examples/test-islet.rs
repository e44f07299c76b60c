//! The islet of the keeper's tests. Each message on its control socket is an order in words; it answers with words.

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use enter::ThreadGate;
use enter::status::StatusPage;
use keeper_protocol::CONTROL_DESCRIPTOR;
use link::{Deadline, Link, Peer};
use profile::Kind;
use rustix::net::{AddressFamily, SocketType, socket};

fn main() {
    enter::begin();
    match serve() {
        Ok(()) => enter::exit::clean(),
        Err(error) => enter::exit::error(&error),
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let link = Link::inherited(CONTROL_DESCRIPTOR, Peer::new("supervisor", 0))?;
    loop {
        let message = link.recv(Deadline::NEVER)?;
        let order = String::from_utf8(message.bytes)?;
        let mut words = order.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<usize>().ok()).unwrap_or_default();
        let verb = order.split(' ').next().unwrap_or_default();
        number();
        let answer = match verb {
            "describe" => describe(&message.descriptors),
            "status" => {
                let memfd = message.descriptors.first().ok_or("no status memfd")?;
                enter::attach_status(StatusPage::map(memfd.as_fd(), number())?);
                "attached".to_owned()
            }
            "chatter" => {
                for line in 0..number() {
                    eprintln!("line {line} \u{1b}[2J");
                }
                "chattered".to_owned()
            }
            "exit" => match number() {
                0 => return Ok(()),
                code => std::process::exit(i32::try_from(code)?),
            },
            "panic" => die(),
            "error" => return Err("an error of its own".into()),
            "trap" => trap()?,
            _ => return Err("no such order".into()),
        };
        link.send(answer.as_bytes(), &[], Deadline::after(Duration::from_secs(30)))?;
    }
}

#[expect(clippy::panic, reason = "the tests look for this panic")]
fn die() -> String {
    panic!("as the test said")
}

/// For each descriptor its first bytes and whether it can be written.
fn describe(descriptors: &[OwnedFd]) -> String {
    if descriptors.is_empty() {
        return "nothing".to_owned();
    }
    let mut text = String::new();
    for fd in descriptors {
        let mut bytes = [0; 5];
        let read = match rustix::io::pread(fd, &mut bytes, 0) {
            Ok(count) => String::from_utf8_lossy(&bytes[..count]).into_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        let written = rustix::io::pwrite(fd, &bytes[..1], 0).is_ok();
        let _ = write!(text, "{read}:{} ", if written { "rw" } else { "ro" });
    }
    text.trim_end().to_owned()
}

/// Locks itself down and makes a call that its profile forbids.
fn trap() -> Result<String, Box<dyn std::error::Error>> {
    let profile = Kind::Probe.profile();
    enter::before_threads(profile)?;
    enter::seal(profile, &ThreadGate::new())?;
    let made = socket(AddressFamily::UNIX, SocketType::STREAM, None);
    Ok(format!("the call came back: {made:?}"))
}
