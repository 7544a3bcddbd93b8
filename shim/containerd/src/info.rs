//! `-v` and `-info`.

use crate::RUNTIME;
use crate::shim_error::ShimError;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

/// What containerd 2.2 looks for in the answer, and the mounts of a root that it is to leave as they are: the
/// guest makes them (containerd, docs/mount-management.md).
const ALLOW_MOUNTS: &str = "containerd.io/runtime-allow-mounts";
const MOUNTS: &str = "mkdir/*,format/*,erofs,ext4,ext3,ext2";

/// What `-v` answers.
pub(crate) fn version() -> String {
    format!(
        "containerd-shim-ringfence-v2:\n  Version: {}\n  Runtime: {RUNTIME}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// What `-info` answers: containerd's `RuntimeInfo`, with the features of the OCI runtime specification as
/// JSON. Its question, the runtime's options, changes nothing of that.
pub(crate) fn info() -> Result<Vec<u8>, ShimError> {
    let features = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features".to_owned(),
        value: sandbox::spec::features(env!("CARGO_PKG_VERSION")).to_string().into_bytes(),
        ..Any::default()
    };
    let info = RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RuntimeVersion::default()
        }),
        features: MessageField::some(features),
        annotations: [(ALLOW_MOUNTS.to_owned(), MOUNTS.to_owned())].into(),
        ..RuntimeInfo::default()
    };
    info.write_to_bytes().map_err(ShimError::Message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_tells_its_name_and_features() {
        assert!(version().contains(env!("CARGO_PKG_VERSION")));
        let info = RuntimeInfo::parse_from_bytes(&info().unwrap()).unwrap();
        assert_eq!(info.name, RUNTIME);
        assert!(info.annotations[ALLOW_MOUNTS].split(',').any(|kind| kind == "erofs"));
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
        assert!(features["ociVersionMax"].as_str().unwrap().starts_with("1."), "{features}");
    }
}
