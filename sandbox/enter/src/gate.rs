//! The thread barrier before lock-down.
//!
//! A new thread maps its signal stack and registers with the C library by itself, and some per-thread state is made on
//! first use (random keys of hash maps, the list of thread-local destructors). All of that needs calls which the filter
//! forbids, so every thread does it in [`settle_thread`], reports that it has arrived, and waits until it is released.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;

/// What is added to the nice value of a thread that nobody waits for.
const LOWEST: i32 = 19;

/// Starts a process's threads, waits until all are ready for lock-down, and lets them go afterwards.
#[derive(Debug, Default)]
pub struct ThreadGate {
    shared: Arc<Shared>,
    started: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    arrived: usize,
    released: bool,
}

impl Shared {
    /// A panic ends the process, so a poisoned lock has no meaning of its own.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadGate {
    /// A gate without threads.
    pub fn new() -> ThreadGate {
        ThreadGate::default()
    }

    /// Starts a thread that runs `body` once the gate is released. When `body` returns, the thread parks for good: a
    /// thread's end unmaps memory, which the filter forbids.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        self.start(name, || body)
    }

    /// The same at the lowest priority, for what nobody waits for. As it may have no CPU for a long time then, it runs `settle` first,
    /// before the gate and as everybody else: that should touch what memory the body will.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn_low<T>(
        &mut self,
        name: &str,
        settle: impl FnOnce() -> T + Send + 'static,
        body: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), Error> {
        self.start(name, || {
            let settled = settle();
            // Linux has a priority for each thread. Lowering one's own is always allowed, and it would do without.
            let _ = rustix::process::nice(LOWEST);
            || body(settled)
        })
    }

    /// Starts a thread that runs what `prepare`, which it runs at once, answers.
    fn start<B: FnOnce()>(&mut self, name: &str, prepare: impl FnOnce() -> B + Send + 'static) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let run = move || {
            settle_thread();
            let body = prepare();
            let mut state = shared.lock();
            state.arrived += 1;
            shared.changed.notify_all();
            while !state.released {
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            body();
            loop {
                std::thread::park();
            }
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|source| Error::Thread { name: name.to_owned(), source })?;
        self.started += 1;
        Ok(())
    }

    /// How many threads were started here.
    pub fn threads(&self) -> usize {
        self.started
    }

    /// Waits until every thread stands at the barrier.
    ///
    /// # Errors
    /// Some have not arrived within `deadline`.
    pub fn wait(&self, deadline: Duration) -> Result<(), Error> {
        let end = Instant::now() + deadline;
        let mut state = self.shared.lock();
        while state.arrived < self.started {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Gate { missing: self.started - state.arrived, started: self.started });
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Lets every thread run its body.
    pub fn release(&self) {
        self.shared.lock().released = true;
        self.shared.changed.notify_all();
    }
}

thread_local! {
    /// The kernel's id of this thread, for the trap handler, which cannot ask for it.
    static THREAD_ID: Cell<u32> = const { Cell::new(0) };
    /// Exists to have a destructor, see `settle_thread`.
    static HAS_DESTRUCTOR: Box<u8> = Box::new(0);
}

/// The id of the calling thread, 0 if it has not settled. Async-signal-safe.
pub(crate) fn thread_id() -> u32 {
    THREAD_ID.try_with(Cell::get).unwrap_or(0)
}

/// Makes the calling thread's lazily made state, so that it needs no forbidden call later. [`ThreadGate::spawn`] and
/// [`crate::before_threads`] call it; a thread started in another way has to call it itself before lock-down.
pub fn settle_thread() {
    THREAD_ID.set(nix::unistd::gettid().as_raw().cast_unsigned());
    // The random keys of hash maps: getrandom once, then counted up.
    std::hint::black_box(RandomState::new().hash_one(0u8));
    // The first thread-local value with a destructor makes the C library allocate its list.
    HAS_DESTRUCTOR.with(|value| std::hint::black_box(**value));
    // The thread's handle, its parker, and the clock.
    std::hint::black_box((std::thread::current().id(), Instant::now()));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn bodies_run_only_after_release() {
        let mut gate = ThreadGate::new();
        let (sender, receiver) = mpsc::channel();
        for index in 0..3 {
            let sender = sender.clone();
            gate.spawn("worker", move || sender.send(index).expect("the test listens")).expect("threads can start");
        }
        gate.wait(Duration::from_secs(20)).expect("all arrive");
        assert!(receiver.try_recv().is_err(), "nothing runs before release");
        gate.release();
        let mut seen: Vec<i32> = (0..3).map(|_| receiver.recv().expect("every body runs")).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
    }

    #[test]
    fn a_missing_thread_is_counted() {
        let mut gate = ThreadGate::new();
        gate.spawn("present", || {}).expect("threads can start");
        gate.wait(Duration::from_secs(20)).expect("it arrives");
        gate.started += 1;
        let error = gate.wait(Duration::from_millis(1)).expect_err("one is missing");
        assert!(matches!(error, Error::Gate { missing: 1, started: 2 }), "{error}");
    }
}
