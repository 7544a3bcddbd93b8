//! A filter that finds a call's number by halves.
//!
//! The kernel runs a new filter once for each number that there is, to know those that need not be looked
//! at any more. With sixty comparisons in a row that takes longer than anything else that a thread does
//! at its start; with six it is nothing.

use seccompiler::{BackendError, BpfProgram, sock_filter};
use std::collections::BTreeMap;

/// What is said to a call by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is allowed.
    Allow,
    /// The process ends.
    Kill,
    /// Its arguments decide.
    Look,
}

/// `AUDIT_ARCH_X86_64` of linux/audit.h.
const ARCHITECTURE: u32 = 0xc000_003e;
// Places in `struct seccomp_data` (linux/seccomp.h).
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
// Instructions (linux/bpf_common.h).
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_FROM: u16 = 0x35;
const RETURN: u16 = 0x06;
/// `BPF_MAXINSNS` (linux/bpf_common.h).
pub(super) const MOST_INSTRUCTIONS: usize = 4096;

/// A filter with these answers, and another one for all other numbers; `look` is what looks at arguments,
/// a whole filter itself.
pub(super) fn program(
    other: Answer,
    answers: &BTreeMap<u32, Answer>,
    look: BpfProgram,
) -> Result<BpfProgram, BackendError> {
    let mut parts = vec![(0, other)];
    for (number, answer) in answers {
        put(&mut parts, *number, *answer);
        put(&mut parts, number.saturating_add(1), other);
    }
    let mut program = vec![
        instruction(LOAD, ARCHITECTURE_AT, 0),
        instruction(JUMP_IF_EQUAL, ARCHITECTURE, 1),
        instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0),
        instruction(LOAD, NUMBER_AT, 0),
    ];
    program.extend(halves(&parts)?);
    let end = program.len();
    for (at, jump) in program.iter_mut().enumerate().filter(|(_, one)| one.code == JUMP) {
        let behind = end.saturating_sub(at).saturating_sub(1);
        jump.k = u32::try_from(behind).map_err(|_| BackendError::FilterTooLarge(end))?;
    }
    program.extend(look);
    if program.len() > MOST_INSTRUCTIONS {
        return Err(BackendError::FilterTooLarge(program.len()));
    }
    Ok(program)
}

/// The answer from this number on; parts ascend.
fn put(parts: &mut Vec<(u32, Answer)>, from: u32, answer: Answer) {
    if parts.last().is_some_and(|(last, _)| *last == from) {
        parts.pop();
    }
    if parts.last().is_none_or(|(_, last)| *last != answer) {
        parts.push((from, answer));
    }
}

fn halves(parts: &[(u32, Answer)]) -> Result<BpfProgram, BackendError> {
    let (lower, upper) = parts.split_at(parts.len() / 2);
    let (Some((_, answer)), Some((from, _))) = (parts.first(), upper.first()) else {
        return Ok(Vec::new());
    };
    if lower.is_empty() {
        return Ok(vec![match answer {
            Answer::Allow => instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0),
            Answer::Kill => instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0),
            // To behind the tree, when that is known.
            Answer::Look => instruction(JUMP, 0, 0),
        }]);
    }
    let lower = halves(lower)?;
    let over = u8::try_from(lower.len()).map_err(|_| BackendError::FilterTooLarge(lower.len()))?;
    let mut tree = vec![instruction(JUMP_FROM, *from, over)];
    tree.extend(lower);
    tree.extend(halves(upper)?);
    Ok(tree)
}

/// A jump goes `over` so many if what it asks is true, and else to the next one.
const fn instruction(code: u16, k: u32, over: u8) -> sock_filter {
    sock_filter { code, jt: over, jf: 0, k }
}
