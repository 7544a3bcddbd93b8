//! What an agent tells of a container: its processes, and what it uses (cgroup-v2.rst).

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// A part of the processes of a container, ascending by pid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessList {
    /// At most [`crate::MAX_LISTED_PROCESSES`].
    pub processes: Vec<ProcessInfo>,
    /// There are more with higher pids.
    pub more: bool,
    /// When they were looked at, CLOCK_BOOTTIME, nanoseconds.
    pub at_ns: u64,
}

/// A process as `ps -ef` shows it (proc_pid_stat(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its pid in the guest's root pid namespace.
    pub pid: u32,
    /// Its parent's, likewise; 0 for none.
    pub parent: u32,
    /// Effective user id.
    pub uid: u32,
    /// When it began, CLOCK_BOOTTIME, nanoseconds, in steps of 10 ms.
    pub started_ns: u64,
    /// CPU time that it has used in user and kernel mode, nanoseconds, in steps of 10 ms.
    pub cpu_ns: u64,
    /// Its controlling terminal: a device number as proc_pid_stat(5) packs it, 0 for none.
    pub terminal: u32,
    /// Its arguments with blanks between them, or its name in brackets if it has none; at most
    /// [`crate::MAX_COMMAND`] bytes. Written by the process: anything may stand there.
    pub command: String,
}

/// What a container uses, and may use. What the kernel does not tell is 0, or no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// CPU time.
    pub cpu: CpuStatistics,
    /// Memory.
    pub memory: MemoryStatistics,
    /// Processes and threads.
    pub pids: PidsStatistics,
    /// Block devices of the guest; at most [`crate::MAX_COUNTERS`].
    pub io: Vec<IoStatistics>,
    /// Huge pages by size; at most [`crate::MAX_COUNTERS`].
    pub huge_pages: Vec<HugePageStatistics>,
}

/// `cpu.stat`, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStatistics {
    /// All CPU time.
    pub usage_us: u64,
    /// In user mode.
    pub user_us: u64,
    /// In kernel mode.
    pub system_us: u64,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time for which it was throttled.
    pub throttled_us: u64,
}

/// `memory.*`, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStatistics {
    /// `memory.current`.
    pub usage: u64,
    /// `memory.max`.
    pub limit: Option<u64>,
    /// `memory.peak`.
    pub peak: u64,
    /// `memory.swap.current`.
    pub swap_usage: u64,
    /// `memory.swap.max`.
    pub swap_limit: Option<u64>,
    /// `memory.stat`; at most [`crate::MAX_COUNTERS`].
    pub stat: Vec<Counter>,
    /// `memory.events`; at most [`crate::MAX_COUNTERS`].
    pub events: Vec<Counter>,
}

/// A named number of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// At most [`crate::MAX_COUNTER_NAME`] bytes.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// `pids.*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidsStatistics {
    /// `pids.current`.
    pub current: u64,
    /// `pids.max`.
    pub limit: Option<u64>,
}

/// One line of `io.stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoStatistics {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// `rbytes`.
    pub read_bytes: u64,
    /// `wbytes`.
    pub written_bytes: u64,
    /// `dbytes`.
    pub discarded_bytes: u64,
    /// `rios`.
    pub reads: u64,
    /// `wios`.
    pub writes: u64,
    /// `dios`.
    pub discards: u64,
}

/// `hugetlb.SIZE.*`, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePageStatistics {
    /// The size as the kernel writes it: `2MB`, `1GB`; at most [`crate::MAX_COUNTER_NAME`] bytes.
    pub size: String,
    /// `hugetlb.SIZE.current`.
    pub usage: u64,
    /// `hugetlb.SIZE.max`.
    pub limit: Option<u64>,
    /// How often the limit was met (`hugetlb.SIZE.events`, `max`).
    pub failures: u64,
}
