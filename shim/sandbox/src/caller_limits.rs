//! Resource limits that a bundle leaves open: those of whoever calls, as with runc and crun. A
//! program that raises its soft limit of open files finds the ceiling that its host gives it.

use agent_protocol::Rlimit;
use rustix::process::{Resource, getrlimit};

/// Those that are handed on, by number. RLIMIT_NPROC (6) and RLIMIT_SIGPENDING (11) follow from the
/// memory of a machine, which is the guest's own.
const HANDED_ON: [(u32, Resource); 14] = [
    (0, Resource::Cpu),
    (1, Resource::Fsize),
    (2, Resource::Data),
    (3, Resource::Stack),
    (4, Resource::Core),
    (5, Resource::Rss),
    (RLIMIT_NOFILE, Resource::Nofile),
    (8, Resource::Memlock),
    (9, Resource::As),
    (10, Resource::Locks),
    (12, Resource::Msgqueue),
    (13, Resource::Nice),
    (14, Resource::Rtprio),
    (15, Resource::Rttime),
];
const RLIMIT_NOFILE: u32 = 7;
/// `fs.nr_open` of the guest: a larger limit of open files is refused by its kernel.
const MOST_FILES: u64 = 1 << 20;

/// Adds the caller's limits to those that are given.
pub(crate) fn complete(limits: &mut Vec<Rlimit>) {
    for (number, resource) in HANDED_ON {
        if limits.iter().any(|limit| limit.resource == number) {
            continue;
        }
        let own = getrlimit(resource);
        let most = if number == RLIMIT_NOFILE { MOST_FILES } else { u64::MAX };
        let value = |limit: Option<u64>| limit.unwrap_or(u64::MAX).min(most);
        limits.push(Rlimit {
            resource: number,
            soft: value(own.current),
            hard: value(own.maximum),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_stays_and_the_rest_is_the_callers() {
        let given = Rlimit { resource: RLIMIT_NOFILE, soft: 3, hard: 4 };
        let mut limits = vec![given];
        complete(&mut limits);
        assert_eq!(limits.len(), HANDED_ON.len());
        assert_eq!(limits[0], given);
        let stack = limits.iter().find(|limit| limit.resource == 3).unwrap();
        assert_eq!(Some(stack.soft), getrlimit(Resource::Stack).current.or(Some(u64::MAX)));
        assert!(limits.iter().all(|limit| ![6, 11].contains(&limit.resource)));
        let mut own = vec![];
        complete(&mut own);
        let files = own.iter().find(|limit| limit.resource == RLIMIT_NOFILE).unwrap();
        assert!(files.soft > 0 && files.hard <= MOST_FILES);
    }
}
