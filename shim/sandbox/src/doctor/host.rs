//! The host's files, or those of a directory that stands for it in a test.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of one file that are read: those of the kernel are short, and an engine's configuration is.
const MAX_BYTES: u64 = 1 << 20;
/// Entries of a directory that are looked at.
const MAX_ENTRIES: usize = 4096;
/// Where engines are, whatever the caller's PATH is (hier(7)).
const PROGRAMS: [&str; 4] = ["usr/local/bin", "usr/bin", "usr/local/sbin", "usr/sbin"];

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    /// This one.
    pub(super) fn real() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// A directory with the files that a test needs.
    #[cfg(test)]
    pub(super) fn staged(files: &[(&str, &str)]) -> (tempfile::TempDir, Self) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let file = directory.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let root = directory.path().to_owned();
        (directory, Self { root })
    }

    /// Where an absolute path of the host is.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file without blanks around it; `None` if it cannot be read.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        read(&self.path(path))
    }

    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Names in a directory, sorted; none if it cannot be read.
    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(directory)).into_iter().flatten().flatten();
        let names = entries.take(MAX_ENTRIES).map(|entry| entry.file_name());
        let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
        names.sort();
        names
    }

    /// Whether a program is installed.
    pub(super) fn program(&self, name: &str) -> bool {
        PROGRAMS.iter().any(|directory| self.path(directory).join(name).is_file())
    }
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    // A fifo in the place of a file would wait for a writer.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    File::open(path).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}
