//! What a fault is in a thread that its tracer has stopped.
//!
//! The idea: the process commits it itself. Its registers are set so that the next instruction that it executes is a forbidden
//! system call, a jump to itself, or the first one of the Rust library's own panic.

use std::ffi::c_void;
use std::fs;
use std::path::PathBuf;

use nix::libc::user_regs_struct;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use object::{Object, ObjectSymbol};
use supervisor::core::faults::Fault;

/// System calls that no profile allows, by number; harmless with these arguments should one be carried out all the same.
pub const FORBIDDEN: [(u64, &str); 3] = [(101, "ptrace"), (250, "keyctl"), (321, "bpf")];
/// What the planted panic says.
pub const PANIC: &str = "a planted fault";
/// `syscall; jmp .`
const SYSTEM_CALL: i64 = i64::from_le_bytes([0x0f, 0x05, 0xeb, 0xfe, 0x90, 0x90, 0x90, 0x90]);
/// `syscall; int3`
const SYSTEM_CALL_AND_BACK: i64 = i64::from_le_bytes([0x0f, 0x05, 0xcc, 0x90, 0x90, 0x90, 0x90, 0x90]);
/// `jmp .`
const LOOP: i64 = i64::from_le_bytes([0xeb, 0xfe, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90]);
/// The least that the System V ABI leaves alone below the stack pointer.
const RED_ZONE: u64 = 128;
/// Bytes below it for the arguments of the panic.
const ARGUMENTS: u64 = 128;

/// Whether a fault is planted by registers, for which the thread must be about to return to its own code.
#[must_use]
pub const fn needs_registers(fault: Fault) -> bool {
    matches!(fault, Fault::Panic | Fault::Forbidden | Fault::Hang)
}

/// Plants `fault` into a process, of which the thread `thread` is stopped by its tracer. `choice` is which forbidden system call.
/// A thread that goes on afterwards does so with the registers `back`, or where it was.
///
/// # Errors
/// Those of ptrace(2) and kill(2); the process may have been killed by others.
///
/// # Panics
/// The process's binary has no symbols.
pub fn plant(
    fault: Fault,
    process: Pid,
    thread: Pid,
    choice: usize,
    back: Option<user_regs_struct>,
) -> nix::Result<()> {
    match fault {
        Fault::Kill => return kill(process, Signal::SIGKILL),
        Fault::Stop => return kill(process, Signal::SIGSTOP),
        Fault::Panic | Fault::Forbidden | Fault::Hang => {}
    }
    let image = Image::of(process).ok_or(nix::Error::ESRCH)?;
    let before = ptrace::getregs(thread)?;
    let mut registers = before;
    // No system call is begun again.
    registers.orig_rax = u64::MAX;
    match fault {
        Fault::Panic => {
            registers.rip = image.panic;
            let at = (registers.rsp - RED_ZONE - ARGUMENTS) & !15;
            write(thread, at, PANIC.as_bytes())?;
            // A `core::panic::Location`: file (pointer, length), line, column.
            let (text, location) = (at, at + 64);
            let file = text.to_le_bytes().into_iter().chain((PANIC.len() as u64).to_le_bytes());
            let location_bytes: Vec<u8> = file.chain(1u32.to_le_bytes()).chain(2u32.to_le_bytes()).collect();
            write(thread, location, &location_bytes)?;
            (registers.rdi, registers.rsi, registers.rdx) = (text, PANIC.len() as u64, location);
            // As a call leaves it.
            registers.rsp = at - 8;
        }
        Fault::Forbidden => {
            poke(thread, image.entry, if image.is_keeper { SYSTEM_CALL_AND_BACK } else { SYSTEM_CALL })?;
            registers.rax = FORBIDDEN[choice % FORBIDDEN.len()].0;
            (registers.rdi, registers.rsi, registers.rdx) = (u64::MAX, 0, 0);
            registers.rip = image.entry;
        }
        Fault::Kill | Fault::Stop | Fault::Hang => {
            poke(thread, image.entry, LOOP)?;
            registers.rip = image.entry;
        }
    }
    ptrace::setregs(thread, registers)?;
    if fault == Fault::Forbidden && image.is_keeper {
        // It is refused, and the thread goes on where it was.
        let mut signal = None;
        loop {
            ptrace::cont(thread, signal)?;
            match waitpid(thread, Some(WaitPidFlag::__WALL))? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => break,
                WaitStatus::Stopped(_, other) => signal = Some(other),
                WaitStatus::PtraceEvent(..) | WaitStatus::PtraceSyscall(_) => signal = None,
                _ => return Err(nix::Error::ESRCH),
            }
        }
        let refused = -i64::from(nix::libc::EPERM);
        assert_eq!(ptrace::getregs(thread)?.rax.cast_signed(), refused, "a forbidden system call of the keeper");
        ptrace::setregs(thread, back.unwrap_or(before))?;
    }
    Ok(())
}

/// Where things are in a process.
struct Image {
    /// Its first instruction, which it does not need any more.
    entry: u64,
    /// `core::panicking::panic`.
    panic: u64,
    is_keeper: bool,
}

impl Image {
    /// `None` if the process is gone.
    fn of(process: Pid) -> Option<Self> {
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
        let path = fs::read_link(format!("/proc/{process}/exe")).ok()?;
        let name = path.to_str()?;
        let line = maps.lines().find(|line| line.ends_with(name))?;
        let base = u64::from_str_radix(line.split('-').next()?, 16).ok()?;
        let (entry, panic) = symbols(&path)?;
        Some(Self { entry: base + entry, panic: base + panic, is_keeper: path.ends_with("keeper") })
    }
}

/// Offsets of the entry point and of the panic in a binary.
fn symbols(path: &PathBuf) -> Option<(u64, u64)> {
    let bytes = fs::read(path).ok()?;
    let file = object::File::parse(&*bytes).expect("a binary of this project");
    let is_panic = |name: &str| name.ends_with("4core9panicking5panic");
    let panic = file.symbols().find(|symbol| symbol.name().is_ok_and(is_panic));
    Some((file.entry(), panic.expect("core::panicking::panic is among the symbols").address()))
}

fn poke(thread: Pid, address: u64, word: i64) -> nix::Result<()> {
    ptrace::write(thread, address as *mut c_void, word)
}

fn write(thread: Pid, address: u64, bytes: &[u8]) -> nix::Result<()> {
    for (at, chunk) in (address..).step_by(8).zip(bytes.chunks(8)) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        poke(thread, at, i64::from_le_bytes(word))?;
    }
    Ok(())
}
