//! The attacker: one binary that makes the attempts of [`probe::escape`] from wherever it is put.
//!
//! | started as | does |
//! |---|---|
//! | `escape outside ITEM` | one attempt without any sandbox |
//! | `escape campaign [LOOSENING]` | every attempt in place of each kind of process, each in a process of its own (`fresh`) |
//! | a binary of a VM | every attempt in place of this process, in a VM that is otherwise real (`standin`) |
//!
//! Each attempt gives a line: kind of process, item, outcome, with tabs between them.

mod fresh;
mod standin;

use anyhow::{Context, bail};
use probe::escape::{Item, Place};

arena::global!(16 << 20);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] => standin::run(),
        ["outside", item] => outside(item),
        ["campaign"] => fresh::campaign(""),
        ["campaign", loosening] => fresh::campaign(loosening),
        ["first", loosening] => fresh::first(loosening),
        ["keeper", item] => fresh::keeper(item),
        ["islet", kind, item, loosening] => fresh::islet(kind, item, loosening),
        _ => bail!("usage: escape outside ITEM | campaign [LOOSENING]"),
    }
}

fn outside(name: &str) -> anyhow::Result<()> {
    let item = Item::of(name).with_context(|| format!("no item {name:?}"))?;
    let place = Place::outside().context("this needs to be pid 1 of a namespace of its own")?;
    println!("outside\t{name}\t{}", item.attempt(&place));
    Ok(())
}
