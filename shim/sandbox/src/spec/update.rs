//! New limits for a container that is there: what `linux.resources` is in a config.json.

use crate::spec::error::SpecError;
use crate::spec::json::Node;
use crate::spec::resources::{self, HostLimit, Purpose, Resources};
use crate::spec::{CpuList, MAX_CONFIG_BYTES, Notes};
use agent_protocol::{FileWrite, MAX_UPDATED_SETTINGS};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// What is to be changed. What is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceUpdate {
    /// Files of the guest's cgroup.
    pub(crate) settings: Vec<FileWrite>,
    /// Files of the host's cgroup that have no counterpart in the guest.
    pub(crate) host: Vec<HostLimit>,
    /// Period of the CPU quota in microseconds, without the quota.
    pub(crate) cpu_period: Option<u64>,
    /// CPUs of the host on which the machine may run.
    pub(crate) host_cpus: Option<CpuList>,
    /// Refuse a memory limit below what is in use.
    pub(crate) check_before_update: bool,
}

impl ResourceUpdate {
    /// Reads an object as `linux.resources` is one; 0 and empty text mean "not given".
    ///
    /// # Errors
    /// [`SpecError`], which names the property that cannot be changed.
    pub fn from_value(value: &Value) -> Result<Self, SpecError> {
        let document = Node::document(value);
        let fields = document.fields()?;
        // Read in any case: what is not read is unknown.
        if fields.get("devices").is_some() && value.get("devices") != Some(&first_rule()) {
            fields
                .refuse("devices", "the devices of a container that is there cannot be changed")?;
        }
        let (mut read, mut notes) = (Resources::default(), Notes::default());
        resources::read_limits(&fields, Purpose::Update, &mut read, &mut notes)?;
        if let Some(unknown) = notes.ignored.first() {
            // A bundle may hold what it likes; who changes a limit wants that limit.
            return Err(SpecError::Update { problem: unknown.clone() });
        }
        if read.cgroup.settings.len() > MAX_UPDATED_SETTINGS {
            let problem = format!("{MAX_UPDATED_SETTINGS} settings can be changed at once");
            return Err(SpecError::Update { problem });
        }
        Ok(Self {
            settings: read.cgroup.settings,
            host: read.host,
            cpu_period: read.cpu_period,
            host_cpus: read.host_cpus,
            check_before_update: read.check_before_update,
        })
    }

    /// Reads such an object from a file, or from standard input if its name is `-`.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn read_document(file: &Path) -> Result<Value, SpecError> {
        let failed = |source| SpecError::Read { file: file.to_owned(), source };
        let mut text = Vec::new();
        if file == Path::new("-") {
            let input = std::io::stdin().lock();
            input.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
        } else {
            let opened = std::fs::File::open(file).map_err(failed)?;
            opened.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
        }
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_CONFIG_BYTES) {
            return Err(SpecError::TooLarge { file: file.to_owned(), limit: MAX_CONFIG_BYTES });
        }
        serde_json::from_slice(&text)
            .map_err(|source| SpecError::Json { file: file.to_owned(), source })
    }

    /// Nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
            && self.host.is_empty()
            && self.cpu_period.is_none()
            && self.host_cpus.is_none()
    }
}

/// The rule that every container of podman begins with. podman hands it to each update, which with
/// runc and crun changes no devices.
fn first_rule() -> Value {
    serde_json::json!([{ "allow": false, "access": "rwm" }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_changed_is_named() {
        for (value, name) in [
            (json!({ "devices": [{ "allow": true, "access": "rwm" }] }), "devices"),
            (json!({ "devices": [{ "allow": false, "access": "r", "type": "c" }] }), "devices"),
            (json!({ "memory": { "kernel": 1 } }), "memory.kernel"),
            (json!({ "memory": { "limti": 1 } }), "memory.limti"),
            (json!({ "frob": 1 }), "frob"),
            (json!({ "cpu": { "realtimeRuntime": 1 } }), "cpu.realtimeRuntime"),
            (json!([]), "the document"),
        ] {
            let error = ResourceUpdate::from_value(&value).unwrap_err().to_string();
            assert!(error.contains(name), "{error:?} does not name {name}");
        }
    }

    #[test]
    fn zeros_and_blanks_are_no_change() {
        let value = json!({
            "memory": { "limit": 0, "reservation": 0, "swap": 0, "kernel": 0, "kernelTCP": 0 },
            "cpu": { "shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": "" },
            "blockIO": { "weight": 0 }, "devices": [], "pids": { "limit": 0 },
        });
        assert!(ResourceUpdate::from_value(&value).unwrap().is_empty());
        let podmans = json!({ "devices": [{ "access": "rwm", "allow": false }] });
        assert!(ResourceUpdate::from_value(&podmans).unwrap().is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_refused_or_read(text in "\\PC{0,200}", number: i64) {
            let value = json!({
                "memory": { "limit": number, "swap": number }, "unified": { "memory.high": text },
                "cpu": { "quota": number, "cpus": text, "mems": text },
            });
            drop(ResourceUpdate::from_value(&value));
            drop(ResourceUpdate::from_value(&json!({ text: number })));
        }
    }
}
