//! `linux.resources`: cgroup v2 settings of the guest, and what they say about the machine's size.
//!
//! config.json speaks of cgroup v1; the translation is the one that runc and crun use.

use crate::spec::Notes;
use crate::spec::block_io;
use crate::spec::cpu_list::{self, CpuList};
use crate::spec::device_program::{self, DeviceKind, DeviceRule};
use crate::spec::error::SpecError;
use crate::spec::json::{Fields, Node};
use agent_protocol::{CgroupPlan, FileWrite};
use serde::{Deserialize, Serialize};

/// Least memory of a container: less does not hold one process and its page tables.
pub(super) const MIN_LIMIT_BYTES: i64 = 4 << 20;

/// What the values are for: quotas, for example, can be changed one half at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A new container: what is not given has the kernel's default.
    Create,
    /// A container that is there: what is not given stays as it is.
    Update,
}

/// What `linux.resources` says.
#[derive(Debug, Default)]
pub(super) struct Resources {
    /// For the guest.
    pub(super) cgroup: CgroupPlan,
    /// For the container's cgroup on the host and for nothing else: what concerns the host's own
    /// devices and nodes.
    pub(super) host: Vec<HostLimit>,
    /// Period of the CPU quota in microseconds, if that is given without the quota.
    pub(super) cpu_period: Option<u64>,
    /// A limit holds only if no more memory than that is in use.
    pub(super) check_before_update: bool,
    /// Memory of the container in bytes.
    pub(super) memory_bytes: Option<u64>,
    /// CPU time per time, rounded up to whole CPUs.
    pub(super) cpu_quota: Option<u64>,
    /// CPUs of the host that the machine may run on.
    pub(super) host_cpus: Option<CpuList>,
}

/// A value for an interface file of the container's cgroup on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLimit {
    /// Names of the file, of which the first one that is there is written.
    pub files: Vec<String>,
    /// What is written.
    pub value: String,
    /// The property that asks for it.
    pub asked_by: String,
}

/// Reads `linux.resources`; without it a container has the device rules that every one has.
pub(super) fn read(linux: Option<&Fields<'_>>, notes: &mut Notes) -> Result<Resources, SpecError> {
    let mut resources = Resources::default();
    let mut rules = Vec::new();
    if let Some(linux) = linux
        && let Some(fields) = linux.fields("resources")?
    {
        rules = read_rules(&fields)?;
        read_limits(&fields, Purpose::Create, &mut resources, notes)?;
    }
    resources.cgroup.device_program = Some(device_program::compile(&rules));
    Ok(resources)
}

/// Everything but the rules for devices.
pub(super) fn read_limits(
    fields: &Fields<'_>,
    purpose: Purpose,
    resources: &mut Resources,
    notes: &mut Notes,
) -> Result<(), SpecError> {
    if let Some(memory) = fields.fields("memory")? {
        read_memory(&memory, resources)?;
        memory.tell_unknown(notes);
    }
    if let Some(cpu) = fields.fields("cpu")? {
        read_cpu(&cpu, purpose, resources)?;
        cpu.tell_unknown(notes);
    }
    read_pids(fields, resources)?;
    block_io::read(fields, resources, notes)?;
    read_huge_pages(fields, resources)?;
    read_network(fields)?;
    fields.refuse("rdma", "the guest has no RDMA device; remove it")?;
    read_unified(fields, resources)?;
    fields.tell_unknown(notes);
    Ok(())
}

impl Resources {
    pub(super) fn set(&mut self, path: &str, value: impl Into<String>) {
        self.cgroup.settings.push(FileWrite { path: path.to_owned(), value: value.into() });
    }

    pub(super) fn set_on_host(&mut self, files: &[&str], value: String, asked_by: &str) {
        let files = files.iter().map(|file| (*file).to_owned()).collect();
        self.host.push(HostLimit { files, value, asked_by: asked_by.to_owned() });
    }
}

fn read_rules(fields: &Fields<'_>) -> Result<Vec<DeviceRule>, SpecError> {
    let items = fields.items("devices")?;
    if let Some(node) = items.get(device_program::MAX_RULES) {
        return Err(node.invalid(format!(
            "a container has at most {} device rules",
            device_program::MAX_RULES
        )));
    }
    items.iter().map(read_rule).collect()
}

fn read_rule(node: &Node<'_>) -> Result<DeviceRule, SpecError> {
    let fields = node.fields()?;
    let allow = fields.require("allow", "whether the devices may be used")?.boolean()?;
    let kind = match fields.get("type") {
        None => DeviceKind::Any,
        Some(kind) => match kind.text()? {
            "a" | "" => DeviceKind::Any,
            "b" => DeviceKind::Block,
            "c" | "u" => DeviceKind::Character,
            _ => return Err(kind.invalid("the type of a device rule is a, b or c")),
        },
    };
    // Serializers write -1 for "any".
    let number = |name| match fields.get(name) {
        None => Ok(None),
        Some(node) => match node.integer::<i64>()? {
            -1 => Ok(None),
            value => u32::try_from(value)
                .map(Some)
                .map_err(|_| node.invalid("a device number fits in 32 bits; -1 is any number")),
        },
    };
    let (major, minor) = (number("major")?, number("minor")?);
    let access = match fields.get("access") {
        None => device_program::ALL,
        Some(node) => read_access(&node)?,
    };
    if kind == DeviceKind::Any {
        // The rule "a" is about everything, whatever else it says (Linux, devices.rst).
        return Ok(DeviceRule {
            allow,
            kind,
            major: None,
            minor: None,
            access: device_program::ALL,
        });
    }
    Ok(DeviceRule { allow, kind, major, minor, access })
}

fn read_access(node: &Node<'_>) -> Result<u32, SpecError> {
    let mut access = 0;
    for letter in node.text()?.chars() {
        access |= match letter {
            'r' => device_program::READ,
            'w' => device_program::WRITE,
            'm' => device_program::MKNOD,
            _ => return Err(node.invalid("the access of a device rule is made of r, w and m")),
        };
    }
    Ok(if access == 0 { device_program::ALL } else { access })
}

fn read_memory(memory: &Fields<'_>, resources: &mut Resources) -> Result<(), SpecError> {
    let legacy = "cgroup v2 has no such limit; remove it, linux.resources.memory.limit covers it";
    memory.refuse_number("kernel", legacy)?;
    memory.refuse_number("kernelTCP", legacy)?;
    memory.refuse_true("disableOOMKiller", "cgroup v2 cannot switch it off; remove it")?;
    // Always so in cgroup v2.
    memory.boolean("useHierarchy")?;
    resources.check_before_update = memory.boolean("checkBeforeUpdate")?;
    // A guest has no swap: nothing is swapped however willing the kernel is.
    if let Some(node) = memory.get("swappiness")
        && node.integer::<u64>()? > 100
    {
        return Err(node.invalid("it must be from 0 to 100"));
    }
    let limit = read_limit(memory, resources)?;
    if let Some(node) = memory.get("reservation") {
        match node.integer::<i64>()? {
            0 => {}
            -1 => resources.set("memory.low", "max"),
            bytes if bytes > 0 => resources.set("memory.low", bytes.to_string()),
            _ => return Err(node.invalid("it must be a number of bytes, or -1 for no bound")),
        }
    }
    if let Some(node) = memory.get("swap") {
        read_swap(&node, limit, resources)?;
    }
    Ok(())
}

fn read_limit(memory: &Fields<'_>, resources: &mut Resources) -> Result<Option<i64>, SpecError> {
    let Some(node) = memory.get("limit") else { return Ok(None) };
    let limit = node.integer::<i64>()?;
    match limit {
        0 => return Ok(None),
        -1 => resources.set("memory.max", "max"),
        MIN_LIMIT_BYTES.. => {
            resources.set("memory.max", limit.to_string());
            resources.memory_bytes = u64::try_from(limit).ok();
        }
        _ => {
            return Err(node.invalid(format!(
                "a container needs at least {MIN_LIMIT_BYTES} bytes ({} MiB), or -1 for no limit",
                MIN_LIMIT_BYTES >> 20
            )));
        }
    }
    Ok(Some(limit))
}

/// `swap` is memory and swap together in v1, swap alone in v2.
fn read_swap(
    node: &Node<'_>,
    limit: Option<i64>,
    resources: &mut Resources,
) -> Result<(), SpecError> {
    match (node.integer::<i64>()?, limit) {
        (0, _) => {}
        (-1, _) => resources.set("memory.swap.max", "max"),
        (swap, _) if swap < 0 => {
            return Err(node.invalid("it must be a number of bytes, or -1 for no limit"));
        }
        (_, None | Some(-1)) => {
            return Err(node.invalid("it includes the memory limit, which must be given as well"));
        }
        (swap, Some(limit)) if swap < limit => {
            return Err(node.invalid(format!(
                "it includes the memory limit and must not be less than that, {limit}"
            )));
        }
        (swap, Some(limit)) => resources.set("memory.swap.max", (swap - limit).to_string()),
    }
    Ok(())
}

fn read_cpu(
    cpu: &Fields<'_>,
    purpose: Purpose,
    resources: &mut Resources,
) -> Result<(), SpecError> {
    let real_time = "cgroup v2 has no real-time budget; remove it";
    cpu.refuse_number("realtimeRuntime", real_time)?;
    cpu.refuse_number("realtimePeriod", real_time)?;
    if let Some(node) = cpu.get("mems").filter(|node| !node.is_blank()) {
        cpu_list::parse(node.text()?).map_err(|problem| node.invalid(problem))?;
        resources.set_on_host(&["cpuset.mems"], node.text()?.to_owned(), node.path());
    }
    if let Some(node) = cpu.get("shares") {
        match node.integer::<u64>()? {
            0 => {}
            shares => resources.set("cpu.weight", weight_of_shares(shares).to_string()),
        }
    }
    read_quota(cpu, purpose, resources)?;
    if let Some(node) = cpu.get("burst") {
        match node.integer::<u64>()? {
            0 => {}
            burst => resources.set("cpu.max.burst", burst.to_string()),
        }
    }
    if let Some(node) = cpu.get("idle") {
        match node.integer::<i64>()? {
            // A container that is there may have been idle.
            0 if purpose == Purpose::Create => {}
            0 => resources.set("cpu.idle", "0"),
            1 => resources.set("cpu.idle", "1"),
            _ => return Err(node.invalid("it must be 0 or 1")),
        }
    }
    if let Some(node) = cpu.get("cpus").filter(|node| !node.is_blank()) {
        resources.host_cpus =
            Some(cpu_list::parse(node.text()?).map_err(|problem| node.invalid(problem))?);
    }
    Ok(())
}

fn read_quota(
    cpu: &Fields<'_>,
    purpose: Purpose,
    resources: &mut Resources,
) -> Result<(), SpecError> {
    /// Microseconds; the kernel's default.
    const PERIOD: u64 = 100_000;
    let period = match cpu.get("period") {
        None => None,
        Some(node) => match node.integer::<u64>()? {
            0 => None,
            period @ 1_000..=1_000_000 => Some(period),
            _ => return Err(node.invalid("a period is from 1000 to 1000000 microseconds")),
        },
    };
    let quota = match cpu.get("quota") {
        None => None,
        Some(node) => match node.integer::<i64>()? {
            0 => None,
            ..0 if purpose == Purpose::Create => None,
            ..0 => Some("max".to_owned()),
            quota if quota < 1_000 => {
                return Err(node.invalid("a quota is at least 1000 microseconds, or -1 for none"));
            }
            quota => Some(quota.to_string()),
        },
    };
    match (quota, period, purpose) {
        (None, None, _) => {}
        (None, Some(period), Purpose::Create) => {
            resources.set("cpu.max", format!("max {period}"));
        }
        (None, Some(period), Purpose::Update) => resources.cpu_period = Some(period),
        // The kernel leaves the period alone.
        (Some(quota), None, Purpose::Update) => resources.set("cpu.max", quota),
        (Some(quota), period, _) => {
            let period = period.unwrap_or(PERIOD);
            resources.cpu_quota = quota.parse().ok().map(|quota: u64| quota.div_ceil(period));
            resources.set("cpu.max", format!("{quota} {period}"));
        }
    }
    Ok(())
}

/// Shares 2..=262144 to weights 1..=10000.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9_999 / 262_142
}

fn read_pids(fields: &Fields<'_>, resources: &mut Resources) -> Result<(), SpecError> {
    let Some(pids) = fields.fields("pids")? else { return Ok(()) };
    match pids.integer::<i64>("limit")? {
        None | Some(0) => {}
        Some(limit) if limit > 0 => resources.set("pids.max", limit.to_string()),
        Some(_) => resources.set("pids.max", "max"),
    }
    Ok(())
}

fn read_huge_pages(fields: &Fields<'_>, resources: &mut Resources) -> Result<(), SpecError> {
    for node in fields.items("hugepageLimits")? {
        let limit = node.fields()?;
        let size = limit.require("pageSize", "the size of the pages, 2MB or 1GB")?;
        let name = match size.text()? {
            name @ ("2MB" | "1GB") => name,
            _ => return Err(size.invalid("the guest has huge pages of 2MB and 1GB")),
        };
        let bytes = limit.require("limit", "the limit in bytes")?.integer::<u64>()?;
        resources.set(&format!("hugetlb.{name}.max"), bytes.to_string());
    }
    Ok(())
}

fn read_network(fields: &Fields<'_>) -> Result<(), SpecError> {
    let Some(network) = fields.fields("network")? else { return Ok(()) };
    let remedy = "cgroup v2 has no network controller; remove it";
    network.refuse_number("classID", remedy)?;
    network.refuse("priorities", remedy)
}

/// Files of cgroup v2 by name.
fn read_unified(fields: &Fields<'_>, resources: &mut Resources) -> Result<(), SpecError> {
    let Some(node) = fields.get("unified") else { return Ok(()) };
    for (name, value) in node.text_map()? {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        let controller = name.split('.').next().unwrap_or_default();
        match controller {
            _ if !name.contains('.') || !name.chars().all(allowed) => {
                return Err(node.invalid(format!("{name:?} is no name of a cgroup file")));
            }
            "cpu" | "memory" | "pids" | "hugetlb" => {}
            // Block devices are the host's, and the VMM is who reads and writes them.
            "io" if matches!(name, "io.weight" | "io.bfq.weight" | "io.max" | "io.latency") => {
                let asked_by = format!("{}[{name:?}]", node.path());
                resources.set_on_host(&[name], value.to_owned(), &asked_by);
                continue;
            }
            "cpuset" | "io" => {
                return Err(node.unsupported(
                    "of io.* there are io.weight, io.bfq.weight, io.max and io.latency; for \
                     cpuset.* use cpu.cpus and cpu.mems",
                ));
            }
            _ => {
                return Err(node.invalid(format!(
                    "{name:?}: the controllers are cpu, memory, pids, hugetlb and io"
                )));
            }
        }
        if name == "memory.max"
            && let Some(bytes) = parse_bytes(value)
        {
            if i64::try_from(bytes).is_ok_and(|bytes| bytes < MIN_LIMIT_BYTES) {
                return Err(node.invalid(format!(
                    "memory.max: a container needs at least {MIN_LIMIT_BYTES} bytes"
                )));
            }
            resources.memory_bytes = Some(bytes);
            // Whoever reads it next needs no units.
            resources.set(name, bytes.to_string());
            continue;
        }
        resources.set(name, value);
    }
    Ok(())
}

/// A number of bytes as Linux takes it, with K, M, G, T or P behind it for larger units.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text.strip_prefix(number)?.to_ascii_lowercase();
    let shift = ["", "k", "m", "g", "t", "p"].iter().position(|name| *name == unit)?;
    let number: u64 = number.parse().ok()?;
    number.checked_mul(1 << (10 * u32::try_from(shift).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(resources: Value) -> Result<Resources, SpecError> {
        let linux = json!({ "resources": resources });
        let fields = Node::document(&linux).fields().unwrap();
        read(Some(&fields), &mut Notes::default())
    }

    fn settings(resources: Value) -> Vec<String> {
        let cgroup = of(resources).unwrap().cgroup;
        cgroup.settings.iter().map(|write| format!("{}={}", write.path, write.value)).collect()
    }

    #[test]
    fn settings_are_those_that_runc_writes() {
        for (resources, expected) in [
            (
                json!({ "memory": { "limit": 67_108_864, "swap": 134_217_728 } }),
                vec!["memory.max=67108864", "memory.swap.max=67108864"],
            ),
            (
                json!({ "memory": { "limit": -1, "reservation": 1_048_576, "swap": -1 } }),
                vec!["memory.max=max", "memory.low=1048576", "memory.swap.max=max"],
            ),
            (json!({ "memory": { "limit": 0, "swap": 0 } }), vec![]),
            (json!({ "cpu": { "shares": 1024 } }), vec!["cpu.weight=39"]),
            (json!({ "cpu": { "shares": 2 } }), vec!["cpu.weight=1"]),
            (json!({ "cpu": { "shares": 262_144 } }), vec!["cpu.weight=10000"]),
            (json!({ "cpu": { "quota": 150_000 } }), vec!["cpu.max=150000 100000"]),
            (json!({ "cpu": { "quota": -1, "period": 50_000 } }), vec!["cpu.max=max 50000"]),
            (
                json!({ "cpu": { "idle": 1, "burst": 500 } }),
                vec!["cpu.max.burst=500", "cpu.idle=1"],
            ),
            (json!({ "pids": { "limit": 32 } }), vec!["pids.max=32"]),
            (json!({ "pids": { "limit": -1 } }), vec!["pids.max=max"]),
            (
                json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4096 }] }),
                vec!["hugetlb.2MB.max=4096"],
            ),
            (json!({ "unified": { "memory.high": "1000000" } }), vec!["memory.high=1000000"]),
            (json!({ "unified": { "memory.max": "64M" } }), vec!["memory.max=67108864"]),
            (json!({ "unified": { "memory.max": "max" } }), vec!["memory.max=max"]),
        ] {
            assert_eq!(settings(resources.clone()), expected, "{resources}");
        }
    }

    fn update(resources: Value) -> Resources {
        let mut update = Resources::default();
        let fields = Node::document(&resources).fields().unwrap();
        read_limits(&fields, Purpose::Update, &mut update, &mut Notes::default()).unwrap();
        update
    }

    #[test]
    fn an_update_leaves_alone_what_it_does_not_name() {
        let shown = |resources: Value| {
            let settings = update(resources).cgroup.settings;
            settings.iter().map(|write| format!("{}={}", write.path, write.value)).collect()
        };
        let expect = |resources: Value, expected: &[&str]| {
            let settings: Vec<String> = shown(resources);
            assert_eq!(settings, expected);
        };
        expect(json!({ "cpu": { "quota": 50_000 } }), &["cpu.max=50000"]);
        expect(json!({ "cpu": { "quota": -1 } }), &["cpu.max=max"]);
        expect(json!({ "cpu": { "quota": 5000, "period": 10_000 } }), &["cpu.max=5000 10000"]);
        expect(json!({ "cpu": { "period": 10_000 } }), &[]);
        expect(json!({ "cpu": { "idle": 0 } }), &["cpu.idle=0"]);
        expect(json!({ "memory": { "limit": 0 }, "pids": { "limit": 0 } }), &[]);
        assert_eq!(update(json!({ "cpu": { "period": 10_000 } })).cpu_period, Some(10_000));
    }

    #[test]
    fn what_concerns_devices_and_nodes_is_the_hosts() {
        let host = |resources: Value| {
            let limits = of(resources).unwrap().host;
            let shown = |limit: &HostLimit| format!("{}={}", limit.files.join("|"), limit.value);
            limits.iter().map(shown).collect::<Vec<_>>()
        };
        assert_eq!(host(json!({ "cpu": { "mems": "0-1" } })), ["cpuset.mems=0-1"]);
        assert_eq!(host(json!({ "unified": { "io.max": "8:0 rbps=1" } })), ["io.max=8:0 rbps=1"]);
        assert_eq!(host(json!({ "blockIO": { "weight": 0 } })), [""; 0]);
        assert_eq!(host(json!({ "blockIO": { "weight": 500 } })), ["io.bfq.weight|io.weight=500"]);
        let rates = json!({ "blockIO": {
            "weightDevice": [{ "major": 8, "minor": 0, "weight": 10 }],
            "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": 1000 }],
            "throttleWriteIOPSDevice": [{ "major": 8, "minor": 16, "rate": 0 }],
        } });
        let expected =
            ["io.bfq.weight|io.weight=8:0 10", "io.max=8:0 rbps=1000", "io.max=8:16 wiops=max"];
        assert_eq!(host(rates), expected);
    }

    #[test]
    fn a_quota_counts_in_whole_cpus() {
        let cpus = |cpu: Value| of(json!({ "cpu": cpu })).unwrap().cpu_quota;
        assert_eq!(cpus(json!({ "quota": 150_000 })), Some(2));
        assert_eq!(cpus(json!({ "quota": 100_000, "period": 100_000 })), Some(1));
        assert_eq!(cpus(json!({ "quota": -1 })), None);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        for (resources, path) in [
            (json!({ "memory": { "limit": 1_048_576 } }), "linux.resources.memory.limit"),
            (json!({ "memory": { "limit": "1G" } }), "linux.resources.memory.limit"),
            (json!({ "memory": { "swap": 1 } }), "linux.resources.memory.swap"),
            (json!({ "memory": { "limit": 9_000_000, "swap": 1 } }), "linux.resources.memory.swap"),
            (json!({ "memory": { "kernel": 1 } }), "linux.resources.memory.kernel"),
            (
                json!({ "memory": { "disableOOMKiller": true } }),
                "linux.resources.memory.disableOOMKiller",
            ),
            (json!({ "memory": { "swappiness": 101 } }), "linux.resources.memory.swappiness"),
            (json!({ "cpu": { "realtimeRuntime": 1 } }), "linux.resources.cpu.realtimeRuntime"),
            (json!({ "cpu": { "mems": "x" } }), "linux.resources.cpu.mems"),
            (json!({ "cpu": { "cpus": "x" } }), "linux.resources.cpu.cpus"),
            (json!({ "cpu": { "period": 1 } }), "linux.resources.cpu.period"),
            (json!({ "cpu": { "quota": 1 } }), "linux.resources.cpu.quota"),
            (json!({ "blockIO": { "weight": 9 } }), "linux.resources.blockIO.weight"),
            (json!({ "blockIO": { "leafWeight": 100 } }), "linux.resources.blockIO.leafWeight"),
            (
                json!({ "blockIO": { "throttleReadBpsDevice": [{}] } }),
                "linux.resources.blockIO.throttleReadBpsDevice[0].major",
            ),
            (json!({ "network": { "classID": 1 } }), "linux.resources.network.classID"),
            (json!({ "rdma": { "mlx5_1": {} } }), "linux.resources.rdma"),
            (json!({ "unified": { "../x.y": "1" } }), "linux.resources.unified"),
            (json!({ "unified": { "io.stat": "1" } }), "linux.resources.unified"),
            (json!({ "unified": { "cgroup.procs": "1" } }), "linux.resources.unified"),
            (
                json!({ "hugepageLimits": [{ "pageSize": "4KB", "limit": 1 }] }),
                "linux.resources.hugepageLimits[0].pageSize",
            ),
            (
                json!({ "devices": [{ "allow": true, "type": "x" }] }),
                "linux.resources.devices[0].type",
            ),
            (
                json!({ "devices": [{ "allow": true, "access": "rx" }] }),
                "linux.resources.devices[0].access",
            ),
            (json!({ "devices": [{}] }), "linux.resources.devices[0].allow"),
        ] {
            let error = of(resources).unwrap_err().to_string();
            // The path in this test begins below `linux`.
            let path = path.trim_start_matches("linux.");
            assert!(error.starts_with(path), "{error:?} does not begin with {path}");
        }
    }
}
