//! Users of the process's own user namespace: the same numbers as outside, so that owners of files
//! are what they are, but privileges over none but them.
//!
//! A process cannot map more than itself into a namespace that it has entered: that takes someone
//! with privileges outside (user_namespaces(7)). A privileged VMM therefore forks a helper before it
//! enters, which writes the map and ends. An unprivileged one maps itself.

#![expect(unsafe_code, reason = "fork")]

use super::JailError;
use rustix::process::{Pid, WaitOptions, getegid, geteuid, waitpid};
use rustix::thread::{CapabilitySet, capabilities};
use std::fs::{read_link, read_to_string, write};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Names and contents of the files of a map.
type Maps = [(&'static str, String); 2];

/// How the map will be written.
pub(super) enum Mapper {
    /// By a helper outside.
    Helper { socket: UnixStream, pid: Pid, maps: Maps },
    /// By the process: its own user and group only.
    Itself { uid: u32, gid: u32 },
}

impl Mapper {
    /// To be called before the namespace is entered.
    pub(super) fn prepare() -> io::Result<Self> {
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
        if !capabilities(None)?.effective.contains(needed) {
            return Ok(Self::Itself { uid: geteuid().as_raw(), gid: getegid().as_raw() });
        }
        let maps = [("uid_map", identity("uid_map")?), ("gid_map", identity("gid_map")?)];
        // The number by which `/proc` knows this process: its own PID namespace may be another.
        let process = read_link("/proc/self")?;
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: the process has one thread, so the child may do what it likes.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(ours);
                help(theirs, &process, &maps)
            }
            pid => {
                let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
                Ok(Self::Helper { socket: ours, pid, maps })
            }
        }
    }

    /// Whether a user of this number, and a group, will be there.
    pub(super) fn has(&self, id: u32) -> bool {
        match self {
            Self::Helper { maps, .. } => maps.iter().all(|(_, map)| covers(map, id)),
            Self::Itself { .. } => false,
        }
    }

    /// To be called in the namespace.
    pub(super) fn map(self) -> Result<(), JailError> {
        match self {
            Self::Helper { socket, pid, .. } => {
                let reason = ask(socket).map_err(JailError::Identity)?;
                // Where SIGCHLD is ignored there is no one to wait for.
                let _ = waitpid(Some(pid), WaitOptions::empty());
                if reason.is_empty() { Ok(()) } else { Err(JailError::IdentityHelper { reason }) }
            }
            Self::Itself { uid, gid } => map_itself(uid, gid).map_err(JailError::Identity),
        }
    }
}

/// Tells the helper to begin and returns what it says: nothing if it has done its work.
fn ask(mut socket: UnixStream) -> io::Result<String> {
    socket.shutdown(Shutdown::Write)?;
    let mut reason = String::new();
    socket.read_to_string(&mut reason)?;
    Ok(reason)
}

/// The helper's life: it waits for the end of what its parent says, and ends.
fn help(mut socket: UnixStream, process: &Path, maps: &Maps) -> ! {
    let work = || -> io::Result<()> {
        let mut nothing = [0];
        let _ = (&socket).read(&mut nothing)?;
        for (name, map) in maps {
            write(Path::new("/proc").join(process).join(name), map)?;
        }
        Ok(())
    };
    if let Err(error) = work() {
        let _ = write!(socket, "{error}");
    }
    drop(socket);
    crate::process::end(0)
}

/// All ids of this namespace, each to itself, for a namespace below it.
fn identity(name: &str) -> io::Result<String> {
    let own = read_to_string(format!("/proc/self/{name}"))?;
    Ok(to_identity(&own))
}

/// Lines of "inside outside count" to lines of "inside inside count".
fn to_identity(map: &str) -> String {
    map.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (inside, count) = (fields.next()?, fields.nth(1)?);
            Some(format!("{inside} {inside} {count}\n"))
        })
        .collect()
}

/// Whether a number is in a map of each to itself.
fn covers(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
        let [first, _, count] = fields[..] else { return false };
        (first..first.saturating_add(count)).contains(&id.into())
    })
}

fn map_itself(uid: u32, gid: u32) -> io::Result<()> {
    // Without it an unprivileged process may not write gid_map (user_namespaces(7)).
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", format!("{uid} {uid} 1\n"))?;
    write("/proc/self/gid_map", format!("{gid} {gid} 1\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_every_id_to_itself() {
        assert_eq!(to_identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(to_identity("0 100000 65536\n65536 7 1\n"), "0 0 65536\n65536 65536 1\n");
        assert_eq!(to_identity(""), "");
        let map = to_identity("0 100000 65536\n70000 7 1\n");
        assert_eq!([0, 65535, 65536, 70000].map(|id| covers(&map, id)), [true, true, false, true]);
    }

    #[test]
    fn helper_reports_nothing_when_it_succeeds() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(ask(ours).unwrap(), "");
    }
}
