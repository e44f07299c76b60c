//! From guest bytes to a block: fetch, decode, look at flag liveness, and lift each instruction.
//!
//! The idea: a block is decoded as a whole first, so that each instruction knows which of its flags anybody can still see; then
//! one match on the mnemonic sends it to the file of its kind. A lifting function answers `None` for what it does not know,
//! and what nobody knows raises #UD, so nothing works by accident. The crate's description says how to add an instruction.

mod alu;
mod atomic;
mod bcd;
mod bits;
mod bmi;
mod dispatch;
mod flow;
mod fpstate;
mod io;
mod live;
mod mov;
mod muldiv;
pub(crate) mod operand;
mod segments;
mod shift;
mod simd;
mod sse;
mod stack;
mod string;
mod system;
mod vector;
mod vector_mov;
mod vex;
mod x87;

pub(crate) use vector::string_call;
pub(crate) use vector_mov::mask_call;
pub(crate) use vex::lane_call;

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};
use ir::{Block, Builder, NONE, Op, Regs, Slot, Stop};
use mem::{PAGE, PAGE_MASK};

use crate::bus::{Bus, Order};
use crate::cpu::Cpu;
use crate::exception;
use crate::helpers::Helper;
use crate::memory::{Right, Target};
use crate::mode::Mode;
use crate::state::{CODE_BASE, Seg};
use operand::Ea;

/// Most guest instructions in a block.
pub const MAX_INSTRUCTIONS: usize = 32;
/// The same if it is hot: many a loop is longer, and only one of one block keeps its words in registers.
pub const HOT_INSTRUCTIONS: usize = 64;
/// Longest instruction (SDM vol. 2A, 2.3.11).
const MAX_LENGTH: usize = 15;
/// Bytes fetched for a block that needs them.
const WINDOW: usize = 256;
/// Bytes fetched at first: few blocks are longer.
const FIRST: usize = 64;
/// Times that a block is lifted again because its bytes have changed meanwhile.
const TRIES: usize = 64;
/// Temporaries that one instruction may need.
const TEMPS: usize = 48;
/// Conditional jumps that a hot block goes on behind.
const SIDES: u32 = 3;

/// What follows a lifted instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// The next instruction, in the same block.
    Next,
    /// It has emitted its exits.
    End,
}

/// Result of a lifting function: `None` if the instruction is not one of its own (in the end: #UD).
pub(crate) type Lifted = Option<Flow>;

/// A lifted block with what the cache needs to know.
#[derive(Debug)]
pub struct Lift {
    /// The operations.
    pub block: Block,
    /// Its key.
    pub key: code::Key,
    /// Length in bytes.
    pub len: u32,
    /// RAM offset of the second page, for an instruction that straddles pages.
    pub second: Option<u64>,
}

/// Memory that one block after the other is lifted in.
#[derive(Debug)]
pub(crate) struct Scratch {
    builder: Builder,
    decoded: [Instruction; HOT_INSTRUCTIONS],
    window: Window,
}

impl Default for Scratch {
    fn default() -> Self {
        let window = Window { bytes: [0; WINDOW], len: 0, more: 0, at: 0, second: None };
        Scratch { builder: Builder::default(), decoded: [Instruction::default(); HOT_INSTRUCTIONS], window }
    }
}

/// Lifts the instructions of one block.
pub(crate) struct Lifter {
    /// The block.
    pub b: Builder,
    /// What it is lifted for.
    pub mode: Mode,
    /// Current instruction.
    pub i: Instruction,
    /// Its program counter, as [`Mode::counted`] has it.
    pub pc: u64,
    /// Program counter behind it, counted the same way.
    pub next: u64,
    /// `RflagsBits` that are visible after it.
    live: u32,
    /// Another instruction follows in this block, whatever this one is.
    followed: bool,
    /// This was STI: the block ends behind the next instruction, where interrupts that wait are taken.
    opened: bool,
    /// Memory operand of the current instruction, once computed.
    ea: Option<Ea>,
    /// What POP has added to RSP before its memory operand's address counts.
    pop_bias: i64,
    /// Slots known to have zeros above bit 31.
    clean: [u64; ir::op::WORDS / 64],
}

/// Options: what is not in the CPU model decodes as it did before it was invented.
const fn options(mode: Mode) -> u32 {
    let counts = DecoderOptions::NO_MPFX_0FBC | DecoderOptions::NO_MPFX_0FBD;
    DecoderOptions::NO_WBNOINVD | if mode.contains(Mode::LEVEL3) { 0 } else { counts }
}

impl Lifter {
    fn new(mut b: Builder, pc: u64, mode: Mode) -> Self {
        b.restart(pc);
        if mode.relative() {
            b.count_from(CODE_BASE);
        }
        Lifter {
            b,
            mode,
            i: Instruction::default(),
            pc,
            next: pc,
            live: 0,
            followed: false,
            opened: false,
            ea: None,
            pop_bias: 0,
            clean: [0; ir::op::WORDS / 64],
        }
    }

    /// 64-bit code.
    pub(crate) fn code64(&self) -> bool {
        self.mode.contains(Mode::CODE64)
    }

    /// Whether any flag that the current instruction changes can be seen after it.
    pub(crate) fn flags_live(&self) -> bool {
        self.i.rflags_modified() & self.live != 0
    }

    /// A program counter that counts as this instruction's does, in a slot as the guest has it.
    pub(crate) fn absolute(&mut self, pc: u64) -> Slot {
        if !self.mode.relative() {
            return self.constant(pc);
        }
        let t = self.b.temp();
        self.absolute_into(t, pc);
        t
    }

    /// The same in slot `d`.
    pub(crate) fn absolute_into(&mut self, d: Slot, pc: u64) {
        if self.mode.relative() {
            self.b.op_imm(Op::Add64I, d, CODE_BASE, pc);
        } else {
            self.b.op_imm(Op::MovI, d, NONE, pc);
        }
    }

    /// Emit a call of helper `h`; its flags come from the helper table.
    pub(crate) fn call(&mut self, d: Slot, h: Helper, a: Slot, b: Slot, imm: u32) {
        let flags = h.info().flags;
        self.b.call(d, h as u16, a, b, imm, flags);
        if flags & ir::op::call_flags::WRITES_STATE != 0 {
            self.clean = [0; ir::op::WORDS / 64];
        }
    }

    /// A helper that gives a value.
    pub(crate) fn call_value(&mut self, h: Helper, a: Slot, b: Slot, imm: u32) -> Slot {
        let d = self.b.temp();
        self.call(d, h, a, b, imm);
        d
    }

    /// Leave the block behind this instruction.
    pub(crate) fn exit_next(&mut self) -> Lifted {
        let next = self.next;
        self.exit(next)
    }

    /// Leave the block to `target`.
    pub(crate) fn exit(&mut self, target: u64) -> Lifted {
        self.b.full(Op::Exit, 0, NONE, NONE, NONE, target);
        Some(Flow::End)
    }

    /// Leave the block to where a helper has set the program counter.
    pub(crate) fn exit_pc(&mut self) -> Lifted {
        self.b.full(Op::ExitReg, 0, NONE, ir::PC, NONE, 0);
        Some(Flow::End)
    }

    /// Leave the block behind this instruction with an event.
    pub(crate) fn exit_event(&mut self, event: u8) -> Lifted {
        let next = self.next;
        self.b.full(Op::ExitEvent, event, NONE, NONE, NONE, next);
        Some(Flow::End)
    }

    /// Raise an exception without error code, or with error code 0.
    pub(crate) fn raise(&mut self, vector: u8) -> Lifted {
        self.b.full(Op::Raise, vector, NONE, NONE, NONE, 0);
        Some(Flow::End)
    }

    fn begin(&mut self, i: &Instruction, live: u32) {
        self.i = *i;
        self.pc = i.ip();
        self.next = i.next_ip();
        if !self.code64() {
            self.next &= 0xffff_ffff;
        }
        self.live = live;
        self.ea = None;
        self.pop_bias = 0;
        self.b.instruction(self.pc, i.len() as u8);
    }

    /// Lift one decoded instruction.
    fn lift_one(&mut self, i: &Instruction, live: u32) -> Flow {
        self.begin(i, live);
        match dispatch::lift(self) {
            Some(flow) => flow,
            None => {
                // Nothing of a refused instruction may stay.
                self.b.retract();
                self.begin(i, live);
                self.raise(exception::UD);
                Flow::End
            }
        }
    }
}

/// What was fetched.
#[derive(Debug)]
struct Window {
    bytes: [u8; WINDOW],
    len: usize,
    /// Bytes that may be fetched behind them.
    more: usize,
    /// RAM offset of the first byte.
    at: u64,
    /// RAM offset of the second page if it was needed.
    second: Option<u64>,
}

impl<B: Bus> Cpu<B> {
    /// Lift the block at the current program counter and mode, at most `max` instructions; `far` if it is worth going on behind
    /// conditional jumps.
    ///
    /// # Errors
    /// [`Stop::Fault`] with an exception pending: the fetch of its first instruction faults.
    pub fn lift(&mut self, regs: &Regs, max: usize, far: bool) -> Result<Lift, Stop> {
        let mut scratch = self.scratch.take().unwrap_or_default();
        let lifted = self.lift_in(&mut scratch, regs, max, far);
        self.scratch = Some(scratch);
        lifted
    }

    fn lift_in(&mut self, scratch: &mut Scratch, regs: &Regs, max: usize, far: bool) -> Result<Lift, Stop> {
        let mut lift = self.lift_once(scratch, regs, max, far)?;
        // Once the lines are known no vCPU changes them while this one is at it; a process outside may, and gets what it deserves.
        for _ in 0..TRIES {
            if self.note_code(&lift, &scratch.window) {
                break;
            }
            lift = self.lift_once(scratch, regs, max, far)?;
        }
        Ok(lift)
    }

    fn lift_once(&mut self, scratch: &mut Scratch, regs: &Regs, max: usize, far: bool) -> Result<Lift, Stop> {
        let pc = regs.get(ir::PC);
        let mut mode = self.mode();
        if max == 1 {
            mode |= Mode::ONE;
        }
        let Scratch { builder, decoded: list, window } = scratch;
        self.fetch(window, self.linear_pc(regs), pc)?;
        let pc = mode.counted(pc);
        let mut so_far = SoFar { n: 0, position: 0, sides: if far { SIDES } else { 0 } };
        let room = &mut list[..max.clamp(1, HOT_INSTRUCTIONS)];
        if decode(window, pc, mode, room, &mut so_far) == Decoded::Short {
            self.fetch_more(window)?;
            decode(window, pc, mode, room, &mut so_far);
        }
        let mut n = so_far.n;
        if n == 0 {
            // Nothing complete: the first instruction straddles two pages, is too long, or is invalid.
            n = self.decode_first(window, regs, mode, &mut list[0])?;
        }
        let live = live::after(&list[..n]);
        let mut l = Lifter::new(std::mem::take(builder), pc, mode);
        let mut flow = Flow::Next;
        for (at, (i, live)) in list[..n].iter().zip(&live).enumerate() {
            if l.b.temps_left() < TEMPS || !self.in_code_segment(i, mode) {
                break;
            }
            let next = list[..n].get(at + 1);
            l.followed = l.b.temps_left() >= 2 * TEMPS && next.is_some_and(|next| self.in_code_segment(next, mode));
            let opened = l.opened;
            flow = l.lift_one(i, *live);
            if flow == Flow::End || opened {
                break;
            }
        }
        if l.b.instructions() == 0 {
            return self.gp(0);
        }
        if flow == Flow::Next {
            let next = l.next;
            l.exit(next);
        }
        let block = l.b.finish();
        *builder = l.b;
        debug_assert_eq!(ir::verify::verify(&block), Ok(()), "lifted from {:x?}", &window.bytes[..16]);
        let len = block.end_pc.wrapping_sub(pc) as u32 & 0xffff;
        let key = code::Key { at: window.at, pc, mode: mode.bits() };
        Ok(Lift { block, key, len, second: window.second })
    }

    /// Note which lines a block is made from, and answer whether its bytes are what they were when it was lifted.
    fn note_code(&self, lift: &Lift, window: &Window) -> bool {
        let len = u64::from(lift.len).min(WINDOW as u64);
        let first = (PAGE - (window.at & PAGE_MASK)).min(len);
        let parts = [(Some(window.at), 0, first), (window.second, first, len - first)];
        parts.into_iter().all(|(at, from, n)| {
            let (Some(at), mut now) = (at, [0; WINDOW]) else { return n == 0 };
            let now = &mut now[..n as usize];
            self.mem.code.add(at, n, self.number)
                && self.mem.ram.read(at, now).is_some()
                && *now == window.bytes[from as usize..(from + n) as usize]
        })
    }

    /// Whether an instruction lies within CS. Flat code segments have no end.
    fn in_code_segment(&self, i: &Instruction, mode: Mode) -> bool {
        mode.contains(Mode::FLAT) || i.ip() + (i.len() as u64).max(1) - 1 <= u64::from(self.sys.seg(Seg::Cs).limit)
    }

    /// Whether a cached block of `len` bytes may be entered at the current program counter: outside of flat code the limit
    /// may have changed since it was lifted.
    #[inline(always)]
    pub fn may_enter(&self, pc: u64, len: u64) -> bool {
        self.mode.contains(Mode::FLAT) || pc.saturating_add(len - 1) <= u64::from(self.sys.seg(Seg::Cs).limit)
    }

    /// RAM offset of the code byte at linear address `va`, for looking a block up; walks if the TLB does not know.
    ///
    /// # Errors
    /// [`Stop::Fault`] with an exception pending.
    pub fn code_at(&mut self, va: u64) -> Result<u64, Stop> {
        if let Some(at) = self.tlb.exec(va) {
            return Ok(at);
        }
        if self.sys.long_mode() && !Self::canonical(va) {
            return self.gp(0);
        }
        match self.find(va, Right::Exec)? {
            Target::Ram(at) | Target::Rom(at) => Ok(at),
            // An empty bus reads as ones: FF FF is no instruction.
            Target::Device(_) => self.ud(),
        }
    }

    fn fetch(&mut self, w: &mut Window, linear: u64, pc: u64) -> Result<(), Stop> {
        // Outside of flat code the limit is looked at before the page.
        if !self.mode.contains(Mode::FLAT) && pc > u64::from(self.sys.seg(Seg::Cs).limit) {
            return self.gp(0);
        }
        let at = self.code_at(linear)?;
        self.claim_code(at);
        let most = (PAGE - (linear & PAGE_MASK)).min(WINDOW as u64) as usize;
        let len = most.min(FIRST);
        (w.len, w.more, w.at, w.second) = (len, most - len, at, None);
        if len < MAX_LENGTH {
            w.bytes[len..MAX_LENGTH].fill(0);
        }
        if self.mem.ram.read(at, &mut w.bytes[..len]).is_none() {
            return self.ud();
        }
        Ok(())
    }

    /// The block goes on behind what was fetched.
    #[cold]
    fn fetch_more(&mut self, w: &mut Window) -> Result<(), Stop> {
        let from = w.len;
        w.len += std::mem::take(&mut w.more);
        // What has been decoded already stays as it was read: whether it still is so is asked once the block is made.
        if self.mem.ram.read(w.at + from as u64, &mut w.bytes[from..w.len]).is_none() {
            return self.ud();
        }
        Ok(())
    }

    /// Before the bytes of a page are read as code: nobody has a write tag for it from now on.
    fn claim_code(&mut self, at: u64) {
        let at = at & !PAGE_MASK;
        let Some(writers) = self.mem.code.claim(&self.mem.marks, at, self.number) else { return };
        let me = 1 << self.number;
        if writers & me != 0 {
            self.tlb.protect(at);
        }
        if writers & !me != 0 {
            self.order(writers & !me, Order::Protect(at));
        }
        self.mem.code.settle(at);
    }

    /// The first instruction did not fit into the window's page, or is none.
    fn decode_first(&mut self, w: &mut Window, regs: &Regs, mode: Mode, out: &mut Instruction) -> Result<usize, Stop> {
        let pc = mode.counted(regs.get(ir::PC));
        let have = w.len.min(MAX_LENGTH);
        let (mut i, mut error) = decode_one(&w.bytes[..have], pc, mode);
        if error == DecoderError::NoMoreBytes && have < MAX_LENGTH {
            let linear = self.linear_pc(regs);
            let next = self.fold(linear.wrapping_add(have as u64));
            let at = self.code_at(next)?;
            self.claim_code(at);
            let more = MAX_LENGTH - have;
            if self.mem.ram.read(at, &mut w.bytes[have..have + more]).is_none() {
                return self.ud();
            }
            (i, error) = decode_one(&w.bytes[..MAX_LENGTH], pc, mode);
            w.second = Some(at);
        }
        if error != DecoderError::None && too_long(&w.bytes[..w.len.max(MAX_LENGTH)], pc, mode) {
            return self.gp(0);
        }
        *out = i;
        Ok(1)
    }
}

fn decode_one(bytes: &[u8], pc: u64, mode: Mode) -> (Instruction, DecoderError) {
    let mut d = Decoder::with_ip(mode.width(), bytes, pc, options(mode));
    let i = d.decode();
    (i, d.last_error())
}

/// Whether bytes that are no instruction would be one if it could be longer: a byte before the most that it may have they are
/// only incomplete.
fn too_long(bytes: &[u8], pc: u64, mode: Mode) -> bool {
    bytes.len() >= MAX_LENGTH && decode_one(&bytes[..MAX_LENGTH - 1], pc, mode).1 == DecoderError::NoMoreBytes
}

/// How far a block has been decoded.
struct SoFar {
    /// Instructions.
    n: usize,
    /// Their bytes.
    position: usize,
    /// Conditional jumps that it still goes on behind.
    sides: u32,
}

/// How decoding has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decoded {
    /// With the block.
    Done,
    /// Bytes behind what was fetched are needed to tell.
    Short,
}

/// Decode up to the end of `out`, the end of the bytes or the end of the block. An invalid instruction is decoded as such
/// (it becomes #UD); an incomplete one is left out.
fn decode(w: &Window, pc: u64, mode: Mode, out: &mut [Instruction], so_far: &mut SoFar) -> Decoded {
    let ip = pc.wrapping_add(so_far.position as u64);
    let rest = &w.bytes[so_far.position..w.len];
    let mut d = Decoder::with_ip(mode.width(), rest, ip, options(mode));
    while so_far.n < out.len() {
        if w.more != 0 && rest.len() - d.position() < MAX_LENGTH {
            so_far.position += d.position();
            return Decoded::Short;
        }
        if !d.can_decode() {
            break;
        }
        let last = &mut out[so_far.n];
        d.decode_out(last);
        match d.last_error() {
            DecoderError::None => so_far.n += 1,
            DecoderError::NoMoreBytes => break,
            // Not the first: it gets a block of its own.
            _ if so_far.n > 0 => break,
            // Its length is what iced has read; only the first byte counts for a #UD.
            _ if !too_long(&w.bytes[..w.len], pc, mode) => {
                so_far.n += 1;
                break;
            }
            _ => break,
        }
        if live::ends_block(last) {
            if so_far.sides == 0 || !live::goes_on(last) {
                break;
            }
            so_far.sides -= 1;
        }
    }
    Decoded::Done
}
