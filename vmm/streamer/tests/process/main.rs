//! The streamer as a real process behind its own seccomp filter, with this test as its supervisor, keeper and guest.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code outside of test functions")]

mod damage;
mod demand;
mod story;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_memory::Memfd;
use link::capnp::{recv_message, send_message};
use link::{Deadline, Inbox, Link, Peer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use snapshot::{Directory, MANIFEST_FILE, MEMORY_FILE, Manifest, Part, RamFile, Snapshot, Status};
use spawn::{Child, Command, Exit, Image};
use wire::islet_capnp::{from_islet, saved_area, to_islet};

const PAGE: u64 = 4096;
/// No step of a healthy process takes long; a lost wake-up would take for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// The processes with states: name, row, bytes.
const STATES: [(&str, u16, usize); 3] = [("engine", 0, 70_000), ("board", 1, 5000), ("serial0", 2, 8)];

/// What is saved and restored.
struct Machine {
    ram: File,
    bytes: u64,
    state: File,
    digests: Vec<[u8; 32]>,
}

impl Machine {
    /// One whose RAM nobody has touched, and without states.
    fn fresh(bytes: u64) -> Self {
        let ram = Memfd::create("ram", bytes).unwrap().into();
        let state = Memfd::create("state", state::MEMFD_BYTES).unwrap().into();
        Self { ram, bytes, state, digests: Vec::new() }
    }

    /// One that has run: pages of data and of zeroes, scattered and in runs, and states.
    fn used(bytes: u64, seed: u64) -> Self {
        let mut machine = Self::fresh(bytes);
        let mut random = SmallRng::seed_from_u64(seed);
        let pages = bytes / PAGE;
        for _ in 0..pages / 64 {
            let (start, run) = (random.random_range(0..pages), random.random_range(1..12));
            for page in start..(start + run).min(pages) {
                let zero = random.random_range(0..4) == 0;
                let content: Vec<u8> = (0..PAGE).map(|_| if zero { 0 } else { random.random() }).collect();
                machine.ram.write_all_at(&content, page * PAGE).unwrap();
            }
        }
        // One byte, the first and the last one of a page; the end of RAM.
        machine.ram.write_all_at(&[1], 5 * PAGE).unwrap();
        machine.ram.write_all_at(&[1], bytes - 1).unwrap();
        for (_, row, length) in STATES {
            let content: Vec<u8> = (0..length).map(|_| random.random()).collect();
            machine.state.write_all_at(&content, u64::from(row) * state::ROW_BYTES).unwrap();
            machine.digests.push(Sha256::digest(&content).into());
        }
        machine
    }

    fn state(&self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; STATES[n].2];
        self.state.read_exact_at(&mut bytes, u64::from(STATES[n].1) * state::ROW_BYTES).unwrap();
        bytes
    }

    fn all_ram(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes as usize];
        self.ram.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

/// The manifest as a supervisor would begin it.
fn order() -> Manifest {
    let mut message = capnp::message::Builder::new_default();
    message.init_root::<wire::vm_capnp::vm_config::Builder<'_>>().set_name("monday");
    Manifest {
        must_understand: Vec::new(),
        config: capnp::serialize::write_message_to_words(&message),
        status: Status::Paused,
        resume_to: Status::Running,
        resets: 0,
        wall_clock_seconds: 17,
        version: "0.1.0".into(),
        kernel_summary: "bzImage".into(),
        states: Vec::new(),
        ram: RamFile::default(),
    }
}

/// A folder of a test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("streamer-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn files() -> Vec<String> {
    let states = STATES.iter().map(|(process, ..)| snapshot::state_file(process));
    [MANIFEST_FILE.to_owned(), MEMORY_FILE.to_owned()].into_iter().chain(states).collect()
}

/// What a streamer said.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Ready,
    Done,
    Failed { code: String, text: String },
    Progress { phase: String, done: u64, total: u64 },
    BadChunk(u64),
}

/// A running streamer and its control socket.
struct Process {
    link: Link,
    inbox: Inbox,
    id: u64,
    child: Option<Child>,
}

const INCARNATION: u32 = 4;

impl Process {
    /// Starts a streamer with these descriptors beside the status page's, and gives it its setup.
    fn start(
        descriptors: &[(&str, BorrowedFd<'_>)],
        role: impl FnOnce(wire::islet_capnp::streamer_setup::Builder<'_>),
    ) -> Self {
        let (ours, theirs) = Link::pair(Peer::new("supervisor", 1), Peer::new("streamer", INCARNATION)).unwrap();
        let mut process = Process { link: ours, inbox: Inbox::new(), id: 0, child: None };
        let status: OwnedFd = Memfd::create("status", 8 * PAGE).unwrap();
        let all: Vec<_> = descriptors.iter().copied().chain([("status", status.as_fd())]).collect();
        let fill = |message: to_islet::Builder<'_>| {
            let mut setup = message.init_setup();
            setup.set_status_slot(5);
            let mut list = setup.reborrow().init_descriptors(all.len() as u32);
            for (index, (name, _)) in all.iter().enumerate() {
                let mut named = list.reborrow().get(index as u32);
                named.set_name(name);
                named.set_index(index as u16);
            }
            role(setup.init_role().init_streamer());
        };
        let fds: Vec<_> = all.iter().map(|(_, fd)| *fd).collect();
        process.post(fill, &fds);
        let image = Image::open(env!("CARGO_BIN_EXE_streamer")).unwrap();
        let log = File::options().write(true).open("/dev/null").unwrap();
        let command = Command::new("streamer", &image).log(log.as_fd()).control(theirs.as_fd());
        process.child = Some(spawn::keeper(&command).unwrap());
        process
    }

    fn post(&mut self, fill: impl FnOnce(to_islet::Builder<'_>), fds: &[BorrowedFd<'_>]) -> u64 {
        self.id += 1;
        let mut message = capnp::message::Builder::new_default();
        let mut root = message.init_root::<to_islet::Builder<'_>>();
        root.set_id(self.id);
        root.set_incarnation(INCARNATION);
        fill(root);
        send_message(&self.link, &message, fds, Deadline::after(PATIENCE)).unwrap();
        self.id
    }

    /// The next message, and what it answers. `None` when the process has gone.
    fn hear(&mut self) -> Option<(u64, Said)> {
        let incoming = match recv_message(&self.link, &mut self.inbox, Deadline::after(PATIENCE)) {
            Ok(incoming) => incoming,
            Err(error) if error.is_peer_gone() => return None,
            Err(error) => panic!("{error}"),
        };
        let message = incoming.reader.get_root::<from_islet::Reader<'_>>().unwrap();
        assert_eq!(message.get_incarnation(), INCARNATION);
        let said = match message.which().unwrap() {
            from_islet::Ready(()) => Said::Ready,
            from_islet::Done(()) => Said::Done,
            from_islet::Failed(failure) => {
                let failure = failure.unwrap();
                let [code, what, why, remedy] =
                    [failure.get_code(), failure.get_what(), failure.get_why(), failure.get_remedy()]
                        .map(|text| text.unwrap().to_string().unwrap());
                Said::Failed { code, text: format!("{what}: {why}; {remedy}") }
            }
            from_islet::Progress(progress) => {
                let progress = progress.unwrap();
                let phase = progress.get_phase().unwrap().to_string().unwrap();
                Said::Progress { phase, done: progress.get_done(), total: progress.get_total() }
            }
            from_islet::BadChunk(offset) => Said::BadChunk(offset),
            _ => panic!("another message"),
        };
        Some((message.get_in_reply_to(), said))
    }

    /// The answer to `id`, and the events before it.
    fn answer(&mut self, id: u64) -> (Said, Vec<Said>) {
        let mut events = Vec::new();
        loop {
            match self.hear().expect("it lives") {
                (0, event) => events.push(event),
                (to, said) => {
                    assert_eq!(to, id);
                    return (said, events);
                }
            }
        }
    }

    fn ready(mut self) -> Self {
        let (said, _) = self.answer(1);
        assert_eq!(said, Said::Ready);
        self
    }

    fn run(&mut self) -> (Said, Vec<Said>) {
        let id = self.post(|mut m| m.set_run(()), &[]);
        self.answer(id)
    }

    /// Ends it as a supervisor does that has its answer.
    fn quit(mut self) {
        let id = self.post(|mut m| m.set_quit(()), &[]);
        assert_eq!(self.answer(id).0, Said::Done);
        self.ended(0);
    }

    fn ended(&mut self, want: i32) {
        let exit = self.child.take().unwrap().wait(Some(PATIENCE)).unwrap().expect("it ends");
        assert!(matches!(exit, Exit::Code(code) if code == want), "{exit:?}");
    }

    fn kill(mut self) {
        let child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait(Some(PATIENCE)).unwrap();
    }
}

impl Drop for Process {
    /// A failed test leaves no process behind.
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait(Some(PATIENCE));
        }
    }
}

fn areas(digests: &[[u8; 32]], mut list: capnp::struct_list::Builder<'_, saved_area::Owned>) {
    for (index, (process, row, length)) in (0..).zip(STATES) {
        let mut area = list.reborrow().get(index);
        area.set_process(process);
        area.set_state_row(row);
        area.set_file(snapshot::state_file(process));
        area.set_length(length as u64);
        area.set_digest(&digests[index as usize]);
    }
}

/// A streamer that is to save `machine` into the files of `directory`.
fn saver(machine: &Machine, directory: &Directory) -> Process {
    let ram = spawn::reopen_read_only(machine.ram.as_fd()).unwrap();
    let mut descriptors = vec![("ram", ram.as_fd()), ("state", machine.state.as_fd())];
    descriptors.extend(directory.files());
    let manifest = order().to_message(Part::Order).unwrap();
    Process::start(&descriptors, |role| {
        let mut save = role.init_save();
        save.set_manifest(&manifest);
        areas(&machine.digests, save.init_states(STATES.len() as u32));
    })
}

fn save(machine: &Machine, folder: &Folder, name: &str) -> PathBuf {
    let directory = Directory::create_temporary(&folder.0, name, &files()).unwrap();
    let mut process = saver(machine, &directory).ready();
    let (said, events) = process.run();
    assert_eq!(said, Said::Done);
    assert!(matches!(events.last(), Some(Said::Progress { phase, done, total }) if phase == "ram" && done == total));
    process.quit();
    directory.commit().unwrap()
}

/// A streamer that is to restore what is in `path` into `machine`; `digests` are those of the states as the supervisor has
/// read them before.
fn restorer(machine: &Machine, path: &Path, digests: &[[u8; 32]], faults: &[(BorrowedFd<'_>, u64)]) -> Process {
    let opened: Vec<(String, File)> =
        files().into_iter().map(|name| (name.clone(), File::open(path.join(name)).unwrap())).collect();
    let mut descriptors = vec![("ram", machine.ram.as_fd()), ("state", machine.state.as_fd())];
    descriptors.extend(opened.iter().map(|(name, file)| (name.as_str(), file.as_fd())));
    let names: Vec<String> = (0..faults.len()).map(|n| format!("faults{n}")).collect();
    descriptors.extend(names.iter().zip(faults).map(|(name, (fd, _))| (name.as_str(), *fd)));
    Process::start(&descriptors, |role| {
        let mut restore = role.init_restore();
        restore.set_on_demand(!faults.is_empty());
        areas(digests, restore.reborrow().init_states(STATES.len() as u32));
        let mut list = restore.init_mappings(faults.len() as u32);
        for (index, (_, base)) in (0..).zip(faults) {
            let mut mapping = list.reborrow().get(index);
            mapping.set_descriptor(&names[index as usize]);
            mapping.set_base(*base);
            mapping.set_length(machine.bytes);
        }
    })
}

/// Restores into a fresh machine, at once.
fn restore(path: &Path, bytes: u64, digests: &[[u8; 32]]) -> (Machine, Said) {
    let machine = Machine::fresh(bytes);
    let mut process = restorer(&machine, path, digests, &[]).ready();
    let (said, _) = process.run();
    process.quit();
    (machine, said)
}

fn open(path: &Path) -> Snapshot {
    Snapshot::open(path).unwrap()
}
