//! What is found, how bad it is, and what to do about it.

use serde::Serialize;

/// How bad something is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing, and no reason to do anything.
    Note,
    /// Sandboxes run, with something less than they could have.
    Warning,
    /// Sandboxes do not run.
    Problem,
}

impl std::fmt::Display for Level {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, one word.
    pub subject: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found, with its values.
    pub found: String,
    /// What to do; there is one for every warning and every problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    pub(super) fn good(subject: &'static str, found: impl Into<String>) -> Self {
        Self { subject, level: Level::Ok, found: found.into(), remedy: None }
    }

    pub(super) fn note(subject: &'static str, found: impl Into<String>) -> Self {
        Self { subject, level: Level::Note, found: found.into(), remedy: None }
    }

    /// A note with something that can be done.
    pub(super) fn advice(
        subject: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { subject, level: Level::Note, found: found.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn warning(
        subject: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { subject, level: Level::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn problem(
        subject: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { subject, level: Level::Problem, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// There is no problem among the findings.
    pub can_run: bool,
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    pub(super) fn of(findings: Vec<Finding>) -> Self {
        Self { can_run: findings.iter().all(|finding| finding.level < Level::Problem), findings }
    }
}
