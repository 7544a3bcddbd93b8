//! The device rules of a cgroup, compiled for BPF_PROG_TYPE_CGROUP_DEVICE.
//!
//! cgroup v2 has no device controller; the kernel asks an eBPF program at each open(2) and
//! mknod(2). For each of the accesses that are asked for (read, write, mknod) the last rule that
//! names the device and that access decides; without one it is denied. The program walks the rules
//! from the last to the first with the accesses that are still undecided in a register.

/// Which device a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceKind {
    /// Every device.
    Any,
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

/// One rule. `None` for a number is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceRule {
    pub(super) allow: bool,
    pub(super) kind: DeviceKind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    /// Bits of [`MKNOD`], [`READ`] and [`WRITE`].
    pub(super) access: u32,
}

// `linux/bpf.h`, BPF_DEVCG_*.
pub(super) const MKNOD: u32 = 1;
pub(super) const READ: u32 = 2;
pub(super) const WRITE: u32 = 4;
pub(super) const ALL: u32 = MKNOD | READ | WRITE;
const TYPE_BLOCK: u32 = 1;
const TYPE_CHARACTER: u32 = 2;

/// Rules in one container. A rule compiles to at most eight instructions, whose jumps and whose
/// number the kernel bounds (BPF_COMPLEXITY_LIMIT_INSNS).
pub(super) const MAX_RULES: usize = 4096;

// Offsets in `struct bpf_cgroup_dev_ctx`.
const ACCESS_TYPE: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;

// Registers: r1 is the context, r0 the answer.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND_REG: u8 = 2;
const PENDING: u8 = 3;
const MAJOR_REG: u8 = 4;
const MINOR_REG: u8 = 5;

// Opcodes (RFC 9669).
const LOAD_WORD: u8 = 0x61;
const MOVE_REG: u8 = 0xbc;
const MOVE_IMM: u8 = 0xb4;
const SHIFT_RIGHT: u8 = 0x74;
const AND: u8 = 0x54;
const JUMP: u8 = 0x05;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_ANY_BIT: u8 = 0x46;
const EXIT: u8 = 0x95;

/// What runc appends to every list: nodes may be made, and the devices that every container has
/// may be used; pseudo terminals besides.
fn always_allowed() -> impl Iterator<Item = DeviceRule> {
    let make = |kind| DeviceRule { allow: true, kind, major: None, minor: None, access: MKNOD };
    let character = |major, minor| DeviceRule {
        allow: true,
        kind: DeviceKind::Character,
        major: Some(major),
        minor,
        access: ALL,
    };
    [
        make(DeviceKind::Character),
        make(DeviceKind::Block),
        character(1, Some(3)),
        character(1, Some(5)),
        character(1, Some(7)),
        character(1, Some(8)),
        character(1, Some(9)),
        character(5, Some(0)),
        character(5, Some(2)),
        character(136, None),
    ]
    .into_iter()
}

/// The program for the rules of a bundle.
pub(super) fn compile(rules: &[DeviceRule]) -> Vec<u8> {
    let rules: Vec<DeviceRule> = rules.iter().copied().chain(always_allowed()).collect();
    let mut program = Program::default();
    program.load();
    for rule in rules.iter().rev() {
        program.rule(*rule);
        // A rule for everything settles what is left: the rules before it have no say.
        let everything = rule.kind == DeviceKind::Any
            && rule.major.is_none()
            && rule.minor.is_none()
            && rule.access == ALL;
        if everything {
            break;
        }
    }
    program.answer(0);
    program.bytes
}

#[derive(Default)]
struct Program {
    bytes: Vec<u8>,
}

impl Program {
    fn emit(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: u32) {
        self.bytes.extend([code, (source << 4) | destination]);
        self.bytes.extend(offset.to_le_bytes());
        self.bytes.extend(immediate.to_le_bytes());
    }

    fn load(&mut self) {
        self.emit(LOAD_WORD, KIND_REG, CONTEXT, ACCESS_TYPE, 0);
        self.emit(MOVE_REG, PENDING, KIND_REG, 0, 0);
        self.emit(SHIFT_RIGHT, PENDING, 0, 0, 16);
        self.emit(AND, PENDING, 0, 0, ALL);
        self.emit(AND, KIND_REG, 0, 0, 0xffff);
        self.emit(LOAD_WORD, MAJOR_REG, CONTEXT, MAJOR, 0);
        self.emit(LOAD_WORD, MINOR_REG, CONTEXT, MINOR, 0);
    }

    fn rule(&mut self, rule: DeviceRule) {
        let kind = match rule.kind {
            DeviceKind::Any => None,
            DeviceKind::Block => Some(TYPE_BLOCK),
            DeviceKind::Character => Some(TYPE_CHARACTER),
        };
        let conditions = [(KIND_REG, kind), (MAJOR_REG, rule.major), (MINOR_REG, rule.minor)];
        let tests: Vec<(u8, u32)> = conditions
            .into_iter()
            .filter_map(|(register, value)| value.map(|value| (register, value)))
            .collect();
        // A test that fails jumps over the tests behind it and the four instructions below.
        let mut over = 4 + i16::try_from(tests.len()).unwrap_or(0);
        for (register, value) in tests {
            over -= 1;
            self.emit(JUMP_NOT_EQUAL, register, 0, over, value);
        }
        if rule.allow {
            // These accesses are settled; with none left the answer is yes.
            self.emit(AND, PENDING, 0, 0, ALL & !rule.access);
            self.emit(JUMP_NOT_EQUAL, PENDING, 0, 2, 0);
            self.answer(1);
        } else {
            self.emit(JUMP_ANY_BIT, PENDING, 0, 1, rule.access);
            self.emit(JUMP, 0, 0, 2, 0);
            self.answer(0);
        }
    }

    fn answer(&mut self, value: u32) {
        self.emit(MOVE_IMM, ANSWER, 0, 0, value);
        self.emit(EXIT, 0, 0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Executes a program as the kernel would, for the instructions that are used here.
    fn interpret(program: &[u8], kind: u32, access: u32, major: u32, minor: u32) -> u32 {
        let mut registers = [0_u32; 11];
        let mut at = 0_usize;
        for _ in 0..program.len() {
            let instruction = &program[at * 8..at * 8 + 8];
            let destination = usize::from(instruction[1] & 15);
            let source = usize::from(instruction[1] >> 4);
            let offset = i16::from_le_bytes([instruction[2], instruction[3]]);
            let immediate = u32::from_le_bytes(instruction[4..].try_into().unwrap());
            let jump = match instruction[0] {
                LOAD_WORD => {
                    assert_eq!(source, usize::from(CONTEXT));
                    registers[destination] = match offset {
                        ACCESS_TYPE => access << 16 | kind,
                        MAJOR => major,
                        MINOR => minor,
                        _ => panic!("load from {offset}"),
                    };
                    false
                }
                MOVE_REG => {
                    registers[destination] = registers[source];
                    false
                }
                MOVE_IMM => {
                    registers[destination] = immediate;
                    false
                }
                SHIFT_RIGHT => {
                    registers[destination] >>= immediate;
                    false
                }
                AND => {
                    registers[destination] &= immediate;
                    false
                }
                JUMP => true,
                JUMP_NOT_EQUAL => registers[destination] != immediate,
                JUMP_ANY_BIT => registers[destination] & immediate != 0,
                EXIT => return registers[usize::from(ANSWER)],
                code => panic!("opcode {code:#x}"),
            };
            at += 1;
            if jump {
                at += usize::try_from(offset).expect("jumps go forward");
            }
        }
        panic!("the program does not end");
    }

    /// What the module's documentation says, written the slow way.
    fn expected(rules: &[DeviceRule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            rules
                .iter()
                .rev()
                .find(|rule| {
                    let same_kind = match rule.kind {
                        DeviceKind::Any => true,
                        DeviceKind::Block => kind == TYPE_BLOCK,
                        DeviceKind::Character => kind == TYPE_CHARACTER,
                    };
                    same_kind
                        && rule.major.is_none_or(|number| number == major)
                        && rule.minor.is_none_or(|number| number == minor)
                        && rule.access & bit != 0
                })
                .is_some_and(|rule| rule.allow)
        })
    }

    fn any_rule() -> impl Strategy<Value = DeviceRule> {
        let kind = prop_oneof![
            Just(DeviceKind::Any),
            Just(DeviceKind::Block),
            Just(DeviceKind::Character)
        ];
        let number = || proptest::option::of(prop_oneof![0_u32..4, Just(u32::MAX)]);
        (any::<bool>(), kind, number(), number(), 1_u32..=7).prop_map(
            |(allow, kind, major, minor, access)| DeviceRule { allow, kind, major, minor, access },
        )
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules_do(
            rules in proptest::collection::vec(any_rule(), 0..12),
            kind in 1_u32..=2,
            access in 1_u32..=7,
            major in prop_oneof![0_u32..4, Just(u32::MAX)],
            minor in prop_oneof![0_u32..4, Just(u32::MAX)],
        ) {
            let program = compile(&rules);
            let all: Vec<_> = rules.iter().copied().chain(always_allowed()).collect();
            let answer = interpret(&program, kind, access, major, minor);
            prop_assert_eq!(answer == 1, expected(&all, kind, access, major, minor));
        }
    }

    #[test]
    fn an_engines_usual_rules_allow_null_and_deny_the_disk() {
        let deny_all = DeviceRule {
            allow: false,
            kind: DeviceKind::Any,
            major: None,
            minor: None,
            access: ALL,
        };
        let program = compile(&[deny_all]);
        assert_eq!(interpret(&program, TYPE_CHARACTER, READ | WRITE, 1, 3), 1);
        assert_eq!(interpret(&program, TYPE_CHARACTER, READ | WRITE, 136, 7), 1);
        assert_eq!(interpret(&program, TYPE_BLOCK, READ, 254, 0), 0);
        assert_eq!(interpret(&program, TYPE_BLOCK, MKNOD, 254, 0), 1);
        assert_eq!(interpret(&program, TYPE_BLOCK, MKNOD | READ, 254, 0), 0);
    }
}
