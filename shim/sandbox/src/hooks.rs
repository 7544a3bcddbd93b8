//! Hooks of a bundle: those that run on the host, with the container's state on their standard
//! input (runtime-spec config.md, POSIX-platform Hooks), and what the agent has to know of the
//! others.

use crate::process::Process;
use crate::spec::Hook;
use agent_protocol::{HookPlan, StartHooks};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// Bytes of a hook's messages that an error repeats.
const MAX_MESSAGES: usize = 4096;

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It cannot be started.
    #[error("{asked_by}: {path:?} cannot be started")]
    Start {
        /// The property that names it.
        asked_by: String,
        /// Its program.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{asked_by}: error running hook {path:?}: {status}{messages}")]
    Failed {
        /// The property that names it.
        asked_by: String,
        /// Its program.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        messages: String,
    },
    /// It did not end in time, and was killed.
    #[error("{asked_by}: {path:?} did not end within {} s, its timeout", timeout.as_secs())]
    Timeout {
        /// The property that names it.
        asked_by: String,
        /// Its program.
        path: PathBuf,
        /// How long it had.
        timeout: Duration,
    },
}

/// The container's state as the specification has it (runtime.md, State).
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerState {
    pub(crate) oci_version: String,
    pub(crate) id: String,
    pub(crate) status: &'static str,
    pub(crate) pid: u32,
    pub(crate) bundle: PathBuf,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What the agent runs when it starts the container.
///
/// # Errors
/// [`HookError::Start`] if the state cannot be told.
pub(crate) fn in_guest(
    hooks: &[HookPlan],
    state: &ContainerState,
) -> Result<StartHooks, HookError> {
    let Some(first) = hooks.first() else { return Ok(StartHooks::default()) };
    let mut document = serde_json::to_value(state).map_err(|error| HookError::Start {
        asked_by: first.name.clone(),
        path: first.path.clone().into(),
        source: error.into(),
    })?;
    // The agent knows it, and adds it.
    document.as_object_mut().map(|properties| properties.remove("pid"));
    let mut state = document.to_string();
    state.pop();
    state.push_str(",\"pid\":");
    Ok(StartHooks { state, hooks: hooks.to_vec() })
}

/// How long those may take in all.
pub(crate) fn time_in_guest(hooks: &[HookPlan]) -> Duration {
    Duration::from_secs(hooks.iter().map(|hook| u64::from(hook.timeout_s)).sum())
}

/// Runs hooks in order, until one fails.
///
/// # Errors
/// [`HookError`] of that one.
pub(crate) async fn run(hooks: &[Hook], state: &ContainerState) -> Result<(), HookError> {
    for hook in hooks {
        run_one(hook, state).await?;
    }
    Ok(())
}

async fn run_one(hook: &Hook, state: &ContainerState) -> Result<(), HookError> {
    let failed = |source| HookError::Start {
        asked_by: hook.asked_by.clone(),
        path: hook.path.clone(),
        source,
    };
    // Files instead of pipes: nobody has to feed or drain them while the hook runs.
    let input = memory_file(&serde_json::to_vec(state).map_err(|error| failed(error.into()))?)
        .map_err(failed)?;
    let messages = memory_file(&[]).map_err(failed)?;
    let command = command(hook, &state.bundle, input, messages.try_clone().map_err(failed)?);
    let mut process = Process::start_group(command).map_err(failed)?;
    let waited = match hook.timeout {
        None => Some(process.wait().await),
        Some(timeout) => tokio::time::timeout(timeout, process.wait()).await.ok(),
    };
    match waited {
        Some(Ok(status)) if status.success() => Ok(()),
        Some(Ok(status)) => Err(HookError::Failed {
            asked_by: hook.asked_by.clone(),
            path: hook.path.clone(),
            status,
            messages: crate::text::attached("it said", &last_messages(messages)),
        }),
        Some(Err(error)) => Err(failed(error)),
        None => Err(HookError::Timeout {
            asked_by: hook.asked_by.clone(),
            path: hook.path.clone(),
            timeout: hook.timeout.unwrap_or_default(),
        }),
    }
}

fn command(hook: &Hook, bundle: &Path, input: std::fs::File, output: std::fs::File) -> Command {
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    if let Some(env) = &hook.env {
        command.env_clear().envs(env.iter().filter_map(|variable| variable.split_once('=')));
    }
    command.current_dir(bundle);
    let errors = output.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
    command.stdin(input).stdout(output).stderr(errors);
    command
}

fn memory_file(content: &[u8]) -> io::Result<std::fs::File> {
    use std::io::Seek;
    let file = rustix::fs::memfd_create("ringfence-hook", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(file);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn last_messages(file: std::fs::File) -> Vec<String> {
    use std::os::unix::fs::FileExt;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = vec![0; MAX_MESSAGES];
    let from = length.saturating_sub(u64::try_from(MAX_MESSAGES).unwrap_or(u64::MAX));
    let read = file.read_at(&mut bytes, from).unwrap_or(0);
    crate::text::printable_lines(bytes.get(..read).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ContainerState {
        ContainerState {
            oci_version: "1.0.2".into(),
            id: "c1".into(),
            status: "created",
            pid: 7,
            bundle: "/".into(),
            annotations: BTreeMap::new(),
        }
    }

    fn hook(script: &str) -> Hook {
        Hook {
            asked_by: "hooks.prestart[0]".into(),
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: Some(vec!["A=1".into()]),
            timeout: Some(Duration::from_secs(20)),
        }
    }

    #[tokio::test]
    async fn a_hook_reads_the_state_and_has_its_own_environment() {
        let script = r#"read -r state; test "$A" = 1 && case $state in *'"id":"c1"'*) exit 0;; esac; exit 1"#;
        run(&[hook(script)], &state()).await.unwrap();
    }

    #[tokio::test]
    async fn a_hook_without_an_environment_has_that_of_the_command() {
        let path = std::env::var("PATH").unwrap();
        let script = format!("test \"$PATH\" = '{path}'");
        run(&[Hook { env: None, ..hook(&script) }], &state()).await.unwrap();
        // What a shell sets by itself is another one.
        let script = "! grep -q -z -e ^PATH= -e ^HOME= /proc/$$/environ";
        run(&[Hook { env: Some(vec![]), ..hook(script) }], &state()).await.unwrap();
    }

    #[tokio::test]
    async fn a_hook_that_fails_is_named_with_its_messages() {
        let error = run(&[hook("echo no luck >&2; exit 3"), hook("exit 0")], &state()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("hooks.prestart[0]:"), "{error}");
        assert!(error.contains("exit status: 3") && error.contains("no luck"), "{error}");
    }

    #[tokio::test]
    async fn a_hook_that_hangs_is_killed_at_its_timeout() {
        let slow = Hook { timeout: Some(Duration::from_millis(50)), ..hook("sleep 1000") };
        let error = run(&[slow], &state()).await.unwrap_err();
        assert!(matches!(error, HookError::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_children_of_a_hook_that_hangs_are_killed_with_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("sleep 1000 & echo $! >{}; wait", file.path().display());
        let slow = Hook { timeout: Some(Duration::from_secs(1)), ..hook(&script) };
        run(&[slow], &state()).await.unwrap_err();
        let pid = std::fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while crate::process::ProcessRef::of(pid).is_some() {
            assert!(std::time::Instant::now() < until, "{pid} is still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn the_agent_completes_the_state() {
        let hook = HookPlan {
            name: "h".into(),
            path: "/h".into(),
            args: vec!["h".into()],
            env: vec![],
            timeout_s: u32::MAX,
        };
        let hooks = [hook.clone(), hook];
        assert_eq!(time_in_guest(&hooks), Duration::from_secs(2 * u64::from(u32::MAX)));
        let plan = in_guest(&hooks, &state()).unwrap();
        let told: serde_json::Value = serde_json::from_str(&(plan.state + "1}")).unwrap();
        let expected = serde_json::json!({
            "ociVersion": "1.0.2", "id": "c1", "status": "created", "pid": 1, "bundle": "/",
            "annotations": {},
        });
        assert_eq!(told, expected);
        assert_eq!(in_guest(&[], &state()).unwrap(), StartHooks::default());
    }

    #[tokio::test]
    async fn a_missing_hook_is_named() {
        let missing = Hook { path: "/no/such/hook".into(), ..hook("") };
        let error = run(&[missing], &state()).await.unwrap_err().to_string();
        assert!(error.contains("/no/such/hook"), "{error}");
    }
}
