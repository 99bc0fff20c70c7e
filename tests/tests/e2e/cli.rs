//! `margay-lab` as people use it.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use margay_lab::{LabName, Namespace, agent::text_of, names::RUN, observe::eventually};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Runs `margay-lab` with words as arguments.
fn margay_lab(words: &str) -> Result<Output> {
    command(words).output().context("running margay-lab")
}

fn command(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_margay-lab"));
    command.args(words.split_whitespace());
    command
}

fn succeeds(words: &str) -> Result<String> {
    let output = margay_lab(words)?;
    let said = text_of(&output);
    ensure!(output.status.success(), "`margay-lab {words}`: {:?}\n{said}", output.status);
    Ok(said)
}

fn is_gone(name: &str) -> Result<()> {
    let name: LabName = name.parse()?;
    let left = Namespace::list(&name.prefix())?;
    ensure!(left.is_empty() && !Path::new(RUN).join(name.as_str()).exists(), "there is something left: {left:?}");
    Ok(())
}

/// Takes a lab down whatever becomes of the test.
struct Down(&'static str);

impl Drop for Down {
    fn drop(&mut self) {
        if let Ok(name) = self.0.parse() {
            let _ = margay_lab::Lab::down(&name);
        }
    }
}

const TWO_NODES: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, spec: {nodeName: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop}, spec: {nodeName: n2}}
";

#[test]
fn up_exec_status_sync_down() -> Result<()> {
    let _down = Down("cli_round");
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("all.yaml"), TWO_NODES)?;
    let said = succeeds(&format!("lab up --name cli_round {}", dir.path().display()))?;
    ensure!(said.contains("2 nodes, 2 pods") && said.contains("ready"), "{said}");

    let status: Value = serde_json::from_str(&succeeds("lab status --name cli_round -o json")?)?;
    ensure!(status["nodes"][0]["agent"]["health"] == "ready", "{status}");
    let db = status["pods"][0]["address"].as_str().context("the pod has an address")?;
    let output = margay_lab("lab exec --name cli_round shop/web -- cat /proc/net/fib_trie")?;
    ensure!(!text_of(&output).contains(db), "the pod is not in its own namespace");
    let output = command("lab exec --name cli_round shop/db --").args(["sh", "-c", "exit 7"]).output()?;
    ensure!(output.status.code() == Some(7), "{:?}", output.status);
    ensure!(succeeds("lab exec --name cli_round n2 -- margay endpoints")?.contains("shop/db"));
    let inside = command("lab exec --name cli_round n1 --").args(["sh", "-c", "margay endpoints"]).output()?;
    ensure!(text_of(&inside).contains("shop/web"), "{}", text_of(&inside));

    let more = "{apiVersion: v1, kind: Pod, metadata: {name: late}, spec: {nodeName: n1}}";
    fs::write(dir.path().join("more.yaml"), more)?;
    let said = succeeds("lab sync --name cli_round")?;
    ensure!(said.contains("default/late added"), "{said}");
    fs::remove_file(dir.path().join("more.yaml"))?;
    let said = succeeds("lab sync --name cli_round")?;
    ensure!(said.contains("default/late removed"), "{said}");

    ensure!(succeeds("lab status --all")?.lines().any(|line| line == "cli_round"));
    succeeds("lab down --name cli_round")?;
    is_gone("cli_round")
}

#[test]
fn mistakes_are_answered_with_what_there_is() -> Result<()> {
    let _down = Down("cli_wrong");
    let fails = |words: &str, expected: &str| -> Result<()> {
        let output = margay_lab(words)?;
        let said = text_of(&output);
        ensure!(output.status.code() == Some(1) && said.contains(expected), "{words}: {:?} {said}", output.status);
        Ok(())
    };
    fails("lab status --name cli_wrong", "no lab")?;
    fails("lab down --name cli_wrong", "no lab")?;
    fails("lab exec --name cli_wrong a -- true", "no lab")?;
    fails("lab up --name cli_wrong /nowhere/at/all", "/nowhere/at/all")?;
    let dir = tempfile::tempdir()?;
    let up = format!("lab up --no-agents --name cli_wrong {}", dir.path().display());
    fails(&up, "no Node")?;
    is_gone("cli_wrong")?;
    fs::write(dir.path().join("all.yaml"), TWO_NODES)?;
    succeeds(&up)?;
    fails(&up, "is up")?;
    fails("lab exec --name cli_wrong n3 -- true", "it has n1, n2")?;
    fails("lab exec --name cli_wrong shop/api -- true", "it has shop/db, shop/web")?;
    fails("lab exec --name cli_wrong n1 -- /no/such/program", "/no/such/program")?;
    let output = margay_lab("lab up --name Bad-Name .")?;
    ensure!(output.status.code() == Some(2), "{:?}", output.status);
    Ok(())
}

#[test]
fn the_demo_shows_everything_and_leaves_nothing() -> Result<()> {
    let _down = Down("cli_demo");
    let said = succeeds("demo --name cli_demo")?;
    for expected in ["396 of 396 checks passed", "node-b", "spoofed_source", "\"ifindex\"", "Everything works"] {
        ensure!(said.contains(expected), "no {expected:?} in:\n{said}");
    }
    ensure!(!said.contains('\u{1b}'), "there are colours although nobody can see them");
    is_gone("cli_demo")
}

#[test]
fn the_demo_keeps_its_cluster_when_asked_and_clears_it_away_the_next_time() -> Result<()> {
    let _down = Down("cli_keep");
    for _ in 0..2 {
        let said = succeeds("demo --keep --name cli_keep")?;
        ensure!(said.contains("lab down --name cli_keep"), "{said}");
        succeeds("lab exec --name cli_keep shop/web-0 -- true")?;
    }
    succeeds("lab down --name cli_keep")?;
    is_gone("cli_keep")
}

#[test]
fn the_demo_fails_when_something_is_wrong() -> Result<()> {
    let _down = Down("cli_sad");
    let dir = tempfile::tempdir()?;
    let twins = TWO_NODES.replace("spec: {nodeName: n1}", "spec: {nodeName: n1}, status: {podIP: 10.1.0.1}");
    let twins = twins.replace("spec: {nodeName: n2}", "spec: {nodeName: n2}, status: {podIP: 10.1.0.1}");
    fs::write(dir.path().join("all.yaml"), twins)?;
    let output = margay_lab(&format!("demo --name cli_sad {}", dir.path().display()))?;
    let said = text_of(&output);
    ensure!(output.status.code() == Some(1) && said.contains("10.1.0.1"), "{:?}: {said}", output.status);
    is_gone("cli_sad")
}

#[test]
fn the_demo_cleans_up_when_it_is_interrupted() -> Result<()> {
    let _down = Down("cli_stop");
    for milliseconds in [50, 300, 700] {
        let mut demo = command("demo --name cli_stop").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        sleep(Duration::from_millis(milliseconds));
        // It may be over by now, on a fast machine.
        let _ = kill(Pid::from_raw(i32::try_from(demo.id())?), Signal::SIGINT);
        let began = Instant::now();
        demo.wait()?;
        ensure!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
        is_gone("cli_stop").with_context(|| format!("after {milliseconds} ms"))?;
    }
    Ok(())
}

#[test]
fn a_lab_whose_process_was_killed_is_replaced() -> Result<()> {
    let _down = Down("cli_orphan");
    let mut demo = command("demo --name cli_orphan").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let name: LabName = "cli_orphan".parse()?;
    eventually("the demo has begun", Duration::from_secs(5), || {
        ensure!(!Namespace::list(&name.prefix())?.is_empty());
        Ok(())
    })?;
    demo.kill()?;
    demo.wait()?;
    ensure!(is_gone("cli_orphan").is_err(), "it had no time to clean up");
    succeeds("demo --name cli_orphan")?;
    is_gone("cli_orphan")
}
