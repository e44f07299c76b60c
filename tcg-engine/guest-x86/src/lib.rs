//! The x86 front end: decoding and lifting, memory management, exceptions, and system state of one vCPU.
//!
//! The pieces and the one idea that holds them together: guest words live in [`ir::Regs`], everything else of a vCPU in
//! [`Cpu`], which is the environment ([`ir::Env`]) that lifted blocks run in. A run loop owns both and a [`code::Cache`] side by
//! side (see [`runner`] for one that is complete).
//!
//! | file | owns |
//! |---|---|
//! | `state`, `flags`, `mode` | the layout of guest words, system state, the mode bits that a block is lifted for |
//! | `core` | architectural state in and out |
//! | `bus` | what the machine around a vCPU provides |
//! | `fpu` | the x87 stack, its exceptions, and the FSAVE, FXSAVE and XSAVE images |
//! | `lift` | bytes to operations |
//! | `helpers` | what operations call for everything that is not simple |
//! | `memory` | segmentation, paging, accesses |
//! | `exception`, `deliver` | exceptions, interrupts |
//! | `runner` | the run loop |
//! | `listing` | blocks as text |
//!
//! # Adding an instruction
//! 1. Add its mnemonic to a row of `lift/dispatch.rs`, or a row with a new file's `lift` function. What is in no row raises #UD,
//!    so only instructions of the CPU model belong there.
//! 2. In that file write a method on `Lifter` that emits operations through `self.b` ([`ir::Builder`]). `lift/operand.rs` reads
//!    and writes operands: `read(n)`, `read_zx(n)`, `write(n, slot)`, `ea()` with `load`/`store`, `imm(n)`, `bits(n)`. XMM
//!    registers are the pairs [`state::xmm`]; 128-bit memory operands go through `ea()` and `Ea::mem(128)`, with
//!    [`ir::MemRef::aligned`] for those that raise #GP when misaligned.
//! 3. Two rules, which the IR's verifier checks: no guest word is written before the instruction's last operation that may
//!    stop; and flags are recorded after it. `flags_live()` says whether anybody can see the flags.
//! 4. Return `Some(Flow::Next)`, or end the block with one of the `exit_*` methods. `None` raises #UD.
//! 5. If it changes flags or memory in a way that `lift/live.rs` should know, see there; unknown instructions are treated as if
//!    everything were visible before and after them, which is always right.
//! 6. The unit checks of SSE, MMX and x87 (#UD, #NM) follow from [`Mode`]'s `EM`, `TS`, `MP` and `OSFXSR`, which are part of a
//!    block's key: decide them when lifting and `raise` the exception as the only operation. VEX-coded instructions on vectors
//!    (`lift/vex`) run with `AVX`, which says that XCR0 has it on; those of general registers (`lift/bmi`) with `LEVEL3`, which says
//!    that the CPU model has them.
//!
//! # Adding a helper
//! Add a row to the table in `helpers/mod.rs`: name, flags of [`ir::op::call_flags`], function. The function has the signature
//! of the others: `fn(cpu, regs, a, b, imm) -> Ret`. It may read and write `regs` as its flags say, reaches memory through
//! `cpu.read_linear` and friends (`cpu.segmented` first, outside 64-bit code) and raises exceptions with `cpu.gp`, `cpu.ud` or
//! `cpu.fault`, before it has changed anything. In the lifter call it with `self.call(d, Helper::Name, a, b, imm)`.
//!
//! # What is left out
//! Task switches (task gates, IRET with NT, jumps to a TSS raise #GP); call gates to more privileged code; instruction, data and
//! I/O breakpoints (the debug registers are stored); virtual-8086 mode extensions (CR4.VME, PVI); SMM
//! (RSM raises #UD).

pub mod bus;
pub mod core;
mod cpu;
mod deliver;
pub mod exception;
pub mod flags;
pub mod fpu;
mod helpers;
mod lift;
pub mod listing;
mod memory;
pub mod mode;
pub mod runner;
pub mod state;

pub use bus::{Attrs, Bus, Order, Refused};
pub use core::X86Core;
pub use cpu::{Cpu, event};
pub use deliver::Delivered;
pub use exception::Exception;
pub use helpers::{HELPERS, HelperInfo};
pub use lift::{Lift, MAX_INSTRUCTIONS};
pub use mode::Mode;
pub use runner::{Runner, Why};
pub use state::{Seg, Segment, Shadow, SysState, Table};

#[cfg(test)]
mod tests;
