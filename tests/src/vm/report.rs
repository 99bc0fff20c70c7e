//! What the machine says to the host, one line each, on standard output, which is the serial console.
//!
//! ```text
//! margay-vm: kernel 6.1.0-50-cloud-amd64
//! margay-vm: check NAME passed|failed MILLISECONDS DETAIL
//! margay-vm: result N passed, N failed
//! ```
//!
//! `xtask/src/vm/serial.rs` reads them. A detail of one word stands in the host's table as it is.

use std::time::Duration;

/// Counts, for the last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Checks that held.
    pub passed: u32,
    /// Checks that did not.
    pub failed: u32,
}

/// Says which kernel this is.
pub fn kernel(release: &str) {
    line(&format!("kernel {release}"));
}

/// Says how one check ended, and counts it.
pub fn check(name: &str, result: &anyhow::Result<String>, took: Duration, counts: &mut Counts) {
    let (status, detail) = match result {
        Ok(word) => {
            counts.passed += 1;
            ("passed", word.clone())
        }
        Err(error) => {
            counts.failed += 1;
            ("failed", format!("{error:#}"))
        }
    };
    line(&format!("check {name} {status} {} {}", took.as_millis(), one_line(&detail)));
}

/// Says that the suite ran to its end.
pub fn result(counts: Counts) {
    let Counts { passed, failed } = counts;
    line(&format!("result {passed} passed, {failed} failed"));
}

fn line(text: &str) {
    println!("margay-vm: {}", text.trim_end());
}

/// The protocol is by lines, errors may have several.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_several_lines_becomes_one() {
        assert_eq!(one_line("a is not ready:\n  why\n\nits log"), "a is not ready: / why / its log");
    }

    #[test]
    fn each_result_is_counted_where_it_belongs() {
        let mut counts = Counts::default();
        check("a", &Ok("tcx".into()), Duration::ZERO, &mut counts);
        check("b", &Err(anyhow::anyhow!("x")), Duration::ZERO, &mut counts);
        assert_eq!(counts, Counts { passed: 1, failed: 1 });
    }
}
