//! The files that every machine is made of: there, whole, and of one version.

use super::finding::Finding;
use crate::config::Parts;
use crate::host_files;
use crate::text;
use agent_protocol::{AGENT_MARK, VERSION};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of a kernel or an agent that are searched.
const MAX_BYTES: u64 = 256 << 20;
const KERNEL_MARK: &str = "Linux version ";
/// Bytes behind a mark that are shown.
const SHOWN: usize = 40;

pub(super) fn check(parts: &Parts) -> Vec<Finding> {
    vec![kernel(&parts.kernel), agent(&parts.initrd)]
}

fn kernel(path: &Path) -> Finding {
    let subject = "guest-kernel";
    let remedy = "install ringfence whole (lib/ringfence beside bin), or set \"kernel\" in the \
                  configuration";
    if let Err(error) = host_files::open_part("the guest kernel", path) {
        return Finding::problem(subject, text::chain(&error), remedy);
    }
    match behind(path, KERNEL_MARK) {
        Some(version) => {
            let release = version.split_whitespace().next().unwrap_or_default();
            Finding::good(subject, format!("Linux {release} ({})", path.display()))
        }
        None => Finding::warning(
            subject,
            format!("{path:?} names no version of Linux: it is compressed, or no kernel"),
            remedy,
        ),
    }
}

fn agent(path: &Path) -> Finding {
    let subject = "guest-agent";
    let remedy = "install ringfence whole, so that the agent and this program are of one build, or set \
                  \"initrd\" in the configuration";
    if let Err(error) = host_files::open_part("the guest's initial RAM file system", path) {
        return Finding::problem(subject, text::chain(&error), remedy);
    }
    let version = behind(path, AGENT_MARK)
        .and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
    match version {
        Some(version) if version == VERSION => Finding::good(
            subject,
            format!("it speaks version {version} of the protocol, as this program does"),
        ),
        Some(version) => Finding::problem(
            subject,
            format!(
                "{path:?} speaks version {version} of the agent protocol, this program {VERSION}"
            ),
            remedy,
        ),
        None => Finding::warning(
            subject,
            format!("{path:?} does not tell which version of the agent protocol it speaks"),
            remedy,
        ),
    }
}

/// What stands behind the first occurrence of a mark in a file that is not compressed.
fn behind(path: &Path, mark: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    let mark = mark.as_bytes();
    let at = find(&bytes, mark)?.checked_add(mark.len())?;
    let rest = bytes.get(at..)?;
    let shown = rest.get(..SHOWN.min(rest.len()))?;
    let text = shown.split(|byte| !(b' '..=b'~').contains(byte)).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// By the first byte, as that is quick.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut from = 0_usize;
    loop {
        let rest = bytes.get(from..)?;
        let at = from.checked_add(rest.iter().position(|byte| *byte == first)?)?;
        if bytes.get(at..)?.starts_with(wanted) {
            return Some(at);
        }
        from = at.checked_add(1)?;
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn with(kernel: &str, agent: &str) -> Vec<Finding> {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("vmlinux"), kernel).unwrap();
        std::fs::write(path("initrd"), agent).unwrap();
        check(&Parts {
            vmm: path("ringfence-vmm"),
            kernel: path("vmlinux"),
            initrd: path("initrd"),
        })
    }

    #[test]
    fn kernel_and_agent_are_known_by_their_marks() {
        let agent = format!("070701 {AGENT_MARK}{VERSION}\n rest");
        let findings = with("LLinux Linux version 6.12.1-x (gcc)\0", &agent);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
        assert!(findings[0].found.starts_with("Linux 6.12.1-x ("), "{findings:?}");
    }

    #[test]
    fn another_agent_is_a_problem_and_an_unknown_one_a_warning() {
        let other = format!("{AGENT_MARK}{}", VERSION + 1);
        assert_eq!(with("", &other)[1].level, Level::Problem);
        let findings = with("", "");
        assert!(findings.iter().all(|finding| finding.level == Level::Warning), "{findings:?}");
        let missing = Path::new("/no/such");
        assert_eq!(kernel(missing).level, Level::Problem);
        assert_eq!(agent(missing).level, Level::Problem);
    }
}
