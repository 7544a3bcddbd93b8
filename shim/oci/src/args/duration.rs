//! Times as Go writes them: `300ms`, `1.5h`, `1m30s`.

use std::time::Duration;

/// Nanoseconds of each unit; the longer name first where one begins with another.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3_600e9),
];

/// A year: nobody waits longer.
const MOST: Duration = Duration::from_secs(366 * 24 * 3_600);
const LEAST: Duration = Duration::from_millis(1);

/// Reads a time from a millisecond to a year.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || {
        "it must be a time from 1ms to a year with its unit, for example 500ms, 5s or 1m30s"
            .to_owned()
    };
    let mut nanoseconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
        let (number, behind) = rest.split_at(end.ok_or_else(wrong)?);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit = UNITS.iter().find(|(name, _)| behind.starts_with(name)).ok_or_else(wrong)?;
        nanoseconds += number * unit.1;
        rest = behind.strip_prefix(unit.0).unwrap_or_default();
    }
    let duration = Duration::try_from_secs_f64(nanoseconds / 1e9).map_err(|_| wrong())?;
    if (LEAST..=MOST).contains(&duration) { Ok(duration) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::time::Duration;

    #[test]
    fn gos_times_are_read() {
        for (text, ms) in [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000)] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "5", "s", "-5s", "0s", "1us", "5 s", "1e3s", "9999999h", "5x", "..s"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
