//! The system calls of each kind of thread, each with what it is for.
//!
//! All threads of a machine are made before the guest runs and live as long as it does: none of them is
//! allowed to make another.

use super::filter::{Arguments, Call, any_of, masked};
use super::kind::{Kind, OWN_PID};
use libc::c_long;

const fn call(number: c_long, reason: &'static str) -> Call {
    Call { number, arguments: Arguments::Any, reason }
}

const fn only(number: c_long, arguments: Arguments, reason: &'static str) -> Call {
    Call { number, arguments, reason }
}

// Requests of ioctl(2), see linux/kvm.h.
const KVM_RUN: u32 = 0xae80;
const KVM_KVMCLOCK_CTRL: u32 = 0xaead;
const KVM_GET_REGS: u32 = 0x8090_ae81;
const KVM_SET_REGS: u32 = 0x4090_ae82;
// linux/if_tun.h.
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNSETQUEUE: u32 = 0x4004_54d9;

/// Memory, but none that could be executed: all code was mapped when the program was loaded.
const NOT_EXECUTABLE: Arguments =
    Arguments::When(|| Ok(vec![masked(2, u64::from(libc::PROT_EXEC.cast_unsigned()), 0)?]));
const VIRTUAL_CPU: Arguments = Arguments::When(|| {
    let own = [KVM_RUN, KVM_KVMCLOCK_CTRL, KVM_GET_REGS, KVM_SET_REGS];
    any_of(1, &[&own[..], &[TUNSETOFFLOAD, TUNSETQUEUE]].concat())
});
const QUEUE_OF_TAP: Arguments = Arguments::When(|| any_of(1, &[TUNSETQUEUE]));
/// Pids do not change while the process lives.
const THIS_PROCESS: Arguments = Arguments::When(|| any_of(0, &[OWN_PID]));
/// Copies, flags and locks; not who is sent a signal by whom.
const OF_DESCRIPTORS: Arguments = Arguments::When(|| {
    let commands = [
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_OFD_SETLK,
        libc::F_OFD_GETLK,
    ];
    any_of(1, &commands.map(libc::c_int::cast_unsigned))
});

/// Memory, locks, time, and the end.
const EVERY_THREAD: &[Call] = &[
    call(libc::SYS_read, "counters of event descriptors; a tap"),
    call(libc::SYS_write, "event descriptors; the console log; a tap; a panic's message"),
    call(libc::SYS_close, "what the guest gave back, reset or disconnected"),
    call(libc::SYS_futex, "locks, condition variables and channels"),
    call(libc::SYS_sched_yield, "channels, before they wait"),
    only(libc::SYS_mmap, NOT_EXECUTABLE, "large buffers"),
    only(libc::SYS_mprotect, NOT_EXECUTABLE, "the allocator, as it grows"),
    call(libc::SYS_munmap, "large buffers, given back"),
    call(libc::SYS_mremap, "large buffers that grow"),
    call(libc::SYS_madvise, "memory given back to the host: the balloon, the allocator"),
    call(libc::SYS_brk, "the heap"),
    call(libc::SYS_clock_gettime, "rates and deadlines, where the clock cannot be read without"),
    call(libc::SYS_getrandom, "virtio-rng; the seed of a hash table"),
    call(libc::SYS_restart_syscall, "the kernel's own, after a stop of the process"),
    call(libc::SYS_rt_sigreturn, "the signal that interrupts a virtual CPU"),
    call(libc::SYS_rt_sigprocmask, "around a signal to a thread; abort(3)"),
    call(libc::SYS_gettid, "abort(3)"),
    call(libc::SYS_getpid, "abort(3); a signal to a thread"),
    only(libc::SYS_tgkill, THIS_PROCESS, "abort(3); interrupting virtual CPUs"),
    call(libc::SYS_sigaltstack, "the end of a thread"),
    call(libc::SYS_exit, "the end of a thread"),
    call(libc::SYS_exit_group, "the end of the process"),
];

/// A virtual CPU: running it, and the guest's accesses to registers.
const VCPU: &[Call] = &[
    only(
        libc::SYS_ioctl,
        VIRTUAL_CPU,
        "running it; the registers of the entry stub; its clock; a tap, told what the driver takes, and \
         its queues, when the driver resets it",
    ),
    call(libc::SYS_poll, "whether the console log takes a line"),
    call(libc::SYS_epoll_ctl, "a device whose driver is ready: what its thread waits for"),
    call(libc::SYS_timerfd_create, "a device with a rate, whose driver is ready"),
    call(libc::SYS_shutdown, "connections of vsock, when the guest resets it"),
];

/// The launcher's channel, and what it asks for.
const CONTROL: &[Call] = &[
    call(libc::SYS_poll, "the channel and the machine's events"),
    call(libc::SYS_ppoll, "poll(2), as the C library may have it"),
    call(libc::SYS_recvmsg, "requests, with descriptors"),
    call(libc::SYS_sendmsg, "answers and events"),
    call(libc::SYS_epoll_ctl, "a device that is paused or goes on"),
    call(libc::SYS_timerfd_create, "a device with a rate that goes on"),
    call(libc::SYS_shutdown, "connections of vsock that a pause finds ended"),
    call(libc::SYS_lseek, "a disk for a drive: its size"),
    // A share that is added: is it what it is said to be?
    only(libc::SYS_fcntl, OF_DESCRIPTORS, "a new share: how it was opened"),
    call(libc::SYS_statx, "a new share: its type and number"),
    call(libc::SYS_fstatfs, "a new share: its file system"),
    call(libc::SYS_openat, "a new share: its own directory, without the right to read"),
];

/// Threads of devices: sockets of vsock, files of disks, taps.
const DEVICE: &[Call] = &[
    call(libc::SYS_epoll_wait, "notifications of queues, sockets, taps and timers"),
    call(libc::SYS_epoll_pwait, "epoll_wait(2), as the C library may have it"),
    call(libc::SYS_epoll_ctl, "sockets that come and go"),
    call(libc::SYS_timerfd_settime, "waiting for a rate"),
    only(libc::SYS_ioctl, QUEUE_OF_TAP, "a tap: as many queues as the driver asks for"),
    call(libc::SYS_recvmsg, "vsock: into the guest's buffers"),
    call(libc::SYS_sendmsg, "vsock: from the guest's buffers"),
    call(libc::SYS_sendto, "vsock: what a socket did not take at once"),
    call(libc::SYS_shutdown, "vsock: half a connection has ended"),
    call(libc::SYS_preadv, "disks"),
    call(libc::SYS_pwritev, "disks"),
    call(libc::SYS_pwrite64, "disks: zeros, where the file system has no shorter way"),
    call(libc::SYS_fallocate, "disks: discard and zeros"),
    call(libc::SYS_fdatasync, "disks: flush"),
];

/// Threads of the file server. The flags of openat2(2) are in memory, where no filter sees them: what it
/// may open is bounded by the call's own RESOLVE_BENEATH and by Landlock.
const FILE_SERVER: &[Call] = &[
    call(libc::SYS_epoll_wait, "notifications of queues"),
    call(libc::SYS_epoll_pwait, "epoll_wait(2), as the C library may have it"),
    call(
        libc::SYS_openat2,
        "LOOKUP, CREATE: one component of a path, and nothing beside the share",
    ),
    call(libc::SYS_openat, "OPEN of a file known already; TMPFILE"),
    call(libc::SYS_statx, "GETATTR and every answer with attributes"),
    call(libc::SYS_fstatfs, "STATFS"),
    only(libc::SYS_fcntl, OF_DESCRIPTORS, "record locks; a copy of a descriptor"),
    call(libc::SYS_preadv2, "READ"),
    call(libc::SYS_pwritev2, "WRITE"),
    call(libc::SYS_flock, "locks of flock(2)"),
    call(libc::SYS_lseek, "LSEEK; the place in a directory"),
    call(libc::SYS_getdents64, "READDIR"),
    call(libc::SYS_readlinkat, "READLINK"),
    call(libc::SYS_mkdirat, "MKDIR"),
    call(libc::SYS_mknodat, "MKNOD of files, fifos and sockets"),
    call(libc::SYS_symlinkat, "SYMLINK"),
    call(libc::SYS_linkat, "LINK; TMPFILE that gets a name"),
    call(libc::SYS_unlinkat, "UNLINK, RMDIR"),
    call(libc::SYS_renameat2, "RENAME"),
    call(libc::SYS_fchmodat, "SETATTR: mode"),
    call(libc::SYS_fchownat, "SETATTR: owner"),
    call(libc::SYS_utimensat, "SETATTR: times"),
    call(libc::SYS_ftruncate, "SETATTR: size"),
    call(libc::SYS_fallocate, "FALLOCATE"),
    call(libc::SYS_fsync, "FSYNC"),
    call(libc::SYS_fdatasync, "FSYNC of data"),
    call(libc::SYS_syncfs, "SYNCFS"),
    call(libc::SYS_copy_file_range, "COPY_FILE_RANGE"),
    call(libc::SYS_getxattr, "GETXATTR"),
    call(libc::SYS_setxattr, "SETXATTR"),
    call(libc::SYS_listxattr, "LISTXATTR"),
    call(libc::SYS_removexattr, "REMOVEXATTR"),
    call(libc::SYS_umask, "the mask of who creates a file"),
    call(libc::SYS_setfsuid, "the owner of what is created"),
    call(libc::SYS_setfsgid, "the group of what is created"),
    call(libc::SYS_capset, "writing without the right to keep set-id bits"),
];

impl Kind {
    /// What its threads may do.
    pub(super) fn calls(self) -> impl Iterator<Item = &'static Call> {
        let own = match self {
            Self::Control => CONTROL,
            Self::Vcpu => VCPU,
            Self::Device => DEVICE,
            Self::FileServer => FILE_SERVER,
        };
        EVERY_THREAD.iter().chain(own)
    }
}
