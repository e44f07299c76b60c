//! Rules on the repository as a whole: what must be there, and that what is generated is fresh.
//!
//! The idea: these rules ask other programs (git, capnp), and where one is not installed they say so instead of passing
//! in silence.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use state::compat;
use state::model::Schema;

use crate::source::File;
use crate::{Error, Violation, violation};

/// Where the schema and its compiled requests are.
const SCHEMA: &str = "ipc-schema/schema";

/// The result of a rule that may not be applicable here.
#[derive(Debug)]
pub enum Outcome {
    /// It was applied.
    Checked(Vec<Violation>),
    /// It could not be, and why.
    Skipped(String),
}

/// The repository's top folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The README exists and names the two commands that a newcomer needs; the continuous integration runs the second.
pub fn commands(files: &[File]) -> Vec<Violation> {
    let rules = [("README.md", "./dev run"), ("README.md", "./dev test"), (".ci/run", "./dev test"), ("dev", "usage")];
    let mut found = Vec::new();
    for (path, text) in rules {
        if !files.iter().any(|file| file.path == path && file.text.contains(text)) {
            found.push(violation(path, format!("must exist and contain '{text}'")));
        }
    }
    found
}

/// `Cargo.lock` is there and git knows it.
pub fn lock_file(root: &Path) -> Vec<Violation> {
    let missing = |problem: &str| vec![violation("Cargo.lock", problem)];
    if !root.join("Cargo.lock").is_file() {
        return missing("is missing; versions must not depend on the day of the build");
    }
    // As another user's checkout or without git there is nothing to ask; that the file fits is checked by '--locked'.
    let listed = Command::new("git").arg("-C").arg(root).args(["ls-files", "Cargo.lock"]).output();
    match listed {
        Ok(output) if output.status.success() && output.stdout.is_empty() => missing("is not committed"),
        _ => Vec::new(),
    }
}

/// The committed compiler requests are what the schema files compile to.
pub fn schema(root: &Path) -> Result<Outcome, Error> {
    if Command::new("capnp").arg("--version").output().is_err() {
        return Ok(Outcome::Skipped("capnp is not installed (Debian package capnproto)".into()));
    }
    let fresh = env::temp_dir().join(format!("atoll-house-{}", std::process::id()));
    let failed = |path: &Path, cause| Error::File { path: path.display().to_string(), cause };
    fs::create_dir_all(&fresh).map_err(|cause| failed(&fresh, cause))?;
    let result = compare_schema(&root.join(SCHEMA), &fresh);
    fs::remove_dir_all(&fresh).map_err(|cause| failed(&fresh, cause))?;
    result.map(Outcome::Checked)
}

/// Compiles into `fresh` and compares with `folder`.
fn compare_schema(folder: &Path, fresh: &Path) -> Result<Vec<Violation>, Error> {
    let program = folder.join("regenerate");
    let failed = |problem: String| Error::Program { program: program.display().to_string(), problem };
    let output = Command::new(&program).arg(fresh).output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let mut found = Vec::new();
    let entries = fs::read_dir(fresh).map_err(|error| failed(error.to_string()))?;
    let mut compared = 0;
    for entry in entries.flatten() {
        compared += 1;
        let name = entry.file_name();
        let same = matches!((fs::read(entry.path()), fs::read(folder.join(&name))), (Ok(a), Ok(b)) if a == b);
        if !same {
            let place = format!("{SCHEMA}/{}", name.to_string_lossy());
            found.push(violation(place, "is not what the schema compiles to; run ipc-schema/schema/regenerate"));
        }
    }
    if compared == 0 { Err(failed("made no file".into())) } else { Ok(found) }
}

/// What may never change in an incompatible way: saved states, snapshots, and the control socket; each with the compiler
/// request that has it. All types that their messages can hold are meant.
const KEPT: &[(&str, &[&str])] =
    &[("schema.req", &["saved.capnp", "snapshot.capnp"]), ("control.req", &["control.capnp"])];

/// The schema is one that reads what was written with the frozen schema, and the other way around.
pub fn frozen_schema(root: &Path) -> Result<Vec<Violation>, Error> {
    let folder = root.join(SCHEMA);
    let read = |path: PathBuf| fs::read(&path).map_err(|cause| Error::File { path: path.display().to_string(), cause });
    let mut found = Vec::new();
    for (request, files) in KEPT {
        found.extend(compare_frozen(&read(folder.join("frozen").join(request))?, &read(folder.join(request))?, files)?);
    }
    Ok(found)
}

/// Incompatible changes between two requests, in `files` and what their types lead to.
fn compare_frozen(frozen: &[u8], current: &[u8], files: &[&str]) -> Result<Vec<Violation>, Error> {
    let parse = |request: &[u8]| {
        let failed = |error| Error::Program { program: "capnp".into(), problem: format!("made no request: {error}") };
        Schema::parse(request).map_err(failed)
    };
    let (frozen, current) = (parse(frozen)?, parse(current)?);
    if let Some(file) = files.iter().find(|file| frozen.of_files(&[file]).is_empty()) {
        let problem = "the frozen schema has no type of it, so nothing of it is kept";
        return Ok(vec![violation(format!("{SCHEMA}/{file}"), problem)]);
    }
    let remedy = "fields, enumerants and methods may only be added; see ipc-schema/schema/frozen/README.md";
    let changes = compat::changes(&frozen, &current, files).into_iter();
    Ok(changes.map(|change| violation(change.place, format!("{}; {remedy}", change.problem))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(found: Vec<Violation>) -> Vec<String> {
        found.into_iter().map(|violation| violation.place).collect()
    }

    /// A folder of its own that is removed afterwards.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("atoll-house-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_readme_without_a_command_is_caught() {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let files = [file("README.md", "type ./dev run"), file(".ci/run", "exec ./dev test"), file("dev", "usage")];
        assert_eq!(places(commands(&files)), ["README.md"]);
        assert_eq!(places(commands(&[])).len(), 4);
    }

    #[test]
    fn a_missing_lock_file_is_caught() {
        let scratch = Scratch::new("lock");
        assert_eq!(places(lock_file(&scratch.0)), ["Cargo.lock"]);
    }

    #[test]
    fn a_schema_that_cannot_read_old_states_is_caught() {
        let request = fs::read(root().join(SCHEMA).join("frozen/schema.req")).unwrap();
        let files = KEPT[0].1;
        assert_eq!(compare_frozen(&request, &request, files).unwrap(), []);
        // Another name of the same length is in the same place.
        let (old, new) = (b"guestNanoseconds\0", b"hostNanoseconds2\0");
        let mut planted = request.clone();
        let mut at = 0;
        while let Some(found) = planted[at..].windows(old.len()).position(|window| window == old) {
            at += found;
            planted[at..at + new.len()].copy_from_slice(new);
        }
        let caught = places(compare_frozen(&request, &planted, files).unwrap());
        assert!(caught.contains(&"state.capnp:ClockState.guestNanoseconds".into()), "{caught:?}");
        assert_eq!(
            places(compare_frozen(&request, &request, &["gone.capnp"]).unwrap()),
            ["ipc-schema/schema/gone.capnp"]
        );
        assert!(compare_frozen(&request, b"", files).is_err());
    }

    #[test]
    fn an_old_request_is_caught() {
        let scratch = Scratch::new("schema");
        let (folder, fresh) = (scratch.0.join("schema"), scratch.0.join("fresh"));
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(&fresh).unwrap();
        let script = "#!/bin/sh\necho new >$1/a.req; echo same >$1/b.req\n";
        let regenerate = folder.join("regenerate");
        fs::write(&regenerate, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&regenerate, mode).unwrap();
        fs::write(folder.join("a.req"), "old\n").unwrap();
        fs::write(folder.join("b.req"), "same\n").unwrap();
        assert_eq!(places(compare_schema(&folder, &fresh).unwrap()), ["ipc-schema/schema/a.req"]);
        fs::write(&regenerate, "#!/bin/sh\nexit 1\n").unwrap();
        assert!(compare_schema(&folder, &fresh).is_err());
    }
}
