//! The rows of `docs/differences.md`.

use std::collections::BTreeSet;

/// The ids of the document's rows: what stands in backquotes in the first cell of a table.
///
/// # Panics
/// If one stands there twice.
pub(super) fn ids(document: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for line in document.lines() {
        let cell = line.strip_prefix("| `").and_then(|rest| rest.split_once("` |"));
        if let Some((id, _)) = cell {
            assert!(found.insert(id), "docs/differences.md has two rows {id}");
        }
    }
    found
}

/// What is wrong with the rows, given the ids that cases name.
pub(super) fn mistakes(document: &str, used: &BTreeSet<&str>) -> Vec<String> {
    let rows = ids(document);
    let missing =
        used.difference(&rows).map(|id| format!("a case differs by {id}, which has no row"));
    let idle = rows.difference(used).map(|id| format!("no case differs by {id}, which has a row"));
    missing.chain(idle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str =
        "# Title\n\n| id | why |\n| --- | --- |\n| `a` | since |\n| `b-c` | so |\n";

    #[test]
    fn rows_are_found_by_their_first_cell() {
        assert_eq!(ids(DOCUMENT), BTreeSet::from(["a", "b-c"]));
    }

    #[test]
    fn a_row_without_a_case_and_a_case_without_a_row_are_mistakes() {
        assert!(mistakes(DOCUMENT, &BTreeSet::from(["a", "b-c"])).is_empty());
        assert_eq!(mistakes(DOCUMENT, &BTreeSet::from(["a"])).len(), 1);
        assert_eq!(mistakes(DOCUMENT, &BTreeSet::from(["a", "b-c", "d"])).len(), 1);
    }

    #[test]
    #[should_panic(expected = "two rows a")]
    fn a_row_that_stands_twice_is_a_mistake() {
        let _ = ids("| `a` | x |\n| `a` | y |\n");
    }
}
