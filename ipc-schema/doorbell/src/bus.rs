//! The engine's dispatcher: takes a guest access to a window, answers what it can, asks the device for the rest, and
//! counts both.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::client::{DeviceClient, Unanswered};
use crate::header::Header;
use crate::slot::{Access, Attributes, Operation, Space};
use crate::window::{Behaviour, ReadRule, WindowDesc, WindowKind, WriteRule};
use crate::{Error, Result};

/// Windows up to this length count every offset on its own; larger ones only their behaviours.
const COUNTED_OFFSETS: u64 = 256;

/// The bits of 0xCF8 that exist: enable, bus, device, function, register (PCI 3.0, 3.2.2.3.2).
pub const INDEX_BITS: u32 = 0x80ff_fffc;

#[derive(Debug, Default)]
struct Counts {
    read_synchronous: AtomicU64,
    read_local: AtomicU64,
    write_synchronous: AtomicU64,
    write_local: AtomicU64,
}

/// How often a register was accessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterCount {
    /// The device's area.
    pub device: u16,
    /// The window's name.
    pub window: String,
    /// Offset in the window; of large windows, of the behaviour (0 for what none covers).
    pub offset: u64,
    /// Writes or reads.
    pub write: bool,
    /// Round trips to the device.
    pub synchronous: u64,
    /// Answered without it: shadow, formula, constant, posted, ignored.
    pub local: u64,
}

/// A window with its device and counters.
#[derive(Debug)]
pub struct Window {
    desc: WindowDesc,
    client: Arc<DeviceClient>,
    counts: Vec<Counts>,
}

impl Window {
    /// What the window is.
    pub fn desc(&self) -> &WindowDesc {
        &self.desc
    }

    /// The device behind it.
    pub fn client(&self) -> &DeviceClient {
        &self.client
    }

    fn counts(&self, offset: u64, behaviour: usize) -> &Counts {
        let index = if self.desc.len <= COUNTED_OFFSETS { offset as usize } else { behaviour };
        &self.counts[index.min(self.counts.len() - 1)]
    }

    /// The behaviour that covers the access, and its position in the list plus 1 (0: none does).
    fn behaviour(&self, offset: u64, width: u8) -> (usize, Option<&Behaviour>) {
        let WindowKind::Registers(list) = &self.desc.kind else { return (0, None) };
        let covers = |b: &Behaviour| {
            u64::from(b.offset) <= offset && offset + u64::from(width) <= u64::from(b.offset) + u64::from(b.length)
        };
        match list.iter().position(covers) {
            Some(n) => (n + 1, list.get(n)),
            None => (0, None),
        }
    }
}

/// Who asks, and how to interrupt the wait.
#[derive(Clone, Copy, Debug)]
struct Asker<'a> {
    vcpu: u16,
    attributes: Attributes,
    exit: &'a AtomicU32,
}

/// All windows of a VM, as its engine sees them.
#[derive(Debug)]
pub struct Bus {
    header: Arc<Header>,
    /// By space, then in ascending order.
    spaces: [Vec<Window>; 2],
}

impl Bus {
    /// Checks the window list and joins it with the clients of the devices it names.
    ///
    /// # Errors
    /// [`Error::BadWindow`] for a window that is empty, wraps, overlaps another, has behaviours outside itself, or whose
    /// device has no client.
    pub fn new(header: Arc<Header>, list: Vec<WindowDesc>, clients: &[Arc<DeviceClient>]) -> Result<Self> {
        let mut spaces = [Vec::new(), Vec::new()];
        for desc in list {
            let problem = check(&desc);
            let client = clients.iter().find(|c| c.area().device() == desc.device);
            let (None, Some(client)) = (problem, client) else {
                let problem = problem.unwrap_or("belongs to a device that this engine was not given");
                return Err(Error::BadWindow { base: desc.base, len: desc.len, name: desc.name, problem });
            };
            let behaviours = if let WindowKind::Registers(b) = &desc.kind { b.len() + 1 } else { 1 };
            let counted = if desc.len <= COUNTED_OFFSETS { desc.len as usize } else { behaviours };
            let counts = (0..counted).map(|_| Counts::default()).collect();
            spaces[desc.space as usize].push(Window { desc, client: client.clone(), counts });
        }
        for space in &mut spaces {
            space.sort_by_key(|w| w.desc.base);
            for pair in space.windows(2) {
                let (low, high) = (&pair[0].desc, &pair[1].desc);
                if low.base + low.len > high.base {
                    let problem = "overlaps the window below it";
                    return Err(Error::BadWindow { name: high.name.clone(), base: high.base, len: high.len, problem });
                }
            }
        }
        Ok(Self { header, spaces })
    }

    /// The window that holds all of `address..address+width`, if any.
    #[inline]
    pub fn find(&self, space: Space, address: u64, width: u8) -> Option<&Window> {
        let list = &self.spaces[space as usize];
        let after = list.partition_point(|w| w.desc.base <= address);
        let window = list[..after].last()?;
        let offset = address - window.desc.base;
        (offset < window.desc.len && u64::from(width) <= window.desc.len - offset).then_some(window)
    }

    /// Every window, in ascending order, ports last.
    pub fn windows(&self) -> impl Iterator<Item = &Window> {
        self.spaces.iter().flatten()
    }

    /// A guest load of `width` (1, 2, 4, 8) bytes within `window`, which [`Bus::find`] gave for this address.
    ///
    /// # Errors
    /// As [`DeviceClient::request`].
    pub fn read(
        &self,
        window: &Window,
        address: u64,
        width: u8,
        vcpu: u16,
        attributes: Attributes,
        exit: &AtomicU32,
    ) -> std::result::Result<u64, Unanswered> {
        let offset = address.wrapping_sub(window.desc.base);
        let (n, behaviour) = window.behaviour(offset, width);
        let local = match window.desc.kind {
            WindowKind::Registers(_) => self.read_local(window, behaviour, offset),
            _ => config_read(window, offset, width),
        };
        let counts = window.counts(offset, n);
        if let Some(value) = local {
            counts.read_local.fetch_add(1, Relaxed);
            return Ok(value & Access::mask(width));
        }
        let asker = Asker { vcpu, attributes, exit };
        let value = ask(window, Operation::Read, address, width, 0, asker)?;
        counts.read_synchronous.fetch_add(1, Relaxed);
        Ok(value)
    }

    fn read_local(&self, window: &Window, behaviour: Option<&Behaviour>, offset: u64) -> Option<u64> {
        let behaviour = behaviour?;
        let value = match behaviour.read {
            ReadRule::Synchronous => return None,
            ReadRule::Shadow(cell) => window.client.shadow(cell)?,
            ReadRule::Formula(row) => window.client.area().formula(row)?.at(self.header.guest_ns()),
            ReadRule::Constant(value) => value,
        };
        let shift = 8 * (offset - u64::from(behaviour.offset));
        Some(value.checked_shr(shift as u32).unwrap_or(0))
    }

    /// A guest store of `width` (1, 2, 4, 8) bytes within `window`, which [`Bus::find`] gave for this address.
    ///
    /// # Errors
    /// As [`DeviceClient::request`].
    #[expect(clippy::too_many_arguments, reason = "an access has that many parts")]
    pub fn write(
        &self,
        window: &Window,
        address: u64,
        width: u8,
        value: u64,
        vcpu: u16,
        attributes: Attributes,
        exit: &AtomicU32,
    ) -> std::result::Result<(), Unanswered> {
        let offset = address.wrapping_sub(window.desc.base);
        let value = value & Access::mask(width);
        let (n, behaviour) = window.behaviour(offset, width);
        let counts = window.counts(offset, n);
        let asker = Asker { vcpu, attributes, exit };
        let synchronous = match (&window.desc.kind, behaviour.map(|b| b.write)) {
            (WindowKind::Registers(_), Some(WriteRule::Posted(invalidates))) => {
                let access = access(window, Operation::Write, address, width, value, asker);
                window.client.post(&access, invalidates, exit)?;
                false
            }
            (WindowKind::Registers(_), Some(WriteRule::Ignored)) => false,
            (WindowKind::Registers(_), _) => {
                ask(window, Operation::Write, address, width, value, asker)?;
                true
            }
            _ => config_write(window, address, width, value, asker)?,
        };
        let count = if synchronous { &counts.write_synchronous } else { &counts.write_local };
        count.fetch_add(1, Relaxed);
        Ok(())
    }

    /// The latch of port 0xCF8; 0 if there is no such window.
    pub fn pci_address(&self) -> u32 {
        self.index_latches().map(|latch| latch.load(Relaxed) & INDEX_BITS).next().unwrap_or(0)
    }

    /// Sets the latch of port 0xCF8: to 0 for a reset, or to what was saved. No vCPU may run.
    pub fn set_pci_address(&self, value: u32) {
        self.index_latches().for_each(|latch| latch.store(value & INDEX_BITS, Relaxed));
    }

    fn index_latches(&self) -> impl Iterator<Item = &AtomicU32> {
        let latched = self.windows().filter(|window| window.desc.kind == WindowKind::PciIndexData);
        latched.map(|window| &window.client.area().control().index_latch)
    }

    /// How often each register was accessed, those never accessed left out.
    pub fn counts(&self) -> Vec<RegisterCount> {
        let mut all = Vec::new();
        for window in self.windows() {
            for (n, c) in window.counts.iter().enumerate() {
                let offset = match &window.desc.kind {
                    WindowKind::Registers(list) if window.desc.len > COUNTED_OFFSETS => {
                        n.checked_sub(1).and_then(|i| list.get(i)).map_or(0, |b| b.offset.into())
                    }
                    _ => n as u64,
                };
                let pairs = [(false, &c.read_synchronous, &c.read_local), (true, &c.write_synchronous, &c.write_local)];
                for (write, synchronous, local) in pairs {
                    let (synchronous, local) = (synchronous.load(Relaxed), local.load(Relaxed));
                    if synchronous + local > 0 {
                        let (device, window) = (window.desc.device, window.desc.name.clone());
                        all.push(RegisterCount { device, window, offset, write, synchronous, local });
                    }
                }
            }
        }
        all
    }
}

/// What is wrong with a window by itself.
fn check(desc: &WindowDesc) -> Option<&'static str> {
    if desc.len == 0 {
        return Some("is empty");
    }
    if desc.base.checked_add(desc.len).is_none() {
        return Some("wraps around the end of its address space");
    }
    match &desc.kind {
        WindowKind::Registers(list) => {
            let outside = |b: &Behaviour| u64::from(b.offset) + u64::from(b.length) > desc.len;
            list.iter().any(outside).then_some("describes registers beyond its end")
        }
        WindowKind::PciIndexData => (desc.len != 8).then_some("must have 8 bytes: 4 of index, 4 of data"),
        WindowKind::PciEcam => {
            (desc.len > 256 << 20 || !desc.len.is_multiple_of(1 << 20)).then_some("must hold 1 to 256 buses of 1 MiB")
        }
    }
}

fn access(window: &Window, operation: Operation, address: u64, width: u8, value: u64, asker: Asker<'_>) -> Access {
    let Asker { vcpu, attributes, .. } = asker;
    Access { operation, space: window.desc.space, address, width, value, attributes, vcpu }
}

fn ask(
    window: &Window,
    operation: Operation,
    address: u64,
    width: u8,
    value: u64,
    asker: Asker<'_>,
) -> std::result::Result<u64, Unanswered> {
    window.client.request(&access(window, operation, address, width, value, asker), asker.exit)
}

/// Where in configuration space an access goes: function and register; `None` if it is not one.
enum Config {
    /// The index register itself.
    Index,
    /// A port beside it, such as 0xCF9.
    Beside,
    /// Register of a function.
    Register(u16, u64),
    /// Data port while the index is not enabled.
    Disabled,
}

fn config_target(window: &Window, offset: u64, width: u8) -> Config {
    if window.desc.kind == WindowKind::PciEcam {
        return Config::Register((offset >> 12) as u16, offset & 0xfff);
    }
    if offset < 4 {
        return if offset == 0 && width == 4 { Config::Index } else { Config::Beside };
    }
    let latch = window.client.area().control().index_latch.load(Relaxed);
    if latch >> 31 == 0 {
        return Config::Disabled;
    }
    Config::Register((latch >> 8) as u16, u64::from(latch & 0xfc) + (offset - 4))
}

fn config_read(window: &Window, offset: u64, width: u8) -> Option<u64> {
    let area = window.client.area();
    match config_target(window, offset, width) {
        Config::Index => Some(area.control().index_latch.load(Relaxed).into()),
        Config::Beside => None,
        Config::Disabled => Some(u64::MAX),
        Config::Register(bdf, register) => {
            let value = area.function_page(bdf).and_then(|page| area.read_shadow_page(page, register, width));
            Some(value.unwrap_or(u64::MAX))
        }
    }
}

/// Answers whether the device was asked.
fn config_write(
    window: &Window,
    address: u64,
    width: u8,
    value: u64,
    asker: Asker<'_>,
) -> std::result::Result<bool, Unanswered> {
    let area = window.client.area();
    match config_target(window, address - window.desc.base, width) {
        Config::Index => area.control().index_latch.store(value as u32 & INDEX_BITS, Relaxed),
        Config::Disabled => {}
        Config::Beside => {
            ask(window, Operation::Write, address, width, value, asker)?;
            return Ok(true);
        }
        Config::Register(bdf, register) => {
            if area.function_page(bdf).is_some() {
                let target = u64::from(bdf) << 12 | register;
                ask(window, Operation::ConfigWrite, target, width, value, asker)?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}
