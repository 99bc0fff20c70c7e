//! What is killed in the middle: while pods talk, while they come, and while they go. Nothing of that is to be seen
//! afterwards. Where ADD fails, and the DEL after it fails too, containerd does not ask again (its sandbox_run.go); then it
//! is the controller that takes the addresses back.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use margay_lab::{
    kubernetes::{KubeCluster, KubeNode, Service, control_plane::READY},
    observe::eventually,
};
use nix::sys::signal::Signal;

use crate::{
    pods::REPLICAS,
    suite::{PATIENCE, Streams, Suite, all_pairs, apply, delete, deployed, deployment, ready},
};

/// How long whatever was killed stays dead: long enough for pods to come or go without it.
const DEAD: Duration = Duration::from_secs(2);
/// After that so many pods are on their way, and not there yet.
const MIDDLE: Duration = Duration::from_millis(700);

pub fn a_killed_agent_changes_nothing(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let pods = deployed(cluster, "web", REPLICAS)?;
    let streams = Streams::start(cluster, &pods)?;
    for node in cluster.nodes() {
        kill_agent(node)?;
    }
    all_pairs(cluster, &pods).context("without agents")?;
    wait_for_agents(cluster)?;
    all_pairs(cluster, &pods).context("with new agents")?;
    streams.stop_perfect()?;
    delete(cluster, "web", pods)?;
    sleep(MIDDLE);
    cluster.nodes().iter().try_for_each(kill_agent)?;
    suite.is_clean().context("the agents were killed while pods went")?;

    let cluster = suite.cluster()?;
    apply(cluster.control_plane(), "web", &[deployment("web", REPLICAS)])?;
    sleep(MIDDLE);
    cluster.nodes().iter().try_for_each(kill_agent)?;
    let pods = ready(cluster, "web", REPLICAS)?;
    all_pairs(cluster, &pods).context("the agents were killed while pods came")?;
    delete(cluster, "web", pods)?;
    suite.is_clean()
}

pub fn a_killed_api_server_changes_nothing(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    apply(cluster.control_plane(), "web", &[deployment("web", REPLICAS)])?;
    sleep(MIDDLE);
    without_api_server(cluster, |_| stay_dead())?;
    let pods = ready(cluster, "web", REPLICAS)?;
    all_pairs(cluster, &pods).context("the API server was killed while pods came")?;

    let streams = Streams::start(cluster, &pods)?;
    without_api_server(cluster, |cluster| {
        all_pairs(cluster, &pods).context("without API server")?;
        // The new one has nobody to ask, and knows what the old one knew.
        let node = &cluster.nodes()[0];
        kill_agent(node)?;
        eventually("an agent starts without an API server", PATIENCE, || {
            ensure!(node.agent().is_some() && node.margay_json("status")?["ready"] == true, "it is not ready");
            Ok(())
        })?;
        all_pairs(cluster, &pods).context("with an agent that has never seen the API server")
    })?;
    all_pairs(cluster, &pods).context("with a new API server")?;
    streams.stop_perfect()?;

    delete(cluster, "web", pods)?;
    sleep(MIDDLE);
    without_api_server(cluster, |_| stay_dead())?;
    suite.is_clean().context("the API server was killed while pods went")
}

pub fn a_killed_kubelet_changes_nothing(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let node = cluster.node("node-2")?;
    apply(cluster.control_plane(), "web", &[deployment("web", REPLICAS)])?;
    sleep(MIDDLE);
    without_kubelet(node, stay_dead)?;
    let pods = ready(cluster, "web", REPLICAS)?;
    all_pairs(cluster, &pods).context("a kubelet was killed while pods came")?;
    let streams = Streams::start(cluster, &pods)?;
    without_kubelet(node, || all_pairs(cluster, &pods).context("without a kubelet"))?;
    streams.stop_perfect()?;
    delete(cluster, "web", pods)?;
    sleep(MIDDLE);
    without_kubelet(node, stay_dead)?;
    suite.is_clean().context("a kubelet was killed while pods went")
}

fn stay_dead() -> Result<()> {
    sleep(DEAD);
    Ok(())
}

fn kill_agent(node: &KubeNode) -> Result<()> {
    // The kubelet may be about to start it.
    let agent = eventually("the node has an agent", PATIENCE, || node.agent().context("none"))?;
    agent.signal(Signal::SIGKILL)?;
    ensure!(agent.wait(PATIENCE), "the agent of {} does not end", node.name());
    Ok(())
}

/// Until kubelets have started agents again and these are ready.
fn wait_for_agents(cluster: &KubeCluster) -> Result<()> {
    for node in cluster.nodes() {
        eventually(&format!("the agent of {} is ready again", node.name()), PATIENCE, || {
            let agent = node.agent().context("it has none")?;
            let status = node.margay_json("status")?;
            ensure!(status["ready"] == true && agent.runs(), "{status}");
            Ok(())
        })?;
    }
    Ok(())
}

fn without_api_server(cluster: &KubeCluster, body: impl FnOnce(&KubeCluster) -> Result<()>) -> Result<()> {
    let control_plane = cluster.control_plane();
    control_plane.api_server().kill()?;
    let done = body(cluster);
    control_plane.start_api_server()?;
    control_plane.wait_ready(READY)?;
    done
}

fn without_kubelet(node: &KubeNode, body: impl FnOnce() -> Result<()>) -> Result<()> {
    node.stop_service(Service::Kubelet, Signal::SIGKILL)?;
    let done = body();
    node.start_service(Service::Kubelet)?;
    done
}
