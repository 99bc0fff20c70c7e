//! The end of `cargo xtask test`: a table of suites, failures, skipped tests, and the line that scripts read.
//!
//! In: suites as they ended. Out: text.

use crate::vm::table::align;
use std::{fmt::Write, time::Duration};

/// How one suite ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Suite {
    /// `margay-tests: end to end`
    pub name: String,
    /// Tests that passed.
    pub passed: usize,
    /// Tests that did not.
    pub failed: Vec<Failure>,
    /// Tests that were not run: name and reason.
    pub skipped: Vec<(String, String)>,
    /// From start to end.
    pub time: Duration,
}

/// A test that failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub name: String,
    /// The beginning of what it said, without backtraces.
    pub why: Vec<String>,
}

// === impl Failure ===

impl Failure {
    /// One that has not said why yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), why: Vec::new() }
    }
}

// === impl Suite ===

impl Suite {
    /// A suite of which nothing has been run yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Whether any test was at least looked at.
    pub fn ran_anything(&self) -> bool {
        self.passed > 0 || !self.failed.is_empty() || !self.skipped.is_empty()
    }
}

/// The whole summary; its last line is `N passed, N failed, N skipped`.
pub fn render(suites: &[Suite], took: Duration) -> String {
    let shown: Vec<&Suite> = suites.iter().filter(|suite| suite.ran_anything()).collect();
    let mut rows = vec![["suite", "passed", "failed", "skipped", "time"].map(str::to_owned).to_vec()];
    rows.extend(shown.iter().map(|suite| row(suite)));
    let mut text = format!("\n{}", align(&rows));
    for suite in &shown {
        for (name, why) in &suite.skipped {
            let _ = write!(text, "\nskipped: {}: {name}: {why}", suite.name);
        }
    }
    for suite in &shown {
        for Failure { name, why } in &suite.failed {
            let _ = write!(text, "\nFAILED: {}: {name}", suite.name);
            for line in why {
                let _ = write!(text, "\n    {line}");
            }
        }
    }
    let sum = |count: fn(&Suite) -> usize| shown.iter().map(|suite| count(suite)).sum::<usize>();
    let (passed, failed, skipped) = (sum(|s| s.passed), sum(|s| s.failed.len()), sum(|s| s.skipped.len()));
    let _ = writeln!(text, "\n\nall suites: {:.0} s", took.as_secs_f32());
    let _ = writeln!(text, "{passed} passed, {failed} failed, {skipped} skipped");
    text
}

fn row(suite: &Suite) -> Vec<String> {
    let counts = [suite.passed, suite.failed.len(), suite.skipped.len()];
    let mut row = vec![suite.name.clone()];
    row.extend(counts.map(|count| count.to_string()));
    row.push(format!("{:.1} s", suite.time.as_secs_f32()));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_plain_sum() {
        let suites = [
            Suite { passed: 3, time: Duration::from_millis(1500), ..Suite::new("maps: unit") },
            Suite::new("nothing in it"),
            Suite {
                passed: 1,
                failed: vec![Failure { name: "x".into(), why: vec!["no answer".into()] }, Failure::new("z")],
                skipped: vec![("y".into(), "no ipip here".into())],
                ..Suite::new("end to end")
            },
        ];
        let expected = "
suite       passed  failed  skipped  time
maps: unit  3       0       0        1.5 s
end to end  1       2       1        0.0 s

skipped: end to end: y: no ipip here
FAILED: end to end: x
    no answer
FAILED: end to end: z

all suites: 61 s
4 passed, 2 failed, 1 skipped
";
        assert_eq!(render(&suites, Duration::from_secs(61)), expected);
    }
}
