//! A program of the kernel's that finds the socket for a new connection
//! (`Documentation/bpf/prog_sk_lookup.rst` of Linux).
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// linux/bpf.h: commands, the type of a map and of a program, the place of a program.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;

// Places in the map of sockets.
const V4: u32 = 0;
const V6: u32 = 1;

/// From now on, until what is returned is closed, a TCP connection to 127.0.0.1 in this network namespace
/// is the one listening socket's, and one to ::1 the other's, whatever its port.
///
/// # Errors
/// Those of bpf(2): Linux before 5.9, or without CAP_BPF and CAP_NET_ADMIN.
pub(super) fn attach(
    namespace: BorrowedFd<'_>,
    v4: BorrowedFd<'_>,
    v6: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let sockets = make_map()?;
    for (place, socket) in [(V4, Some(v4)), (V6, v6)] {
        if let Some(socket) = socket {
            put(&sockets, place, socket)?;
        }
    }
    let program = load(&instructions(sockets.as_raw_fd()))?;
    link(&program, namespace)
}

/// bpf(2).
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let pointer = std::ptr::from_ref(attributes);
    // SAFETY: the kernel reads a structure of the given size, which each caller has laid out for its
    // command; what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

fn owned(descriptor: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just returned it to us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn make_map() -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        kind: u32,
        key_bytes: u32,
        value_bytes: u32,
        entries: u32,
    }
    let create = Create { kind: BPF_MAP_TYPE_SOCKMAP, key_bytes: 4, value_bytes: 4, entries: 2 };
    bpf(BPF_MAP_CREATE, &create).map(owned)
}

fn put(map: &OwnedFd, place: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        map: libc::c_int,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let value = socket.as_raw_fd();
    let update = Update {
        map: map.as_raw_fd(),
        padding: 0,
        key: address(&raw const place),
        value: address(&raw const value),
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &update).map(drop)
}

fn load(instructions: &[u64]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        /// Log, kernel version, flags, name, device.
        unused: [u32; 11],
        attachment: u32,
    }
    let load = Load {
        kind: BPF_PROG_TYPE_SK_LOOKUP,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: address(instructions.as_ptr()),
        license: address(c"Apache-2.0".as_ptr()),
        unused: [0; 11],
        attachment: BPF_SK_LOOKUP,
    };
    bpf(BPF_PROG_LOAD, &load).map(owned)
}

fn link(program: &OwnedFd, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Link {
        program: libc::c_int,
        target: libc::c_int,
        attachment: u32,
        flags: u32,
    }
    let link = Link {
        program: program.as_raw_fd(),
        target: namespace.as_raw_fd(),
        attachment: BPF_SK_LOOKUP,
        flags: 0,
    };
    bpf(BPF_LINK_CREATE, &link).map(owned)
}

fn address<T>(place: *const T) -> u64 {
    place.expose_provenance() as u64
}

// Offsets in `struct bpf_sk_lookup` (linux/bpf.h).
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;

// Opcodes (RFC 9669).
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x62;
const LOAD_64: u8 = 0x18;
const MOVE: u8 = 0xbf;
const MOVE_IMM: u8 = 0xb7;
const ADD_IMM: u8 = 0x07;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL_32: u8 = 0x56;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// In the place of a register: the constant is the descriptor of a map.
const PSEUDO_MAP: u8 = 1;

// Helpers (linux/bpf.h).
const MAP_LOOKUP_ELEM: u32 = 1;
const SK_RELEASE: u32 = 86;
const SK_ASSIGN: u32 = 124;

const TCP: u32 = 6;
const SK_PASS: u32 = 1;
/// Of the key, beneath r10, which is the end of the stack.
const KEY: i16 = -4;

/// Instructions of the whole program, and where its parts begin.
const LENGTH: usize = 33;
const IS_V4: i16 = 15;
const LOOKUP: i16 = 18;
const PASS: i16 = 31;

fn instructions(map: libc::c_int) -> [u64; LENGTH] {
    let [a, b, c, d] = words(Ipv6Addr::LOCALHOST.octets());
    let v4 = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    [
        // r6 = r1, the structure
        instruction(MOVE, 6, 1, 0, 0),
        // unless it is TCP: pass
        instruction(LOAD_WORD, 2, 6, PROTOCOL, 0),
        instruction(JUMP_NOT_EQUAL_32, 2, 0, jump(2, PASS), TCP),
        // AF_INET has another part
        instruction(LOAD_WORD, 2, 6, FAMILY, 0),
        instruction(JUMP_NOT_EQUAL_32, 2, 0, jump(4, IS_V4), libc::AF_INET6.cast_unsigned()),
        // unless it is to ::1: pass
        instruction(LOAD_WORD, 2, 6, LOCAL_IP6, 0),
        instruction(JUMP_NOT_EQUAL_32, 2, 0, jump(6, PASS), a),
        instruction(LOAD_WORD, 2, 6, LOCAL_IP6 + 4, 0),
        instruction(JUMP_NOT_EQUAL_32, 2, 0, jump(8, PASS), b),
        instruction(LOAD_WORD, 2, 6, LOCAL_IP6 + 8, 0),
        instruction(JUMP_NOT_EQUAL_32, 2, 0, jump(10, PASS), c),
        instruction(LOAD_WORD, 2, 6, LOCAL_IP6 + 12, 0),
        instruction(JUMP_NOT_EQUAL_32, 2, 0, jump(12, PASS), d),
        instruction(STORE_WORD, 10, 0, KEY, V6),
        instruction(JUMP, 0, 0, jump(14, LOOKUP), 0),
        // IS_V4: unless it is to 127.0.0.1: pass
        instruction(LOAD_WORD, 2, 6, LOCAL_IP4, 0),
        instruction(JUMP_NOT_EQUAL_32, 2, 0, jump(16, PASS), v4),
        instruction(STORE_WORD, 10, 0, KEY, V4),
        // LOOKUP: r7 = the socket; unless there is one: pass
        instruction(LOAD_64, 1, PSEUDO_MAP, 0, map.cast_unsigned()),
        0,
        instruction(MOVE, 2, 10, 0, 0),
        instruction(ADD_IMM, 2, 0, 0, i32::from(KEY).cast_unsigned()),
        instruction(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        instruction(JUMP_EQUAL, 0, 0, jump(23, PASS), 0),
        instruction(MOVE, 7, 0, 0, 0),
        // it is the connection's
        instruction(MOVE, 1, 6, 0, 0),
        instruction(MOVE, 2, 7, 0, 0),
        instruction(MOVE_IMM, 3, 0, 0, 0),
        instruction(CALL, 0, 0, 0, SK_ASSIGN),
        // and is given back
        instruction(MOVE, 1, 7, 0, 0),
        instruction(CALL, 0, 0, 0, SK_RELEASE),
        // PASS: the search goes on if none was found
        instruction(MOVE_IMM, 0, 0, 0, SK_PASS),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// As they stand in memory, which is the network's order.
fn words(bytes: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

/// The offset of a jump, which counts from behind it.
fn jump(from: i16, to: i16) -> i16 {
    to - from - 1
}

/// `struct bpf_insn` of a machine whose lowest byte comes first.
fn instruction(code: u8, target: u8, source: u8, offset: i16, value: u32) -> u64 {
    let registers = u64::from(source << 4 | target);
    let offset = u64::from(offset.cast_unsigned());
    u64::from(code) | registers << 8 | offset << 16 | u64::from(value) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_to_the_beginnings_of_parts() {
        let program = instructions(7);
        let code = |place: i16| program[usize::try_from(place).unwrap()].to_le_bytes()[0];
        assert_eq!(
            [IS_V4, LOOKUP, PASS].map(code),
            [LOAD_WORD, LOAD_64, MOVE_IMM],
            "where they begin"
        );
        for (place, word) in program.iter().enumerate() {
            let bytes = word.to_le_bytes();
            if [JUMP, JUMP_EQUAL, JUMP_NOT_EQUAL_32].contains(&bytes[0]) {
                let offset = i16::from_le_bytes([bytes[2], bytes[3]]);
                let to = i16::try_from(place).unwrap() + 1 + offset;
                assert!([IS_V4, LOOKUP, PASS].contains(&to), "{place}: to {to}");
            }
        }
        assert_eq!(program[16].to_le_bytes(), [0x56, 2, 14, 0, 127, 0, 0, 1]);
        assert_eq!(program[18].to_le_bytes(), [0x18, 0x11, 0, 0, 7, 0, 0, 0]);
        assert_eq!(program[32].to_le_bytes(), [0x95, 0, 0, 0, 0, 0, 0, 0]);
    }
}
