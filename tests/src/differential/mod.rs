//! The differential test list: what ringfence does beside what crun does, and runc where the two
//! differ, case by case.
//!
//! A case makes a *report* with each runtime: lines of text in which everything that may differ
//! from run to run is left out. Two equal reports are the same behaviour. A difference that is
//! meant has an id, which stands in `docs/differences.md` with its reason; ids and rows are
//! compared, and a difference that has gone fails as one that is new does.

mod case;
mod rows;
mod runner;
mod stage;
mod table;

pub use case::{Body, Case, Change, Expected, Group, edit, inside, look, part, scene, set};
pub use runner::main;
pub use stage::Stage;
