//! Lists of CPUs as cpuset(7) writes them: `0-3,7`.

/// Numbers of CPUs, ascending, without repetition.
pub type CpuList = Vec<u16>;

/// Highest number of a CPU that is taken (CPU_SETSIZE of sched_setaffinity(2)).
const MAX_CPU: u16 = 1023;

/// Reads a list.
pub(super) fn parse(text: &str) -> Result<CpuList, String> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.trim().parse::<u16>().ok().filter(|number| *number <= MAX_CPU).ok_or_else(|| {
                format!("it must be a list of CPUs up to {MAX_CPU}, for example \"0-3,7\"")
            })
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("the range {first}-{last} is empty"));
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_numbers_and_ranges() {
        assert_eq!(parse("0-2,5, 1").unwrap(), [0, 1, 2, 5]);
    }

    #[test]
    fn refuses_what_is_no_list() {
        for text in ["", ",", "a", "3-1", "1-", "-1", "99999", "1024"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
