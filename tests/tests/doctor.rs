//! `ringfence doctor` on a host where sandboxes run, and on one that it is told to take for another.

use integration_tests::{Invocation, Lab, Outcome};
use serde_json::Value;

/// Exit status where sandboxes do not run.
const CANNOT_RUN: i32 = 1;

fn finding(outcome: &Outcome, subject: &str) -> Value {
    let diagnosis: Value = serde_json::from_str(outcome.out()).expect("it is JSON");
    let findings = diagnosis["findings"].as_array().expect("there are findings").clone();
    let found = findings.into_iter().find(|finding| finding["subject"] == subject);
    found.unwrap_or_else(|| panic!("nothing is said of {subject}\n{outcome}"))
}

#[test]
fn a_host_that_runs_sandboxes_is_told_to_do_so() {
    let lab = Lab::enter();
    let outcome = Invocation::new("ringfence").args(&["doctor", "--json"]).run();
    outcome.expect_code(0);
    for subject in
        ["kernel", "user-namespaces", "seccomp", "kvm", "walls", "guest-kernel", "guest-agent"]
    {
        assert_eq!(finding(&outcome, subject)["level"], "ok", "{outcome}");
    }
    let text = Invocation::new("ringfence").arg("doctor").run();
    text.expect_code(0);
    assert!(text.out().contains("sandboxes run here: 0 problems"), "{text}");
    lab.expect_nothing_left();
}

#[test]
fn what_is_missing_is_named_with_its_remedy_and_a_status() {
    let lab = Lab::enter();
    let config = lab.scratch().join("config.toml");
    let other = lab.scratch().join("initrd");
    std::fs::write(&other, "ringfence-agent protocol 1:").unwrap();
    let settings = format!("kvm = \"/dev/no-kvm\"\ninitrd = {other:?}\n");
    std::fs::write(&config, settings).unwrap();
    let ringfence = Invocation::new("ringfence").arg("--config").arg(&config);
    let outcome = ringfence.args(&["doctor", "--json"]).run();
    outcome.expect_code(CANNOT_RUN);
    for (subject, value) in [("kvm", "/dev/no-kvm"), ("guest-agent", "version 1")] {
        let finding = finding(&outcome, subject);
        assert_eq!(finding["level"], "problem", "{outcome}");
        assert!(finding["found"].as_str().unwrap().contains(value), "{outcome}");
        assert!(!finding["remedy"].as_str().unwrap().is_empty(), "{outcome}");
    }
    assert_eq!(finding(&outcome, "walls")["level"], "ok", "{outcome}");
    lab.expect_nothing_left();
}
