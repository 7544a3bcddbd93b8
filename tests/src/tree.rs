//! Listings of directory trees: what a container left on a share, as the host sees it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// One entry of a tree. Times are left out: they differ from run to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `file`, `directory`, `symlink`, `fifo`, `socket`, `block` or `character`.
    pub kind: &'static str,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Number of links, of anything but directories (file systems differ there).
    pub links: u64,
    /// Size of a file.
    pub size: u64,
    /// A hash of a file's content, or the text of a symlink.
    pub content: String,
    /// Extended attributes of the user namespace.
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// Every entry below `root`, by its path in it; `root` itself is `.`.
///
/// # Panics
/// If something in it cannot be read.
#[must_use]
pub fn listing(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![PathBuf::from(".")];
    while let Some(relative) = waiting.pop() {
        let path = root.join(&relative);
        let entry = entry(&path);
        if entry.kind == "directory" {
            for child in std::fs::read_dir(&path).expect("a directory of the tree can be read") {
                let name = child.expect("a directory can be read to its end").file_name();
                waiting.push(relative.join(name));
            }
        }
        found.insert(relative, entry);
    }
    found
}

fn entry(path: &Path) -> Entry {
    let metadata = std::fs::symlink_metadata(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () if kind.is_block_device() => "block",
        () => "character",
    };
    let content = match kind {
        "file" => hash(&std::fs::read(path).expect("a file of the tree can be read")),
        "symlink" => {
            let target = std::fs::read_link(path).expect("a symlink can be read");
            target.to_string_lossy().into_owned()
        }
        _ => String::new(),
    };
    Entry {
        kind,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        links: if kind == "directory" { 0 } else { metadata.nlink() },
        size: if kind == "file" { metadata.len() } else { 0 },
        content,
        attributes: attributes(path),
    }
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap_or(0);
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let name = String::from_utf8_lossy(name).into_owned();
        if name.starts_with("user.") || name == "security.capability" {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name.as_str(), value.as_mut_slice());
            value.truncate(length.unwrap_or(0));
            found.insert(name, value);
        }
    }
    found
}

/// A hash of `bytes`, equal within one build of the tests.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("{:016x}", hasher.finish())
}

/// Checks that two trees are equal; `excused` says for which paths only the kind, mode and owner
/// have to be.
///
/// # Panics
/// With every entry that differs.
#[track_caller]
pub fn compare(ringfence: &Path, crun: &Path, excused: impl Fn(&Path) -> bool) {
    let (ours, theirs) = (listing(ringfence), listing(crun));
    let mut wrong = vec![];
    for (path, our) in &ours {
        match theirs.get(path) {
            None => wrong.push(format!("{}: only ringfence made it: {our:?}", path.display())),
            Some(their) if excused(path) => {
                if (our.kind, our.mode, our.owner) != (their.kind, their.mode, their.owner) {
                    wrong.push(format!("{}: {our:?}, with crun {their:?}", path.display()));
                }
            }
            Some(their) if our != their => {
                wrong.push(format!("{}: {our:?}, with crun {their:?}", path.display()));
            }
            Some(_) => {}
        }
    }
    for path in theirs.keys().filter(|path| !ours.contains_key(*path)) {
        wrong.push(format!("{}: only crun made it", path.display()));
    }
    assert!(wrong.is_empty(), "{} entries differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_trees_pass_and_others_fail() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for root in [&one, &two] {
            std::fs::create_dir(root.path().join("d")).unwrap();
            std::fs::write(root.path().join("d/f"), "x").unwrap();
            std::os::unix::fs::symlink("d/f", root.path().join("l")).unwrap();
        }
        compare(one.path(), two.path(), |_| false);
        std::fs::write(two.path().join("d/f"), "y").unwrap();
        compare(one.path(), two.path(), |path| path.ends_with("f"));
        let differ = std::panic::catch_unwind(|| compare(one.path(), two.path(), |_| false));
        assert!(differ.is_err());
    }
}
