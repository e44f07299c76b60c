//! From the engine's setup message to a machine: which descriptor is what, which windows exist, what is refused.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use doorbell::{
    Behaviour, DeviceArea, DeviceClient, EventFd, Header, ReadRule, Role, Space, SpinPolicy, WindowDesc, WindowKind,
    WriteRule,
};
use guest_memory::{Access, Arrangement, DirtyLog, Kind, Layout, Ram, Region};
use mem::{MIRROR, Memory, Mirror};
use uffd::Uffd;
use wire::engine_capnp::{
    self as capnp_engine, Architecture, Tier, engine_setup, memory_slot, register_behaviour, register_window,
};
use wire::islet_capnp::setup;

use crate::irq::{Bells, Line};
use crate::machine::{Machine, VcpuCounters};
use crate::orders::Orders;
use crate::park::Gate;
use vcpu_devices::Inbox;

/// Descriptors of the setup message by name.
#[derive(Debug)]
pub struct Named(HashMap<String, OwnedFd>);

impl Named {
    /// Match names with the descriptors of the datagram.
    pub fn new(setup: setup::Reader<'_>, descriptors: &mut Vec<OwnedFd>) -> Result<Named> {
        let mut slots: Vec<Option<OwnedFd>> = descriptors.drain(..).map(Some).collect();
        let mut map = HashMap::new();
        for d in setup.get_descriptors()? {
            let name = d.get_name()?.to_str()?;
            let fd = slots.get_mut(usize::from(d.get_index())).and_then(Option::take);
            let fd = fd.with_context(|| {
                format!("setup names descriptor '{name}' at position {}, which did not come", d.get_index())
            })?;
            map.insert(name.to_owned(), fd);
        }
        Ok(Named(map))
    }

    /// The descriptor called `name`.
    pub fn get(&self, name: &str) -> Result<BorrowedFd<'_>> {
        Ok(self.0.get(name).with_context(|| format!("setup has no descriptor '{name}'"))?.as_fd())
    }

    /// The descriptor called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.0.get(name).map(AsFd::as_fd)
    }

    /// An eventfd called `name`, duplicated so that several rows may name it.
    pub fn bell(&self, name: &str) -> Result<EventFd> {
        Ok(EventFd::from(self.get(name)?.try_clone_to_owned()?))
    }
}

/// Everything that the threads are started with.
#[derive(Debug)]
pub struct Prepared {
    /// The machine.
    pub machine: Arc<Machine>,
    /// Interrupt lines, and the board's bell.
    pub bells: Bells,
    /// Rung by whoever is no engine and has written to pages with code.
    pub stale: EventFd,
    /// Over RAM, if its pages come on demand.
    pub faults: Option<Faults>,
    /// One for each vCPU, unless pages come on demand: that is known of the one mapping of RAM only.
    pub mirrors: Vec<Mirror>,
}

/// Pages that all mirrors together may have in a place of their own: each may take two mappings of the 65,530 that a process
/// may have (`vm.max_map_count`).
const PLACES: u64 = 24 << 10;

/// Mirrors for vCPUs that emitted code runs; where there is no room for them there are none, and the log says so.
fn mirrors(engine: engine_setup::Reader<'_>, named: &Named, memory: &Memory) -> Result<Vec<Mirror>> {
    if engine.get_ram_on_demand() || engine.get_tier()? == Tier::Interpreted {
        return Ok(Vec::new());
    }
    let slot = engine.get_memory()?.iter().next().context("setup has no memory slot")?;
    let file = Arc::new(named.get(slot.get_descriptor()?.to_str()?)?.try_clone_to_owned()?);
    let map = || Arrangement::new(file.clone(), memory.ram.len(), MIRROR);
    let (mirrors, why) = as_many(engine.get_vcpus(), map);
    if let Some(why) = why {
        let count = mirrors.len();
        eprintln!(
            "engine: {count} of {} vCPUs have a mirror of RAM, so programs may be slower: {why}",
            engine.get_vcpus()
        );
    }
    Ok(mirrors)
}

/// A mirror for each of the vCPUs, or for as many as there are maps, and why there are no more.
fn as_many(
    vcpus: u16,
    map: impl Fn() -> guest_memory::Result<Arrangement>,
) -> (Vec<Mirror>, Option<guest_memory::Error>) {
    let mut mirrors = Vec::new();
    for _ in 0..vcpus {
        match map() {
            Ok(map) => mirrors.push(Mirror::new(map, PLACES / u64::from(vcpus))),
            Err(why) => return (mirrors, Some(why)),
        }
    }
    (mirrors, None)
}

/// A userfaultfd over the mapping of RAM.
#[derive(Debug)]
pub struct Faults {
    /// It.
    pub uffd: Uffd,
    /// Address of the mapping.
    pub base: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Faults {
    /// For all of `ram`, in which no page may have been touched yet.
    fn over(ram: &Ram) -> Result<Faults> {
        let (uffd, base, length) = (Uffd::create()?, ram.as_ptr() as u64, ram.len());
        uffd.register_missing(base, length)?;
        Ok(Faults { uffd, base, length })
    }
}

/// Most vCPUs that this engine runs.
pub const MAXIMUM_VCPUS: u16 = 64;

/// Map everything and build the machine.
pub fn prepare(engine: engine_setup::Reader<'_>, named: &Named) -> Result<Prepared> {
    ensure!(engine.get_architecture()? == Architecture::X8664, "this engine translates x86-64 guests only");
    let vcpus = engine.get_vcpus();
    ensure!(
        (1..=MAXIMUM_VCPUS).contains(&vcpus),
        "the translator runs 1 to {MAXIMUM_VCPUS} vCPUs, {vcpus} were asked for: use --cpus"
    );
    let name = engine.get_cpu_model()?.to_str()?;
    let model = cpu_model::by_name(name)?;

    let memory = Arc::new(memory(engine, named)?);
    let faults = engine.get_ram_on_demand().then(|| Faults::over(&memory.ram)).transpose()?;
    if faults.is_none() {
        memory.ram.prefer_huge_pages();
    }
    let windows = named.get("windows")?;
    let header = Arc::new(Header::map(windows, Role::Engine)?);
    header.freeze_clock(0);

    let mut clients: Vec<Arc<DeviceClient>> = Vec::new();
    let mut list = Vec::new();
    for w in engine.get_windows()? {
        let desc = window(w)?;
        if !clients.iter().any(|c| c.area().device() == desc.device) {
            let area = DeviceArea::map(windows, desc.device)?;
            let kick = named.bell(w.get_kick()?.to_str()?)?;
            clients.push(Arc::new(DeviceClient::new(area, kick, 0, SpinPolicy::Block)));
        }
        list.push(desc);
    }
    let board = clients
        .iter()
        .find(|c| c.area().device() == engine.get_extint_device())
        .context("no window belongs to the device that answers interrupt acknowledge cycles")?
        .clone();
    let bus = doorbell::Bus::new(header.clone(), list, &clients)?;
    let machine = Machine {
        memory,
        header,
        windows: bus,
        board,
        clients,
        model,
        inboxes: (0..vcpus).map(|_| Inbox::default()).collect(),
        counters: (0..vcpus).map(|_| VcpuCounters::default()).collect(),
        huge_pages: 0.into(),
        gate: Gate::new(usize::from(vcpus)),
        orders: Orders::new(usize::from(vcpus)),
        delivery: Mutex::default(),
    };
    let mut lines = Vec::new();
    for r in engine.get_routes()? {
        lines.push(Line { number: usize::from(r.get_line()), bell: named.bell(r.get_descriptor()?.to_str()?)? });
    }
    let mirrors = mirrors(engine, named, &machine.memory)?;
    let bells = Bells { lines, notify: named.bell(engine.get_notify()?.to_str()?)?, beat: false.into() };
    let stale = named.bell(engine.get_stale()?.to_str()?)?;
    Ok(Prepared { machine: Arc::new(machine), bells, stale, faults, mirrors })
}

fn memory(engine: engine_setup::Reader<'_>, named: &Named) -> Result<Memory> {
    let mut regions = Vec::new();
    let mut file = None;
    for slot in engine.get_memory()? {
        let kind = match slot.get_kind().which()? {
            memory_slot::kind::Ram(()) => Kind::Ram,
            memory_slot::kind::Rom(()) => Kind::Rom,
            memory_slot::kind::DeviceMemory(()) => bail!("device memory slots need the KVM engine"),
            memory_slot::kind::StorageKeys(()) => bail!("storage keys belong to s390x guests"),
        };
        let name = slot.get_descriptor()?.to_str()?.to_owned();
        ensure!(file.as_ref().is_none_or(|f| *f == name), "memory slots name two files, '{name}' is one of them");
        file = Some(name);
        regions.push(Region {
            base: slot.get_guest_address(),
            len: slot.get_length(),
            offset: slot.get_offset(),
            kind,
        });
    }
    let file = file.context("setup has no memory slot")?;
    let ram = Ram::map(named.get(&file)?, engine.get_ram_bytes(), Access::ReadWrite)?;
    let marks = DirtyLog::map(named.get("dirty")?, engine.get_ram_bytes())?;
    Ok(Memory::new(ram, Layout::new(regions)?, marks))
}

fn window(w: register_window::Reader<'_>) -> Result<WindowDesc> {
    let kind = match w.get_kind().which()? {
        register_window::kind::Registers(list) => {
            WindowKind::Registers(list?.iter().map(behaviour).collect::<Result<_>>()?)
        }
        register_window::kind::PciIndexData(()) => WindowKind::PciIndexData,
        register_window::kind::PciEcam(()) => WindowKind::PciEcam,
    };
    Ok(WindowDesc {
        name: w.get_name()?.to_str()?.to_owned(),
        space: match w.get_space()? {
            capnp_engine::AddressSpace::Memory => Space::Memory,
            capnp_engine::AddressSpace::Port => Space::Port,
        },
        base: w.get_base(),
        len: w.get_length(),
        device: w.get_device(),
        kind,
    })
}

fn behaviour(b: register_behaviour::Reader<'_>) -> Result<Behaviour> {
    use register_behaviour::{read, write};
    Ok(Behaviour {
        offset: b.get_offset(),
        length: b.get_length(),
        read: match b.get_read().which()? {
            read::Synchronous(()) => ReadRule::Synchronous,
            read::Shadow(cell) => ReadRule::Shadow(cell),
            read::Formula(row) => ReadRule::Formula(row),
            read::Constant(value) => ReadRule::Constant(value),
        },
        write: match b.get_write().which()? {
            write::Synchronous(()) => WriteRule::Synchronous,
            write::Posted(mask) => WriteRule::Posted(mask),
            write::Ignored(()) => WriteRule::Ignored,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use guest_memory::Memfd;

    use super::*;

    #[test]
    fn why_there_are_no_more_mirrors_is_known() {
        let file = Arc::new(Memfd::create("ram", 1 << 20).unwrap());
        let left = Cell::new(2);
        let map = || {
            // The third is larger than all addresses there are.
            let len = if left.replace(left.get() - 1) > 0 { MIRROR } else { 1 << 62 };
            Arrangement::new(file.clone(), 1 << 20, len)
        };
        let (mirrors, why) = as_many(4, map);
        assert_eq!(mirrors.len(), 2);
        assert!(why.unwrap().to_string().contains("mmap"));
        left.set(2);
        assert!(as_many(2, map).1.is_none());
    }
}
