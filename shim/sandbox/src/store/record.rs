//! `state.json`: what is written down about a container.

use crate::boot_record::BootRecord;
use crate::container_id::ContainerId;
use crate::host_cgroup::CgroupRecord;
use crate::network::NetworkRecord;
use crate::process::ProcessRef;
use crate::spec::{Hook, Plan};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use vmm_api::WallsReport;

/// Version of the format. A file of another version is nobody's container.
pub(super) const VERSION: u32 = 3;

/// Where a container is in its life, in the words of the specification (runtime.md, State) and,
/// for a paused one, of runc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being made.
    Creating,
    /// It stands, and its program has not run.
    Created,
    /// Its program runs.
    Running,
    /// Its machine is stopped and can go on.
    Paused,
    /// Its program has ended, or its supervisor or its machine has.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The exit status of its supervisor.
    pub status: u8,
    /// Why, if it was not the program's own doing.
    pub reason: Option<String>,
}

/// What is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(super) version: u32,
    pub(crate) id: String,
    pub(crate) oci_version: String,
    pub(crate) bundle: PathBuf,
    /// The container's root on the host.
    pub(crate) rootfs: PathBuf,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Nanoseconds since the epoch.
    pub(crate) created_ns: u64,
    /// It stays until it is deleted; another one goes with its supervisor.
    pub(crate) detached: bool,
    /// As its supervisor has written it; see [`Self::status`].
    pub(super) status: Status,
    pub(crate) supervisor: ProcessRef,
    /// The virtual machine, once there is one.
    pub(crate) vmm: Option<ProcessRef>,
    /// What the machine was booted from.
    #[serde(default)]
    pub(crate) boot: Option<BootRecord>,
    /// What came of the machine's walls.
    #[serde(default)]
    pub(crate) walls: Option<WallsReport>,
    /// The container's cgroup on the host, written down before it is made.
    pub(crate) cgroup: Option<CgroupRecord>,
    /// The network that is connected, written down before it is.
    #[serde(default)]
    pub(crate) network: Option<NetworkRecord>,
    pub(crate) end: Option<End>,
    /// Hooks that `delete` runs.
    pub(crate) after_stop: Vec<Hook>,
}

/// What can be told of a container that another version of ringfence has written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Stranger {
    pub(super) version: u32,
    /// Who supervises it.
    pub(crate) supervisor: ProcessRef,
    /// Its virtual machine.
    #[serde(default)]
    pub(crate) vmm: Option<ProcessRef>,
}

impl Record {
    /// A container that begins to be made by this process.
    pub(crate) fn new(id: &ContainerId, plan: &Plan, supervisor: ProcessRef) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            version: VERSION,
            id: id.as_str().to_owned(),
            oci_version: plan.oci_version.clone(),
            bundle: plan.bundle.clone(),
            rootfs: plan.shares.first().map(|share| share.path.clone()).unwrap_or_default(),
            annotations: plan.annotations.clone(),
            created_ns: u64::try_from(since.as_nanos()).unwrap_or(0),
            detached: false,
            status: Status::Creating,
            supervisor,
            vmm: None,
            boot: None,
            walls: None,
            cgroup: None,
            network: None,
            end: None,
            after_stop: plan.hooks.after_stop.clone(),
        }
    }

    /// Where the container is in its life now, whatever has happened to its supervisor and its
    /// machine since they last said.
    pub(crate) fn status(&self) -> Status {
        let lost = !self.supervisor.is_alive() || self.vmm.is_some_and(|vmm| !vmm.is_alive());
        if lost { Status::Stopped } else { self.status }
    }

    /// It stood once, whatever has become of it.
    pub(crate) fn was_created(&self) -> bool {
        self.status != Status::Creating
    }

    /// How the container ended, once it has.
    pub(crate) fn end(&self) -> Option<End> {
        /// 128 and SIGKILL: nothing else ends a supervisor without a word.
        const KILLED: u8 = 137;
        let lost = || End { status: KILLED, reason: Some("its supervisor was killed".to_owned()) };
        match (&self.end, self.supervisor.is_alive()) {
            (Some(end), _) => Some(end.clone()),
            (None, false) => Some(lost()),
            (None, true) => None,
        }
    }
}
