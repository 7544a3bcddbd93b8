//! What both ends have compiled in. A change here is a change of the contract: raise
//! [`VERSION`], describe it in `docs/agent-protocol.md`, and add `schema/vN.*`.

use crate::{
    AGENT_MARK, AGENT_VERSION_MARK, CONTROL_PORT, FIRST_STREAM_PORT, HEADER_BYTES, INIT_PROCESS,
    MAX_COMMAND, MAX_COUNTER_NAME, MAX_COUNTERS, MAX_GUEST_FRAME, MAX_HOST_FRAME, MAX_LISTED_BYTES,
    MAX_LISTED_PROCESSES, MAX_NAME_MESSAGE, NAMES_PORT, SHARES_TAG, VERSION,
};

const _: () = {
    assert!(VERSION == 8, "schema/ and docs/agent-protocol.md describe version 8");
    assert!(
        AGENT_VERSION_MARK.len() == AGENT_MARK.len() + 2
            && AGENT_VERSION_MARK.as_bytes()[AGENT_MARK.len()] as u32 == b'0' as u32 + VERSION,
        "agents of version 8 carry its number"
    );
    assert!(CONTROL_PORT == 1024, "agents of version 8 connect to port 1024");
    assert!(NAMES_PORT == 1025, "hosts of version 8 listen for names at port 1025");
    assert!(MAX_NAME_MESSAGE == 4096, "hosts of version 8 take questions of 4 KiB");
    assert!(FIRST_STREAM_PORT == 1 << 20, "stream ports of version 8 begin at 1048576");
    assert!(CONTROL_PORT < FIRST_STREAM_PORT, "the control port must be no stream port");
    assert!(HEADER_BYTES == 4, "the length of a frame is a u32");
    assert!(MAX_HOST_FRAME == 4 << 20, "agents of version 8 take frames of 4 MiB");
    assert!(MAX_GUEST_FRAME == 256 << 10, "hosts of version 8 take frames of 256 KiB");
    assert!(MAX_HOST_FRAME <= u32::MAX as usize, "a frame's length has to fit its header");
    // Seven numbers of a process, of ten bytes at most each, and the longest names there can be.
    assert!(
        MAX_LISTED_PROCESSES * 80 + MAX_LISTED_BYTES + MAX_COMMAND <= MAX_GUEST_FRAME,
        "a list of processes has to fit a frame"
    );
    assert!(
        MAX_COUNTERS * (3 * (MAX_COUNTER_NAME + 44) + 80) + 1024 <= MAX_GUEST_FRAME,
        "statistics have to fit a frame"
    );
    assert!(INIT_PROCESS.is_empty(), "the first process of a container has no name");
    // virtio_fs_config (VIRTIO 1.2, 5.11.4): the tag has 36 bytes.
    assert!(!SHARES_TAG.is_empty() && SHARES_TAG.len() <= 36, "a virtio-fs tag has 36 bytes");
};
