//! Rules on single files: how they open, how long they are, and what they may not contain.
//!
//! The idea: a rule gets a [`File`] (path and text) and says what is wrong with it, so that a test can make one up.

use std::collections::BTreeSet;
use std::path::Path;

use crate::text::{code_only, test_modules, without_tests, words};
use crate::{Error, Violation, violation};

/// A text file of the repository.
#[derive(Debug, Clone)]
pub struct File {
    /// Relative to the repository, with slashes.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// Folders that hold no source of ours.
const SKIPPED: &[&str] = &[".git", ".cache", "target"];
/// The most lines that a file may have, without its tests.
const MAX_LINES: usize = 900;
/// The crates that may use `unsafe`, and what for; each of their modules that does says so again.
const UNSAFE_ALLOWED: &[(&str, &str)] = &[
    ("ipc-schema/guest-memory", "mappings that other processes write"),
    ("ipc-schema/doorbell", "futexes and cache lines shared with other processes"),
    ("ipc-schema/uffd", "the system calls of userfaultfd"),
    ("sandbox/arena", "the global allocator"),
    ("sandbox/spawn", "clone3 and what a child may do before exec"),
    ("sandbox/enter", "signal handlers and the system calls of lock-down"),
    ("sandbox/probe", "tries forbidden system calls; only tests run it"),
    ("tcg-engine/fp", "the host's floating point instructions"),
    ("tcg-engine/code", "the code cache"),
    ("tcg-engine/emit-x64", "calls into emitted code"),
    ("vmm/engine-kvm", "KVM's shared pages"),
    ("tests/bench-guest", "SSE registers, pages of code that it writes, and system calls"),
    ("tests/differential", "runs given machine code on the host CPU and catches what it does"),
];
/// Macros that end the process; what cannot happen is an error like any other, or `unreachable!` that says why.
const PANICKING: &[&str] = &["panic", "todo", "unimplemented", "dbg"];
/// What names a module that emulates a device.
const DEVICE_WORDS: &[&str] = &[
    "uart", "serial", "ns16550", "pl011", "ioapic", "pic", "i8259", "pit", "i8254", "rtc", "cmos", "hpet", "pci",
    "ecam", "virtio", "vhost", "keyboard", "i8042", "ps2", "vga", "floppy", "ide", "ahci", "nvme", "pm", "acpi",
];
/// Numbers that only a device or a board needs: its ports and addresses.
const DEVICE_NUMBERS: &[&str] = &["0x3f8", "0x2f8", "0xcf9", "0x4d0", "0xfec0_0000", "0xfec00000", "0xfed0_0000"];
/// Beginnings of absolute paths of somebody's machine.
const PLACES: &[&str] = &["home", "root", "work", "Users", "mnt"];
/// Hosts of package registries; what is needed comes from the sources that a machine is set up with.
const HOSTS: &[&str] = &["crates.io", "debian.org", "ubuntu.com", "pypi.org", "rust-lang.org"];
/// Marks of unfinished work.
const UNFINISHED: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// Reads every text file below `root`.
pub fn read_all(root: &Path) -> Result<Vec<File>, Error> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        let failed = |cause| Error::File { path: folder.display().to_string(), cause };
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                let name = name.to_string_lossy();
                if !SKIPPED.contains(&name.as_ref()) && !name.starts_with("target-") {
                    folders.push(path);
                }
            } else if kind.is_file()
                && let Ok(relative) = path.strip_prefix(root)
                // What is not text (a compiled schema) is none of these rules' business.
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                files.push(File { path: relative.to_string_lossy().into_owned(), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

impl File {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// `vmm/loader` of `vmm/loader/src/main.rs`.
    fn crate_folder(&self) -> String {
        self.path.split('/').take(2).collect::<Vec<_>>().join("/")
    }
}

/// The Rust files that are not test code, each with its code alone (see [`code_only`] and [`without_tests`]).
///
/// Left out are the crates below `tests`, the `tests`, `benches` and `examples` folders of the others, and modules that
/// are declared with `#[cfg(test)] mod name;`.
fn product_code(files: &[File]) -> Vec<(&File, String)> {
    let rust: Vec<(&File, String)> =
        files.iter().filter(|file| file.is_rust()).map(|file| (file, code_only(&file.text))).collect();
    let mut only_tests = BTreeSet::new();
    for (file, code) in &rust {
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        let stem = name.trim_end_matches(".rs");
        let inside =
            if matches!(stem, "lib" | "main" | "mod") { folder.to_owned() } else { format!("{folder}/{stem}") };
        only_tests.extend(test_modules(code).into_iter().map(|module| format!("{inside}/{module}")));
    }
    let is_product = |file: &File| {
        let parts: Vec<&str> = file.path.split('/').collect();
        let path = file.path.trim_end_matches(".rs");
        parts[0] != "tests"
            && !parts.iter().skip(2).any(|part| matches!(*part, "tests" | "benches" | "examples"))
            && !only_tests.iter().any(|test| path == test || path.starts_with(&format!("{test}/")))
    };
    rust.into_iter().filter(|(file, _)| is_product(file)).map(|(file, code)| (file, without_tests(&code))).collect()
}

/// Every Rust file opens with `//!`.
pub fn opening(files: &[File]) -> Vec<Violation> {
    let wrong = files.iter().filter(|file| file.is_rust() && !file.text.starts_with("//! "));
    wrong.map(|file| violation(&file.path, "must open with '//!': what it owns, and the idea behind it")).collect()
}

/// No file is longer than [`MAX_LINES`] without its tests.
pub fn length(files: &[File]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (file, code) in product_code(files) {
        // A test module is blank in `code`, but a blank line of the file is not a test.
        let tests = file.text.lines().zip(code.lines()).filter(|(text, code)| {
            code.trim().is_empty() && !text.trim().is_empty() && !text.trim_start().starts_with("//")
        });
        let lines = file.text.lines().count().saturating_sub(tests.count());
        if lines > MAX_LINES {
            found.push(violation(&file.path, format!("has {lines} lines, at most {MAX_LINES}: split it by idea")));
        }
    }
    found
}

/// Every crate takes the lints of the workspace.
pub fn lints(files: &[File]) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let lines: Vec<&str> = file.text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if !lines.windows(2).any(|pair| pair == ["[lints]", "workspace = true"]) {
            found.push(violation(&file.path, "lacks '[lints]' with 'workspace = true'"));
        }
    }
    found
}

/// `unsafe` is only in the crates of [`UNSAFE_ALLOWED`], in their tests as well.
pub fn unsafe_places(files: &[File]) -> Vec<Violation> {
    let mut found = Vec::new();
    let allowed = |file: &File| UNSAFE_ALLOWED.iter().any(|(folder, _)| *folder == file.crate_folder());
    for file in files.iter().filter(|file| file.is_rust() && !allowed(file)) {
        let code = code_only(&file.text);
        if let Some((line, word)) = words(&code).find(|(_, word)| matches!(*word, "unsafe" | "unsafe_code")) {
            let names: Vec<&str> = UNSAFE_ALLOWED.iter().map(|(folder, _)| *folder).collect();
            let problem = format!("'{word}' is for the crates {}", names.join(", "));
            found.push(violation(format!("{}:{line}", file.path), problem));
        }
    }
    found
}

/// No macro that panics outside tests, and no `unreachable!` without a word.
pub fn panics(files: &[File]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (file, code) in product_code(files) {
        for (index, line) in code.lines().enumerate() {
            let place = || format!("{}:{}", file.path, index + 1);
            for name in PANICKING {
                if calls(line, name) {
                    found.push(violation(
                        place(),
                        format!("'{name}!' outside tests: return an error that says what to do"),
                    ));
                }
            }
            if line.contains("unreachable!()") {
                found.push(violation(place(), "'unreachable!' must say why it is"));
            }
        }
    }
    found
}

/// Whether a line calls the macro `name`, and not one whose name ends so.
fn calls(line: &str, name: &str) -> bool {
    let call = format!("{name}!");
    line.match_indices(&call).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The translator hides no device: no module named like one, and none of the ports and addresses of one.
pub fn devices_in_translator(files: &[File]) -> Vec<Violation> {
    let mut found = Vec::new();
    let problem = |what: &str| format!("'{what}' belongs to a device or a board, which are processes of device-procs");
    for file in files.iter().filter(|file| file.path.starts_with("tcg-engine/") && file.is_rust()) {
        let path = file.path.trim_end_matches(".rs");
        for word in path.split(['/', '_', '-', '.']).filter(|word| DEVICE_WORDS.contains(word)) {
            found.push(violation(&file.path, problem(word)));
        }
    }
    for (file, code) in product_code(files) {
        if !file.path.starts_with("tcg-engine/") {
            continue;
        }
        let all: Vec<(usize, &str)> = words(&code).collect();
        for pair in all.windows(2) {
            let module = pair[0].1 == "mod" && pair[1].1.split('_').any(|word| DEVICE_WORDS.contains(&word));
            if module || DEVICE_NUMBERS.contains(&pair[1].1.to_lowercase().as_str()) {
                found.push(violation(format!("{}:{}", file.path, pair[1].0), problem(pair[1].1)));
            }
        }
    }
    found
}

/// No path of somebody's machine, no host of a registry, no mark of unfinished work, in any file.
pub fn foreign_words(files: &[File]) -> Vec<Violation> {
    let mut found = Vec::new();
    // The lock file names its registry, and the rules name what they forbid.
    let examined = files.iter().filter(|file| file.path != "Cargo.lock" && !file.path.starts_with("tests/house/"));
    for file in examined {
        for (index, line) in file.text.lines().enumerate() {
            let place = || format!("{}:{}", file.path, index + 1);
            if let Some(path) = absolute_path(line) {
                found.push(violation(place(), format!("'{path}' is a path of one machine")));
            }
            if let Some(host) = HOSTS.iter().find(|host| line.contains(**host)) {
                found.push(violation(place(), format!("'{host}': name no host of a package registry")));
            }
            let mut line_words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if let Some(word) = line_words.find(|word| UNFINISHED.contains(word)) {
                found.push(violation(
                    place(),
                    format!("'{word}': finish it, or say in the documentation what is missing"),
                ));
            }
        }
    }
    found
}

/// The first absolute path of [`PLACES`] in a line.
fn absolute_path(line: &str) -> Option<&str> {
    line.match_indices('/').find_map(|(at, _)| {
        let before = line[..at].chars().next_back();
        let (rest, inside) = (&line[at + 1..], before.is_some_and(|c| c.is_alphanumeric() || "._-/}*)]".contains(c)));
        let place = PLACES.iter().find(|place| rest.strip_prefix(**place).is_some_and(|rest| rest.starts_with('/')))?;
        (!inside).then(|| &line[at..at + 2 + place.len()])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    fn places(found: Vec<Violation>) -> Vec<String> {
        found.into_iter().map(|violation| violation.place).collect()
    }

    #[test]
    fn a_file_without_an_opening_is_caught() {
        let files =
            [file("vmm/a/src/lib.rs", "//! Good.\n"), file("vmm/a/src/b.rs", "// Bad.\n"), file("x.md", "text")];
        assert_eq!(places(opening(&files)), ["vmm/a/src/b.rs"]);
    }

    #[test]
    fn a_long_file_is_caught_but_long_tests_are_not() {
        let long = "fn f() {}\n".repeat(MAX_LINES + 1);
        let tests = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        let files = [
            file("vmm/a/src/long.rs", &long),
            file("vmm/a/src/tested.rs", &tests),
            file("vmm/a/tests/long.rs", &long),
            file("vmm/a/src/lib.rs", "#[cfg(test)]\nmod samples;\n"),
            file("vmm/a/src/samples.rs", &long),
        ];
        assert_eq!(places(length(&files)), ["vmm/a/src/long.rs"]);
    }

    #[test]
    fn a_crate_without_the_lints_is_caught() {
        let files = [
            file("vmm/a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n"),
            file("vmm/b/Cargo.toml", "[package]\nversion.workspace = true\n"),
            file("Cargo.toml", "[workspace]"),
        ];
        assert_eq!(places(lints(&files)), ["vmm/b/Cargo.toml"]);
    }

    #[test]
    fn unsafe_elsewhere_is_caught_even_in_tests() {
        let files = [
            file("sandbox/arena/src/lib.rs", "unsafe {}"),
            file("vmm/a/src/lib.rs", "// unsafe\nfn f() { \"unsafe\"; }\n"),
            file("vmm/a/src/b.rs", "#[cfg(test)]\nmod tests { fn f() { unsafe {} } }"),
            file("device-procs/c/src/lib.rs", "#![expect(unsafe_code, reason = \"x\")]"),
        ];
        assert_eq!(places(unsafe_places(&files)), ["vmm/a/src/b.rs:2", "device-procs/c/src/lib.rs:1"]);
    }

    #[test]
    fn panics_are_caught_outside_tests() {
        let files = [
            file(
                "vmm/a/src/lib.rs",
                "fn f() {\n  panic!(\"x\");\n  std::todo!();\n  no_panic!();\n  unreachable!()\n}",
            ),
            file("vmm/a/src/b.rs", "fn f() { unreachable!(\"why\") }\n#[cfg(test)]\nmod tests { fn f() { panic!() } }"),
            file("tests/rig/src/lib.rs", "fn f() { panic!() }"),
        ];
        assert_eq!(places(panics(&files)), ["vmm/a/src/lib.rs:2", "vmm/a/src/lib.rs:3", "vmm/a/src/lib.rs:5"]);
    }

    #[test]
    fn devices_in_the_translator_are_caught() {
        let files = [
            file("tcg-engine/engine/src/io_apic.rs", "//! x"),
            file("tcg-engine/engine/src/legacy_pit.rs", "//! x"),
            file("tcg-engine/engine/src/main.rs", "mod local;\nmod rtc { }\nconst PORT: u16 = 0x3F8;\n// 0x2f8"),
            file("device-procs/serial/src/uart.rs", "const PORT: u16 = 0x3f8;"),
        ];
        let expected = [
            "tcg-engine/engine/src/legacy_pit.rs",
            "tcg-engine/engine/src/main.rs:2",
            "tcg-engine/engine/src/main.rs:3",
        ];
        assert_eq!(places(devices_in_translator(&files)), expected);
    }

    #[test]
    fn foreign_words_are_caught() {
        let good = "see /proc/self/fd, https://example.org/home/x, a/home/b, $x/root/y, /rooted/x\n";
        let files = [
            file("a.md", good),
            file("b.rs", "// in /home/me/atoll\n\n// TODO: more\n"),
            file("c.sh", "curl https://static.crates.io/x\n"),
            file("d.rs", "\"/root/atoll\""),
        ];
        assert_eq!(places(foreign_words(&files)), ["b.rs:1", "b.rs:3", "c.sh:1", "d.rs:1"]);
    }
}
