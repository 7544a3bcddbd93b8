//! A further process of a running container: a file of its own, or the first process with changes.

use crate::spec::capabilities;
use crate::spec::error::SpecError;
use crate::spec::json::Node;
use crate::spec::process;
use crate::spec::{MAX_CONFIG_BYTES, Notes, process_plan};
use agent_protocol::{ProcessPlan, WindowSize};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A process from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessFile {
    /// What is executed; its streams are not known yet.
    pub plan: ProcessPlan,
    /// It gets a terminal.
    pub terminal: bool,
    /// Size of the terminal if the caller has none.
    pub console_size: Option<WindowSize>,
}

impl ProcessFile {
    /// Reads a file that holds what `process` is in a config.json.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn read(file: &Path) -> Result<Self, SpecError> {
        let failed = |source| SpecError::Read { file: file.to_owned(), source };
        let mut text = Vec::new();
        let opened = File::open(file).map_err(failed)?;
        opened.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_CONFIG_BYTES) {
            return Err(SpecError::TooLarge { file: file.to_owned(), limit: MAX_CONFIG_BYTES });
        }
        let document = serde_json::from_slice(&text)
            .map_err(|source| SpecError::Json { file: file.to_owned(), source })?;
        Self::from_value(&document)
    }

    /// Reads what `process` is in a config.json.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn from_value(document: &serde_json::Value) -> Result<Self, SpecError> {
        let mut notes = Notes::default();
        let process = process::read(&Node::document(document), &mut notes)?;
        notes.tell();
        let (terminal, console_size) = (process.terminal, process.console_size);
        Ok(Self { plan: process_plan(process, None), terminal, console_size })
    }
}

/// What differs from the container's first process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessChanges {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `NAME=value` strings, which replace those of the same name.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// Further supplementary groups.
    pub additional_gids: Vec<u32>,
    /// Further capabilities, for all five sets; bit n is capability number n.
    pub capabilities: u64,
    /// PR_SET_NO_NEW_PRIVS, also if the first process has it not.
    pub no_new_privileges: bool,
}

impl ProcessChanges {
    /// The first process's plan with these changes.
    #[must_use]
    pub fn apply(self, mut plan: ProcessPlan) -> ProcessPlan {
        plan.args = self.args;
        for variable in self.env {
            let name = |text: &str| text.split_once('=').map(|(name, _)| name.to_owned());
            plan.env.retain(|known| name(known) != name(&variable));
            plan.env.push(variable);
        }
        if let Some(cwd) = self.cwd {
            plan.cwd = cwd;
        }
        plan.user.uid = self.uid.unwrap_or(plan.user.uid);
        plan.user.gid = self.gid.unwrap_or(plan.user.gid);
        plan.user.additional_gids.extend(self.additional_gids);
        let sets = &mut plan.capabilities;
        for set in [
            &mut sets.bounding,
            &mut sets.effective,
            &mut sets.inheritable,
            &mut sets.permitted,
            &mut sets.ambient,
        ] {
            *set |= self.capabilities;
        }
        plan.no_new_privileges |= self.no_new_privileges;
        plan
    }
}

/// The bit of a capability (`CAP_KILL`), if Linux has it.
#[must_use]
pub fn capability_bit(name: &str) -> Option<u64> {
    let number = capabilities::NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
    Some(1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::{Capabilities, StdioPlan, UserPlan};

    fn first() -> ProcessPlan {
        ProcessPlan {
            args: vec!["/init".into()],
            env: vec!["A=1".into(), "AB=2".into()],
            cwd: "/home".into(),
            user: UserPlan { uid: 5, gid: 6, additional_gids: vec![7], umask: None },
            capabilities: Capabilities { bounding: 1, ..Capabilities::default() },
            rlimits: Vec::new(),
            no_new_privileges: false,
            oom_score_adj: None,
            io_priority: None,
            scheduler: None,
            personality: Some(8),
            stdio: StdioPlan::default(),
        }
    }

    #[test]
    fn what_is_not_changed_is_the_first_processs() {
        let args = vec!["ls".to_owned()];
        let plan =
            ProcessChanges { args: args.clone(), ..ProcessChanges::default() }.apply(first());
        assert_eq!(plan, ProcessPlan { args, ..first() });
    }

    #[test]
    fn changes_replace_or_add() {
        let changes = ProcessChanges {
            args: vec!["ls".into()],
            env: vec!["A=3".into(), "C=4".into()],
            cwd: Some("/".into()),
            uid: Some(1),
            gid: Some(2),
            additional_gids: vec![9],
            capabilities: capability_bit("CAP_KILL").unwrap(),
            no_new_privileges: true,
        };
        let plan = changes.apply(first());
        assert_eq!(plan.env, ["AB=2", "A=3", "C=4"]);
        assert_eq!((plan.user.uid, plan.user.gid), (1, 2));
        assert_eq!(plan.user.additional_gids, [7, 9]);
        assert_eq!((plan.capabilities.bounding, plan.capabilities.ambient), (33, 32));
        assert!(plan.no_new_privileges && plan.cwd == "/");
    }

    #[test]
    fn a_file_holds_what_process_is_in_a_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("process.json");
        std::fs::write(&file, r#"{"args":["id"],"cwd":"/","terminal":true,"user":{"uid":3}}"#)
            .unwrap();
        let process = ProcessFile::read(&file).unwrap();
        assert!(process.terminal);
        assert_eq!((process.plan.args[0].as_str(), process.plan.user.uid), ("id", 3));
        std::fs::write(&file, r#"{"args":[],"cwd":"/"}"#).unwrap();
        assert!(ProcessFile::read(&file).unwrap_err().to_string().contains("args"));
        std::fs::write(&file, "{").unwrap();
        assert!(ProcessFile::read(&file).unwrap_err().to_string().contains("process.json"));
    }

    #[test]
    fn capabilities_have_names() {
        assert_eq!(capability_bit("CAP_CHOWN"), Some(1));
        assert_eq!(capability_bit("cap_bpf"), Some(1 << 39));
        assert_eq!(capability_bit("KILL"), None);
    }
}
