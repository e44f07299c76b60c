//! The child's side: mappings, the signal handler that is its whole life, and the few calls around it.
//!
//! Everything unsafe of this crate is here. After the fork nothing is called but the system and this file's own code: no
//! allocation, no locks, no thread-local storage.

#![expect(unsafe_code, reason = "runs given machine code: maps it, enters it, and catches what it does")]

use std::arch::naked_asm;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use anyhow::{Result, bail, ensure};

use crate::case::{
    CODE, CODE_LEN, CS32, CS64, Case, DATA, DATA_HIGH, DATA_LEN, DS, FS32, FS32_BASE, Fx, GS32, GS32_BASE, GS32_LIMIT,
    INT3, MAX_BYTES, Outcome, RW_LEN, Stop, read_only_page,
};

/// Most cases of a batch.
pub const BATCH: usize = 256;

/// The signals that an exception becomes.
const SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGBUS, libc::SIGTRAP];
/// EFLAGS in the handler: nothing but what is always set, so that alignment is not checked.
const CALM: u64 = 0x202;
/// Bits of EFLAGS that a return from a signal takes from its frame (arch/x86/kernel/signal_64.c, FIX_EFLAGS).
const FRAME_FLAGS: u64 = 0x0005_0dd5;

/// What both processes see.
#[repr(C)]
struct Area {
    /// Cases to run.
    from: AtomicUsize,
    to: AtomicUsize,
    /// The case that runs now.
    current: AtomicUsize,
    /// The handler has been entered once.
    started: AtomicBool,
    cases: [Case; BATCH],
    outcomes: [Outcome; BATCH],
}

/// The shared area, mapped.
#[derive(Debug)]
pub struct Shared(*mut Area);

// SAFETY: the area is plain memory that lives as long as this; the child is told what to do through pipes, and the parent
// touches cases and outcomes only between two batches.
unsafe impl Send for Shared {}

impl Shared {
    /// Map it.
    pub fn map() -> Result<Shared> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let p = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<Area>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        ensure!(p != libc::MAP_FAILED, "mmap of the shared area: {}", std::io::Error::last_os_error());
        Ok(Shared(p.cast()))
    }

    fn area(&self) -> &Area {
        // SAFETY: mapped zeroed by `map`, and all zeros are a valid `Area`; unmapped only in drop.
        unsafe { &*self.0 }
    }

    /// Put a case in its place.
    pub fn put(&mut self, i: usize, c: &Case) {
        assert!(i < BATCH);
        // SAFETY: in bounds, and the child is idle.
        unsafe { ptr::copy_nonoverlapping(c, &raw mut (*self.0).cases[i], 1) }
    }

    /// The outcome of a case.
    pub fn outcome(&self, i: usize, out: &mut Outcome) {
        assert!(i < BATCH);
        // SAFETY: in bounds; the child has written it and does not touch it again before it is told to.
        unsafe { ptr::copy_nonoverlapping(&raw const (*self.0).outcomes[i], out, 1) }
    }

    /// Which cases the next go is for.
    pub fn set_range(&mut self, from: usize, to: usize) {
        self.area().current.store(from, Ordering::SeqCst);
        self.area().from.store(from, Ordering::SeqCst);
        self.area().to.store(to, Ordering::SeqCst);
        self.area().started.store(false, Ordering::SeqCst);
    }

    /// The case that the child was in last.
    pub fn current(&self) -> usize {
        self.area().current.load(Ordering::SeqCst)
    }

    /// Whether the child got as far as its handler.
    pub fn started(&self) -> bool {
        self.area().started.load(Ordering::SeqCst)
    }

    /// Start a child that waits on `go` and answers on `done`.
    pub fn fork(&self, go: i32, done: i32) -> Result<i32> {
        let setup = Setup::prepare()?;
        AREA.store(self.0 as u64, Ordering::SeqCst);
        AVX.store(is_x86_feature_detected!("avx"), Ordering::SeqCst);
        GO.store(go as u32, Ordering::SeqCst);
        DONE.store(done as u32, Ordering::SeqCst);
        // SAFETY: the child calls nothing but the system.
        match unsafe { libc::fork() } {
            0 => live(&setup),
            -1 => bail!("fork: {}", std::io::Error::last_os_error()),
            pid => Ok(pid),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size.
        unsafe { libc::munmap(self.0.cast(), size_of::<Area>()) };
    }
}

/// What of a CPU model's instructions this host lacks, if it cannot tell what is right for it.
pub fn lacks(model: &cpu_model::Model) -> Option<&'static str> {
    if model.xcr0 & 4 == 0 {
        return None;
    }
    [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("bmi1", is_x86_feature_detected!("bmi1")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("lzcnt", is_x86_feature_detected!("lzcnt")),
        ("movbe", is_x86_feature_detected!("movbe")),
        ("xsaveopt", is_x86_feature_detected!("xsaveopt")),
    ]
    .into_iter()
    .find_map(|(name, there)| (!there).then_some(name))
}

/// Who made the processor that this runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Maker {
    /// Intel, whose processors the CPU models are like.
    Intel,
    /// AMD.
    Amd,
    /// Somebody else.
    Other,
}

/// The maker of this CPU, by the words of CPUID leaf 0: asked once, since in a virtual machine every question is an exit.
pub fn maker() -> Maker {
    static MAKER: LazyLock<Maker> = LazyLock::new(|| {
        let r = std::arch::x86_64::__cpuid(0);
        match [r.ebx, r.edx, r.ecx].map(u32::to_le_bytes).as_flattened() {
            b"GenuineIntel" => Maker::Intel,
            b"AuthenticAMD" => Maker::Amd,
            _ => Maker::Other,
        }
    });
    *MAKER
}

/// Whether the lists of [`crate::rules`] and [`crate::amd`] were reviewed for this CPU's maker. Another one's may differ in some
/// hundred forms, which is no fault of the translator's.
pub fn reviewed() -> bool {
    maker() != Maker::Other
}

/// Whether this host can serve: an instruction set and a system that the handler relies on.
pub fn usable() -> Result<()> {
    // SAFETY: reads the auxiliary vector.
    let hwcap2 = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    ensure!(
        hwcap2 & 2 != 0,
        "the kernel does not let programs use WRFSBASE (Linux 5.9 and a CPU with FSGSBASE are needed)"
    );
    for f in ["sse4.2", "popcnt", "cmpxchg16b", "fxsr", "xsave"] {
        let there = match f {
            "sse4.2" => is_x86_feature_detected!("sse4.2"),
            "popcnt" => is_x86_feature_detected!("popcnt"),
            "cmpxchg16b" => is_x86_feature_detected!("cmpxchg16b"),
            "fxsr" => is_x86_feature_detected!("fxsr"),
            _ => is_x86_feature_detected!("xsave"),
        };
        ensure!(there, "this CPU has no {f}, so it cannot tell what is right");
    }
    Ok(())
}

/// A pipe: (read, write).
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two.
    let r = unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) };
    ensure!(r == 0, "pipe: {}", std::io::Error::last_os_error());
    // SAFETY: both are new and ours.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Write one byte.
pub fn write_byte(fd: i32) -> isize {
    // SAFETY: one byte of a constant.
    unsafe { libc::write(fd, c"x".as_ptr().cast(), 1) }
}

/// Read one byte.
pub fn read_byte(fd: i32) -> isize {
    let mut b = 0u8;
    // SAFETY: room for one byte.
    unsafe { libc::read(fd, (&raw mut b).cast(), 1) }
}

/// Wait until there is something to read or the other side is gone; false after `ms` milliseconds.
pub fn wait_readable(fd: i32, ms: i32) -> bool {
    let mut p = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one entry.
        let ready = unsafe { libc::poll(&raw mut p, 1, ms) };
        // Interrupted, for instance when the whole group was stopped for a while, it waits anew.
        if ready >= 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return ready > 0;
        }
    }
}

/// Kill the child `pid`, which must be ours, and say how it ended.
pub fn end(pid: i32) -> String {
    let mut status = 0;
    // SAFETY: `pid` is a child that nobody has waited for.
    let waited = unsafe {
        let early = libc::waitpid(pid, &raw mut status, libc::WNOHANG);
        if early == 0 {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, &raw mut status, 0);
        }
        early
    };
    match waited {
        0 => "the child hung and was killed".into(),
        _ if libc::WIFSIGNALED(status) => format!("the child died of signal {}", libc::WTERMSIG(status)),
        _ => format!("the child ended with status {}", libc::WEXITSTATUS(status)),
    }
}

// ------------------------------------------------------------------------------------------------------- in the child

static AREA: AtomicU64 = AtomicU64::new(0);
static GO: AtomicU32 = AtomicU32::new(0);
static DONE: AtomicU32 = AtomicU32::new(0);
/// Whether frames have the upper halves of YMM registers.
static AVX: AtomicBool = AtomicBool::new(false);
/// Base of FS for the child's own code.
static OWN_FS: AtomicU64 = AtomicU64::new(0);
/// Writable view of the code pages.
static CODE_ALIAS: AtomicU64 = AtomicU64::new(0);
/// The code bytes that stand there now: offset and length.
static PLACED: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
/// What the first entry into the handler unmaps; before that it may be the stack in use.
static UNWANTED: Cell<Unwanted> = Cell(std::cell::UnsafeCell::new([(0, 0); 8]));
/// In the handler: an exception there is a bug of this file.
static INSIDE: AtomicBool = AtomicBool::new(false);
/// A case is under way (as opposed to the first entry).
static UNDER_WAY: AtomicBool = AtomicBool::new(false);

/// What the entry code stores on its way in, and takes on its way out. Offsets are used by [`entry`].
#[repr(C)]
struct Passage {
    /// ES, DS, FS, GS.
    sel: [u16; 4],
    fs_base: u64,
    gs_base: u64,
    /// Flags for the return, as far as the frame does not carry them.
    flags: u64,
    /// Whether to load the bases after the selectors.
    bases: u64,
}

/// A cell that the entry code and the handler share; there is one thread.
struct Cell<T>(std::cell::UnsafeCell<T>);
// SAFETY: used by the single thread of the child only.
unsafe impl<T> Sync for Cell<T> {}

static PASSAGE: Cell<Passage> =
    Cell(std::cell::UnsafeCell::new(Passage { sel: [0; 4], fs_base: 0, gs_base: 0, flags: CALM, bases: 1 }));

/// The kernel's struct sigaction.
#[repr(C)]
struct KernelSigaction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// The kernel's struct user_desc (arch/x86/include/uapi/asm/ldt.h).
#[repr(C)]
struct UserDesc {
    entry: u32,
    base: u32,
    limit: u32,
    /// seg_32bit 0, contents 1..=2, read_exec_only 3, limit_in_pages 4, not_present 5, useable 6.
    flags: u32,
}

/// What needs allocation, done before the fork.
struct Setup {
    code: i32,
    data: i32,
    stack: u64,
    unwanted: Unwanted,
}

/// Start and length of mappings that cases must not find.
type Unwanted = [(u64, u64); 8];

/// The first stack and the kernel's pages beside it. They lie at the very end of the lower half, where small negative values
/// lead to as well, at addresses that are different in every run.
fn unwanted(maps: &str) -> Unwanted {
    let lines =
        maps.lines().filter(|l| ["[stack]", "[vdso]", "[vvar]", "[vvar_vclock]"].iter().any(|n| l.ends_with(n)));
    let ranges = lines.filter_map(|l| {
        let (from, to) = l.split(' ').next()?.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        Some((from, to - from))
    });
    let mut out = Unwanted::default();
    for (o, r) in out.iter_mut().zip(ranges) {
        *o = r;
    }
    out
}

const STACK: usize = 256 << 10;

impl Setup {
    fn prepare() -> Result<Setup> {
        let unwanted = unwanted(&std::fs::read_to_string("/proc/self/maps")?);
        // SAFETY: plain calls; the descriptors and the mapping are checked.
        unsafe {
            let code = libc::memfd_create(c"code".as_ptr(), libc::MFD_CLOEXEC);
            let data = libc::memfd_create(c"data".as_ptr(), libc::MFD_CLOEXEC);
            ensure!(code >= 0 && data >= 0, "memfd_create: {}", std::io::Error::last_os_error());
            ensure!(libc::ftruncate(code, CODE_LEN as i64) == 0, "ftruncate: {}", std::io::Error::last_os_error());
            ensure!(libc::ftruncate(data, DATA_LEN as i64) == 0, "ftruncate: {}", std::io::Error::last_os_error());
            let int3 = vec![INT3; CODE_LEN as usize];
            libc::pwrite(code, int3.as_ptr().cast(), int3.len(), 0);
            let ro = read_only_page();
            libc::pwrite(data, ro.as_ptr().cast(), ro.len(), RW_LEN as i64);
            let stack = libc::mmap(
                ptr::null_mut(),
                STACK,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            );
            ensure!(stack != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
            Ok(Setup { code, data, stack: stack as u64, unwanted })
        }
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        // SAFETY: ours; the child has copies.
        unsafe {
            libc::close(self.code);
            libc::close(self.data);
            libc::munmap(self.stack as *mut libc::c_void, STACK);
        }
    }
}

fn quit(status: i32) -> ! {
    // SAFETY: ends the process without running anything.
    unsafe { libc::_exit(status) }
}

fn map_at(addr: u64, len: u64, prot: i32, fd: i32, offset: u64) -> u64 {
    let fixed = if addr == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
    // SAFETY: a new mapping that replaces none.
    let p = unsafe {
        libc::mmap(
            addr as *mut libc::c_void,
            len as usize,
            prot,
            libc::MAP_SHARED | libc::MAP_POPULATE | fixed,
            fd,
            offset as i64,
        )
    };
    if p == libc::MAP_FAILED || addr != 0 && p as u64 != addr {
        quit(40);
    }
    p as u64
}

/// The child's life: set everything up, raise the first exception, and never come back.
fn live(setup: &Setup) -> ! {
    const R: i32 = libc::PROT_READ;
    const W: i32 = libc::PROT_WRITE;
    // SAFETY: dies with its parent.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    map_at(CODE, CODE_LEN, R | libc::PROT_EXEC, setup.code, 0);
    CODE_ALIAS.store(map_at(0, CODE_LEN, R | W, setup.code, 0), Ordering::SeqCst);
    for base in [DATA, DATA_HIGH] {
        map_at(base, RW_LEN, R | W, setup.data, 0);
        map_at(base + RW_LEN, DATA_LEN - RW_LEN, R, setup.data, RW_LEN);
    }
    local_segment(FS32, FS32_BASE, 0xf_ffff, true);
    local_segment(GS32, GS32_BASE, GS32_LIMIT, false);
    let stack = libc::stack_t { ss_sp: setup.stack as *mut libc::c_void, ss_flags: 0, ss_size: STACK };
    let action = KernelSigaction {
        handler: entry as *const () as usize,
        // SA_RESTORER, without which the kernel refuses; the restorer is never returned to.
        flags: (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER) as u64 | 0x0400_0000,
        restorer: entry as *const () as usize,
        mask: 0,
    };
    // SAFETY: the stack and the action outlive the child's life; the exception enters the handler.
    unsafe {
        *UNWANTED.0.get() = setup.unwanted;
        if libc::sigaltstack(&raw const stack, ptr::null_mut()) != 0 {
            quit(41);
        }
        for s in SIGNALS {
            if libc::syscall(libc::SYS_rt_sigaction, s, &raw const action, 0usize, 8) != 0 {
                quit(42);
            }
        }
        let fs: u64;
        std::arch::asm!("rdfsbase {}", out(reg) fs);
        OWN_FS.store(fs, Ordering::SeqCst);
        std::arch::asm!("int3");
    }
    quit(43)
}

fn local_segment(selector: u16, base: u32, limit: u32, pages: bool) {
    let flags = 1 | u32::from(pages) << 4 | 1 << 6;
    let d = UserDesc { entry: u32::from(selector >> 3), base, limit, flags };
    // SAFETY: writes a descriptor of this process's table.
    if unsafe { libc::syscall(libc::SYS_modify_ldt, 1, &raw const d, size_of::<UserDesc>()) } != 0 {
        quit(44);
    }
}

/// Where the kernel enters: notes segments, makes the child's own world, runs the handler, and returns into the next case.
#[unsafe(naked)]
unsafe extern "C" fn entry() -> ! {
    naked_asm!(
        "mov rbx, rsp",
        "push {calm}",
        "popfq",
        "lea r12, [rip + {passage}]",
        "mov word ptr [r12], es",
        "mov word ptr [r12 + 2], ds",
        "mov word ptr [r12 + 4], fs",
        "mov word ptr [r12 + 6], gs",
        "rdfsbase rax",
        "mov [r12 + 8], rax",
        "rdgsbase rax",
        "mov [r12 + 16], rax",
        "xor eax, eax",
        "mov fs, eax",
        "mov rax, [rip + {own_fs}]",
        "wrfsbase rax",
        "mov rdi, rdx",
        "and rsp, -16",
        "call {handle}",
        "mov es, word ptr [r12]",
        "mov ds, word ptr [r12 + 2]",
        "mov fs, word ptr [r12 + 4]",
        "mov gs, word ptr [r12 + 6]",
        "cmp qword ptr [r12 + 32], 0",
        "je 2f",
        "mov rax, [r12 + 8]",
        "wrfsbase rax",
        "mov rax, [r12 + 16]",
        "wrgsbase rax",
        "2:",
        "push qword ptr [r12 + 24]",
        "popfq",
        // rt_sigreturn expects the stack pointer behind the return address.
        "lea rsp, [rbx + 8]",
        "mov eax, 15",
        "syscall",
        "ud2",
        calm = const CALM,
        passage = sym PASSAGE,
        own_fs = sym OWN_FS,
        handle = sym handle,
    )
}

/// One exception: the end of a case and the start of the next.
unsafe extern "C" fn handle(uc: *mut libc::ucontext_t) {
    if INSIDE.swap(true, Ordering::Relaxed) {
        quit(45);
    }
    // SAFETY: the kernel's frame, the shared area and the passage are valid and used by this thread alone; it runs on the
    // alternate stack, and never returns to the one that the first entry unmaps.
    unsafe {
        let area = AREA.load(Ordering::Relaxed) as *mut Area;
        (*area).started.store(true, Ordering::SeqCst);
        for (at, len) in std::mem::take(&mut *UNWANTED.0.get()) {
            if len != 0 {
                libc::munmap(at as *mut libc::c_void, len as usize);
            }
        }
        if UNDER_WAY.load(Ordering::Relaxed) {
            let now = (*area).current.load(Ordering::SeqCst);
            record(&*uc, &raw mut (*area).outcomes[now % BATCH]);
            (*area).current.store(now + 1, Ordering::SeqCst);
            if now + 1 >= (*area).to.load(Ordering::SeqCst) {
                write_byte(DONE.load(Ordering::Relaxed) as i32);
                UNDER_WAY.store(false, Ordering::Relaxed);
            }
        }
        if !UNDER_WAY.load(Ordering::Relaxed) {
            if read_byte(GO.load(Ordering::Relaxed) as i32) != 1 {
                quit(0);
            }
            (*area).started.store(true, Ordering::SeqCst);
            UNDER_WAY.store(true, Ordering::Relaxed);
        }
        let now = (*area).current.load(Ordering::SeqCst);
        enter(&mut *uc, &raw const (*area).cases[now % BATCH]);
    }
    INSIDE.store(false, Ordering::Relaxed);
}

/// Where each general register lies in the frame.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Offset of XSTATE_BV behind the legacy part of the frame.
const XSTATE_BV: usize = 512;
/// Offset of the upper halves of YMM registers in the frame, which has the standard format (SDM vol. 1, 13.4.3).
const YMM_UPPER: usize = 576;

unsafe fn record(uc: &libc::ucontext_t, out: *mut Outcome) {
    let m = &uc.uc_mcontext;
    let reg = |n: i32| m.gregs[n as usize] as u64;
    // SAFETY: `out` is in the shared area; the frame has a full XSAVE image; the passage is this thread's.
    unsafe {
        let s = &raw mut (*out).state;
        for (i, r) in GREGS.into_iter().enumerate() {
            (*s).gpr[i] = reg(r);
        }
        (*s).rip = reg(libc::REG_RIP);
        (*s).eflags = reg(libc::REG_EFL);
        let cs = reg(libc::REG_CSGSFS);
        let p = PASSAGE.0.get();
        (*s).sel = [(*p).sel[0], cs as u16, (cs >> 48) as u16, (*p).sel[1], (*p).sel[2], (*p).sel[3]];
        (*s).base = [(*p).fs_base, (*p).gs_base];
        ptr::copy_nonoverlapping(m.fpregs.cast::<Fx>(), &raw mut (*s).fx, 1);
        if AVX.load(Ordering::Relaxed) {
            let from = m.fpregs.cast::<u8>().add(YMM_UPPER);
            ptr::copy_nonoverlapping(from, (&raw mut (*s).ymm_upper).cast::<u8>(), 256);
        }
        let vector = reg(libc::REG_TRAPNO) as u32;
        let fault = vector == 14;
        (*out).stop =
            Stop { vector, error: reg(libc::REG_ERR) as u32, cr2: if fault { reg(libc::REG_CR2) } else { 0 } };
        ptr::copy_nonoverlapping(DATA as *const u8, (*out).rw.as_mut_ptr(), RW_LEN as usize);
    }
}

unsafe fn enter(uc: &mut libc::ucontext_t, case: *const Case) {
    // SAFETY: as for `record`; the case comes from the parent, which has checked that it lies within the code pages.
    unsafe {
        let s = &raw const (*case).state;
        let m = &mut uc.uc_mcontext;
        for (i, r) in GREGS.into_iter().enumerate() {
            m.gregs[r as usize] = (*s).gpr[i] as i64;
        }
        m.gregs[libc::REG_RIP as usize] = (*s).rip as i64;
        m.gregs[libc::REG_EFL as usize] = ((*s).eflags & FRAME_FLAGS) as i64;
        let sel = (*s).sel;
        m.gregs[libc::REG_CSGSFS as usize] = (u64::from(sel[1]) | u64::from(sel[2]) << 48) as i64;
        let fx = m.fpregs.cast::<u8>();
        ptr::copy_nonoverlapping((&raw const (*s).fx).cast::<u8>(), fx, size_of::<Fx>());
        let bv = fx.add(XSTATE_BV).cast::<u64>();
        bv.write_unaligned(bv.read_unaligned() | 3);
        if AVX.load(Ordering::Relaxed) {
            ptr::copy_nonoverlapping((&raw const (*s).ymm_upper).cast::<u8>(), fx.add(YMM_UPPER), 256);
            bv.write_unaligned(bv.read_unaligned() | 4);
        }
        let p = PASSAGE.0.get();
        (*p).sel = [sel[0], sel[3], sel[4], sel[5]];
        (*p).fs_base = (*s).base[0];
        (*p).gs_base = (*s).base[1];
        (*p).bases = u64::from(sel[1] == CS64);
        (*p).flags = CALM | (*s).eflags & !FRAME_FLAGS;
        ptr::copy_nonoverlapping((*case).rw.as_ptr(), DATA as *mut u8, RW_LEN as usize);
        place(&*case);
    }
}

/// Take the last case's bytes away and put this one's there.
unsafe fn place(case: &Case) {
    let alias = CODE_ALIAS.load(Ordering::Relaxed) as *mut u8;
    let [offset, len] = [PLACED[0].load(Ordering::Relaxed), PLACED[1].load(Ordering::Relaxed)];
    let at = (case.at.wrapping_sub(CODE) as usize).min(CODE_LEN as usize - 1);
    // What lies beyond the pages would be fetched from where nothing is.
    let n = (case.len as usize).min(MAX_BYTES).min(CODE_LEN as usize - at);
    // SAFETY: both ranges lie within the alias of the code pages.
    unsafe {
        ptr::write_bytes(alias.add(offset), INT3, len);
        ptr::copy_nonoverlapping(case.bytes.as_ptr(), alias.add(at), n);
    }
    PLACED[0].store(at, Ordering::Relaxed);
    PLACED[1].store(n, Ordering::Relaxed);
}

const _: () = assert!(CS32 == 0x23 && CS64 == 0x33 && DS == 0x2b && FS32 & 7 == 7 && GS32 & 7 == 7);

#[cfg(test)]
mod tests {
    use super::super::Host;
    use super::*;
    use crate::case::State;

    fn case(long: bool, bytes: &[u8]) -> Case {
        let mut c = Case { at: CODE + 0x800, len: bytes.len() as u64, ..Case::default() };
        c.bytes[..bytes.len()].copy_from_slice(bytes);
        let mut s = State { rip: c.at, eflags: 0x202, ..State::default() };
        s.sel = if long { [0, CS64, DS, 0, 0, 0] } else { [DS, CS32, DS, DS, FS32, GS32] };
        for (i, g) in s.gpr.iter_mut().enumerate() {
            *g = 0x0101_0101 * (i as u64 + 1);
        }
        s.gpr[4] = DATA + 0x800;
        s.fx.cw = 0x37f;
        s.fx.mxcsr = 0x1f80;
        c.state = s;
        c
    }

    fn run(cases: &[Case]) -> Vec<Outcome> {
        let mut h = Host::new().unwrap();
        h.start(cases.iter()).unwrap();
        for (i, r) in h.finish(cases.len()).unwrap().into_iter().enumerate() {
            assert_eq!(r, Ok(()), "case {i}");
        }
        let mut outcomes = vec![Outcome::default(); cases.len()];
        for (i, o) in outcomes.iter_mut().enumerate() {
            h.outcome(i, o);
        }
        outcomes
    }

    #[test]
    fn cases_of_both_sizes_end_behind_the_instruction() {
        let o = run(&[
            // add rax, rcx; add eax, ecx; mov [0x20000010], eax (FS: base of the thread segment).
            case(true, &[0x48, 0x01, 0xc8]),
            case(false, &[0x01, 0xc8]),
            case(false, &[0x64, 0xa3, 0x10, 0x40, 0, 0]),
        ]);
        assert_eq!((o[0].stop.vector, o[0].state.gpr[0], o[0].state.rip), (3, 0x0303_0303, CODE + 0x804));
        assert_eq!((o[1].stop.vector, o[1].state.gpr[0], o[1].state.sel[1]), (3, 0x0303_0303, CS32));
        assert_eq!(o[2].rw[0x10..0x14], [1, 1, 1, 1]);
    }

    #[test]
    fn faults_are_reported_as_the_cpu_raised_them() {
        let mut ro = case(true, &[0x89, 0x08]);
        ro.state.gpr[0] = DATA_HIGH + RW_LEN + 4;
        let mut straddle = case(true, &[0x89, 0x08]);
        straddle.at = CODE + CODE_LEN - 1;
        straddle.state.rip = straddle.at;
        let mut bad = case(true, &[0x89, 0x08]);
        bad.state.gpr[0] = 1 << 60;
        let o = run(&[ro, straddle, bad, case(true, &[0x0f, 0x0b]), case(true, &[0xf7, 0xf0])]);
        let pf = |error, cr2| Stop { vector: 14, error, cr2 };
        assert_eq!(o[0].stop, pf(7, DATA_HIGH + RW_LEN + 4));
        assert_eq!(o[1].stop, pf(0x14, CODE + CODE_LEN));
        assert_eq!(o[2].stop, Stop { vector: 13, error: 0, cr2: 0 });
        assert_eq!((o[3].stop.vector, o[3].state.rip), (6, CODE + 0x800));
        assert_eq!(o[4].stop.vector, 0);
    }

    #[test]
    fn flags_and_floating_point_come_back_as_they_went_in() {
        let mut c = case(true, &[0x90]);
        c.state.eflags = 0x24_4ed7;
        c.state.fx.st[3] = 0x4000_c000_0000_0000_0000;
        c.state.fx.sw = 3 << 11;
        c.state.fx.tags = 0x81;
        c.state.fx.xmm[15] = u128::MAX / 3;
        c.state.base = [DATA_HIGH, 77];
        let o = run(std::slice::from_ref(&c));
        assert_eq!(o[0].state.eflags & !0x1_0000, c.state.eflags);
        let mut fx = o[0].state.fx;
        fx.mxcsr_mask = 0;
        assert_eq!(fx, c.state.fx);
        assert_eq!((o[0].state.base, o[0].state.sel), (c.state.base, c.state.sel));
    }

    #[test]
    fn a_lost_case_does_not_take_the_others_along() {
        // exit(0) through SYSCALL: the child is gone.
        let mut c = case(true, &[0x0f, 0x05]);
        c.state.gpr[0] = 60;
        let mut h = Host::new().unwrap();
        h.start([&case(true, &[0x90]), &c, &case(true, &[0x90])].into_iter()).unwrap();
        let r = h.finish(3).unwrap();
        assert!(matches!((&r[0], &r[1], &r[2]), (Ok(()), Err(_), Ok(()))), "{r:?}");
    }
}
