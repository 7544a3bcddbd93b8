//! The kinds of threads that a machine has.

/// Stands in a compiled filter for the process's own id, which is not known before it runs. No process has
/// this id (PID_MAX_LIMIT, proc_sys_kernel(5)), and nothing else in a filter has this value.
pub(super) const OWN_PID: u32 = 0xffff_fff0;

/// What a thread does, and therefore may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The main thread.
    Control,
    /// Runs a virtual CPU.
    Vcpu,
    /// Serves devices.
    Device,
    /// Serves files.
    FileServer,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Control, Self::Vcpu, Self::Device, Self::FileServer];

    /// That of the thread of a device with this name.
    #[must_use]
    pub fn of_device_thread(name: &str) -> Self {
        if name.starts_with("fs-") { Self::FileServer } else { Self::Device }
    }
}
