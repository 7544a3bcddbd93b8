//! Containers of a pod: the first one with its virtual machine, then the others.

use super::drives::Drives;
use super::error::PodError;
use super::fifo::StdioPaths;
use super::logger::Source;
use super::machine::Machine;
use super::shares::{Shares, Taken};
use super::table::{Member, MemberDisk, PodEvent, Process, Table};
use super::{Inner, Pod};
use crate::caller_limits;
use crate::config::{HostConfig, MAX_POD_DRIVES, POD_DRIVES, Parts};
use crate::container_id::ContainerId;
use crate::container_view::{Figurehead, View};
use crate::create::{self, Prepared, read_only_root, refusal_of_agent, single_files};
use crate::disk::{DiskRoot, OpenDisk, open_disk};
use crate::error::SandboxError;
use crate::hooks::{self, ContainerState};
use crate::host_files::{OpenShare, open_shares};
use crate::limits_change::Settings;
use crate::machine::{add_share, insert_disk};
use crate::mount_points;
use crate::network::NetworkError;
use crate::run::host_facts;
use crate::signals::Signals;
use crate::spec::{Bundle, Membership, Overrides, Plan, PodRole};
use crate::store::Status;
use crate::streams::Sockets;
use crate::timeline::{Timeline, now_ns};
use agent_client::ClientError;
use agent_protocol::{
    ContainerPlan, DiskPlan, FIRST_STREAM_PORT, MountPlan, MountSource, RootSource,
};
use rustix::fs::statfs;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use vmm_api::Request;

/// Ports for the streams of one process.
const PORTS: u32 = 3;
/// Serial number of the disk that a machine has from its start.
const FIRST_DISK: &str = "disk0";
/// Where containers share memory, what that is called in the guest, and how it is mounted if nobody has
/// said it: as by engines, with MS_NOSUID, MS_NODEV and MS_NOEXEC.
const SHARED_MEMORY: &str = "/dev/shm";
const SHARED_MEMORY_NAME: &str = "shm";
const SHARED_MEMORY_DATA: &str = "mode=1777,size=65536k";
const SHARED_MEMORY_FLAGS: u64 = 2 | 4 | 8;
/// f_type of tmpfs (statfs(2)).
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// What holds for all containers of a pod.
#[derive(Clone, Debug)]
pub struct PodOptions {
    /// Directory of the state.
    pub root: PathBuf,
    /// containerd's namespace, which loggers are told.
    pub namespace: String,
    /// The host's configuration.
    pub config: HostConfig,
    /// `linux.cgroupsPath` of the bundles has systemd's form.
    pub systemd_cgroup: bool,
}

/// A container to be made.
#[derive(Clone, Debug)]
pub struct NewContainer {
    /// Its id.
    pub id: String,
    /// Directory of its bundle; what the bundle's root is must be mounted.
    pub bundle: PathBuf,
    /// Its streams.
    pub stdio: StdioPaths,
    /// Where its root is.
    pub root: Root,
    /// Mounts, in the form of a config.json, for destinations that the bundle does not mount.
    pub mounts: Vec<Value>,
}

/// Where the root of a container is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Root {
    /// Where the bundle says.
    #[default]
    Bundle,
    /// On a disk.
    Disk(DiskRoot),
    /// Nowhere: the container runs nothing, and keeps the namespaces of its pod. Only a first one can.
    Nothing,
}

impl PodOptions {
    fn overrides(&self) -> Overrides {
        Overrides { systemd_cgroup: self.systemd_cgroup, ..Overrides::default() }
    }
}

impl Pod {
    /// Makes a virtual machine with its first container, which stands and waits for its start. What
    /// happens is told to `events` from now on. `figurehead` shows the container to who enters the
    /// namespaces of this process. Needs a runtime.
    ///
    /// # Errors
    /// [`PodError`]; then nothing is left.
    pub async fn start(
        options: PodOptions,
        container: NewContainer,
        figurehead: Option<&Figurehead>,
        events: mpsc::UnboundedSender<PodEvent>,
    ) -> Result<Self, PodError> {
        let id = ContainerId::new(&container.id).map_err(SandboxError::Id)?;
        let parts = Parts::find(&options.config).map_err(SandboxError::Config)?;
        let (mut plan, role) = plan_first(&options, &container)?;
        let disk = first_disk(&container, &mut plan)?;
        let source = Source { id: &container.id, namespace: &options.namespace };
        let opened = container.stdio.open(plan.container.console_size(), source)?;
        opened.ready().await?;
        let network = plan.network.clone();
        let has_own_network = plan.container.has_own_network();
        let share_plans = plan.shares.clone();
        let hooks = plan.hooks.clone();
        let settings = Settings::new(plan.container.settings());
        let view = View::new(&plan.shares, plan.container.mounts());

        let signals = Signals::take().map_err(SandboxError::Events)?;
        let mut timeline = Timeline::new(now_ns());
        let mut prepared = create::prepare(&id, &options.root, plan, &options.config, &parts)?;
        if role == PodRole::Sandbox {
            prepared.expect_shares();
        }
        let has_disk = disk.is_some();
        let has_keeper = container.root == Root::Nothing;
        let drives = give_disk(&mut prepared, disk, &role, &container.root, &options.config);
        let mut hooks_made_network = false;
        if let Some(figurehead) = figurehead.filter(|_| prepared.network_is_of_hooks()) {
            let namespace = figurehead
                .separate_network()
                .map_err(|errno| SandboxError::Events(errno.into()))?;
            hooks_made_network = prepared.run_hooks_first(&namespace).await?;
        }
        let mut shares = Shares::default();
        let names = shares.know_first(&share_plans, prepared.shares());
        let (booted, ends) = prepared
            .boot_with(&options.config, &parts, opened.wanted(), &signals, &mut timeline)
            .await?;
        let ready = booted.create(&signals, &mut timeline).await?;
        if let (Some(figurehead), Some(view)) = (figurehead, view) {
            figurehead.show(view);
        }
        let (deadline, size) = (ready.guest.deadline, ready.guest.size);
        let mut guest = ready.guest;
        guest.state.set_status(Status::Running).map_err(SandboxError::Store)?;
        let carried = opened.carry(ends)?;
        let (machine, client, guest_events) = Machine::own(guest);
        let mut table = Table::default();
        let init = Process::new(container.stdio, None, Some(carried));
        let mut member = Member::new(ready.hook_state, ready.init, hooks, names, settings, init);
        member.disk = has_disk.then_some(MemberDisk::Fixed);
        table.insert(&container.id, member);
        let membership = Membership {
            sandbox: container.id.clone(),
            pid: std::process::id(),
            network,
            has_own_network: has_own_network && !hooks_made_network,
            is_kept: has_keeper,
        };
        let pod = Self {
            inner: Arc::new(Inner {
                options,
                sandbox: container.id.clone(),
                membership,
                client,
                machine,
                deadline,
                size,
                table: Mutex::new(table),
                shares: Mutex::new(shares),
                drives: Mutex::new(drives),
                letting_go: tokio::sync::Mutex::new(()),
                is_alone: role == PodRole::Alone,
                next_port: AtomicU32::new(FIRST_STREAM_PORT.saturating_add(PORTS)),
                events,
            }),
        };
        pod.inner.tell([PodEvent::Created { container: container.id }]);
        drop(tokio::spawn(pod.clone().hear(guest_events)));
        pod.forward_ports();
        Ok(pod)
    }

    /// Makes a further container, which stands and waits for its start.
    ///
    /// # Errors
    /// [`PodError`]; then nothing is left of it.
    pub async fn create(&self, container: NewContainer) -> Result<(), PodError> {
        ContainerId::new(&container.id).map_err(SandboxError::Id)?;
        self.inner.table().reserve(&container.id)?;
        let made = self.make_with_disk(&container).await;
        let mut table = self.inner.table();
        match made {
            Ok(member) => {
                table.insert(&container.id, member);
                self.inner.tell([PodEvent::Created { container: container.id }]);
                Ok(())
            }
            Err(error) => {
                table.remove(&container.id);
                Err(error)
            }
        }
    }

    /// Puts the disk of a container's root, if it has one, into a drive before the container is made.
    async fn make_with_disk(&self, container: &NewContainer) -> Result<Member, PodError> {
        let Root::Disk(root) = &container.root else { return self.make(container, None).await };
        let (drive, serial) = self.inner.drives().take(&container.id)?;
        let made = match open_disk(root, serial) {
            Ok((disk, plan)) => {
                let (request, images) = insert_disk(drive, disk);
                match self.inner.machine.ask("a disk", request, images).await {
                    Ok(()) => self.make(container, Some(plan)).await,
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error.into()),
        };
        match made {
            Ok(mut member) => {
                member.disk = Some(MemberDisk::Drive(drive));
                Ok(member)
            }
            Err(error) => {
                // The agent keeps nothing of a container that it could not make. Of one that it has made
                // without an answer nobody knows.
                let is_released =
                    !matches!(error, PodError::Sandbox(SandboxError::Deadline { .. }));
                self.eject_disk(drive, is_released).await;
                Err(error)
            }
        }
    }

    /// Takes a disk out of its drive, which is used again if the guest has let go of the disk.
    pub(super) async fn eject_disk(&self, drive: u16, is_released: bool) {
        if !self.inner.machine.has_ended() {
            let request = Request::EjectDisk { drive };
            if let Err(error) = self.inner.machine.ask("the end of a disk", request, vec![]).await {
                tracing::info!("a disk was not taken out: {}", crate::text::chain(&error));
            }
        }
        self.inner.drives().give_back(drive, is_released);
    }

    async fn make(
        &self,
        container: &NewContainer,
        disk: Option<DiskPlan>,
    ) -> Result<Member, PodError> {
        let Inner { options, membership, .. } = &*self.inner;
        let mut bundle = Bundle::read(&container.bundle)?;
        bundle.add_mounts(&container.mounts);
        self.check_pod(&container.id, &bundle.pod_role()?)?;
        let mut plan = bundle.plan_in(
            Some(membership),
            &container.id,
            &options.overrides(),
            &options.config,
            host_facts(),
        )?;
        plan.notes.tell();
        plan.expect_network_of_pod()?;
        drop(bundle);
        if let Some(disk) = disk {
            plan.put_root_on(disk);
        }
        super::operations::check_host_limits(&container.id, &plan.host_limits)?;
        if plan.vm.host_cpus.is_some() {
            tracing::warn!("{}: cpu.cpus is the whole machine's, and stays as it is", container.id);
        }
        let source = Source { id: &container.id, namespace: &options.namespace };
        let opened = container.stdio.open(plan.container.console_size(), source)?;
        opened.ready().await?;
        plan.container.set_terminal(container.stdio.terminal);
        put_shared_memory(&mut plan);
        if self.inner.membership.is_kept && plan.container.shares_ipc() {
            add_shared_memory(&mut plan);
        }
        let hook_state = ContainerState {
            oci_version: plan.oci_version.clone(),
            id: container.id.clone(),
            status: "created",
            pid: std::process::id(),
            bundle: plan.bundle.clone(),
            annotations: plan.annotations.clone(),
        };
        let seccomp = plan
            .container
            .seccomp()
            .map(|spec| spec.compile())
            .transpose()
            .map_err(PodError::from)?;
        hooks::run(&plan.hooks.before_create, &hook_state).await.map_err(SandboxError::Hook)?;
        let shares = open_shares(&plan.shares).map_err(SandboxError::HostFile)?;
        let files = single_files(&shares);
        if let Some(root) = read_only_root(&shares) {
            mount_points::make(&root.descriptor, plan.container.mounts(), &files);
            let cwd = plan.container.cwd();
            mount_points::make_directory(&root.descriptor, plan.container.mounts(), cwd);
        }
        let mut sockets =
            Sockets::open(opened.wanted(), self.ports()?).map_err(PodError::Sockets)?;
        let stdio = sockets.plan();
        let ports = sockets.take_ports();
        let settings = Settings::new(plan.container.settings());
        let mut agent_plan = plan.container.clone().finish(&files, seccomp, stdio);
        caller_limits::complete(&mut agent_plan.init.rlimits);
        agent_plan.start_hooks =
            hooks::in_guest(&plan.hooks.in_start, &hook_state).map_err(SandboxError::Hook)?;

        let taken = self.inner.shares().take(&plan.shares, shares);
        let names: Vec<String> = taken.names.values().cloned().collect();
        let made = self.make_in_guest(agent_plan, taken, ports).await;
        let first = match made {
            Ok(first) => first,
            Err(error) => {
                self.release_shares(&names).await;
                return Err(error);
            }
        };
        let carried = opened.carry(sockets.into_ends())?;
        let init = Process::new(container.stdio.clone(), None, Some(carried));
        Ok(Member::new(hook_state, first, plan.hooks, names, settings, init))
    }

    async fn make_in_guest(
        &self,
        mut plan: ContainerPlan,
        taken: Taken,
        ports: Vec<(u32, OwnedFd)>,
    ) -> Result<agent_protocol::ProcessPlan, PodError> {
        let name_of = |name: &str| taken.names.get(name).cloned().unwrap_or(name.to_owned());
        if let RootSource::Share { name } = &mut plan.root.source {
            *name = name_of(name);
        }
        for mount in &mut plan.mounts {
            if let MountSource::Share { name, .. } = &mut mount.source {
                *name = name_of(name);
            }
        }
        for share in taken.new {
            self.add_share(share).await?;
        }
        self.listen(ports).await?;
        let first = plan.init.clone();
        let created = self.inner.client.create_container(plan, self.inner.deadline).await;
        match created {
            Ok(_) => Ok(first),
            Err(error) => Err(self.agent_error("creating the container", error).await),
        }
    }

    async fn add_share(&self, share: OpenShare) -> Result<(), PodError> {
        let (request, _) = add_share(&share);
        self.inner.machine.ask("a share", request, vec![share.descriptor]).await
    }

    /// Opens ports of the host, before the agent can look for them.
    pub(super) async fn listen(&self, ports: Vec<(u32, OwnedFd)>) -> Result<(), PodError> {
        for (port, descriptor) in ports {
            let request = Request::ListenVsock { port };
            self.inner.machine.ask("a port", request, vec![descriptor]).await?;
        }
        Ok(())
    }

    /// The first of the ports for a process.
    pub(super) fn ports(&self) -> Result<u32, PodError> {
        let next = |port: u32| port.checked_add(PORTS);
        self.inner
            .next_port
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .map_err(|_| PodError::TooMany { what: "streams", most: usize::MAX })
    }

    /// A container does not use these any more.
    pub(super) async fn release_shares(&self, names: &[String]) {
        let unused = self.inner.shares().release(names.iter());
        if self.inner.machine.has_ended() {
            return;
        }
        for name in unused {
            // The guest first, so that it has written what it holds.
            let forgotten = self.inner.client.forget_share(&name, self.inner.deadline).await;
            if let Err(error) = forgotten {
                tracing::info!("a share was not forgotten: {}", crate::text::chain(&error));
            }
            let request = Request::RemoveShare { name };
            if let Err(error) = self.inner.machine.ask("the end of a share", request, vec![]).await
            {
                tracing::info!("a share was not removed: {}", crate::text::chain(&error));
            }
        }
    }

    /// A container must belong here: shims of containerd are told apart by the caller.
    fn check_pod(&self, id: &str, role: &PodRole) -> Result<(), PodError> {
        let pod = self.inner.sandbox.clone();
        let problem = match role {
            PodRole::Member(of) if *of == pod => return Ok(()),
            PodRole::Alone if self.inner.membership.is_kept => return Ok(()),
            PodRole::Member(of) => format!("it belongs to the pod {of:?}"),
            PodRole::Sandbox => "it is the first container of a pod of its own".to_owned(),
            PodRole::Alone => "it belongs to no pod".to_owned(),
        };
        Err(PodError::WrongPod { id: id.to_owned(), pod, problem })
    }

    /// What an error of the agent's means. A stream that breaks is most often a machine that ends, which
    /// says more.
    pub(super) async fn agent_error(&self, step: &'static str, error: ClientError) -> PodError {
        let error = match refusal_of_agent(step, error) {
            Ok(refusal) => return refusal.into(),
            Err(error) => error,
        };
        let broken = matches!(error, ClientError::Closed | ClientError::Stream(_));
        if broken
            && let Ok(reason) =
                tokio::time::timeout(super::guest_events::LAST_WORD, self.inner.machine.ended())
                    .await
        {
            return PodError::MachineEnded { reason };
        }
        let console = crate::error::LastWords(Vec::new());
        let error = match error {
            ClientError::Deadline { .. } => SandboxError::Deadline { step, source: error, console },
            error => SandboxError::Agent { step, source: error, console },
        };
        error.into()
    }
}

/// A machine that has its first container's root on a disk has drives for those of the others; another one
/// has as many as the host's configuration says.
fn give_disk(
    prepared: &mut Prepared,
    disk: Option<OpenDisk>,
    role: &PodRole,
    first: &Root,
    config: &HostConfig,
) -> Drives {
    let count = match (&disk, first) {
        (Some(_), _) => MAX_POD_DRIVES,
        (None, Root::Nothing) => config.pod_drives.unwrap_or(POD_DRIVES),
        (None, _) => config.pod_drives.unwrap_or(0),
    };
    if let Some(disk) = disk {
        prepared.give_disk(disk);
    }
    if *role != PodRole::Sandbox || count == 0 {
        return Drives::default();
    }
    prepared.expect_disks(count.into());
    Drives::new(count.into())
}

/// Opens the disk of the first container's root, if it has one.
fn first_disk(container: &NewContainer, plan: &mut Plan) -> Result<Option<OpenDisk>, PodError> {
    let root = match &container.root {
        Root::Bundle => return Ok(None),
        Root::Disk(root) => root,
        Root::Nothing => {
            plan.remove_root();
            return Ok(None);
        }
    };
    let (disk, of_agent) = open_disk(root, FIRST_DISK.to_owned())?;
    plan.put_root_on(of_agent);
    Ok(Some(disk))
}

/// The plan of a container that makes its machine, and its part in a pod.
fn plan_first(options: &PodOptions, container: &NewContainer) -> Result<(Plan, PodRole), PodError> {
    let bundle = Bundle::read(&container.bundle)?;
    let role = bundle.pod_role()?;
    if let PodRole::Member(pod) = role {
        let problem = "the pod is not there".to_owned();
        return Err(PodError::WrongPod { id: container.id.clone(), pod, problem });
    }
    let mut plan =
        bundle.plan(&container.id, &options.overrides(), &options.config, host_facts())?;
    plan.notes.tell();
    plan.expect_network_of_pod()?;
    if plan.has_host_network() {
        if role != PodRole::Alone || !plan.knows_no_network() {
            return Err(SandboxError::from(NetworkError::HostAsked).into());
        }
        tracing::warn!("the bundle has no network namespace: there is a loopback device only");
    }
    plan.container.set_terminal(container.stdio.terminal);
    put_shared_memory(&mut plan);
    Ok((plan, role))
}

/// Puts files in memory that a pod's containers share into the guest's memory: `/dev/shm`, which the
/// caller has made as a tmpfs of the host. Shared through the host it would be slower, and its pages would
/// be there twice.
fn put_shared_memory(plan: &mut Plan) {
    let shares = &plan.shares;
    let mut moved = Vec::new();
    for mount in plan.container.mounts_mut() {
        let MountSource::Share { name, .. } = &mount.source else { continue };
        if mount.destination.trim_end_matches('/') != SHARED_MEMORY {
            continue;
        }
        let Some(share) = shares.iter().find(|share| share.name == *name) else { continue };
        if let Some(data) = tmpfs_data(&share.path) {
            moved.push(name.clone());
            mount.source = MountSource::Memory { name: SHARED_MEMORY_NAME.to_owned(), data };
        }
    }
    plan.shares.retain(|share| !moved.contains(&share.name));
}

/// A pod whose first container is nobody's has nobody who made a `/dev/shm` for it: its containers have
/// none, or each a tmpfs of its own. Those that share their IPC share it as well.
fn add_shared_memory(plan: &mut Plan) {
    let mounts = plan.container.mounts_mut();
    let is_there =
        |mount: &&mut MountPlan| mount.destination.trim_end_matches('/') == SHARED_MEMORY;
    if let Some(known) = mounts.iter_mut().find(is_there) {
        if let MountSource::FileSystem { kind, data, .. } = &known.source
            && kind == "tmpfs"
        {
            let (name, data) = (SHARED_MEMORY_NAME.to_owned(), data.clone());
            known.source = MountSource::Memory { name, data };
        }
        return;
    }
    mounts.push(MountPlan {
        destination: SHARED_MEMORY.to_owned(),
        source: MountSource::Memory {
            name: SHARED_MEMORY_NAME.to_owned(),
            data: SHARED_MEMORY_DATA.to_owned(),
        },
        flags: SHARED_MEMORY_FLAGS,
        propagation: Vec::new(),
        recursive: None,
    });
}

/// How to mount a tmpfs like the one that has its root here.
fn tmpfs_data(path: &Path) -> Option<String> {
    let known = statfs(path).ok()?;
    if known.f_type != TMPFS_MAGIC {
        return None;
    }
    let block = u64::try_from(known.f_bsize).ok()?;
    let bytes = known.f_blocks.checked_mul(block)?;
    let size = if bytes == 0 { String::new() } else { format!(",size={bytes}") };
    Some(format!("mode=1777{size}"))
}
