//! Who waits for what. Each task waits for one thing and then gives the driver one input; nothing is held across a wait.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::{Rc, Weak};
use std::time::Duration;

use keeper_protocol::client::ClientError;
use link::{Link, Peer};
use supervisor::core::{Input, Islet, Note};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use crate::driver::Driver;
use crate::serve::Service;
use crate::takeover::{Legacy, Ready};
use crate::{Never, parcels, soon};

/// Connections of the control socket at a time.
const MAX_CLIENTS: usize = 32;
/// How long clients have to take the last event.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// The wait after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the loop is made of.
pub struct Parts {
    pub ready: Ready,
    pub control: UnixListener,
    pub parcels: UnixListener,
    pub console: Option<UnixListener>,
}

type Shared = Weak<RefCell<Driver>>;

/// Runs until the keeper ends the VM.
pub async fn run(parts: Parts) -> anyhow::Result<Never> {
    let Parts { mut ready, control, parcels, console } = parts;
    let legacy = ready.legacy.take();
    let watched = waitable(&ready.keeper)?;
    let driver = Driver::new(ready);
    match legacy {
        None => driver.borrow_mut().input(Input::Begin)?,
        Some(legacy) => take_over(&driver, legacy)?,
    }
    driver.borrow_mut().keeper.serving(soon())?;
    driver.borrow_mut().take_exits()?;
    tokio::task::spawn_local(keep_time(Rc::clone(&driver)));
    tokio::task::spawn_local(beat(Rc::clone(&driver)));
    tokio::task::spawn_local(accept_clients(control, Rc::clone(&driver)));
    tokio::task::spawn_local(parcels::accept(parcels, Rc::clone(&driver.borrow().parcels)));
    if let Some(console) = console {
        tokio::task::spawn_local(accept_console(console, Rc::clone(&driver)));
    }
    loop {
        watched.readable().await?;
        if let Some(result) = attend(&watched, || driver.borrow_mut().take_exits()) {
            result?;
        }
    }
}

fn take_over(driver: &Rc<RefCell<Driver>>, legacy: Legacy) -> anyhow::Result<()> {
    let mut driver = driver.borrow_mut();
    for (islet, incarnation, socket) in legacy.sockets {
        let link = Link::new(socket, Peer::new(islet.name(), incarnation))?;
        driver.watch(islet, incarnation, link)?;
    }
    driver.adopt(&legacy.found, &legacy.last_end)
}

/// A second descriptor of a link, to wait for messages with. (Any socket can be waited for as a stream; it is not read.)
pub fn waitable(socket: &impl AsFd) -> anyhow::Result<UnixStream> {
    let copy = StdUnixStream::from(socket.as_fd().try_clone_to_owned()?);
    copy.set_nonblocking(true)?;
    Ok(UnixStream::from_std(copy)?)
}

/// Does what is to be done when a socket has messages, and leaves none; from then on it is waited for again.
fn attend<T>(socket: &UnixStream, action: impl FnOnce() -> T) -> Option<T> {
    let mut result = None;
    let _ = socket.try_io(Interest::READABLE, || -> io::Result<()> {
        result = Some(action());
        Err(io::ErrorKind::WouldBlock.into())
    });
    result
}

/// Ends the process; the keeper starts the next one, which adopts the VM.
fn fatal(error: &anyhow::Error) -> ! {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Link(gone)) => enter::exit::lost_peer(gone),
        _ => enter::exit::error(&format_args!("{error:#}")),
    }
}

/// Does something with the driver, if it is there.
pub fn with<T>(driver: &Shared, action: impl FnOnce(&mut Driver) -> anyhow::Result<T>) -> Option<T> {
    let driver = driver.upgrade()?;
    let result = action(&mut driver.borrow_mut());
    match result {
        Ok(value) => Some(value),
        Err(error) => fatal(&error),
    }
}

/// Gives the driver an input.
pub fn tell(driver: &Shared, input: Input) {
    with(driver, |driver| driver.input(input));
}

/// Gives the driver every message of an islet until its socket is closed.
pub fn watch_islet(driver: &Shared, islet: Islet, incarnation: u32, socket: UnixStream) {
    let driver = driver.clone();
    tokio::task::spawn_local(async move {
        while socket.readable().await.is_ok() {
            let drain = || {
                with(&driver, |driver| {
                    let open = driver.drain(islet, incarnation)?;
                    driver.take_exits()?;
                    Ok(open)
                })
            };
            if attend(&socket, drain) == Some(Some(false)) {
                return;
            }
        }
    });
}

/// Tells the driver when its timers run out.
async fn keep_time(driver: Rc<RefCell<Driver>>) {
    let (changed, weak) = (Rc::clone(&driver.borrow().timers_changed), Rc::downgrade(&driver));
    loop {
        let next = driver.borrow().next_timer();
        match next {
            None => changed.notified().await,
            Some(at) => {
                tokio::select! {
                    () = tokio::time::sleep_until(at) => {
                        with(&weak, Driver::expire);
                    }
                    () = changed.notified() => {}
                }
            }
        }
    }
}

/// Shows that this process goes on.
async fn beat(driver: Rc<RefCell<Driver>>) {
    loop {
        driver.borrow_mut().beat();
        let pulse = driver.borrow().pulse();
        tokio::time::sleep(pulse).await;
    }
}

/// Ends the VM, once its clients have had the time to hear of it.
pub fn exit(driver: &Shared, status: u8, clients: bool) {
    let driver = driver.clone();
    tokio::task::spawn_local(async move {
        if clients {
            tokio::time::sleep(LAST_WORDS).await;
        }
        with(&driver, |driver| -> anyhow::Result<()> { Err(driver.keeper.exit(status, soon()).into()) });
    });
}

async fn accept_clients(listener: UnixListener, driver: Rc<RefCell<Driver>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if driver.borrow().clients >= MAX_CLIENTS {
            // It sees the end of its connection.
            continue;
        }
        driver.borrow_mut().clients += 1;
        let driver = Rc::clone(&driver);
        tokio::task::spawn_local(async move {
            let excess = control::server::serve(stream, Rc::new(Service::new(Rc::clone(&driver)))).await;
            driver.borrow_mut().clients -= 1;
            if let Some(excess) = excess {
                tell(&Rc::downgrade(&driver), client_cut(excess));
            }
        });
    }
}

/// What a client did that had to be cut off, for the event log.
fn client_cut(excess: String) -> Input {
    Input::Noted(Note {
        kind: control::types::event_kind::CLIENT_CUT,
        islet: None,
        incarnation: 0,
        cause: excess,
        detail: "a client of the control socket asked for more than is kept for it, and was cut off".into(),
    })
}

/// One client of the console at a time; the next one waits in the socket's queue.
async fn accept_console(listener: UnixListener, driver: Rc<RefCell<Driver>>) {
    let free = Rc::clone(&driver.borrow().console_free);
    loop {
        if driver.borrow().console_connection.is_some() {
            free.notified().await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let weak = Rc::downgrade(&driver);
                with(&weak, |driver| driver.console_opened(&stream));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}
