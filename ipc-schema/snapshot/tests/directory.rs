//! Directories of snapshots: made beside their place, put there in one step, and never in anybody's way.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use common::{FILES, Folder, fill, names, save, tag};
use snapshot::{Directory, MANIFEST_FILE, MEMORY_FILE, Snapshot, SnapshotError};

#[test]
fn a_snapshot_appears_whole_and_replaces_the_old_one() {
    let folder = Folder::new("appears");
    for round in 1..4 {
        let path = save(folder.path(), "monday", round).unwrap();
        assert_eq!(path, folder.path().join("monday"));
        assert_eq!(names(folder.path()), ["monday"], "the old one and the temporary one are gone");
        let snapshot = Snapshot::open(&path).unwrap();
        assert_eq!(tag(&snapshot), round);
        assert_eq!(snapshot.files().map(|(name, _)| name).collect::<Vec<_>>().len(), FILES.len());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join(MEMORY_FILE)).unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn one_that_is_not_committed_leaves_nothing() {
    let folder = Folder::new("dropped");
    save(folder.path(), "monday", 1).unwrap();
    let directory = Directory::create_temporary(folder.path(), "monday", &FILES).unwrap();
    assert_eq!(names(folder.path()).len(), 2);
    drop(directory);
    // An incomplete one is not committed: here no manifest was written.
    let directory = Directory::create_temporary(folder.path(), "monday", &FILES).unwrap();
    let error = directory.commit().unwrap_err();
    assert_eq!(error.code(), "snapshot.damaged");
    let directory = Directory::create_temporary(folder.path(), "monday", &FILES).unwrap();
    fill(&directory, 2);
    fs::File::from(directory.file(MEMORY_FILE).unwrap().try_clone_to_owned().unwrap()).set_len(4096).unwrap();
    assert!(directory.commit().unwrap_err().to_string().starts_with("memory: it has 4096 bytes"));
    assert_eq!(names(folder.path()), ["monday"]);
    assert_eq!(tag(&Snapshot::open(&folder.path().join("monday")).unwrap()), 1);
}

#[test]
fn what_dead_writers_left_is_removed_and_the_living_are_let_be() {
    let folder = Folder::new("stale");
    let stale = folder.path().join(".monday.partial-0123456789abcdef");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join(MANIFEST_FILE), b"half").unwrap();
    let others = [".monday.partial-x", ".tuesday.partial-0123456789abcdef"];
    others.iter().for_each(|name| fs::create_dir(folder.path().join(name)).unwrap());
    let living = Directory::create_temporary(folder.path(), "monday", &FILES).unwrap();
    assert!(!stale.exists());
    save(folder.path(), "monday", 5).unwrap();
    fill(&living, 6);
    living.commit().unwrap();
    assert_eq!(tag(&Snapshot::open(&folder.path().join("monday")).unwrap()), 6);
    assert_eq!(names(folder.path()), [others[0], others[1], "monday"]);
}

#[test]
fn what_is_no_snapshot_is_not_replaced() {
    let folder = Folder::new("occupied");
    let path = folder.path().join("monday");
    let refused = || {
        let error = Directory::create_temporary(folder.path(), "monday", &FILES).unwrap_err();
        assert!(matches!(error, SnapshotError::Occupied { .. }) && error.remedy().contains("another name"));
        error.to_string()
    };
    fs::write(&path, b"a letter").unwrap();
    assert!(refused().contains("no directory"));
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/tmp", &path).unwrap();
    assert!(refused().contains("no directory"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("letter"), b"dear").unwrap();
    assert!(refused().contains("'letter'"));
    fs::rename(path.join("letter"), path.join("memory")).unwrap();
    assert!(refused().contains("no manifest"));
    fs::remove_file(path.join("memory")).unwrap();
    save(folder.path(), "monday", 1).unwrap();

    // The same when it comes between the beginning and the end.
    let directory = Directory::create_temporary(folder.path(), "tuesday", &FILES).unwrap();
    fill(&directory, 1);
    fs::create_dir(folder.path().join("tuesday")).unwrap();
    fs::write(folder.path().join("tuesday/letter"), b"dear").unwrap();
    assert_eq!(directory.commit().unwrap_err().code(), "snapshot.occupied");
    assert_eq!(names(folder.path()), ["monday", "tuesday"]);
    for name in ["", ".", "..", "a/b", &"n".repeat(201)] {
        assert_eq!(Directory::create_temporary(folder.path(), name, &FILES).unwrap_err().code(), "snapshot.name");
    }
    assert!(Directory::create_temporary(folder.path(), "x", &["letter"]).is_err());
    assert_eq!(Directory::create_temporary(&path.join("no"), "x", &FILES).unwrap_err().code(), "snapshot.io");
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let folder = Folder::new("wrong");
    let fresh = || save(folder.path(), "monday", 1).unwrap();
    let path = fresh();
    let refused = || Snapshot::open(&path).unwrap_err().to_string();
    fs::remove_file(path.join("board.state")).unwrap();
    assert_eq!(refused(), "board.state: the file is missing");
    std::os::unix::fs::symlink(path.join("engine.state"), path.join("board.state")).unwrap();
    assert_eq!(refused(), "board.state: it is no regular file");
    fs::remove_file(path.join("board.state")).unwrap();
    nix::unistd::mkfifo(&path.join("board.state"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(refused(), "board.state: it is no regular file");
    fresh();
    fs::write(path.join("engine.state"), b"short").unwrap();
    assert!(refused().starts_with("engine.state: it has 5 bytes"));
    fresh();
    fs::remove_file(path.join(MANIFEST_FILE)).unwrap();
    assert!(refused().contains("no file 'manifest'"));
    fs::write(path.join(MANIFEST_FILE), b"").unwrap();
    assert!(refused().starts_with("manifest: it is cut off"));
    assert!(Snapshot::open(&folder.path().join("no")).unwrap_err().to_string().contains("no such directory"));
    // Without its manifest in order it is still a snapshot's directory, so the next save puts it right.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fresh();
    assert_eq!(tag(&Snapshot::open(&path).unwrap()), 1);
}

#[test]
fn one_that_is_open_outlives_its_replacement() {
    let folder = Folder::new("outlives");
    let path = save(folder.path(), "monday", 1).unwrap();
    let open = Snapshot::open(&path).unwrap();
    save(folder.path(), "monday", 2).unwrap();
    assert_eq!((tag(&open), tag(&Snapshot::open(&path).unwrap())), (1, 2));
}

/// Readers see one or another of the saves, and all of it.
#[test]
fn saves_and_reads_at_the_same_time() {
    let folder = Folder::new("races");
    save(folder.path(), "monday", 0).unwrap();
    let path = folder.path().join("monday");
    std::thread::scope(|scope| {
        for writer in 1..4 {
            let folder = folder.path();
            scope.spawn(move || (0..20).for_each(|n| drop(save(folder, "monday", writer * 100 + n).unwrap())));
        }
        scope.spawn(|| (0..200).for_each(|_| assert!(tag(&Snapshot::open(&path).unwrap()) < 1000)));
    });
    tag(&Snapshot::open(&path).unwrap());
    assert_eq!(names(folder.path()), ["monday"]);
}
