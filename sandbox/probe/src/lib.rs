//! Loosenings to plant into an islet, one at a time, so that an audit can be seen to find each of them ([`plant`]).
//!
//! The idea: a test's stand-in for a process does what the process does, but asks [`plant`] at each step of its lock-down
//! whether something is to be left out or added. The probe is one such stand-in; those of whole VMs are with their tests.

pub mod escape;
pub mod plant;
