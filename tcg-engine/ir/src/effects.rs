//! What an operation reads, writes and may do: the one table that the verifier, liveness and every emitter share.

use crate::op::{AluRef, BulkRef, FLAG_A, FLAG_B, FLAG_KIND, FLAG_R, FPC, FpRef, Inst, NONE, Op, PC, Slot, call_flags};

/// Effects of one operation on the register file and on control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effects {
    /// Words read; unused entries are [`NONE`]. Pairs name both words.
    pub reads: [Slot; 7],
    /// Words written.
    pub writes: [Slot; 5],
    /// May end the instruction before its effect (fault, restart).
    pub may_stop: bool,
    /// Leaves the block, always.
    pub ends: bool,
    /// May leave the block.
    pub may_leave: bool,
    /// Reads or writes any guest word beyond those named.
    pub reads_state: bool,
    /// See `reads_state`.
    pub writes_state: bool,
    /// Guest words may have been written before although this operation may stop.
    pub restartable: bool,
}

const NOTHING: Effects = Effects {
    reads: [NONE; 7],
    writes: [NONE; 5],
    may_stop: false,
    ends: false,
    may_leave: false,
    reads_state: false,
    writes_state: false,
    restartable: false,
};

const FLAG_WORDS: [Slot; 4] = [FLAG_KIND, FLAG_A, FLAG_B, FLAG_R];

const fn high(s: Slot) -> Slot {
    if s.0 == NONE.0 { NONE } else { Slot(s.0 | 1) }
}

fn alu(x: &Inst) -> Effects {
    let [f0, f1, f2, f3] = if AluRef::unpack(x.aux).op.reads_flags() { FLAG_WORDS } else { [NONE; 4] };
    let [k, a, b, r] = FLAG_WORDS;
    Effects { reads: [x.a, x.b, f0, f1, f2, f3, NONE], writes: [k, a, b, r, x.d], ..NOTHING }
}

/// The effects of `x`.
pub fn effects(x: &Inst) -> Effects {
    let n = NONE;
    let with =
        |reads: [Slot; 7], [w0, w1, w2, w3]: [Slot; 4]| Effects { reads, writes: [w0, w1, w2, w3, NONE], ..NOTHING };
    match x.op {
        Op::MovI => with([n; 7], [x.d, n, n, n]),
        Op::Mov128 => with([x.a, high(x.a), n, n, n, n, n], [x.d, high(x.d), n, n]),
        Op::Select => with([x.a, x.b, Slot(x.imm as u16), n, n, n, n], [x.d, n, n, n]),
        Op::Alu => alu(x),
        Op::AluMem => {
            let reads = if crate::op::MemRef::alu_op(x.imm).reads_flags() { FLAG_WORDS } else { [n; 4] };
            let [f0, f1, f2, f3] = reads;
            Effects { may_stop: true, ..with([x.a, x.b, x.d, f0, f1, f2, f3], FLAG_WORDS) }
        }
        Op::Divide => Effects { may_stop: true, ..with([x.a, x.b, x.d, n, n, n, n], [x.d, x.b, n, n]) },
        Op::CheckCanonical => Effects { may_stop: true, ..with([x.a, n, n, n, n, n, n], [n; 4]) },
        Op::Flags => with([x.a, x.b, x.d, n, n, n, n], FLAG_WORDS),
        Op::Cond | Op::FlagsGet => with([FLAG_KIND, FLAG_A, FLAG_B, FLAG_R, n, n, n], [x.d, n, n, n]),
        Op::SelectCond => with([FLAG_KIND, FLAG_A, FLAG_B, FLAG_R, x.a, x.b, n], [x.d, n, n, n]),
        Op::Load | Op::LoadExclusive => Effects { may_stop: true, ..with([x.a, x.b, n, n, n, n, n], [x.d, n, n, n]) },
        Op::Load128 => Effects { may_stop: true, ..with([x.a, x.b, n, n, n, n, n], [x.d, high(x.d), n, n]) },
        Op::Store => Effects { may_stop: true, ..with([x.a, x.b, x.d, n, n, n, n], [n; 4]) },
        Op::Store128 => Effects { may_stop: true, ..with([x.a, x.b, x.d, high(x.d), n, n, n], [n; 4]) },
        Op::Atomic | Op::StoreExclusive => {
            Effects { may_stop: true, ..with([x.a, x.b, n, n, n, n, n], [x.d, n, n, n]) }
        }
        Op::Cas => {
            Effects { may_stop: true, ..with([x.a, x.b, Slot(x.imm as u16 & 0x3ff), n, n, n, n], [x.d, n, n, n]) }
        }
        Op::Cas128 => {
            let reads = [x.a, x.b, high(x.b), x.d, high(x.d), n, n];
            Effects { may_stop: true, ..with(reads, [x.d, high(x.d), n, n]) }
        }
        Op::ClearExclusive | Op::Fence => NOTHING,
        Op::Bulk => {
            let len = BulkRef::unpack(x.imm).len;
            Effects { may_stop: true, ..with([x.a, x.b, len, n, n, n, n], [x.d, n, n, n]) }
        }
        Op::Vec => with([x.a, high(x.a), x.b, high(x.b), n, n, n], [x.d, high(x.d), n, n]),
        Op::Fp => {
            let fused = fp::sse::FpOp::from_u8(x.aux).is_some_and(fp::sse::FpOp::is_fused);
            let c = if fused { FpRef::third(x.imm) } else { n };
            let reads = [x.a, high(x.a), x.b, high(x.b), FPC, c, high(c)];
            Effects { may_stop: true, ..with(reads, [x.d, high(x.d), FPC, n]) }
        }
        Op::Call => Effects {
            may_stop: x.aux & call_flags::MAY_STOP != 0,
            reads_state: x.aux & (call_flags::READS_STATE | call_flags::MAY_STOP) != 0,
            writes_state: x.aux & call_flags::WRITES_STATE != 0,
            restartable: x.aux & call_flags::RESTARTABLE != 0,
            ..with([x.a, x.b, n, n, n, n, n], [x.d, n, n, n])
        },
        Op::SkipIfZero => with([x.a, n, n, n, n, n, n], [n; 4]),
        Op::SkipUnless => with([FLAG_KIND, FLAG_A, FLAG_B, FLAG_R, n, n, n], [n; 4]),
        Op::ExitIf => Effects { may_leave: true, ..with([x.a, n, n, n, n, n, n], [PC, n, n, n]) },
        Op::ExitCond => {
            Effects { may_leave: true, ..with([FLAG_KIND, FLAG_A, FLAG_B, FLAG_R, n, n, n], [PC, n, n, n]) }
        }
        Op::ExitEvent => Effects { ends: true, may_leave: true, ..with([n; 7], [PC, n, n, n]) },
        Op::Exit | Op::ExitReg => {
            Effects { ends: true, may_leave: true, ..with([x.a, x.b, n, n, n, n, n], [PC, n, n, n]) }
        }
        Op::Raise => Effects { may_stop: true, ends: true, may_leave: true, ..NOTHING },
        _ => with([x.a, x.b, n, n, n, n, n], [x.d, n, n, n]),
    }
}
