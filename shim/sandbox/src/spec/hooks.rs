//! `hooks`: programs of the host that are told of the container's life.

use crate::spec::Notes;
use crate::spec::error::SpecError;
use crate::spec::json::{Fields, Node};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// One hook (config.md, POSIX-platform Hooks).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The property of config.json, for example `hooks.poststop[0]`.
    pub asked_by: String,
    /// Absolute path of the program.
    pub path: PathBuf,
    /// Its arguments, the first being its name; empty for the path alone.
    pub args: Vec<String>,
    /// Its whole environment, `NAME=value`.
    pub env: Vec<String>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// Hooks that run on the host, by the moment at which they do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// `prestart`, then `createRuntime`: the virtual machine runs, the container is not made.
    pub before_create: Vec<Hook>,
    /// `poststart`: the program runs.
    pub after_start: Vec<Hook>,
    /// `poststop`: the container and its virtual machine are gone.
    pub after_stop: Vec<Hook>,
}

/// Reads `hooks`.
pub(super) fn read(fields: &Fields<'_>, notes: &mut Notes) -> Result<Hooks, SpecError> {
    let in_guest = "hooks that run inside the container's namespaces are not there yet; use \
                    createRuntime or poststart, which run on the host";
    fields.refuse("createContainer", in_guest)?;
    fields.refuse("startContainer", in_guest)?;
    let list = |name| fields.items(name)?.iter().map(read_hook).collect::<Result<Vec<_>, _>>();
    let mut before_create = list("prestart")?;
    before_create.extend(list("createRuntime")?);
    let hooks =
        Hooks { before_create, after_start: list("poststart")?, after_stop: list("poststop")? };
    fields.tell_unknown(notes);
    Ok(hooks)
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
        env: owned(fields.texts("env")?),
        timeout,
    })
}
