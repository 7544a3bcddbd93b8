//! New limits for a container that runs: what an update means for its guest, its cgroup on the host
//! and its machine's threads. Nothing is done by half: the host's part can be undone, and the
//! agent does its own as a whole.

use crate::control::Replier;
use crate::host_cgroup::{self, CgroupError, HostCgroup, Limit, Undo};
use crate::process::ProcessRef;
use crate::spec::{CpuList, ResourceUpdate, largest_limit};
use agent_client::ClientError;
use agent_protocol::FileWrite;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::BTreeMap;
use tokio::task::JoinHandle;

/// The limits of a container as they are now, in the guest's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    known: BTreeMap<String, String>,
}

impl Settings {
    pub(crate) fn new(settings: &[FileWrite]) -> Self {
        let mut known = Self::default();
        known.take(settings);
        known
    }

    /// Takes note of what was written.
    pub(crate) fn take(&mut self, settings: &[FileWrite]) {
        for FileWrite { path, value } in settings {
            self.known.insert(path.clone(), value.clone());
        }
    }

    /// Quota and period, as `cpu.max` has them.
    pub(crate) fn cpu_max(&self) -> (String, u64) {
        /// The kernel's default, in microseconds.
        const PERIOD: u64 = 100_000;
        let text = self.known.get("cpu.max").map_or("max", String::as_str);
        let mut words = text.split_ascii_whitespace();
        let quota = words.next().unwrap_or("max").to_owned();
        (quota, words.next().and_then(|period| period.parse().ok()).unwrap_or(PERIOD))
    }
}

/// Size of a machine, which it keeps for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MachineSize {
    pub(crate) memory_mib: u32,
    pub(crate) vcpus: u8,
}

/// Why limits are not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(
        "memory.limit is {bytes} bytes, and its virtual machine was made with {memory_mib} MiB, which has room for a limit of {most} bytes ({} MiB): give it less, or make the container anew with a larger limit or --memory",
        most >> 20
    )]
    Memory { bytes: u64, memory_mib: u32, most: u64 },
    #[error(
        "cpu.quota is {quota} in a period of {period} microseconds, and its virtual machine was made with {vcpus} virtual CPUs, which can use {most} at most: give it less, or make the container anew with a larger quota or --vcpus"
    )]
    Cpu { quota: u64, period: u64, vcpus: u8, most: u64 },
    #[error(
        "memory.limit is {bytes} bytes and {usage} bytes are in use, which checkBeforeUpdate forbids"
    )]
    InUse { bytes: u64, usage: u64 },
    #[error("cpu.cpus: its virtual machine cannot run on the CPUs {cpus:?}: {errno}")]
    Affinity { cpus: CpuList, errno: rustix::io::Errno },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// In the guest, in order.
    pub(crate) guest: Vec<FileWrite>,
    /// On the host.
    pub(crate) host: Vec<Limit>,
    pub(crate) cpus: Option<CpuList>,
    /// The guest may not use more memory than that now.
    pub(crate) most_in_use: Option<u64>,
}

/// What an update means in the guest, for a container with these limits.
fn in_guest(update: ResourceUpdate, settings: &Settings) -> Vec<FileWrite> {
    let ResourceUpdate { settings: mut guest, cpu_period, .. } = update;
    let (known_quota, known_period) = settings.cpu_max();
    for setting in guest.iter_mut().filter(|setting| setting.path == "cpu.max") {
        if !setting.value.contains(' ') {
            setting.value = format!("{} {known_period}", setting.value);
        }
    }
    if let Some(period) = cpu_period {
        let value = format!("{known_quota} {period}");
        guest.push(FileWrite { path: "cpu.max".to_owned(), value });
    }
    guest
}

/// What an update means for a machine of this size whose container has these limits.
///
/// # Errors
/// [`ChangeError::Memory`] or [`ChangeError::Cpu`].
pub(crate) fn plan(
    update: ResourceUpdate,
    machine: MachineSize,
    settings: &Settings,
) -> Result<Change, ChangeError> {
    let ResourceUpdate { host, host_cpus, check_before_update, .. } = update.clone();
    let guest = in_guest(update, settings);
    let mut most_in_use = None;
    for FileWrite { path, value } in &guest {
        match path.as_str() {
            "memory.max" => {
                let Ok(bytes) = value.trim().parse() else { continue };
                let MachineSize { memory_mib, .. } = machine;
                let most = largest_limit(memory_mib);
                if bytes > most {
                    return Err(ChangeError::Memory { bytes, memory_mib, most });
                }
                most_in_use = check_before_update.then_some(bytes);
            }
            "cpu.max" => check_quota(value, machine.vcpus)?,
            _ => {}
        }
    }
    let mut limits = host_cgroup::derive(&guest, machine.memory_mib, host_cpus.as_deref());
    limits.extend(host.into_iter().map(Limit::from));
    Ok(Change { guest, host: limits, cpus: host_cpus, most_in_use })
}

fn check_quota(value: &str, vcpus: u8) -> Result<(), ChangeError> {
    let numbers = value.split_once(' ');
    let numbers = numbers.and_then(|(quota, period)| {
        Some((quota.trim().parse::<u64>().ok()?, period.trim().parse::<u64>().ok()?))
    });
    let Some((quota, period)) = numbers else { return Ok(()) };
    let most = period.saturating_mul(u64::from(vcpus));
    if quota > most {
        return Err(ChangeError::Cpu { quota, period, vcpus, most });
    }
    Ok(())
}

/// What undoes the host's part of a change.
#[derive(Debug)]
pub(crate) struct HostUndo {
    limits: Option<Undo>,
    threads: Vec<(Pid, CpuSet)>,
}

impl HostUndo {
    pub(crate) fn run(self) {
        restore(self.threads);
        if let Some(limits) = self.limits {
            limits.run();
        }
    }
}

/// Does the host's part of a change.
///
/// # Errors
/// [`ChangeError`]; then nothing is changed.
pub(crate) fn apply_on_host(
    change: &Change,
    cgroup: Option<&HostCgroup>,
    vmm: Option<ProcessRef>,
) -> Result<HostUndo, ChangeError> {
    let limits = match cgroup {
        Some(cgroup) => Some(cgroup.apply(&change.host)?),
        None => {
            if let Some(limit) = change.host.iter().find(|limit| limit.is_needed) {
                return Err(ChangeError::Cgroup(CgroupError::Needed {
                    property: limit.asked_by.clone(),
                    value: limit.value.clone(),
                    reason: "this container has none".to_owned(),
                }));
            }
            None
        }
    };
    let threads = match (&change.cpus, vmm) {
        (Some(cpus), Some(vmm)) => match bind(vmm, cpus) {
            Ok(threads) => threads,
            Err(errno) => {
                if let Some(limits) = limits {
                    limits.run();
                }
                return Err(ChangeError::Affinity { cpus: cpus.clone(), errno });
            }
        },
        _ => Vec::new(),
    };
    Ok(HostUndo { limits, threads })
}

/// A change of limits whose host's part is done.
#[derive(Debug)]
pub(crate) struct LimitsChange {
    pub(crate) replier: Replier,
    pub(crate) settings: Vec<FileWrite>,
    pub(crate) undo: HostUndo,
    pub(crate) agent: JoinHandle<Result<(), ChangeRefusal>>,
}

/// Why a guest's part of a change was not done.
#[derive(Debug)]
pub(crate) enum ChangeRefusal {
    InUse(ChangeError),
    Agent(ClientError),
}

/// What a change of limits has come to; without one it never comes.
pub(crate) async fn next_change(change: &mut Option<LimitsChange>) -> Result<(), ChangeRefusal> {
    match change {
        Some(LimitsChange { agent, .. }) => {
            // A task that has panicked has told so.
            agent.await.unwrap_or(Err(ChangeRefusal::Agent(ClientError::Closed)))
        }
        None => std::future::pending().await,
    }
}

/// Binds every thread of the machine to these CPUs; returns where they were.
fn bind(vmm: ProcessRef, cpus: &[u16]) -> Result<Vec<(Pid, CpuSet)>, rustix::io::Errno> {
    /// A thread that is started meanwhile has what the one has that starts it.
    const ROUNDS: usize = 2;
    let set = crate::vm_process::cpu_set(cpus);
    let mut before: Vec<(Pid, CpuSet)> = Vec::new();
    for _ in 0..ROUNDS {
        for thread in threads_of(vmm) {
            let bound = sched_getaffinity(Some(thread)).and_then(|was| {
                sched_setaffinity(Some(thread), &set)?;
                if !before.iter().any(|(known, _)| *known == thread) {
                    before.push((thread, was));
                }
                Ok(())
            });
            match bound {
                // It has ended.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => {
                    restore(before);
                    return Err(errno);
                }
            }
        }
    }
    Ok(before)
}

fn restore(threads: Vec<(Pid, CpuSet)>) {
    for (thread, set) in threads {
        // One that has ended needs nothing.
        let _ = sched_setaffinity(Some(thread), &set);
    }
}

fn threads_of(process: ProcessRef) -> Vec<Pid> {
    if !process.is_alive() {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(format!("/proc/{}/task", process.pid)) else {
        return Vec::new();
    };
    let pid = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)
    };
    entries.filter_map(pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const MACHINE: MachineSize = MachineSize { memory_mib: 167, vcpus: 2 };

    fn change(value: Value, settings: &Settings) -> Result<Change, String> {
        let update = ResourceUpdate::from_value(&value).unwrap();
        plan(update, MACHINE, settings).map_err(|error| error.to_string())
    }

    fn shown(value: Value, settings: &Settings) -> (Vec<String>, Vec<String>) {
        let change = change(value, settings).unwrap();
        let guest = change.guest.iter().map(|write| format!("{}={}", write.path, write.value));
        let host = change.host.iter().map(|limit| format!("{}={}", limit.files[0], limit.value));
        (guest.collect(), host.collect())
    }

    #[test]
    fn a_change_has_a_part_in_the_guest_and_one_on_the_host() {
        let settings = Settings::new(&[FileWrite {
            path: "cpu.max".to_owned(),
            value: "50000 20000".to_owned(),
        }]);
        let none = Settings::default();
        for (value, settings, guest, host) in [
            (
                json!({ "cpu": { "quota": 30_000 } }),
                &settings,
                "cpu.max=30000 20000",
                "cpu.max=35000 20000",
            ),
            (
                json!({ "cpu": { "period": 40_000 } }),
                &settings,
                "cpu.max=50000 40000",
                "cpu.max=60000 40000",
            ),
            (
                json!({ "cpu": { "quota": -1 } }),
                &settings,
                "cpu.max=max 20000",
                "cpu.max=max 20000",
            ),
            (
                json!({ "cpu": { "quota": 30_000 } }),
                &none,
                "cpu.max=30000 100000",
                "cpu.max=55000 100000",
            ),
            (json!({ "pids": { "limit": 9 } }), &none, "pids.max=9", "pids.max=1024"),
        ] {
            assert_eq!(shown(value, settings), (vec![guest.to_owned()], vec![host.to_owned()]));
        }
        let (guest, host) = shown(json!({ "blockIO": { "weight": 20 } }), &none);
        assert!(guest.is_empty());
        assert_eq!(host, ["io.bfq.weight=20"]);
    }

    #[test]
    fn a_machine_does_not_grow() {
        let none = Settings::default();
        let error = change(json!({ "memory": { "limit": 200 << 20 } }), &none).unwrap_err();
        for part in ["209715200", "167 MiB", "(100 MiB)"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        change(json!({ "memory": { "limit": 100 << 20 } }), &none).unwrap();
        change(json!({ "memory": { "limit": -1 } }), &none).unwrap();
        let error = change(json!({ "cpu": { "quota": 200_001 } }), &none).unwrap_err();
        for part in ["200001", "2 virtual CPUs", "200000 at most"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        // The period alone can make a quota too large.
        let settings = Settings::new(&[FileWrite {
            path: "cpu.max".to_owned(),
            value: "150000 100000".to_owned(),
        }]);
        change(json!({ "cpu": { "period": 50_000 } }), &settings).unwrap_err();
        change(json!({ "cpu": { "period": 75_000 } }), &settings).unwrap();
    }

    #[test]
    fn what_needs_a_cgroup_is_refused_without_one() {
        let none = Settings::default();
        let change = change(json!({ "blockIO": { "weight": 20 } }), &none).unwrap();
        let error = apply_on_host(&change, None, None).unwrap_err().to_string();
        assert!(error.contains("blockIO.weight is 20"), "{error}");
    }

    #[test]
    fn threads_are_bound_and_set_free() {
        let own = ProcessRef::own().unwrap();
        let before = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).unwrap();
        let first = u16::try_from(first).unwrap();
        let threads = bind(own, &[first]).unwrap();
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        restore(threads);
        assert_eq!(sched_getaffinity(None).unwrap().count(), before.count());
        assert!(bind(own, &[1023]).is_err());
    }

    #[test]
    fn a_quota_has_a_period() {
        let max = |value: &str| {
            let (path, value) = ("cpu.max".to_owned(), value.to_owned());
            Settings::new(&[FileWrite { path, value }]).cpu_max()
        };
        assert_eq!(max("150000 50000"), ("150000".to_owned(), 50_000));
        assert_eq!(max("max"), ("max".to_owned(), 100_000));
        assert_eq!(Settings::default().cpu_max(), ("max".to_owned(), 100_000));
    }
}
