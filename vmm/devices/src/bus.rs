//! Dispatch of port and MMIO accesses to the device that owns the address.

use std::sync::Arc;

/// A device that answers accesses to a range of ports or of physical addresses.
///
/// Called by vCPU threads, several at once; the guest chooses offset, length and data.
pub trait BusDevice: Send + Sync {
    /// Reads `data.len()` bytes at `offset` from the start of the range. `data` comes in as
    /// zeros, which is what an access that the device does not know leaves behind.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes `data` at `offset` from the start of the range.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Why a device could not be put on a bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The range has no bytes or goes past the last address.
    #[error("the range of {size:#x} addresses from {base:#x} is empty or leaves the address space")]
    BadRange {
        /// First address.
        base: u64,
        /// Number of addresses.
        size: u64,
    },
    /// Another device has some of the addresses.
    #[error("the range of {size:#x} addresses from {base:#x} overlaps the one from {other:#x}")]
    Overlap {
        /// First address.
        base: u64,
        /// Number of addresses.
        size: u64,
        /// First address of the range that was there before.
        other: u64,
    },
}

struct Range {
    base: u64,
    last: u64,
    device: Arc<dyn BusDevice>,
}

/// An address space (ports, or physical addresses outside memory) with devices in it.
///
/// It is filled before the first vCPU runs and only read afterwards, so lookups take no lock.
#[derive(Default)]
pub struct Bus {
    /// Sorted by base, without overlaps.
    ranges: Vec<Range>,
}

impl Bus {
    /// A bus with no devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the `size` addresses from `base` to `device`.
    ///
    /// # Errors
    /// The range is empty, leaves the address space, or overlaps another.
    pub fn insert(
        &mut self,
        base: u64,
        size: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), BusError> {
        let last = size
            .checked_sub(1)
            .and_then(|span| base.checked_add(span))
            .ok_or(BusError::BadRange { base, size })?;
        if let Some(other) = self.ranges.iter().find(|r| r.base <= last && base <= r.last) {
            return Err(BusError::Overlap { base, size, other: other.base });
        }
        let position = self.ranges.partition_point(|r| r.base < base);
        self.ranges.insert(position, Range { base, last, device });
        Ok(())
    }

    /// Reads from the device at `address`. Where there is none, `data` becomes all ones, as on a
    /// bus that nobody drives, and the answer is `false`.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match self.find(address, data.len()) {
            Some((device, offset)) => {
                data.fill(0);
                device.read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// Writes to the device at `address`; `false` if there is none and the write was dropped.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.find(address, data.len()) {
            Some((device, offset)) => {
                device.write(offset, data);
                true
            }
            None => false,
        }
    }

    /// The device that owns all `len` addresses from `address`, and the offset in its range.
    fn find(&self, address: u64, len: usize) -> Option<(&dyn BusDevice, u64)> {
        let end = address.checked_add(u64::try_from(len).ok()?.checked_sub(1)?)?;
        let after = self.ranges.partition_point(|r| r.base <= address);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        if end > range.last {
            return None;
        }
        Some((range.device.as_ref(), address.checked_sub(range.base)?))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data[0] = u8::try_from(offset).unwrap();
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn dispatches_by_range_when_ranges_touch() {
        let mut bus = Bus::new();
        let (low, high) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
        bus.insert(0x20, 0x10, high.clone()).unwrap();
        bus.insert(0x10, 0x10, low.clone()).unwrap();
        assert!(bus.write(0x1f, &[1]));
        assert!(bus.write(0x20, &[2]));
        assert_eq!(*low.0.lock().unwrap(), [(0xf, vec![1])]);
        assert_eq!(*high.0.lock().unwrap(), [(0, vec![2])]);
        let mut data = [9; 2];
        assert!(bus.read(0x25, &mut data));
        assert_eq!(data, [5, 0]);
    }

    #[test]
    fn floats_high_when_nobody_owns_all_of_the_access() {
        let mut bus = Bus::new();
        bus.insert(0x10, 0x10, Arc::new(Recorder::default())).unwrap();
        for (address, len) in [(0, 1), (0xf, 2), (0x1f, 2), (0x20, 1), (u64::MAX, 8)] {
            let mut data = vec![0; len];
            assert!(!bus.read(address, &mut data), "{address:#x}+{len}");
            assert_eq!(data, vec![0xff; len]);
            assert!(!bus.write(address, &data));
        }
        assert!(!bus.write(0x10, &[]));
    }

    #[test]
    fn refuses_when_ranges_overlap_or_wrap() {
        let mut bus = Bus::new();
        let device = Arc::new(Recorder::default());
        bus.insert(0x10, 0x10, device.clone()).unwrap();
        for (base, size) in [(0x1f, 1), (0, 0x11), (0x12, 2), (0, 0x100)] {
            let result = bus.insert(base, size, device.clone());
            assert!(matches!(result, Err(BusError::Overlap { other: 0x10, .. })));
        }
        for (base, size) in [(0, 0), (u64::MAX, 2)] {
            let result = bus.insert(base, size, device.clone());
            assert!(matches!(result, Err(BusError::BadRange { .. })));
        }
        bus.insert(u64::MAX, 1, device).unwrap();
    }
}
