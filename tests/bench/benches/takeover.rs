//! How long a guest stands still when its supervisor is killed: the longest time between two beats of a millisecond each, as they
//! come from its console, and the same without kills. In both, clients ask the VM all the time.
//!
//! `ATOLL_KILLS` sets the number of kills (200). What else happens on the machine meets the windows with a kill and those without
//! in turn.

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chaos::{Beat, Curious, Followed, Processes, figures};
use guest::bare::BEAT;
use rig::{Rig, SOON, Vm};

/// A window: longer than any takeover, and than a supervisor's life has to be so that the keeper starts the next at once.
const WINDOW: Duration = Duration::from_millis(600);
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

fn main() -> Result<()> {
    let kills = std::env::var("ATOLL_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(200);
    let rig = Rig::new("takeover");
    let kernel = rig.file(BEAT.name, BEAT.image).display().to_string();
    let path = rig.path("console");
    let console = format!("socket:{}", path.display());
    let vm: Vm<'_> = rig.start("beat", ["--memory", "16M", "--kernel", &kernel, "--console", &console]);
    let mut events = Followed::start(&rig, "beat");
    events.until("STARTED");
    let mut beat = Beat::of(connect(&path)?);
    let processes = Processes::of(&rig, "beat");
    let curious = Curious::start(&rig, "beat");
    beat.go_on(1000);
    let (mut quiet, mut killed, mut takeovers, mut beats) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..kills {
        beat.so_far();
        thread::sleep(WINDOW);
        quiet.push(beat.so_far().longest_gap);
        let begun = Instant::now();
        processes.kill("supervisor");
        events.until("SUPERVISOR_ADOPTED");
        takeovers.push(begun.elapsed());
        thread::sleep(WINDOW.saturating_sub(begun.elapsed()));
        let watched = beat.so_far();
        killed.push(watched.longest_gap);
        beats += watched.beats;
    }
    let answered = curious.end();
    rig.atoll(["kill", "beat"]).ok();
    vm.wait(SOON);
    let ended = events
        .finish()
        .iter()
        .filter(|event| event["process"] == "engine" && event["kind"] == "PROCESS_EXITED")
        .count();
    let longest = killed.iter().max().copied().unwrap_or_default();
    println!(
        "{kills} supervisors killed, {beats} beats of 1 ms in their windows, none missing or doubled; {answered} questions answered"
    );
    println!("until the successor says that it has adopted the VM: {}", figures(takeovers));
    println!("longest gap between two beats in a window of {WINDOW:?}, without a kill: {}", figures(quiet));
    println!("the same with a kill:                              {}", figures(killed));
    println!("the longest with a kill is {} the goal of {GOAL:?}", if longest <= GOAL { "within" } else { "ABOVE" });
    if ended > 0 {
        bail!("the engine has ended");
    }
    Ok(())
}
