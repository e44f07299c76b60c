//! The adoption record: what a supervisor leaves for its successor.
//!
//! An input is a message. What must hold: what was read is written as something that is read as the same, and a supervisor
//! can go on from it.

use capnp::message::Builder;
use fuzz::{Plant, Seen, Target, Verdict};
use supervisor::core::{Command, Core, Found, Input, Islet, Options, record};
use wire::vm_capnp::adoption_record;

use crate::bytes::{Message, flat, holds, index};

pub static TARGET: Target = Target {
    name: "record",
    run,
    seeds,
    words,
    longest: 4096,
    head: 0,
    plants: &[
        "the status is an index",
        "the step of a sequence is an index",
        "the state of a job is an index",
        "a digest is taken to have 32 bytes",
    ],
};

fn run(input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    let options = Options::default();
    planted(input, plant);
    match record::decode(input, options) {
        Ok((core, facts)) => {
            seen.hit("status", core.state().status as u64);
            seen.text("script", &format!("{:?}", core.script()));
            seen.hit(
                "runs",
                u64::from(core.runs()) << 2 | u64::from(core.restores()) << 1 | u64::from(core.on_demand()),
            );
            seen.hit("ending", u64::from(core.ending().is_some()));
            let bytes = record::encode(&core, facts);
            let (again, same) = record::decode(&bytes, options).map_err(|error| format!("read again: {error}"))?;
            holds!(again == core && same == facts, "is read again as something else");
            go_on(core, seen);
        }
        // What follows a quote is the record's own text.
        Err(error) => seen.text("error", error.to_string().split('\'').next().unwrap_or_default()),
    }
    Ok(())
}

/// What the code would do without its checks.
fn planted(input: &[u8], plant: Plant) {
    let mut rest = input;
    let Ok(message) = capnp::serialize::read_message(&mut rest, link::capnp::reader_options()) else { return };
    let Ok(root) = message.get_root::<adoption_record::Reader<'_>>() else { return };
    if plant.is(0) {
        index(7, root.get_status().into());
    }
    if plant.is(1) && root.get_script().is_ok_and(|script| script.as_bytes() == b"start") {
        index(16, root.get_step().into());
    }
    if plant.is(2)
        && let Ok(jobs) = root.get_jobs()
    {
        jobs.iter().take(64).for_each(|job| index(5, job.get_state().into()));
    }
    if plant.is(3)
        && let Ok(processes) = root.get_processes()
    {
        for process in processes.iter().take(64) {
            if process.has_saved()
                && let Ok(digest) = process.get_saved().and_then(|saved| saved.get_digest())
            {
                let _ = &digest[..32];
            }
        }
    }
}

/// A successor takes over and is asked all that it can be asked.
fn go_on(mut core: Core, seen: &mut Seen) {
    let found = |islet: Islet| {
        let slot = core.slot(islet);
        Some(Found { islet: Some(islet), incarnation: slot.incarnation, process: slot.process?, lives: true })
    };
    let found: Vec<Found> = Islet::ALL.into_iter().filter_map(found).collect();
    seen.count("outputs", core.adopt(&found, "was killed by SIGKILL").len() as u64);
    let commands = [
        Command::Pause,
        Command::Resume,
        Command::Reset,
        Command::Stop(3),
        Command::Wakeup,
        Command::Save { job: 9 },
        Command::Cancel { job: 1 },
        Command::Kill,
    ];
    for (id, command) in (1..).zip(commands) {
        let outputs = core.step(Input::Command { id, command });
        seen.count("outputs", outputs.len() as u64);
    }
    (0..4).for_each(|timer| drop(core.step(Input::Expired(timer))));
}

fn seeds() -> Vec<Vec<u8>> {
    let fresh = |steps: &[Command]| {
        let mut core = Core::new(Options::default());
        core.step(Input::Begin);
        for (id, command) in (1..).zip(steps) {
            core.step(Input::Command { id, command: *command });
        }
        record::encode(&core, record::Facts { last_event: 7, wall_clock_seconds: -5, started_unix_seconds: 9 })
    };
    let mut full: Message = Builder::new_default();
    let mut to = full.init_root::<adoption_record::Builder<'_>>();
    to.set_status(1);
    to.set_runs(true);
    to.set_devices_run(true);
    to.set_script("start");
    to.set_step(2);
    to.set_last_request(20);
    to.set_entry(&[7; 64]);
    to.set_kernel_summary("bzImage");
    to.set_wake("rtc");
    let mut jobs = to.reborrow().init_jobs(2);
    jobs.reborrow().get(0).set_id(1);
    jobs.reborrow().get(0).set_state(1);
    jobs.reborrow().get(1).init_problem().set_why("why");
    jobs.reborrow().get(1).set_state(3);
    let mut faults = to.reborrow().init_faults();
    faults.set_base(1 << 40);
    faults.set_length(1 << 30);
    let mut processes = to.init_processes(2);
    let mut board = processes.reborrow().get(0);
    board.set_name("board");
    board.set_state("ready");
    board.set_process_id(3);
    board.set_incarnation(1);
    board.set_request(20);
    board.set_verb("save");
    let mut saved = board.init_saved();
    saved.set_length(800);
    saved.set_digest(&[5; 32]);
    let mut engine = processes.get(1);
    engine.set_name("engine");
    engine.set_state("ready");
    engine.init_failure().set_code("x");
    vec![fresh(&[]), fresh(&[Command::Pause]), fresh(&[Command::Stop(9), Command::Reset]), flat(&full)]
}

fn words() -> Vec<Vec<u8>> {
    let mut words = (super::islet_messages::TARGET.words)();
    let names =
        ["engine", "board", "serial0", "loader", "streamer", "absent", "spawning", "starting", "ready", "waiting"];
    let verbs =
        ["setup", "run", "pause", "reset", "save", "load", "quit", "suspend", "wake", "start", "resume", "restore"];
    words.extend(names.iter().chain(&verbs).map(|name| [name.as_bytes(), &[0]].concat()));
    words
}
