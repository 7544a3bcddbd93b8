//! What an engine does with a namespace between a container's creation and its start.

use super::{NetworkError, NetworkRecord, inside, open, redirect, scan};

impl NetworkRecord {
    /// Whether the namespace has the interfaces that were connected, and no others.
    ///
    /// # Errors
    /// [`NetworkError::Late`] or [`NetworkError::Gone`]; or the namespace cannot be looked at.
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        let path = &self.namespace;
        let namespace = open(path)?;
        let there = inside(path, &namespace, async {
            let handle = redirect::handle()?;
            scan::names(&handle).await
        })?;
        let stranger = there.iter().find(|(index, name)| {
            !self.interfaces.contains(index) && !name.starts_with(redirect::TAP_PREFIX)
        });
        if let Some((_, name)) = stranger {
            return Err(NetworkError::Late { name: name.clone(), path: path.clone() });
        }
        match self.interfaces.iter().find(|index| !there.iter().any(|(there, _)| there == *index)) {
            Some(index) => Err(NetworkError::Gone { index: *index, path: path.clone() }),
            None => Ok(()),
        }
    }
}
