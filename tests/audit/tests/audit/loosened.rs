//! A VM whose serial port has one thing wrong with it. The comparison is the one that the running VM passes; each loosening
//! must be found by it, under its own name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use audit::manifest::{Row, Shape};
use audit::vm;
use guest::bare::BEAT;
use profile::audit::{Facts, Finding, compare, compare_all};
use profile::{Kind, Namespace};
use rig::Rig;

use crate::world::{Looked, RAM, alone, dumps_filters, is_root, keeper, look, outside};

const STAND_IN: &str = env!("CARGO_BIN_EXE_loose-serial");
/// Where the choice stands in the stand-in.
const PREFIX: &[u8] = b"the loosening of this stand-in:";

/// Who can find a loosening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finder {
    Anybody,
    /// Only who can dump filters.
    Root,
    /// Only where the kernel has Landlock.
    Landlock,
}
use Finder::{Anybody, Landlock, Root};

type Planting = (&'static str, Finder, fn(&Finding) -> bool);

const PLANTINGS: &[Planting] = &[
    ("extra-descriptor", Anybody, |f| matches!(f, Finding::UnexpectedDescriptor { target, .. } if target == "eventfd")),
    ("missing-descriptor", Anybody, |f| matches!(f, Finding::MissingDescriptor { target } if target == "eventfd")),
    (
        "other-descriptor",
        Anybody,
        |f| matches!(f, Finding::UnexpectedDescriptor { target, .. } if target == "/memfd:windows"),
    ),
    (
        "neighbour",
        Anybody,
        |f| matches!(f, Finding::UnexpectedMap { name, offset: 0x10000, .. } if name == "/memfd:windows"),
    ),
    ("missing-map", Anybody, |f| matches!(f, Finding::MissingMap { name, .. } if name == "/memfd:windows")),
    ("shared-memory", Anybody, |f| matches!(f, Finding::UnexpectedMap { name, .. } if name == "/memfd:extra")),
    ("anonymous-map", Anybody, |f| matches!(f, Finding::AnonymousMemory { .. })),
    ("executable-map", Anybody, |f| matches!(f, Finding::WritableExecutable { .. })),
    ("mmap-allowed", Root, |f| matches!(f, Finding::WrongFilter { extra, .. } if extra == "mmap")),
    (
        "argument-allowed",
        Root,
        |f| matches!(f, Finding::WrongFilter { extra, .. } if extra == "fcntl with argument 1 = 0x4"),
    ),
    ("no-filter", Anybody, |f| matches!(f, Finding::Filters { expected: 2, found: 1, .. })),
    ("no-filter", Anybody, |f| matches!(f, Finding::NotSealed)),
    ("one-thread-free", Anybody, |f| matches!(f, Finding::Filters { expected: 2, found: 1, .. })),
    ("extra-thread", Anybody, |f| matches!(f, Finding::Threads { expected: 1, found: 2 })),
    ("no-landlock", Landlock, |f| matches!(f, Finding::Landlock { found: 0, .. })),
    ("no-limits", Anybody, |f| matches!(f, Finding::Limit { name: "memlock", .. })),
    ("capabilities-kept", Anybody, |f| matches!(f, Finding::Capabilities { set: "CapEff", .. })),
    ("dumpable", Anybody, |f| matches!(f, Finding::Dumpable)),
    ("writable-root", Anybody, |f| matches!(f, Finding::Root { .. })),
];

/// A folder with the VM's binaries and a stand-in for one of them.
struct Binaries {
    folder: PathBuf,
    stand_in: Vec<u8>,
}

impl Binaries {
    fn new(rig: &Rig) -> Self {
        let folder = rig.path("bin");
        fs::create_dir_all(&folder).unwrap();
        for binary in ["keeper", "supervisor", "engine", "board", "loader", "streamer"] {
            fs::copy(rig.binaries().join(binary), folder.join(binary)).unwrap();
        }
        Self { folder, stand_in: fs::read(STAND_IN).unwrap() }
    }

    /// Chooses what is wrong with the serial port.
    fn choose(&self, loosening: &str) -> &Path {
        let mut image = self.stand_in.clone();
        let places: Vec<usize> =
            image.windows(PREFIX.len()).enumerate().filter(|(_, bytes)| *bytes == PREFIX).map(|(at, _)| at).collect();
        let place =
            places.iter().copied().find(|at| image[at + PREFIX.len()] == b'.').expect("the choice is in the file");
        image[place + PREFIX.len()..][..loosening.len()].copy_from_slice(loosening.as_bytes());
        let path = self.folder.join("serial");
        let _ = fs::remove_file(&path);
        fs::write(&path, image).unwrap();
        fs::set_permissions(&path, fs::metadata(STAND_IN).unwrap().permissions()).unwrap();
        &self.folder
    }
}

/// What is found about the serial port of a VM with this loosening, and whether it shares what it should with the board.
fn with_loosening(rig: &Rig, binaries: &Binaries, loosening: &str) -> (Looked, Vec<Finding>) {
    let name = if loosening.is_empty() { "as-it-should-be" } else { loosening };
    let kernel = rig.file("beat", BEAT.image).display().to_string();
    let folder = binaries.choose(loosening);
    let options = ["run", "--name", name, "--detach", "--paused", "--memory", "16M", "--console", "none", "--kernel"];
    let mut command = rig.command(options.into_iter().chain([kernel.as_str()]));
    let output = command.env("ATOLL_LIBEXEC", folder).output().unwrap();
    assert!(output.status.success(), "{loosening}: {}", String::from_utf8_lossy(&output.stderr));
    let keeper = keeper(rig, name);
    let shape = Shape { ram: RAM, initrd: false, console: false, foreground: false, loading: false, watched: false };
    let row = Row::of(Kind::Serial).unwrap();
    let looked = look(keeper, row, &shape, &outside(rig, name, folder));
    let board = vm::find(keeper, "board").expect("the board runs");
    let together = compare_all(&[&Facts::read(board).unwrap(), &looked.facts], is_root());
    rig.atoll(["kill", name]).ok();
    (looked, together)
}

#[test]
fn every_loosening_planted_in_a_process_of_a_running_vm_is_found() {
    let _one = alone();
    let rig = Rig::new("audit-loosened");
    let binaries = Binaries::new(&rig);
    // The stand-in without a loosening is what a serial port should be, so what is found below is the loosening.
    let (looked, together) = with_loosening(&rig, &binaries, "");
    assert_eq!((looked.findings, together), (vec![], vec![]));
    let (mut found, mut left_out) = (0, Vec::new());
    for (loosening, finder, is_found) in PLANTINGS {
        let can = match finder {
            Anybody => true,
            Root => dumps_filters(),
            Landlock => vm::landlock() > 0,
        };
        if !can {
            left_out.push(format!("{loosening} (needs {finder:?})"));
            continue;
        }
        let (looked, _) = with_loosening(&rig, &binaries, loosening);
        let hit = looked.findings.iter().find(|finding| is_found(finding));
        let hit = hit.unwrap_or_else(|| panic!("{loosening} is not found: {:?}", looked.findings));
        println!("{loosening:<20}{hit}");
        found += 1;
    }
    let (_, together) = with_loosening(&rig, &binaries, "own-network");
    let hit = together
        .iter()
        .find(|finding| matches!(finding, Finding::DifferentNamespace { namespace: Namespace::Net, .. }));
    println!("{:<20}{}", "own-network", hit.unwrap_or_else(|| panic!("own-network is not found: {together:?}")));
    println!("{} loosenings found; not planted: {left_out:?}", found + 1);
    assert!(found >= 10);
}

/// A process outside of any VM has everything wrong with it that a loosened one cannot have: what the keeper has given up
/// cannot be had again below it.
#[test]
fn a_process_of_the_host_is_told_from_an_islet_in_every_respect() {
    let _one = alone();
    let rig = Rig::new("audit-host");
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let facts = Facts::read(pid);
    child.kill().unwrap();
    child.wait().unwrap();
    let shape = Shape { ram: RAM, initrd: false, console: false, foreground: false, loading: false, watched: false };
    let findings = compare(
        &facts.unwrap(),
        &Row::of(Kind::Serial).unwrap().expectation(&shape, &outside(&rig, "host", rig.binaries())),
    );
    let expected: &[fn(&Finding) -> bool] = &[
        |f| matches!(f, Finding::Unfiltered { .. }),
        |f| matches!(f, Finding::MayGainPrivileges { .. }),
        |f| matches!(f, Finding::Capabilities { set: "CapBnd", .. }),
        |f| matches!(f, Finding::SharedNamespace { namespace: Namespace::User }),
        |f| matches!(f, Finding::SharedNamespace { namespace: Namespace::Net }),
        |f| matches!(f, Finding::SharedNamespace { namespace: Namespace::Pid }),
        |f| matches!(f, Finding::Root { .. }),
        |f| matches!(f, Finding::Limit { .. }),
        |f| matches!(f, Finding::MissingMap { name, .. } if name == "/memfd:windows"),
    ];
    for (index, is_found) in expected.iter().enumerate() {
        assert!(findings.iter().any(is_found), "{index}: {findings:?}");
    }
}
