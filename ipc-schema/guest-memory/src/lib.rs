//! guest-memory.
