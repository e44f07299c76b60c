//! keeper-protocol.
