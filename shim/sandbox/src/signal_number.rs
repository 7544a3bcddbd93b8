//! Names of signals (signal(7)), those of Linux on x86-64 and aarch64.

/// Names without `SIG`, by number from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// Other names for some of them.
const ALIASES: [(&str, u8); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];
/// Range of the real-time signals that the C library leaves to programs.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

/// The number of a signal: `15`, `TERM`, `SIGTERM`, `RTMIN+3`, `SIGRTMAX-1`, in any case. 0 is
/// taken, as kill(2) does.
#[must_use]
pub fn signal_number(text: &str) -> Option<u8> {
    if let Ok(number) = text.parse::<u8>() {
        return (number <= RTMAX).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return u8::try_from(index + 1).ok();
    }
    if let Some((_, number)) = ALIASES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        match rest.strip_prefix('+') {
            None if rest.is_empty() => RTMIN,
            None => return None,
            Some(above) => RTMIN.checked_add(above.parse().ok()?)?,
        }
    } else {
        let rest = name.strip_prefix("RTMAX")?;
        match rest.strip_prefix('-') {
            None if rest.is_empty() => RTMAX,
            None => return None,
            Some(below) => RTMAX.checked_sub(below.parse().ok()?)?,
        }
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn names_and_numbers_are_taken() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("TERM", 15),
            ("0", 0),
            ("64", 64),
            ("WINCH", 28),
            ("SIGSYS", 31),
            ("IOT", 6),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        assert_eq!(signal_number("USR2"), u8::try_from(libc::SIGUSR2).ok());
        assert_eq!(signal_number("PWR"), u8::try_from(libc::SIGPWR).ok());
    }

    #[test]
    fn anything_else_is_none() {
        for text in ["", "-9", "65", "256", "SIG", "TERMX", "RTMIN+31", "RTMAX-31", "RTMIN3", "+"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }
}
