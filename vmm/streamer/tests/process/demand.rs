//! Memory on demand: this process maps RAM and touches it, the streamer places it.
//!
//! Where userfaultfd is not permitted, each test says so and ends.

use std::os::unix::fs::MetadataExt as _;
use std::sync::mpsc;

use guest_memory::{Access, Ram};
use nix::poll::{PollFd, PollFlags, poll};
use uffd::Uffd;

use super::*;

const BYTES: u64 = 32 << 20;

/// RAM, mapped and registered.
struct Mapped {
    /// Kept for ever: a thread of a failed test may stand in it.
    ram: &'static Ram,
    uffd: Uffd,
}

impl Mapped {
    fn new(machine: &Machine) -> Option<Self> {
        let uffd = match Uffd::create() {
            Ok(uffd) => uffd,
            Err(error @ uffd::Error::NotPermitted { .. }) => {
                println!("skipped: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let ram: &'static Ram = Box::leak(Box::new(Ram::map(machine.ram.as_fd(), BYTES, Access::ReadWrite).unwrap()));
        uffd.register_missing(ram.as_ptr() as u64, BYTES).unwrap();
        Some(Self { ram, uffd })
    }

    /// A thread that loads a word from each of `pages` and says what it got.
    fn touch(&self, pages: Vec<u64>) -> mpsc::Receiver<(u64, u64)> {
        let (say, heard) = mpsc::channel();
        let ram = self.ram;
        std::thread::spawn(move || {
            for page in pages {
                let _ = say.send((page, ram.load_u64(page * PAGE).unwrap()));
            }
        });
        heard
    }
}

/// A guest: RAM that an engine and a device have mapped.
struct Guest {
    machine: Machine,
    ram: &'static Ram,
    engine: Mapped,
    device: Mapped,
}

impl Guest {
    fn new() -> Option<Self> {
        let machine = Machine::fresh(BYTES);
        let (engine, device) = (Mapped::new(&machine)?, Mapped::new(&machine)?);
        Some(Self { ram: engine.ram, machine, engine, device })
    }

    fn restorer(&self, path: &Path, digests: &[[u8; 32]]) -> Process {
        let faults = [&self.engine, &self.device].map(|mapped| (mapped.uffd.as_fd(), mapped.ram.as_ptr() as u64));
        restorer(&self.machine, path, digests, &faults).ready()
    }

    fn touch(&self, pages: Vec<u64>) -> mpsc::Receiver<(u64, u64)> {
        self.engine.touch(pages)
    }
}

fn word(bytes: &[u8], page: u64) -> u64 {
    u64::from_ne_bytes(bytes[(page * PAGE) as usize..][..8].try_into().unwrap())
}

/// Pages in a random order.
fn shuffled(seed: u64) -> Vec<u64> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut pages: Vec<u64> = (0..BYTES / PAGE).collect();
    for n in (1..pages.len()).rev() {
        pages.swap(n, random.random_range(0..=n));
    }
    pages
}

#[test]
fn the_guest_finds_its_memory_while_it_comes_and_zeroes_cost_nothing() {
    let Some(guest) = Guest::new() else { return };
    let folder = Folder::new("demand");
    let machine = Machine::used(BYTES, 30);
    let (path, want) = (save(&machine, &folder, "monday"), machine.all_ram());
    let mut process = guest.restorer(&path, &machine.digests);
    // Before anything was asked for, a thread waits.
    let early = guest.touch(vec![5]);
    assert_eq!(process.run().0, Said::Done);
    (0..STATES.len()).for_each(|n| assert_eq!(guest.machine.state(n), machine.state(n)));
    assert_eq!(early.recv_timeout(PATIENCE).unwrap(), (5, 1));
    // The device asks for the same pages at the same time, in another order, and for some of its own.
    let (pages, mut others) = (shuffled(31)[..2000].to_vec(), shuffled(31)[1000..3000].to_vec());
    others.reverse();
    let (touched, of_device) = (guest.touch(pages), guest.device.touch(others));
    for (page, got) in touched.iter().chain(of_device.iter()) {
        assert_eq!(got, word(&want, page), "page {page}");
    }
    let mut last = None;
    while let Some((0, said)) = process.hear() {
        last = Some(said);
    }
    assert!(
        matches!(&last, Some(Said::Progress { phase, done, total }) if phase == "prefault" && done == total && *total > 0),
        "{last:?}"
    );
    process.ended(0);
    // Nobody serves faults any more, and nobody need: all of it can be read.
    let allocated = guest.machine.ram.metadata().unwrap().blocks() * 512;
    let data = open(&path).manifest().ram.data_bytes;
    assert!(allocated >= data && allocated <= data + 3001 * PAGE, "{allocated} for {data}");
    let mut all = vec![0; BYTES as usize];
    guest.ram.read(0, &mut all).unwrap();
    assert!(all == want, "RAM differs");
}

#[test]
fn a_killed_streamer_is_followed_by_another_and_what_the_guest_wrote_stays() {
    let Some(guest) = Guest::new() else { return };
    let folder = Folder::new("followed");
    let machine = Machine::used(BYTES, 32);
    let (path, mut want) = (save(&machine, &folder, "monday"), machine.all_ram());
    let (touched, of_device) = (guest.touch(shuffled(33)), guest.device.touch(shuffled(36)));
    let mut seen = 0;
    for round in 0..5 {
        let mut process = guest.restorer(&path, &machine.digests);
        assert_eq!(process.run().0, Said::Done);
        for _ in 0..50 * round {
            let (page, got) = touched.recv_timeout(PATIENCE).unwrap();
            assert_eq!(got, word(&want, page), "page {page}");
            seen += 1;
        }
        process.kill();
    }
    // The guest writes to a page that is there; nobody may put back what was saved.
    let mut page = vec![0; PAGE as usize];
    page.fill(0x77);
    let mut process = guest.restorer(&path, &machine.digests);
    assert_eq!(process.run().0, Said::Done);
    guest.ram.write(5 * PAGE, &page).unwrap();
    process.kill();
    want[5 * PAGE as usize..6 * PAGE as usize].copy_from_slice(&page);
    let mut process = guest.restorer(&path, &machine.digests);
    assert_eq!(process.run().0, Said::Done);
    while process.hear().is_some() {}
    process.ended(0);
    seen +=
        touched.iter().inspect(|(page, got)| assert!(*page == 5 || *got == word(&want, *page), "page {page}")).count();
    assert_eq!(seen, (BYTES / PAGE) as usize);
    assert!(of_device.iter().all(|(page, got)| page == 5 || got == word(&want, page)));
    let mut all = vec![0; BYTES as usize];
    guest.ram.read(0, &mut all).unwrap();
    assert!(all == want, "RAM differs");

    // One that comes when all was given back has nothing to do.
    let mut process = guest.restorer(&path, &machine.digests);
    assert_eq!(process.run().0, Said::Done);
    while process.hear().is_some() {}
    process.ended(0);
}

#[test]
fn a_damaged_chunk_is_reported_and_never_placed_and_the_others_come() {
    let Some(guest) = Guest::new() else { return };
    let folder = Folder::new("bad");
    let machine = Machine::used(BYTES, 34);
    let (path, want) = (save(&machine, &folder, "monday"), machine.all_ram());
    let chunk = u64::from(snapshot::CHUNK_BYTES);
    let bad = (0..BYTES / chunk).rev().find(|n| open(&path).manifest().ram.digest(*n).is_some()).unwrap();
    let memory = File::options().read(true).write(true).open(path.join(MEMORY_FILE)).unwrap();
    let mut byte = [0];
    memory.read_exact_at(&mut byte, bad * chunk + 17).unwrap();
    memory.write_all_at(&[byte[0] ^ 1], bad * chunk + 17).unwrap();

    // A page of zeroes was asked for, and who had heard of it has died.
    let zero = shuffled(37).into_iter().find(|page| {
        let bytes = &want[(page * PAGE) as usize..][..PAGE as usize];
        page * PAGE / chunk != bad && bytes.iter().all(|byte| *byte == 0)
    });
    let zero = zero.unwrap();
    let forgotten = guest.touch(vec![zero]);
    let mut set = [PollFd::new(guest.engine.uffd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut set, 60_000u16), Ok(1));
    assert_eq!(guest.engine.uffd.read_faults(&mut [0]).unwrap(), 1);

    let mut process = guest.restorer(&path, &machine.digests);
    assert_eq!(process.run().0, Said::Done);
    assert_eq!(forgotten.recv_timeout(PATIENCE).unwrap(), (zero, 0));
    let stuck = guest.touch(vec![bad * chunk / PAGE]);
    let mut told = 0;
    while told == 0 {
        match process.hear().expect("it lives") {
            (0, Said::BadChunk(offset)) => {
                assert_eq!(offset, bad * chunk);
                told += 1;
            }
            (0, Said::Progress { done, total, .. }) => assert!(done < total),
            other => panic!("{other:?}"),
        }
    }
    let others: Vec<u64> = shuffled(35).into_iter().filter(|page| page * PAGE / chunk != bad).take(500).collect();
    for (page, got) in guest.touch(others).iter() {
        assert_eq!(got, word(&want, page), "page {page}");
    }
    assert!(stuck.try_recv().is_err(), "a damaged chunk was placed");
    process.quit();
    // With the right bytes a successor places it.
    memory.write_all_at(&byte, bad * chunk + 17).unwrap();
    let mut process = guest.restorer(&path, &machine.digests);
    assert_eq!(process.run().0, Said::Done);
    while process.hear().is_some() {}
    process.ended(0);
    let page = bad * chunk / PAGE;
    assert_eq!(stuck.recv_timeout(PATIENCE).unwrap(), (page, word(&want, page)));
}
