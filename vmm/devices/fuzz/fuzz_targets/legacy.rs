//! Ports of the serial console and the keyboard controller: accesses of any offset and width, and a
//! saved state of any content.
#![no_main]

use arbitrary::Arbitrary;
use devices::bus::BusDevice;
use devices::legacy::{ConsoleLimits, ConsoleLog, I8042Reset, Serial, SerialState};
use libfuzzer_sys::fuzz_target;
use std::fs::File;

/// Bytes that the log may take in all.
const MAX_BYTES: u64 = 4096;

#[derive(Arbitrary, Debug)]
enum Step {
    Read { offset: u16, len: u8 },
    Write { offset: u16, data: Vec<u8> },
    Keyboard { offset: u8, data: Vec<u8> },
    Print { text: Vec<u8> },
    Restore { registers: [u8; 9], fifo: Vec<u8> },
    SaveAndRestore,
}

fn log() -> ConsoleLog {
    let null = File::options().write(true).open("/dev/null").expect("it is there");
    ConsoleLog::new(null.into(), ConsoleLimits { max_bytes: MAX_BYTES, ..Default::default() })
}

fuzz_target!(|steps: Vec<Step>| {
    let mut serial = Serial::new(log(), None);
    let keyboard = I8042Reset::new(|| {});
    for step in steps.iter().take(256) {
        match step {
            Step::Read { offset, len } => {
                serial.read(u64::from(*offset), &mut vec![0; usize::from(*len)]);
            }
            Step::Write { offset, data } => serial.write(u64::from(*offset), data),
            Step::Keyboard { offset, data } => keyboard.write(u64::from(*offset), data),
            Step::Print { text } => text.iter().for_each(|byte| serial.write(0, &[*byte])),
            Step::Restore { registers, fifo } => {
                let [low, high, enable, identification, line, status, modem, modem_status, scratch] =
                    *registers;
                let state = SerialState {
                    divisor_low: low,
                    divisor_high: high,
                    interrupt_enable: enable,
                    interrupt_identification: identification,
                    line_control: line,
                    line_status: status,
                    modem_control: modem,
                    modem_status,
                    scratch,
                    fifo: fifo.clone(),
                };
                if let Ok(restored) = Serial::restore(&state, log(), None) {
                    serial = restored;
                }
            }
            Step::SaveAndRestore => {
                // What a port has saved it also takes back.
                let state = serial.save();
                serial = Serial::restore(&state, log(), None).expect("a saved state is valid");
            }
        }
        serial.flush();
    }
});
