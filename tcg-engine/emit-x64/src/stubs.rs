//! The few routines that every block shares: into and out of emitted code, single operations, and indirect jumps.
//!
//! They are emitted once at the start of code memory. All slow paths go through [`Stubs::op`], which brings the pinned words to
//! memory, lets the interpreter run one operation, and takes them back: no block has to save anything.
//!
//! XMM registers and MXCSR are the guest's only from the first block on that wants them ([`Stubs::vectors`]), and the host's again
//! whenever something else than emitted code runs.

use ir::op::{FPC, TIER_TAG};
use ir::{PC, Slot};
use mem::tlb::Shape;

use crate::asm::{
    Alu, Asm, Map, R8, R9, R10, R11, R12, R13, R14, R15, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Reg, Shift, Sz, Vex,
    at, cc, indexed,
};
use crate::emit::INSERT_UPPER;
use crate::layout::{
    ACROSS, BANK, CODE_BASE, CONTEXT, GLOBAL_CONTEXT, HOST_MXCSR, JUMPS, PINNED, RUNTIME, TEMP, VECTORS, XMM,
    XMM_PINNED, XMM_STEP, XS, live, word,
};
use crate::memo;
use crate::mutants::{Mutant, on};

/// Why emitted code was left: bits 32 and up of what it returns; below is the site, or for the first two the offset in code memory
/// that the stub was called from (the return address).
pub mod left {
    /// A direct exit that leads nowhere yet.
    pub const DIRECT: u64 = 0;
    /// The instructions that may run are used up, at the head of a block.
    pub const BUDGET: u64 = 1;
    /// A jump that the jump cache does not know; the program counter word is set.
    pub const INDIRECT: u64 = 2;
    /// An operation has left or wants its instruction to be finished; see the runtime's outcome.
    pub const OP: u64 = 3;
    /// The rest of the block, from the site's operation on, is to be interpreted.
    pub const RESUME: u64 = 4;
}

/// Callee-saved registers of the host's calling convention.
const SAVED: [Reg; 6] = [RBX, RBP, R12, R13, R14, R15];

/// Registers that functions may change, but for RAX and RCX: an odd number, so that the stack is aligned for a call.
const SCRATCH: [Reg; 7] = [RDX, RDI, RSI, R8, R9, R10, R11];

/// log2 of the entries of the jump cache.
pub const JUMP_LOG2: u32 = 12;
/// What program counters are multiplied with for their place there: 2³² by the golden ratio. Bits that are merely put together have
/// functions that lie some pages apart meet, and every system call, or page fault, jump to both.
const JUMP_FACTOR: u32 = 0x9e37_79b1;
/// Bytes of an entry: program counter, context, address of the code, what goes to [`CODE_BASE`].
pub const JUMP_BYTES: usize = 32;
/// Where an entry has its context.
pub(crate) const JUMP_CONTEXT: i32 = 8;
/// Where it has the address of the code.
pub(crate) const JUMP_CODE: i32 = 16;
/// Where it has what goes to [`CODE_BASE`].
const JUMP_BASE: i32 = 24;

/// What stubs lead to.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    /// Address of the function behind [`Stubs::op`].
    pub op: u64,
    /// Address of the function behind [`Stubs::refill`].
    pub refill: u64,
    /// Address of the function behind [`Stubs::recall_run`].
    pub run: u64,
    /// Offset of the first memo.
    pub memos: usize,
    /// Whether the host has YMM registers.
    pub avx: bool,
}

/// Offsets in code memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stubs {
    /// `fn(rbp, code) -> left`.
    pub enter: usize,
    /// Run one operation: site in EAX; called. Vector registers are the host's afterwards.
    pub op: usize,
    /// The same for blocks that use vector registers: they are the guest's afterwards.
    pub op_vectors: usize,
    /// The same for blocks that use upper halves of YMM registers.
    pub op_wide: usize,
    /// Make vector registers the guest's, and MXCSR if it may be: called, changes RAX.
    pub vectors: usize,
    /// The same with the upper halves of YMM registers.
    pub wide: usize,
    /// Everything leaves through here, RAX saying why.
    pub leave: usize,
    /// Leave by an unlinked direct exit: called.
    pub direct: usize,
    /// Leave at a block's head: called.
    pub budget: usize,
    /// Leave to interpret the rest of the block: site in EAX.
    pub resume: usize,
    /// Ask the TLB's second level, for loads and for stores: called with RAX and RCX as a lookup that missed leaves them. If it
    /// knows the page, RAX is its addend, and ZF is set. Changes these two registers only.
    pub refill: [usize; 2],
    /// Jump to the program counter in RDX.
    pub jump: usize,
    /// Jump to the program counter in RDX, or leave by the direct exit whose call returns to the offset in EAX.
    pub across: usize,
    /// A memo misses: called with the memo in RAX and the address less the memo's page in RCX. If the TLB knows the page, the memo
    /// does afterwards, RAX is its addend, and ZF is set. For loads and for stores.
    pub recall: [usize; 2],
    /// The same for memos of runs of pages: by a function.
    pub recall_run: [usize; 2],
    /// Behind the last of them.
    pub end: usize,
}

fn save(a: &mut Asm) {
    for (s, r) in PINNED {
        a.store(Sz::Q, word(Slot(s)), r);
    }
}

fn load(a: &mut Asm) {
    for (s, r) in PINNED {
        a.mov(Sz::Q, r, word(Slot(s)));
    }
    a.mov(Sz::Q, R15, word(BANK));
}

fn xmm_words() -> impl Iterator<Item = (u8, Slot)> {
    (0..XMM_PINNED).map(|n| (n as u8, Slot(XMM + XMM_STEP * n)))
}

/// A whole YMM register from memory or to it.
const LOAD_WIDE: Vex = Vex::new(Map::Of, 0x10).wide(true);
const STORE_WIDE: Vex = Vex::new(Map::Of, 0x11).wide(true);

/// Vector registers and MXCSR become the host's. Changes no register of another kind. What is not emitted may use SSE, which is
/// slow while upper halves are not clear.
fn park(a: &mut Asm, avx: bool) {
    a.alu_imm(Alu::Cmp, Sz::D, word(VECTORS), 0);
    let nothing = a.jcc(cc::E);
    let mut both = None;
    if avx {
        a.test_imm(Sz::B, word(VECTORS), live::YMM);
        let narrow = a.jcc(cc::E);
        for (r, s) in xmm_words() {
            if !on(Mutant::UppersLost) {
                a.vex(STORE_WIDE, r, 0, word(s));
            }
        }
        a.vzeroupper();
        both = Some(a.jmp());
        a.fill_here(narrow);
    }
    for (r, s) in xmm_words() {
        if !on(Mutant::VectorsLost) {
            a.sse(Map::Of, 0x29, r, word(s).into());
        }
    }
    if let Some(both) = both {
        a.fill_here(both);
    }
    a.test_imm(Sz::B, word(VECTORS), live::MXCSR);
    let own = a.jcc(cc::E);
    if !on(Mutant::StickyLost) {
        a.stmxcsr(word(FPC));
    }
    if !on(Mutant::HostControl) {
        a.ldmxcsr(word(HOST_MXCSR));
    }
    a.fill_here(own);
    a.store_imm(Sz::D, word(VECTORS), 0);
    a.fill_here(nothing);
}

impl Stubs {
    /// Emit them, for a TLB of this shape.
    pub fn emit(a: &mut Asm, outside: Outside, tlb: Shape) -> Stubs {
        let Outside { op, refill, run, memos, avx } = outside;
        let enter = a.here();
        for r in SAVED {
            a.push(r);
        }
        a.alu_imm(Alu::Sub, Sz::Q, RSP, 8);
        a.mov(Sz::Q, RBP, RDI);
        a.mov(Sz::Q, RAX, RSI);
        load(a);
        a.jmp_indirect(RAX);

        // Everything leaves through here, RAX saying why.
        let leave = a.here();
        save(a);
        park(a, avx);
        let leave_saved = a.here();
        a.alu_imm(Alu::Add, Sz::Q, RSP, 8);
        for r in SAVED.iter().rev() {
            a.pop(*r);
        }
        a.ret();

        // Who has called is who is left.
        let direct = a.here();
        Self::caller(a);
        a.jmp_to(leave);
        let budget = a.here();
        Self::caller(a);
        Self::because(a, left::BUDGET, leave);
        let resume = a.here();
        a.store(Sz::Q, word(TEMP), R14);
        Self::because(a, left::RESUME, leave);

        let vectors = Self::vectors(a);
        let wide = if avx { Self::wide(a, vectors) } else { vectors };
        let [op_vectors, op_wide, op] = [Some(vectors), Some(wide), None].map(|refill| {
            let here = a.here();
            Self::operation(a, op, avx, leave_saved, refill);
            here
        });
        let refill = [false, true].map(|write| {
            Self::ask(a, refill, write, false, |a| {
                a.mov(Sz::Q, RSI, RCX);
                a.mov(Sz::D, RDX, RAX);
            })
        });
        let recall_run = [false, true].map(|write| {
            Self::ask(a, run, write, avx, |a| {
                a.mov(Sz::Q, RSI, RAX);
                a.mov(Sz::Q, RDX, RCX);
            })
        });
        let jump = Self::jump(a, leave, false);
        let across = Self::jump(a, leave, true);
        let recall = [false, true].map(|write| Self::recall(a, memos, tlb, write, refill[usize::from(write)]));
        let end = a.here();
        Stubs {
            enter,
            op,
            op_vectors,
            op_wide,
            vectors,
            wide,
            leave,
            direct,
            budget,
            resume,
            refill,
            jump,
            across,
            recall,
            recall_run,
            end,
        }
    }

    /// Where each one begins, by name, in the order in which they lie in code memory.
    pub fn named(&self) -> Vec<(&'static str, usize)> {
        let &Stubs {
            enter,
            op,
            op_vectors,
            op_wide,
            vectors,
            wide,
            leave,
            direct,
            budget,
            resume,
            refill: [refill_read, refill_write],
            jump,
            across,
            recall: [recall_read, recall_write],
            recall_run: [recall_run_read, recall_run_write],
            end: _,
        } = self;
        let mut list = vec![
            ("enter", enter),
            ("operation", op),
            ("operation-vectors", op_vectors),
            ("operation-wide", op_wide),
            ("vectors", vectors),
            ("leave", leave),
            ("direct", direct),
            ("budget", budget),
            ("resume", resume),
            ("refill-read", refill_read),
            ("refill-write", refill_write),
            ("jump", jump),
            ("across", across),
            ("recall-read", recall_read),
            ("recall-write", recall_write),
            ("recall-run-read", recall_run_read),
            ("recall-run-write", recall_run_write),
        ];
        // Hosts without YMM registers have one for both.
        list.extend((wide != vectors).then_some(("vectors-wide", wide)));
        list.sort_unstable_by_key(|(_, at)| *at);
        list
    }

    /// RAX: offset in code memory of the return address, which goes.
    fn caller(a: &mut Asm) {
        a.pop(RAX);
        a.near(0x8d, RCX, 0);
        a.alu(Alu::Sub, Sz::Q, RAX, RCX);
    }

    fn because(a: &mut Asm, why: u64, leave: usize) {
        a.mov_imm(RCX, why << 32);
        a.alu(Alu::Or, Sz::Q, RAX, RCX);
        a.jmp_to(leave);
    }

    /// MXCSR is the guest's only while it masks every exception: none may reach the host.
    fn vectors(a: &mut Asm) -> usize {
        let here = a.here();
        a.alu_imm(Alu::Cmp, Sz::D, word(VECTORS), 0);
        let there = a.jcc(cc::NE);
        for (r, s) in xmm_words() {
            a.sse(Map::Of, 0x28, r, word(s).into());
        }
        a.fill_here(there);
        a.alu_imm(Alu::Or, Sz::D, word(VECTORS), live::XMM);
        a.mov(Sz::D, RAX, word(FPC));
        a.alu_imm(Alu::And, Sz::D, RAX, !0xe07f);
        a.alu_imm(Alu::Cmp, Sz::D, RAX, 0x1f80);
        let unmasked = a.jcc(cc::NE);
        if !on(Mutant::Control) {
            a.ldmxcsr(word(FPC));
        }
        a.alu_imm(Alu::Or, Sz::D, word(VECTORS), live::MXCSR);
        a.fill_here(unmasked);
        if on(Mutant::Unmasked) {
            a.alu_imm(Alu::Or, Sz::D, word(VECTORS), live::MXCSR);
        }
        a.ret();
        here
    }

    /// MXCSR is left alone if it is the guest's: the word in memory lacks sticky flags.
    fn wide(a: &mut Asm, vectors: usize) -> usize {
        let here = a.here();
        a.alu_imm(Alu::Cmp, Sz::D, word(VECTORS), 0);
        let some = a.jcc(cc::NE);
        for (r, s) in xmm_words() {
            a.vex(LOAD_WIDE, r, 0, word(s));
        }
        a.store_imm(Sz::D, word(VECTORS), live::XMM | live::YMM);
        a.jmp_to(vectors);
        a.fill_here(some);
        a.test_imm(Sz::B, word(VECTORS), live::YMM);
        let there = a.jcc(cc::NE);
        for (r, s) in xmm_words() {
            if !on(Mutant::UppersOld) {
                a.vex(INSERT_UPPER, r, r, word(Slot(s.0 + 2)));
                a.byte(1);
            }
        }
        a.alu_imm(Alu::Or, Sz::D, word(VECTORS), live::YMM);
        a.fill_here(there);
        a.test_imm(Sz::B, word(VECTORS), live::MXCSR);
        let done = a.jcc(cc::NE);
        a.jmp_to(vectors);
        a.fill_here(done);
        a.ret();
        here
    }

    /// `refill` is the routine that gives the guest its vector registers back.
    fn operation(a: &mut Asm, function: u64, avx: bool, leave_saved: usize, refill: Option<usize>) {
        a.alu_imm(Alu::Sub, Sz::Q, RSP, 8);
        save(a);
        park(a, avx);
        a.store(Sz::Q, word(TEMP), R14);
        a.mov(Sz::Q, RDI, word(RUNTIME));
        a.mov(Sz::D, RSI, RAX);
        a.mov_imm(RAX, function);
        a.call_indirect(RAX);
        a.test(Sz::Q, RAX, RAX);
        let out = a.jcc(cc::NE);
        if let Some(refill) = refill {
            a.call_to(refill);
        }
        load(a);
        a.mov(Sz::Q, R14, word(TEMP));
        a.alu_imm(Alu::Add, Sz::Q, RSP, 8);
        a.ret();
        // The return address goes too.
        a.fill_here(out);
        a.alu_imm(Alu::Add, Sz::Q, RSP, 16);
        a.jmp_to(leave_saved);
    }

    fn recall(a: &mut Asm, memos: usize, tlb: Shape, write: bool, refill: usize) -> usize {
        let here = a.here();
        a.push(RDX);
        a.push(RDI);
        a.inc_dec(0, Sz::D, at(RAX, memo::REFILLS as i32));
        a.alu(Alu::Add, Sz::Q, RCX, at(RAX, memo::PAGE as i32));
        // RDX = the tag of the last byte, RDI = the offset in a table of the first.
        let place = |a: &mut Asm, shift: u8, mask: u32| {
            a.mov(Sz::D, RDX, at(RAX, memo::LAST as i32));
            a.alu(Alu::Add, Sz::Q, RDX, RCX);
            a.shift_imm(Shift::Shr, Sz::Q, RDX, shift);
            a.alu(Alu::Or, Sz::Q, RDX, word(TIER_TAG));
            a.mov(Sz::D, RDI, RCX);
            a.shift_imm(Shift::Shr, Sz::D, RDI, shift - mem::tlb::ENTRY_LOG2);
            a.alu_imm(Alu::And, Sz::D, RDI, mask.cast_signed());
        };
        let look = |a: &mut Asm, table: i32| {
            a.alu(Alu::Cmp, Sz::Q, RDX, indexed(R15, RDI, 0, table + mem::tlb::TAG_OFFSET));
            let miss = a.jcc(cc::NE);
            a.mov(Sz::Q, RDI, indexed(R15, RDI, 0, table + mem::tlb::ADDEND_OFFSET));
            miss
        };
        let large = (!write).then(|| {
            place(a, mem::tlb::WIDE_SHIFT, mem::tlb::WIDE_MASK);
            let none = look(a, tlb.wide());
            a.alu_imm(Alu::And, Sz::Q, RCX, -1 << mem::tlb::WIDE_SHIFT);
            a.mov_imm(RDX, 1 << mem::tlb::WIDE_SHIFT);
            let there = a.jmp();
            a.fill_here(none);
            there
        });
        place(a, 12, (tlb.entries() - 1) << mem::tlb::ENTRY_LOG2);
        let write = write && !on(Mutant::MemoRight);
        let miss = look(a, if write { tlb.stores() } else { 0 });
        let found = a.here();
        a.alu_imm(Alu::And, Sz::Q, RCX, -0x1000);
        a.mov_imm(RDX, 0x1000);
        if let Some(large) = large {
            a.fill_here(large);
        }
        a.store(Sz::Q, at(RAX, memo::PAGE as i32), RCX);
        a.store(Sz::Q, at(RAX, memo::ADDEND as i32), RDI);
        a.alu_imm(Alu::Cmp, Sz::Q, at(RAX, memo::ROOM as i32), 0);
        let listed = a.jcc(cc::NE);
        a.near(0x8b, RCX, memos + memo::NEXT);
        a.store(Sz::Q, at(RAX, memo::NEXT as i32), RCX);
        a.near(0x89, RAX, memos + memo::NEXT);
        a.fill_here(listed);
        if !on(Mutant::MemoEnd) {
            a.alu(Alu::Sub, Sz::D, RDX, at(RAX, memo::LAST as i32));
        }
        a.store(Sz::Q, at(RAX, memo::ROOM as i32), RDX);
        a.mov(Sz::Q, RAX, RDI);
        a.alu(Alu::Xor, Sz::D, RCX, RCX);
        let out = a.here();
        a.pop(RDI);
        a.pop(RDX);
        a.ret();
        a.fill_here(miss);
        // Three, since the stack is as before a call there.
        for r in [RAX, RCX, RCX] {
            a.push(r);
        }
        a.mov(Sz::Q, RCX, RDX);
        a.mov(Sz::D, RAX, RDI);
        a.call_to(refill);
        a.mov(Sz::Q, RDI, RAX);
        for r in [RCX, RCX, RAX] {
            a.pop(r);
        }
        let known = a.jcc(cc::E);
        a.fill(known, found);
        a.alu_imm(Alu::Or, Sz::D, RAX, 1);
        a.jmp_to(out);
        here
    }

    /// `function(runtime, RSI, RDX, write)` answers an addend, or an odd number. `arguments` sets these two from RAX and RCX. Where upper
    /// halves of YMM registers are the guest's nobody is asked, unless it is worth saving them (`uppers`).
    fn ask(a: &mut Asm, function: u64, write: bool, uppers: bool, arguments: impl Fn(&mut Asm)) -> usize {
        let here = a.here();
        for r in SCRATCH {
            a.push(r);
        }
        a.mov(Sz::Q, RDI, word(RUNTIME));
        arguments(a);
        a.mov_imm(RCX, u64::from(write));
        a.mov_imm(RAX, function);
        // Integers only touch MXCSR as little as they touch the guest's other control words.
        a.alu_imm(Alu::Cmp, Sz::D, word(VECTORS), 0);
        let vectors = a.jcc(cc::NE);
        a.call_indirect(RAX);
        let back = a.here();
        a.test_imm(Sz::B, RAX, 1);
        for r in SCRATCH.iter().rev() {
            a.pop(*r);
        }
        if on(Mutant::Scratch) {
            // By one, since it may be the address of an access, which is not looked at again.
            a.lea(Sz::Q, R9, at(R9, 1));
        }
        a.ret();
        a.fill_here(vectors);
        a.test_imm(Sz::B, word(VECTORS), live::YMM);
        let narrow = a.jcc(cc::E);
        if uppers {
            let all = || (0..16).map(|n| (n, at(RSP, 32 * i32::from(n))));
            a.alu_imm(Alu::Sub, Sz::Q, RSP, 512);
            for (r, place) in all() {
                a.vex(STORE_WIDE, r, 0, place);
            }
            a.vzeroupper();
            a.call_indirect(RAX);
            for (r, place) in all() {
                if on(Mutant::ScratchUppers) {
                    a.sse(Map::Of, 0x28, r, place.into());
                } else {
                    a.vex(LOAD_WIDE, r, 0, place);
                }
            }
            a.alu_imm(Alu::Add, Sz::Q, RSP, 512);
        } else {
            // The function may change upper halves; whoever runs the operation saves them.
            a.mov_imm(RAX, 1);
        }
        a.jmp_to(back);
        a.fill_here(narrow);
        let all = || (0..16).map(|n| (n, at(RSP, 16 * i32::from(n))));
        a.alu_imm(Alu::Sub, Sz::Q, RSP, 256);
        for (r, place) in all() {
            a.sse(Map::Of, 0x29, r, place.into());
        }
        a.call_indirect(RAX);
        for (r, place) in all() {
            let r = if on(Mutant::ScratchVectors) { XS.0 } else { r };
            a.sse(Map::Of, 0x28, r, place.into());
        }
        a.alu_imm(Alu::Add, Sz::Q, RSP, 256);
        a.jmp_to(back);
        here
    }

    fn jump(a: &mut Asm, leave: usize, direct: bool) -> usize {
        let here = a.here();
        if direct {
            a.store(Sz::D, word(ACROSS), RAX);
        }
        find_jump(a);
        let other = a.jcc(cc::NE);
        a.mov(Sz::Q, RCX, at(RAX, JUMP_CONTEXT));
        a.alu(Alu::Cmp, Sz::Q, RCX, word(GLOBAL_CONTEXT));
        let local = a.jcc(cc::NE);
        // Blocks that want to know where they are mapped are never found this way.
        a.jmp_indirect(at(RAX, JUMP_CODE));
        a.fill_here(local);
        a.alu(Alu::Cmp, Sz::Q, RCX, word(CONTEXT));
        let miss = a.jcc(cc::NE);
        follow_jump(a);
        a.fill_here(miss);
        a.fill_here(other);
        if direct {
            const { assert!(left::DIRECT == 0) };
            a.mov(Sz::D, RAX, word(ACROSS));
        } else {
            a.store(Sz::Q, word(PC), RDX);
            a.mov_imm(RAX, left::INDIRECT << 32);
        }
        a.jmp_to(leave);
        here
    }
}

/// RAX: the entry of the jump cache for the program counter in RDX; whether it is that one's is compared.
pub(crate) fn find_jump(a: &mut Asm) {
    a.imul_imm(Sz::D, RAX, RDX, JUMP_FACTOR.cast_signed());
    let entry = JUMP_BYTES.trailing_zeros();
    a.shift_imm(Shift::Shr, Sz::D, RAX, (32 - JUMP_LOG2 - entry) as u8);
    a.alu_imm(Alu::And, Sz::D, RAX, ((1 << JUMP_LOG2) - 1) << entry);
    a.alu(Alu::Add, Sz::Q, RAX, word(JUMPS));
    a.alu(Alu::Cmp, Sz::Q, RDX, at(RAX, 0));
}

/// Go where the entry in RAX leads, to a block that may want to know where it is mapped.
pub(crate) fn follow_jump(a: &mut Asm) {
    if !on(Mutant::Base) {
        a.mov(Sz::Q, RCX, at(RAX, JUMP_BASE));
        a.store(Sz::Q, word(CODE_BASE), RCX);
    }
    a.jmp_indirect(at(RAX, JUMP_CODE));
}

/// Index of a program counter in the jump cache.
pub fn jump_index(pc: u64) -> usize {
    ((pc as u32).wrapping_mul(JUMP_FACTOR) >> (32 - JUMP_LOG2)) as usize
}

#[cfg(test)]
mod tests {
    use super::jump_index;

    /// As far apart as two that Linux calls in each page fault; a kernel lies at another multiple of 2 MiB at each boot.
    #[test]
    fn functions_some_pages_apart_seldom_meet() {
        let meet = |n: &u64| {
            let kernel = 0xffff_ffff_8000_0000 + (n << 21);
            jump_index(kernel + 0x18_9a9b) == jump_index(kernel + 0x18_7a95)
        };
        assert!((0..512).filter(meet).count() < 8);
    }
}
