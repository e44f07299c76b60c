//! What the vCPUs translate, written to files that the engine was started with: a log for people, and a map for profilers.
//!
//! The idea: nothing about a file can stop the guest. One that takes no more (a full disk, a pipe that nobody reads any more) is
//! given up; a pipe whose reader is slow loses whole records, which is said.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use emit_x64::{Kind, Placed};
use guest_x86::listing;
use guest_x86::runner::Watch;
use ir::Block;
use wire::engine_capnp::engine_setup;

use crate::setup::Named;

/// Names of the descriptors.
const LOG: &str = "translation-log";
const MAP: &str = "perf-map";

/// What records are written to.
#[derive(Debug)]
struct Sink<W> {
    to: W,
    name: &'static str,
    /// The rest of a record of which a pipe has taken only a part.
    rest: Vec<u8>,
    /// Records that were lost since the last one that was not.
    lost: u64,
    /// It takes nothing any more.
    over: bool,
}

impl<W: Write> Sink<W> {
    fn new(to: W, name: &'static str) -> Self {
        Sink { to, name, rest: Vec::new(), lost: 0, over: false }
    }

    /// Write a record, as far as there is room for it.
    fn record(&mut self, text: &str) {
        let rest = std::mem::take(&mut self.rest);
        if !self.push(rest) {
            if self.lost == 0 && !self.over {
                eprintln!("engine: the {} loses records: its reader is too slow", self.name);
            }
            self.lost += 1;
            return;
        }
        if std::mem::take(&mut self.lost) > 0 {
            eprintln!("engine: the {} goes on", self.name);
        }
        self.push(text.as_bytes().to_vec());
    }

    /// Write `bytes`, and keep what is left of them. Answers whether nothing is, and the sink goes on.
    fn push(&mut self, bytes: Vec<u8>) -> bool {
        let mut from = 0;
        while !self.over && from < bytes.len() {
            match self.to.write(&bytes[from..]) {
                Ok(0) => self.give_up("it takes nothing"),
                Ok(n) => from += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.rest = bytes[from..].to_vec();
                    return false;
                }
                Err(e) => self.give_up(e),
            }
        }
        !self.over
    }

    fn give_up(&mut self, why: impl std::fmt::Display) {
        eprintln!("engine: the {} ends here: {why}", self.name);
        self.over = true;
    }
}

/// The files, which all vCPUs share.
#[derive(Debug)]
pub struct Files {
    log: Option<Mutex<Sink<File>>>,
    map: Option<Mutex<Sink<File>>>,
    /// First and last program counter of what is logged; empty for everything.
    filter: Vec<(u64, u64)>,
}

impl Files {
    /// Those that the setup names; `None` if nobody looks on.
    pub fn new(setup: engine_setup::Reader<'_>, named: &Named) -> Result<Option<Arc<Files>>> {
        let open = |wanted: bool, name: &'static str, of: &'static str| -> Result<_> {
            if !wanted {
                return Ok(None);
            }
            Ok(Some(Mutex::new(Sink::new(File::from(named.get(name)?.try_clone_to_owned()?), of))))
        };
        let log = open(setup.get_log_translation(), LOG, "log of translation")?;
        let map = open(setup.get_perf_map(), MAP, "map for profilers")?;
        let filter = setup.get_log_filter()?.iter().map(|range| (range.get_first(), range.get_last())).collect();
        let files = Files { log, map, filter };
        Ok((files.log.is_some() || files.map.is_some()).then(|| Arc::new(files)))
    }

    /// What must stay open.
    pub fn descriptors(self: &Arc<Self>) -> Vec<RawFd> {
        let number = |sink: &Mutex<Sink<File>>| sink.lock().unwrap_or_else(PoisonError::into_inner).to.as_raw_fd();
        self.log.iter().chain(&self.map).map(number).collect()
    }

    /// Looks on at vCPU `index`.
    pub fn watcher(self: &Arc<Self>, index: usize) -> Watcher {
        Watcher { files: self.clone(), who: format!("vcpu{index}") }
    }

    /// Whether the log has blocks of `len` bytes at `pc`.
    fn logs(&self, pc: u64, len: u64) -> bool {
        let last = pc.saturating_add(len.saturating_sub(1));
        self.log.is_some() && (self.filter.is_empty() || self.filter.iter().any(|(a, b)| pc <= *b && *a <= last))
    }
}

fn write(sink: Option<&Mutex<Sink<File>>>, record: &str) {
    if let Some(sink) = sink {
        // A thread that panicked ends the process.
        sink.lock().unwrap_or_else(PoisonError::into_inner).record(record);
    }
}

/// Writes down what one vCPU translates.
#[derive(Debug)]
pub struct Watcher {
    files: Arc<Files>,
    who: String,
}

/// A line of a perf map (tools/perf/Documentation/jit-interface.txt of Linux): start and length in hexadecimal, name.
fn map_line(address: u64, len: usize, name: &str) -> String {
    format!("{address:x} {len:x} {name}\n")
}

impl Watch for Watcher {
    fn lifted(&mut self, block: &Block, origin: u64, bytes: &[u8], bits: u32) {
        if self.files.logs(origin.wrapping_add(block.pc), bytes.len() as u64) {
            write(self.files.log.as_ref(), &listing::lifted(&self.who, block, origin, bytes, bits));
        }
    }

    fn stub(&mut self, name: &str, address: u64, len: usize) {
        write(self.files.map.as_ref(), &map_line(address, len, &format!("stub:{name}")));
    }

    fn placed(&mut self, placed: &Placed, address: u64, code: &[u8]) {
        let (what, note) = match placed.kind {
            Kind::Block => ("guest", ""),
            Kind::Hot => ("hot", " (hot)"),
            Kind::Exit => ("exit", ""),
        };
        if placed.kind != Kind::Exit && self.files.logs(placed.pc, placed.guest_len) {
            let who = format!("{}{note}", self.who);
            write(self.files.log.as_ref(), &listing::emitted(&who, placed.pc, address, code));
        }
        let name = format!("{what}:{:#x}", placed.pc);
        write(self.files.map.as_ref(), &map_line(address, code.len(), &name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Takes what it is told to, call by call, and then everything.
    #[derive(Default)]
    struct Pipe {
        takes: Vec<io::Result<usize>>,
        has: Vec<u8>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = if self.takes.is_empty() { bytes.len() } else { self.takes.remove(0)?.min(bytes.len()) };
            self.has.extend(&bytes[..n]);
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sink(takes: Vec<io::Result<usize>>) -> Sink<Pipe> {
        Sink::new(Pipe { takes, has: Vec::new() }, "test")
    }

    fn full() -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    #[test]
    fn records_are_whole_or_lost() {
        let mut s = sink(vec![Ok(2), full(), Ok(1), full(), full(), Err(ErrorKind::Interrupted.into())]);
        s.record("first\n");
        assert_eq!(s.to.has, b"fi");
        s.record("lost\n");
        s.record("lost too\n");
        assert_eq!((s.to.has.as_slice(), s.lost), (&b"fir"[..], 2));
        s.record("last\n");
        assert_eq!((s.to.has.as_slice(), s.lost), (&b"first\nlast\n"[..], 0));
    }

    #[test]
    fn what_takes_no_more_is_given_up() {
        for end in [Ok(0), Err(ErrorKind::StorageFull.into()), Err(ErrorKind::BrokenPipe.into())] {
            let mut s = sink(vec![Ok(3), end]);
            s.record("first\n");
            s.record("second\n");
            assert_eq!(s.to.has, b"fir");
            assert!(s.over && s.rest.is_empty());
        }
    }

    #[test]
    fn a_filter_names_what_is_logged() {
        let log = || Some(Mutex::new(Sink::new(File::open("/dev/null").unwrap(), "test")));
        let all = Files { log: log(), map: None, filter: Vec::new() };
        assert!(all.logs(0, 1) && all.logs(u64::MAX, 15));
        let some = Files { filter: vec![(0x100, 0x1ff), (u64::MAX, u64::MAX)], ..all };
        for (pc, len, logged) in
            [(0xff, 1, false), (0xff, 2, true), (0x1ff, 1, true), (0x200, 1, false), (u64::MAX - 1, 4, true)]
        {
            assert_eq!(some.logs(pc, len), logged, "{pc:#x}");
        }
        assert!(!Files { log: None, map: log(), filter: Vec::new() }.logs(0, 1));
    }

    #[test]
    fn lines_of_the_map() {
        assert_eq!(map_line(0x7f00_1234, 16, "guest:0xffff"), "7f001234 10 guest:0xffff\n");
    }
}
