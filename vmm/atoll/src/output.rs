//! A place to write to that never makes the launcher wait: bytes that are not taken stay here, bounded by who adds them.
//!
//! Standard output and error are shared with other programs, so their flags must not change: a terminal or pipe is opened
//! anew as non-blocking where that is possible, and else written in pieces that a ready one takes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// A pipe that polls writable takes this much without blocking (pipe(7), PIPE_BUF).
const ATOMIC: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Does not block: opened anew, or a regular file.
    Write,
    Send,
    /// May block beyond a little.
    Little,
}

/// See the module.
#[derive(Debug)]
pub struct Output {
    fd: OwnedFd,
    way: Way,
    pending: Vec<u8>,
}

impl Output {
    /// For a descriptor that is shared with others.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn shared(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let kind = fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let (fd, way) = match kind {
            // Opened anew it would have a position of its own.
            Ok(FileType::RegularFile) => (fd.try_clone_to_owned()?, Way::Write),
            Ok(FileType::Socket) => (fd.try_clone_to_owned()?, Way::Send),
            _ => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                match open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty()) {
                    Ok(own) => (own, Way::Write),
                    Err(_) => (fd.try_clone_to_owned()?, Way::Little),
                }
            }
        };
        Ok(Self { fd, way, pending: Vec::new() })
    }

    /// For a socket of the launcher's own.
    pub fn socket(fd: OwnedFd) -> Self {
        Self { fd, way: Way::Send, pending: Vec::new() }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// To be polled for when something waits.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn forget(&mut self) {
        self.pending.clear();
    }

    /// Writes what is taken now.
    ///
    /// # Errors
    /// Nobody will take anything any more.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut done = 0;
        let result = loop {
            let rest = &self.pending[done..];
            if rest.is_empty() {
                break Ok(());
            }
            let written = match self.way {
                Way::Write => rustix::io::write(&self.fd, rest),
                Way::Send => send(&self.fd, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
                Way::Little => rustix::io::write(&self.fd, &rest[..rest.len().min(ATOMIC)]),
            };
            match written {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
            // Asked once for each poll.
            if self.way == Way::Little {
                break Ok(());
            }
        };
        self.pending.drain(..done);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_pipe_that_nobody_reads_does_not_stop_the_writer_and_nothing_is_lost() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut output = Output::shared(writer.as_fd()).unwrap();
        let bytes: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        output.push(&bytes);
        output.flush().unwrap();
        assert!(output.waiting() > 0 && output.waiting() < bytes.len());
        // Others still see a blocking pipe.
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK));
        drop(writer);
        let mut reader = File::from(reader);
        let (mut got, mut buffer) = (Vec::new(), [0; 5000]);
        while output.waiting() > 0 {
            let count = reader.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..count]);
            output.flush().unwrap();
        }
        drop(output);
        reader.read_to_end(&mut got).unwrap();
        assert!(got == bytes);
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut output = Output::socket(ours.into());
        output.push(b"x");
        output.flush().unwrap();
        drop(theirs);
        output.push(b"y");
        assert!(output.flush().is_err());
    }

    #[test]
    fn a_file_keeps_its_position() {
        let path = std::env::temp_dir().join(format!("atoll-output-{}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, b"before ").unwrap();
        let mut output = Output::shared(file.as_fd()).unwrap();
        output.push(b"after");
        output.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"before after");
        std::fs::remove_file(path).unwrap();
    }
}
