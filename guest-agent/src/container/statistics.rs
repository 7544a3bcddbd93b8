//! What a container uses.

use super::cgroup::Cgroup;
use agent_protocol::Statistics;

/// Reads all of it.
pub(crate) fn read(cgroup: &Cgroup) -> Statistics {
    Statistics::of_cgroup(|file| cgroup.read(file).ok())
}
