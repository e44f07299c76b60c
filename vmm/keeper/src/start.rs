//! The launcher's messages: what VM this is and what it starts with.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use keeper_protocol::{BeginFlags, LauncherMessage, Name, SUPERVISOR_BINARY};
use link::{Deadline, Link};

use crate::table::Held;

/// How long the launcher may take from one message to the next.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What the launcher said.
#[derive(Debug)]
pub struct Vm {
    pub name: Name,
    pub flags: BeginFlags,
    pub uid: u32,
    pub gid: u32,
    /// How long a supervisor may stand still.
    pub patience: Duration,
    /// In the order of their ids, from 1.
    pub held: Vec<Held>,
    /// How many may be held.
    pub capacity: usize,
}

/// Receives everything up to `Go`.
pub fn receive(launcher: &Link, capacity: usize) -> anyhow::Result<Vm> {
    let next = |what: &str| -> anyhow::Result<_> {
        let mut message = launcher.recv(Deadline::after(PATIENCE)).with_context(|| format!("waiting for {what}"))?;
        let decoded = LauncherMessage::decode(&message.bytes, message.descriptors.len())?;
        Ok((decoded, message.descriptors.pop()))
    };
    let LauncherMessage::Begin { flags, uid, gid, patience, vm: name } = next("the launcher's first message")?.0 else {
        bail!("the launcher's first message must be Begin");
    };
    let patience = Duration::from_secs(patience.into());
    let mut vm = Vm { name, flags, uid, gid, patience, held: Vec::new(), capacity };
    loop {
        match next("the launcher's descriptors")? {
            (LauncherMessage::Hold { name, kind }, Some(fd)) => {
                ensure!(
                    vm.held.len() < capacity,
                    "more than {capacity} descriptors to hold; raise the limit of open files"
                );
                vm.held.push(Held { name, kind, guarded: false, fd });
            }
            (LauncherMessage::Go { held }, _) => {
                let came = vm.held.len();
                ensure!(
                    usize::try_from(held) == Ok(came),
                    "the launcher sent {held} descriptors, of which {came} came"
                );
                break;
            }
            _ => bail!("the launcher sent Begin twice"),
        }
    }
    let supervisor = vm.held.iter().any(|held| held.name.as_str() == SUPERVISOR_BINARY);
    ensure!(supervisor, "the launcher must hold {SUPERVISOR_BINARY} before it says Go");
    Ok(vm)
}
