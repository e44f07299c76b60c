//! Plans against the interpreter: random loops are run round by round, and each access must lie where the plan says.

use ir::op::{BulkOp, BulkRef, Inst, MemRef, NONE, Op};
use ir::t0;
use ir::{AluOp, AluRef, AtomicOp, Block, Builder, Env, Regs, Slot, Stop, Then};

use crate::{Group, Rounds};

/// Memory that takes everything and gives what depends on the address; it notes where accesses go.
#[derive(Default)]
struct Noted(Vec<(u64, u64, bool)>);

impl Noted {
    fn note(&mut self, addr: u64, m: MemRef, write: bool) -> u64 {
        self.0.push((addr, m.bytes(), write));
        addr.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Env for Noted {
    fn load(&mut self, addr: u64, m: MemRef) -> Result<u64, Stop> {
        Ok(self.note(addr, m, false))
    }
    fn store(&mut self, addr: u64, m: MemRef, _: u64) -> Result<(), Stop> {
        self.note(addr, m, true);
        Ok(())
    }
    fn load128(&mut self, addr: u64, m: MemRef) -> Result<u128, Stop> {
        Ok(self.note(addr, m, false).into())
    }
    fn store128(&mut self, addr: u64, m: MemRef, _: u128) -> Result<(), Stop> {
        self.note(addr, m, true);
        Ok(())
    }
    fn atomic(&mut self, _: u64, _: MemRef, _: AtomicOp, _: u64) -> Result<(u64, Then), Stop> {
        Err(Stop::Fault)
    }
    fn cas(&mut self, _: u64, _: MemRef, _: u64, _: u64) -> Result<(u64, Then), Stop> {
        Err(Stop::Fault)
    }
    fn cas128(&mut self, _: u64, _: MemRef, _: u128, _: u128) -> Result<(u128, Then), Stop> {
        Err(Stop::Fault)
    }
    fn load_exclusive(&mut self, _: u64, _: MemRef) -> Result<u64, Stop> {
        Err(Stop::Fault)
    }
    fn store_exclusive(&mut self, _: u64, _: MemRef, _: u64) -> Result<(bool, Then), Stop> {
        Err(Stop::Fault)
    }
    fn clear_exclusive(&mut self) {}
    fn bulk(&mut self, _: BulkOp, _: u64, _: u64, _: u64, _: BulkRef) -> Result<(u64, Then), Stop> {
        Err(Stop::Fault)
    }
    fn call(&mut self, _: &mut Regs, _: u16, _: u64, _: u64, _: u32) -> Result<(u64, Then), Stop> {
        Err(Stop::Fault)
    }
    fn raise(&mut self, _: u8, _: u64) {}
    fn raise_fp(&mut self, _: u32) {}
}

/// A small generator; the sequence is the same at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % n
    }

    /// A guest's word: there are few, so that they meet.
    fn word(&mut self) -> Slot {
        Slot(8 + self.below(6) as u16)
    }

    fn distance(&mut self) -> u64 {
        (self.below(0x100) as i64 - 0x80).cast_unsigned()
    }
}

const HEAD: u64 = 0x1000;

fn put(b: &mut Builder, op: Op, aux: u8, (d, x, y): (Slot, Slot, Slot), imm: u64) {
    b.full(op, aux, d, x, y, imm);
}

/// One operation. Temporaries are written before they are read: `temp` is the last one.
fn one(r: &mut Random, b: &mut Builder, temp: &mut Slot) {
    let (d, a, c) = (r.word(), r.word(), r.word());
    let source = if r.below(4) == 0 && *temp != NONE { *temp } else { a };
    let to = if r.below(4) == 0 { b.temp() } else { d };
    let m = MemRef { disp: r.distance() as i32, scale: r.below(4) as u8, ..MemRef::new(r.below(4) as u8) };
    let index = if r.below(2) == 0 { NONE } else { c };
    let imm = r.distance();
    match r.below(10) {
        0 => put(b, Op::Mov, 0, (to, source, NONE), 0),
        1 => put(b, Op::Add64I, 0, (to, source, NONE), imm),
        2 => put(b, Op::Sub64I, 0, (to, source, NONE), imm),
        3 => put(b, Op::Lea, 0, (to, source, NONE), imm),
        4 => {
            let op = [AluOp::Inc, AluOp::Dec, AluOp::Add, AluOp::Sub, AluOp::Cmp, AluOp::And][r.below(6) as usize];
            let bits = if r.below(4) == 0 { 32 } else { 64 };
            let d = if op.compares() { NONE } else { a };
            return put(b, Op::Alu, AluRef::new(op, bits).aux(), (d, a, NONE), imm);
        }
        5 if r.below(4) == 0 => put(b, Op::Add64, 0, (to, source, c), 0),
        6 | 7 => put(b, Op::Load, m.aux(), (to, source, index), m.imm()),
        _ => return put(b, Op::Store, m.aux(), (d, source, index), m.imm()),
    }
    if to.is_temp() {
        *temp = to;
    }
}

/// A loop with a way out in its middle or none, with something that may be skipped or not.
fn a_loop(r: &mut Random) -> Block {
    let mut b = Builder::new(HEAD);
    for n in 0..1 + r.below(6) {
        b.instruction(HEAD + 4 * n, 4);
        let mut temp = NONE;
        for _ in 0..r.below(3) {
            one(r, &mut b, &mut temp);
        }
        match r.below(12) {
            0 => {
                let (d, c) = (r.word(), r.word());
                put(&mut b, Op::SkipIfZero, 0, (NONE, c, NONE), 1);
                put(&mut b, Op::Add64I, 0, (d, d, NONE), 8);
            }
            1 => put(&mut b, Op::ExitCond, r.below(16) as u8, (NONE, NONE, NONE), HEAD + 0x800),
            _ => {}
        }
    }
    let back = r.below(3) > 0;
    if back {
        put(&mut b, Op::ExitCond, r.below(16) as u8, (NONE, NONE, NONE), HEAD);
        if r.below(4) == 0 {
            one(r, &mut b, &mut NONE.clone());
        }
    }
    put(&mut b, Op::Exit, 0, (NONE, NONE, NONE), if back { HEAD + 0x40 } else { HEAD });
    b.finish()
}

/// Where a group's addresses begin, by what words hold at the head of the first round.
fn beginning(g: &Group, regs: &Regs) -> u64 {
    let index = g.index.map_or(0, |(word, shift)| regs.get(word) << shift);
    regs.get(g.base).wrapping_add(index).wrapping_add(i64::from(g.low).cast_unsigned())
}

/// Run a loop; how many accesses of groups, of which fixed ones, were looked at.
fn follow(r: &mut Random, block: &Block, rounds: &Rounds) -> (u32, u32) {
    let mut regs = Regs::default();
    for n in 8..24 {
        regs.set(Slot(n), r.below(1 << 40) << 4);
    }
    let from: Vec<u64> = rounds.groups.iter().map(|g| beginning(g, &regs)).collect();
    let bases: Vec<u64> = rounds.groups.iter().map(|g| regs.get(g.base)).collect();
    let (mut seen, mut fixed) = (0, 0);
    for round in 0..12_u64 {
        let mut op = 0;
        while op < block.insts.len() {
            let x: &Inst = &block.insts[op];
            let mut env = Noted::default();
            let before = regs.clone();
            let step = t0::step(block, op, &mut regs, &mut env);
            if let Some(access) = rounds.access(op) {
                let g = &rounds.groups[usize::from(access.group)];
                let moved = round.wrapping_mul(i64::from(g.step).cast_unsigned());
                let start = from[usize::from(access.group)].wrapping_add(moved);
                let [(addr, bytes, write)] = env.0[..] else { panic!("an access is one: {x:?}") };
                let at = addr.wrapping_sub(start);
                assert!(at < u64::from(g.bytes) && at + bytes <= u64::from(g.bytes), "{round} {op} {g:?} {block:?}");
                assert!(g.write || !write);
                if g.fixed {
                    let base = bases[usize::from(access.group)];
                    let index = access.index.map_or(0, |(word, shift)| before.get(word) << shift);
                    let there = base.wrapping_add(index).wrapping_add(i64::from(access.ahead).cast_unsigned());
                    assert_eq!(there, addr, "{round} {op} {g:?} {block:?}");
                    fixed += 1;
                }
                seen += 1;
            }
            match (x.op, step) {
                (Op::SkipIfZero, _) if before.get(x.a) == 0 => op += x.imm as usize,
                (Op::Exit, _) => break,
                (Op::ExitCond, t0::Step::Left(_)) if x.imm == HEAD => break,
                (Op::ExitCond, t0::Step::Left(_)) => return (seen, fixed),
                _ => {}
            }
            op += 1;
        }
        if block.insts.get(op).is_some_and(|x| x.imm != HEAD) {
            break;
        }
    }
    (seen, fixed)
}

#[test]
fn accesses_lie_where_the_plan_says() {
    let mut r = Random(0x1234_5678_9abc_def1);
    let (mut loops, mut seen, mut fixed) = (0, 0, 0);
    for _ in 0..40_000 {
        let block = a_loop(&mut r);
        let Some(rounds) = Rounds::of(&block) else { continue };
        assert!(rounds.accesses.is_sorted_by_key(|a| a.op));
        loops += u32::from(!rounds.groups.is_empty());
        let (some, of_these) = follow(&mut r, &block, &rounds);
        seen += some;
        fixed += of_these;
    }
    assert!(loops > 10_000 && seen > 50_000 && fixed > 5_000, "{loops} {seen} {fixed}");
}
