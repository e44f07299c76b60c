//! The seccomp program of a profile, and an evaluator for such programs.
//!
//! Building is seccompiler's work; this file adds what a deny list needs beside it (x32 numbers). The evaluator answers
//! "what does the filter that this process really has do with call N", for a program dumped from a running process.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use crate::{Check, Policy, Profile, Rule};

/// What can go wrong while a program is built or evaluated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The compiler refuses a table.
    #[error("the seccomp compiler refuses the profile of {kind}: {source}; correct its table")]
    Build {
        /// The profile's kind.
        kind: crate::Kind,
        /// The compiler's reason.
        source: seccompiler::BackendError,
    },
    /// A program to evaluate has an instruction that no compiler of ours makes, or runs past its end.
    #[error("instruction {at} of a seccomp program is not one that can be evaluated (code {code:#06x})")]
    Instruction {
        /// Index of the instruction.
        at: usize,
        /// Its code, 0 past the end.
        code: u16,
    },
}

/// Call numbers from here on belong to the x32 ABI, which has the same architecture word (`__X32_SYSCALL_BIT`).
pub const X32_BIT: u32 = 0x4000_0000;

/// `AUDIT_ARCH_X86_64` of linux/audit.h.
pub const ARCH_X86_64: u32 = 0xc000_003e;

/// Classic BPF codes, from linux/bpf_common.h: class | mode | size or operation | source.
mod code {
    pub const LD_W_ABS: u16 = 0x20;
    pub const ALU_AND_K: u16 = 0x54;
    pub const JA: u16 = 0x05;
    pub const JEQ_K: u16 = 0x15;
    pub const JGT_K: u16 = 0x25;
    pub const JGE_K: u16 = 0x35;
    pub const JSET_K: u16 = 0x45;
    pub const RET_K: u16 = 0x06;
}

/// Builds the program of `profile`.
pub(crate) fn build(profile: &Profile) -> Result<BpfProgram, Error> {
    let wrap = |source| Error::Build { kind: profile.kind, source };
    let (rules, otherwise, matched) = match profile.policy {
        Policy::AllowOnly(rules) => (rules, SeccompAction::Trap, SeccompAction::Allow),
        Policy::DenyOnly(rules) => (rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32)),
    };
    let mut map = BTreeMap::new();
    for rule in rules {
        map.insert(rule.call, conditions(rule).map_err(wrap)?);
    }
    let filter = SeccompFilter::new(map, otherwise, matched, TargetArch::x86_64).map_err(wrap)?;
    let body: BpfProgram = filter.try_into().map_err(wrap)?;
    Ok(match profile.policy {
        Policy::AllowOnly(_) => body,
        // A deny list must also name the same calls' x32 numbers; nobody needs any of them.
        Policy::DenyOnly(_) => refuse_x32().into_iter().chain(body).collect(),
    })
}

/// seccompiler joins the rules of a call by "or" and the conditions of a rule by "and".
fn conditions(rule: &Rule) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    // Every choice of one value for each check.
    let mut choices = vec![Vec::new()];
    for Check { argument, ignore, values } in rule.checks {
        let operator = match ignore {
            0 => SeccompCmpOp::Eq,
            bits => SeccompCmpOp::MaskedEq(u64::from(!bits)),
        };
        let mut longer = Vec::new();
        for choice in choices {
            for (value, _) in *values {
                let length = SeccompCmpArgLen::Dword;
                let one = SeccompCondition::new(*argument, length, operator.clone(), u64::from(*value))?;
                longer.push([choice.clone(), vec![one]].concat());
            }
        }
        choices = longer;
    }
    choices.into_iter().filter(|choice| !choice.is_empty()).map(SeccompRule::new).collect()
}

fn refuse_x32() -> [sock_filter; 3] {
    [
        sock_filter { code: code::LD_W_ABS, jt: 0, jf: 0, k: 0 },
        sock_filter { code: code::JGE_K, jt: 0, jf: 1, k: X32_BIT },
        sock_filter { code: code::RET_K, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32 },
    ]
}

/// A system call as a filter sees it (`struct seccomp_data`).
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The number.
    pub number: u32,
    /// The architecture word.
    pub architecture: u32,
    /// The address of the instruction.
    pub address: u64,
    /// The arguments.
    pub arguments: [u64; 6],
}

impl Call {
    /// An x86_64 call with these arguments from address 0.
    pub fn new(number: u32, arguments: [u64; 6]) -> Call {
        Call { number, architecture: ARCH_X86_64, address: 0, arguments }
    }

    /// The 32-bit word at byte `offset` of `struct seccomp_data`.
    fn word(&self, offset: u32) -> Option<u32> {
        let half = |value: u64, upper: bool| if upper { (value >> 32) as u32 } else { value as u32 };
        Some(match offset {
            0 => self.number,
            4 => self.architecture,
            8 | 12 => half(self.address, offset == 12),
            16..=60 if offset.is_multiple_of(4) => {
                half(self.arguments[(offset as usize - 16) / 8], !offset.is_multiple_of(8))
            }
            _ => return None,
        })
    }
}

/// What `program` returns for `call`: an action word, `SECCOMP_RET_*`.
///
/// # Errors
/// The program has an instruction that this evaluator does not know, or runs past its end.
pub fn evaluate(program: &[sock_filter], call: &Call) -> Result<u32, Error> {
    let mut accumulator = 0u32;
    let mut at = 0usize;
    loop {
        let Some(step) = program.get(at) else { return Err(Error::Instruction { at, code: 0 }) };
        let unknown = Error::Instruction { at, code: step.code };
        at += 1;
        // Jumps only go forward, so the loop ends.
        let branch = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        match step.code {
            code::LD_W_ABS => accumulator = call.word(step.k).ok_or(unknown)?,
            code::ALU_AND_K => accumulator &= step.k,
            code::JA => at += step.k as usize,
            code::JEQ_K => at += branch(accumulator == step.k),
            code::JGT_K => at += branch(accumulator > step.k),
            code::JGE_K => at += branch(accumulator >= step.k),
            code::JSET_K => at += branch(accumulator & step.k != 0),
            code::RET_K => return Ok(step.k),
            _ => return Err(unknown),
        }
    }
}

/// The highest number that [`passing`] asks about; the table ends at 469 and grows by a few each year.
pub const LAST_NUMBER: u32 = 1023;

/// The call numbers that `program` lets through for at least one of `samples` as arguments (zeroes are always tried).
///
/// # Errors
/// As [`evaluate`].
pub fn passing(program: &[sock_filter], samples: &[[u64; 6]]) -> Result<Vec<u32>, Error> {
    let mut found = Vec::new();
    for number in 0..=LAST_NUMBER {
        for arguments in std::iter::once(&[0; 6]).chain(samples) {
            if evaluate(program, &Call::new(number, *arguments))? == libc::SECCOMP_RET_ALLOW {
                found.push(number);
                break;
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn action(program: &[sock_filter], number: i64, arguments: [u64; 6]) -> u32 {
        let number = u32::try_from(number).expect("numbers of calls are small");
        evaluate(program, &Call::new(number, arguments)).expect("our programs can be evaluated")
    }

    #[test]
    fn every_program_lets_exactly_its_list_through() {
        for kind in Kind::ALL {
            let profile = kind.profile();
            let program = profile.program().expect("the table is valid");
            let passing = passing(&program, &profile.samples()).expect("it can be evaluated");
            for number in 0..=LAST_NUMBER {
                let expected = profile.allows(i64::from(number));
                assert_eq!(passing.contains(&number), expected, "{kind}: call {number}");
            }
        }
    }

    #[test]
    fn arguments_are_checked() {
        let program = Kind::Serial.profile().program().expect("valid");
        let futex = |operation: libc::c_int| action(&program, libc::SYS_futex, [0, operation as u64, 0, 0, 0, 0]);
        let allow = libc::SECCOMP_RET_ALLOW;
        assert_eq!(futex(libc::FUTEX_WAIT), allow);
        assert_eq!(futex(libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME), allow);
        for refused in [libc::FUTEX_LOCK_PI, libc::FUTEX_CMP_REQUEUE, libc::FUTEX_WAKE_OP, libc::FUTEX_FD] {
            assert_eq!(futex(refused), libc::SECCOMP_RET_TRAP, "{refused}");
        }
    }

    #[test]
    fn other_architectures_and_x32_do_not_pass() {
        for kind in Kind::ALL {
            let program = kind.profile().program().expect("valid");
            let number = libc::SYS_read as u32;
            let i386 = Call { architecture: 0x4000_0003, ..Call::new(number, [0; 6]) };
            assert_eq!(evaluate(&program, &i386).expect("evaluates"), libc::SECCOMP_RET_KILL_PROCESS, "{kind}");
            let x32 = Call::new(number | X32_BIT, [0; 6]);
            assert_ne!(evaluate(&program, &x32).expect("evaluates"), libc::SECCOMP_RET_ALLOW, "{kind}");
        }
    }

    #[test]
    fn a_program_that_runs_past_its_end_is_an_error() {
        let jump = [sock_filter { code: code::JA, jt: 0, jf: 0, k: 9 }];
        assert!(matches!(evaluate(&jump, &Call::new(0, [0; 6])), Err(Error::Instruction { at: 10, code: 0 })));
        let odd = [sock_filter { code: 0xff, jt: 0, jf: 0, k: 0 }];
        assert!(evaluate(&odd, &Call::new(0, [0; 6])).is_err());
    }

    #[test]
    fn words_are_the_halves_of_the_arguments() {
        let call = Call { address: 0x1111_2222_3333_4444, ..Call::new(1, [0xaaaa_bbbb_cccc_dddd, 0, 0, 0, 0, 7]) };
        assert_eq!((call.word(8), call.word(12)), (Some(0x3333_4444), Some(0x1111_2222)));
        assert_eq!((call.word(16), call.word(20)), (Some(0xcccc_dddd), Some(0xaaaa_bbbb)));
        assert_eq!((call.word(56), call.word(60), call.word(64), call.word(2)), (Some(7), Some(0), None, None));
    }
}
