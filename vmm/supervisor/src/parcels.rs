//! Descriptors: those that lie with an islet's message, and the lane beside the control socket on which clients send theirs.
//!
//! The one idea: RPC carries no descriptors, so a client sends them first, with a number of its choice, and names the number in
//! its call. A parcel is bounded in size, in number and in time; one that nobody asks for is closed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use link::Link;
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Descriptors in a parcel: more than any call needs.
const MAX_DESCRIPTORS: usize = 32;
/// Parcels that wait for their call.
const MAX_PARCELS: usize = 8;
/// Connections on which a parcel has not come yet.
const MAX_SENDERS: usize = 8;
/// How long a parcel waits at least (and, where nobody comes meanwhile, at most twice as long), and how long its sender may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The wait after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

struct Parcel {
    token: u64,
    descriptors: Vec<OwnedFd>,
    until: Instant,
}

/// Parcels that have come.
#[derive(Default)]
pub struct Parcels(RefCell<Vec<Parcel>>);

impl Parcels {
    /// The descriptors that were sent with this number, once.
    pub fn take(&self, token: u64) -> Option<Vec<OwnedFd>> {
        self.expire(Instant::now());
        let mut all = self.0.borrow_mut();
        let at = all.iter().position(|parcel| parcel.token == token)?;
        Some(all.remove(at).descriptors)
    }

    /// Closes what has waited too long.
    fn expire(&self, now: Instant) {
        self.0.borrow_mut().retain(|parcel| parcel.until > now);
    }

    fn put(&self, token: u64, descriptors: Vec<OwnedFd>) {
        self.expire(Instant::now());
        let mut all = self.0.borrow_mut();
        all.retain(|parcel| parcel.token != token);
        if all.len() >= MAX_PARCELS {
            all.remove(0);
        }
        all.push(Parcel { token, descriptors, until: Instant::now() + PATIENCE });
    }
}

/// Takes one parcel of each connection. The sender knows that it was taken when its connection is closed.
///
/// Whoever connects and sends nothing is waited for, but nobody waits behind: where too many are silent, the one that has been so
/// longest goes.
pub async fn accept(listener: UnixListener, parcels: Rc<Parcels>) {
    let mut silent: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let (stream, _) = match tokio::time::timeout(PATIENCE, listener.accept()).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(_)) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            // Clients may have sent something and died, and nobody else comes who would find it.
            Err(_) => {
                parcels.expire(Instant::now());
                continue;
            }
        };
        silent.retain(|sender| !sender.is_finished());
        if silent.len() >= MAX_SENDERS
            && let Some(sender) = silent.pop_front()
        {
            sender.abort();
        }
        let parcels = Rc::clone(&parcels);
        silent.push_back(tokio::task::spawn_local(async move {
            if let Ok(Some((token, descriptors))) = tokio::time::timeout(PATIENCE, receive(&stream)).await {
                parcels.put(token, descriptors);
            }
        }));
    }
}

async fn receive(stream: &UnixStream) -> Option<(u64, Vec<OwnedFd>)> {
    loop {
        stream.readable().await.ok()?;
        let mut token = [0; 8];
        let received = stream.try_io(Interest::READABLE, || {
            receive_from(stream, &mut token, RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC).map_err(Into::into)
        });
        match received {
            Ok((8, descriptors)) => return Some((u64::from_le_bytes(token), descriptors)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

fn receive_from(socket: impl AsFd, bytes: &mut [u8], flags: RecvFlags) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok((received.bytes, descriptors))
}

/// A copy of the first descriptor that lies with the next message of a link. The message stays where it is.
pub fn peek_descriptor(link: &Link) -> anyhow::Result<Option<OwnedFd>> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let (_, descriptors) = receive_from(link, &mut [0], flags)?;
    Ok(descriptors.into_iter().next())
}

/// Whether a descriptor can be read and written. (Whether it is a file is for the streamer to say.)
pub fn is_writable(descriptor: &OwnedFd) -> bool {
    fcntl_getfl(descriptor).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDWR)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A parcel with one end of a pair, and the other end.
    fn parcel() -> (Vec<OwnedFd>, std::os::unix::net::UnixStream) {
        let (inside, outside) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        outside.set_nonblocking(true).expect("it can be");
        (vec![inside.into()], outside)
    }

    #[test]
    fn a_parcel_is_taken_once_or_closed_when_it_has_waited_too_long() {
        let (all, now) = (Parcels::default(), Instant::now());
        let ((first, _first_end), (second, mut end)) = (parcel(), parcel());
        all.put(1, first);
        all.put(2, second);
        all.expire(now + PATIENCE / 2);
        assert_eq!(all.take(1).map(|descriptors| descriptors.len()), Some(1));
        assert!(all.take(1).is_none());
        assert!(end.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it is closed");
        all.expire(now + 2 * PATIENCE);
        assert!(matches!(end.read(&mut [0]), Ok(0)), "it is still open");
        assert!(all.take(2).is_none());
    }

    #[test]
    fn parcels_that_nobody_asks_for_are_few() {
        let all = Parcels::default();
        let ends: Vec<_> = (0..2 * MAX_PARCELS as u64)
            .map(|token| {
                let (descriptors, end) = parcel();
                all.put(token, descriptors);
                end
            })
            .collect();
        let open = |mut end: &std::os::unix::net::UnixStream| end.read(&mut [0]).is_err();
        assert_eq!(ends.iter().filter(|end| open(end)).count(), MAX_PARCELS);
        assert!(all.take(0).is_none() && all.take(2 * MAX_PARCELS as u64 - 1).is_some());
    }
}
