//! The control socket of a VM: plain types for what travels on it, the server side that the supervisor runs, and the
//! client side that everybody else uses.
//!
//! The one idea: nobody but this crate sees the generated code. A server implements [`server::Backend`] and a client
//! calls [`client::Client`], both with the types of [`types`]; what the peer sent is checked and bounded on the way.
//!
//! Errors of the VM are [`types::Problem`]s with stable codes; a broken connection is [`client::Error::Lost`]. Events are
//! numbered, and [`client::Follow`] goes on after the last one that it saw, whatever becomes of the connection.

mod bounded;
pub mod client;
pub mod convert;
pub mod exit_status;
pub mod server;
#[cfg(test)]
mod tests;
pub mod types;

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

/// Name of the control socket in a VM's directory.
pub const SOCKET_NAME: &str = "control";
/// Name of the socket on which clients send descriptors, beside it.
pub const DESCRIPTORS_NAME: &str = "descriptors";
