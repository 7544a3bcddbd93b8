//! As whom the calling thread acts on the host.
//!
//! The guest's kernel has already decided whether its program may do what it asks
//! (`default_permissions`, which virtio-fs always sets); a hostile kernel can claim any user, so a
//! second decision by user id here would be no wall. What must be right is *ownership*: a new file
//! belongs to the program that made it, from the first instant, with the set-group-ID and ACL
//! rules of its directory. So a thread takes the file-system ids of the guest's user (setfsuid(2)
//! and setfsgid(2) concern one thread only), keeps its capabilities, and lets the host's kernel
//! apply the rules; creating as the server and changing the owner afterwards would show a file
//! with a wrong owner, lose set-user-ID bits and fight the rule for set-group-ID directories.
//!
//! All three are changed only when a request differs from the one before on this thread. Every
//! other operation works under any ids, since the capabilities stay.
//!
//! Without CAP_SETUID and CAP_SETGID a server can only act as itself: a request for another owner
//! is refused with EPERM. Such a sandbox needs an id map that names the server's own ids alone.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::sys;

/// The calling thread's file-system ids, creation mask and capabilities, as last set.
#[derive(Debug)]
pub(crate) struct Credentials {
    uid: u32,
    gid: u32,
    umask: u32,
    /// What the thread may do at most, as it was when it joined the server.
    baseline: CapabilitySets,
    /// Whether CAP_FSETID is effective as in `baseline`, or dropped so that the host's kernel
    /// clears set-id bits as it does for an ordinary writer.
    fsetid: bool,
}

impl Credentials {
    /// Reads the calling thread's credentials and clears its creation mask, which must be its own
    /// ([`sys::unshare_fs`]).
    pub(crate) fn of_this_thread() -> Result<Self, Errno> {
        let baseline = capabilities(None)?;
        // An invalid id changes nothing; the answer is the id in force.
        let (uid, gid) = (sys::set_fs_uid(u32::MAX), sys::set_fs_gid(u32::MAX));
        rustix::process::umask(Mode::empty());
        Ok(Self { uid, gid, umask: 0, baseline, fsetid: true })
    }

    /// Acts as the owner `uid`:`gid` of the host.
    pub(crate) fn act_as(&mut self, uid: u32, gid: u32) -> Result<(), Errno> {
        if (uid, gid) == (self.uid, self.gid) {
            return Ok(());
        }
        let (old_uid, old_gid) = (self.uid, self.gid);
        // The group first: with the user, CAP_SETGID may go.
        let done = self.set_ids(uid, gid);
        if done.is_err() {
            self.set_ids(old_uid, old_gid)?;
        }
        done
    }

    fn set_ids(&mut self, uid: u32, gid: u32) -> Result<(), Errno> {
        sys::set_fs_gid(gid);
        sys::set_fs_uid(uid);
        self.gid = sys::set_fs_gid(u32::MAX);
        self.uid = sys::set_fs_uid(u32::MAX);
        // Leaving user 0 takes the file-system capabilities out of the effective set, and coming
        // back adds all that are permitted (capabilities(7)): put back what is meant.
        set_capabilities(None, self.capability_sets())?;
        if (self.uid, self.gid) == (uid, gid) { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Sets the creation mask that the host's kernel applies, or does not where a directory has a
    /// default ACL.
    pub(crate) fn mask(&mut self, umask: u32) {
        let umask = umask & 0o777;
        if umask != self.umask {
            rustix::process::umask(Mode::from_raw_mode(umask));
            self.umask = umask;
        }
    }

    /// With `clear`, has the host's kernel clear set-id bits on write and truncate as for a writer
    /// without CAP_FSETID; else acts with CAP_FSETID if the thread has it.
    pub(crate) fn clear_set_id_bits(&mut self, clear: bool) -> Result<(), Errno> {
        if self.fsetid != clear {
            return Ok(());
        }
        self.fsetid = !clear;
        set_capabilities(None, self.capability_sets()).inspect_err(|_| self.fsetid = clear)
    }

    fn capability_sets(&self) -> CapabilitySets {
        let mut sets = self.baseline;
        if !self.fsetid {
            sets.effective.remove(CapabilitySet::FSETID);
        }
        sets
    }
}
