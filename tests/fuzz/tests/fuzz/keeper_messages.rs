//! The keeper's protocol: what supervisor and launcher send to it and what it answers.
//!
//! An input is 2 bytes (number of descriptors, and whether the length in the header is made right) and a message. What must
//! hold: a request that was read is written as the same bytes.

use fuzz::{Plant, Seen, Target, Verdict};
use keeper_protocol::*;

use crate::bytes::{Bytes, holds};

pub static TARGET: Target = Target {
    name: "keeper_messages",
    run,
    seeds,
    words,
    longest: 4096,
    head: 2,
    plants: &[
        "Spawn: the number of descriptors is not bounded",
        "Kill: signal 0 is a signal",
        "SendTo: the payload's length is believed",
        "table of processes: an entry too many is read",
    ],
};

fn run(input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    let mut input = Bytes(input);
    let (descriptors, repaired) = (usize::from(input.byte() & 3), input.byte() & 0x80 == 0);
    let mut message = input.0.to_vec();
    let length = (message.len() as u32).to_le_bytes();
    if repaired && let Some(field) = message.get_mut(8..12) {
        field.copy_from_slice(&length);
    }
    let request = Request::decode(&message, descriptors);
    match &request {
        Ok((header, request)) => {
            seen.hit("request", request.kind() as u64);
            let mut again = Vec::new();
            request.encode(header.id, header.incarnation, &mut again).map_err(|error| error.to_string())?;
            holds!(again == message, "{request:?} is written as other bytes");
            if let Request::Spawn(Spawn { grants, .. }) | Request::SendTo(SendTo { grants, .. }) = request {
                seen.count("grants", grants.len() as u64);
            }
        }
        Err(error) => seen.text("request", &error.to_string()),
    }
    let id = wire::Header::id_of(&message);
    holds!(message.len() >= wire::HEADER_BYTES || id == 0, "an id without a header");
    match LauncherMessage::decode(&message, descriptors) {
        Ok(read) => {
            let mut again = Vec::new();
            read.encode(&mut again).map_err(|error| error.to_string())?;
            holds!(again[wire::HEADER_BYTES..] == message[wire::HEADER_BYTES..], "{read:?} is written as other bytes");
            seen.hit("launcher", u64::from(message[4]));
        }
        Err(error) => seen.text("launcher", &error.to_string()),
    }
    if let Err(error) = LauncherAnswer::decode(&message, descriptors) {
        seen.text("answer", &error.to_string());
    }
    let from_keeper = FromKeeper::decode(&message, descriptors);
    match &from_keeper {
        Ok((header, _)) => seen.hit("from keeper", header.kind as u64),
        Err(error) => seen.text("from keeper", &error.to_string()),
    }
    planted(&message, request.err(), from_keeper.err(), plant)
}

/// What the code would do without the check that made the error.
fn planted(message: &[u8], request: Option<ProtocolError>, notice: Option<ProtocolError>, plant: Plant) -> Verdict {
    let number = |at: usize| Bytes(message.get(at..).unwrap_or_default()).number(4) as usize;
    match request {
        Some(ProtocolError::Field { kind: MessageKind::Spawn, field: "grants", value, .. }) if plant.is(0) => {
            let mut table = [0; MAX_GRANTS];
            (0..value as usize).for_each(|grant| table[grant] = 1);
        }
        Some(ProtocolError::Field { kind: MessageKind::Kill, field: "signal", value: 0, .. }) if plant.is(1) => {
            return Err("signal 0 would be sent".into());
        }
        Some(ProtocolError::Length { kind: MessageKind::SendTo, .. }) if plant.is(2) && message.len() >= 48 => {
            let _ = &message[48 + 16 * number(36)..][..number(40)];
        }
        _ => {}
    }
    if let Some(ProtocolError::Length { kind: MessageKind::ProcessTable, .. }) = notice
        && plant.is(3)
        && message.len() >= 32
    {
        for entry in 0..number(24) {
            let _ = &message[32 + 96 * entry..][..96];
        }
    }
    Ok(())
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn requests() -> Vec<Request<'static>> {
    let grants = vec![
        Grant::same(HeldId(1)),
        Grant::read_only(HeldId(u64::MAX)),
        Grant { id: HeldId(3), access: Access::PathOnly },
    ];
    let payload = b"a message";
    let spawn = |grants| Spawn {
        name: name("serial0"),
        role: name("serial"),
        binary: HeldId(2),
        incarnation: 3,
        status_slot: NO_STATUS_SLOT,
        grants,
        payload,
    };
    vec![
        Request::MakeMemfd { name: name("ram"), size: MAX_MEMFD, flags: MemfdFlags::all() },
        Request::MakeEventfd { name: name(&"n".repeat(31)), initial: u32::MAX },
        Request::MakeSocketpair { left: name("a"), right: name("b"), kind: SocketKind::Stream },
        Request::Hold { name: name("console"), kind: HeldKind::Socket },
        Request::Get { id: HeldId(7), access: Access::ReadOnly },
        Request::Release { id: HeldId(7) },
        Request::Spawn(spawn(grants.clone())),
        Request::Spawn(Spawn { status_slot: 1, ..spawn(vec![]) }),
        Request::Kill { process: ProcessId(1), incarnation: 2, signal: 9 },
        Request::SendTo(SendTo { process: ProcessId(1), incarnation: 2, grants, payload }),
        Request::List,
        Request::SetStatus { id: HeldId(4) },
        Request::Acknowledge { process: ProcessId(5) },
        Request::Serving,
        Request::Exit { status: 255 },
    ]
}

fn notices() -> Vec<Vec<u8>> {
    let (mut all, mut out) = (Vec::new(), Vec::new());
    let hello = Hello {
        flags: HelloFlags::FOREGROUND,
        held: 2,
        processes: 1,
        exits: 0,
        fruitless_starts: 3,
        uid: 1000,
        gid: 1001,
        vm: name("debian"),
        last_end: "supervisor[1] was killed by SIGKILL".into(),
    };
    encode_hello(&hello, 4, &mut out).unwrap();
    all.push(out.clone());
    let cause = Cause { kind: CauseKind::Seccomp, code: 102, thread: 17, number: 41, address: 1, text: "why".into() };
    let exited = Exited { process: ProcessId(8), name: name("a"), role: name("b"), incarnation: 4, cause };
    encode_exited(&exited, 4, &mut out).unwrap();
    all.push(out.clone());
    encode_reply(Reply { request: 22, a: 1, b: u64::MAX }, 9, 4, &mut out).unwrap();
    all.push(out.clone());
    let refusal = Refusal { request: 22, code: RefusalCode::NoSuchRole, text: "no role".into() };
    encode_refusal(&refusal, 9, 4, &mut out).unwrap();
    all.push(out.clone());
    let mut keep = |bytes| -> Result<(), ProtocolError> {
        all.push(bytes);
        Ok(())
    };
    let held = HeldEntry { id: HeldId(7), kind: HeldKind::Control, name: name("control") };
    encode_held_table(vec![held; 2], 9, 4, &mut keep).unwrap();
    let process = ProcessEntry {
        id: ProcessId(8),
        socket: HeldId(7),
        incarnation: 4,
        status_slot: 3,
        pid: 12,
        state: ProcessState::Ended,
        name: name("serial0"),
        role: name("serial"),
    };
    encode_process_table(vec![process; 2], 9, 4, &mut keep).unwrap();
    for message in [
        LauncherMessage::Begin { flags: BeginFlags::FOREGROUND, uid: 1, gid: 2, patience: 20, vm: name("debian") },
        LauncherMessage::Hold { name: name("bin:supervisor"), kind: HeldKind::Binary },
        LauncherMessage::Go { held: 9 },
    ] {
        message.encode(&mut out).unwrap();
        all.push(out.clone());
    }
    for answer in [LauncherAnswer::Started { pid: 7 }, LauncherAnswer::Refused { why: "no".into() }] {
        answer.encode(&mut out).unwrap();
        all.push(out.clone());
    }
    all
}

fn seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for request in requests() {
        let mut out = Vec::new();
        request.encode(9, 4, &mut out).unwrap();
        let descriptors = u8::from(matches!(request, Request::Hold { .. }));
        all.push([&[descriptors, 0][..], &out].concat());
    }
    all.extend(notices().iter().map(|message| {
        let descriptors = u8::from(message[4] == MessageKind::LauncherHold as u8);
        [&[descriptors, 0][..], message].concat()
    }));
    all
}

fn words() -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = (1..=4).chain(16..=29).chain(64..=69).map(|kind: u8| vec![kind, 0]).collect();
    words.extend([&b"ATK1"[..], &[200, 0, 0, 0], &[201, 0, 0, 0], &[0, 192, 0, 0]].map(<[u8]>::to_vec));
    words
}
