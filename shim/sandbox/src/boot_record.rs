//! What a machine was booted from: which files, by their identity, and which command line.

use rustix::fs::fstat;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const PART: usize = 256 << 10;

/// A file as it was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileIdentity {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    /// When its content or its inode was changed last.
    changed: (i64, u64),
}

/// Kernel, initial RAM file system and command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BootRecord {
    pub(crate) kernel: FileIdentity,
    pub(crate) initrd: FileIdentity,
    /// The VMM adds the entries of its devices.
    pub(crate) command_line: String,
}

/// A file that a machine was booted from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootFile {
    /// Where it was.
    pub path: PathBuf,
    /// SHA-256 of its content, if that was asked for and the file is still the same one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Why there is none though it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a machine was booted from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootReport {
    /// The guest kernel.
    pub kernel: BootFile,
    /// The initial RAM file system, which is the agent.
    pub agent: BootFile,
    /// SHA-256 of the kernel's command line, without the devices that the VMM adds.
    pub command_line_sha256: String,
}

impl FileIdentity {
    /// Of an open file.
    ///
    /// # Errors
    /// That of fstat(2).
    pub(crate) fn of(path: &Path, file: &OwnedFd) -> io::Result<Self> {
        let stat = fstat(file.as_fd())?;
        Ok(Self {
            path: path.to_owned(),
            device: stat.st_dev,
            inode: stat.st_ino,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    fn report(&self, with_digest: bool) -> BootFile {
        let mut file = BootFile { path: self.path.clone(), sha256: None, problem: None };
        if with_digest {
            match self.digest() {
                Ok(digest) => file.sha256 = Some(digest),
                Err(error) => file.problem = Some(error.to_string()),
            }
        }
        file
    }

    fn digest(&self) -> io::Result<String> {
        let replaced = || io::Error::other("the file was replaced or changed since the start");
        let file = crate::host_files::open_part("it", &self.path).map_err(io::Error::other)?;
        if Self::of(&self.path, &file)? != *self {
            return Err(replaced());
        }
        let mut hash = Sha256::new();
        let mut part = vec![0; PART];
        let mut file = File::from(file).take(self.bytes);
        loop {
            match file.read(&mut part)? {
                0 => break,
                count => hash.update(part.get(..count).unwrap_or_default()),
            }
        }
        // It may have been written to meanwhile.
        if Self::of(&self.path, &file.into_inner().into())? != *self {
            return Err(replaced());
        }
        Ok(hexadecimal(&hash.finalize()))
    }
}

impl BootRecord {
    /// With `with_digests` the files are read.
    pub(crate) fn report(&self, with_digests: bool) -> BootReport {
        BootReport {
            kernel: self.kernel.report(with_digests),
            agent: self.initrd.report(with_digests),
            command_line_sha256: hexadecimal(&Sha256::digest(self.command_line.as_bytes())),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_file_that_was_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinux");
        std::fs::write(&path, "abc").unwrap();
        let identity = FileIdentity::of(&path, &File::open(&path).unwrap().into()).unwrap();
        // FIPS 180-2, appendix B.1.
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(identity.report(true).sha256.as_deref(), Some(digest));
        assert_eq!(identity.report(false).sha256, None);
        let boot = BootRecord {
            kernel: identity.clone(),
            initrd: identity.clone(),
            command_line: "abc".to_owned(),
        };
        assert_eq!(boot.report(false).command_line_sha256, digest);
        // Another one in its place is not what was booted.
        let other = directory.path().join("other");
        std::fs::write(&other, "abd").unwrap();
        std::fs::rename(&other, &path).unwrap();
        let report = identity.report(true);
        assert_eq!(report.sha256, None);
        assert!(report.problem.unwrap().contains("replaced"));
    }
}
