//! Programs of the kernel's (bpf(2), BPF_PROG_TYPE_CGROUP_SOCK_ADDR) that change one port of one
//! address to another: of where programs connect and send to, and back of where answers come from.

use crate::layout;
use crate::sys::{self, CgroupHook};
use core::net::Ipv4Addr;
use rustix::fd::AsFd;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// What programs of this network namespace send to `port` of `address` goes to `other`.
pub(super) fn install(address: Ipv4Addr, port: u16, other: u16) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cgroup = openat(CWD, layout::CGROUPS, flags, Mode::empty())?;
    for (hook, from, to) in [
        (CgroupHook::Connect, port, other),
        (CgroupHook::Send, port, other),
        (CgroupHook::Receive, other, port),
        (CgroupHook::PeerName, other, port),
    ] {
        let program = sys::load_cgroup_program(hook, &instructions(address, from, to))?;
        sys::attach_cgroup_program(hook, cgroup.as_fd(), program.as_fd())?;
    }
    Ok(())
}

/// Offsets in `struct bpf_sock_addr` (linux/bpf.h).
const USER_IP4: u16 = 4;
const USER_PORT: u16 = 24;

/// Number of the helper (linux/bpf.h): the cookie of a socket's network namespace, or of the first
/// namespace of all.
const GET_NETNS_COOKIE: u32 = 122;

/// The address and the ports are as they stand in memory, which is the network's order.
fn instructions(address: Ipv4Addr, from: u16, to: u16) -> [u64; 15] {
    let address = u32::from_ne_bytes(address.octets());
    let port = |port: u16| u32::from(port.to_be());
    [
        // r6 = r1, the structure
        instruction(0xbf, 6, 1, 0, 0),
        // unless its address is this one: end
        instruction(0x61, 2, 6, USER_IP4, 0),
        instruction(0x56, 2, 0, 10, address),
        // unless its port is this one: end
        instruction(0x61, 2, 6, USER_PORT, 0),
        instruction(0x56, 2, 0, 8, port(from)),
        // unless its namespace is the agent's own, the first one: end
        instruction(0xbf, 1, 6, 0, 0),
        instruction(0x85, 0, 0, 0, GET_NETNS_COOKIE),
        instruction(0xbf, 7, 0, 0, 0),
        instruction(0xb7, 1, 0, 0, 0),
        instruction(0x85, 0, 0, 0, GET_NETNS_COOKIE),
        instruction(0x5d, 7, 0, 2, 0),
        // the other port
        instruction(0xb4, 2, 0, 0, port(to)),
        instruction(0x63, 6, 2, USER_PORT, 0),
        // it may go on
        instruction(0xb7, 0, 0, 0, 1),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

/// `struct bpf_insn` of a machine whose lowest byte comes first.
fn instruction(code: u8, target: u8, source: u8, offset: u16, value: u32) -> u64 {
    let registers = u64::from(source << 4 | target);
    u64::from(code) | registers << 8 | u64::from(offset) << 16 | u64::from(value) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_to_the_end() {
        let program = instructions(Ipv4Addr::new(127, 0, 0, 11), 53, 40_000);
        let end = program.len() - 2;
        for (place, word) in program.iter().enumerate() {
            let bytes = word.to_le_bytes();
            if matches!(bytes[0], 0x56 | 0x5d) {
                let offset = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
                assert_eq!(place + 1 + offset, end);
            }
        }
        assert_eq!(program[2].to_le_bytes(), [0x56, 2, 10, 0, 127, 0, 0, 11]);
        assert_eq!(program[4].to_le_bytes(), [0x56, 2, 8, 0, 0, 53, 0, 0]);
    }
}
