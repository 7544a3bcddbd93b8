//! What a container says about itself, in sections, so that two runtimes can be compared.

use std::collections::BTreeMap;

/// A difference between ringfence and crun that is meant.
#[derive(Debug)]
pub struct Difference {
    /// Name of the section.
    pub section: &'static str,
    /// Why ringfence answers otherwise.
    pub reason: &'static str,
}

/// The sections of an output: a line `== NAME` opens one.
///
/// # Panics
/// If a line comes before the first section or two have one name.
#[must_use]
pub fn sections(output: &str) -> BTreeMap<&str, String> {
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = None;
    for line in output.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            assert!(found.insert(name, String::new()).is_none(), "two sections {name}");
            current = Some(name);
        } else {
            let name = current.unwrap_or_else(|| panic!("before the first section: {line}"));
            let section = found.get_mut(name).expect("the current section was inserted");
            section.push_str(line);
            section.push('\n');
        }
    }
    found
}

/// Checks that both outputs have the same sections, and that these are equal but for the
/// differences that are meant. One that is meant has to be there: a list that is too long hides
/// something.
///
/// # Panics
/// With every section that is wrong.
#[track_caller]
pub fn compare(ringfence: &str, crun: &str, meant: &[Difference]) {
    let (ours, theirs) = (sections(ringfence), sections(crun));
    let mut wrong = vec![];
    let names: std::collections::BTreeSet<&str> =
        ours.keys().chain(theirs.keys()).copied().collect();
    for name in names {
        let (our, their) = (ours.get(name), theirs.get(name));
        let difference = meant.iter().find(|difference| difference.section == name);
        match (our == their, difference) {
            (false, None) => wrong.push(format!(
                "== {name}\n-- ringfence:\n{}-- crun:\n{}",
                our.map_or("(nothing)\n", String::as_str),
                their.map_or("(nothing)\n", String::as_str),
            )),
            (true, Some(difference)) => wrong.push(format!(
                "== {name}: equal, and should differ since {}\n{}",
                difference.reason,
                our.map_or("", String::as_str),
            )),
            _ => {}
        }
    }
    for difference in meant {
        if !ours.contains_key(difference.section) {
            wrong.push(format!("== {}: meant to differ, and not there", difference.section));
        }
    }
    assert!(!ours.is_empty(), "ringfence's container said nothing");
    assert!(wrong.is_empty(), "{} of {} sections:\n{}", wrong.len(), ours.len(), wrong.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEANT: &[Difference] = &[Difference { section: "b", reason: "of the test" }];

    #[test]
    fn equal_sections_and_meant_differences_pass() {
        compare("== a\n1\n2\n== b\nx\n", "== a\n1\n2\n== b\ny\n", MEANT);
    }

    #[test]
    #[should_panic(expected = "== a")]
    fn an_unmeant_difference_fails() {
        compare("== a\n1\n== b\nx\n", "== a\n2\n== b\ny\n", MEANT);
    }

    #[test]
    #[should_panic(expected = "equal, and should differ")]
    fn a_difference_that_is_gone_fails() {
        compare("== a\n1\n== b\nx\n", "== a\n1\n== b\nx\n", MEANT);
    }
}
