//! Pods as users have them: a Deployment on both nodes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use margay_lab::{kubernetes::images, observe::eventually, probe};
use serde_json::json;

use crate::suite::{PATIENCE, Suite, all_pairs, apply, delete, deployed, kubectl, pod_on};

/// How many pods the deployment has.
pub const REPLICAS: usize = 20;

pub fn twenty_pods_reach_each_other(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let pods = deployed(cluster, "web", REPLICAS)?;
    all_pairs(cluster, &pods)?;
    let mut blocks: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for pod in &pods {
        blocks.entry(pod.address.octets().map(|o| o)[..3].to_vec()).or_default().push(&pod.node);
    }
    ensure!(pods.iter().all(|pod| pod.address.octets()[..2] == [10, 244]), "{blocks:?}");
    Ok(())
}

pub fn exec_and_logs_work(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let pods = deployed(cluster, "web", REPLICAS)?;
    let control_plane = cluster.control_plane();
    for node in cluster.nodes() {
        let pod = pod_on(&pods, node.name())?;
        let name = pod.name.split_once('/').map_or(pod.name.as_str(), |(_, name)| name);
        let other = pods.iter().find(|other| other.node != pod.node).context("no pod elsewhere")?;
        let answer =
            kubectl(control_plane, &format!("exec {name} -- /server reach http://{}:8080/hello", other.address))?;
        ensure!(answer.contains(&format!(" {} /hello", pod.address)), "the server saw another client: {answer}");
        let logs = kubectl(control_plane, &format!("logs {name}"))?;
        ensure!(logs.contains("serving HTTP"), "{logs}");
    }
    Ok(())
}

/// Probes of every kind: those that succeed make a pod Ready, those that fail keep it from that, or restart it.
pub fn probes_work(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let control_plane = cluster.control_plane();
    let http =
        |path: &str| json!({ "httpGet": { "path": path, "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1 });
    let tcp = json!({ "tcpSocket": { "port": 7000 }, "periodSeconds": 1 });
    let exec = json!({ "exec": { "command": ["/server", "reach", "tcp://127.0.0.1:7000"] }, "periodSeconds": 1 });
    let pod = |name: &str, probes: serde_json::Value| {
        let mut container = json!({ "name": "server", "image": images::SERVER });
        if let (Some(container), Some(probes)) = (container.as_object_mut(), probes.as_object()) {
            container.extend(probes.clone());
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "default", "labels": { "app": "probes" } },
            "spec": { "terminationGracePeriodSeconds": 1, "containers": [container] },
        })
    };
    let pods = [
        pod("probed", json!({ "startupProbe": exec, "livenessProbe": tcp, "readinessProbe": http("/") })),
        pod("unready", json!({ "readinessProbe": http("/status/503") })),
        pod("dying", json!({ "livenessProbe": http("/status/500") })),
    ];
    apply(control_plane, "probes", &pods)?;
    kubectl(control_plane, "wait pod/probed --for=condition=Ready --timeout=60s")?;
    eventually("the pod is started again whose liveness probe fails", PATIENCE, || {
        let restarts =
            kubectl(control_plane, "get pod dying --output=jsonpath={.status.containerStatuses[0].restartCount}")?;
        ensure!(!matches!(restarts.as_str(), "" | "0"), "it was started {restarts:?} times");
        Ok(())
    })?;
    let status = r#"get pod unready --output=jsonpath={.status.phase}_{.status.conditions[?(@.type=="Ready")].status}"#;
    let status = kubectl(control_plane, status)?;
    ensure!(status == "Running_False", "the pod whose readiness probe fails is {status}");
    kubectl(control_plane, "delete pod --selector=app=probes --wait=false").map(drop)
}

/// natOutgoing: nothing outside knows the way to pods, and needs none.
pub fn the_world_sees_the_nodes_address(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let pods = deployed(cluster, "web", REPLICAS)?;
    let outside = cluster.outside()?;
    for node in cluster.nodes() {
        let pod = pod_on(&pods, node.name())?;
        for seen in [probe::tcp_exchange(pod, &outside, 8_000)?, probe::udp_echo(pod, &outside, 64)?] {
            ensure!(seen == node.address(), "{pod} was seen as {seen}, its node is {}", node.address());
        }
    }
    Ok(())
}

pub fn deleted_they_leave_nothing(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let pods = deployed(cluster, "web", REPLICAS)?;
    delete(cluster, "web", pods)?;
    suite.is_clean()
}
