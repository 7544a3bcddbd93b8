//! `hooks`: programs of the host that are told of the container's life.

use crate::spec::Notes;
use crate::spec::error::SpecError;
use crate::spec::json::{Fields, Node};
use agent_protocol::{HookPlan, MAX_START_HOOKS};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// What a hook that runs in the guest has if it has no timeout: a guest is never waited for without a
/// deadline.
const LONGEST_START_HOOK: Duration = Duration::from_secs(60 * 60);

/// One hook (config.md, POSIX-platform Hooks).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The property of config.json, for example `hooks.poststop[0]`.
    pub asked_by: String,
    /// Absolute path of the program.
    pub path: PathBuf,
    /// Its arguments, the first being its name; empty for the path alone.
    pub args: Vec<String>,
    /// Its whole environment, `NAME=value`; that of the command which runs it if not given.
    pub env: Option<Vec<String>>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// Hooks, by the moment at which they run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// `prestart`, then `createRuntime`: the virtual machine runs, the container is not made.
    pub before_create: Vec<Hook>,
    /// `startContainer`: these run in the guest, as part of the start.
    pub in_start: Vec<HookPlan>,
    /// `poststart`: the program runs.
    pub after_start: Vec<Hook>,
    /// `poststop`: the container and its virtual machine are gone.
    pub after_stop: Vec<Hook>,
}

/// Reads `hooks`. Those of `startContainer` have the environment `env` if they have none of their
/// own, as with runc and crun.
pub(super) fn read(
    fields: &Fields<'_>,
    env: &[String],
    notes: &mut Notes,
) -> Result<Hooks, SpecError> {
    let in_guest = "it is a program of the host for the container's namespaces, which are in a \
                    virtual machine; use createRuntime, which runs on the host, or \
                    startContainer, which runs in the container";
    fields.refuse("createContainer", in_guest)?;
    let start = fields.items("startContainer")?;
    if let Some(one_too_many) = start.get(MAX_START_HOOKS) {
        return Err(one_too_many.invalid(format!("there can be at most {MAX_START_HOOKS} of them")));
    }
    let in_start = start.iter().map(|node| read_start_hook(node, env)).collect::<Result<_, _>>()?;
    let list = |name| fields.items(name)?.iter().map(read_hook).collect::<Result<Vec<_>, _>>();
    let mut before_create = list("prestart")?;
    before_create.extend(list("createRuntime")?);
    let (after_start, after_stop) = (list("poststart")?, list("poststop")?);
    let hooks = Hooks { before_create, in_start, after_start, after_stop };
    fields.tell_unknown(notes);
    Ok(hooks)
}

/// A hook that runs in the guest.
fn read_start_hook(node: &Node<'_>, env: &[String]) -> Result<HookPlan, SpecError> {
    let Hook { asked_by, path, mut args, env: given, timeout } = read_hook(node)?;
    let path = path.to_string_lossy().into_owned();
    if args.is_empty() {
        args.push(path.clone());
    }
    let timeout = timeout.unwrap_or(LONGEST_START_HOOK);
    Ok(HookPlan {
        name: asked_by,
        path,
        args,
        env: given.unwrap_or_else(|| env.to_vec()),
        timeout_s: u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX),
    })
}

fn read_hook(node: &Node<'_>) -> Result<Hook, SpecError> {
    let fields = node.fields()?;
    let path = fields.require("path", "the absolute path of the hook's program")?;
    if !path.text()?.starts_with('/') {
        return Err(path.invalid("the path of a hook must be absolute"));
    }
    let timeout = match fields.get("timeout") {
        None => None,
        Some(node) => match node.integer::<u32>()? {
            0 => return Err(node.invalid("the timeout of a hook must be at least one second")),
            seconds => Some(Duration::from_secs(seconds.into())),
        },
    };
    let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
    Ok(Hook {
        asked_by: node.path().to_owned(),
        path: path.text()?.into(),
        args: owned(fields.texts("args")?),
        env: fields.get("env").map(|node| node.texts().map(owned)).transpose()?,
        timeout,
    })
}
