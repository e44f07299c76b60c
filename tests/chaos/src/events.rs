//! The events of a VM as a client sees them that stays subscribed whatever happens to the supervisor.

use std::process::{Child, Stdio};
use std::time::Duration;

use rig::{Rig, SOON, Stream};
use serde_json::Value;

use crate::Processes;

/// `atoll events NAME --follow --json`.
#[derive(Debug)]
pub struct Followed {
    client: Child,
    lines: Stream,
    said: Stream,
    seen: Vec<Value>,
}

impl Followed {
    /// Follows the VM from its first event on, as soon as its keeper runs.
    #[track_caller]
    #[must_use]
    pub fn start(rig: &Rig, name: &str) -> Self {
        let _ = Processes::of(rig, name);
        let mut command = rig.command(["events", name, "--follow", "--json"]);
        let mut client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Stream::of(client.stdout.take().unwrap());
        let said = Stream::of(client.stderr.take().unwrap());
        Self { client, lines, said, seen: Vec::new() }
    }

    /// The next event, whose number must be the next one: otherwise an event is missing or doubled.
    #[track_caller]
    fn next_within(&mut self, limit: Duration) -> Value {
        let line = self.lines.expect("\n", limit);
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let expected = self.seen.len() as u64 + 1;
        assert_eq!(event["sequence"], expected, "missing or doubled: {event}\nbefore: {:#?}", self.seen.last());
        self.seen.push(event.clone());
        event
    }

    /// Goes on to the next event of this kind.
    ///
    /// # Panics
    /// It does not come in time, or an event is missing or doubled.
    #[track_caller]
    pub fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next_within(SOON);
            if event["kind"] == kind {
                return event;
            }
        }
    }

    /// How many events of a kind have been seen, of all processes or of one.
    #[must_use]
    pub fn count(&self, kind: &str, process: Option<&str>) -> usize {
        let of = |event: &&Value| event["kind"] == kind && process.is_none_or(|process| event["process"] == process);
        self.seen.iter().filter(of).count()
    }

    /// Every event that has been seen.
    #[must_use]
    pub fn seen(&self) -> &[Value] {
        &self.seen
    }

    /// Reads on to the end of the VM, and checks that the client itself ended well.
    ///
    /// # Panics
    /// The last event is not ENDED, or one is missing or doubled.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Value> {
        if self.seen.last().is_none_or(|event| event["kind"] != "ENDED") {
            self.until("ENDED");
        }
        self.lines.wait_end(SOON);
        let status = self.client.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said.text());
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}
