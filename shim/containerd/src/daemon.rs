//! The process that serves one pod.

use crate::arguments::Arguments;
use crate::bootstrap::TTRPC_ADDRESS;
use crate::sandbox_service::SandboxService;
use crate::shim_error::ShimError;
use crate::task::{Known, TaskService};
use crate::{events, log, socket};
use containerd_shim_protos::sandbox_async::create_sandbox;
use containerd_shim_protos::shim_async::create_task;
use rustix::fs::{Mode, OFlags};
use sandbox::{Figurehead, behind_figurehead};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use ttrpc::asynchronous::transport::Listener;
use ttrpc::asynchronous::{Server, Service};

/// The task API's names; its messages are the same.
const TASK_V3: &str = "containerd.task.v3.Task";
const TASK_V2: &str = "containerd.task.v2.Task";
/// Services that clients look for and that are not here: without methods they answer "not implemented".
const ABSENT: [&str; 2] =
    ["containerd.services.transfer.v1.Transfer", "containerd.services.streaming.v1.Streaming"];
/// How long the answer to the call that ends the shim may take to be sent.
const LAST_ANSWER: Duration = Duration::from_millis(250);
/// How long the last events and answers may take.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Serves until containerd says that it is over.
pub(crate) fn serve(arguments: Arguments) -> Result<(), ShimError> {
    // It fails for the leader of a session only, as which nobody starts it.
    let _ = rustix::process::setsid();
    log::start(&arguments.id, arguments.debug);
    let listener = take_listener().map_err(ShimError::Spawn)?;
    let served = behind_figurehead(|figurehead| live(&arguments, listener, figurehead.clone()));
    let result = served.map_err(ShimError::Runtime).flatten();
    if let Err(error) = &result {
        tracing::error!("{}", sandbox::text::chain(error));
    }
    result
}

/// The socket came as the standard input; nobody else has it.
fn take_listener() -> std::io::Result<UnixListener> {
    let listener: OwnedFd = rustix::stdio::stdin().try_clone_to_owned()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    socket::own(&listener)?;
    Ok(listener)
}

fn live(
    arguments: &Arguments,
    listener: UnixListener,
    figurehead: Figurehead,
) -> Result<(), ShimError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ShimError::Runtime)?;
    let result = runtime.block_on(serve_pod(arguments, listener, figurehead));
    runtime.shutdown_background();
    result
}

async fn serve_pod(
    arguments: &Arguments,
    listener: UnixListener,
    figurehead: Figurehead,
) -> Result<(), ShimError> {
    let address = listener.local_addr().ok();
    let listener = tokio::net::UnixListener::from_std(listener).map_err(ShimError::Runtime)?;
    let (sender, queue) = mpsc::unbounded_channel();
    let known = Arc::new(Known::default());
    let over = Arc::new(Notify::new());
    let service = Arc::new(TaskService::new(
        arguments.namespace.clone(),
        figurehead,
        sender,
        Arc::clone(&known),
        Arc::clone(&over),
    ));
    let publisher = tokio::spawn(events::publish(
        queue,
        known,
        std::env::var(TTRPC_ADDRESS).ok(),
        arguments.namespace.clone(),
    ));
    let mut services = create_task(service.clone());
    for (name, more) in create_task(service.clone()) {
        services.insert(if name == TASK_V3 { TASK_V2.to_owned() } else { name }, more);
    }
    let sandboxes = SandboxService::new(arguments.id.clone(), Arc::clone(&service));
    services.extend(create_sandbox(Arc::new(sandboxes)));
    let nothing = || Service { methods: HashMap::new(), streams: HashMap::new() };
    services.extend(ABSENT.map(|name| (name.to_owned(), nothing())));
    let mut server =
        Server::new().add_listener(Listener::from(listener)).register_service(services);
    server.start().await.map_err(ShimError::Service)?;
    over.notified().await;
    // Whoever starts a shim of this name from now on gets another one.
    if let Some(path) = address.as_ref().and_then(|address| address.as_pathname()) {
        drop(std::fs::remove_file(path));
    }
    service.end().await;
    // The answer to the call that ends it is still to be sent. The server closes connections with what is
    // under way, and does not say whether anything is.
    tokio::time::sleep(LAST_ANSWER).await;
    let stopped = tokio::time::timeout(LAST_WORDS, server.shutdown()).await;
    if stopped.is_err() {
        tracing::warn!("connections were still open at the end");
    }
    drop((server, service));
    drop(tokio::time::timeout(LAST_WORDS, publisher).await);
    Ok(())
}
