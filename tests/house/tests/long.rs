//! `./dev test --long` by itself: a copy of the script in a small tree, where cargo and all that it would fetch are stand-ins.
//!
//! The idea: the stand-in for cargo writes down what it was asked to test, and does what a file of the tree says. So what is run,
//! what is not run again, and what counts as passed can be read off.

#![cfg(test)]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs};

use house::repository::root;

const SUITES: &str = "\
# name minutes crate module
long   30 one   long
short  10 one   short
middle 20 two
rest   10 *
";
const NAMES: [&str; 4] = ["long", "middle", "rest", "short"];

/// Notes the tests that it is asked for, and says what the file `result` says: `fail`, or a line of a test.
const CARGO: &str = r#"#!/bin/bash
[ "$1" = test ] || exit 0
echo "$*" >>"$ATOLL_CACHE/asked"
echo "running 1 test"
. ./result
"#;

/// Ends the script from within a test, which it runs in a shell of its own.
const INTERRUPT: &str = "kill -KILL $(cut -d' ' -f4 /proc/$PPID/stat)";

/// The tree; removed when dropped.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Tree {
    fn new(test: &str) -> Self {
        let tree = Self(env::temp_dir().join(format!("atoll-house-{}-{test}", std::process::id())));
        let target = "target/x86_64-unknown-linux-gnu/checked";
        tree.program("stand-ins/cc", "#!/bin/sh\ncat >/dev/null\n");
        tree.program("stand-ins/qemu-s390x-static", "#!/bin/sh\nexit 0\n");
        // Nothing is installed.
        tree.program("stand-ins/apt-get", "#!/bin/sh\nexit 1\n");
        tree.program("stand-ins/cargo", CARGO);
        tree.program("stand-ins/id", "#!/bin/sh\necho ${WHO:-0}\n");
        tree.program("stand-ins/rustc", "#!/bin/sh\necho rustc 99.0.0\n");
        tree.program("tests/clients/prepare", "#!/bin/sh\nexit 0\n");
        tree.program(&format!("{target}/guest"), "#!/bin/sh\nexit 0\n");
        for file in ["info", "vmlinuz", "busybox"] {
            tree.write(&format!("cache/guest/{file}"), "");
        }
        tree.program("dev", &fs::read_to_string(root().join("dev")).unwrap());
        tree.write("tests/suites", SUITES);
        tree.result("");
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn program(&self, path: &str, text: &str) {
        self.write(path, text);
        fs::set_permissions(self.0.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What tests do from now on, in the shell's language; the words of cargo's command are `$*`.
    fn result(&self, script: &str) {
        self.write("result", script);
    }

    fn dev_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
        let path = format!("{}:{}", self.0.join("stand-ins").display(), env::var("PATH").unwrap());
        let mut command = Command::new(self.0.join("dev"));
        command.args(["test", "--long"]).args(arguments).env_clear().env("PATH", path).envs(settings.iter().copied());
        command.env("HOME", &self.0).env("ATOLL_CACHE", self.0.join("cache")).env("CARGO_HOME", self.0.join("cache"));
        command.output().unwrap()
    }

    /// Runs it; whether it succeeds, and the suites that were run.
    fn run_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> (bool, BTreeSet<String>) {
        let asked = self.0.join("cache/asked");
        let _ = fs::remove_file(&asked);
        let done = self.dev_with(arguments, settings);
        let asked = fs::read_to_string(asked).unwrap_or_default();
        let name = |line: &str| match line {
            _ if line.contains("--workspace --exclude one") => "rest",
            _ if line.contains("-p two") => "middle",
            _ if line.contains("-p one long::") => "long",
            _ if line.contains("-p one short::") => "short",
            other => unreachable!("{other}\n{}", String::from_utf8_lossy(&done.stderr)),
        };
        if asked.is_empty() && !done.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&done.stderr));
        }
        (done.status.success(), asked.lines().map(|line| name(line).to_owned()).collect())
    }

    fn run(&self) -> (bool, BTreeSet<String>) {
        self.run_with(&[], &[])
    }

    /// Name and result of each suite that `--list` has.
    fn list(&self, arguments: &[&str]) -> Vec<(String, String)> {
        let done = self.dev_with(&[&["--list"], arguments].concat(), &[]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let text = String::from_utf8(done.stdout).unwrap();
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[0].to_owned(), words[3].to_owned())
        };
        text.lines().skip(1).map(row).collect()
    }
}

fn all() -> BTreeSet<String> {
    NAMES.map(str::to_owned).into()
}

fn only(name: &str) -> BTreeSet<String> {
    [name.to_owned()].into()
}

#[test]
fn what_has_passed_is_not_run_again_until_something_changes() {
    let tree = Tree::new("passed");
    assert!(tree.list(&[]).iter().all(|(_, result)| result == "-"));
    assert_eq!(tree.run(), (true, all()));
    assert!(tree.list(&[]).iter().all(|(_, result)| result == "passed"), "{:?}", tree.list(&[]));
    assert_eq!(tree.run(), (true, BTreeSet::new()));
    assert_eq!(tree.run_with(&["--again", "middle"], &[]), (true, only("middle")));
    assert_eq!(tree.run_with(&["one"], &[("ATOLL_FUZZ_SECONDS", "1")]).1.len(), 2, "other settings");
    assert_eq!(tree.run_with(&["middle"], &[("WHO", "1000")]), (true, only("middle")), "another user");
    assert_eq!(tree.run(), (true, BTreeSet::new()));
    tree.write("README.md", "another");
    assert_eq!(tree.run(), (true, all()));
}

#[test]
fn what_failed_was_interrupted_or_was_skipped_is_run_again() {
    let tree = Tree::new("failed");
    let middle = |outcome: &str| format!("case \"$*\" in *\"-p two\"*) [ -e $ATOLL_CACHE/now ] || {outcome} ;; esac");
    for (number, (outcome, result)) in
        [("exit 1", "failed"), ("echo 'skipped: not here'", "skipped"), (INTERRUPT, "-")].into_iter().enumerate()
    {
        tree.write("number", &number.to_string());
        tree.result(&middle(outcome));
        let (well, ran) = tree.run();
        assert!(!well && ran.contains("middle"), "{outcome}");
        assert_eq!(tree.list(&["middle"]), [("middle".to_owned(), result.to_owned())]);
        let missing: BTreeSet<String> = all().difference(&ran).cloned().chain(["middle".to_owned()]).collect();
        tree.write("cache/now", "");
        assert_eq!(tree.run(), (true, missing), "{outcome}");
        fs::remove_file(tree.0.join("cache/now")).unwrap();
    }
}

#[test]
fn a_suite_without_a_test_or_during_which_files_change_has_not_passed() {
    let tree = Tree::new("changed");
    tree.result("date +%N >changed");
    assert!(!tree.run_with(&["middle"], &[]).0);
    assert_eq!(tree.list(&["middle"])[0].1, "-");
    tree.program("stand-ins/cargo", &CARGO.replace("running 1 test", "running 0 tests"));
    tree.result("");
    assert!(!tree.run_with(&["middle"], &[]).0);
    assert_eq!(tree.list(&["middle"])[0].1, "failed");
}

#[test]
fn parts_are_disjoint_complete_and_of_about_the_same_length() {
    let tree = Tree::new("parts");
    let part =
        |part: &str| -> BTreeSet<String> { tree.list(&["--shard", part]).into_iter().map(|(name, _)| name).collect() };
    let minutes = |names: &BTreeSet<String>| -> u32 {
        let of = |name: &String| match name.as_str() {
            "long" => 30,
            "middle" => 20,
            _ => 10,
        };
        names.iter().map(of).sum()
    };
    for count in 1..=5 {
        let parts: Vec<BTreeSet<String>> = (1..=count).map(|number| part(&format!("{number}/{count}"))).collect();
        assert_eq!(parts.iter().map(BTreeSet::len).sum::<usize>(), NAMES.len());
        assert_eq!(parts.iter().flatten().cloned().collect::<BTreeSet<_>>(), all());
        if count == 2 {
            assert!(parts.iter().all(|part| minutes(part) <= 40), "{parts:?}");
        }
    }
    assert_eq!(tree.run_with(&["--shard", "2/2"], &[]), (true, part("2/2")));
    for wrong in ["0/2", "3/2", "1", "x/2"] {
        assert!(!tree.dev_with(&["--list", "--shard", wrong], &[]).status.success(), "{wrong}");
    }
}
