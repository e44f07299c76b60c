//! How long a guest stands still when its supervisor is killed: the longest time between two beats of a millisecond each, as they
//! come from its console, and the same without kills. In both, clients ask the VM all the time.
//!
//! `ATOLL_KILLS` sets the number of kills (200), `ATOLL_CLIENTS` that of clients (1). What else happens on the machine meets the windows with a kill and those without
//! in turn; run as root, the VM and this program also come before everybody else.

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chaos::{Beat, Curious, Followed, Processes, figures};
use guest::bare::BEAT;
use rig::{Rig, SOON, Vm};

/// A window: longer than any takeover, and than a supervisor's life has to be so that the keeper starts the next at once.
const WINDOW: Duration = Duration::from_millis(600);
/// A client's, between an answer and its next question.
const PAUSE: Duration = Duration::from_millis(5);
/// What a guest may notice of a takeover.
const GOAL: Duration = Duration::from_millis(10);

fn connect(path: &std::path::Path) -> Result<UnixStream> {
    let end = Instant::now() + SOON;
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => return Ok(socket),
            Err(error) if Instant::now() > end => return Err(error).context("connect to the console"),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Processes that come before everybody else on this machine: what else it does is not what is measured. Each session is a group of
/// its own to the kernel's scheduler (sched(7), autogroup), and a VM has many. Back to what it was when dropped.
struct First(Vec<std::path::PathBuf>);

impl First {
    /// Whether the process does come first; only root may say so.
    fn add(&mut self, process: &str) -> bool {
        let path = std::path::PathBuf::from(format!("/proc/{process}/autogroup"));
        let done = std::fs::write(&path, "-20").is_ok();
        self.0.push(path);
        done
    }
}

impl Drop for First {
    fn drop(&mut self) {
        for path in &self.0 {
            // Most of them are gone.
            let _ = std::fs::write(path, "0");
        }
    }
}

/// A number of the environment.
fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

fn main() -> Result<()> {
    let (kills, clients) = (number("ATOLL_KILLS", 200), number("ATOLL_CLIENTS", 1));
    let rig = Rig::new("takeover");
    let kernel = rig.file(BEAT.name, BEAT.image).display().to_string();
    let path = rig.path("console");
    let console = format!("socket:{}", path.display());
    let vm: Vm<'_> = rig.start("beat", ["--memory", "16M", "--kernel", &kernel, "--console", &console]);
    let mut events = Followed::start(&rig, "beat");
    events.until("STARTED");
    let mut beat = Beat::of(connect(&path)?);
    let processes = Processes::of(&rig, "beat");
    let curious: Vec<Curious> = (0..clients).map(|_| Curious::start(&rig, "beat", PAUSE)).collect();
    let mut first = First(Vec::new());
    let mut all = vec!["self".to_owned()];
    all.extend(processes.all().into_keys().map(|pid| pid.to_string()));
    let alone = all.iter().all(|process| first.add(process));
    beat.go_on(1000);
    let (mut quiet, mut killed, mut takeovers, mut beats) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..kills {
        beat.so_far();
        thread::sleep(WINDOW);
        quiet.push(beat.so_far().longest_gap);
        let begun = Instant::now();
        let old = processes.kill("supervisor");
        first.add(&processes.wait_other("supervisor", old).to_string());
        events.until("SUPERVISOR_ADOPTED");
        takeovers.push(begun.elapsed());
        thread::sleep(WINDOW.saturating_sub(begun.elapsed()));
        let watched = beat.so_far();
        killed.push(watched.longest_gap);
        beats += watched.beats;
    }
    let answered: usize = curious.into_iter().map(Curious::end).sum();
    rig.atoll(["kill", "beat"]).ok();
    vm.wait(SOON);
    let ended = events
        .finish()
        .iter()
        .filter(|event| event["process"] == "engine" && event["kind"] == "PROCESS_EXITED")
        .count();
    let most = |gaps: &[Duration]| gaps.iter().max().copied().unwrap_or_default();
    let longest = most(&killed);
    let verdict = match (longest <= GOAL, most(&quiet) <= GOAL) {
        (true, _) => "within",
        (false, true) => "ABOVE",
        (false, false) => "above (as is that without one: this host is too busy to tell)",
    };
    println!(
        "{kills} supervisors killed, {beats} beats of 1 ms in their windows, none missing or doubled; {answered} questions answered"
    );
    println!("until the successor says that it has adopted the VM: {}", figures(takeovers));
    println!("longest gap between two beats in a window of {WINDOW:?}, without a kill: {}", figures(quiet));
    println!("the same with a kill:                              {}", figures(killed));
    if !alone {
        println!("(not root, or a kernel without autogroups: whatever else runs here is in these figures)");
    }
    println!("the longest with a kill is {verdict} the goal of {GOAL:?}");
    if ended > 0 {
        bail!("the engine has ended");
    }
    if verdict == "ABOVE" {
        bail!("the guest stood still for {longest:?} when its supervisor was killed, and not as long otherwise");
    }
    Ok(())
}
