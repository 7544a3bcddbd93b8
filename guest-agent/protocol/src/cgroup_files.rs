//! A cgroup's interface files, as numbers (cgroup-v2.rst): read by the agent of what a container uses, and by
//! its supervisor of what the machine costs.

use crate::report::{
    Counter, CpuStatistics, HugePageStatistics, IoStatistics, MemoryStatistics, PidsStatistics,
    Statistics,
};
use crate::{MAX_COUNTER_NAME, MAX_COUNTERS};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Sizes of huge pages on the architectures that there are.
const HUGE_PAGES: [&str; 4] = ["64KB", "2MB", "32MB", "1GB"];

impl Statistics {
    /// What a cgroup's interface files say; `read` gives the text of a file by its name, or nothing if it is
    /// not there: then it belongs to a controller that the kernel does not have, and is 0, or no limit.
    #[must_use]
    pub fn of_cgroup(read: impl Fn(&str) -> Option<String>) -> Self {
        let text = |file: &str| read(file).unwrap_or_default();
        let number = |file: &str| parse_limit(&text(file)).unwrap_or(0);
        Self {
            cpu: parse_cpu(&text("cpu.stat")),
            memory: MemoryStatistics {
                usage: number("memory.current"),
                limit: parse_limit(&text("memory.max")),
                peak: number("memory.peak"),
                swap_usage: number("memory.swap.current"),
                swap_limit: parse_limit(&text("memory.swap.max")),
                stat: parse_counters(&text("memory.stat")),
                events: parse_counters(&text("memory.events")),
            },
            pids: PidsStatistics {
                current: number("pids.current"),
                limit: parse_limit(&text("pids.max")),
            },
            io: parse_io(&text("io.stat")),
            huge_pages: HUGE_PAGES
                .into_iter()
                .filter_map(|size| {
                    let usage = read(&format!("hugetlb.{size}.current"))?;
                    let events = parse_counters(&text(&format!("hugetlb.{size}.events")));
                    Some(HugePageStatistics {
                        size: size.to_string(),
                        usage: parse_limit(&usage).unwrap_or(0),
                        limit: parse_limit(&text(&format!("hugetlb.{size}.max"))),
                        failures: counter(&events, "max"),
                    })
                })
                .collect(),
        }
    }
}

/// A number, or `max` for none.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Lines of a name and a number, as in `memory.events`.
#[must_use]
pub fn parse_counters(text: &str) -> Vec<Counter> {
    text.split('\n')
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            let value = value.trim().parse().ok()?;
            (name.len() <= MAX_COUNTER_NAME).then(|| Counter { name: name.to_string(), value })
        })
        .take(MAX_COUNTERS)
        .collect()
}

/// 0 if it is not there.
#[must_use]
pub fn counter(counters: &[Counter], name: &str) -> u64 {
    counters.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.value)
}

fn parse_cpu(text: &str) -> CpuStatistics {
    let counters = parse_counters(text);
    let of = |name| counter(&counters, name);
    CpuStatistics {
        usage_us: of("usage_usec"),
        user_us: of("user_usec"),
        system_us: of("system_usec"),
        periods: of("nr_periods"),
        throttled_periods: of("nr_throttled"),
        throttled_us: of("throttled_usec"),
    }
}

/// Lines of `MAJOR:MINOR name=number …`.
fn parse_io(text: &str) -> Vec<IoStatistics> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let mut device = IoStatistics { major, minor, ..IoStatistics::default() };
        for word in words {
            let Some((name, value)) = word.split_once('=') else { continue };
            let Ok(value) = value.parse() else { continue };
            match name {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.written_bytes = value,
                "dbytes" => device.discarded_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                "dios" => device.discards = value,
                _ => {}
            }
        }
        Some(device)
    };
    text.split('\n').filter_map(line).take(MAX_COUNTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::prelude::v1::*;

    #[test]
    fn numbers_are_found_by_name() {
        let text = "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\n\
                    throttled_usec 1\n";
        let expected = CpuStatistics {
            usage_us: 10,
            user_us: 6,
            system_us: 4,
            periods: 3,
            throttled_periods: 2,
            throttled_us: 1,
        };
        assert_eq!(parse_cpu(text), expected);
        assert_eq!(parse_cpu("usage_usec x\n"), CpuStatistics::default());
    }

    #[test]
    fn what_is_not_there_is_nothing() {
        let files = |file: &str| match file {
            "memory.current" => Some("7\n".to_string()),
            "hugetlb.2MB.current" => Some("8\n".to_string()),
            _ => None,
        };
        let statistics = Statistics::of_cgroup(files);
        assert_eq!((statistics.memory.usage, statistics.memory.limit), (7, None));
        assert_eq!(statistics.huge_pages[0].usage, 8);
        assert_eq!((statistics.pids.current, statistics.cpu.usage_us), (0, 0));
    }

    #[test]
    fn max_is_no_limit() {
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("104857600\n"), Some(104_857_600));
        assert_eq!(parse_limit(""), None);
    }

    #[test]
    fn devices_are_read_line_by_line() {
        let text = "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=7\n\
                    nonsense\n7:1 \n";
        let io = parse_io(text);
        assert_eq!(io.len(), 2);
        assert_eq!((io[0].major, io[0].read_bytes, io[0].written_bytes), (254, 1, 2));
        assert_eq!((io[0].reads, io[0].writes), (3, 4));
        assert_eq!((io[0].discarded_bytes, io[0].discards), (5, 6));
        assert_eq!(io[1], IoStatistics { major: 7, minor: 1, ..IoStatistics::default() });
    }

    #[test]
    fn counters_are_bounded() {
        let many: String = (0..1000).map(|index| format!("name{index} 1\n")).collect();
        assert_eq!(parse_counters(&many).len(), MAX_COUNTERS);
        let long = format!("{} 1\nanon 2\n", "x".repeat(MAX_COUNTER_NAME + 1));
        assert_eq!(parse_counters(&long).len(), 1);
    }
}
