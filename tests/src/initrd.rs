//! Initial RAM file systems of the tests' own, for guests that are not what they should be.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::bundle::{Bundle, Root};
use crate::lab::Lab;

/// A file that is installed beside `ringfence`: `vmlinux` or `initrd.cpio`.
///
/// # Panics
/// If `ringfence` is not on the PATH.
#[must_use]
pub fn installed(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let binary = std::env::split_paths(&path)
        .map(|directory| directory.join("ringfence"))
        .find(|file| file.is_file())
        .and_then(|file| file.canonicalize().ok())
        .expect("ringfence is on the PATH");
    let bin = binary.parent().expect("a file has a directory");
    bin.join("../lib/ringfence").join(name)
}

/// A cpio archive in the "newc" format: thirteen fields of eight hexadecimal digits, the name and
/// the content, each filled up to a multiple of four. Entries are names, modes and contents.
#[must_use]
pub fn cpio(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = vec![];
    for (name, mode, content) in entries.iter().chain([&("TRAILER!!!", 0, &b""[..])]) {
        archive.extend_from_slice(b"070701");
        let sizes = [content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        for field in [1, *mode, 0, 0, 1, 0] {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        for field in sizes {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// A bundle whose guest starts from this archive.
#[must_use]
pub fn bundle_with(lab: &Lab, initrd: &Path) -> Bundle {
    lab.bundle(Root::Shared("busybox")).edit(|config| {
        let kernel = installed("vmlinux");
        config["vm"] = json!({ "kernel": { "path": kernel, "initrd": initrd } });
    })
}
