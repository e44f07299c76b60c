//! What a campaign has found: a table of items and kinds, and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt::Write;

use nix::errno::Errno;
use probe::escape::{Item, Outcome, TABLE};
use profile::{Kind, syscalls};

/// Outcomes by kind of process and item.
#[derive(Debug, Default)]
pub struct Report {
    found: BTreeMap<(String, &'static str), Outcome>,
}

impl Report {
    /// Notes a line's words. A line that cannot be read is a defect of the attacker.
    #[track_caller]
    pub fn note(&mut self, kind: &str, item: &str, outcome: &str) {
        let name = Item::of(item).unwrap_or_else(|| panic!("no item {item:?}")).name;
        let outcome = Outcome::parse(outcome).unwrap_or_else(|| panic!("{kind} {item}: {outcome:?}"));
        let before = self.found.insert((kind.to_owned(), name), outcome);
        assert!(
            before.is_none() || before == self.found.get(&(kind.to_owned(), name)).cloned(),
            "{kind} {item}: twice"
        );
    }

    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// The items that were reached, with the kind of process.
    pub fn reached(&self) -> Vec<(String, &'static str)> {
        self.found.iter().filter(|(_, outcome)| **outcome == Outcome::Reached).map(|(key, _)| key.clone()).collect()
    }

    /// Everything that is not as it should be: reached, denied otherwise than the table says, or not tried.
    pub fn wrong(&self, kinds: &[Kind], tried: impl Fn(Kind, &Item) -> bool) -> Vec<String> {
        let mut wrong = Vec::new();
        for kind in kinds {
            for item in TABLE.iter().filter(|item| tried(*kind, item)) {
                match self.found.get(&(kind.name().to_owned(), item.name)) {
                    None => wrong.push(format!("{kind}: {} was not tried", item.name)),
                    Some(outcome) if !item.denied(*kind, outcome) => {
                        wrong.push(format!("{kind}: {}: {} ({})", item.name, words(outcome), item.success));
                    }
                    // A trap is not only a denial: it is how an attack is noticed.
                    Some(Outcome::Refused(error)) if *kind != Kind::Keeper => {
                        wrong.push(format!("{kind}: {}: not trapped, but refused with {error:?}", item.name));
                    }
                    Some(_) => {}
                }
            }
        }
        wrong
    }

    /// The table, a line for each item and a column for each kind.
    pub fn table(&self, kinds: &[Kind]) -> String {
        let mut text = format!("{:<24}", "item");
        for kind in kinds {
            let _ = write!(text, "{:>16}", kind.name());
        }
        text.push('\n');
        let mut totals = vec![[0usize; 4]; kinds.len()];
        for item in TABLE {
            let _ = write!(text, "{:<24}", item.name);
            for (kind, total) in kinds.iter().zip(&mut totals) {
                let outcome = self.found.get(&(kind.name().to_owned(), item.name));
                let index = match outcome {
                    Some(Outcome::Reached) => 0,
                    Some(Outcome::Trapped(_)) => 1,
                    Some(Outcome::Refused(_)) => 2,
                    None => 3,
                };
                total[index] += 1;
                let _ = write!(text, "{:>16}", outcome.map_or_else(|| "-".to_owned(), brief));
            }
            text.push('\n');
        }
        for (index, name) in ["reached", "trapped", "refused", "not tried"].into_iter().enumerate() {
            let _ = write!(text, "{name:<24}");
            for total in &totals {
                let _ = write!(text, "{:>16}", total[index]);
            }
            text.push('\n');
        }
        text
    }
}

/// How it was denied, in a column.
fn brief(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Reached => "REACHED".to_owned(),
        Outcome::Refused(error) => format!("{error:?}"),
        Outcome::Trapped(calls) => match calls.first() {
            Some(call) => format!("trap {call}"),
            None => "killed".to_owned(),
        },
    }
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Reached => "reached".to_owned(),
        Outcome::Refused(error) => format!("refused: {}", Errno::desc(*error)),
        Outcome::Trapped(calls) => {
            let calls: Vec<String> = calls.iter().map(|call| syscalls::describe(*call)).collect();
            format!("trapped at {}, which is not the call that was meant", calls.join(", "))
        }
    }
}
