//! Datagrams, descriptors, deadlines, and the ends of peers.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::IntoRawFd,
    time::Duration,
};

use rustix::{fs::MemfdFlags, io::FdFlags};

use super::*;

fn pair() -> (Link, Link) {
    Link::pair(Peer::new("left", 1), Peer::new("right", 2)).unwrap()
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn memfd(text: &str) -> File {
    let mut file = File::from(rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Descriptors of this process that are open now, by their links in /proc: so a leak of any kind shows.
fn open_memfds() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains("memfd:leak"))
        })
        .count()
}

#[test]
fn a_message_arrives_whole_with_its_descriptors_in_order() {
    let (a, b) = pair();
    let files: Vec<File> = (0..3).map(|i| memfd(&format!("file {i}"))).collect();
    let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    a.send_parts(&[b"one ", b"message"], &fds, soon()).unwrap();
    a.send(b"second", &[], soon()).unwrap();

    let first = b.recv(soon()).unwrap();
    assert_eq!(first.bytes, b"one message");
    let texts: Vec<String> = first
        .descriptors
        .into_iter()
        .map(|fd| {
            assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC));
            let mut text = String::new();
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        })
        .collect();
    assert_eq!(texts, ["file 0", "file 1", "file 2"]);
    let second = b.recv(soon()).unwrap();
    assert_eq!((second.bytes.as_slice(), second.descriptors.len()), (b"second".as_slice(), 0));
}

#[test]
fn the_limits_themselves_pass_and_one_more_does_not() {
    let (a, b) = pair();
    let long = vec![7; MAX_MESSAGE];
    let file = memfd("x");
    let fds = vec![file.as_fd(); MAX_DESCRIPTORS + 1];
    a.send(&long, &fds[..MAX_DESCRIPTORS], soon()).unwrap();
    let message = b.recv(soon()).unwrap();
    assert_eq!((message.bytes.len(), message.descriptors.len()), (MAX_MESSAGE, MAX_DESCRIPTORS));

    assert!(matches!(a.send(b"x", &fds, soon()), Err(LinkError::Descriptors { count: 201, .. })));
    assert!(matches!(a.send(&[], &[], soon()), Err(LinkError::Length { bytes: 0, .. })));
    assert!(matches!(a.send(&vec![0; MAX_MESSAGE + 1], &[], soon()), Err(LinkError::Length { .. })));
    assert!(matches!(a.send_parts(&[b"x".as_slice(); MAX_PARTS + 1], &[], soon()), Err(LinkError::Length { .. })));
    assert!(b.try_recv_into(&mut Inbox::new()).unwrap().is_none(), "a refused message must not be sent in part");
}

#[test]
fn what_a_hostile_peer_sends_too_long_is_an_error_and_leaks_nothing() {
    let (a, b) = pair();
    let raw = a.into_inner();
    let send = |bytes: &[u8], fds: &[BorrowedFd<'_>]| {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        sendmsg(&raw, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    };
    let leak = rustix::fs::memfd_create("leak", MemfdFlags::CLOEXEC).unwrap();
    send(b"too many", &vec![leak.as_fd(); 230]);
    send(&vec![1; MAX_MESSAGE + 1], &[leak.as_fd()]);
    send(b"good", &[leak.as_fd()]);
    let mut inbox = Inbox::new();
    assert!(matches!(b.recv_into(&mut inbox, soon()), Err(LinkError::Truncated { .. })));
    assert_eq!(open_memfds(), 1, "descriptors of a cut message are closed");
    assert!(matches!(b.recv_into(&mut inbox, soon()), Err(LinkError::Truncated { .. })));
    assert_eq!(open_memfds(), 1);
    assert_eq!(b.recv_into(&mut inbox, soon()).unwrap().bytes, b"good");
    assert_eq!(open_memfds(), 2);
    // What a caller leaves in the inbox goes with the next receive.
    send(b"next", &[]);
    assert_eq!(b.recv_into(&mut inbox, soon()).unwrap().bytes, b"next");
    assert_eq!(open_memfds(), 1);
}

#[test]
fn the_end_of_the_peer_is_typed_and_named() {
    let (a, b) = pair();
    drop(b);
    for error in [a.recv(soon()).unwrap_err(), a.send(b"x", &[], soon()).unwrap_err()] {
        let LinkError::PeerGone { peer } = &error else { panic!("{error}") };
        assert_eq!((peer.name(), peer.incarnation()), ("right", 2));
        assert_eq!(error.to_string(), "right[2] is gone: its end of the link is closed");
    }
}

#[test]
fn last_words_arrive_although_the_peer_left_our_message_unread() {
    let (a, b) = pair();
    a.send(b"never read", &[], soon()).unwrap();
    b.send(b"last words", &[], soon()).unwrap();
    drop(b);
    assert_eq!(a.recv(soon()).unwrap().bytes, b"last words");
    assert!(a.recv(soon()).unwrap_err().is_peer_gone());
}

#[test]
fn deadlines_end_both_kinds_of_wait() {
    let (a, b) = pair();
    assert!(b.recv(Deadline::after(Duration::from_millis(1))).unwrap_err().is_deadline());
    let long = vec![0; MAX_MESSAGE];
    let mut sent = 0;
    while a.try_send(&long, &[]).unwrap() == Sent::Sent {
        sent += 1;
        assert!(sent < 1000, "the queue must be bounded");
    }
    let error = a.send(&long, &[], Deadline::after(Duration::from_millis(1))).unwrap_err();
    assert_eq!(error.to_string(), "right[2] did not take a message in time");
    for _ in 0..sent {
        assert_eq!(b.recv(soon()).unwrap().bytes.len(), MAX_MESSAGE);
    }
    assert_eq!(a.try_send(&long, &[]).unwrap(), Sent::Sent);
}

#[test]
fn only_a_seqpacket_socket_becomes_a_link() {
    let file = OwnedFd::from(memfd("x"));
    assert!(matches!(Link::new(file, Peer::new("p", 0)), Err(LinkError::NotALink { .. })));
    let (stream, _other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    assert!(matches!(Link::new(stream, Peer::new("p", 0)), Err(LinkError::NotALink { .. })));
    assert!(matches!(Link::inherited(987, Peer::new("p", 0)), Err(LinkError::NotALink { number: 987, .. })));
}

#[test]
fn an_inherited_number_becomes_an_owned_link_and_is_closed() {
    let (a, b) = pair();
    let number = b.into_inner().into_raw_fd();
    let link = Link::inherited(number, Peer::new("left", 1)).unwrap();
    assert!(rustix::io::fcntl_getfd(&link).unwrap().contains(FdFlags::CLOEXEC));
    a.send(b"through the copy", &[], soon()).unwrap();
    assert_eq!(link.recv(soon()).unwrap().bytes, b"through the copy");
    drop(link);
    assert!(a.recv(soon()).unwrap_err().is_peer_gone(), "the number must not keep the socket open");
}
