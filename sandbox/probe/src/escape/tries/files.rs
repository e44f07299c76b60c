//! Files, paths, mounts, and descriptors with more rights than were given; sockets.

use libc::*;
use nix::errno::Errno;

use super::super::Place;
use super::super::raw::{PAGE, call};
use super::{HERE, NONE, open, or_own, path, text};

pub(crate) fn root(_: &Place) -> Result<(), Errno> {
    open(c"/", O_RDONLY | O_DIRECTORY).map(drop)
}

pub(crate) fn passwords(_: &Place) -> Result<(), Errno> {
    call(SYS_open, [text(c"/etc/passwd"), O_RDONLY as usize, 0]).map(drop)
}

pub(crate) fn by_openat2(_: &Place) -> Result<(), Errno> {
    call(SYS_openat2, [HERE, text(c"/etc/passwd"), [0u64; 3].as_ptr() as usize, 24]).map(drop)
}

pub(crate) fn create(_: &Place) -> Result<(), Errno> {
    call(SYS_creat, [text(c"/dev/shm/atoll-escape"), 0o600]).map(drop)
}

pub(crate) fn unnamed(_: &Place) -> Result<(), Errno> {
    open(c"/dev/shm", O_TMPFILE | O_RDWR).map(drop)
}

pub(crate) fn reopen(place: &Place) -> Result<(), Errno> {
    open(&path(format!("/proc/self/fd/{}", place.read_only))?, O_RDWR).map(drop)
}

pub(crate) fn others_root(place: &Place) -> Result<(), Errno> {
    place.any(|pid| open(&path(format!("/proc/{pid}/root/etc"))?, O_RDONLY))
}

pub(crate) fn by_handle(place: &Place) -> Result<(), Errno> {
    const ROOM: u32 = 128;
    let mut handle = [0u32; 34];
    handle[0] = ROOM;
    let (to, mount) = (handle.as_mut_ptr() as usize, [0i32; 1]);
    let _ = call(SYS_name_to_handle_at, [HERE, text(c"/etc"), to, mount.as_ptr() as usize, 0]);
    let root = or_own(open(c"/etc", O_RDONLY), place);
    call(SYS_open_by_handle_at, [root, to, O_RDONLY as usize]).map(drop)
}

pub(crate) fn file_system(_: &Place) -> Result<(), Errno> {
    call(SYS_fsopen, [text(c"tmpfs"), 0]).map(drop)
}

pub(crate) fn tree(_: &Place) -> Result<(), Errno> {
    const CLONE: usize = 1;
    call(SYS_open_tree, [HERE, text(c"/dev/shm"), CLONE]).map(drop)
}

pub(crate) fn mount(_: &Place) -> Result<(), Errno> {
    call(SYS_mount, [text(c"tmpfs"), text(c"/dev/shm"), text(c"tmpfs"), 0, 0]).map(drop)
}

pub(crate) fn writable_root(_: &Place) -> Result<(), Errno> {
    call(SYS_mount, [0, text(c"/dev/shm"), 0, (MS_REMOUNT | MS_BIND) as usize, 0]).map(drop)
}

pub(crate) fn unmount(_: &Place) -> Result<(), Errno> {
    call(SYS_umount2, [text(c"/dev/shm"), MNT_DETACH as usize]).map(drop)
}

pub(crate) fn device(_: &Place) -> Result<(), Errno> {
    // The device 1:3 is /dev/null.
    call(SYS_mknodat, [HERE, text(c"/dev/shm/atoll-device"), (S_IFCHR | 0o600) as usize, 0x103]).map(drop)
}

pub(crate) fn directory(_: &Place) -> Result<(), Errno> {
    call(SYS_mkdir, [text(c"/dev/shm/atoll-directory"), 0o700]).map(drop)
}

pub(crate) fn look(_: &Place) -> Result<(), Errno> {
    call(SYS_statx, [HERE, text(c"/etc/passwd"), 0, 0xfff, [0u64; 64].as_mut_ptr() as usize]).map(drop)
}

pub(crate) fn own_path(_: &Place) -> Result<(), Errno> {
    call(SYS_readlink, [text(c"/proc/self/exe"), [0u8; 64].as_mut_ptr() as usize, 64]).map(drop)
}

pub(crate) fn grow_file(place: &Place) -> Result<(), Errno> {
    call(SYS_ftruncate, [place.descriptor as usize, 3 * PAGE]).map(drop)
}

pub(crate) fn punch_hole(place: &Place) -> Result<(), Errno> {
    const PUNCH_KEEP_SIZE: usize = 3;
    call(SYS_fallocate, [place.descriptor as usize, PUNCH_KEEP_SIZE, 0, PAGE]).map(drop)
}

pub(crate) fn file_mode(place: &Place) -> Result<(), Errno> {
    call(SYS_fchmod, [place.descriptor as usize, 0o777]).map(drop)
}

pub(crate) fn seal(place: &Place) -> Result<(), Errno> {
    call(SYS_fcntl, [place.descriptor as usize, F_ADD_SEALS as usize, F_SEAL_GROW as usize]).map(drop)
}

pub(crate) fn file_flags(place: &Place) -> Result<(), Errno> {
    call(SYS_fcntl, [place.descriptor as usize, F_SETFL as usize, O_NONBLOCK as usize]).map(drop)
}

pub(crate) fn signals_by_file(place: &Place) -> Result<(), Errno> {
    place.any(|pid| call(SYS_fcntl, [place.descriptor as usize, F_SETOWN as usize, pid]))
}

pub(crate) fn watch(_: &Place) -> Result<(), Errno> {
    call(SYS_inotify_init1, [0]).map(drop)
}

pub(crate) fn watch_all(_: &Place) -> Result<(), Errno> {
    call(SYS_fanotify_init, [0, 0]).map(drop)
}

fn socket(family: c_int, kind: c_int) -> Result<usize, Errno> {
    call(SYS_socket, [family as usize, kind as usize, 0])
}

pub(crate) fn unix_socket(_: &Place) -> Result<(), Errno> {
    socket(AF_UNIX, SOCK_STREAM).map(drop)
}

pub(crate) fn internet_socket(_: &Place) -> Result<(), Errno> {
    socket(AF_INET, SOCK_STREAM).map(drop)
}

pub(crate) fn netlink_socket(_: &Place) -> Result<(), Errno> {
    socket(AF_NETLINK, SOCK_RAW).map(drop)
}

pub(crate) fn packet_socket(_: &Place) -> Result<(), Errno> {
    socket(AF_PACKET, SOCK_RAW).map(drop)
}

pub(crate) fn vsock_socket(_: &Place) -> Result<(), Errno> {
    socket(AF_VSOCK, SOCK_STREAM).map(drop)
}

pub(crate) fn kernel_crypto_socket(_: &Place) -> Result<(), Errno> {
    socket(AF_ALG, SOCK_SEQPACKET).map(drop)
}

pub(crate) fn socket_pair(_: &Place) -> Result<(), Errno> {
    call(SYS_socketpair, [AF_UNIX as usize, SOCK_STREAM as usize, 0, [0i32; 2].as_mut_ptr() as usize]).map(drop)
}

/// `struct sockaddr_un` of an abstract name, and its length.
const ABSTRACT: ([u8; 15], usize) = (*b"\x01\0\0atoll-escape", 15);

pub(crate) fn bind(place: &Place) -> Result<(), Errno> {
    let made = or_own(socket(AF_UNIX, SOCK_STREAM), place);
    call(SYS_bind, [made, ABSTRACT.0.as_ptr() as usize, ABSTRACT.1]).map(drop)
}

pub(crate) fn connect(place: &Place) -> Result<(), Errno> {
    // Outside there is a listener of the process itself; inside, there is whoever on the host has such a name.
    let listener = or_own(socket(AF_UNIX, SOCK_STREAM), place);
    let _ = call(SYS_bind, [listener, ABSTRACT.0.as_ptr() as usize, ABSTRACT.1]);
    let _ = call(SYS_listen, [listener, 1]);
    let made = or_own(socket(AF_UNIX, SOCK_STREAM), place);
    call(SYS_connect, [made, ABSTRACT.0.as_ptr() as usize, ABSTRACT.1]).map(drop)
}

pub(crate) fn ring(_: &Place) -> Result<(), Errno> {
    call(SYS_io_uring_setup, [4, [0u64; 32].as_mut_ptr() as usize]).map(drop)
}

pub(crate) fn type_into_terminal(place: &Place) -> Result<(), Errno> {
    const TIOCGPTPEER: usize = 0x5441;
    let master = or_own(open(c"/dev/ptmx", O_RDWR | O_NOCTTY), place);
    let _ = call(SYS_ioctl, [master, TIOCSPTLCK as usize, [0i32; 1].as_ptr() as usize]);
    let peer = or_own(call(SYS_ioctl, [master, TIOCGPTPEER, (O_RDWR | O_NOCTTY) as usize]), place);
    call(SYS_ioctl, [peer, TIOCSTI as usize, text(c"x")]).map(drop)
}

pub(crate) fn message_queue(_: &Place) -> Result<(), Errno> {
    call(SYS_mq_open, [text(c"atoll-escape"), (O_RDWR | O_CREAT) as usize, 0o600, 0]).map(drop)
}

pub(crate) fn shared_memory(_: &Place) -> Result<(), Errno> {
    call(SYS_shmget, [0, PAGE, 0o600]).map(drop)
}

pub(crate) fn semaphores(_: &Place) -> Result<(), Errno> {
    call(SYS_semget, [0, 1, 0o600]).map(drop)
}

pub(crate) fn messages(_: &Place) -> Result<(), Errno> {
    call(SYS_msgget, [0, 0o600]).map(drop)
}

pub(crate) fn observe(_: &Place) -> Result<(), Errno> {
    const SOFTWARE: u64 = 1;
    const SIZE: u64 = 64;
    let mut attributes = [0u64; 16];
    attributes[0] = SOFTWARE | SIZE << 32;
    call(SYS_perf_event_open, [attributes.as_ptr() as usize, 0, NONE, NONE, 0]).map(drop)
}

pub(crate) fn program_kernel(_: &Place) -> Result<(), Errno> {
    // BPF_MAP_CREATE of a hash map with keys of 4 and values of 8 bytes.
    call(SYS_bpf, [0, [1u32, 4, 8, 1, 0, 0].as_ptr() as usize, 24]).map(drop)
}
