//! guest-a64.
