//! The checks of the suite, in the order in which they run.
//!
//! In: what the checks before have built. Out: a [`Verdict`], or an error that says what did not hold.

mod load;

use anyhow::Result;

use super::report::Verdict;

/// What one check leaves for the next.
#[derive(Debug, Default)]
pub struct Context {}

/// A check's function.
pub type Run = fn(&mut Context) -> Result<Verdict>;

/// One check.
pub struct Check {
    /// Its column in the host's table.
    pub name: &'static str,
    /// What it does.
    pub run: Run,
}

/// All of them.
pub const CHECKS: [Check; 1] = [Check { name: "load", run: load::run }];
