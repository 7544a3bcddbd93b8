//! The differential test list: every case with crun and with ringfence, and with runc where the two
//! differ and ringfence does as runc. `scripts/test differential` prints the table; every
//! difference stands in `docs/differences.md` with its reason.

use std::process::ExitCode;

use integration_tests::differential::{Group, main as play};

mod capabilities;
mod devices;
mod exec;
mod hooks;
mod lifecycle;
mod mounts;
mod namespaces;
mod paths;
mod process;
mod resources;
mod rlimits;
mod seccomp;
mod signals;
mod streams;
mod terminal;
mod user;
mod values;

const GROUPS: &[&Group] = &[
    &process::PROCESS,
    &process::PROGRAM,
    &process::BATCH,
    &process::REAL_TIME,
    &user::ORDINARY,
    &user::USER,
    &capabilities::SETS,
    &capabilities::CAPABILITIES,
    &rlimits::EACH,
    &rlimits::RLIMITS,
    &mounts::DEFAULT,
    &mounts::BINDS,
    &mounts::FILE_SYSTEMS,
    &mounts::MOUNTS,
    &devices::DEVICES,
    &namespaces::SHARED,
    &namespaces::NAMESPACES,
    &namespaces::USERS,
    &namespaces::NAMES,
    &paths::PATHS,
    &resources::SETTINGS,
    &resources::UNLIMITED,
    &resources::SMALL,
    &resources::RESOURCES,
    &resources::SYSCTL,
    &seccomp::ACTIONS,
    &seccomp::ARGUMENTS,
    &seccomp::SECCOMP,
    &values::VALUES,
    &lifecycle::LIFE,
    &lifecycle::RUNNING,
    &signals::SIGNALS,
    &exec::EXEC,
    &streams::STREAMS,
    &terminal::TERMINAL,
    &hooks::HOOKS,
];

fn main() -> ExitCode {
    play(GROUPS)
}
