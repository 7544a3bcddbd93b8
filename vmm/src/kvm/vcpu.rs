//! A virtual CPU: its registers, and running it until something outside has to answer.

#![expect(unsafe_code, reason = "the page shared with KVM, a signal handler")]

use super::KvmError;
use kvm_bindings::{
    CpuId, Msrs, kvm_cpuid_entry2, kvm_msr_entry, kvm_regs, kvm_run, kvm_sregs, kvm_xsave,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, compiler_fence};
use std::thread::JoinHandle;

/// Why a virtual CPU returned.
#[derive(Debug)]
pub enum Exit<'a> {
    /// The guest reads a port; `data` is `size`-byte reads of it, one after the other.
    PortRead {
        /// The port.
        port: u16,
        /// Bytes of one read: 1, 2 or 4.
        size: usize,
        /// To be filled.
        data: &'a mut [u8],
    },
    /// The guest writes a port; `data` is `size`-byte writes to it, one after the other.
    PortWrite {
        /// The port.
        port: u16,
        /// Bytes of one write: 1, 2 or 4.
        size: usize,
        /// What is written.
        data: &'a [u8],
    },
    /// The guest reads an address that is not memory.
    MmioRead {
        /// The guest-physical address.
        address: u64,
        /// To be filled, 1 to 8 bytes.
        data: &'a mut [u8],
    },
    /// The guest writes an address that is not memory.
    MmioWrite {
        /// The guest-physical address.
        address: u64,
        /// What is written, 1 to 8 bytes.
        data: &'a [u8],
    },
    /// [`interrupt`] was called, or another signal arrived.
    Interrupted,
    /// The processor shut down, as after a triple fault: a reset on a real machine.
    Shutdown,
    /// KVM cannot run this processor any further; a sentence on why.
    Failed(String),
}

/// A virtual CPU. It belongs to the thread that runs it.
#[derive(Debug)]
pub struct Vcpu {
    pub(super) fd: VcpuFd,
    /// The page shared with KVM, mapped as long as `fd` lives.
    page: *mut kvm_run,
}

// SAFETY: the pointer is to a mapping that `fd` owns and that moves with it; it is only followed by
// methods of this type and, for one byte, by the signal handler of the thread that is in `run`.
unsafe impl Send for Vcpu {}

thread_local! {
    /// `immediate_exit` of the virtual CPU that this thread runs, for the signal handler. Constant
    /// initialisation and no destructor: the handler's access is a plain load.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

impl Vcpu {
    pub(super) fn new(mut fd: VcpuFd) -> Self {
        let page = ptr::from_mut(fd.get_kvm_run());
        Self { fd, page }
    }

    /// Sets what CPUID shows.
    ///
    /// # Errors
    /// [`KvmError::TooManyCpuidEntries`], [`KvmError::Call`].
    pub fn set_cpuid(&self, entries: &[kvm_cpuid_entry2]) -> Result<(), KvmError> {
        let cpuid = CpuId::from_entries(entries)
            .map_err(|_| KvmError::TooManyCpuidEntries { entries: entries.len() })?;
        self.fd.set_cpuid2(&cpuid).map_err(KvmError::call("KVM_SET_CPUID2"))
    }

    /// Sets model-specific registers.
    ///
    /// # Errors
    /// [`KvmError::Msr`] names the first that KVM did not take; [`KvmError::Call`].
    pub fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), KvmError> {
        let msrs = Msrs::from_entries(entries)
            .map_err(|_| KvmError::TooManyCpuidEntries { entries: entries.len() })?;
        let set = self.fd.set_msrs(&msrs).map_err(KvmError::call("KVM_SET_MSRS"))?;
        match entries.get(set) {
            Some(refused) => Err(KvmError::Msr { index: refused.index }),
            None => Ok(()),
        }
    }

    /// The special registers.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn sregs(&self) -> Result<kvm_sregs, KvmError> {
        self.fd.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))
    }

    /// Sets the special registers.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<(), KvmError> {
        self.fd.set_sregs(sregs).map_err(KvmError::call("KVM_SET_SREGS"))
    }

    /// The general registers.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn regs(&self) -> Result<kvm_regs, KvmError> {
        self.fd.get_regs().map_err(KvmError::call("KVM_GET_REGS"))
    }

    /// Sets the general registers.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<(), KvmError> {
        self.fd.set_regs(regs).map_err(KvmError::call("KVM_SET_REGS"))
    }

    /// Sets the floating point and vector registers.
    pub(super) fn set_xsave(&self, xsave: &kvm_xsave) -> Result<(), KvmError> {
        // SAFETY: KVM reads more than the structure only for features that the process has asked
        // for with arch_prctl(2); nothing here does.
        unsafe { self.fd.set_xsave(xsave) }.map_err(KvmError::call("KVM_SET_XSAVE"))
    }

    /// Tells the guest's clock that the host stopped this processor, so that its watchdogs do not
    /// take the pause for a lock-up. A guest without kvm-clock has nothing to be told.
    pub fn mark_paused(&self) {
        let _ = self.fd.kvmclock_ctrl();
    }

    /// Runs the guest on this thread until something outside has to answer, unless `stop` is set.
    ///
    /// Whoever sets `stop` and then calls [`interrupt`] for this thread ends the run at
    /// whatever moment the signal arrives.
    ///
    /// # Errors
    /// [`KvmError::Call`] if KVM refuses to run it at all.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<Exit<'_>, KvmError> {
        let page = self.page;
        // What a signal left behind is covered by `stop`, which is looked at after the flag can be
        // reached: a signal from then on makes KVM_RUN return at once.
        self.fd.set_kvm_immediate_exit(0);
        let _reachable = ReachableBySignal::new(self.immediate_exit());
        if stop.load(Ordering::SeqCst) {
            return Ok(Exit::Interrupted);
        }
        match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                Ok(Exit::PortRead { port, size: port_access_size(page), data })
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                Ok(Exit::PortWrite { port, size: port_access_size(page), data })
            }
            Ok(VcpuExit::MmioRead(address, data)) => Ok(Exit::MmioRead { address, data }),
            Ok(VcpuExit::MmioWrite(address, data)) => Ok(Exit::MmioWrite { address, data }),
            Ok(VcpuExit::Intr) => Ok(Exit::Interrupted),
            Ok(VcpuExit::Shutdown) => Ok(Exit::Shutdown),
            Ok(VcpuExit::FailEntry(reason, cpu)) => Ok(Exit::Failed(format!(
                "the processor refused to enter the guest (hardware reason {reason:#x}, CPU {cpu})"
            ))),
            Ok(VcpuExit::InternalError) => Ok(Exit::Failed(internal_error(page))),
            Ok(VcpuExit::MemoryFault { flags, gpa, size }) => Ok(Exit::Failed(format!(
                "the host has no memory behind {size} bytes at guest address {gpa:#x} (flags \
                 {flags:#x})"
            ))),
            Ok(other) => {
                Ok(Exit::Failed(format!("an exit that no guest here can cause: {other:?}")))
            }
            Err(errno) if matches!(errno.errno(), libc::EINTR | libc::EAGAIN) => {
                Ok(Exit::Interrupted)
            }
            Err(errno) => Err(KvmError::call("KVM_RUN")(errno)),
        }
    }

    /// The byte that makes KVM_RUN return at once, shared with the signal handler.
    fn immediate_exit(&self) -> *const AtomicU8 {
        // SAFETY: `page` points to a mapped `kvm_run` as long as `self.fd` lives; only the address
        // of a field is taken.
        unsafe { &raw const (*self.page).immediate_exit }.cast::<AtomicU8>()
    }
}

/// While this lives, the signal handler of this thread knows the virtual CPU in `run`.
struct ReachableBySignal;

impl ReachableBySignal {
    fn new(flag: *const AtomicU8) -> Self {
        IMMEDIATE_EXIT.set(flag);
        compiler_fence(Ordering::SeqCst);
        Self
    }
}

impl Drop for ReachableBySignal {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null());
    }
}

/// Bytes of one access of the port exit that KVM just reported.
fn port_access_size(page: *const kvm_run) -> usize {
    // SAFETY: the page is mapped as long as the virtual CPU that owns it, which the caller runs.
    let exit = unsafe { &raw const (*page).__bindgen_anon_1.io };
    // SAFETY: KVM reported KVM_EXIT_IO, for which `io` is the member of the union that it wrote.
    let size = unsafe { exit.read() }.size;
    usize::from(size.max(1))
}

/// A sentence on the internal error that KVM just reported.
fn internal_error(page: *const kvm_run) -> String {
    // SAFETY: the page is mapped as long as the virtual CPU that owns it, which the caller runs.
    let exit = unsafe { &raw const (*page).__bindgen_anon_1.internal };
    // SAFETY: KVM reported KVM_EXIT_INTERNAL_ERROR, for which it wrote this member of the union.
    let internal = unsafe { exit.read() };
    let what = match internal.suberror {
        kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => "an instruction cannot be emulated",
        kvm_bindings::KVM_INTERNAL_ERROR_SIMUL_EX => "exceptions during an exception",
        kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while delivering an event",
        _ => "no name for it",
    };
    let count = usize::try_from(internal.ndata).unwrap_or(0).min(internal.data.len());
    let data = internal.data.get(..count).unwrap_or_default();
    format!("internal error {} of KVM ({what}), data {data:x?}", internal.suberror)
}

/// The signal that makes a virtual CPU return.
fn interrupt_signal() -> c_int {
    libc::SIGRTMIN()
}

/// Makes the virtual CPU that `thread` runs return [`Exit::Interrupted`], with `stop` of
/// [`Vcpu::run`] set before.
pub fn interrupt<T>(thread: &JoinHandle<T>) {
    // SAFETY: a thread with a handle has not been joined, so its pthread_t is valid; the signal has
    // a handler (`install_interrupt_handler`) or, before that, no virtual CPU runs.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), interrupt_signal()) };
}

/// The signal handler could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("the handler of the signal that interrupts virtual CPUs could not be installed")]
pub struct InterruptError(#[source] io::Error);

/// Installs the handler of the signal that [`interrupt`] sends, for the whole process. A signal that arrives
/// between two runs makes the next one return at once: none is lost.
///
/// # Errors
/// That of sigaction(2).
pub fn install_interrupt_handler() -> Result<(), InterruptError> {
    // SAFETY: all zeros is a valid `sigaction`: no flags, empty mask, default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_interrupt as extern "C" fn(c_int) as *const () as usize;
    // No SA_RESTART: KVM_RUN has to return.
    // SAFETY: the handler does nothing but an async-signal-safe store (see `on_interrupt`).
    let result = unsafe { libc::sigaction(interrupt_signal(), &raw const action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(InterruptError(io::Error::last_os_error())) }
}

extern "C" fn on_interrupt(_signal: c_int) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: set only within `Vcpu::run`, on this very thread, to a byte of its mapped page.
        unsafe { &*flag }.store(1, Ordering::Relaxed);
    }
}
