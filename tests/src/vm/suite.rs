//! The suite: runs every check, one after another, and reports each.
//!
//! In: [`checks`](super::checks). Out: lines, and exit status 0 only if none failed. A check that panics has failed; the
//! next one runs all the same.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    process::exit,
    time::Instant,
};

use anyhow::{Result, anyhow};

use super::{
    checks::{CHECKS, Context, Run},
    report::{self, Counts},
};

/// Runs everything.
pub fn run() -> ! {
    let (mut counts, mut context) = (Counts::default(), Context::default());
    for check in CHECKS {
        let started = Instant::now();
        let result = guarded(check.run, &mut context);
        report::check(check.name, &result, started.elapsed(), &mut counts);
    }
    report::result(counts);
    exit(i32::from(counts.failed > 0))
}

fn guarded(check: Run, context: &mut Context) -> Result<String> {
    catch_unwind(AssertUnwindSafe(|| check(context)))
        .unwrap_or_else(|panic| Err(anyhow!("it panicked: {}", message(&*panic))))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure_with_its_message() {
        let result = guarded(|_| panic!("out of {}", "luck"), &mut Context::default());
        assert_eq!(result.unwrap_err().to_string(), "it panicked: out of luck");
    }
}
