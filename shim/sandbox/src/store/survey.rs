//! What is below a root, whether it can be understood or not.

use super::{Stored, failed, read};
use crate::container_id::ContainerId;
use crate::store::StoreError;
use std::io;
use std::path::Path;

/// One entry with the name of a container.
#[derive(Debug)]
pub(crate) enum Surveyed {
    /// A container.
    Container(Box<Stored>),
    /// A directory without a state: it is claimed at this moment, or its owner was killed before it
    /// could write. [`super::Deletion::begin`] tells the two apart.
    Unwritten(ContainerId),
    /// What is written there cannot be understood.
    Broken(StoreError),
}

/// Looks at every entry that has the name of a container, sorted by name.
///
/// # Errors
/// [`StoreError::Io`]; a root that is not there holds nothing.
pub(crate) fn survey(root: &Path) -> Result<Vec<Surveyed>, StoreError> {
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed(root))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed(root))?.file_name();
        names.extend(name.to_str().and_then(|name| ContainerId::new(name).ok()));
    }
    names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    let mut found = Vec::new();
    for id in names {
        let path = root.join(id.as_str());
        match read(&path) {
            Ok(Some(stored)) => found.push(Surveyed::Container(Box::new(stored))),
            Ok(None) if path.is_dir() => found.push(Surveyed::Unwritten(id)),
            Ok(None) => {}
            Err(error) => found.push(Surveyed::Broken(error)),
        }
    }
    Ok(found)
}
