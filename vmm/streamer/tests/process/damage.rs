//! Files that are not what was written: each restore fails and names the file, and no state reaches its area.

use std::fs;

use super::*;

const BYTES: u64 = 4 << 20;

/// A restore that must fail over `file`.
fn refused(path: &Path, digests: &[[u8; 32]], file: &str) -> String {
    let (machine, said) = restore(path, BYTES, digests);
    let Said::Failed { code, text } = said else { panic!("{file}: it is restored") };
    assert!(code == "snapshot.damaged" || code == "snapshot.version", "{code} {text}");
    assert!(text.starts_with(&format!("snapshot file '{file}': ")), "{file}: {text}");
    if file != MEMORY_FILE {
        for n in 0..STATES.len() {
            assert!(machine.state(n).iter().all(|byte| *byte == 0), "a state of a refused snapshot was taken");
        }
    }
    text
}

#[test]
fn five_hundred_random_damages_are_each_found_and_named() {
    let folder = Folder::new("damage");
    let machine = Machine::used(BYTES, 20);
    let path = save(&machine, &folder, "monday");
    let good: Vec<(String, Vec<u8>)> =
        files().into_iter().map(|name| (name.clone(), fs::read(path.join(name)).unwrap())).collect();
    let mut random = SmallRng::seed_from_u64(21);
    for n in 0..500 {
        let (name, bytes) = &good[n % good.len()];
        let mut bad = bytes.clone();
        let at = random.random_range(0..bad.len());
        match random.random_range(0..4) {
            0 => bad.truncate(at),
            1 => bad.extend_from_slice(&[0; 4096]),
            _ => bad[at] ^= 1 << random.random_range(0..8),
        }
        fs::write(path.join(name), &bad).unwrap();
        refused(&path, &machine.digests, name);
        fs::write(path.join(name), bytes).unwrap();
    }
    let (restored, said) = restore(&path, BYTES, &machine.digests);
    assert!(said == Said::Done && restored.all_ram() == machine.all_ram());
}

#[test]
fn swapped_files_and_data_in_a_hole_are_found() {
    let folder = Folder::new("swapped");
    let machine = Machine::used(BYTES, 22);
    let path = save(&machine, &folder, "monday");
    let fresh = || save(&machine, &folder, "monday");
    let swap = |a: &str, b: &str| {
        fs::rename(path.join(a), path.join("x.state")).unwrap();
        fs::rename(path.join(b), path.join(a)).unwrap();
        fs::rename(path.join("x.state"), path.join(b)).unwrap();
    };
    swap("engine.state", "board.state");
    refused(&path, &machine.digests, "engine.state");
    fresh();
    swap("engine.state", "manifest");
    refused(&path, &machine.digests, "manifest");
    fresh();

    // Chunks swapped within the file.
    let mut memory = fs::read(path.join(MEMORY_FILE)).unwrap();
    let chunk = snapshot::CHUNK_BYTES as usize;
    let (first, second) = memory.split_at_mut(chunk);
    first.swap_with_slice(&mut second[..chunk]);
    fs::write(path.join(MEMORY_FILE), &memory).unwrap();
    assert!(refused(&path, &machine.digests, MEMORY_FILE).contains("the chunk of 262144 bytes at 0x0"));

    // Another save's manifest with this one's files, and the other way round.
    let other = Machine::used(BYTES, 23);
    fresh();
    let second = save(&other, &folder, "tuesday");
    fs::copy(second.join(MANIFEST_FILE), path.join(MANIFEST_FILE)).unwrap();
    refused(&path, &machine.digests, MANIFEST_FILE);
    fresh();
    fs::copy(second.join(MEMORY_FILE), path.join(MEMORY_FILE)).unwrap();
    refused(&path, &machine.digests, MEMORY_FILE);

    // A chunk without data, as the manifest says, with one byte in it.
    let mut machine = Machine::fresh(BYTES);
    let used = Machine::used(BYTES, 24);
    (machine.state, machine.digests) = (used.state, used.digests);
    machine.ram.write_all_at(&[1], 0).unwrap();
    let path = save(&machine, &folder, "wednesday");
    File::options().write(true).open(path.join(MEMORY_FILE)).unwrap().write_all_at(&[1], 3 << 20).unwrap();
    assert!(refused(&path, &machine.digests, MEMORY_FILE).contains("at 0x300000"));
}
