//! `ringfence list`, in runc's forms.

use crate::args::{Global, List, ListFormat};
use crate::commands::{print, print_line};
use crate::error::CommandError;
use sandbox::{Detail, Report};

/// Columns of the table.
const COLUMNS: [&str; 6] = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];
/// One more, of walls.
const WALLS: &str = "WALLS";
/// Least width of a column but the last.
const LEAST_WIDTH: usize = 12;
/// Blanks behind the longest entry of a column.
const GAP: usize = 3;

pub(crate) fn execute(global: &Global, list: &List) -> Result<u8, CommandError> {
    let detail = if list.walls { Detail::Walls } else { Detail::State };
    let reports = sandbox::list(&global.root, detail)?;
    match (list.quiet, list.format) {
        (true, _) => {
            let ids: Vec<String> =
                reports.iter().map(|report| format!("{}\n", report.id)).collect();
            print(&ids.concat())?;
        }
        (false, ListFormat::Table) => print(&table(&reports, list.walls))?,
        (false, ListFormat::Json) => print_line(&reports)?,
    }
    Ok(0)
}

fn table(reports: &[Report], with_walls: bool) -> String {
    let heading = COLUMNS.iter().chain(with_walls.then_some(&WALLS));
    let mut rows: Vec<Vec<String>> = vec![heading.map(|name| (*name).to_owned()).collect()];
    rows.extend(reports.iter().map(|report| {
        let mut row = vec![
            report.id.clone(),
            report.pid.to_string(),
            report.status.to_string(),
            report.bundle.display().to_string(),
            report.created.clone(),
            report.owner.clone(),
        ];
        row.extend(with_walls.then(|| walls(report)));
        row
    }));
    let width = |column: usize| {
        let longest =
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        (longest.max().unwrap_or(0) + GAP).max(LEAST_WIDTH)
    };
    let widths: Vec<usize> = (0..=COLUMNS.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What of the walls is not as it should be.
fn walls(report: &Report) -> String {
    let Some(walls) = &report.walls else { return "-".to_owned() };
    match walls.broken().as_slice() {
        [] => "up".to_owned(),
        broken => format!("without {}", broken.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::{Status, Walls};

    #[test]
    fn the_table_has_runcs_columns() {
        let mut report = Report {
            oci_version: "1.0.2".into(),
            id: "a-container-with-a-name".into(),
            pid: 7,
            status: Status::Running,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2024-12-31T23:59:59Z".into(),
            owner: "root".into(),
            annotations: std::collections::BTreeMap::new(),
            end: None,
            walls: None,
            boot: None,
        };
        let text = table(std::slice::from_ref(&report), false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("ID                        PID         STATUS"), "{text}");
        assert!(lines[1].starts_with("a-container-with-a-name   7           running"), "{text}");
        assert!(lines[1].ends_with("2024-12-31T23:59:59Z   root"), "{text}");
        assert_eq!(table(&[], false).lines().count(), 1);
        let mut of_walls = |walls| {
            report.walls = walls;
            table(std::slice::from_ref(&report), true).lines().last().unwrap().to_owned()
        };
        assert!(of_walls(None).ends_with("root        -"));
        assert!(of_walls(Some(Walls::default())).ends_with("root        up"));
        let down = Walls { missing: vec!["an empty root".into()], ..Walls::default() };
        assert!(of_walls(Some(down)).ends_with("root        without an empty root"));
    }
}
