//! The rule on the long tests: whatever is a test below `tests` is in a suite of `tests/suites`.
//!
//! The idea: a suite that nobody wrote down is one that nobody runs, and nothing else would show it. So the list is compared with
//! the files that have tests in them.

use std::collections::BTreeSet;

use crate::source::File;
use crate::{Violation, violation};

/// Where the list is.
const LIST: &str = "tests/suites";
/// The suite of what no other suite names.
const REST: &str = "*";

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Suite<'a> {
    name: &'a str,
    package: &'a str,
    module: Option<&'a str>,
}

/// Every test crate is in the list, and every module with tests of a crate that is split; every line means something.
pub fn suites(files: &[File]) -> Vec<Violation> {
    let Some(list) = files.iter().find(|file| file.path == LIST) else {
        return vec![violation(LIST, "is missing; it says what './dev test --long' runs")];
    };
    let mut found = Vec::new();
    let mut all: Vec<Suite<'_>> = Vec::new();
    for (index, line) in list.text.lines().enumerate() {
        let place = || format!("{LIST}:{}", index + 1);
        match parse(line) {
            Ok(None) => {}
            Ok(Some(suite)) if all.iter().any(|other| other.name == suite.name) => {
                found.push(violation(place(), format!("there is another suite '{}'", suite.name)));
            }
            Ok(Some(suite)) => all.push(suite),
            Err(problem) => found.push(violation(place(), problem)),
        }
    }
    if all.iter().filter(|suite| suite.package == REST).count() != 1 {
        found.push(violation(LIST, format!("must have one suite '{REST}', of all other crates")));
    }
    found.extend(unlisted(files, &all));
    found.extend(all.iter().filter_map(|suite| dangling(files, suite)));
    found
}

/// Name, minutes, crate and perhaps a module; nothing for a comment.
fn parse(line: &str) -> Result<Option<Suite<'_>>, &'static str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, minutes, package, module) = match words[..] {
        [] => return Ok(None),
        [first, ..] if first.starts_with('#') => return Ok(None),
        [name, minutes, package] => (name, minutes, package, None),
        [name, minutes, package, module] => (name, minutes, package, Some(module)),
        _ => return Err("a suite has a name, minutes, a crate, and perhaps a module"),
    };
    if !minutes.parse::<u32>().is_ok_and(|minutes| minutes > 0) {
        return Err("the second word is the number of minutes, at least 1");
    }
    Ok(Some(Suite { name, package, module }))
}

/// A crate of `tests` and the module of a file: `tests/chaos/tests/chaos/ends.rs` is `ends` of `chaos`. A test in a crate's
/// library or beside its modules is of no module.
fn place_of_tests(file: &File) -> Option<(&str, Option<&str>)> {
    let (package, rest) = file.path.strip_prefix("tests/")?.split_once('/')?;
    let module = match rest.split('/').collect::<Vec<_>>()[..] {
        ["src", ..] => None,
        ["tests", _target, module] => module.strip_suffix(".rs").filter(|name| *name != "main"),
        ["tests", _target, module, ..] => Some(module),
        ["tests", _target] => None,
        _ => return None,
    };
    (file.is_rust() && file.text.contains("#[test]")).then_some((package, module))
}

fn unlisted(files: &[File], all: &[Suite<'_>]) -> Vec<Violation> {
    // What a crate of tests has in its library is tests of its tools, which may be left to the rest.
    let programs = files.iter().filter(|file| file.path.contains("/tests/"));
    let packages: BTreeSet<&str> = programs.filter_map(|file| Some(place_of_tests(file)?.0)).collect();
    let mut found = Vec::new();
    for package in packages {
        let lines: Vec<_> = all.iter().filter(|suite| suite.package == package).collect();
        if lines.is_empty() {
            found.push(violation(format!("tests/{package}"), format!("is in no suite; add a line to {LIST}")));
        }
        if lines.is_empty() || lines.iter().any(|suite| suite.module.is_none()) {
            continue;
        }
        for file in files {
            let Some((_, module)) = place_of_tests(file).filter(|(of, _)| *of == package) else { continue };
            if module.is_none_or(|module| lines.iter().all(|suite| suite.module != Some(module))) {
                let problem = format!("has tests that are in none of the suites of '{package}'; see {LIST}");
                found.push(violation(&file.path, problem));
            }
        }
    }
    found
}

/// A line without a crate, or without tests in its module.
fn dangling(files: &[File], suite: &Suite<'_>) -> Option<Violation> {
    let package = suite.package;
    let manifest = |file: &File| {
        let mut parts = file.path.split('/');
        parts.next().is_some() && parts.eq([package, "Cargo.toml"])
    };
    if package != REST && !files.iter().any(manifest) {
        return Some(violation(LIST, format!("there is no crate '{package}'")));
    }
    let module = suite.module?;
    let tests = files.iter().any(|file| place_of_tests(file) == Some((package, Some(module))));
    (!tests).then(|| violation(LIST, format!("the crate '{package}' has no module '{module}' with tests")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# name\n\na 1 a\nb-one 20 b one\nb-two 3 b two\nrest 5 *\n";

    fn tree(list: &str) -> Vec<File> {
        let test = "#[test]\nfn f() {}\n";
        let files = [
            (LIST, list),
            ("tests/a/Cargo.toml", ""),
            ("tests/a/src/lib.rs", test),
            ("tests/a/tests/a.rs", test),
            ("tests/b/Cargo.toml", ""),
            ("tests/b/src/lib.rs", "//! x"),
            ("tests/b/tests/b/main.rs", "mod one; mod two;"),
            ("tests/b/tests/b/one.rs", test),
            ("tests/b/tests/b/two/mod.rs", test),
            ("tests/rig/src/lib.rs", test),
        ];
        files.map(|(path, text)| File { path: path.into(), text: text.into() }).into()
    }

    fn caught(files: &[File]) -> Vec<String> {
        suites(files).into_iter().map(|violation| violation.place).collect()
    }

    #[test]
    fn a_list_with_everything_is_good() {
        assert_eq!(suites(&tree(GOOD)), []);
        assert_eq!(caught(&tree(GOOD)[1..]), [LIST]);
    }

    #[test]
    fn a_crate_or_a_module_in_no_suite_is_caught() {
        assert_eq!(caught(&tree("b-one 20 b one\nb-two 3 b two\nrest 5 *\n")), ["tests/a"]);
        assert_eq!(caught(&tree("a 1 a\nb-one 20 b one\nrest 5 *\n")), ["tests/b/tests/b/two/mod.rs"]);
        assert_eq!(caught(&tree("a 1 a\nb 1 b\nrest 5 *\n")), [""; 0]);
        let mut files = tree(GOOD);
        files[6].text.push_str("#[test] fn f() {}");
        assert_eq!(caught(&files), ["tests/b/tests/b/main.rs"]);
    }

    #[test]
    fn a_line_that_means_nothing_is_caught() {
        for line in ["a 1 b", "c 1 c", "b-three 1 b three", "x 0 a", "x y a", "x 1", "x 1 a y z", "all 1 *"] {
            assert_eq!(caught(&tree(&format!("{GOOD}{line}\n"))).len(), 1, "{line}");
        }
    }
}
