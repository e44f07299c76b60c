//! The targets, each tried with all committed inputs, with new ones, and with planted bugs.
#![cfg(test)]
