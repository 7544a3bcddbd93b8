//! The config side.

use std::sync::Arc;

use super::handle::{Commands, VsockError, VsockHandle};
use super::state::VsockState;
use super::table::Table;
use super::worker::{Sockets, VsockWorker};
use super::{EVENT_QUEUE, QUEUE_SIZES, RX_QUEUE, TX_QUEUE};
use crate::event_loop::{EventLoop, WorkerHandle};
use crate::virtio::spec::{device_type, feature};
use crate::virtio::state::DeviceState;
use crate::virtio::{ActivateError, Activation, VirtioDevice, Virtqueue, read_config_bytes};

/// The socket device.
pub struct Vsock {
    guest_cid: u64,
    event_loop: Arc<EventLoop>,
    /// Here while no worker has them.
    sockets: Option<Sockets>,
    worker: Option<WorkerHandle<VsockWorker>>,
}

impl Vsock {
    /// A device for the guest with address `guest_cid` (at least 3), whose worker runs on
    /// `event_loop`, and the host side's handle to it.
    ///
    /// # Errors
    /// The address is reserved, or no descriptor is left.
    pub fn new(
        guest_cid: u64,
        event_loop: Arc<EventLoop>,
    ) -> Result<(Self, VsockHandle), VsockError> {
        if !VsockState::is_guest_cid(guest_cid) {
            return Err(VsockError::ReservedCid { cid: guest_cid });
        }
        let (handle, commands) = Commands::channel()?;
        let sockets = Sockets { table: Table::new(guest_cid), commands, announce_reset: false };
        Ok((Self { guest_cid, event_loop, sockets: Some(sockets), worker: None }, handle))
    }

    /// A device that continues a saved one, with none of its connections. The driver is told.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn restore(
        state: &VsockState,
        event_loop: Arc<EventLoop>,
    ) -> Result<(Self, VsockHandle), VsockError> {
        let VsockState { guest_cid } = *state;
        let (mut device, handle) = Self::new(guest_cid, event_loop)?;
        if let Some(sockets) = &mut device.sockets {
            sockets.announce_reset = true;
        }
        Ok((device, handle))
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        device_type::VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    // §5.10.3: with no feature of the device's own, stream sockets are what there is.
    fn features(&self) -> u64 {
        feature::RING_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let rx = activation.take_queue(RX_QUEUE)?;
        let tx = activation.take_queue(TX_QUEUE)?;
        let event = activation.take_queue(EVENT_QUEUE)?;
        let sockets = self
            .sockets
            .take()
            .ok_or(ActivateError::NoBackend { reason: "its sockets were lost with its worker" })?;
        let memory = activation.memory;
        let worker = VsockWorker { rx, tx, event, memory, sockets };
        self.worker = Some(self.event_loop.start(worker).map_err(ActivateError::Worker)?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<Virtqueue> {
        let Some(worker) = self.worker.take().and_then(WorkerHandle::stop) else {
            return Vec::new();
        };
        let VsockWorker { rx, tx, event, memory: _, sockets } = worker;
        self.sockets = Some(sockets);
        vec![rx, tx, event]
    }

    fn reset(&mut self) {
        if let Some(sockets) = &mut self.sockets {
            sockets.table.clear();
            sockets.announce_reset = false;
        }
    }

    fn save(&self) -> DeviceState {
        let Self { guest_cid, event_loop: _, sockets: _, worker: _ } = self;
        DeviceState::Vsock(VsockState { guest_cid: *guest_cid })
    }
}
