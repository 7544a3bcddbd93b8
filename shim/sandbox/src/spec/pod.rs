//! Pods: what containerd's CRI plugin and CRI-O write into a bundle's annotations, and the namespaces
//! that a pod's containers share.

use crate::spec::error::SpecError;
use crate::spec::resources::{Resources, weight_of_shares};
use std::path::{Path, PathBuf};

/// The annotation that says which part in a pod a container has: `sandbox` or `container`. One for each
/// of the two, containerd and CRI-O.
const KINDS: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
/// The annotation with the id of the pod's first container.
const SANDBOX_IDS: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];
/// Limits of the whole pod, by containerd: bytes, microseconds, microseconds, shares.
const MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
const CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
const CPU_SHARES: &str = "io.kubernetes.cri.sandbox-cpu-shares";
/// The kernel's default period in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;
/// The kernel's largest period in microseconds (sched-bwc.rst).
const MAX_PERIOD: u64 = 1_000_000;

/// Which part in a pod a container has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodRole {
    /// It is in no pod.
    Alone,
    /// It is the pod's first one, whose namespaces the others share.
    Sandbox,
    /// It belongs to the pod with this id.
    Member(String),
}

/// The pod that a container joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Id of the pod's first container.
    pub sandbox: String,
    /// Process id on the host that the caller was given for the pod's containers: it names their
    /// namespaces by this.
    pub pid: u32,
    /// The host's network namespace that the pod is connected to, if any.
    pub network: Option<PathBuf>,
    /// The pod's network namespace is one of the guest, with a loopback device only.
    pub has_own_network: bool,
    /// Nobody's container keeps its namespaces, and every container that is made here is its own. A
    /// caller need not know the process id, and names the pod's namespaces by any.
    pub is_kept: bool,
}

impl Membership {
    /// Whether a path names a namespace of the pod's containers.
    pub(super) fn owns(&self, kind: &str, path: &str) -> bool {
        // proc_pid_ns(5): the network's is called net.
        let file = if kind == "network" { "net" } else { kind };
        let of_process = || {
            let (pid, known) = path.strip_prefix("/proc/")?.split_once("/ns/")?;
            (known == file).then(|| pid.parse::<u32>().ok())?
        };
        of_process().is_some_and(|pid| pid == self.pid || self.is_kept)
            || kind == "network" && self.network.as_deref() == Some(Path::new(path))
    }
}

/// Which part in a pod these annotations give to a container.
///
/// # Errors
/// [`SpecError::Invalid`] for a part that nobody knows, or one without a pod.
pub(super) fn role(annotations: &[(&str, &str)]) -> Result<PodRole, SpecError> {
    let find =
        |name: &str| annotations.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let Some((name, kind)) = KINDS.iter().find_map(|name| Some((name, find(name)?))) else {
        return Ok(PodRole::Alone);
    };
    let wrong = |problem: &str| invalid(name, kind, problem);
    match kind {
        "sandbox" => Ok(PodRole::Sandbox),
        "container" => match SANDBOX_IDS.iter().find_map(|name| find(name)) {
            Some(id) if !id.is_empty() => Ok(PodRole::Member(id.to_owned())),
            _ => Err(wrong("a container of a pod names it in io.kubernetes.cri.sandbox-id")),
        },
        _ => Err(wrong("it must be \"sandbox\" or \"container\"")),
    }
}

/// The limits of a whole pod, if the annotations have any.
///
/// # Errors
/// [`SpecError::Invalid`] for what is no number.
pub(super) fn limits(annotations: &[(&str, &str)]) -> Result<Option<Resources>, SpecError> {
    let number = |name: &str| -> Result<Option<i64>, SpecError> {
        let Some((_, value)) = annotations.iter().find(|(known, _)| *known == name) else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|_| invalid(name, value, "it must be a whole number"))
    };
    let positive = |number: Option<i64>| {
        number.and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0)
    };
    let mut resources = Resources::default();
    if let Some(bytes) = positive(number(MEMORY)?) {
        resources.memory_bytes = Some(bytes);
        resources.set("memory.max", bytes.to_string());
    }
    let period = positive(number(CPU_PERIOD)?).unwrap_or(DEFAULT_PERIOD).min(MAX_PERIOD);
    if let Some(quota) = positive(number(CPU_QUOTA)?) {
        resources.cpu_quota = Some(quota.div_ceil(period));
        resources.set("cpu.max", format!("{quota} {period}"));
    }
    if let Some(shares) = positive(number(CPU_SHARES)?) {
        resources.set("cpu.weight", weight_of_shares(shares).to_string());
    }
    Ok(if resources.cgroup.settings.is_empty() { None } else { Some(resources) })
}

fn invalid(name: &str, value: &str, problem: &str) -> SpecError {
    SpecError::Invalid {
        path: format!("annotations[{name:?}]"),
        value: format!("{value:?}"),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_a_part_in_a_pod_or_none() {
        assert_eq!(role(&[("x", "sandbox")]).unwrap(), PodRole::Alone);
        assert_eq!(role(&[(KINDS[0], "sandbox")]).unwrap(), PodRole::Sandbox);
        assert_eq!(role(&[(KINDS[1], "sandbox")]).unwrap(), PodRole::Sandbox);
        let member = [(KINDS[0], "container"), (SANDBOX_IDS[0], "p1")];
        assert_eq!(role(&member).unwrap(), PodRole::Member("p1".into()));
        for wrong in [&[(KINDS[0], "container")][..], &[(KINDS[0], "podsandbox")]] {
            let error = role(wrong).unwrap_err().to_string();
            assert!(error.contains("container-type"), "{error}");
        }
    }

    #[test]
    fn a_pod_has_the_limits_of_its_annotations() {
        assert!(limits(&[]).unwrap().is_none());
        let none = [(MEMORY, "0"), (CPU_QUOTA, "-1"), (CPU_PERIOD, "100000")];
        assert!(limits(&none).unwrap().is_none());
        let some = [
            (MEMORY, "104857600"),
            (CPU_QUOTA, "150000"),
            (CPU_PERIOD, "100000"),
            (CPU_SHARES, "1024"),
        ];
        let resources = limits(&some).unwrap().unwrap();
        assert_eq!((resources.memory_bytes, resources.cpu_quota), (Some(100 << 20), Some(2)));
        let texts: Vec<String> = resources
            .cgroup
            .settings
            .iter()
            .map(|setting| format!("{}={}", setting.path, setting.value))
            .collect();
        assert_eq!(texts, ["memory.max=104857600", "cpu.max=150000 100000", "cpu.weight=39"]);
        assert!(limits(&[(MEMORY, "1G")]).unwrap_err().to_string().contains("1G"));
    }

    #[test]
    fn a_pods_namespaces_are_known_by_their_paths() {
        let pod = Membership {
            sandbox: "p".into(),
            pid: 7,
            network: Some("/run/netns/x".into()),
            has_own_network: false,
            is_kept: false,
        };
        assert!(pod.owns("ipc", "/proc/7/ns/ipc") && pod.owns("network", "/proc/7/ns/net"));
        assert!(pod.owns("network", "/run/netns/x"));
        assert!(!pod.owns("ipc", "/run/netns/x") && !pod.owns("ipc", "/proc/8/ns/ipc"));
        let kept = Membership { is_kept: true, ..pod };
        assert!(kept.owns("ipc", "/proc/1/ns/ipc") && kept.owns("network", "/proc/1/ns/net"));
        for path in ["/proc/1/ns/net", "/proc/self/ns/ipc", "/run/netns/x", "/proc/1/ns/ipc/x"] {
            assert!(!kept.owns("ipc", path), "{path}");
        }
    }
}
