//! A 16550 serial port that only sends: what the guest's kernel prints goes to a [`ConsoleLog`].

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, SerialState as PortState};

use super::console_log::ConsoleLog;
use crate::bus::BusDevice;
use crate::interrupt::Interrupt;

/// First port of COM1.
pub const SERIAL_BASE: u64 = 0x3f8;
/// Number of ports.
pub const SERIAL_SIZE: u64 = 8;
/// Interrupt line of COM1.
pub const SERIAL_IRQ: u32 = 4;

/// Bytes that the port's loop-back FIFO can hold (16550 data sheet).
const FIFO_SIZE: usize = 0x40;

/// The interrupt line, as `vm-superio` wants it.
struct Line(Option<Arc<dyn Interrupt>>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        if let Some(interrupt) = &self.0 {
            interrupt.trigger();
        }
        Ok(())
    }
}

type Port = vm_superio::Serial<Line, NoEvents, ConsoleLog>;

/// A serial port without input.
pub struct Serial {
    port: Mutex<Port>,
}

/// Why a saved serial port was not restored.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// More bytes in the FIFO than it holds.
    #[error("a saved serial port has {len} bytes in a FIFO of {FIFO_SIZE}")]
    Fifo {
        /// Bytes in the state.
        len: usize,
    },
}

/// The saved form: the 16550's registers and its loop-back FIFO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    /// Divisor latch, low byte.
    pub divisor_low: u8,
    /// Divisor latch, high byte.
    pub divisor_high: u8,
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// Interrupt identification register.
    pub interrupt_identification: u8,
    /// Line control register.
    pub line_control: u8,
    /// Line status register.
    pub line_status: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Modem status register.
    pub modem_status: u8,
    /// Scratch register.
    pub scratch: u8,
    /// Bytes looped back and not read.
    pub fifo: Vec<u8>,
}

impl Serial {
    /// A port that prints to `log` and interrupts through `interrupt`. A kernel console polls and
    /// needs no interrupt; a guest program that opens the port does.
    pub fn new(log: ConsoleLog, interrupt: Option<Arc<dyn Interrupt>>) -> Self {
        Self { port: Mutex::new(Port::new(Line(interrupt), log)) }
    }

    /// The port that `state` was taken from, printing to `log`.
    ///
    /// # Errors
    /// The state is not one that a port can have.
    pub fn restore(
        state: &SerialState,
        log: ConsoleLog,
        interrupt: Option<Arc<dyn Interrupt>>,
    ) -> Result<Self, SerialError> {
        let SerialState {
            divisor_low,
            divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            fifo,
        } = state.clone();
        let len = fifo.len();
        let state = PortState {
            baud_divisor_low: divisor_low,
            baud_divisor_high: divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer: fifo,
        };
        // The interrupt line cannot fail, so only the FIFO's length can be refused.
        let port = Port::from_state(&state, Line(interrupt), NoEvents, log)
            .map_err(|_| SerialError::Fifo { len })?;
        Ok(Self { port: Mutex::new(port) })
    }

    /// The port's state.
    pub fn save(&self) -> SerialState {
        let PortState {
            baud_divisor_low: divisor_low,
            baud_divisor_high: divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer: fifo,
        } = self.lock().state();
        SerialState {
            divisor_low,
            divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            fifo,
        }
    }

    /// Writes out a last line that has no end yet, for when the guest has stopped.
    pub fn flush(&self) {
        self.lock().writer_mut().write_line();
    }

    fn lock(&self) -> MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // The registers are a byte wide; other accesses read 0.
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self.lock().read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            // Neither the log nor the interrupt line reports failures.
            let _ = self.lock().write(offset, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::io::Seek;

    use super::*;
    use crate::legacy::ConsoleLimits;

    fn port() -> (Serial, File) {
        let file = tempfile::tempfile().unwrap();
        let log = ConsoleLog::new(file.try_clone().unwrap().into(), ConsoleLimits::default());
        (Serial::new(log, None), file)
    }

    #[test]
    fn prints_a_line_when_the_guest_sends_it_byte_by_byte() {
        let (serial, mut file) = port();
        for byte in b"Linux version\n" {
            serial.write(0, &[*byte]);
        }
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "Linux version\n");
        // The transmitter is always empty (line status, bits 5 and 6).
        let mut status = [0];
        serial.read(5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60);
    }

    #[test]
    fn ignores_accesses_that_are_not_a_byte() {
        let (serial, _file) = port();
        serial.write(7, &[1, 2]);
        serial.write(7, &[]);
        let mut data = [0; 4];
        serial.read(7, &mut data);
        assert_eq!(data, [0; 4]);
    }

    #[test]
    fn keeps_registers_when_saved_and_restored() {
        let (serial, file) = port();
        serial.write(7, &[0x5a]);
        let state = serial.save();
        let log = ConsoleLog::new(file.try_clone().unwrap().into(), ConsoleLimits::default());
        let restored = Serial::restore(&state, log, None).unwrap();
        assert_eq!(restored.save(), state);
        let bad = SerialState { fifo: vec![0; 65], ..state };
        let log = ConsoleLog::new(file.into(), ConsoleLimits::default());
        assert!(matches!(Serial::restore(&bad, log, None), Err(SerialError::Fifo { len: 65 })));
    }
}
