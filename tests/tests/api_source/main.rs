//! The Kubernetes API as a source, against a real API server: what is there is seen at once, and nothing that happens to the
//! server or to the way there loses an object or invents one.

mod cluster;
mod line;
mod notices;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use margay_lab::kubernetes::{ControlPlane, control_plane::READY};
use tokio::task::block_in_place;

use self::cluster::{Cluster, KindName, patience};
use self::line::Line;

/// Far longer than anything here takes, pauses between tries included.
const LONG: Duration = Duration::from_secs(90);

/// The fixture waits, and these tests run within a runtime that must not.
fn start(name: &str) -> Result<ControlPlane> {
    block_in_place(|| ControlPlane::start(name))
}

fn restart_api_server(control_plane: &ControlPlane) -> Result<()> {
    control_plane.start_api_server()?;
    block_in_place(|| control_plane.wait_ready(READY))
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_appear_change_and_disappear_within_milliseconds() -> Result<()> {
    let control_plane = start("api_source_news")?;
    let mut cluster = Cluster::of(&control_plane, patience()).await?;
    cluster.until("an empty cluster, without custom resources", LONG, |seen| seen.known).await?;
    let mut took = Vec::new();
    for i in 0..20 {
        let (node, pod) = (format!("n{i}"), format!("p{i}"));
        cluster.create_node(&node, "192.0.2.1").await?;
        took.push(cluster.until("the node", LONG, |seen| seen.nodes.contains_key(&node)).await?);
        cluster.create_pod(&pod, &node).await?;
        took.push(cluster.until("the pod", LONG, |seen| seen.pods.contains_key(&pod)).await?);
        cluster.set_pod_ip(&pod, "10.0.0.7").await?;
        took.push(
            cluster.until("its address", LONG, |seen| seen.pods.get(&pod).is_some_and(|ip| ip == "10.0.0.7")).await?,
        );
        if i % 2 == 0 {
            cluster.delete(KindName::Pod, &pod).await?;
        } else {
            cluster.finish_pod(&pod).await?;
        }
        took.push(cluster.until("the pod's end", LONG, |seen| !seen.pods.contains_key(&pod)).await?);
        cluster.delete(KindName::Node, &node).await?;
        took.push(cluster.until("the node's end", LONG, |seen| !seen.nodes.contains_key(&node)).await?);
    }
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    println!("from the API's answer to the source: median {median:?}, worst {worst:?} of {}", took.len());
    ensure!(median < Duration::from_millis(20), "median {median:?}");

    cluster.define_kinds().await?;
    cluster.create_block("n-10-0-0-0-26", "10.0.0.0/26", "n").await?;
    let took =
        cluster.until("a kind that was defined later", LONG, |seen| seen.blocks.contains_key("n-10-0-0-0-26")).await?;
    println!("a kind that was defined later: {took:?}");
    cluster.delete(KindName::Block, "n-10-0-0-0-26").await?;
    cluster.until("the block's end", LONG, |seen| seen.blocks.is_empty()).await?;
    ensure!(cluster.problems().is_empty(), "{:?}", cluster.problems());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_started_again_loses_nothing() -> Result<()> {
    let control_plane = start("api_source_restart")?;
    let mut cluster = Cluster::of(&control_plane, patience()).await?;
    cluster.define_kinds().await?;
    cluster.create_node("a", "192.0.2.1").await?;
    cluster.create_block("a-10-0-0-0-26", "10.0.0.0/26", "a").await?;
    cluster.until("both", LONG, |seen| seen.nodes.len() == 1 && seen.blocks.len() == 1).await?;

    control_plane.api_server().kill()?;
    cluster.until("a word about it", LONG, |seen| seen.said("refused") && seen.said("stays in force")).await?;
    ensure!(cluster.seen().nodes.len() == 1 && cluster.seen().blocks.len() == 1, "the last state stays in force");

    restart_api_server(&control_plane)?;
    cluster.create_node("b", "192.0.2.2").await?;
    cluster.delete(KindName::Block, "a-10-0-0-0-26").await?;
    let took = cluster.until("what came after", LONG, |seen| seen.nodes.len() == 2 && seen.blocks.is_empty()).await?;
    println!("in sync {took:?} after the change that followed the restart");
    cluster.until("no more words", LONG, |seen| seen.problems.is_empty()).await?;
    let asked = cluster.requests_for("nodes").await?;
    println!("requests for nodes since the restart: {asked}");
    ensure!(asked <= 10, "{asked} requests for nodes of one client");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_noticed_and_told_of_and_believed_again_when_it_thaws() -> Result<()> {
    let control_plane = start("api_source_frozen")?;
    let mut cluster = Cluster::of(&control_plane, patience()).await?;
    cluster.create_node("a", "192.0.2.1").await?;
    cluster.until("the node", LONG, |seen| seen.nodes.len() == 1).await?;
    control_plane.freeze()?;
    let took = cluster.until("a word about it", LONG, |seen| seen.said("no answer within")).await?;
    println!("noticed after {took:?}, with {:?}", patience());
    ensure!(cluster.seen().nodes.len() == 1);
    control_plane.thaw()?;
    cluster.create_node("b", "192.0.2.2").await?;
    let took = cluster.until("what came after", LONG, |seen| seen.nodes.len() == 2 && seen.problems.is_empty()).await?;
    println!("in sync {took:?} after the change that followed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_the_line_was_cut_is_seen_when_it_is_back_even_from_a_server_that_forgot_it() -> Result<()>
{
    let control_plane = start("api_source_cut")?;
    let line = Line::to(control_plane.settings().port).await?;
    let mut cluster = Cluster::by(&control_plane, Some(line.address()), patience()).await?;
    cluster.create_node("stays", "192.0.2.1").await?;
    cluster.create_node("goes", "192.0.2.2").await?;
    cluster.until("both", LONG, |seen| seen.nodes.len() == 2).await?;

    line.cut();
    cluster.delete(KindName::Node, "goes").await?;
    cluster.create_node("comes", "192.0.2.3").await?;
    // A new process: its memory of changes begins with its start.
    control_plane.api_server().kill()?;
    restart_api_server(&control_plane)?;
    cluster.create_node("comes-later", "192.0.2.4").await?;
    cluster.until("a word about it", LONG, |seen| !seen.problems.is_empty()).await?;
    ensure!(cluster.seen().nodes.keys().eq(["goes", "stays"]), "{:?}", cluster.seen());
    line.mend();
    let took = cluster.until("all of it", LONG, |seen| seen.nodes.keys().eq(["comes", "comes-later", "stays"])).await?;
    println!("in sync {took:?} after the line was mended");

    // And once more, with a line that takes everything and delivers nothing.
    line.stall();
    cluster.delete(KindName::Node, "comes").await?;
    cluster.until("a word about it", LONG, |seen| !seen.problems.is_empty()).await?;
    line.mend();
    cluster.until("all of it", LONG, |seen| seen.nodes.keys().eq(["comes-later", "stays"])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_database_was_set_back_is_believed() -> Result<()> {
    let control_plane = start("api_source_set_back")?;
    let mut cluster = Cluster::of(&control_plane, patience()).await?;
    for i in 0..300 {
        // The new database is to be behind the old one for a while.
        cluster.create_node(&format!("n{i}"), "192.0.2.1").await?;
    }
    cluster.until("all nodes", LONG, |seen| seen.nodes.len() == 300).await?;
    control_plane.api_server().kill()?;
    control_plane.etcd().kill()?;
    std::fs::remove_dir_all(control_plane.dir().etcd().join("data")).context("removing etcd's data")?;
    control_plane.start_etcd()?;
    restart_api_server(&control_plane)?;
    cluster.create_node("only", "192.0.2.9").await?;
    let took = cluster.until("the world as it is now", LONG, |seen| seen.nodes.keys().eq(["only"])).await?;
    println!("believed after {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_stream_lists_or_have_no_watch_cache_do_too() -> Result<()> {
    for flag in ["--feature-gates=WatchList=false", "--watch-cache=false"] {
        let control_plane = block_in_place(|| ControlPlane::builder("api_source_old").api_server_flag(flag).start())?;
        let mut cluster = Cluster::of(&control_plane, patience()).await?;
        cluster.define_kinds().await?;
        cluster.create_node("a", "192.0.2.1").await?;
        cluster.until("the node", LONG, |seen| seen.nodes.len() == 1).await?;
        cluster.delete(KindName::Node, "a").await?;
        cluster.until("its end", LONG, |seen| seen.nodes.is_empty()).await?;
        cluster.create_node("b", "192.0.2.1").await?;
        control_plane.api_server().kill()?;
        cluster.until("a word about it", LONG, |seen| !seen.problems.is_empty()).await?;
        restart_api_server(&control_plane)?;
        cluster.delete(KindName::Node, "b").await?;
        cluster.until("its end", LONG, |seen| seen.nodes.is_empty() && seen.problems.is_empty()).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_permission_nothing_is_known_until_it_is_given() -> Result<()> {
    let control_plane = block_in_place(ControlPlane::shared)?;
    let kubeconfig = control_plane.kubeconfig_for("margay", None)?;
    let mut cluster = Cluster::with(&control_plane, &kubeconfig, None, patience()).await?;
    cluster.until("a word about it", LONG, |seen| seen.said("is forbidden: User \"margay\"")).await?;
    ensure!(!cluster.seen().known, "nothing is known");
    let core = "nodes,pods,namespaces,services";
    let groups = "networkpolicies.networking.k8s.io,endpointslices.discovery.k8s.io";
    let calico = "blockaffinities.crd.projectcalico.org,ippools.crd.projectcalico.org";
    let rule = format!("--resource={core},{groups},{calico}");
    cluster.define_kinds().await?;
    control_plane.kubectl_output(["create", "clusterrole", "margay", "--verb=list,watch", &rule])?;
    control_plane.kubectl_output([
        "create",
        "clusterrolebinding",
        "margay",
        "--clusterrole=margay",
        "--user=margay",
    ])?;
    cluster.until("permission", LONG, |seen| seen.known && seen.problems.is_empty()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_agent_begins_where_the_last_one_stopped() -> Result<()> {
    let control_plane = start("api_source_next")?;
    let mut cluster = Cluster::of(&control_plane, patience()).await?;
    cluster.create_node("a", "192.0.2.1").await?;
    cluster.until("the node", LONG, |seen| seen.nodes.len() == 1).await?;
    control_plane.api_server().kill()?;
    cluster.restart_source()?;
    ensure!(cluster.seen().nodes.len() == 1, "at once, and without a server");
    cluster.until("a word about it", LONG, |seen| seen.said("the state of 20")).await?;
    restart_api_server(&control_plane)?;
    let began = Instant::now();
    cluster.until("agreement", LONG, |seen| seen.problems.is_empty()).await?;
    println!("agreed {:?} after the server was ready", began.elapsed());
    Ok(())
}
