//! What must stay true of the workspace as a whole: who depends on whom, under which licences,
//! and how the sources are laid out. Needs neither root nor KVM and runs with the unit tests.

mod dependencies;
mod deploy;
mod documents;
mod graph;
mod licences;
mod manifests;
mod modules;
mod rust_tokens;
mod sources;
