//! The columns that options of ps(1) ask for, by the names of procps. Processes are not chosen by them:
//! the list is the container's.

use crate::error::CommandError;

/// A column of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) what: What,
    /// Without any the table has no line of headers.
    pub(super) header: String,
}

/// What a column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Pid,
    Parent,
    User,
    Uid,
    Percent,
    PercentAndTenths,
    Began,
    Terminal,
    Time,
    Elapsed,
    ElapsedSeconds,
    Command,
}

impl What {
    /// Its width, and whether it stands at the right of it.
    pub(super) fn form(self) -> (usize, bool) {
        match self {
            Self::Pid | Self::Parent | Self::ElapsedSeconds => (7, true),
            Self::User | Self::Terminal => (8, false),
            Self::Uid => (5, true),
            Self::Percent => (2, true),
            Self::PercentAndTenths => (4, true),
            Self::Began => (5, false),
            Self::Time => (8, true),
            Self::Elapsed => (11, true),
            Self::Command => (27, false),
        }
    }
}

/// What can be asked for, and its header.
const NAMES: [(&str, What, &str); 21] = [
    ("pid", What::Pid, "PID"),
    ("ppid", What::Parent, "PPID"),
    ("user", What::User, "USER"),
    ("euser", What::User, "EUSER"),
    ("uname", What::User, "USER"),
    ("uid", What::Uid, "UID"),
    ("euid", What::Uid, "EUID"),
    ("c", What::Percent, "C"),
    ("pcpu", What::PercentAndTenths, "%CPU"),
    ("%cpu", What::PercentAndTenths, "%CPU"),
    ("stime", What::Began, "STIME"),
    ("tty", What::Terminal, "TT"),
    ("tt", What::Terminal, "TT"),
    ("tname", What::Terminal, "TTY"),
    ("time", What::Time, "TIME"),
    ("cputime", What::Time, "TIME"),
    ("etime", What::Elapsed, "ELAPSED"),
    ("etimes", What::ElapsedSeconds, "ELAPSED"),
    ("args", What::Command, "COMMAND"),
    ("command", What::Command, "COMMAND"),
    ("cmd", What::Command, "CMD"),
];

/// The columns of `ps -f`, which are those without an option too.
const FULL: [(What, &str); 8] = [
    (What::User, "UID"),
    (What::Pid, "PID"),
    (What::Parent, "PPID"),
    (What::Percent, "C"),
    (What::Began, "STIME"),
    (What::Terminal, "TTY"),
    (What::Time, "TIME"),
    (What::Command, "CMD"),
];

/// Understands the options: `-e`, `-A`, `-f`, and `-o` or `--format` with names.
pub(super) fn parse(options: &[String]) -> Result<Vec<Column>, CommandError> {
    let mut columns = Vec::new();
    let mut is_full = false;
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let names = if let Some(names) = word.strip_prefix("--format=") {
            Some(names)
        } else if word == "--format" {
            Some(words.next().ok_or_else(|| refused(word))?.as_str())
        } else {
            let letters = word.strip_prefix('-').filter(|letters| !letters.is_empty());
            let letters = letters.ok_or_else(|| refused(word))?;
            let (letters, names) = match letters.split_once('o') {
                Some((letters, "")) => {
                    (letters, Some(words.next().ok_or_else(|| refused(word))?.as_str()))
                }
                Some((letters, names)) => (letters, Some(names)),
                None => (letters, None),
            };
            if letters.chars().any(|letter| !"eAf".contains(letter)) {
                return Err(refused(word));
            }
            is_full |= letters.contains('f');
            names
        };
        if let Some(names) = names {
            add(&mut columns, names)?;
        }
    }
    match (columns.is_empty(), is_full) {
        (true, _) => {
            Ok(FULL.map(|(what, header)| Column { what, header: header.to_owned() }).into())
        }
        (false, false) => Ok(columns),
        (false, true) => Err(CommandError::Option {
            option: "the option \"-f\" of ps together with \"-o\"".to_owned(),
            remedy: "each says which columns there are; give one of them",
        }),
    }
}

/// Names between commas or blanks; behind an equals sign all that follows is the last one's header.
fn add(columns: &mut Vec<Column>, names: &str) -> Result<(), CommandError> {
    let (names, own) = match names.split_once('=') {
        Some((names, header)) => (names, Some(header)),
        None => (names, None),
    };
    let names: Vec<&str> = names.split([',', ' ']).collect();
    for (number, name) in names.iter().enumerate() {
        let Some((_, what, header)) = NAMES.iter().find(|(known, ..)| known == name) else {
            return Err(CommandError::Option {
                option: format!("the column {name:?} of ps"),
                remedy: "there are pid, ppid, user, uid, c, pcpu, stime, tty, time, etime, etimes, args \
                         and cmd; for another one execute the ps of the container's image",
            });
        };
        let header = own.filter(|_| number + 1 == names.len()).unwrap_or(header).to_owned();
        columns.push(Column { what: *what, header });
    }
    Ok(())
}

fn refused(option: &str) -> CommandError {
    CommandError::Option {
        option: format!("the option {option:?} of ps"),
        remedy: "the processes are all that the guest's agent tells of, as ps -e shows them; -f and -o \
                 say which columns; for another form execute the ps of the container's image",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(options: &[&str]) -> Result<Vec<String>, String> {
        let options: Vec<String> = options.iter().map(|word| (*word).to_owned()).collect();
        let columns = parse(&options).map_err(|error| error.to_string())?;
        Ok(columns.into_iter().map(|column| column.header).collect())
    }

    #[test]
    fn options_say_which_columns() {
        for options in [&[][..], &["-ef"], &["-e", "-f", "-A"], &["-e"]] {
            let expected = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
            assert_eq!(headers(options).unwrap(), expected);
        }
        for options in [
            &["-o", "pid,cmd"][..],
            &["-opid,cmd"],
            &["-eo", "pid cmd"],
            &["-e", "-o", "pid", "-o", "cmd"],
            &["--format", "pid,cmd"],
            &["--format=pid,cmd", "-A"],
        ] {
            assert_eq!(headers(options).unwrap(), ["PID", "CMD"], "{options:?}");
        }
        assert_eq!(headers(&["-o", "pid,cmd=a, b"]).unwrap(), ["PID", "a, b"]);
        assert_eq!(headers(&["-o", "pid=", "-o", "cmd="]).unwrap(), ["", ""]);
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for (options, named) in [
            (&["aux"][..], "\"aux\""),
            (&["-"], "\"-\""),
            (&["-ef", "--sort=pid"], "\"--sort=pid\""),
            (&["-l"], "\"-l\""),
            (&["-o"], "\"-o\""),
            (&["--format"], "\"--format\""),
            (&["-o", "pid,rss"], "\"rss\""),
            (&["-o", ""], "\"\""),
            (&["-ef", "-o", "pid"], "\"-f\""),
        ] {
            let error = headers(options).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
