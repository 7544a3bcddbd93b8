//! The config side.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::backend::{Backend, Link, Offloads};
use super::filter::Filter;
use super::state::NetState;
use super::worker::{Accepted, NetWorker, Rules};
use super::{QUEUE_SIZE, RECEIVE_QUEUE, TRANSMIT_QUEUE, feature};
use crate::event_loop::{EventLoop, WorkerHandle};
use crate::limits::Limits;
use crate::rate::Rate;
use crate::virtio::spec::{self, device_type};
use crate::virtio::state::DeviceState;
use crate::virtio::{
    ActivateError, Activation, DeviceSignal, VirtioDevice, Virtqueue, read_config_bytes,
};

/// What a network device is made of.
#[derive(Debug)]
pub struct NetSpec {
    /// Where frames go and come from.
    pub backend: Backend,
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

/// Bit of the status (§5.1.4).
const LINK_UP: u8 = 1;

/// What config side, worker and handle share.
#[derive(Default)]
pub(super) struct Shared {
    is_down: AtomicBool,
    /// While a driver is there.
    signal: Mutex<Option<Arc<DeviceSignal>>>,
}

impl Shared {
    /// The link is down for good; the driver is told.
    pub(super) fn set_down(&self) {
        if !self.is_down.swap(true, Ordering::AcqRel) {
            let signal = self.signal.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(signal) = signal.as_ref() {
                signal.config_changed();
            }
        }
    }

    fn set_signal(&self, signal: Option<Arc<DeviceSignal>>) {
        *self.signal.lock().unwrap_or_else(PoisonError::into_inner) = signal;
    }
}

/// Tells a device of its network, from any thread.
#[derive(Clone)]
pub struct NetHandle(Arc<Shared>);

impl NetHandle {
    /// What the device was connected to is gone.
    pub fn unplug(&self) {
        self.0.set_down();
    }
}

/// A network device.
pub struct Net {
    /// While no worker has it.
    link: Option<Link>,
    /// Features by which the other side makes checksums and segments.
    offloads: u64,
    mac: [u8; 6],
    mtu: u16,
    filter: Filter,
    sent: FrameRate,
    received: FrameRate,
    shared: Arc<Shared>,
    event_loop: Arc<EventLoop>,
    worker: Option<WorkerHandle<NetWorker>>,
}

impl Net {
    /// A device whose worker runs on `event_loop`.
    pub fn new(spec: NetSpec, event_loop: Arc<EventLoop>) -> Self {
        let NetSpec { backend, mac, mtu, filter, sent, received } = spec;
        let offloads = offloads(&backend);
        let link = Some(Link::new(backend));
        let (shared, worker) = (Arc::default(), None);
        Self { link, offloads, mac, mtu, filter, sent, received, shared, event_loop, worker }
    }

    /// What tells it of its network.
    pub fn handle(&self) -> NetHandle {
        NetHandle(self.shared.clone())
    }

    /// The configuration space (§5.1.4): what the offered features make valid, the rest zero.
    fn config(&self) -> [u8; 12] {
        let mut config = [0; 12];
        let status = if self.shared.is_down.load(Ordering::Acquire) { 0 } else { LINK_UP };
        let [m0, m1] = self.mtu.to_le_bytes();
        let values = self.mac.into_iter().chain([status, 0, 0, 0, m0, m1]);
        config.iter_mut().zip(values).for_each(|(to, from)| *to = from);
        config
    }
}

/// What can be left to the other side of a link.
fn offloads(backend: &Backend) -> u64 {
    const TCP: u64 = feature::CSUM
        | feature::GUEST_CSUM
        | feature::GUEST_TSO4
        | feature::GUEST_TSO6
        | feature::HOST_TSO4
        | feature::HOST_TSO6;
    const UDP: u64 = feature::GUEST_USO4 | feature::GUEST_USO6 | feature::HOST_USO;
    match backend {
        Backend::Tap { uso: true, .. } => TCP | UDP,
        Backend::Tap { uso: false, .. } => TCP,
        Backend::Stream(_) => 0,
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
            | feature::MTU
            | feature::MAC
            | feature::MRG_RXBUF
            | feature::STATUS
            | self.offloads
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let receive = activation.take_queue(RECEIVE_QUEUE)?;
        let transmit = activation.take_queue(TRANSMIT_QUEUE)?;
        let offloads = Offloads {
            csum: activation.has_feature(feature::GUEST_CSUM),
            tso4: activation.has_feature(feature::GUEST_TSO4),
            tso6: activation.has_feature(feature::GUEST_TSO6),
            uso: activation.has_feature(feature::GUEST_USO4 | feature::GUEST_USO6),
        };
        let accepted = Accepted { merged: activation.has_feature(feature::MRG_RXBUF), offloads };
        let queues = (receive, transmit);
        let limits = |FrameRate { packets, bytes }| Limits::new(packets, bytes);
        let sent = limits(self.sent).map_err(ActivateError::Worker)?;
        let received = limits(self.received).map_err(ActivateError::Worker)?;
        let rules = Rules { mac: self.mac, filter: self.filter.clone(), sent, received };
        let no_backend = ActivateError::NoBackend { reason: "its network has not come back" };
        let mut link = self.link.take().ok_or(no_backend)?;
        link.leave_to_reader(offloads);
        self.shared.set_signal(Some(activation.signal));
        let line = (link, self.shared.clone());
        let worker = NetWorker::new(queues, activation.memory, line, rules, accepted);
        self.worker = Some(self.event_loop.start(worker).map_err(ActivateError::Worker)?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<Virtqueue> {
        self.shared.set_signal(None);
        let Some(worker) = self.worker.take().and_then(WorkerHandle::stop) else {
            return Vec::new();
        };
        let (queues, link) = worker.into_parts();
        self.link = Some(link);
        queues.into()
    }

    fn save(&self) -> DeviceState {
        let Self {
            link: _,
            offloads: _,
            mac,
            mtu,
            filter: _,
            sent: _,
            received: _,
            shared: _,
            event_loop: _,
            worker: _,
        } = self;
        DeviceState::Net(NetState { mac: *mac, mtu: *mtu })
    }
}
