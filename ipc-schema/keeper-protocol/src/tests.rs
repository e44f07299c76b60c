//! Every message survives encoding and decoding, and nothing else is a message.

use std::os::fd::AsFd;
use std::time::Duration;

use link::{Deadline, Link, Peer};

use crate::client::{ClientError, Keeper, Launcher};
use crate::wire::{HEADER_BYTES, Header};
use crate::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn long_name() -> Name {
    name(&"n".repeat(31))
}

/// A fixed generator (xorshift64*), so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap() % bound
    }
}

fn requests(payload: &[u8]) -> Vec<Request<'_>> {
    let grants = vec![
        Grant::same(HeldId(1)),
        Grant::read_only(HeldId(u64::MAX)),
        Grant { id: HeldId(3), access: Access::PathOnly },
    ];
    vec![
        Request::MakeMemfd { name: name("ram"), size: MAX_MEMFD, flags: MemfdFlags::all() },
        Request::MakeEventfd { name: long_name(), initial: u32::MAX },
        Request::MakeSocketpair { left: name("a"), right: name("b"), kind: SocketKind::Stream },
        Request::MakeSocketpair { left: name("a"), right: name("b"), kind: SocketKind::Seqpacket },
        Request::Hold { name: name("console"), kind: HeldKind::Socket },
        Request::Get { id: HeldId(7), access: Access::ReadOnly },
        Request::Release { id: HeldId(7) },
        Request::Spawn(Spawn {
            name: name("serial0"),
            role: name("serial"),
            binary: HeldId(2),
            incarnation: 3,
            status_slot: NO_STATUS_SLOT,
            grants: grants.clone(),
            payload,
        }),
        Request::Spawn(Spawn {
            name: name("board"),
            role: name("board"),
            binary: HeldId(2),
            incarnation: u32::MAX,
            status_slot: MAX_STATUS_SLOTS - 1,
            grants: vec![Grant::same(HeldId(9)); MAX_GRANTS],
            payload,
        }),
        Request::Kill { process: ProcessId(1), incarnation: 2, signal: 9 },
        Request::SendTo(SendTo { process: ProcessId(1), incarnation: 2, grants, payload }),
        Request::List,
        Request::SetStatus { id: HeldId(4) },
        Request::Acknowledge { process: ProcessId(5) },
        Request::Serving,
        Request::Exit { status: 255 },
    ]
}

fn descriptors_of(request: &Request<'_>) -> usize {
    usize::from(matches!(request, Request::Hold { .. }))
}

fn hello() -> Hello {
    Hello {
        flags: HelloFlags::FOREGROUND,
        held: 2,
        processes: 1,
        exits: 0,
        fruitless_starts: 3,
        uid: 1000,
        gid: 1001,
        vm: name("debian"),
        last_end: "supervisor[1] was killed by SIGKILL".into(),
    }
}

fn exited() -> Exited {
    Exited {
        process: ProcessId(8),
        name: name("serial0"),
        role: name("serial"),
        incarnation: 4,
        cause: Cause {
            kind: CauseKind::Seccomp,
            code: 102,
            thread: 17,
            number: 41,
            address: 0xdead_beef_0000,
            text: "system call socket (41) is not allowed".into(),
        },
    }
}

fn from_keeper() -> Vec<(Vec<u8>, FromKeeper)> {
    let mut all = Vec::new();
    let mut out = Vec::new();
    encode_hello(&hello(), 4, &mut out).unwrap();
    all.push((out.clone(), FromKeeper::Hello(hello())));
    encode_exited(&exited(), 4, &mut out).unwrap();
    all.push((out.clone(), FromKeeper::Exited(exited())));
    let reply = Reply { request: 22, a: 1, b: u64::MAX };
    encode_reply(reply, 9, 4, &mut out).unwrap();
    all.push((out.clone(), FromKeeper::Reply(reply)));
    let refusal = Refusal { request: 22, code: RefusalCode::NoSuchRole, text: "no role".into() };
    encode_refusal(&refusal, 9, 4, &mut out).unwrap();
    all.push((out.clone(), FromKeeper::Refusal(refusal)));
    let held = vec![
        HeldEntry { id: HeldId(1), kind: HeldKind::Binary, name: name("bin:supervisor") },
        HeldEntry { id: HeldId(7), kind: HeldKind::Control, name: long_name() },
    ];
    encode_held_table(held.clone(), 9, 4, |bytes| -> Result<(), ProtocolError> {
        all.push((bytes, FromKeeper::HeldTable(held.clone())));
        Ok(())
    })
    .unwrap();
    let processes = vec![ProcessEntry {
        id: ProcessId(8),
        socket: HeldId(7),
        incarnation: 4,
        status_slot: 3,
        pid: 12,
        state: ProcessState::Ended,
        name: name("serial0"),
        role: name("serial"),
    }];
    encode_process_table(processes.clone(), 9, 4, |bytes| -> Result<(), ProtocolError> {
        all.push((bytes, FromKeeper::ProcessTable(processes.clone())));
        Ok(())
    })
    .unwrap();
    all
}

fn launcher() -> Vec<LauncherMessage> {
    vec![
        LauncherMessage::Begin { flags: BeginFlags::FOREGROUND, uid: 0, gid: u32::MAX, patience: 20, vm: name("vm") },
        LauncherMessage::Hold { name: name("kernel"), kind: HeldKind::File },
        LauncherMessage::Go { held: 12 },
    ]
}

#[test]
fn every_request_survives_encoding() {
    let payload = vec![0x5a; MAX_PAYLOAD];
    for payload in [&payload[..1], &payload] {
        for request in requests(payload) {
            let mut bytes = Vec::new();
            request.encode(77, 5, &mut bytes).unwrap();
            let (header, back) = Request::decode(&bytes, descriptors_of(&request)).unwrap();
            assert_eq!(header, Header { kind: request.kind(), incarnation: 5, id: 77 });
            assert_eq!(back, request);
            assert_eq!(Header::id_of(&bytes), 77);
        }
    }
}

#[test]
fn every_message_of_the_keeper_and_the_launcher_survives_encoding() {
    for (bytes, message) in from_keeper() {
        let (header, back) = FromKeeper::decode(&bytes, 0).unwrap();
        assert_eq!((header.incarnation, back), (4, message));
    }
    let mut bytes = Vec::new();
    for message in launcher() {
        message.encode(&mut bytes).unwrap();
        let descriptors = usize::from(matches!(message, LauncherMessage::Hold { .. }));
        assert_eq!(LauncherMessage::decode(&bytes, descriptors).unwrap(), message);
    }
    for answer in [LauncherAnswer::Started { pid: 2 }, LauncherAnswer::Refused { why: "no supervisor".into() }] {
        answer.encode(&mut bytes).unwrap();
        assert_eq!(LauncherAnswer::decode(&bytes, 0).unwrap(), answer);
    }
}

#[test]
fn the_layouts_have_the_documented_sizes() {
    let mut sizes = Vec::new();
    for request in requests(b"x") {
        let mut bytes = Vec::new();
        request.encode(0, 0, &mut bytes).unwrap();
        sizes.push(bytes.len() - HEADER_BYTES);
    }
    let spawn = 88 + 16 * 3 + 1;
    let full = 88 + 16 * MAX_GRANTS + 1;
    let send = 24 + 16 * 3 + 1;
    assert_eq!(sizes, [48, 40, 72, 72, 40, 16, 8, spawn, full, 16, send, 0, 8, 8, 0, 8]);
    let sizes: Vec<usize> = from_keeper().iter().map(|(bytes, _)| bytes.len() - HEADER_BYTES).collect();
    assert_eq!(sizes, [576, 616, 24, 520, 8 + 2 * 48, 8 + 96]);
}

#[test]
fn the_longest_request_fits_a_datagram() {
    let payload = vec![0; MAX_PAYLOAD];
    let mut bytes = Vec::new();
    requests(&payload)[8].encode(0, 0, &mut bytes).unwrap();
    assert!(bytes.len() <= link::MAX_MESSAGE);
}

#[test]
fn a_message_that_is_one_byte_off_is_no_message() {
    for request in requests(b"payload") {
        let mut bytes = Vec::new();
        request.encode(1, 1, &mut bytes).unwrap();
        let count = descriptors_of(&request);
        for length in 0..bytes.len() {
            let mut cut = bytes[..length].to_vec();
            assert!(Request::decode(&cut, count).is_err(), "{request:?} cut to {length}");
            // With a length field that agrees it is still too short.
            if let Some(field) = cut.get_mut(8..12) {
                field.copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
                assert!(Request::decode(&cut, count).is_err(), "{request:?} cut to {length}");
            }
        }
        let mut long = bytes.clone();
        long.push(0);
        let length = u32::try_from(long.len()).unwrap();
        long[8..12].copy_from_slice(&length.to_le_bytes());
        assert!(matches!(Request::decode(&long, count), Err(ProtocolError::Length { .. })));
        assert!(matches!(Request::decode(&bytes, count + 1), Err(ProtocolError::Descriptors { .. })));
    }
}

/// Writes `value` at `offset` of the body and decodes.
fn with_field(request: &Request<'_>, offset: usize, value: u32) -> ProtocolError {
    let mut bytes = Vec::new();
    request.encode(1, 1, &mut bytes).unwrap();
    let at = HEADER_BYTES + offset;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    Request::decode(&bytes, descriptors_of(request)).unwrap_err()
}

#[test]
fn wrong_fields_are_named() {
    let all = requests(b"x");
    let cases: &[(usize, usize, u32, &str)] = &[
        (0, 36, 1 << 30, "size"),
        (0, 40, 16, "flags"),
        (0, 44, 1, "reserved"),
        (0, 0, 0, "name"),
        (2, 64, 3, "kind"),
        (4, 32, 8, "kind"),
        (4, 32, 0, "kind"),
        (5, 8, 3, "access"),
        (7, 32, u32::from_le_bytes(*b"a b\0"), "role"),
        (7, 76, MAX_STATUS_SLOTS, "status slot"),
        (7, 80, 201, "grants"),
        (7, 84, 0, "payload length"),
        (7, 84, 49153, "payload length"),
        (9, 12, 0, "signal"),
        (9, 12, 32, "signal"),
        (10, 16, u32::MAX, "payload length"),
        (10, 20, 1, "reserved"),
        (15, 0, 256, "status"),
    ];
    for (index, offset, value, field) in cases {
        let error = with_field(&all[*index], *offset, *value);
        let named = matches!(&error, ProtocolError::Field { field: f, .. } | ProtocolError::Name { field: f, .. } if f == field);
        assert!(named, "{error} should name {field}");
    }
}

#[test]
fn messages_do_not_decode_on_another_link() {
    let mut bytes = Vec::new();
    launcher()[0].encode(&mut bytes).unwrap();
    assert!(matches!(Request::decode(&bytes, 0), Err(ProtocolError::Kind(1))));
    requests(b"x")[11].encode(1, 1, &mut bytes).unwrap();
    assert!(matches!(LauncherMessage::decode(&bytes, 0), Err(ProtocolError::Kind(25))));
    assert!(matches!(FromKeeper::decode(&bytes, 0), Err(ProtocolError::Kind(25))));
    assert!(matches!(LauncherAnswer::decode(&bytes, 0), Err(ProtocolError::Kind(25))));
    bytes[4..6].copy_from_slice(&999_u16.to_le_bytes());
    assert!(matches!(Request::decode(&bytes, 0), Err(ProtocolError::Kind(999))));
}

#[test]
fn garbage_never_panics_and_what_decodes_encodes_to_the_same() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut decoded = 0;
    let payload = [7; 40];
    let samples: Vec<(Vec<u8>, usize)> = requests(&payload)
        .iter()
        .map(|request| {
            let mut bytes = Vec::new();
            request.encode(random.next(), 3, &mut bytes).unwrap();
            (bytes, descriptors_of(request))
        })
        .collect();
    let others = from_keeper();
    for round in 0..60_000 {
        let (sample, count) = &samples[round % samples.len()];
        let mut bytes = sample.clone();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        if random.below(4) == 0 {
            bytes.resize(random.below(bytes.len() + 40), random.next() as u8);
            if let Some(field) = bytes.get_mut(8..12) {
                field.copy_from_slice(&u32::try_from(sample.len()).unwrap().to_le_bytes());
            }
        }
        let _id = Header::id_of(&bytes);
        if let Ok((header, request)) = Request::decode(&bytes, *count) {
            decoded += 1;
            let mut again = Vec::new();
            request.encode(header.id, header.incarnation, &mut again).unwrap();
            assert_eq!(again, bytes, "two encodings of {request:?}");
        }
        let mut bytes = others[round % others.len()].0.clone();
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
        if let Ok((_, FromKeeper::Exited(exited))) = FromKeeper::decode(&bytes, 0) {
            assert!(!exited.cause.text.contains(char::is_control));
        }
        let _ = LauncherMessage::decode(&bytes, 1);
        let _ = LauncherAnswer::decode(&bytes, 0);
    }
    assert!(decoded > 10_000, "too little of the garbage decodes: {decoded}");
}

#[test]
fn names_are_printable_and_end_in_their_field() {
    for bad in ["", "a b", "ä", "tab\t", "a\0b", &"n".repeat(32)] {
        assert_eq!(Name::new(bad), Err(NameError), "{bad:?}");
    }
    assert_eq!(name("bin:serial").to_string(), "bin:serial");
    assert_eq!(long_name().as_str().len(), 31);
}

#[test]
fn texts_are_cut_at_a_character_and_cannot_drive_a_terminal() {
    let refusal = Refusal { request: 1, code: RefusalCode::Os, text: format!("\x1b[2J{}", "€".repeat(400)) };
    let mut bytes = Vec::new();
    encode_refusal(&refusal, 1, 1, &mut bytes).unwrap();
    let (_, FromKeeper::Refusal(back)) = FromKeeper::decode(&bytes, 0).unwrap() else { panic!("no refusal") };
    assert_eq!(back.text, format!(" [2J{}", "€".repeat((MAX_TEXT - 4) / 3)));
}

#[test]
fn a_large_table_travels_in_pieces() {
    let entries: Vec<HeldEntry> =
        (1..=1300).map(|id| HeldEntry { id: HeldId(id), kind: HeldKind::Eventfd, name: name("queue") }).collect();
    let mut back = Vec::new();
    let mut pieces = 0;
    encode_held_table(entries.clone(), 0, 1, |bytes| -> Result<(), ProtocolError> {
        assert!(bytes.len() <= link::MAX_MESSAGE);
        let (_, FromKeeper::HeldTable(piece)) = FromKeeper::decode(&bytes, 0)? else { panic!("no table") };
        back.extend(piece);
        pieces += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!((back, pieces), (entries, 3));
}

fn pair() -> (Link, Link) {
    Link::pair(Peer::new("keeper", 1), Peer::new("supervisor", 4)).unwrap()
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

#[test]
fn a_supervisor_adopts_calls_and_gets_exits_that_come_in_between() {
    let (keeper, supervisor) = pair();
    for (bytes, _) in from_keeper().into_iter().filter(|(_, message)| {
        matches!(message, FromKeeper::Hello(_) | FromKeeper::HeldTable(_) | FromKeeper::ProcessTable(_))
    }) {
        keeper.send(&bytes, &[], soon()).unwrap();
    }
    let (mut client, adoption) = Keeper::adopt(supervisor, soon()).unwrap();
    assert_eq!((client.incarnation(), adoption.hello.clone()), (4, hello()));
    assert_eq!(adoption.find("bin:supervisor"), Some(HeldId(1)));
    assert_eq!(adoption.processes.len(), 1);

    // Queue the answers first: a late one, an exit, and the one that is meant.
    let mut bytes = Vec::new();
    encode_reply(Reply { request: 0, a: 0, b: 0 }, 999, 4, &mut bytes).unwrap();
    keeper.send(&bytes, &[], soon()).unwrap();
    encode_exited(&exited(), 4, &mut bytes).unwrap();
    keeper.send(&bytes, &[], soon()).unwrap();
    encode_reply(Reply { request: 20, a: 0, b: 0 }, 1, 4, &mut bytes).unwrap();
    keeper.send(&bytes, &[keeper.as_fd()], soon()).unwrap();
    let got = client.get(HeldId(1), Access::Same, soon()).unwrap();
    assert!(Link::new(got, Peer::new("x", 0)).is_ok());
    let asked = keeper.recv(soon()).unwrap();
    let (header, request) = Request::decode(&asked.bytes, 0).unwrap();
    assert_eq!((header.incarnation, header.id), (4, 1));
    assert_eq!(request, Request::Get { id: HeldId(1), access: Access::Same });
    assert_eq!(client.next_exit().unwrap(), Some(exited()));
    assert_eq!(client.next_exit().unwrap(), None);

    let refusal = Refusal { request: 23, code: RefusalCode::NoSuchProcess, text: "no process 5".into() };
    encode_refusal(&refusal, 2, 4, &mut bytes).unwrap();
    keeper.send(&bytes, &[], soon()).unwrap();
    let error = client.kill(ProcessId(5), 1, 9, soon()).unwrap_err();
    assert!(matches!(error, ClientError::Refused(r) if r == refusal));

    drop(keeper);
    assert!(matches!(client.next_exit(), Err(ClientError::Link(error)) if error.is_peer_gone()));
    assert!(matches!(client.exit(0, soon()), ClientError::Link(error) if error.is_peer_gone()));
}

#[test]
fn a_keeper_that_lies_about_its_tables_is_refused() {
    let (keeper, supervisor) = pair();
    let mut bytes = Vec::new();
    encode_hello(&Hello { held: u32::MAX, ..hello() }, 1, &mut bytes).unwrap();
    keeper.send(&bytes, &[], soon()).unwrap();
    assert!(matches!(Keeper::adopt(supervisor, soon()), Err(ClientError::OutOfTurn(_))));
}

#[test]
fn a_launcher_hears_why_its_vm_was_refused() {
    let (keeper, launcher) = pair();
    let begun = Launcher::begin(launcher, name("vm"), BeginFlags::empty(), (0, 0), 20, soon()).unwrap();
    let mut bytes = Vec::new();
    LauncherAnswer::Refused { why: "no bin:supervisor".into() }.encode(&mut bytes).unwrap();
    keeper.send(&bytes, &[], soon()).unwrap();
    drop(keeper);
    let error = begun.go(soon()).unwrap_err();
    assert_eq!(error.to_string(), "the VM cannot be started: no bin:supervisor");
}
