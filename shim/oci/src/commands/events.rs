//! `ringfence events`, in runc's words: one JSON object a line, with what its version 1.1 has for
//! cgroup v2.

use crate::args::{Events, Global};
use crate::commands::print_line;
use crate::error::CommandError;
use sandbox::{Container, ContainerEvent, Counter, Statistics};
use serde::Serialize;
use serde_json::{Map, Value, json};

pub(crate) fn execute(global: &Global, events: &Events) -> Result<u8, CommandError> {
    let container = Container::find(&global.root, &events.id)?;
    if events.stats {
        print_line(&stats_event(&events.id, &container.statistics()?))?;
        return Ok(0);
    }
    container.events(events.interval, |event| match event {
        ContainerEvent::Statistics(statistics) => print_line(&stats_event(&events.id, &statistics)),
        ContainerEvent::OutOfMemory => {
            print_line(&Line { kind: "oom", id: &events.id, data: None })
        }
    })?;
    Ok(0)
}

/// One event, in runc's order.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

fn stats_event<'a>(id: &'a str, statistics: &Statistics) -> Line<'a> {
    Line { kind: "stats", id, data: Some(data(statistics)) }
}

/// runc's `types.Stats`. What it leaves out when it is 0 is left out.
fn data(statistics: &Statistics) -> Value {
    let Statistics { cpu, memory, pids, io: _, huge_pages } = statistics;
    let memory_limit = memory.limit.unwrap_or(u64::MAX);
    // As cgroup v1 has it: memory and swap together.
    let swap_limit = match memory.swap_limit {
        Some(limit) => limit.saturating_add(memory_limit),
        None => u64::MAX,
    };
    let swap_usage = memory.swap_usage.saturating_add(memory.usage);
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    let huge_pages: Map<String, Value> = huge_pages
        .iter()
        .map(|pages| {
            let failures = [("failcnt", pages.failures)];
            (pages.size.clone(), with(&[("usage", pages.usage)], &failures))
        })
        .collect();
    json!({
        "cpu": {
            "usage": with(
                &[("total", nanoseconds(cpu.usage_us))],
                &[("kernel", nanoseconds(cpu.system_us)), ("user", nanoseconds(cpu.user_us))],
            ),
            "throttling": with(
                &[
                    ("periods", cpu.periods),
                    ("throttledPeriods", cpu.throttled_periods),
                    ("throttledTime", nanoseconds(cpu.throttled_us)),
                ],
                &[],
            ),
        },
        "cpuset": {
            "cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0, "memory_migrate": 0,
            "memory_spread_page": 0, "memory_spread_slab": 0, "memory_pressure": 0,
            "sched_load_balance": 0, "sched_relax_domain_level": 0,
        },
        "memory": memory_data(
            &memory.stat,
            [(memory_limit, memory.usage, memory.peak), (swap_limit, swap_usage, 0)],
        ),
        "pids": with(&[("current", pids.current), ("limit", pids.limit.unwrap_or(0))], &[]),
        "blkio": block_io(statistics),
        "hugetlb": huge_pages,
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn memory_data(stat: &[Counter], [memory, swap]: [(u64, u64, u64); 2]) -> Value {
    let entry = |(limit, usage, peak)| {
        with(&[("usage", usage), ("max", peak)], &[("limit", limit), ("failcnt", 0)])
    };
    let mut data = Map::new();
    let cache = stat.iter().find(|counter| counter.name == "file").map(|counter| counter.value);
    if let Some(cache) = cache.filter(|cache| *cache > 0) {
        data.insert("cache".to_owned(), cache.into());
    }
    data.insert("usage".to_owned(), entry(memory));
    data.insert("swap".to_owned(), entry(swap));
    data.insert("kernel".to_owned(), entry((0, 0, 0)));
    data.insert("kernelTCP".to_owned(), entry((0, 0, 0)));
    if !stat.is_empty() {
        let raw = stat.iter().map(|counter| (counter.name.clone(), counter.value.into()));
        data.insert("raw".to_owned(), Value::Object(raw.collect()));
    }
    Value::Object(data)
}

fn block_io(statistics: &Statistics) -> Value {
    let mut bytes = Vec::new();
    let mut operations = Vec::new();
    for device in &statistics.io {
        let entry = |operation: &str, value: u64| {
            let numbers =
                [("major", device.major.into()), ("minor", device.minor.into()), ("value", value)];
            let mut entry = with(&numbers, &[]);
            entry["op"] = operation.into();
            entry
        };
        bytes.extend([
            entry("Read", device.read_bytes),
            entry("Write", device.written_bytes),
            entry("Discard", device.discarded_bytes),
        ]);
        operations.extend([
            entry("Read", device.reads),
            entry("Write", device.writes),
            entry("Discard", device.discards),
        ]);
    }
    let mut data = Map::new();
    if !bytes.is_empty() {
        data.insert("ioServiceBytesRecursive".to_owned(), bytes.into());
        data.insert("ioServicedRecursive".to_owned(), operations.into());
    }
    Value::Object(data)
}

/// An object of numbers: the first ones only where they are not 0.
fn with(unless_zero: &[(&str, u64)], always: &[(&str, u64)]) -> Value {
    let some = unless_zero.iter().filter(|(_, value)| *value > 0);
    let pairs = some.chain(always).map(|(name, value)| ((*name).to_owned(), (*value).into()));
    Value::Object(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::{HugePageStatistics, IoStatistics};

    #[test]
    fn an_event_has_runcs_names() {
        let mut statistics = Statistics::default();
        statistics.cpu.usage_us = 7;
        statistics.cpu.user_us = 3;
        statistics.cpu.throttled_us = 2;
        statistics.memory.usage = 100;
        statistics.memory.limit = Some(1000);
        statistics.memory.swap_limit = Some(50);
        statistics.memory.stat = vec![Counter { name: "file".into(), value: 60 }];
        statistics.pids.current = 2;
        let io = IoStatistics { major: 254, read_bytes: 5, ..IoStatistics::default() };
        statistics.io = vec![io];
        let pages = HugePageStatistics { size: "2MB".into(), ..HugePageStatistics::default() };
        statistics.huge_pages = vec![pages];
        let event = serde_json::to_string(&stats_event("c1", &statistics)).unwrap();
        assert!(event.starts_with(r#"{"type":"stats","id":"c1","data":{"#), "{event}");
        let event: Value = serde_json::from_str(&event).unwrap();
        let data = &event["data"];
        assert_eq!(data["cpu"]["usage"], json!({ "total": 7000, "kernel": 0, "user": 3000 }));
        assert_eq!(data["cpu"]["throttling"], json!({ "throttledTime": 2000 }));
        assert_eq!(data["memory"]["usage"], json!({ "limit": 1000, "usage": 100, "failcnt": 0 }));
        assert_eq!(data["memory"]["swap"], json!({ "limit": 1050, "usage": 100, "failcnt": 0 }));
        assert_eq!(data["memory"]["cache"], 60);
        assert_eq!(data["memory"]["raw"], json!({ "file": 60 }));
        assert_eq!(data["pids"], json!({ "current": 2 }));
        assert_eq!(data["hugetlb"], json!({ "2MB": { "failcnt": 0 } }));
        let bytes = &data["blkio"]["ioServiceBytesRecursive"];
        assert_eq!(bytes[0], json!({ "major": 254, "op": "Read", "value": 5 }));
    }

    #[test]
    fn no_limit_is_the_largest_number() {
        let data = data(&Statistics::default());
        assert_eq!(data["memory"]["usage"]["limit"], u64::MAX);
        assert_eq!(data["memory"]["swap"]["limit"], u64::MAX);
        assert_eq!(data["pids"], json!({}));
    }
}
