//! `ringfence gc`.

use crate::args::{Gc, Global};
use crate::commands::{print, print_json};
use crate::error::{CommandError, REFUSED};
use sandbox::{GcOptions, Leftover};

pub(crate) fn execute(global: &Global, gc: &Gc) -> Result<u8, CommandError> {
    let options = GcOptions { dry_run: gc.dry_run, crashed: gc.crashed };
    let mut found = sandbox::gc(&global.root, options)?;
    for root in sandbox::shim_roots(&global.root) {
        found.extend(sandbox::gc(&root, options)?);
    }
    if gc.json {
        print_json(&found)?;
    } else {
        print(&text(&found, gc.dry_run))?;
    }
    let failed = found.iter().any(|leftover| leftover.error.is_some());
    Ok(if failed { REFUSED } else { 0 })
}

/// One line for each object, so that it can be searched.
fn text(found: &[Leftover], dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    let mut text = String::new();
    for Leftover { id, reason, removes, error } in found {
        text.push_str(&format!("{id}: {reason}\n"));
        match error {
            Some(error) => text.push_str(&format!("  cannot be removed: {error}\n")),
            None => removes.iter().for_each(|what| text.push_str(&format!("  {verb} {what}\n"))),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_has_a_line() {
        let leftover = |error: Option<&str>| Leftover {
            id: "c1".into(),
            reason: "why".into(),
            removes: vec!["directory /d".into(), "process 7".into()],
            error: error.map(str::to_owned),
        };
        let lines = "c1: why\n  would remove directory /d\n  would remove process 7\n";
        assert_eq!(text(&[leftover(None)], true), lines);
        assert!(text(&[leftover(Some("no"))], false).ends_with("  cannot be removed: no\n"));
        assert_eq!(text(&[], false), "");
    }
}
