//! The system calls of each kind of thread; any other kills the process.
//!
//! Every thread has one list; threads of devices and of the file server add theirs. A virtual CPU's thread starts the threads of a device when the guest's driver is ready,
//! and they inherit its filter: the process as a whole is therefore allowed the union, and threads of
//! devices narrow it down to their own list when they start.

use devices::event_loop::ThreadHook;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter, apply_filter_all_threads,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why the filters could not be made or installed.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// A mistake in this file.
    #[error("a system call filter could not be compiled")]
    Compile(#[source] seccompiler::BackendError),
    /// The kernel refused.
    #[error("the kernel refused a system call filter")]
    Install(#[source] Error),
}

/// Memory, locks, time, events, and the end.
const EVERY_THREAD: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // A thread's own filter.
    libc::SYS_seccomp,
];

/// The channel, and starting and joining threads.
const CONTROL: &[libc::c_long] = &[
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    // Answered with ENOSYS by a second filter, since its flags are in memory.
    libc::SYS_clone3,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
];

/// Sockets of vsock, files of disks, the console, the balloon.
const DEVICES: &[libc::c_long] = &[
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_shutdown,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
];

/// What `file_server` lists in its documentation.
const FILE_SERVER: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_fstatfs,
    libc::SYS_fcntl,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_flock,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchmod,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_copy_file_range,
    libc::SYS_getxattr,
    libc::SYS_setxattr,
    libc::SYS_listxattr,
    libc::SYS_removexattr,
    libc::SYS_umask,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    libc::SYS_capget,
];

/// Once on each thread of the file server, before its own filter.
const FILE_SERVER_START: &[libc::c_long] = &[libc::SYS_fchdir];

// Requests of ioctl(2), see linux/kvm.h.
const KVM_RUN: u32 = 0xae80;
const KVM_KVMCLOCK_CTRL: u32 = 0xaead;
const KVM_GET_REGS: u32 = 0x8090_ae81;
const KVM_SET_REGS: u32 = 0x4090_ae82;

/// Filters, compiled.
pub struct Filters {
    process: BpfProgram,
    no_clone3: BpfProgram,
    devices: BpfProgram,
    file_server: BpfProgram,
}

impl Filters {
    /// Compiles all filters.
    ///
    /// # Errors
    /// [`SeccompError::Compile`].
    pub fn compile() -> Result<Self, SeccompError> {
        let compile = |lists: &[&[libc::c_long]], restricted: bool| {
            compile(lists, restricted).map_err(SeccompError::Compile)
        };
        let everything =
            [EVERY_THREAD, CONTROL, DEVICES, FILE_SERVER, FILE_SERVER_START].as_slice();
        Ok(Self {
            process: compile(everything, true)?,
            no_clone3: no_clone3().map_err(SeccompError::Compile)?,
            devices: compile(&[EVERY_THREAD, DEVICES], false)?,
            file_server: compile(&[EVERY_THREAD, FILE_SERVER], false)?,
        })
    }

    /// Confines all threads of the process, present and future.
    ///
    /// # Errors
    /// [`SeccompError::Install`].
    pub fn confine_process(&self) -> Result<(), SeccompError> {
        apply_filter_all_threads(&self.no_clone3).map_err(SeccompError::Install)?;
        apply_filter_all_threads(&self.process).map_err(SeccompError::Install)
    }

    /// What a thread of a device does first: it keeps its own list only.
    ///
    /// A thread that could not be confined must not serve a guest, and there is nobody to report to
    /// from it: the process ends.
    #[must_use]
    pub fn device_hook(self: &Arc<Self>) -> ThreadHook {
        let filters = self.clone();
        Arc::new(move |name| {
            let filter =
                if name.starts_with("fs") { &filters.file_server } else { &filters.devices };
            if let Err(error) = apply_filter(filter) {
                eprintln!("ringfence-vmm: thread {name} could not be confined: {error}");
                crate::process::end(1);
            }
        })
    }
}

/// A filter that allows the calls of `lists` and kills at any other. With `control`, also those that
/// are allowed with certain arguments only.
fn compile(
    lists: &[&[libc::c_long]],
    control: bool,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        lists.iter().flat_map(|list| list.iter()).map(|call| (*call, Vec::new())).collect();
    // Memory, but none that could be executed: all code was mapped when the program was loaded.
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![masked(2, executable, 0)?]);
    }
    if control {
        let requests = [KVM_RUN, KVM_KVMCLOCK_CTRL, KVM_GET_REGS, KVM_SET_REGS];
        rules.insert(libc::SYS_ioctl, any_of(1, &requests)?);
        // Names and confinement of threads.
        let options = [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS, libc::PR_SET_SECCOMP];
        rules.insert(libc::SYS_prctl, any_of(0, &options.map(libc::c_int::cast_unsigned))?);
        // Current directory and umask of a thread of the file server; no namespace.
        rules.insert(libc::SYS_unshare, any_of(0, &[libc::CLONE_FS.cast_unsigned()])?);
        // A thread, never a process.
        let thread = u64::from((libc::CLONE_VM | libc::CLONE_THREAD).cast_unsigned());
        rules.insert(libc::SYS_clone, vec![masked(0, thread, thread)?]);
        // Signals to this process only; pids do not change while it lives.
        rules.insert(libc::SYS_tgkill, any_of(0, &[std::process::id()])?);
    }
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture())?
        .try_into()
}

/// A filter that answers clone3(2) with ENOSYS: the C library then uses clone(2), whose flags a
/// filter can see.
fn no_clone3() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let answer = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, answer, architecture())?.try_into()
}

fn any_of(argument: u8, values: &[u32]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values.iter().map(|value| masked(argument, u64::from(u32::MAX), u64::from(*value))).collect()
}

/// Matches when the bits `mask` of the argument are those of `value`.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(mask),
        value,
    )?])
}

const fn architecture() -> TargetArch {
    TargetArch::x86_64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_filters_compile() {
        let filters = Filters::compile().unwrap();
        // BPF_MAXINSNS (linux/bpf_common.h).
        assert!(filters.process.len() < 4096);
        assert!(filters.devices.len() < filters.process.len());
    }

    #[test]
    fn a_confined_thread_gives_large_memory_back() {
        // In a process of its own: here, other tests' threads have left heaps behind.
        let program = std::env::current_exe().unwrap();
        let test = "jail::seccomp::tests::gives_large_memory_back";
        let mut child = std::process::Command::new(program);
        let status = child.args(["--exact", "--ignored", "--quiet", test]).status().unwrap();
        assert!(status.success(), "{status}");
    }

    #[test]
    #[ignore = "has to be alone in its process: a_confined_thread_gives_large_memory_back runs it"]
    fn gives_large_memory_back() {
        // Without the one heap, this process dies of SIGSYS here.
        crate::process::use_one_heap();
        let filters = Filters::compile().unwrap();
        let thread = std::thread::spawn(move || {
            apply_filter(&filters.devices).unwrap();
            for _ in 0..4 {
                let buffers: Vec<_> = (0..64).map(|_| vec![1_u8; 100 << 10]).collect();
                assert_eq!(buffers.iter().map(|buffer| usize::from(buffer[0])).sum::<usize>(), 64);
            }
        });
        thread.join().unwrap();
    }

    #[test]
    fn device_threads_are_allowed_no_more_than_the_process() {
        let process = [EVERY_THREAD, CONTROL, DEVICES, FILE_SERVER, FILE_SERVER_START].concat();
        for call in [EVERY_THREAD, DEVICES, FILE_SERVER].concat() {
            assert!(process.contains(&call));
        }
        for forbidden in [libc::SYS_execve, libc::SYS_ptrace, libc::SYS_mount, libc::SYS_socket] {
            assert!(!process.contains(&forbidden));
        }
    }
}
