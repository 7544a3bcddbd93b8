//! Processors: what one tenant may learn from another over them.

use super::finding::Finding;
use super::host::Host;

const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";

/// Whether this host is a virtual machine itself.
pub(super) fn nesting(host: &Host) -> Finding {
    let text = host.text("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    if flags.split_whitespace().any(|flag| flag == "hypervisor") {
        return Finding::advice(
            "nesting",
            "this host is a virtual machine itself: guests are nested, each of their exits costs more, \
             and the hypervisor below is part of the wall",
            "run on hardware where start times matter",
        );
    }
    Finding::good("nesting", "this host is no virtual machine")
}

pub(super) fn check(host: &Host) -> Vec<Finding> {
    vec![threads(host), mitigations(host)]
}

fn threads(host: &Host) -> Finding {
    match host.text("/sys/devices/system/cpu/smt/active").as_deref() {
        Some("1") => Finding::advice(
            "smt",
            "two hardware threads share a core: sandboxes on one core share its caches",
            "where tenants do not trust each other: core_scheduling = true in the configuration (Linux \
             5.14), echo off >/sys/devices/system/cpu/smt/control, or whole cores for each sandbox \
             (linux.resources.cpu.cpus)",
        ),
        Some(_) => Finding::good("smt", "each core has one thread"),
        None => Finding::note("smt", "this kernel does not tell whether cores are shared"),
    }
}

fn mitigations(host: &Host) -> Finding {
    let names = host.names(VULNERABILITIES);
    let is_open = |name: &&String| {
        let text = host.text(&format!("{VULNERABILITIES}/{name}")).unwrap_or_default();
        text.starts_with("Vulnerable")
    };
    let open: Vec<&str> = names.iter().filter(is_open).map(String::as_str).collect();
    if names.is_empty() {
        return Finding::note("mitigations", "this kernel does not tell of any");
    }
    if open.is_empty() {
        return Finding::good("mitigations", format!("all {} known weaknesses", names.len()));
    }
    Finding::warning(
        "mitigations",
        format!("this host is vulnerable to {}", open.join(", ")),
        "install the processor's microcode and a newer kernel, and boot without mitigations=off",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_virtual_host_is_told_from_hardware() {
        let (_directory, host) = Host::staged(&[("/proc/cpuinfo", "flags\t\t: fpu svm\n")]);
        assert_eq!(nesting(&host).level, Level::Ok);
        let (_directory, host) = Host::staged(&[("/proc/cpuinfo", "flags : fpu hypervisor svm\n")]);
        assert_eq!(nesting(&host).level, Level::Note);
    }

    #[test]
    fn weaknesses_are_named() {
        let (_directory, host) = Host::staged(&[
            ("/sys/devices/system/cpu/smt/active", "1\n"),
            ("/sys/devices/system/cpu/vulnerabilities/mds", "Not affected\n"),
            ("/sys/devices/system/cpu/vulnerabilities/retbleed", "Vulnerable\n"),
            ("/sys/devices/system/cpu/vulnerabilities/l1tf", "Mitigation: PTE Inversion\n"),
        ]);
        let findings = check(&host);
        assert!(findings[0].remedy.is_some(), "{findings:?}");
        assert_eq!(findings[1].level, Level::Warning);
        assert!(findings[1].found.ends_with("to retbleed"), "{findings:?}");
    }
}
