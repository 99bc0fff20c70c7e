//! What a VM says on its serial line.
//!
//! In: lines. Out: the checks and the result in them. The other side, which writes these lines, is `tests/src/vm/`:
//!
//! ```text
//! margay-vm: kernel 6.1.0-50-cloud-amd64
//! margay-vm: check attach passed 41 clsact
//! margay-vm: check exchange failed 10213 pod a cannot reach pod b: …
//! margay-vm: result 1 passed, 1 failed
//! ```
//!
//! Everything else is the kernel's, or a program's log, and only kept for whoever reads the log.

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It held.
    Passed,
    /// It did not.
    Failed,
}

/// One check that ran inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub status: Status,
    pub time_ms: u64,
    /// One word of result, or why it failed; may be empty.
    pub detail: String,
}

/// What has been heard so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// `uname -r` inside.
    pub release: Option<String>,
    pub checks: Vec<Check>,
    /// The result line came, so the suite ran to its end.
    pub complete: bool,
}

const PREFIX: &str = "margay-vm: ";

impl Heard {
    /// Takes in one line; whether it was one of ours.
    pub fn line(&mut self, line: &str) -> bool {
        // A message of the kernel may stand before ours on the same line.
        let Some((_, said)) = line.split_once(PREFIX) else { return false };
        match said.trim().split_once(' ') {
            Some(("kernel", release)) => self.release = Some(release.to_owned()),
            Some(("check", check)) => self.checks.extend(parse_check(check)),
            Some(("result", _)) => self.complete = true,
            _ => return false,
        }
        true
    }
}

fn parse_check(text: &str) -> Option<Check> {
    let mut words = text.splitn(4, ' ');
    let name = words.next()?.to_owned();
    let status = match words.next()? {
        "passed" => Status::Passed,
        "failed" => Status::Failed,
        _ => return None,
    };
    let time_ms = words.next()?.parse().ok()?;
    Some(Check { name, status, time_ms, detail: words.next().unwrap_or_default().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_found_among_other_lines() {
        let mut heard = Heard::default();
        assert!(!heard.line("[    0.1] Linux version"));
        assert!(heard.line("margay-vm: kernel 6.1.0-50"));
        assert!(heard.line("[    1.2] veth: up margay-vm: check attach passed 41 clsact"));
        assert!(heard.line("margay-vm: check exchange failed 7 no answer from b\r"));
        assert!(heard.line("margay-vm: result 1 passed, 1 failed"));
        assert_eq!(heard.release.as_deref(), Some("6.1.0-50"));
        assert!(heard.complete);
        let seen: Vec<_> =
            heard.checks.iter().map(|c| (c.name.as_str(), c.status, c.time_ms, c.detail.as_str())).collect();
        let expected = [("attach", Status::Passed, 41, "clsact"), ("exchange", Status::Failed, 7, "no answer from b")];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_torn_line_is_no_check() {
        let mut heard = Heard::default();
        heard.line("margay-vm: check attach pas");
        assert!(heard.checks.is_empty());
        assert!(!heard.complete);
    }
}
