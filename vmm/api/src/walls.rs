//! How a VMM is to confine itself, and what came of it.

use serde::{Deserialize, Serialize};

/// What a launcher wants of the walls around a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallsConfig {
    /// What happens where the host does not give one of them.
    pub policy: WallPolicy,
    /// The user and group that the process is to be on the host, of nobody else; `None` leaves it its
    /// launcher's.
    pub user: Option<u32>,
    /// No other process's thread runs on a core's second hardware thread while one of this one runs on
    /// the first.
    pub core_scheduling: bool,
}

/// What happens where the host does not give a wall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WallPolicy {
    /// No machine without all of them, also those that not every host can give: a user of its own, and
    /// Landlock.
    All,
    /// No machine without namespaces, an empty root, renounced privileges and system call filters; the
    /// others where the host gives them.
    #[default]
    Strict,
    /// A machine in any case; what is missing is told.
    Report,
}

/// What came of the walls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallsReport {
    /// Version of the kernel's Landlock that holds the process, if one does; tried, not only asked for.
    pub landlock: Option<u32>,
    /// Walls that are not up, each with the reason.
    pub down: Vec<String>,
}
