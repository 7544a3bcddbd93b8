//! What a container uses, as containerd's metrics of cgroup version 2.

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};
use protobuf::MessageField;
use sandbox::{Counter, MemoryStatistics, Statistics};

/// Name of the message, as containerd registers it.
pub(crate) const TYPE_URL: &str = "io.containerd.cgroups.v2.Metrics";

/// The guest's numbers in containerd's words.
pub(crate) fn metrics(statistics: &Statistics) -> Metrics {
    let Statistics { cpu, memory, pids, io, huge_pages } = statistics;
    let event = |name: &str| counter(&memory.events, name);
    Metrics {
        pids: MessageField::some(PidsStat {
            current: pids.current,
            limit: pids.limit.unwrap_or(u64::MAX),
            ..PidsStat::default()
        }),
        cpu: MessageField::some(CPUStat {
            usage_usec: cpu.usage_us,
            user_usec: cpu.user_us,
            system_usec: cpu.system_us,
            nr_periods: cpu.periods,
            nr_throttled: cpu.throttled_periods,
            throttled_usec: cpu.throttled_us,
            ..CPUStat::default()
        }),
        memory: MessageField::some(memory_metrics(memory)),
        memory_events: MessageField::some(MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            oom_group_kill: event("oom_group_kill"),
            ..MemoryEvents::default()
        }),
        io: MessageField::some(IOStat {
            usage: io
                .iter()
                .map(|device| IOEntry {
                    major: device.major.into(),
                    minor: device.minor.into(),
                    rbytes: device.read_bytes,
                    wbytes: device.written_bytes,
                    rios: device.reads,
                    wios: device.writes,
                    ..IOEntry::default()
                })
                .collect(),
            ..IOStat::default()
        }),
        hugetlb: huge_pages
            .iter()
            .map(|pages| HugeTlbStat {
                current: pages.usage,
                max: pages.limit.unwrap_or(u64::MAX),
                pagesize: pages.size.clone(),
                failcnt: pages.failures,
                ..HugeTlbStat::default()
            })
            .collect(),
        ..Metrics::default()
    }
}

/// `memory.stat` and the limits.
fn memory_metrics(memory: &MemoryStatistics) -> MemoryStat {
    let stat = |name: &str| counter(&memory.stat, name);
    MemoryStat {
        anon: stat("anon"),
        file: stat("file"),
        kernel_stack: stat("kernel_stack"),
        slab: stat("slab"),
        sock: stat("sock"),
        shmem: stat("shmem"),
        file_mapped: stat("file_mapped"),
        file_dirty: stat("file_dirty"),
        file_writeback: stat("file_writeback"),
        anon_thp: stat("anon_thp"),
        inactive_anon: stat("inactive_anon"),
        active_anon: stat("active_anon"),
        inactive_file: stat("inactive_file"),
        active_file: stat("active_file"),
        unevictable: stat("unevictable"),
        slab_reclaimable: stat("slab_reclaimable"),
        slab_unreclaimable: stat("slab_unreclaimable"),
        pgfault: stat("pgfault"),
        pgmajfault: stat("pgmajfault"),
        workingset_refault: stat("workingset_refault_anon") + stat("workingset_refault_file"),
        workingset_activate: stat("workingset_activate_anon") + stat("workingset_activate_file"),
        workingset_nodereclaim: stat("workingset_nodereclaim"),
        pgrefill: stat("pgrefill"),
        pgscan: stat("pgscan"),
        pgsteal: stat("pgsteal"),
        pgactivate: stat("pgactivate"),
        pgdeactivate: stat("pgdeactivate"),
        pglazyfree: stat("pglazyfree"),
        pglazyfreed: stat("pglazyfreed"),
        thp_fault_alloc: stat("thp_fault_alloc"),
        thp_collapse_alloc: stat("thp_collapse_alloc"),
        usage: memory.usage,
        usage_limit: memory.limit.unwrap_or(u64::MAX),
        swap_usage: memory.swap_usage,
        swap_limit: memory.swap_limit.unwrap_or(u64::MAX),
        max_usage: memory.peak,
        ..MemoryStat::default()
    }
}

fn counter(counters: &[Counter], name: &str) -> u64 {
    counters.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_meaning() {
        let mut statistics = Statistics::default();
        statistics.cpu.usage_us = 7;
        statistics.memory.usage = 8;
        statistics.memory.stat = vec![
            Counter { name: "workingset_refault_file".into(), value: 1 },
            Counter { name: "workingset_refault_anon".into(), value: 2 },
        ];
        statistics.pids.limit = Some(9);
        let metrics = metrics(&statistics);
        assert_eq!((metrics.cpu.usage_usec, metrics.memory.usage), (7, 8));
        assert_eq!(metrics.memory.workingset_refault, 3);
        assert_eq!((metrics.pids.limit, metrics.memory.usage_limit), (9, u64::MAX));
    }
}
