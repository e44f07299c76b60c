//! Saves and restores as they should be.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;

const BYTES: u64 = 64 << 20;

#[test]
fn what_is_saved_is_restored_and_holes_stay_holes() {
    let folder = Folder::new("story");
    let machine = Machine::used(BYTES, 1);
    let in_use = machine.ram.metadata().unwrap().blocks() * 512;
    let path = save(&machine, &folder, "monday");
    assert_eq!(machine.ram.metadata().unwrap().blocks() * 512, in_use, "saving fills no hole of RAM");
    let memory = fs::metadata(path.join(MEMORY_FILE)).unwrap();
    assert_eq!(memory.len(), BYTES);
    let allocated = memory.blocks() * 512;
    assert!(allocated * 100 <= in_use * 101, "{allocated} bytes on the disk for {in_use} of RAM");
    let data = open(&path).manifest().ram.data_bytes;
    assert!(data < in_use && data <= allocated, "pages of zeroes are not written: {data} of {in_use}");

    let (restored, said) = restore(&path, BYTES, &machine.digests);
    assert_eq!(said, Said::Done);
    assert!(restored.all_ram() == machine.all_ram(), "RAM differs");
    assert_eq!(restored.ram.metadata().unwrap().blocks() * 512, data);
    for n in 0..STATES.len() {
        assert_eq!(restored.state(n), machine.state(n));
    }
    // What is saved of the restored machine is the same once more.
    let again = Machine { digests: machine.digests.clone(), ..restored };
    let second = save(&again, &folder, "tuesday");
    for file in files() {
        assert!(fs::read(path.join(&file)).unwrap() == fs::read(second.join(&file)).unwrap(), "{file} differs");
    }
}

#[test]
fn two_saves_are_equal_byte_by_byte_and_the_manifest_is_as_ordered() {
    let folder = Folder::new("twice");
    let machine = Machine::used(8 << 20, 2);
    let paths = ["monday", "tuesday"].map(|name| save(&machine, &folder, name));
    for file in files() {
        let [first, second] = [0, 1].map(|n: usize| fs::read(paths[n].join(&file)).unwrap());
        assert!(first == second, "{file} differs");
    }
    let snapshot = open(&paths[0]);
    let manifest = snapshot.manifest();
    assert_eq!(Manifest { states: Vec::new(), ram: RamFile::default(), ..manifest.clone() }, order());
    assert_eq!(manifest.states.iter().map(|state| state.digest).collect::<Vec<_>>(), machine.digests);
}

#[test]
fn a_machine_without_any_data_is_saved_and_restored() {
    let folder = Folder::new("empty");
    let machine = Machine { digests: Machine::used(1 << 20, 3).digests, ..Machine::fresh(1 << 30) };
    let filled = Machine::used(1 << 20, 3);
    let machine = Machine { state: filled.state, ..machine };
    let path = save(&machine, &folder, "monday");
    assert_eq!(open(&path).manifest().ram.data_bytes, 0);
    let (restored, said) = restore(&path, 1 << 30, &machine.digests);
    assert_eq!((said, restored.ram.metadata().unwrap().blocks()), (Said::Done, 0));
}

#[test]
fn a_state_that_is_not_what_its_process_said_fails_the_save() {
    let folder = Folder::new("state");
    let mut machine = Machine::used(1 << 20, 4);
    machine.digests[1][0] ^= 1;
    let directory = Directory::create_temporary(&folder.0, "monday", &files()).unwrap();
    let mut process = saver(&machine, &directory).ready();
    let Said::Failed { code, text } = process.run().0 else { panic!("it is saved") };
    assert!(code == "snapshot.state" && text.contains("'board'"), "{code} {text}");
    // Asked again, it says the same again.
    assert_eq!(process.run().0, Said::Failed { code, text });
    process.quit();
    assert!(directory.commit().is_err());
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
}

#[test]
fn a_file_that_cannot_be_written_is_named_with_the_reason() {
    let folder = Folder::new("full");
    let machine = Machine::used(1 << 20, 5);
    for victim in files() {
        let directory = Directory::create_temporary(&folder.0, "monday", &files()).unwrap();
        let ram = spawn::reopen_read_only(machine.ram.as_fd()).unwrap();
        // It can be made longer and not be written, like a file where there is no room.
        let sealed = memfd_create(c"full", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        fcntl(&sealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        let mut descriptors = vec![("ram", ram.as_fd()), ("state", machine.state.as_fd())];
        let given = |name, fd| (name, if name == victim { sealed.as_fd() } else { fd });
        descriptors.extend(directory.files().map(|(name, fd)| given(name, fd)));
        let manifest = order().to_message(Part::Order).unwrap();
        let start = |descriptors: &[_]| {
            Process::start(descriptors, |role| {
                let mut save = role.init_save();
                save.set_manifest(&manifest);
                areas(&machine.digests, save.init_states(STATES.len() as u32));
            })
        };
        let mut process = start(&descriptors).ready();
        let Said::Failed { code, text } = process.run().0 else { panic!("it is saved") };
        let named = text.starts_with(&format!("snapshot file '{victim}': ")) && text.contains("os error 1");
        assert!(code == "snapshot.write" && named, "{code} {text}");
        process.quit();
        // One that is not even open for writing is found before anything is done.
        let read_only = spawn::reopen_read_only(sealed.as_fd()).unwrap();
        let other = |(name, fd)| (name, if name == victim { read_only.as_fd() } else { fd });
        let descriptors: Vec<_> = descriptors.into_iter().map(other).collect();
        let mut process = start(&descriptors);
        let Said::Failed { code, text } = process.answer(1).0 else { panic!("it is ready") };
        assert!(code == "snapshot.write" && text.contains(&victim), "{code} {text}");
        process.ended(1);
    }
}

#[test]
fn a_killed_save_leaves_only_what_the_next_one_removes_and_a_quit_ends_it() {
    let folder = Folder::new("killed");
    let old = save(&Machine::used(1 << 20, 6), &folder, "monday");
    let before = fs::read(old.join(MEMORY_FILE)).unwrap();
    let machine = Machine::used(64 << 20, 7);
    for round in 0..6 {
        let directory = Directory::create_temporary(&folder.0, "monday", &files()).unwrap();
        let mut process = saver(&machine, &directory).ready();
        process.post(|mut m| m.set_run(()), &[]);
        (0..round).for_each(|_| drop(process.hear()));
        if round % 2 == 0 {
            process.kill();
        } else {
            let id = process.post(|mut m| m.set_quit(()), &[]);
            while !matches!(process.hear(), Some((to, Said::Done)) if to == id) {}
            process.ended(0);
            // Whether the save was done before it heard of it does not matter: it was not committed.
        }
        drop(directory);
        assert!(fs::read(old.join(MEMORY_FILE)).unwrap() == before, "the old one is as it was");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }
    // A successor takes the same files, half written as they are.
    let directory = Directory::create_temporary(&folder.0, "monday", &files()).unwrap();
    let mut first = saver(&machine, &directory).ready();
    first.post(|mut m| m.set_run(()), &[]);
    drop(first.hear());
    first.kill();
    let mut second = saver(&machine, &directory).ready();
    assert_eq!(second.run().0, Said::Done);
    second.quit();
    let path = directory.commit().unwrap();
    let (restored, said) = restore(&path, machine.bytes, &machine.digests);
    assert!(said == Said::Done && restored.all_ram() == machine.all_ram());
}

#[test]
fn a_supervisor_that_is_gone_holds_nothing_up() {
    let folder = Folder::new("gone");
    let machine = Machine::used(16 << 20, 8);
    let directory = Directory::create_temporary(&folder.0, "monday", &files()).unwrap();
    let mut process = saver(&machine, &directory).ready();
    process.post(|mut m| m.set_run(()), &[]);
    let child = process.child.take().unwrap();
    drop(process);
    let exit = child.wait(Some(PATIENCE)).unwrap().expect("it ends");
    assert!(matches!(exit, Exit::Code(0)), "{exit:?}");
    // It has done its work all the same.
    let path = directory.commit().unwrap();
    assert!(restore(&path, machine.bytes, &machine.digests).0.all_ram() == machine.all_ram());
}

#[test]
fn what_is_missing_or_for_others_is_named() {
    let mut process = Process::start(&[], |role| {
        role.init_restore();
    });
    assert!(matches!(process.answer(1).0, Said::Failed { text, .. } if text.contains("no descriptor 'ram'")));
    process.ended(1);
    let machine = Machine::used(1 << 20, 9);
    let folder = Folder::new("others");
    let path = save(&machine, &folder, "monday");
    let mut process = restorer(&machine, &path, &machine.digests, &[]).ready();
    let id = process.post(|mut m| m.set_reset(()), &[]);
    assert!(matches!(process.answer(id).0, Said::Failed { code, .. } if code == "streamer.message"));
    process.quit();
    let (_, said) = restore(&path, 2 << 20, &machine.digests);
    assert!(matches!(said, Said::Failed { code, .. } if code == "snapshot.machine"));
}
