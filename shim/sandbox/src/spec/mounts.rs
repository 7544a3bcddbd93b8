//! `mounts`: file systems of the guest, and shares of the host.

use crate::spec::Notes;
use crate::spec::error::SpecError;
use crate::spec::json::Node;
use crate::spec::mount_options::{self, MountOptions, ms};
use agent_protocol::{MountPlan, MountSource};
use std::path::{Path, PathBuf};
use vmm_api::CachePolicy;

/// Mounts in one container; each bind is a descriptor in the VMM.
const MAX_MOUNTS: usize = 1000;

/// File systems that a guest makes out of nothing.
const GUEST_FILE_SYSTEMS: [&str; 14] = [
    "proc",
    "sysfs",
    "tmpfs",
    "ramfs",
    "devpts",
    "mqueue",
    "cgroup",
    "cgroup2",
    "hugetlbfs",
    "bpf",
    "securityfs",
    "debugfs",
    "tracefs",
    "binfmt_misc",
];

/// A path of the host that the guest may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharePlan {
    /// Name of the share in the guest.
    pub name: String,
    /// The host's directory or file, absolute.
    pub path: PathBuf,
    /// The guest can change nothing in it.
    pub read_only: bool,
    /// What the guest keeps of it.
    pub cache: CachePolicy,
    /// The property of config.json that asks for it.
    pub asked_by: String,
}

/// Reads `mounts`. A bind mount is a share; whether it is a directory is known when it is opened.
pub(super) fn read(
    items: &[Node<'_>],
    bundle: &Path,
    shares: &mut Vec<SharePlan>,
    notes: &mut Notes,
) -> Result<Vec<MountPlan>, SpecError> {
    if let Some(node) = items.get(MAX_MOUNTS) {
        return Err(node.invalid(format!("a container has at most {MAX_MOUNTS} mounts")));
    }
    items
        .iter()
        .enumerate()
        .map(|(index, node)| read_mount(index, node, bundle, shares, notes))
        .collect()
}

fn read_mount(
    index: usize,
    node: &Node<'_>,
    bundle: &Path,
    shares: &mut Vec<SharePlan>,
    notes: &mut Notes,
) -> Result<MountPlan, SpecError> {
    let fields = node.fields()?;
    let destination = fields.require("destination", "where the mount is in the container")?;
    let kind = fields.text("type")?.unwrap_or_default();
    let options_node = fields.get("options");
    let options = match &options_node {
        Some(options) => options.texts()?,
        None => Vec::new(),
    };
    if let Some(option) = options.iter().find(|option| ["idmap", "ridmap"].contains(option)) {
        return Err(options_node.as_ref().unwrap_or(node).unsupported(match *option {
            "idmap" => "id-mapped mounts are not there yet; remove \"idmap\"",
            _ => "id-mapped mounts are not there yet; remove \"ridmap\"",
        }));
    }
    let id_maps = "id-mapped mounts are not there yet; remove it";
    fields.refuse("uidMappings", id_maps)?;
    fields.refuse("gidMappings", id_maps)?;
    let sorted = mount_options::sort(&options);
    let source = fields.get("source");
    let mount_source = if kind == "bind" || sorted.has(ms::BIND) {
        let source = source.ok_or_else(|| SpecError::Missing {
            path: format!("{}.source", node.path()),
            purpose: "the host's directory or file that is mounted",
        })?;
        read_bind(index, &source, bundle, &sorted, shares)?
    } else {
        let source = source.map_or(Ok(kind), |node| node.text())?;
        let kind_node =
            fields.require("type", "the type of a file system, for example \"tmpfs\"")?;
        read_file_system(&kind_node, source, &sorted)?
    };
    fields.tell_unknown(notes);
    Ok(MountPlan {
        destination: read_destination(&destination)?,
        source: mount_source,
        flags: sorted.flags & !(ms::BIND | ms::REC),
        propagation: sorted.propagation,
        recursive: sorted.recursive,
    })
}

/// config.md: a relative destination is meant from "/".
fn read_destination(node: &Node<'_>) -> Result<String, SpecError> {
    match node.text()? {
        "" => Err(node.invalid("the destination of a mount must not be empty")),
        path if path.starts_with('/') => Ok(path.to_owned()),
        path => Ok(format!("/{path}")),
    }
}

fn read_bind(
    index: usize,
    source: &Node<'_>,
    bundle: &Path,
    options: &MountOptions,
    shares: &mut Vec<SharePlan>,
) -> Result<MountSource, SpecError> {
    let path = source.text()?;
    if path.is_empty() {
        return Err(source.invalid("the source of a bind mount must not be empty"));
    }
    let name = format!("mount{index}");
    shares.push(SharePlan {
        name: name.clone(),
        path: bundle.join(path),
        read_only: options.read_only(),
        cache: CachePolicy::default(),
        asked_by: source.path().to_owned(),
    });
    Ok(MountSource::Share { name, directory: true, recursive: options.has(ms::REC) })
}

fn read_file_system(
    kind_node: &Node<'_>,
    source: &str,
    options: &MountOptions,
) -> Result<MountSource, SpecError> {
    let kind = kind_node.text()?;
    if !GUEST_FILE_SYSTEMS.contains(&kind) {
        return Err(kind_node.unsupported(
            "a guest has no device of the host to mount; mount it on the host and bind it",
        ));
    }
    // The guest has cgroup v2 only, which is what this type means there (runc, crun).
    let kind = if kind == "cgroup" { "cgroup2" } else { kind };
    Ok(MountSource::FileSystem {
        kind: kind.to_owned(),
        source: source.to_owned(),
        data: options.data.clone(),
        copy_up: options.copy_up && kind == "tmpfs",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(mounts: Value) -> Result<(Vec<MountPlan>, Vec<SharePlan>), SpecError> {
        let document = json!({ "mounts": mounts });
        let items = Node::document(&document).fields().unwrap().items("mounts").unwrap();
        let mut shares = Vec::new();
        let mounts = read(&items, Path::new("/bundle"), &mut shares, &mut Notes::default())?;
        Ok((mounts, shares))
    }

    #[test]
    fn a_bind_becomes_a_share() {
        let (mounts, shares) = of(json!([
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "data", "source": "vol", "options": ["rbind", "ro", "rslave"] },
            { "destination": "/f", "type": "bind", "source": "/etc/hosts" },
        ]))
        .unwrap();
        assert_eq!(shares[0].name, "mount1");
        assert_eq!(shares[0].path, Path::new("/bundle/vol"));
        assert!(shares[0].read_only);
        assert_eq!(shares[0].asked_by, "mounts[1].source");
        assert_eq!(shares[1].path, Path::new("/etc/hosts"));
        assert!(!shares[1].read_only);
        assert_eq!(mounts[1].destination, "/data");
        assert_eq!(mounts[1].flags, ms::RDONLY);
        assert_eq!(mounts[1].propagation, [ms::SLAVE | ms::REC]);
        let recursive =
            MountSource::Share { name: "mount1".into(), directory: true, recursive: true };
        assert_eq!(mounts[1].source, recursive);
    }

    #[test]
    fn cgroup_means_version_two() {
        let (mounts, _) = of(json!([
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["ro", "nosuid"] },
        ]))
        .unwrap();
        let MountSource::FileSystem { kind, .. } = &mounts[0].source else { panic!("{mounts:?}") };
        assert_eq!(kind, "cgroup2");
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        for (mount, path) in [
            (json!({ "type": "tmpfs" }), "mounts[0].destination is missing"),
            (json!({ "destination": "" , "type": "tmpfs" }), "mounts[0].destination is"),
            (json!({ "destination": "/x" }), "mounts[0].type is missing"),
            (
                json!({ "destination": "/x", "type": "ext4", "source": "/dev/sda" }),
                "mounts[0].type",
            ),
            (json!({ "destination": "/x", "type": "bind" }), "mounts[0].source is missing"),
            (json!({ "destination": "/x", "type": "bind", "source": "" }), "mounts[0].source is"),
            (
                json!({ "destination": "/x", "type": "bind", "source": "/", "options": ["idmap"] }),
                "mounts[0].options",
            ),
            (
                json!({ "destination": "/x", "type": "bind", "source": "/", "uidMappings": [{}] }),
                "mounts[0].uidMappings",
            ),
            (json!({ "destination": "/x", "type": "tmpfs", "options": "ro" }), "mounts[0].options"),
            (json!("x"), "mounts[0] must be an object"),
        ] {
            let error = of(json!([mount])).unwrap_err().to_string();
            assert!(error.starts_with(path), "{error:?} does not begin with {path:?}");
        }
    }
}
