//! `containerd-shim-ringfence-v2`: says what it is, and refuses what it cannot do yet.

use std::process::ExitCode;

/// Name of the runtime in containerd's configuration.
const RUNTIME: &str = "io.containerd.ringfence.v2";

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    match answer(&arguments) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("containerd-shim-ringfence-v2: error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The answer to a command line.
fn answer(arguments: &[String]) -> Result<String, String> {
    match arguments.first().map(String::as_str) {
        Some("-v" | "-version" | "--version") => Ok(format!(
            "containerd-shim-ringfence-v2:\n  Version: {}\n  Runtime: {RUNTIME}",
            env!("CARGO_PKG_VERSION")
        )),
        _ => Err(format!(
            "containerd's task service is not implemented yet (called with {arguments:?}): run \
             containers with \"ringfence run\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(words: &[&str]) -> Result<String, String> {
        answer(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_version_is_told() {
        for option in ["-v", "-version", "--version"] {
            assert!(ask(&[option]).unwrap().contains(env!("CARGO_PKG_VERSION")));
        }
    }

    #[test]
    fn everything_else_is_refused_with_what_was_asked() {
        for words in [&[][..], &["start"], &["-namespace", "default", "-id", "c1", "delete"]] {
            let message = ask(words).unwrap_err();
            assert!(message.contains("not implemented yet"), "{message}");
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }
}
