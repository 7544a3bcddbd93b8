//! `linux.namespaces`: which of the guest's namespaces a container has for itself, and the ids of its
//! user namespace.

use crate::spec::error::SpecError;
use crate::spec::json::{Fields, Node};
use crate::spec::pod::Membership;
use agent_protocol::{IdMapping, Namespaces, SharedNamespaces};
use std::path::PathBuf;

/// Types of namespaces that a container can have.
pub(super) const KINDS: [&str; 7] = ["pid", "network", "mount", "ipc", "uts", "cgroup", "user"];

/// Ranges in one map (UID_GID_MAP_MAX_EXTENTS, user_namespaces(7)).
const MAX_MAPPINGS: usize = 340;

/// What a container has for itself.
#[derive(Debug)]
pub(super) struct OwnNamespaces {
    pub(super) namespaces: Namespaces,
    /// Empty without a user namespace.
    pub(super) uid_mappings: Vec<IdMapping>,
    pub(super) gid_mappings: Vec<IdMapping>,
    /// The host's network namespace that the guest is connected to.
    pub(super) network: Option<PathBuf>,
    /// Those of its pod.
    pub(super) shared: Option<SharedNamespaces>,
}

/// Reads `linux.namespaces` and the mappings that belong to a user namespace. A container without a
/// mount namespace would have the guest's, where nobody else looks: it gets its own in any case.
pub(super) fn read(
    linux: &Fields<'_>,
    pod: Option<&Membership>,
) -> Result<OwnNamespaces, SpecError> {
    let mut kinds: Vec<&str> = Vec::new();
    let mut shared: Vec<&str> = Vec::new();
    let mut network = None;
    for item in linux.items("namespaces")? {
        let kind = read_kind(&item, pod, &mut shared, &mut network)?;
        // config-linux.md: duplicate types must be an error.
        if kinds.contains(&kind) {
            return Err(item.invalid("this type of namespace is given twice"));
        }
        kinds.push(kind);
    }
    let is_kept = pod.is_some_and(|pod| pod.is_kept);
    if is_kept {
        // One network is what makes a pod.
        shared.push("network");
    }
    let shares = |kind| shared.contains(&kind);
    let of_pod = pod.filter(|_| !shared.is_empty()).map(|pod| SharedNamespaces {
        container: pod.sandbox.clone(),
        pid: shares("pid"),
        uts: shares("uts"),
        ipc: shares("ipc"),
        // Else it is that of the whole guest.
        network: shares("network") && pod.has_own_network,
    });
    // What is left out is the host's for a process, and for containers of different kinds of one guest
    // nothing that they should have in common.
    let separate = |kind: &str| is_kept && ["pid", "uts", "ipc"].contains(&kind);
    let has = |kind| (kinds.contains(&kind) || separate(kind)) && !shares(kind);
    Ok(OwnNamespaces {
        namespaces: Namespaces {
            pid: has("pid"),
            uts: has("uts"),
            ipc: has("ipc"),
            cgroup: has("cgroup"),
            // A network of the host is that of the whole guest.
            network: has("network") && network.is_none(),
            user: has("user"),
        },
        uid_mappings: read_mappings(linux, "uidMappings", has("user"))?,
        gid_mappings: read_mappings(linux, "gidMappings", has("user"))?,
        network,
        shared: of_pod,
    })
}

fn read_mappings(
    linux: &Fields<'_>,
    name: &'static str,
    has_users: bool,
) -> Result<Vec<IdMapping>, SpecError> {
    if !has_users {
        linux.refuse(
            name,
            "it belongs to a user namespace: add {\"type\": \"user\"}, or remove it",
        )?;
        return Ok(Vec::new());
    }
    let node = linux.require(name, "the ids of the user namespace: containerID, hostID, size")?;
    let items = node.items()?;
    if items.is_empty() || items.len() > MAX_MAPPINGS {
        return Err(node.invalid(format!("a user namespace has 1 to {MAX_MAPPINGS} mappings")));
    }
    let mappings: Vec<IdMapping> = items.iter().map(read_mapping).collect::<Result<_, _>>()?;
    for (index, (item, mapping)) in items.iter().zip(&mappings).enumerate() {
        if mappings.iter().take(index).any(|other| overlap(mapping, other)) {
            return Err(item.invalid("it has ids in common with one before it"));
        }
    }
    if !mappings.iter().any(|mapping| mapping.container_id == 0) {
        return Err(node.invalid("root of the user namespace is not mapped: map containerID 0"));
    }
    Ok(mappings)
}

fn read_mapping(item: &Node<'_>) -> Result<IdMapping, SpecError> {
    let fields = item.fields()?;
    let number = |name, purpose| fields.require(name, purpose)?.integer::<u32>();
    let mapping = IdMapping {
        container_id: number("containerID", "the first id in the container")?,
        host_id: number("hostID", "the first id outside")?,
        size: number("size", "how many ids are mapped")?,
    };
    let fits = |first: u32| first.checked_add(mapping.size).is_some();
    if mapping.size == 0 || !fits(mapping.container_id) || !fits(mapping.host_id) {
        return Err(item.invalid("a range has at least one id, and none above 4294967294"));
    }
    Ok(mapping)
}

fn overlap(one: &IdMapping, other: &IdMapping) -> bool {
    let overlap = |first: u32, second: u32| {
        first < second.saturating_add(other.size) && second < first.saturating_add(one.size)
    };
    overlap(one.container_id, other.container_id) || overlap(one.host_id, other.host_id)
}

/// Reads one; `shared` gets its kind if it is the pod's, `network` the path of the host's.
fn read_kind<'v>(
    item: &Node<'v>,
    pod: Option<&Membership>,
    shared: &mut Vec<&'v str>,
    network: &mut Option<PathBuf>,
) -> Result<&'v str, SpecError> {
    let fields = item.fields()?;
    let node = fields.require("type", "the type of a namespace, for example \"pid\"")?;
    let kind = node.text()?;
    match kind {
        kind if KINDS.contains(&kind) => {}
        "time" => return Err(node.unsupported("remove it; a guest's clock follows the host's")),
        _ => {
            return Err(node.invalid(
                "the types of namespaces are pid, network, mount, ipc, uts, user, cgroup and time",
            ));
        }
    }
    if let (Some(pod), Some(path)) = (pod, fields.get("path").filter(|path| !path.is_blank())) {
        if !pod.owns(kind, path.text()?) {
            return Err(path.unsupported(
                "a container of a pod shares namespaces with the pod's first container only",
            ));
        }
        shared.push(kind);
        return Ok(kind);
    }
    if kind == "network" {
        if let Some(path) = fields.get("path").filter(|path| !path.is_blank()) {
            let text = path.text()?;
            if !text.starts_with('/') {
                return Err(path.invalid("the path of a namespace must be absolute"));
            }
            *network = Some(PathBuf::from(text));
        }
        return Ok(kind);
    }
    fields.refuse(
        "path",
        "a virtual machine cannot enter a namespace of the host; remove the path for a new one",
    )?;
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(linux: &Value) -> Result<OwnNamespaces, SpecError> {
        super::read(&Node::document(linux).fields()?, None)
    }

    fn with_users(uids: &Value) -> Value {
        json!({
            "namespaces": [{ "type": "mount" }, { "type": "user" }],
            "uidMappings": uids,
            "gidMappings": [{ "containerID": 0, "hostID": 7, "size": 1 }],
        })
    }

    fn range(container_id: u32, host_id: u32, size: u32) -> Value {
        json!({ "containerID": container_id, "hostID": host_id, "size": size })
    }

    #[test]
    fn a_user_namespace_has_its_ids() {
        let linux = with_users(&json!([range(1, 100_000, 10), range(0, 1000, 1)]));
        let own = read(&linux).unwrap();
        assert!(own.namespaces.user);
        assert_eq!(
            own.uid_mappings,
            [
                IdMapping { container_id: 1, host_id: 100_000, size: 10 },
                IdMapping { container_id: 0, host_id: 1000, size: 1 }
            ]
        );
        assert_eq!(own.gid_mappings.len(), 1);
    }

    #[test]
    fn ids_that_cannot_be_are_refused() {
        for (uids, problem) in [
            (json!([]), "1 to 340"),
            (json!(vec![range(0, 0, 1); 341]), "1 to 340"),
            (json!([range(0, 0, 0)]), "at least one id"),
            (json!([range(0, u32::MAX, 1)]), "at least one id"),
            (json!([range(u32::MAX, 0, 1)]), "at least one id"),
            (json!([range(0, 0, 10), range(9, 100, 10)]), "uidMappings[1]"),
            (json!([range(0, 0, 10), range(10, 9, 10)]), "in common"),
            (json!([range(1, 0, 10)]), "map containerID 0"),
            (json!([{ "containerID": 0, "size": 1 }]), "hostID is missing"),
            (json!([{ "containerID": -1, "hostID": 0, "size": 1 }]), "containerID"),
            (json!({}), "array"),
        ] {
            let error = read(&with_users(&uids)).unwrap_err().to_string();
            assert!(error.contains(problem), "{problem:?} in {error}");
        }
    }

    #[test]
    fn a_member_shares_what_its_pod_has() {
        let pod = Membership {
            sandbox: "p".into(),
            pid: 7,
            network: Some("/run/netns/x".into()),
            has_own_network: false,
            is_kept: false,
        };
        let linux = json!({ "namespaces": [
            { "type": "pid" },
            { "type": "mount" },
            { "type": "ipc", "path": "/proc/7/ns/ipc" },
            { "type": "uts", "path": "/proc/7/ns/uts" },
            { "type": "network", "path": "/proc/7/ns/net" },
        ] });
        let own = super::read(&Node::document(&linux).fields().unwrap(), Some(&pod)).unwrap();
        assert_eq!(own.namespaces, Namespaces { pid: true, ..Namespaces::default() });
        assert_eq!(own.network, None);
        let shared = own.shared.unwrap();
        assert_eq!(
            (shared.pid, shared.uts, shared.ipc, shared.network),
            (false, true, true, false)
        );
        let linux = json!({ "namespaces": [{ "type": "pid", "path": "/proc/8/ns/pid" }] });
        let error = super::read(&Node::document(&linux).fields().unwrap(), Some(&pod)).unwrap_err();
        assert!(error.to_string().contains("/proc/8/ns/pid"), "{error}");
    }

    #[test]
    fn a_member_of_a_kept_pod_has_its_network_and_what_it_names() {
        let pod = Membership {
            sandbox: "p".into(),
            pid: 7,
            network: None,
            has_own_network: true,
            is_kept: true,
        };
        let read = |namespaces: Value| {
            let linux = json!({ "namespaces": namespaces });
            super::read(&Node::document(&linux).fields().unwrap(), Some(&pod)).unwrap()
        };
        let own = read(json!([{ "type": "mount" }]));
        let apart = Namespaces { pid: true, uts: true, ipc: true, ..Namespaces::default() };
        assert_eq!(own.namespaces, apart);
        let shared = own.shared.unwrap();
        assert_eq!(
            (shared.pid, shared.uts, shared.ipc, shared.network),
            (false, false, false, true)
        );
        let own = read(json!([
            { "type": "mount" },
            { "type": "network" },
            { "type": "pid", "path": "/proc/1/ns/pid" },
            { "type": "uts" },
        ]));
        let apart = Namespaces { uts: true, ipc: true, ..Namespaces::default() };
        assert_eq!(own.namespaces, apart);
        let shared = own.shared.unwrap();
        assert_eq!((shared.pid, shared.network), (true, true));
    }

    #[test]
    fn ids_without_a_user_namespace_are_refused() {
        let linux = json!({ "namespaces": [{ "type": "mount" }], "gidMappings": [range(0, 0, 1)] });
        let error = read(&linux).unwrap_err().to_string();
        assert!(error.contains("gidMappings") && error.contains("user namespace"), "{error}");
    }
}
