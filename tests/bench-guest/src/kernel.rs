//! What a kernel does for programs: system calls, other processes, page faults, switching.
#![expect(unsafe_code, reason = "fork, and system calls that the standard library does not offer")]

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write, pipe as new_pipe};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, ptr, thread};

use crate::integer::sha256_work;
use crate::{Failure, Watch};

/// The argument with which this program ends at once.
pub const EXIT: &str = "--exit";

fn system(call: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::System(call, error)
}

/// Runs `work` in a child, whose exit status is 0 if it says so.
fn child(work: impl FnOnce() -> bool) -> Result<libc::pid_t, Failure> {
    // SAFETY: this program has one thread where it forks, so that the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(Failure::last("fork")),
        // SAFETY: ends the child without what the parent has registered for its end.
        0 => unsafe { libc::_exit(i32::from(!work())) },
        pid => Ok(pid),
    }
}

fn wait(pid: libc::pid_t) -> Result<(), Failure> {
    let mut status = 0;
    // SAFETY: the status is written to a variable of ours.
    if unsafe { libc::waitpid(pid, &mut status, 0) } != pid {
        return Err(Failure::last("waitpid"));
    }
    if status == 0 { Ok(()) } else { Err(Failure::Wrong("a child has failed")) }
}

pub(crate) fn getppid(watch: &mut Watch) -> Result<(), Failure> {
    // SAFETY: has no arguments and cannot fail.
    let parent = || unsafe { libc::syscall(libc::SYS_getppid) };
    let expected = parent();
    watch.time(|| match (0..600_000).all(|_| black_box(parent()) == expected) {
        true => Ok(1),
        false => Err(Failure::Wrong("another parent")),
    })
}

pub(crate) fn pipe(watch: &mut Watch) -> Result<(), Failure> {
    let ends = || new_pipe().map(|(read, write)| (File::from(OwnedFd::from(read)), File::from(OwnedFd::from(write))));
    let ((mut there, mut to), (mut back, mut from)) =
        (ends().map_err(system("pipe"))?, ends().map_err(system("pipe"))?);
    let copy = to.try_clone().map_err(system("dup"))?;
    let pid = child(move || {
        drop(copy);
        let mut byte = [0];
        loop {
            match there.read_exact(&mut byte) {
                Ok(()) if byte[0] == 0xff => return true,
                Ok(()) => byte[0] = byte[0].wrapping_add(1),
                Err(_) => return false,
            }
            if from.write_all(&byte).is_err() {
                return false;
            }
        }
    })?;
    let timed = watch.time(|| {
        let mut sum = 0_u64;
        for n in 0..2000_u32 {
            let mut byte = [(n & 0x7f) as u8];
            to.write_all(&byte).and_then(|()| back.read_exact(&mut byte)).map_err(system("pipe"))?;
            sum = sum.wrapping_mul(3).wrapping_add(u64::from(byte[0]));
        }
        Ok(sum)
    });
    to.write_all(&[0xff]).map_err(system("pipe"))?;
    wait(pid)?;
    timed
}

pub(crate) fn fault(watch: &mut Watch) -> Result<(), Failure> {
    const LEN: usize = 16 << 20;
    const PAGE: usize = 4096;
    watch.time(|| {
        let mut sum = 0_u64;
        for _ in 0..3 {
            let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping, which is touched within its length and goes in the same round.
            unsafe {
                let memory = libc::mmap(ptr::null_mut(), LEN, rights, kind, -1, 0);
                if memory == libc::MAP_FAILED {
                    return Err(Failure::last("mmap"));
                }
                // A fault for each page, whatever the kernel thinks of huge ones.
                libc::madvise(memory, LEN, libc::MADV_NOHUGEPAGE);
                for at in (0..LEN).step_by(PAGE) {
                    let place = memory.cast::<u8>().add(at);
                    sum += u64::from(place.read_volatile()) + 1;
                    place.write_volatile(7);
                    sum += u64::from(place.read_volatile());
                }
                libc::munmap(memory, LEN);
            }
        }
        Ok(sum)
    })
}

pub(crate) fn exec(watch: &mut Watch) -> Result<(), Failure> {
    let arguments = [c"bench-guest".as_ptr(), c"--exit".as_ptr(), ptr::null()];
    watch.time(|| {
        for _ in 0..12 {
            // SAFETY: path and arguments end as they must; it comes back only if it fails.
            wait(child(|| unsafe { libc::execv(c"/proc/self/exe".as_ptr(), arguments.as_ptr()) } == 0)?)?;
        }
        Ok(12)
    })
}

/// Waits as long as the word has this value.
fn futex_wait(word: &AtomicU32, value: u32) {
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word outlives the call; without a time-out there is no other pointer.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, value, ptr::null::<libc::timespec>()) };
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word outlives the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
}

/// Takes turns until `last`: waits for its parity and hands on.
fn take_turns(word: &AtomicU32, parity: u32, last: u32) {
    loop {
        let turn = word.load(Ordering::SeqCst);
        if turn >= last {
            return;
        }
        if turn % 2 == parity {
            word.store(turn + 1, Ordering::SeqCst);
            futex_wake(word);
        } else {
            futex_wait(word, turn);
        }
    }
}

/// The set of CPUs that this thread may run on.
fn affinity() -> Result<libc::cpu_set_t, Failure> {
    // SAFETY: the set is plain bits, and its size is given.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        match libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) {
            0 => Ok(set),
            _ => Err(Failure::last("sched_getaffinity")),
        }
    }
}

fn set_affinity(set: &libc::cpu_set_t) -> Result<(), Failure> {
    // SAFETY: the set is read, and its size is given.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) } {
        0 => Ok(()),
        _ => Err(Failure::last("sched_setaffinity")),
    }
}

/// The first CPU of a set alone.
fn first_of(all: &libc::cpu_set_t) -> libc::cpu_set_t {
    // SAFETY: plain bits again; the numbers are below the size of the set.
    unsafe {
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        if let Some(cpu) = (0..libc::CPU_SETSIZE as usize).find(|cpu| libc::CPU_ISSET(*cpu, all)) {
            libc::CPU_SET(cpu, &mut one);
        }
        one
    }
}

pub(crate) fn switch(watch: &mut Watch) -> Result<(), Failure> {
    const TURNS: u32 = 30_000;
    let all = affinity()?;
    // The other thread inherits it.
    set_affinity(&first_of(&all))?;
    watch.time(|| {
        let word = Arc::new(AtomicU32::new(0));
        let other = thread::spawn({
            let word = word.clone();
            move || take_turns(&word, 1, TURNS)
        });
        take_turns(&word, 0, TURNS);
        other.join().map_err(|_| Failure::Wrong("the other thread has failed"))?;
        Ok(u64::from(word.load(Ordering::SeqCst)))
    })?;
    set_affinity(&all)
}

/// The work of `sha256` in so many processes at once.
pub(crate) fn pair<const PROCESSES: usize>(watch: &mut Watch) -> Result<(), Failure> {
    let expected = sha256_work();
    watch.time(|| {
        let children: Vec<_> = (0..PROCESSES).map(|_| child(|| sha256_work() == expected)).collect();
        children.into_iter().try_for_each(|pid| wait(pid?))?;
        Ok(expected)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_taken_to_the_last() {
        let word = Arc::new(AtomicU32::new(0));
        let other = thread::spawn({
            let word = word.clone();
            move || take_turns(&word, 1, 100)
        });
        take_turns(&word, 0, 100);
        other.join().unwrap();
        assert_eq!(word.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn the_first_cpu_is_one() {
        // SAFETY: counts the bits of a set.
        assert_eq!(unsafe { libc::CPU_COUNT(&first_of(&affinity().unwrap())) }, 1);
    }
}
