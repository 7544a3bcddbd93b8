//! Pages that are shared with nobody for being equal.
#![expect(unsafe_code, reason = "prctl has no safe wrapper for this option")]

/// `PR_SET_MEMORY_MERGE` of linux/prctl.h.
const MEMORY_MERGE: libc::c_int = 67;

/// Keeps KSM from the process's memory, also where an engine's unit has it for all that it starts
/// (systemd's `MemoryKSM=`, which programs inherit): by the time that a write takes, a guest would learn what
/// another one holds. A kernel that does not know the option does not merge for a whole process, either.
pub(super) fn keep_unmerged() {
    // SAFETY: the option takes a number and touches no memory of the program.
    let _ = unsafe { libc::prctl(MEMORY_MERGE, 0, 0, 0, 0) };
}
