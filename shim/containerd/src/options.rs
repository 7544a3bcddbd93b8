//! The runtime's options in a request to create a task. An unknown kind, and a setting that means nothing
//! here, are refused by name.

use crate::shim_error::ShimError;
use containerd_shim_protos::shim::oci::Options;
use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, Message};
use sandbox::config::HostConfig;
use std::path::PathBuf;

/// Names of the messages that are read.
const OF_RUNC: &str = "containerd.runc.v1.Options";
const OF_ANYBODY: &str = "runtimeoptions.v1.Options";

/// What the options say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuntimeOptions {
    /// `linux.cgroupsPath` has systemd's form.
    pub(crate) systemd_cgroup: bool,
    /// The host's configuration, instead of the usual one.
    config: Option<PathBuf>,
}

impl RuntimeOptions {
    /// Reads them.
    pub(crate) fn read(options: Option<&Any>) -> Result<Self, ShimError> {
        let Some(any) = options.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        match name(&any.type_url) {
            OF_RUNC => Self::of_runc(&any.value),
            OF_ANYBODY => Self::of_anybody(&any.value),
            _ => Err(refuse(
                "options",
                &any.type_url,
                "ringfence knows containerd.runc.v1.Options \
                and runtimeoptions.v1.Options",
            )),
        }
    }

    fn of_runc(value: &[u8]) -> Result<Self, ShimError> {
        let options = Options::parse_from_bytes(value).map_err(ShimError::Message)?;
        for (name, value, problem) in [
            ("ShimCgroup", &options.shim_cgroup, "the shim is in its pod's cgroup; remove it"),
            (
                "BinaryName",
                &options.binary_name,
                "it is an option of io.containerd.runc.v2; remove it",
            ),
            ("Root", &options.root, "it is an option of io.containerd.runc.v2; remove it"),
            ("CriuImagePath", &options.criu_image_path, "there are no checkpoints yet; remove it"),
            ("CriuWorkPath", &options.criu_work_path, "there are no checkpoints yet; remove it"),
        ] {
            if !value.is_empty() {
                return Err(refuse(name, value, problem));
            }
        }
        // NoPivotRoot and NoNewKeyring mean nothing in a guest; the FIFOs belong to root, as
        // the shim does.
        Ok(Self { systemd_cgroup: options.systemd_cgroup, config: None })
    }

    /// `TypeUrl`, `ConfigPath` and `ConfigBody`: a message of three fields that says where the
    /// configuration is.
    fn of_anybody(value: &[u8]) -> Result<Self, ShimError> {
        const CONFIG_PATH: u32 = 2;
        const CONFIG_BODY: u32 = 3;
        let mut options = Self::default();
        let mut stream = CodedInputStream::from_bytes(value);
        let mut read = || -> Result<Option<Vec<u8>>, protobuf::Error> {
            let mut body = None;
            while let Some(tag) = stream.read_raw_tag_or_eof()? {
                match tag >> 3 {
                    CONFIG_PATH => {
                        let path = stream.read_string()?;
                        options.config =
                            Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty());
                    }
                    CONFIG_BODY => body = Some(stream.read_bytes()?),
                    _ => protobuf::rt::skip_field_for_tag(tag, &mut stream)?,
                }
            }
            Ok(body)
        };
        let body = read().map_err(ShimError::Message)?;
        if let Some(body) = body.filter(|body| !body.is_empty()) {
            let text = String::from_utf8_lossy(&body);
            let text = text.lines().next().unwrap_or_default();
            return Err(refuse(
                "ConfigBody",
                text,
                "write it to a file and name that in ConfigPath",
            ));
        }
        Ok(options)
    }

    /// The host's configuration.
    pub(crate) fn host_config(&self) -> Result<HostConfig, ShimError> {
        HostConfig::load(self.config.as_deref())
            .map_err(|error| ShimError::Sandbox(sandbox::SandboxError::Config(error)))
    }
}

/// Whether options of this type are read here.
pub(crate) fn is_known(type_url: &str) -> bool {
    [OF_RUNC, OF_ANYBODY].contains(&name(type_url))
}

/// What follows the registry's name, which not everybody writes.
fn name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or_default()
}

fn refuse(option: &str, value: &str, problem: &str) -> ShimError {
    ShimError::Option {
        option: format!("the runtime option {option}"),
        value: value.chars().take(200).collect(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.to_owned(), value, ..Any::default() }
    }

    #[test]
    fn options_of_runc_are_taken_if_they_mean_something() {
        assert_eq!(RuntimeOptions::read(None).unwrap(), RuntimeOptions::default());
        let options = Options { systemd_cgroup: true, ..Options::default() };
        let read = RuntimeOptions::read(Some(&any(
            "containerd.runc.v1.Options",
            options.write_to_bytes().unwrap(),
        )));
        assert!(read.unwrap().systemd_cgroup);
        let options = Options { binary_name: "crun".into(), ..Options::default() };
        let refused = RuntimeOptions::read(Some(&any(
            "types.containerd.io/containerd.runc.v1.Options",
            options.write_to_bytes().unwrap(),
        )));
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("BinaryName") && message.contains("crun"), "{message}");
    }

    #[test]
    fn a_configuration_can_be_named() {
        // Field 2, text "/c".
        let read = RuntimeOptions::read(Some(&any(
            "runtimeoptions.v1.Options",
            vec![0x12, 2, b'/', b'c'],
        )));
        assert_eq!(read.unwrap().config, Some(PathBuf::from("/c")));
        for (type_url, value, named) in [
            ("runtimeoptions.v1.Options", vec![0x1a, 1, b'x'], "ConfigBody"),
            ("runtimeoptions.v1.Options", vec![0x1a, 9, b'x'], "message"),
            ("containerd.runhcs.v1.Options", vec![], "runhcs"),
        ] {
            let message =
                RuntimeOptions::read(Some(&any(type_url, value))).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }
}
