//! Machine versions as data: what a guest finds at which address, and the tables that tell it so.
//!
//! The one idea: everything that two processes of a VM (or two versions of Atoll) must agree on about a machine is a
//! constant in one table, [`q35::Q35_0`], and everything else here is a pure function of that table: RAM ranges, the
//! e820 map, ACPI bytes. Nothing in this crate does I/O or knows a process.
//!
//! A machine is chosen by name with [`MachineVersion::by_name`]. `-0` versions are unstable; a numbered one never changes.

pub mod acpi;
pub mod interrupts;
pub mod limits;
pub mod memory;
pub mod pci;
pub mod ports;
pub mod q35;

pub use interrupts::Interrupts;
pub use memory::{E820Entry, E820Kind, MemoryMap, Span};
pub use pci::{ConfigField, PciFunction, PciTopology};
pub use ports::{PortMap, PortSpan};

/// Everything a guest can find out about one machine version without asking a device.
#[derive(Debug)]
pub struct Machine {
    /// The name used on the command line, in saved state and in events, such as `q35-0`.
    pub name: &'static str,
    /// Guest-physical address space.
    pub memory: MemoryMap,
    /// Input/output port space.
    pub ports: PortMap,
    /// PCI functions that are part of the board, and the root bus.
    pub pci: PciTopology,
    /// Interrupt lines, IOAPIC pins and their wiring.
    pub interrupts: Interrupts,
}

/// The machine versions that this build knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MachineVersion {
    /// x86_64, Q35 north bridge and ICH9 south bridge as far as Linux looks at them. Unstable.
    Q35_0,
}

impl MachineVersion {
    /// All versions, in the order in which a user should see them.
    pub const ALL: &'static [MachineVersion] = &[MachineVersion::Q35_0];

    /// Finds a version by its name, such as `q35-0`.
    ///
    /// # Errors
    /// [`Error::UnknownMachine`] names what was asked for and what exists.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        Self::ALL.iter().copied().find(|version| version.machine().name == name).ok_or_else(|| Error::UnknownMachine {
            // The name comes from outside: quote a bounded piece of it.
            name: name.chars().take(40).collect(),
            known: Self::ALL.iter().map(|version| version.machine().name).collect::<Vec<_>>().join(", "),
        })
    }

    /// The data of this version.
    pub const fn machine(self) -> &'static Machine {
        match self {
            MachineVersion::Q35_0 => &q35::Q35_0,
        }
    }

    /// The name of this version.
    pub const fn name(self) -> &'static str {
        self.machine().name
    }
}

/// What can be wrong with a request to this crate; all of it is wrong configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name is not one of [`MachineVersion::ALL`].
    #[error("unknown machine \"{name}\": this build has {known}")]
    UnknownMachine {
        /// What was asked for, at most 40 characters of it.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// RAM size outside what the machine's address map can hold.
    #[error(
        "memory of {bytes} bytes does not fit the machine: use a multiple of 1 MiB from {min_mib} to {max_mib} MiB"
    )]
    MemorySize {
        /// What was asked for.
        bytes: u64,
        /// Smallest size, MiB.
        min_mib: u64,
        /// Largest size, MiB.
        max_mib: u64,
    },
    /// Number of vCPUs outside the limits.
    #[error("{vcpus} vCPUs asked for: use 1 to {max}")]
    Vcpus {
        /// What was asked for.
        vcpus: u32,
        /// The limit, [`limits::MAX_VCPUS`].
        max: u32,
    },
    /// A serial port number that the machine has no address for.
    #[error("serial port {index} asked for: the machine has ports 0 to {last}")]
    SerialPort {
        /// What was asked for, counted from 0.
        index: usize,
        /// The last port that exists.
        last: usize,
    },
    /// The generated ACPI tables exceed the area reserved for them. Not reachable within [`limits`]; kept as an error
    /// because the loader must not panic.
    #[error("ACPI tables need {needed} bytes, but the machine reserves {available}: configure fewer vCPUs")]
    AcpiTooLarge {
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_found_by_its_name_only() {
        assert_eq!(MachineVersion::by_name("q35-0"), Ok(MachineVersion::Q35_0));
        let error = MachineVersion::by_name("q35").unwrap_err();
        assert!(error.to_string().contains("q35-0"), "the error lists what exists: {error}");
    }

    #[test]
    fn names_are_unique() {
        for (index, version) in MachineVersion::ALL.iter().enumerate() {
            assert!(MachineVersion::ALL[..index].iter().all(|other| other.name() != version.name()));
        }
    }
}
