//! The translator's side: a vCPU at privilege level 3 that sees the same addresses, segments and rights as the host's child.
//!
//! The idea: what Linux gives a user program (four-level paging, its GDT, CR0 and CR4) is a small table here; a case is loaded
//! into the vCPU, and instructions are lifted, verified and interpreted one at a time until an INT3 or an exception.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, ensure};
use code::CodeMemory;
use cpu_model::Model;
use emit_x64::{Left, T1};
use guest_memory::{Access, Arrangement, DirtyLayout, DirtyLog, Kind, Layout, Memfd, Ram, Region};
use guest_x86::state::{
    self, CODE_BASE, FPU_CW, FPU_DP, FPU_IP, FPU_OP, FPU_SW, FPU_TAG, attr, cr0, cr4, efer, fpr, gpr, xmm, ymm_upper,
};
use guest_x86::{Cpu, Lift, Seg, Segment, Table};
use ir::effects::effects;
use ir::op::{FIRST_TEMP, FPC, Inst, NONE, Op, hint};
use ir::t0::{self, Exit};
use ir::{Block, PC, Regs, Slot, verify};
use mem::{MIRROR, Memory, Mirror};

use crate::bus::NoBus;
use crate::case::{
    CODE, CODE_LEN, CS32, CS64, Case, DATA, DATA_HIGH, DATA_LEN, DS, FS32, FS32_BASE, GS32, GS32_BASE, GS32_LIMIT,
    INT3, MAX_BYTES, Outcome, RW_LEN, State, Stop, read_only_page,
};

/// Where things lie in the guest's physical memory.
mod physical {
    /// The local descriptor table.
    pub const LDT: u64 = 0x1000;
    /// The global descriptor table.
    pub const GDT: u64 = 0x2000;
    /// The interrupt descriptor table.
    pub const IDT: u64 = 0x3000;
    /// The task state segment.
    pub const TSS: u64 = 0x4000;
    /// The kernel's stack.
    pub const STACK: u64 = 0x5000;
    /// The code pages.
    pub const CODE: u64 = 0x8000;
    /// The data pages.
    pub const DATA: u64 = 0x10_000;
    /// The top page table; further ones follow.
    pub const TABLES: u64 = 0x20_000;
    /// All of it.
    pub const LEN: u64 = 0x80_000;
}

/// Where the kernel's part is mapped.
const KERNEL: u64 = 0xffff_8000_0000_0000;
/// The handler of vector n is at this address plus 16 n; it is never fetched.
const HANDLERS: u64 = KERNEL + 0x70_000;

/// Instructions (or iterations of a repeated one) that a case may take.
const STEPS: u32 = 100_000;

/// Descriptors of Linux's GDT (arch/x86/include/asm/segment.h), from 08h: kernel code of both sizes and data, user code and
/// data, the TSS and the LDT in two slots each, three empty thread segments, and the processor's number.
#[rustfmt::skip]
static GDT: [u64; 16] = [
    0,
    0x00cf_9b00_0000_ffff, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff,
    0,
    0x0000_8b00_0000_206f, 0, 0x0000_8200_0000_000f, 0,
    0, 0, 0,
    0x0040_f500_0000_0000,
];

/// A data segment of the LDT as modify_ldt makes it: present, level 3, writable, accessed, 32 bits.
const fn local(base: u32, limit: u32, pages: bool) -> u64 {
    let (b, l) = (base as u64, limit as u64);
    l & 0xffff
        | (b & 0xff_ffff) << 16
        | 0xf3 << 40
        | (l >> 16 & 0xf) << 48
        | 0x4 << 52
        | (pages as u64) << 55
        | (b >> 24) << 56
}

/// Errors of the harness itself.
type Result<T, E = anyhow::Error> = std::result::Result<T, E>;

/// How a case went: it ended as cases end, or the lifter or the interpreter did what it must not.
pub type Ran = std::result::Result<(), String>;

/// Called with each block before it runs.
pub type Tamper<'a> = &'a mut dyn FnMut(&mut Block);

/// Code memory of a guest.
const CODE_MEMORY: usize = 1 << 20;
/// Pages that a guest's mirror may map.
const PLACES: u64 = 1 << 10;

/// What runs the blocks of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tier {
    /// The interpreter.
    T0,
    /// Emitted code.
    T1,
}

/// The vector of a [`Stop`] in the kernel, but in none of its handlers: where SYSCALL leads.
const ELSEWHERE: u32 = 256;

/// How often a loop's block is run.
const ROUNDS: u64 = 8;
/// How often it is still to be run: a word that no instruction has.
const ROUNDS_LEFT: Slot = Slot(FIRST_TEMP - 2);

/// Whether a block has no other end than the next instruction.
fn has_plain_end(block: &Block) -> bool {
    let Some((end, before)) = block.insts.split_last() else { return false };
    let plain = end.op == Op::Exit && end.aux & hint::CALL == 0 && end.imm == block.end_pc;
    plain && !before.iter().any(|x| effects(x).may_leave)
}

/// Have such a block lead back to its own beginning. Answers whether it does now.
fn make_loop(block: &mut Block) -> bool {
    let Some(end) = block.insts.last().copied().filter(|_| has_plain_end(block)) else { return false };
    let glue = |op, d, a, imm| Inst { op, aux: 0, d, a, b: NONE, imm };
    block.insts.pop();
    block.insts.push(glue(Op::Sub64I, ROUNDS_LEFT, ROUNDS_LEFT, 1));
    block.insts.push(glue(Op::ExitIf, NONE, ROUNDS_LEFT, block.pc));
    block.insts.push(end);
    true
}

/// Run a block by emitted code: some blocks as hot ones, or (`rounds`) one that counts its rounds if it is a loop.
fn emitted(
    t1: &mut T1,
    cache: &mut code::Cache,
    lift: Lift,
    regs: &mut Regs,
    cpu: &mut Cpu<NoBus>,
    rounds: bool,
) -> Result<Exit> {
    if cache.is_full(t1.parts()) || !t1.has_room() {
        cache.clear();
        t1.clear();
    }
    let id = cache.insert(lift.key, lift.len, lift.second, lift.block);
    t1.remove(&cache.take_gone());
    // Every second block as a hot one of user mode, half of these with accesses that remember runs of pages.
    t1.set_hot(if rounds { 0 } else { (id.number() % 2) as u8 });
    t1.set_runs(id.number().is_multiple_of(4) && cpu.mirror.is_some());
    ensure!(t1.translate(cache, id.number(), true, false, 0), "a block cannot be emitted");
    let (left, done) = t1.run(cache, id.number(), regs, cpu, if rounds { 4096 } else { 0 });
    if let Some(mirror) = &mut cpu.mirror {
        mirror.earn(done);
    }
    Ok(match left {
        Left::Outcome(out) => out.exit,
        Left::Direct(_) | Left::Jump | Left::Budget => Exit::Indirect,
    })
}

/// A vCPU with its memory.
pub struct Guest {
    cpu: Cpu<NoBus>,
    regs: Box<Regs>,
    mem: Arc<Memory>,
    cache: code::Cache,
    /// Emitted code; without it blocks are interpreted.
    t1: Option<T1>,
    next_table: u64,
    /// The last case's bytes: offset in the code pages, and length.
    placed: (u64, usize),
}

impl Guest {
    /// A guest with its tables in place.
    ///
    /// # Errors
    /// No memory.
    pub fn new(model: &'static Model, tier: Tier) -> Result<Guest> {
        let (mem, file) = memory()?;
        let mem = Arc::new(mem);
        let mut cpu = Cpu::new(model, Arc::clone(&mem), NoBus);
        if tier == Tier::T1 {
            // Some hosts have no room for one.
            cpu.mirror = Arrangement::new(file, physical::LEN, MIRROR).ok().map(|map| Mirror::new(map, PLACES));
        }
        let mut regs = Box::new(Regs::default());
        cpu.reset(&mut regs);
        let mut g = Guest {
            cpu,
            regs,
            mem,
            cache: code::Cache::default(),
            t1: (tier == Tier::T1).then(|| T1::new::<Cpu<NoBus>>(CodeMemory::new(CODE_MEMORY)?)).transpose()?,
            next_table: physical::TABLES + 0x1000,
            placed: (0, 0),
        };
        g.tables()?;
        g.system();
        Ok(g)
    }

    /// Pages that were put next to each other for runs; `None` if the guest has no mirror.
    pub fn mirrored(&self) -> Option<u64> {
        self.cpu.mirror.as_ref().map(Mirror::put)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.mem.ram.write(at, bytes).context("outside RAM")
    }

    fn word(&self, at: u64, v: u64) -> Result<()> {
        self.write(at, &v.to_le_bytes())
    }

    /// Map one page. `rights`: 1 present, 2 writable, 4 user, bit 63 not executable.
    fn map(&mut self, va: u64, pa: u64, rights: u64) -> Result<()> {
        let mut table = physical::TABLES;
        for level in [39, 30, 21] {
            let at = table + (va >> level & 0x1ff) * 8;
            let mut e = self.mem.ram.load_u64(at).context("outside RAM")?;
            if e == 0 {
                e = self.next_table | 7;
                self.next_table += 0x1000;
                ensure!(self.next_table <= physical::LEN, "out of page tables");
                self.word(at, e)?;
            }
            table = e & !0xfff;
        }
        self.word(table + (va >> 12 & 0x1ff) * 8, pa | rights)
    }

    fn tables(&mut self) -> Result<()> {
        const NX: u64 = 1 << 63;
        for p in (0..CODE_LEN).step_by(0x1000) {
            self.map(CODE + p, physical::CODE + p, 5)?;
        }
        for base in [DATA, DATA_HIGH] {
            for p in (0..DATA_LEN).step_by(0x1000) {
                self.map(base + p, physical::DATA + p, NX | if p < RW_LEN { 7 } else { 5 })?;
            }
        }
        for p in (0..0x8000).step_by(0x1000) {
            self.map(KERNEL + p, p, NX | 3)?;
        }
        self.write(physical::CODE, &vec![INT3; CODE_LEN as usize])?;
        self.write(physical::DATA + RW_LEN, &read_only_page())?;
        for (i, d) in GDT.iter().enumerate() {
            self.word(physical::GDT + 8 * i as u64, *d)?;
        }
        self.word(physical::LDT, local(FS32_BASE, 0xf_ffff, true))?;
        self.word(physical::LDT + 8, local(GS32_BASE, GS32_LIMIT, false))?;
        for n in 0..256u64 {
            // #BP and #OF may be called by programs.
            let level = if matches!(n, 3 | 4) { 3 } else { 0 };
            let h = HANDLERS + 16 * n;
            let low = h & 0xffff | 0x10 << 16 | (0x8e00 | level << 13) << 32 | (h >> 16 & 0xffff) << 48;
            self.word(physical::IDT + 16 * n, low)?;
            self.word(physical::IDT + 16 * n + 8, h >> 32)?;
        }
        // RSP0, and an I/O map beyond the end: no port is open.
        self.word(physical::TSS + 4, KERNEL + physical::STACK + 0x1000)?;
        self.write(physical::TSS + 0x66, &0x8000u16.to_le_bytes())
    }

    fn system(&mut self) {
        let xcr0 = self.cpu.model().xcr0;
        let s = &mut self.cpu.sys;
        s.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        s.cr3 = physical::TABLES;
        s.cr4 = cr4::DE
            | cr4::PSE
            | cr4::PAE
            | cr4::MCE
            | cr4::PGE
            | cr4::OSFXSR
            | cr4::OSXMMEXCPT
            | cr4::FSGSBASE
            | cr4::OSXSAVE
            | cr4::SMEP
            | cr4::SMAP;
        s.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        s.xcr0 = xcr0;
        s.cpl = 3;
        s.gdtr = Table { base: KERNEL + physical::GDT, limit: 16 * 8 - 1 };
        s.idtr = Table { base: KERNEL + physical::IDT, limit: 0xfff };
        s.ldtr = Segment { selector: 0x50, attr: attr::P | 2, limit: 15, base: KERNEL + physical::LDT };
        s.tr = Segment { selector: 0x40, attr: attr::P | 0xb, limit: 0x206f, base: KERNEL + physical::TSS };
    }

    /// The segment of a selector that cases start with.
    fn segment(selector: u16) -> Segment {
        let d = match selector {
            FS32 => local(FS32_BASE, 0xf_ffff, true),
            GS32 => local(GS32_BASE, GS32_LIMIT, false),
            0 => return Segment::null(0),
            s => GDT[usize::from(s >> 3) & 15],
        };
        let limit = (d & 0xffff | d >> 32 & 0xf_0000) as u32;
        let attributes = (d >> 40) as u16 & 0xf0ff;
        let limit = if attributes & attr::G != 0 { limit << 12 | 0xfff } else { limit };
        Segment { selector, attr: attributes, limit, base: d >> 16 & 0xff_ffff | d >> 56 << 24 }
    }

    fn enter(&mut self, c: &Case) -> Result<()> {
        let (offset, len) = self.placed;
        self.write(physical::CODE + offset, &[INT3; MAX_BYTES][..len])?;
        let at = c.at - CODE;
        let n = (c.len).min(CODE_LEN - at) as usize;
        self.write(physical::CODE + at, &c.bytes[..n])?;
        self.placed = (at, n);
        self.write(physical::DATA, &c.rw)?;
        self.system();
        self.cpu.pending = None;
        let s = &c.state;
        for (seg, sel) in Seg::ALL.into_iter().zip(s.sel) {
            self.cpu.sys.seg[seg as usize] = Guest::segment(sel);
        }
        if c.long() {
            self.cpu.sys.seg[Seg::Fs as usize].base = s.base[0];
            self.cpu.sys.seg[Seg::Gs as usize].base = s.base[1];
        }
        let regs = &mut *self.regs;
        for (n, v) in s.gpr.iter().enumerate() {
            regs.set(gpr(n), *v);
        }
        for (n, v) in s.fx.xmm.iter().enumerate() {
            regs.set128(xmm(n), *v);
        }
        for (n, v) in s.ymm_upper.iter().enumerate() {
            regs.set128(ymm_upper(n), *v);
        }
        let top = usize::from(s.fx.sw >> 11 & 7);
        for (n, v) in s.fx.st.iter().enumerate() {
            regs.set128(fpr(top + n), *v & (u128::MAX >> 48));
        }
        for (slot, v) in [
            (PC, s.rip),
            (FPC, u64::from(s.fx.mxcsr)),
            (FPU_CW, u64::from(s.fx.cw)),
            (FPU_SW, u64::from(s.fx.sw)),
            (FPU_TAG, u64::from(s.fx.tags)),
            (FPU_OP, u64::from(s.fx.op)),
            (FPU_IP, s.fx.ip),
            (FPU_DP, s.fx.dp),
        ] {
            regs.set(slot, v);
        }
        state::set_eflags(regs, s.eflags);
        self.cpu.sys.shadow = guest_x86::Shadow::None;
        self.cpu.refresh(regs);
        Ok(())
    }

    /// Whether the next instruction is an INT3 of the surroundings.
    fn landed(&self) -> bool {
        let linear = self.cpu.linear_pc(&self.regs);
        linear.wrapping_sub(CODE) < CODE_LEN && self.mem.ram.load_u8(physical::CODE + (linear - CODE)) == Some(INT3)
    }

    /// Run a case, with blocks of up to `most` instructions; `out` is how it ended. Each block goes through `tamper` before it
    /// runs.
    ///
    /// # Errors
    /// The harness itself cannot go on.
    pub fn run(&mut self, c: &Case, most: usize, out: &mut Outcome, tamper: Tamper<'_>) -> Result<Ran> {
        match self.until_stop(c, most, tamper, false)? {
            Ok(stop) => self.leave(stop, out).map(Ok),
            Err(why) => Ok(Err(why)),
        }
    }

    /// As [`Guest::run`], with the first block as a loop, if it can be one, that is run some times.
    ///
    /// # Errors
    /// The harness itself cannot go on.
    pub fn run_rounds(&mut self, c: &Case, most: usize, out: &mut Outcome) -> Result<Ran> {
        match self.until_stop(c, most, &mut |_| {}, true)? {
            Ok(stop) => self.leave(stop, out).map(Ok),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Loops that count their rounds, so far.
    pub fn counted(&self) -> u64 {
        self.t1.as_ref().map_or(0, |t1| t1.stats().counted)
    }

    fn until_stop(&mut self, c: &Case, most: usize, tamper: Tamper<'_>, rounds: bool) -> Result<Result<Stop, String>> {
        self.enter(c)?;
        self.regs.set(ROUNDS_LEFT, ROUNDS);
        let beginning = self.regs.get(PC);
        for step in 0..STEPS {
            if step > 0 && self.landed() {
                let pc = self.regs.get(PC);
                self.regs.set(PC, pc + 1);
                return Ok(Ok(Stop { vector: 3, ..Stop::default() }));
            }
            if self.cpu.has_stale() {
                self.cpu.drop_stale(&mut self.cache);
            }
            let Ok(mut lift) = self.cpu.lift(&self.regs, most, true) else { return Ok(self.fault()) };
            let rounds = rounds && self.regs.get(PC) == beginning;
            let instructions = lift.block.points.len();
            if rounds && instructions > 1 && !has_plain_end(&lift.block) {
                // A loop ends before what a sequence ends with.
                let Ok(shorter) = self.cpu.lift(&self.regs, instructions - 1, true) else { return Ok(self.fault()) };
                lift = shorter;
            }
            self.regs.set(CODE_BASE, self.regs.get(PC) & !mem::PAGE_MASK);
            if let Err(e) = verify::verify(&lift.block) {
                return Ok(Err(format!("the verifier refuses the block: {e}\n{}", lift.block)));
            }
            tamper(&mut lift.block);
            // What is left of its rounds is run by a block of its own, as the first one is.
            let rounds = rounds && make_loop(&mut lift.block);
            let exit = match &mut self.t1 {
                None => t0::run(&lift.block, &mut self.regs, &mut self.cpu).exit,
                Some(t1) => emitted(t1, &mut self.cache, lift, &mut self.regs, &mut self.cpu, rounds)?,
            };
            match exit {
                Exit::Fault => return Ok(self.fault()),
                Exit::Restart => return Ok(Err("an instruction wants to be run again".into())),
                Exit::Direct(_) | Exit::Indirect | Exit::Event(_) | Exit::Stepped => {}
            }
            if self.cpu.sys.cpl != 3 {
                return self.trap();
            }
        }
        Ok(Err(format!("still running after {STEPS} steps")))
    }

    fn fault(&mut self) -> Result<Stop, String> {
        let Some(e) = self.cpu.pending.take() else { return Err("a fault without an exception".into()) };
        Ok(Stop { vector: e.vector.into(), error: e.error.unwrap_or(0), cr2: e.cr2.unwrap_or(0) })
    }

    /// An INT instruction was delivered: its frame is on the kernel's stack.
    fn trap(&mut self) -> Result<Result<Stop, String>> {
        let vector = self.regs.get(PC).wrapping_sub(HANDLERS) / 16;
        if vector > 255 {
            return Ok(Ok(Stop { vector: ELSEWHERE, ..Stop::default() }));
        }
        let sp = self.regs.get(state::RSP).wrapping_sub(KERNEL);
        let mut frame = [0; 5];
        for (i, w) in frame.iter_mut().enumerate() {
            *w = self.mem.ram.load_u64(sp + 8 * i as u64).context("no frame")?;
        }
        self.regs.set(PC, frame[0]);
        self.regs.set(state::RSP, frame[3]);
        state::set_eflags(&mut self.regs, frame[2]);
        for (s, selector) in [(Seg::Cs, frame[1]), (Seg::Ss, frame[4])] {
            self.cpu.sys.seg[s as usize].selector = selector as u16;
        }
        Ok(Ok(Stop { vector: vector as u32, ..Stop::default() }))
    }

    fn leave(&mut self, stop: Stop, out: &mut Outcome) -> Result<()> {
        let regs = &*self.regs;
        let seg = |s: Seg| self.cpu.sys.seg(s);
        out.stop = stop;
        let s = &mut out.state;
        *s = State::default();
        s.gpr = std::array::from_fn(|n| regs.get(gpr(n)));
        s.rip = regs.get(PC);
        s.eflags = state::eflags(regs);
        s.base = [Seg::Fs, Seg::Gs].map(|x| regs.get(state::seg_base(x)));
        s.sel = Seg::ALL.map(|x| seg(x).selector);
        let sw = regs.get(FPU_SW) as u16;
        let top = usize::from(sw >> 11 & 7);
        s.fx.cw = regs.get(FPU_CW) as u16;
        s.fx.sw = sw;
        s.fx.tags = regs.get(FPU_TAG) as u8;
        s.fx.op = regs.get(FPU_OP) as u16;
        s.fx.ip = regs.get(FPU_IP);
        s.fx.dp = regs.get(FPU_DP);
        s.fx.mxcsr = regs.get(FPC) as u32;
        s.fx.st = std::array::from_fn(|n| regs.get128(fpr(top + n)) & (u128::MAX >> 48));
        s.fx.xmm = std::array::from_fn(|n| regs.get128(xmm(n)));
        s.ymm_upper = std::array::from_fn(|n| regs.get128(ymm_upper(n)));
        self.mem.ram.read(physical::DATA, &mut out.rw).context("outside RAM")
    }
}

fn memory() -> Result<(Memory, Arc<OwnedFd>)> {
    let len = physical::LEN;
    let layout = Layout::new(vec![Region { base: 0, len, offset: 0, kind: Kind::Ram }])?;
    let fd = Arc::new(Memfd::create("ram", len)?);
    let ram = Ram::map(fd.as_fd(), len, Access::ReadWrite)?;
    let dirty = Memfd::create("dirty", DirtyLayout::new(len).len)?;
    DirtyLog::format(dirty.as_fd(), len)?;
    Ok((Memory::new(ram, layout, DirtyLog::map(dirty.as_fd(), len)?), fd))
}

/// Selectors that the two sides must mean the same by.
pub const SELECTORS: [u16; 5] = [CS32, DS, CS64, FS32, GS32];
