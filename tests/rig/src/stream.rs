//! Bytes as they come from a console or a program, kept in full, so that a failure can show them.
//!
//! The idea: a thread reads, and whoever expects a text looks from where the last expectation ended, so that no text is found
//! twice and none is missed because it came early.

use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Reads once. A signal, and on a socket with a time limit also a stop of the whole machine or group, interrupts the system
/// call; that is nobody's failure.
///
/// # Errors
/// Those of [`Read::read`], but not [`ErrorKind::Interrupted`].
pub fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            end => return end,
        }
    }
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// Everything before was expected and found.
    seen: usize,
    ended: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Stream(Arc<(Mutex<Content>, Condvar)>);

impl Stream {
    /// Reads everything from `source`.
    pub fn of(mut source: impl Read + Send + 'static) -> Self {
        let stream = Self::default();
        let shared = stream.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = read_some(&mut source, &mut buffer);
                let mut content = shared.lock();
                match count {
                    Ok(count @ 1..) => content.bytes.extend_from_slice(&buffer[..count]),
                    Ok(0) | Err(_) => content.ended = true,
                }
                shared.0.1.notify_all();
                if content.ended {
                    return;
                }
            }
        });
        stream
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until `ready` gives something.
    ///
    /// # Panics
    /// It does not in time, or never will: with everything that came.
    #[track_caller]
    fn wait_for<T>(&self, what: &str, limit: Duration, mut ready: impl FnMut(&mut Content) -> Option<T>) -> T {
        let end = Instant::now() + limit;
        let mut content = self.lock();
        loop {
            if let Some(value) = ready(&mut content) {
                return value;
            }
            let left = end.saturating_duration_since(Instant::now());
            if content.ended || left.is_zero() {
                let why = if content.ended { "the stream has ended".to_owned() } else { format!("after {limit:?}") };
                let bytes = content.bytes.clone();
                // Others may still want to see what came.
                drop(content);
                panic!("{what} did not come: {why}; what came:\n{}", String::from_utf8_lossy(&bytes));
            }
            content = self.0.1.wait_timeout(content, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Waits for `text` after what was expected before; returns what stands between.
    ///
    /// # Panics
    /// It does not come in time.
    #[track_caller]
    pub fn expect(&self, text: &str, limit: Duration) -> String {
        let wanted = text.as_bytes();
        self.wait_for(&format!("{text:?}"), limit, |content| {
            let rest = &content.bytes[content.seen..];
            let at = rest.windows(wanted.len()).position(|window| window == wanted)?;
            let between = String::from_utf8_lossy(&rest[..at]).into_owned();
            content.seen += at + wanted.len();
            Some(between)
        })
    }

    /// Waits for `count` bytes after what was expected before.
    ///
    /// # Panics
    /// They do not come in time.
    #[track_caller]
    pub fn take(&self, count: usize, limit: Duration) -> Vec<u8> {
        self.wait_for(&format!("{count} bytes"), limit, |content| {
            let bytes = content.bytes.get(content.seen..content.seen + count)?.to_vec();
            content.seen += count;
            Some(bytes)
        })
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// It does not come in time.
    #[track_caller]
    pub fn wait_end(&self, limit: Duration) {
        self.wait_for("the end", limit, |content| content.ended.then_some(()));
    }

    /// How many bytes have come, and how many of them were expected and found.
    pub fn position(&self) -> (usize, usize) {
        let content = self.lock();
        (content.bytes.len(), content.seen)
    }

    /// Everything that came.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// The same as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::panic::catch_unwind;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn texts_are_found_in_order_and_once() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let stream = Stream::of(reader);
        writer.write_all(b"one two ").unwrap();
        writer.write_all(b"one thr").unwrap();
        assert_eq!(stream.expect("one", LIMIT), "");
        assert_eq!(stream.expect("one", LIMIT), " two ");
        writer.write_all(b"ee\x00\xff.").unwrap();
        assert_eq!(stream.expect("three", LIMIT), " ");
        assert_eq!(stream.take(2, LIMIT), b"\x00\xff");
        drop(writer);
        stream.wait_end(LIMIT);
        let seen = stream.clone();
        let error = catch_unwind(move || seen.expect("one", LIMIT)).unwrap_err();
        let text = error.downcast_ref::<String>().unwrap();
        assert!(text.contains("the stream has ended") && text.contains("one two one"), "{text}");
        assert_eq!(stream.bytes(), b"one two one three\x00\xff.");
    }

    #[test]
    fn a_deadline_is_a_failure() {
        let (_writer, reader) = UnixStream::pair().unwrap();
        let stream = Stream::of(reader);
        assert!(catch_unwind(move || stream.expect("x", Duration::from_millis(20))).is_err());
    }
}
