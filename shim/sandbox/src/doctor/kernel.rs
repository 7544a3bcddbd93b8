//! The host's kernel: its version, and what the walls are made of.

use super::finding::Finding;
use super::host::Host;

/// The oldest kernel with all that the VMM and the file server call.
const OLDEST: (u32, u32) = (5, 10);

pub(super) fn check(host: &Host) -> Vec<Finding> {
    let mut findings = vec![version(host), namespaces(host), filters(host), landlock(host)];
    findings.extend(same_page_merging(host));
    findings.extend(device_nodes(host));
    findings
}

fn version(host: &Host) -> Finding {
    let Some(release) = host.text("/proc/sys/kernel/osrelease") else {
        let remedy = "mount /proc, without which no sandbox starts";
        return Finding::problem("kernel", "its version cannot be read from /proc", remedy);
    };
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => {
            Finding::good("kernel", format!("Linux {release}"))
        }
        _ => Finding::problem(
            "kernel",
            format!("Linux {release}"),
            format!("run Linux {}.{} or newer", OLDEST.0, OLDEST.1),
        ),
    }
}

/// User namespaces: without them the VMM has no walls and refuses to run.
fn namespaces(host: &Host) -> Finding {
    let subject = "user-namespaces";
    let most = host.number("/proc/sys/user/max_user_namespaces");
    // Of Debian's and of Ubuntu's kernels; both concern those without privileges only.
    let closed = host.number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0)
        || host.number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1);
    match most {
        None => Finding::problem(
            subject,
            "this kernel has none",
            "run a kernel with CONFIG_USER_NS: each VMM lives in a user namespace of its own",
        ),
        Some(0) => Finding::problem(
            subject,
            "user.max_user_namespaces is 0",
            "sysctl user.max_user_namespaces=65536: each VMM lives in a user namespace of its own",
        ),
        Some(most) if closed => Finding::advice(
            subject,
            format!("{most} at most, for root only"),
            "to run sandboxes without root: sysctl kernel.unprivileged_userns_clone=1 (Debian), \
             kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)",
        ),
        Some(most) => Finding::good(subject, format!("{most} at most, one for each sandbox")),
    }
}

fn filters(host: &Host) -> Finding {
    let actions = host.text("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "kill_process") {
        return Finding::good("seccomp", "system call filters can end a process");
    }
    Finding::problem(
        "seccomp",
        "this kernel cannot end a process for a system call",
        "run a kernel with CONFIG_SECCOMP_FILTER: the VMM does not run without its filters",
    )
}

/// A second wall round the shares.
fn landlock(host: &Host) -> Finding {
    let subject = "landlock";
    match host.text("/sys/kernel/security/lsm") {
        Some(list) if list.split(',').any(|module| module == "landlock") => {
            Finding::good(subject, "it holds each VMM to its shares")
        }
        Some(_) => Finding::advice(
            subject,
            "it is not active: only the file server's own checks hold a VMM to its shares",
            "boot a kernel from Linux 5.19 on with \"landlock\" in its parameter lsm; \"walls\" = \"all\" in \
             the configuration refuses to run without it",
        ),
        None => Finding::note(
            subject,
            "whether it is active is not known (/sys/kernel/security is not mounted)",
        ),
    }
}

/// Pages that two guests have alike, found by time: whoever shares them can tell what the other has.
fn same_page_merging(host: &Host) -> Option<Finding> {
    let run = host.number("/sys/kernel/mm/ksm/run")?;
    Some(match run {
        1 => Finding::advice(
            "ksm",
            "pages of equal content are merged (/sys/kernel/mm/ksm/run is 1), but none of a sandbox's: \
             each VMM keeps its memory out of it (Linux 6.4)",
            "echo 2 >/sys/kernel/mm/ksm/run where other programs' pages must not be merged, either: the \
             time of a write tells one tenant of another's pages",
        ),
        _ => Finding::good("ksm", "pages are not merged"),
    })
}

/// What networks are connected with, and what other runtimes use and this one does not.
fn device_nodes(host: &Host) -> Vec<Finding> {
    let vhost = if host.has("/dev/vhost-vsock") { "is there" } else { "is not there" };
    vec![
        Finding::note("vhost", format!("/dev/vhost-vsock {vhost}; ringfence does not use it")),
        if host.has("/dev/net/tun") {
            Finding::good("tap", "/dev/net/tun is there")
        } else {
            Finding::warning(
                "tap",
                "/dev/net/tun is not there: containers have no network but a loopback device",
                "modprobe tun",
            )
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    const GOOD: [(&str, &str); 6] = [
        ("/proc/sys/kernel/osrelease", "6.12.0-1-amd64\n"),
        ("/proc/sys/user/max_user_namespaces", "63000\n"),
        ("/proc/sys/kernel/seccomp/actions_avail", "kill_process kill_thread allow\n"),
        ("/sys/kernel/security/lsm", "lockdown,capability,landlock"),
        ("/sys/kernel/mm/ksm/run", "0\n"),
        ("/dev/net/tun", ""),
    ];

    /// The finding about a subject when these files are other ones.
    fn with(subject: &str, changes: &[(&str, &str)]) -> Finding {
        let (_directory, host) = Host::staged(&[&GOOD[..], changes].concat());
        let found = check(&host).into_iter().find(|finding| finding.subject == subject);
        found.unwrap_or_else(|| panic!("nothing is said of {subject}"))
    }

    #[test]
    fn a_good_kernel_has_no_complaint() {
        let (_directory, host) = Host::staged(&GOOD);
        for finding in check(&host) {
            assert!(finding.level < Level::Warning, "{finding:?}");
        }
        assert_eq!(with("kernel", &[]).found, "Linux 6.12.0-1-amd64");
    }

    #[test]
    fn what_is_missing_is_told_with_its_remedy() {
        for (subject, file, text, level, remedy) in [
            ("kernel", "/proc/sys/kernel/osrelease", "5.4.0", Level::Problem, "5.10"),
            ("kernel", "/proc/sys/kernel/osrelease", "nonsense", Level::Problem, "5.10"),
            (
                "user-namespaces",
                "/proc/sys/user/max_user_namespaces",
                "0",
                Level::Problem,
                "sysctl",
            ),
            (
                "user-namespaces",
                "/proc/sys/kernel/unprivileged_userns_clone",
                "0",
                Level::Note,
                "=1",
            ),
            ("seccomp", "/proc/sys/kernel/seccomp/actions_avail", "trap", Level::Problem, "CONFIG"),
            ("landlock", "/sys/kernel/security/lsm", "apparmor", Level::Note, "lsm"),
            ("ksm", "/sys/kernel/mm/ksm/run", "1", Level::Note, "echo 2"),
        ] {
            let finding = with(subject, &[(file, text)]);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(
                finding.remedy.as_ref().is_some_and(|text| text.contains(remedy)),
                "{finding:?}"
            );
        }
        let (_directory, host) = Host::staged(&[]);
        let problems = check(&host).into_iter().filter(|finding| finding.level == Level::Problem);
        assert_eq!(problems.count(), 3);
    }
}
