//! The keyboard controller, of which only the CPU reset line is there: `reboot=k` in a guest.

use crate::bus::BusDevice;

/// First port.
pub const I8042_BASE: u64 = 0x60;
/// Number of ports: data at 0, command and status at 4.
pub const I8042_SIZE: u64 = 5;

const COMMAND: u64 = 4;
/// Pulses the reset line.
const RESET_CPU: u8 = 0xfe;

/// Calls back when the guest resets its CPU.
///
/// All reads give 0: the status says that the input buffer is empty, so a guest that waits for
/// that before it sends the command does not wait.
pub struct I8042Reset<F> {
    on_reset: F,
}

impl<F: Fn() + Send + Sync> I8042Reset<F> {
    /// `on_reset` runs on the vCPU's thread, each time the guest asks.
    pub fn new(on_reset: F) -> Self {
        Self { on_reset }
    }
}

impl<F: Fn() + Send + Sync> BusDevice for I8042Reset<F> {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == COMMAND && data == [RESET_CPU] {
            (self.on_reset)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn calls_back_when_the_reset_command_is_written() {
        let resets = AtomicU32::new(0);
        let device = I8042Reset::new(|| {
            resets.fetch_add(1, Ordering::Relaxed);
        });
        for (offset, data) in [(0, &[0xfe][..]), (4, &[0xff]), (4, &[]), (4, &[0xfe, 0xfe])] {
            device.write(offset, data);
        }
        assert_eq!(resets.load(Ordering::Relaxed), 0);
        device.write(4, &[0xfe]);
        assert_eq!(resets.load(Ordering::Relaxed), 1);
        let mut status = [0];
        device.read(4, &mut status);
        assert_eq!(status, [0]);
    }
}
