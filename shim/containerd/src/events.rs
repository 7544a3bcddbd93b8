//! What has happened, for containerd's event service: in order, and each once.

use crate::task::Known;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::topics;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{MessageField, MessageFull};
use sandbox::pod::{PodEvent, PodExit};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// How long containerd may take for one event.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long an event is kept for a containerd that is being started again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Sends events until their queue ends.
pub(crate) async fn publish(
    mut events: mpsc::UnboundedReceiver<PodEvent>,
    known: Arc<Known>,
    address: Option<String>,
    namespace: String,
) {
    let mut client = None;
    while let Some(event) = events.recv().await {
        let Some(address) = &address else { continue };
        if known.is_keeper(event.container()) {
            continue;
        }
        if matches!(&event, PodEvent::Deleted { process, .. } if !process.is_empty()) {
            // As with runc: the end of a further process is told, that it was forgotten is not.
            continue;
        }
        let (topic, event) = match encode(&event, &known) {
            Ok(encoded) => encoded,
            Err(error) => {
                tracing::error!("an event cannot be encoded: {error}");
                continue;
            }
        };
        let envelope = Envelope {
            timestamp: MessageField::some(Timestamp::from(SystemTime::now())),
            namespace: namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(event),
            ..Envelope::default()
        };
        let request =
            ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
        send(&mut client, address, request, topic).await;
    }
}

async fn send(
    client: &mut Option<EventsClient>,
    address: &str,
    request: ForwardRequest,
    topic: &str,
) {
    let begun = Instant::now();
    loop {
        let problem = match attempt(client, address, &request).await {
            Ok(()) => return,
            Err(problem) => problem,
        };
        // A connection that has failed once is not used again.
        *client = None;
        if begun.elapsed() >= PATIENCE {
            tracing::error!("the event {topic} is lost: {problem}");
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn attempt(
    client: &mut Option<EventsClient>,
    address: &str,
    request: &ForwardRequest,
) -> Result<(), String> {
    let connected = match client {
        Some(connected) => connected,
        None => {
            let address = if address.contains("://") {
                address.to_owned()
            } else {
                format!("unix://{address}")
            };
            let connecting = tokio::time::timeout(DEADLINE, Client::connect(&address)).await;
            let connection = connecting
                .map_err(|_| "containerd does not take the connection".to_owned())?
                .map_err(|error| error.to_string())?;
            client.insert(EventsClient::new(connection))
        }
    };
    let context = ttrpc::context::with_duration(DEADLINE);
    connected.forward(context, request).await.map(drop).map_err(|error| error.to_string())
}

/// containerd's message for an event, and its topic.
fn encode(event: &PodEvent, known: &Known) -> Result<(&'static str, Any), protobuf::Error> {
    let pid = known.pid();
    let at = |exit: &PodExit| MessageField::some(Timestamp::from(exit.at));
    match event {
        PodEvent::Created { container } => {
            let request = known.request(container);
            let io = TaskIO {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
                ..TaskIO::default()
            };
            let message = TaskCreate {
                container_id: container.clone(),
                bundle: request.bundle.clone(),
                rootfs: request.rootfs.clone(),
                io: MessageField::some(io),
                checkpoint: request.checkpoint.clone(),
                pid,
                ..TaskCreate::default()
            };
            pack(topics::TASK_CREATE_EVENT_TOPIC, &message)
        }
        PodEvent::Started { container, process } if process.is_empty() => {
            let container_id = container.clone();
            let message = TaskStart { container_id, pid, ..TaskStart::default() };
            pack(topics::TASK_START_EVENT_TOPIC, &message)
        }
        PodEvent::Started { container, process } => {
            let (container_id, exec_id) = (container.clone(), process.clone());
            let message =
                TaskExecStarted { container_id, exec_id, pid, ..TaskExecStarted::default() };
            pack(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &message)
        }
        PodEvent::ProcessAdded { container, process } => {
            let (container_id, exec_id) = (container.clone(), process.clone());
            let message = TaskExecAdded { container_id, exec_id, ..TaskExecAdded::default() };
            pack(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &message)
        }
        PodEvent::Exited { container, process, exit } => {
            let message = TaskExit {
                container_id: container.clone(),
                id: id_of(container, process),
                pid,
                exit_status: exit.status.into(),
                exited_at: at(exit),
                ..TaskExit::default()
            };
            pack(topics::TASK_EXIT_EVENT_TOPIC, &message)
        }
        PodEvent::OutOfMemory { container } => {
            let message = TaskOOM { container_id: container.clone(), ..TaskOOM::default() };
            pack(topics::TASK_OOM_EVENT_TOPIC, &message)
        }
        PodEvent::Paused { container } => {
            let message = TaskPaused { container_id: container.clone(), ..TaskPaused::default() };
            pack(topics::TASK_PAUSED_EVENT_TOPIC, &message)
        }
        PodEvent::Resumed { container } => {
            let message = TaskResumed { container_id: container.clone(), ..TaskResumed::default() };
            pack(topics::TASK_RESUMED_EVENT_TOPIC, &message)
        }
        PodEvent::Deleted { container, process, exit } => {
            let message = TaskDelete {
                container_id: container.clone(),
                id: id_of(container, process),
                pid,
                exit_status: exit.status.into(),
                exited_at: at(exit),
                ..TaskDelete::default()
            };
            pack(topics::TASK_DELETE_EVENT_TOPIC, &message)
        }
    }
}

/// containerd calls a container's first process as the container.
fn id_of(container: &str, process: &str) -> String {
    if process.is_empty() { container.to_owned() } else { process.to_owned() }
}

fn pack<M: MessageFull>(
    topic: &'static str,
    message: &M,
) -> Result<(&'static str, Any), protobuf::Error> {
    // Go's registry has the bare name.
    let type_url = M::descriptor().full_name().to_owned();
    Ok((topic, Any { type_url, value: message.write_to_bytes()?, ..Any::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message;

    #[test]
    fn an_end_is_the_containers_or_that_of_a_process() {
        let known = Known::default();
        let exit = PodExit { status: 137, at: SystemTime::UNIX_EPOCH, reason: None };
        let event = |process: &str| PodEvent::Exited {
            container: "c".into(),
            process: process.into(),
            exit: exit.clone(),
        };
        for (process, id) in [("", "c"), ("e", "e")] {
            let (topic, any) = encode(&event(process), &known).unwrap();
            assert_eq!(
                (topic, any.type_url.as_str()),
                ("/tasks/exit", "containerd.events.TaskExit")
            );
            let message = TaskExit::parse_from_bytes(&any.value).unwrap();
            assert_eq!((message.id.as_str(), message.exit_status), (id, 137));
        }
    }
}
