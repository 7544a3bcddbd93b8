//! Times as people of the host read them.
#![expect(unsafe_code, reason = "localtime_r(3)")]

use std::time::{SystemTime, UNIX_EPOCH};

/// A time in the host's time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// For example 2026.
    pub year: i32,
    /// Day of the year, from 0.
    pub day_of_year: i32,
    /// Month, from 0.
    pub month: i32,
    /// Day of the month, from 1.
    pub day: i32,
    /// From 0 to 23.
    pub hour: i32,
    /// From 0 to 59.
    pub minute: i32,
}

impl LocalTime {
    /// `None` for a time that is no date.
    #[must_use]
    pub fn of(time: SystemTime) -> Option<Self> {
        let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let seconds = libc::time_t::try_from(seconds).ok()?;
        let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
        // SAFETY: both pointers are valid for the call; localtime_r has no state that is shared but
        // the time zone, which the C library guards itself.
        let found = unsafe { libc::localtime_r(&raw const seconds, parts.as_mut_ptr()) };
        if found.is_null() {
            return None;
        }
        // SAFETY: it was made of zeros, which are a valid value of each field, and then filled.
        let parts = unsafe { parts.assume_init() };
        Some(Self {
            year: parts.tm_year.checked_add(1900)?,
            day_of_year: parts.tm_yday,
            month: parts.tm_mon,
            day: parts.tm_mday,
            hour: parts.tm_hour,
            minute: parts.tm_min,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_has_parts() {
        // Any zone is within a day of UTC.
        let time = LocalTime::of(UNIX_EPOCH + Duration::from_secs(1_735_732_800)).unwrap();
        assert!((2024..=2025).contains(&time.year), "{time:?}");
        assert!((0..=23).contains(&time.hour) && (0..=59).contains(&time.minute), "{time:?}");
        assert!(LocalTime::of(UNIX_EPOCH + Duration::from_secs(u64::MAX >> 2)).is_none());
    }
}
