//! Mount options of config.json to flags of mount(2) and mount_setattr(2) (config.md, Linux mount
//! options).

use agent_protocol::MountAttributes;

/// MS_* of mount(2), those that appear here.
pub(super) mod ms {
    pub(in crate::spec) const RDONLY: u64 = 1;
    pub(super) const NOSUID: u64 = 2;
    pub(super) const NODEV: u64 = 4;
    pub(super) const NOEXEC: u64 = 8;
    pub(super) const SYNCHRONOUS: u64 = 16;
    pub(super) const REMOUNT: u64 = 32;
    pub(super) const MANDLOCK: u64 = 64;
    pub(super) const DIRSYNC: u64 = 128;
    pub(super) const NOSYMFOLLOW: u64 = 256;
    pub(super) const NOATIME: u64 = 1024;
    pub(super) const NODIRATIME: u64 = 2048;
    pub(in crate::spec) const BIND: u64 = 4096;
    pub(in crate::spec) const REC: u64 = 16384;
    pub(super) const SILENT: u64 = 32768;
    pub(in crate::spec) const UNBINDABLE: u64 = 1 << 17;
    pub(in crate::spec) const PRIVATE: u64 = 1 << 18;
    pub(in crate::spec) const SLAVE: u64 = 1 << 19;
    pub(in crate::spec) const SHARED: u64 = 1 << 20;
    pub(super) const RELATIME: u64 = 1 << 21;
    pub(super) const I_VERSION: u64 = 1 << 23;
    pub(super) const STRICTATIME: u64 = 1 << 24;
    pub(super) const LAZYTIME: u64 = 1 << 25;
}

/// MOUNT_ATTR_* of mount_setattr(2).
mod attr {
    pub(super) const RDONLY: u64 = 0x1;
    pub(super) const NOSUID: u64 = 0x2;
    pub(super) const NODEV: u64 = 0x4;
    pub(super) const NOEXEC: u64 = 0x8;
    /// The three ways of access times are one field, which is cleared as a whole when one is set.
    pub(super) const ATIME_FIELD: u64 = 0x70;
    pub(super) const RELATIME: u64 = 0x00;
    pub(super) const NOATIME: u64 = 0x10;
    pub(super) const STRICTATIME: u64 = 0x20;
    pub(super) const NODIRATIME: u64 = 0x80;
    pub(super) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// What an option does.
#[derive(Clone, Copy)]
enum Effect {
    Set(u64),
    Clear(u64),
    Propagation(u64),
    /// Over the whole tree: set these attributes, clear those.
    Recursive {
        set: u64,
        clear: u64,
    },
    CopyUp,
    Nothing,
}

use Effect::{Clear, CopyUp, Nothing, Propagation, Recursive, Set};

const fn recursive(set: u64) -> Effect {
    Recursive { set, clear: 0 }
}

const fn recursive_clear(clear: u64) -> Effect {
    Recursive { set: 0, clear }
}

const fn recursive_atime(set: u64) -> Effect {
    Recursive { set, clear: attr::ATIME_FIELD }
}

const OPTIONS: [(&str, Effect); 65] = [
    ("async", Clear(ms::SYNCHRONOUS)),
    ("atime", Clear(ms::NOATIME)),
    ("bind", Set(ms::BIND)),
    ("defaults", Nothing),
    ("dev", Clear(ms::NODEV)),
    ("diratime", Clear(ms::NODIRATIME)),
    ("dirsync", Set(ms::DIRSYNC)),
    ("exec", Clear(ms::NOEXEC)),
    ("iversion", Set(ms::I_VERSION)),
    ("lazytime", Set(ms::LAZYTIME)),
    ("loud", Clear(ms::SILENT)),
    ("mand", Set(ms::MANDLOCK)),
    ("noatime", Set(ms::NOATIME)),
    ("nodev", Set(ms::NODEV)),
    ("nodiratime", Set(ms::NODIRATIME)),
    ("noexec", Set(ms::NOEXEC)),
    ("noiversion", Clear(ms::I_VERSION)),
    ("nolazytime", Clear(ms::LAZYTIME)),
    ("nomand", Clear(ms::MANDLOCK)),
    ("norelatime", Clear(ms::RELATIME)),
    ("nostrictatime", Clear(ms::STRICTATIME)),
    ("nosuid", Set(ms::NOSUID)),
    ("nosymfollow", Set(ms::NOSYMFOLLOW)),
    ("private", Propagation(ms::PRIVATE)),
    ("ratime", recursive_clear(attr::ATIME_FIELD)),
    ("rbind", Set(ms::BIND | ms::REC)),
    ("rdev", recursive_clear(attr::NODEV)),
    ("rdiratime", recursive_clear(attr::NODIRATIME)),
    ("relatime", Set(ms::RELATIME)),
    ("remount", Set(ms::REMOUNT)),
    ("rexec", recursive_clear(attr::NOEXEC)),
    ("rnoatime", recursive_atime(attr::NOATIME)),
    ("rnodev", recursive(attr::NODEV)),
    ("rnodiratime", recursive(attr::NODIRATIME)),
    ("rnoexec", recursive(attr::NOEXEC)),
    ("rnorelatime", recursive_clear(attr::ATIME_FIELD)),
    ("rnostrictatime", recursive_clear(attr::ATIME_FIELD)),
    ("rnosuid", recursive(attr::NOSUID)),
    ("rnosymfollow", recursive(attr::NOSYMFOLLOW)),
    ("ro", Set(ms::RDONLY)),
    ("rprivate", Propagation(ms::PRIVATE | ms::REC)),
    ("rrelatime", recursive_atime(attr::RELATIME)),
    ("rro", recursive(attr::RDONLY)),
    ("rrw", recursive_clear(attr::RDONLY)),
    ("rshared", Propagation(ms::SHARED | ms::REC)),
    ("rslave", Propagation(ms::SLAVE | ms::REC)),
    ("rstrictatime", recursive_atime(attr::STRICTATIME)),
    ("rsuid", recursive_clear(attr::NOSUID)),
    ("rsymfollow", recursive_clear(attr::NOSYMFOLLOW)),
    ("runbindable", Propagation(ms::UNBINDABLE | ms::REC)),
    ("rw", Clear(ms::RDONLY)),
    ("shared", Propagation(ms::SHARED)),
    ("silent", Set(ms::SILENT)),
    ("slave", Propagation(ms::SLAVE)),
    ("strictatime", Set(ms::STRICTATIME)),
    ("suid", Clear(ms::NOSUID)),
    ("symfollow", Clear(ms::NOSYMFOLLOW)),
    ("sync", Set(ms::SYNCHRONOUS)),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(ms::UNBINDABLE)),
    // Hints of engines for their own use, which no kernel knows.
    ("nofail", Nothing),
    ("auto", Nothing),
    ("noauto", Nothing),
    ("user", Nothing),
    ("nouser", Nothing),
];

/// Options of one mount, sorted by what they do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    pub(super) flags: u64,
    pub(super) propagation: Vec<u64>,
    pub(super) recursive: Option<MountAttributes>,
    pub(super) copy_up: bool,
    /// What is left for the file system, joined with commas.
    pub(super) data: String,
}

impl MountOptions {
    pub(super) fn has(&self, flag: u64) -> bool {
        self.flags & flag == flag
    }

    /// Nothing in the mounted tree may be written.
    pub(super) fn read_only(&self) -> bool {
        self.has(ms::RDONLY)
            || self.recursive.is_some_and(|attributes| attributes.set & attr::RDONLY != 0)
    }
}

/// Flags of mount(2) and what is left for the file system, of options that are about nothing else;
/// an option of another kind is the error.
pub(crate) fn split(options: &[&str]) -> Result<(u64, String), String> {
    for option in options {
        let is_flag = OPTIONS.iter().find(|(name, _)| name == option);
        match is_flag {
            None | Some((_, Set(_) | Clear(_) | Nothing)) if !is_bind(option) => {}
            _ => return Err((*option).to_owned()),
        }
    }
    let MountOptions { flags, data, .. } = sort(options);
    Ok((flags, data))
}

fn is_bind(option: &str) -> bool {
    matches!(option, "bind" | "rbind" | "remount")
}

/// Names of the options that are no data for a file system, in order.
pub(super) fn names() -> Vec<&'static str> {
    OPTIONS.iter().map(|(name, _)| *name).collect()
}

/// Sorts options. A later one of two that contradict each other counts.
pub(super) fn sort(options: &[&str]) -> MountOptions {
    let mut sorted = MountOptions::default();
    let mut data: Vec<&str> = Vec::new();
    for option in options {
        match OPTIONS.iter().find(|(name, _)| name == option) {
            None => data.push(option),
            Some((_, Set(flags))) => sorted.flags |= flags,
            Some((_, Clear(flags))) => sorted.flags &= !flags,
            Some((_, Propagation(flags))) => sorted.propagation.push(*flags),
            Some((_, CopyUp)) => sorted.copy_up = true,
            Some((_, Nothing)) => {}
            Some((_, Recursive { set, clear })) => {
                let attributes =
                    sorted.recursive.get_or_insert(MountAttributes { set: 0, clear: 0 });
                attributes.set = (attributes.set & !clear) | set;
                attributes.clear = (attributes.clear & !set) | clear;
            }
        }
    }
    sorted.data = data.join(",");
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_flags_from_data() {
        let sorted = sort(&["nosuid", "strictatime", "mode=755", "size=65536k"]);
        assert_eq!(sorted.flags, ms::NOSUID | ms::STRICTATIME);
        assert_eq!(sorted.data, "mode=755,size=65536k");
        assert!(!sorted.read_only());
    }

    #[test]
    fn the_later_of_two_options_counts() {
        assert!(!sort(&["ro", "rw"]).read_only());
        assert!(sort(&["rw", "ro"]).read_only());
        assert!(!sort(&["rro", "rrw"]).read_only());
        assert!(sort(&["rbind", "rro"]).read_only());
    }

    #[test]
    fn access_times_are_one_field() {
        let sorted = sort(&["rnoatime"]).recursive.unwrap();
        assert_eq!(sorted, MountAttributes { set: attr::NOATIME, clear: attr::ATIME_FIELD });
        let sorted = sort(&["rstrictatime", "rnosuid"]).recursive.unwrap();
        assert_eq!(sorted.set, attr::STRICTATIME | attr::NOSUID);
    }

    #[test]
    fn propagation_keeps_its_order() {
        assert_eq!(sort(&["rslave", "shared"]).propagation, [ms::SLAVE | ms::REC, ms::SHARED]);
    }

    #[test]
    fn no_option_stands_twice() {
        for (index, (name, _)) in OPTIONS.iter().enumerate() {
            assert!(OPTIONS[..index].iter().all(|(other, _)| other != name), "{name}");
        }
    }
}
