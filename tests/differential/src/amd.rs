//! What AMD's processors choose otherwise than Intel's, which the translator is like: allowed where the host is one of them.
//!
//! The idea: as in [`crate::rules`], a choice looks at both outcomes and takes the host's into the guest's where it is one that
//! AMD's manual allows, or one of the two that no manual decides between. Most are about which of two exceptions comes first, and
//! what has happened before it: exceptions of one instruction's execution have no order that all processors keep (SDM vol. 3A,
//! 6.9). Each says for which instructions it is, and what of the outcome it looks at; the rest is still compared.

use iced_x86::{Code, CpuidFeature, Instruction, MemorySize, Mnemonic, OpCodeOperandKind as Kind, OpKind, Register};

use crate::build;
use crate::case::{CS32, Case, FS32_BASE, GS32_BASE, GS32_LIMIT, Outcome, Stop};
use crate::rules::{self, AF, CF, OF, PF, SF, Undefined, When, ZF};

/// Flags that both manuals leave undefined, but that are on Intel's processors as the translator has them.
#[rustfmt::skip]
pub static UNDEFINED: &[Undefined] = {
    use Mnemonic::*;
    &[
        (&[Div, Idiv], When::Always, CF | OF | SF | ZF | AF | PF, "the CF, OF, SF, ZF, AF, and PF flags are undefined"),
        (&[Aaa, Aas], When::Always, OF | SF | ZF | PF, "the OF, SF, ZF, and PF flags are undefined"),
        (&[Daa, Das], When::Always, OF, "the OF flag is undefined"),
    ]
};

/// A choice: its name, why it is one, the instructions that it is for (all if none is named), and what applies it.
pub type Choice = (&'static str, &'static str, &'static [Mnemonic], fn(&Case, &Instruction, &Outcome, &mut Outcome));

/// The reviewed list. Those that make the exception the host's come before those that need it to be the same.
#[rustfmt::skip]
pub static CHOICES: &[Choice] = {
    use Mnemonic::*;
    &[
        ("operand across 4 GiB", "what goes on at 0 may be beyond the limit or not, if that is 4 GiB (SDM vol. 3A, 5.3)", &[], across_the_end),
        ("offset that is not canonical", "though with the base it is, and is the system's: #GP, where the sum is what must be canonical (APM vol. 2, 5.3.1) and #PF would say no more", &[], offset_beyond),
        ("which fault of a long operand", "a misaligned or malformed image, a part of it that is not there, and its end beyond what can be addressed have no order (SDM vol. 3A, 6.9)", LONG_OPERANDS, long_operand),
        ("part of an image that is not asked for", "XSAVE and XRSTOR may access any byte of the legacy region (SDM vol. 1, 13.13)", EXTENDED, legacy_region),
        ("which operand of CMPS first", "Intel's processors read ES:rDI first, AMD's the other one (SDM vol. 3A, 6.9)", &[Cmpsb, Cmpsw, Cmpsd, Cmpsq], compare_order),
        ("stack of a far return", "what is read of it before the selector and the target are checked, and in which order these are (SDM vol. 3A, 6.9); a target beyond 4 GiB in 32-bit code is beyond its limit (APM vol. 3, RET (Far), IRET)", &[Retf, Iret, Iretd, Iretq], far_return),
        ("both bounds read first", "whether the upper bound is read where the index is below the lower one (SDM vol. 3A, 6.9: #BR and #PF have no order)", &[Bound], upper_bound),
        ("width of a selector on the stack", "POP, and PUSH, of a segment register may access the whole word of the operand size, or 16 bits of it (SDM vol. 2B, PUSH; of POP no manual says)", &[Push, Pop], stacked_selector),
        ("upper half of a pushed selector", "is zero or stays what it is (SDM vol. 2B, PUSH)", &[Push], pushed_selector),
        ("width of MOVSXD's operand", "is 32 bits with any prefix (APM vol. 3, MOVSXD)", &[Movsxd], sign_extended),
        ("alignment of long operands", "AMD's processors check that of operands of 16 and 32 bytes, and of halves of precision, where EFLAGS.AC asks for it (APM vol. 4, #AC of each instruction); others need not (SDM vol. 2B, MOVUPS)", &[], long_alignment),
        ("x87 store that faults", "whether an operand that an unmasked exception keeps from being stored is looked at before (SDM vol. 3A, 6.9)", &[Fst, Fstp, Fist, Fistp, Fisttp, Fbstp], x87_store),
        ("store of halves of precision that faults", "whether it comes before the exceptions of the conversion, and their flags (SDM vol. 3A, 6.9)", &[Vcvtps2ph], half_store),
        ("precision of an unmasked underflow", "PE may stay clear: neither manual says whether a result that is not delivered counts as inexact", &[Vcvtps2ph], half_underflow),
        ("masks of a gather that faults", "elements that were not loaded, and what lies beyond them, may be as before: which elements are complete is all that is said (SDM vol. 2C, VGATHERDPS)", GATHERS, gather),
        ("flags of a repeated compare that faults", "are those of the last compare, where Intel's processors restore them (SDM vol. 2B, REP; the APM has no such promise)", COMPARES, repeated_compare),
        ("return address of a CALL that faults", "where the target is not canonical it may have been stored or not; the instruction is run again", &[Call], stored_return),
        ("UD0 and UD1 without ModRM", "raise #UD before more is fetched of them (SDM vol. 2B, UD: older processors)", &[], undefined_early),
        ("0F 0D with a register", "is no hint, but undefined (APM vol. 3, PREFETCH)", &[Reservednop], prefetched_register),
        ("SYSRET in 32-bit code", "is defined, for the operating system (APM vol. 3, SYSRET)", &[Sysret], sysret),
        ("INT1 in a virtual machine", "its #DB is a fault if the hypervisor takes it and passes it on, as KVM does on AMD's processors", &[Int1], int1),
        ("MXCSR.MM", "is a bit of AMD's own, which loads on their processors (APM vol. 1, 4.2.2)", &[Ldmxcsr, Vldmxcsr, Fxrstor, Fxrstor64, Xrstor, Xrstor64], own_bit),
        ("undefined flags", "those of the list above", &[Div, Idiv, Aaa, Aas, Daa, Das], flags),
        ("result of a shift by more than the size", "is undefined (SDM vol. 2B, SHLD, SHRD)", &[Shld, Shrd], double_shift),
        ("x87 pointers without exception", "AMD's processors save zeros for opcode and pointers unless an unmasked exception is pending (APM vol. 5, FXSAVE), and so it is when the host's kernel saves them", &[], idle_pointers),
        ("x87 pointers and mask of MXCSR in images", "the same, and the mask has AMD's own bit (APM vol. 1, 4.2.2)", IMAGES, saved_image),
        ("x87 pointers in environments", "where the host's kernel came between, it has saved the state, and loaded the zeros", &[Fnstenv, Fnsave, Wait], saved_image),
    ]
};

static GATHERS: &[Mnemonic] = {
    use Mnemonic::*;
    &[Vgatherdps, Vgatherdpd, Vgatherqps, Vgatherqpd, Vpgatherdd, Vpgatherdq, Vpgatherqd, Vpgatherqq]
};

static COMPARES: &[Mnemonic] = {
    use Mnemonic::*;
    &[Cmpsb, Cmpsw, Cmpsd, Cmpsq, Scasb, Scasw, Scasd, Scasq]
};

static EXTENDED: &[Mnemonic] = {
    use Mnemonic::*;
    &[Xsave, Xsave64, Xsaveopt, Xsaveopt64, Xrstor, Xrstor64]
};

static IMAGES: &[Mnemonic] = {
    use Mnemonic::*;
    &[Fxsave, Fxsave64, Xsave, Xsave64, Xsaveopt, Xsaveopt64]
};

#[rustfmt::skip]
static LONG_OPERANDS: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Fxsave, Fxsave64, Fxrstor, Fxrstor64, Xsave, Xsave64, Xsaveopt, Xsaveopt64, Xrstor, Xrstor64,
        Maskmovq, Maskmovdqu, Vmaskmovdqu, Vmaskmovps, Vmaskmovpd, Vpmaskmovd, Vpmaskmovq,
    ]
};

/// Let the guest have what AMD's processors may choose.
pub fn settle(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    for (_, _, of, apply) in CHOICES {
        if of.is_empty() || of.contains(&i.mnemonic()) {
            apply(case, i, host, guest);
        }
    }
}

/// Underflow and precision in MXCSR, and the mask of the former.
const UE: u32 = 1 << 4;
const PE: u32 = 1 << 5;
const UM: u32 = 1 << 11;

/// The guest's outcome is to be that of an instruction that raises the host's exception and does nothing else.
fn refuse(case: &Case, host: &Outcome, guest: &mut Outcome) {
    if host.state.rip == case.state.rip {
        (guest.state, guest.stop, guest.rw) = (case.state, host.stop, case.rw);
    }
}

/// Whether an access to memory was refused.
fn refused(case: &Case, end: &Outcome) -> bool {
    end.state.rip == case.state.rip && matches!(end.stop.vector, 12 | 13 | 14 | 17)
}

/// Whether this is #SS(0) or #GP(0).
fn outside(stop: &Stop) -> bool {
    matches!(stop, Stop { vector: 12 | 13, error: 0, .. })
}

/// Whether alignment is checked.
fn checked(case: &Case) -> bool {
    case.state.eflags >> 18 & 1 != 0
}

fn canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

/// What addresses of this case keep.
fn mask(case: &Case) -> u64 {
    if case.long() { u64::MAX } else { 0xffff_ffff }
}

/// The segment that counts: of the overrides only those of FS and GS do in 64-bit code.
fn effective(case: &Case, segment: Register) -> Register {
    match segment {
        Register::ES | Register::CS | Register::SS if case.long() => Register::DS,
        s => s,
    }
}

/// A place in a segment.
#[derive(Clone, Copy)]
struct Place {
    segment: Register,
    offset: u64,
}

impl Place {
    /// Of the memory operand.
    fn of(case: &Case, i: &Instruction) -> Option<Place> {
        let stack = matches!(i.memory_base(), Register::RSP | Register::RBP | Register::ESP | Register::EBP);
        let segment = match effective(case, i.memory_segment()) {
            Register::DS if case.long() && stack => Register::SS,
            s => s,
        };
        Some(Place { segment, offset: rules::offset(case, i)? })
    }

    /// Of an operand at a general register that the instruction implies.
    fn implied(case: &Case, n: usize, kind: OpKind, segment: Register) -> Place {
        let keep = match kind {
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => u64::MAX,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 0xffff_ffff,
            _ => 0xffff,
        };
        Place { segment: effective(case, segment), offset: case.state.gpr[n] & keep }
    }

    /// Of the stack, so far from its top.
    fn stack(case: &Case, by: i64) -> Place {
        Place { segment: Register::SS, offset: case.state.gpr[4].wrapping_add_signed(by) & mask(case) }
    }

    fn linear(self, case: &Case) -> u64 {
        let base = match (case.long(), self.segment) {
            (true, Register::FS) => case.state.base[0],
            (true, Register::GS) => case.state.base[1],
            (false, Register::FS) => FS32_BASE.into(),
            (false, Register::GS) => GS32_BASE.into(),
            _ => 0,
        };
        base.wrapping_add(self.offset) & mask(case)
    }

    /// Whether an access to `size` bytes here, at least one, may end like this.
    fn faults(self, case: &Case, size: u64, stop: &Stop) -> bool {
        let (first, last) = (self.linear(case), self.offset.wrapping_add(size - 1));
        let beyond = match (case.long(), self.segment) {
            (true, _) => !canonical(first) || !canonical(first.wrapping_add(size - 1)),
            (false, Register::GS) => last > GS32_LIMIT.into(),
            (false, _) => last > u32::MAX.into(),
        };
        match stop.vector {
            12 => beyond && self.segment == Register::SS,
            13 => beyond && self.segment != Register::SS,
            14 => {
                let apart = stop.cr2.wrapping_sub(first) & mask(case);
                // 16-bit addresses go on at 0.
                let around = !case.long() && self.offset <= 0xffff && last > 0xffff;
                apart < size || around && apart & 0xffff < size
            }
            // 80 bits are to be aligned as 64 are (SDM vol. 3A, table 6-7).
            17 => checked(case) && !first.is_multiple_of(1 << size.ilog2()),
            _ => false,
        }
    }
}

/// Whether the host's exception is one that a store to the memory operand may raise.
fn store_faults(case: &Case, i: &Instruction, host: &Outcome) -> bool {
    let size = i.memory_size().size() as u64;
    let may = |place: Place| {
        let code = !case.long() && place.segment == Register::CS && host.stop.vector == 13;
        code || place.faults(case, size, &host.stop)
    };
    Place::of(case, i).is_some_and(may)
}

// ------------------------------------------------------------------------------- which exception, and what comes before it

fn across_the_end(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    // The longest operand that wraps has 32 bytes; ENTER goes down 31 words from EBP.
    let last = |address: u64| address >> 5 == u64::from(u32::MAX) >> 5;
    let near = |address: u64| (address as i32).unsigned_abs() <= 31 * 4;
    // What it begins with is not there, or misaligned.
    let begins = match guest.stop.vector {
        14 => last(guest.stop.cr2),
        17 => {
            near(case.state.gpr[4])
                || near(case.state.gpr[5])
                || Place::of(case, i).is_some_and(|p| near(p.linear(case)))
        }
        _ => false,
    };
    if !case.long() && begins && outside(&host.stop) {
        guest.stop = host.stop;
    }
}

fn offset_beyond(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let segment = i.memory_segment();
    let here = |offset: u64| match guest.stop.vector {
        14 => guest.stop.cr2.wrapping_sub(Place { segment, offset }.linear(case)) < 8,
        17 => checked(case),
        _ => false,
    };
    let far = bit_offset(case, i);
    // Of what is gathered each element has one.
    let offsets = (0..8).filter_map(|n| Some(rules::element(case, i, n)?.wrapping_add(far)));
    if case.long() && outside(&host.stop) && offsets.into_iter().any(|o| !canonical(o) && here(o)) {
        guest.stop = host.stop;
    }
}

/// How far from the operand of BT and the like a bit lies of which a register has the number, in bytes.
fn bit_offset(case: &Case, i: &Instruction) -> u64 {
    use Mnemonic::*;
    let (register, bits) = (i.op1_register(), matches!(i.mnemonic(), Bt | Bts | Btr | Btc));
    let Some(v) = rules::general(case, register).filter(|_| bits) else { return 0 };
    match register.size() {
        2 => ((v as i16 >> 4) * 2) as u64,
        4 => ((v as i32 >> 5) * 4) as u64,
        _ => ((v as i64 >> 6) * 8) as u64,
    }
}

fn long_operand(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    use Mnemonic::*;
    let place = match i.op0_kind() {
        OpKind::Memory | OpKind::Register => Place::of(case, i),
        kind => Some(Place::implied(case, 7, kind, i.memory_segment())),
    };
    let Some(place) = place else { return };
    // How long it is, what it must be aligned to, and whether its content may be refused.
    let (size, alignment, read) = match i.mnemonic() {
        Fxsave | Fxsave64 => (512, 16, false),
        Fxrstor | Fxrstor64 => (512, 16, true),
        Xsave | Xsave64 | Xsaveopt | Xsaveopt64 => (832, 64, false),
        Xrstor | Xrstor64 => (832, 64, true),
        _ => (i.memory_size().size() as u64, 1, false),
    };
    let bad = read || !place.linear(case).is_multiple_of(alignment);
    let may = |stop: &Stop| bad && stop.vector == 13 || place.faults(case, size, stop);
    if may(&host.stop) && may(&guest.stop) {
        guest.stop = host.stop;
    }
}

fn legacy_region(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    // Neither x87 nor SSE is asked for, and the guest went on.
    let unasked = case.state.gpr[0] & 3 == 0 && guest.state.rip != case.state.rip;
    if unasked && host.stop.vector == 14 && Place::of(case, i).is_some_and(|place| place.faults(case, 512, &host.stop))
    {
        refuse(case, host, guest);
    }
}

fn compare_order(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let size = i.memory_size().size() as u64;
    // Where it has come to.
    let now = Case { state: guest.state, ..case.clone() };
    let from = Place::implied(&now, 6, i.op0_kind(), i.memory_segment());
    let to = Place::implied(&now, 7, i.op1_kind(), Register::ES);
    if from.faults(&now, size, &host.stop) && to.faults(&now, size, &guest.stop) {
        guest.stop = host.stop;
    }
}

fn far_return(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    use Code::*;
    let size = match i.code() {
        Retfw | Retfw_imm16 | Iretw => 2,
        Retfd | Retfd_imm16 | Iretd => 4,
        _ => 8,
    };
    let top = Place::stack(case, 0);
    let byte = |n: u64| build::offset(top.offset.wrapping_add(n)).map_or(0, |o| u64::from(case.rw[o]));
    let word = |n: u64| (0..size).fold(0, |v, k| v | byte(n * size + k) << (8 * k));
    let (pc, cs) = (word(0), word(1) as u16);
    let otherwise = matches!(guest.stop.vector, 11..=14);
    // Of a target that 32-bit code cannot have Intel's processors take the lower half.
    let astray = cs == CS32 && pc >> 32 != 0 || !canonical(pc) && otherwise;
    let released = if i.op_count() == 1 { u64::from(i.immediate16()) } else { 0 };
    let unread = match host.stop.vector {
        14 => top.faults(case, 5 * size + released, &host.stop),
        17 => checked(case) && !(top.offset | released).is_multiple_of(size),
        _ => false,
    };
    if astray && host.stop.vector == 13 && host.stop.error == 0 || unread && otherwise {
        refuse(case, host, guest);
    }
}

fn upper_bound(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let half = i.memory_size().size() as u64 / 2;
    let upper = Place::of(case, i).map(|p| Place { offset: p.offset.wrapping_add(half) & mask(case), ..p });
    if guest.stop.vector == 5 && upper.is_some_and(|p| p.faults(case, half, &host.stop)) {
        refuse(case, host, guest);
    }
}

fn stacked_selector(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let moved = i64::from(i.stack_pointer_increment());
    let word = Place::stack(case, moved.min(0));
    if i.op0_register().is_segment_register() && word.faults(case, moved.unsigned_abs(), &host.stop) {
        refuse(case, host, guest);
    }
}

fn pushed_selector(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    if !i.op0_register().is_segment_register() || refused(case, host) {
        return;
    }
    let moved = i64::from(i.stack_pointer_increment());
    let word = Place::stack(case, moved).offset;
    for o in (2..moved.unsigned_abs()).filter_map(|n| build::offset(word.wrapping_add(n))) {
        if host.rw[o] == 0 && guest.rw[o] == case.rw[o] {
            guest.rw[o] = 0;
        }
    }
}

fn sign_extended(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let narrow = i.code() == Code::Movsxd_r16_rm16 && i.op1_kind() == OpKind::Memory;
    // Alignment is checked before pages are looked at.
    let later = guest.state.rip != case.state.rip || guest.stop.vector == 14;
    if narrow && later && Place::of(case, i).is_some_and(|place| place.faults(case, 4, &host.stop)) {
        refuse(case, host, guest);
    }
}

fn long_alignment(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let size = i.memory_size().size() as u64;
    let halves = size == 8 && i.cpuid_features().contains(&CpuidFeature::F16C);
    let misaligned = |place: Place| !place.linear(case).is_multiple_of(size.min(16));
    if (matches!(size, 16 | 32) || halves)
        && checked(case)
        && host.stop.vector == 17
        && Place::of(case, i).is_some_and(misaligned)
    {
        refuse(case, host, guest);
    }
}

fn x87_store(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let raised = guest.state.fx.sw & !case.state.fx.sw & 0x80 != 0 && guest.state.rip != case.state.rip;
    if raised && store_faults(case, i, host) {
        refuse(case, host, guest);
    }
}

fn half_store(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    if !store_faults(case, i, host) {
        return;
    }
    if guest.stop.vector == 19 {
        refuse(case, host, guest);
    } else if guest.stop.vector == host.stop.vector {
        guest.state.fx.mxcsr = case.state.fx.mxcsr;
    }
}

fn half_underflow(case: &Case, _: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let (before, h, g) = (case.state.fx.mxcsr, host.state.fx.mxcsr, &mut guest.state.fx.mxcsr);
    if host.stop.vector == 19 && before & UM == 0 && h & UE != 0 && *g == h | PE {
        *g = h;
    }
}

fn gather(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    if !refused(case, host) || host.stop.vector != guest.stop.vector {
        return;
    }
    let indices = match i.op_code().op_kinds().get(1) {
        Some(Kind::mem_vsib64x) => 2,
        Some(Kind::mem_vsib32y) => 8,
        _ => 4,
    };
    let bits = 8 * i.memory_size().size();
    let (count, ones) = (indices.min(8 * i.op0_register().size() / bits), u128::MAX >> (128 - bits));
    for (register, masks) in [(i.op0_register(), false), (i.op2_register(), true)] {
        let r = register.number();
        let halves = [
            (case.state.fx.xmm[r], host.state.fx.xmm[r], &mut guest.state.fx.xmm[r]),
            (case.state.ymm_upper[r], host.state.ymm_upper[r], &mut guest.state.ymm_upper[r]),
        ];
        for (half, (before, h, g)) in halves.into_iter().enumerate() {
            for n in 0..128 / bits {
                let [before, h, now] = [before, h, *g].map(|v| v >> (n * bits) & ones);
                // The sign chooses an element, and the guest spreads it until it is loaded.
                let waiting = masks && now == if before >> (bits - 1) != 0 { ones } else { 0 };
                let cleared = half * 128 / bits + n >= count && now == 0;
                if h == before && (waiting || cleared) {
                    *g ^= (now ^ h) << (n * bits);
                }
            }
        }
    }
}

fn repeated_compare(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
    let h = host.state.eflags & STATUS;
    // It would not have gone on otherwise.
    let last = i.has_repne_prefix() && h & ZF == 0 || i.has_repe_prefix() && h == ZF | PF;
    let restored = (guest.state.eflags ^ case.state.eflags) & STATUS == 0;
    if last && restored && refused(case, host) {
        guest.state.eflags = guest.state.eflags & !STATUS | h;
    }
}

fn stored_return(case: &Case, _: &Instruction, host: &Outcome, guest: &mut Outcome) {
    if refused(case, host) && outside(&host.stop) && guest.stop == host.stop {
        let top = Place::stack(case, 0).offset;
        for o in (1..=8).filter_map(|n| build::offset(top.wrapping_sub(n))) {
            guest.rw[o] = case.rw[o];
        }
    }
}

// ------------------------------------------------------------------------------------------------- what is an instruction

fn undefined_early(case: &Case, _: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let prefix = |b: &&u8| {
        let legacy = matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
        legacy || case.long() && matches!(b, 0x40..=0x4f)
    };
    let opcode: Vec<u8> = case.code().iter().skip_while(prefix).take(2).copied().collect();
    let (at, Stop { vector, error, .. }) = (guest.state.rip, guest.stop);
    let unfetched = at == case.state.rip && (vector == 13 || vector == 14 && error & 16 != 0);
    if matches!(opcode[..], [0x0f, 0xff | 0xb9]) && host.stop.vector == 6 && unfetched {
        refuse(case, host, guest);
    }
}

fn prefetched_register(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    use Code::*;
    let hint = matches!(i.code(), Reservednop_rm16_r16_0F0D | Reservednop_rm32_r32_0F0D | Reservednop_rm64_r64_0F0D);
    if hint && i.op0_kind() == OpKind::Register && host.stop.vector == 6 {
        refuse(case, host, guest);
    }
}

fn sysret(case: &Case, _: &Instruction, host: &Outcome, guest: &mut Outcome) {
    if !case.long() && guest.stop.vector == 6 && host.stop.vector == 13 {
        guest.stop.vector = 13;
    }
}

fn int1(case: &Case, _: &Instruction, host: &Outcome, guest: &mut Outcome) {
    if (host.stop.vector, guest.stop.vector) == (1, 1) && host.state.rip == case.state.rip {
        guest.state.rip = case.state.rip;
    }
}

// ---------------------------------------------------------------------------------------------------------------- results

/// MM, and what would be reserved beside it.
fn own_bit(case: &Case, _: &Instruction, host: &Outcome, guest: &mut Outcome) {
    if host.state.fx.mxcsr >> 16 == 2 && refused(case, guest) && guest.stop.vector == 13 {
        guest.clone_from(host);
    }
}

fn flags(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    if (host.stop, host.state.rip) == (guest.stop, guest.state.rip) {
        let undefined = rules::among(UNDEFINED, case, i);
        guest.state.eflags = guest.state.eflags & !undefined | host.state.eflags & undefined;
    }
}

fn double_shift(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    // CF is undefined with these counts alone.
    let beyond = rules::undefined_flags(case, i) & CF != 0;
    if !beyond || host.state.rip == case.state.rip {
        return;
    }
    if i.op0_kind() == OpKind::Register {
        let n = i.op0_register().number();
        guest.state.gpr[n] = guest.state.gpr[n] & !0xffff | host.state.gpr[n] & 0xffff;
    } else if let Some(place) = Place::of(case, i) {
        for o in [0, 1].into_iter().filter_map(|n| build::offset(place.linear(case).wrapping_add(n))) {
            guest.rw[o] = host.rw[o];
        }
    }
}

fn idle_pointers(case: &Case, _: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let idle = |sw: u16| sw >> 7 & 1 == 0;
    let (before, h, g) = (&case.state.fx, &host.state.fx, &mut guest.state.fx);
    if idle(h.sw) && (h.op, h.ip, h.dp) == (0, 0, 0) {
        (g.op, g.ip, g.dp) = (0, 0, 0);
    }
    // The kernel may have saved and loaded the state before the instruction, so what this has not set is gone.
    if idle(before.sw) {
        if h.op == 0 && g.op == before.op {
            g.op = 0;
        }
        for (h, g, before) in [(h.ip, &mut g.ip, before.ip), (h.dp, &mut g.dp, before.dp)] {
            if h == 0 && *g == before {
                *g = 0;
            }
        }
    }
}

/// What stands behind WAIT, which is the first byte of FSTENV and FSAVE; any other instruction as it is.
fn behind_wait(case: &Case, i: &Instruction) -> Instruction {
    match (i.mnemonic(), case.bytes.get(i.len()..case.len as usize)) {
        (Mnemonic::Wait, Some(rest)) => build::decode(rest, if case.long() { 64 } else { 32 }, i.next_ip()),
        _ => *i,
    }
}

fn saved_image(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    use Mnemonic::*;
    let i = &behind_wait(case, i);
    let Some(place) = Place::of(case, i) else { return };
    let fx = &case.state.fx;
    // Where a field lies, how many bytes it has, what the model stores there, and what AMD's processors do.
    type Field = (u64, u64, u64, u64);
    let pointers = |op: u64, ip: u64, dp: u64, size: u64| -> Vec<Field> {
        vec![(op, 2, fx.op.into(), 0), (ip, size, fx.ip, 0), (dp, size, fx.dp, 0)]
    };
    let mut fields = match (i.mnemonic(), i.memory_size()) {
        (Fxsave64 | Xsave64 | Xsaveopt64, _) => pointers(6, 8, 16, 8),
        (Fnstenv | Fnsave, MemorySize::FpuEnv14 | MemorySize::FpuState94) => pointers(0, 6, 10, 2).split_off(1),
        (Fnstenv | Fnsave, _) => pointers(18, 12, 20, 4),
        _ => pointers(6, 8, 16, 4),
    };
    if fx.sw >> 7 & 1 != 0 {
        fields.clear();
    }
    if IMAGES.contains(&i.mnemonic()) {
        fields.push((28, 4, 0xffff, 0x2_ffff));
    }
    for (at, size, model, amd) in fields {
        for k in 0..size {
            let [model, amd] = [model, amd].map(|v| (v >> (8 * k)) as u8);
            if let Some(o) = build::offset(place.linear(case).wrapping_add(at + k))
                && (host.rw[o], guest.rw[o]) == (amd, model)
            {
                guest.rw[o] = amd;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{CODE, CS64, DATA, State};

    fn case(bytes: &[u8], eflags: u64) -> (Case, Instruction) {
        let mut case = Case { at: CODE, len: bytes.len() as u64, ..Case::default() };
        case.bytes[..bytes.len()].copy_from_slice(bytes);
        case.state = State { rip: CODE, eflags, ..State::default() };
        case.state.sel[1] = CS64;
        case.state.gpr[0] = DATA;
        (case, build::decode(bytes, 64, CODE))
    }

    fn end(case: &Case, vector: u32) -> Outcome {
        Outcome { state: case.state, stop: Stop { vector, ..Stop::default() }, rw: case.rw }
    }

    #[test]
    fn alignment_may_be_checked_of_long_operands_where_it_is_asked_for() {
        const MOVUPS: &[u8] = &[0x0f, 0x10, 0x40];
        const MOVLPS: &[u8] = &[0x0f, 0x12, 0x40];
        for (bytes, displacement, eflags, may) in [
            (MOVUPS, 4, 1 << 18, true),
            (MOVUPS, 0, 1 << 18, false),
            (MOVUPS, 4, 0, false),
            (MOVLPS, 4, 1 << 18, false),
        ] {
            let (case, i) = case(&[bytes, &[displacement]].concat(), eflags);
            let (host, mut guest) = (end(&case, 17), end(&case, 3));
            guest.state.rip += 5;
            guest.state.fx.xmm[0] = 1;
            settle(&case, &i, &host, &mut guest);
            assert_eq!(guest == host, may, "{bytes:x?} {displacement} {eflags:#x}");
        }
    }

    #[test]
    fn only_what_a_gather_has_not_loaded_may_be_as_before() {
        // VGATHERDPS XMM0, [RAX+XMM1], XMM2, of which element 1 faults.
        let (mut case, i) = case(&[0xc4, 0xe2, 0x69, 0x92, 0x04, 0x08], 0);
        case.state.fx.xmm[2] = 0x8000_0001_0000_0001_8000_0001_8000_0001;
        case.state.ymm_upper[2] = 5;
        let (mut host, mut guest) = (end(&case, 14), end(&case, 14));
        host.state.fx.xmm[2] = 0x8000_0001_0000_0001_8000_0001_0000_0000;
        guest.state.fx.xmm[2] = 0xffff_ffff_0000_0000_ffff_ffff_0000_0000;
        guest.state.ymm_upper[2] = 0;
        let loaded = guest.clone();
        settle(&case, &i, &host, &mut guest);
        assert_eq!(guest, host);
        // Had the guest loaded element 3, or not loaded element 0.
        for mask in [0x0000_0000_0000_0000_ffff_ffff_0000_0000, 0xffff_ffff_0000_0000_ffff_ffff_ffff_ffff] {
            let mut guest = loaded.clone();
            guest.state.fx.xmm[2] = mask;
            settle(&case, &i, &host, &mut guest);
            assert_ne!(guest, host, "{mask:#x}");
        }
    }

    #[test]
    fn pointers_in_an_environment_may_be_zeros_whether_it_is_waited_for_or_not() {
        // FNSTENV [RAX], and FSTENV, which is WAIT in front of it.
        for bytes in [&[0xd9, 0x30][..], &[0x9b, 0xd9, 0x30]] {
            let (mut case, i) = case(bytes, 0);
            (case.state.fx.ip, case.state.fx.dp) = (0x1234_5678, 0x2345_6789);
            let (host, mut guest) = (end(&case, 3), end(&case, 3));
            let at = build::offset(DATA).unwrap();
            guest.rw[at + 12..at + 16].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
            guest.rw[at + 20..at + 24].copy_from_slice(&0x2345_6789_u32.to_le_bytes());
            settle(&case, &i, &host, &mut guest);
            assert_eq!(guest.rw, host.rw, "{bytes:x?}");
        }
    }

    #[test]
    fn a_fault_is_the_operands_or_it_is_none_of_the_choice() {
        // FIST dword [RAX], which an unmasked exception keeps from being stored.
        let (case, i) = case(&[0xdb, 0x10], 0);
        for (cr2, may) in [(DATA, true), (DATA + 3, true), (DATA + 4, false), (DATA - 1, false)] {
            let (mut host, mut guest) = (end(&case, 14), end(&case, 3));
            host.stop.cr2 = cr2;
            guest.state.rip += 2;
            guest.state.fx.sw = 0x8081;
            settle(&case, &i, &host, &mut guest);
            assert_eq!(guest == host, may, "{cr2:#x}");
        }
    }
}
