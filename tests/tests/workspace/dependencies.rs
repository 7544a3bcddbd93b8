//! Who may depend on whom. The layers are crates so that this can be checked; a new edge is a
//! change of the design and is made here first.

use std::collections::BTreeMap;

use crate::graph::{Edges, Graph};

/// One row of the dependency table.
struct Rule {
    package: &'static str,
    /// Packages of this repository that its manifest may name.
    may_use: &'static [&'static str],
    /// Packages that must not be reachable from it, over any number of steps.
    must_not_reach: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        package: "file-server",
        may_use: &[],
        must_not_reach: &[
            "kvm-ioctls",
            "kvm-bindings",
            "virtio-queue",
            "tokio",
            "oci-spec",
            "serde_json",
        ],
    },
    Rule {
        package: "devices",
        may_use: &["file-server"],
        must_not_reach: &[
            "kvm-ioctls",
            "kvm-bindings",
            "tokio",
            "oci-spec",
            "serde_json",
            "toml",
            "clap",
            "vmm-api",
        ],
    },
    Rule {
        package: "vmm-api",
        may_use: &[],
        must_not_reach: &["kvm-ioctls", "kvm-bindings", "vm-memory", "tokio", "oci-spec"],
    },
    Rule {
        package: "vmm",
        may_use: &["devices", "vmm-api"],
        must_not_reach: &["oci-spec", "agent-protocol", "tokio", "serde_json", "clap", "toml"],
    },
    Rule {
        package: "agent-protocol",
        may_use: &[],
        must_not_reach: &["tokio", "libc", "rustix", "nix", "oci-spec", "serde_json"],
    },
    Rule {
        package: "agent-client",
        may_use: &["agent-protocol"],
        must_not_reach: &["vmm-api", "kvm-ioctls", "oci-spec", "serde_json"],
    },
    Rule {
        package: "guest-agent",
        may_use: &["agent-protocol"],
        // Its size is memory in every VM: no JSON, no regular expressions, no C library, no
        // asynchronous runtime.
        must_not_reach: &[
            "tokio",
            "oci-spec",
            "serde_json",
            "toml",
            "regex",
            "libseccomp-sys",
            "kvm-ioctls",
        ],
    },
    Rule {
        package: "sandbox",
        may_use: &["vmm-api", "agent-client", "agent-protocol"],
        must_not_reach: &["kvm-ioctls", "virtio-queue", "clap", "ttrpc", "protobuf"],
    },
    Rule {
        package: "oci",
        may_use: &["sandbox"],
        must_not_reach: &["kvm-ioctls", "virtio-queue", "ttrpc", "protobuf"],
    },
    Rule {
        package: "containerd",
        may_use: &["sandbox"],
        must_not_reach: &["kvm-ioctls", "virtio-queue", "clap"],
    },
    Rule {
        package: "integration-tests",
        // It drives the binaries; it needs no package.
        may_use: &[],
        must_not_reach: &[],
    },
];

/// Crates whose types cross the borders of other crates: two versions of them do not fit together.
const ONE_VERSION: &[&str] =
    &["vm-memory", "vmm-sys-util", "virtio-queue", "kvm-bindings", "rustix", "tokio", "postcard"];

#[test]
fn each_package_uses_only_what_its_row_allows() {
    let graph = Graph::read();
    let names: Vec<&str> = graph.members().map(|package| package.name.as_str()).collect();
    let mut wrong = vec![];
    for package in graph.members() {
        let Some(rule) = RULES.iter().find(|rule| rule.package == package.name) else {
            wrong.push(format!("{} has no row in the dependency table", package.name));
            continue;
        };
        for used in graph.direct(package, Edges::Shipped) {
            if names.contains(&used) && !rule.may_use.contains(&used) {
                wrong.push(format!("{} must not depend on {used}", package.name));
            }
        }
        // A test may also use what the code under test is made of, but no layer above it.
        for used in graph.direct(package, Edges::WithTests) {
            if names.contains(&used) && used != package.name && !may_test_with(rule, used) {
                wrong.push(format!("tests of {} must not depend on {used}", package.name));
            }
        }
    }
    for rule in RULES {
        if !names.contains(&rule.package) {
            wrong.push(format!("the table names {}, which is no package", rule.package));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn may_test_with(rule: &Rule, used: &str) -> bool {
    // The agent is tested through the host's end of its protocol.
    (rule.package, used) == ("guest-agent", "agent-client")
        || rule.may_use.contains(&used)
        || rule.may_use.iter().any(|below| {
            RULES.iter().any(|row| row.package == *below && row.may_use.contains(&used))
        })
}

#[test]
fn what_a_package_must_never_see_is_not_reachable_from_it() {
    let graph = Graph::read();
    let mut wrong = vec![];
    for package in graph.members() {
        let rule = RULES.iter().find(|rule| rule.package == package.name);
        for banned in rule.map_or(&[][..], |rule| rule.must_not_reach) {
            if let Some(path) = graph.path_to(package, banned) {
                wrong.push(format!("{} -> {}", package.name, path.join(" -> ")));
            }
        }
    }
    assert!(wrong.is_empty(), "reachable, and must not be:\n{}", wrong.join("\n"));
}

#[test]
fn crates_whose_types_are_shared_have_one_version() {
    let graph = Graph::read();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in graph.linked() {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    for name in ONE_VERSION {
        if let Some(found) = versions.get(name) {
            assert_eq!(found.len(), 1, "{name} is there in several versions: {found:?}");
        }
    }
}

#[test]
fn every_third_party_crate_comes_from_the_registry() {
    let graph = Graph::read();
    for package in graph.third_party() {
        let source = package.source.as_deref().unwrap_or_default();
        assert!(
            source.starts_with("registry+"),
            "{} {} comes from {source}",
            package.name,
            package.version
        );
    }
}
