//! What a dumped filter does with every call there is.
//!
//! The comparison of programs (`profile::audit`) trusts the compiler of profiles; this evaluates what the kernel gave out,
//! instruction by instruction, and holds the outcome against the table alone.

use profile::bpf::{Call, Error, LAST_NUMBER, X32_BIT, evaluate, passing};
use profile::{Policy, Profile, sock_filter, syscalls};

/// `SECCOMP_RET_ALLOW` of linux/seccomp.h.
const ALLOW: u32 = 0x7fff_0000;
/// `AUDIT_ARCH_I386` of linux/audit.h: the other entry into the kernel on this machine.
const ARCH_I386: u32 = 0x4000_0003;

/// The calls that pass all of `programs` (the kernel asks each) with some arguments that `profile` names.
///
/// # Errors
/// A program cannot be evaluated.
pub fn allowed(programs: &[Vec<sock_filter>], profile: &Profile) -> Result<Vec<u32>, Error> {
    let samples = profile.samples();
    let lists = programs.iter().map(|program| passing(program, &samples)).collect::<Result<Vec<_>, _>>()?;
    Ok((0..=LAST_NUMBER).filter(|number| lists.iter().all(|list| list.contains(number))).collect())
}

/// Every way in which `programs` differ from the table of `profile`, for people; empty if there is none.
///
/// # Errors
/// A program cannot be evaluated.
pub fn differences(programs: &[Vec<sock_filter>], profile: &Profile) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let passing = allowed(programs, profile)?;
    for number in 0..=LAST_NUMBER {
        let (is, should) = (passing.contains(&number), profile.allows(i64::from(number)));
        if is != should {
            let verb = if is { "passes" } else { "does not pass" };
            found.push(format!("{} {verb}", syscalls::describe(i64::from(number))));
        }
        let strange = |call: Call| -> Result<bool, Error> {
            let actions = programs.iter().map(|program| evaluate(program, &call)).collect::<Result<Vec<_>, _>>()?;
            Ok(actions.iter().all(|action| *action == ALLOW))
        };
        if strange(Call::new(number | X32_BIT, [0; 6]))? {
            found.push(format!("the x32 call {number} passes"));
        }
        if strange(Call { architecture: ARCH_I386, ..Call::new(number, [0; 6]) })? {
            found.push(format!("the 32-bit call {number} passes"));
        }
    }
    if let Policy::AllowOnly(rules) = profile.policy {
        for rule in rules {
            found.extend(arguments(programs, rule)?);
        }
    }
    Ok(found)
}

/// Values of a checked argument up to this are all tried: commands and operations are small numbers.
const SMALL: u32 = 2048;

/// Arguments that pass a check and should not, or the other way round.
fn arguments(programs: &[Vec<sock_filter>], rule: &profile::Rule) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for check in rule.checks {
        let named = check.values.iter().map(|(value, _)| *value);
        for value in (0..SMALL).chain(named).chain((0..32).map(|bit| 1 << bit)) {
            let should = check.values.iter().any(|(known, _)| *known == value & !check.ignore);
            let number = u32::try_from(rule.call).unwrap_or(u32::MAX);
            let call = Call::new(number, rule.sample(check.argument, value));
            let actions = programs.iter().map(|program| evaluate(program, &call)).collect::<Result<Vec<_>, _>>()?;
            if actions.iter().all(|action| *action == ALLOW) != should {
                found.push(format!("{} with argument {} = {value:#x}", syscalls::describe(rule.call), check.argument));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use profile::{Check, Kind, Rule};

    #[test]
    fn the_programs_of_the_profiles_are_their_tables() {
        for kind in Kind::ALL {
            let program = kind.profile().program().unwrap();
            assert_eq!(differences(&[program], kind.profile()).unwrap(), Vec::<String>::new(), "{kind}");
        }
    }

    #[test]
    fn a_call_and_an_argument_more_are_found() {
        let board = Kind::Board.profile();
        let with = |rule: Rule| {
            let others = board.rules().iter().filter(|other| other.call != rule.call).copied();
            let rules: &'static [Rule] = others.chain([rule]).collect::<Vec<_>>().leak();
            let program = Profile { policy: Policy::AllowOnly(rules), ..*board }.program().unwrap();
            differences(&[program], board).unwrap()
        };
        let mmap = syscalls::number("mmap").unwrap();
        assert_eq!(with(Rule { call: mmap, checks: &[], why: "" }), ["mmap (9) passes"]);
        let fcntl =
            board.rules().iter().find(|rule| matches!(rule.checks, [check] if check.values.len() == 1)).unwrap();
        let check = Check { values: &[(1, "F_GETFD"), (4, "F_SETFL")], ..fcntl.checks[0] };
        assert_eq!(with(Rule { checks: vec![check].leak(), ..*fcntl }), ["fcntl (72) with argument 1 = 0x4"; 2]);
    }

    #[test]
    fn one_check_less_of_several_is_found() {
        let engine = Kind::EngineTcg.profile();
        let mmap = engine.rules().iter().find(|rule| rule.checks.len() == 2).unwrap();
        for check in mmap.checks {
            let others = engine.rules().iter().filter(|other| other.call != mmap.call).copied();
            let lax = Rule { checks: vec![*check].leak(), ..*mmap };
            let rules: &'static [Rule] = others.chain([lax]).collect::<Vec<_>>().leak();
            let program = Profile { policy: Policy::AllowOnly(rules), ..*engine }.program().unwrap();
            assert!(!differences(&[program], engine).unwrap().is_empty(), "only argument {}", check.argument);
        }
    }

    #[test]
    fn the_strictest_of_several_filters_counts() {
        let profile = Kind::Keeper.profile();
        let programs = [profile.program().unwrap(), Kind::Serial.profile().program().unwrap()];
        let serial: Vec<u32> = Kind::Serial.profile().calls().map(|call| u32::try_from(call).unwrap()).collect();
        assert_eq!(allowed(&programs, Kind::Serial.profile()).unwrap().len(), serial.len());
    }
}
