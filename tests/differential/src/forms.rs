//! Every form in which an instruction can be written: which codes, in which mode, with which kind of operands.
//!
//! The idea: a form fixes what decides the path through a lifter (register or memory, addressing, prefixes); what only makes
//! up values (which registers, which displacement, which constants) is drawn anew for each state.

use std::fmt;

use cpu_model::Model;
use iced_x86::{Code, OpCodeOperandKind as Kind, Register};

use crate::{exclusions, features};

/// How memory is addressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Address {
    /// One register and perhaps a displacement; or whatever the instruction implies.
    Base,
    /// Base, scaled index and displacement.
    Sib,
    /// Relative to RIP.
    Rip,
    /// A displacement alone.
    Abs,
    /// With the other address size: 32 bits in 64-bit code, 16 bits in 32-bit code.
    Half,
    /// Through FS.
    Fs,
    /// Through GS.
    Gs,
}

/// The shape of a form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Registers, or no operands that vary.
    Plain,
    /// Registers, AH to BH among them.
    High,
    /// A memory operand.
    Mem(Address),
    /// With LOCK, where that is allowed.
    Lock(Address),
    /// With REP.
    Rep(Address),
    /// With REPNE.
    Repne(Address),
    /// With LOCK, where that is not allowed.
    BadLock,
    /// With prefixes that mean nothing here.
    Junk,
    /// Several instructions, lifted as one block; there is no code then.
    Sequence,
}

/// A form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    /// The instruction.
    pub code: Code,
    /// 64 or 32.
    pub bits: u32,
    /// How it is written.
    pub shape: Shape,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shape {
            Shape::Mem(a) => write!(f, "{:?}/{}/{a:?}", self.code, self.bits),
            Shape::Lock(a) => write!(f, "{:?}/{}/Lock{a:?}", self.code, self.bits),
            Shape::Rep(a) => write!(f, "{:?}/{}/Rep{a:?}", self.code, self.bits),
            Shape::Repne(a) => write!(f, "{:?}/{}/Repne{a:?}", self.code, self.bits),
            Shape::Sequence => write!(f, "Sequence/{}", self.bits),
            s => write!(f, "{:?}/{}/{s:?}", self.code, self.bits),
        }
    }
}

impl Form {
    /// A number that belongs to this form whatever other forms there are (FNV-1a of its name).
    pub fn number(&self) -> u64 {
        self.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }
}

const ADDRESSES_64: &[Address] =
    &[Address::Base, Address::Sib, Address::Rip, Address::Abs, Address::Half, Address::Fs, Address::Gs];
const ADDRESSES_32: &[Address] = &[Address::Base, Address::Sib, Address::Abs, Address::Half, Address::Fs, Address::Gs];
/// Those that an operand with a vector of indices can have.
const ADDRESSES_VECTOR_64: &[Address] = &[Address::Base, Address::Abs, Address::Half, Address::Fs, Address::Gs];
const ADDRESSES_VECTOR_32: &[Address] = &[Address::Base, Address::Abs, Address::Fs, Address::Gs];
/// Those that an implied operand (a string's, or an offset alone) can have.
const IMPLIED: &[Address] = &[Address::Base, Address::Half, Address::Fs];

/// Whether an operand is memory, always.
pub fn is_memory(k: Kind) -> bool {
    matches!(k, Kind::mem | Kind::mem_mpx | Kind::mem_mib | Kind::mem_offs | Kind::sibmem)
        || is_implied(k)
        || vector_index(k).is_some()
}

/// Whether an operand is memory at an address that the instruction implies.
pub fn is_implied(k: Kind) -> bool {
    matches!(k, Kind::seg_rSI | Kind::es_rDI | Kind::seg_rDI | Kind::seg_rBX_al)
}

/// The first index register of an operand that is gathered or scattered.
pub fn vector_index(k: Kind) -> Option<Register> {
    match k {
        Kind::mem_vsib32x | Kind::mem_vsib64x => Some(Register::XMM0),
        Kind::mem_vsib32y | Kind::mem_vsib64y => Some(Register::YMM0),
        Kind::mem_vsib32z | Kind::mem_vsib64z => Some(Register::ZMM0),
        _ => None,
    }
}

/// Whether an operand may be memory or a register.
pub fn is_either(k: Kind) -> bool {
    matches!(
        k,
        Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::mm_or_mem
            | Kind::xmm_or_mem
            | Kind::ymm_or_mem
            | Kind::zmm_or_mem
            | Kind::k_or_mem
            | Kind::bnd_or_mem_mpx
            | Kind::r32_or_mem_mpx
            | Kind::r64_or_mem_mpx
    )
}

fn is_byte(k: Kind) -> bool {
    matches!(k, Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode)
}

/// The forms of a code in code of `bits` bits.
pub fn of(code: Code, bits: u32) -> Vec<Form> {
    let o = code.op_code();
    let kinds: Vec<Kind> = o.op_kinds().to_vec();
    let either = kinds.iter().any(|k| is_either(*k));
    let memory = kinds.iter().any(|k| is_memory(*k));
    let implied = kinds.iter().any(|k| is_implied(*k) || *k == Kind::mem_offs);
    let mut shapes = vec![];
    if !memory {
        shapes.push(Shape::Plain);
        if kinds.iter().any(|k| is_byte(*k)) {
            shapes.push(Shape::High);
        }
    }
    let addresses = match (implied, bits) {
        (true, _) => IMPLIED,
        (_, 64) if kinds.iter().any(|k| vector_index(*k).is_some()) => ADDRESSES_VECTOR_64,
        _ if kinds.iter().any(|k| vector_index(*k).is_some()) => ADDRESSES_VECTOR_32,
        (_, 64) => ADDRESSES_64,
        _ => ADDRESSES_32,
    };
    if either || memory {
        shapes.extend(addresses.iter().map(|a| Shape::Mem(*a)));
    }
    if o.can_use_lock_prefix() {
        shapes.extend([Address::Base, Address::Sib, Address::Fs].map(Shape::Lock));
    }
    if kinds.iter().any(|k| matches!(k, Kind::seg_rSI | Kind::es_rDI)) {
        shapes.extend(IMPLIED.iter().map(|a| Shape::Rep(*a)));
        shapes.extend(IMPLIED.iter().map(|a| Shape::Repne(*a)));
    }
    // Where LOCK needs memory and there is nothing else, it is never wrong.
    if !o.can_use_lock_prefix() || !memory {
        shapes.push(Shape::BadLock);
    }
    shapes.push(Shape::Junk);
    shapes.into_iter().map(|shape| Form { code, bits, shape }).collect()
}

/// The codes that are compared in code of `bits` bits.
pub fn codes(model: &'static Model, bits: u32) -> impl Iterator<Item = Code> {
    Code::values()
        .filter(move |c| features::has(model, *c) && features::exists(*c, bits) && exclusions::reason(*c).is_none())
}

/// Every form that is compared, sequences last.
pub fn all(model: &'static Model) -> Vec<Form> {
    let single = [64, 32].into_iter().flat_map(|bits| codes(model, bits).flat_map(move |c| of(c, bits)));
    single.chain([64, 32].map(|bits| Form { code: Code::INVALID, bits, shape: Shape::Sequence })).collect()
}

/// The forms of what `model` has beyond `base`: other instructions, and those that save state, of which it has more. No sequences.
pub fn beyond(model: &'static Model, base: &'static Model) -> Vec<Form> {
    let mut list = all(model);
    let state = |c: Code| c.cpuid_features().contains(&iced_x86::CpuidFeature::XSAVE);
    list.retain(|f| f.shape != Shape::Sequence && (!features::has(base, f.code) || state(f.code)));
    list
}

/// The form of this name.
pub fn by_name(model: &'static Model, name: &str) -> Option<Form> {
    all(model).into_iter().find(|f| f.to_string() == name)
}
