//! Agents stop, are killed and are replaced while packets flow, and not one of them is lost.

use std::{path::PathBuf, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use margay_lab::{
    Lab, LabBuilder,
    agent::find_binary,
    builder::READY,
    probe::{self, TcpStreamProbe, UdpStreamProbe},
};
use nix::sys::signal::Signal;

/// Datagrams a second: enough to see a gap of a fraction of a millisecond.
const RATE: u32 = 4_000;

fn two_nodes(name: &str) -> LabBuilder {
    Lab::builder(name).node("a").node("b").pod("x").on("a").pod("near").on("a").pod("far").on("b")
}

/// Does something while datagrams and a TCP connection flow on one node and across nodes, and between nodes and pods.
fn not_one_packet_is_lost_while(lab: &Lab, something: impl FnOnce() -> Result<()>) -> Result<()> {
    let (x, near, far) = (lab.pod("x")?, lab.pod("near")?, lab.pod("far")?);
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let ways = [(&x, &near), (&x, &far), (&far, &x), (&a, &far), (&x, &b)];
    let udp: Vec<_> = ways.iter().map(|(from, to)| UdpStreamProbe::start(from, to, RATE)).collect::<Result<_>>()?;
    let tcp = [TcpStreamProbe::start(&x, &far)?, TcpStreamProbe::start(&far, &near)?];
    sleep(Duration::from_millis(100));
    let done = something();
    sleep(Duration::from_millis(100));
    let udp: Vec<_> = udp.into_iter().map(UdpStreamProbe::stop_perfect).collect();
    let tcp: Vec<_> = tcp.into_iter().map(TcpStreamProbe::stop).collect();
    done?;
    for report in udp {
        ensure!(report?.received > 0);
    }
    for report in tcp {
        ensure!(report?.bytes > 0);
    }
    Ok(())
}

#[test]
fn an_agent_that_is_told_to_stop() {
    two_nodes("stop").test(|lab| {
        not_one_packet_is_lost_while(lab, || {
            lab.stop_agent("a", Signal::SIGTERM)?;
            sleep(Duration::from_millis(300));
            // What begins now goes as well as what has begun before.
            lab.everything_reaches_everything()?;
            lab.start_agent("a", &find_binary()?)?;
            lab.wait_ready(READY)
        })
    });
}

#[test]
fn an_agent_that_is_killed() {
    two_nodes("kill").test(|lab| {
        not_one_packet_is_lost_while(lab, || {
            lab.stop_agent("b", Signal::SIGKILL)?;
            sleep(Duration::from_millis(300));
            lab.everything_reaches_everything()?;
            lab.start_agent("b", &find_binary()?)?;
            lab.wait_ready(READY)
        })
    });
}

#[test]
fn all_agents_at_once_again_and_again() {
    two_nodes("storm").test(|lab| {
        not_one_packet_is_lost_while(lab, || {
            for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
                ["a", "b"].into_iter().try_for_each(|node| lab.stop_agent(node, signal))?;
                lab.start_agents()?;
                lab.wait_ready(READY)?;
            }
            Ok(())
        })
    });
}

#[test]
fn an_agent_that_is_killed_while_it_starts() {
    two_nodes("hasty").test(|lab| {
        not_one_packet_is_lost_while(lab, || {
            for milliseconds in [1, 5, 20, 50, 100, 200] {
                lab.stop_agent("a", Signal::SIGKILL)?;
                lab.start_agent("a", &find_binary()?)?;
                sleep(Duration::from_millis(milliseconds));
            }
            lab.wait_ready(READY)
        })
    });
}

/// The ids of a node's loaded programs.
fn programs(lab: &Lab, node: &str) -> Result<Vec<u64>> {
    let status = lab.margay_json(node, "status")?;
    let programs = status["programs"].as_array().context("status lists the programs")?;
    Ok(programs.iter().filter_map(|p| p["id"].as_u64()).collect())
}

#[test]
fn an_agent_that_is_replaced_by_another_build() {
    two_nodes("replace").test(|lab| {
        let before = programs(lab, "a")?;
        let other = AnotherBuild::make("replace")?;
        not_one_packet_is_lost_while(lab, || {
            for _ in 0..3 {
                lab.restart_agent("a", Some(&other.path))?;
                lab.wait_node_ready("a", READY)?;
            }
            Ok(())
        })?;
        let after = programs(lab, "a")?;
        ensure!(!before.is_empty() && after.len() == before.len(), "{before:?} became {after:?}");
        ensure!(before.iter().all(|id| !after.contains(id)), "the programs are still the old ones");
        lab.everything_reaches_everything()
    });
}

/// A copy of the binary elsewhere, which is another program as far as the kernel and the lab are concerned.
struct AnotherBuild {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

// === impl AnotherBuild ===

impl AnotherBuild {
    fn make(name: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix(name).tempdir()?;
        let path = dir.path().join("margay");
        std::fs::copy(find_binary()?, &path).with_context(|| format!("copying margay to {}", path.display()))?;
        Ok(Self { path, _dir: dir })
    }
}

#[test]
fn a_second_agent_on_a_node_gives_up_and_says_why() {
    Lab::builder("second").node("a").pod("x").on("a").test(|lab| {
        let mut arguments: Vec<_> = ["agent", "--node-name", "a", "--manifests"].map(Into::into).to_vec();
        arguments.push(lab.manifests().to_path_buf().into_os_string());
        let output = lab.margay("a", arguments)?;
        let said = margay_lab::agent::text_of(&output);
        ensure!(output.status.code() == Some(1) && said.contains("agent"), "{:?}: {said}", output.status);
        lab.everything_reaches_everything()
    });
}

#[test]
fn exit_codes_say_how_the_agent_is() {
    Lab::builder("exit_codes").node("a").pod("x").on("a").test(|lab| {
        let code = |lab: &Lab| -> Result<_> { Ok(lab.margay("a", ["status"])?.status.code()) };
        ensure!(code(lab)? == Some(0));
        std::fs::write(lab.manifests().join("bad.yaml"), "kind: [")?;
        lab.complaint_about("a", "bad.yaml")?;
        ensure!(code(lab)? == Some(3));
        lab.stop_agent("a", Signal::SIGTERM)?;
        ensure!(code(lab)? == Some(4));
        let status = lab.margay_json("a", "status")?;
        ensure!(status["running"] == false && status["node"] == "a", "{status}");
        probe::ping(&lab.node("a")?.namespace, lab.pod("x")?.address)?;
        Ok(())
    });
}
