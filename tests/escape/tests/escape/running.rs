//! The attacker in place of each process of a real VM, with the descriptors that this process gets.
//!
//! The VM does not survive it, which is not asked of it; what counts is what stands in its log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use guest::bare::BEAT;
use probe::escape::TABLE;
use profile::{Kind, syscalls};
use rig::{Rig, SOON, count};

use crate::report::Report;
use crate::{ATTACKER, guarded};

/// Where the choice stands in the attacker.
const PREFIX: &[u8] = b"the item of this stand-in:";
const BINARIES: [&str; 7] = ["keeper", "supervisor", "engine", "board", "serial", "loader", "streamer"];

/// The processes of a VM, each with the binary to replace.
const REPLACED: [(Kind, &str); 8] = [
    (Kind::Keeper, "keeper"),
    (Kind::Supervisor, "supervisor"),
    (Kind::EngineTcg, "engine"),
    (Kind::Board, "board"),
    (Kind::Serial, "serial"),
    (Kind::Loader, "loader"),
    (Kind::StreamerSource, "streamer"),
    (Kind::StreamerTarget, "streamer"),
];

/// A folder of binaries of which one is the attacker, for one item or all.
fn binaries(rig: &Rig, kind: Kind, replaced: &str, item: &str) -> PathBuf {
    let folder = rig.path(&format!("bin-{kind}-{item}"));
    fs::create_dir_all(&folder).unwrap();
    for binary in BINARIES.into_iter().filter(|binary| *binary != replaced) {
        std::os::unix::fs::symlink(rig.binaries().join(binary), folder.join(binary)).unwrap();
    }
    let mut image = fs::read(ATTACKER).unwrap();
    let places = image.windows(PREFIX.len()).enumerate().filter(|(_, bytes)| *bytes == PREFIX).map(|(at, _)| at);
    let place = places.clone().find(|at| image[at + PREFIX.len()] == b'.').expect("the choice is in the file");
    image[place + PREFIX.len()..][..item.len()].copy_from_slice(item.as_bytes());
    let path = folder.join(replaced);
    fs::write(&path, image).unwrap();
    fs::set_permissions(&path, fs::metadata(ATTACKER).unwrap().permissions()).unwrap();
    folder
}

/// `atoll` with these binaries; its end is not waited for.
fn atoll(rig: &Rig, folder: &Path, arguments: &[&str]) -> Child {
    let mut command = guarded(rig.binaries().join("atoll").to_str().unwrap());
    command.args(arguments).env("XDG_RUNTIME_DIR", rig.path("")).env("ATOLL_LIBEXEC", folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Whether `text` is in a log, with any of the supervisors in a row for the first one.
fn tells(log: &str, text: &str) -> bool {
    let first = |log: String, n: u32| log.replace(&format!("supervisor[{n}] made"), "supervisor[1] made");
    (2..=5).fold(log.to_owned(), first).contains(text)
}

/// Starts a VM with the attacker in place of a process, and gives its log once `text` is in it.
fn log(rig: &Rig, kind: Kind, binary: &str, item: &str, text: &str) -> String {
    // With the item's name it would be longer than names may be.
    static VMS: AtomicUsize = AtomicUsize::new(0);
    let name = format!("{kind}-{}", VMS.fetch_add(1, Ordering::Relaxed));
    let folder = binaries(rig, kind, binary, item);
    let kernel = rig.file("beat", BEAT.image).display().to_string();
    let snapshot = rig.path("snapshot").display().to_string();
    let options = ["--name", &name, "--detach", "--console", "none"];
    let run = [&["run"][..], &options, &["--memory", "16M", "--kernel", &kernel]].concat();
    let mut child = match kind {
        Kind::StreamerSource => {
            let started = atoll(rig, &folder, &run);
            let ended = started.wait_with_output().unwrap();
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
            atoll(rig, &folder, &["snapshot", &name, &rig.path(&format!("{name}.snap")).display().to_string()])
        }
        Kind::StreamerTarget => {
            let restore = [&["restore"][..], &options, &["--on-demand", &snapshot]].concat();
            atoll(rig, &folder, &restore)
        }
        _ => atoll(rig, &folder, &run),
    };
    let path = rig.path("atoll").join(&name).join("log");
    let (end, mut found) = (Instant::now() + SOON, String::new());
    while !tells(&found, text) && Instant::now() < end && child.try_wait().unwrap().is_none() {
        // The directory of a VM that does not start is gone at once; then its end is told by whoever started it.
        if let Ok(log) = fs::read_to_string(&path) {
            found = log;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    found.push_str(&fs::read_to_string(&path).unwrap_or_default());
    found.push_str(&String::from_utf8_lossy(&output.stderr));
    let mut kill = rig.command(["kill", &name]);
    assert!(kill.output().is_ok());
    assert!(tells(&found, text), "{kind} {item}: {text:?} is not in the log:\n{found}");
    found
}

/// A snapshot for the streamer that reads one.
fn make_snapshot(rig: &Rig) {
    let kernel = rig.file("beat", BEAT.image).display().to_string();
    rig.atoll(["run", "--name", "first", "--detach", "--console", "none", "--memory", "16M", "--kernel", &kernel]).ok();
    rig.atoll(["snapshot", "first", &rig.path("snapshot").display().to_string()]).ok();
    rig.atoll(["kill", "first"]).ok();
}

#[test]
fn in_place_of_any_process_of_a_running_vm_no_attempt_succeeds() {
    let rig = Rig::new("escape-running");
    make_snapshot(&rig);
    let mut report = Report::default();
    let kinds = REPLACED.map(|(kind, _)| kind);
    for (kind, binary) in REPLACED {
        let log = log(&rig, kind, binary, "", &format!("escape {kind} all "));
        for line in log.lines() {
            let words: Vec<&str> = line.rsplit("escape ").next().unwrap_or_default().split(' ').collect();
            if let [of, item, outcome] = words[..]
                && of == kind.name()
                && item != "all"
            {
                report.note(of, item, outcome);
            }
        }
    }
    println!("{}", report.table(&kinds));
    let wrong = report.wrong(&kinds, |kind, item| item.is_tried_by(kind) && !item.kills);
    let reached = report.reached();
    println!(
        "{} items, {} attempts in place of {} processes of a running VM: {} successes",
        TABLE.len(),
        report.len(),
        kinds.len(),
        reached.len()
    );
    assert!(reached.is_empty(), "{reached:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The same with a process for each attempt, whose end the VM must tell as what it is: with the process and the call.
#[test]
fn an_attempt_in_a_running_vm_is_told_as_an_attack() {
    let rig = Rig::new("escape-told");
    make_snapshot(&rig);
    let islets = &REPLACED[1..];
    let each = count(TABLE.len(), 2);
    let mut told = 0;
    for (index, (kind, binary)) in islets.iter().enumerate() {
        let trapped: Vec<_> = TABLE.iter().filter(|item| !item.kills && item.name != "x32-entry").collect();
        // Others for each kind, from all over the table; each at most once.
        let step = if each < trapped.len() { 61 } else { 1 };
        for nth in 0..each.min(trapped.len()) {
            let item = trapped[(index * 17 + nth * step) % trapped.len()];
            // A supervisor has its status page from its keeper after a while; until then an attack is told without the call. Its
            // successors do the same, and the log may be gone before it is read: then the last one is told.
            let call = syscalls::describe(item.calls[0]);
            let call = if *kind == Kind::Supervisor { "supervisor[1] made a forbidden system call" } else { &call };
            log(&rig, *kind, binary, item.name, call);
            told += 1;
        }
    }
    println!("{told} attacks on running VMs are told with their call");
}
