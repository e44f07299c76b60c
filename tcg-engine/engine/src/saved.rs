//! The saved state of the engine: every vCPU, the guest's clock, the latch of configuration space, and lines held back.
//!
//! The idea: while the machine is paused, every interrupt under way comes to rest in what is saved. A ring of a line becomes a
//! message or a line held back, a message in an inbox becomes a request in a local APIC, a timer that is due fires; only then the
//! vCPUs are written. All of it happens to the guest as it would have before its next instruction, so a save that is followed by a
//! run changes nothing.

use std::sync::PoisonError;

use ::state::{Kind, Left, Message, StateError};
use doorbell::layout::MAX_LINES;
use wire::saved_capnp::{engine_state, saved_state};

use crate::Engine;
use crate::error::Refusal;
use crate::machine::TSC_HZ;
use crate::state::Place;
use crate::vcpu::Vcpu;

/// Latest guest time that a state may have: 146 years. Deadlines are computed from it and must not wrap.
const LATEST: u64 = 1 << 62;

/// Leave the engine's state in its area, as of machine version `machine`. Every vCPU is parked and the clock stands.
///
/// # Errors
/// [`Refusal`]: no area, a machine version that cannot be written, or a vCPU in the middle of an instruction.
pub fn save(engine: &Engine, machine: &str) -> Result<Left, Refusal> {
    let area = engine.identity.area.as_ref().ok_or_else(Refusal::no_area)?;
    if !engine.machine.gate.is_parked() {
        return Err(Refusal::blocked());
    }
    let message = message(engine, machine).map_err(|e| Refusal::state(&e))?;
    area.leave(&message).map_err(|e| Refusal::state(&e))
}

/// The state as a message.
fn message(engine: &Engine, wanted: &str) -> Result<Message, StateError> {
    let own = &engine.identity;
    if wanted != own.machine {
        let why = format!("is asked for as of '{wanted}', and this engine writes '{}' only", own.machine);
        return Err(StateError::field("machine", why));
    }
    let m = &engine.machine;
    engine.bells.deliver(m);
    let mut message = ::state::begin(&own.name, &own.machine, Kind::Engine)?;
    let root = message.get_root::<saved_state::Builder<'_>>()?;
    if let saved_state::state::Engine(to) = root.get_state().which()? {
        let mut to = to?;
        let mut clock = to.reborrow().init_clock();
        clock.set_guest_nanoseconds(m.header.guest_ns());
        clock.set_tsc_hz(TSC_HZ);
        to.set_pci_address(m.windows.pci_address());
        to.set_cpu_model(m.model.name);
        let held: Vec<usize> = m.delivering().lines().collect();
        let mut lines = to.reborrow().init_held_lines(held.len() as u32);
        for (n, line) in held.iter().enumerate() {
            lines.set(n as u32, *line as u16);
        }
        let mut vcpus = to.init_vcpus(engine.vcpus.len() as u32);
        for (index, vcpu) in engine.vcpus.iter().enumerate() {
            let mut vcpu = vcpu.lock().unwrap_or_else(PoisonError::into_inner);
            vcpu.settle();
            crate::state::save(&mut vcpu, index as u16, vcpus.reborrow().get(index as u32));
        }
    }
    ::state::finish(&mut message)?;
    Ok(message)
}

/// Everything that a state says, checked.
struct Loaded {
    vcpus: Vec<Vcpu>,
    guest_ns: u64,
    pci_address: u32,
    held: Vec<u16>,
}

/// Take the state from the area. Every vCPU is parked and the clock stands.
///
/// # Errors
/// [`Refusal`]; nothing has changed then.
pub fn load(engine: &Engine, left: Left) -> Result<(), Refusal> {
    let area = engine.identity.area.as_ref().ok_or_else(Refusal::no_area)?;
    if !engine.machine.gate.is_parked() {
        return Err(Refusal::blocked());
    }
    let loaded = area.take(left, |state| read(engine, state)).map_err(|e| Refusal::state(&e))?;
    let m = &engine.machine;
    m.header.freeze_clock(loaded.guest_ns);
    m.windows.set_pci_address(loaded.pci_address);
    // What rang before is of the machine that was.
    engine.bells.deliver(m);
    m.replace_held(&loaded.held);
    for (vcpu, new) in engine.vcpus.iter().zip(loaded.vcpus) {
        vcpu.lock().unwrap_or_else(PoisonError::into_inner).replace(new);
    }
    Ok(())
}

fn read(engine: &Engine, state: saved_state::Reader<'_>) -> Result<Loaded, StateError> {
    let own = &engine.identity;
    ::state::check(state, &own.name, &own.machine, Kind::Engine, Kind::Engine.added())?;
    match state.get_state().which()? {
        saved_state::state::Engine(from) => read_engine(engine, from?),
        _ => Err(StateError::field("state", "is of another kind of process")),
    }
}

fn read_engine(engine: &Engine, from: engine_state::Reader<'_>) -> Result<Loaded, StateError> {
    let m = &engine.machine;
    let bad = |field: &str, why: String| Err(StateError::field(format!("engine.{field}"), why));
    let model = from.get_cpu_model()?.to_str()?;
    if model != m.model.name {
        let model: String = model.chars().take(64).collect();
        return bad("cpuModel", format!("is '{model}', and this VM has '{}'", m.model.name));
    }
    let clock = from.get_clock()?;
    let (guest_ns, hz) = (clock.get_guest_nanoseconds(), clock.get_tsc_hz());
    if hz != TSC_HZ {
        return bad("clock.tscHz", format!("is {hz}, and the guest's TSC runs at {TSC_HZ} Hz here"));
    }
    if guest_ns > LATEST {
        return bad("clock.guestNanoseconds", format!("is {guest_ns}, after the end of time ({LATEST})"));
    }
    let pci_address = from.get_pci_address();
    if pci_address & !doorbell::PCI_ADDRESS_BITS != 0 {
        return bad("pciAddress", format!("{pci_address:#x} has bits that port 0xCF8 has not"));
    }
    let lines = from.get_held_lines()?;
    let mut held: Vec<u16> = Vec::new();
    for (n, line) in lines.iter().take(MAX_LINES + 1).enumerate() {
        if usize::from(line) >= MAX_LINES || held.last().is_some_and(|last| *last >= line) {
            return bad(&format!("heldLines[{n}]"), format!("{line} is no line below {MAX_LINES} in ascending order"));
        }
        held.push(line);
    }
    let vcpus = from.get_vcpus()?;
    if vcpus.len() as usize != engine.vcpus.len() {
        return bad("vcpus", format!("has {} vCPUs, and this VM has {}", vcpus.len(), engine.vcpus.len()));
    }
    let vcpus = vcpus.iter().zip(&engine.vcpus).enumerate().map(|(n, (vcpu, present))| {
        let path = format!("engine.vcpus[{n}]");
        let place = Place { machine: &engine.identity.machine, path: &path, now: guest_ns };
        crate::state::load(&mut present.lock().unwrap_or_else(PoisonError::into_inner), vcpu, place)
    });
    Ok(Loaded { vcpus: vcpus.collect::<Result<_, _>>()?, guest_ns, pci_address, held })
}

#[cfg(test)]
mod tests;
