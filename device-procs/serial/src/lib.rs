//! A 16550A serial port as a process: a UART ([`uart`]) between its register window and its console ([`port`]).
//!
//! The one idea: everything that the guest could miss lies in the window area, not in this process. Registers and FIFO are
//! committed with the access that changed them; bytes on their way to and from the console are moved by system calls
//! whose result lands in the same area. So a kill -9 at any instruction costs a pause and no byte. The process itself
//! ([`order`], `main`) is a loop around that.

pub mod order;
pub mod port;
pub mod uart;
