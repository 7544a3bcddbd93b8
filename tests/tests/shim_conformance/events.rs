//! A server for a shim's events.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use containerd_shim_protos::api::Empty;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::ttrpc::{self, Server, TtrpcContext};
use containerd_shim_protos::{Events, create_events};

use crate::shim::wait_for;

#[derive(Default)]
struct Recorder {
    envelopes: Mutex<Vec<Envelope>>,
}

impl Events for Recorder {
    fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let mut envelopes = self.envelopes.lock().unwrap_or_else(PoisonError::into_inner);
        envelopes.extend(request.envelope.into_option());
        Ok(Empty::default())
    }
}

/// See the module.
pub(crate) struct EventServer {
    recorder: Arc<Recorder>,
    server: Option<Server>,
    /// The server does not close it.
    _listener: UnixListener,
}

impl EventServer {
    /// Listens at a socket.
    pub(crate) fn start(socket: &Path) -> Self {
        let recorder = Arc::new(Recorder::default());
        let listener = UnixListener::bind(socket).expect("it can be bound");
        let mut server = Server::new()
            .add_listener(listener.as_raw_fd())
            .expect("it can be added")
            .register_service(create_events(recorder.clone()));
        server.start().expect("it can be started");
        Self { recorder, server: Some(server), _listener: listener }
    }

    fn envelopes(&self) -> Vec<Envelope> {
        self.recorder.envelopes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What has come so far.
    pub(crate) fn topics(&self) -> Vec<String> {
        self.envelopes().into_iter().map(|envelope| envelope.topic).collect()
    }

    /// Waits for the first event of a topic that fits.
    #[track_caller]
    pub(crate) fn wait_for(&self, topic: &str, fits: impl Fn(&Envelope) -> bool) -> Envelope {
        let mut found = None;
        wait_for(topic, || {
            let mut all = self.envelopes().into_iter();
            found = all.find(|envelope| envelope.topic == topic && fits(envelope));
            found.is_some()
        });
        found.expect("it has come")
    }
}

impl Drop for EventServer {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown();
        }
    }
}
