//! Margay comes by `kubectl apply -k`, is replaced by a new one, and goes by `kubectl delete -k` and `margay uninstall`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::{
    kubernetes::{ControlPlane, KubeCluster, KubeNode, traces},
    observe::eventually,
};
use margay_test_images::client::ask_all;

use crate::{
    pods::REPLICAS,
    suite::{PATIENCE, Streams, Suite, all_pairs, delete, deployed, kubectl},
};

const ROLLOUT: &str = "--namespace=kube-system rollout status daemonset/margay-agent --timeout=120s";

pub fn both_nodes_become_ready(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    cluster.wait_nodes_ready(PATIENCE)?;
    kubectl(cluster.control_plane(), ROLLOUT)?;
    let controller = "--namespace=kube-system rollout status deployment/margay-controller --timeout=120s";
    kubectl(cluster.control_plane(), controller)?;
    for node in cluster.nodes() {
        let problems = &node.margay_json("status")?["problems"];
        ensure!(problems.as_array().is_some_and(Vec::is_empty), "{}: {problems}", node.name());
    }
    Ok(())
}

/// As Calico's: in an annotation of the Node, on the device, and under a handle of its own.
pub fn nodes_have_tunnel_addresses(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let handles = kubectl(cluster.control_plane(), "get ipamhandles.crd.projectcalico.org --output=name")?;
    for object in cluster.node_objects()? {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let annotations = object.metadata.annotations.unwrap_or_default();
        let annotation = annotations.get("projectcalico.org/IPv4VXLANTunnelAddr");
        let address = annotation.with_context(|| format!("node {name} has no tunnel address: {annotations:?}"))?;
        let device = cluster.node(name)?.output("ip", ["-brief", "-4", "address", "show", "vxlan.calico"])?;
        ensure!(device.contains(&format!(" {address}/32")), "{name}: {address} is not the device's: {device}");
        ensure!(handles.contains(&format!("vxlan-tunnel-addr-{name}")), "{name} has no handle among {handles}");
    }
    Ok(())
}

pub fn agents_answer_on_one_port(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let outside = cluster.outside()?;
    for node in cluster.nodes() {
        let targets = ["healthz", "readyz", "metrics"].map(|path| format!("http://{}:9077/{path}", node.address()));
        let answers = outside.namespace.run(|| Ok(ask_all(&targets, Duration::from_secs(5))))?;
        for (target, answer) in targets.iter().zip(answers) {
            let (text, _) = answer.with_context(|| target.clone())?;
            let expected = if target.ends_with("metrics") { "\nmargay_ready 1\n" } else { "ok" };
            ensure!(text.contains(expected), "{target}: {text}");
        }
    }
    Ok(())
}

pub fn a_rolling_update_loses_no_packet(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let pods = deployed(cluster, "web", REPLICAS)?;
    let agents = |cluster: &KubeCluster| {
        let agent = |node: &KubeNode| Ok(node.agent().with_context(|| format!("{} has no agent", node.name()))?.pid);
        cluster.nodes().iter().map(agent).collect::<Result<Vec<_>>>()
    };
    let before = agents(cluster)?;
    let streams = Streams::start(cluster, &pods)?;
    let updated = update(cluster.control_plane()).and_then(|()| agents(cluster));
    let perfect = streams.stop_perfect();
    let after = updated?;
    ensure!(after.iter().all(|pid| !before.contains(pid)), "not all agents are new: {before:?}, {after:?}");
    perfect?;
    all_pairs(cluster, &pods)?;
    delete(cluster, "web", pods)?;
    suite.is_clean()
}

fn update(control_plane: &ControlPlane) -> Result<()> {
    kubectl(control_plane, "--namespace=kube-system rollout restart daemonset/margay-agent")?;
    kubectl(control_plane, ROLLOUT).map(drop)
}

/// After all that the other checks have done.
pub fn nothing_is_wrong_with_addresses(suite: &mut Suite) -> Result<()> {
    let control_plane = suite.cluster()?.control_plane();
    let found = kubectl(control_plane, "--namespace=kube-system exec daemonset/margay-agent -- /margay ipam check")?;
    ensure!(found.trim() == "nothing is wrong", "margay ipam check: {found}");
    // The controller has described the cluster, which calicoctl asks for first.
    let output = control_plane.calicoctl(&["ipam", "check", "--show-problem-ips"])?.output()?;
    let found = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && found.contains("found 0 problems"), "calicoctl ipam check: {output:?}");
    Ok(())
}

/// Nobody wanted what his role forbids. To be asked before an API server is started again, which at first forbids everything.
pub fn roles_are_enough(suite: &mut Suite) -> Result<()> {
    let control_plane = suite.cluster()?.control_plane();
    let of_margay = "--selector=app.kubernetes.io/name=margay --tail=-1 --all-containers --prefix";
    let logs = kubectl(control_plane, &format!("--namespace=kube-system logs {of_margay}"))?;
    ensure!(logs.contains("agent started"), "these are not the agents' logs: {logs}");
    let forbidden: Vec<_> = logs.lines().filter(|line| line.contains("forbidden")).collect();
    ensure!(forbidden.is_empty(), "{}", forbidden.join("\n"));
    Ok(())
}

pub fn deleted_and_uninstalled_it_leaves_nothing(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let control_plane = cluster.control_plane();
    let overlay = control_plane.dir().path().join("overlay");
    kubectl(control_plane, &format!("delete --kustomize={} --timeout=120s", overlay.display()))?;
    for node in cluster.nodes() {
        eventually(&format!("the agent of {} is gone", node.name()), PATIENCE, || {
            ensure!(node.agent().is_none(), "it runs");
            Ok(())
        })?;
        let uninstall = ["uninstall", "--bin-dir=/opt/cni/bin", "--conf-dir=/etc/cni/net.d"];
        let removed = node.output("/opt/cni/bin/margay", uninstall)?;
        println!("  {}: {}", node.name(), removed.lines().collect::<Vec<_>>().join("; "));
        let left = left_on(node)?;
        ensure!(left.is_empty(), "left on {}:\n{left}", node.name());
    }
    let kinds = "customresourcedefinitions,clusterroles,clusterrolebindings";
    let names = kubectl(control_plane, &format!("get {kinds} --output=name"))?;
    let of_kube_system = "--namespace=kube-system get all,configmaps,serviceaccounts,roles,rolebindings --output=name";
    let names = names + &kubectl(control_plane, of_kube_system)?;
    let left: Vec<_> = names.lines().filter(|n| n.contains("margay") || n.contains("projectcalico")).collect();
    ensure!(left.is_empty(), "left in the API: {}", left.join(", "));
    Ok(())
}

/// Everything of Margay's on a node, a line each.
fn left_on(node: &KubeNode) -> Result<String> {
    let lists = "\
        ls -d /sys/fs/bpf/margay /run/margay /opt/cni/bin/margay /etc/cni/net.d/*margay*
        ip -brief link | grep -e '^cali' -e '^vxlan.calico'
        ip -4 route show table all proto 77
        nft list tables | grep margay
        ip -json link show | grep -q clsact && tc qdisc show | grep clsact
        bpftool -json net show | grep -o '\"name\":\"[a-z]*_\\(workload\\|uplink\\|overlay\\)\"'
        true";
    let found = node.output("sh", ["-c", &format!("{{ {lists}; }} 2>/dev/null")])?;
    let forwarding = node.output("cat", ["/proc/sys/net/ipv4/ip_forward"])?;
    // The lab has switched it on before Margay came.
    ensure!(forwarding.trim() == "1", "ip_forward of {} was 1 before, and is {forwarding}", node.name());
    Ok(found)
}

pub fn the_cluster_leaves_nothing(suite: &mut Suite) -> Result<()> {
    match suite.down() {
        Some((name, settings)) => traces::nothing_of(&name, &settings),
        // It is somebody else's, and stays.
        None => Ok(()),
    }
}
