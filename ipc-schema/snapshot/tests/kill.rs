//! kill -9 at every system call of a save: afterwards there is the old snapshot or the new one, and all of it.
//!
//! The idea: the save runs in a child of this test, under ptrace; its n-th system call is not made, because the child is
//! killed where it enters it. For every n until the save gets through.
#![expect(clippy::unwrap_used, clippy::panic, reason = "test code outside of test functions")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Folder, names, save, tag};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use snapshot::{Snapshot, SnapshotError};

/// Names the folder for a child of [`every_system_call`].
const CHILD: &str = "SNAPSHOT_KILL_FOLDER";
const OLD: u64 = 1;
const NEW: u64 = 2;

/// Not a test, but the process to be killed: says the number of its thread, waits for a line, and saves.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    println!("\nthread {}", gettid());
    std::io::stdin().lines().next().unwrap().unwrap();
    save(Path::new(&folder), "monday", NEW).unwrap();
}

fn start(folder: &Path) -> (Child, Pid) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture"]).env(CHILD, folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let thread = lines.find_map(|line| line.strip_prefix("thread ")?.parse().ok()).unwrap();
    // It has more to say, when it gets through.
    std::thread::spawn(move || lines.for_each(drop));
    (child, Pid::from_raw(thread))
}

/// Whether the save got through before its `n`-th system call.
fn survives(folder: &Path, n: usize) -> bool {
    let (mut child, thread) = start(folder);
    let mut stdin = child.stdin.take().unwrap();
    ptrace::attach(thread).unwrap();
    let wait = || waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    assert!(matches!(wait(), WaitStatus::Stopped(..)));
    ptrace::setoptions(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
    // The child reads: that call is under way. Calls are counted from its end on.
    stdin.write_all(b"\n").unwrap();
    let (mut entered, mut inside, mut signal) = (0, true, None);
    loop {
        ptrace::syscall(thread, signal.take()).unwrap();
        match wait() {
            WaitStatus::PtraceSyscall(_) => {
                inside = !inside;
                entered += usize::from(inside);
                if inside && entered == n {
                    child.kill().unwrap();
                    // All threads end; this one is reaped by the process's end.
                    let _ = waitpid(thread, Some(WaitPidFlag::__WALL));
                    child.wait().unwrap();
                    return false;
                }
            }
            WaitStatus::Stopped(_, stopped) => signal = Some(stopped),
            WaitStatus::Exited(_, code) => {
                assert_eq!(code, 0);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(child.wait().unwrap().success());
    true
}

/// Whether this process may trace another one of its own.
fn may_trace() -> bool {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let id = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let attached = ptrace::attach(id);
    child.kill().unwrap();
    child.wait().unwrap();
    if let Err(errno) = attached {
        println!("skipped: ptrace is not permitted here: {errno}");
    }
    attached.is_ok()
}

/// Kills at every call, each time with what `before` leaves; returns how often the old and the new one were found.
fn every_system_call(name: &str, before: impl Fn(&Path)) -> Option<(usize, usize)> {
    if !may_trace() {
        return None;
    }
    let (mut old, mut new) = (0, 0);
    for n in 1.. {
        assert!(n < 2000, "the save does not end");
        let folder = Folder::new(name);
        before(folder.path());
        let through = survives(folder.path(), n);
        match Snapshot::open(&folder.path().join("monday")) {
            Ok(snapshot) => match tag(&snapshot) {
                OLD => old += 1,
                NEW => new += 1,
                other => panic!("call {n}: save {other}"),
            },
            Err(SnapshotError::Missing { .. }) if !folder.path().join("monday").exists() => old += 1,
            Err(error) => panic!("call {n}: {error}"),
        }
        if through {
            assert_eq!(tag(&Snapshot::open(&folder.path().join("monday")).unwrap()), NEW);
            break;
        }
        // The next save finds its place, and takes away what the killed one left.
        save(folder.path(), "monday", 3).unwrap();
        assert_eq!(names(folder.path()), ["monday"], "call {n}");
    }
    println!("{name}: killed at {} calls; {old} times as before, {new} times the new one", old + new);
    Some((old, new))
}

#[test]
fn in_place_of_an_old_snapshot() {
    if let Some((old, new)) = every_system_call("kill-old", |folder| drop(save(folder, "monday", OLD).unwrap())) {
        assert!(old > 30 && new > 5, "{old} {new}");
    }
}

#[test]
fn where_nothing_was() {
    if let Some((old, new)) = every_system_call("kill-none", |_| ()) {
        assert!(old > 30 && new > 1, "{old} {new}");
    }
}
