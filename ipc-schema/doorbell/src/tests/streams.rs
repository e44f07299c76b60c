//! Byte streams whose process dies between any two steps.

use std::io::{Read, Seek, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::*;
use crate::fault::dies_at;
use crate::layout::*;

/// `n` bytes without a short period.
fn pattern(n: u64) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Repeats `step` until it says that it is through; each life dies at point `at` of its own, at most `lives` times.
/// Answers how often it died.
fn with_deaths(at: u64, lives: u32, mut step: impl FnMut() -> bool) -> u32 {
    let mut deaths = 0;
    loop {
        let life = || while !step() {};
        if deaths == lives {
            let mut life = life;
            life();
            return deaths;
        }
        if dies_at(at, life).is_ok() {
            return deaths;
        }
        deaths += 1;
    }
}

#[test]
fn output_is_sent_once_wherever_the_sender_dies() {
    for at in 0..40 {
        let fd = create_windows().unwrap();
        let area = area(&fd, 0);
        let out = OutStream::attach(&area);
        let (here, mut there) = UnixStream::pair().unwrap();
        let bytes = pattern(OUT_RING_LEN + 700);
        let mut received = Vec::new();
        let mut put = 0;
        let mut turn = 0;
        let deaths = with_deaths(at, 200, || {
            // The ring takes what fits; the device would commit `put` here.
            while put < bytes.len() as u64 && put < out.position(&area) + OUT_RING_LEN {
                out.put(&area, put, bytes[put as usize]);
                put += 1;
            }
            let from = out.position(&area);
            if from == bytes.len() as u64 {
                return true;
            }
            turn += 1;
            let to = put.min(from + 1000 + turn % 7);
            if out.send(&area, &here, from, to).unwrap() == Progress::Blocked {
                let mut buffer = [0; 30_000];
                let n = there.read(&mut buffer).unwrap();
                received.extend_from_slice(&buffer[..n]);
            }
            false
        });
        here.shutdown(Shutdown::Both).unwrap();
        there.read_to_end(&mut received).unwrap();
        assert!(received == bytes, "dying at {at}: {} of {} bytes", received.len(), bytes.len());
        assert!(deaths > 2, "{deaths} at {at}");
    }
}

#[test]
fn input_is_received_once_wherever_the_receiver_dies() {
    for at in 0..12 {
        let fd = create_windows().unwrap();
        let area = area(&fd, 0);
        let input = InStream::attach(&area);
        let (here, mut there) = UnixStream::pair().unwrap();
        there.set_nonblocking(true).unwrap();
        let bytes = pattern(3 * IN_RING_LEN + 77);
        let (mut fed, mut taken) = (0, Vec::new());
        let mut done = false;
        let deaths = with_deaths(at, 100, || {
            if done {
                return true;
            }
            if fed < bytes.len() {
                fed += there.write(&bytes[fed..(fed + 777).min(bytes.len())]).unwrap_or(0);
            }
            let _ = input.receive(&area, &here, taken.len() as u64).unwrap();
            // A device would commit what it took; this one does so with every byte.
            let arrived = input.position(&area);
            while (taken.len() as u64) < arrived && (taken.len() as u64) % 5000 != 4999 {
                taken.push(input.get(&area, taken.len() as u64));
            }
            if (taken.len() as u64) < arrived {
                taken.push(input.get(&area, taken.len() as u64));
            }
            done = taken.len() == bytes.len();
            done
        });
        assert!(taken == bytes, "dying at {at}: {} of {} bytes", taken.len(), bytes.len());
        assert!(at > 2 || deaths == 100, "{deaths} at {at}");
    }
}

#[test]
fn a_log_file_is_written_once_wherever_the_writer_dies() {
    for at in 0..4 {
        let fd = create_windows().unwrap();
        let area = area(&fd, 0);
        let out = OutStream::attach(&area);
        let mut file = std::fs::File::from(guest_memory::Memfd::create("log", 100_000).unwrap());
        let bytes = pattern(OUT_RING_LEN);
        for (n, byte) in bytes.iter().enumerate() {
            out.put(&area, n as u64, *byte);
        }
        with_deaths(at, 50, || {
            let from = out.position(&area);
            from == OUT_RING_LEN || out.write_file(&area, &file, 17, from, OUT_RING_LEN).unwrap() == Progress::Blocked
        });
        let mut got = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut got).unwrap();
        assert!(
            got[17..17 + bytes.len()] == bytes
                && got[..17] == [0; 17]
                && got[17 + bytes.len()..].iter().all(|b| *b == 0)
        );
    }
}

#[test]
fn ends_and_edges() {
    let fd = create_windows().unwrap();
    let area = area(&fd, 0);
    let (out, input) = (OutStream::attach(&area), InStream::attach(&area));
    let (here, mut there) = UnixStream::pair().unwrap();
    assert_eq!(input.receive(&area, &here, 0), Ok(Progress::Blocked));
    there.write_all(b"abc").unwrap();
    assert_eq!(input.receive(&area, &here, 0), Ok(Progress::Moved(3)));
    assert_eq!((input.get(&area, 0), input.get(&area, 2)), (b'a', b'c'));
    // A full ring takes nothing, and does not mistake that for an end.
    there.write_all(&pattern(IN_RING_LEN)).unwrap();
    assert_eq!(input.receive(&area, &here, 0), Ok(Progress::Moved(IN_RING_LEN)));
    assert_eq!(input.receive(&area, &here, 0), Ok(Progress::Blocked));
    assert_eq!(input.receive(&area, &here, 2), Ok(Progress::Moved(IN_RING_LEN + 2)));
    // Skipping: what was not sent is passed over.
    for at in 0..10 {
        out.put(&area, at, b'0' + at as u8);
    }
    assert_eq!(out.send(&area, &here, 0, 4), Ok(Progress::Moved(4)));
    assert_eq!(out.send(&area, &here, 8, 10), Ok(Progress::Moved(10)));
    let mut got = [0; 6];
    there.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"012389");
    assert_eq!(out.send(&area, &here, 10, 10), Err(nix::errno::Errno::EINVAL));
    assert_eq!(out.send(&area, &here, 10, 11 + OUT_RING_LEN), Err(nix::errno::Errno::EINVAL));
    // Not by closing: a process that another test forks may hold a copy of the descriptor.
    there.shutdown(Shutdown::Both).unwrap();
    assert_eq!(out.send(&area, &here, 10, 12), Ok(Progress::Closed));
    assert_eq!(out.position(&area), 10);
    assert_eq!(
        input.receive(&area, &here, 20_000),
        Ok(Progress::Moved(IN_RING_LEN + 3)),
        "what was still in the socket"
    );
    assert_eq!(input.receive(&area, &here, 20_000), Ok(Progress::Closed));
    assert_eq!(input.position(&area), IN_RING_LEN + 3);
    let null = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(out.send(&area, &null, 10, 12), Err(nix::errno::Errno::ENOTSOCK));
    // A hostile predecessor's length and position are bounded.
    area.shared().store(STREAM_CONTROL + 64 + 56, u32::MAX);
    area.shared().store(STREAM_CONTROL, u64::MAX);
    assert_eq!(out.position(&area), MAX_POSITION + OUT_RING_LEN);
}
