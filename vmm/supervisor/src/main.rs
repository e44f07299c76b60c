//! NOTE to the author of this crate: vmm/atoll and tests/rig are taken by another author now; write the supervisor (core, driver) next.
//! supervisor.

fn main() {}
