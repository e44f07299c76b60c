//! A manifest is read as it was written, and every way in which it can be wrong has a name.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::{CHUNK_BYTES, MEMORY_FILE, state_file};

const RAM: u64 = 3 * CHUNK_BYTES as u64 + 8192;

fn config() -> Vec<u8> {
    let mut message: Builder<HeapAllocator> = Builder::new_default();
    let mut config = message.init_root::<vm_config::Builder<'_>>();
    config.set_name("monday");
    config.set_memory_bytes(RAM);
    config.set_command_line("console=ttyS0");
    config.init_console().set_file("log");
    serialize::write_message_to_words(&message)
}

fn sample() -> Manifest {
    let state = |process: &str, length| StateFile {
        process: process.into(),
        file: state_file(process),
        length,
        digest: [length as u8; 32],
    };
    let mut ram = RamFile { file: MEMORY_FILE.into(), length: RAM, chunk_bytes: CHUNK_BYTES, ..RamFile::default() };
    ram.digests = vec![0; 4 * DIGEST_BYTES];
    ram.digests[DIGEST_BYTES..2 * DIGEST_BYTES].fill(7);
    ram.data_bytes = 4096;
    Manifest {
        must_understand: vec!["manifest.resumeTo".into()],
        config: config(),
        status: Status::Paused,
        resume_to: Status::Suspended,
        resets: 3,
        wall_clock_seconds: -5,
        version: "0.1.0".into(),
        kernel_summary: "bzImage, entered at 0x1000200".into(),
        states: vec![state("engine", 1000), state("board", 8), state("serial0", MAX_STATE_BYTES)],
        ram,
    }
}

/// Header and digest around a message that somebody else made.
fn seal(message: &[u8]) -> Vec<u8> {
    let mut file = [&MAGIC[..], &(message.len() as u64).to_le_bytes(), message].concat();
    let digest = Sha256::digest(&file);
    file.extend_from_slice(&digest);
    file
}

#[test]
fn what_is_written_is_read_and_equal_manifests_are_equal_files() {
    let manifest = sample();
    let file = write_manifest(&manifest).unwrap();
    assert_eq!(read_manifest(&file).unwrap(), manifest);
    assert_eq!(write_manifest(&read_manifest(&file).unwrap()).unwrap(), file);
    assert_eq!((manifest.ram.chunks(), manifest.ram.digest(0), manifest.ram.digest(1)), (4, None, Some([7; 32])));
    assert_eq!((manifest.ram.digest(4), manifest.ram.extent(3)), (None, (3 * u64::from(CHUNK_BYTES), 8192)));
    assert_eq!(manifest.ram.extent(9), (RAM, 0));
}

#[test]
fn the_parts_that_go_through_messages_hold_what_they_are_for() {
    let order = Manifest::from_message(&sample().to_message(Part::Order).unwrap(), Part::Order).unwrap();
    assert_eq!(order, Manifest { states: Vec::new(), ram: RamFile::default(), ..sample() });
    let brief = Manifest::from_message(&sample().to_message(Part::Brief).unwrap(), Part::Brief).unwrap();
    let ram = RamFile { digests: Vec::new(), ..sample().ram };
    assert_eq!(brief, Manifest { config: Vec::new(), ram, ..sample() });
    let full = sample().to_message(Part::Whole).unwrap();
    assert!(Manifest::from_message(&brief.to_message(Part::Brief).unwrap(), Part::Whole).is_err());
    assert!(Manifest::from_message(&full[..full.len() - 8], Part::Whole).is_err());
}

#[test]
fn every_bad_field_is_refused_by_its_name_and_is_not_written() {
    type Change = fn(&mut Manifest);
    let cases: [(&str, Change); 30] = [
        ("resets", |m| m.resets = MAX_RESETS + 1),
        ("resets", |m| m.resets = u64::MAX),
        ("ram.chunkBytes", |m| (m.ram.length, m.ram.chunk_bytes) = (MAX_RAM_BYTES, MIN_CHUNK_BYTES)),
        ("resumeTo", |m| m.resume_to = Status::Paused),
        ("resumeTo", |m| (m.status, m.resume_to) = (Status::Running, Status::Suspended)),
        ("resumeTo", |m| (m.status, m.resume_to) = (Status::Suspended, Status::Running)),
        ("version", |m| m.version = "v".repeat(MAX_TEXT + 1)),
        ("kernelSummary", |m| m.kernel_summary = "v".repeat(MAX_TEXT + 1)),
        ("mustUnderstand", |m| m.must_understand = vec!["manifest.config".into(); MAX_NAMES + 1]),
        ("config", |m| m.config = vec![0; MAX_CONFIG_BYTES + 8]),
        ("states", |m| m.states = vec![m.states[0].clone(); MAX_STATES + 1]),
        ("states[1].process", |m| m.states[1].process = "../board".into()),
        ("states[1].process", |m| m.states[1].process = "engine".into()),
        ("states[0].file", |m| m.states[0].file = String::new()),
        ("states[0].file", |m| m.states[0].file = "a/b".into()),
        ("states[0].file", |m| m.states[0].file = "..".into()),
        ("states[0].file", |m| m.states[0].file = ".hidden".into()),
        ("states[0].file", |m| m.states[0].file = "a\nb".into()),
        ("states[0].file", |m| m.states[0].file = "manifest".into()),
        ("states[2].file", |m| m.states[2].file = "engine.state".into()),
        ("states[0].length", |m| m.states[0].length = 0),
        ("states[0].length", |m| m.states[0].length = MAX_STATE_BYTES + 1),
        ("ram.file", |m| m.ram.file = "engine.state".into()),
        ("ram.length", |m| m.ram.length = 0),
        ("ram.length", |m| m.ram.length = 4097),
        ("ram.length", |m| m.ram.length = !4095),
        ("ram.chunkBytes", |m| m.ram.chunk_bytes = 0),
        ("ram.chunkBytes", |m| m.ram.chunk_bytes = 3 << 16),
        ("ram.dataBytes", |m| m.ram.data_bytes = RAM + 4096),
        ("ram.digests", |m| m.ram.digests.truncate(127)),
    ];
    for (field, change) in cases {
        let mut manifest = sample();
        change(&mut manifest);
        let refused = write_manifest(&manifest).err();
        // What the writer does not bound, the reader does.
        let error = refused.unwrap_or_else(|| {
            let message = manifest.to_message(Part::Whole).unwrap();
            read_manifest(&seal(&message)).expect_err(field)
        });
        let SnapshotError::Field { field: found, .. } = &error else { panic!("{field}: {error}") };
        assert_eq!(found, field, "{error}");
        assert_eq!(error.code(), "snapshot.damaged");
        assert!(error.remedy().contains("restore another"));
    }
}

/// Messages that [`write_manifest`] would never make.
#[test]
fn a_foreign_message_is_refused_field_by_field() {
    let foreign = |change: &dyn Fn(manifest::Builder<'_>)| {
        let mut message: Builder<HeapAllocator> = Builder::new_default();
        let good = sample().to_message(Part::Whole).unwrap();
        let reader = message_reader(&good).unwrap();
        message.set_root(reader.get_root::<manifest::Reader<'_>>().unwrap()).unwrap();
        change(message.get_root::<manifest::Builder<'_>>().unwrap());
        read_manifest(&seal(&serialize::write_message_to_words(&message))).unwrap_err().to_string()
    };
    let newer = foreign(&|mut m| m.set_format(2));
    assert!(newer.contains("'format': 2") && newer.contains("Atoll 0.1.0 wrote it"), "{newer}");
    let unknown = foreign(&|m| m.init_must_understand(1).set(0, "manifest.encryption"));
    assert!(unknown.contains("'manifest.encryption' must be understood"), "{unknown}");
    let digest = foreign(&|m| m.get_states().unwrap().get(1).set_digest(&[1; 31]));
    assert!(digest.contains("'states[1].digest'") && digest.contains("31"), "{digest}");
    let missing = foreign(&|m| m.init_config().set_name("x".repeat(MAX_CONFIG_BYTES)));
    assert!(missing.contains("'config'"), "{missing}");
    let short = foreign(&|m| m.get_ram().unwrap().set_digests(&[0; 96]));
    assert!(short.contains("'ram.digests'") && short.contains("1 chunks have 32"), "{short}");
    for present in [&[][..], &[2, 0], &[0x12]] {
        let wrong = foreign(&|m| m.get_ram().unwrap().set_present(present));
        assert!(wrong.contains("'ram.present'") && wrong.contains("4 chunks"), "{wrong}");
    }
    let mut none: Builder<HeapAllocator> = Builder::new_default();
    none.init_root::<manifest::Builder<'_>>().set_format(1);
    let none = read_manifest(&seal(&serialize::write_message_to_words(&none))).unwrap_err().to_string();
    assert!(none.contains("'config': is missing"), "{none}");
}

#[test]
fn a_file_that_was_changed_or_cut_is_never_read_and_never_a_panic() {
    let file = write_manifest(&sample()).unwrap();
    let mut random = SmallRng::seed_from_u64(11);
    for _ in 0..500 {
        let mut bad = file.clone();
        let at = random.random_range(0..bad.len());
        bad[at] ^= 1 << random.random_range(0..8);
        let error = read_manifest(&bad).expect_err("one bit of it is wrong");
        assert!(error.to_string().starts_with("manifest: "), "{error}");
    }
    for length in 0..file.len() {
        let error = read_manifest(&file[..length]).expect_err("it is cut off");
        assert!(error.to_string().starts_with("manifest: "), "{error}");
    }
    assert!(read_manifest(&[&file[..], &[0; 8]].concat()).is_err());
}

/// With a digest that fits, what is wrong goes on to the decoder.
#[test]
fn a_hostile_writer_cannot_make_the_reader_panic() {
    let message = sample().to_message(Part::Whole).unwrap();
    let mut random = SmallRng::seed_from_u64(12);
    let mut refused = 0;
    for _ in 0..5000 {
        let mut bad = message.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bad.len());
            bad[at] = random.random();
        }
        match read_manifest(&seal(&bad)) {
            Ok(read) => read.check(Part::Whole).unwrap(),
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(refused > 500, "{refused}");
}
