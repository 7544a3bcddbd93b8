//! An agent that lies: it says hello, and then whatever it likes while the host asks.
#![no_main]

use agent_client::{Client, ClientError};
use agent_protocol::{GuestMessage, MAX_GUEST_FRAME, VERSION, encode};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const DEADLINE: Duration = Duration::from_secs(1);

#[derive(Arbitrary, Debug)]
struct Script {
    hello: bool,
    parts: Vec<Part>,
}

#[derive(Arbitrary, Debug)]
enum Part {
    Bytes(Vec<u8>),
    /// A frame whose length is right.
    Frame(Vec<u8>),
    /// One that decodes to a reply, an error or an event of the first bytes.
    Message(u8, Vec<u8>),
}

fn bytes(script: &Script) -> Vec<u8> {
    let mut all = Vec::new();
    if script.hello {
        let hello = GuestMessage::Hello {
            version: VERSION,
            agent_start_ns: 1,
            now_ns: 2,
            kernel_release: "6.12".to_owned(),
        };
        all.extend(encode(&hello, MAX_GUEST_FRAME).expect("it is short"));
    }
    for part in script.parts.iter().take(32) {
        match part {
            Part::Bytes(bytes) => all.extend(bytes),
            Part::Frame(bytes) => frame(&mut all, bytes),
            Part::Message(kind, bytes) => {
                let mut message = vec![kind % 3];
                message.extend(bytes);
                frame(&mut all, &message);
            }
        }
    }
    all
}

fn frame(all: &mut Vec<u8>, payload: &[u8]) {
    all.extend(u32::try_from(payload.len()).expect("it is short").to_le_bytes());
    all.extend(payload);
}

async fn talk(script: &Script) -> Result<(), ClientError> {
    let (host, mut guest) = tokio::io::duplex(1 << 20);
    let said = bytes(script);
    guest.write_all(&said[..said.len().min(1 << 19)]).await.expect("there is room");
    let connection = Client::connect(host, DEADLINE).await?;
    let mut events = connection.events;
    let client = connection.client;
    let asked = [
        client.start_container("c", DEADLINE).await.map(drop),
        client.read_statistics("c", DEADLINE).await.map(drop),
        client.list_processes("c", 0, DEADLINE).await.map(drop),
    ];
    drop(guest);
    while events.recv().await.is_some() {}
    asked.into_iter().collect()
}

fuzz_target!(|script: Script| {
    // A deadline passes as soon as nothing else happens.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime can be made");
    if let Err(error) = runtime.block_on(talk(&script)) {
        // What is shown has no control characters of the agent's.
        assert!(error.to_string().chars().all(|character| !character.is_control()));
    }
});
