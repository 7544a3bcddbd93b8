//! What CPUID shows to a guest: what KVM supports on this host, made consistent with a machine of
//! one socket whose cores have one thread each, without what a sandbox has no use for.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaves by number (SDM vol 2 CPUID; AMD APM vol 3 appendix E).
mod leaf {
    pub(super) const FEATURES: u32 = 0x1;
    pub(super) const CACHES_INTEL: u32 = 0x4;
    pub(super) const POWER: u32 = 0x6;
    pub(super) const PERFORMANCE: u32 = 0xa;
    pub(super) const TOPOLOGY: u32 = 0xb;
    pub(super) const SGX: u32 = 0x12;
    pub(super) const TRACE: u32 = 0x14;
    pub(super) const TOPOLOGY_V2: u32 = 0x1f;
    pub(super) const EXTENDED_FEATURES: u32 = 0x8000_0001;
    pub(super) const SIZES: u32 = 0x8000_0008;
    pub(super) const SVM: u32 = 0x8000_000a;
    pub(super) const SAMPLING_AMD: u32 = 0x8000_001b;
    pub(super) const CACHES_AMD: u32 = 0x8000_001d;
    pub(super) const PROCESSOR_AMD: u32 = 0x8000_001e;
    pub(super) const PERFORMANCE_AMD: u32 = 0x8000_0022;
    pub(super) const TOPOLOGY_AMD: u32 = 0x8000_0026;
}

/// Leaves that describe what a sandbox does not have: nested virtualization, performance counters,
/// enclaves, processor trace; and topology leaves that are written anew or superseded.
const REMOVED: [u32; 9] = [
    leaf::PERFORMANCE,
    leaf::TOPOLOGY,
    leaf::SGX,
    leaf::TRACE,
    leaf::TOPOLOGY_V2,
    leaf::SVM,
    leaf::SAMPLING_AMD,
    leaf::PERFORMANCE_AMD,
    leaf::TOPOLOGY_AMD,
];

// Leaf 1, ECX.
const MONITOR: u32 = 1 << 3;
const VMX: u32 = 1 << 5;
const PERFORMANCE_CAPABILITIES: u32 = 1 << 15;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
// Leaf 1, EDX.
const SEVERAL_PROCESSORS: u32 = 1 << 28;
/// Leaf 6, EAX: the local APIC timer never stops. Without it Linux wants another timer for idle.
const ALWAYS_RUNNING_TIMER: u32 = 1 << 2;
// Leaf 0x8000_0001, ECX.
const CMP_LEGACY: u32 = 1 << 1;
const SVM: u32 = 1 << 2;
const SAMPLING: u32 = 1 << 10;
const PERFORMANCE_COUNTERS: u32 = (1 << 23) | (1 << 24) | (1 << 28);

/// Type numbers of topology levels in leaf 0xb, ECX bits 15:8.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// The entries common to all virtual CPUs of a machine, from what KVM supports.
///
/// `vcpus` is at least 1.
#[must_use]
pub fn for_machine(supported: &[kvm_cpuid_entry2], vcpus: u8) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> =
        supported.iter().filter(|entry| !REMOVED.contains(&entry.function)).copied().collect();
    let amd = is_amd(supported);
    for entry in &mut entries {
        normalize(entry, u32::from(vcpus));
        if amd && entry.function == leaf::SIZES {
            count_cores_amd(entry, u32::from(vcpus));
        }
    }
    let basic = entries.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    if basic >= leaf::TOPOLOGY {
        entries.extend(topology(u32::from(vcpus)));
    }
    entries
}

/// The entries of one virtual CPU: the machine's with its APIC id, which is its index.
#[must_use]
pub fn for_vcpu(machine: &[kvm_cpuid_entry2], index: u8) -> Vec<kvm_cpuid_entry2> {
    let id = u32::from(index);
    let mut entries = machine.to_vec();
    for entry in &mut entries {
        match entry.function {
            leaf::FEATURES => entry.ebx = (entry.ebx & 0x00ff_ffff) | (id << 24),
            leaf::TOPOLOGY => entry.edx = id,
            leaf::PROCESSOR_AMD => {
                entry.eax = id;
                // Threads per core minus one (bits 15:8) are 0: the core's number is the id.
                entry.ebx = id;
            }
            _ => {}
        }
    }
    entries
}

/// Bits of a guest-physical address that the host supports (leaf 0x8000_0008, EAX bits 7:0).
#[must_use]
pub fn physical_address_bits(supported: &[kvm_cpuid_entry2]) -> u32 {
    supported
        .iter()
        .find(|entry| entry.function == leaf::SIZES)
        // 36 bits is what processors without the leaf have (SDM vol 3 §4.1.4).
        .map_or(36, |entry| entry.eax & 0xff)
}

fn normalize(entry: &mut kvm_cpuid_entry2, vcpus: u32) {
    match entry.function {
        leaf::FEATURES => {
            entry.ecx &= !(MONITOR | VMX | PERFORMANCE_CAPABILITIES);
            // KVM_GET_SUPPORTED_CPUID leaves the deadline timer out: it depends on the in-kernel
            // APIC, which every machine here has. With it Linux calibrates no timer.
            entry.ecx |= HYPERVISOR | TSC_DEADLINE;
            // Bits 23:16 are the ids reserved for this socket (SDM vol 2), a power of two.
            entry.ebx = (entry.ebx & 0xff00_ffff) | (vcpus.next_power_of_two() << 16);
            if vcpus > 1 {
                entry.edx |= SEVERAL_PROCESSORS;
            } else {
                entry.edx &= !SEVERAL_PROCESSORS;
            }
        }
        leaf::CACHES_INTEL => {
            entry.eax = shared_by(entry.eax, vcpus, 0x03ff_c000);
            // Bits 31:26: core ids reserved in the socket, minus one. Null entries stay null.
            if entry.eax & 0x1f != 0 {
                entry.eax = (entry.eax & 0x03ff_ffff) | ((vcpus.next_power_of_two() - 1) << 26);
            }
        }
        leaf::CACHES_AMD => entry.eax = shared_by(entry.eax, vcpus, 0x03ff_c000),
        leaf::POWER => {
            entry.eax = ALWAYS_RUNNING_TIMER;
            (entry.ebx, entry.ecx, entry.edx) = (0, 0, 0);
        }
        leaf::EXTENDED_FEATURES => {
            entry.ecx &= !(SVM | SAMPLING | PERFORMANCE_COUNTERS);
            if vcpus == 1 {
                entry.ecx &= !CMP_LEGACY;
            }
        }
        // One node (bits 10:8 minus one), number 0.
        leaf::PROCESSOR_AMD => entry.ecx = 0,
        _ => {}
    }
}

/// Leaf 0x8000_0008 of AMD, ECX: bits 7:0 cores minus one, bits 15:12 bits of the APIC id. Intel
/// reserves the register.
fn count_cores_amd(entry: &mut kvm_cpuid_entry2, vcpus: u32) {
    let id_bits = vcpus.next_power_of_two().trailing_zeros();
    entry.ecx = (entry.ecx & !0xf0ff) | (vcpus - 1) | (id_bits << 12);
}

/// Whether leaf 0 names a vendor that follows AMD's leaves: `AuthenticAMD` or `HygonGenuine`.
fn is_amd(entries: &[kvm_cpuid_entry2]) -> bool {
    let ebx = entries.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.ebx);
    [*b"Auth", *b"Hygo"].map(u32::from_le_bytes).contains(&ebx)
}

/// Cache leaf EAX with its sharing field: the last level (3) belongs to all, the others to a core.
fn shared_by(eax: u32, vcpus: u32, mask: u32) -> u32 {
    let (kind, level) = (eax & 0x1f, (eax >> 5) & 0x7);
    if kind == 0 {
        return eax;
    }
    let others = if level >= 3 { vcpus.next_power_of_two() - 1 } else { 0 };
    (eax & !mask) | (others << 14)
}

/// Leaf 0xb: threads (one each), cores, end.
fn topology(vcpus: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index, eax, ebx, ecx| kvm_cpuid_entry2 {
        function: leaf::TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: ecx | index,
        ..Default::default()
    };
    [
        level(0, 0, 1, LEVEL_THREAD),
        level(1, vcpus.next_power_of_two().trailing_zeros(), vcpus, LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn host() -> Vec<kvm_cpuid_entry2> {
        vec![
            entry(0, 0, [0x1f, u32::from_le_bytes(*b"Auth"), 0, 0]),
            entry(1, 0, [0xf00, 0x0720_0800, VMX | MONITOR, SEVERAL_PROCESSORS]),
            entry(4, 0, [0x1c00_4121, 0, 0, 0]),
            entry(4, 3, [0x1c03_c163, 0, 0, 0]),
            entry(4, 4, [0, 0, 0, 0]),
            entry(0xa, 0, [0x0730_0404, 0, 0, 0x603]),
            entry(0xb, 0, [1, 2, 0x100, 9]),
            entry(0x1f, 0, [1, 2, 0x100, 9]),
            entry(0x8000_0001, 0, [0, 0, SVM | CMP_LEGACY | 1, 0]),
            entry(0x8000_0008, 0, [0x3030, 0, 0x500f, 0]),
            entry(0x8000_001e, 0, [9, 0x104, 0x301, 0]),
        ]
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found = entries.iter().filter(|e| e.function == function && e.index == index);
        let entry = *found.next().unwrap();
        assert!(found.next().is_none(), "leaf {function:#x} occurs twice");
        entry
    }

    #[test]
    fn hides_nested_virtualization_and_counters() {
        let entries = for_machine(&host(), 1);
        assert_eq!(find(&entries, 1, 0).ecx & (VMX | MONITOR), 0);
        assert_eq!(find(&entries, 0x8000_0001, 0).ecx & SVM, 0);
        assert!(entries.iter().all(|e| e.function != 0xa && e.function != 0x1f));
    }

    #[test]
    fn shows_hypervisor_and_deadline_timer() {
        let entries = for_machine(&host(), 1);
        assert_eq!(find(&entries, 1, 0).ecx, HYPERVISOR | TSC_DEADLINE);
        assert_eq!(find(&entries, 1, 0).edx & SEVERAL_PROCESSORS, 0);
    }

    #[test]
    fn gives_each_vcpu_its_id_in_every_leaf() {
        let machine = for_machine(&host(), 6);
        for index in [0, 5] {
            let entries = for_vcpu(&machine, index);
            assert_eq!(find(&entries, 1, 0).ebx, (u32::from(index) << 24) | 0x0008_0800);
            for level in 0..3 {
                assert_eq!(find(&entries, 0xb, level).edx, u32::from(index));
            }
            assert_eq!(find(&entries, 0x8000_001e, 0).eax, u32::from(index));
        }
    }

    #[test]
    fn describes_one_socket_of_single_thread_cores() {
        let entries = for_machine(&host(), 6);
        assert_eq!(find(&entries, 0xb, 0).ebx, 1);
        assert_eq!((find(&entries, 0xb, 1).eax, find(&entries, 0xb, 1).ebx), (3, 6));
        assert_eq!(find(&entries, 4, 0).eax >> 26, 7);
        assert_eq!((find(&entries, 4, 0).eax >> 14) & 0xfff, 0);
        assert_eq!((find(&entries, 4, 3).eax >> 14) & 0xfff, 7);
        assert_eq!(find(&entries, 4, 4).eax, 0);
        assert_eq!(find(&entries, 0x8000_0008, 0).ecx & 0xf0ff, 0x3005);
    }

    #[test]
    fn reads_the_address_width() {
        assert_eq!(physical_address_bits(&host()), 48);
        assert_eq!(physical_address_bits(&[]), 36);
    }
}
