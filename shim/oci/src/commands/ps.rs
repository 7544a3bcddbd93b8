//! `ringfence ps`, in runc's forms. The table is for people: the processes of the guest. The list in
//! JSON is for engines, which look for the pids among the host's processes: there it is the processes
//! that the container is on the host, and never another's that happens to have a guest's pid.

use crate::args::{Global, ListFormat, Ps};
use crate::commands::{print, print_line};
use crate::error::CommandError;
use sandbox::{Container, LocalTime, ProcessInfo, Processes};
use std::time::{Duration, SystemTime};

const NS_PER_SECOND: u64 = 1_000_000_000;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

pub(crate) fn execute(global: &Global, ps: &Ps) -> Result<u8, CommandError> {
    let container = Container::find(&global.root, &ps.id)?;
    match ps.format {
        ListFormat::Json => {
            print_line(&container.host_processes()?)?;
        }
        ListFormat::Table => {
            refuse_options(&ps.options)?;
            print(&table(&container.processes()?, SystemTime::now()))?;
        }
    }
    Ok(0)
}

/// The options of ps(1) that ask for what is printed in any case.
fn refuse_options(options: &[String]) -> Result<(), CommandError> {
    let is_done = |option: &str| {
        let letters = option.strip_prefix('-').unwrap_or_default();
        !letters.is_empty() && letters.chars().all(|letter| "eAf".contains(letter))
    };
    match options.iter().find(|option| !is_done(option)) {
        None => Ok(()),
        Some(option) => Err(CommandError::Option {
            option: format!("the option {option:?} of ps"),
            remedy: "the processes are those of the guest, and are shown as ps -ef shows them; \
                     for another form execute the ps of the container's image",
        }),
    }
}

/// As `ps -ef` of procps.
fn table(found: &Processes, now: SystemTime) -> String {
    let mut text = String::from("UID          PID    PPID  C STIME TTY          TIME CMD\n");
    for process in &found.processes {
        let ProcessInfo { pid, parent, cpu_ns, command, .. } = process;
        let elapsed = found.at_ns.saturating_sub(process.started_ns);
        let percent = u128::from(*cpu_ns) * 100 / u128::from(elapsed.max(1));
        let user = shorten(sandbox::user_name(process.uid), process.uid);
        let began = began(now, elapsed);
        let terminal = terminal(process.terminal);
        let time = clock(cpu_ns / NS_PER_SECOND);
        text.push_str(&format!(
            "{user:<8} {pid:>7} {parent:>7} {:>2} {began:<5} {terminal:<8} {time:>8} {command}\n",
            percent.min(99),
        ));
    }
    text
}

/// A name that is too long is cut, with a mark.
fn shorten(name: Option<String>, uid: u32) -> String {
    const MOST: usize = 8;
    match name {
        None => uid.to_string(),
        Some(name) if name.chars().count() <= MOST => name,
        Some(name) => name.chars().take(MOST - 1).chain(['+']).collect(),
    }
}

/// The time if it was today, else the day, else the year.
fn began(now: SystemTime, elapsed_ns: u64) -> String {
    let began = now.checked_sub(Duration::from_nanos(elapsed_ns)).and_then(LocalTime::of);
    let (Some(began), Some(now)) = (began, LocalTime::of(now)) else { return "?".to_owned() };
    if began.year != now.year {
        return began.year.to_string();
    }
    if began.day_of_year != now.day_of_year {
        let month = usize::try_from(began.month).ok().and_then(|month| MONTHS.get(month));
        return format!("{}{:02}", month.unwrap_or(&"?"), began.day);
    }
    format!("{:02}:{:02}", began.hour, began.minute)
}

/// A device number as proc_pid_stat(5) packs it; Linux's own numbers of terminals (devices.txt).
fn terminal(device: u32) -> String {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    match (major, minor) {
        (136..=143, _) => format!("pts/{}", minor + (major - 136) * 256),
        (4, 0..=63) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".to_owned(),
        (229, _) => format!("hvc{minor}"),
        _ => "?".to_owned(),
    }
}

fn clock(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let rest = format!("{hours:02}:{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    if days > 0 { format!("{days}-{rest}") } else { rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_ps() {
        let process = ProcessInfo {
            pid: 17,
            parent: 1,
            uid: 0,
            started_ns: 10 * NS_PER_SECOND,
            cpu_ns: 5 * NS_PER_SECOND,
            terminal: 136 << 8,
            command: "sleep 5".into(),
        };
        let other = ProcessInfo { uid: u32::MAX - 7, terminal: 0, cpu_ns: 0, ..process.clone() };
        let found = Processes { processes: vec![process, other], at_ns: 20 * NS_PER_SECOND };
        let text = table(&found, SystemTime::now());
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        assert_eq!(rows[1][..4], ["root", "17", "1", "50"]);
        assert_eq!(rows[1][5..], ["pts/0", "00:00:05", "sleep", "5"]);
        assert_eq!(rows[2][..4], ["4294967288", "17", "1", "0"]);
        assert_eq!(rows[2][5..], ["?", "00:00:00", "sleep", "5"]);
    }

    #[test]
    fn times_and_terminals_are_short() {
        assert_eq!(clock(59), "00:00:59");
        assert_eq!(clock(90_061), "1-01:01:01");
        for (device, name) in [
            (0, "?"),
            (0x8801, "pts/1"),
            (0x8900, "pts/256"),
            (0x0440, "ttyS0"),
            (0x0501, "console"),
        ] {
            assert_eq!(terminal(device), name, "{device:x}");
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_000_000);
        assert_eq!(began(now, 400 * 86_400 * NS_PER_SECOND).len(), 4);
        assert_eq!(began(now, 40 * 86_400 * NS_PER_SECOND).len(), 5);
        assert_eq!(began(now, 0).as_bytes()[2], b':');
        assert_eq!(shorten(Some("systemd-network".into()), 1), "systemd+");
    }

    #[test]
    fn options_that_change_the_form_are_refused_by_name() {
        let refuse = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|word| (*word).to_owned()).collect();
            refuse_options(&options)
        };
        refuse(&[]).unwrap();
        refuse(&["-ef"]).unwrap();
        refuse(&["-e", "-f", "-A"]).unwrap();
        for options in [&["-o", "pid"][..], &["aux"], &["-ef", "--sort=pid"], &["-"]] {
            let error = refuse(options).unwrap_err().to_string();
            let named = options.iter().any(|option| error.contains(option));
            assert!(named, "{error}");
        }
    }
}
