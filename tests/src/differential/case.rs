//! The list's entries, as constants.

use crate::bundle::Bundle;
use crate::detached::Detached;
use crate::differential::stage::Stage;

/// Cases of one subject.
#[derive(Debug)]
pub struct Group {
    /// Its name, which comes before that of each case.
    pub name: &'static str,
    /// The bundle of the looks, which share one container, and what other cases begin with.
    pub bundle: fn(&Stage) -> Bundle,
    /// Functions that report several cases each: those that are a [`Body::Part`].
    pub stories: &'static [fn(&mut Stage)],
    /// Its cases.
    pub cases: &'static [Case],
}

/// One behaviour that is compared.
#[derive(Debug)]
pub struct Case {
    /// Its name within the group.
    pub name: &'static str,
    /// How the reports compare.
    pub expected: Expected,
    /// How a report is made.
    pub body: Body,
}

/// How ringfence's report compares with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is crun's.
    Same,
    /// It is runc's, and crun's is another one.
    AsRunc,
    /// It is another one than crun's, for the reason with this id in `docs/differences.md`.
    Differs(&'static str),
}

/// How a case makes its report.
#[derive(Debug)]
pub enum Body {
    /// A shell script, run with others in one container: its output and its exit status.
    Look(&'static str),
    /// A run of its own: whether the program ran, its output and its exit status.
    Run {
        /// What is changed in the group's bundle, which says `ran`.
        change: Change,
        /// What ringfence's message has to name if it refuses.
        named: &'static [&'static str],
    },
    /// What the function notes about a running container, which the group's cases of this kind
    /// share.
    Inside(fn(&mut Stage, &Detached)),
    /// Whatever the function notes.
    Scene(fn(&mut Stage)),
    /// What a story of the group notes under the case's name.
    Part,
}

/// A change of a bundle.
#[derive(Debug)]
pub enum Change {
    /// Values by JSON pointer, as JSON; `null` removes.
    Set(&'static [(&'static str, &'static str)]),
    /// Anything.
    Edit(fn(&Stage, Bundle) -> Bundle),
}

/// A look at something from inside.
#[must_use]
pub const fn look(name: &'static str, script: &'static str) -> Case {
    Case { name, expected: Expected::Same, body: Body::Look(script) }
}

/// A run with other values in config.json; `named` has to be in the message if it is refused.
#[must_use]
pub const fn set(
    name: &'static str,
    values: &'static [(&'static str, &'static str)],
    named: &'static [&'static str],
) -> Case {
    Case { name, expected: Expected::Same, body: Body::Run { change: Change::Set(values), named } }
}

/// A run with another bundle.
#[must_use]
pub const fn edit(
    name: &'static str,
    change: fn(&Stage, Bundle) -> Bundle,
    named: &'static [&'static str],
) -> Case {
    Case { name, expected: Expected::Same, body: Body::Run { change: Change::Edit(change), named } }
}

/// Commands about a running container, which they leave as it was.
#[must_use]
pub const fn inside(name: &'static str, play: fn(&mut Stage, &Detached)) -> Case {
    Case { name, expected: Expected::Same, body: Body::Inside(play) }
}

/// Several commands.
#[must_use]
pub const fn scene(name: &'static str, play: fn(&mut Stage)) -> Case {
    Case { name, expected: Expected::Same, body: Body::Scene(play) }
}

/// A part of a story.
#[must_use]
pub const fn part(name: &'static str) -> Case {
    Case { name, expected: Expected::Same, body: Body::Part }
}

impl Case {
    /// It differs, for the reason with this id.
    #[must_use]
    pub const fn differs(mut self, id: &'static str) -> Self {
        self.expected = Expected::Differs(id);
        self
    }

    /// runc and crun differ, and ringfence does as runc.
    #[must_use]
    pub const fn as_runc(mut self) -> Self {
        self.expected = Expected::AsRunc;
        self
    }
}
