//! What a vCPU needs from the machine around it.
//!
//! The idea: memory is reached directly through [`mem::Memory`]; everything else — devices, the local APIC, the clock, other
//! vCPUs — is behind this one trait, so that the engine and the tests give the same kind of thing.

use ir::{Stop, Then};
use mem::Vcpus;

/// Who asks for a device access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attrs {
    /// At privilege level 3.
    pub user: bool,
}

/// A register that the bus does not have, or a value that it refuses: the instruction raises #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// The machine around one vCPU.
///
/// Device accesses have the exact width of the guest's access (1, 2, 4 or 8 bytes; one that straddles pages is split into
/// bytes) and are made once. `Err(Stop::Restart)` means that nothing has happened and the instruction is to be run again;
/// no other `Stop` may be returned. `Ok(Then::FinishInstruction)` makes the run loop look after this instruction.
pub trait Bus {
    /// A load from guest-physical memory that is not RAM.
    ///
    /// # Errors
    /// [`Stop::Restart`].
    fn mmio_read(&mut self, gpa: u64, bytes: u8, attrs: Attrs) -> Result<u64, Stop>;
    /// A store to guest-physical memory that is not RAM (a write to ROM is dropped before).
    ///
    /// # Errors
    /// [`Stop::Restart`].
    fn mmio_write(&mut self, gpa: u64, bytes: u8, value: u64, attrs: Attrs) -> Result<Then, Stop>;
    /// IN, 1, 2 or 4 bytes.
    ///
    /// # Errors
    /// [`Stop::Restart`].
    fn io_read(&mut self, port: u16, bytes: u8) -> Result<u32, Stop>;
    /// OUT, 1, 2 or 4 bytes.
    ///
    /// # Errors
    /// [`Stop::Restart`].
    fn io_write(&mut self, port: u16, bytes: u8, value: u32) -> Result<Then, Stop>;

    /// Whether somebody asks this vCPU to look up. Emitted code asks after each operation that it has interpreted.
    fn asked(&self) -> bool {
        false
    }

    /// The vCPU is between a check of a page and the next: if memory was harvested, have it drop its write tags (and only
    /// then acknowledge). Asked for by whoever runs the vCPU, and after each access to a device, whose answer may have been
    /// waited for while memory was harvested. Without harvests there is nothing to do.
    fn safepoint(&mut self, _drop_tags: &mut dyn FnMut()) {}

    /// IA32_APIC_BASE.
    fn apic_base(&self) -> u64;
    /// Write IA32_APIC_BASE.
    ///
    /// # Errors
    /// [`Refused`] for an invalid transition or reserved bits.
    fn set_apic_base(&mut self, value: u64) -> Result<(), Refused>;
    /// RDMSR of 0x800..=0x8ff.
    ///
    /// # Errors
    /// [`Refused`] if the APIC is not in x2APIC mode or has no such readable register.
    fn x2apic_read(&mut self, index: u32) -> Result<u64, Refused>;
    /// WRMSR of 0x800..=0x8ff.
    ///
    /// # Errors
    /// [`Refused`] if the APIC is not in x2APIC mode, has no such writable register, or for reserved bits.
    fn x2apic_write(&mut self, index: u32, value: u64) -> Result<Then, Refused>;
    /// The task priority's upper four bits: CR8.
    fn cr8(&self) -> u8;
    /// Write CR8 (0..=15).
    fn set_cr8(&mut self, value: u8) -> Then;
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    fn tsc_deadline(&mut self) -> u64;
    /// Write IA32_TSC_DEADLINE.
    fn set_tsc_deadline(&mut self, value: u64) -> Then;

    /// The time stamp counter.
    fn tsc(&mut self) -> u64;
    /// Write the time stamp counter (IA32_TSC_ADJUST moves along, which the bus does).
    fn set_tsc(&mut self, value: u64);
    /// IA32_TSC_ADJUST.
    fn tsc_adjust(&mut self) -> u64;
    /// Write IA32_TSC_ADJUST (the counter moves along).
    fn set_tsc_adjust(&mut self, value: u64);
    /// 64 random bits for RDRAND, `None` if there are none at the moment.
    fn random(&mut self) -> Option<u64>;

    /// Local APIC id for CPUID.
    fn apic_id(&self) -> u32;
    /// vCPUs of the VM for CPUID.
    fn vcpus(&self) -> u32;

    /// Have each of `others` follow `order` before it does anything else with guest memory: when this returns, each has, or
    /// stands where it will before it goes on. While this vCPU waits, orders for itself may have come ([`Cpu::take_orders`]).
    ///
    /// [`Cpu::take_orders`]: crate::Cpu::take_orders
    fn order(&mut self, others: Vcpus, order: Order);
    /// An order of another vCPU; asking for the next says that the last one has been followed.
    fn next_order(&mut self) -> Option<Order>;
    /// From now (`begin`), until called again, no other vCPU does anything with guest memory. Orders may have come meanwhile.
    fn alone(&mut self, begin: bool);
}

/// What one vCPU, or the engine for a device, can have others do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Drop all write tags for the page at this RAM offset: somebody is about to lift code from it.
    Protect(u64),
    /// Bytes (RAM offset, length) have changed: drop the blocks made from them.
    Invalidate(u64, u64),
    /// A device has written to the page at this RAM offset: drop the blocks made from it, and the claim to it, since devices write to
    /// data.
    Release(u64),
}
