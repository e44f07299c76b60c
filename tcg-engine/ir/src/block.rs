//! Lifted blocks and the builder that front ends lift into.
//!
//! A block is a straight run of operations with forward skips only; it ends in an exit. A side table of [`Point`]s maps
//! operations back to guest instructions, so that a fault in the middle is precise without any marker in the hot path.

use crate::Regs;
use crate::flags::Kind;
use crate::op::{AluOp, AluRef, FIRST_TEMP, Inst, MemRef, NONE, Op, PRIVATE, Rel, Slot};

/// Where a guest instruction begins. There are many, so they are small.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// Index of its first operation.
    pub op: u16,
    /// Its program counter less the block's.
    pub at: u16,
    /// Its length in bytes.
    pub len: u8,
}

/// A lifted block.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// The operations.
    pub insts: Vec<Inst>,
    /// Guest instructions, ascending.
    pub points: Vec<Point>,
    /// Program counter of the first instruction.
    pub pc: u64,
    /// Program counter after the last one.
    pub end_pc: u64,
    /// The word that program counters of the block, of its points and of its direct exits are counted from; without one they are
    /// what they are. So a block can be run wherever its code is mapped. Operations that want a program counter add the word.
    pub base: Option<Slot>,
}

impl Block {
    /// The guest instruction that operation `op` belongs to: its index in [`Block::points`].
    pub fn point_of(&self, op: usize) -> usize {
        self.points.partition_point(|p| p.op as usize <= op).saturating_sub(1)
    }

    /// Program counter of guest instruction `n`, counted as [`Block::base`] says; behind the last one [`Block::end_pc`].
    pub fn pc_of(&self, n: usize) -> u64 {
        self.points.get(n).map_or(self.end_pc, |p| self.pc.wrapping_add(p.at.into()))
    }

    /// What its program counters are counted from.
    #[inline(always)]
    pub fn origin(&self, regs: &Regs) -> u64 {
        self.base.map_or(0, |base| regs.get(base))
    }

    /// Number of guest instructions.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether nothing was lifted.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}

/// A forward skip that is not closed yet.
#[derive(Debug)]
#[must_use = "a skip must be closed"]
pub struct Skip(usize);

/// Builds [`Block`]s, one after the other.
#[derive(Debug)]
pub struct Builder {
    block: Block,
    next_temp: u16,
}

impl Default for Builder {
    fn default() -> Self {
        Builder::new(0)
    }
}

impl Builder {
    /// A block that starts at `pc`.
    pub fn new(pc: u64) -> Self {
        Builder { block: Block { pc, end_pc: pc, ..Block::default() }, next_temp: FIRST_TEMP }
    }

    /// Begin another block, in the memory of the one before.
    pub fn restart(&mut self, pc: u64) {
        self.block.insts.clear();
        self.block.points.clear();
        (self.block.pc, self.block.end_pc) = (pc, pc);
        self.next_temp = FIRST_TEMP;
        self.block.base = None;
    }

    /// A block whose program counters, of which `pc` is the first, are counted from what `base` holds.
    pub fn relative(pc: u64, base: Slot) -> Self {
        let mut b = Builder::new(pc);
        b.count_from(base);
        b
    }

    /// Program counters of this block are counted from what `base` holds.
    pub fn count_from(&mut self, base: Slot) {
        self.block.base = Some(base);
    }

    /// Begin guest instruction at `pc`, `len` bytes long. Temporaries do not live across instructions unless the caller
    /// holds on to them; they are not reused within a block.
    pub fn instruction(&mut self, pc: u64, len: u8) {
        let (op, at) = (self.block.insts.len(), pc.wrapping_sub(self.block.pc));
        debug_assert!(op.max(at as usize) <= u16::MAX.into(), "a block has some ten instructions");
        self.block.points.push(Point { op: op as u16, at: at as u16, len });
        self.block.end_pc = pc.wrapping_add(u64::from(len));
    }

    /// Remaining temporaries; a lifter ends the block when fewer than one instruction may need are left.
    pub fn temps_left(&self) -> usize {
        usize::from(PRIVATE - 2).saturating_sub(usize::from(self.next_temp))
    }

    /// A fresh temporary.
    pub fn temp(&mut self) -> Slot {
        let s = Slot(self.next_temp);
        // Running into what is not theirs is caught by the verifier.
        self.next_temp = (self.next_temp + 1).min(PRIVATE);
        s
    }

    /// A fresh 128-bit temporary pair (even slot).
    pub fn temp128(&mut self) -> Slot {
        self.next_temp = (self.next_temp + 1) & !1;
        let s = Slot(self.next_temp);
        self.next_temp = (self.next_temp + 2).min(PRIVATE);
        s
    }

    /// Append an operation as it is.
    pub fn push(&mut self, inst: Inst) {
        self.block.insts.push(inst);
    }

    /// Append `op d, a, b`.
    pub fn op(&mut self, op: Op, d: Slot, a: Slot, b: Slot) {
        self.push(Inst { op, aux: 0, d, a, b, imm: 0 });
    }

    /// Append `op d, a, imm`.
    pub fn op_imm(&mut self, op: Op, d: Slot, a: Slot, imm: u64) {
        self.push(Inst { op, aux: 0, d, a, b: NONE, imm });
    }

    /// Append `op.aux d, a, b, imm`.
    pub fn full(&mut self, op: Op, aux: u8, d: Slot, a: Slot, b: Slot, imm: u64) {
        self.push(Inst { op, aux, d, a, b, imm });
    }

    /// A new temporary holding `v`.
    pub fn constant(&mut self, v: u64) -> Slot {
        let t = self.temp();
        self.op_imm(Op::MovI, t, NONE, v);
        t
    }

    /// `t = a op b` in a new temporary.
    pub fn new2(&mut self, op: Op, a: Slot, b: Slot) -> Slot {
        let t = self.temp();
        self.op(op, t, a, b);
        t
    }

    /// `t = a op imm` in a new temporary.
    pub fn new_imm(&mut self, op: Op, a: Slot, imm: u64) -> Slot {
        let t = self.temp();
        self.op_imm(op, t, a, imm);
        t
    }

    /// `t = a rel b`.
    pub fn set_rel(&mut self, rel: Rel, a: Slot, b: Slot) -> Slot {
        let t = self.temp();
        self.full(Op::SetRel, rel as u8, t, a, b, 0);
        t
    }

    /// Load into `d` from `base + (index << scale) + disp`; either slot may be [`NONE`].
    pub fn load(&mut self, d: Slot, base: Slot, index: Slot, m: MemRef) {
        let op = if m.log2 == 4 { Op::Load128 } else { Op::Load };
        self.full(op, m.aux(), d, base, index, m.imm());
    }

    /// Store `value`.
    pub fn store(&mut self, value: Slot, base: Slot, index: Slot, m: MemRef) {
        let op = if m.log2 == 4 { Op::Store128 } else { Op::Store };
        self.full(op, m.aux(), value, base, index, m.imm());
    }

    /// `d = a op b` with x86 flags; `d` may be [`NONE`] for compares.
    pub fn alu(&mut self, op: AluOp, bits: u32, d: Slot, a: Slot, b: Slot) {
        self.full(Op::Alu, AluRef::new(op, bits).aux(), d, a, b, 0);
    }

    /// `d = a op imm` with x86 flags.
    pub fn alu_imm(&mut self, op: AluOp, bits: u32, d: Slot, a: Slot, imm: u64) {
        self.full(Op::Alu, AluRef::new(op, bits).aux(), d, a, NONE, imm);
    }

    /// `[addr] = [addr] op value` with x86 flags.
    pub fn alu_mem(&mut self, op: AluOp, value: Slot, base: Slot, index: Slot, m: MemRef) {
        self.full(Op::AluMem, m.aux(), value, base, index, m.pack_alu(op));
    }

    /// Record flags.
    pub fn flags(&mut self, kind: Kind, bits: u8, a: Slot, b: Slot, r: Slot) {
        self.full(Op::Flags, kind as u8, r, a, b, u64::from(bits));
    }

    /// Call helper `id`.
    pub fn call(&mut self, d: Slot, id: u16, a: Slot, b: Slot, imm: u32, flags: u8) {
        self.full(Op::Call, flags, d, a, b, u64::from(id) | u64::from(imm) << 32);
    }

    /// Skip what follows, up to [`Builder::close`], if `a` is zero.
    pub fn skip_if_zero(&mut self, a: Slot) -> Skip {
        self.op_imm(Op::SkipIfZero, NONE, a, 0);
        Skip(self.block.insts.len() - 1)
    }

    /// Skip what follows unless condition `cond` holds.
    pub fn skip_unless(&mut self, cond: crate::flags::Cond) -> Skip {
        self.full(Op::SkipUnless, cond.0, NONE, NONE, NONE, 0);
        Skip(self.block.insts.len() - 1)
    }

    /// Close a skip here.
    pub fn close(&mut self, s: Skip) {
        let n = self.block.insts.len() - s.0 - 1;
        if let Some(i) = self.block.insts.get_mut(s.0) {
            i.imm = n as u64;
        }
    }

    /// What has been appended so far.
    pub fn insts(&self) -> &[Inst] {
        &self.block.insts
    }

    /// Number of guest instructions so far.
    pub fn instructions(&self) -> usize {
        self.block.points.len()
    }

    /// Remove the current (last) guest instruction and its operations, to end the block before it.
    pub fn retract(&mut self) {
        if let Some(p) = self.block.points.pop() {
            self.block.insts.truncate(p.op as usize);
            self.block.end_pc = self.block.pc.wrapping_add(p.at.into());
        }
    }

    /// The finished block. [`Builder::restart`] follows before the next one.
    pub fn finish(&mut self) -> Block {
        // A copy, because blocks live long and should take no more than they need, and the builder keeps its memory.
        self.block.clone()
    }
}
