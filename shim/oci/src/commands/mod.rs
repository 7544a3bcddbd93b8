//! One file for each command: convert, call, convert back.

pub(crate) mod create;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod features;
pub(crate) mod gc;
mod handed_in;
pub(crate) mod list;
pub(crate) mod manage;
pub(crate) mod other;
pub(crate) mod ps;
pub(crate) mod run;
pub(crate) mod spec;
pub(crate) mod state;
pub(crate) mod supervise;
pub(crate) mod update;

use crate::error::CommandError;
use serde::Serialize;
use std::io::Write;

/// Writes an answer to standard output.
fn print(text: &str) -> Result<(), CommandError> {
    let mut output = std::io::stdout();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(CommandError::Print)
}

/// Writes an answer in JSON, indented and in the order of runc's properties.
fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| CommandError::Print(error.into()))?;
    print(&format!("{text}\n"))
}

/// Writes an answer in JSON on one line.
fn print_line(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string(value).map_err(|error| CommandError::Print(error.into()))?;
    print(&format!("{text}\n"))
}
