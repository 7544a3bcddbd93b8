//! What containerd gives to `start` on the standard input: the parameters of its bootstrap protocol (from
//! containerd 2.3 on), or the runtime's options alone (before), or nothing.
//!
//! Both are protocol buffers, and the bytes of one can be read as the other. Parameters say for which
//! container they are, as the command line does: what says the same is parameters, everything else is
//! options.

use crate::arguments::Arguments;
use crate::options;
use crate::shim_error::ShimError;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, LogLevel};
use protobuf::well_known_types::any::Any;
use protobuf::{Enum, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use std::io;
use std::path::PathBuf;

/// Bytes at most, and how long the caller may take to give them.
const MAX_BYTES: usize = 1 << 20;
const DEADLINE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StartInput {
    /// The runtime's options, an encoded `Any`.
    pub(crate) options: Option<Vec<u8>>,
    /// The caller speaks the bootstrap protocol, and gets its answer by it.
    pub(crate) is_bootstrap: bool,
    /// Detailed messages are wanted.
    pub(crate) debug: bool,
    /// Where containerd takes events.
    pub(crate) events: Option<String>,
    /// Directory of sockets.
    pub(crate) sockets: Option<PathBuf>,
}

impl StartInput {
    /// Reads it.
    pub(crate) fn read(arguments: &Arguments) -> Result<Self, ShimError> {
        Self::of(&read_all()?, arguments)
    }

    fn of(bytes: &[u8], arguments: &Arguments) -> Result<Self, ShimError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let params = BootstrapParams::parse_from_bytes(bytes).ok().filter(|params| {
            params.instance_id == arguments.id && params.namespace == arguments.namespace
        });
        let Some(params) = params else {
            return Ok(Self { options: Some(bytes.to_vec()), ..Self::default() });
        };
        let given = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
        let options = runtime_options(given).map(Message::write_to_bytes).transpose();
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(Self {
            options: options.map_err(ShimError::Message)?,
            is_bootstrap: true,
            // The more detailed, the less.
            debug: params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG.value(),
            events: text(params.containerd_ttrpc_address),
            sockets: params.socket_dir.and_then(text).map(PathBuf::from),
        })
    }
}

/// The extension that is the runtime's options. Others are for whom they concern, and a shim passes over
/// what it does not know; but options of a runtime that is another one are kept, and refused by name where
/// they are used.
fn runtime_options<'a>(given: impl Iterator<Item = &'a Any> + Clone) -> Option<&'a Any> {
    let known = given.clone().find(|any| options::is_known(&any.type_url));
    known.or_else(|| given.clone().find(|any| any.type_url.ends_with(".Options")))
}

/// Everything up to the end, if it is a pipe.
fn read_all() -> Result<Vec<u8>, ShimError> {
    let input = rustix::stdio::stdin();
    let is_pipe = rustix::fs::fstat(input)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    let mut bytes = Vec::new();
    if !is_pipe {
        return Ok(bytes);
    }
    let mut piece = [0; 4096];
    loop {
        let mut ready = [PollFd::from_borrowed_fd(input, PollFlags::IN)];
        let failed = |source: io::Error| ShimError::Options(source);
        let count = poll(&mut ready, Some(&DEADLINE)).map_err(|errno| failed(errno.into()))?;
        if count == 0 {
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
        let count = rustix::io::read(input, &mut piece).map_err(|errno| failed(errno.into()))?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
        if bytes.len() > MAX_BYTES {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;
    use protobuf::{EnumOrUnknown, MessageField};

    fn arguments() -> Arguments {
        Arguments { id: "c1".into(), namespace: "default".into(), ..Arguments::default() }
    }

    fn any(type_url: &str) -> Any {
        Any { type_url: type_url.to_owned(), value: vec![8, 1], ..Any::default() }
    }

    fn params(extensions: &[&str]) -> BootstrapParams {
        let extension = |name: &&str| Extension {
            value: MessageField::some(any(name)),
            ..Extension::default()
        };
        BootstrapParams {
            instance_id: "c1".into(),
            namespace: "default".into(),
            extensions: extensions.iter().map(extension).collect(),
            ..BootstrapParams::default()
        }
    }

    fn read(message: &BootstrapParams) -> StartInput {
        StartInput::of(&message.write_to_bytes().unwrap(), &arguments()).unwrap()
    }

    #[test]
    fn options_alone_stay_what_they_are() {
        assert_eq!(StartInput::of(&[], &arguments()).unwrap(), StartInput::default());
        let bytes = any("containerd.runc.v1.Options").write_to_bytes().unwrap();
        let input = StartInput::of(&bytes, &arguments()).unwrap();
        assert_eq!(input, StartInput { options: Some(bytes), ..StartInput::default() });
        // Nothing that can be read at all is told where it is used.
        let input = StartInput::of(&[0xff], &arguments()).unwrap();
        assert_eq!((input.options, input.is_bootstrap), (Some(vec![0xff]), false));
    }

    #[test]
    fn parameters_are_those_of_this_container() {
        let plain = read(&params(&[]));
        assert_eq!(plain, StartInput { is_bootstrap: true, ..StartInput::default() });
        let full = read(&BootstrapParams {
            log_level: EnumOrUnknown::from_i32(-8),
            containerd_ttrpc_address: "/t".into(),
            socket_dir: Some("/s".into()),
            ..params(&[])
        });
        assert!(full.debug && full.is_bootstrap);
        assert_eq!((full.events.as_deref(), full.sockets), (Some("/t"), Some("/s".into())));
        let other = BootstrapParams { instance_id: "c2".into(), ..params(&[]) };
        assert!(!read(&other).is_bootstrap);
    }

    #[test]
    fn the_options_are_one_of_the_extensions() {
        for (extensions, wanted) in [
            (&["x.Config"][..], None),
            (&["x.Config", "containerd.runc.v1.Options"], Some("containerd.runc.v1.Options")),
            (
                &["x.Options", "types.containerd.io/runtimeoptions.v1.Options"],
                Some("types.containerd.io/runtimeoptions.v1.Options"),
            ),
            (&["containerd.runhcs.v1.Options"], Some("containerd.runhcs.v1.Options")),
        ] {
            let input = read(&params(extensions));
            let wanted = wanted.map(|name| any(name).write_to_bytes().unwrap());
            assert_eq!(input.options, wanted, "{extensions:?}");
        }
    }
}
