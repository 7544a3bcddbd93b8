//! Frames of a hostile guest: refused or decoded, and what is decoded means the same when it is
//! encoded again.
#![no_main]

use agent_protocol::{GuestMessage, HEADER_BYTES, MAX_GUEST_FRAME, decode, encode, frame_length};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let length = frame_length(*header, MAX_GUEST_FRAME);
        assert!(length.is_err() || length.is_ok_and(|length| length <= MAX_GUEST_FRAME));
    }
    if let Ok(message) = decode::<GuestMessage>(bytes) {
        let frame = encode(&message, usize::MAX).expect("it was decoded");
        let again: GuestMessage = decode(&frame[HEADER_BYTES..]).expect("we have encoded it");
        assert_eq!(again, message);
    }
});
