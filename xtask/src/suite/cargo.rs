//! What `cargo test` would run: cargo compiles it all, and says which programs came out.
//!
//! In: the workspace. Out: test programs with a name for people. They are run by [`super::libtest`], one by one, so that
//! each is a suite with a time of its own and can run as root.

use super::{libtest::Reader, summary::Suite};
use crate::run::{cargo, line, say};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

/// A compiled test program.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// `margay-tests: restart` for tests/tests/restart.rs, `margay: unit` for the tests beside the code.
    pub suite: String,
    /// The executable.
    pub file: PathBuf,
    /// The package's directory, where cargo would run it.
    pub dir: PathBuf,
    /// Whether its tests are worth a line each while they run: those in files of their own, which take longer.
    pub listed: bool,
}

// === impl Program ===

impl Program {
    /// Whether it is for a whole Kubernetes: tests/tests/kubernetes_*.
    pub fn needs_kubernetes(&self) -> bool {
        self.suite.contains(": kubernetes_")
    }
}

/// Compiles every test of the workspace, and the binaries that the tests start. In one go: tests turn on features of
/// dependencies, and binaries that were built without them would have to be built again.
pub fn test_programs() -> Result<Vec<Program>> {
    say("building margay, margay-lab and the tests");
    let mut build = cargo();
    build.args(["build", "--workspace", "--bins", "--tests", "--message-format=json-render-diagnostics"]);
    let output = build.stderr(Stdio::inherit()).output().with_context(|| format!("starting {}", line(&build)))?;
    if !output.status.success() {
        bail!("building the tests: `{}` failed ({})", line(&build), output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut programs: Vec<Program> = text.lines().filter_map(parse_artifact).collect();
    // Unit tests first: they are quick, and explain most failures of the others.
    programs.sort_by(|a, b| (a.listed, &a.suite).cmp(&(b.listed, &b.suite)));
    Ok(programs)
}

/// One line of cargo's messages, if it is about a test program.
fn parse_artifact(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let file = PathBuf::from(message["executable"].as_str()?);
    let dir = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    let target = message["target"]["name"].as_str()?;
    let kind = message["target"]["kind"][0].as_str()?;
    let package = package_name(message["package_id"].as_str()?)?;
    let suite = match kind {
        "test" => format!("{package}: {target}"),
        "bin" => format!("{package}: unit, binary {target}"),
        _ => format!("{package}: unit"),
    };
    Some(Program { suite, file, dir, listed: kind == "test" })
}

/// From `path+file:///somewhere/maps#margay-maps@0.1.0`, or `…/margay-maps#0.1.0` when directory and package agree.
fn package_name(id: &str) -> Option<&str> {
    let (path, fragment) = id.rsplit_once('#')?;
    match fragment.split_once('@') {
        Some((name, _)) => Some(name),
        None => path.rsplit('/').next(),
    }
}

/// The examples in the documentation, which only cargo can run.
pub fn doc_tests(filter: Option<&str>) -> Result<Option<Suite>> {
    say("running the examples in the documentation");
    let started = Instant::now();
    let mut test = cargo();
    test.args(["test", "--quiet", "--workspace", "--doc", "--", "--format=pretty"]).args(filter);
    let output = test.stderr(Stdio::inherit()).output().with_context(|| format!("starting {}", line(&test)))?;
    let mut reader = Reader::new("documentation: examples");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if reader.line(line) {
            println!("{line}");
        }
    }
    let mut suite = reader.end(&output.status.to_string(), output.status.success(), started.elapsed());
    suite.time = suite.time.max(Duration::from_millis(1));
    Ok(suite.ran_anything().then_some(suite))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_becomes_a_program_with_a_name() {
        let line = |kind: &str, name: &str, test: bool| {
            serde_json::json!({
                "reason": "compiler-artifact",
                "package_id": "path+file:///w/tests#margay-tests@0.1.0",
                "manifest_path": "/w/tests/Cargo.toml",
                "target": { "name": name, "kind": [kind] },
                "profile": { "test": test },
                "executable": "/w/target/debug/deps/x-1",
            })
            .to_string()
        };
        let program = parse_artifact(&line("test", "restart", true)).unwrap();
        assert_eq!((program.suite.as_str(), program.listed), ("margay-tests: restart", true));
        assert_eq!(program.dir, PathBuf::from("/w/tests"));
        assert_eq!(parse_artifact(&line("lib", "margay_lab", true)).unwrap().suite, "margay-tests: unit");
        assert_eq!(parse_artifact(&line("bin", "margay-lab", false)), None);
        assert_eq!(parse_artifact("not json"), None);
    }

    #[test]
    fn package_names_come_from_both_kinds_of_id() {
        assert_eq!(package_name("path+file:///w/maps#margay-maps@0.1.0"), Some("margay-maps"));
        assert_eq!(package_name("path+file:///w/xtask#0.1.0"), Some("xtask"));
    }
}
