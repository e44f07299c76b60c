//! The kinds of processes that have a saved state, and what the build found out about the schema of each.
//!
//! The one idea: a digest covers all that the meaning of a state's bits depends on (names, ordinals, places, types, defaults)
//! and nothing else, so that two builds that would read each other's states alike have equal digests.

include!(concat!(env!("OUT_DIR"), "/kinds.rs"));

/// A kind of process, one member of the union in `SavedState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Executes vCPUs.
    Engine,
    /// The devices of the board.
    Board,
    /// A serial port.
    Serial,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Engine, Self::Board, Self::Serial];

    /// The kind of the process with this name: `engine`, `board`, `serial0`, `serial1`, ….
    #[must_use]
    pub fn of(process: &str) -> Option<Self> {
        match process {
            "engine" => Some(Self::Engine),
            "board" => Some(Self::Board),
            _ => {
                let number = process.strip_prefix("serial")?;
                let plain = (1..=2).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
                plain.then_some(Self::Serial)
            }
        }
    }

    /// The name of its member of the union, which paths of fields begin with.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Board => "board",
            Self::Serial => "serial",
        }
    }

    /// SHA-256 of this build's schema of the state of this kind.
    #[must_use]
    pub fn digest(self) -> &'static [u8; 32] {
        match self {
            Self::Engine => &ENGINE_DIGEST,
            Self::Board => &BOARD_DIGEST,
            Self::Serial => &SERIAL_DIGEST,
        }
    }

    /// Digests of the schemas that states may come from and about which this build knows everything: its own and the one
    /// that was last frozen.
    #[must_use]
    pub fn known_digests(self) -> [&'static [u8; 32]; 2] {
        let frozen = match self {
            Self::Engine => &ENGINE_FROZEN,
            Self::Board => &BOARD_FROZEN,
            Self::Serial => &SERIAL_FROZEN,
        };
        [self.digest(), frozen]
    }

    /// Paths of the fields that were added since the schema was last frozen, sorted, without positions in lists:
    /// `board.pm.suspended`. A process that reads all fields of its schema knows them all.
    #[must_use]
    pub fn added(self) -> &'static [&'static str] {
        match self {
            Self::Engine => ENGINE_ADDED,
            Self::Board => BOARD_ADDED,
            Self::Serial => SERIAL_ADDED,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::model::Schema;

    const ROOTS: [(Kind, &str, &str); 3] = [
        (Kind::Engine, "saved.capnp", "EngineState"),
        (Kind::Board, "state-board.capnp", "BoardState"),
        (Kind::Serial, "state-serial.capnp", "SerialState"),
    ];

    #[test]
    fn what_the_build_found_is_what_the_schema_says() {
        let current = Schema::parse(include_bytes!("../../schema/schema.req")).unwrap();
        let frozen = Schema::parse(include_bytes!("../../schema/frozen/schema.req")).unwrap();
        let paths = |schema: &Schema| schema.paths(schema.find("saved.capnp", "SavedState").unwrap(), "state");
        let (before, after) = (paths(&frozen), paths(&current));
        assert!(after.contains("engine.vcpus.cpu.x86.pendingEvent.exception.vector"));
        assert!(after.contains("process") && !after.contains("state"));
        for (kind, file, root) in ROOTS {
            let digest = |schema: &Schema| -> [u8; 32] {
                Sha256::digest(schema.canonical(schema.find(file, root).unwrap())).into()
            };
            assert_eq!(kind.known_digests(), [&digest(&current), &digest(&frozen)]);
            let added = kind.added();
            assert!(added.is_sorted());
            assert!(added.iter().all(|name| after.contains(*name) && !before.contains(*name)));
            let ours = |name: &str| name.split('.').next() == Some(kind.name());
            let new = after.iter().filter(|name| ours(name) && !before.contains(*name)).count();
            assert_eq!(added.iter().filter(|name| ours(name)).count(), new);
        }
        let digests = Kind::ALL.map(Kind::digest);
        assert!(digests[0] != digests[1] && digests[1] != digests[2] && digests[0] != digests[2]);
    }

    #[test]
    fn processes_are_of_a_kind() {
        let kinds = [("engine", Some(Kind::Engine)), ("board", Some(Kind::Board)), ("serial0", Some(Kind::Serial))];
        let others = ["", "serial", "serial-1", "serial100", "serial0x", "Board", "loader"].map(|name| (name, None));
        for (name, kind) in kinds.into_iter().chain(others) {
            assert_eq!(Kind::of(name), kind, "{name}");
        }
    }
}
