//! An engine without devices: its windows lead to nobody, its guest is what a test writes into RAM and starts as if it woke from
//! sleep.
//!
//! The parts that outlive a process (RAM, the state area) are in [`World`], so that one engine can follow another.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use doorbell::{EventFd, create_windows};
use enter::status::STATUS_PAGE_SIZE;
use guest_memory::{Access, DirtyLayout, DirtyLog, Layout, Memfd, Ram, SharedMap};
use machine_model::MachineVersion;
use state::{Left, MEMFD_BYTES, ROW_BYTES, StateArea};

use crate::{BOARD, Islet, Said};

/// Bytes of RAM.
pub const RAM: u64 = 5 << 20;
/// Where tests put the FACS.
pub const FACS: u64 = 0x2000;
/// Row of the state area.
const ROW: u16 = 3;

/// What a machine without devices consists of beside its engine.
pub struct World {
    layout: Layout,
    ram: OwnedFd,
    dirty: OwnedFd,
    windows: OwnedFd,
    status: OwnedFd,
    state: OwnedFd,
    /// The bell of line 4.
    pub line: EventFd,
    /// The bell of those who have written to code.
    pub stale: EventFd,
    /// Its saved state.
    pub area: StateArea,
    /// The same, as bytes.
    row: SharedMap,
    vcpus: u16,
}

fn row(state: &OwnedFd) -> Result<SharedMap> {
    Ok(SharedMap::map(state.as_fd(), u64::from(ROW) * ROW_BYTES, ROW_BYTES, Access::ReadWrite, "state")?)
}

impl World {
    /// With RAM of zeros and one vCPU.
    pub fn new() -> Result<World> {
        World::of(1)
    }

    /// With RAM of zeros and so many vCPUs.
    pub fn of(vcpus: u16) -> Result<World> {
        let layout = Layout::pc(RAM)?;
        let dirty = Memfd::create("dirty", DirtyLayout::new(RAM).len)?;
        DirtyLog::format(dirty.as_fd(), RAM)?;
        let state = Memfd::create("state", MEMFD_BYTES)?;
        Ok(World {
            layout,
            ram: Memfd::create("ram", RAM)?,
            dirty,
            windows: create_windows()?,
            status: Memfd::create("status", 8 * STATUS_PAGE_SIZE as u64)?,
            line: EventFd::new()?,
            stale: EventFd::new()?,
            area: StateArea::map(state.as_fd(), ROW)?,
            row: row(&state)?,
            state,
            vcpus,
        })
    }

    /// Another machine: the same RAM, everything else new. The state moves along.
    pub fn restored(&self) -> Result<World> {
        let ram = self.ram.try_clone()?;
        let state = self.state.try_clone()?;
        let area = StateArea::map(state.as_fd(), ROW)?;
        let row = row(&state)?;
        Ok(World { ram, state, area, row, ..World::of(self.vcpus)? })
    }

    /// Put these bytes where an engine takes its state from.
    pub fn put_state(&self, bytes: &[u8]) -> Result<()> {
        self.row.write(0, bytes).context("the state is longer than its area")
    }

    /// The first `length` bytes of the state that was left.
    pub fn state_bytes(&self, length: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length)?];
        self.row.read(0, &mut bytes).context("the state is longer than its area")?;
        Ok(bytes)
    }

    /// Its RAM, mapped here.
    pub fn ram(&self) -> Result<Ram> {
        Ok(Ram::map(self.ram.as_fd(), RAM, Access::ReadWrite)?)
    }

    /// Its marks, mapped here.
    pub fn dirty(&self) -> Result<DirtyLog> {
        Ok(DirtyLog::map(self.dirty.as_fd(), RAM)?)
    }

    /// An engine whose vCPU 0 runs `program`, which is in RAM at `at`.
    pub fn running(&self, program: &[u8], at: u32) -> Result<Islet> {
        let ram = self.ram()?;
        for (place, bytes) in [(FACS, &facs(at)[..]), (at.into(), program)] {
            ram.write(place, bytes).context("outside of RAM")?;
        }
        let mut engine = self.engine(false, true)?;
        engine.suspend()?;
        engine.must(wake(FACS))?;
        engine.must(|mut m| m.set_run(()))?;
        Ok(engine)
    }

    /// An engine of it, which waits for `run`.
    pub fn engine(&self, on_demand: bool, with_state: bool) -> Result<Islet> {
        let (kick, notify) = (EventFd::new()?, EventFd::new()?);
        let mut list = vec![
            ("ram", self.ram.as_fd()),
            ("dirty", self.dirty.as_fd()),
            ("windows", self.windows.as_fd()),
            ("status", self.status.as_fd()),
            ("kick-board", kick.as_fd()),
            ("kick-serial", kick.as_fd()),
            ("notify", notify.as_fd()),
            ("stale", self.stale.as_fd()),
            ("irq4", self.line.as_fd()),
        ];
        if with_state {
            list.push(("state", self.state.as_fd()));
        }
        let list: Vec<_> = list.into_iter().map(|(name, fd)| (name.to_owned(), fd)).collect();
        Islet::start("engine", &list, |mut s| {
            let machine = MachineVersion::Q35_0.machine();
            s.set_machine(machine.name);
            s.set_state_row(ROW);
            let mut e = s.init_role().init_engine();
            crate::engine_role(e.reborrow(), machine, &self.layout);
            e.set_vcpus(self.vcpus);
            e.set_ram_on_demand(on_demand);
            debug_assert_eq!(BOARD, 0);
        })
    }
}

impl Islet {
    /// Ask, and be told that it is done.
    pub fn must(&mut self, fill: impl FnOnce(wire::islet_capnp::to_islet::Builder<'_>)) -> Result<()> {
        match self.ask(fill, |_| ())? {
            Said::Done => Ok(()),
            other => bail!("{other:?} in place of 'done'"),
        }
    }

    /// Ask, and be refused: the whole refusal.
    pub fn refused(&mut self, fill: impl FnOnce(wire::islet_capnp::to_islet::Builder<'_>)) -> Result<String> {
        match self.ask(fill, |_| ())? {
            Said::Failed(why) => Ok(why),
            other => bail!("{other:?} in place of a refusal"),
        }
    }

    /// Ask for a session of harvests, or for a round; its number.
    pub fn harvest(&mut self, start: bool) -> Result<u64> {
        let ask = |m: wire::islet_capnp::to_islet::Builder<'_>| match (start, m.init_engine()) {
            (true, mut e) => e.set_dirty_start(()),
            (false, mut e) => e.set_dirty_harvest(()),
        };
        match self.ask(ask, |_| ())? {
            Said::Harvest(number) => Ok(number),
            other => bail!("{other:?} in place of a harvest"),
        }
    }

    /// Save.
    pub fn save(&mut self) -> Result<Left> {
        match self.ask(|mut m| m.set_save("q35-0"), |_| ())? {
            Said::Saved(left) => Ok(left),
            other => bail!("{other:?} in place of a state"),
        }
    }

    /// Load.
    pub fn load(&mut self, left: Left) -> Result<()> {
        self.must(|m| {
            let mut load = m.init_load();
            load.set_length(left.length);
            load.set_digest(&left.digest);
        })
    }

    /// All vCPUs to sleep.
    pub fn suspend(&mut self) -> Result<()> {
        self.must(|m| m.init_engine().set_suspend(()))
    }
}

/// A FACS with this waking vector.
pub fn facs(vector: u32) -> [u8; 64] {
    let mut facs = [0; 64];
    facs[..4].copy_from_slice(b"FACS");
    facs[4] = 64;
    facs[12..16].copy_from_slice(&vector.to_le_bytes());
    facs
}

/// The request to start vCPU 0 where the FACS at `facs` says.
pub fn wake(facs: u64) -> impl FnOnce(wire::islet_capnp::to_islet::Builder<'_>) {
    move |m| m.init_engine().init_start_vcpu().set_s3(facs)
}
