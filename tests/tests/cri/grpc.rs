//! One call of gRPC to a socket of this machine: a request, an answer.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, TE};
use prost::Message;
use tokio::net::UnixStream;

/// Before each message: whether it is compressed, and its length in big endian.
const PREFIX: usize = 5;

/// Calls `method`. The error is what was said, with gRPC's code.
pub(crate) fn call<A: Message + Default>(
    socket: &Path,
    method: &str,
    request: &impl Message,
    deadline: Duration,
) -> Result<A, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("an event loop can be made");
    runtime.block_on(async {
        match tokio::time::timeout(deadline, exchange(socket, method, request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => panic!("{method}: no answer within {deadline:?}"),
        }
    })
}

async fn exchange<A: Message + Default>(
    socket: &Path,
    method: &str,
    message: &impl Message,
) -> Result<Result<A, String>, Box<dyn std::error::Error>> {
    let (mut client, connection) =
        h2::client::handshake(UnixStream::connect(socket).await?).await?;
    // It ends with the runtime.
    drop(tokio::spawn(connection));
    let request = http::Request::post(format!("http://localhost/{method}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(())?;
    let (answer, mut body) = client.send_request(request, false)?;
    body.send_data(frame(message), true)?;
    let (head, mut body) = answer.await?.into_parts();
    let mut bytes = vec![];
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    // A failure without a message has its status in the first headers.
    let trailers = body.trailers().await?.unwrap_or(head.headers);
    if let Some(problem) = problem(&trailers) {
        return Ok(Err(problem));
    }
    let message = bytes.get(PREFIX..).ok_or("an answer without a message")?;
    Ok(Ok(A::decode(message)?))
}

fn frame(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).expect("a request is small").to_be_bytes();
    [&[0], &length[..], &bytes].concat().into()
}

fn problem(trailers: &HeaderMap) -> Option<String> {
    let field = |name| trailers.get(name).and_then(|value| value.to_str().ok());
    match field("grpc-status") {
        Some("0") => None,
        code => Some(format!(
            "code {}: {}",
            code.unwrap_or("missing"),
            field("grpc-message").unwrap_or_default()
        )),
    }
}
