//! What the VMM finds when it tries: guest code at ring 0, and its own walls.

use super::finding::Finding;
use crate::config::{HostConfig, Parts};
use crate::host_files;
use crate::process::ProcessRef;
use crate::text;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The guest's loop takes less than a second, the walls some milliseconds.
const DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of what it says.
const MAX_BYTES: u64 = 4096;

pub(super) fn check(config: &HostConfig, parts: &Parts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = host_files::open_kvm(&config.kvm) {
        let remedy = "load kvm_intel or kvm_amd, switch virtualization on in the firmware, and let this \
                      user open the device; a host without it can run the tests in scripts/lab";
        findings.push(Finding::problem("kvm", text::chain(&error), remedy));
    } else {
        findings.push(speed(&config.kvm, parts));
    }
    findings.push(walls(parts));
    findings
}

fn speed(kvm: &Path, parts: &Parts) -> Finding {
    let mut command = Command::new(&parts.vmm);
    command.arg("--check-kvm").arg(kvm);
    match ask(command) {
        Ok(Answer { is_good: true, text }) => Finding::good("kvm", text),
        Ok(Answer { is_good: false, text }) => Finding::problem(
            "kvm",
            text,
            "run on hardware, or on a virtual machine with nested virtualization: guest kernels need \
             the processor's own speed",
        ),
        Err(error) => not_started("kvm", parts, &error),
    }
}

fn walls(parts: &Parts) -> Finding {
    let mut command = Command::new(&parts.vmm);
    command.arg("--check-jail");
    match ask(command) {
        Ok(Answer { is_good: true, text }) => Finding::good("walls", text),
        Ok(Answer { is_good: false, text }) => Finding::problem(
            "walls",
            text,
            "allow what is named there (user namespaces, seccomp): a VMM does not run without its walls",
        ),
        Err(error) => not_started("walls", parts, &error),
    }
}

fn not_started(subject: &'static str, parts: &Parts, error: &io::Error) -> Finding {
    Finding::problem(
        subject,
        format!("{:?} cannot be asked: {error}", parts.vmm),
        "install ringfence whole, or set \"vmm\" in the configuration",
    )
}

struct Answer {
    is_good: bool,
    text: String,
}

/// Runs the command with a deadline; its last line is the answer.
fn ask(mut command: Command) -> io::Result<Answer> {
    command.env_clear().current_dir("/").stdin(Stdio::null());
    // One pipe holds more than it says; a child that says more is cut off when this end closes.
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // The writing ends of this process go with it.
    drop(command);
    let process = i32::try_from(child.id()).ok().and_then(ProcessRef::of);
    let in_time = process.is_none_or(|process| process.wait(DEADLINE));
    if !in_time {
        child.kill()?;
    }
    let status = child.wait()?;
    if !in_time {
        return Err(io::Error::from(io::ErrorKind::TimedOut));
    }
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let said = text::printable_lines(&bytes).pop();
    let text = said.unwrap_or_else(|| format!("ringfence-vmm ended with {status}"));
    let text = text.strip_prefix("ringfence-vmm: ").unwrap_or(&text).to_owned();
    Ok(Answer { is_good: status.success(), text })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn parts(script: &str) -> (tempfile::TempDir, Parts) {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let vmm = directory.path().join("vmm");
        std::fs::write(&vmm, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&vmm, PermissionsExt::from_mode(0o755)).unwrap();
        let parts = Parts { kernel: vmm.clone(), initrd: vmm.clone(), vmm };
        (directory, parts)
    }

    #[test]
    fn the_vmm_is_asked_and_its_words_are_repeated() {
        let config = HostConfig { kvm: "/dev/null".into(), ..HostConfig::default() };
        let (_directory, good) = parts("echo fine: $1 $2");
        let findings = check(&config, &good);
        assert_eq!(findings[0], Finding::good("kvm", "fine: --check-kvm /dev/null"));
        assert_eq!(findings[1], Finding::good("walls", "fine: --check-jail"));
        let (_directory, bad) = parts("echo ringfence-vmm: it is slow >&2; exit 1");
        for finding in check(&config, &bad) {
            assert_eq!((finding.level, finding.found.as_str()), (Level::Problem, "it is slow"));
        }
        let (_directory, silent) = parts("kill -9 $$");
        assert!(check(&config, &silent)[1].found.contains("signal: 9"));
    }

    #[test]
    fn a_vmm_that_is_not_there_is_named() {
        let (directory, parts) = parts("exit 0");
        drop(directory);
        let config = HostConfig { kvm: "/dev/null".into(), ..HostConfig::default() };
        for finding in check(&config, &parts) {
            assert_eq!(finding.level, Level::Problem);
            assert!(finding.found.contains("/vmm"), "{finding:?}");
        }
    }

    #[test]
    fn without_the_device_nothing_is_run_on_it() {
        let config = HostConfig { kvm: "/no/such/kvm".into(), ..HostConfig::default() };
        let (_directory, parts) = parts("echo ok");
        let findings = check(&config, &parts);
        assert_eq!((findings[0].level, findings[1].level), (Level::Problem, Level::Ok));
    }
}
