//! The loader as its supervisor sees it: one process per load, a message in, two out, an exit code, and bytes in memory.
//!
//! The idea: the real binary with its real lock-down, started without the mount and network namespaces that the keeper would add.

#![cfg(test)]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use capnp::message::Builder;
use guest_memory::{Access, Memfd, Ram};
use link::capnp::{recv_message, send_message};
use link::{Deadline, Inbox, Link, Peer};
use nix::sys::memfd::{MFdFlags, memfd_create};
use wire::islet_capnp::{from_islet, to_islet};
use wire::state_capnp::vcpu_state;

const MEMORY: u64 = 128 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Debug)]
struct Outcome {
    status: ExitStatus,
    ready: bool,
    /// Format, first instruction, summary.
    loaded: Option<(String, u64, String)>,
    /// Code and text.
    failed: Option<(String, String)>,
}

fn memfd(content: &[u8]) -> OwnedFd {
    let fd = memfd_create(c"file", MFdFlags::MFD_CLOEXEC).unwrap();
    File::from(fd.try_clone().unwrap()).write_all(content).unwrap();
    fd
}

/// Starts the loader with its control socket at 3, in a user namespace, since it gives up capabilities there.
fn start() -> (Link, Child) {
    let (ours, theirs) = Link::pair(Peer::new("test", 0), Peer::new("loader", 1)).unwrap();
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "exec unshare --user --map-root-user -- \"$0\" 3<&0 0</dev/null",
        env!("CARGO_BIN_EXE_loader"),
    ]);
    let child = command.stdin(Stdio::from(theirs.into_inner())).stderr(Stdio::null()).spawn().unwrap();
    (ours, child)
}

/// One load with these descriptors.
fn run(descriptors: &[(&str, BorrowedFd<'_>)], line: &str) -> Outcome {
    let (link, mut child) = start();
    let mut message = Builder::new_default();
    let mut root = message.init_root::<to_islet::Builder<'_>>();
    root.set_id(77);
    root.set_incarnation(5);
    let mut setup = root.init_setup();
    setup.set_machine("q35-0");
    setup.set_vcpus(1);
    setup.set_memory_bytes(MEMORY);
    setup.set_status_slot(3);
    let mut named = setup.reborrow().init_descriptors(descriptors.len() as u32);
    for (index, (name, _)) in descriptors.iter().enumerate() {
        let mut entry = named.reborrow().get(index as u32);
        entry.set_name(name);
        entry.set_index(index as u16);
    }
    let mut role = setup.init_role().init_loader();
    role.set_kernel("kernel");
    role.set_kernel_name("the-kernel");
    role.set_initrd(if descriptors.iter().any(|(name, _)| *name == "initrd") { "initrd" } else { "" });
    role.set_command_line(line);
    let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(|(_, fd)| *fd).collect();
    send_message(&link, &message, &fds, Deadline::after(PATIENCE)).unwrap();

    let (mut ready, mut loaded, mut failed) = (false, None, None);
    let mut inbox = Inbox::new();
    while let Ok(incoming) = recv_message(&link, &mut inbox, Deadline::after(PATIENCE)) {
        let answer = incoming.reader.get_root::<from_islet::Reader<'_>>().unwrap();
        assert_eq!((answer.get_in_reply_to(), answer.get_incarnation()), (77, 5));
        match answer.which().unwrap() {
            from_islet::Ready(()) => ready = true,
            from_islet::Loaded(done) => {
                let done = done.unwrap();
                let Ok(vcpu_state::cpu::X86(Ok(core))) = done.get_entry().unwrap().get_cpu().which() else { panic!() };
                let text = |text: capnp::Result<capnp::text::Reader<'_>>| text.unwrap().to_string().unwrap();
                loaded = Some((text(done.get_format()), core.get_rip(), text(done.get_summary())));
            }
            from_islet::Failed(failure) => {
                let failure = failure.unwrap();
                let [code, what, why, remedy] =
                    [failure.get_code(), failure.get_what(), failure.get_why(), failure.get_remedy()]
                        .map(|text| text.unwrap().to_string().unwrap());
                failed = Some((code, format!("{what}: {why}; {remedy}")));
            }
            _ => panic!("another message"),
        }
    }
    let status = child.wait().unwrap();
    Outcome { status, ready, loaded, failed }
}

/// Memory and status page as the keeper would make them.
fn memory() -> (OwnedFd, OwnedFd) {
    (Memfd::create("ram", MEMORY).unwrap(), Memfd::create("status", 16 * 4096).unwrap())
}

/// A raw multiboot kernel for 1 MiB that begins with its header.
fn multiboot() -> Vec<u8> {
    let base = 1u32 << 20;
    let (magic, flags) = (0x1bad_b002u32, 1u32 << 16);
    let sum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let words = [magic, flags, sum, base, base, 0, 0, base + 32];
    let mut file: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.extend(b"first instructions");
    file
}

#[test]
fn a_load_and_another_one_for_the_reset() {
    let (ram, status) = memory();
    let kernel = memfd(&multiboot());
    let initrd = memfd(&[9; 5000]);
    let guest = Ram::map(ram.as_fd(), MEMORY, Access::ReadWrite).unwrap();
    for round in 0..2 {
        let descriptors =
            [("initrd", initrd.as_fd()), ("ram", ram.as_fd()), ("status", status.as_fd()), ("kernel", kernel.as_fd())];
        let outcome = run(&descriptors, "a command line");
        assert!(outcome.status.success() && outcome.ready, "round {round}: {outcome:?}");
        let (format, rip, summary) = outcome.loaded.unwrap();
        assert_eq!((format.as_str(), rip), ("multiboot1", (1 << 20) + 32));
        assert!(summary.contains("initrd of 5000 bytes"), "{summary}");
        let mut code = [0; 18];
        guest.read(rip, &mut code).unwrap();
        assert_eq!(&code, b"first instructions");
        // What the guest does to its memory must not matter to the next load.
        guest.fill(0, MEMORY, 0xee).unwrap();
    }
}

#[test]
fn a_bad_kernel_is_answered_with_what_why_and_remedy() {
    let (ram, status) = memory();
    let kernel = memfd(b"\x1f\x8b compressed");
    let outcome = run(&[("ram", ram.as_fd()), ("status", status.as_fd()), ("kernel", kernel.as_fd())], "");
    assert_eq!((outcome.status.code(), outcome.ready), (Some(1), true));
    let (code, text) = outcome.failed.unwrap();
    assert_eq!(code, "loader.format");
    assert!(text.starts_with("kernel image 'the-kernel': this looks like a gzip file"), "{text}");
}

#[test]
fn what_is_missing_or_unfit_is_named() {
    let (ram, status) = memory();
    let outcome = run(&[("ram", ram.as_fd()), ("status", status.as_fd())], "");
    assert_eq!((outcome.status.code(), outcome.ready), (Some(1), false));
    assert!(outcome.failed.unwrap().1.contains("no descriptor 'kernel'"));

    let null = File::open("/dev/null").unwrap();
    let outcome = run(&[("ram", ram.as_fd()), ("status", status.as_fd()), ("kernel", null.as_fd())], "");
    let (code, text) = outcome.failed.unwrap();
    assert!(code == "loader.file" && text.contains("not a regular file"), "{text}");

    let short = Memfd::create("ram", MEMORY / 2).unwrap();
    let kernel = memfd(&multiboot());
    let outcome = run(&[("ram", short.as_fd()), ("status", status.as_fd()), ("kernel", kernel.as_fd())], "");
    assert_eq!(outcome.failed.unwrap().0, "loader.setup");
}

#[test]
fn a_supervisor_that_is_gone_ends_it() {
    let (link, mut child) = start();
    drop(link);
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(103), None));
}

#[test]
fn the_guest_kernel_of_this_tree_loads() {
    // Set by ./dev, which fetches the kernel; without it there is nothing to load.
    let Some(folder) = std::env::var_os("ATOLL_GUEST") else {
        println!("skipped: ATOLL_GUEST is not set; run by ./dev test");
        return;
    };
    let folder = std::path::PathBuf::from(folder);
    let (ram, status) = memory();
    let kernel = memfd(&std::fs::read(folder.join("vmlinuz")).unwrap());
    let initrd = memfd(&std::fs::read(folder.join("initrd.cpio")).unwrap());
    let descriptors =
        [("ram", ram.as_fd()), ("status", status.as_fd()), ("kernel", kernel.as_fd()), ("initrd", initrd.as_fd())];
    let outcome = run(&descriptors, "console=ttyS0");
    let (format, rip, _) = outcome.loaded.unwrap_or_else(|| panic!("{:?}", outcome.failed));
    assert_eq!((format.as_str(), rip), ("bzImage", 0x100_0200));
    assert!(outcome.status.success());
}
