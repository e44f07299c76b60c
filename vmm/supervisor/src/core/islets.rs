//! The processes that a supervisor starts, as a table: who they are, and what their end means.

/// A process of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Islet {
    /// Executes the vCPUs.
    Engine,
    /// The chipset.
    Board,
    /// The first serial port.
    Serial0,
    /// Loads the kernel; short-lived.
    Loader,
    /// Writes and reads snapshots; lives as long as that takes.
    Streamer,
}

/// What follows when a process ends that was not asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The VM ends.
    EndsVm,
    /// It is started again with the same descriptors.
    Restart,
    /// It does one thing and ends; if it fails, the VM ends.
    Once,
    /// It works for a job and ends; if it fails, the job does.
    Job,
}

impl Policy {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EndsVm => "ends the VM",
            Self::Restart => "restart",
            Self::Once => "once",
            Self::Job => "once for each job",
        }
    }
}

/// What is known about a process before it is started.
#[derive(Debug)]
pub struct Row {
    /// Its name in events and messages.
    pub name: &'static str,
    /// Its role: a `profile::Kind` by name. (A streamer that reads a snapshot has another one; see `plan::role`.)
    pub role: &'static str,
    /// Name under which the launcher holds its binary.
    pub binary: &'static str,
    /// Its page of the status memfd; 0 is the supervisor's.
    pub status_slot: u16,
    /// Its row of the memfd "state", if it has saved state.
    pub state_row: Option<u16>,
    /// What its end means.
    pub policy: Policy,
    /// Counters of its status page that grow when it does something for the guest: a death after that is not one in a
    /// row.
    pub progress: &'static [usize],
}

/// In the order of [`Islet::ALL`].
const TABLE: [Row; 5] = [
    Row {
        name: "engine",
        role: "engine-tcg",
        binary: "bin:engine",
        status_slot: 1,
        state_row: Some(0),
        policy: Policy::EndsVm,
        progress: &[],
    },
    Row {
        name: "board",
        role: "board",
        binary: "bin:board",
        status_slot: 2,
        state_row: Some(1),
        policy: Policy::EndsVm,
        progress: &[],
    },
    // Posted writes served and requests answered (the serial port's counters 6 and 7).
    Row {
        name: "serial0",
        role: "serial",
        binary: "bin:serial",
        status_slot: 3,
        state_row: Some(2),
        policy: Policy::Restart,
        progress: &[6, 7],
    },
    Row {
        name: "loader",
        role: "loader",
        binary: "bin:loader",
        status_slot: 4,
        state_row: None,
        policy: Policy::Once,
        progress: &[],
    },
    Row {
        name: "streamer",
        role: "streamer-source",
        binary: "bin:streamer",
        status_slot: 5,
        state_row: None,
        policy: Policy::Job,
        progress: &[],
    },
];

impl Islet {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Engine, Self::Board, Self::Serial0, Self::Loader, Self::Streamer];
    /// Those that live as long as the VM. Started in this order.
    pub const PERMANENT: &'static [Self] = &[Self::Board, Self::Serial0, Self::Engine];
    /// Those that serve registers.
    pub const DEVICES: &'static [Self] = &[Self::Board, Self::Serial0];

    /// What is known about it.
    #[must_use]
    pub const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The one of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|islet| islet.name() == name)
    }
}

impl std::fmt::Display for Islet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_profile_and_a_page_of_its_own() {
        let mut slots = vec![0];
        for islet in Islet::ALL {
            assert!(profile::Kind::from_name(islet.row().role).is_some(), "{islet}");
            assert_eq!(Islet::by_name(islet.name()), Some(islet));
            slots.push(islet.row().status_slot);
            assert_eq!(islet.row().state_row.is_some(), Islet::PERMANENT.contains(&islet));
        }
        slots.dedup();
        assert_eq!(slots.len(), 6);
    }
}
