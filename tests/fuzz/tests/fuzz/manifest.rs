//! The manifest of a snapshot.
//!
//! An input is 1 byte (what is read) and a message; header and digest are put around it, or it is the file itself. What must
//! hold: what was read can be written and read again as the same, and names no file outside its folder.

use capnp::message::Builder;
use fuzz::{Plant, Seen, Target, Verdict};
use sha2::{Digest, Sha256};
use snapshot::{Manifest, Part, RamFile, SnapshotError, StateFile, Status, read_manifest, write_manifest};
use wire::snapshot_capnp::manifest;
use wire::vm_capnp::vm_config;

use crate::bytes::{Aligned, Message, flat, holds};

pub static TARGET: Target = Target {
    name: "manifest",
    run,
    seeds,
    words,
    longest: 4096,
    head: 1,
    plants: &[
        "a file's name may have a slash",
        "a chunk may have 0 bytes",
        "there may be fewer digests than chunks",
        "two processes may have one name",
    ],
};

fn seal(message: &[u8]) -> Vec<u8> {
    let mut file = [&snapshot::MAGIC[..], &(message.len() as u64).to_le_bytes(), message].concat();
    let digest = Sha256::digest(&file);
    file.extend_from_slice(&digest);
    file
}

fn run(input: &[u8], seen: &mut Seen, plant: Plant) -> Verdict {
    let (kind, message) = input.split_first().unwrap_or((&0, &[]));
    let (part, result) = match kind & 3 {
        0 => (Part::Whole, read_manifest(message)),
        1 => (Part::Order, Manifest::from_message(message, Part::Order)),
        2 => (Part::Brief, Manifest::from_message(message, Part::Brief)),
        _ => (Part::Whole, read_manifest(&seal(message))),
    };
    match &result {
        Ok(manifest) => {
            seen.hit("read", part as u64);
            check(manifest, part, seen)
        }
        Err(error) => {
            let text = error.to_string();
            // Who wrote it is the manifest's own text.
            seen.text("error", text.split("; Atoll").next().unwrap_or_default());
            planted(message, error, &text, plant)
        }
    }
}

fn check(manifest: &Manifest, part: Part, seen: &mut Seen) -> Verdict {
    seen.count("states", manifest.states.len() as u64);
    seen.count("chunks", if part == Part::Order { 0 } else { manifest.ram.chunks() });
    for name in
        manifest.states.iter().map(|state| &state.file).chain((part != Part::Order).then_some(&manifest.ram.file))
    {
        holds!(!name.is_empty() && !name.contains('/') && !name.starts_with('.'), "the file {name:?}");
    }
    if part != Part::Order {
        let chunks = manifest.ram.chunks();
        let mut end = 0;
        for chunk in 0..chunks.min(1000) {
            let (start, length) = manifest.ram.extent(chunk);
            holds!(start == end && length > 0, "chunk {chunk} is {length} bytes at {start}");
            end = start + length as u64;
            let _ = manifest.ram.digest(chunk);
        }
        holds!(chunks > 1000 || end == manifest.ram.length, "chunks end at {end}");
        holds!(manifest.ram.digest(chunks).is_none(), "a digest of a chunk that is none");
    }
    let again = if part == Part::Whole {
        let file = write_manifest(manifest).map_err(|error| format!("cannot be written again: {error}"))?;
        read_manifest(&file)
    } else {
        let bytes = manifest.to_message(part).map_err(|error| format!("cannot be written again: {error}"))?;
        Manifest::from_message(&bytes, part)
    };
    let again = again.map_err(|error| format!("cannot be read again: {error}"))?;
    holds!(again == *manifest, "is read again as something else");
    Ok(())
}

/// What the code would do without the check that made the error.
fn planted(message: &[u8], error: &SnapshotError, text: &str, plant: Plant) -> Verdict {
    if plant.is(0) && text.contains("is no name of a file") {
        holds!(!text.contains('/') || !text.contains("states["), "a file elsewhere: {text}");
    }
    if plant.is(3) {
        holds!(!text.contains("is there twice") || !text.contains(".process"), "{text}");
    }
    if !(plant.is(1) && text.contains("ram.chunkBytes") || plant.is(2) && text.contains("ram.digests")) {
        return Ok(());
    }
    let aligned = Aligned::of(message);
    let mut rest = aligned.bytes();
    let Ok(reader) = capnp::serialize::read_message_from_flat_slice(&mut rest, Default::default()) else {
        return Ok(());
    };
    let ram = reader.get_root::<manifest::Reader<'_>>().and_then(manifest::Reader::get_ram);
    let Ok(ram) = ram else { return Err(format!("{error} of no message")) };
    if plant.is(1) {
        let _ = ram.get_length() / u64::from(ram.get_chunk_bytes());
    } else if let (Ok(present), Ok(digests)) = (ram.get_present(), ram.get_digests()) {
        let chunks: u32 = present.iter().map(|byte| byte.count_ones()).sum();
        (0..chunks as usize).for_each(|chunk| drop(digests[32 * chunk..][..32].to_vec()));
    }
    Ok(())
}

fn sample() -> Manifest {
    let state = |process: &str, length| StateFile {
        process: process.into(),
        file: snapshot::state_file(process),
        length,
        digest: [length as u8; 32],
    };
    let mut config: Message = Builder::new_default();
    let mut to = config.init_root::<vm_config::Builder<'_>>();
    to.set_name("monday");
    to.set_command_line("console=ttyS0");
    let length = 3 * u64::from(snapshot::CHUNK_BYTES) + 8192;
    let mut digests = vec![0; 4 * 32];
    digests[32..64].fill(7);
    Manifest {
        must_understand: vec!["manifest.resumeTo".into()],
        config: flat(&config),
        status: Status::Paused,
        resume_to: Status::Suspended,
        resets: 3,
        wall_clock_seconds: -5,
        version: "0.1.0".into(),
        kernel_summary: "bzImage, entered at 0x1000200".into(),
        states: vec![state("engine", 1000), state("serial0", 8), state("serial1", 4096)],
        ram: RamFile {
            file: snapshot::MEMORY_FILE.into(),
            length,
            chunk_bytes: snapshot::CHUNK_BYTES,
            digests,
            data_bytes: 4096,
        },
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let sample = sample();
    let small = Manifest {
        must_understand: vec![],
        status: Status::Running,
        resume_to: Status::Running,
        states: vec![],
        ..sample.clone()
    };
    let message = |manifest: &Manifest, kind: u8, part| [&[kind][..], &manifest.to_message(part).unwrap()].concat();
    vec![
        [&[0][..], &write_manifest(&sample).unwrap()].concat(),
        message(&sample, 3, Part::Whole),
        message(&small, 3, Part::Whole),
        message(&sample, 1, Part::Order),
        message(&sample, 2, Part::Brief),
    ]
}

fn words() -> Vec<Vec<u8>> {
    let mut words = (super::islet_messages::TARGET.words)();
    words.extend(
        [&b"engine"[..], b"board", b"serial0", b"../x", b"/", b"memory", b"manifest", b"ATOLLSNP"].map(<[u8]>::to_vec),
    );
    words.extend([64u32 << 10, 256 << 10, 16 << 20].map(|chunk| chunk.to_le_bytes().to_vec()));
    words
}
