//! containerd's task service: requests to the pod, its errors to ttrpc's.

use crate::cleanup::state_root;
use crate::metrics;
use crate::options::RuntimeOptions;
use crate::rootfs;
use crate::shim_error::ShimError;
use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::Task;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{EnumOrUnknown, Message, MessageField};
use sandbox::pod::{
    NewContainer, Pod, PodError, PodEvent, PodExit, PodOptions, PodStatus, Root, StdioPaths,
};
use sandbox::{ErrorKind, Figurehead, SandboxError};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, mpsc};
use ttrpc::Code;
use ttrpc::asynchronous::TtrpcContext;

/// What is known of containers beside what the pod knows: the requests that made them.
#[derive(Debug, Default)]
pub(crate) struct Known {
    requests: Mutex<HashMap<String, CreateTaskRequest>>,
    /// What a sandbox adds to the mounts of its containers.
    mounts: Mutex<Vec<serde_json::Value>>,
    /// Id of the container that keeps a sandbox's namespaces: nobody knows it as a task.
    keeper: Mutex<Option<String>>,
}

impl Known {
    /// The process that stands for every process of the pod on the host.
    #[expect(clippy::unused_self, reason = "one of several things that are known")]
    pub(crate) fn pid(&self) -> u32 {
        std::process::id()
    }

    /// The request that made a container.
    pub(crate) fn request(&self, container: &str) -> CreateTaskRequest {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.get(container).cloned().unwrap_or_default()
    }

    /// What a sandbox adds to the mounts of its containers.
    fn mounts(&self) -> Vec<serde_json::Value> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The shim serves a sandbox: what keeps its namespaces, and what it adds to its containers' mounts.
    pub(crate) fn set_sandbox(&self, keeper: String, mounts: Vec<serde_json::Value>) {
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        *self.mounts.lock().unwrap_or_else(PoisonError::into_inner) = mounts;
    }

    /// Whether this container only keeps a sandbox's namespaces.
    pub(crate) fn is_keeper(&self, container: &str) -> bool {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.as_deref() == Some(container)
    }

    fn insert(&self, request: &CreateTaskRequest) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.insert(request.id.clone(), request.clone());
    }

    fn remove(&self, container: &str) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).remove(container);
    }
}

/// See the module.
pub(crate) struct TaskService {
    root: PathBuf,
    namespace: String,
    figurehead: Figurehead,
    events: mpsc::UnboundedSender<PodEvent>,
    known: Arc<Known>,
    over: Arc<Notify>,
    /// Locked while the pod is made: others wait for it.
    pod: tokio::sync::Mutex<Option<Pod>>,
}

impl TaskService {
    pub(crate) fn new(
        namespace: String,
        figurehead: Figurehead,
        events: mpsc::UnboundedSender<PodEvent>,
        known: Arc<Known>,
        over: Arc<Notify>,
    ) -> Self {
        let root = state_root(&namespace);
        Self {
            root,
            namespace,
            figurehead,
            events,
            known,
            over,
            pod: tokio::sync::Mutex::new(None),
        }
    }

    /// Ends what still runs, and unmounts what is still mounted.
    pub(crate) async fn end(&self) {
        if let Some(pod) = self.pod.lock().await.take() {
            pod.end().await;
        }
        let requests = std::mem::take(
            &mut *self.known.requests.lock().unwrap_or_else(PoisonError::into_inner),
        );
        for request in requests.values() {
            unmount(&request.bundle);
        }
    }

    /// What is known of containers beside what the pod knows.
    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    /// The pod, once it is made.
    pub(crate) async fn made(&self) -> Option<Pod> {
        self.pod.lock().await.clone()
    }

    /// Serves no more when what is asked now is answered.
    pub(crate) fn finish(&self) {
        self.over.notify_one();
    }

    /// Makes the pod of a sandbox, with a container that keeps its namespaces.
    pub(crate) async fn make_sandbox(
        &self,
        id: &str,
        bundle: PathBuf,
        options: &RuntimeOptions,
    ) -> ttrpc::Result<Pod> {
        let mut pod = self.pod.lock().await;
        if pod.is_some() {
            return Err(status(Code::ALREADY_EXISTS, format!("sandbox \"{id}\" has started")));
        }
        let keeper = NewContainer {
            id: id.to_owned(),
            bundle,
            stdio: StdioPaths::default(),
            root: Root::Nothing,
            mounts: Vec::new(),
        };
        let made = self.start_pod(keeper, options).await?;
        made.start_process(id, "").await.map_err(failed)?;
        *pod = Some(made.clone());
        Ok(made)
    }

    async fn start_pod(
        &self,
        container: NewContainer,
        options: &RuntimeOptions,
    ) -> ttrpc::Result<Pod> {
        let options = PodOptions {
            root: self.root.clone(),
            namespace: self.namespace.clone(),
            config: options.host_config().map_err(refused)?,
            systemd_cgroup: options.systemd_cgroup,
        };
        let figurehead = Some(&self.figurehead);
        Pod::start(options, container, figurehead, self.events.clone()).await.map_err(failed)
    }

    async fn pod(&self, container: &str) -> ttrpc::Result<Pod> {
        let pod = self.pod.lock().await.clone();
        pod.ok_or_else(|| {
            status(Code::NOT_FOUND, format!("container \"{container}\" does not exist"))
        })
    }

    async fn make(&self, request: &CreateTaskRequest, root: Root) -> ttrpc::Result<u32> {
        let options = RuntimeOptions::read(request.options.as_ref()).map_err(refused)?;
        if !request.checkpoint.is_empty() {
            return Err(not_implemented("a task from a checkpoint"));
        }
        let bundle = PathBuf::from(&request.bundle);
        let container = NewContainer {
            id: request.id.clone(),
            bundle,
            stdio: StdioPaths {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
            },
            root,
            mounts: self.known.mounts(),
        };
        let mut pod = self.pod.lock().await;
        match &*pod {
            Some(known) => {
                let known = known.clone();
                drop(pod);
                known.create(container).await.map_err(failed)?;
                Ok(known.pid())
            }
            None => {
                let made = self.start_pod(container, &options).await?;
                let pid = made.pid();
                *pod = Some(made);
                Ok(pid)
            }
        }
    }
}

#[async_trait]
impl Task for TaskService {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        if self
            .known
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&request.id)
        {
            return Err(status(
                Code::ALREADY_EXISTS,
                format!("container \"{}\" exists", request.id),
            ));
        }
        let root = Path::new(&request.bundle).join("rootfs");
        let disk = rootfs::mount_all(&request.rootfs, &root).map_err(refused)?;
        let root = disk.map_or(Root::Bundle, Root::Disk);
        self.known.insert(&request);
        match self.make(&request, root).await {
            Ok(pid) => Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() }),
            Err(error) => {
                self.known.remove(&request.id);
                unmount(&request.bundle);
                Err(error)
            }
        }
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let pod = self.pod(&request.id).await?;
        pod.start_process(&request.id, &request.exec_id).await.map_err(failed)?;
        Ok(StartResponse { pid: pod.pid(), ..StartResponse::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let pod = self.pod(&request.id).await?;
        let known = pod.look(&request.id, &request.exec_id).map_err(failed)?;
        let task_status = match known.status {
            PodStatus::Created => Status::CREATED,
            PodStatus::Running => Status::RUNNING,
            PodStatus::Paused => Status::PAUSED,
            PodStatus::Stopped => Status::STOPPED,
        };
        Ok(StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: known.bundle.to_string_lossy().into_owned(),
            pid: pod.pid(),
            status: EnumOrUnknown::new(task_status),
            stdin: known.stdio.stdin,
            stdout: known.stdio.stdout,
            stderr: known.stdio.stderr,
            terminal: known.stdio.terminal,
            exit_status: known.exit.as_ref().map_or(0, |exit| exit.status.into()),
            exited_at: known.exit.as_ref().map_or_else(MessageField::none, at),
            ..StateResponse::default()
        })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        let pod = self.pod(&request.id).await?;
        let exit = pod.delete(&request.id, &request.exec_id).await.map_err(failed)?;
        if request.exec_id.is_empty() {
            let made = self.known.request(&request.id);
            unmount(&made.bundle);
            self.known.remove(&request.id);
        }
        Ok(DeleteResponse {
            pid: pod.pid(),
            exit_status: exit.status.into(),
            exited_at: at(&exit),
            ..DeleteResponse::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pod = self.pod(&request.id).await?;
        pod.look(&request.id, "").map_err(failed)?;
        let process = |pid| ProcessInfo { pid, ..ProcessInfo::default() };
        let pids = std::iter::once(pod.pid()).chain(pod.vmm_pid());
        Ok(PidsResponse { processes: pids.map(process).collect(), ..PidsResponse::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&request.id).await?;
        pod.pause(&request.id, true).await.map_err(failed)?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&request.id).await?;
        pod.pause(&request.id, false).await.map_err(failed)?;
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        Err(not_implemented("a checkpoint"))
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&request.id).await?;
        let signal = u8::try_from(request.signal).ok().filter(|signal| (1..=64).contains(signal));
        let Some(signal) = signal else {
            let problem = format!("{} is no signal; signals are 1 to 64", request.signal);
            return Err(status(Code::INVALID_ARGUMENT, problem));
        };
        let all = request.all && request.exec_id.is_empty();
        pod.signal(&request.id, &request.exec_id, signal, all).await.map_err(failed)?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&request.id).await?;
        let document = json("spec", request.spec.as_ref())?;
        let stdio = StdioPaths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        pod.add_process(&request.id, &request.exec_id, &document, stdio).map_err(failed)?;
        Ok(Empty::default())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let pod = self.pod(&request.id).await?;
        let side = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let (columns, rows) = (side(request.width), side(request.height));
        pod.resize(&request.id, &request.exec_id, rows, columns).await.map_err(failed)?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&request.id).await?;
        if request.stdin {
            pod.close_stdin(&request.id, &request.exec_id).map_err(failed)?;
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&request.id).await?;
        let document = json("resources", request.resources.as_ref())?;
        pod.update(&request.id, &document).await.map_err(failed)?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let pod = self.pod(&request.id).await?;
        let exit = pod.wait(&request.id, &request.exec_id).await.map_err(failed)?;
        Ok(WaitResponse {
            exit_status: exit.status.into(),
            exited_at: at(&exit),
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let pod = self.pod(&request.id).await?;
        let statistics = pod.statistics(&request.id).await.map_err(failed)?;
        let message = metrics::metrics(&statistics);
        let value =
            message.write_to_bytes().map_err(|error| status(Code::INTERNAL, error.to_string()))?;
        let any = Any { type_url: metrics::TYPE_URL.to_owned(), value, ..Any::default() };
        Ok(StatsResponse { stats: MessageField::some(any), ..StatsResponse::default() })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        // containerd asks this also to see whether the shim lives.
        let pod = self.pod.lock().await.clone();
        let is_known = pod.as_ref().is_some_and(|pod| pod.look(&request.id, "").is_ok());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pod.filter(|_| is_known).map_or(0, |pod| pod.pid()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        // One that still has containers serves them.
        let pod = self.pod.lock().await;
        if pod.as_ref().is_none_or(Pod::is_empty) {
            self.finish();
        }
        Ok(Empty::default())
    }
}

pub(crate) fn at(exit: &PodExit) -> MessageField<Timestamp> {
    MessageField::some(Timestamp::from(exit.at))
}

fn unmount(bundle: &str) {
    if let Err(error) = rootfs::unmount(&Path::new(bundle).join("rootfs")) {
        tracing::warn!("{}", sandbox::text::chain(&error));
    }
}

/// A document of the runtime specification in a message: containerd packs these as JSON.
fn json(what: &str, any: Option<&Any>) -> ttrpc::Result<serde_json::Value> {
    let bytes = any.map(|any| any.value.as_slice()).unwrap_or_default();
    serde_json::from_slice(bytes)
        .map_err(|error| status(Code::INVALID_ARGUMENT, format!("{what} is no JSON: {error}")))
}

pub(crate) fn status(code: Code, message: String) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message))
}

fn not_implemented(what: &str) -> ttrpc::Error {
    status(Code::UNIMPLEMENTED, format!("{what} is not implemented"))
}

pub(crate) fn refused(error: ShimError) -> ttrpc::Error {
    status(Code::INVALID_ARGUMENT, sandbox::text::chain(&error))
}

/// containerd's clients decide by the code.
pub(crate) fn failed(error: PodError) -> ttrpc::Error {
    let code = match &error {
        PodError::NotFound { .. } | PodError::Finished { .. } => Code::NOT_FOUND,
        PodError::Exists { .. } => Code::ALREADY_EXISTS,
        PodError::WrongState { .. } => Code::FAILED_PRECONDITION,
        PodError::TooMany { .. } => Code::RESOURCE_EXHAUSTED,
        PodError::WrongPod { .. }
        | PodError::Stream { .. }
        | PodError::Limit { .. }
        | PodError::NoDrives { .. }
        | PodError::Disk(_) => Code::INVALID_ARGUMENT,
        PodError::Sandbox(SandboxError::Spec(_) | SandboxError::Id(_)) => Code::INVALID_ARGUMENT,
        other => match other.kind() {
            ErrorKind::Deadline => Code::DEADLINE_EXCEEDED,
            ErrorKind::VmDied | ErrorKind::AgentFailed => Code::UNAVAILABLE,
            _ => Code::UNKNOWN,
        },
    };
    status(code, sandbox::text::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_codes_that_clients_know() {
        let code = |error| match failed(error) {
            ttrpc::Error::RpcStatus(status) => status.code.enum_value().unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(code(PodError::Finished { id: "c".into() }), Code::NOT_FOUND);
        assert_eq!(code(PodError::MachineEnded { reason: "x".into() }), Code::UNAVAILABLE);
        let exists = PodError::Exists { what: "container", id: "c".into() };
        assert_eq!(code(exists), Code::ALREADY_EXISTS);
    }

    #[test]
    fn a_document_is_json() {
        let any = Any { value: b"{\"a\":1}".to_vec(), ..Any::default() };
        assert_eq!(json("spec", Some(&any)).unwrap()["a"], 1);
        assert!(json("spec", None).is_err());
    }
}
