//! guest-x86.
