//! Frames of a hostile host: refused or decoded, and what is decoded means the same when it is
//! encoded again.
#![no_main]

use agent_protocol::{HEADER_BYTES, HostMessage, MAX_HOST_FRAME, decode, encode, frame_length};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let length = frame_length(*header, MAX_HOST_FRAME);
        assert!(length.is_err() || length.is_ok_and(|length| length <= MAX_HOST_FRAME));
    }
    if let Ok(message) = decode::<HostMessage>(bytes) {
        let frame = encode(&message, usize::MAX).expect("it was decoded");
        let again: HostMessage = decode(&frame[HEADER_BYTES..]).expect("we have encoded it");
        assert_eq!(again, message);
    }
});
