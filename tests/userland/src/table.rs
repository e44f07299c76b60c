//! What the kernel's x86 self-tests are known to do: the table of `docs/self-tests.md`, which is both read and tested.
//!
//! The idea: one list, in the page for people; a result that is another one fails the test until somebody has found out why and
//! written that down.

use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../../docs/self-tests.md");

/// Result of each self-test by its name.
pub type Results = BTreeMap<String, String>;

/// What is expected: the rows of the page's table, whose first cell is a name in backquotes and whose second is the result.
#[must_use]
pub fn expected() -> Results {
    rows(PAGE)
}

fn rows(page: &str) -> Results {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        Some((cells.next()?.trim_matches('`').to_owned(), cells.next()?.to_owned()))
    };
    page.lines().filter_map(row).collect()
}

/// What was found: lines `SELF-TEST name result` of the driver in the root.
#[must_use]
pub fn found(output: &str) -> Results {
    let row = |line: &str| {
        let (name, result) = line.strip_prefix("SELF-TEST ")?.split_once(' ')?;
        Some((name.to_owned(), result.trim().to_owned()))
    };
    output.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(rows: &[(&str, &str)]) -> Results {
        rows.iter().map(|(name, result)| ((*name).to_owned(), (*result).to_owned())).collect()
    }

    #[test]
    fn page_and_driver_say_the_same_in_their_ways() {
        let page = "# Self-tests\n\n| test | result | why |\n|---|---|---|\n| `a_64` | passed | |\n| `b_32` | in part | `c` |\n";
        let output = "noise\nSELF-TEST a_64 passed\nSELF-TEST b_32 in part\n";
        assert_eq!(rows(page), results(&[("a_64", "passed"), ("b_32", "in part")]));
        assert_eq!(found(output), rows(page));
    }

    /// Whatever has not passed has a reason.
    #[test]
    fn the_page_has_reasons() {
        assert!(expected().len() > 40);
        for line in PAGE.lines().filter(|line| line.starts_with("| `") && !line.contains("| passed |")) {
            let reason = line.split('|').nth(3).unwrap_or_default().trim();
            assert!(reason.len() > 10, "no reason: {line}");
        }
    }
}
