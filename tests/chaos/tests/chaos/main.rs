//! What a VM promises when something is killed with signal 9: each test is one promise, with figures on its output.

mod payloads;
