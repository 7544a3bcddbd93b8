//! `linux.namespaces`: which of the guest's namespaces a container has for itself.

use crate::spec::error::SpecError;
use crate::spec::json::{Fields, Node};
use agent_protocol::Namespaces;

/// Types of namespaces that a container can have.
pub(super) const KINDS: [&str; 6] = ["pid", "network", "mount", "ipc", "uts", "cgroup"];

/// Reads `linux.namespaces` and the mappings that belong to a user namespace. A container without a
/// mount namespace would have the guest's, where nobody else looks: it gets its own in any case.
pub(super) fn read(linux: &Fields<'_>) -> Result<Namespaces, SpecError> {
    let mut kinds: Vec<&str> = Vec::new();
    for item in linux.items("namespaces")? {
        let kind = read_kind(&item)?;
        // config-linux.md: duplicate types must be an error.
        if kinds.contains(&kind) {
            return Err(item.invalid("this type of namespace is given twice"));
        }
        kinds.push(kind);
    }
    let remedy = "user namespaces are not there yet; remove it, the virtual machine keeps the \
                  container's root from being the host's";
    linux.refuse("uidMappings", remedy)?;
    linux.refuse("gidMappings", remedy)?;
    let has = |kind| kinds.contains(&kind);
    Ok(Namespaces {
        pid: has("pid"),
        uts: has("uts"),
        ipc: has("ipc"),
        cgroup: has("cgroup"),
        network: has("network"),
    })
}

fn read_kind<'v>(item: &Node<'v>) -> Result<&'v str, SpecError> {
    let fields = item.fields()?;
    let node = fields.require("type", "the type of a namespace, for example \"pid\"")?;
    let kind = node.text()?;
    match kind {
        kind if KINDS.contains(&kind) => {}
        "user" => {
            return Err(node.unsupported(
                "user namespaces are not there yet; remove it, the virtual machine keeps the \
                 container's root from being the host's",
            ));
        }
        "time" => return Err(node.unsupported("remove it; a guest's clock follows the host's")),
        _ => {
            return Err(node.invalid(
                "the types of namespaces are pid, network, mount, ipc, uts, user, cgroup and time",
            ));
        }
    }
    fields.refuse(
        "path",
        "a virtual machine cannot enter a namespace of the host; remove the path for a new one",
    )?;
    Ok(kind)
}
