//! What a process may do: limits, scheduling, capabilities, filters.

use super::{Result, call, pointer, signed};
use core::ffi::c_int;
use rustix::io::Errno;

/// prlimit64(2) on the calling process; `resource` is a RLIMIT_* number.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    set_limit_of(0, resource, soft, hard)
}

/// prlimit64(2); pid 0 is the calling process.
pub(crate) fn set_limit_of(pid: u32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let pid = usize::try_from(pid).map_err(|_| Errno::INVAL)?;
    let resource = usize::try_from(resource).map_err(|_| Errno::INVAL)?;
    let limit = [soft, hard];
    // SAFETY: the kernel reads two numbers of 64 bits.
    unsafe { call(libc::SYS_prlimit64, [pid, resource, pointer(&limit), 0, 0, 0]) }.map(drop)
}

/// Soft and hard limit of the calling process.
pub(crate) fn limit(resource: u32) -> Result<(u64, u64)> {
    let resource = usize::try_from(resource).map_err(|_| Errno::INVAL)?;
    let mut limit = [0_u64; 2];
    let arguments = [0, resource, 0, (&raw mut limit).expose_provenance(), 0, 0];
    // SAFETY: the kernel writes two numbers of 64 bits.
    unsafe { call(libc::SYS_prlimit64, arguments) }?;
    let [soft, hard] = limit;
    Ok((soft, hard))
}

/// prctl(2) with an operation that takes numbers only.
pub(crate) fn process_control(operation: c_int, first: u64, second: u64) -> Result<()> {
    let number = |value| usize::try_from(value).map_err(|_| Errno::INVAL);
    let arguments = [signed(operation), number(first)?, number(second)?, 0, 0, 0];
    // SAFETY: the callers, all in this crate, use operations without pointers.
    unsafe { call(libc::SYS_prctl, arguments) }.map(drop)
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Default)]
struct CapabilityHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// _LINUX_CAPABILITY_VERSION_3, in which two halves of 32 bits follow; pid 0 is the caller.
const CAPABILITY_HEADER: CapabilityHeader = CapabilityHeader { version: 0x2008_0522, pid: 0 };

/// capset(2) on the calling process: effective, permitted and inheritable set.
pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let half = |shift: u32| {
        let part = |set: u64| u32::try_from((set >> shift) & 0xffff_ffff).unwrap_or(0);
        CapabilityHalf {
            effective: part(effective),
            permitted: part(permitted),
            inheritable: part(inheritable),
        }
    };
    let halves = [half(0), half(32)];
    let arguments = [pointer(&CAPABILITY_HEADER), pointer(&halves), 0, 0, 0, 0];
    // SAFETY: the kernel reads the header and, for this version, two halves.
    unsafe { call(libc::SYS_capset, arguments) }.map(drop)
}

/// The permitted set of the calling process (capget(2)).
pub(crate) fn permitted_capabilities() -> Result<u64> {
    let mut halves = [CapabilityHalf::default(), CapabilityHalf::default()];
    let place = (&raw mut halves).expose_provenance();
    // SAFETY: the kernel reads the header and writes, for this version, two halves.
    unsafe { call(libc::SYS_capget, [pointer(&CAPABILITY_HEADER), place, 0, 0, 0, 0]) }?;
    let [low, high] = halves;
    Ok(u64::from(low.permitted) | (u64::from(high.permitted) << 32))
}

/// Loads a system call filter (seccomp(2)); a `sock_filter` is 8 bytes.
pub(crate) fn set_filter(instructions: &[u64], flags: u32) -> Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const u64,
    }
    let program = Program {
        length: u16::try_from(instructions.len()).map_err(|_| Errno::INVAL)?,
        instructions: instructions.as_ptr(),
    };
    let flags = usize::try_from(flags).map_err(|_| Errno::INVAL)?;
    let operation = usize::try_from(libc::SECCOMP_SET_MODE_FILTER).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads the structure and `length` instructions.
    unsafe { call(libc::SYS_seccomp, [operation, flags, pointer(&program), 0, 0, 0]) }.map(drop)
}

/// Parameters of [`set_scheduler`]; the layout is the kernel's first `struct sched_attr`.
#[repr(C)]
pub(crate) struct SchedulerAttributes {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// sched_setattr(2) on a thread; 0 is the calling one.
pub(crate) fn set_scheduler(thread: u32, mut attributes: SchedulerAttributes) -> Result<()> {
    let thread = usize::try_from(thread).map_err(|_| Errno::INVAL)?;
    attributes.size = u32::try_from(size_of::<SchedulerAttributes>()).unwrap_or(0);
    // SAFETY: the kernel reads a structure whose size is in its first field.
    unsafe { call(libc::SYS_sched_setattr, [thread, pointer(&attributes), 0, 0, 0, 0]) }.map(drop)
}

/// ioprio_set(2) on a thread; 0 is the calling one.
pub(crate) fn set_io_priority(thread: u32, class: u8, level: u8) -> Result<()> {
    const IOPRIO_WHO_PROCESS: usize = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let value = (usize::from(class) << IOPRIO_CLASS_SHIFT) | usize::from(level);
    let thread = usize::try_from(thread).map_err(|_| Errno::INVAL)?;
    // SAFETY: takes no pointer.
    unsafe { call(libc::SYS_ioprio_set, [IOPRIO_WHO_PROCESS, thread, value, 0, 0, 0]) }.map(drop)
}

/// personality(2).
pub(crate) fn set_personality(persona: u64) -> Result<()> {
    let persona = usize::try_from(persona).map_err(|_| Errno::INVAL)?;
    // SAFETY: takes no pointer.
    unsafe { call(libc::SYS_personality, [persona, 0, 0, 0, 0, 0]) }.map(drop)
}
