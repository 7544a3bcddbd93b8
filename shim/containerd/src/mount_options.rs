//! The options of a mount as a snapshotter hands it over.

use containerd_shim_protos::api::Mount;
use rustix::mount::MountFlags;

/// Kinds of mounts that are directories of the host.
const DIRECTORY_KINDS: [&str; 3] = ["bind", "overlay", "tmpfs"];
/// Options that are flags of a mount, and whether they clear theirs.
const FLAGS: [(&str, MountFlags, bool); 14] = [
    ("ro", MountFlags::RDONLY, false),
    ("rw", MountFlags::RDONLY, true),
    ("nosuid", MountFlags::NOSUID, false),
    ("suid", MountFlags::NOSUID, true),
    ("nodev", MountFlags::NODEV, false),
    ("dev", MountFlags::NODEV, true),
    ("noexec", MountFlags::NOEXEC, false),
    ("exec", MountFlags::NOEXEC, true),
    ("noatime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, false),
    ("sync", MountFlags::SYNCHRONOUS, false),
    ("defaults", MountFlags::empty(), false),
];

/// Options of one mount, sorted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sorted<'o> {
    pub(crate) flags: MountFlags,
    /// `bind` or `rbind`; the second with what is mounted beneath.
    pub(crate) bind: Option<bool>,
    /// For the file system.
    pub(crate) data: Vec<&'o str>,
}

/// Whether it shows a directory of the host.
pub(crate) fn is_directory(each: &Mount) -> bool {
    DIRECTORY_KINDS.contains(&each.type_.as_str()) || sort(&each.options).bind.is_some()
}

/// Sorts them.
pub(crate) fn sort(options: &[String]) -> Sorted<'_> {
    let mut sorted = Sorted { flags: MountFlags::empty(), bind: None, data: Vec::new() };
    for option in options {
        match option.as_str() {
            "bind" => sorted.bind = Some(false),
            "rbind" => sorted.bind = Some(true),
            option => match FLAGS.iter().find(|(name, ..)| *name == option) {
                Some((_, flag, true)) => sorted.flags.remove(*flag),
                Some((_, flag, false)) => sorted.flags.insert(*flag),
                None => sorted.data.push(option),
            },
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(options: &[&str]) -> Vec<String> {
        options.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn options_are_sorted() {
        let options = texts(&["ro", "rw", "nosuid", "index=off", "lowerdir=/a:/b", "rbind"]);
        let sorted = sort(&options);
        assert_eq!(sorted.flags, MountFlags::NOSUID);
        assert_eq!(sorted.data, ["index=off", "lowerdir=/a:/b"]);
        assert_eq!(sorted.bind, Some(true));
    }
}
