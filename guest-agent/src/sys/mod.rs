//! System calls that rustix does not have, or has only with more than the agent needs.
//!
//! Nothing here decides anything: each function is one call with checked arguments.
#![expect(unsafe_code, reason = "system calls")]

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;
mod privilege;
mod process;

pub(crate) use privilege::*;
pub(crate) use process::*;

use core::ffi::{CStr, c_int};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;

pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// # Safety
/// As the system call with this number and these arguments.
unsafe fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<usize> {
    let number = usize::try_from(number).map_err(|_| Errno::NOSYS)?;
    // SAFETY: the caller vouches for the call.
    let result = unsafe { arch::syscall(number, arguments) };
    // The kernel returns an error as its negated number, which is at most 4095.
    usize::try_from(result).map_err(|_| {
        Errno::from_raw_os_error(i32::try_from(result.wrapping_neg()).unwrap_or(libc::EIO))
    })
}

fn raw(fd: impl AsFd) -> usize {
    signed(fd.as_fd().as_raw_fd())
}

/// An `int` argument as the register that carries it.
fn signed(value: c_int) -> usize {
    (value as isize).cast_unsigned()
}

fn pointer<T>(value: &T) -> usize {
    core::ptr::from_ref(value).expose_provenance()
}

fn text(value: &CStr) -> usize {
    value.as_ptr().expose_provenance()
}

fn optional_text(value: Option<&CStr>) -> usize {
    value.map_or(0, text)
}

fn owned(fd: usize) -> Result<OwnedFd> {
    let fd = c_int::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just returned it to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Fresh, zeroed memory; `size` is a multiple of the page size.
#[must_use]
pub fn map_memory(size: usize) -> Option<*mut u8> {
    let protection = signed(libc::PROT_READ | libc::PROT_WRITE);
    let flags = signed(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let arguments = [0, size, protection, flags, usize::MAX, 0];
    // SAFETY: a fresh mapping at a place that the kernel chooses touches nothing that exists.
    unsafe { call(libc::SYS_mmap, arguments) }.ok().map(core::ptr::with_exposed_provenance_mut)
}

/// Gives memory back.
///
/// # Safety
/// `memory` was returned by [`map_memory`] or [`remap_memory`] for this size, and is not used any
/// more.
pub unsafe fn unmap_memory(memory: *mut u8, size: usize) {
    let arguments = [memory.expose_provenance(), size, 0, 0, 0, 0];
    // SAFETY: the caller gives up exactly this mapping. It cannot fail for a whole mapping.
    let _ = unsafe { call(libc::SYS_munmap, arguments) };
}

/// Makes memory larger or smaller, moving it if need be.
///
/// # Safety
/// As [`unmap_memory`] for the old place; the content is at the returned place.
#[must_use]
pub unsafe fn remap_memory(memory: *mut u8, old: usize, new: usize) -> Option<*mut u8> {
    let arguments = [memory.expose_provenance(), old, new, signed(libc::MREMAP_MAYMOVE), 0, 0];
    // SAFETY: the caller gives up exactly this mapping if the call succeeds.
    let moved = unsafe { call(libc::SYS_mremap, arguments) };
    moved.ok().map(core::ptr::with_exposed_provenance_mut)
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

const NS_PER_SECOND: u64 = 1_000_000_000;

/// CLOCK_BOOTTIME in nanoseconds. A system call and not the vDSO: it is asked for a few times in
/// the life of a container, and looking for the vDSO costs more.
pub(crate) fn boot_time_ns() -> u64 {
    let mut now = Timespec { seconds: 0, nanoseconds: 0 };
    let arguments = [signed(libc::CLOCK_BOOTTIME), (&raw mut now).expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the kernel writes one timespec to where one is. The call cannot fail for this clock.
    let _ = unsafe { call(libc::SYS_clock_gettime, arguments) };
    let seconds = u64::try_from(now.seconds).unwrap_or(0);
    seconds.wrapping_mul(NS_PER_SECOND).wrapping_add(u64::try_from(now.nanoseconds).unwrap_or(0))
}

/// Sets CLOCK_REALTIME.
pub(crate) fn set_real_time(ns: u64) -> Result<()> {
    let seconds = i64::try_from(ns / NS_PER_SECOND).map_err(|_| Errno::INVAL)?;
    let nanoseconds = i64::try_from(ns % NS_PER_SECOND).map_err(|_| Errno::INVAL)?;
    let now = Timespec { seconds, nanoseconds };
    let arguments = [signed(libc::CLOCK_REALTIME), pointer(&now), 0, 0, 0, 0];
    // SAFETY: the kernel reads one timespec from where one is.
    unsafe { call(libc::SYS_clock_settime, arguments) }.map(drop)
}

/// Adds a seed to the kernel's pool and counts all its bits (random(4), RNDADDENTROPY).
pub(crate) fn add_entropy(device: BorrowedFd<'_>, seed: &[u8; 32]) -> Result<()> {
    const RNDADDENTROPY: usize = 0x4008_5203;
    #[repr(C)]
    struct PoolInfo {
        bits: c_int,
        bytes: c_int,
        seed: [u8; 32],
    }
    let info = PoolInfo { bits: 256, bytes: 32, seed: *seed };
    // SAFETY: the kernel reads the structure that this request takes.
    unsafe { call(libc::SYS_ioctl, [raw(device), RNDADDENTROPY, pointer(&info), 0, 0, 0]) }
        .map(drop)
}

/// What a partition is for blkpg(4): `struct blkpg_partition` of linux/blkpg.h.
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: c_int,
    names: [u8; 128],
}

fn change_partition(disk: BorrowedFd<'_>, operation: c_int, partition: &Partition) -> Result<()> {
    const BLKPG: usize = 0x1269;
    #[repr(C)]
    struct Argument {
        operation: c_int,
        flags: c_int,
        length: c_int,
        data: usize,
    }
    let length = c_int::try_from(size_of::<Partition>()).map_err(|_| Errno::INVAL)?;
    let argument = Argument { operation, flags: 0, length, data: pointer(partition) };
    // SAFETY: the kernel reads both structures that this request takes, and writes neither.
    unsafe { call(libc::SYS_ioctl, [raw(disk), BLKPG, pointer(&argument), 0, 0, 0]) }.map(drop)
}

/// Makes a part of a disk, in bytes, a block device of its own (BLKPG_ADD_PARTITION).
pub(crate) fn add_partition(
    disk: BorrowedFd<'_>,
    number: u16,
    start: u64,
    bytes: u64,
) -> Result<()> {
    const BLKPG_ADD_PARTITION: c_int = 1;
    let place = |bytes| i64::try_from(bytes).map_err(|_| Errno::INVAL);
    let (start, length) = (place(start)?, place(bytes)?);
    let partition = Partition { start, length, number: number.into(), names: [0; 128] };
    change_partition(disk, BLKPG_ADD_PARTITION, &partition)
}

/// Undoes it (BLKPG_DEL_PARTITION); ENXIO if there is none, EBUSY while it is used.
pub(crate) fn delete_partition(disk: BorrowedFd<'_>, number: u16) -> Result<()> {
    const BLKPG_DEL_PARTITION: c_int = 2;
    let partition = Partition { start: 0, length: 0, number: number.into(), names: [0; 128] };
    change_partition(disk, BLKPG_DEL_PARTITION, &partition)
}

/// A stream socket to `port` of the host (vsock(7)); not blocking if `flags` say so, then the
/// connection may be in progress (EINPROGRESS is no error here).
pub(crate) fn connect_vsock(port: u32, flags: c_int) -> Result<OwnedFd> {
    let address = libc::sockaddr_vm {
        svm_family: u16::try_from(libc::AF_VSOCK).map_err(|_| Errno::INVAL)?,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: libc::VMADDR_CID_HOST,
        svm_zero: [0; 4],
    };
    let kind = signed(libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags);
    // SAFETY: takes no pointer.
    let fd = unsafe { call(libc::SYS_socket, [signed(libc::AF_VSOCK), kind, 0, 0, 0, 0]) }?;
    let socket = owned(fd)?;
    let arguments = [raw(&socket), pointer(&address), size_of_val(&address), 0, 0, 0];
    // SAFETY: the kernel reads an address of the given size.
    match unsafe { call(libc::SYS_connect, arguments) } {
        Ok(_) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// mount(2).
pub(crate) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> Result<()> {
    let flags = usize::try_from(flags).map_err(|_| Errno::INVAL)?;
    let arguments =
        [optional_text(source), text(target), optional_text(kind), flags, optional_text(data), 0];
    // SAFETY: the kernel reads strings that end with a zero byte; all file systems that have a
    // binary form of `data` accept a string.
    unsafe { call(libc::SYS_mount, arguments) }.map(drop)
}

/// mount_setattr(2) on the mount that `fd` is the root of; with `recursive` on all beneath.
pub(crate) fn set_mount_attributes(
    fd: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = MountAttr { set, clear, propagation, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let arguments =
        [raw(fd), text(c""), signed(flags), pointer(&attributes), size_of::<MountAttr>(), 0];
    // SAFETY: the kernel reads a structure of the given size and an empty string.
    unsafe { call(libc::SYS_mount_setattr, arguments) }.map(drop)
}

/// Closes the descriptors from `first` to `last`, both included.
///
/// # Safety
/// None of them is owned by anything that will use or close it.
pub(crate) unsafe fn close_range(first: u32, last: u32) -> Result<()> {
    let (Ok(first), Ok(last)) = (usize::try_from(first), usize::try_from(last)) else {
        return Err(Errno::INVAL);
    };
    // SAFETY: takes no pointer; the caller vouches for the descriptors.
    unsafe { call(libc::SYS_close_range, [first, last, 0, 0, 0, 0]) }.map(drop)
}

/// Brings a network device of the current network namespace up (netdevice(7)).
pub(crate) fn bring_up(socket: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    let mut request = Request { name: [0; 16], flags: 0, rest: [0; 22] };
    for (byte, value) in request.name.iter_mut().zip(name) {
        *byte = *value;
    }
    request.flags = u16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(|_| Errno::INVAL)?;
    let number = usize::try_from(libc::SIOCSIFFLAGS).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads the structure that this request takes.
    unsafe { call(libc::SYS_ioctl, [raw(socket), number, pointer(&request), 0, 0, 0]) }.map(drop)
}

/// The hardware address of the network device with this number (netdevice(7)).
pub(crate) fn hardware_address(socket: BorrowedFd<'_>, index: u32) -> Result<[u8; 6]> {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        /// A number, or an address behind its family.
        value: [u8; 24],
    }
    let mut request = Request { name: [0; 16], value: [0; 24] };
    if let Some(number) = request.value.first_chunk_mut() {
        *number = index.to_ne_bytes();
    }
    for number in [libc::SIOCGIFNAME, libc::SIOCGIFHWADDR] {
        let number = usize::try_from(number).map_err(|_| Errno::INVAL)?;
        let arguments = [raw(socket), number, (&raw mut request).expose_provenance(), 0, 0, 0];
        // SAFETY: the kernel reads and writes the structure that both requests take.
        unsafe { call(libc::SYS_ioctl, arguments) }?;
    }
    let address = request.value.get(2..).and_then(|bytes| bytes.first_chunk());
    address.copied().ok_or(Errno::INVAL)
}

/// Where in the kernel a program of a cgroup's runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CgroupHook {
    /// When a device is opened or made.
    Device,
    /// connect(2) to an address of IPv4.
    Connect,
    /// sendmsg(2) of a datagram to one.
    Send,
    /// recvmsg(2) of one from there.
    Receive,
    /// getpeername(2) of one.
    PeerName,
}

impl CgroupHook {
    /// Type of the programs, their expected type of attachment, and that (linux/bpf.h).
    fn numbers(self) -> (u32, u32, u32) {
        const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
        const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
        let of_address = |attachment| (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attachment, attachment);
        match self {
            Self::Device => (BPF_PROG_TYPE_CGROUP_DEVICE, 0, 6),
            Self::Connect => of_address(10),
            Self::Send => of_address(14),
            Self::Receive => of_address(19),
            Self::PeerName => of_address(29),
        }
    }
}

/// Loads a program (bpf(2), BPF_PROG_LOAD). `instructions` are of 8 bytes.
pub(crate) fn load_cgroup_program(hook: CgroupHook, instructions: &[u64]) -> Result<OwnedFd> {
    const BPF_PROG_LOAD: usize = 5;
    #[repr(C)]
    struct Load {
        program_type: u32,
        count: u32,
        instructions: u64,
        license: u64,
        /// Log, kernel version, flags, name, device.
        unused: [u32; 11],
        expected_attachment: u32,
    }
    let (program_type, expected_attachment, _) = hook.numbers();
    let attributes = Load {
        program_type,
        count: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: text(c"Apache-2.0") as u64,
        unused: [0; 11],
        expected_attachment,
    };
    let arguments = [BPF_PROG_LOAD, pointer(&attributes), size_of::<Load>(), 0, 0, 0];
    // SAFETY: the kernel reads a structure of the given size, `count` instructions and a string.
    owned(unsafe { call(libc::SYS_bpf, arguments) }?)
}

/// Attaches a program of [`load_cgroup_program`] to a cgroup, beside those that are there.
pub(crate) fn attach_cgroup_program(
    hook: CgroupHook,
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> Result<()> {
    const BPF_PROG_ATTACH: usize = 8;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    #[repr(C)]
    struct Attach {
        target: c_int,
        program: c_int,
        kind: u32,
        flags: u32,
    }
    let (_, _, kind) = hook.numbers();
    let attributes = Attach {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        kind,
        flags: BPF_F_ALLOW_MULTI,
    };
    let arguments = [BPF_PROG_ATTACH, pointer(&attributes), size_of::<Attach>(), 0, 0, 0];
    // SAFETY: the kernel reads a structure of the given size.
    unsafe { call(libc::SYS_bpf, arguments) }.map(drop)
}
