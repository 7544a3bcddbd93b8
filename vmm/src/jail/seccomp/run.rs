//! Runs a filter as the kernel does, for tests.

use seccompiler::BpfProgram;

/// Whether the call is allowed, and after how many instructions that is known.
pub(super) fn run(program: &BpfProgram, number: u32, arguments: [u64; 6]) -> (bool, usize) {
    let mut data = [number.to_le_bytes(), 0xc000_003e_u32.to_le_bytes()].concat();
    data.extend([0; 8]);
    data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    let word = |at: u32| {
        let at = usize::try_from(at).unwrap();
        u32::from_le_bytes(data[at..at + 4].try_into().unwrap())
    };
    let (mut at, mut value) = (0, 0);
    for step in 1..=program.len() {
        let one = &program[at];
        at += 1;
        let mut jump = |is_so: bool| at += usize::from(if is_so { one.jt } else { one.jf });
        match one.code {
            0x20 => value = word(one.k),
            0x54 => value &= one.k,
            0x05 => at += usize::try_from(one.k).unwrap(),
            0x15 => jump(value == one.k),
            0x25 => jump(value > one.k),
            0x35 => jump(value >= one.k),
            0x06 => return (one.k == libc::SECCOMP_RET_ALLOW, step),
            other => panic!("an instruction that no filter here has: {other:#x}"),
        }
    }
    panic!("the filter has no end");
}
