//! Memory for one sandbox of the configured size.

use super::finding::Finding;
use super::host::Host;
use crate::host_cgroup;

const SUBJECT: &str = "memory";

pub(super) fn check(host: &Host, memory_mib: u32) -> Finding {
    let text = host.text("/proc/meminfo").unwrap_or_default();
    let Some(available) = field(&text, "MemAvailable:") else {
        return Finding::warning(
            SUBJECT,
            "how much is available cannot be read from /proc/meminfo",
            "mount /proc",
        );
    };
    let needed = u64::from(memory_mib).saturating_add(host_cgroup::overhead_mib(memory_mib));
    if available < needed {
        // Pages that a guest does not touch cost nothing.
        return Finding::warning(
            SUBJECT,
            format!(
                "{available} MiB are available; a machine of {memory_mib} MiB (memory_mib) can use \
                 up to {needed}"
            ),
            "end something, or give machines less memory (memory_mib in the configuration, \
             linux.resources.memory in the bundle)",
        );
    }
    let count = available / needed.max(1);
    Finding::good(
        SUBJECT,
        format!(
            "{available} MiB are available: room for {count} full machines of {memory_mib} MiB \
             (memory_mib)"
        ),
    )
}

/// A line of /proc/meminfo, in MiB.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_machine_that_does_not_fit_is_told_with_the_sizes() {
        let text = "MemTotal:  9000000 kB\nMemAvailable:    1048576 kB\n";
        let (_directory, host) = Host::staged(&[("/proc/meminfo", text)]);
        let finding = check(&host, 256);
        assert_eq!(finding.level, Level::Ok);
        assert!(
            finding.found.contains("1024 MiB") && finding.found.contains("2 full"),
            "{finding:?}"
        );
        let finding = check(&host, 1024);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.found.contains("up to 1160"), "{finding:?}");
        let (_directory, host) = Host::staged(&[]);
        assert_eq!(check(&host, 1).level, Level::Warning);
    }
}
