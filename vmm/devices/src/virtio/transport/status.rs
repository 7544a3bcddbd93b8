//! The device status register as a table (VIRTIO 1.2 §2.1, §3.1.1).

use crate::virtio::spec::status::{
    ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK,
};

/// What the transport does when the driver writes the status register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Back to power-on.
    Reset,
    /// Take the new bits over.
    Accept,
    /// Take FEATURES_OK over if the features are acceptable.
    CheckFeatures,
    /// Take DRIVER_OK over and start the device.
    Activate,
    /// The driver gives up; the device is stopped when it resets.
    Fail,
    /// Not a step that the initialization sequence has; the register stays as it is.
    Ignore,
}

const FOUND: u32 = ACKNOWLEDGE;
const KNOWN: u32 = FOUND | DRIVER;
const NEGOTIATED: u32 = KNOWN | FEATURES_OK;
const LIVE: u32 = NEGOTIATED | DRIVER_OK;

/// (register before, value written, step). The driver sets one bit after the other (§3.1.1, steps
/// 2, 3, 5 and 8) and may write a value again; it never clears a bit but by a reset (§2.1.1).
const STEPS: &[(u32, u32, Step)] = &[
    // Step 2: the guest has noticed the device.
    (0, FOUND, Step::Accept),
    // Step 3: it knows how to drive it.
    (FOUND, KNOWN, Step::Accept),
    // Step 5: it has chosen features.
    (KNOWN, NEGOTIATED, Step::CheckFeatures),
    // Step 8: queues are set up.
    (NEGOTIATED, LIVE, Step::Activate),
];

/// The step for writing `value` to a register that holds `before`.
pub(super) fn step(before: u32, value: u32) -> Step {
    // §2.1: writing 0 resets, at any time.
    if value == 0 {
        return Step::Reset;
    }
    // §2.1: FAILED may be set at any time.
    if value & FAILED != 0 {
        return Step::Fail;
    }
    // A driver reads the register and writes it back with one bit more, so DEVICE_NEEDS_RESET,
    // which is the device's, may come along.
    let (known, value) = (before & !DEVICE_NEEDS_RESET, value & !DEVICE_NEEDS_RESET);
    STEPS
        .iter()
        .find(|(from, to, _)| *from == known && *to == value)
        .map_or(Step::Ignore, |(_, _, step)| *step)
}

/// Whether `status` is one that the table can lead to, for a register from a snapshot.
pub(super) fn is_reachable(status: u32) -> bool {
    let plain = status & !(DEVICE_NEEDS_RESET | FAILED);
    plain == 0 || STEPS.iter().any(|(_, to, _)| *to == plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_sequence_when_the_driver_does() {
        let mut register = 0;
        for (value, expected) in
            [(1, Step::Accept), (3, Step::Accept), (11, Step::CheckFeatures), (15, Step::Activate)]
        {
            assert_eq!(step(register, value), expected);
            register = value;
        }
        assert_eq!(step(register | DEVICE_NEEDS_RESET, 0), Step::Reset);
    }

    #[test]
    fn ignores_steps_that_skip_repeat_or_clear() {
        for before in [0u32, 1, 3, 11, 15] {
            for value in 1..=255u32 {
                let legal = matches!((before, value & !64), (0, 1) | (1, 3) | (3, 11) | (11, 15));
                let expected_ignore = !legal && value & FAILED == 0;
                assert_eq!(
                    step(before, value) == Step::Ignore,
                    expected_ignore,
                    "{before} {value}"
                );
            }
        }
    }
}
