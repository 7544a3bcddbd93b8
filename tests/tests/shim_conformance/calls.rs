//! Calls of the task service, by either of its names.

use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::Client;
use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, Mount, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, Status, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::ttrpc::proto::KeyValue;
use containerd_shim_protos::ttrpc::{self, Error, Request};
use serde_json::json;

use crate::streams::Reader;

/// For one call.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
/// By which a call says its namespace.
pub(crate) const NAMESPACE_KEY: &str = "containerd-namespace-ttrpc";

/// Where the streams of a process go; none is nowhere.
#[derive(Default)]
pub(crate) struct Stdio<'s> {
    pub(crate) stdin: Option<&'s Path>,
    pub(crate) stdout: Option<&'s Reader>,
    pub(crate) stderr: Option<&'s Reader>,
}

impl Stdio<'_> {
    fn names(&self) -> [String; 3] {
        let text =
            |path: Option<&Path>| path.map_or_else(String::new, |path| path.display().to_string());
        let of = |reader: Option<&Reader>| text(reader.map(|reader| reader.path.as_path()));
        [text(self.stdin), of(self.stdout), of(self.stderr)]
    }
}

/// A connection to a shim's task service.
pub(crate) struct Tasks {
    client: Client,
    service: String,
    namespace: String,
}

impl Tasks {
    pub(crate) fn new(client: Client, version: u32, namespace: &str) -> Self {
        let service = format!("containerd.task.v{version}.Task");
        Self { client, service, namespace: namespace.to_owned() }
    }

    /// Any call of any service.
    pub(crate) fn call_of<R: Message>(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<R, Error> {
        let namespace = KeyValue {
            key: NAMESPACE_KEY.to_owned(),
            value: self.namespace.clone(),
            ..KeyValue::default()
        };
        let call = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: request.write_to_bytes().expect("it can be encoded"),
            timeout_nano: i64::try_from(DEADLINE.as_nanos()).expect("a short time"),
            metadata: vec![namespace],
            ..Request::default()
        };
        let answer = self.client.request(call)?;
        R::parse_from_bytes(&answer.payload).map_err(|error| Error::Others(error.to_string()))
    }

    fn call<R: Message>(&self, method: &str, request: &impl Message) -> ttrpc::Result<R> {
        self.call_of(&self.service, method, request)
    }

    pub(crate) fn create(
        &self,
        id: &str,
        bundle: &Path,
        rootfs: Vec<Mount>,
        stdio: &Stdio<'_>,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let [stdin, stdout, stderr] = stdio.names();
        let type_url = "containerd.runc.v1.Options".to_owned();
        let request = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.display().to_string(),
            rootfs,
            stdin,
            stdout,
            stderr,
            options: MessageField::some(Any { type_url, ..Any::default() }),
            ..CreateTaskRequest::default()
        };
        self.call("Create", &request)
    }

    pub(crate) fn start(&self, id: &str, exec_id: &str) -> ttrpc::Result<StartResponse> {
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        self.call("Start", &StartRequest { id, exec_id, ..StartRequest::default() })
    }

    #[track_caller]
    pub(crate) fn status(&self, id: &str) -> Status {
        let request = StateRequest { id: id.to_owned(), ..StateRequest::default() };
        let state: StateResponse = self.call("State", &request).expect("it is known");
        state.status.enum_value().expect("a known one")
    }

    /// Adds a process that has nothing but words, a directory and a PATH, and starts it.
    #[track_caller]
    pub(crate) fn exec(&self, id: &str, exec_id: &str, args: &[&str], stdio: &Stdio<'_>) {
        let [stdin, stdout, stderr] = stdio.names();
        let process = json!({ "args": args, "cwd": "/", "env": ["PATH=/bin:/usr/bin"] });
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
            value: process.to_string().into_bytes(),
            ..Any::default()
        };
        let request = ExecProcessRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            stdin,
            stdout,
            stderr,
            spec: MessageField::some(spec),
            ..ExecProcessRequest::default()
        };
        let _: Empty = self.call("Exec", &request).expect("it can be added");
        self.start(id, exec_id).expect("it can be started");
    }

    pub(crate) fn kill(&self, id: &str, exec_id: &str) -> ttrpc::Result<Empty> {
        let request = KillRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal: 9,
            all: exec_id.is_empty(),
            ..KillRequest::default()
        };
        self.call("Kill", &request)
    }

    #[track_caller]
    pub(crate) fn wait(&self, id: &str, exec_id: &str) -> u32 {
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = WaitRequest { id, exec_id, ..WaitRequest::default() };
        let answer: WaitResponse = self.call("Wait", &request).expect("it ends");
        answer.exit_status
    }

    #[track_caller]
    pub(crate) fn delete(&self, id: &str, exec_id: &str) -> u32 {
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = DeleteRequest { id, exec_id, ..DeleteRequest::default() };
        let answer: DeleteResponse = self.call("Delete", &request).expect("it can be deleted");
        answer.exit_status
    }

    #[track_caller]
    pub(crate) fn close_stdin(&self, id: &str, exec_id: &str) {
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = CloseIORequest { id, exec_id, stdin: true, ..CloseIORequest::default() };
        let _: Empty = self.call("CloseIO", &request).expect("it can be closed");
    }

    /// Process id of the shim.
    #[track_caller]
    pub(crate) fn shim_pid(&self, id: &str) -> u32 {
        let request = ConnectRequest { id: id.to_owned(), ..ConnectRequest::default() };
        let answer: ConnectResponse = self.call("Connect", &request).expect("it answers");
        answer.shim_pid
    }

    /// Asks the shim to end, which may do so before it answers.
    pub(crate) fn shut_down(&self, id: &str) {
        let request = ShutdownRequest { id: id.to_owned(), ..ShutdownRequest::default() };
        let _: ttrpc::Result<Empty> = self.call("Shutdown", &request);
    }

    /// Ends a container and removes it.
    #[track_caller]
    pub(crate) fn remove(&self, id: &str) -> (u32, u32) {
        self.kill(id, "").expect("it can be killed");
        (self.wait(id, ""), self.delete(id, ""))
    }
}
