//! The config side.

use std::fs::File;
use std::sync::Arc;

use super::filter::Filter;
use super::state::NetState;
use super::worker::{Accepted, NetWorker, Rules};
use super::{QUEUE_SIZE, RECEIVE_QUEUE, TRANSMIT_QUEUE, feature};
use crate::event_loop::{EventLoop, WorkerHandle};
use crate::limits::Limits;
use crate::rate::Rate;
use crate::virtio::spec::{self, device_type};
use crate::virtio::state::DeviceState;
use crate::virtio::{ActivateError, Activation, VirtioDevice, Virtqueue, read_config_bytes};

/// What a network device is made of.
#[derive(Debug)]
pub struct NetSpec {
    /// A tap (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR) that does not block, with a header of
    /// [`super::HEADER_SIZE`] bytes, and with checksums and TCP segmentation left to its reader
    /// (TUNSETOFFLOAD: TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6).
    pub tap: File,
    /// The guest's address.
    pub mac: [u8; 6],
    /// Bytes of the largest packet.
    pub mtu: u16,
    /// What the guest may send.
    pub filter: Filter,
    /// How much the guest may send.
    pub sent: FrameRate,
    /// How much it may receive.
    pub received: FrameRate,
}

/// How much may go in one direction; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameRate {
    /// Packets; one that is segmented later counts as its segments.
    pub packets: Option<Rate>,
    /// Bytes of frames.
    pub bytes: Option<Rate>,
}

/// A network device.
pub struct Net {
    tap: Arc<File>,
    mac: [u8; 6],
    mtu: u16,
    filter: Filter,
    sent: FrameRate,
    received: FrameRate,
    event_loop: Arc<EventLoop>,
    worker: Option<WorkerHandle<NetWorker>>,
}

impl Net {
    /// A device whose worker runs on `event_loop`.
    pub fn new(spec: NetSpec, event_loop: Arc<EventLoop>) -> Self {
        let NetSpec { tap, mac, mtu, filter, sent, received } = spec;
        let tap = Arc::new(tap);
        Self { tap, mac, mtu, filter, sent, received, event_loop, worker: None }
    }

    /// The configuration space (§5.1.4): what the offered features make valid, the rest zero.
    fn config(&self) -> [u8; 12] {
        let mut config = [0; 12];
        let [m0, m1] = self.mtu.to_le_bytes();
        let values = self.mac.into_iter().chain([0; 4]).chain([m0, m1]);
        config.iter_mut().zip(values).for_each(|(to, from)| *to = from);
        config
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        device_type::NETWORK
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        spec::feature::RING_EVENT_IDX
            | spec::feature::RING_INDIRECT_DESC
            | feature::CSUM
            | feature::GUEST_CSUM
            | feature::MTU
            | feature::MAC
            | feature::GUEST_TSO4
            | feature::GUEST_TSO6
            | feature::HOST_TSO4
            | feature::HOST_TSO6
            | feature::MRG_RXBUF
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let receive = activation.take_queue(RECEIVE_QUEUE)?;
        let transmit = activation.take_queue(TRANSMIT_QUEUE)?;
        let segments = feature::GUEST_TSO4 | feature::GUEST_TSO6;
        let accepted = Accepted {
            merged: activation.has_feature(feature::MRG_RXBUF),
            unfinished: activation.has_feature(feature::GUEST_CSUM),
            segments: activation.has_feature(segments),
        };
        let queues = (receive, transmit);
        let limits = |FrameRate { packets, bytes }| Limits::new(packets, bytes);
        let sent = limits(self.sent).map_err(ActivateError::Worker)?;
        let received = limits(self.received).map_err(ActivateError::Worker)?;
        let rules = Rules { mac: self.mac, filter: self.filter.clone(), sent, received };
        let worker = NetWorker::new(queues, activation.memory, self.tap.clone(), rules, accepted);
        self.worker = Some(self.event_loop.start(worker).map_err(ActivateError::Worker)?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<Virtqueue> {
        let worker = self.worker.take().and_then(WorkerHandle::stop);
        worker.map(NetWorker::into_queues).into_iter().flatten().collect()
    }

    fn save(&self) -> DeviceState {
        let Self { tap: _, mac, mtu, filter: _, sent: _, received: _, event_loop: _, worker: _ } =
            self;
        DeviceState::Net(NetState { mac: *mac, mtu: *mtu })
    }
}
