//! Why a request is refused: what the supervisor's answer says beside the reason.

use std::fmt;

use ::state::StateError;
use guest_memory::Silent;

/// A refusal with a code of its own.
#[derive(Debug)]
pub struct Refusal {
    /// Stable, such as `state.refused`.
    pub code: &'static str,
    /// Why.
    pub why: String,
    /// What can be done.
    pub remedy: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Refusal {}

/// The process has no area for its state.
pub const NO_AREA: &str = "state.none";
/// A state is refused, and nothing has changed.
pub const REFUSED: &str = "state.refused";
/// A vCPU waits for a page of RAM.
pub const BLOCKED: &str = "state.blocked";
/// Nobody has begun a session of harvests.
pub const NO_SESSION: &str = "dirty.none";
/// A vCPU does not acknowledge a harvest.
pub const SILENT: &str = "dirty.silent";
/// The guest's vector for waking from S3 is no good.
pub const VECTOR: &str = "s3.vector";
/// The vCPU that is to be woken does not sleep.
pub const AWAKE: &str = "s3.awake";

impl Refusal {
    /// A vCPU that need not be woken.
    pub fn awake(index: u16) -> Refusal {
        Refusal { code: AWAKE, why: format!("vCPU {index} is not asleep"), remedy: "nothing: it runs" }
    }

    /// Without an area.
    pub fn no_area() -> Refusal {
        Refusal {
            code: NO_AREA,
            why: "the setup gave this process no descriptor \"state\"".to_owned(),
            remedy: "start the VM with a supervisor of the same release",
        }
    }

    /// A state that is not taken.
    pub fn state(e: &StateError) -> Refusal {
        Refusal {
            code: REFUSED,
            why: e.to_string(),
            remedy: "use a snapshot that this version can read, and that is whole",
        }
    }

    /// A vCPU stands in the middle of an instruction.
    pub fn blocked() -> Refusal {
        Refusal {
            code: BLOCKED,
            why: "a vCPU waits for a page of RAM that has not come".to_owned(),
            remedy: "wait until memory is complete; if a part of it is damaged, restore from another snapshot",
        }
    }

    /// A harvest outside of a session.
    pub fn no_session() -> Refusal {
        Refusal {
            code: NO_SESSION,
            why: "no session of harvests has begun, so pages may have been written without a trace".to_owned(),
            remedy: "begin one: its first round finds every page",
        }
    }

    /// A harvest that one vCPU does not acknowledge.
    pub fn silent(silent: Silent) -> Refusal {
        Refusal {
            code: SILENT,
            why: silent.to_string(),
            remedy: "wait until memory is complete and ask again: no page that was found is forgotten",
        }
    }

    /// Waking from S3 fails.
    pub fn vector(why: String) -> Refusal {
        Refusal { code: VECTOR, why, remedy: "reset the VM: its guest went to sleep without a place to wake at" }
    }
}
