//! Applies every rule of the house to this repository, one test each, so that a failure has the rule's name.

#![cfg(test)]

use std::sync::LazyLock;

use house::graph::{self, Graph};
use house::repository::{self, Outcome, root};
use house::source::{self, File};
use house::suites;
use house::{Error, Violation};

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| source::read_all(&root()).unwrap());
static GRAPH: LazyLock<Graph> = LazyLock::new(|| Graph::of_workspace(&root()).unwrap());

/// Fails with all violations at once.
#[track_caller]
fn none(found: Vec<Violation>) {
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), lines.join("\n"));
}

#[test]
fn the_repository_is_seen() {
    assert!(FILES.iter().any(|file| file.path == "tests/house/tests/house.rs"));
    assert!(GRAPH.ours().any(|(package, _)| package.name == "house"));
    assert!(GRAPH.packages.values().any(|package| package.name == "capnp" && package.folder.is_none()));
}

#[test]
fn crates_depend_only_on_the_folders_they_may() {
    none(graph::edges(&GRAPH));
}

#[test]
fn crates_are_named_as_their_folders() {
    none(graph::names(&GRAPH));
}

#[test]
fn no_islet_has_an_async_runtime() {
    none(graph::async_runtimes(&GRAPH));
}

#[test]
fn the_translator_has_no_device_crate() {
    none(graph::translator(&GRAPH));
}

#[test]
fn the_translator_hides_no_device() {
    none(source::devices_in_translator(&FILES));
}

#[test]
fn every_file_says_what_it_owns() {
    none(source::opening(&FILES));
}

#[test]
fn no_file_is_too_long() {
    none(source::length(&FILES));
}

#[test]
fn every_crate_takes_the_lints() {
    none(source::lints(&FILES));
}

#[test]
fn unsafe_is_only_where_it_may_be() {
    none(source::unsafe_places(&FILES));
}

#[test]
fn nothing_panics_outside_tests() {
    none(source::panics(&FILES));
}

#[test]
fn no_words_of_one_machine_or_of_unfinished_work() {
    none(source::foreign_words(&FILES));
}

#[test]
fn the_commands_are_there_and_documented() {
    none(repository::commands(&FILES));
}

#[test]
fn every_test_is_in_a_suite() {
    none(suites::suites(&FILES));
}

#[test]
fn the_lock_file_is_committed() {
    none(repository::lock_file(&root()));
}

#[test]
fn the_compiled_schema_is_fresh() -> Result<(), Error> {
    match repository::schema(&root())? {
        Outcome::Checked(found) => none(found),
        Outcome::Skipped(why) => println!("skipped: {why}"),
    }
    Ok(())
}

#[test]
fn the_schema_reads_what_was_written_with_the_frozen_one() -> Result<(), Error> {
    none(repository::frozen_schema(&root())?);
    Ok(())
}
