//! The command line, with runc's names.

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use sandbox::{Forward, default_root};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

mod duration;
mod size;

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
    #[arg(long, value_name = "DIR", default_value_os_t = default_root())]
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
    /// linux.cgroupsPath has the form slice:prefix:name
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// What --systemd-cgroup says, in crun's words
    #[arg(long, hide = true, value_name = "MANAGER", value_enum)]
    pub(crate) cgroup_manager: Option<CgroupManager>,
    /// Accepted and without meaning: what a caller without root may not do is found by trying
    #[arg(long, hide = true, value_name = "WHEN", value_parser = ["true", "false", "auto"])]
    rootless: Option<String>,
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

/// Networks that need no engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Net {
    /// A loopback device only.
    None,
    /// passt: the host's network by sockets of this user.
    Passt,
}

/// Who makes the container's cgroup on the host, in crun's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CgroupManager {
    /// `linux.cgroupsPath` is a path.
    Cgroupfs,
    /// It has systemd's form.
    Systemd,
    /// Nobody: there is none.
    Disabled,
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
    /// Create a container, which then waits for its start
    Create(Create),
    /// Delete a container that is stopped or was never started
    Delete(Delete),
    /// Say whether this host can run sandboxes and how well, and what to do about what is wrong
    Doctor(Doctor),
    /// Print what a container uses, at intervals, and each time that it runs out of memory
    Events(Events),
    /// Execute a further process in a running container
    Exec(Exec),
    /// Print what this runtime can do
    Features,
    /// Remove what killed processes have left behind
    Gc(Gc),
    /// Send a signal to a container
    Kill(Kill),
    /// List the containers
    List(List),
    /// Stop the machine of a running container
    Pause(Target),
    /// List the processes of a container
    Ps(Ps),
    /// Let the machine of a paused container go on
    Resume(Target),
    /// Create a container, start it and, in the foreground, see it to its end
    Run(Run),
    /// Write a config.json to start from
    Spec(Spec),
    /// Start the program of a created container
    Start(Target),
    /// Print the state of a container
    State(State),
    /// Change the limits of a container
    Update(Update),
    /// What create and run leave behind; not for people.
    #[command(hide = true)]
    Supervise(Supervise),
    /// Not there, or not there yet.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// What `create` and `run` have in common.
#[derive(Debug, Args)]
pub(crate) struct Making {
    /// The bundle: a directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Another file than the bundle's config.json: absolute, or beneath the bundle
    #[arg(id = "bundle_config", short = 'f', long = "config", value_name = "FILE")]
    #[arg(default_value = "config.json", hide_default_value = true)]
    pub(crate) bundle_config: PathBuf,
    /// Where to write the supervisor's process id
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Who takes the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Memory of the virtual machine in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// Virtual CPUs, 1 to 32
    #[arg(long, value_name = "N")]
    pub(crate) vcpus: Option<u32>,
    /// A network for a bundle without one
    #[arg(long, value_name = "NETWORK", value_enum)]
    pub(crate) net: Option<Net>,
    /// Lead a port of the host to the container, with --net: the host's, a colon and the container's, behind
    /// an address and a colon, if wanted; /udp at the end for UDP
    #[arg(long, value_name = "PORTS", requires = "net")]
    pub(crate) publish: Vec<Forward>,
    /// Accepted and without meaning: the root is changed inside the guest
    #[arg(long, hide = true)]
    no_pivot: bool,
    /// Accepted and without meaning: the keys are those of the guest's kernel
    #[arg(long, hide = true)]
    no_new_keyring: bool,
    /// Refused unless 0: descriptors cannot be handed into a virtual machine
    #[arg(long, hide = true, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Id of the container
    pub(crate) id: String,
}

/// `ringfence create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) making: Making,
}

/// `ringfence run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) making: Making,
    /// Return when the program runs; the container stays until it is deleted
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// A terminal, whatever process.terminal says
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// The container stays when it has ended, until it is deleted
    #[arg(long)]
    pub(crate) keep: bool,
    /// Accepted and without meaning: a container's processes are the guest's
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// Write the start's timeline, in Chrome's trace format
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

/// A command that needs a container and nothing else.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Id of the container
    pub(crate) id: String,
}

/// `ringfence state`.
#[derive(Debug, Args)]
pub(crate) struct State {
    /// Also the digests of kernel and agent, whose files are read for that
    #[arg(long)]
    pub(crate) digests: bool,
    /// Id of the container
    pub(crate) id: String,
}

/// `ringfence kill`.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// To every process of the container, not only to its first
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Id of the container
    pub(crate) id: String,
    /// Name or number of the signal
    #[arg(default_value = "SIGTERM", value_parser = parse_signal)]
    pub(crate) signal: u8,
}

/// `ringfence delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// End the container before; one that does not exist is no error
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Id of the container
    pub(crate) id: String,
}

/// `ringfence doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// One JSON object in place of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// `ringfence gc`.
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Show what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Also containers whose supervisor was killed, and that wait for their delete
    #[arg(long)]
    pub(crate) crashed: bool,
    /// A JSON array in place of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// `ringfence list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = ListFormat::Table)]
    pub(crate) format: ListFormat,
    /// Print ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Also the walls around each machine: those that are down in the table, all in JSON
    #[arg(long, conflicts_with = "quiet")]
    pub(crate) walls: bool,
}

/// Form of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// For people.
    Table,
    /// An array of states.
    Json,
}

/// `ringfence exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// File with what process is in a config.json, in place of the options and the command
    #[arg(
        short,
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "user", "additional_gids", "cwd", "env", "cap", "no_new_privs", "command",
        ]
    )]
    pub(crate) process: Option<PathBuf>,
    /// A terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// User id, and group id behind a colon
    #[arg(short, long, value_name = "UID[:GID]", value_parser = parse_user)]
    pub(crate) user: Option<User>,
    /// A further supplementary group
    #[arg(short = 'g', long, value_name = "GID", value_parser = parse_id)]
    pub(crate) additional_gids: Vec<u32>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR", value_parser = parse_cwd)]
    pub(crate) cwd: Option<String>,
    /// A variable of the environment
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub(crate) env: Vec<String>,
    /// A further capability
    #[arg(short, long, value_name = "CAP_NAME", value_parser = parse_capability)]
    pub(crate) cap: Vec<u64>,
    /// Without a way to more privileges
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// Return when the process runs
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Where to write the id of the process that stands for it on the host
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Who takes the master of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Refused unless empty: the guest's kernel has no SELinux
    #[arg(long, hide = true, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// Refused unless empty: the guest's kernel has no AppArmor
    #[arg(long, hide = true, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// Refused unless it is the container's own
    #[arg(long, hide = true, value_name = "PATH")]
    pub(crate) cgroup: Option<String>,
    /// In a paused container, wait until it is resumed
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// Refused unless 0: descriptors cannot be handed into a virtual machine
    #[arg(long, hide = true, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Id of the container
    pub(crate) id: String,
    /// Program and arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present = "process"
    )]
    pub(crate) command: Vec<String>,
}

/// `ringfence ps`.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = ListFormat::Table)]
    pub(crate) format: ListFormat,
    /// Id of the container
    pub(crate) id: String,
    /// Options of ps(1): -e, -A, -f, and -o with columns
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

/// `ringfence events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Time between statistics, for example 500ms or 1m30s
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::parse)]
    pub(crate) interval: Duration,
    /// Print statistics once
    #[arg(long)]
    pub(crate) stats: bool,
    /// Id of the container
    pub(crate) id: String,
}

/// `ringfence update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// File with what linux.resources is in a config.json, in place of the options; - is standard
    /// input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) limits: LimitOptions,
    /// Id of the container
    pub(crate) id: String,
}

/// Limits one by one. Sizes are numbers of bytes, or of kibibytes and so on with k, m, g, t or p
/// behind them.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(allow_negative_numbers = true)]
pub(crate) struct LimitOptions {
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) blkio_weight: Option<u16>,
    /// Period of the CPU quota in microseconds
    #[arg(long, value_name = "TIME")]
    pub(crate) cpu_period: Option<u64>,
    /// CPU time in each period in microseconds, -1 for no limit
    #[arg(long, value_name = "TIME")]
    pub(crate) cpu_quota: Option<i64>,
    /// CPU time beyond the quota in microseconds
    #[arg(long, value_name = "TIME")]
    pub(crate) cpu_burst: Option<u64>,
    /// Share of CPU time against others
    #[arg(long, value_name = "SHARES", visible_alias = "cpu-shares")]
    pub(crate) cpu_share: Option<u64>,
    /// Refused unless 0: cgroup v2 has no real-time budget
    #[arg(long, hide = true, value_name = "TIME")]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Refused unless 0: cgroup v2 has no real-time budget
    #[arg(long, hide = true, value_name = "TIME")]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// 1 for the lowest priority, 0 for the ordinary one
    #[arg(long, value_name = "N")]
    pub(crate) cpu_idle: Option<i64>,
    /// CPUs of the host
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// NUMA nodes of the host
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// Refused unless 0: cgroup v2 has no such limit
    #[arg(long, hide = true, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) kernel_memory: Option<i64>,
    /// Refused unless 0: cgroup v2 has no such limit
    #[arg(long, hide = true, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) kernel_memory_tcp: Option<i64>,
    /// Memory, -1 for no limit
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) memory: Option<i64>,
    /// Memory that is not taken away while there is other
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) memory_reservation: Option<i64>,
    /// Memory and swap together, -1 for no limit of swap
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) memory_swap: Option<i64>,
    /// Processes and threads, -1 for no limit
    #[arg(long, value_name = "N")]
    pub(crate) pids_limit: Option<i64>,
    /// Refused: cache classes of the host are not there
    #[arg(long, hide = true, value_name = "SCHEMA")]
    pub(crate) l3_cache_schema: Option<String>,
    /// Refused: bandwidth classes of the host are not there
    #[arg(long, hide = true, value_name = "SCHEMA")]
    pub(crate) mem_bw_schema: Option<String>,
}

/// A user and perhaps a group, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: Option<u32>,
}

fn parse_id(text: &str) -> Result<u32, String> {
    match text.parse() {
        // To setresuid(2) it means "leave it as it is", which is root.
        Ok(u32::MAX) => Err(format!("{text} stands for no user and no group")),
        parsed => parsed.map_err(|_| format!("{text:?} is no number; names are the image's own")),
    }
}

fn parse_user(text: &str) -> Result<User, String> {
    match text.split_once(':') {
        None => Ok(User { uid: parse_id(text)?, gid: None }),
        Some((uid, gid)) => Ok(User { uid: parse_id(uid)?, gid: Some(parse_id(gid)?) }),
    }
}

fn parse_cwd(text: &str) -> Result<String, String> {
    let is_absolute = text.starts_with('/');
    if is_absolute { Ok(text.to_owned()) } else { Err("it must be an absolute path".to_owned()) }
}

fn parse_variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("a variable of the environment is NAME=VALUE".to_owned()),
    }
}

fn parse_capability(text: &str) -> Result<u64, String> {
    let unknown = || "Linux has no such capability; a name begins with CAP_".to_owned();
    sandbox::spec::capability_bit(text).ok_or_else(unknown)
}

/// `ringfence supervise`.
#[derive(Debug, Args)]
pub(crate) struct Supervise {
    /// Number of the descriptor to the command that waits
    pub(crate) handover: String,
    /// That command's own line
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<OsString>,
}

fn parse_signal(text: &str) -> Result<u8, String> {
    sandbox::signal_number(text).ok_or_else(|| {
        "a signal is a number from 0 to 64 or a name, for example TERM or SIGRTMIN+1".to_owned()
    })
}

/// `ringfence spec`.
#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// Where config.json is written
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Accepted and without meaning: what is written works without root too
    #[arg(long, hide = true)]
    rootless: bool,
}

/// Reads the line of the command that has started this process as its supervisor.
pub(crate) fn parse_words(words: Vec<OsString>) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(std::iter::once(OsString::from("ringfence")).chain(words))
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

    fn parse_line(line: &str) -> Command {
        parse_words(line.split_ascii_whitespace().map(OsString::from).collect()).unwrap().command
    }

    #[test]
    fn runcs_options_are_taken() {
        let words = "--root /r --log /l --log-format json --debug --systemd-cgroup create \
                     --bundle /b --pid-file /p --no-pivot --no-new-keyring --preserve-fds 0 \
                     --console-socket /s c1";
        let words = words.split_ascii_whitespace().map(OsString::from).collect();
        let arguments = parse_words(words).unwrap();
        assert_eq!(arguments.global.log_format, LogFormat::Json);
        let Command::Create(Create { making }) = arguments.command else { panic!("{arguments:?}") };
        assert_eq!(making.id, "c1");
        assert_eq!(making.bundle, PathBuf::from("/b"));
        assert_eq!(making.console_socket, Some(PathBuf::from("/s")));
        let Command::Run(run) = parse_line("run -d -b /b c1") else { panic!() };
        assert!(run.detach && !run.tty && !run.keep);
        let Command::Run(run) = parse_line("run --keep --no-subreaper c1") else { panic!() };
        assert!(run.keep);
        let Command::Delete(delete) = parse_line("delete -f c1") else { panic!() };
        assert!(delete.force);
        let Command::List(list) = parse_line("list -q -f json") else { panic!() };
        assert!(list.quiet && list.format == ListFormat::Json);
    }

    #[test]
    fn cruns_options_are_taken() {
        let line =
            "--systemd-cgroup --cgroup-manager disabled --rootless auto create -f other.json c1";
        let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let arguments = parse_words(line).unwrap();
        assert_eq!(arguments.global.cgroup_manager, Some(CgroupManager::Disabled));
        let Command::Create(Create { making }) = arguments.command else { panic!("{arguments:?}") };
        assert_eq!(making.bundle_config, PathBuf::from("other.json"));
        let Command::Run(run) = parse_line("--config /host.toml run --config /b.json c1") else {
            panic!()
        };
        assert_eq!(run.making.bundle_config, PathBuf::from("/b.json"));
        let Command::Run(run) = parse_line("run c1") else { panic!() };
        assert_eq!(run.making.bundle_config, PathBuf::from("config.json"));
    }

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        for (line, signal, all) in [
            ("kill c1", 15, false),
            ("kill c1 9", 9, false),
            ("kill --all c1 SIGUSR1", 10, true),
            ("kill -a c1 hup", 1, true),
        ] {
            let Command::Kill(kill) = parse_line(line) else { panic!("{line}") };
            assert_eq!((kill.signal, kill.all), (signal, all), "{line}");
        }
        for line in ["kill c1 SIGNOTHING", "kill c1 65", "kill c1 9 9", "kill"] {
            assert!(parse_words(line.split(' ').map(OsString::from).collect()).is_err(), "{line}");
        }
    }

    #[test]
    fn a_supervisor_has_its_commands_line() {
        let line = "supervise 5 --root /r create --pid-file /p -b /b c1";
        let Command::Supervise(Supervise { handover, words }) = parse_line(line) else { panic!() };
        assert_eq!(handover, "5");
        let Command::Create(create) = parse_words(words).unwrap().command else { panic!() };
        assert_eq!(create.making.pid_file, Some(PathBuf::from("/p")));
    }

    #[test]
    fn a_process_has_options_before_the_id_and_its_own_behind_it() {
        let line = "exec -t -u 1:2 -g 3 -g 4 --cwd /x -e A=1 -e B= -c CAP_KILL c1 ls -t --user";
        let Command::Exec(exec) = parse_line(line) else { panic!() };
        assert_eq!(exec.command, ["ls", "-t", "--user"]);
        assert_eq!(exec.user, Some(User { uid: 1, gid: Some(2) }));
        assert_eq!((exec.additional_gids, exec.cap), (vec![3, 4], vec![32]));
        assert_eq!(exec.env, ["A=1", "B="]);
        let Command::Exec(exec) = parse_line("exec -d --pid-file /p --process /f c1") else {
            panic!()
        };
        assert!(exec.detach && exec.command.is_empty());
        for line in [
            "exec c1",
            "exec --process /f c1 ls",
            "exec --process /f -u 1 c1",
            "exec -u root c1 ls",
            "exec -u 4294967295 c1 ls",
            "exec -u 1:4294967295 c1 ls",
            "exec -g 4294967295 c1 ls",
            "exec -e A c1 ls",
            "exec -c KILL c1 ls",
            "exec --cwd x c1 ls",
        ] {
            assert!(parse_words(line.split(' ').map(OsString::from).collect()).is_err(), "{line}");
        }
    }

    #[test]
    fn other_verbs_are_kept_with_their_words() {
        let Command::Other(words) = parse_line("restore --work-path /w c1") else { panic!() };
        assert_eq!(words, ["restore", "--work-path", "/w", "c1"]);
    }

    #[test]
    fn operations_have_runcs_options() {
        let Command::Ps(ps) = parse_line("ps --format json c1") else { panic!() };
        assert_eq!((ps.format, ps.options.len()), (ListFormat::Json, 0));
        let Command::Ps(ps) = parse_line("ps c1 -ef --sort pid") else { panic!() };
        assert_eq!(ps.options, ["-ef", "--sort", "pid"]);
        let Command::Events(events) = parse_line("events c1") else { panic!() };
        assert_eq!((events.interval, events.stats), (Duration::from_secs(5), false));
        let Command::Events(events) = parse_line("events --stats --interval 1m c1") else {
            panic!()
        };
        assert_eq!((events.interval, events.stats), (Duration::from_secs(60), true));
        let line = "update --memory 64m --memory-swap -1 --memory-reservation 1048576 \
                    --cpu-quota -1 --cpu-period 1000 --cpu-share 2 --cpu-burst 3 --cpu-idle 1 \
                    --cpuset-cpus 0-1 --cpuset-mems 0 --pids-limit -1 --blkio-weight 10 c1";
        let Command::Update(update) = parse_line(line) else { panic!() };
        assert_eq!(update.limits.memory, Some(64 << 20));
        assert_eq!((update.limits.memory_swap, update.limits.cpu_quota), (Some(-1), Some(-1)));
        let Command::Update(update) = parse_line("update --resources - c1") else { panic!() };
        assert_eq!(update.resources, Some(PathBuf::from("-")));
        for line in ["events --interval 0 c1", "update --memory x c1", "ps", "ps -f xml c1"] {
            assert!(parse_words(line.split(' ').map(OsString::from).collect()).is_err(), "{line}");
        }
    }

    #[test]
    fn an_unknown_option_is_an_error() {
        for line in [
            "create --frob c1",
            "state --all c1",
            "list c1",
            "list -q --walls",
            "--rootles true list",
        ] {
            assert!(parse_words(line.split(' ').map(OsString::from).collect()).is_err(), "{line}");
        }
    }
}
