//! What the supervisor tells the launcher: that the VM runs, and how it ended.
//!
//! Its messages are `LaunchReport`s of vm.capnp on a socket of their own, so that the exit status is not all that is known.

use control::types::Problem;
use link::capnp::try_recv_message;
use link::{Inbox, Link, LinkError};
use wire::vm_capnp::launch_report;

/// Longest text that is printed of one field.
const MAX_TEXT: usize = 4096;

/// What became of the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    Running,
    Paused,
    Ended {
        /// One sentence.
        reason: String,
        /// If it is an error.
        problem: Option<Problem>,
    },
}

/// The next report, or `None` if there is none now.
///
/// # Errors
/// The supervisor has let go of the link, or said something else.
pub fn next(link: &Link, inbox: &mut Inbox) -> Result<Option<Report>, LinkError> {
    match try_recv_message(link, inbox)? {
        None => Ok(None),
        Some(message) => read(&message.reader)
            .map(Some)
            .map_err(|error| LinkError::Malformed { peer: link.peer().clone(), why: error.to_string() }),
    }
}

fn read<S: capnp::message::ReaderSegments>(message: &capnp::message::Reader<S>) -> capnp::Result<Report> {
    use launch_report::Which;
    Ok(match message.get_root::<launch_report::Reader<'_>>()?.which()? {
        Which::Running(()) => Report::Running,
        Which::Paused(()) => Report::Paused,
        Which::Ended(ended) => {
            let problem = ended.has_problem().then(|| -> capnp::Result<Problem> {
                let failure = ended.get_problem()?;
                Ok(Problem {
                    code: text(failure.get_code()?),
                    what: text(failure.get_what()?),
                    why: text(failure.get_why()?),
                    remedy: text(failure.get_remedy()?),
                })
            });
            Report::Ended { reason: text(ended.get_reason()?), problem: problem.transpose()? }
        }
    })
}

/// For a terminal: bounded, and without control characters.
fn text(raw: capnp::text::Reader<'_>) -> String {
    let text = String::from_utf8_lossy(raw.as_bytes());
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use link::capnp::{Scratch, send_message};
    use link::{Deadline, Peer};
    use std::time::Duration;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    #[test]
    fn reports_come_across() {
        let (ours, theirs) = Link::pair(Peer::new("launcher", 0), Peer::new("supervisor", 0)).unwrap();
        let (mut inbox, mut scratch) = (Inbox::new(), Scratch::new(4096));
        assert_eq!(next(&ours, &mut inbox).unwrap(), None);
        let mut message = scratch.builder();
        message.init_root::<launch_report::Builder<'_>>().set_running(());
        send_message(&theirs, &message, &[], soon()).unwrap();
        drop(message);
        let mut message = scratch.builder();
        let mut ended = message.init_root::<launch_report::Builder<'_>>().init_ended();
        ended.set_reason("the engine\x1b is gone");
        let mut failure = ended.init_problem();
        failure.set_code("process.gone");
        failure.set_what("w");
        send_message(&theirs, &message, &[], soon()).unwrap();
        assert_eq!(next(&ours, &mut inbox).unwrap(), Some(Report::Running));
        let problem = Problem { code: "process.gone".into(), what: "w".into(), ..Problem::default() };
        let ended = Report::Ended { reason: "the engine  is gone".into(), problem: Some(problem) };
        assert_eq!(next(&ours, &mut inbox).unwrap(), Some(ended));
    }

    #[test]
    fn garbage_is_an_error() {
        let (ours, theirs) = Link::pair(Peer::new("launcher", 0), Peer::new("supervisor", 0)).unwrap();
        theirs.send(b"garbage", &[], soon()).unwrap();
        assert!(matches!(next(&ours, &mut Inbox::new()), Err(LinkError::Malformed { .. })));
        drop(theirs);
        assert!(next(&ours, &mut Inbox::new()).unwrap_err().is_peer_gone());
    }
}
