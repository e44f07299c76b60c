//! Register windows as data: which addresses a device answers, and what each register costs.

use crate::Space;

/// How a read of a register is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadRule {
    /// By the device.
    Synchronous,
    /// From this shadow cell while it holds, else by the device.
    Shadow(u16),
    /// From this row of the formula table, else by the device.
    Formula(u16),
    /// By this value.
    Constant(u64),
}

/// How a write to a register is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteRule {
    /// The vCPU waits for the device.
    Synchronous,
    /// The vCPU goes on; the shadow cells of this mask are stale until the device has consumed the write.
    Posted(u64),
    /// Nothing happens.
    Ignored,
}

/// How a range of a window behaves. An access that lies within the range follows it: a narrower read takes its bytes
/// out of the register's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// First byte, from the window's base.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
    /// Reads.
    pub read: ReadRule,
    /// Writes.
    pub write: WriteRule,
}

/// What kind of window it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// Registers; what no behaviour covers is synchronous.
    Registers(Vec<Behaviour>),
    /// 0xCF8..=0xCFF: the engine keeps the index latch and answers reads of configuration space from the board's shadow
    /// pages; writes are synchronous, functions without a page read all ones.
    PciIndexData,
    /// Memory-mapped configuration space, 4 KiB per function from bus 0 on; as above.
    PciEcam,
}

/// One register window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowDesc {
    /// For people: "serial0", "pci-config".
    pub name: String,
    /// Which address space.
    pub space: Space,
    /// First guest address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
    /// The device's area.
    pub device: u16,
    /// What is in it.
    pub kind: WindowKind,
}
