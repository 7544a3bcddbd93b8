//! Messages, in runc's two formats. Without an option only warnings are told, on standard error.

use crate::args::{Global, LogFormat};
use crate::error::CommandError;
use sandbox::text::rfc3339;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::OnceLock;
use std::time::SystemTime;
use tracing::Level;

/// Where messages go.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<File>,
    format: LogFormat,
}

static LOG: OnceLock<Log> = OnceLock::new();

impl Log {
    /// Starts telling messages of this process.
    pub(crate) fn start(options: &Global) -> Result<&'static Self, CommandError> {
        let open = |path: &std::path::PathBuf| {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .map_err(|source| CommandError::Write { path: path.clone(), source })
        };
        let level = match (options.debug, &options.log) {
            (true, _) => Level::DEBUG,
            (false, Some(_)) => Level::INFO,
            (false, None) => Level::WARN,
        };
        let file = options.log.as_ref().map(open).transpose()?;
        let log = LOG.get_or_init(|| Self { file, format: options.log_format });
        sandbox::tell_messages(level, env!("CARGO_CRATE_NAME"), |level, message| {
            log.write(level, message);
        });
        Ok(log)
    }

    /// Writes an error to the file, if there is one; standard error has it already.
    pub(crate) fn record_error(&self, message: &str) {
        if self.file.is_some() {
            self.write("error", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let line = match (self.format, &self.file) {
            (LogFormat::Json, _) => json_line(level, message),
            (LogFormat::Text, Some(_)) => text_line(level, message),
            (LogFormat::Text, None) => format!("ringfence: {level}: {message}\n"),
        };
        // One write for one line: lines of several processes do not mix.
        let written = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            // Standard error is the container's.
            None if sandbox::has_handed_over() => Ok(()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
        // A message that cannot be told is no reason to end a container.
        drop(written);
    }
}

/// Tells an error on standard error.
pub(crate) fn print_error(message: &str) {
    drop(std::io::stderr().write_all(format!("ringfence: error: {message}\n").as_bytes()));
}

fn json_line(level: &str, message: &str) -> String {
    let time = rfc3339(SystemTime::now());
    let mut line = serde_json::json!({ "level": level, "msg": message, "time": time }).to_string();
    line.push('\n');
    line
}

fn text_line(level: &str, message: &str) -> String {
    let time = rfc3339(SystemTime::now());
    format!("time=\"{time}\" level={level} msg={}\n", serde_json::Value::from(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_form_that_engines_read() {
        let line = json_line("error", "a \"b\"\nc");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "a \"b\"\nc");
        assert!(value["time"].as_str().unwrap().ends_with('Z'));
        assert!(text_line("info", "x\ny").contains("level=info msg=\"x\\ny\""));
    }
}
