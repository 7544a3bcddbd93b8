//! Whether this host can run sandboxes and how well: findings, each with its remedy.
//!
//! What can be tried is tried: the VMM runs a guest of a few instructions, and puts up its walls. The
//! rest is read from the kernel. Nothing is changed.

mod cgroups;
mod engines;
mod finding;
mod host;
mod kernel;
mod memory;
mod parts;
mod processors;
mod vmm;

pub use finding::{Diagnosis, Finding, Level};

use crate::config::{HostConfig, Parts};
use crate::text;
use host::Host;
use std::path::Path;

/// Looks at this host. `config` names the configuration, as for any other command.
#[must_use]
pub fn diagnose(config: Option<&Path>) -> Diagnosis {
    let mut findings = Vec::new();
    let config = configuration(config, &mut findings);
    let host = Host::real();
    findings.extend(kernel::check(&host));
    match Parts::find(&config) {
        Ok(parts) => {
            findings.extend(vmm::check(&config, &parts));
            findings.extend(parts::check(&parts));
        }
        Err(error) => findings.push(Finding::problem(
            "parts",
            text::chain(&error),
            "mount /proc, or name vmm, kernel and initrd in the configuration",
        )),
    }
    findings.push(processors::nesting(&host));
    findings.push(cgroups::check(&host));
    findings.push(memory::check(&host, config.memory_mib));
    findings.extend(processors::check(&host));
    findings.extend(engines::check(&host, std::env::current_exe().ok().as_deref()));
    Diagnosis::of(findings)
}

/// The host's configuration, or the one without a file if it cannot be used.
fn configuration(file: Option<&Path>, findings: &mut Vec<Finding>) -> HostConfig {
    match HostConfig::load(file) {
        Ok(config) => {
            findings.push(Finding::good("configuration", "it can be used"));
            config
        }
        Err(error) => {
            let remedy = "correct the file; until then every command refuses it";
            findings.push(Finding::problem("configuration", text::chain(&error), remedy));
            HostConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnosis_has_each_subject_and_a_remedy_for_what_is_wrong() {
        let missing = Path::new("/no/such/config.toml");
        let diagnosis = diagnose(Some(missing));
        assert!(!diagnosis.can_run);
        let wrong = diagnosis.findings.iter().filter(|finding| finding.level >= Level::Warning);
        for finding in wrong {
            assert!(finding.remedy.is_some(), "{finding:?}");
        }
        for subject in ["configuration", "kernel", "kvm", "cgroups", "memory", "podman"] {
            let is_there = diagnosis.findings.iter().any(|finding| finding.subject == subject);
            assert!(is_there, "{subject}: {diagnosis:?}");
        }
    }
}
