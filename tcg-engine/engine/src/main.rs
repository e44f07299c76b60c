//! The translating CPU engine's process: receives its descriptors, maps, starts its threads, locks itself down, and then
//! answers the supervisor while the vCPU threads run the guest.
//!
//! Descriptors by name in `setup`: `ram` and `dirty` (memfds), `windows`, `status` (memfds), the devices' `kick`s, the lines'
//! eventfds, the board's `notify`, `stale` for devices that write to code, `state`, where its saved state lies, and if somebody
//! wants to look on, `translation-log` and `perf-map`.

mod bus;
mod control;
mod dma;
mod error;
mod harvest;
mod huge;
mod irq;
mod machine;
mod orders;
mod park;
mod saved;
mod setup;
mod sleep;
mod state;
mod statistics;
mod stint;
#[cfg(test)]
mod stress;
#[cfg(test)]
mod tests;
mod vcpu;
mod watch;

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::state::StateArea;
use anyhow::{Context, Result};
use code::{Cache, CodeMemory, Limits};
use enter::ThreadGate;
use enter::status::StatusPage;
use guest_x86::runner::Check;
use link::capnp::recv_message;
use link::{Deadline, Inbox, Link, LinkError, Peer};
use mem::Mirror;
use profile::Kind;
use wire::engine_capnp::Tier;
use wire::islet_capnp::{setup as setup_message, to_islet};

use crate::control::Control;
use crate::harvest::Harvests;
use crate::irq::Bells;
use crate::machine::Machine;
use crate::setup::Faults;
use crate::vcpu::Vcpu;
use crate::watch::Files;

// Translated blocks of every vCPU, messages, and TLBs, which take up to 3 MiB for each.
arena::global!(704 << 20);

/// Where the keeper leaves the control socket.
const CONTROL: RawFd = 3;
/// For the setup, which was sent before this process was started.
const PATIENCE: Duration = Duration::from_secs(30);
/// For all threads to reach the barrier before lock-down.
const THREADS: Duration = Duration::from_secs(30);

/// vCPUs that can have as much code memory and as many blocks as one can use; more than these share it.
const AMPLE: usize = 3;
/// Code memory of a vCPU: about 100 bytes for each guest instruction that runs.
const CODE_MEMORY: usize = 64 << 20;

fn main() {
    enter::begin();
    match run() {
        Ok(()) => enter::exit::clean(),
        Err(e) => match e.downcast_ref::<LinkError>() {
            Some(gone) => enter::exit::lost_peer(gone),
            None => enter::exit::error(&format_args!("{e:#}")),
        },
    }
}

fn run() -> Result<()> {
    let link = Link::inherited(CONTROL, Peer::new("supervisor", 0))?;
    let mut inbox = Inbox::new();
    let incoming = recv_message(&link, &mut inbox, Deadline::after(PATIENCE))?;
    let message: to_islet::Reader<'_> = incoming.reader.get_root()?;
    let (id, incarnation) = (message.get_id(), message.get_incarnation());
    let mut control = Control::new(link, incarnation);
    let started = match message.which() {
        Ok(to_islet::Setup(s)) => s.map_err(Into::into).and_then(|s| start(s, incoming.descriptors, &control)),
        _ => Err(anyhow::anyhow!("the first message is not a setup")),
    };
    match started {
        Ok((engine, faults)) => {
            // Leaked: a mapping must not be dropped after lock-down.
            let engine = Box::leak(Box::new(engine));
            control.ready(id, faults)?;
            control.serve(engine, &mut inbox)
        }
        Err(e) => {
            control.failed(id, "the engine's setup", &e)?;
            Err(e)
        }
    }
}

/// The running engine as its control thread sees it.
pub struct Engine {
    /// What the threads share.
    pub machine: Arc<Machine>,
    /// The vCPUs; each is locked by its thread while it runs.
    pub vcpus: Vec<Arc<Mutex<Vcpu>>>,
    /// What rings for interrupts.
    pub bells: Arc<Bells>,
    /// What its saved state says about whose it is.
    pub identity: Identity,
    /// Pages of RAM come when they are touched.
    pub on_demand: bool,
    /// How blocks are run.
    pub tier: Tier,
    /// Sessions in which the pages that are written are asked for.
    pub harvests: Harvests,
}

/// Whose state is saved and loaded, and where it lies.
pub struct Identity {
    /// The process.
    pub name: String,
    /// The machine version.
    pub machine: String,
    /// The area, if there is one.
    pub area: Option<StateArea>,
}

impl Identity {
    fn new(setup: setup_message::Reader<'_>, named: &setup::Named) -> Result<Identity> {
        let area = named.find("state").map(|fd| StateArea::map(fd, setup.get_state_row())).transpose()?;
        Ok(Identity { name: setup.get_name()?.to_string()?, machine: setup.get_machine()?.to_string()?, area })
    }
}

fn start(
    setup: setup_message::Reader<'_>,
    descriptors: &mut Vec<OwnedFd>,
    control: &Control,
) -> Result<(Engine, Option<Faults>)> {
    let named = setup::Named::new(setup, descriptors)?;
    let page = StatusPage::map(named.get("status")?, usize::from(setup.get_status_slot()))?;
    enter::attach_status(page);
    let engine = match setup.get_role().which()? {
        setup_message::role::Engine(e) => e?,
        _ => anyhow::bail!("the setup is for another kind of process"),
    };
    let identity = Identity::new(setup, &named)?;
    let prepared = setup::prepare(engine, &named)?;
    let tier = engine.get_tier()?;
    let mut code_memory = Vec::new();
    let count = prepared.machine.inboxes.len().max(AMPLE);
    if tier != Tier::Interpreted {
        for _ in 0..prepared.machine.inboxes.len() {
            code_memory.push(CodeMemory::new(CODE_MEMORY * AMPLE / count)?);
        }
    }
    let files = Files::new(engine, &named)?;
    drop(named);
    let mut profile = Kind::EngineTcg.profile();
    if files.is_some() {
        profile = profile::engine_with_files();
        enter::survive_file_limit();
    }
    enter::before_threads(profile)?;

    let (machine, mut mirrors) = (prepared.machine, prepared.mirrors);
    let mapped = mirrors.first().map(Mirror::descriptor);
    let mut gate = ThreadGate::new();
    let (asker, planner) = guest_x86::runner::planner();
    let mut vcpus = Vec::new();
    for index in 0..machine.inboxes.len() {
        let mut vcpu = Vcpu::new(&machine, index as u16);
        vcpu.runner.cache = Cache::new(Limits::default().of(AMPLE, count));
        if let Some(memory) = code_memory.pop() {
            vcpu.use_t1(memory)?;
        }
        vcpu.runner.cpu.mirror = mirrors.pop();
        vcpu.runner.plan_with(asker.clone());
        if tier == Tier::Compared {
            vcpu.runner.check = Some(Check::default());
        }
        if let Some(files) = &files {
            vcpu.runner.watch(Box::new(files.watcher(index)));
        }
        let vcpu = Arc::new(Mutex::new(vcpu));
        vcpus.push(vcpu.clone());
        let (machine, events) = (machine.clone(), control.events());
        gate.spawn(&format!("vcpu{index}"), move || vcpu::thread(&machine, index, &vcpu, &|e| events.report(e)))?;
    }
    gate.spawn_low("plans", move || planner.settle(), |planner| planner.serve())?;
    let bells = Arc::new(prepared.bells);
    let mut keep = vec![control.as_raw_fd()];
    keep.extend(bells.descriptors());
    keep.extend(machine.clients.iter().map(|c| c.kick().as_fd().as_raw_fd()));
    keep.extend(prepared.faults.as_ref().map(|f| f.uffd.as_fd().as_raw_fd()));
    keep.extend(mapped);
    keep.extend(files.iter().flat_map(Files::descriptors));
    let serving = (machine.clone(), bells.clone());
    gate.spawn("interrupts", move || serving.1.serve(&serving.0))?;
    keep.push(prepared.stale.as_fd().as_raw_fd());
    let (serving, bell) = (machine.clone(), prepared.stale);
    gate.spawn("dma", move || dma::thread(&serving, &bell))?;
    // While RAM comes on demand there is nothing to do for it: a huge page would cover pages that are still to come.
    let serving = machine.clone();
    let whole = prepared.faults.is_none();
    gate.spawn("huge-pages", move || huge::thread(&serving, whole))?;
    gate.wait(THREADS)?;
    enter::close_all_but(&keep)?;
    enter::seal(profile, &gate).context("lock-down")?;
    gate.release();
    let on_demand = prepared.faults.is_some();
    let harvests = Harvests::default();
    Ok((Engine { machine, vcpus, bells, identity, on_demand, tier, harvests }, prepared.faults))
}
