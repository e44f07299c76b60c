//! The loop: change, try, keep what is new; and the watch over a target that does not come back.
//!
//! The idea: a run has a thread of its own. A panic is caught there; a target that hangs is left there, and who waits for
//! the run knows the input at which it hangs.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::corpus::name;
use crate::{Plant, Random, Seen, Target};

/// The most inputs that a run keeps in memory.
const MOST_KEPT: usize = 4000;
/// How the threads of runs are named, so that their panics are not printed.
const THREAD: &str = "fuzz-run";

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where random numbers come from.
    pub seed: u64,
    /// When to stop.
    pub time: Duration,
    /// After how many executions to stop.
    pub executions: u64,
    /// How long one input may take.
    pub patience: Duration,
}

/// How an input fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The target panicked.
    Panic,
    /// The target says that a property is violated.
    Violation,
    /// The target took too long.
    Hang,
}

/// An input that fails.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How.
    pub kind: FailureKind,
    /// The message of the panic, or the property.
    pub text: String,
    /// The input.
    pub input: Vec<u8>,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// How many inputs were tried.
    pub executions: u64,
    /// How long that took.
    pub time: Duration,
    /// Different features.
    pub features: usize,
    /// The inputs that were kept, with their features.
    pub kept: Vec<(Vec<u8>, Vec<u64>)>,
    /// The first input that failed, which ended the run.
    pub failure: Option<Failure>,
}

impl Figures {
    /// Executions in a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.executions as f64 / self.time.as_secs_f64().max(1e-9)
    }

    /// Above this, the share of failing inputs is not, with 95 % confidence, if none of the tried ones failed: the rule of
    /// three.
    #[must_use]
    pub fn bound(&self) -> f64 {
        3.0 / self.executions.max(1) as f64
    }
}

impl Failure {
    /// Writes the input to a folder; answers the path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, folder: &std::path::Path, target: &str) -> std::io::Result<std::path::PathBuf> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("{target}-{}", name(&self.input)));
        std::fs::write(&path, &self.input)?;
        Ok(path)
    }
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics of runs are kept for their reports and not printed.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if thread::current().name() == Some(THREAD) {
                PANIC.with(|text| *text.borrow_mut() = info.to_string());
            } else {
                before(info);
            }
        }));
    });
}

/// Tries one input on this thread.
#[must_use]
pub fn attempt(target: &Target, input: &[u8], plant: Plant, seen: &mut Seen) -> Option<Failure> {
    let (kind, text) = match panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input, seen, plant))) {
        Ok(Ok(())) => return None,
        Ok(Err(text)) => (FailureKind::Violation, text),
        Err(_) => (FailureKind::Panic, PANIC.with(|text| text.borrow().clone())),
    };
    Some(Failure { kind, text, input: input.to_vec() })
}

/// What is under way, for the watch.
#[derive(Default)]
struct Watch {
    executions: AtomicU64,
    input: Mutex<Vec<u8>>,
}

struct Run {
    target: &'static Target,
    plant: Plant,
    watch: Arc<Watch>,
    known: HashSet<u64>,
    figures: Figures,
    seen: Seen,
    /// How many of the kept inputs were given.
    first: usize,
}

impl Run {
    /// Tries an input and keeps it if it is new, or in any case; answers whether the run goes on.
    fn take(&mut self, input: Vec<u8>, keep: bool) -> bool {
        self.watch.input.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&input);
        self.figures.executions += 1;
        self.watch.executions.store(self.figures.executions, Ordering::Release);
        self.seen.clear();
        self.figures.failure = attempt(self.target, &input, self.plant, &mut self.seen);
        let before = self.known.len();
        self.known.extend(self.seen.features());
        if keep || self.known.len() > before && self.figures.kept.len() < MOST_KEPT {
            self.figures.kept.push((input, self.seen.features().to_vec()));
        }
        self.figures.failure.is_none()
    }

    /// An input to change: often one of the first, which are whole, or one of the last, which are at the edge of what is
    /// known.
    fn choose(&self, random: &mut Random) -> &[u8] {
        let kept = &self.figures.kept;
        let (from, to) = match random.below(3) {
            0 => (0, self.first.min(kept.len())),
            1 => (kept.len().saturating_sub(16), kept.len()),
            _ => (0, kept.len()),
        };
        kept.get(from + random.below(to - from)).map_or(&[], |(input, _)| input)
    }
}

/// Runs a target from these inputs on until the options say stop, or something fails.
#[must_use]
pub fn drive(target: &'static Target, plant: Plant, inputs: Vec<Vec<u8>>, options: Options) -> Figures {
    quiet_panics();
    let watch = Arc::new(Watch::default());
    let (send, receive) = mpsc::channel();
    let run = Run {
        target,
        plant,
        watch: watch.clone(),
        known: HashSet::new(),
        figures: Figures::default(),
        seen: Seen::default(),
        first: 0,
    };
    let start = Instant::now();
    let work = move || {
        // The receiver is gone only after a hang, which was told.
        let _ = send.send(work(run, inputs, options));
    };
    let spawned = thread::Builder::new().name(THREAD.into()).spawn(work);
    let (mut last, mut since) = (0, Instant::now());
    let lost = |kind, text: String| {
        let input = watch.input.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let executions = watch.executions.load(Ordering::Acquire);
        let failure = Some(Failure { kind, text, input });
        Figures { executions, time: start.elapsed(), failure, ..Figures::default() }
    };
    if let Err(error) = spawned {
        return lost(FailureKind::Violation, format!("no thread could be started: {error}"));
    }
    loop {
        match receive.recv_timeout(options.patience / 10) {
            Ok(figures) => return figures,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return lost(FailureKind::Panic, "the thread of the run ended".into());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let now = watch.executions.load(Ordering::Acquire);
                if now != last {
                    (last, since) = (now, Instant::now());
                } else if since.elapsed() >= options.patience {
                    return lost(FailureKind::Hang, format!("no answer within {:?}", options.patience));
                }
            }
        }
    }
}

fn work(mut run: Run, inputs: Vec<Vec<u8>>, options: Options) -> Figures {
    let (start, mut random) = (Instant::now(), Random::new(options.seed));
    let mutator = run.target.mutator();
    let mut goes_on = inputs.into_iter().all(|input| run.take(input, true));
    run.first = run.figures.kept.len();
    while goes_on && start.elapsed() < options.time && run.figures.executions < options.executions {
        let new = mutator.change(run.choose(&mut random), run.choose(&mut random), &mut random);
        goes_on = run.take(new, false);
    }
    run.figures.time = start.elapsed();
    run.figures.features = run.known.len();
    run.figures
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options =
        Options { seed: 3, time: Duration::from_secs(60), executions: 3_000_000, patience: Duration::from_millis(300) };

    fn run(input: &[u8], seen: &mut Seen, plant: Plant) -> Result<(), String> {
        let depth = input.iter().zip(b"ABCD").take_while(|(a, b)| a == b).count();
        seen.hit("depth", depth as u64);
        match depth {
            4 if plant.is(0) => Err("found".into()),
            4 if plant.is(1) => panic!("found"),
            4 if plant.is(2) => loop {
                thread::sleep(Duration::from_secs(1));
            },
            _ => Ok(()),
        }
    }

    static TARGET: Target = Target {
        name: "toy",
        run,
        seeds: || vec![b"    ".to_vec()],
        words: Vec::new,
        longest: 8,
        head: 0,
        plants: &["says so", "panics", "hangs"],
    };

    #[test]
    fn every_kind_of_failure_is_found_step_by_step() {
        for (plant, kind) in [FailureKind::Violation, FailureKind::Panic, FailureKind::Hang].into_iter().enumerate() {
            let figures = drive(&TARGET, Plant::number(plant), (TARGET.seeds)(), OPTIONS);
            let failure = figures.failure.unwrap();
            assert_eq!((failure.kind, &failure.input[..4]), (kind, &b"ABCD"[..]));
            assert!(kind != FailureKind::Panic || failure.text.contains("found"), "{}", failure.text);
        }
    }

    #[test]
    fn the_same_seed_does_the_same() {
        let options = Options { executions: 20_000, ..OPTIONS };
        let figures = || drive(&TARGET, Plant::NONE, (TARGET.seeds)(), options);
        let (one, two) = (figures(), figures());
        assert!(one.failure.is_none() && one.executions == 20_000 && one.features >= 3);
        assert_eq!(one.kept, two.kept);
        assert!((one.bound() - 0.00015).abs() < 1e-9);
    }

    #[test]
    fn a_failing_input_is_written() {
        let folder = std::env::temp_dir().join(format!("atoll-fuzz-failure-{}", std::process::id()));
        let failure = Failure { kind: FailureKind::Panic, text: "x".into(), input: b"bad".to_vec() };
        let path = failure.write(&folder, "toy").unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"bad");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
