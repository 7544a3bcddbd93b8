//! The drives of a pod's machine: places for the disks of the containers that come after the first.

use super::error::PodError;

/// What is in a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drive {
    Empty,
    Full,
    /// The guest may still use what was in it.
    Lost,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Drives {
    drives: Vec<Drive>,
    next_number: u64,
}

impl Drives {
    pub(super) fn new(count: usize) -> Self {
        Self { drives: vec![Drive::Empty; count], next_number: 0 }
    }

    /// Takes an empty one; returns its number and the serial number for its disk, which no other disk of
    /// the machine has had.
    ///
    /// # Errors
    /// [`PodError::NoDrives`] or [`PodError::TooMany`].
    pub(super) fn take(&mut self, container: &str) -> Result<(u16, String), PodError> {
        if self.drives.is_empty() {
            return Err(PodError::NoDrives { id: container.to_owned() });
        }
        let empty = (0..).zip(&mut self.drives).find(|(_, drive)| **drive == Drive::Empty);
        let Some((number, drive)) = empty else {
            let what = "containers beside its first one whose roots are on disks";
            return Err(PodError::TooMany { what, most: self.drives.len() });
        };
        *drive = Drive::Full;
        self.next_number += 1;
        Ok((number, format!("disk{}", self.next_number)))
    }

    /// The guest has let go of the disk, or has not.
    pub(super) fn give_back(&mut self, number: u16, is_released: bool) {
        if let Some(drive) = self.drives.get_mut(usize::from(number)) {
            *drive = if is_released { Drive::Empty } else { Drive::Lost };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_used_again_when_the_guest_has_let_go() {
        let none = Drives::default().take("c").unwrap_err().to_string();
        assert!(none.contains("snapshotter"), "{none}");
        let mut drives = Drives::new(2);
        assert_eq!(drives.take("c").unwrap(), (0, "disk1".to_owned()));
        assert_eq!(drives.take("c").unwrap(), (1, "disk2".to_owned()));
        assert!(drives.take("c").unwrap_err().to_string().contains("at most 2"));
        drives.give_back(1, true);
        assert_eq!(drives.take("c").unwrap(), (1, "disk3".to_owned()));
        drives.give_back(0, false);
        drives.take("c").unwrap_err();
    }
}
