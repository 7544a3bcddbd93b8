//! How a driver reaches a device: virtio over MMIO, the only transport there is.

pub mod mmio;
mod status;

#[cfg(test)]
mod tests;
