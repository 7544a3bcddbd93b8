//! Sizes as engines write them: `1048576`, `64m`, `1.5GiB`, and -1 for no limit.

/// Reads a size in bytes.
pub(super) fn parse(text: &str) -> Result<i64, String> {
    let wrong = || {
        "it must be a number of bytes, or of larger units with k, m, g, t or p behind it, or -1 for \
         no limit"
            .to_owned()
    };
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = lower.strip_prefix(number).unwrap_or_default();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(unit);
    let shift = ["", "k", "m", "g", "t", "p"].iter().position(|name| *name == unit);
    let shift = shift.and_then(|index| u32::try_from(index).ok()).ok_or_else(wrong)? * 10;
    if let Ok(whole) = number.parse::<i64>() {
        let bytes = whole.checked_mul(1_i64.checked_shl(shift).unwrap_or(i64::MAX));
        return bytes.filter(|bytes| *bytes >= 0).ok_or_else(wrong);
    }
    parse_fraction(number, shift).ok_or_else(wrong)
}

/// Tenths and so on of a unit, cut to whole bytes.
fn parse_fraction(number: &str, shift: u32) -> Option<i64> {
    let (whole, fraction) = number.split_once('.')?;
    let digits = fraction.len() <= 9 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, scale) =
        (whole.parse::<u32>().ok()?, 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?);
    let fraction: i128 = fraction.parse().ok().filter(|_| digits)?;
    let value = (i128::from(whole) * scale + fraction).checked_mul(1_i128 << shift)? / scale;
    i64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn units_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("-1", -1),
            ("1048576", 1 << 20),
            ("64m", 64 << 20),
            ("64MB", 64 << 20),
            ("64MiB", 64 << 20),
            ("1g", 1 << 30),
            ("1.5k", 1536),
            ("12b", 12),
            ("2t", 2 << 40),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "m", "-2", "1x", "1.5.5m", "9223372036854775807k", "1 m", "1e3", "0x10"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
