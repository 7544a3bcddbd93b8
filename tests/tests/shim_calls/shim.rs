//! A shim's process and connections to it.

use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api::{
    CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, KillRequest, Mount,
    ShutdownRequest, StartRequest, UpdateTaskRequest, WaitRequest,
};
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, PingRequest, PlatformRequest, SandboxMetricsRequest,
    SandboxStatusRequest, SandboxStatusResponse, ShutdownSandboxRequest, StartSandboxRequest,
    StopSandboxRequest, WaitSandboxRequest,
};
use containerd_shim_protos::sandbox_sync::SandboxClient;
use containerd_shim_protos::ttrpc::Error;
use containerd_shim_protos::ttrpc::context::{Context, with_duration};
use containerd_shim_protos::{Client, TaskClient};
use integration_tests::{Bundle, Invocation, Lab};
use serde_json::{Value, json};

const PROGRAM: &str = "containerd-shim-ringfence-v2";
/// The namespace of these tests.
const NAMESPACE: &str = "calls";
/// For one call.
const DEADLINE: Duration = Duration::from_secs(120);

/// A container and where its streams go.
pub(crate) struct New<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Bundle,
    pub(crate) rootfs: Vec<Mount>,
}

/// A shim that serves a pod.
pub(crate) struct Shim {
    tasks: TaskClient,
    sandboxes: SandboxClient,
}

/// A sandbox that a shim serves.
pub(crate) struct Sandbox<'s> {
    id: String,
    client: &'s SandboxClient,
}

/// The machine, with what a namespace of containerd's leaves behind for the next time.
pub(crate) fn enter() -> Lab {
    let root = Path::new("/run/containerd/ringfence").join(NAMESPACE);
    std::fs::create_dir_all(&root).expect("a directory can be made");
    std::fs::create_dir_all("/run/containerd/s").expect("a directory can be made");
    std::fs::write(root.join("@lock"), "").expect("a file, too");
    Lab::enter()
}

pub(crate) fn context() -> Context {
    with_duration(DEADLINE)
}

impl Shim {
    /// Has the shim of a container started, as containerd does it.
    pub(crate) fn start(id: &str, bundle: &Bundle) -> Self {
        Self::start_in(bundle.write(), id)
    }

    /// Has a shim started in a directory.
    pub(crate) fn start_in(directory: &Path, id: &str) -> Self {
        Self::start_with(directory, id, vec![])
    }

    /// Has a shim started in a directory whose pods have another configuration.
    pub(crate) fn start_by(config: &Path, directory: &Path, id: &str) -> Self {
        let path = config.to_str().expect("a plain path").as_bytes();
        let length = u8::try_from(path.len()).ok().filter(|length| *length < 128);
        // The field ConfigPath, a string of less than 128 bytes.
        let value = [&[0x12, length.expect("a short path")], path].concat();
        let type_url = "runtimeoptions.v1.Options".to_owned();
        let options = Any { type_url, value, ..Any::default() };
        Self::start_with(directory, id, options.write_to_bytes().expect("it can be encoded"))
    }

    /// With the runtime's options, or none.
    fn start_with(directory: &Path, id: &str, options: Vec<u8>) -> Self {
        let directory = directory.display().to_string();
        let started = Invocation::new(PROGRAM)
            .args(&["-namespace", NAMESPACE, "-id", id, "-address", "/nowhere", "start"])
            .through(&["env", "-C", &directory]);
        let started = if options.is_empty() { started } else { started.stdin(options) }.run();
        started.expect_code(0);
        Self::at(started.out())
    }

    /// The shim that listens there.
    pub(crate) fn at(address: &str) -> Self {
        let client = Client::connect(address).expect("the shim listens");
        Self { tasks: TaskClient::new(client.clone()), sandboxes: SandboxClient::new(client) }
    }

    pub(crate) fn sandbox(&self, id: &str) -> Sandbox<'_> {
        Sandbox { id: id.to_owned(), client: &self.sandboxes }
    }

    /// Makes a container, whose output goes to a file.
    pub(crate) fn create(&self, new: New<'_>) -> Result<CreateTaskResponse, String> {
        let directory = new.bundle.write();
        // One that was made before has written there.
        let _ = std::fs::remove_file(output(new.bundle));
        let request = CreateTaskRequest {
            id: new.id.to_owned(),
            bundle: directory.display().to_string(),
            rootfs: new.rootfs,
            stdout: format!("file://{}", output(new.bundle).display()),
            ..CreateTaskRequest::default()
        };
        self.tasks.create(context(), &request).map_err(|error| error.to_string())
    }

    #[track_caller]
    pub(crate) fn start_task(&self, id: &str) {
        let request = StartRequest { id: id.to_owned(), ..StartRequest::default() };
        self.tasks.start(context(), &request).expect("it can be started");
    }

    #[track_caller]
    pub(crate) fn kill(&self, id: &str) {
        let request = KillRequest { id: id.to_owned(), signal: 9, ..KillRequest::default() };
        self.tasks.kill(context(), &request).expect("it can be killed");
    }

    /// Changes the limits of a container; `resources` is what `linux.resources` is in a config.json.
    pub(crate) fn update(&self, id: &str, resources: &Value) -> Result<(), String> {
        let resources = Any { value: resources.to_string().into_bytes(), ..Any::default() };
        let request = UpdateTaskRequest {
            id: id.to_owned(),
            resources: MessageField::some(resources),
            ..UpdateTaskRequest::default()
        };
        self.tasks.update(context(), &request).map(drop).map_err(|error| error.to_string())
    }

    /// Waits for the end of a container.
    #[track_caller]
    pub(crate) fn wait(&self, id: &str) -> u32 {
        let request = WaitRequest { id: id.to_owned(), ..WaitRequest::default() };
        self.tasks.wait(context(), &request).expect("it ends").exit_status
    }

    #[track_caller]
    pub(crate) fn delete(&self, id: &str) -> DeleteResponse {
        let request = DeleteRequest { id: id.to_owned(), ..DeleteRequest::default() };
        self.tasks.delete(context(), &request).expect("it can be deleted")
    }

    /// Runs a container from its making to its removal; returns its status and its output.
    #[track_caller]
    pub(crate) fn run(&self, new: New<'_>) -> (u32, String) {
        let (id, bundle) = (new.id, new.bundle);
        self.create(new).expect("it can be made");
        self.start_task(id);
        let status = self.wait(id);
        self.delete(id);
        (status, std::fs::read_to_string(output(bundle)).expect("it has output"))
    }

    /// Ends the shim, which serves nothing any more.
    pub(crate) fn shut_down(self) {
        self.tasks.shutdown(context(), &ShutdownRequest::default()).expect("it can be ended");
    }
}

impl Sandbox<'_> {
    fn id(&self) -> String {
        self.id.clone()
    }

    /// With options of this type, if it is not empty.
    pub(crate) fn create(&self, type_url: &str, bundle: &Path) -> Result<(), Error> {
        self.create_with(Any { type_url: type_url.to_owned(), ..Any::default() }, bundle)
    }

    /// With the cgroup that its own is made in.
    pub(crate) fn create_in(&self, cgroup: &str, bundle: &Path) -> Result<(), Error> {
        let field = |number: u8, value: &[u8]| {
            let length = u8::try_from(value.len()).ok().filter(|length| *length < 128);
            [&[number << 3 | 2, length.expect("a short value")], value].concat()
        };
        // PodSandboxConfig.linux.cgroup_parent of the CRI.
        let value = field(8, &field(1, cgroup.as_bytes()));
        let type_url = "runtime.v1.PodSandboxConfig".to_owned();
        self.create_with(Any { type_url, value, ..Any::default() }, bundle)
    }

    fn create_with(&self, options: Any, bundle: &Path) -> Result<(), Error> {
        let request = CreateSandboxRequest {
            sandbox_id: self.id(),
            bundle_path: bundle.display().to_string(),
            options: MessageField::some(options),
            ..CreateSandboxRequest::default()
        };
        self.client.create_sandbox(context(), &request).map(drop)
    }

    /// Returns the process id that stands for it.
    #[track_caller]
    pub(crate) fn start(&self) -> u32 {
        let request = StartSandboxRequest { sandbox_id: self.id(), ..Default::default() };
        self.client.start_sandbox(context(), &request).expect("it can be started").pid
    }

    #[track_caller]
    pub(crate) fn status(&self) -> SandboxStatusResponse {
        let request = SandboxStatusRequest { sandbox_id: self.id(), ..Default::default() };
        self.client.sandbox_status(context(), &request).expect("it is known")
    }

    /// Operating system and architecture.
    #[track_caller]
    pub(crate) fn platform(&self) -> (String, String) {
        let request = PlatformRequest { sandbox_id: self.id(), ..Default::default() };
        let answer = self.client.platform(context(), &request).expect("it is known");
        (answer.platform.os.clone(), answer.platform.architecture.clone())
    }

    pub(crate) fn ping(&self) -> Result<(), Error> {
        let request = PingRequest { sandbox_id: self.id(), ..Default::default() };
        self.client.ping_sandbox(context(), &request).map(drop)
    }

    #[track_caller]
    pub(crate) fn metrics(&self) -> Metrics {
        let request = SandboxMetricsRequest { sandbox_id: self.id(), ..Default::default() };
        let answer = self.client.sandbox_metrics(context(), &request).expect("it has metrics");
        Metrics::parse_from_bytes(&answer.metrics.data.value).expect("they can be read")
    }

    #[track_caller]
    pub(crate) fn stop(&self) {
        let request = StopSandboxRequest { sandbox_id: self.id(), ..Default::default() };
        self.client.stop_sandbox(context(), &request).expect("it can be stopped");
    }

    /// Waits for its end; returns its status.
    #[track_caller]
    pub(crate) fn wait(&self) -> u32 {
        let request = WaitSandboxRequest { sandbox_id: self.id(), ..Default::default() };
        self.client.wait_sandbox(context(), &request).expect("it ends").exit_status
    }

    #[track_caller]
    pub(crate) fn shut_down(&self) {
        let request = ShutdownSandboxRequest { sandbox_id: self.id(), ..Default::default() };
        self.client.shutdown_sandbox(context(), &request).expect("it can be shut down");
    }
}

/// Where the output of a container goes.
fn output(bundle: &Bundle) -> std::path::PathBuf {
    bundle.path("output")
}

/// Makes a bundle that of a pod's first container.
pub(crate) fn sandbox(config: &mut Value) {
    config["annotations"] = json!({ "io.kubernetes.cri.container-type": "sandbox" });
}

/// Makes a bundle that of a container of a pod, whose first one was made with this process id.
pub(crate) fn member(config: &mut Value, pod: &str, pid: u32) {
    config["annotations"] = json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": pod,
    });
    let namespaces = config["linux"]["namespaces"].as_array_mut().expect("an array");
    for namespace in namespaces {
        let file = match namespace["type"].as_str() {
            Some("network") => "net",
            Some("ipc") => "ipc",
            Some("uts") => "uts",
            _ => continue,
        };
        namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
    }
    config.as_object_mut().expect("an object").remove("hostname");
}

/// A mount as a snapshotter hands it over.
pub(crate) fn mount(kind: &str, source: &Path, options: &[&str]) -> Mount {
    Mount {
        type_: kind.to_owned(),
        source: source.display().to_string(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}
