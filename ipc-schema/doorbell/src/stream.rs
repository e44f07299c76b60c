//! Byte streams between a device and a socket that lose nothing and repeat nothing over kill -9.
//!
//! The difficulty is the instant between a system call that moved bytes and the note that it did. Here the kernel takes the
//! note: `sendmmsg` and `recvmmsg` store the number of bytes moved into the caller's `mmsghdr` within the call that
//! moves them, and that `mmsghdr` lies in the window area, as do the bytes. (The calls never sleep, with MSG_DONTWAIT,
//! so no signal can end them between the two; and the page is present, because it was written just before.)
//!
//! Each direction has two transfer records {base, length}; `base` is the position in the stream at which the call began.
//! The stream's position is **the larger of the two sums base + length**. A new call re-arms the record that does not
//! hold the larger sum: first its length becomes 0 (its sum shrinks, the other rules), then its base becomes the
//! position (the sums agree or the new one is larger by what was skipped on purpose), then the kernel stores the length.
//! There is no instant at which the larger sum is not the true position, so a successor just reads it. The pointers in
//! an `mmsghdr` are those of one process; each call writes them anew.
#![expect(unsafe_code, reason = "system calls that take addresses in shared memory")]

use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::uio::pwrite;

use crate::area::DeviceArea;
use crate::layout::*;
use crate::may_die_here;

/// Bytes of a transfer record.
const RECORD_LEN: u64 = 256;
/// Offset in a record of `base`.
const BASE: u64 = 0;
/// Offset in a record of the `mmsghdr`.
const HEADER: u64 = 64;
/// Offset in a record of the length that the kernel stores.
const LENGTH: u64 = HEADER + offset_of!(libc::mmsghdr, msg_len) as u64;
/// Offset in a record of the two `iovec`s: a ring's range may wrap once.
const PIECES: u64 = 128;

const _: () = assert!(HEADER + size_of::<libc::mmsghdr>() as u64 <= PIECES);

/// What a transfer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The stream is now at this position.
    Moved(u64),
    /// Nothing can be moved now.
    Blocked,
    /// The peer is gone.
    Closed,
}

/// One direction: a ring and its two records.
#[derive(Clone, Copy, Debug)]
struct Lane {
    records: u64,
    ring: u64,
    ring_len: u64,
}

const OUT: Lane = Lane { records: STREAM_CONTROL, ring: OUT_RING, ring_len: OUT_RING_LEN };
const IN: Lane = Lane { records: STREAM_CONTROL + 2 * RECORD_LEN, ring: IN_RING, ring_len: IN_RING_LEN };

impl Lane {
    fn record(&self, n: usize) -> u64 {
        self.records + n as u64 * RECORD_LEN
    }

    fn end(&self, area: &DeviceArea, n: usize) -> u64 {
        let at = self.record(n);
        let base = area.shared().load::<u64>(at + BASE).unwrap_or(0);
        let len = area.shared().load::<u32>(at + LENGTH).unwrap_or(0);
        // A length beyond the ring is no kernel's, and nobody's stream is that long: both can be written by the other side, or
        // left by a predecessor that was broken into.
        base.min(MAX_POSITION) + u64::from(len).min(self.ring_len)
    }

    fn position(&self, area: &DeviceArea) -> u64 {
        self.end(area, 0).max(self.end(area, 1))
    }

    /// Re-arms the record that does not hold the position, at `from`; answers its offset. See the top of the file.
    fn arm(&self, area: &DeviceArea, from: u64) -> u64 {
        let at = self.record(usize::from(self.end(area, 1) < self.end(area, 0)));
        area.shared().store(at + LENGTH, 0u32);
        may_die_here();
        area.shared().store(at + BASE, from);
        may_die_here();
        at
    }

    /// Prepares a call over ring positions `from..to` (not empty, at most the ring); answers the `mmsghdr`'s address.
    fn prepare(&self, area: &DeviceArea, from: u64, to: u64) -> Option<*mut libc::mmsghdr> {
        let map = area.shared();
        let len = to.checked_sub(from).filter(|n| (1..=self.ring_len).contains(n))?;
        let start = from % self.ring_len;
        let first = len.min(self.ring_len - start);
        let pieces = [
            libc::iovec { iov_base: map.pointer(self.ring + start, first)?.cast(), iov_len: first as usize },
            libc::iovec { iov_base: map.pointer(self.ring, len - first)?.cast(), iov_len: (len - first) as usize },
        ];
        let at = self.arm(area, from);
        let iov = map.pointer(at + PIECES, 32)?.cast::<libc::iovec>();
        let header = map.pointer(at + HEADER, size_of::<libc::mmsghdr>() as u64)?.cast::<libc::mmsghdr>();
        // SAFETY: both addresses lie in the live mapping, are aligned (records are 256 bytes apart), and only this process
        // writes them. The length field is left alone.
        unsafe {
            iov.write(pieces[0]);
            iov.add(1).write(pieces[1]);
            (&raw mut (*header).msg_hdr).write(libc::msghdr {
                msg_name: std::ptr::null_mut(),
                msg_namelen: 0,
                msg_iov: iov,
                msg_iovlen: if len > first { 2 } else { 1 },
                msg_control: std::ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            });
        }
        may_die_here();
        Some(header)
    }

    fn finished(&self, area: &DeviceArea, result: i32, from: u64) -> Result<Progress, Errno> {
        may_die_here();
        if result == 1 {
            let position = self.position(area);
            return Ok(if position > from { Progress::Moved(position) } else { Progress::Closed });
        }
        match Errno::last() {
            Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM => Ok(Progress::Blocked),
            Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN => Ok(Progress::Closed),
            errno => Err(errno),
        }
    }
}

/// Makes every page of the streams present, so that no later access has to.
fn touch(area: &DeviceArea) {
    for at in (STREAM_CONTROL..OUT_RING + OUT_RING_LEN).step_by(4096) {
        let byte = area.shared().load::<u8>(at).unwrap_or(0);
        area.shared().store(at, byte);
    }
}

/// Bytes from the device to its console. Position = bytes that have left.
#[derive(Clone, Copy, Debug)]
pub struct OutStream;

impl OutStream {
    /// Readies the area for streams; once per process.
    pub fn attach(area: &DeviceArea) -> Self {
        touch(area);
        Self
    }

    /// Bytes that have left, or were skipped.
    pub fn position(&self, area: &DeviceArea) -> u64 {
        OUT.position(area)
    }

    /// The byte at stream position `at`, which was put and is not older than [`OUT_RING_LEN`] bytes.
    pub fn get(&self, area: &DeviceArea, at: u64) -> u8 {
        area.shared().load(OUT_RING + at % OUT_RING_LEN).unwrap_or(0)
    }

    /// Puts a byte into the ring at stream position `at`. It counts once the device commits a tail beyond it; the caller
    /// keeps `at` below position + [`OUT_RING_LEN`].
    pub fn put(&self, area: &DeviceArea, at: u64, byte: u8) {
        area.shared().store(OUT_RING + at % OUT_RING_LEN, byte);
    }

    /// Sends what it can of stream positions `from..to` to a stream socket, without waiting. `from` is at least the
    /// position: what lies between is skipped.
    ///
    /// # Errors
    /// The kernel's answer, if it is neither "not now" nor "the peer is gone"; EINVAL for a range beyond the ring.
    pub fn send(&self, area: &DeviceArea, socket: impl AsFd, from: u64, to: u64) -> Result<Progress, Errno> {
        let header = OUT.prepare(area, from, to).ok_or(Errno::EINVAL)?;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: one header, set up above, whose pieces lie in the live mapping.
        let result = unsafe { libc::sendmmsg(socket.as_fd().as_raw_fd(), header, 1, flags) };
        OUT.finished(area, result, from)
    }

    /// Writes stream positions `from..to`, or the first 4 KiB of them, to a file in which position 0 is at offset
    /// `origin`. A successor may write the same bytes to the same place again.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn write_file(
        &self,
        area: &DeviceArea,
        file: impl AsFd,
        origin: u64,
        from: u64,
        to: u64,
    ) -> Result<Progress, Errno> {
        let len = to.checked_sub(from).filter(|n| (1..=OUT_RING_LEN).contains(n)).ok_or(Errno::EINVAL)?;
        let start = from % OUT_RING_LEN;
        let mut buffer = [0; 4096];
        let part = &mut buffer[..len.min(OUT_RING_LEN - start).min(4096) as usize];
        area.shared().read(OUT_RING + start, part).ok_or(Errno::EINVAL)?;
        let offset = origin.checked_add(from).and_then(|v| i64::try_from(v).ok()).ok_or(Errno::EFBIG)?;
        let written = match pwrite(file, part, offset) {
            Ok(n) => n,
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(Progress::Blocked),
            Err(errno) => return Err(errno),
        };
        may_die_here();
        let at = OUT.arm(area, from);
        area.shared().store(at + LENGTH, written as u32);
        Ok(Progress::Moved(OUT.position(area)))
    }
}

/// Bytes from the console to the device. Position = bytes that have arrived in the ring.
#[derive(Clone, Copy, Debug)]
pub struct InStream;

impl InStream {
    /// Readies the area for streams; once per process.
    pub fn attach(area: &DeviceArea) -> Self {
        touch(area);
        Self
    }

    /// Bytes that have arrived.
    pub fn position(&self, area: &DeviceArea) -> u64 {
        IN.position(area)
    }

    /// The byte at stream position `at`, which must have arrived and not be older than [`IN_RING_LEN`] bytes.
    pub fn get(&self, area: &DeviceArea, at: u64) -> u8 {
        area.shared().load(IN_RING + at % IN_RING_LEN).unwrap_or(0)
    }

    /// Lets `bytes` (at most [`IN_RING_LEN`]) arrive as if they had been received: for a device that takes a saved state, and
    /// has nothing older in the ring that it still wants. Answers whether they fit; nothing has arrived otherwise.
    pub fn give(&self, area: &DeviceArea, bytes: &[u8]) -> bool {
        let Some(len) = u32::try_from(bytes.len()).ok().filter(|len| u64::from(*len) <= IN_RING_LEN) else {
            return false;
        };
        let from = self.position(area);
        for (at, byte) in (from..).zip(bytes) {
            area.shared().store(IN_RING + at % IN_RING_LEN, *byte);
        }
        let at = IN.arm(area, from);
        area.shared().store(at + LENGTH, len);
        true
    }

    /// Receives from a stream socket what fits, without waiting; the device has committed that it took `taken` bytes.
    ///
    /// # Errors
    /// The kernel's answer, if it is neither "not now" nor "the peer is gone".
    pub fn receive(&self, area: &DeviceArea, socket: impl AsFd, taken: u64) -> Result<Progress, Errno> {
        let from = self.position(area);
        let Some(header) = IN.prepare(area, from, taken.saturating_add(IN_RING_LEN)) else {
            return Ok(Progress::Blocked);
        };
        // SAFETY: one header, set up above, whose pieces lie in the live mapping; no time-out.
        let result =
            unsafe { libc::recvmmsg(socket.as_fd().as_raw_fd(), header, 1, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        IN.finished(area, result, from)
    }
}
