//! A client that asks a VM how it is, all the time, and does not mind if nobody is there to answer.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rig::Rig;

/// `atoll inspect NAME --json`, again and again.
#[derive(Debug)]
pub struct Curious {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Curious {
    /// Begins to ask, with a pause between an answer and the next question.
    #[must_use]
    pub fn start(rig: &Rig, name: &str, pause: Duration) -> Self {
        let mut command = rig.command(["inspect", name, "--json"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut answered = 0;
            while !ends.load(Ordering::Relaxed) {
                answered += usize::from(command.status().is_ok_and(|status| status.success()));
                thread::sleep(pause);
            }
            answered
        });
        Self { over, thread: Some(thread) }
    }

    /// Stops asking; returns how often there was an answer.
    ///
    /// # Panics
    /// It could not ask at all.
    #[must_use]
    pub fn end(mut self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap())
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
