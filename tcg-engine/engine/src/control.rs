//! The engine's control socket: requests of the supervisor, and events of the vCPU threads on their way to it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::state::{Left, StateError};
use anyhow::{Context, Result};
use link::capnp::{Scratch, recv_message, send_message};
use link::{Deadline, Inbox, Link, LinkError};
use wire::engine_capnp::{Architecture, Tier, engine_reply, engine_request, start_vector};
use wire::islet_capnp::{from_islet, load, to_islet};

use crate::Engine;
use crate::error::Refusal;
use crate::machine::TSC_HZ;
use crate::setup::{Faults, MAXIMUM_VCPUS};
use crate::state::Place;
use crate::vcpu::Vcpu;

/// For an answer or an event, whose reader is there.
const PATIENCE: Duration = Duration::from_secs(30);
/// For every vCPU to park.
const PARKING: Duration = Duration::from_secs(20);
/// As long where RAM comes on demand: a vCPU may wait for a page that never comes.
const PARKING_ON_DEMAND: Duration = Duration::from_secs(2);
/// The userfaultfd's name in the message that brings it.
const FAULTS: &str = "faults";
/// Room for the longest message: statistics, or the state of a vCPU.
const MESSAGE_BYTES: usize = 32 << 10;

/// What a vCPU reports by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A triple fault: the guest asks for a reset, whether it knows or not.
    TripleFault(u16),
}

struct Shared {
    link: Link,
    scratch: Mutex<Scratch>,
    incarnation: u32,
}

impl Shared {
    fn send(&self, id: u64, fill: impl FnOnce(from_islet::Builder<'_>)) -> Result<(), LinkError> {
        self.send_with(id, &[], fill)
    }

    fn send_with(
        &self,
        id: u64,
        descriptors: &[BorrowedFd<'_>],
        fill: impl FnOnce(from_islet::Builder<'_>),
    ) -> Result<(), LinkError> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut message = scratch.builder();
        let mut root: from_islet::Builder<'_> = message.init_root();
        root.set_in_reply_to(id);
        root.set_incarnation(self.incarnation);
        fill(root);
        send_message(&self.link, &message, descriptors, Deadline::after(PATIENCE))
    }
}

/// Sends events; a clone of the control socket's sending side.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

impl Events {
    /// Report `event`. The supervisor being gone is noticed by the control thread.
    pub fn report(&self, event: Event) {
        let sent = self.0.send(0, |mut m| match event {
            Event::TripleFault(vcpu) => m.set_triple_fault(vcpu),
        });
        if let Err(e) = sent {
            eprintln!("engine: {event:?} was not reported: {e}");
        }
    }
}

/// The control socket.
pub struct Control(Arc<Shared>);

impl AsRawFd for Control {
    fn as_raw_fd(&self) -> RawFd {
        self.0.link.as_fd().as_raw_fd()
    }
}

impl Control {
    /// On `link`, as incarnation `incarnation`.
    pub fn new(link: Link, incarnation: u32) -> Control {
        Control(Arc::new(Shared { link, scratch: Mutex::new(Scratch::new(MESSAGE_BYTES)), incarnation }))
    }

    /// For the vCPU threads.
    pub fn events(&self) -> Events {
        Events(self.0.clone())
    }

    /// Locked down. A userfaultfd over RAM goes to whoever fills RAM, and this process keeps none.
    pub fn ready(&self, id: u64, faults: Option<Faults>) -> Result<(), LinkError> {
        let Some(faults) = faults else { return self.0.send(id, |mut m| m.set_ready(())) };
        self.0.send_with(id, &[faults.uffd.as_fd()], |m| {
            let mut mapping = m.init_ready_with_faults();
            mapping.set_descriptor(FAULTS);
            mapping.set_base(faults.base);
            mapping.set_length(faults.length);
        })
    }

    /// Something failed.
    pub fn failed(&self, id: u64, what: &str, why: &anyhow::Error) -> Result<(), LinkError> {
        self.0.send(id, |m| {
            let mut f = m.init_failed();
            f.set_what(what);
            f.set_why(format!("{why:#}"));
            let (remedy, code) = match why.downcast_ref::<Refusal>() {
                Some(refusal) => (refusal.remedy, refusal.code),
                None => ("see the engine's log; supervisor and engine must be of the same release", "engine.request"),
            };
            f.set_remedy(remedy);
            f.set_code(code);
        })
    }

    /// Answer requests until told to quit.
    pub fn serve(&mut self, engine: &Engine, inbox: &mut Inbox) -> Result<()> {
        loop {
            let incoming = recv_message(&self.0.link, inbox, Deadline::NEVER)?;
            let message: to_islet::Reader<'_> = incoming.reader.get_root()?;
            let id = message.get_id();
            if message.get_incarnation() != self.0.incarnation {
                continue;
            }
            let answer = match message.which() {
                Ok(to_islet::Engine(request)) => self.request(engine, id, request?),
                Ok(to_islet::Run(())) => self.run(engine, id),
                Ok(to_islet::Pause(())) => self.pause(engine, id),
                Ok(to_islet::Reset(())) => self.reset(engine, id),
                Ok(to_islet::Statistics(())) => self.statistics(engine, id),
                Ok(to_islet::Save(machine)) => self.save(engine, id, machine?.to_str()?),
                Ok(to_islet::Load(load)) => self.load(engine, id, load?),
                Ok(to_islet::Ping(milliseconds)) => self.ping(engine, id, milliseconds),
                Ok(to_islet::Quit(())) => return Ok(()),
                _ => Err(anyhow::anyhow!("the engine does not know this request")),
            };
            if let Err(e) = answer {
                if e.downcast_ref::<LinkError>().is_some() {
                    return Err(e);
                }
                self.failed(id, "a request to the engine", &e)?;
            }
        }
    }

    fn reply(&self, id: u64, fill: impl FnOnce(engine_reply::Builder<'_>)) -> Result<()> {
        Ok(self.0.send(id, |m| fill(m.init_engine()))?)
    }

    fn request(&self, engine: &Engine, id: u64, request: engine_request::Reader<'_>) -> Result<()> {
        use engine_request::Which;
        match request.which()? {
            Which::Run(()) => self.run(engine, id),
            Which::Pause(()) => self.pause(engine, id),
            Which::ResetAll(()) => self.reset(engine, id),
            Which::Statistics(()) => self.statistics(engine, id),
            Which::LoadVcpu(state) => {
                let (state, m) = (state?, &engine.machine);
                let mut vcpu = parked(engine, state.get_index())?;
                let place = Place { machine: &engine.identity.machine, path: "vcpu", now: m.header.guest_ns() };
                let new = crate::state::load(&mut vcpu, state, place).map_err(|e| Refusal::state(&e))?;
                vcpu.replace(new);
                drop(vcpu);
                // Whoever has written RAM before, the loader for one, does not mark pages.
                m.memory.marks.mark_all();
                self.reply(id, |mut r| r.set_done(()))
            }
            Which::SaveVcpu(index) => {
                let mut vcpu = parked(engine, index)?;
                engine.bells.deliver(&engine.machine);
                vcpu.settle();
                self.reply(id, |r| crate::state::save(&mut vcpu, index, r.init_vcpu()))
            }
            Which::SetClock(clock) => {
                let clock = clock?;
                anyhow::ensure!(
                    clock.get_tsc_hz() == TSC_HZ,
                    "the guest's TSC runs at {TSC_HZ} Hz here, not {}",
                    clock.get_tsc_hz()
                );
                anyhow::ensure!(!engine.machine.gate.is_open(), "the guest's clock can be set only while it is paused");
                engine.machine.header.freeze_clock(clock.get_guest_nanoseconds());
                self.reply(id, |mut r| r.set_done(()))
            }
            Which::Nmi(index) => {
                let inbox = engine
                    .machine
                    .inboxes
                    .get(usize::from(index))
                    .with_context(|| format!("there is no vCPU {index}"))?;
                inbox.post(&vcpu_devices::Message {
                    destination: vcpu_devices::Destination::All,
                    delivery: vcpu_devices::Delivery::Nmi,
                    vector: 2,
                    level: false,
                });
                engine.machine.gate.ask_all(crate::park::LOOK);
                self.reply(id, |mut r| r.set_done(()))
            }
            Which::Facts(()) => self.reply(id, |r| {
                let mut f = r.init_facts();
                f.set_engine("tcg");
                f.set_tier(match engine.tier {
                    Tier::Emitted => "T1",
                    Tier::Interpreted => "T0",
                    Tier::Compared => "T0 and T1, compared",
                });
                f.reborrow().init_architectures(1).set(0, Architecture::X8664);
                f.reborrow().init_cpu_models(1).set(0, engine.machine.model.name);
                f.set_tsc_hz(TSC_HZ);
                f.set_maximum_vcpus(MAXIMUM_VCPUS);
            }),
            Which::Suspend(()) => {
                still(engine, |engine| {
                    for index in 0..engine.vcpus.len() {
                        parked(engine, index as u16)?.power_down();
                    }
                    Ok(())
                })?;
                self.reply(id, |mut r| r.set_done(()))
            }
            Which::StartVcpu(start) => self.start(engine, id, start?),
            Which::ResetVcpu(_) | Which::Floating(_) | Which::CallReply(_) => self
                .unsupported(id, "this verb belongs to architectures or guests that the x86 translator does not run"),
            Which::AddMemory(_) | Which::RemoveMemory(_) => {
                self.unsupported(id, "memory cannot be changed after lock-down")
            }
            Which::DirtyStart(()) => {
                let number = engine.harvests.start(&engine.machine, engine.on_demand)?;
                self.reply(id, |mut r| r.set_harvest(number))
            }
            Which::DirtyHarvest(()) => {
                let number = engine.harvests.round(&engine.machine, engine.on_demand)?;
                self.reply(id, |mut r| r.set_harvest(number))
            }
            Which::DirtyStop(()) => {
                engine.harvests.stop();
                self.reply(id, |mut r| r.set_done(()))
            }
            Which::Vfio(_) => self.unsupported(id, "vfio needs the KVM engine"),
        }
    }

    fn unsupported(&self, id: u64, why: &str) -> Result<()> {
        self.reply(id, |mut r| r.set_unsupported(why))
    }

    fn done(&self, id: u64) -> Result<()> {
        Ok(self.0.send(id, |mut m| m.set_done(()))?)
    }

    fn run(&self, engine: &Engine, id: u64) -> Result<()> {
        let m = &engine.machine;
        if !m.gate.is_open() {
            m.header.run_clock(m.header.guest_ns());
            m.release_lines();
            m.gate.open();
        }
        self.done(id)
    }

    fn save(&self, engine: &Engine, id: u64, machine: &str) -> Result<()> {
        must_be_closed(engine)?;
        let left = crate::saved::save(engine, machine)?;
        Ok(self.0.send(id, |m| {
            let mut saved = m.init_saved();
            saved.set_length(left.length);
            saved.set_digest(&left.digest);
        })?)
    }

    fn load(&self, engine: &Engine, id: u64, load: load::Reader<'_>) -> Result<()> {
        must_be_closed(engine)?;
        let digest = load.get_digest()?;
        let digest = digest.try_into().map_err(|_| {
            let why = format!("has {} bytes, and SHA-256 has 32", digest.len());
            Refusal::state(&StateError::field("digest", why))
        })?;
        crate::saved::load(engine, Left { length: load.get_length(), digest })?;
        // The RAM that goes with it was written by somebody who does not mark pages.
        engine.machine.memory.marks.mark_all();
        self.done(id)
    }

    fn start(&self, engine: &Engine, id: u64, start: start_vector::Reader<'_>) -> Result<()> {
        let index = start.get_vcpu();
        let start_vector::S3(facs) = start.which()? else {
            return self.unsupported(id, "this engine starts vCPUs by start-up messages of the guest and from S3 only");
        };
        still(engine, |engine| {
            drop(parked(engine, index)?);
            // On a vCPU's thread: RAM may come on demand, or not at all.
            let memory = engine.machine.memory.clone();
            let vector = engine
                .machine
                .gate
                .errand(PARKING_ON_DEMAND, move || crate::sleep::waking_vector(&memory, facs))
                .ok_or_else(Refusal::blocked)?
                .map_err(Refusal::vector)?;
            if !parked(engine, index)?.wake_at(vector) {
                return Err(Refusal::awake(index).into());
            }
            Ok(())
        })?;
        self.reply(id, |mut r| r.set_done(()))
    }

    fn pause(&self, engine: &Engine, id: u64) -> Result<()> {
        close(engine)?;
        self.done(id)
    }

    fn reset(&self, engine: &Engine, id: u64) -> Result<()> {
        close(engine)?;
        // All or none.
        if !engine.machine.gate.is_parked() {
            return Err(Refusal::blocked().into());
        }
        for index in 0..engine.vcpus.len() {
            parked(engine, index as u16)?.reset();
        }
        engine.machine.windows.set_pci_address(0);
        engine.bells.deliver(&engine.machine);
        engine.machine.replace_held(&[]);
        self.done(id)
    }

    /// Show that every thread goes on.
    fn ping(&self, engine: &Engine, id: u64, milliseconds: u32) -> Result<()> {
        // The rest is for the answer.
        let patience = Duration::from_millis(milliseconds.into());
        let limit = patience / 2;
        if let Some(vcpu) = engine.machine.gate.silent(limit, patience * 3) {
            anyhow::bail!("the thread of vCPU {vcpu} stands still");
        }
        anyhow::ensure!(engine.bells.goes_on(limit / 2), "the thread of interrupts stands still");
        Ok(self.0.send(id, |mut m| m.set_done(()))?)
    }

    fn statistics(&self, engine: &Engine, id: u64) -> Result<()> {
        self.reply(id, |r| crate::statistics::fill(&engine.machine, r.init_statistics()))
    }
}

/// Park every vCPU and stop the guest's clock. Where RAM comes on demand, a vCPU that waits for a page counts as parked: the gate
/// stays closed, so it parks as soon as the page is there, and until then whatever needs its state is refused.
fn close(engine: &Engine) -> Result<()> {
    let m = &engine.machine;
    if m.gate.is_open() {
        if !park(engine) && !engine.on_demand {
            anyhow::bail!("a vCPU did not park within {} s", PARKING.as_secs());
        }
        m.header.freeze_clock(m.header.guest_ns());
        m.hold_lines();
    }
    Ok(())
}

fn park(engine: &Engine) -> bool {
    let m = &engine.machine;
    m.gate.close(if engine.on_demand { PARKING_ON_DEMAND } else { PARKING }, || m.wake_waits())
}

/// Do `work` while every vCPU is parked, whether the machine runs or not: the guest's clock does what it did.
fn still(engine: &Engine, work: impl FnOnce(&Engine) -> Result<()>) -> Result<()> {
    let was_open = engine.machine.gate.is_open();
    let done = if was_open && !park(engine) { Err(Refusal::blocked().into()) } else { work(engine) };
    if was_open {
        engine.machine.gate.open();
    }
    done
}

fn must_be_closed(engine: &Engine) -> Result<()> {
    anyhow::ensure!(!engine.machine.gate.is_open(), "the vCPUs are running: pause first");
    Ok(())
}

/// The vCPU `index`, which must be parked.
fn parked(engine: &Engine, index: u16) -> Result<MutexGuard<'_, Vcpu>> {
    must_be_closed(engine)?;
    if !engine.machine.gate.is_parked() {
        return Err(Refusal::blocked().into());
    }
    let vcpu = engine.vcpus.get(usize::from(index)).with_context(|| format!("there is no vCPU {index}"))?;
    Ok(vcpu.lock().unwrap_or_else(PoisonError::into_inner))
}
