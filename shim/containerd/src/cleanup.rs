//! `delete`: containerd has lost the shim of a container; what is left of it goes, and with a lone
//! container, or a pod, the process that serves it.

use crate::arguments::Arguments;
use crate::rootfs;
use crate::shim_error::ShimError;
use crate::socket::{self, Names};
use containerd_shim_protos::api::DeleteResponse;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use sandbox::spec::{Bundle, PodRole};
use std::path::{Path, PathBuf};

/// 128 and SIGKILL.
const KILLED: u32 = 137;

/// Where the state of the pods of a namespace is.
pub(crate) fn state_root(namespace: &str) -> PathBuf {
    Path::new(sandbox::SHIM_ROOTS).join(namespace)
}

/// See the module.
pub(crate) fn delete(arguments: &Arguments) -> Result<Vec<u8>, ShimError> {
    let bundle = if arguments.bundle.as_os_str().is_empty() {
        std::env::current_dir()
            .map_err(|source| ShimError::Path { path: PathBuf::from("."), source })?
    } else {
        arguments.bundle.clone()
    };
    // A bundle that cannot be read belongs to nobody's pod.
    let role = Bundle::read(&bundle).ok().and_then(|bundle| bundle.pod_role().ok());
    if !matches!(role, Some(PodRole::Member(_))) {
        // A process that still serves it is ended first: then nothing new is made.
        let Arguments { address, namespace, id, .. } = arguments;
        let names = Names { address, namespace, pod: id };
        let socket = names.path_of(&bundle)?;
        let ended = socket::end_server(&socket, names);
        sandbox::delete(&state_root(namespace), id, true)?;
        // One that could not be found by its socket may have been written down.
        ended.or_else(|_| socket::end_server(&socket, names))?;
    }
    rootfs::unmount(&bundle.join("rootfs"))?;
    let response = DeleteResponse {
        exit_status: KILLED,
        exited_at: MessageField::some(Timestamp::from(std::time::SystemTime::now())),
        ..DeleteResponse::default()
    };
    response.write_to_bytes().map_err(ShimError::Message)
}
