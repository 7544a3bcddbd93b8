//! One file for each command: convert, call, convert back.

pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod features;
pub(crate) mod list;
pub(crate) mod manage;
pub(crate) mod other;
pub(crate) mod run;
pub(crate) mod spec;
pub(crate) mod state;
pub(crate) mod supervise;

use crate::error::CommandError;
use serde_json::Value;
use std::io::Write;

/// Writes an answer to standard output.
fn print(text: &str) -> Result<(), CommandError> {
    let mut output = std::io::stdout();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(CommandError::Print)
}

/// Writes an answer in JSON, as runc indents it.
fn print_json(value: &Value) -> Result<(), CommandError> {
    print(&format!("{value:#}\n"))
}
