//! The kernel's command line.

use crate::arch::layout::{COMMAND_LINE_SIZE, MMIO_DEVICE_SIZE};

/// Why a command line cannot be given to a kernel.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// Linux would cut it.
    #[error(
        "the kernel command line has {bytes} bytes with its device entries; the kernel reads at \
         most {} of them",
        COMMAND_LINE_SIZE - 1
    )]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// A byte that is no part of a command line.
    #[error(
        "the kernel command line contains the byte {byte:#04x} at position {position}; use printable ASCII"
    )]
    BadByte {
        /// The byte.
        byte: u8,
        /// Its position.
        position: usize,
    },
}

/// A virtio-mmio device that the kernel is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// Its first address.
    pub address: u64,
    /// Its interrupt.
    pub irq: u32,
}

/// The command line with `devices` and the zero at its end. The order of `devices` is the order in
/// which the kernel finds them.
///
/// What follows `--` in a command line is for init, so the devices go before it.
///
/// # Errors
/// [`CmdlineError`].
pub fn build(given: &str, devices: &[MmioDevice]) -> Result<Vec<u8>, CmdlineError> {
    let bad = given.bytes().enumerate().find(|(_, byte)| !matches!(byte, b' '..=b'~'));
    if let Some((position, byte)) = bad {
        return Err(CmdlineError::BadByte { byte, position });
    }
    let (kernel, init) = split_at_init(given);
    let mut line = kernel.trim_end().to_owned();
    for device in devices {
        let MmioDevice { address, irq } = device;
        line.push_str(&format!(
            " virtio_mmio.device={}K@{address:#x}:{irq}",
            MMIO_DEVICE_SIZE / 1024
        ));
    }
    if !init.is_empty() {
        line.push(' ');
        line.push_str(init);
    }
    let mut bytes = line.trim_start().as_bytes().to_vec();
    if bytes.len() >= COMMAND_LINE_SIZE {
        return Err(CmdlineError::TooLong { bytes: bytes.len() });
    }
    bytes.push(0);
    Ok(bytes)
}

/// Splits before the word `--`, if there is one.
fn split_at_init(line: &str) -> (&str, &str) {
    let mut start = 0;
    for word in line.split_inclusive(' ') {
        if word.trim_end() == "--" {
            return line.split_at(start);
        }
        start += word.len();
    }
    (line, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: MmioDevice = MmioDevice { address: 0xd000_0000, irq: 5 };

    fn text(given: &str, devices: &[MmioDevice]) -> String {
        let mut bytes = build(given, devices).unwrap();
        assert_eq!(bytes.pop(), Some(0));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn appends_devices_in_order() {
        let second = MmioDevice { address: 0xd000_1000, irq: 6 };
        assert_eq!(
            text("console=ttyS0", &[DEVICE, second]),
            "console=ttyS0 virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6"
        );
        assert_eq!(text("", &[DEVICE]), "virtio_mmio.device=4K@0xd0000000:5");
        assert_eq!(text("quiet", &[]), "quiet");
    }

    #[test]
    fn keeps_arguments_of_init_behind_the_devices() {
        assert_eq!(
            text("quiet -- --x a--b", &[DEVICE]),
            "quiet virtio_mmio.device=4K@0xd0000000:5 -- --x a--b"
        );
        assert_eq!(text("a--b c", &[]), "a--b c");
    }

    #[test]
    fn refuses_what_the_kernel_would_cut() {
        assert!(build(&"x".repeat(2047), &[]).is_ok());
        assert_eq!(build(&"x".repeat(2048), &[]), Err(CmdlineError::TooLong { bytes: 2048 }));
        assert!(build(&"x".repeat(2040), &[DEVICE]).is_err());
    }

    #[test]
    fn refuses_bytes_that_would_end_or_break_it() {
        for (line, position) in [("a\0b", 1), ("a\nb", 1), ("ab\u{e9}", 2)] {
            let error = build(line, &[]).unwrap_err();
            assert!(matches!(error, CmdlineError::BadByte { position: p, .. } if p == position));
        }
    }
}
