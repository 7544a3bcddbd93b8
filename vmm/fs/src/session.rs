//! FUSE_INIT: what this server and the guest's kernel agree on.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::limits::{Limits, MAX_DATA, MAX_PAGES};
use crate::locks::LockPolicy;
use crate::wire::{
    InitIn, InitOut, KERNEL_MINOR_VERSION, KERNEL_VERSION, MIN_KERNEL_MINOR_VERSION, init_flag,
};

/// What the server uses if the guest offers it. What is missing here is refused on purpose:
///
/// - WRITEBACK_CACHE: a write is on the host when write(2) returns.
/// - EXPORT_SUPPORT: the guest cannot serve a share over NFS, and `..` is never looked up.
const WANTED: u64 = init_flag::ASYNC_READ
    | init_flag::ATOMIC_O_TRUNC
    | init_flag::BIG_WRITES
    | init_flag::DONT_MASK
    | init_flag::AUTO_INVAL_DATA
    | init_flag::DO_READDIRPLUS
    | init_flag::READDIRPLUS_AUTO
    | init_flag::ASYNC_DIO
    | init_flag::PARALLEL_DIROPS
    | init_flag::POSIX_ACL
    | init_flag::MAX_PAGES
    | init_flag::CACHE_SYMLINKS
    | init_flag::SUBMOUNTS
    | init_flag::HANDLE_KILLPRIV_V2
    | init_flag::SETXATTR_EXT
    | init_flag::INIT_EXT
    | init_flag::DIRECT_IO_ALLOW_MMAP;

/// Has the guest's kernel ask for every lock, where it would else keep them all itself
/// ([`LockPolicy`]).
const LOCKS: u64 = init_flag::POSIX_LOCKS | init_flag::FLOCK_LOCKS;

/// What operations rely on for being right: the host applies umask and default ACLs and clears
/// set-id bits, a truncating open truncates. Linux has offered them all since 5.12.
const REQUIRED: u64 = init_flag::ATOMIC_O_TRUNC
    | init_flag::BIG_WRITES
    | init_flag::DONT_MASK
    | init_flag::MAX_PAGES
    | init_flag::HANDLE_KILLPRIV_V2
    | init_flag::SETXATTR_EXT
    | init_flag::INIT_EXT;

/// An initialised session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Minor version of the protocol that the guest speaks.
    pub minor: u32,
    /// The `FUSE_*` feature bits in force.
    pub features: u64,
}

impl Session {
    /// Answers FUSE_INIT. `auto` if a share has, or the first one may have,
    /// [`crate::CachePolicy::Auto`]: AUTO_INVAL_DATA, which holds for all shares, has the guest drop
    /// what it has cached of a file when it has written to it, so it is left out when no share needs
    /// it. `locks` says whether the guest is to ask for
    /// locks. Without a session the answer only names the version to try again with.
    ///
    /// # Errors
    /// EPROTO for a version or a set of features that this server cannot serve.
    pub(crate) fn negotiate(
        args: &InitIn,
        flags2: u32,
        limits: &Limits,
        auto: bool,
        locks: LockPolicy,
    ) -> Result<(Option<Self>, InitOut), Errno> {
        let versions =
            InitOut { major: KERNEL_VERSION, minor: KERNEL_MINOR_VERSION, ..InitOut::default() };
        if args.major > KERNEL_VERSION {
            return Ok((None, versions));
        }
        let offered = u64::from(args.flags) | (u64::from(flags2) << 32);
        let unused = if auto { 0 } else { init_flag::AUTO_INVAL_DATA };
        let asked = if locks == LockPolicy::Guest { 0 } else { LOCKS };
        let features = offered & (WANTED & !unused | asked);
        if args.major < KERNEL_VERSION
            || args.minor < MIN_KERNEL_MINOR_VERSION
            || features & REQUIRED != REQUIRED
            // A guest that does not ask would take a lock that nobody else sees.
            || features & asked != asked
        {
            return Err(Errno::PROTO);
        }
        let session = Self { minor: args.minor.min(KERNEL_MINOR_VERSION), features };
        let (low, high) = halves(features);
        let out = InitOut {
            max_readahead: args.max_readahead.min(MAX_DATA),
            flags: low,
            max_background: limits.max_background,
            // The guest calls its device congested at three quarters, as fuse does by default.
            congestion_threshold: limits.max_background.saturating_sub(limits.max_background >> 2),
            max_write: MAX_DATA,
            time_gran: 1,
            max_pages: MAX_PAGES,
            flags2: high,
            ..versions
        };
        Ok((Some(session), out))
    }

    /// True if [`Self::negotiate`] could have given this session.
    pub(crate) fn is_possible(self, locks: LockPolicy) -> bool {
        let asked = if locks == LockPolicy::Guest { 0 } else { LOCKS };
        self.features & !(WANTED | LOCKS) == 0
            && self.features & LOCKS == asked
            && self.features & REQUIRED == REQUIRED
            && (MIN_KERNEL_MINOR_VERSION..=KERNEL_MINOR_VERSION).contains(&self.minor)
    }

    pub(crate) fn has(self, feature: u64) -> bool {
        self.features & feature != 0
    }
}

fn halves(features: u64) -> (u32, u32) {
    let low = u32::try_from(features & u64::from(u32::MAX)).unwrap_or_default();
    let high = u32::try_from(features >> 32).unwrap_or_default();
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(major: u32, minor: u32, features: u64) -> (InitIn, u32) {
        let (flags, flags2) = halves(features);
        (InitIn { major, minor, max_readahead: 131_072, flags }, flags2)
    }

    fn negotiate(
        major: u32,
        minor: u32,
        features: u64,
    ) -> Result<(Option<Session>, InitOut), Errno> {
        let (args, flags2) = offer(major, minor, features);
        Session::negotiate(&args, flags2, &Limits::default(), true, LockPolicy::Guest)
    }

    #[test]
    fn takes_what_it_wants_of_an_offer_of_everything() {
        let (session, out) = negotiate(7, 41, u64::MAX).unwrap();
        assert_eq!(session.unwrap().features, WANTED);
        assert_eq!((out.major, out.max_write, out.max_pages), (7, 1 << 20, 256));
        let features = session.unwrap().features;
        assert_eq!(features & (init_flag::WRITEBACK_CACHE | init_flag::HANDLE_KILLPRIV), 0);
        assert_eq!(features & (init_flag::POSIX_LOCKS | init_flag::FLOCK_LOCKS), 0);
        assert_eq!((u64::from(out.flags2) << 32) | u64::from(out.flags), features);
    }

    #[test]
    fn leaves_data_alone_when_no_share_changes_on_the_host() {
        let (args, flags2) = offer(7, 41, u64::MAX);
        let (limits, locks) = (Limits::default(), LockPolicy::Guest);
        let negotiated = Session::negotiate(&args, flags2, &limits, false, locks).unwrap();
        assert_eq!(negotiated.0.unwrap().features, WANTED & !init_flag::AUTO_INVAL_DATA);
    }

    #[test]
    fn has_the_guest_ask_for_locks_or_keep_them_all_itself() {
        for (policy, asked) in
            [(LockPolicy::Guest, 0), (LockPolicy::Host, LOCKS), (LockPolicy::Refused, LOCKS)]
        {
            let negotiate = |features| {
                let (args, flags2) = offer(7, 41, features);
                Session::negotiate(&args, flags2, &Limits::default(), true, policy)
            };
            let session = negotiate(u64::MAX).unwrap().0.unwrap();
            assert_eq!(session.features & LOCKS, asked);
            for policy in [LockPolicy::Guest, LockPolicy::Host, LockPolicy::Refused] {
                let same = asked == 0;
                assert_eq!(session.is_possible(policy), same == (policy == LockPolicy::Guest));
            }
            for bit in [init_flag::POSIX_LOCKS, init_flag::FLOCK_LOCKS] {
                assert_eq!(negotiate(!bit).is_ok(), asked == 0);
            }
        }
    }

    #[test]
    fn names_its_version_to_a_newer_major_and_refuses_an_older() {
        let (session, out) = negotiate(8, 0, u64::MAX).unwrap();
        assert_eq!((session, out.major), (None, 7));
        assert_eq!(negotiate(6, 41, u64::MAX), Err(Errno::PROTO));
        assert_eq!(negotiate(7, 37, u64::MAX), Err(Errno::PROTO));
    }

    #[test]
    fn refuses_a_guest_without_what_it_relies_on() {
        for bit in (0..64).map(|bit| 1u64 << bit).filter(|bit| REQUIRED & bit != 0) {
            assert_eq!(negotiate(7, 41, !bit), Err(Errno::PROTO));
        }
    }
}
