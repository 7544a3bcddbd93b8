//! A bundle's config.json to a plan, without touching anything but that file.
//!
//! Every property of the OCI runtime specification, versions 1.0 to 1.2, is either carried into
//! the plan or refused by an error that names its path, its value and what to do. What the
//! specification does not know is ignored, as it demands, and told as a warning.
//!
//! The document is walked as JSON, not deserialized into types: an error can then name the exact
//! place, and a start does not pay for building what is used once.

mod annotations;
mod block_io;
mod capabilities;
mod cgroups_path;
mod cpu_list;
mod default;
mod device_program;
mod devices;
mod error;
mod exec;
mod features;
mod file_cache;
mod hooks;
mod json;
mod linux;
mod mount_options;
mod mounts;
mod namespaces;
mod newer_calls;
mod pod;
mod process;
mod resources;
mod seccomp;
#[cfg(test)]
mod tests;
mod update;
mod vm;

pub(crate) use capabilities::capability_names;
pub use cgroups_path::CgroupsPath;
pub use cpu_list::CpuList;
pub use default::default_config;
pub use error::SpecError;
pub use exec::{ProcessChanges, ProcessFile, capability_bit};
pub use features::features;
pub use hooks::{Hook, Hooks};
pub(crate) use mount_options::split as split_mount_options;
pub use mounts::SharePlan;
pub use pod::{Membership, PodRole};
pub use resources::HostLimit;
pub use seccomp::SeccompSpec;
pub use update::ResourceUpdate;
pub use vm::{HostFacts, VmPlan};

pub(crate) use vm::largest_limit;

use crate::config::HostConfig;
use crate::network_settings::NetworkKind;
use crate::spec::json::{Fields, Node};
use crate::spec::process::ProcessSpec;
use agent_protocol::{
    ContainerPlan, DiskPlan, FileWrite, MountPlan, MountSource, Namespaces, ProcessPlan, RootPlan,
    RootSource, SeccompPlan, StartHooks, StdioPlan, WindowSize,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use vmm_api::CachePolicy;

/// Bytes of a config.json: ten times the largest environment that Linux takes.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Name of the share that is the container's root.
pub const ROOT_SHARE: &str = "root";

/// A bundle whose config.json has been read.
#[derive(Debug)]
pub struct Bundle {
    directory: PathBuf,
    document: Value,
}

/// What a command line says beside the bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Memory of the machine in MiB.
    pub memory_mib: Option<u32>,
    /// Virtual CPUs of the machine.
    pub vcpus: Option<u32>,
    /// A terminal, whatever `process.terminal` says.
    pub terminal: bool,
    /// `linux.cgroupsPath` has systemd's form.
    pub systemd_cgroup: bool,
    /// The container has no cgroup on the host, whatever `linux.cgroupsPath` says.
    pub no_host_cgroup: bool,
}

/// What a bundle means.
#[derive(Debug)]
pub struct Plan {
    /// `ociVersion` of the bundle.
    pub oci_version: String,
    /// The bundle's directory, absolute.
    pub bundle: PathBuf,
    /// The machine.
    pub vm: VmPlan,
    /// Paths of the host that the guest may see; the first is the container's root, unless that is on a
    /// disk.
    pub shares: Vec<SharePlan>,
    /// The container.
    pub container: ContainerSpec,
    /// The host's network namespace that the guest is connected to.
    pub network: Option<PathBuf>,
    /// What the container gets if that is none, by its annotation.
    pub network_kind: Option<NetworkKind>,
    /// The container's cgroup on the host, if it is to have one.
    pub cgroups_path: Option<CgroupsPath>,
    /// Limits of the whole pod, in the guest's words, which the host's cgroup gets instead of the
    /// container's.
    pub pod_settings: Option<Vec<FileWrite>>,
    /// Limits of that cgroup that hold for nothing in the guest.
    pub host_limits: Vec<HostLimit>,
    /// Programs to run beside the container's own.
    pub hooks: Hooks,
    /// The bundle's annotations.
    pub annotations: BTreeMap<String, String>,
    /// What the caller may want to know of it.
    pub notes: Notes,
}

impl Plan {
    /// The root is on a disk, and not in the directory that the bundle names.
    pub(crate) fn put_root_on(&mut self, disk: DiskPlan) {
        self.shares.retain(|share| share.name != ROOT_SHARE);
        self.container.plan.root.source = RootSource::Disk(disk);
    }

    /// The container has no root: it only keeps its namespaces.
    pub(crate) fn remove_root(&mut self) {
        self.shares.retain(|share| share.name != ROOT_SHARE);
        self.container.plan.root.source = RootSource::Nothing;
    }

    /// Whether the bundle leaves its container in the host's network namespace.
    pub(crate) fn has_host_network(&self) -> bool {
        self.network.is_none() && !self.container.has_own_network()
    }

    /// Whether the bundle says nothing of a network: it separates nothing but mounts, and brings no
    /// resolver's file as engines do.
    pub(crate) fn knows_no_network(&self) -> bool {
        let resolves = |mount: &MountPlan| mount.destination == "/etc/resolv.conf";
        self.container.plan.namespaces == Namespaces::default()
            && !self.container.plan.mounts.iter().any(resolves)
    }

    /// A container of a pod has the pod's network, which is the engine's.
    pub(crate) fn expect_network_of_pod(&self) -> Result<(), SpecError> {
        match self.network_kind {
            Some(NetworkKind::Passt) => {
                let problem = "a container of containerd has the network of its pod";
                Err(annotations::invalid("network", "passt", problem.to_owned()))
            }
            Some(NetworkKind::None) | None => Ok(()),
        }
    }
}

/// What was read without being done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Mistakes that the specification forbids to refuse; runc tells these, too.
    pub warnings: Vec<String>,
    /// What nobody has to be told who did not ask: engines write such things into every bundle.
    pub ignored: Vec<String>,
}

impl Notes {
    /// Tells them in the log.
    pub(crate) fn tell(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        for ignored in &self.ignored {
            tracing::info!("{ignored}");
        }
    }
}

/// A container before its streams are known, its filter is compiled and its shares are opened.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    plan: ContainerPlan,
    seccomp: Option<SeccompSpec>,
    terminal: bool,
    console_size: Option<WindowSize>,
}

impl Bundle {
    /// Reads `DIRECTORY/config.json`.
    ///
    /// # Errors
    /// [`SpecError::Bundle`], [`SpecError::Read`], [`SpecError::TooLarge`] or [`SpecError::Json`].
    pub fn read(directory: &Path) -> Result<Self, SpecError> {
        Self::read_named(directory, Path::new("config.json"))
    }

    /// As [`Self::read`], from another file: absolute, or beneath the bundle's directory.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_named(directory: &Path, name: &Path) -> Result<Self, SpecError> {
        let bundle = directory
            .canonicalize()
            .map_err(|source| SpecError::Bundle { bundle: directory.to_owned(), source })?;
        let file = bundle.join(name);
        let read = |source| SpecError::Read { file: file.clone(), source };
        let mut text = Vec::new();
        let opened = File::open(&file).map_err(read)?;
        opened.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).map_err(read)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_CONFIG_BYTES) {
            return Err(SpecError::TooLarge { file, limit: MAX_CONFIG_BYTES });
        }
        let document = serde_json::from_slice(&text)
            .map_err(|source| SpecError::Json { file: file.clone(), source })?;
        Ok(Self { directory: bundle, document })
    }

    /// A bundle in memory.
    #[must_use]
    pub fn from_document(directory: PathBuf, document: Value) -> Self {
        Self { directory, document }
    }

    /// Adds mounts, in the form of a config.json, whose destinations the bundle does not mount.
    pub fn add_mounts(&mut self, mounts: &[Value]) {
        let Some(document) = self.document.as_object_mut() else { return };
        let known = document.entry("mounts").or_insert_with(|| Value::Array(Vec::new()));
        // Whatever else it is, is refused when the plan is made.
        let Some(known) = known.as_array_mut() else { return };
        for mount in mounts {
            if !known.iter().any(|other| other.get("destination") == mount.get("destination")) {
                known.push(mount.clone());
            }
        }
    }

    /// Makes the plan of a container with this id.
    ///
    /// # Errors
    /// [`SpecError`], which names the property that cannot be fulfilled.
    pub fn plan(
        &self,
        id: &str,
        overrides: &Overrides,
        config: &HostConfig,
        host: HostFacts,
    ) -> Result<Plan, SpecError> {
        self.plan_in(None, id, overrides, config, host)
    }

    /// Which part in a pod its annotations give to it.
    ///
    /// # Errors
    /// [`SpecError`], which names the annotation.
    pub fn pod_role(&self) -> Result<PodRole, SpecError> {
        let fields = Node::document(&self.document).fields()?;
        let annotations =
            fields.get("annotations").map_or(Ok(Vec::new()), |node| node.text_map())?;
        pod::role(&annotations)
    }

    /// As [`Self::plan`], for a container that joins a pod, if one is given.
    ///
    /// # Errors
    /// [`SpecError`], which names the property that cannot be fulfilled.
    pub fn plan_in(
        &self,
        pod: Option<&Membership>,
        id: &str,
        overrides: &Overrides,
        config: &HostConfig,
        host: HostFacts,
    ) -> Result<Plan, SpecError> {
        let mut notes = Notes::default();
        let fields = Node::document(&self.document).fields()?;
        let oci_version = read_version(&fields)?;
        refuse_platforms(&fields)?;
        let annotations =
            fields.get("annotations").map_or(Ok(Vec::new()), |node| node.text_map())?;
        let linux = fields.require("linux", "the settings of a Linux container")?.fields()?;
        let mut shares = vec![self.read_root(&fields, &mut notes)?];
        let mount_items = fields.items("mounts")?;
        let mounts = mounts::read(&mount_items, &self.directory, &mut shares, &mut notes)?;
        let process = fields.require("process", "what runs in the container")?;
        let process = process::read(&process, &mut notes)?;
        let resources = resources::read(Some(&linux), &mut notes)?;
        let wishes = annotations::read(&annotations, config)?;
        file_cache::apply(&wishes.file_cache, config.file_cache, &mounts, &mut shares)?;
        let of_pod = match pod::role(&annotations)? {
            PodRole::Sandbox => pod::limits(&annotations)?,
            PodRole::Alone | PodRole::Member(_) => None,
        };
        let sizes = of_pod.as_ref().unwrap_or(&resources);
        let vm = vm::plan(fields.fields("vm")?, &wishes, sizes, overrides, config, host)?;
        let host_has = (overrides.systemd_cgroup, host.selinux);
        let linux = linux::read(&linux, host_has, pod, &mut notes)?;
        let hooks = match fields.fields("hooks")? {
            Some(hooks) => hooks::read(&hooks, &process.env, &mut notes)?,
            None => Hooks::default(),
        };
        let (hostname, domainname) = {
            let shares_uts = linux.own.shared.as_ref().is_some_and(|shared| shared.uts);
            read_names(&fields, linux.own.namespaces.uts || shares_uts)?
        };
        let read_only = shares.first().is_some_and(|root| root.read_only);
        fields.tell_unknown(&mut notes);
        let terminal = process.terminal || overrides.terminal;
        let console_size = process.console_size;
        let plan = ContainerPlan {
            id: id.to_owned(),
            namespaces: linux.own.namespaces,
            shared: linux.own.shared,
            uid_mappings: linux.own.uid_mappings,
            gid_mappings: linux.own.gid_mappings,
            hostname,
            domainname,
            root: RootPlan {
                source: RootSource::Share { name: ROOT_SHARE.to_owned() },
                read_only,
                propagation: linux.propagation,
            },
            mounts,
            devices: linux.devices,
            masked_paths: linux.masked_paths,
            readonly_paths: linux.readonly_paths,
            sysctl: linux.sysctl,
            cgroup: resources.cgroup,
            seccomp: None,
            init: process_plan(process, linux.personality),
            start_hooks: StartHooks::default(),
        };
        Ok(Plan {
            oci_version,
            bundle: self.directory.clone(),
            vm,
            shares,
            network: linux.own.network,
            network_kind: wishes.network,
            cgroups_path: linux.cgroups_path.filter(|_| !overrides.no_host_cgroup),
            pod_settings: of_pod.map(|limits| limits.cgroup.settings),
            host_limits: resources.host,
            container: ContainerSpec { plan, seccomp: linux.seccomp, terminal, console_size },
            hooks,
            annotations: annotations
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            notes,
        })
    }

    fn read_root(&self, fields: &Fields<'_>, notes: &mut Notes) -> Result<SharePlan, SpecError> {
        let root = fields.require("root", "the container's root file system")?.fields()?;
        let path = root.require("path", "the directory of the container's root file system")?;
        if path.text()?.is_empty() {
            return Err(path.invalid("the path of the root file system must not be empty"));
        }
        let share = SharePlan {
            name: ROOT_SHARE.to_owned(),
            path: self.directory.join(path.text()?),
            read_only: root.boolean("readonly")?,
            cache: CachePolicy::default(),
            asked_by: path.path().to_owned(),
        };
        root.tell_unknown(notes);
        Ok(share)
    }
}

impl ContainerSpec {
    /// Working directory of its first process.
    pub(crate) fn cwd(&self) -> &str {
        &self.plan.init.cwd
    }

    /// Whether it has a network of its own, which may be filled by hooks.
    pub(crate) fn has_own_network(&self) -> bool {
        self.plan.namespaces.network
    }

    /// It has the IPC namespace of its pod.
    pub(crate) fn shares_ipc(&self) -> bool {
        self.plan.shared.as_ref().is_some_and(|shared| shared.ipc)
    }

    /// It has the network of its whole guest.
    pub(crate) fn share_network(&mut self) {
        self.plan.namespaces.network = false;
    }

    /// Its mounts, to be changed.
    pub(crate) fn mounts_mut(&mut self) -> &mut Vec<MountPlan> {
        &mut self.plan.mounts
    }

    /// The process gets a terminal, or none, whatever the bundle says.
    pub(crate) fn set_terminal(&mut self, terminal: bool) {
        self.terminal = terminal;
    }

    /// Id of the container.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.plan.id
    }

    /// The process gets a terminal.
    #[must_use]
    pub fn terminal(&self) -> bool {
        self.terminal
    }

    /// Size of the terminal if the caller has none.
    #[must_use]
    pub fn console_size(&self) -> Option<WindowSize> {
        self.console_size
    }

    /// Settings of its cgroup in the guest.
    #[must_use]
    pub fn settings(&self) -> &[FileWrite] {
        &self.plan.cgroup.settings
    }

    /// The system call filter, to be compiled.
    #[must_use]
    pub fn seccomp(&self) -> Option<&SeccompSpec> {
        self.seccomp.as_ref()
    }

    /// Mounts in order.
    #[must_use]
    pub fn mounts(&self) -> &[MountPlan] {
        &self.plan.mounts
    }

    /// The plan for the agent, with the names of the shares that are single files.
    #[must_use]
    pub fn finish(
        self,
        files: &[String],
        seccomp: Option<SeccompPlan>,
        stdio: StdioPlan,
    ) -> ContainerPlan {
        let mut plan = self.plan;
        for mount in &mut plan.mounts {
            if let MountSource::Share { name, directory, .. } = &mut mount.source {
                *directory = !files.contains(name);
            }
        }
        plan.seccomp = seccomp;
        plan.init.stdio = stdio;
        plan
    }
}

/// Any 1.x; what later versions add is refused property by property.
fn read_version(fields: &Fields<'_>) -> Result<String, SpecError> {
    let node = fields.require("ociVersion", "the version of the runtime specification, 1.x")?;
    let version = node.text()?;
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_slice() {
        [Some(1), Some(_), Some(_)] => Ok(version.to_owned()),
        [Some(_), Some(_), Some(_)] => {
            Err(node.unsupported("write a bundle for version 1.0.0 or a later 1.x"))
        }
        _ => Err(node.invalid("a version has the form 1.2.3")),
    }
}

/// Sections of other platforms (config.md, Platform-specific configuration).
fn refuse_platforms(fields: &Fields<'_>) -> Result<(), SpecError> {
    for name in ["windows", "solaris", "zos", "freebsd"] {
        fields.refuse(name, "a guest runs Linux; use the linux section")?;
    }
    Ok(())
}

fn read_names(
    fields: &Fields<'_>,
    own_uts: bool,
) -> Result<(Option<String>, Option<String>), SpecError> {
    /// Bytes that sethostname(2) takes.
    const MAX: usize = 64;
    let read = |name| {
        let Some(node) = fields.get(name).filter(|node| !node.is_blank()) else { return Ok(None) };
        let text = node.text()?;
        if text.len() > MAX {
            return Err(node.invalid(format!("Linux takes at most {MAX} bytes")));
        }
        if !own_uts {
            return Err(node.invalid("it needs a UTS namespace: add {\"type\": \"uts\"}"));
        }
        Ok(Some(text.to_owned()))
    };
    Ok((read("hostname")?, read("domainname")?))
}

fn process_plan(process: ProcessSpec, personality: Option<u64>) -> ProcessPlan {
    ProcessPlan {
        args: process.args,
        env: process.env,
        cwd: process.cwd,
        user: process.user,
        capabilities: process.capabilities,
        rlimits: process.rlimits,
        no_new_privileges: process.no_new_privileges,
        oom_score_adj: process.oom_score_adj,
        io_priority: process.io_priority,
        scheduler: process.scheduler,
        personality,
        stdio: StdioPlan::default(),
    }
}
