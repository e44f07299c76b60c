//! vCPUs against each other: guest programs that run on several threads at once and find out by themselves whether memory did
//! what the architecture says (SDM vol. 3A, chapters "Memory Ordering" and "Locked Atomic Operations").
//!
//! Every program runs for a number of rounds, and then its vCPU halts; what must hold is counted in guest memory. Programs of user
//! mode ([`user`]) run as hot blocks, whose accesses remember pages or runs of them in a mirror, and all the while memory is
//! harvested. With ATOLL_LONG=1 the programs run for an hour in all, one after the other, and ATOLL_STRESS_SECONDS is for how long each
//! does.

pub mod programs;
pub(crate) mod user;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use code::CodeMemory;
use guest_x86::state::{attr, cr0, cr4, efer};
use guest_x86::{Segment, X86Core};
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;

use crate::machine::Machine;
use crate::tests::{Board, Copied, machine_of};
use crate::vcpu::{self, Vcpu};

/// Page tables: four levels, 4 KiB pages, the first 640 KiB one to one.
const TABLES: u64 = 0x1000;
/// The page that moves in [`programs::shootdown`] is the last of the table.
const MOVING: u64 = 0x1f_f000;
/// Where the programs of vCPU n are: a page each.
pub const CODE: u64 = 0x8000;
/// What all share.
pub const SHARED: u64 = 0x2_0000;
/// Functions that are rewritten: a page for each vCPU.
pub const FUNCTIONS: u64 = 0x3_0000;
/// Two pages for [`MOVING`].
const PLACES: u64 = 0x4_0000;
/// Halted vCPUs.
const DONE: u64 = SHARED + 0x3000;
/// Things that were not as they have to be.
pub const WRONG: u64 = SHARED + 0x3040;
/// Barriers count up here.
const BARRIER: u64 = SHARED + 0x3080;
/// For a halted machine.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Between two rounds of harvests.
const BREATH: Duration = Duration::from_millis(1);

/// Emits what a vCPU runs: its number, how many there are, and for how many rounds.
pub type Program = fn(&mut CodeAssembler, u64, u64, u64) -> Result<(), IcedError>;

/// How a program is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// By the interpreter.
    Interpreted,
    /// By emitted code.
    Emitted,
    /// By hot blocks, whose accesses remember pages or, with a mirror, runs of them.
    Hot { runs: bool },
}

fn pte(va: u64) -> u64 {
    TABLES + 0x3000 + (va >> 12) * 8
}

/// The page tables.
pub fn tables(machine: &Machine) {
    let ram = &machine.memory.ram;
    let set = |at: u64, v: u64| ram.store_u64(at, v).unwrap();
    for level in 0..3 {
        set(TABLES + 0x1000 * level, (TABLES + 0x1000 * (level + 1)) | 7);
    }
    for page in 0..0xa0 {
        set(pte(page << 12), page << 12 | 7);
    }
    set(pte(MOVING), PLACES | 7);
}

/// 64-bit mode, privilege level 0, interrupts off.
pub fn state(me: u64) -> X86Core {
    let segment = |kind: u16, size: u16| Segment {
        selector: 8,
        attr: attr::P | attr::S | attr::G | size | kind,
        limit: u32::MAX,
        base: 0,
    };
    let mut seg = [segment(3, attr::DB); 6];
    seg[guest_x86::Seg::Cs as usize] = segment(0xb, attr::L);
    X86Core {
        rip: CODE + 0x1000 * me,
        rflags: 2,
        seg,
        cr: [cr0::PE | cr0::PG | cr0::ET | cr0::WP | cr0::NE, 0, TABLES, cr4::PAE],
        xcr0: 1,
        mxcsr: 0x1f80,
        dr: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
        msrs: vec![(cpu_model::msr::EFER, efer::LME | efer::LMA | efer::NXE)],
        ..X86Core::default()
    }
}

/// A program on several vCPUs, each with its thread.
pub struct Running {
    pub machine: Arc<Machine>,
    vcpus: Vec<Arc<Mutex<Vcpu>>>,
    threads: Vec<JoinHandle<()>>,
    plant: fn(),
    _board: Board,
}

/// What its vCPUs have done.
#[derive(Clone, Copy, Default, Debug)]
pub struct Used {
    /// Hot blocks that were emitted.
    pub hot: u64,
    /// Pages that were put into mirrors.
    pub put: u64,
}

impl Used {
    /// Whether it ran hot blocks and, if they were to remember `runs`, has at least so many `pages` in its mirror.
    pub fn is_tested(&self, runs: bool, pages: u64) -> bool {
        self.hot > 0 && (!runs || self.put >= pages)
    }
}

impl Running {
    /// Prepare `program`, in user mode or as a kernel. `plant` is called by each thread.
    pub fn new(program: Program, vcpus: u64, rounds: u64, how: How, in_user_mode: bool, plant: fn()) -> Running {
        let (machine, board) = machine_of(vcpus as usize);
        let ram = &machine.memory.ram;
        tables(&machine);
        if in_user_mode {
            user::prepare(&machine, vcpus);
        }
        let mut running =
            Running { machine: machine.clone(), vcpus: Vec::new(), threads: Vec::new(), plant, _board: board };
        for me in 0..vcpus {
            let mut a = CodeAssembler::new(64).unwrap();
            program(&mut a, me, vcpus, rounds).unwrap();
            let at = CODE + 0x1000 * me;
            let code = a.assemble(at).unwrap();
            assert!(code.len() < 0x1000);
            ram.write(at, &code).unwrap();
            // mov eax, 0; ret
            ram.write(FUNCTIONS + 0x1000 * me, &[0xb8, 0, 0, 0, 0, 0xc3]).unwrap();
            let mut vcpu = Vcpu::new(&machine, me as u16);
            if how != How::Interpreted {
                vcpu.use_t1(CodeMemory::new(4 << 20).unwrap()).unwrap();
            }
            if let (How::Hot { runs }, Some(t1)) = (how, &mut vcpu.runner.t1) {
                t1.set_hot(0);
                t1.set_runs(runs);
                vcpu.runner.cpu.mirror = runs.then(|| running._board.mirror());
            }
            let state = if in_user_mode { user::state(me) } else { state(me) };
            let runner = &mut vcpu.runner;
            runner.cpu.load_state(&mut runner.regs.0, &state).unwrap();
            vcpu.take_run(vcpu::Run::Runnable);
            if in_user_mode {
                user::enable_interrupts(&mut vcpu);
            }
            running.vcpus.push(Arc::new(Mutex::new(vcpu)));
        }
        running
    }

    /// Start the threads, and open the gate. A vCPU that has run before must not sleep: it would wake another thread.
    pub fn go(&mut self) {
        for (me, vcpu) in self.vcpus.iter().enumerate() {
            let (machine, vcpu, plant) = (self.machine.clone(), vcpu.clone(), self.plant);
            self.threads.push(std::thread::spawn(move || {
                plant();
                vcpu::stay(&machine, me, &vcpu, &|e| panic!("{e:?}"));
            }));
        }
        self.machine.gate.open();
    }

    /// A vCPU's thread has ended by itself.
    fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Close the gate, when all have come through it; answers what each vCPU has done.
    pub fn stop(&mut self) -> Vec<Used> {
        assert!(self.machine.gate.close(PATIENCE, || ()), "they do not park");
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.used()
    }

    /// What each vCPU has done; none may run.
    pub fn used(&self) -> Vec<Used> {
        let used = |vcpu: &Arc<Mutex<Vcpu>>| {
            let runner = &vcpu.lock().unwrap().runner;
            let hot = runner.t1.as_ref().map_or(0, |t1| t1.stats().hot);
            Used { hot, put: runner.cpu.mirror.as_ref().map_or(0, mem::Mirror::put) }
        };
        self.vcpus.iter().map(used).collect()
    }
}

/// What has come of a program.
struct End {
    machine: Arc<Machine>,
    used: Vec<Used>,
    /// Things that were not as they have to be.
    wrong: u64,
    /// Pages that harvests have lost.
    lost: Vec<u64>,
}

/// Run until all vCPUs have halted, memory being harvested meanwhile if they run `harvested`.
fn finish(mut running: Running, harvested: bool) -> End {
    let machine = running.machine.clone();
    let mut copied = harvested.then(|| Copied::new(&machine));
    running.go();
    let start = Instant::now();
    while machine.memory.ram.load_u64(DONE).unwrap() < running.vcpus.len() as u64 {
        assert!(start.elapsed() < PATIENCE && !running.has_failed(), "the vCPUs do not halt");
        copied.iter_mut().for_each(Copied::round);
        std::thread::sleep(BREATH);
    }
    let used = running.stop();
    let wrong = machine.memory.ram.load_u64(WRONG).unwrap();
    End { lost: copied.map(|mut copied| copied.lost()).unwrap_or_default(), machine, used, wrong }
}

/// A program, and what must hold behind it.
struct Story {
    program: Program,
    rounds: u64,
    holds: fn(&Machine, u64, u64),
    /// It runs in user mode; how many pages each vCPU must have in its mirror then, at least. Those that hold code are in no run that is
    /// stored to.
    user: Option<u64>,
}

/// A story for a kernel.
const fn kernel(program: Program, rounds: u64, holds: fn(&Machine, u64, u64)) -> Story {
    Story { program, rounds, holds, user: None }
}

/// A story for user mode.
const fn in_user_mode(program: Program, rounds: u64, holds: fn(&Machine, u64, u64), pages: u64) -> Story {
    Story { program, rounds, holds, user: Some(pages) }
}

/// On how many vCPUs a story runs, and how: the first four are always run, the others if there is time for them.
const TURNS: [(u64, How); 8] = [
    (2, How::Emitted),
    (3, How::Emitted),
    (2, How::Interpreted),
    (3, How::Interpreted),
    (2, How::Emitted),
    (2, How::Emitted),
    (2, How::Emitted),
    (2, How::Emitted),
];
const HOT: How = How::Hot { runs: true };
const CALM: How = How::Hot { runs: false };
/// The same in user mode.
const USER_TURNS: [(u64, How); 8] =
    [(2, HOT), (3, HOT), (2, CALM), (2, How::Interpreted), (2, HOT), (2, CALM), (2, HOT), (2, How::Emitted)];

impl Story {
    /// A turn; answers how long it took.
    fn run(&self, vcpus: u64, how: How) -> Duration {
        let start = Instant::now();
        let rounds = if how == How::Interpreted { self.rounds / 10 } else { self.rounds };
        let running = Running::new(self.program, vcpus, rounds, how, self.user.is_some(), || ());
        let end = finish(running, self.user.is_some());
        assert_eq!(end.wrong, 0, "things that were not as they have to be: {vcpus} vCPUs, {how:?}");
        assert_eq!(end.lost, [], "pages that harvests have lost: {vcpus} vCPUs, {how:?}");
        (self.holds)(&end.machine, vcpus, rounds);
        if let (Some(pages), How::Hot { runs }) = (self.user, how) {
            assert!(end.used.iter().all(|used| used.is_tested(runs, pages)), "{:?}", end.used);
        }
        start.elapsed()
    }

    /// All turns in turn for as long as two vCPUs are asked to run, but the first four in any case, and others no more
    /// once they have taken a quarter as long. One story at a time.
    fn take_turns(&self) {
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = match std::env::var("ATOLL_STRESS_SECONDS").ok().and_then(|s| s.parse().ok()) {
            Some(seconds) => seconds,
            None if std::env::var_os("ATOLL_LONG").is_some() => 3600 / STORIES,
            None => 0,
        };
        let list = if self.user.is_some() { &USER_TURNS } else { &TURNS };
        let (mut turns, mut runs, mut pairs, mut others) = (0, 0, Duration::ZERO, Duration::ZERO);
        while turns < 4 || pairs < Duration::from_secs(seconds) {
            let (vcpus, how) = list[turns % list.len()];
            turns += 1;
            // Where they are more than the host has processors they do little but wait for each other.
            if turns > 4 && vcpus != 2 && others > pairs / 4 {
                continue;
            }
            let took = self.run(vcpus, how);
            runs += 1;
            *(if vcpus == 2 { &mut pairs } else { &mut others }) += took;
        }
        println!("{runs} runs, {:.0} s of them with two vCPUs, 0 differences", pairs.as_secs_f64());
    }
}

/// A test for each story; all of them together take an hour when they are to take long.
macro_rules! stories {
    ($($name:ident: $story:expr;)*) => {
        const STORIES: u64 = [$(stringify!($name)),*].len() as u64;

        $(#[test]
        fn $name() {
            $story.take_turns();
        })*
    };
}

fn nothing(_: &Machine, _: u64, _: u64) {}

stories! {
    locked_operations_and_locks: kernel(programs::atomics, 200, programs::atomics_hold);
    memory_order: kernel(programs::order, 500, nothing);
    code_rewritten_by_others: kernel(programs::rewriting, 2_000, nothing);
    pages_that_move: kernel(programs::shootdown, 500, nothing);
    locked_operations_and_locks_in_user_mode: in_user_mode(programs::atomics, 200, programs::atomics_hold, 1);
    memory_order_in_user_mode: in_user_mode(programs::order, 500, nothing, 1);
    code_rewritten_by_others_in_user_mode: in_user_mode(programs::rewriting, 2_000, nothing, 1);
    pages_of_programs_that_move: in_user_mode(user::moving, 300, user::moved, 128);
    code_among_data_of_programs: in_user_mode(user::mixed, 4_000, nothing, 32);
}

/// What accesses remember must be forgotten when others take pages away.
#[test]
fn memos_that_do_not_forget_are_noticed() {
    use emit_x64::mutants::{Mutant, plant};
    let bugs: [(bool, fn()); 3] = [
        (false, || plant(Some(Mutant::Memos))),
        (true, || plant(Some(Mutant::Memos))),
        (true, || plant(Some(Mutant::Runs))),
    ];
    for (n, (runs, plant)) in bugs.into_iter().enumerate() {
        let wrong = || finish(Running::new(user::moving, 2, 300, How::Hot { runs }, true, plant), false).wrong;
        // Whether one of them is in use when its page moves is up to chance.
        assert!((0..10).any(|_| wrong() > 0), "bug {n}");
    }
}
