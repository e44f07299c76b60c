//! Running and parking of vCPU threads: who may run, who stands still, and how a thread is asked to look up.
//!
//! A vCPU's state is inside a mutex that its thread holds exactly while it runs. To pause is to wait until every thread has
//! let go; from then on the control thread may lock, load, save and reset. Each vCPU has one request word that its run loop
//! polls between blocks, and emitted code after each operation that it has interpreted; whoever sets it also unparks the thread, so that a halted vCPU wakes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::Thread;
use std::time::{Duration, Instant};

use emit_x64::Budget;

/// Something may wait in the inbox, or the external interrupt line may have changed.
pub const LOOK: u32 = 1;
/// Let go of the vCPU at the next block boundary.
pub const PARK: u32 = 2;

/// Show that the thread goes on, by taking this back.
pub const BEAT: u32 = 4;
/// Orders of another vCPU wait.
pub const ORDER: u32 = 8;
/// Memory was harvested: come to a safepoint.
pub const HARVEST: u32 = 16;

/// One vCPU's request word and thread.
#[derive(Debug, Default)]
pub struct Request {
    word: AtomicU32,
    /// Non-zero while [`PARK`] is asked: waits for a device end for that, and not for an interrupt.
    park: AtomicU32,
    /// Counts begins and ends of accesses to devices: odd while a device owes an answer.
    accesses: AtomicU64,
    thread: OnceLock<Thread>,
    /// What emitted code of the vCPU may still run.
    budget: OnceLock<Arc<Budget>>,
}

impl Request {
    /// To be called once by the vCPU's own thread.
    pub fn register(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    /// To be called once, if the vCPU runs emitted code.
    pub fn set_budget(&self, budget: Arc<Budget>) {
        let _ = self.budget.set(budget);
    }

    /// Have the vCPU leave emitted code. What it is asked is in the word already.
    pub fn cut_short(&self) {
        if let Some(budget) = self.budget.get() {
            budget.cut_short();
        }
    }

    /// Ask with `bits`; wakes a halted vCPU, and has one that runs look soon.
    pub fn ask(&self, bits: u32) {
        self.word.fetch_or(bits, Ordering::SeqCst);
        if bits & PARK != 0 {
            self.park.store(1, Ordering::SeqCst);
        }
        self.cut_short();
        if let Some(t) = self.thread.get() {
            t.unpark();
        }
    }

    /// What is asked.
    #[inline(always)]
    pub fn get(&self) -> u32 {
        self.word.load(Ordering::Relaxed)
    }

    /// Access a device: `access` is given the word that ends its wait.
    pub fn wait_for_device<T>(&self, access: impl FnOnce(&AtomicU32) -> T) -> T {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        let answer = access(&self.park);
        self.accesses.fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// Whether the thread has gone on since [`BEAT`] was asked.
    fn has_gone_on(&self) -> bool {
        self.word.load(Ordering::SeqCst) & BEAT == 0
    }

    /// The number of the access for which a device owes the answer.
    fn waits(&self) -> Option<u64> {
        Some(self.accesses.load(Ordering::Relaxed)).filter(|number| number % 2 == 1)
    }

    /// Take the bits `bits` back; returns whether one was set.
    pub fn clear(&self, bits: u32) -> bool {
        if bits & PARK != 0 {
            self.park.store(0, Ordering::SeqCst);
        }
        self.word.fetch_and(!bits, Ordering::SeqCst) & bits != 0
    }

    /// Sleep until somebody asks or `until` has passed. The thread must be the vCPU's.
    pub fn sleep(&self, until: Option<Duration>) {
        if self.word.load(Ordering::SeqCst) != 0 {
            return;
        }
        match until {
            Some(d) => std::thread::park_timeout(d),
            None => std::thread::park(),
        }
    }
}

/// Work for a vCPU's thread while it does not run its vCPU.
pub type Errand = Box<dyn FnOnce() + Send>;

struct State {
    run: bool,
    running: usize,
    errand: Option<Errand>,
    /// For each vCPU, the access that it was seen to wait for, and since when.
    waited: Vec<Option<(u64, Instant)>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("run", &self.run).field("running", &self.running).finish_non_exhaustive()
    }
}

/// The gate that all vCPU threads of the engine pass.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    requests: Vec<Request>,
}

impl Gate {
    /// A closed gate for `vcpus` threads.
    pub fn new(vcpus: usize) -> Gate {
        Gate {
            state: Mutex::new(State { run: false, running: 0, errand: None, waited: vec![None; vcpus] }),
            changed: Condvar::new(),
            requests: (0..vcpus).map(|_| Request::default()).collect(),
        }
    }

    /// The request word of vCPU `n`; `None` if there is no such vCPU.
    pub fn request(&self, n: usize) -> Option<&Request> {
        self.requests.get(n)
    }

    /// Ask every vCPU to look.
    pub fn ask_all(&self, bits: u32) {
        for r in &self.requests {
            r.ask(bits);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked ends the process; the count is never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Thread of vCPU `n`: wait until the gate is open, then count as running. Errands are run meanwhile.
    pub fn enter(&self, n: usize) {
        let mut s = self.lock();
        loop {
            if let Some(request) = self.request(n) {
                request.clear(BEAT);
            }
            if let Some(errand) = s.errand.take() {
                drop(s);
                errand();
                s = self.lock();
            } else if s.run {
                s.running += 1;
                return;
            } else {
                s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Have a parked vCPU's thread run `work`, and wait for its result for as long as `limit`: for what may stand in a page
    /// fault for ever, which the control thread must not. The gate must be closed. `None` if there was no result in time; the
    /// thread may then still be at it, and its vCPU runs on only after that.
    pub fn errand<T: Send + 'static>(&self, limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (say, heard) = mpsc::channel();
        self.lock().errand = Some(Box::new(move || drop(say.send(work()))));
        self.changed.notify_all();
        let result = heard.recv_timeout(limit).ok();
        // One that nobody has begun is not begun late.
        self.lock().errand = None;
        result
    }

    /// The first vCPU whose thread does not go on within `limit`, be it running, halted or parked. That one waits for a device is
    /// the device's fault, but for `answer` at most: until then a device that hangs has been replaced, and its successor has
    /// answered.
    pub fn silent(&self, limit: Duration, answer: Duration) -> Option<usize> {
        let end = Instant::now() + limit;
        self.ask_all(BEAT);
        let mut s = self.lock();
        self.changed.notify_all();
        loop {
            let waited = &mut s.waited;
            let silent = self.requests.iter().zip(waited).position(|(request, waited)| {
                let now = request.waits();
                let since = waited.filter(|(access, _)| Some(*access) == now).map(|(_, since)| since);
                *waited = now.map(|access| (access, since.unwrap_or_else(Instant::now)));
                let waits = waited.is_some_and(|(_, since)| since.elapsed() < answer);
                !request.has_gone_on() && !waits
            });
            if silent.is_none() || Instant::now() >= end {
                return silent;
            }
            s = self.changed.wait_timeout(s, Duration::from_millis(1)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// vCPU thread: the vCPU's lock is released; count as parked.
    pub fn leave(&self) {
        let mut s = self.lock();
        s.running -= 1;
        self.changed.notify_all();
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.lock().run
    }

    /// Whether it is closed and every vCPU has parked.
    pub fn is_parked(&self) -> bool {
        let s = self.lock();
        !s.run && s.running == 0
    }

    /// Open the gate.
    pub fn open(&self) {
        for r in &self.requests {
            r.clear(PARK);
        }
        self.lock().run = true;
        self.changed.notify_all();
    }

    /// Close it and wait until every vCPU has parked. `also_wake` interrupts waits that do not watch the request word; it is
    /// called again and again, since a vCPU may be on its way into such a wait. Returns false if `limit` passed.
    pub fn close(&self, limit: Duration, also_wake: impl Fn()) -> bool {
        let end = Instant::now() + limit;
        let mut s = self.lock();
        s.run = false;
        loop {
            if s.running == 0 {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            drop(s);
            self.ask_all(PARK);
            also_wake();
            s = self.lock();
            if s.running != 0 {
                s = self.changed.wait_timeout(s, Duration::from_millis(1)).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn parked_threads_run_errands_and_may_be_given_up() {
        let gate = Arc::new(Gate::new(1));
        assert!(gate.is_parked());
        assert_eq!(gate.errand(Duration::from_millis(1), || 1), None, "there is no thread");
        let thread = gate.clone();
        std::thread::spawn(move || {
            loop {
                thread.enter(0);
                while thread.request(0).unwrap().get() & PARK == 0 {
                    std::thread::yield_now();
                }
                thread.leave();
            }
        });
        let long = Duration::from_secs(20);
        assert_eq!(gate.errand(long, || 7), Some(7));
        let (release, wait) = mpsc::channel::<()>();
        assert_eq!(gate.errand(Duration::from_millis(1), move || wait.recv().is_ok()), None);
        gate.open();
        assert!(!gate.is_parked());
        assert!(gate.close(long, || ()), "a thread on an errand does not run its vCPU");
        release.send(()).unwrap();
        assert_eq!(gate.errand(long, || 8), Some(8));
    }

    #[test]
    fn a_thread_that_stands_still_is_found_wherever_it_is() {
        let gate = Arc::new(Gate::new(2));
        let (stand, wait) = mpsc::channel::<()>();
        let mut wait = Some(wait);
        for n in 0..2 {
            let gate = gate.clone();
            let wait = if n == 1 { wait.take() } else { None };
            std::thread::spawn(move || {
                let request = gate.request(n).unwrap();
                request.register();
                loop {
                    gate.enter(n);
                    if let Some(wait) = &wait {
                        request.wait_for_device(|_| wait.recv().unwrap());
                        wait.recv().unwrap();
                    }
                    while request.get() & PARK == 0 {
                        request.clear(BEAT);
                        request.sleep(None);
                    }
                    gate.leave();
                }
            });
        }
        let (long, short) = (Duration::from_secs(20), Duration::from_millis(5));
        assert_eq!(gate.silent(long, long), None, "parked");
        gate.open();
        assert_eq!(gate.silent(long, long), None, "one is halted, the other one waits for a device");
        // No device takes so long. The other thread is silent as well, for as long as no CPU is free for it.
        while gate.silent(short, short) != Some(1) {}
        stand.send(()).unwrap();
        // One stands still.
        while gate.silent(short, long) != Some(1) {}
        stand.send(()).unwrap();
        assert_eq!(gate.silent(long, long), None, "both are halted");
    }

    #[test]
    fn a_closed_gate_means_nobody_runs() {
        let gate = Arc::new(Gate::new(2));
        let count = Arc::new(AtomicU64::new(0));
        for n in 0..2 {
            let (gate, count) = (gate.clone(), count.clone());
            std::thread::spawn(move || {
                let request = gate.request(n).unwrap();
                request.register();
                loop {
                    gate.enter(n);
                    while request.get() & PARK == 0 {
                        count.fetch_add(1, Ordering::SeqCst);
                        if n == 1 {
                            request.sleep(None);
                        }
                    }
                    gate.leave();
                }
            });
        }
        for _ in 0..100 {
            gate.open();
            let before = count.load(Ordering::SeqCst);
            while count.load(Ordering::SeqCst) == before {
                std::thread::yield_now();
            }
            assert!(gate.close(Duration::from_secs(20), || ()));
            let still = count.load(Ordering::SeqCst);
            std::thread::yield_now();
            assert_eq!(count.load(Ordering::SeqCst), still);
        }
    }
}
