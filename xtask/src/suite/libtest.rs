//! Running one test program, and understanding what Rust's test harness prints.
//!
//! In: the program's output, line by line. Out: a [`Suite`]. A test that finds out while it runs that this machine cannot
//! do what it needs appends the line `NAME: REASON` to the file that `MARGAY_TEST_SKIPS` names, and returns: it is then
//! counted as skipped, not as passed.

use super::{
    cargo::Program,
    summary::{Failure, Suite},
};
use crate::{paths, run::say, setup::root};
use anyhow::{Context, Result};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

/// Names the file of skipped tests.
const SKIPS: &str = "MARGAY_TEST_SKIPS";

/// Runs a test program as root, with its output on the terminal. None if no test in it matches the filter. Tests that need a
/// whole Kubernetes are ignored by themselves, and run only if there is one.
pub fn run(program: &Program, filter: Option<&str>, kubernetes: bool) -> Result<Option<Suite>> {
    let skips = paths::target()?.join("skipped-tests");
    fs::write(&skips, "").with_context(|| format!("writing {}", skips.display()))?;
    let variables = [("CARGO_MANIFEST_DIR", program.dir.as_os_str()), (SKIPS, skips.as_os_str())];
    let mut command = root::command(&program.file, &variables)?;
    if kubernetes && program.needs_kubernetes() {
        command.arg("--include-ignored");
    }
    command.args(filter).current_dir(&program.dir).stdin(Stdio::null()).stdout(Stdio::piped());
    say(format!("{}{}", program.suite, filter.map_or(String::new(), |filter| format!(" (only `{filter}`)"))));
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("starting {}", program.file.display()))?;
    let mut reader = Reader::new(&program.suite);
    let output = child.stdout.take().context("the test program has no standard output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("reading a test program's output")?;
        let line = String::from_utf8_lossy(&line);
        if reader.line(&line) || program.listed {
            println!("{line}");
        }
    }
    let status = child.wait().context("waiting for a test program")?;
    let mut suite = reader.end(&status.to_string(), status.success(), started.elapsed());
    take_skips(&mut suite, &skips)?;
    Ok(suite.ran_anything().then_some(suite))
}

/// Moves the tests that skipped themselves from passed to skipped.
fn take_skips(suite: &mut Suite, file: &Path) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    for (name, why) in text.lines().filter_map(|line| line.split_once(": ")) {
        suite.passed = suite.passed.saturating_sub(1);
        suite.skipped.push((name.to_owned(), why.to_owned()));
    }
    Ok(())
}

/// Lines of a failure's reason that the summary repeats.
const REASON_LINES: usize = 12;

/// Collects results from the lines of the harness.
pub struct Reader {
    suite: Suite,
    /// The failure whose output is being read: its place in the suite.
    told: Option<usize>,
}

// === impl Reader ===

impl Reader {
    /// Nothing read yet.
    pub fn new(suite: &str) -> Self {
        Self { suite: Suite::new(suite), told: None }
    }

    /// Takes in a line; whether it is worth showing: everything but headings and tests that passed.
    pub fn line(&mut self, line: &str) -> bool {
        if let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            self.told = None;
            return self.result(name, result);
        }
        self.reason(line);
        let heading = line.starts_with("running ") || line.starts_with("test result: ok");
        !heading && !line.trim().is_empty()
    }

    fn result(&mut self, name: &str, result: &str) -> bool {
        match result.split_once(", ").unwrap_or((result, "no reason given")) {
            ("ok", _) => {
                self.suite.passed += 1;
                return false;
            }
            ("ignored", why) => self.suite.skipped.push((name.to_owned(), why.to_owned())),
            _ => self.suite.failed.push(Failure::new(name)),
        }
        true
    }

    /// Takes in a line of what failed tests have printed. Where one panicked, its reason begins there; before it are logs.
    fn reason(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----")) {
            self.told = self.suite.failed.iter().position(|failure| failure.name == name);
            return;
        }
        let ends = ["stack backtrace:", "note: run with"].iter().any(|end| line.to_ascii_lowercase().starts_with(end));
        if ends || line == "failures:" {
            self.told = None;
        }
        let Some(failure) = self.told.and_then(|place| self.suite.failed.get_mut(place)) else { return };
        if line.starts_with("thread '") && line.contains(" panicked at ") {
            failure.why.clear();
        }
        if !line.trim().is_empty() && failure.why.len() < REASON_LINES {
            failure.why.push(line.to_owned());
        }
    }

    /// The suite; a program that failed without a failed test (it crashed, for instance) is a failure of its own.
    pub fn end(mut self, status: &str, success: bool, took: Duration) -> Suite {
        if !success && self.suite.failed.is_empty() {
            self.suite.failed.push(Failure::new(format!("the test program itself ({status})")));
        }
        self.suite.time = took;
        self.suite
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_and_only_the_interesting_lines_shown() {
        let mut reader = Reader::new("x");
        let lines = [
            ("running 4 tests", false),
            ("test a::b ... ok", false),
            ("test a::panics - should panic ... ok", false),
            ("test c ... ignored, needs ipip", true),
            ("test d ... FAILED", true),
            ("---- d stdout ----", true),
            ("a log", true),
            ("thread 'd' (7) panicked at x.rs:1:2:", true),
            ("nothing comes", true),
            ("", false),
            ("Caused by: nobody sends", true),
            ("stack backtrace:", true),
            ("   0: main", true),
            ("", false),
            ("failures:", true),
            ("    d", true),
            ("test result: FAILED. 2 passed; 1 failed; 1 ignored", true),
        ];
        for (line, shown) in lines {
            assert_eq!(reader.line(line), shown, "{line}");
        }
        let suite = reader.end("exit status: 101", false, Duration::ZERO);
        let why =
            ["thread 'd' (7) panicked at x.rs:1:2:", "nothing comes", "Caused by: nobody sends"].map(str::to_owned);
        assert_eq!(
            (suite.passed, suite.failed, suite.skipped),
            (
                2,
                vec![Failure { name: "d".to_owned(), why: why.to_vec() }],
                vec![("c".to_owned(), "needs ipip".to_owned())]
            )
        );
    }

    #[test]
    fn a_crash_is_a_failure() {
        let suite = Reader::new("x").end("signal: 11", false, Duration::ZERO);
        assert_eq!(suite.failed, [Failure::new("the test program itself (signal: 11)")]);
    }

    #[test]
    fn a_test_that_skips_itself_is_not_counted_as_passed() {
        let file = std::env::temp_dir().join(format!("margay-xtask-skips-{}", std::process::id()));
        fs::write(&file, "ipip: this kernel has no ipip\n").unwrap();
        let mut suite = Suite { passed: 2, ..Suite::new("x") };
        take_skips(&mut suite, &file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(suite.passed, 1);
        assert_eq!(suite.skipped, [("ipip".to_owned(), "this kernel has no ipip".to_owned())]);
    }
}
