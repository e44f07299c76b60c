//! The supervisor of the keeper's tests: it takes over like a real one and then lends its keeper link to the test, which
//! says on the socket "test:driver" how it shall end.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, bail};
use keeper_protocol::client::Keeper;
use keeper_protocol::{
    Access, KEEPER_DESCRIPTOR, ProtocolError, encode_exited, encode_held_table, encode_hello, encode_process_table,
};
use link::{Deadline, Link, Peer};
use rustix::process::{Signal, getpid, kill_process};

fn main() -> anyhow::Result<()> {
    let soon = || Deadline::after(Duration::from_secs(30));
    let link = Link::inherited(KEEPER_DESCRIPTOR, Peer::new("keeper", 1))?;
    let (mut keeper, adoption) = Keeper::adopt(link, soon())?;
    if adoption.find("test:die").is_some() {
        bail!("this supervisor never works");
    }
    let driver = adoption.find("test:driver").context("no test:driver is held")?;
    let driver = Link::new(keeper.get(driver, Access::Same, soon())?, Peer::new("driver", 0))?;

    // What the keeper said, said again.
    let incarnation = keeper.incarnation();
    let mut bytes = Vec::new();
    encode_hello(&adoption.hello, incarnation, &mut bytes)?;
    driver.send(&bytes, &[], soon())?;
    let send = |bytes: Vec<u8>| driver.send(&bytes, &[], soon()).map_err(|_| ProtocolError::Header("not sent"));
    encode_held_table(adoption.held, 0, incarnation, send)?;
    encode_process_table(adoption.processes, 0, incarnation, send)?;
    for _ in 0..adoption.hello.exits {
        encode_exited(&keeper.wait_exit(soon())?, incarnation, &mut bytes)?;
        driver.send(&bytes, &[], soon())?;
    }
    driver.send(b"link", &[keeper.as_fd()], soon())?;

    let order = driver.recv(Deadline::NEVER)?;
    match order.bytes.as_slice() {
        b"kill" => kill_process(getpid(), Signal::KILL)?,
        b"close" => {
            // The keeper ends whoever it cannot talk to.
            drop(keeper);
            driver.recv(Deadline::NEVER)?;
        }
        b"exit" => {}
        _ => bail!("no such order"),
    }
    Ok(())
}
