//! Memory: that of others, and more of one's own than was given.

use libc::*;
use nix::errno::Errno;

use super::super::Place;
use super::super::raw::{PAGE, call, spare};
use super::{HERE, NONE, open, or_own, path, text};

/// Something to be read in a process with the same image at the same place.
static WITNESS: u64 = 0x6174_6f6c_6c00_0001;

fn witness() -> usize {
    &raw const WITNESS as usize
}

fn vectors(number: c_long, place: &Place) -> Result<(), Errno> {
    let mut own = [0u64; 1];
    // Written is a word that nothing uses.
    let target = if number == SYS_process_vm_writev { spare() } else { witness() };
    let (local, remote) = ([own.as_mut_ptr() as usize, 8], [target, 8]);
    place.any(|pid| call(number, [pid, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0]))
}

pub(crate) fn vm_readv(place: &Place) -> Result<(), Errno> {
    vectors(SYS_process_vm_readv, place)
}

pub(crate) fn vm_writev(place: &Place) -> Result<(), Errno> {
    vectors(SYS_process_vm_writev, place)
}

pub(crate) fn proc_mem(place: &Place) -> Result<(), Errno> {
    place.any(|pid| {
        let file = open(&path(format!("/proc/{pid}/mem"))?, O_RDWR)?;
        call(SYS_pread64, [file, [0u64; 1].as_mut_ptr() as usize, 8, witness()])
    })
}

pub(crate) fn proc_maps(place: &Place) -> Result<(), Errno> {
    place.any(|pid| {
        let file = open(&path(format!("/proc/{pid}/maps"))?, O_RDONLY)?;
        match call(SYS_read, [file, [0u8; 64].as_mut_ptr() as usize, 64])? {
            0 => Err(Errno::EPERM),
            count => Ok(count),
        }
    })
}

pub(crate) fn proc_self_mem(_: &Place) -> Result<(), Errno> {
    open(c"/proc/self/mem", O_RDWR).map(drop)
}

pub(crate) fn ptrace_seize(place: &Place) -> Result<(), Errno> {
    place.any(|pid| call(SYS_ptrace, [PTRACE_SEIZE as usize, pid, 0, 0]))
}

pub(crate) fn ptrace_attach(place: &Place) -> Result<(), Errno> {
    place.any(|pid| call(SYS_ptrace, [PTRACE_ATTACH as usize, pid, 0, 0]))
}

pub(crate) fn take_descriptor(place: &Place) -> Result<(), Errno> {
    place.any(|pid| {
        let pidfd = or_own(call(SYS_pidfd_open, [pid, 0]), place);
        call(SYS_pidfd_getfd, [pidfd, 0, 0])
    })
}

pub(crate) fn kcmp(place: &Place) -> Result<(), Errno> {
    const KCMP_VM: usize = 1;
    place.any(|pid| call(SYS_kcmp, [pid, pid, KCMP_VM, 0, 0]))
}

pub(crate) fn madvise_other(place: &Place) -> Result<(), Errno> {
    const MADV_COLD: usize = 20;
    place.any(|pid| {
        let pidfd = or_own(call(SYS_pidfd_open, [pid, 0]), place);
        let range = [spare(), PAGE];
        call(SYS_process_madvise, [pidfd, range.as_ptr() as usize, 1, MADV_COLD, 0])
    })
}

pub(crate) fn move_pages(place: &Place) -> Result<(), Errno> {
    let (pages, status) = ([spare()], [0i32; 1]);
    place.any(|pid| call(SYS_move_pages, [pid, 1, pages.as_ptr() as usize, 0, status.as_ptr() as usize, 0]))
}

fn map(protection: c_int, flags: c_int, descriptor: usize) -> Result<(), Errno> {
    call(SYS_mmap, [0, PAGE, protection as usize, flags as usize, descriptor, 0]).map(drop)
}

pub(crate) fn map_anonymous(_: &Place) -> Result<(), Errno> {
    map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, NONE)
}

pub(crate) fn map_executable(_: &Place) -> Result<(), Errno> {
    map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, NONE)
}

pub(crate) fn map_descriptor(place: &Place) -> Result<(), Errno> {
    map(PROT_READ | PROT_WRITE, MAP_SHARED, place.descriptor as usize)
}

/// As the engine may map what it has open, but for one thing.
fn map_in_place(protection: c_int, flags: c_int, descriptor: usize) -> Result<(), Errno> {
    let flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE | flags;
    call(SYS_mmap, [spare(), PAGE, protection as usize, flags as usize, descriptor, 0]).map(drop)
}

pub(crate) fn map_executable_in_place(place: &Place) -> Result<(), Errno> {
    map_in_place(PROT_READ | PROT_WRITE | PROT_EXEC, 0, place.descriptor as usize)
}

pub(crate) fn map_anonymous_in_place(_: &Place) -> Result<(), Errno> {
    map_in_place(PROT_READ | PROT_WRITE, MAP_ANONYMOUS, NONE)
}

pub(crate) fn make_executable(_: &Place) -> Result<(), Errno> {
    call(SYS_mprotect, [spare(), PAGE, (PROT_READ | PROT_WRITE | PROT_EXEC) as usize]).map(drop)
}

pub(crate) fn grow_window(place: &Place) -> Result<(), Errno> {
    call(SYS_mremap, [place.window, PAGE, 2 * PAGE, MREMAP_MAYMOVE as usize, 0]).map(drop)
}

pub(crate) fn turn_window(place: &Place) -> Result<(), Errno> {
    call(SYS_remap_file_pages, [place.window, PAGE, 0, 1, 0]).map(drop)
}

pub(crate) fn empty_window(place: &Place) -> Result<(), Errno> {
    call(SYS_madvise, [place.window, PAGE, MADV_REMOVE as usize]).map(drop)
}

pub(crate) fn grow_heap(_: &Place) -> Result<(), Errno> {
    let now = call(SYS_brk, [0])?;
    let then = call(SYS_brk, [now + PAGE])?;
    if then > now { Ok(()) } else { Err(Errno::ENOMEM) }
}

pub(crate) fn lock_memory(_: &Place) -> Result<(), Errno> {
    call(SYS_mlock, [spare(), PAGE]).map(drop)
}

pub(crate) fn userfaultfd(_: &Place) -> Result<(), Errno> {
    const USER_MODE_ONLY: usize = 1;
    call(SYS_userfaultfd, [USER_MODE_ONLY]).map(drop)
}

pub(crate) fn fault_handshake(place: &Place) -> Result<(), Errno> {
    const UFFDIO_API: usize = 0xc018_aa3f;
    let made = or_own(call(SYS_userfaultfd, [1]), place);
    call(SYS_ioctl, [made, UFFDIO_API, [0xaau64, 0, 0].as_mut_ptr() as usize]).map(drop)
}

pub(crate) fn memfd(_: &Place) -> Result<(), Errno> {
    call(SYS_memfd_create, [text(c"atoll-escape"), 0]).map(drop)
}

pub(crate) fn secret_memfd(_: &Place) -> Result<(), Errno> {
    call(SYS_memfd_secret, [0]).map(drop)
}

pub(crate) fn lock_in_kernel(_: &Place) -> Result<(), Errno> {
    call(SYS_futex, [spare(), FUTEX_TRYLOCK_PI as usize, 0, 0, 0, 0]).map(drop)
}

pub(crate) fn requeue(_: &Place) -> Result<(), Errno> {
    call(SYS_futex, [spare(), FUTEX_REQUEUE as usize, 0, 0, spare() + 64, 0]).map(drop)
}

pub(crate) fn physical_memory(_: &Place) -> Result<(), Errno> {
    open(c"/dev/mem", O_RDWR).or_else(|_| call(SYS_openat, [HERE, text(c"/proc/kcore"), O_RDONLY as usize])).map(drop)
}
