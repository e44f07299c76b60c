//! The probe: a process that runs inside a profile as an islet does and tries what must be impossible.
//!
//! One binary in three roles, so that the whole chain of a VM is tested with it:
//!
//! * `probe launch`: starts the keeper, as the launcher does; its standard input is the control socket of the test.
//! * `probe keeper`: pid 1; starts islets on request of the test and reports how they ended (`keeper.rs`).
//! * `probe islet PROFILE STAGE ACTION [LOOSENING]`: locks itself down as far as STAGE says and does ACTION
//!   (`islet.rs`), once, since a trapped call ends it.
//! * `probe try ACTION`: does ACTION without any sandbox, to show that the attempt itself is sound.

mod actions;
mod islet;
mod keeper;

use std::os::fd::AsFd;

use anyhow::{Context, bail};
use spawn::{Command, ExitCause, Image};

arena::global!(16 << 20);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["launch"] => launch(),
        ["keeper"] => keeper::run(),
        ["islet", profile, stage, action] => islet::run(profile, stage, action, ""),
        ["islet", profile, stage, action, loosening] => islet::run(profile, stage, action, loosening),
        ["try", action] => {
            println!("{}", actions::report(action, actions::perform(action)));
            Ok(())
        }
        _ => bail!("usage: probe launch | keeper | islet PROFILE STAGE ACTION [LOOSENING] | try ACTION"),
    }
}

/// Starts the keeper and waits for its end.
fn launch() -> anyhow::Result<()> {
    let image = Image::open(std::env::current_exe()?)?;
    let (control, log) = (std::io::stdin(), std::io::stderr());
    let command = Command::new("probe", &image).arg("keeper").log(log.as_fd()).control(control.as_fd());
    let child = spawn::keeper(&command)?;
    let exit = child.wait(None)?.context("a wait without limit ends with an exit")?;
    match ExitCause::decode(exit, None) {
        ExitCause::Clean => Ok(()),
        cause => bail!("the keeper {cause}"),
    }
}
