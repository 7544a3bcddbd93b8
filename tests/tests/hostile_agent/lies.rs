//! What an agent can say, byte by byte: frames of postcard, as `guest-agent/protocol/schema` has them.

use integration_tests::initrd::installed;

/// The first port of a container's streams.
const FIRST_STREAM: u32 = 1 << 20;
/// Before the version in an agent's program.
const MARK: &[u8] = b"ringfence-agent protocol ";

/// The version that the installed agent speaks.
pub(crate) fn version() -> u64 {
    let agent = std::fs::read(installed("initrd.cpio")).unwrap();
    let at = agent.windows(MARK.len()).position(|bytes| bytes == MARK).expect("it has its mark");
    let digits = agent[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// The ids of the host's first requests; it counts.
pub(crate) const CONFIGURE: u64 = 0;
pub(crate) const CREATE: u64 = 1;
pub(crate) const START: u64 = 2;
/// The id of the first one that a command leads to.
pub(crate) const NEXT: u64 = 3;

/// What the agent does, one step after the other; silent after the last one.
#[derive(Clone, Default)]
pub(crate) struct Script(Vec<u8>);

impl Script {
    /// The bytes of `/script`.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// An agent that has said a true hello.
    pub(crate) fn hello() -> Self {
        Self::default().say(&frame(&hello(version(), "6.12.1")))
    }

    /// An agent that has been configured.
    pub(crate) fn configured() -> Self {
        Self::hello().wait(1).say(&frame(&reply(CONFIGURE, &DONE)))
    }

    /// An agent that has been asked for a container, and has connected its streams and ended them.
    pub(crate) fn streamed(output: &str) -> Self {
        Self::configured().wait(1).stream(0, output).stream(1, "")
    }

    /// An agent whose container runs.
    pub(crate) fn running(output: &str) -> Self {
        Self::streamed(output).created().wait(1).started()
    }

    pub(crate) fn created(self) -> Self {
        self.say(&frame(&reply(CREATE, &[0, 1, 17, 1])))
    }

    pub(crate) fn started(self) -> Self {
        self.say(&frame(&reply(START, &[0, 2, 17, 1])))
    }

    /// Reads so many of the host's frames.
    pub(crate) fn wait(self, frames: u32) -> Self {
        self.step(b'w', frames, 0, &[])
    }

    /// Sends bytes as they are.
    pub(crate) fn say(self, bytes: &[u8]) -> Self {
        self.say_often(bytes, 1)
    }

    pub(crate) fn say_often(self, bytes: &[u8], times: u32) -> Self {
        self.step(b's', count(bytes), times, bytes)
    }

    /// Connects to the port of the container's stream with this number, writes, and ends it.
    pub(crate) fn stream(self, number: u32, output: &str) -> Self {
        let output = output.as_bytes();
        self.step(b'c', count(output), FIRST_STREAM + number, output)
    }

    pub(crate) fn close(self) -> Self {
        self.step(b'x', 0, 0, &[])
    }

    fn step(mut self, what: u8, one: u32, two: u32, bytes: &[u8]) -> Self {
        self.0.push(what);
        self.0.extend_from_slice(&one.to_le_bytes());
        self.0.extend_from_slice(&two.to_le_bytes());
        self.0.extend_from_slice(bytes);
        self
    }
}

fn count(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

/// The reply without content.
pub(crate) const DONE: [u8; 2] = [0, 0];

fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&number(text.len().try_into().unwrap()), text.as_bytes()].concat()
}

/// With its length in front.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    [&count(message).to_le_bytes(), message].concat()
}

pub(crate) fn hello(version: u64, kernel: &str) -> Vec<u8> {
    [vec![0], number(version), vec![1, 2], text(kernel)].concat()
}

pub(crate) fn reply(id: u64, result: &[u8]) -> Vec<u8> {
    [vec![1], number(id), result.to_vec()].concat()
}

/// A result that is an error: a step that failed in the guest.
pub(crate) fn failed(message: &str) -> Vec<u8> {
    [vec![1, 5], text(message), vec![0]].concat()
}

/// The end of a process by itself.
pub(crate) fn exited(container: &str, process: &str, status: u8) -> Vec<u8> {
    [vec![2, 0], text(container), text(process), vec![0, status, 0, 1]].concat()
}

/// A kill for memory.
pub(crate) fn out_of_memory(container: &str, kills: u64) -> Vec<u8> {
    [vec![2, 1], text(container), number(kills), vec![1]].concat()
}

/// Two processes, the higher one first.
pub(crate) fn processes_out_of_order(id: u64) -> Vec<u8> {
    let process = |pid: u8| [&[pid, 1, 0, 1, 1, 0][..], &text("sh")].concat();
    reply(id, &[vec![0, 3, 2], process(9), process(3), vec![0, 1]].concat())
}
