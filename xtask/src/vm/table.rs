//! The table of kernels and checks that ends a run.
//!
//! In: how each kernel ended. Out: text: a row for each kernel, a column for each check, then each failure in words.

use super::{
    Outcome,
    serial::{Check, Status},
};
use std::fmt::Write;

/// The whole report.
pub fn render(outcomes: &[Outcome]) -> String {
    let columns = columns(outcomes);
    let mut rows = vec![header(&columns)];
    rows.extend(outcomes.iter().map(|outcome| row(outcome, &columns)));
    let mut text = align(&rows);
    for outcome in outcomes {
        for problem in outcome.problems() {
            let _ = writeln!(text, "\nkernel {}: {problem}\n  log: {}", outcome.kernel, outcome.log.display());
        }
    }
    text
}

/// Names of all checks, in the order in which they ran.
fn columns(outcomes: &[Outcome]) -> Vec<&str> {
    let mut columns: Vec<&str> = Vec::new();
    for check in outcomes.iter().flat_map(|outcome| &outcome.checks) {
        if !columns.contains(&check.name.as_str()) {
            columns.push(&check.name);
        }
    }
    columns
}

fn header(columns: &[&str]) -> Vec<String> {
    let names = ["kernel", "release"].iter().chain(columns).chain(&["time"]);
    names.map(|name| (*name).to_owned()).collect()
}

fn row(outcome: &Outcome, columns: &[&str]) -> Vec<String> {
    let cell = |name: &&str| outcome.checks.iter().find(|check| check.name == **name).map_or("-".to_owned(), cell);
    let mut row = vec![outcome.kernel.clone(), outcome.release.clone()];
    row.extend(columns.iter().map(cell));
    row.push(format!("{:.1} s", outcome.time.as_secs_f32()));
    row
}

/// One word: the check's own when it has one, otherwise how it ended.
fn cell(check: &Check) -> String {
    match check.status {
        Status::Failed => "FAILED".to_owned(),
        Status::Passed if check.detail.is_empty() || check.detail.contains(' ') => "ok".to_owned(),
        Status::Passed => check.detail.clone(),
    }
}

/// Pads every column to its widest cell.
pub fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_row_for_each_kernel_and_a_column_for_each_check() {
        let check =
            |name: &str, status, detail: &str| Check { name: name.into(), status, time_ms: 1, detail: detail.into() };
        let outcome = |kernel: &str, checks| Outcome {
            kernel: kernel.into(),
            release: "r".into(),
            checks,
            time: Duration::from_millis(4200),
            cut_short: None,
            log: "log".into(),
        };
        let outcomes = [
            outcome(
                "5.10",
                vec![check("attach", Status::Passed, "clsact"), check("exchange", Status::Failed, "b does not answer")],
            ),
            outcome("6.12", vec![check("attach", Status::Passed, "tcx"), check("exchange", Status::Passed, "")]),
        ];
        let expected = "\
kernel  release  attach  exchange  time
5.10    r        clsact  FAILED    4.2 s
6.12    r        tcx     ok        4.2 s

kernel 5.10: exchange: b does not answer
  log: log
";
        assert_eq!(render(&outcomes), expected);
    }
}
