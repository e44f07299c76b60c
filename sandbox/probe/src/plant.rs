//! What can be wrong with an islet, by name, for each step of the lock-down at which it can go wrong.
//!
//! | name | what is wrong |
//! |---|---|
//! | `extra-descriptor` | an eventfd too many |
//! | `shared-memory` | a memfd is mapped that no manifest names |
//! | `anonymous-map` | a page of memory beside arena and stacks |
//! | `executable-map` | memory that can be written and executed |
//! | `thread-before` | a thread runs before the restrictions (which are then refused) |
//! | `own-network` | another network than the VM's |
//! | `writable-root` | its root directory can be written |
//! | `no-landlock`, `no-limits` | this restriction is left out |
//! | `capabilities-kept` | it keeps its capabilities |
//! | `dumpable` | others of its user may look into it |
//! | `mmap-allowed` | the filter lets mmap through |
//! | `argument-allowed` | the filter lets F_SETFL of fcntl through |
//! | `no-filter`, `one-thread-free` | no thread, or only the main one, is under the filter |

#![expect(unsafe_code, reason = "what is planted is what no wrapper would do")]

use std::os::fd::OwnedFd;
use std::ptr;

use enter::ThreadGate;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use profile::{Check, Landlock, Policy, Privilege, Profile, Rule, sock_filter};

const PAGE: usize = 4096;

/// What must be there before capabilities are gone. The descriptors returned are to be kept open.
///
/// # Errors
/// The kernel refuses.
pub fn before_restrictions(loosening: &str) -> Result<Vec<OwnedFd>, Errno> {
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let mut kept = Vec::new();
    match loosening {
        "extra-descriptor" => kept.push(EventFd::new()?.into()),
        "shared-memory" => {
            let memfd = memfd_create(c"extra", MFdFlags::MFD_CLOEXEC)?;
            ftruncate(&memfd, PAGE as i64)?;
            map(libc::PROT_READ, libc::MAP_SHARED, Some(&memfd))?;
        }
        "anonymous-map" => map(libc::PROT_READ | libc::PROT_WRITE, private, None)?,
        "executable-map" => map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, private, None)?,
        "thread-before" => {
            // The restrictions would not reach it.
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            });
        }
        "own-network" => unshare(CloneFlags::CLONE_NEWNET)?,
        "writable-root" => {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
            mount::<str, str, str, str>(None, "/", None, flags, None)?;
        }
        _ => {}
    }
    Ok(kept)
}

/// The profile with something left out or added.
pub fn loosened(profile: &Profile, loosening: &str) -> Profile {
    let mut lax = Profile { ..*profile };
    match loosening {
        "no-landlock" => lax.landlock = Landlock::None,
        "no-limits" => lax.limits = &[],
        "capabilities-kept" => lax.privilege = Privilege::OwnNamespace,
        "mmap-allowed" => lax.policy = with_rule(profile, libc::SYS_mmap, &[]),
        "argument-allowed" => {
            const VALUES: &[(u32, &str)] = &[(libc::F_GETFD as u32, "F_GETFD"), (libc::F_SETFL as u32, "F_SETFL")];
            const CHECK: Check = Check { argument: 1, ignore: 0, values: VALUES };
            lax.policy = with_rule(profile, libc::SYS_fcntl, &[CHECK]);
        }
        _ => {}
    }
    lax
}

/// The profile's list with this rule in place of the one that it has for the call, if it has one.
fn with_rule(profile: &Profile, call: i64, checks: &'static [Check]) -> Policy {
    let others = profile.rules().iter().filter(|rule| rule.call != call).copied();
    let planted = Rule { call, checks, why: "a planted loosening" };
    Policy::AllowOnly(others.chain([planted]).collect::<Vec<_>>().leak())
}

/// What undoes a restriction.
///
/// # Errors
/// The kernel refuses.
pub fn after_restrictions(loosening: &str) -> Result<(), Errno> {
    if loosening == "dumpable" {
        nix::sys::prctl::set_dumpable(true)?;
    }
    Ok(())
}

/// The last step, or what a loosening makes of it.
///
/// # Errors
/// As [`enter::seal`].
pub fn seal(profile: &Profile, gate: &ThreadGate, loosening: &str) -> Result<(), enter::Error> {
    match loosening {
        "no-filter" => Ok(()),
        // Without TSYNC the filter holds for the calling thread only.
        "one-thread-free" => filter_this_thread(&profile.program()?)
            .map_err(|errno| enter::Error::Step { step: "the filter of one thread", source: errno.into() }),
        _ => enter::seal(&loosened(profile, loosening), gate),
    }
}

fn map(protection: libc::c_int, flags: libc::c_int, file: Option<&OwnedFd>) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let file = file.map_or(-1, AsRawFd::as_raw_fd);
    // Far from everything, since the kernel would make one map of it and a neighbour.
    let there = ptr::without_provenance_mut(1 << 32);
    // SAFETY: without MAP_FIXED the address is a wish, and a fresh map touches no existing memory.
    match unsafe { libc::mmap(there, PAGE, protection, flags, file, 0) } {
        libc::MAP_FAILED => Err(Errno::last()),
        _ => Ok(()),
    }
}

fn filter_this_thread(program: &[sock_filter]) -> Result<(), Errno> {
    /// `struct sock_fprog` of linux/filter.h.
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const sock_filter,
    }
    let program = Program { length: program.len() as u16, filter: program.as_ptr() };
    // SAFETY: `program` points to so many instructions, which the kernel copies.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == -1 { Err(Errno::last()) } else { Ok(()) }
}
