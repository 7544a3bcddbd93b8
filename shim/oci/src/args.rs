//! The command line, with runc's names.

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use sandbox::DEFAULT_ROOT;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0");

/// Runs OCI containers, each in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(name = "ringfence", version = VERSION, disable_version_flag = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options before the command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Directory of the containers' state
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub(crate) root: PathBuf,
    /// File for messages, in place of standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Format of messages
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Tell what is done
    #[arg(long)]
    pub(crate) debug: bool,
    /// The host's configuration; /etc/ringfence/config.toml if it exists
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Form of linux.cgroupsPath; accepted for engines, both forms are
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

/// Format of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a container in the foreground
    Run(Run),
    /// Write a config.json to start from
    Spec(Spec),
    /// Not there, or not there yet.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// `ringfence run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The bundle: a directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// A terminal, whatever process.terminal says
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Memory of the virtual machine in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// Virtual CPUs, 1 to 32
    #[arg(long, value_name = "N")]
    pub(crate) vcpus: Option<u32>,
    /// Where to write the supervisor's process id
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Write the start's timeline, in Chrome's trace format
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Accepted and without meaning: the root is changed inside the guest
    #[arg(long, hide = true)]
    no_pivot: bool,
    /// Accepted and without meaning: the keys are those of the guest's kernel
    #[arg(long, hide = true)]
    no_new_keyring: bool,
    /// Refused: not there yet
    #[arg(short, long, hide = true)]
    pub(crate) detach: bool,
    /// Refused: not there yet
    #[arg(long, hide = true, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Refused unless 0: not there yet
    #[arg(long, hide = true, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Id of the container
    pub(crate) id: String,
}

/// `ringfence spec`.
#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// Where config.json is written
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
}

/// Reads the command line. What is no command, or has been answered, is an exit status.
pub(crate) fn parse() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|error| {
        let answered = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        // A terminal that is gone cannot be told so.
        drop(error.print());
        if answered { ExitCode::SUCCESS } else { ExitCode::from(crate::error::REFUSED) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn runcs_options_are_taken() {
        let words = "ringfence --root /r --log /l --log-format json --debug --systemd-cgroup run \
                     --bundle /b --pid-file /p --no-pivot --no-new-keyring c1";
        let arguments = Arguments::try_parse_from(words.split_ascii_whitespace()).unwrap();
        assert_eq!(arguments.global.log_format, LogFormat::Json);
        let Command::Run(run) = arguments.command else { panic!("{arguments:?}") };
        assert_eq!(run.id, "c1");
        assert_eq!(run.bundle, PathBuf::from("/b"));
    }

    #[test]
    fn other_verbs_are_kept_with_their_words() {
        let arguments = Arguments::try_parse_from(["ringfence", "kill", "--all", "c1"]).unwrap();
        let Command::Other(words) = arguments.command else { panic!("{arguments:?}") };
        assert_eq!(words, ["kill", "--all", "c1"]);
    }
}
