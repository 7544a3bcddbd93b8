//! The comparison of reports, and the table of it.

use crate::differential::case::Expected;
use crate::differential::stage::Report;

/// Width of the columns of the table.
const NAME: usize = 44;
const ANSWER: usize = 30;

/// The reports of one case.
#[derive(Clone, Debug, Default)]
pub(super) struct Reports {
    pub(super) ringfence: Report,
    pub(super) crun: Report,
    /// Only where it says more.
    pub(super) runc: Option<Report>,
}

/// What a case came to: a word for the table, or what is wrong.
pub(super) fn judge(expected: Expected, reports: &Reports) -> Result<String, String> {
    let Reports { ringfence, crun, runc } = reports;
    let wrong: Vec<&str> = [Some(ringfence), Some(crun), runc.as_ref()]
        .into_iter()
        .flatten()
        .flat_map(|report| report.wrong.iter().map(String::as_str))
        .collect();
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    let is_same = ringfence.text == crun.text;
    match expected {
        _ if ringfence.text.is_empty() => Err("it reported nothing".to_owned()),
        Expected::Same if is_same => Ok("same".to_owned()),
        Expected::Same => Err("they differ, and should not".to_owned()),
        Expected::Differs(id) if is_same => {
            Err(format!("they are the same, and should differ by {id}"))
        }
        Expected::Differs(id) => Ok(format!("differs: {id}")),
        Expected::AsRunc if is_same => Err("crun does the same, and should not".to_owned()),
        Expected::AsRunc if runc.as_ref().is_some_and(|runc| runc.text == ringfence.text) => {
            Ok("as runc".to_owned())
        }
        Expected::AsRunc => Err("it should do as runc".to_owned()),
    }
}

/// The table's head.
pub(super) fn head() -> String {
    format!("{:NAME$} {:ANSWER$} {:ANSWER$} {}", "case", "crun", "ringfence", "result")
}

/// A row of the table.
pub(super) fn row(name: &str, reports: &Reports, result: &str) -> String {
    let (crun, ringfence) = (shortened(&reports.crun.text), shortened(&reports.ringfence.text));
    format!("{name:NAME$} {crun:ANSWER$} {ringfence:ANSWER$} {result}")
}

/// A report in one line of at most a column's width.
fn shortened(report: &str) -> String {
    let line = report.trim_end().replace('\n', "; ").replace(|c: char| c.is_control(), "?");
    if line.chars().count() <= ANSWER {
        return line;
    }
    let start: String = line.chars().take(ANSWER - 1).collect();
    format!("{start}…")
}

/// All that the runtimes said, for a case that is wrong.
pub(super) fn details(name: &str, reports: &Reports, problem: &str) -> String {
    let mut text = format!("---- {name}: {problem}\n");
    let all = [("crun", Some(&reports.crun)), ("runc", reports.runc.as_ref())];
    for (runtime, report) in all.into_iter().chain([("ringfence", Some(&reports.ringfence))]) {
        if let Some(report) = report {
            text.push_str(&format!("{runtime}:\n{}", report.text));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(ringfence: &str, crun: &str, runc: Option<&str>) -> Reports {
        let report = |text: &str| Report { text: text.to_owned(), wrong: vec![] };
        Reports { ringfence: report(ringfence), crun: report(crun), runc: runc.map(report) }
    }

    #[test]
    fn only_what_is_expected_passes() {
        use Expected::{AsRunc, Differs, Same};
        for (expected, ringfence, crun, runc, good) in [
            (Same, "a", "a", None, true),
            (Same, "a", "b", None, false),
            (Same, "", "", None, false),
            (Differs("x"), "a", "b", None, true),
            (Differs("x"), "a", "a", None, false),
            (AsRunc, "a", "b", Some("a"), true),
            (AsRunc, "a", "b", Some("c"), false),
            (AsRunc, "a", "a", Some("a"), false),
            (AsRunc, "a", "b", None, false),
        ] {
            let result = judge(expected, &reports(ringfence, crun, runc));
            assert_eq!(result.is_ok(), good, "{expected:?} {ringfence} {crun} {runc:?}");
        }
    }

    #[test]
    fn what_is_wrong_in_itself_never_passes() {
        let mut same = reports("a", "a", None);
        same.ringfence.wrong.push("two messages".to_owned());
        assert_eq!(judge(Expected::Same, &same), Err("two messages".to_owned()));
    }

    #[test]
    fn a_row_is_one_line() {
        let reports = reports("one\ntwo\n", &"x".repeat(100), None);
        let row = row("group/case", &reports, "same");
        assert!(row.contains("one; two") && row.contains("x…") && !row.contains('\n'), "{row}");
    }
}
