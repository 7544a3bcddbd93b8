//! containerd's sandbox service: a pod without a first container of containerd's, for its sandboxer `shim`.
//!
//! A container of the guest that has no root and runs nothing keeps the pod's namespaces. Its bundle is
//! made here, in the sandbox's directory, and with it `delete` cleans up as for any other pod.

use crate::metrics;
use crate::options::RuntimeOptions;
use crate::pod_config::PodConfig;
use crate::pod_files;
use crate::shim_error::ShimError;
use crate::task::{TaskService, at, failed, refused, status};
use async_trait::async_trait;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
    WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::Sandbox;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use sandbox::pod::{Pod, PodStatus};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use ttrpc::Code;
use ttrpc::asynchronous::TtrpcContext;

/// How long containers may take to end by SIGKILL, if the caller does not say it or says less.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the CRI plugin calls the states of a pod.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";
/// f_type of namespaces (statfs(2)).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A sandbox that was created.
#[derive(Clone, Debug)]
struct Created {
    bundle: PathBuf,
    options: RuntimeOptions,
    /// The host's network namespace, as the caller named it.
    network: String,
    /// When it was started.
    started: Option<SystemTime>,
    /// Its end was asked for.
    stopped: bool,
}

/// See the module.
pub(crate) struct SandboxService {
    id: String,
    tasks: Arc<TaskService>,
    created: Mutex<Option<Created>>,
}

impl SandboxService {
    pub(crate) fn new(id: String, tasks: Arc<TaskService>) -> Self {
        Self { id, tasks, created: Mutex::new(None) }
    }

    fn created(&self) -> MutexGuard<'_, Option<Created>> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, id: &str) -> ttrpc::Result<()> {
        if id == self.id { Ok(()) } else { Err(not_found(id)) }
    }

    /// The sandbox, which must have been created.
    fn known(&self, id: &str) -> ttrpc::Result<Created> {
        self.check(id)?;
        self.created().clone().ok_or_else(|| not_found(id))
    }

    /// The pod, which must have been started.
    async fn pod(&self, id: &str) -> ttrpc::Result<Pod> {
        self.known(id)?;
        let pod = self.tasks.made().await;
        pod.ok_or_else(|| {
            status(Code::FAILED_PRECONDITION, format!("sandbox \"{id}\" is not started"))
        })
    }

    fn create(&self, request: &CreateSandboxRequest) -> Result<Created, ShimError> {
        if let Some(mount) = request.rootfs.first() {
            return Err(ShimError::Mount {
                kind: mount.type_.clone(),
                path: PathBuf::from(&mount.source),
                problem: "a sandbox has no root of its own".to_owned(),
            });
        }
        let bundle = PathBuf::from(&request.bundle_path);
        let options = RuntimeOptions::kept(&bundle)?;
        let config = PodConfig::read(request.options.as_ref())?;
        let network = request.netns_path.as_str();
        let network = if is_placeholder(network) {
            tracing::warn!("{network:?} is no network namespace: there is a loopback device only");
            ""
        } else {
            network
        };
        let document =
            config.document(&self.id, network, &request.annotations, options.systemd_cgroup)?;
        let file = bundle.join("config.json");
        std::fs::write(&file, document.to_string())
            .map_err(|source| ShimError::Path { path: file, source })?;
        let mounts = pod_files::write(&bundle, &config)?;
        self.tasks.known().set_sandbox(self.id.clone(), mounts);
        let network = request.netns_path.clone();
        Ok(Created { bundle, options, network, started: None, stopped: false })
    }
}

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        // A shim has one sandbox, whatever another one is called.
        if self.created().is_some() {
            let problem = format!("sandbox \"{}\" already exists in this shim", self.id);
            return Err(status(Code::ALREADY_EXISTS, problem));
        }
        self.check(&request.sandbox_id)?;
        let created = self.create(&request).map_err(refused)?;
        *self.created() = Some(created);
        Ok(CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        self.check(&request.sandbox_id)?;
        let Some(Created { bundle, options, .. }) = self.created().clone() else {
            let problem = format!("sandbox \"{}\" is not created", self.id);
            return Err(status(Code::FAILED_PRECONDITION, problem));
        };
        let pod = self.tasks.make_sandbox(&self.id, bundle, &options).await?;
        let now = SystemTime::now();
        if let Some(created) = self.created().as_mut() {
            created.started = Some(now);
        }
        Ok(StartSandboxResponse {
            pid: pod.pid(),
            created_at: MessageField::some(Timestamp::from(now)),
            ..StartSandboxResponse::default()
        })
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        request: PlatformRequest,
    ) -> ttrpc::Result<PlatformResponse> {
        self.check(&request.sandbox_id)?;
        let mut response = PlatformResponse::default();
        let platform = response.platform.mut_or_insert_default();
        "linux".clone_into(&mut platform.os);
        // As Go names them.
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .clone_into(&mut platform.architecture);
        Ok(response)
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> ttrpc::Result<StopSandboxResponse> {
        self.known(&request.sandbox_id)?;
        if let Some(created) = self.created().as_mut() {
            created.stopped = true;
        }
        if let Some(pod) = self.tasks.made().await {
            pod.stop(PATIENCE.max(Duration::from_secs(request.timeout_secs.into()))).await;
        }
        Ok(StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> ttrpc::Result<WaitSandboxResponse> {
        let pod = self.pod(&request.sandbox_id).await?;
        let exit = pod.wait(&self.id, "").await.map_err(failed)?;
        let was_asked_for = self.created().as_ref().is_some_and(|created| created.stopped);
        Ok(WaitSandboxResponse {
            exit_status: if was_asked_for { 0 } else { exit.status.into() },
            exited_at: at(&exit),
            ..WaitSandboxResponse::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        let created = self.known(&request.sandbox_id)?;
        let pod = self.tasks.made().await;
        let keeper = pod.as_ref().and_then(|pod| pod.look(&self.id, "").ok());
        let is_ready = pod.as_ref().is_some_and(Pod::is_alive)
            && keeper.as_ref().is_some_and(|keeper| keeper.status == PodStatus::Running);
        let time = |time: Option<SystemTime>| {
            time.map_or_else(MessageField::none, |at| MessageField::some(Timestamp::from(at)))
        };
        let pid = pod.filter(|_| is_ready).map_or(0, |pod| pod.pid());
        let state = if is_ready { READY } else { NOT_READY }.to_owned();
        let mut info = HashMap::new();
        if request.verbose {
            info.insert("pid".to_owned(), pid.to_string());
            info.insert("state".to_owned(), state.clone());
            if !created.network.is_empty() {
                info.insert("networkSandboxPath".to_owned(), created.network.clone());
            }
        }
        Ok(SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid,
            state,
            info,
            created_at: time(created.started),
            exited_at: time(keeper.and_then(|keeper| keeper.exit).map(|exit| exit.at)),
            ..SandboxStatusResponse::default()
        })
    }

    async fn ping_sandbox(
        &self,
        _: &TtrpcContext,
        request: PingRequest,
    ) -> ttrpc::Result<PingResponse> {
        let pod = self.pod(&request.sandbox_id).await?;
        if pod.is_alive() {
            return Ok(PingResponse::default());
        }
        let problem = format!("the virtual machine of sandbox \"{}\" has ended", self.id);
        Err(status(Code::UNAVAILABLE, problem))
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        // Also one that could not be created goes.
        self.check(&request.sandbox_id)?;
        if let Some(pod) = self.tasks.made().await {
            pod.stop(PATIENCE).await;
        }
        self.tasks.finish();
        Ok(ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        let pod = self.pod(&request.sandbox_id).await?;
        let statistics = match pod.host_statistics() {
            Some(statistics) => statistics,
            None => pod.statistics(&self.id).await.map_err(failed)?,
        };
        let value = metrics::metrics(&statistics)
            .write_to_bytes()
            .map_err(|error| status(Code::INTERNAL, error.to_string()))?;
        let type_url = metrics::TYPE_URL.to_owned();
        let mut response = SandboxMetricsResponse::default();
        let metric = response.metrics.mut_or_insert_default();
        metric.timestamp = MessageField::some(Timestamp::from(SystemTime::now()));
        metric.id.clone_from(&self.id);
        metric.data = MessageField::some(Any { type_url, value, ..Any::default() });
        Ok(response)
    }
}

/// An empty file stands for a network namespace where nobody has made one: containers get no network. It
/// cannot be what a CNI plugin has filled, since that has to enter it.
fn is_placeholder(path: &str) -> bool {
    let empty =
        std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0);
    empty && rustix::fs::statfs(path).is_ok_and(|known| known.f_type != NSFS_MAGIC)
}

fn not_found(id: &str) -> ttrpc::Error {
    status(Code::NOT_FOUND, format!("sandbox \"{id}\" does not exist"))
}

/// What the caller of `start` has given as the sandbox's runtime options.
impl RuntimeOptions {
    /// Those that were kept beside a bundle.
    fn kept(bundle: &Path) -> Result<Self, ShimError> {
        match std::fs::read(bundle.join(crate::bootstrap::OPTIONS)) {
            Ok(bytes) => {
                let any = Any::parse_from_bytes(&bytes).map_err(ShimError::Message)?;
                Self::read(Some(&any))
            }
            Err(_) => Self::read(None),
        }
    }
}
