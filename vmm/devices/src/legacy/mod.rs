//! The few PC devices that an x86 guest kernel cannot do without: a serial port for its first and
//! last words, and the keyboard controller's reset line.

mod console_log;
mod i8042;
mod serial;

pub use console_log::{ConsoleLimits, ConsoleLog};
pub use i8042::{I8042_BASE, I8042_SIZE, I8042Reset};
pub use serial::{SERIAL_BASE, SERIAL_IRQ, SERIAL_SIZE, Serial, SerialError, SerialState};
