//! The real keeper with a small supervisor and small islets: what it promises, and what it survives.
//!
//! The test process plays launcher and, by the supervisor's keeper link that is lent to it, supervisor. Started by root, everything is run
//! again as an ordinary user.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod vm;

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use keeper_protocol::client::ClientError;
use keeper_protocol::{
    Access, BeginFlags, CauseKind, Grant, HeldId, HeldKind, MAX_FRUITLESS_STARTS, MemfdFlags, NO_STATUS_SLOT,
    ProcessId, ProcessState, RefusalCode, Request, SUPERVISOR_BINARY, SocketKind, exit_status,
};
use link::{Deadline, Link, Peer, Sent};
use rustix::io::{pread, pwrite};
use spawn::Exit;
use vm::{Options, Vm, name, refusal, soon};

const DETACHED: Options = Options { flags: BeginFlags::empty(), die: false };

#[test]
fn a_process_starts_with_its_message_and_its_descriptors() {
    let mut vm = Vm::start(DETACHED);
    let supervisor = &mut vm.supervisor;
    let seals = MemfdFlags::SEAL_SHRINK | MemfdFlags::SEAL_GROW;
    let memfd = supervisor.make_memfd(name("alpha"), 4096, seals, soon()).unwrap();
    let ours = supervisor.get(memfd, Access::Same, soon()).unwrap();
    pwrite(&ours, b"alpha", 0).unwrap();
    assert!(rustix::fs::ftruncate(&ours, 0).is_err(), "the seal must hold");
    let ram = supervisor.make_memfd(name("ram"), 1 << 40, MemfdFlags::GUARDED, soon()).unwrap();
    assert_eq!(refusal(supervisor.get(ram, Access::Same, soon())), RefusalCode::NotAllowed);
    let bell = supervisor.make_eventfd(name("bell"), soon()).unwrap();

    let grants = vec![
        Grant::same(memfd),
        Grant::read_only(memfd),
        Grant { id: memfd, access: Access::PathOnly },
        Grant::same(ram),
        Grant::same(bell),
    ];
    let (islet, link) = vm.spawn("islet0", 1, NO_STATUS_SLOT, grants, "describe");
    assert_eq!(vm::answer(&link), "alpha:rw alpha:ro Uncategorized:ro \0\0\0\0\0:rw NotSeekable:ro");
    vm.supervisor.send_to(islet, 1, vec![Grant::read_only(memfd)], b"describe", soon()).unwrap();
    assert_eq!(vm::answer(&link), "alpha:ro");

    // A pair made by the keeper connects two processes.
    let (left, right) =
        vm.supervisor.make_socketpair(name("left"), name("right"), SocketKind::Seqpacket, soon()).unwrap();
    let get = |vm: &mut Vm, id| Link::new(vm.supervisor.get(id, Access::Same, soon()).unwrap(), Peer::new("x", 0));
    let (left, right) = (get(&mut vm, left).unwrap(), get(&mut vm, right).unwrap());
    left.send(b"hello", &[], soon()).unwrap();
    assert_eq!(right.recv(soon()).unwrap().bytes, b"hello");
    vm.end(3);
}

#[test]
fn requests_that_cannot_be_carried_out_change_nothing_and_say_why() {
    let mut vm = Vm::start(DETACHED);
    let (islet, link) = vm.spawn("islet0", 5, NO_STATUS_SLOT, vec![], "describe");
    vm::answer(&link);
    let before = vm.supervisor.list(soon()).unwrap();
    let none = HeldId(u64::MAX);
    let binary = vm.binary;
    let supervisor = &mut vm.supervisor;
    assert_eq!(refusal(supervisor.get(none, Access::Same, soon())), RefusalCode::NoSuchDescriptor);
    assert_eq!(refusal(supervisor.get(before.1[0].socket, Access::ReadOnly, soon())), RefusalCode::NotAllowed);
    assert_eq!(refusal(supervisor.release(none, soon())), RefusalCode::NoSuchDescriptor);
    assert_eq!(refusal(supervisor.release(before.1[0].socket, soon())), RefusalCode::NotAllowed);
    assert_eq!(refusal(supervisor.release(HeldId(1), soon())), RefusalCode::NotAllowed, "{SUPERVISOR_BINARY}");
    assert_eq!(refusal(supervisor.kill(islet, 4, 9, soon())), RefusalCode::StaleIncarnation);
    assert_eq!(refusal(supervisor.kill(ProcessId(99), 1, 9, soon())), RefusalCode::NoSuchProcess);
    assert_eq!(refusal(supervisor.acknowledge(islet, soon())), RefusalCode::ProcessRuns);
    assert_eq!(refusal(supervisor.set_status(binary, soon())), RefusalCode::NotAllowed);
    let missing = vec![Grant::same(none)];
    assert_eq!(refusal(supervisor.send_to(islet, 5, missing.clone(), b"x", soon())), RefusalCode::NoSuchDescriptor);
    let spawn = |role: &str, binary, grants| keeper_protocol::Spawn {
        name: name("islet1"),
        role: name(role),
        binary,
        incarnation: 1,
        status_slot: NO_STATUS_SLOT,
        grants,
        payload: b"describe",
    };
    assert_eq!(refusal(supervisor.spawn(spawn("pirate", binary, vec![]), soon())), RefusalCode::NoSuchRole);
    assert_eq!(refusal(supervisor.spawn(spawn("keeper", binary, vec![]), soon())), RefusalCode::NoSuchRole);
    assert_eq!(refusal(supervisor.spawn(spawn("probe", binary, missing), soon())), RefusalCode::NoSuchDescriptor);
    let text =
        supervisor.hold(name("text"), HeldKind::File, std::fs::File::open("/etc/passwd").unwrap().as_fd(), soon());
    let text = text.unwrap();
    assert_eq!(refusal(supervisor.spawn(spawn("probe", text, vec![]), soon())), RefusalCode::Spawn);
    supervisor.release(text, soon()).unwrap();
    assert_eq!(supervisor.list(soon()).unwrap(), before);
    vm.end(0);
}

#[test]
fn an_islet_that_takes_no_messages_holds_nobody_up() {
    let mut vm = Vm::start(DETACHED);
    let (islet, link) = vm.spawn("islet0", 1, NO_STATUS_SLOT, vec![], "describe");
    assert_eq!(vm::answer(&link), "nothing");
    vm.supervisor.kill(islet, 1, 19, soon()).unwrap(); // SIGSTOP
    let mut sent = 0;
    let refused = loop {
        match vm.supervisor.send_to(islet, 1, vec![], b"describe", soon()) {
            Ok(()) => sent += 1,
            error => break refusal(error),
        }
    };
    assert_eq!(refused, RefusalCode::NotTaken);
    vm.supervisor.kill(islet, 1, 18, soon()).unwrap(); // SIGCONT
    for _ in 0..sent {
        assert_eq!(vm::answer(&link), "nothing");
    }
    vm.end(0);
}

#[test]
fn the_keeper_and_all_that_it_starts_are_filtered() {
    let mut vm = Vm::start(DETACHED);
    let (_, link) = vm.spawn("islet0", 1, NO_STATUS_SLOT, vec![], "describe");
    assert_eq!(vm::answer(&link), "nothing");
    let filtered = vm::members(&vm.pid_namespace()).into_iter().flat_map(vm::threads);
    let filtered: Vec<bool> = filtered.map(|status| status.contains("\nSeccomp:\t2\n")).collect();
    assert_eq!(filtered, [true; 4], "the keeper's two threads, the supervisor, the islet");
    vm.end(0);
}

#[test]
fn the_cause_of_every_end_is_told() {
    let mut vm = Vm::start(DETACHED);
    let status = vm.supervisor.make_memfd(name("status"), 8 * 4096, MemfdFlags::SEAL_SHRINK, soon()).unwrap();
    vm.supervisor.set_status(status, soon()).unwrap();
    assert_eq!(refusal(vm.supervisor.set_status(status, soon())), RefusalCode::NotAllowed);
    let cases = [
        ("exit 0", CauseKind::Clean, 0, "ended as asked"),
        ("exit 7", CauseKind::Error, 7, "exit code 7"),
        ("error", CauseKind::Error, 1, "an error of its own"),
        ("panic", CauseKind::Panic, 101, "as the test said"),
        ("trap", CauseKind::Seccomp, 102, "socket (41)"),
        ("kill", CauseKind::Signal, 9, "SIGKILL"),
    ];
    for (incarnation, (order, kind, code, text)) in (1..).zip(cases) {
        let (islet, link) = vm.spawn("islet0", incarnation, 2, vec![Grant::same(status)], "status 2");
        assert_eq!(vm::answer(&link), "attached");
        match order {
            "kill" => vm.supervisor.kill(islet, incarnation, 9, soon()).unwrap(),
            order => link.send(order.as_bytes(), &[], soon()).unwrap(),
        }
        let exited = vm.supervisor.wait_exit(soon()).unwrap();
        assert_eq!((exited.process, exited.incarnation, exited.name), (islet, incarnation, name("islet0")));
        assert_eq!((exited.cause.kind, exited.cause.code), (kind, code), "{order}: {exited:?}");
        assert!(exited.cause.text.contains(text), "{order}: {exited:?}");
        assert!(kind != CauseKind::Seccomp || exited.cause.number == 41);
        assert!(link.recv(soon()).unwrap_err().is_peer_gone());
        let entry = vm.supervisor.list(soon()).unwrap().1[0];
        assert_eq!((entry.id, entry.state), (islet, ProcessState::Ended));
        assert_eq!(refusal(vm.supervisor.kill(islet, incarnation, 9, soon())), RefusalCode::ProcessEnded);
        vm.supervisor.acknowledge(islet, soon()).unwrap();
        assert_eq!(vm.supervisor.list(soon()).unwrap().1, []);
    }
    vm.wait_log("keeper: islet0[4] panicked: as the test said");
    vm.end(0);
}

#[test]
fn a_killed_supervisor_is_replaced_and_the_next_one_finds_everything() {
    let mut vm = Vm::start(DETACHED);
    let memfd = vm.supervisor.make_memfd(name("adoption"), 4096, MemfdFlags::SEAL_SHRINK, soon()).unwrap();
    pwrite(vm.supervisor.get(memfd, Access::Same, soon()).unwrap(), b"record", 0).unwrap();
    let (stays, _) = vm.spawn("stays", 1, NO_STATUS_SLOT, vec![], "describe");
    let (goes, going) = vm.spawn("goes", 2, NO_STATUS_SLOT, vec![], "describe");
    let before = vm.supervisor.list(soon()).unwrap();

    // Both end while the keeper cannot look: the exit falls into the gap between two supervisors.
    vm.stop_keeper();
    vm.order("kill");
    vm::answer(&going);
    going.send(b"exit 4", &[], soon()).unwrap();
    assert!(going.recv(soon()).unwrap_err().is_peer_gone());
    vm.continue_keeper();
    for incarnation in 2..=3 {
        let (adoption, exits) = vm.take_over();
        assert_eq!(vm.supervisor.incarnation(), incarnation);
        assert!(adoption.hello.last_end.contains("SIGKILL"), "{:?}", adoption.hello);
        assert_eq!(adoption.held, before.0);
        assert_eq!(adoption.processes.len(), 2);
        assert_eq!(exits.len(), 1);
        assert_eq!((exits[0].process, exits[0].cause.code), (goes, 4));
        assert_eq!(vm.supervisor.next_exit().unwrap(), None, "an exit must not be told twice to one supervisor");
        if incarnation == 2 {
            // Not acknowledged, so the next one hears of it, too.
            vm.order("kill");
        }
    }
    vm.supervisor.acknowledge(goes, soon()).unwrap();
    let mut bytes = [0; 6];
    pread(vm.supervisor.get(memfd, Access::ReadOnly, soon()).unwrap(), &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"record");

    vm.order("exit");
    let (adoption, exits) = vm.take_over();
    assert_eq!(adoption.hello.last_end, "supervisor[3] ended as asked");
    assert_eq!((exits.len(), adoption.processes.len()), (0, 1));
    // The process that stayed is talked to by the socket that the keeper kept.
    let socket = vm.supervisor.get(adoption.processes[0].socket, Access::Same, soon()).unwrap();
    let link = Link::new(socket, Peer::new("stays", 1)).unwrap();
    vm.supervisor.send_to(stays, 1, vec![Grant::same(memfd)], b"describe", soon()).unwrap();
    assert_eq!((vm::answer(&link).as_str(), vm::answer(&link).as_str()), ("nothing", "recor:rw"));
    vm.end(0);
}

#[test]
fn a_supervisor_without_its_link_is_replaced() {
    let mut vm = Vm::start(DETACHED);
    // The link that was lent to the test is closed, too.
    vm.order("close");
    let (adoption, _) = vm.take_over();
    assert!(adoption.hello.last_end.contains("SIGKILL"), "{:?}", adoption.hello);
    vm.end(0);
}

#[test]
fn a_killed_keeper_leaves_no_process_behind() {
    let mut vm = Vm::start(DETACHED);
    let links: Vec<Link> = (1..=3).map(|i| vm.spawn("islet", i, NO_STATUS_SLOT, vec![], "describe").1).collect();
    links.iter().for_each(|link| drop(vm::answer(link)));
    let namespace = vm.pid_namespace();
    assert_eq!(vm::members(&namespace).len(), 5, "keeper, supervisor and three islets");
    vm.child.kill().unwrap();
    assert_eq!(vm.child.wait(None).unwrap(), Some(Exit::Signal { number: 9, core: false }));
    assert_eq!(vm::members(&namespace), []);
    for link in links {
        assert!(link.recv(soon()).unwrap_err().is_peer_gone());
    }
    assert!(matches!(vm.supervisor.list(soon()), Err(ClientError::Link(error)) if error.is_peer_gone()));
}

#[test]
fn garbage_is_refused_and_the_keeper_goes_on() {
    let mut vm = Vm::start(DETACHED);
    let file = std::fs::File::open("/dev/null").unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        usize::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap()
    };
    let mut good = Vec::new();
    let open = vm.open_descriptors();
    let mut refusals = 0;
    for round in 0..3000 {
        // Real requests with a wrong incarnation (so that none is carried out), damaged, or noise.
        Request::Kill { process: ProcessId(1), incarnation: 1, signal: 9 }.encode(7, 77, &mut good).unwrap();
        let mut bytes = good.clone();
        match round % 3 {
            0 => bytes = (0..1 + next() % 3000).map(|_| next() as u8).collect(),
            1 => {
                let at = 24 + next() % (bytes.len() - 24);
                bytes[at] = next() as u8;
            }
            _ => bytes.truncate(1 + next() % bytes.len()),
        }
        let fds = vec![file.as_fd(); if next() % 4 == 0 { next() % 200 } else { 0 }];
        while vm.raw.try_send(&bytes, &fds).unwrap() == Sent::Full {
            refusals += vm::count_refusals(&vm.raw, soon());
        }
        refusals += vm::count_refusals(&vm.raw, Deadline::at(std::time::Instant::now()));
    }
    while refusals < 3000 {
        refusals += vm::count_refusals(&vm.raw, soon());
    }
    assert_eq!(refusals, 3000, "each message is answered once");
    // Of another supervisor.
    Request::Exit { status: 9 }.encode(8, 77, &mut good).unwrap();
    vm.raw.send(&good, &[], soon()).unwrap();
    assert_eq!(vm::count_refusals(&vm.raw, soon()), 1);
    vm.supervisor.list(soon()).unwrap();
    assert_eq!(vm.open_descriptors(), open, "what came with garbage is closed");
    vm.end(0);
}

#[test]
fn thousands_of_starts_and_ends_leave_nothing_behind() {
    // The whole row with ATOLL_LONG=1.
    let cycles = if std::env::var_os("ATOLL_LONG").is_some() { 10_000 } else { 200 };
    let mut vm = Vm::start(DETACHED);
    let mut open = None;
    let mut last = ProcessId(0);
    for cycle in 1..=cycles {
        let (islet, link) = vm.spawn("islet", cycle, NO_STATUS_SLOT, vec![], "exit 0");
        assert!(islet > last, "no id is used twice");
        last = islet;
        let exited = vm.supervisor.wait_exit(soon()).unwrap();
        assert_eq!((exited.process, exited.incarnation, exited.cause.kind), (islet, cycle, CauseKind::Clean));
        assert!(link.recv(soon()).unwrap_err().is_peer_gone());
        vm.supervisor.acknowledge(islet, soon()).unwrap();
        let now = vm.open_descriptors();
        assert_eq!(*open.get_or_insert(now), now, "after {cycle} starts");
    }
    assert_eq!(vm.supervisor.list(soon()).unwrap().1, []);
    vm.end(0);
}

#[test]
fn a_supervisor_that_does_not_read_stops_nobody_else() {
    let mut vm = Vm::start(DETACHED);
    let (islet, link) = vm.spawn("islet", 1, NO_STATUS_SLOT, vec![], "chatter 20");
    let mut list = Vec::new();
    let mut queued = 0_u64;
    loop {
        Request::List.encode(queued, 1, &mut list).unwrap();
        // The keeper stops taking requests when its answers are not taken, so the queue fills up and stays full.
        match vm.raw.try_send(&list, &[]).unwrap() {
            Sent::Sent => queued += 1,
            Sent::Full if vm.keeper_is_idle() => break,
            Sent::Full => std::thread::yield_now(),
        }
        assert!(queued < 1_000_000, "the keeper queues without bound");
    }
    assert_eq!(vm::answer(&link), "chattered");
    link.send(b"exit 9", &[], soon()).unwrap();
    vm.wait_log("keeper: islet[1] ended with exit code 9");
    // Now it reads: every answer, and the exit once.
    let (mut replies, mut exits) = (0, 0);
    while replies < queued || exits == 0 {
        let message = vm.raw.recv(soon()).unwrap();
        match keeper_protocol::FromKeeper::decode(&message.bytes, 0).unwrap().1 {
            keeper_protocol::FromKeeper::Reply(_) => replies += 1,
            keeper_protocol::FromKeeper::Exited(exited) => exits += u32::from(exited.process == islet),
            _ => {}
        }
    }
    assert_eq!((replies, exits), (queued, 1));
    vm.end(0);
}

#[test]
fn what_islets_log_is_prefixed_bounded_and_blocks_nobody() {
    let mut vm = Vm::start(DETACHED);
    let (_, link) = vm.spawn("chatty", 3, NO_STATUS_SLOT, vec![], "chatter 50000");
    assert_eq!(vm::answer(&link), "chattered");
    vm.wait_log("chatty[3]: line 0 \\u{1b}[2J\n");
    link.send(b"panic", &[], soon()).unwrap();
    vm.wait_log("as the test said");
    vm.wait_log("lines were dropped");
    vm.wait_log("keeper: chatty[3] panicked");
    let lines = vm.log_lines("chatty[3]: line ");
    assert!((1000..20_000).contains(&lines), "{lines} lines");
    vm.end(0);
}

#[test]
fn supervisors_that_never_work_are_the_end() {
    let vm = Vm::launch(Options { flags: BeginFlags::empty(), die: true }, "test-supervisor").unwrap();
    assert_eq!(vm.child.wait(None).unwrap(), Some(Exit::Code(exit_status::GAVE_UP.into())));
    vm.wait_log(&format!("{MAX_FRUITLESS_STARTS} supervisors in a row ended before they worked"));
    for start in 1..=MAX_FRUITLESS_STARTS {
        vm.wait_log(&format!("supervisor[{start}]: Error: this supervisor never works"));
    }
}

#[test]
fn a_launcher_is_told_what_is_wrong() {
    let error = Vm::launch(DETACHED, "/etc/passwd").unwrap_err();
    assert_eq!(error.to_string(), "the VM cannot be started: bin:supervisor is not an x86_64 ELF executable");
    let (child, launcher, _log) = vm::start_keeper();
    launcher.send(b"not a launcher's message", &[], soon()).unwrap();
    let answer = launcher.recv(soon()).unwrap();
    let answer = keeper_protocol::LauncherAnswer::decode(&answer.bytes, 0).unwrap();
    assert!(matches!(answer, keeper_protocol::LauncherAnswer::Refused { .. }));
    assert_eq!(child.wait(None).unwrap(), Some(Exit::Code(exit_status::BAD_START.into())));
}

#[test]
fn in_the_foreground_the_vm_ends_with_its_launcher_and_detached_it_stays() {
    let mut vm = Vm::start(Options { flags: BeginFlags::FOREGROUND, die: false });
    let (_, link) = vm.spawn("islet", 1, NO_STATUS_SLOT, vec![], "describe");
    vm::answer(&link);
    drop(vm.launcher.take());
    assert_eq!(vm.child.wait(None).unwrap(), Some(Exit::Code(exit_status::LAUNCHER_GONE.into())));
    assert!(link.recv(soon()).unwrap_err().is_peer_gone());

    let mut vm = Vm::start(DETACHED);
    drop(vm.launcher.take());
    let (_, link) = vm.spawn("islet", 1, NO_STATUS_SLOT, vec![], "describe");
    vm::answer(&link);
    vm.end(7);
    assert!(link.recv(soon()).unwrap_err().is_peer_gone());
}

#[test]
fn sigterm_ends_the_vm() {
    let vm = Vm::start(DETACHED);
    rustix::process::pidfd_send_signal(vm.child.pidfd(), rustix::process::Signal::TERM).unwrap();
    assert_eq!(vm.child.wait(None).unwrap(), Some(Exit::Code(exit_status::TERMINATED.into())));
    vm.wait_log("the keeper was sent SIGTERM");
}

/// Root runs everything again as somebody else. Who is not root has run everything as such.
#[test]
fn all_of_this_works_without_root() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    if !Path::new("/usr/bin/setpriv").exists() {
        let _ = writeln!(std::io::stderr(), "setpriv (util-linux) is missing: not tried as an ordinary user");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let somebody = || {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--reuid=12345", "--regid=12345", "--clear-groups"]);
        command
    };
    if !somebody().args(["test", "-x"]).arg(&this).status().unwrap().success() {
        let _ = writeln!(std::io::stderr(), "{} is not for everybody: not tried as an ordinary user", this.display());
        return;
    }
    let output = somebody().arg(this).args(["--test-threads=2"]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("test result: ok"));
}
