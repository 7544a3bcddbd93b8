//! Any bytes as requests, the first half of them under a header that is well-formed.
#![no_main]

use arbitrary::Arbitrary;
use file_server_fuzz::{Guest, on_own_thread};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Message {
    /// Arguments under a right header: reaches every parser.
    Framed { opcode: u8, node: u8, args: Vec<u8>, room: u16 },
    /// Bytes as they are.
    Raw { bytes: Vec<u8>, room: u16 },
}

fuzz_target!(|messages: Vec<Message>| on_own_thread(|| run(messages)));

fn run(messages: Vec<Message>) {
    let mut guest = Guest::new();
    for message in messages.into_iter().take(40) {
        match message {
            Message::Framed { opcode, node, args, room } => {
                guest.ask(u32::from(opcode % 56), u64::from(node % 8), &args, room.into());
            }
            Message::Raw { mut bytes, room } => {
                guest.send(&mut bytes, room.into());
            }
        }
    }
    guest.finish();
}
