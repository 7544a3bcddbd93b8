//! `process.capabilities`: names to bit masks.

use crate::spec::Notes;
use crate::spec::error::SpecError;
use crate::spec::json::Fields;
use agent_protocol::Capabilities;

/// CAP_* names by number (`linux/capability.h`), those that the guest kernel knows.
pub(super) const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The names of the capabilities in a mask; a bit without a name has its number.
pub(crate) fn capability_names(mask: u64) -> Vec<String> {
    let is_set = |bit: &usize| mask & (1 << bit) != 0;
    let name =
        |bit: usize| NAMES.get(bit).map_or_else(|| bit.to_string(), |name| (*name).to_owned());
    (0..64).filter(is_set).map(name).collect()
}

/// Reads the five sets.
pub(super) fn read(fields: &Fields<'_>, notes: &mut Notes) -> Result<Capabilities, SpecError> {
    let mut set = |name| read_set(fields, name, notes);
    let capabilities = Capabilities {
        bounding: set("bounding")?,
        effective: set("effective")?,
        inheritable: set("inheritable")?,
        permitted: set("permitted")?,
        ambient: set("ambient")?,
    };
    fields.tell_unknown(notes);
    Ok(capabilities)
}

/// A name without a meaning is told and not refused (config.md, `capabilities`).
fn read_set(fields: &Fields<'_>, name: &'static str, notes: &mut Notes) -> Result<u64, SpecError> {
    let mut mask = 0;
    for capability in fields.texts(name)? {
        match NAMES.iter().position(|known| *known == capability) {
            Some(bit) => mask |= 1_u64 << bit,
            None => notes.warnings.push(format!(
                "process.capabilities.{name} holds {capability:?}, which Linux does not know"
            )),
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::NAMES;

    #[test]
    fn the_table_has_the_kernels_numbers() {
        for (number, name) in
            [(0, "CAP_CHOWN"), (21, "CAP_SYS_ADMIN"), (34, "CAP_SYSLOG"), (39, "CAP_BPF")]
        {
            assert_eq!(NAMES[number], name);
        }
    }
}
