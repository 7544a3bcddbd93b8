//! The config side.

use std::io;
use std::sync::Arc;

use file_server::Server;

use super::state::{FsState, WaitingState};
use super::worker::{FsThread, FsWorker, Stopped};
use super::{
    FIRST_REQUEST_QUEUE, HIPRIO_QUEUE, HIPRIO_QUEUE_SIZE, MAX_REQUEST_QUEUES, REQUEST_QUEUE_SIZE,
    TAG_SIZE,
};
use crate::event_loop::ThreadHook;
use crate::virtio::spec::{device_type, feature};
use crate::virtio::state::DeviceState;
use crate::virtio::{ActivateError, Activation, VirtioDevice, Virtqueue, read_config_bytes};

/// How a device presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsConfig {
    /// The name by which the guest mounts the file system: 1 to 36 bytes, no NUL.
    pub tag: String,
    /// Request queues, 1 to 32, each with a thread. Linux uses no more than it has CPUs.
    pub queues: u8,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum FsConfigError {
    /// The tag does not fit the configuration space.
    #[error("the tag {0:?} does not have 1 to {TAG_SIZE} bytes without NUL")]
    Tag(String),
    /// The number of queues is out of range.
    #[error("{0} request queues are not between 1 and {MAX_REQUEST_QUEUES}")]
    Queues(u8),
    /// The host has no descriptor or thread left.
    #[error("a request queue cannot have a thread")]
    Thread(#[source] io::Error),
}

/// The file system device.
pub struct Fs {
    server: Arc<Server>,
    /// The configuration space (§5.11.4): the tag, padded with NULs, and the number of queues.
    space: Vec<u8>,
    queue_sizes: Vec<u16>,
    /// One for each request queue, whether the driver uses it or not.
    threads: Vec<FsThread>,
    /// Requests that wait, while no thread has them.
    waiting: Vec<WaitingState>,
}

impl Fs {
    /// A device in front of `server`, with its threads. `hook` runs on each of them before the first
    /// request and after the thread has become a worker of the server.
    ///
    /// # Errors
    /// [`FsConfigError`] if the driver could not see the configuration as it is meant, or the host has
    /// no threads.
    pub fn new(
        config: &FsConfig,
        server: Arc<Server>,
        hook: Option<ThreadHook>,
    ) -> Result<Self, FsConfigError> {
        let FsConfig { tag, queues } = config;
        let bytes = tag.as_bytes();
        if bytes.is_empty() || bytes.len() > TAG_SIZE || bytes.contains(&0) {
            return Err(FsConfigError::Tag(tag.clone()));
        }
        if !(1..=MAX_REQUEST_QUEUES).contains(queues) {
            return Err(FsConfigError::Queues(*queues));
        }
        let mut space = bytes.to_vec();
        space.resize(TAG_SIZE, 0);
        space.extend_from_slice(&u32::from(*queues).to_le_bytes());
        let requests = std::iter::repeat_n(REQUEST_QUEUE_SIZE, usize::from(*queues));
        let queue_sizes = std::iter::once(HIPRIO_QUEUE_SIZE).chain(requests).collect();
        let thread = |number| FsThread::spawn(&server, format!("fs-{number}"), hook.clone());
        let threads =
            (0..*queues).map(thread).collect::<Result<_, _>>().map_err(FsConfigError::Thread)?;
        Ok(Self { server, space, queue_sizes, threads, waiting: Vec::new() })
    }

    /// The device of a saved state, whose server has been restored, with the requests that waited.
    #[must_use]
    pub fn with_waiting(mut self, waiting: Vec<WaitingState>) -> Self {
        self.waiting = waiting;
        self
    }

    /// The queues of each thread: a request queue, the first one with the high-priority queue. A
    /// driver may leave out all request queues but the first.
    fn share_out(&self, activation: &mut Activation) -> Result<Vec<Vec<Virtqueue>>, ActivateError> {
        let hiprio = activation.take_queue(HIPRIO_QUEUE)?;
        let first = activation.take_queue(FIRST_REQUEST_QUEUE)?;
        let mut groups = vec![vec![hiprio, first]];
        let next = FIRST_REQUEST_QUEUE.saturating_add(1);
        let end = u16::try_from(self.queue_sizes.len()).unwrap_or(u16::MAX);
        for index in next..end {
            groups.extend(activation.take_optional_queue(index).map(|queue| vec![queue]));
        }
        Ok(groups)
    }
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> u32 {
        device_type::FS
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    // Indirect tables: a request of a megabyte has 260 buffers, of which a ring would hold one.
    fn features(&self) -> u64 {
        feature::RING_EVENT_IDX | feature::RING_INDIRECT_DESC
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.space, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let groups = self.share_out(&mut activation)?;
        for (thread, queues) in self.threads.iter_mut().zip(groups) {
            let of_queues = |one: &mut WaitingState| {
                queues.iter().any(|queue: &Virtqueue| queue.index() == one.queue)
            };
            let waiting = self.waiting.extract_if(.., of_queues).collect();
            let memory = Arc::clone(&activation.memory);
            thread.start(FsWorker { memory, queues, waiting }).map_err(ActivateError::Worker)?;
        }
        Ok(())
    }

    fn stop(&mut self) -> Vec<Virtqueue> {
        let mut all = Vec::new();
        for thread in &mut self.threads {
            let Stopped { queues, waiting } = thread.stop();
            all.extend(queues);
            self.waiting.extend(waiting);
        }
        all
    }

    fn reset(&mut self) {
        self.waiting.clear();
        self.server.reset();
    }

    fn save(&self) -> DeviceState {
        DeviceState::Fs(FsState { server: self.server.save(), waiting: self.waiting.clone() })
    }
}
