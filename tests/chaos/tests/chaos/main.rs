//! What a VM promises when something is killed with signal 9, or starts again and again: each test is one promise, with
//! figures on its output. With `ATOLL_LONG=1` counts are full.

#![expect(clippy::unwrap_used, clippy::panic, reason = "these are the assertions of tests")]

mod debian;
mod ends;
mod hangs;
mod payloads;
mod resets;
mod serial;
mod supervisor;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use guest::bare::{PASS, Payload};
use rig::{Rig, SOON, Vm};

/// The VM's exit status when a payload was content; for others see `src/bare/common.inc` of the guests.
const CONTENT: i32 = (PASS << 1 | 1) as i32;

/// Whole VMs are measured one at a time: the threads of the others would be in the figures.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts `atoll run` in the foreground with this payload.
#[track_caller]
fn start<'a>(rig: &'a Rig, name: &str, payload: &Payload, arguments: &[&str]) -> Vm<'a> {
    let kernel = rig.file(payload.name, payload.image).display().to_string();
    rig.start(name, ["--memory", "16M", "--kernel", &kernel].iter().chain(arguments))
}

/// The same with the console on a socket, which nobody reads but the test.
#[track_caller]
fn start_with_console<'a>(rig: &'a Rig, name: &str, payload: &Payload, arguments: &[&str]) -> (Vm<'a>, UnixStream) {
    let path = rig.path(&format!("{name}.console"));
    let console = format!("socket:{}", path.display());
    let vm = start(rig, name, payload, &[&["--console", &console], arguments].concat());
    (vm, connect(&path))
}

fn connect(path: &Path) -> UnixStream {
    let end = Instant::now() + SOON;
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => {
                socket.set_read_timeout(Some(SOON)).unwrap();
                return socket;
            }
            Err(error) => assert!(Instant::now() < end, "{}: {error}", path.display()),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// So many bytes of a console.
#[track_caller]
fn read(socket: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

/// Whether this test can look into processes; says so if it cannot.
fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root, which alone may look into the processes of a VM");
    }
    root
}
