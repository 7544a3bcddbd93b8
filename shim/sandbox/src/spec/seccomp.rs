//! `linux.seccomp`: a filter for the guest's system calls, compiled on the host.

use crate::spec::Notes;
use crate::spec::error::SpecError;
use crate::spec::json::{Fields, Node};
use crate::spec::newer_calls;
use crate::spec::process::by_name;
use agent_protocol::SeccompPlan;
use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read};

/// BPF_MAXINSNS of Linux.
const MAX_INSTRUCTIONS: usize = 4096;
/// Bytes of `struct sock_filter`.
const INSTRUCTION_BYTES: usize = 8;
/// System calls have six arguments.
const ARGUMENTS: u32 = 6;
/// errno that a refused call gets if the bundle names none.
const EPERM: u16 = 1;

const ACTIONS: [(&str, Action); 10] = [
    ("SCMP_ACT_ALLOW", Action::Allow),
    ("SCMP_ACT_LOG", Action::Log),
    ("SCMP_ACT_ERRNO", Action::Errno),
    ("SCMP_ACT_TRACE", Action::Trace),
    ("SCMP_ACT_TRAP", Action::Trap),
    ("SCMP_ACT_KILL", Action::KillThread),
    ("SCMP_ACT_KILL_THREAD", Action::KillThread),
    ("SCMP_ACT_KILL_PROCESS", Action::KillProcess),
    ("SCMP_ACT_NOTIFY", Action::Notify),
    ("SCMP_ACT_USER_NOTIF", Action::Notify),
];

/// SECCOMP_FILTER_FLAG_* (seccomp(2)).
const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 1),
    ("SECCOMP_FILTER_FLAG_LOG", 2),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", 4),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", WAIT_KILLABLE),
];
const WAIT_KILLABLE: u32 = 32;

const OPERATORS: [(&str, ScmpCompareOp); 7] = [
    ("SCMP_CMP_NE", ScmpCompareOp::NotEqual),
    ("SCMP_CMP_LT", ScmpCompareOp::Less),
    ("SCMP_CMP_LE", ScmpCompareOp::LessOrEqual),
    ("SCMP_CMP_EQ", ScmpCompareOp::Equal),
    ("SCMP_CMP_GE", ScmpCompareOp::GreaterEqual),
    ("SCMP_CMP_GT", ScmpCompareOp::Greater),
    ("SCMP_CMP_MASKED_EQ", ScmpCompareOp::MaskedEqual(0)),
];

/// Architectures whose programs an x86-64 guest can run.
const ARCHITECTURES: [(&str, ScmpArch); 3] = [
    ("SCMP_ARCH_X86_64", ScmpArch::X8664),
    ("SCMP_ARCH_X86", ScmpArch::X86),
    ("SCMP_ARCH_X32", ScmpArch::X32),
];

/// Architectures of config-linux.md and of libseccomp whose programs an x86-64 guest cannot run.
const OTHER_ARCHITECTURES: [&str; 21] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Log,
    Errno,
    Trace,
    Trap,
    KillThread,
    KillProcess,
    Notify,
}

/// A filter that has been read and not yet compiled, which takes libseccomp some milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct SeccompSpec {
    default: ScmpAction,
    architectures: Vec<ScmpArch>,
    flags: u32,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    path: String,
    names: Vec<String>,
    action: ScmpAction,
    conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Condition {
    argument: u32,
    operator: ScmpCompareOp,
    /// What the argument, or its masked bits, are compared with.
    datum: u64,
}

/// Reads `linux.seccomp`.
pub(super) fn read(node: &Node<'_>, notes: &mut Notes) -> Result<SeccompSpec, SpecError> {
    let fields = node.fields()?;
    let notify = "a system call cannot wait for a program on the host; remove it";
    fields.refuse("listenerPath", notify)?;
    fields.refuse("listenerMetadata", notify)?;
    let default = fields.require("defaultAction", "what happens to a call that no rule names")?;
    let spec = SeccompSpec {
        default: read_action(&default, fields.get("defaultErrnoRet").as_ref())?,
        architectures: read_architectures(&fields)?,
        flags: read_flags(&fields)?,
        rules: fields
            .items("syscalls")?
            .iter()
            .map(|node| read_rule(node, notes))
            .collect::<Result<_, _>>()?,
    };
    fields.tell_unknown(notes);
    Ok(spec)
}

/// The part of the features structure that is about filters.
pub(super) fn features() -> Value {
    let is_done = |action: &Action| *action != Action::Notify;
    let actions = ACTIONS.iter().filter(|(_, action)| is_done(action)).map(|(name, _)| *name);
    let flags = FLAGS.iter().map(|(name, _)| *name);
    let supported = FLAGS.iter().filter(|(_, flag)| *flag != WAIT_KILLABLE).map(|(name, _)| *name);
    json!({
        "enabled": true,
        "actions": actions.collect::<Vec<_>>(),
        "operators": OPERATORS.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        "archs": ARCHITECTURES.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        "knownFlags": flags.collect::<Vec<_>>(),
        "supportedFlags": supported.collect::<Vec<_>>(),
    })
}

fn read_action(node: &Node<'_>, errno: Option<&Node<'_>>) -> Result<ScmpAction, SpecError> {
    let action = by_name(&ACTIONS, node)?;
    let with_value = matches!(action, Action::Errno | Action::Trace);
    let value = match errno {
        None => EPERM,
        // config-linux.md: an errno beside an action that has none must be an error.
        Some(errno) if !with_value => {
            return Err(errno.invalid("only SCMP_ACT_ERRNO and SCMP_ACT_TRACE have a value"));
        }
        Some(errno) => errno.integer()?,
    };
    Ok(match action {
        Action::Allow => ScmpAction::Allow,
        Action::Log => ScmpAction::Log,
        Action::Errno => ScmpAction::Errno(i32::from(value)),
        Action::Trace => ScmpAction::Trace(value),
        Action::Trap => ScmpAction::Trap,
        Action::KillThread => ScmpAction::KillThread,
        Action::KillProcess => ScmpAction::KillProcess,
        Action::Notify => {
            return Err(node.unsupported(
                "a system call cannot wait for a program on the host; choose another action",
            ));
        }
    })
}

/// What the guest cannot run needs no rule; the guest's own architecture always has one.
fn read_architectures(fields: &Fields<'_>) -> Result<Vec<ScmpArch>, SpecError> {
    let mut architectures = vec![ScmpArch::X8664];
    for node in fields.items("architectures")? {
        let name = node.text()?;
        match ARCHITECTURES.iter().find(|(known, _)| *known == name) {
            Some((_, architecture)) if !architectures.contains(architecture) => {
                architectures.push(*architecture);
            }
            Some(_) => {}
            None if OTHER_ARCHITECTURES.contains(&name) => {}
            None => {
                return Err(node.invalid(
                    "there is no such architecture; the names are those of libseccomp, for \
                     example SCMP_ARCH_X86_64",
                ));
            }
        }
    }
    Ok(architectures)
}

fn read_flags(fields: &Fields<'_>) -> Result<u32, SpecError> {
    let mut flags = 0;
    for node in fields.items("flags")? {
        match by_name(&FLAGS, &node)? {
            WAIT_KILLABLE => {
                return Err(node.unsupported("it belongs to SCMP_ACT_NOTIFY; remove it"));
            }
            flag => flags |= flag,
        }
    }
    Ok(flags)
}

fn read_rule(node: &Node<'_>, notes: &mut Notes) -> Result<Rule, SpecError> {
    let fields = node.fields()?;
    let names = fields.require("names", "the system calls of this rule")?;
    if names.is_blank() {
        return Err(names.invalid("a rule must name at least one system call"));
    }
    let action = fields.require("action", "what happens to these system calls")?;
    let rule = Rule {
        path: node.path().to_owned(),
        names: names.texts()?.into_iter().map(str::to_owned).collect(),
        action: read_action(&action, fields.get("errnoRet").as_ref())?,
        conditions: fields.items("args")?.iter().map(read_condition).collect::<Result<_, _>>()?,
    };
    fields.tell_unknown(notes);
    Ok(rule)
}

fn read_condition(node: &Node<'_>) -> Result<Condition, SpecError> {
    let fields = node.fields()?;
    let index = fields.require("index", "the number of the argument, from 0")?;
    let argument = index.integer::<u32>()?;
    if argument >= ARGUMENTS {
        return Err(index.invalid("a system call has the arguments 0 to 5"));
    }
    let operator = fields.require("op", "how the argument is compared")?;
    let value = fields.require("value", "what the argument is compared with")?.integer()?;
    let second = fields.integer("valueTwo")?.unwrap_or(0);
    Ok(match by_name(&OPERATORS, &operator)? {
        ScmpCompareOp::MaskedEqual(_) => {
            Condition { argument, operator: ScmpCompareOp::MaskedEqual(value), datum: second }
        }
        operator => Condition { argument, operator, datum: value },
    })
}

impl SeccompSpec {
    /// Compiles the filter.
    ///
    /// # Errors
    /// [`SpecError::Seccomp`], [`SpecError::SeccompExport`] or [`SpecError::SeccompTooLarge`].
    pub fn compile(&self) -> Result<SeccompPlan, SpecError> {
        let at = |path: &str| {
            let path = path.to_owned();
            move |source| SpecError::Seccomp { path, source }
        };
        let mut filter =
            ScmpFilterContext::new(self.default).map_err(at("linux.seccomp.defaultAction"))?;
        // The context begins with the host's architecture, which is the guest's.
        for architecture in &self.architectures {
            filter.add_arch(*architecture).map_err(at("linux.seccomp.architectures"))?;
        }
        for rule in self.rules.iter().filter(|rule| rule.action != self.default) {
            rule.add(&mut filter).map_err(at(&rule.path))?;
        }
        let names = self.rules.iter().flat_map(|rule| rule.names.iter().map(String::as_str));
        let mut program = newer_calls::refused(self.default, &self.architectures, names);
        program.extend(export(&filter)?);
        let instructions = program.len() / INSTRUCTION_BYTES;
        if instructions > MAX_INSTRUCTIONS {
            return Err(SpecError::SeccompTooLarge { instructions, limit: MAX_INSTRUCTIONS });
        }
        Ok(SeccompPlan { program, flags: self.flags })
    }
}

impl Rule {
    fn add(&self, filter: &mut ScmpFilterContext) -> Result<(), SeccompError> {
        // A name that this host's libseccomp does not know is one that the profile has for newer
        // kernels: the default action covers it (runc, crun).
        let calls = self.names.iter().filter_map(|name| ScmpSyscall::from_name(name).ok());
        for call in calls {
            for conditions in self.alternatives() {
                filter.add_rule_conditional(self.action, call, &conditions)?;
            }
        }
        Ok(())
    }

    /// All conditions together, unless two are about one argument: libseccomp takes one for each,
    /// and profiles mean alternatives then (runc, crun).
    fn alternatives(&self) -> Vec<Vec<ScmpArgCompare>> {
        let compare = |condition: &Condition| {
            ScmpArgCompare::new(condition.argument, condition.operator, condition.datum)
        };
        let repeated = self.conditions.iter().enumerate().any(|(index, condition)| {
            self.conditions.iter().take(index).any(|other| other.argument == condition.argument)
        });
        if repeated {
            self.conditions.iter().map(|condition| vec![compare(condition)]).collect()
        } else {
            vec![self.conditions.iter().map(compare).collect()]
        }
    }
}

fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>, SpecError> {
    let memory = memfd_create("ringfence-seccomp", MemfdFlags::CLOEXEC)
        .map_err(|errno| SpecError::SeccompExport(errno.into()))?;
    filter
        .export_bpf(&memory)
        .map_err(|source| SpecError::Seccomp { path: "linux.seccomp".to_owned(), source })?;
    let mut program = Vec::new();
    seek(&memory, SeekFrom::Start(0))
        .map_err(io::Error::from)
        .and_then(|_| File::from(memory).read_to_end(&mut program))
        .map_err(SpecError::SeccompExport)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const X86_64: u32 = 0xc000_003e;
    const X86: u32 = 0x4000_0003;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;

    fn read_value(value: &Value) -> Result<SeccompSpec, SpecError> {
        read(&Node::document(value), &mut Notes::default())
    }

    /// What the kernel's classic BPF machine would answer, for the instructions of seccomp.
    fn run(program: &[u8], architecture: u32, call: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(call.to_le_bytes());
        data.extend(architecture.to_le_bytes());
        data.extend(0_u64.to_le_bytes());
        arguments.iter().for_each(|argument| data.extend(argument.to_le_bytes()));
        let mut accumulator = 0_u32;
        let mut at = 0_usize;
        loop {
            let instruction = &program[at * 8..at * 8 + 8];
            let code = u16::from_le_bytes([instruction[0], instruction[1]]);
            let (yes, no) = (usize::from(instruction[2]), usize::from(instruction[3]));
            let k = u32::from_le_bytes(instruction[4..].try_into().unwrap());
            at += 1;
            let mut branch = |taken: bool| at += if taken { yes } else { no };
            match code {
                0x20 => {
                    let offset = k as usize;
                    accumulator = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
                }
                0x05 => at += k as usize,
                0x15 => branch(accumulator == k),
                0x25 => branch(accumulator > k),
                0x35 => branch(accumulator >= k),
                0x45 => branch(accumulator & k != 0),
                0x54 => accumulator &= k,
                0x06 => return k,
                _ => panic!("opcode {code:#x}"),
            }
        }
    }

    #[test]
    fn a_filter_allows_and_refuses_as_asked() {
        let spec = read_value(&json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
            "syscalls": [
                { "names": ["read", "no_such_call_yet"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 },
                { "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                    { "index": 0, "value": 0, "op": "SCMP_CMP_EQ" },
                    { "index": 0, "value": 8, "op": "SCMP_CMP_EQ" },
                ] },
                { "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
                    { "index": 0, "value": 0x1000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" },
                ] },
            ],
        }))
        .unwrap();
        let program = spec.compile().unwrap().program;
        let call = |number, first| run(&program, X86_64, number, [first, 0, 0, 0, 0, 0]);
        assert_eq!(call(0, 7), ALLOW);
        assert_eq!(call(62, 0), ERRNO | 13);
        assert_eq!(call(135, 0), ALLOW);
        assert_eq!(call(135, 8), ALLOW);
        assert_eq!(call(135, 9), ERRNO | 38);
        assert_eq!(call(56, 0x0011), ALLOW);
        assert_eq!(call(56, 0x1011), ERRNO | 38);
        assert_eq!(call(1, 0), ERRNO | 38);
        // read(2) is number 3 for 32-bit programs.
        assert_eq!(run(&program, X86, 3, [0; 6]), ALLOW);
        assert_eq!(run(&program, X86, 0, [0; 6]), ERRNO | 38);
    }

    #[test]
    fn calls_beyond_the_last_named_one_are_not_there() {
        let with = |default: &str| {
            let spec = read_value(&json!({
                "defaultAction": default,
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": [
                    // 0 and 3, 334 and 386.
                    { "names": ["read", "no_such_call_yet"], "action": "SCMP_ACT_TRAP" },
                    { "names": ["rseq"], "action": "SCMP_ACT_LOG", "args": [
                        { "index": 0, "value": 5, "op": "SCMP_CMP_EQ" },
                    ] },
                ],
            }));
            let program = spec.unwrap().compile().unwrap().program;
            move |architecture, call| run(&program, architecture, call, [0; 6])
        };
        let (trap, not_there) = (0x0003_0000, ERRNO | 38);
        for (default, otherwise) in
            [("SCMP_ACT_ERRNO", ERRNO | 1), ("SCMP_ACT_KILL_PROCESS", 0x8000_0000)]
        {
            let call = with(default);
            for (architecture, bit, named, last) in
                [(X86_64, 0, 0, 334), (X86, 0, 3, 386), (X86_64, 0x4000_0000, 0, 334)]
            {
                assert_eq!(call(architecture, bit | named), trap);
                assert_eq!(call(architecture, bit | last), otherwise);
                assert_eq!(call(architecture, bit | (last + 1)), not_there);
                assert_eq!(call(architecture, bit | 0x3fff_ffff), not_there);
            }
        }
        let call = with("SCMP_ACT_ALLOW");
        assert_eq!((call(X86_64, 0), call(X86_64, 335)), (trap, ALLOW));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let with = |rule: Value| json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
        let condition = |condition: Value| {
            with(json!({ "names": ["read"], "action": "SCMP_ACT_LOG", "args": [condition] }))
        };
        for (value, path) in [
            (json!({}), "defaultAction is missing"),
            (json!({ "defaultAction": "SCMP_ACT_NOTIFY" }), "defaultAction is"),
            (json!({ "defaultAction": "ALLOW" }), "defaultAction is"),
            (json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1 }), "defaultErrnoRet"),
            (json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x" }), "listenerPath"),
            (json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"] }), "flags[0]"),
            (
                json!({ "defaultAction": "SCMP_ACT_ALLOW",
                     "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"] }),
                "flags[0]",
            ),
            (
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["amd64"] }),
                "architectures[0]",
            ),
            (with(json!({ "names": [], "action": "SCMP_ACT_LOG" })), "syscalls[0].names"),
            (with(json!({ "names": ["read"] })), "syscalls[0].action is missing"),
            (with(json!({ "names": ["read"], "action": "SCMP_ACT_NOTIFY" })), "syscalls[0].action"),
            (
                condition(json!({ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" })),
                "syscalls[0].args[0].index",
            ),
            (condition(json!({ "index": 0, "value": 0, "op": "==" })), "syscalls[0].args[0].op"),
            (
                condition(json!({ "index": 0, "op": "SCMP_CMP_EQ" })),
                "syscalls[0].args[0].value is missing",
            ),
        ] {
            let error = read_value(&value).unwrap_err().to_string();
            assert!(error.starts_with(path), "{error:?} does not begin with {path:?}");
        }
    }
}
