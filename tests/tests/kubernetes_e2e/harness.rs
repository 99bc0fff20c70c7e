//! Many checks, one cluster: bringing one up costs half a minute.
//!
//! In: checks in the order in which they build on each other, and arguments as Rust's own harness takes them (part of a
//! name; `--include-ignored`, without which nothing runs). Out: a line for each check as Rust's own harness prints it, which
//! `cargo xtask test` counts. Never: the end of the run at a check that fails.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, anyhow};

/// Something that is to hold.
pub struct Check<S> {
    pub name: &'static str,
    pub run: fn(&mut S) -> Result<()>,
}

/// What this needs, and why it is not among what `cargo test` runs.
const IGNORED: &str = "needs a whole Kubernetes: `cargo xtask test --kubernetes`";

/// Runs all checks that the arguments ask for. `diagnose` says how things are after one has failed.
pub fn run<S>(checks: &[Check<S>], state: &mut S, diagnose: fn(&mut S) -> String) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let asked = arguments.iter().any(|a| a == "--include-ignored" || a == "--ignored");
    let filter = arguments.iter().find(|a| !a.starts_with('-'));
    let checks: Vec<_> = checks.iter().filter(|c| filter.is_none_or(|f| c.name.contains(f.as_str()))).collect();
    println!("running {} tests", checks.len());
    let mut failures = 0;
    for Check { name, run } in checks {
        if !asked {
            println!("test {name} ... ignored, {IGNORED}");
            continue;
        }
        let began = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| run(state))).unwrap_or_else(|_| Err(anyhow!("it panicked")));
        let took = began.elapsed().as_secs_f64();
        println!("  {name}: {took:.1} s");
        match done {
            Ok(()) => println!("test {name} ... ok"),
            Err(error) => {
                failures += 1;
                println!("test {name} ... FAILED\n{}\n---- {name} stdout ----\n{error:#}", diagnose(state));
            }
        }
    }
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
