//! The config side.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::backend::{Backend, Link, Offloads};
use super::control::ControlWorker;
use super::filter::Filter;
use super::pairs::Pairs;
use super::state::NetState;
use super::worker::{Accepted, NetWorker, Rules};
use super::{CONTROL_QUEUE_SIZE, MAX_PAIRS, PAIR, QUEUE_SIZE, feature};
use crate::event_loop::{EventLoop, WorkerHandle};
use crate::limits::Limits;
use crate::memory::GuestRam;
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
    /// Of each pair of queues, while no worker has it.
    links: Vec<Option<Link>>,
    pairs: Arc<Pairs>,
    queue_sizes: Vec<u16>,
    /// Features by which the other side makes checksums and segments.
    offloads: u64,
    mac: [u8; 6],
    mtu: u16,
    filter: Filter,
    sent: FrameRate,
    received: FrameRate,
    shared: Arc<Shared>,
    event_loops: Vec<Arc<EventLoop>>,
    /// With the number of its pair.
    workers: Vec<(usize, WorkerHandle<NetWorker>)>,
    control: Option<WorkerHandle<ControlWorker>>,
}

impl Net {
    /// A device with a pair of queues for each descriptor of its back end, at most [`MAX_PAIRS`], whose
    /// workers run on these loops, one for each pair.
    pub fn new(spec: NetSpec, event_loops: Vec<Arc<EventLoop>>) -> Self {
        let NetSpec { backend, mac, mtu, filter, sent, received } = spec;
        let offloads = offloads(&backend);
        let mut links = Link::all(backend);
        links.truncate(MAX_PAIRS.min(event_loops.len()));
        let pairs = Arc::new(Pairs::new(links.iter().skip(1).filter_map(Link::tap)));
        let mut queue_sizes = vec![QUEUE_SIZE; links.len().saturating_mul(PAIR.into())];
        if links.len() > 1 {
            queue_sizes.push(CONTROL_QUEUE_SIZE);
        }
        Self {
            links: links.into_iter().map(Some).collect(),
            pairs,
            queue_sizes,
            offloads,
            mac,
            mtu,
            filter,
            sent,
            received,
            shared: Arc::default(),
            event_loops,
            workers: Vec::new(),
            control: None,
        }
    }

    /// The device that `state` was taken from, connected to the network anew.
    ///
    /// # Errors
    /// Its driver uses more pairs of queues than there are, or one cannot be attached.
    pub fn restore(
        state: &NetState,
        spec: NetSpec,
        event_loops: Vec<Arc<EventLoop>>,
    ) -> io::Result<Self> {
        let NetState { mac, mtu, pairs } = *state;
        let device = Self::new(NetSpec { mac, mtu, ..spec }, event_loops);
        let count = device.links.len();
        if pairs == 0 || usize::from(pairs) > count {
            let problem = format!("its driver uses {pairs} pairs of queues of {count}");
            return Err(io::Error::other(problem));
        }
        device.pairs.ask(pairs)?;
        Ok(device)
    }

    /// What tells it of its network.
    pub fn handle(&self) -> NetHandle {
        NetHandle(self.shared.clone())
    }

    /// Pairs of queues, at most [`MAX_PAIRS`].
    fn count(&self) -> u16 {
        u16::try_from(self.links.len()).unwrap_or(u16::MAX)
    }

    /// The configuration space (§5.1.4): what the offered features make valid, the rest zero.
    fn config(&self) -> [u8; 12] {
        let mut config = [0; 12];
        let status = if self.shared.is_down.load(Ordering::Acquire) { 0 } else { LINK_UP };
        let [p0, p1] = if self.count() > 1 { self.count().to_le_bytes() } else { [0, 0] };
        let [m0, m1] = self.mtu.to_le_bytes();
        let values = self.mac.into_iter().chain([status, 0, p0, p1, m0, m1]);
        config.iter_mut().zip(values).for_each(|(to, from)| *to = from);
        config
    }

    /// Starts the worker of a pair on its loop.
    fn start(
        &mut self,
        pair: usize,
        queues: (Virtqueue, Virtqueue),
        memory: Arc<GuestRam>,
        rules: Rules,
        accepted: Accepted,
    ) -> Result<(), ActivateError> {
        let no_backend = ActivateError::NoBackend { reason: "its network has not come back" };
        let link = self.links.get_mut(pair).and_then(Option::take);
        let (Some(link), Some(event_loop)) = (link, self.event_loops.get(pair)) else {
            return Err(no_backend);
        };
        let line = (link, self.shared.clone());
        let worker = NetWorker::new(self.pairs.lane(pair), queues, memory, line, rules, accepted);
        let handle = event_loop.start(worker).map_err(ActivateError::Worker)?;
        self.workers.push((pair, handle));
        Ok(())
    }

    /// Starts the worker of the control queue, beside the first pair's.
    fn start_control(
        &mut self,
        queue: Virtqueue,
        memory: Arc<GuestRam>,
        most: u16,
    ) -> Result<(), ActivateError> {
        let worker = ControlWorker::new(queue, memory, self.pairs.clone(), most);
        if let Some(event_loop) = self.event_loops.first() {
            let handle = event_loop.start(worker).map_err(ActivateError::Worker)?;
            self.control = Some(handle);
        }
        Ok(())
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
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let several = if self.count() > 1 { feature::CTRL_VQ | feature::MQ } else { 0 };
        spec::feature::RING_EVENT_IDX
            | spec::feature::RING_INDIRECT_DESC
            | feature::MTU
            | feature::MAC
            | feature::MRG_RXBUF
            | feature::STATUS
            | self.offloads
            | several
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let offloads = Offloads {
            csum: activation.has_feature(feature::GUEST_CSUM),
            tso4: activation.has_feature(feature::GUEST_TSO4),
            tso6: activation.has_feature(feature::GUEST_TSO6),
            uso: activation.has_feature(feature::GUEST_USO4 | feature::GUEST_USO6),
        };
        let accepted = Accepted { merged: activation.has_feature(feature::MRG_RXBUF), offloads };
        let has_control = activation.has_feature(feature::CTRL_VQ);
        let known =
            if activation.has_feature(feature::CTRL_VQ | feature::MQ) { self.count() } else { 1 };
        // §5.1.2: it comes behind all pairs that the driver knows of.
        let place = known.saturating_mul(PAIR);
        let control = has_control.then(|| activation.take_optional_queue(place)).flatten();
        let queues = take_pairs(&mut activation, known)?;
        let most = u16::try_from(queues.len()).unwrap_or(known);

        let limits = |FrameRate { packets, bytes }| Limits::new(packets, bytes);
        let sent = limits(self.sent).map_err(ActivateError::Worker)?;
        let received = limits(self.received).map_err(ActivateError::Worker)?;
        if let Some(Some(link)) = self.links.first_mut() {
            link.leave_to_reader(offloads);
        }
        self.shared.set_signal(Some(activation.signal));
        for (pair, queues) in queues.into_iter().enumerate() {
            let rules = Rules {
                mac: self.mac,
                filter: self.filter.clone(),
                sent: share(sent.as_ref())?,
                received: share(received.as_ref())?,
            };
            self.start(pair, queues, activation.memory.clone(), rules, accepted)?;
        }
        control.map_or(Ok(()), |queue| self.start_control(queue, activation.memory, most))
    }

    fn stop(&mut self) -> Vec<Virtqueue> {
        self.shared.set_signal(None);
        // First: it is the one that changes what the others do.
        let control = self.control.take().and_then(WorkerHandle::stop);
        let mut queues: Vec<_> = control.map(ControlWorker::into_queue).into_iter().collect();
        for (pair, worker) in self.workers.drain(..) {
            let Some(worker) = worker.stop() else { continue };
            let (own, link) = worker.into_parts();
            if let Some(place) = self.links.get_mut(pair) {
                *place = Some(link);
            }
            queues.extend(own);
        }
        queues
    }

    fn reset(&mut self) {
        self.pairs.reset();
    }

    fn save(&self) -> DeviceState {
        let Self {
            links: _,
            pairs,
            queue_sizes: _,
            offloads: _,
            mac,
            mtu,
            filter: _,
            sent: _,
            received: _,
            shared: _,
            event_loops: _,
            workers: _,
            control: _,
        } = self;
        DeviceState::Net(NetState { mac: *mac, mtu: *mtu, pairs: pairs.active() })
    }
}

/// The queues of the first pairs that the driver has set up: of one at least.
fn take_pairs(
    activation: &mut Activation,
    known: u16,
) -> Result<Vec<(Virtqueue, Virtqueue)>, ActivateError> {
    let first = (activation.take_queue(0)?, activation.take_queue(1)?);
    let mut pairs = vec![first];
    for pair in 1..known {
        let receive = pair.saturating_mul(PAIR);
        let queues = [receive, receive.saturating_add(1)];
        let [Some(receive), Some(transmit)] =
            queues.map(|queue| activation.take_optional_queue(queue))
        else {
            break;
        };
        pairs.push((receive, transmit));
    }
    Ok(pairs)
}

/// The same limits for one more worker.
fn share(limits: Option<&Limits>) -> Result<Option<Limits>, ActivateError> {
    limits.map(Limits::share).transpose().map_err(ActivateError::Worker)
}
