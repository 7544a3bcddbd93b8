//! A client of the CRI plugin's streaming server: channels of one websocket, as a kubelet carries them.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tungstenite::{Message, WebSocket};

// Channels of a process; of a port, data and error are the first two.
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// For the next thing that must come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Streams that are open.
pub(crate) struct Streams {
    socket: WebSocket<TcpStream>,
    heard: BTreeMap<u8, Vec<u8>>,
}

impl Streams {
    /// Opens what a call has answered with.
    pub(crate) fn open(url: &str) -> Self {
        let url = url.replacen("http://", "ws://", 1);
        let mut request = url.into_client_request().expect("a URL");
        let protocol = HeaderValue::from_static("v4.channel.k8s.io");
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        let authority = request.uri().authority().expect("a host and a port").to_string();
        let stream = TcpStream::connect(authority).expect("the streaming server is there");
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline can be set");
        let (socket, _) = tungstenite::client(request, stream).expect("it speaks this protocol");
        Self { socket, heard: BTreeMap::new() }
    }

    pub(crate) fn say(&mut self, channel: u8, bytes: &[u8]) {
        let message = [&[channel], bytes].concat();
        self.socket.send(Message::binary(message)).expect("it is taken");
    }

    /// Sets the size of the terminal.
    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        let size = serde_json::json!({ "Width": columns, "Height": rows });
        self.say(RESIZE, size.to_string().as_bytes());
    }

    /// Waits until a channel has said this.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, channel: u8, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.text(channel).contains(text) {
            assert!(Instant::now() < until, "{text:?} did not come: {:?}", self.heard);
            assert!(self.hear(), "{text:?} did not come before the end: {:?}", self.heard);
        }
    }

    /// Hears until the end, and returns everything that a channel has said.
    pub(crate) fn rest(&mut self, channel: u8) -> String {
        while self.hear() {}
        self.text(channel)
    }

    /// How the process has ended, after the end of its streams.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> u8 {
        let text = self.rest(ERROR);
        let status: Value = serde_json::from_str(&text).expect("a status");
        if status["status"] == "Success" {
            return 0;
        }
        let cause = &status["details"]["causes"][0];
        assert_eq!(cause["reason"], "ExitCode", "{text}");
        cause["message"].as_str().and_then(|code| code.parse().ok()).expect("an exit code")
    }

    /// Takes one message. Returns whether there was one before the end.
    fn hear(&mut self) -> bool {
        match self.socket.read() {
            Ok(Message::Binary(bytes)) => {
                if let Some((channel, bytes)) = bytes.split_first() {
                    self.heard.entry(*channel).or_default().extend_from_slice(bytes);
                }
                true
            }
            Ok(Message::Close(_)) => false,
            Ok(_) => true,
            Err(tungstenite::Error::Io(error))
                if error.kind() == std::io::ErrorKind::WouldBlock =>
            {
                panic!("nothing came within {PATIENCE:?}: {:?}", self.heard)
            }
            // The server closes the connection as it likes.
            Err(_) => false,
        }
    }

    fn text(&self, channel: u8) -> String {
        let bytes = self.heard.get(&channel).map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }
}
