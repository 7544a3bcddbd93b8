//! `linux.resources` and `linux.sysctl`.

use integration_tests::Bundle;
use integration_tests::differential::{Group, edit, look, set};
use serde_json::{Value, json};

/// Limits, as the container's cgroup has them.
pub(crate) const SETTINGS: Group = Group {
    name: "cgroup",
    bundle: |stage| {
        stage.writable().edit(|config| {
            let resources = &mut config["linux"]["resources"];
            resources["memory"] =
                json!({ "limit": 100 << 20, "reservation": 20 << 20, "swap": 150 << 20 });
            resources["pids"] = json!({ "limit": 20 });
            resources["cpu"] = json!({ "shares": 512, "quota": 150_000, "period": 100_000 });
            resources["unified"] = json!({ "memory.high": "900000000", "pids.max": "21" });
            resources["hugepageLimits"] = json!([{ "pageSize": "2MB", "limit": 4 << 20 }]);
        })
    },
    stories: &[],
    cases: &[
        look("memory-limit", "cat /sys/fs/cgroup/memory.max"),
        look("memory-reservation", "cat /sys/fs/cgroup/memory.low"),
        look("memory-swap", "cat /sys/fs/cgroup/memory.swap.max"),
        look("memory-unified", "cat /sys/fs/cgroup/memory.high"),
        look("cpu-quota", "cat /sys/fs/cgroup/cpu.max"),
        look("cpu-shares", "cat /sys/fs/cgroup/cpu.weight"),
        look("pids-limit", "cat /sys/fs/cgroup/pids.max"),
        look("huge-pages", "cat /sys/fs/cgroup/hugetlb.2MB.max"),
        look(
            "pids-limit-holds",
            "(i=0; while [ $i -lt 40 ]; do sleep 3 & i=$((i + 1)); done) 2>&1 | tail -n 1",
        ),
        look(
            "memory-limit-holds",
            "tail /dev/zero; echo $?; grep -c 'oom_kill [1-9]' /sys/fs/cgroup/memory.events",
        ),
        look("is-alone", "cat /proc/self/cgroup; ls -d /sys/fs/cgroup/*/ | wc -l"),
        look("is-not-changed", "(echo max >/sys/fs/cgroup/memory.max) 2>&1; echo $?"),
    ],
};

/// No limits, and the least weight.
pub(crate) const UNLIMITED: Group = Group {
    name: "cgroup-unlimited",
    bundle: |stage| {
        stage.shared().edit(|config| {
            let resources = &mut config["linux"]["resources"];
            resources["memory"] = json!({ "limit": -1, "swap": -1 });
            resources["pids"] = json!({ "limit": -1 });
            resources["cpu"] = json!({ "quota": -1, "period": 50_000, "shares": 2 });
        })
    },
    stories: &[],
    cases: &[
        look("memory", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max"),
        look("pids", "cat /sys/fs/cgroup/pids.max"),
        look("cpu", "cat /sys/fs/cgroup/cpu.max"),
        look("cpu-shares-least", "cat /sys/fs/cgroup/cpu.weight"),
    ],
};

/// Limits of another kind.
pub(crate) const SMALL: Group = Group {
    name: "cgroup-cpu",
    bundle: |stage| {
        stage.shared().edit(|config| {
            let resources = &mut config["linux"]["resources"];
            resources["pids"] = json!({ "limit": 0 });
            resources["cpu"] = json!({
                "quota": 50_000, "period": 100_000, "burst": 20_000, "shares": 262_144, "cpus": "0",
            });
        })
    },
    stories: &[],
    cases: &[
        look("pids-limit-zero", "cat /sys/fs/cgroup/pids.max"),
        look("quota", "cat /sys/fs/cgroup/cpu.max"),
        look("burst", "cat /sys/fs/cgroup/cpu.max.burst"),
        look("shares-most", "cat /sys/fs/cgroup/cpu.weight"),
        look("cpus", "nproc; grep Cpus_allowed_list /proc/self/status"),
    ],
};

fn resources(bundle: Bundle, resources: &Value, files: &str) -> Bundle {
    let script = format!("echo ran; cd /sys/fs/cgroup; cat {files}");
    let resources = resources.as_object().expect("an object").clone();
    bundle.script(&script).edit(|config| {
        for (name, value) in resources {
            config["linux"]["resources"][name] = value;
        }
    })
}

/// Which limits can be asked for.
pub(crate) const RESOURCES: Group = Group {
    name: "resources",
    bundle: |stage| stage.shared(),
    stories: &[],
    cases: &[
        edit(
            "cpu-idle",
            |_, bundle| resources(bundle, &json!({ "cpu": { "idle": 1 } }), "cpu.idle"),
            &[],
        ),
        edit(
            "memory-nodes",
            |_, bundle| resources(bundle, &json!({ "cpu": { "mems": "0" } }), "cpu.max"),
            &["linux.resources.cpu.mems"],
        )
        .differs("memory-nodes"),
        edit(
            "swap-below-limit",
            |_, bundle| {
                resources(
                    bundle,
                    &json!({ "memory": { "limit": 100 << 20, "swap": 50 << 20 } }),
                    "memory.max",
                )
            },
            &["linux.resources.memory.swap"],
        ),
        edit(
            "swap-without-limit",
            |_, bundle| resources(bundle, &json!({ "memory": { "swap": 50 << 20 } }), "memory.max"),
            &["linux.resources.memory.swap"],
        ),
        edit(
            "block-weight",
            |_, bundle| resources(bundle, &json!({ "blockIO": { "weight": 500 } }), "cpu.max"),
            &["linux.resources.blockIO.weight"],
        )
        .differs("block-io"),
        edit(
            "block-throttle",
            |_, bundle| {
                let device = json!([{ "major": 254, "minor": 0, "rate": 1_000_000 }]);
                resources(
                    bundle,
                    &json!({ "blockIO": { "throttleReadBpsDevice": device } }),
                    "cpu.max",
                )
            },
            &["linux.resources.blockIO.throttleReadBpsDevice"],
        )
        .differs("block-io"),
        edit(
            "network-class",
            |_, bundle| resources(bundle, &json!({ "network": { "classID": 1 } }), "cpu.max"),
            &["linux.resources.network.classID"],
        ),
        edit(
            "rdma",
            |_, bundle| {
                resources(bundle, &json!({ "rdma": { "mlx5_1": { "hcaHandles": 3 } } }), "cpu.max")
            },
            &["linux.resources.rdma"],
        )
        .differs("rdma"),
        edit(
            "kernel-memory",
            |_, bundle| resources(bundle, &json!({ "memory": { "kernel": 1 << 20 } }), "cpu.max"),
            &["linux.resources.memory.kernel"],
        ),
        edit(
            "swappiness",
            |_, bundle| resources(bundle, &json!({ "memory": { "swappiness": 10 } }), "cpu.max"),
            &["linux.resources.memory.swappiness"],
        )
        .differs("swappiness"),
        edit(
            "oom-killer-off",
            |_, bundle| {
                resources(bundle, &json!({ "memory": { "disableOOMKiller": true } }), "cpu.max")
            },
            &["linux.resources.memory.disableOOMKiller"],
        ),
        edit(
            "real-time",
            |_, bundle| {
                let cpu = json!({ "realtimeRuntime": 1000, "realtimePeriod": 100_000 });
                resources(bundle, &json!({ "cpu": cpu }), "cpu.max")
            },
            &["linux.resources.cpu.realtimeRuntime"],
        ),
        edit(
            "unified-unknown-file",
            |_, bundle| {
                resources(bundle, &json!({ "unified": { "memory.nothing": "1" } }), "cpu.max")
            },
            &["memory.nothing"],
        ),
        edit(
            "unified-leads-out",
            |_, bundle| {
                resources(bundle, &json!({ "unified": { "../memory.max": "1" } }), "cpu.max")
            },
            &["../memory.max"],
        ),
        set(
            "memory-is-text",
            &[("/linux/resources/memory", r#"{ "limit": "1g" }"#)],
            &["memory.limit", "1g"],
        )
        .differs("strict-values"),
        set(
            "memory-is-a-fraction",
            &[("/linux/resources/memory", r#"{ "limit": 1e9 }"#)],
            &["memory.limit"],
        ),
        set(
            "quota-too-small",
            &[("/linux/resources/cpu", r#"{ "quota": 1 }"#)],
            &["linux.resources.cpu.quota"],
        ),
        set(
            "period-too-large",
            &[("/linux/resources/cpu", r#"{ "period": 2000000 }"#)],
            &["cpu.period", "2000000"],
        ),
        set(
            "huge-page-size-unknown",
            &[("/linux/resources/hugepageLimits", r#"[{ "pageSize": "3MB", "limit": 0 }]"#)],
            &["hugepageLimits[0].pageSize", "3MB"],
        ),
        set(
            "cpus-are-none",
            &[("/linux/resources/cpu", r#"{ "cpus": "a-b" }"#)],
            &["cpu.cpus", "a-b"],
        ),
        set("intel-rdt", &[("/linux/intelRdt", r#"{ "closID": "x" }"#)], &["linux.intelRdt"]),
    ],
};

/// Settings of the kernel.
pub(crate) const SYSCTL: Group = Group {
    name: "sysctl",
    bundle: |stage| {
        stage.shared().edit(|config| {
            config["linux"]["sysctl"] = json!({
                "net.ipv4.ip_forward": "1", "kernel.msgmax": "12345", "kernel.shmmni": "777",
                "fs.mqueue.msg_max": "33", "net.ipv4.ping_group_range": "0 10",
            });
        })
    },
    stories: &[],
    cases: &[
        look(
            "network",
            "cat /proc/sys/net/ipv4/ip_forward; cat /proc/sys/net/ipv4/ping_group_range",
        ),
        look("ipc", "cat /proc/sys/kernel/msgmax /proc/sys/kernel/shmmni"),
        look("mqueue", "cat /proc/sys/fs/mqueue/msg_max"),
        set("unknown", &[("/linux/sysctl", r#"{ "net.nothing": "1" }"#)], &["net.nothing"]),
        set(
            "value-is-a-number",
            &[("/linux/sysctl", r#"{ "net.ipv4.ip_forward": 1 }"#)],
            &["ip_forward"],
        ),
        set("leads-out", &[("/linux/sysctl", r#"{ "net.../../x": "1" }"#)], &["linux.sysctl"]),
        set("of-the-whole-kernel", &[("/linux/sysctl", r#"{ "vm.max_map_count": "70000" }"#)], &[])
            .differs("sysctl-of-the-kernel"),
        set(
            "of-another-namespace",
            &[
                ("/linux/sysctl", r#"{ "kernel.msgmax": "1" }"#),
                (
                    "/linux/namespaces",
                    r#"[{ "type": "mount" }, { "type": "pid" }, { "type": "uts" }]"#,
                ),
            ],
            &[],
        )
        .differs("sysctl-of-the-kernel"),
    ],
};
