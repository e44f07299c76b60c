//! The engine's process as the supervisor sees it: saved and loaded, asleep and awake, with RAM that comes late.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bare::solo::{FACS, RAM, World, facs, wake};
use bare::{Islet, Said};
use guest_memory::Ram;
use state::StateError;
use uffd::Uffd;
use wire::saved_capnp::{engine_state, saved_state};
use wire::state_capnp::RunState;

/// Where the guest begins.
const CODE: u64 = 0x1000;
/// Its counter.
const COUNTER: u64 = 0x500;
/// A byte that a guest with [`TOUCHES`] reads in each round.
const TOUCHED: u64 = 0x8000;
/// For something to happen that must.
const PATIENCE: Duration = Duration::from_secs(30);

/// Selects a configuration register, then counts for ever.
const COUNTS: &[u8] = &[
    0xba, 0xf8, 0x0c, // mov dx, 0xcf8
    0x66, 0xb8, 0x40, 0xf8, 0x00, 0x80, // mov eax, 0x8000f840
    0x66, 0xef, // out dx, eax
    0x66, 0x31, 0xc0, // xor eax, eax
    0x66, 0x40, // inc eax
    0x66, 0xa3, 0x00, 0x05, // mov [0x500], eax
    0xeb, 0xf8, // to the inc
];
/// Counts, and reads [`TOUCHED`] each time.
const TOUCHES: &[u8] = &[
    0x66, 0x40, // inc eax
    0x66, 0xa3, 0x00, 0x05, // mov [0x500], eax
    0x8a, 0x1e, 0x00, 0x80, // mov bl, [0x8000]
    0xeb, 0xf4, // to the inc
];

fn write(ram: &Ram, at: u64, bytes: &[u8]) -> Result<()> {
    ram.write(at, bytes).context("outside of RAM")
}

/// A world whose guest is [`COUNTS`], and its RAM.
fn world() -> Result<(World, Ram)> {
    let world = World::new()?;
    let ram = world.ram()?;
    write(&ram, CODE, COUNTS)?;
    write(&ram, FACS, &facs(CODE as u32))?;
    Ok((world, ram))
}

fn count(ram: &Ram) -> u32 {
    ram.load_u32(COUNTER).unwrap_or(0)
}

/// Wait until the guest has counted on from `from`.
fn counts_on(ram: &Ram, from: u32) -> Result<u32> {
    let end = Instant::now() + PATIENCE;
    while count(ram) <= from {
        ensure!(Instant::now() < end, "the guest stands at {}", count(ram));
        std::thread::yield_now();
    }
    Ok(count(ram))
}

fn run(e: &mut Islet) -> Result<()> {
    e.must(|mut m| m.set_run(()))
}

fn pause(e: &mut Islet) -> Result<()> {
    e.must(|mut m| m.set_pause(()))
}

/// Something of the state that the engine has just left.
fn state<T>(
    world: &World,
    e: &mut Islet,
    read: impl FnOnce(engine_state::Reader<'_>) -> Result<T, StateError>,
) -> Result<T> {
    let left = e.save()?;
    Ok(world.area.take(left, |s| match s.get_state().which()? {
        saved_state::state::Engine(s) => read(s?),
        _ => Err(StateError::field("state", "is of another kind")),
    })?)
}

fn time(world: &World, e: &mut Islet) -> Result<u64> {
    state(world, e, |s| Ok(s.get_clock()?.get_guest_nanoseconds()))
}

#[test]
fn a_state_goes_through_another_process_without_a_change() -> Result<()> {
    let (world, ram) = world()?;
    let mut e = world.engine(false, true)?;
    e.suspend()?;
    e.must(wake(FACS))?;
    run(&mut e)?;
    counts_on(&ram, 0)?;
    let running = e.refused(|mut m| m.set_save("q35-0"))?;
    assert!(running.contains("pause first"), "{running}");
    pause(&mut e)?;
    let (left, at) = (e.save()?, count(&ram));
    assert_eq!(e.save()?, left, "nothing has run in between");
    assert_eq!(count(&ram), at, "it stands still");
    let guest_time = time(&world, &mut e)?;
    drop(e);

    let world = world.restored()?;
    let mut e = world.engine(false, true)?;
    e.load(left)?;
    assert_eq!(e.save()?, left);
    run(&mut e)?;
    counts_on(&ram, at)?;
    pause(&mut e)?;
    assert!(time(&world, &mut e)? > guest_time, "the guest's clock goes on from where it was");
    assert_eq!(state(&world, &mut e, |s| Ok(s.get_pci_address()))?, 0x8000_f840);

    // A bad state changes nothing, and says what is wrong.
    let good = e.save()?;
    let why = e.refused(|m| {
        let mut load = m.init_load();
        load.set_length(good.length);
        load.set_digest(&[0; 32]);
    })?;
    assert!(why.starts_with("state.refused: "), "{why}");
    assert_eq!(e.save()?, good);

    // The reset of the machine clears the latch of configuration space.
    e.must(|mut m| m.set_reset(()))?;
    assert_eq!(state(&world, &mut e, |s| Ok(s.get_pci_address()))?, 0);
    Ok(())
}

#[test]
fn without_an_area_there_is_no_state() -> Result<()> {
    let mut e = World::new()?.engine(false, false)?;
    assert!(e.refused(|mut m| m.set_save("q35-0"))?.starts_with("state.none: "));
    assert!(e.refused(|m| m.init_load().set_length(8))?.starts_with("state."));
    Ok(())
}

#[test]
fn a_running_machine_sleeps_and_wakes() -> Result<()> {
    let (world, ram) = world()?;
    let mut e = world.engine(false, true)?;
    e.suspend()?;
    e.must(wake(FACS))?;
    run(&mut e)?;
    counts_on(&ram, 0)?;
    let awake = e.refused(wake(FACS))?;
    assert!(awake.starts_with("s3.awake: ") && awake.contains("not asleep"), "{awake}");
    counts_on(&ram, count(&ram))?;

    e.suspend()?;
    let at = count(&ram);
    // Neither an NMI nor a line wakes it.
    e.must(|m| m.init_engine().set_nmi(0))?;
    world.line.ring()?;
    pause(&mut e)?;
    let before = time(&world, &mut e)?;
    let sleeps = state(&world, &mut e, |s| Ok(s.get_vcpus()?.get(0).get_run_state()? == RunState::WaitForInit))?;
    assert!(sleeps);
    run(&mut e)?;
    assert_eq!(count(&ram), at);

    // What the FACS may not say, while the machine runs.
    for (bad, what) in [(facs(0), "zero"), (facs(1 << 20), "1 MiB"), ([0; 64], "signature")] {
        write(&ram, FACS, &bad)?;
        let why = e.refused(wake(FACS))?;
        assert!(why.starts_with("s3.vector: ") && why.contains(what), "{why}");
    }
    write(&ram, FACS, &facs(CODE as u32))?;
    write(&ram, COUNTER, &[0; 4])?;
    e.must(wake(FACS))?;
    counts_on(&ram, 0)?;
    pause(&mut e)?;
    assert!(time(&world, &mut e)? > before, "the clock goes on in sleep");

    // Asleep through a snapshot, and woken before it runs.
    e.suspend()?;
    let left = e.save()?;
    drop(e);
    let world = world.restored()?;
    let mut e = world.engine(false, true)?;
    e.load(left)?;
    write(&ram, COUNTER, &[0; 4])?;
    e.must(wake(FACS))?;
    run(&mut e)?;
    counts_on(&ram, 0)?;
    Ok(())
}

/// Whoever fills RAM: the engine's userfaultfd, and where it has RAM.
struct Pager {
    uffd: Uffd,
    base: u64,
}

impl Pager {
    fn of(e: &mut Islet) -> Result<Pager> {
        let Said::ReadyWithFaults(base, RAM) = e.ready else { anyhow::bail!("{:?}", e.ready) };
        let fd = e.received.pop().context("no descriptor came")?;
        Ok(Pager { uffd: fd.into(), base })
    }

    fn place(&self, page: u64, at: u64, bytes: &[u8]) -> Result<()> {
        let mut content = [0; 4096];
        content[at as usize..][..bytes.len()].copy_from_slice(bytes);
        self.uffd.copy(self.base + page, &content)?;
        Ok(())
    }

    /// The page that somebody waits for.
    fn fault(&self) -> Result<u64> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut at = [0; 1];
            if self.uffd.read_faults(&mut at)? == 1 {
                return Ok(at[0] - self.base);
            }
            ensure!(Instant::now() < end, "nobody touches RAM");
            std::thread::yield_now();
        }
    }
}

/// Whether userfaultfd is permitted; says so if not.
fn permitted() -> bool {
    match Uffd::create() {
        Ok(_) => true,
        Err(e) => {
            eprintln!("skipped: {e}");
            false
        }
    }
}

#[test]
fn a_vcpu_that_waits_for_a_page_can_be_paused() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let world = World::new()?;
    let mut e = world.engine(true, true)?;
    let pager = Pager::of(&mut e)?;
    // Its own copy is closed as soon as it has been sent.
    let end = Instant::now() + PATIENCE;
    loop {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", e.child.proc_number()?))?;
        let held: Vec<_> = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).collect();
        assert!(held.len() > 3, "{held:?}");
        if !held.iter().any(|fd| fd.to_string_lossy().contains("userfaultfd")) {
            break;
        }
        assert!(Instant::now() < end, "{held:?}");
        std::thread::yield_now();
    }

    // The FACS is RAM too: the engine answers although it does not come.
    e.suspend()?;
    let why = e.refused(wake(FACS))?;
    assert!(why.starts_with("state.blocked: "), "{why}");
    assert_eq!(pager.fault()?, FACS);
    pager.place(FACS, 0, &facs(CODE as u32))?;
    e.must(wake(FACS))?;

    run(&mut e)?;
    assert_eq!(pager.fault()?, CODE);
    pager.place(CODE, 0, TOUCHES)?;
    assert_eq!(pager.fault()?, 0);
    pager.place(0, 0, &[])?;
    assert_eq!(pager.fault()?, TOUCHED);
    // It may be in the middle of a store, so memory cannot be harvested.
    let why = e.refused(|m| m.init_engine().set_dirty_start(()))?;
    assert!(why.starts_with("dirty.silent: ") && why.contains("vCPU 0"), "{why}");
    // It stands in the fault, and is paused all the same; what needs its state is refused.
    pause(&mut e)?;
    let ram = world.ram()?;
    assert_eq!(count(&ram), 1);
    for _ in 0..2 {
        let why = e.refused(|mut m| m.set_save("q35-0"))?;
        assert!(why.starts_with("state.blocked: "), "{why}");
    }
    for refused in [e.refused(|mut m| m.set_reset(()))?, e.refused(|m| m.init_engine().set_suspend(()))?] {
        assert!(refused.starts_with("state.blocked: "), "{refused}");
    }
    pause(&mut e)?;

    // The page comes late. The gate is closed: the vCPU parks at once, and is saved.
    pager.place(TOUCHED, 0, &[])?;
    let end = Instant::now() + PATIENCE;
    let left = loop {
        match e.ask(|mut m| m.set_save("q35-0"), |_| ())? {
            Said::Saved(left) => break left,
            Said::Failed(why) if why.starts_with("state.blocked: ") && Instant::now() < end => std::thread::yield_now(),
            other => anyhow::bail!("{other:?}"),
        }
    };
    let at = count(&ram);
    assert_eq!(e.save()?, left);
    assert_eq!(count(&ram), at, "it stands still");
    run(&mut e)?;
    counts_on(&ram, at)?;
    pause(&mut e)
}
