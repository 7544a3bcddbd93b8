//! Programs for the kernel, from lists of calls.

use super::tree::{self, Answer};
use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// A system call that a thread may make.
pub(super) struct Call {
    pub(super) number: c_long,
    /// With which arguments.
    pub(super) arguments: Arguments,
    /// What for.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for readers, and for the test of the lists")
    )]
    pub(super) reason: &'static str,
}

/// With which arguments a call is allowed.
pub(super) enum Arguments {
    /// Any.
    Any,
    /// Those that one of these rules matches.
    When(fn() -> Result<Vec<SeccompRule>, BackendError>),
}

/// Allows `calls`, and ends the process at any other.
pub(super) fn allow<'a>(calls: impl Iterator<Item = &'a Call>) -> Result<BpfProgram, BackendError> {
    let mut answers = BTreeMap::new();
    let mut rules = BTreeMap::new();
    for call in calls {
        let answer = match call.arguments {
            Arguments::Any => Answer::Allow,
            Arguments::When(rule) => {
                rules.insert(call.number, rule()?);
                Answer::Look
            }
        };
        answers.insert(number(call.number)?, answer);
    }
    let (no, yes) = (SeccompAction::KillProcess, SeccompAction::Allow);
    let look = SeccompFilter::new(rules, no, yes, TargetArch::x86_64)?.try_into()?;
    tree::program(Answer::Kill, &answers, look)
}

fn number(call: c_long) -> Result<u32, BackendError> {
    u32::try_from(call).map_err(|_| BackendError::InvalidArgumentNumber)
}

pub(super) fn any_of(argument: u8, values: &[u32]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| masked(argument, u64::from(u32::MAX), u64::from(*value))).collect()
}

/// Matches when the bits `mask` of the argument are those of `value`.
pub(super) fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(mask),
        value,
    )?])
}
