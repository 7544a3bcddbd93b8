//! Resource limits.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that a busy guest's file system may need: one for each inode and open file that it
/// holds (the file server's own bounds are below this), and some for everything else.
const DESCRIPTORS: u64 = 256 * 1024;

/// Allows as many descriptors as the file server may want, or as many as the host's hard limit
/// gives. To be called before privileges are gone.
pub(super) fn raise_descriptors() -> Result<(), Errno> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if maximum.is_none_or(|maximum| maximum >= DESCRIPTORS) {
        if current.is_none_or(|current| current >= DESCRIPTORS) {
            return Ok(());
        }
        return setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum });
    }
    let wanted = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    // Beyond the hard limit only with CAP_SYS_RESOURCE, and never beyond fs.nr_open.
    setrlimit(Resource::Nofile, wanted)
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }))
}

/// Threads of the largest machine, and some more: virtual CPUs, queues of the file system, disks,
/// networks.
const THREADS: u64 = 256;

/// What a VMM never needs. `is_own_user`: no other process is counted with it.
///
/// The size of files is not bounded here, since what the guest writes to its shares is as large as the
/// host lets it be; the console's log has a bound of its own.
pub(super) fn bound(is_own_user: bool) -> Result<(), Errno> {
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    for resource in [Resource::Core, Resource::Msgqueue, Resource::Memlock, Resource::Rtprio] {
        setrlimit(resource, nothing)?;
    }
    if is_own_user {
        let threads = Rlimit { current: Some(THREADS), maximum: Some(THREADS) };
        setrlimit(Resource::Nproc, threads)?;
    }
    Ok(())
}
