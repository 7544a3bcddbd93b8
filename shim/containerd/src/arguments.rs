//! The command line, in the form of Go's `flag` package: `-name value` or `-name=value`, one dash or two,
//! then the action.

use crate::shim_error::ShimError;
use std::ffi::OsString;
use std::path::PathBuf;

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Action {
    /// Serve a pod; without an action, as `start` calls it.
    #[default]
    Serve,
    /// Leave a process for a pod behind, and say where it listens.
    Start,
    /// Remove what a shim has left.
    Delete,
    /// Tell the version.
    Version,
    /// Tell what the runtime is.
    Info,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) action: Action,
    pub(crate) namespace: String,
    /// Id of the container.
    pub(crate) id: String,
    /// containerd's socket.
    pub(crate) address: String,
    /// Directory of the container's bundle; the current one if it is empty.
    pub(crate) bundle: PathBuf,
    pub(crate) debug: bool,
}

impl Arguments {
    pub(crate) fn read(words: impl Iterator<Item = OsString>) -> Result<Self, ShimError> {
        let mut arguments = Self::default();
        let mut words = words.map(|word| word.to_string_lossy().into_owned());
        while let Some(word) = words.next() {
            let wrong = |problem| ShimError::Argument { argument: word.clone(), problem };
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                arguments.action = match word.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(wrong("the actions are start and delete")),
                };
                return match words.next() {
                    None => arguments.check(),
                    Some(more) => Err(ShimError::Argument {
                        argument: more,
                        problem: "nothing may follow the action",
                    }),
                };
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let on = value.as_deref() != Some("false");
            match name {
                "debug" => arguments.debug = on,
                "v" | "version" if on => arguments.action = Action::Version,
                "info" if on => arguments.action = Action::Info,
                "v" | "version" | "info" => {}
                "namespace" | "id" | "address" | "bundle" | "publish-binary" | "socket"
                | "debug-socket" => {
                    let value = value.or_else(|| words.next());
                    let value = value.ok_or_else(|| wrong("it needs a value"))?;
                    match name {
                        "namespace" => arguments.namespace = value,
                        "id" => arguments.id = value,
                        "address" => arguments.address = value,
                        "bundle" => arguments.bundle = PathBuf::from(value),
                        // Events go over ttrpc, and `start` chooses the socket.
                        _ => {}
                    }
                }
                _ => return Err(wrong("this option is not known")),
            }
        }
        arguments.check()
    }

    /// Both become parts of paths.
    fn check(self) -> Result<Self, ShimError> {
        if matches!(self.action, Action::Version | Action::Info) {
            return Ok(self);
        }
        for (name, value) in [("-namespace", &self.namespace), ("-id", &self.id)] {
            let problem = if value.is_empty() {
                "it is missing"
            } else if value.starts_with('.') || value.contains('/') || value.len() > 255 {
                "it cannot be a file's name"
            } else {
                continue;
            };
            return Err(ShimError::Argument { argument: format!("{name} {value}"), problem });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Arguments, String> {
        Arguments::read(words.iter().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_have_both_forms() {
        let words = ["-namespace", "default", "--id=c1", "-debug", "-address", "/s", "start"];
        let arguments = read(&words).unwrap();
        assert_eq!(arguments.action, Action::Start);
        assert_eq!((arguments.namespace.as_str(), arguments.id.as_str()), ("default", "c1"));
        assert!(arguments.debug);
        let delete = read(&[
            "-namespace",
            "n",
            "-publish-binary",
            "x",
            "-bundle",
            "/b",
            "-id",
            "c",
            "delete",
        ]);
        assert_eq!(delete.unwrap().bundle, PathBuf::from("/b"));
        assert_eq!(read(&["-v"]).unwrap().action, Action::Version);
        assert_eq!(read(&["-info"]).unwrap().action, Action::Info);
        assert_eq!(read(&["-namespace", "n", "-id", "c"]).unwrap().action, Action::Serve);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, named) in [
            (&["stop"][..], "stop"),
            (&["-x"], "-x"),
            (&["-id"], "-id"),
            (&["start"], "-namespace"),
            (&["-namespace", "a/b", "-id", "c", "start"], "a/b"),
            (&["-namespace", "n", "-id", "..", "start"], ".."),
            (&["-namespace", "n", "-id", "c", "start", "more"], "more"),
        ] {
            let error = read(words).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
