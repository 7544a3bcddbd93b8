//! `ringfence spec`.

use crate::args::Spec;
use crate::error::CommandError;
use sandbox::spec::default_config;
use std::fs::OpenOptions;
use std::io::{self, Write};

pub(crate) fn execute(spec: &Spec) -> Result<u8, CommandError> {
    let path = spec.bundle.join("config.json");
    let failed = |source: io::Error| CommandError::Write { path: path.clone(), source };
    let mut text =
        serde_json::to_vec_pretty(&default_config()).map_err(|error| failed(error.into()))?;
    text.push(b'\n');
    // What somebody has edited is not overwritten.
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
    file.write_all(&text).map_err(failed)?;
    Ok(0)
}
