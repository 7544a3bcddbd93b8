//! `ringfence ps`, in runc's forms. The table is for people: the processes of the guest. The list in
//! JSON is for engines, which look for the pids among the host's processes: there it is the processes
//! that the container is on the host, and never another's that happens to have a guest's pid.

mod columns;

use crate::args::{Global, ListFormat, Ps};
use crate::commands::{print, print_line};
use crate::error::CommandError;
use columns::{Column, What};
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
            let columns = columns::parse(&ps.options)?;
            print(&table(&columns, &container.processes()?, SystemTime::now()))?;
        }
    }
    Ok(0)
}

/// As ps of procps.
fn table(columns: &[Column], found: &Processes, now: SystemTime) -> String {
    let mut text = String::new();
    if columns.iter().any(|column| !column.header.is_empty()) {
        line(&mut text, columns, |column| column.header.clone());
    }
    for process in &found.processes {
        line(&mut text, columns, |column| cell(column.what, process, found.at_ns, now));
    }
    text
}

fn line(text: &mut String, columns: &[Column], cell: impl Fn(&Column) -> String) {
    for (number, column) in columns.iter().enumerate() {
        if number > 0 {
            text.push(' ');
        }
        let (cell, (width, is_right)) = (cell(column), column.what.form());
        let is_last = number + 1 == columns.len();
        match (is_right, is_last) {
            (true, _) => text.push_str(&format!("{cell:>width$}")),
            (false, false) => text.push_str(&format!("{cell:<width$}")),
            (false, true) => text.push_str(&cell),
        }
    }
    text.push('\n');
}

fn cell(what: What, process: &ProcessInfo, at_ns: u64, now: SystemTime) -> String {
    let elapsed = at_ns.saturating_sub(process.started_ns);
    // Of a CPU, in parts of which there are so many.
    let share = |parts: u128| u128::from(process.cpu_ns) * parts / u128::from(elapsed.max(1));
    match what {
        What::Pid => process.pid.to_string(),
        What::Parent => process.parent.to_string(),
        What::User => shorten(sandbox::user_name(process.uid), process.uid),
        What::Uid => process.uid.to_string(),
        What::Percent => share(100).min(99).to_string(),
        What::PercentAndTenths => {
            let tenths = share(1000).min(999);
            format!("{}.{}", tenths / 10, tenths % 10)
        }
        What::Began => began(now, elapsed),
        What::Terminal => terminal(process.terminal),
        What::Time => clock(process.cpu_ns / NS_PER_SECOND),
        What::Elapsed => since(elapsed / NS_PER_SECOND),
        What::ElapsedSeconds => (elapsed / NS_PER_SECOND).to_string(),
        What::Command => process.command.clone(),
    }
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

/// As [`clock`], without hours and days that are none.
fn since(seconds: u64) -> String {
    let text = clock(seconds);
    text.strip_prefix("00:").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(options: &[&str], found: &Processes) -> String {
        let options: Vec<String> = options.iter().map(|word| (*word).to_owned()).collect();
        table(&columns::parse(&options).unwrap(), found, SystemTime::now())
    }

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
        let text = shown(&[], &found);
        assert!(text.starts_with("UID          PID    PPID  C STIME TTY          TIME CMD\nroot "));
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        assert_eq!(rows[1][..4], ["root", "17", "1", "50"]);
        assert_eq!(rows[1][5..], ["pts/0", "00:00:05", "sleep", "5"]);
        assert_eq!(rows[2][..4], ["4294967288", "17", "1", "0"]);
        assert_eq!(rows[2][5..], ["?", "00:00:00", "sleep", "5"]);
        let options = ["-eo", "pid,ppid=PARENT", "-o", "uid,%cpu etime,etimes,args,tty"];
        assert_eq!(
            shown(&options, &found),
            "    PID  PARENT   UID %CPU     ELAPSED ELAPSED COMMAND                     TT\n     17       \
             1     0 50.0       00:10      10 sleep 5                     pts/0\n     17       1 \
             4294967288  0.0       00:10      10 sleep 5                     ?\n",
        );
        assert_eq!(
            shown(&["-o", "pid=", "-o", "cmd="], &found).lines().next(),
            Some("     17 sleep 5")
        );
    }

    #[test]
    fn times_and_terminals_are_short() {
        assert_eq!(clock(59), "00:00:59");
        assert_eq!(clock(90_061), "1-01:01:01");
        assert_eq!(
            (since(59), since(3661), since(90_061)),
            ("00:59".into(), "01:01:01".into(), "1-01:01:01".into())
        );
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
}
