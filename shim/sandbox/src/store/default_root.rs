//! Where state lives unless a command names another directory: as with runc, in the directory that a
//! user who is not the host's root has for such things.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where the host's root has it.
const OF_THE_HOST: &str = "/run/ringfence";
/// Where the containerd shim of the host's root has it, a directory for each of containerd's namespaces.
pub const SHIM_ROOTS: &str = "/run/containerd/ringfence";
/// Below the user's own directory.
const NAME: &str = "ringfence";

/// The directory of the containers' state for who calls.
#[must_use]
pub fn default_root() -> PathBuf {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_hosts = rustix::process::geteuid().is_root() && is_identity(&map);
    choose(is_hosts, std::env::var_os("USER"), std::env::var_os("XDG_RUNTIME_DIR"))
}

/// The directories of the containerd shim beside this one, if it is that of the host's root: what killed
/// shims have left there belongs to nobody, either.
#[must_use]
pub fn shim_roots(root: &Path) -> Vec<PathBuf> {
    if root != Path::new(OF_THE_HOST) {
        return Vec::new();
    }
    directories(Path::new(SHIM_ROOTS))
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// The root of a user namespace is most often a user of the host, for whom podman has made it; with
/// root's name it is a container's, which has a /run of its own.
fn choose(is_hosts: bool, user: Option<OsString>, directory: Option<OsString>) -> PathBuf {
    let is_root = is_hosts || (user.as_deref() == Some("root".as_ref()));
    match directory {
        Some(directory) if !is_root && Path::new(&directory).is_absolute() => {
            Path::new(&directory).join(NAME)
        }
        _ => OF_THE_HOST.into(),
    }
}

/// Whether every user of the host is there by its own number (user_namespaces(7)).
fn is_identity(uid_map: &str) -> bool {
    let words: Vec<&str> = uid_map.split_ascii_whitespace().collect();
    words == ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_directory_of_its_own() {
        let own = || Some(OsString::from("/run/user/1000"));
        let user = |name: &str| Some(OsString::from(name));
        for (is_hosts, name, directory, expected) in [
            (true, user("root"), own(), "/run/ringfence"),
            // sudo keeps the variable.
            (true, user("someone"), own(), "/run/ringfence"),
            (false, user("someone"), own(), "/run/user/1000/ringfence"),
            (false, None, own(), "/run/user/1000/ringfence"),
            (false, user("root"), own(), "/run/ringfence"),
            (false, None, None, "/run/ringfence"),
            (false, None, Some("".into()), "/run/ringfence"),
            (false, None, Some("run".into()), "/run/ringfence"),
        ] {
            let found = choose(is_hosts, name.clone(), directory.clone());
            assert_eq!(found, Path::new(expected), "{is_hosts} {name:?} {directory:?}");
        }
    }

    #[test]
    fn the_shims_are_beside_the_hosts_root_only() {
        assert!(shim_roots(Path::new("/run/user/1000/ringfence")).is_empty());
        let place = tempfile::tempdir().unwrap();
        for namespace in ["moby", "k8s.io"] {
            std::fs::create_dir(place.path().join(namespace)).unwrap();
        }
        std::fs::write(place.path().join("file"), "").unwrap();
        assert_eq!(
            directories(place.path()),
            ["k8s.io", "moby"].map(|name| place.path().join(name))
        );
        assert!(directories(&place.path().join("missing")).is_empty());
    }

    #[test]
    fn the_hosts_root_has_every_user() {
        assert!(is_identity("         0          0 4294967295\n"));
        assert!(!is_identity(
            "         0       1000          1\n         1     100000      65536\n"
        ));
        assert!(!is_identity("         0     100000      65536\n"));
        assert!(!is_identity(""));
    }
}
