//! Generated code of the Cap'n Proto schema, and thin typed helpers that every reader of a message uses.
//!
//! The schema files in `ipc-schema/schema` are the contract between processes and between versions; their comments are the
//! documentation of the generated modules.

#[expect(missing_docs, clippy::pedantic, clippy::unwrap_used, reason = "generated from the schema, which documents it")]
mod generated {
    pub mod state_capnp {
        include!(concat!(env!("OUT_DIR"), "/state_capnp.rs"));
    }
    pub mod engine_capnp {
        include!(concat!(env!("OUT_DIR"), "/engine_capnp.rs"));
    }
    pub mod islet_capnp {
        include!(concat!(env!("OUT_DIR"), "/islet_capnp.rs"));
    }
    pub mod vm_capnp {
        include!(concat!(env!("OUT_DIR"), "/vm_capnp.rs"));
    }
    pub mod state_board_capnp {
        include!(concat!(env!("OUT_DIR"), "/state_board_capnp.rs"));
    }
    pub mod state_serial_capnp {
        include!(concat!(env!("OUT_DIR"), "/state_serial_capnp.rs"));
    }
    pub mod saved_capnp {
        include!(concat!(env!("OUT_DIR"), "/saved_capnp.rs"));
    }
    pub mod snapshot_capnp {
        include!(concat!(env!("OUT_DIR"), "/snapshot_capnp.rs"));
    }
}
pub use generated::{
    engine_capnp, islet_capnp, saved_capnp, snapshot_capnp, state_board_capnp, state_capnp, state_serial_capnp,
    vm_capnp,
};
