//! Which NaN an operation returns.

use super::format::{Class, Format, Unpacked};
use super::{Arch, Rules, flags};

/// The NaN that an invalid operation returns.
pub(super) fn default_nan(f: Format, rules: Rules) -> u64 {
    let negative = rules.arch == Arch::X86;
    f.infinity(negative) | f.quiet_bit()
}

/// The default NaN, with invalid raised.
pub(super) fn invalid(f: Format, rules: Rules, raised: &mut u32) -> u64 {
    *raised |= flags::INVALID;
    default_nan(f, rules)
}

/// The result when an operand is a NaN; `None` when none is. `operands` are in the architecture's order of precedence.
pub(super) fn propagate(f: Format, operands: &[Unpacked], rules: Rules, raised: &mut u32) -> Option<u64> {
    let first_nan = operands.iter().find(|x| x.is_nan())?;
    let signalling = operands.iter().find(|x| x.class == Class::SignallingNan);
    if signalling.is_some() {
        *raised |= flags::INVALID;
    }
    if rules.default_nan {
        return Some(default_nan(f, rules));
    }
    let chosen = match rules.arch {
        Arch::X86 => first_nan,
        Arch::Aarch64 | Arch::S390x => signalling.unwrap_or(first_nan),
    };
    Some(chosen.bits | f.quiet_bit())
}
