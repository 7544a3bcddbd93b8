//! The system calls of each kind of thread; any other ends the process.
//!
//! A filter is inherited by the threads that a thread makes, and never widened. So all threads are made
//! before there is one, when there is nothing of the guest's; each takes the filter of its kind before its
//! first work, and the guest runs when all have it. None is put up for the time before: it would cost a
//! start as much as one that stays.
//!
//! The lists (`calls`) are compiled when the program is built (`build.rs`): at a start that would take as long
//! as half of the namespaces.

#![expect(unsafe_code, reason = "seccomp(2) has no safe wrapper that only asks")]

#[cfg(test)]
mod calls;
#[cfg(test)]
mod filter;
mod kind;
#[cfg(test)]
mod run;
#[cfg(test)]
mod tree;

pub use kind::Kind;

use devices::event_loop::ThreadHook;
use kind::OWN_PID;
use seccompiler::{BpfProgram, Error, apply_filter, sock_filter};
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long the threads of a machine may take to start.
const DEADLINE: Duration = Duration::from_secs(10);

/// Code, jumps if it is true and if it is not, and the value of each instruction (linux/filter.h).
type Instructions = &'static [(u16, u8, u8, u32)];

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// Why the filters could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The kernel has none, or none that ends a process.
    #[error("the kernel has no system call filters that end a process (SECCOMP_RET_KILL_PROCESS)")]
    Missing(#[source] io::Error),
    /// The kernel refused.
    #[error("the kernel refused a system call filter")]
    Install(#[source] Error),
    /// A thread did not get that far.
    #[error("{confined} of {threads} threads had their system call filter after {DEADLINE:?}")]
    Unconfined {
        /// Those that had.
        confined: usize,
        /// All of them.
        threads: usize,
    },
}

/// The filters of this process.
pub struct Filters {
    by_kind: [(Kind, BpfProgram); 4],
    /// Threads that have taken theirs.
    confined: Mutex<usize>,
    one_more: Condvar,
}

impl Filters {
    /// All of them, for the process that calls this.
    #[must_use]
    pub fn new() -> Self {
        let own = std::process::id();
        let by_kind = Kind::ALL.map(|kind| {
            let instructions = match kind {
                Kind::Control => CONTROL,
                Kind::Vcpu => VCPU,
                Kind::Device => DEVICE,
                Kind::FileServer => FILESERVER,
            };
            (kind, program(instructions, own))
        });
        Self { by_kind, confined: Mutex::new(0), one_more: Condvar::new() }
    }

    /// Asks whether the kernel has what the filters need.
    ///
    /// # Errors
    /// [`SeccompError::Missing`].
    pub fn check() -> Result<(), SeccompError> {
        let action = libc::SECCOMP_RET_KILL_PROCESS;
        // SAFETY: the kernel reads one number of 32 bits, which lives as long as the call (seccomp(2),
        // SECCOMP_GET_ACTION_AVAIL).
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
        };
        if result == 0 { Ok(()) } else { Err(SeccompError::Missing(io::Error::last_os_error())) }
    }

    /// Confines this thread.
    ///
    /// # Errors
    /// [`SeccompError::Install`].
    pub fn confine(&self, kind: Kind) -> Result<(), SeccompError> {
        let filter = self.by_kind.iter().find(|(of, _)| *of == kind).map(|(_, filter)| filter);
        filter.map_or(Ok(()), |filter| apply_filter(filter).map_err(SeccompError::Install))
    }

    /// What a thread does first, whose kind its name tells.
    ///
    /// A thread that could not be confined must not serve a guest, and there is nobody to report to
    /// from it: the process ends.
    #[must_use]
    pub fn hook(self: &Arc<Self>, kind: fn(&str) -> Kind) -> ThreadHook {
        let filters = self.clone();
        Arc::new(move |name| {
            if let Err(error) = filters.confine(kind(name)) {
                eprintln!("ringfence-vmm: thread {name} could not be confined: {error}");
                crate::process::end(1);
            }
            *filters.confined.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            filters.one_more.notify_all();
        })
    }

    /// Waits until `threads` threads have done what [`Self::hook`] says.
    ///
    /// # Errors
    /// [`SeccompError::Unconfined`] after a time that no host needs.
    pub fn wait_for(&self, threads: usize) -> Result<(), SeccompError> {
        let confined = self.confined.lock().unwrap_or_else(PoisonError::into_inner);
        let (confined, waited) = self
            .one_more
            .wait_timeout_while(confined, DEADLINE, |confined| *confined < threads)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(SeccompError::Unconfined { confined: *confined, threads });
        }
        Ok(())
    }
}

impl Default for Filters {
    fn default() -> Self {
        Self::new()
    }
}

/// A filter for the process with this id.
fn program(instructions: Instructions, own: u32) -> BpfProgram {
    let instruction = |(code, jt, jf, k)| {
        let k = if k == OWN_PID { own } else { k };
        sock_filter { code, jt, jf, k }
    };
    instructions.iter().copied().map(instruction).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What the project allows itself.
    const MOST_CALLS: usize = 60;

    #[test]
    fn a_kind_of_thread_has_few_calls_each_for_a_reason() {
        for kind in Kind::ALL {
            let numbers: BTreeSet<_> = kind.calls().map(|call| call.number).collect();
            assert_eq!(numbers.len(), kind.calls().count(), "{kind:?} has a call twice");
            assert!(numbers.len() <= MOST_CALLS, "{kind:?} has {} calls", numbers.len());
            for call in kind.calls() {
                assert!(!call.reason.is_empty(), "{kind:?} has {} for no reason", call.number);
            }
            // Threads, processes, sockets, signals to others, and what only counts with a kernel's bug.
            for forbidden in [
                libc::SYS_clone,
                libc::SYS_clone3,
                libc::SYS_unshare,
                libc::SYS_prctl,
                libc::SYS_seccomp,
                libc::SYS_socket,
                libc::SYS_connect,
                libc::SYS_kill,
                libc::SYS_name_to_handle_at,
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_fork,
                libc::SYS_vfork,
                libc::SYS_ptrace,
                libc::SYS_process_vm_readv,
                libc::SYS_process_vm_writev,
                libc::SYS_pidfd_getfd,
                libc::SYS_setns,
                libc::SYS_mount,
                libc::SYS_umount2,
                libc::SYS_pivot_root,
                libc::SYS_open_tree,
                libc::SYS_move_mount,
                libc::SYS_fsopen,
                libc::SYS_open_by_handle_at,
                libc::SYS_init_module,
                libc::SYS_finit_module,
                libc::SYS_bpf,
                libc::SYS_perf_event_open,
                libc::SYS_userfaultfd,
                libc::SYS_io_uring_setup,
                libc::SYS_keyctl,
                libc::SYS_add_key,
                libc::SYS_request_key,
            ] {
                assert!(!numbers.contains(&forbidden), "{kind:?} has {forbidden}");
            }
        }
        let has = |kind: Kind, number| kind.calls().any(|call| call.number == number);
        assert!(has(Kind::Vcpu, libc::SYS_ioctl) && has(Kind::FileServer, libc::SYS_openat2));
        assert!(!has(Kind::Vcpu, libc::SYS_openat) && !has(Kind::Device, libc::SYS_openat));
        for kind in [Kind::Control, Kind::FileServer] {
            assert!(!has(kind, libc::SYS_ioctl), "{kind:?}");
        }
    }

    #[test]
    fn the_filters_are_those_of_the_lists() {
        let filters = Filters::new();
        let same = |compiled: &BpfProgram, list: BpfProgram| {
            let own = |k: u32| if k == OWN_PID { std::process::id() } else { k };
            let list = list.iter().map(|one| (one.code, one.jt, one.jf, own(one.k)));
            list.eq(compiled.iter().map(|one| (one.code, one.jt, one.jf, one.k)))
        };
        for (kind, compiled) in &filters.by_kind {
            assert!(compiled.len() < tree::MOST_INSTRUCTIONS, "{kind:?}");
            let list = filter::allow(kind.calls()).unwrap();
            // tgkill(2) of the own process, and nothing else by chance.
            assert_eq!(list.iter().filter(|one| one.k == OWN_PID).count(), 1, "{kind:?}");
            assert!(same(compiled, list), "{kind:?}");
        }
    }

    #[test]
    fn a_filter_answers_as_its_list_says_and_soon() {
        let filters = Filters::new();
        let pid = u64::from(std::process::id());
        // Those of the x32 table as well, and none at all.
        let numbers = || (0..1000).chain(0x4000_0000..0x4000_0400).chain([u32::MAX]);
        for (kind, filter) in &filters.by_kind {
            for number in numbers() {
                let call = kind.calls().find(|call| call.number == i64::from(number));
                let (allowed, steps) = run::run(filter, number, [0; 6]);
                match call.map(|call| &call.arguments) {
                    None => assert!(!allowed, "{kind:?} may make call {number}"),
                    Some(filter::Arguments::Any) => assert!(allowed, "{kind:?}, call {number}"),
                    Some(filter::Arguments::When(_)) => continue,
                }
                assert!(steps < 20, "{kind:?}, call {number}: {steps} steps");
            }
            let may = |number: i64, arguments| {
                run::run(filter, u32::try_from(number).unwrap(), arguments).0
            };
            let protection = |bits: i32| [0, 0, u64::from(bits.cast_unsigned()), 0, 0, 0];
            for call in [libc::SYS_mmap, libc::SYS_mprotect] {
                assert!(may(call, protection(libc::PROT_READ | libc::PROT_WRITE)), "{kind:?}");
                assert!(!may(call, protection(libc::PROT_READ | libc::PROT_EXEC)), "{kind:?}");
            }
            assert!(may(libc::SYS_tgkill, [pid, 1, 9, 0, 0, 0]), "{kind:?}");
            assert!(!may(libc::SYS_tgkill, [pid + 1, 1, 9, 0, 0, 0]), "{kind:?}");
            // KVM_RUN, and TIOCSTI, which puts words into a terminal.
            assert_eq!(may(libc::SYS_ioctl, [9, 0xae80, 0, 0, 0, 0]), *kind == Kind::Vcpu);
            // TUNSETQUEUE.
            let has_taps = matches!(kind, Kind::Vcpu | Kind::Device);
            assert_eq!(may(libc::SYS_ioctl, [9, 0x4004_54d9, 0, 0, 0, 0]), has_taps);
            assert!(!may(libc::SYS_ioctl, [0, 0x5412, 0, 0, 0, 0]), "{kind:?}");
            // F_SETOWN: whom a descriptor sends signals to.
            assert!(!may(libc::SYS_fcntl, [9, 8, 1, 0, 0, 0]), "{kind:?}");
        }
    }

    #[test]
    fn this_kernel_has_filters() {
        Filters::check().unwrap();
    }

    #[test]
    fn a_thread_is_known_by_its_name() {
        let kinds = ["devices", "net-0.1", "disk-1", "fs-0"].map(Kind::of_device_thread);
        assert_eq!(kinds, [Kind::Device, Kind::Device, Kind::Device, Kind::FileServer]);
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
        let filters = Filters::new();
        let thread = std::thread::spawn(move || {
            filters.confine(Kind::Device).unwrap();
            for _ in 0..4 {
                let buffers: Vec<_> = (0..64).map(|_| vec![1_u8; 100 << 10]).collect();
                assert_eq!(buffers.iter().map(|buffer| usize::from(buffer[0])).sum::<usize>(), 64);
            }
        });
        thread.join().unwrap();
    }

    #[test]
    fn threads_that_have_their_filter_are_counted() {
        let filters = Arc::new(Filters::new());
        let hook = filters.hook(|_| Kind::Device);
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let hook = hook.clone();
                std::thread::spawn(move || hook("devices"))
            })
            .collect();
        filters.wait_for(3).unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
