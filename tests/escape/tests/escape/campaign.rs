//! Each attempt in a process of its own: under each profile, without a sandbox, and under profiles with a loosening.

use std::process::Command;
use std::thread;

use probe::escape::{Item, Keeper, Outcome, TABLE};
use profile::Kind;

use crate::report::Report;
use crate::{ATTACKER, guarded, is_root};

/// The least number of attempts that must succeed without a sandbox, as root; of at least forty.
const SOUND: usize = 35;

fn campaign(loosening: &str) -> Report {
    let mut command = guarded(ATTACKER);
    command.arg("campaign").args((!loosening.is_empty()).then_some(loosening));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut report = Report::default();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let [kind, item, outcome] = words[..] else { panic!("{line:?}") };
        report.note(kind, item, outcome);
    }
    report
}

#[test]
fn in_place_of_any_kind_of_process_no_attempt_succeeds() {
    let report = campaign("");
    println!("{}", report.table(&Kind::ALL));
    let wrong = report.wrong(&Kind::ALL, |kind, item| item.is_tried_by(kind));
    let reached = report.reached();
    println!(
        "{} items, {} attempts in place of {} kinds of process: {} successes",
        TABLE.len(),
        report.len(),
        Kind::ALL.len(),
        reached.len()
    );
    assert!(reached.is_empty(), "{reached:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The kernel refuses some of them anyhow, and with the same words; the filter must not lean on that.
#[test]
fn what_the_table_says_of_the_keepers_filter_stands_in_its_profile() {
    let denied: Vec<i64> = Kind::Keeper.profile().calls().collect();
    for item in TABLE {
        let filtered = item.calls.iter().any(|call| denied.contains(call));
        assert_eq!(filtered, item.keeper == Keeper::Filtered, "{}", item.name);
    }
}

/// One attempt in namespaces of its own, in which its process is pid 1.
fn outside(item: &Item) -> Outcome {
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc", "--", ATTACKER]);
    let output = command.args(["outside", item.name]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let outcome = text.trim_end().rsplit('\t').next().and_then(Outcome::parse);
    outcome.unwrap_or_else(|| panic!("{}: {text}{}", item.name, String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn without_a_sandbox_most_attempts_succeed() {
    let (left, right) = TABLE.split_at(TABLE.len() / 2);
    let all = |items: &'static [Item]| items.iter().map(|item| (item, outside(item))).collect::<Vec<_>>();
    let mut outcomes = thread::scope(|scope| {
        let other = scope.spawn(|| all(right));
        let mut outcomes = all(left);
        outcomes.extend(other.join().unwrap());
        outcomes
    });
    let count = outcomes.len();
    outcomes.retain(|(_, outcome)| *outcome != Outcome::Reached);
    println!("without a sandbox {} of {count} attempts succeed", count - outcomes.len());
    for (item, outcome) in &outcomes {
        println!("  not here: {:<24}{outcome:?}", item.name);
    }
    // A user without privileges has them in a namespace of its own only, and not those over the host.
    assert!(count - outcomes.len() >= SOUND, "{outcomes:?}");
}

/// The campaign's zero counts only if it would not be zero with a sandbox that has a hole.
#[test]
fn loosenings_are_reached() {
    for (loosening, item) in [("mmap-allowed", "mmap"), ("argument-allowed", "fcntl-flags"), ("no-filter", "inotify")] {
        let report = campaign(loosening);
        let reached = report.reached();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Keeper) {
            let hit = reached.iter().any(|(of, name)| of == kind.name() && *name == item);
            assert!(hit, "{kind} with {loosening}: {item} is not reached");
        }
        println!("with {loosening} planted, {} attempts succeed", reached.len());
    }
}
