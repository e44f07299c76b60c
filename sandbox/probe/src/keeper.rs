//! The keeper's role: starts islets on request and reports how they ended.
//!
//! Requests and answers are lines on descriptor 3, words separated by tabs:
//!
//! | request | answer |
//! |---|---|
//! | `start NAME ARGUMENT…` | `started PID PROC_NUMBER`, or `failed TEXT` |
//! | `startfile PATH` | the same, for another binary |
//! | `end NAME` | `ended CAUSE SENTENCE STAGE LANDLOCK OUTPUT`: closes the islet's control socket and waits |
//! | `kill NAME` | the same, but kills it first |
//! | `line NAME` | `line TEXT`: the next line that the islet writes |
//! | `status NAME` | `status STAGE LANDLOCK`, of a running islet |
//! | `ids` | `ids true` if islets have ids of their own |
//! | `seal` | `sealed`: installs the keeper's own deny list |

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, bail};
use enter::ThreadGate;
use enter::status::{STATUS_PAGE_SIZE, StatusPage};
use nix::sys::memfd::{MFdFlags, memfd_create};
use profile::Kind;
use spawn::{CONTROL_FD, Child, Command, ExitCause, Image, Spawner};

/// Where an islet finds its status memfd.
pub(crate) const STATUS_FD: i32 = 4;

struct Running {
    child: Child,
    control: UnixStream,
    status: &'static StatusPage,
}

/// Serves requests until the test closes the socket; the end of pid 1 then ends every islet.
pub(crate) fn run() -> anyhow::Result<()> {
    if std::process::id() != 1 {
        bail!("the keeper must be pid 1");
    }
    let control = control_socket();
    let mut answers = control.try_clone()?;
    enter::before_threads(Kind::Keeper.profile())?;
    let spawner = Spawner::new()?;
    let mut running = HashMap::new();
    for line in BufReader::new(control).lines() {
        let line = line?;
        let words: Vec<&str> = line.split('\t').collect();
        let answer = match words[..] {
            ["start", name, ..] => started(&mut running, &spawner, name, "/proc/self/exe", &words[2..]),
            ["startfile", path] => started(&mut running, &spawner, "other", path, &[]),
            ["end", name] => ended(running.remove(name).context("no such islet")?, false),
            ["kill", name] => ended(running.remove(name).context("no such islet")?, true),
            ["status", name] => {
                let status = running.get(name).context("no such islet")?.status.snapshot();
                Ok(format!("status\t{:?}\t{}", status.stage, status.landlock_abi))
            }
            ["line", name] => {
                let islet = running.get_mut(name).context("no such islet")?;
                let mut line = Vec::new();
                let mut byte = [0];
                while islet.control.read(&mut byte)? == 1 && byte != *b"\n" {
                    line.push(byte[0]);
                }
                Ok(format!("line\t{}", String::from_utf8_lossy(&line)))
            }
            ["ids"] => Ok(format!("ids\t{}", spawner.islets_have_own_ids())),
            ["seal"] => {
                // The spawn thread, which exists already, gets the filter by TSYNC.
                enter::seal(Kind::Keeper.profile(), &ThreadGate::new())?;
                Ok("sealed".to_owned())
            }
            _ => bail!("unknown request {line:?}"),
        };
        let answer = answer.unwrap_or_else(|error| format!("failed\t{error:#}"));
        writeln!(answers, "{}", answer.replace('\n', " "))?;
    }
    Ok(())
}

/// Descriptor 3 as a socket.
#[expect(unsafe_code, reason = "the start-up convention gives this process descriptor 3, and nobody else uses it")]
pub(crate) fn control_socket() -> UnixStream {
    // SAFETY: the descriptor was placed by whoever started this process, and is taken once.
    UnixStream::from(unsafe { OwnedFd::from_raw_fd(CONTROL_FD) })
}

fn started(
    running: &mut HashMap<String, Running>,
    spawner: &Spawner,
    name: &str,
    path: &str,
    arguments: &[&str],
) -> anyhow::Result<String> {
    let image = Image::open(path)?;
    let memfd = File::from(memfd_create(c"status", MFdFlags::MFD_CLOEXEC)?);
    memfd.set_len(STATUS_PAGE_SIZE as u64)?;
    let status = StatusPage::map(memfd.as_fd(), 0)?;
    let (control, theirs) = UnixStream::pair()?;
    let log = std::io::stderr();
    let mut command = Command::new(name, &image).arg("islet").env("PROBE", "1");
    for argument in arguments {
        command = command.arg(*argument);
    }
    let command = command.log(log.as_fd()).control(theirs.as_fd()).fd(memfd.as_fd(), STATUS_FD);
    let child = spawner.spawn(&command)?;
    let answer = format!("started\t{}\t{}", child.pid(), child.proc_number()?);
    running.insert(name.to_owned(), Running { child, control, status });
    Ok(answer)
}

fn ended(running: Running, kill: bool) -> anyhow::Result<String> {
    let Running { child, mut control, status } = running;
    if kill {
        child.kill()?;
    }
    control.shutdown(std::net::Shutdown::Write)?;
    let mut output = String::new();
    control.read_to_string(&mut output)?;
    let exit = child.wait(None)?.context("a wait without limit ends with an exit")?;
    let status = status.snapshot();
    let cause = ExitCause::decode(exit, Some(&status));
    let kind = match &cause {
        ExitCause::Clean => "clean",
        ExitCause::Error { .. } => "error",
        ExitCause::Panic { .. } => "panic",
        ExitCause::Signal { .. } => "signal",
        ExitCause::Trapped { .. } => "trapped",
        ExitCause::LostPeer { .. } => "lost-peer",
        ExitCause::OutOfMemory { .. } => "out-of-memory",
        ExitCause::Aborted => "aborted",
    };
    let (stage, abi) = (status.stage, status.landlock_abi);
    Ok(format!("ended\t{kind}\t{cause}\t{stage:?}\t{abi}\t{}", output.trim_end().replace('\n', ";")))
}
