//! Cores that are shared with nobody at the same moment.

use rustix::io::Errno;
use rustix::process::getpid;
use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};

/// Gives the process, and all threads that it makes, a core scheduling cookie of its own: the kernel then
/// lets no thread with another one run on the same core at the same time. The kernel's work for others is
/// not kept away (core-scheduling.rst).
///
/// # Errors
/// EINVAL from a kernel without it. A host whose cores have one thread each needs none.
pub(super) fn keep_to_itself() -> Result<(), Errno> {
    match create_core_scheduling_cookie(getpid(), CoreSchedulingScope::ThreadGroup) {
        Err(Errno::NODEV) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_can_or_says_that_it_cannot() {
        let result = keep_to_itself();
        assert!(
            matches!(result, Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::NOSYS)),
            "{result:?}"
        );
    }
}
