//! The two reviewed lists: flags that are undefined, and choices that the architecture leaves to the processor.
//!
//! The idea: a choice is a function that looks at both outcomes and, where the guest's is one of those allowed, takes the
//! host's into the guest's; so a rule covers exactly what it names, and everything else is still compared. What is here holds on
//! every host; [`crate::amd`] has what holds on those of AMD.

use std::sync::LazyLock;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::amd;
use crate::case::{Case, Outcome};
use crate::host::{self, Maker};

pub(crate) const CF: u64 = 1;
pub(crate) const PF: u64 = 1 << 2;
pub(crate) const AF: u64 = 1 << 4;
pub(crate) const ZF: u64 = 1 << 6;
pub(crate) const SF: u64 = 1 << 7;
pub(crate) const OF: u64 = 1 << 11;

/// When flags are undefined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Always.
    Always,
    /// With a masked count other than 0.
    Shifted,
    /// With a masked count other than 0 and 1.
    ManyShifts,
    /// With a masked count above the operand size.
    BeyondSize,
}

/// Flags that an instruction leaves undefined, and the manual's words (SDM vol. 2, "Flags affected").
pub type Undefined = (&'static [Mnemonic], When, u64, &'static str);

/// The reviewed list.
#[rustfmt::skip]
pub static UNDEFINED: &[Undefined] = {
    use Mnemonic::*;
    &[
        (&[Mul, Imul], When::Always, SF | ZF | AF | PF, "SF, ZF, AF, PF are undefined"),
        (&[Bsf, Bsr], When::Always, CF | OF | SF | AF | PF, "the CF, OF, SF, AF, and PF flags are undefined"),
        (&[Tzcnt, Lzcnt], When::Always, OF | SF | PF | AF, "OF, SF, PF, and AF flags are undefined"),
        (&[Andn, Blsi, Blsr, Blsmsk, Bzhi], When::Always, AF | PF, "AF and PF flags are undefined"),
        (&[Bextr], When::Always, AF | SF | PF, "AF, SF, and PF are undefined"),
        (&[Shl, Sal, Shr, Sar, Rol, Ror, Rcl, Rcr], When::ManyShifts, OF, "OF is affected only on 1-bit shifts, otherwise undefined"),
        (&[Shl, Sal, Shr, Sar, Shld, Shrd], When::Shifted, AF, "for a non-zero count, the AF flag is undefined"),
        (&[Shld, Shrd], When::ManyShifts, OF, "for shifts greater than 1 bit, OF is undefined"),
        (&[Shld, Shrd], When::BeyondSize, CF | OF | SF | ZF | AF | PF, "if the count is greater than the operand size, the flags are undefined"),
    ]
};

/// The count of a shift, masked.
fn count(case: &Case, i: &Instruction) -> u64 {
    let last = i.op_count().saturating_sub(1);
    let v = match i.op_kind(last) {
        OpKind::Immediate8 => u64::from(i.immediate8()),
        _ => case.state.gpr[1] & 0xff,
    };
    v & if bits(i) == 64 { 63 } else { 31 }
}

/// Operand size in bits.
fn bits(i: &Instruction) -> u64 {
    8 * match i.op0_kind() {
        OpKind::Register => i.op0_register().size() as u64,
        _ => i.memory_size().size() as u64,
    }
}

/// Flags of this case that are not compared.
pub fn undefined_flags(case: &Case, i: &Instruction) -> u64 {
    among(UNDEFINED, case, i)
}

/// The flags that `list` says are undefined after a case.
pub fn among(list: &[Undefined], case: &Case, i: &Instruction) -> u64 {
    let holds = |w: When| match w {
        When::Always => true,
        When::Shifted => count(case, i) > 0,
        When::ManyShifts => count(case, i) > 1,
        When::BeyondSize => count(case, i) > bits(i),
    };
    list.iter().filter(|u| u.0.contains(&i.mnemonic()) && holds(u.1)).fold(0, |m, u| m | u.2)
}

/// A choice: its name, why it is one, and what applies it.
pub type Choice = (&'static str, &'static str, fn(&Case, &Instruction, &Outcome, &mut Outcome));

/// The reviewed list.
#[rustfmt::skip]
pub static CHOICES: &[Choice] = &[
    ("present bit of kernel addresses", "Linux hides from programs whether an address of its own half is mapped (arch/x86/mm/fault.c)", kernel_addresses),
    ("data pointer without exception", "a CPU with CPUID.7.EBX bit 6 moves the x87 data pointer with unmasked exceptions only; the model has not", data_pointer),
    ("width of canonical addresses", "FXRSTOR64 and XRSTOR64 make the x87 pointers canonical, for as many bits as the processor's addresses have", canonical),
    ("address of a fault in a long operand", "the manual gives no order of the accesses to an operand of many words, nor which of its bytes CR2 names", fault_address),
    ("#AC or #GP", "a misaligned operand of FXSAVE and its family may raise either where alignment is checked (SDM vol. 2A, FXSAVE), and which comes first is not said", alignment),
    ("MMX state before a fault", "whether TOP and the tags change before an MMX instruction that stores, or converts, raises its exception", mmx_fault),
    ("registers of a POPA that faults", "the registers popped before a fault may have changed; the instruction is run again", popa),
    ("memory of a long store that faults", "what was stored before a fault on a later part of the operand; the instruction is run again", partial_store),
    ("upper halves under a 32-bit address size", "what is above bit 31 of the registers of a repeated string instruction that has not completed", string_halves),
];

/// Let the guest have what the processor may choose.
pub fn settle(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    if host::maker() == Maker::Amd {
        amd::settle(case, i, host, guest);
    }
    for c in CHOICES {
        c.2(case, i, host, guest);
    }
}

fn same_stop(host: &Outcome, guest: &Outcome) -> bool {
    (host.stop.vector, host.stop.error) == (guest.stop.vector, guest.stop.error)
}

fn kernel_addresses(_: &Case, _: &Instruction, host: &Outcome, guest: &mut Outcome) {
    // The last page of the lower half counts as the kernel's.
    let kernel = guest.stop.cr2 >= (1 << 47) - 0x1000;
    if guest.stop.vector == 14 && kernel && host.stop.error == guest.stop.error | 1 {
        guest.stop.error |= 1;
    }
}

/// Whether this CPU updates the x87 data pointer on unmasked exceptions only.
static LAZY_DATA_POINTER: LazyLock<bool> = LazyLock::new(|| std::arch::x86_64::__cpuid_count(7, 0).ebx >> 6 & 1 != 0);

fn data_pointer(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let unmoved = host.state.fx.dp == case.state.fx.dp;
    if *LAZY_DATA_POINTER && unmoved && offset(case, i) == Some(guest.state.fx.dp) {
        guest.state.fx.dp = host.state.fx.dp;
    }
}

fn canonical(_: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    use Mnemonic::*;
    if matches!(i.mnemonic(), Fxrstor64 | Xrstor64) {
        let (h, g) = (&host.state.fx, &mut guest.state.fx);
        for (h, g) in [(h.ip, &mut g.ip), (h.dp, &mut g.dp)] {
            if *g == ((h << 16) as i64 >> 16) as u64 {
                *g = h;
            }
        }
    }
}

/// The offset of the memory operand in its segment.
pub fn offset(case: &Case, i: &Instruction) -> Option<u64> {
    element(case, i, 0)
}

/// The same of the element of this number, if it is gathered.
pub fn element(case: &Case, i: &Instruction, number: usize) -> Option<u64> {
    let operand = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory)?;
    i.virtual_address(operand, number, |register, n, size| {
        if register.is_segment_register() {
            return Some(0);
        }
        if register.is_vector_register() {
            let (s, r, at) = (&case.state, register.number(), n * size);
            let half = if at < 16 { s.fx.xmm.get(r)? } else { s.ymm_upper.get(r)? };
            let v = (half >> (at % 16 * 8)) as u64;
            return Some(if size == 4 { v as i32 as u64 } else { v });
        }
        let v = general(case, register)?;
        Some(match register.size() {
            2 => v & 0xffff,
            4 => v & 0xffff_ffff,
            _ => v,
        })
    })
}

/// The value of a general register, whole.
pub fn general(case: &Case, register: Register) -> Option<u64> {
    let n = (register.full_register() as usize).checked_sub(Register::RAX as usize)?;
    case.state.gpr.get(n).copied()
}

/// Instructions with operands of many words.
#[rustfmt::skip]
static LONG_OPERANDS: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Fldenv, Fnstenv, Fstenv, Frstor, Fnsave, Fsave, Fxsave, Fxsave64, Fxrstor, Fxrstor64, Xsave, Xsave64, Xrstor, Xrstor64,
        Xsaveopt, Xsaveopt64, Maskmovq, Maskmovdqu, Vmaskmovdqu,
        Vmaskmovps, Vmaskmovpd, Vpmaskmovd, Vpmaskmovq, Retf, Iret, Iretd, Iretq,
    ]
};

fn fault_address(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let (h, g) = (host.stop.cr2, guest.stop.cr2);
    // An operand may wrap around at the end of what its address size reaches.
    let near = [48, 32, 0].iter().any(|above| {
        let apart = (h.wrapping_sub(g) << above) as i64 >> above;
        (h | g).leading_zeros() >= *above && apart.unsigned_abs() < 900
    });
    let near = near && host.state.rip == case.state.rip;
    let faults = (host.stop.vector, guest.stop.vector) == (14, 14);
    // One page may be read-only and the next one missing.
    let same = (host.stop.error ^ guest.stop.error) & !1 == 0;
    if faults && same && near && LONG_OPERANDS.contains(&i.mnemonic()) {
        (guest.stop.cr2, guest.stop.error) = (host.stop.cr2, host.stop.error);
    }
}

fn alignment(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let checked = case.state.eflags >> 18 & 1 != 0;
    let either = host.stop.vector == 17 && matches!(guest.stop.vector, 12 | 13);
    if checked && either && LONG_OPERANDS.contains(&i.mnemonic()) {
        guest.stop.vector = 17;
    }
}

fn mmx_fault(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let mmx = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_mm());
    let faulted = host.stop.vector != 3 && same_stop(host, guest);
    let (before, h) = (&case.state.fx, &host.state.fx);
    let entered = h.sw == before.sw & !0x3800 && (h.tags == 0xff || h.tags == before.tags);
    let g = &mut guest.state.fx;
    let left = g.sw == before.sw && g.tags == before.tags && g.st == before.st;
    if mmx && faulted && entered && left {
        // The registers stay; only what is called ST(0) moves.
        let top = usize::from(before.sw >> 11 & 7);
        (g.sw, g.tags) = (h.sw, h.tags);
        g.st = std::array::from_fn(|n| before.st[(n + 8 - top) % 8]);
    }
}

fn popa(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let popa = matches!(i.mnemonic(), Mnemonic::Popa | Mnemonic::Popad);
    if popa && host.state.rip == case.state.rip && same_stop(host, guest) {
        for n in [0, 1, 2, 3, 5, 6, 7] {
            if guest.state.gpr[n] == case.state.gpr[n] {
                guest.state.gpr[n] = host.state.gpr[n];
            }
        }
    }
}

/// Longest operand that is stored piece by piece, and what an instruction may do to the stack.
const LONGEST_STORE: usize = 900;

fn partial_store(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    use Mnemonic::*;
    let long =
        matches!(i.mnemonic(), Fstp | Fbstp | Call | Enter | Pusha | Pushad) || LONG_OPERANDS.contains(&i.mnemonic());
    let faulted = host.state.rip == case.state.rip && host.stop.vector != 3 && same_stop(host, guest);
    if !long || !faulted || guest.rw != case.rw {
        return;
    }
    let changed = |n: &usize| host.rw[*n] != case.rw[*n];
    let (first, last) = ((0..case.rw.len()).find(changed), (0..case.rw.len()).rfind(changed));
    if let (Some(first), Some(last)) = (first, last)
        && last - first < LONGEST_STORE
    {
        guest.rw = host.rw;
    }
}

fn string_halves(case: &Case, i: &Instruction, host: &Outcome, guest: &mut Outcome) {
    let repeated = i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix());
    let half = (0..i.op_count()).any(|n| matches!(i.op_kind(n), OpKind::MemorySegESI | OpKind::MemoryESEDI));
    if !(case.long() && repeated && half) {
        return;
    }
    for n in [1, 6, 7] {
        let (h, g, before) = (host.state.gpr[n], &mut guest.state.gpr[n], case.state.gpr[n]);
        let allowed = *g == before || *g >> 32 == 0;
        if allowed && *g as u32 == h as u32 && (h >> 32 == 0 || h >> 32 == before >> 32) {
            *g = h;
        }
    }
}
