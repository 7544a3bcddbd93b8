//! Creation in stages. Each stage owns what it has made and undoes it when it is dropped: whatever
//! fails, and a signal or a panic too, leaves nothing behind.
//!
//! ```text
//! Plan ──prepare──> Prepared ──boot──> Booted ──create──> Ready
//!                   state directory    virtual machine    container that stands
//!                   open files         agent's connection
//! ```

mod again;

pub(crate) use again::Blueprint;

use crate::boot_record::{BootRecord, FileIdentity};
use crate::caller_limits;
use crate::config::{HostConfig, Parts};
use crate::console::Console;
use crate::container_id::ContainerId;
use crate::detach::Handover;
use crate::disk::OpenDisk;
use crate::error::{LastWords, SandboxError};
use crate::hooks::{self, ContainerState};
use crate::host_cgroup::{self, CgroupError, Entered, HostCgroup, Limit};
use crate::host_files::{self, OpenShare};
use crate::limits_change::{MachineSize, Settings};
use crate::machine::{self, MachineFiles};
use crate::mount_points;
use crate::network::{Connected, Gone, HostNetwork, NameServer, Network, NetworkRecord};
use crate::policy::{self, SignalAction, Situation, Terminal};
use crate::signals::Signals;
use crate::spec::{ContainerSpec, Hooks, Plan, ROOT_SHARE, SharePlan, VmPlan};
use crate::stdio::{self, StdioError, Streams};
use crate::store::{StateDir, Status};
use crate::streams::{Sockets, Wanted};
use crate::terminal::HostTerminal;
use crate::timeline::{Moment, Timeline};
use crate::user_network::{self, Passt, UserNetwork};
use crate::vm_process::{Asked, VmError, VmProcess};
use agent_client::{Client, ClientError, Connection, Hello};
use agent_protocol::{
    CONTROL_PORT, ContainerPlan, ErrorKind as AgentErrorKind, Event, FIRST_STREAM_PORT,
    GuestConfig, MountPlan, MountSource, NetworkPlan, ProcessPlan, SeccompPlan, StdioPlan, VERSION,
};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use vmm_api::{CachePolicy, Reply, Request, ShareKind, VmmErrorKind, WallsReport};

/// How long the virtual machine's end may take to be seen after its agent's stream has broken.
const DEATH_RATTLE: Duration = Duration::from_secs(1);

/// resolv.conf(5).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Everything is open; nothing runs.
#[derive(Debug)]
pub(crate) struct Prepared {
    id: ContainerId,
    cgroup: Option<HostCgroup>,
    network: Option<HostNetwork>,
    namespace: Option<NetworkRecord>,
    name_server: Option<NameServer>,
    passt: Option<Passt>,
    state: StateDir,
    vm: VmPlan,
    files: MachineFiles,
    kernel_path: PathBuf,
    initrd_path: PathBuf,
    container: ContainerSpec,
    /// Of another machine, if one may be needed.
    blueprint: Option<Box<Blueprint>>,
    hooks: Hooks,
    hook_state: ContainerState,
}

/// The guest is up, and its agent is ready.
#[derive(Debug)]
pub(crate) struct Booted {
    guest: Guest,
    streams: Streams,
    terminal: Option<HostTerminal>,
    plan: ContainerPlan,
    hooks: Hooks,
    hook_state: ContainerState,
}

/// The container stands; its program has not run.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) guest: Guest,
    pub(crate) streams: Streams,
    pub(crate) terminal: Option<HostTerminal>,
    /// The first process, as it was made.
    pub(crate) init: ProcessPlan,
    pub(crate) hooks: Hooks,
    pub(crate) hook_state: ContainerState,
}

/// A virtual machine and the connection to its agent. The machine goes before its cgroup and its
/// state do.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) id: ContainerId,
    pub(crate) client: Client,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) vm: VmProcess,
    /// Its network, if that is a program; in the cgroup, too.
    pub(crate) passt: Option<Passt>,
    pub(crate) cgroup: Option<HostCgroup>,
    /// Held for its end.
    pub(crate) network: Option<HostNetwork>,
    /// What stands in the host's namespace, if there is one.
    pub(crate) namespace: Option<NetworkRecord>,
    /// Of another machine, while the container is not started.
    pub(crate) blueprint: Option<Box<Blueprint>>,
    pub(crate) state: StateDir,
    pub(crate) deadline: Duration,
    pub(crate) size: MachineSize,
    pub(crate) settings: Settings,
}

/// The terminal on the host that a bundle's is joined with, if it wants one.
pub(crate) fn terminal(
    plan: &Plan,
    is_detached: bool,
    console_socket: Option<&Path>,
) -> Result<Option<HostTerminal>, SandboxError> {
    match (plan.container.terminal(), is_detached, console_socket) {
        (false, _, None) => Ok(None),
        (false, _, Some(_)) => Err(SandboxError::NoConsole),
        (true, true, None) => Err(SandboxError::NoConsoleSocket),
        (true, true, Some(socket)) => {
            let console = Console::open(socket, plan.container.console_size())?;
            Ok(Some(HostTerminal::Console(console)))
        }
        (true, false, _) => HostTerminal::of_caller().map(Some).ok_or(SandboxError::NoTerminal),
    }
}

/// Opens everything and claims the id.
pub(crate) fn prepare(
    id: &ContainerId,
    root: &Path,
    plan: Plan,
    config: &HostConfig,
    parts: &Parts,
) -> Result<Prepared, SandboxError> {
    let kvm = host_files::open_kvm(&config.kvm)?;
    let (kernel_name, kernel_path) = match &plan.vm.kernel {
        Some(path) => ("vm.kernel.path", path.clone()),
        None => ("the guest kernel", parts.kernel.clone()),
    };
    let (initrd_name, initrd_path) = match &plan.vm.initrd {
        Some(path) => ("vm.kernel.initrd", path.clone()),
        None => ("the guest's initial RAM file system", parts.initrd.clone()),
    };
    let kernel = host_files::open_part(kernel_name, &kernel_path)?;
    let initrd = host_files::open_part(initrd_name, &initrd_path)?;
    let shares = host_files::open_shares(&plan.shares)?;
    let (mut state, recovered) = StateDir::claim(root, id, &plan)?;
    if recovered {
        tracing::warn!("an earlier container {id} had been left behind and was cleaned up");
    }
    if let Some(root) = read_only_root(&shares) {
        let files = single_files(&shares);
        mount_points::make(&root.descriptor, plan.container.mounts(), &files);
        let cwd = plan.container.cwd();
        mount_points::make_directory(&root.descriptor, plan.container.mounts(), cwd);
    }
    let console = state.console()?;
    let cgroup = enter_cgroup(&mut state, &plan)?;
    let network = plan.network.as_deref().map(Network::look).transpose()?;
    let namespace = network.as_ref().map(Network::record);
    let (network, interfaces) = match network {
        Some(network) => match connect_network(&mut state, network, true, plan.vm.vcpus)? {
            Some(Connected { host, interfaces, .. }) => (Some(host), interfaces),
            None => (None, Vec::new()),
        },
        None => (None, Vec::new()),
    };
    Ok(Prepared {
        id: id.clone(),
        cgroup,
        state,
        vm: plan.vm,
        network,
        namespace,
        name_server: None,
        passt: None,
        files: MachineFiles {
            kvm,
            kernel,
            initrd,
            console,
            shares,
            disks: Vec::new(),
            drives: 0,
            shares_later: false,
            interfaces,
        },
        kernel_path,
        initrd_path,
        container: plan.container,
        blueprint: None,
        hooks: plan.hooks,
        hook_state: ContainerState {
            oci_version: plan.oci_version,
            id: id.as_str().to_owned(),
            // runtime.md, State: so it is called from the lifecycle's step 3 on, the first hooks.
            status: "created",
            pid: std::process::id(),
            bundle: plan.bundle,
            annotations: plan.annotations,
        },
    })
}

/// Connects the interfaces that an engine has put into a network namespace. With `journal` that is
/// written down before: the namespace outlives this process.
fn connect_network(
    state: &mut StateDir,
    network: Network,
    journal: bool,
    vcpus: u8,
) -> Result<Option<Connected>, SandboxError> {
    let record = network.record();
    if record.interfaces.is_empty() {
        return Ok(None);
    }
    if journal {
        state.change(|state| state.network = Some(record))?;
    }
    Ok(Some(network.connect(vcpus)?))
}

/// Moves this process into the container's cgroup on the host, if it is to have one and may. What
/// this process starts from now on, the VMM above all, is in it.
fn enter_cgroup(state: &mut StateDir, plan: &Plan) -> Result<Option<HostCgroup>, SandboxError> {
    let without = |reason: String| match plan.host_limits.first() {
        Some(limit) => Err(SandboxError::Cgroup(CgroupError::Needed {
            property: limit.asked_by.clone(),
            value: limit.value.clone(),
            reason,
        })),
        None => Ok(Err(reason)),
    };
    let outcome = match &plan.cgroups_path {
        None => return without("linux.cgroupsPath is not given".to_owned()).map(|_| None),
        Some(path) => match host_cgroup::plan(path) {
            Err(reason) => without(reason)?,
            Ok(record) => {
                state.change(|state| state.cgroup = Some(record.clone()))?;
                let VmPlan { memory_mib, host_cpus, .. } = &plan.vm;
                let of_pod = plan.pod_settings.as_deref();
                let settings = of_pod.unwrap_or_else(|| plan.container.settings());
                let mut limits = host_cgroup::derive(settings, *memory_mib, host_cpus.as_deref());
                limits.extend(plan.host_limits.iter().cloned().map(Limit::from));
                match HostCgroup::enter(record, &limits) {
                    Ok(Entered::Inside(cgroup)) => Ok(cgroup),
                    Ok(Entered::NotPermitted(reason)) => {
                        state.change(|state| state.cgroup = None)?;
                        without(reason)?
                    }
                    Err(error) => {
                        // Somebody else's is not to be waited for.
                        if matches!(error, CgroupError::InUse { .. }) {
                            state.change(|state| state.cgroup = None)?;
                        }
                        return Err(error.into());
                    }
                }
            }
        },
    };
    match outcome {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(reason) => {
            tracing::warn!(
                "the container has no cgroup of its own on the host, its limits hold inside its \
                 virtual machine: {reason}"
            );
            Ok(None)
        }
    }
}

/// The container's root, if it is a share that cannot be written.
pub(crate) fn read_only_root(shares: &[OpenShare]) -> Option<&OpenShare> {
    shares.iter().find(|share| share.name == ROOT_SHARE).filter(|root| root.read_only)
}

pub(crate) fn single_files(shares: &[OpenShare]) -> Vec<String> {
    let files = shares.iter().filter(|share| share.kind == ShareKind::File);
    files.map(|share| share.name.clone()).collect()
}

impl Prepared {
    /// Further containers will bring shares of their own.
    pub(crate) fn expect_shares(&mut self) {
        self.files.shares_later = true;
    }

    /// The machine has this disk from the start.
    pub(crate) fn give_disk(&mut self, disk: OpenDisk) {
        self.files.disks.push(disk);
    }

    /// Further containers will bring disks, of which so many may be there at once.
    pub(crate) fn expect_disks(&mut self, drives: usize) {
        self.files.drives = drives;
    }

    /// The opened shares, in the order of the plan's.
    pub(crate) fn shares(&self) -> &[OpenShare] {
        &self.files.shares
    }

    /// Whether the container's network is what hooks make it.
    pub(crate) fn network_is_of_hooks(&self) -> bool {
        self.container.has_own_network() && !self.hooks.before_create.is_empty()
    }

    /// Whether it has a network of its own, which is not a namespace of the host that has a name.
    pub(crate) fn has_own_network(&self) -> bool {
        self.container.has_own_network()
    }

    /// Nothing is in `namespace`, that of the container's process on the host; what comes later is noticed
    /// at the start.
    pub(crate) fn expect_no_interfaces(&mut self, namespace: &Path) {
        let record = NetworkRecord { namespace: namespace.to_owned(), interfaces: Vec::new() };
        self.namespace.get_or_insert(record);
    }

    /// Runs the hooks that come before the container is made, before its machine is made, too, and
    /// connects the interfaces that they have put into `namespace`, that of the container's process
    /// on the host.
    ///
    /// Returns whether there are any.
    pub(crate) async fn run_hooks_first(&mut self, namespace: &Path) -> Result<bool, SandboxError> {
        let before_create = std::mem::take(&mut self.hooks.before_create);
        hooks::run(&before_create, &self.hook_state).await?;
        self.connect_own_network(namespace)
    }

    /// Connects what is in `namespace`, that of the container's process on the host. Returns whether
    /// there is anything.
    fn connect_own_network(&mut self, namespace: &Path) -> Result<bool, SandboxError> {
        let mut network = Network::look_at_own(namespace)?;
        if let Some(text) = self.resolv_conf() {
            network.look_for_names(&text)?;
        }
        self.namespace = Some(network.record());
        let connected = connect_network(&mut self.state, network, false, self.vm.vcpus)?;
        let has_interfaces = connected.is_some();
        if let Some(Connected { host, interfaces, name_server }) = connected {
            self.container.share_network();
            (self.network, self.name_server) = (Some(host), name_server);
            self.files.interfaces = interfaces;
        }
        Ok(has_interfaces)
    }

    /// Gives the container a network that is a program of the caller's.
    pub(crate) async fn join_user_network(
        &mut self,
        network: &UserNetwork,
    ) -> Result<(), SandboxError> {
        let (passt, interface) = network.start().await?;
        self.passt = Some(passt);
        self.files.interfaces.push(interface);
        self.container.share_network();
        if self.container.mounts().iter().any(|mount| mount.destination == RESOLV_CONF) {
            return Ok(());
        }
        let share = host_files::open_share(
            &SharePlan {
                name: "resolv.conf".to_owned(),
                path: self.state.write_resolver(user_network::NAME_SERVER)?,
                read_only: true,
                cache: CachePolicy::Auto,
                asked_by: "--net".to_owned(),
            },
            false,
        )?;
        let mount = MountPlan {
            destination: RESOLV_CONF.to_owned(),
            source: MountSource::Share {
                name: share.name.clone(),
                directory: false,
                recursive: false,
            },
            flags: 0,
            propagation: Vec::new(),
            recursive: None,
        };
        self.files.shares.push(share);
        // Not by the guest, whose root may be nobody who can make files there: the caller's user can.
        let above = |other: &MountPlan| Path::new(RESOLV_CONF).starts_with(&other.destination);
        let is_covered = self.container.mounts().iter().any(above);
        if let Some(root) = self.files.shares.first().filter(|_| !is_covered) {
            let files = single_files(&self.files.shares);
            mount_points::make(&root.descriptor, std::slice::from_ref(&mount), &files);
        }
        self.container.mounts_mut().push(mount);
        Ok(())
    }

    /// What the engine has written for the container's resolver, if it mounts a file.
    fn resolv_conf(&self) -> Option<String> {
        let is_for_it = |mount: &&MountPlan| mount.destination == RESOLV_CONF;
        let mount = self.container.mounts().iter().rfind(is_for_it)?;
        let MountSource::Share { name, .. } = &mount.source else { return None };
        let share = self.files.shares.iter().find(|share| share.name == *name)?;
        host_files::read_text(share)
    }

    /// Starts the machine, waits until its agent is ready, and joins the container's streams with the
    /// caller's.
    pub(crate) async fn boot(
        self,
        config: &HostConfig,
        parts: &Parts,
        terminal: Option<HostTerminal>,
        signals: &Signals,
        timeline: &mut Timeline,
    ) -> Result<Booted, SandboxError> {
        let wanted = self.wanted_streams(terminal.as_ref());
        let (mut booted, ends) = self.boot_with(config, parts, wanted, signals, timeline).await?;
        let console = terminal.as_ref().and_then(HostTerminal::console);
        booted.streams = Streams::join(wanted, ends, console)?;
        booted.terminal = terminal;
        Ok(booted)
    }

    /// As [`Self::boot`], but returns the host's ends of the streams, in the order of the descriptors 0
    /// to 2, or the terminal's.
    pub(crate) async fn boot_with(
        mut self,
        config: &HostConfig,
        parts: &Parts,
        wanted: Wanted,
        signals: &Signals,
        timeline: &mut Timeline,
    ) -> Result<(Booted, Vec<OwnedFd>), SandboxError> {
        let mut sockets = Sockets::open(wanted, FIRST_STREAM_PORT).map_err(StdioError::Sockets)?;
        let cpus = self.vm.host_cpus.as_deref();
        let mut vm = VmProcess::start(&parts.vmm, self.state.path(), cpus, self.vm.walls)
            .map_err(SandboxError::Machine)?;
        let reference = vm.reference();
        let boot = self.boot_record(config)?;
        self.state.change(|record| {
            record.vmm = reference;
            record.boot = Some(boot);
        })?;
        let (control, theirs) = control_pair().map_err(SandboxError::Events)?;
        let mut ports = sockets.take_ports();
        ports.push((CONTROL_PORT, theirs));
        let name_server = self.name_server.take().map(|server| {
            ports.push((server.plan.port, server.stream));
            server.plan
        });
        let asked = self.ask(&mut vm, config, ports).await;
        timeline.mark(Moment::BootAsked);
        let asked = asked.map_err(|error| self.boot_error(config, error))?;
        // The guest boots while its filter is compiled.
        let seccomp = self.container.seccomp().map(|spec| spec.compile()).transpose()?;
        let booted = booted(&mut vm, asked).await;
        let (spans, walls) = booted.map_err(|error| self.boot_error(config, error))?;
        timeline.vmm(spans);
        for down in &walls.down {
            tracing::info!("a wall of the virtual machine is not up: {down}");
        }
        self.state.note(|record| record.walls = Some(walls));
        let connected = Client::connect(control, config.boot_timeout());
        let connection =
            self.state.watch(&mut vm, signals, "waiting for the guest's agent", connected).await;
        let connection = connection.map_err(|error| boot_timeout(error, config))?;
        mark_hello(timeline, &connection.hello);
        let guest_config = guest_config().map_err(SandboxError::Events)?;
        let configured = connection.client.configure(guest_config, config.request_timeout());
        self.state.watch(&mut vm, signals, "configuring the guest", configured).await?;
        let interfaces: Vec<_> =
            self.files.interfaces.iter().map(|interface| interface.plan.clone()).collect();
        if !interfaces.is_empty() {
            let plan = NetworkPlan { interfaces, name_server };
            let configured = connection.client.configure_network(plan, config.request_timeout());
            self.state.watch(&mut vm, signals, "configuring the network", configured).await?;
        }
        timeline.mark(Moment::AgentReady);
        let plan = sockets.plan();
        let deadline = config.request_timeout();
        Ok((self.booted(vm, connection, (seccomp, plan), deadline), sockets.into_ends()))
    }

    /// What the machine is booted from.
    fn boot_record(&self, config: &HostConfig) -> Result<BootRecord, SandboxError> {
        let of = |path: &Path, file| FileIdentity::of(path, file).map_err(SandboxError::Events);
        Ok(BootRecord {
            kernel: of(&self.kernel_path, &self.files.kernel)?,
            initrd: of(&self.initrd_path, &self.files.initrd)?,
            command_line: machine::command_line(&self.vm, config),
        })
    }

    /// Which streams the container has.
    fn wanted_streams(&self, terminal: Option<&HostTerminal>) -> Wanted {
        match terminal {
            None => stdio::of_caller(),
            Some(terminal) => {
                let size = terminal.size().or(self.container.console_size());
                Wanted::Terminal(size.unwrap_or_default())
            }
        }
    }

    fn booted(
        self,
        vm: VmProcess,
        connection: Connection,
        (seccomp, stdio): (Option<SeccompPlan>, StdioPlan),
        deadline: Duration,
    ) -> Booted {
        let files = single_files(&self.files.shares);
        let settings = Settings::new(self.container.settings());
        let mut plan = self.container.finish(&files, seccomp, stdio);
        caller_limits::complete(&mut plan.init.rlimits);
        let Connection { client, hello: _, events } = connection;
        let size = MachineSize { memory_mib: self.vm.memory_mib, vcpus: self.vm.vcpus };
        Booted {
            guest: Guest {
                id: self.id,
                client,
                events,
                vm,
                passt: self.passt,
                cgroup: self.cgroup,
                network: self.network,
                namespace: self.namespace,
                blueprint: self.blueprint,
                state: self.state,
                deadline,
                size,
                settings,
            },
            streams: Streams::none(),
            terminal: None,
            plan,
            hooks: self.hooks,
            hook_state: self.hook_state,
        }
    }

    /// Asks for the machine and for its ports at once: the ports are open before the guest's agent
    /// can look for them.
    async fn ask(
        &self,
        vm: &mut VmProcess,
        config: &HostConfig,
        ports: Vec<(u32, OwnedFd)>,
    ) -> Result<Vec<Asked>, VmError> {
        // Another user than its own is not to be had for who is not root.
        let user = vm.reference().filter(|_| rustix::process::geteuid().is_root());
        let user = user.and_then(|vmm| config.vmm_user(vmm.pid));
        let (machine, fds) =
            machine::configure(self.id.as_str(), &self.vm, config, &self.files, user);
        let mut asked = vec![vm.ask_boot(machine, &fds).await?];
        for (port, descriptor) in ports {
            asked.push(vm.ask(Request::ListenVsock { port }, &[descriptor.as_fd()]).await?);
        }
        Ok(asked)
    }

    /// What the VMM refuses, in terms of what the caller can change.
    fn boot_error(&self, config: &HostConfig, error: VmError) -> SandboxError {
        match error {
            VmError::Refused(source) => match source.kind {
                VmmErrorKind::InvalidKernel => {
                    SandboxError::Kernel { path: self.kernel_path.clone(), source }
                }
                VmmErrorKind::Kvm => SandboxError::Kvm { path: config.kvm.clone(), source },
                VmmErrorKind::InvalidConfig | VmmErrorKind::Host | VmmErrorKind::WrongState => {
                    SandboxError::Machine(VmError::Refused(source))
                }
            },
            VmError::Ended(end) => SandboxError::VmDied { end, console: self.state.last_words() },
            other => SandboxError::Machine(other),
        }
    }
}

/// The answers to what [`Prepared::ask`] asked, in its order.
async fn booted(
    vm: &mut VmProcess,
    asked: Vec<Asked>,
) -> Result<(Vec<vmm_api::Span>, WallsReport), VmError> {
    let mut asked = asked.into_iter();
    let booted = match asked.next() {
        Some(boot) => vm.booted(boot).await?,
        None => Default::default(),
    };
    for port in asked {
        match vm.answer(port).await? {
            Reply::Done => {}
            Reply::Booted { .. } | Reply::Stats(_) => {
                return Err(VmError::WrongReply { request: "ListenVsock" });
            }
        }
    }
    Ok(booted)
}

impl Booted {
    /// Runs the hooks that come first and has the container made.
    pub(crate) async fn create(
        mut self,
        signals: &Signals,
        timeline: &mut Timeline,
    ) -> Result<Ready, SandboxError> {
        let step = "creating the container";
        // runtime-spec, lifecycle steps 3 and 4.
        hooks::run(&self.hooks.before_create, &self.hook_state).await?;
        if let Some(cgroup) = &mut self.guest.cgroup {
            cgroup.complete()?;
        }
        let init = self.plan.init.clone();
        self.plan.start_hooks = hooks::in_guest(&self.hooks.in_start, &self.hook_state)?;
        let created = self.guest.client.create_container(self.plan, self.guest.deadline);
        let created = self.guest.state.watch(&mut self.guest.vm, signals, step, created).await?;
        timeline.mark_guest(Moment::Created, created.at_ns);
        let Self { guest, streams, terminal, plan: _, hooks, hook_state } = self;
        Ok(Ready { guest, streams, terminal, init, hooks, hook_state })
    }
}

impl Guest {
    /// The guest's link of an interface that is gone goes down. The answer is not waited for.
    pub(crate) async fn unplug(&mut self, gone: Gone) {
        // A machine that cannot be asked ends, and is seen to.
        let _ = self.vm.ask(Request::UnplugNet { index: gone.place }, &[]).await;
    }
}

/// What an error of the agent's means, if it was no broken stream.
///
/// # Errors
/// The error itself, if what it means depends on the machine.
pub(crate) fn refusal_of_agent(
    step: &'static str,
    error: ClientError,
) -> Result<SandboxError, ClientError> {
    match error {
        ClientError::Agent(source) => Ok(match source.kind {
            AgentErrorKind::ProgramMissing => SandboxError::ProgramMissing(source),
            AgentErrorKind::ProgramNotExecutable => SandboxError::ProgramNotExecutable(source),
            AgentErrorKind::InvalidArgument
            | AgentErrorKind::NotFound
            | AgentErrorKind::WrongState
            | AgentErrorKind::Failed => SandboxError::Guest { step, source },
        }),
        ClientError::Unsendable { .. } => Ok(SandboxError::PlanTooLarge { step, source: error }),
        other => Err(other),
    }
}

impl StateDir {
    /// Waits for the agent, for the machine's end and for a signal that gives up, whichever comes
    /// first.
    pub(crate) async fn watch<T>(
        &self,
        vm: &mut VmProcess,
        signals: &Signals,
        step: &'static str,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, SandboxError> {
        let result = tokio::select! {
            biased;
            result = call => result,
            end = vm.ended() => {
                return Err(SandboxError::VmDied { end, console: self.last_words() });
            }
            signal = given_up(signals) => return Err(SandboxError::Interrupted { signal }),
        };
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(self.agent_error(vm, step, error).await),
        }
    }

    /// What an error of the agent's means. A stream that breaks is most often a machine that ends,
    /// which says more.
    pub(crate) async fn agent_error(
        &self,
        vm: &mut VmProcess,
        step: &'static str,
        error: ClientError,
    ) -> SandboxError {
        let error = match refusal_of_agent(step, error) {
            Ok(refusal) => return refusal,
            Err(error) => error,
        };
        match error {
            ClientError::Deadline { .. } => {
                SandboxError::Deadline { step, source: error, console: self.last_words() }
            }
            ClientError::Closed | ClientError::Stream(_) => {
                match tokio::time::timeout(DEATH_RATTLE, vm.ended()).await {
                    Ok(end) => SandboxError::VmDied { end, console: self.last_words() },
                    Err(_) => {
                        SandboxError::Agent { step, source: error, console: self.last_words() }
                    }
                }
            }
            ClientError::Protocol(_)
            | ClientError::Busy { .. }
            | ClientError::Agent(_)
            | ClientError::Unsendable { .. } => {
                SandboxError::Agent { step, source: error, console: self.last_words() }
            }
        }
    }

    /// Tells the command that waits for the container, which from now on stays until it is deleted.
    pub(crate) fn hand_over(&mut self, handover: Handover) -> Result<(), SandboxError> {
        self.change(|record| record.detached = true)?;
        handover.ready()?;
        self.keep();
        Ok(())
    }

    /// From now on the container stays until it is deleted.
    pub(crate) fn stay(&mut self) -> Result<(), SandboxError> {
        self.change(|record| record.detached = true)?;
        self.keep();
        Ok(())
    }

    pub(crate) fn last_words(&self) -> LastWords {
        LastWords(crate::text::last_lines(&self.console_path()))
    }
}

/// A signal that ends programs.
async fn given_up(signals: &Signals) -> u8 {
    let creating =
        Situation { status: Status::Creating, detached: false, terminal: Terminal::None };
    loop {
        match signals.next().await {
            Ok(signal) if policy::on_signal(creating, signal) == SignalAction::Abort => {
                return signal.number;
            }
            Ok(_) => {}
            Err(_) => std::future::pending().await,
        }
    }
}

fn boot_timeout(error: SandboxError, config: &HostConfig) -> SandboxError {
    match error {
        SandboxError::Deadline { console, .. } => {
            SandboxError::BootTimeout { deadline: config.boot_timeout(), console }
        }
        other => other,
    }
}

fn mark_hello(timeline: &mut Timeline, hello: &Hello) {
    tracing::debug!("the guest runs Linux {}", hello.kernel_release);
    timeline.anchor(hello.now_ns);
    timeline.mark_guest(Moment::AgentStarted, hello.agent_start_ns);
}

/// The supervisor's and the VMM's end of the agent's control stream.
fn control_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

fn guest_config() -> io::Result<GuestConfig> {
    let mut seed = [0; 32];
    let filled = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    if filled != seed.len() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    Ok(GuestConfig { version: VERSION, realtime_ns: realtime_ns(), seed, shares: true })
}

/// The host's CLOCK_REALTIME in nanoseconds since the epoch.
pub(crate) fn realtime_ns() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
