//! Numbers of the virtio specification, version 1.2, that more than one device needs.

/// Device status bits (§2.1).
pub mod status {
    /// The driver has found the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is ready; queues are live.
    pub const DRIVER_OK: u32 = 4;
    /// Feature negotiation is done.
    pub const FEATURES_OK: u32 = 8;
    /// The device has met an error that only a reset mends.
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    /// The driver has given up.
    pub const FAILED: u32 = 128;
}

/// Feature bits that belong to the transport or the ring (§6), as masks.
pub mod feature {
    /// Descriptors may refer to a table of descriptors (§2.7.5.3).
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Both sides say from which index on they want to be notified (§2.7.7, §2.7.10).
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device; required.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Bits of the interrupt status register (§4.2.2).
pub mod interrupt {
    /// A queue has used buffers.
    pub const USED_BUFFER: u32 = 1;
    /// The configuration, or the device status, has changed.
    pub const CONFIG_CHANGE: u32 = 2;
}

/// Device types (§5).
pub mod device_type {
    /// Network device.
    pub const NETWORK: u32 = 1;
    /// Block device.
    pub const BLOCK: u32 = 2;
    /// Entropy device.
    pub const ENTROPY: u32 = 4;
    /// Memory balloon.
    pub const BALLOON: u32 = 5;
    /// Socket device.
    pub const VSOCK: u32 = 19;
    /// File system device.
    pub const FS: u32 = 26;
}
