//! Lists of registers that not every host has, and what may be done about a difference between two hosts.
//!
//! The one idea: a difference is never passed over in silence. Every register that came is either loaded, or given up with a
//! reason that a rule (or that both sides agree on the value after a reset) gives, or the whole list is refused with every
//! register named; nothing else can happen to it, wherever its id sorts. Rules are data. Nothing here depends on an
//! architecture: an id is an MSR's index on x86 and KVM's register id elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub mod rules;

/// The most registers that one list may have.
pub const MAX_REGISTERS: usize = 4096;

/// A register with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// MSR index (x86), or KVM's register id.
    pub id: u64,
    /// Bytes, 1 to 16.
    pub size: u8,
    /// Of `size` bytes.
    pub value: u128,
}

/// A register of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// What it held.
    pub register: Register,
    /// What it holds after a reset of the source's vCPU, if that is known.
    pub reset: Option<u128>,
}

/// A register that the destination has, with its value after a reset.
pub type Known = Register;

/// What may be done about a register that only one side has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only the source has it: it may be given up if `value & mask == equals`.
    DropIf {
        /// The bits that count.
        mask: u128,
        /// What they must be.
        equals: u128,
    },
    /// Only the destination has it: it gets this value, not that after a reset.
    Default(u128),
    /// The machine version does not have it, whatever hosts have: it is given up whatever its value, and never loaded.
    Hide,
    /// It must not differ, not even with the value after a reset.
    Refuse,
}

/// An exception for one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The register.
    pub id: u64,
    /// Its name, for messages.
    pub name: &'static str,
    /// What may be done.
    pub action: Action,
    /// Why that is right.
    pub why: &'static str,
}

/// The rules that came with one machine version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Such as `q35-0`.
    pub machine: &'static str,
    /// In any order.
    pub rules: &'static [Rule],
}

/// The rules of a machine version: its own and those of all newer ones. What a newer version knows about hosts is true of
/// guests that were started with an older one; a rule that holds for new guests only cannot be written.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    by_id: BTreeMap<u64, Vec<&'static Rule>>,
}

impl Rules {
    /// Adds up the rules for `machine`. `table` is ordered from the oldest version to the newest. Nothing for a machine that
    /// is not in it.
    #[must_use]
    pub fn of(table: &[Version], machine: &str) -> Option<Self> {
        let start = table.iter().position(|version| version.machine == machine)?;
        let mut rules = Self::default();
        for rule in table.iter().skip(start).flat_map(|version| version.rules) {
            rules.by_id.entry(rule.id).or_default().push(rule);
        }
        Some(rules)
    }

    fn about(&self, id: u64) -> &[&'static Rule] {
        self.by_id.get(&id).map_or(&[], Vec::as_slice)
    }

    fn hides(&self, id: u64) -> bool {
        self.about(id).iter().any(|rule| rule.action == Action::Hide)
    }

    fn name(&self, id: u64) -> Option<&'static str> {
        self.about(id).first().map(|rule| rule.name)
    }
}

/// What is to be loaded, and what became of the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// All registers that the destination sets, by id.
    pub load: Vec<Register>,
    /// Registers of the source that are given up, by id.
    pub dropped: Vec<(Register, Reason)>,
}

/// Why a register of the source can be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It held what it holds after a reset.
    Reset,
    /// A rule.
    Rule(&'static str),
}

/// The registers for which there is no way to load the list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {} cannot be loaded here: {}", .0.len(), if .0.len() == 1 { "register" } else { "registers" },
    .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Refusal(
    /// Each of them, by id.
    pub Vec<Refused>,
);

/// One register that cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its id.
    pub id: u64,
    /// Its name, where a rule has one.
    pub name: Option<&'static str>,
    /// Why.
    pub why: Why,
}

/// Why a register cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Only the source has it, with a value that no rule lets go.
    OnlySource {
        /// That value.
        value: u128,
        /// After a reset, if known.
        reset: Option<u128>,
    },
    /// Only the source has it, and a rule says that it must not be lost.
    MustStay(&'static str),
    /// Only the destination has it, and a rule says that the guest must have had it.
    MustCome(&'static str),
    /// The sides differ in how long it is.
    Size {
        /// Bytes at the source.
        source: u8,
        /// Bytes at the destination.
        destination: u8,
    },
    /// The list names it twice.
    Twice,
    /// The list is wrong about itself: no size, or a value that is longer.
    Malformed(u8),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.id)?;
        if let Some(name) = self.name {
            write!(f, " ({name})")?;
        }
        match self.why {
            Why::OnlySource { value, reset: Some(reset) } => {
                write!(f, " is unknown here and holds {value:#x}, not {reset:#x} as after a reset")
            }
            Why::OnlySource { value, reset: None } => write!(f, " is unknown here and holds {value:#x}"),
            Why::MustStay(why) => write!(f, " is unknown here and must not be lost: {why}"),
            Why::MustCome(why) => write!(f, " is missing from the state: {why}"),
            Why::Size { source, destination } => write!(f, " has {source} bytes there and {destination} here"),
            Why::Twice => f.write_str(" comes twice"),
            Why::Malformed(size) => write!(f, " has a size of {size} bytes that its value does not fit"),
        }
    }
}

/// What the destination loads so that the guest notices no difference. Before anything is stopped it can be asked with the
/// values of the moment; the answer counts that is given for those of the stopped guest.
///
/// # Errors
/// [`Refusal`] with every register that stands in the way.
pub fn reconcile(source: &[Incoming], known: &[Known], rules: &Rules) -> Result<Plan, Refusal> {
    let here: BTreeMap<u64, &Known> = known.iter().map(|known| (known.id, known)).collect();
    let (mut plan, mut refused) = (Plan::default(), Vec::new());
    let mut seen = BTreeSet::new();
    for incoming in source {
        let Register { id, .. } = incoming.register;
        let fate = match here.get(&id) {
            _ if !seen.insert(id) => Err(Why::Twice),
            _ if !fits(incoming.register) => Err(Why::Malformed(incoming.register.size)),
            Some(known) => both(incoming.register, known, rules),
            None => only_source(incoming, rules).map(Some),
        };
        match fate {
            Ok(None) => plan.load.push(incoming.register),
            Ok(Some(reason)) => plan.dropped.push((incoming.register, reason)),
            Err(why) => refused.push(Refused { id, name: rules.name(id), why }),
        }
    }
    for known in here.values().filter(|known| !seen.contains(&known.id)) {
        match only_destination(known, rules) {
            Ok(load) => plan.load.extend(load),
            Err(why) => refused.push(Refused { id: known.id, name: rules.name(known.id), why }),
        }
    }
    plan.load.sort_by_key(|register| register.id);
    plan.dropped.sort_by_key(|(register, _)| register.id);
    refused.sort_by_key(|refused| refused.id);
    if refused.is_empty() { Ok(plan) } else { Err(Refusal(refused)) }
}

fn fits(register: Register) -> bool {
    let bits = u32::from(register.size) * 8;
    (1..=16).contains(&register.size) && register.value.checked_shr(bits).unwrap_or(0) == 0
}

/// Nothing, if it is to be loaded.
fn both(register: Register, known: &Known, rules: &Rules) -> Result<Option<Reason>, Why> {
    if let Some(rule) = rules.about(register.id).iter().find(|rule| rule.action == Action::Hide) {
        return Ok(Some(Reason::Rule(rule.why)));
    }
    if register.size != known.size {
        return Err(Why::Size { source: register.size, destination: known.size });
    }
    Ok(None)
}

fn only_source(incoming: &Incoming, rules: &Rules) -> Result<Reason, Why> {
    let Incoming { register: Register { id, value, .. }, reset } = *incoming;
    let rules = rules.about(id);
    if let Some(rule) = rules.iter().find(|rule| rule.action == Action::Refuse) {
        return Err(Why::MustStay(rule.why));
    }
    let lets_go = |rule: &&&Rule| match rule.action {
        Action::DropIf { mask, equals } => value & mask == equals,
        Action::Hide => true,
        Action::Default(_) | Action::Refuse => false,
    };
    match rules.iter().find(lets_go) {
        Some(rule) => Ok(Reason::Rule(rule.why)),
        None if reset == Some(value) => Ok(Reason::Reset),
        None => Err(Why::OnlySource { value, reset }),
    }
}

/// What the guest finds in a register that it did not have before: by default what a reset gives.
fn only_destination(known: &Known, rules: &Rules) -> Result<Option<Register>, Why> {
    if rules.hides(known.id) {
        return Ok(None);
    }
    let mut value = known.value;
    // The rule of the version that is nearest to the machine's counts.
    for rule in rules.about(known.id).iter().rev() {
        match rule.action {
            Action::Default(other) => value = other,
            Action::Refuse => return Err(Why::MustCome(rule.why)),
            Action::DropIf { .. } | Action::Hide => {}
        }
    }
    let register = Register { value, ..*known };
    if fits(register) { Ok(Some(register)) } else { Err(Why::Malformed(known.size)) }
}

#[cfg(test)]
mod tests;
