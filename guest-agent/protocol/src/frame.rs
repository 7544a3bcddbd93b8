//! Frames: a length of four bytes, little-endian, then so many bytes of postcard.

use alloc::vec;
use alloc::vec::Vec;

use serde::{Serialize, de::DeserializeOwned};

/// Bytes before the payload of a frame.
pub const HEADER_BYTES: usize = 4;

/// Why a frame could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame is larger than its direction allows.
    #[error("a frame of {size} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Bytes of the payload.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// No message is empty.
    #[error("a frame without content")]
    Empty,
    /// The payload is no message of this version.
    #[error("a frame of {size} bytes could not be decoded")]
    Decode {
        /// Bytes of the payload.
        size: usize,
        /// What postcard said.
        #[source]
        source: postcard::Error,
    },
    /// There are bytes behind the message.
    #[error("a frame holds {extra} bytes behind its message")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// The message could not be encoded.
    #[error("a message could not be encoded")]
    Encode(#[source] postcard::Error),
}

/// A message as a whole frame, header included.
///
/// # Errors
/// [`FrameError::TooLarge`] if the payload exceeds `limit` bytes, or [`FrameError::Encode`].
pub fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, FrameError> {
    let frame =
        postcard::to_extend(message, vec![0_u8; HEADER_BYTES]).map_err(FrameError::Encode)?;
    let size = frame.len().saturating_sub(HEADER_BYTES);
    let header = match u32::try_from(size) {
        Ok(length) if size <= limit => length.to_le_bytes(),
        _ => return Err(FrameError::TooLarge { size, limit }),
    };
    let mut frame = frame;
    for (byte, value) in frame.iter_mut().zip(header) {
        *byte = value;
    }
    Ok(frame)
}

/// Bytes of the payload that follows this header.
///
/// # Errors
/// [`FrameError::TooLarge`] or [`FrameError::Empty`]; the stream cannot be used any further.
pub fn frame_length(header: [u8; HEADER_BYTES], limit: usize) -> Result<usize, FrameError> {
    let size = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    match size {
        0 => Err(FrameError::Empty),
        size if size > limit => Err(FrameError::TooLarge { size, limit }),
        size => Ok(size),
    }
}

/// The message in a payload, which it must fill.
///
/// # Errors
/// [`FrameError::Decode`] or [`FrameError::Trailing`].
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        Ok((_, extra)) => Err(FrameError::Trailing { extra: extra.len() }),
        Err(source) => Err(FrameError::Decode { size: payload.len(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Counter, Event, ExitStatus, GuestMessage, HostMessage, HugePageStatistics, IoStatistics,
        MAX_COMMAND, MAX_COUNTER_NAME, MAX_COUNTERS, MAX_GUEST_FRAME, MAX_LISTED_BYTES,
        MAX_LISTED_PROCESSES, ProcessInfo, ProcessList, Reply, Request, Statistics,
    };
    use proptest::prelude::*;
    use std::prelude::v1::*;

    #[test]
    fn a_message_comes_back_from_its_frame() {
        let sent = GuestMessage::Event(Event::ProcessExited {
            container: "c1".into(),
            process: "p".into(),
            status: ExitStatus::Signaled(9),
            oom_killed: true,
            at_ns: 12,
        });
        let frame = encode(&sent, MAX_GUEST_FRAME).unwrap();
        let (header, payload) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
        assert_eq!(frame_length(*header, MAX_GUEST_FRAME).unwrap(), payload.len());
        assert_eq!(decode::<GuestMessage>(payload).unwrap(), sent);
    }

    #[test]
    fn refuses_a_length_over_the_limit_before_reading() {
        assert!(matches!(
            frame_length(u32::MAX.to_le_bytes(), MAX_GUEST_FRAME),
            Err(FrameError::TooLarge { .. })
        ));
        assert!(matches!(frame_length([0; 4], 10), Err(FrameError::Empty)));
    }

    #[test]
    fn refuses_to_make_a_frame_over_the_limit() {
        let message =
            HostMessage { id: 1, request: Request::StartContainer { container: "x".repeat(100) } };
        assert!(matches!(encode(&message, 50), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn refuses_bytes_behind_the_message() {
        let mut frame = encode(&HostMessage { id: 1, request: Request::Sync }, 100).unwrap();
        frame.push(0);
        assert!(matches!(
            decode::<HostMessage>(&frame[HEADER_BYTES..]),
            Err(FrameError::Trailing { extra: 1 })
        ));
    }

    #[test]
    fn the_largest_reports_fit_a_frame() {
        let process = |command: usize| ProcessInfo {
            pid: u32::MAX,
            parent: u32::MAX,
            uid: u32::MAX,
            started_ns: u64::MAX,
            cpu_ns: u64::MAX,
            terminal: u32::MAX,
            command: "x".repeat(command),
        };
        let mut processes =
            vec![process(MAX_LISTED_BYTES / MAX_LISTED_PROCESSES); MAX_LISTED_PROCESSES];
        processes.push(process(MAX_COMMAND));
        let list = Reply::Processes(ProcessList { processes, more: true, at_ns: u64::MAX });
        let name = "x".repeat(MAX_COUNTER_NAME);
        let counters = vec![Counter { name: name.clone(), value: u64::MAX }; MAX_COUNTERS];
        let mut statistics = Statistics::default();
        statistics.memory.stat = counters.clone();
        statistics.memory.events = counters;
        let device = IoStatistics {
            major: u32::MAX,
            minor: u32::MAX,
            read_bytes: u64::MAX,
            written_bytes: u64::MAX,
            discarded_bytes: u64::MAX,
            reads: u64::MAX,
            writes: u64::MAX,
            discards: u64::MAX,
        };
        statistics.io = vec![device; MAX_COUNTERS];
        let pages = HugePageStatistics {
            size: name,
            usage: u64::MAX,
            limit: Some(u64::MAX),
            failures: u64::MAX,
        };
        statistics.huge_pages = vec![pages; MAX_COUNTERS];
        for reply in [list, Reply::Statistics(statistics.into())] {
            let sent = GuestMessage::Reply { id: u64::MAX, result: Ok(reply) };
            let frame = encode(&sent, MAX_GUEST_FRAME).unwrap();
            assert_eq!(decode::<GuestMessage>(&frame[HEADER_BYTES..]).unwrap(), sent);
        }
    }

    proptest! {
        #[test]
        fn a_process_list_comes_back_from_its_frame(
            pids in proptest::collection::vec(any::<u32>(), 0..64),
            command in ".{0,200}",
            more: bool,
            kills: u64,
        ) {
            let processes = pids.into_iter().map(|pid| ProcessInfo {
                pid, command: command.clone(), ..ProcessInfo::default()
            }).collect();
            let list = Reply::Processes(ProcessList { processes, more, at_ns: kills });
            let event = Event::OutOfMemory { container: command, kills, at_ns: 1 };
            for sent in
                [GuestMessage::Reply { id: 1, result: Ok(list) }, GuestMessage::Event(event)]
            {
                let frame = encode(&sent, MAX_GUEST_FRAME).unwrap();
                prop_assert_eq!(decode::<GuestMessage>(&frame[HEADER_BYTES..]).unwrap(), sent);
            }
        }

        #[test]
        fn any_bytes_are_refused_or_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            drop(decode::<GuestMessage>(&bytes));
            drop(decode::<HostMessage>(&bytes));
        }
    }
}
