//! What every saved state begins with, whatever process it is of: who wrote it, as of which machine version, with which
//! schema, and what a reader may not ignore.
//!
//! The one idea: the writer cannot know its reader, so it names each field that some reader may not have and whose value
//! matters; a reader that finds a name it does not know refuses, instead of starting a guest with half of its state.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use wire::saved_capnp::saved_state;

use crate::walk::{Visit, walk, without_positions};
use crate::{Kind, Message, StateError};

/// The most names that `mustUnderstand` may have, and the most bytes that one may have.
const MAX_NAMES: (u32, usize) = (4096, 256);

/// Begins the state of a process: a message with process, machine, digest, and the member of `kind` selected. The caller
/// fills in the member (`message.get_root::<saved_state::Builder<'_>>()?.get_state().init_board()`), and calls [`finish`].
///
/// # Errors
/// None for a message in memory; what capnp says otherwise.
pub fn begin(process: &str, machine: &str, kind: Kind) -> Result<Message, StateError> {
    let mut message = Message::new_default();
    let mut root = message.init_root::<saved_state::Builder<'_>>();
    root.set_process(process);
    root.set_machine(machine);
    root.set_schema_digest(kind.digest());
    let state = root.init_state();
    match kind {
        Kind::Engine => drop(state.init_engine()),
        Kind::Board => drop(state.init_board()),
        Kind::Serial => drop(state.init_serial()),
    }
    Ok(message)
}

/// Ends the state of a process: fills in `mustUnderstand`.
///
/// # Errors
/// A message that does not hold a state of a process.
pub fn finish(message: &mut Message) -> Result<(), StateError> {
    let root = message.get_root_as_reader::<saved_state::Reader<'_>>()?;
    let names = must_understand(root, kind(root)?.added());
    let mut root = message.get_root::<saved_state::Builder<'_>>()?;
    if names.is_empty() {
        return Ok(());
    }
    let mut list = root.reborrow().init_must_understand(u32::try_from(names.len()).unwrap_or(0));
    for (index, name) in (0..).zip(&names) {
        list.set(index, name.as_str());
    }
    Ok(())
}

/// Which of the fields `added` (sorted, as [`Kind::added`]) have a value that is not the default, sorted.
#[must_use]
pub fn must_understand(state: saved_state::Reader<'_>, added: &[&str]) -> Vec<String> {
    let mut found = BTreeSet::new();
    let mut visit = |visit: &Visit<'_>| {
        if !visit.default {
            let name = without_positions(visit.path);
            if added.binary_search(&name.as_str()).is_ok() && !HEADER.contains(&name.as_str()) {
                found.insert(name);
            }
        }
        ControlFlow::Continue(())
    };
    let _: ControlFlow<()> = walk(state.into(), ELIDED, &mut visit);
    found.into_iter().collect()
}

/// The group of `SavedState` whose name is not part of paths.
pub(crate) const ELIDED: &str = "state";
/// Fields that say something about the message, not about the guest.
const HEADER: &[&str] = &["process", "machine", "schemaDigest", "mustUnderstand"];

/// The kind of the state, which is the selected member of the union.
///
/// # Errors
/// [`StateError::Unknown`] for a member of a newer version.
pub fn kind(state: saved_state::Reader<'_>) -> Result<Kind, StateError> {
    Ok(match state.get_state().which()? {
        saved_state::state::Engine(_) => Kind::Engine,
        saved_state::state::Board(_) => Kind::Board,
        saved_state::state::Serial(_) => Kind::Serial,
    })
}

/// Checks, before anything else is read, that a state is meant for this process and that nothing in it may be missed.
/// `known` are the paths of fields that the reader understands beyond the frozen schema; [`Kind::added`] for a reader that
/// leaves none out.
///
/// # Errors
/// [`StateError::Field`] for another process, machine or kind; [`StateError::MustUnderstand`] for a name that is not in
/// `known`.
pub fn check(
    state: saved_state::Reader<'_>,
    process: &str,
    machine: &str,
    kind: Kind,
    known: &[&str],
) -> Result<(), StateError> {
    let differs = |field: &str, found: &str, wanted: &str| {
        let found: String = found.chars().take(64).collect();
        Err(StateError::field(field, format!("is '{found}', and this is '{wanted}'")))
    };
    let (of_process, of_machine) = (state.get_process()?.to_str()?, state.get_machine()?.to_str()?);
    if of_process != process {
        return differs("process", of_process, process);
    }
    if of_machine != machine {
        return differs("machine", of_machine, machine);
    }
    let found = self::kind(state)?;
    if found != kind {
        return differs("state", found.name(), kind.name());
    }
    let digest = state.get_schema_digest()?.len();
    if digest != 32 {
        return Err(StateError::field("schemaDigest", format!("has {digest} bytes in place of 32")));
    }
    match not_understood(state, known)?.into_iter().next() {
        Some(name) => Err(StateError::MustUnderstand(name)),
        None => Ok(()),
    }
}

/// The names in the `mustUnderstand` of a state, and in those of its vCPUs (where paths begin at the vCPU), that are not in
/// `known`.
///
/// # Errors
/// More names than any writer has, or what cannot be read.
pub fn not_understood(state: saved_state::Reader<'_>, known: &[&str]) -> Result<Vec<String>, StateError> {
    let mut names = Names { known, seen: 0, unknown: Vec::new() };
    names.look("", state.get_must_understand()?)?;
    if let saved_state::state::Engine(engine) = state.get_state().which()? {
        for vcpu in engine?.get_vcpus()? {
            names.look("engine.vcpus.", vcpu.get_must_understand()?)?;
        }
    }
    Ok(names.unknown)
}

struct Names<'a> {
    known: &'a [&'a str],
    seen: u32,
    unknown: Vec<String>,
}

impl Names<'_> {
    fn look(&mut self, prefix: &str, names: capnp::text_list::Reader<'_>) -> Result<(), StateError> {
        let wrong = |why: String| Err(StateError::field("mustUnderstand", why));
        self.seen = self.seen.saturating_add(names.len());
        if self.seen > MAX_NAMES.0 {
            return wrong(format!("has {} names; at most {}", self.seen, MAX_NAMES.0));
        }
        for name in names {
            let name = name?.to_str()?;
            if name.len() > MAX_NAMES.1 {
                return wrong(format!("has a name of {} bytes; at most {}", name.len(), MAX_NAMES.1));
            }
            let known = |known: &&str| known.strip_prefix(prefix) == Some(name);
            if !self.known.iter().any(known) {
                self.unknown.push(format!("{prefix}{name}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(message: &Message) -> saved_state::Reader<'_> {
        message.get_root_as_reader().unwrap()
    }

    #[test]
    fn a_state_is_for_one_process_of_one_machine() {
        for (process, kind) in [("engine", Kind::Engine), ("board", Kind::Board), ("serial0", Kind::Serial)] {
            let mut message = begin(process, "q35-0", kind).unwrap();
            finish(&mut message).unwrap();
            check(root(&message), process, "q35-0", kind, &[]).unwrap();
            let why =
                |process, machine, kind| check(root(&message), process, machine, kind, &[]).unwrap_err().to_string();
            assert_eq!(why("other", "q35-0", kind), format!("field 'process': is '{process}', and this is 'other'"));
            assert_eq!(why(process, "q35-1", kind), "field 'machine': is 'q35-0', and this is 'q35-1'");
            let other = if kind == Kind::Board { Kind::Engine } else { Kind::Board };
            assert!(why(process, "q35-0", other).starts_with("field 'state': is '"));
        }
    }

    #[test]
    fn a_state_without_a_digest_is_refused() {
        let mut message = begin("board", "q35-0", Kind::Board).unwrap();
        message.get_root::<saved_state::Builder<'_>>().unwrap().set_schema_digest(&[1; 31]);
        let why = check(root(&message), "board", "q35-0", Kind::Board, &[]).unwrap_err().to_string();
        assert_eq!(why, "field 'schemaDigest': has 31 bytes in place of 32");
    }

    #[test]
    fn what_a_reader_does_not_know_it_refuses() {
        let mut message = begin("board", "q35-0", Kind::Board).unwrap();
        let mut names = message.get_root::<saved_state::Builder<'_>>().unwrap().init_must_understand(2);
        names.set(0, "board.pm.suspended");
        names.set(1, "board.hpet");
        let known = |known: &[&str]| check(root(&message), "board", "q35-0", Kind::Board, known);
        known(&["board.hpet", "board.pm.suspended"]).unwrap();
        let refused = |result| matches!(result, Err(StateError::MustUnderstand(name)) if name == "board.hpet");
        assert!(refused(known(&["board.pm.suspended", "board.hpe"])));
        assert_eq!(not_understood(root(&message), &[]).unwrap(), ["board.pm.suspended", "board.hpet"]);
        let mut message = begin("engine", "q35-0", Kind::Engine).unwrap();
        let mut vcpus = engine(&mut message).init_vcpus(2);
        vcpus.reborrow().get(1).init_must_understand(1).set(0, "cpu.x86.fred");
        assert_eq!(not_understood(root(&message), &["cpu.x86.fred"]).unwrap(), ["engine.vcpus.cpu.x86.fred"]);
        assert!(not_understood(root(&message), &["engine.vcpus.cpu.x86.fred"]).unwrap().is_empty());
        message.get_root::<saved_state::Builder<'_>>().unwrap().init_must_understand(4096);
        assert!(not_understood(root(&message), &[]).unwrap_err().to_string().contains("has 4097 names"));
    }

    #[test]
    fn fields_are_named_that_are_new_and_not_default() {
        let added = [
            "engine.clock.guestNanoseconds",
            "engine.clock.tscHz",
            "engine.cpuModel",
            "engine.vcpus",
            "engine.vcpus.cpu.a64",
            "engine.vcpus.cpu.x86",
            "engine.vcpus.cpu.x86.rip",
            "engine.vcpus.index",
            "engine.vcpus.registers",
        ];
        let mut message = begin("engine", "q35-0", Kind::Engine).unwrap();
        assert!(must_understand(root(&message), &added).is_empty());
        engine(&mut message).init_clock().set_tsc_hz(1);
        assert_eq!(must_understand(root(&message), &added), ["engine.clock.tscHz"]);
        engine(&mut message).init_vcpus(3);
        assert_eq!(must_understand(root(&message), &added), ["engine.clock.tscHz", "engine.vcpus"]);
        let mut vcpus = engine(&mut message).get_vcpus().unwrap();
        vcpus.reborrow().get(2).get_cpu().init_x86().set_rip(7);
        vcpus.get(1).get_cpu().init_a64();
        let mut names = vec!["engine.clock.tscHz", "engine.vcpus", "engine.vcpus.cpu.a64", "engine.vcpus.cpu.x86.rip"];
        assert_eq!(must_understand(root(&message), &added), names);
        engine(&mut message).set_cpu_model("atoll-v2");
        names.insert(1, "engine.cpuModel");
        assert_eq!(must_understand(root(&message), &added), names);
        // The names of fields that are frozen are nobody's business.
        assert!(must_understand(root(&message), &[]).is_empty());
    }

    fn engine(message: &mut Message) -> wire::saved_capnp::engine_state::Builder<'_> {
        match message.get_root::<saved_state::Builder<'_>>().unwrap().get_state().which().unwrap() {
            saved_state::state::Engine(engine) => engine.unwrap(),
            _ => unreachable!("it was begun as an engine's"),
        }
    }
}
