//! The virtual machine of a bundle: its kernel and its size.

use crate::config::HostConfig;
use crate::console_rate::ConsoleRate;
use crate::disk_rate::DiskRate;
use crate::limits::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB, check_memory, check_vcpus};
use crate::network_settings::NetworkSettings;
use crate::spec::Overrides;
use crate::spec::annotations::Wishes;
use crate::spec::cpu_list::CpuList;
use crate::spec::error::SpecError;
use crate::spec::json::{Fields, Node};
use crate::spec::resources::Resources;
use std::path::{Path, PathBuf};
use vmm_api::WallPolicy;

/// Memory beside a container's limit, in MiB: kernel, agent, page cache in motion.
const OVERHEAD_MIB: u64 = 64;
/// And one part in so many for the kernel's own tables, which grow with memory.
const TABLES_PART: u64 = 32;

/// What the machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmPlan {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Kernel of the bundle (`vm.kernel.path`), else the host's.
    pub kernel: Option<PathBuf>,
    /// Initial RAM file system of the bundle (`vm.kernel.initrd`), else the host's.
    pub initrd: Option<PathBuf>,
    /// Further kernel parameters (`vm.kernel.parameters`).
    pub parameters: Vec<String>,
    /// CPUs of the host on which the machine may run.
    pub host_cpus: Option<CpuList>,
    /// How fast its kernel messages are kept.
    pub console_rate: ConsoleRate,
    /// How much it may read and write on each of its disks.
    pub disk_rate: DiskRate,
    /// What holds for its interfaces.
    pub network: NetworkSettings,
    /// What happens where the host does not give one of the walls.
    pub walls: WallPolicy,
}

/// What the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// CPUs that this process may use.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Its kernel keeps files and processes apart by SELinux labels.
    pub selinux: bool,
}

/// Makes the plan of the machine.
pub(super) fn plan(
    vm: Option<Fields<'_>>,
    wishes: &Wishes,
    resources: &Resources,
    overrides: &Overrides,
    config: &HostConfig,
    host: HostFacts,
) -> Result<VmPlan, SpecError> {
    if let Some(mib) = overrides.memory_mib {
        check_memory(mib).map_err(|problem| option("--memory", mib, problem))?;
    }
    if let Some(vcpus) = overrides.vcpus {
        check_vcpus(vcpus).map_err(|problem| option("--vcpus", vcpus, problem))?;
    }
    let memory_mib = overrides
        .memory_mib
        .or(wishes.memory_mib)
        .unwrap_or_else(|| memory_for(resources.memory_bytes, config.memory_mib, host));
    let vcpus = overrides
        .vcpus
        .or(wishes.vcpus)
        .unwrap_or_else(|| vcpus_for(resources, config.vcpus, host));
    let kernel = read_kernel(vm)?;
    Ok(VmPlan {
        memory_mib,
        vcpus: u8::try_from(vcpus).unwrap_or(1),
        kernel: kernel.path,
        initrd: kernel.initrd,
        parameters: kernel.parameters,
        host_cpus: resources.host_cpus.clone(),
        console_rate: config.console_rate.lower(wishes.console_rate),
        disk_rate: config.disk_rate.lower(wishes.disk_rate),
        network: NetworkSettings {
            rate: config.network_rate.lower(wishes.network_rate),
            any_source: !wishes.network_source_filter.unwrap_or(config.network_source_filter),
            metadata: wishes.network_metadata.unwrap_or(config.network_metadata),
        },
        walls: wishes.walls.unwrap_or(config.walls),
    })
}

fn option(option: &'static str, value: u32, problem: String) -> SpecError {
    SpecError::Option { option, value: value.to_string(), problem }
}

/// The container's limit and what the guest needs beside it; never more than the host has.
fn memory_for(limit_bytes: Option<u64>, default_mib: u32, host: HostFacts) -> u32 {
    let most = host.memory_mib.clamp(MIN_MEMORY_MIB, MAX_MEMORY_MIB);
    match limit_bytes {
        None => default_mib.min(most),
        Some(bytes) => {
            let limit = bytes.div_ceil(1 << 20);
            let total = limit.saturating_add(limit / TABLES_PART).saturating_add(OVERHEAD_MIB);
            u32::try_from(total).unwrap_or(u32::MAX).min(most)
        }
    }
}

/// The largest limit, in bytes, that a machine with so much memory has room for.
pub(crate) fn largest_limit(memory_mib: u32) -> u64 {
    let room = u64::from(memory_mib).saturating_sub(OVERHEAD_MIB);
    let mib = room.saturating_mul(TABLES_PART) / (TABLES_PART + 1);
    // The division by parts has lost up to one.
    let fits = |limit: u64| limit + limit / TABLES_PART <= room;
    let mib = if fits(mib + 1) { mib + 1 } else { mib };
    mib << 20
}

/// As many as the container may use at once; never more than the host has.
fn vcpus_for(resources: &Resources, default: u32, host: HostFacts) -> u32 {
    let quota = resources.cpu_quota.map(|cpus| u32::try_from(cpus).unwrap_or(u32::MAX));
    let list = resources.host_cpus.as_ref().map(|cpus| u32::try_from(cpus.len()).unwrap_or(1));
    let wanted = match (quota, list) {
        (Some(quota), Some(list)) => quota.min(list),
        (Some(cpus), None) | (None, Some(cpus)) => cpus,
        (None, None) => default,
    };
    wanted.min(host.cpus).clamp(1, MAX_VCPUS)
}

#[derive(Default)]
struct Kernel {
    path: Option<PathBuf>,
    initrd: Option<PathBuf>,
    parameters: Vec<String>,
}

/// `vm` (config-vm.md).
fn read_kernel(vm: Option<Fields<'_>>) -> Result<Kernel, SpecError> {
    let Some(vm) = vm else { return Ok(Kernel::default()) };
    vm.refuse("hypervisor", "the hypervisor is ringfence-vmm; remove it")?;
    vm.refuse("image", "a root image is not there yet; use root.path")?;
    let Some(kernel) = vm.fields("kernel")? else { return Ok(Kernel::default()) };
    let path = kernel.require("path", "the kernel to start, an absolute path on the host")?;
    let parameters = match kernel.get("parameters") {
        None => Vec::new(),
        Some(node) => read_parameters(&node)?,
    };
    Ok(Kernel {
        path: Some(absolute(&path)?),
        initrd: kernel.get("initrd").map(|node| absolute(&node)).transpose()?,
        parameters,
    })
}

fn absolute(node: &Node<'_>) -> Result<PathBuf, SpecError> {
    let path = Path::new(node.text()?);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(node.invalid("it must be an absolute path on the host"))
}

/// Words of the kernel's command line.
fn read_parameters(node: &Node<'_>) -> Result<Vec<String>, SpecError> {
    let parameters = node.texts()?;
    let printable = |text: &&str| text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if let Some(parameter) = parameters.iter().find(|text| !printable(text)) {
        return Err(node.invalid(format!("{parameter:?} holds a character that is no ASCII")));
    }
    Ok(parameters.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostFacts = HostFacts { cpus: 8, memory_mib: 16_384, selinux: false };

    fn limits(memory_bytes: Option<u64>, cpu_quota: Option<u64>) -> Resources {
        Resources { memory_bytes, cpu_quota, ..Resources::default() }
    }

    #[test]
    fn memory_is_the_limit_and_what_the_guest_needs() {
        assert_eq!(memory_for(Some(256 << 20), 2048, HOST), 256 + 8 + 64);
        assert_eq!(memory_for(Some(4 << 20), 2048, HOST), 68);
        assert_eq!(memory_for(None, 2048, HOST), 2048);
        assert_eq!(memory_for(Some(u64::MAX), 2048, HOST), 16_384);
        let small = HostFacts { cpus: 1, memory_mib: 512, selinux: false };
        assert_eq!(memory_for(None, 2048, small), 512);
    }

    #[test]
    fn a_machine_has_room_for_the_limit_that_it_was_made_for() {
        for mib in [4, 32, 33, 100, 256, 1000, 4097] {
            let machine = memory_for(Some(mib << 20), 2048, HostFacts { cpus: 1, ..HOST });
            assert_eq!(largest_limit(machine), mib << 20, "{machine}");
        }
        assert_eq!(largest_limit(48), 0);
    }

    #[test]
    fn vcpus_are_what_the_container_may_use_at_once() {
        assert_eq!(vcpus_for(&limits(None, None), 2, HOST), 2);
        assert_eq!(vcpus_for(&limits(None, Some(3)), 2, HOST), 3);
        assert_eq!(vcpus_for(&limits(None, Some(64)), 2, HOST), 8);
        let pinned = Resources { host_cpus: Some(vec![4, 5]), ..limits(None, Some(3)) };
        assert_eq!(vcpus_for(&pinned, 1, HOST), 2);
    }
}
