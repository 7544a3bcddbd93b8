//! What this runtime can do, in the specification's words (features.md).

use crate::spec::{capabilities, mount_options, namespaces, seccomp};
use serde_json::{Value, json};

/// The features structure, made of the tables by which bundles are read.
#[must_use]
pub fn features(version: &str) -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": ["prestart", "createRuntime", "startContainer", "poststart", "poststop"],
        "mountOptions": mount_options::names(),
        "linux": {
            "namespaces": namespaces::KINDS,
            "capabilities": capabilities::NAMES.as_slice(),
            "cgroup": {
                "v1": false, "v2": true, "systemd": false, "systemdUser": false, "rdma": false,
            },
            "seccomp": seccomp::features(),
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": false } },
            "netDevices": { "enabled": false },
        },
        "annotations": { "dev.ringfence.version": version },
        "potentiallyUnsafeConfigAnnotations": ["dev.ringfence."],
    })
}

#[cfg(test)]
mod tests {
    use super::features;

    #[test]
    fn what_is_refused_is_no_feature() {
        let features = features("1.2.3");
        let has = |list: &serde_json::Value, name: &str| {
            list.as_array().unwrap().iter().any(|known| known == name)
        };
        assert!(has(&features["mountOptions"], "rro"));
        assert!(!has(&features["mountOptions"], "idmap"));
        assert!(has(&features["linux"]["namespaces"], "user"));
        assert!(!has(&features["linux"]["namespaces"], "time"));
        assert!(has(&features["hooks"], "startContainer"));
        assert!(!has(&features["hooks"], "createContainer"));
        let seccomp = &features["linux"]["seccomp"];
        assert!(has(&seccomp["actions"], "SCMP_ACT_ERRNO"));
        assert!(!has(&seccomp["actions"], "SCMP_ACT_NOTIFY"));
        assert!(has(&seccomp["knownFlags"], "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"));
        assert!(!has(&seccomp["supportedFlags"], "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"));
        assert!(has(&features["linux"]["capabilities"], "CAP_BPF"));
    }
}
