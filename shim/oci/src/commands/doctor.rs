//! `ringfence doctor`.

use crate::args::{Doctor, Global};
use crate::commands::{print, print_json};
use crate::error::CommandError;
use sandbox::{Diagnosis, Level};

/// Exit status if sandboxes do not run here.
const CANNOT_RUN: u8 = 1;
/// Width of a level and of a subject.
const WIDTHS: (usize, usize) = (9, 17);

pub(crate) fn execute(global: &Global, doctor: &Doctor) -> Result<u8, CommandError> {
    let diagnosis = sandbox::diagnose(global.config.as_deref());
    if doctor.json {
        print_json(&diagnosis)?;
    } else {
        print(&text(&diagnosis))?;
    }
    Ok(if diagnosis.can_run { 0 } else { CANNOT_RUN })
}

fn text(diagnosis: &Diagnosis) -> String {
    let (level_width, subject_width) = WIDTHS;
    let indent = " ".repeat(level_width + subject_width);
    let mut text = String::new();
    for finding in &diagnosis.findings {
        let (level, subject, found) = (finding.level, finding.subject, &finding.found);
        text.push_str(&format!("{level:level_width$}{subject:subject_width$}{found}\n"));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("{indent}-> {remedy}\n"));
        }
    }
    let count = |level| diagnosis.findings.iter().filter(|finding| finding.level == level).count();
    let verdict =
        if diagnosis.can_run { "sandboxes run here" } else { "sandboxes do not run here" };
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    text.push_str(&format!("{verdict}: {problems} problems, {warnings} warnings\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::Finding;

    #[test]
    fn a_remedy_stands_below_what_it_is_for() {
        let finding = |level, remedy: Option<&str>| Finding {
            subject: "kvm",
            level,
            found: "found".into(),
            remedy: remedy.map(str::to_owned),
        };
        let diagnosis = Diagnosis {
            can_run: false,
            findings: vec![finding(Level::Ok, None), finding(Level::Problem, Some("do"))],
        };
        let text = text(&diagnosis);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ok       kvm              found");
        assert_eq!(lines[2].trim_start(), "-> do");
        assert_eq!(lines[3], "sandboxes do not run here: 1 problems, 0 warnings");
    }
}
