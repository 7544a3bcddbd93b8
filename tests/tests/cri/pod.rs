//! Pods and their containers, as a kubelet handles them.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use integration_tests::host;
use rustix::process::Pid;

use crate::daemon::{Containerd, IMAGE, wait_until};
use crate::messages::{
    CONTAINER, ContainerConfig, ContainerId, ContainerMetadata, ContainerStats,
    ContainerStatsResponse, ContainerStatus, ContainerStatusResponse, CreateContainerRequest,
    EXITED, ExecSyncRequest, ExecSyncResponse, ImageSpec, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, NamespaceOption, Nothing, POD, PodSandboxConfig,
    PodSandboxId, PodSandboxMetadata, PodSandboxStatus, PodSandboxStatusResponse,
    RunPodSandboxRequest, StopContainerRequest, UpdateContainerResourcesRequest,
};

/// How long a container may take to come to what is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// A script that runs until it is told to end, and does nothing meanwhile.
pub(crate) const UNTIL_TERM: &str =
    "trap 'echo ending; exit 5' TERM; echo up; sleep 1000000 & wait $!";

/// A pod.
pub(crate) struct Pod {
    pub(crate) id: String,
    config: PodSandboxConfig,
    pid_mode: i32,
    logs: PathBuf,
    made: Cell<u32>,
}

/// A container of a pod.
pub(crate) struct Container {
    pub(crate) id: String,
    log: PathBuf,
}

/// How a command in a container has ended: status, standard output, standard error.
pub(crate) type Told = (i32, String, String);

impl Pod {
    pub(crate) fn run(containerd: &Containerd, handler: &str, name: &str) -> Self {
        Self::run_with(containerd, handler, name, |_| ())
    }

    pub(crate) fn run_with(
        containerd: &Containerd,
        handler: &str,
        name: &str,
        change: impl FnOnce(&mut PodSandboxConfig),
    ) -> Self {
        let logs = containerd.lab().directory(&format!("logs-{handler}-{name}"));
        let namespaces = NamespaceOption { network: POD, pid: CONTAINER, ipc: POD };
        let mut config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                // Of its own, whatever a run before this one has left.
                name: format!("{name}-{}", std::process::id()),
                uid: format!("{handler}-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: format!("host-{name}"),
            log_directory: logs.to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/ringfence-test-{handler}-{name}"),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        change(&mut config);
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let pid_mode = context
            .and_then(|context| context.namespace_options.as_ref())
            .map_or(CONTAINER, |options| options.pid);
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let PodSandboxId { pod_sandbox_id: id } = Containerd::call("RunPodSandbox", &request);
        Self { id, config, pid_mode, logs, made: Cell::new(0) }
    }

    /// A container with this script, created and not started.
    pub(crate) fn create(
        &self,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig, &mut LinuxContainerSecurityContext),
    ) -> Result<Container, String> {
        let number = self.made.get();
        self.made.set(number + 1);
        let log_path = format!("{number}.log");
        let log = self.logs.join(&log_path);
        let namespaces = NamespaceOption { network: POD, pid: self.pid_mode, ipc: POD };
        let mut context = LinuxContainerSecurityContext {
            namespace_options: Some(namespaces),
            ..LinuxContainerSecurityContext::default()
        };
        let mut config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: format!("c{number}"), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.to_owned() }),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            log_path,
            linux: Some(LinuxContainerConfig::default()),
            ..ContainerConfig::default()
        };
        change(&mut config, &mut context);
        config.linux.get_or_insert_default().security_context = Some(context);
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let ContainerId { container_id: id } = Containerd::try_call("CreateContainer", &request)?;
        Ok(Container { id, log })
    }

    /// A container that runs this script.
    pub(crate) fn start(&self, script: &str) -> Container {
        self.start_with(script, |_, _| ())
    }

    pub(crate) fn start_with(
        &self,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig, &mut LinuxContainerSecurityContext),
    ) -> Container {
        let container =
            self.create(script, change).unwrap_or_else(|error| panic!("CreateContainer: {error}"));
        container.start();
        container
    }

    /// The shim of a pod of ringfence's.
    #[track_caller]
    pub(crate) fn shim(&self) -> Pid {
        let shim = host::processes()
            .into_iter()
            .find(|process| {
                process.shown.contains("containerd-shim-ringfence-v2 ")
                    && process.shown.contains(&format!("-id {}", self.id))
            })
            .expect("a pod has a shim");
        i32::try_from(shim.pid).ok().and_then(Pid::from_raw).expect("a pid is positive")
    }

    pub(crate) fn status(&self) -> PodSandboxStatus {
        let answer: PodSandboxStatusResponse =
            Containerd::call("PodSandboxStatus", &self.request());
        answer.status.expect("an answer has a status")
    }

    pub(crate) fn stop(&self) {
        let Nothing {} = Containerd::call("StopPodSandbox", &self.request());
    }

    pub(crate) fn remove(self) {
        self.stop();
        let Nothing {} = Containerd::call("RemovePodSandbox", &self.request());
        let parent = self.config.linux.map(|linux| linux.cgroup_parent).unwrap_or_default();
        // containerd makes the pod's cgroup for runc, as a kubelet does; who made it removes it.
        let _ = std::fs::remove_dir(format!("/sys/fs/cgroup{parent}"));
    }

    fn request(&self) -> PodSandboxId {
        PodSandboxId { pod_sandbox_id: self.id.clone() }
    }
}

impl Container {
    fn request(&self) -> ContainerId {
        ContainerId { container_id: self.id.clone() }
    }

    #[track_caller]
    pub(crate) fn start(&self) {
        self.try_start().unwrap_or_else(|error| panic!("StartContainer: {error}"));
    }

    pub(crate) fn try_start(&self) -> Result<(), String> {
        Containerd::try_call("StartContainer", &self.request()).map(|Nothing {}| ())
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let answer: ContainerStatusResponse = Containerd::call("ContainerStatus", &self.request());
        answer.status.expect("an answer has a status")
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn exited(&self) -> ContainerStatus {
        wait_until("the container ends", PATIENCE, || self.status().state == EXITED);
        self.status()
    }

    /// Runs a script in it.
    #[track_caller]
    pub(crate) fn exec(&self, script: &str) -> Told {
        let answer = self.try_exec(script).unwrap_or_else(|error| panic!("ExecSync: {error}"));
        (answer.exit_code, text(answer.stdout), text(answer.stderr))
    }

    pub(crate) fn try_exec(&self, script: &str) -> Result<ExecSyncResponse, String> {
        let cmd = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: self.id.clone(), cmd, timeout: 0 };
        Containerd::try_call("ExecSync", &request)
    }

    /// Runs a script in it that must succeed, and returns what it has said.
    #[track_caller]
    pub(crate) fn say(&self, script: &str) -> String {
        let (code, out, error) = self.exec(script);
        assert_eq!(code, 0, "{script}: {out}{error}");
        out
    }

    pub(crate) fn stats(&self) -> ContainerStats {
        let answer: ContainerStatsResponse = Containerd::call("ContainerStats", &self.request());
        answer.stats.expect("an answer has statistics")
    }

    /// Changes its limits.
    pub(crate) fn update(&self, resources: LinuxContainerResources) {
        let request = UpdateContainerResourcesRequest {
            container_id: self.id.clone(),
            linux: Some(resources),
        };
        let Nothing {} = Containerd::call("UpdateContainerResources", &request);
    }

    pub(crate) fn stop(&self, seconds: i64) {
        let request = StopContainerRequest { container_id: self.id.clone(), timeout: seconds };
        let Nothing {} = Containerd::call("StopContainer", &request);
    }

    pub(crate) fn remove(self) {
        let Nothing {} = Containerd::call("RemoveContainer", &self.request());
    }

    /// Its log: `TIME STREAM F TEXT` in each line, without the time.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().map(|line| line.split_once(' ').map_or("", |(_, rest)| rest));
        lines.flat_map(|line| [line, "\n"]).collect()
    }

    /// Moves its log away, as a kubelet does, and has it opened anew. Returns where it is.
    pub(crate) fn rotate_log(&self) -> PathBuf {
        let to = self.log.with_extension("log.1");
        std::fs::rename(&self.log, &to).expect("it is there");
        let Nothing {} = Containerd::call("ReopenContainerLog", &self.request());
        to
    }

    /// Waits until its log has this line.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, line: &str) {
        wait_until(line, PATIENCE, || self.log().lines().any(|known| known == line));
    }
}

pub(crate) fn mount(host: &std::path::Path, container: &str, readonly: bool) -> Mount {
    Mount {
        container_path: container.to_owned(),
        host_path: host.to_string_lossy().into_owned(),
        readonly,
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("the tests' programs say text")
}
