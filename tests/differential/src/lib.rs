//! x86 against the CPU that this runs on: every instruction that the CPU model advertises and that user mode can execute, in
//! 64- and 32-bit code, every form of its operands, random states, flags, memory, faults and accesses across pages.
//!
//! The idea: one description of a case (state, bytes, memory), three ways to run it (a forked child on the host CPU; lift and
//! verify in a vCPU that sees the same addresses with the same rights, and interpret, or emit and run), and a comparison of
//! everything that a program could see. What differs is repeated by the line that is printed with it.
//!
//! | module | owns |
//! |---|---|
//! | [`case`](mod@case) | a case and how it ends: addresses, state, memory |
//! | [`features`], [`exclusions`] | what is advertised; what the host cannot answer for, and why |
//! | [`forms`] | the forms of each instruction |
//! | [`build`], [`random`], [`tune`] | from a form and a number to a case |
//! | [`fixed`] | corners that random states reach too seldom |
//! | [`sequence`] | several instructions in one block |
//! | [`host`] | the child that runs cases on the CPU |
//! | [`guest`], [`bus`] | a vCPU that runs them in the translator |
//! | [`tiers`] | one for each tier, which must come to the same |
//! | [`compare`], [`rules`] | what must be equal; undefined flags and choices of the processor, reviewed |
//! | [`amd`] | those that are AMD's alone |
//! | [`mutants`] | planted lifter bugs that must be noticed |
//! | [`alone`] | what the host cannot answer for: both tiers do the same, and what is not advertised raises #UD |
//! | [`census`] | what became of every code that there is |
//! | [`run`] | batches, counts, reports, repeating one case |
//!
//! The host must be x86-64 Linux with FSGSBASE and modify_ldt, and its processor Intel's or AMD's: the lists are reviewed for
//! these two makers. The translator is like Intel's, and what only AMD's do otherwise is allowed on their hosts alone. Another
//! maker's may set undefined flags in more ways, and choose otherwise in more places: there the tests say what differs from the
//! host, but only a difference between the tiers is a failure.

pub mod alone;
pub mod amd;
pub mod build;
pub mod bus;
pub mod case;
pub mod census;
pub mod compare;
pub mod exclusions;
pub mod features;
pub mod fixed;
pub mod forms;
pub mod guest;
pub mod host;
pub mod mutants;
pub mod random;
pub mod rng;
pub mod rules;
pub mod run;
pub mod sequence;
pub mod tiers;
pub mod tune;
