//! The control socket: its generated interface, the server side that the supervisor runs, and the client side.

#[expect(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::unimplemented,
    clippy::allow_attributes_without_reason,
    reason = "generated from the schema, which documents it"
)]
mod generated {
    pub mod control_capnp {
        include!(concat!(env!("OUT_DIR"), "/control_capnp.rs"));
    }
}
pub use generated::control_capnp;
