//! A whole Kubernetes, with the reference plugins as its network: what suites for Margay on a real cluster rely on.
//!
//! `cargo xtask lab up --kubernetes --cni bridge` is the same by hand. `cargo xtask test --kubernetes` runs this; otherwise
//! it is ignored, because the programs of a whole cluster take ten minutes to build, once.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use margay_lab::kubernetes::{Cni, KubeCluster, Service, images, traces};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const NAME: &str = "kubernetes_cluster";
const READY: &str = "--timeout=120s";

/// Four pods with a server, probed by the kubelets.
fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "replicas": 4, "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "server", "image": images::SERVER,
                        "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
                    }],
                },
            },
        },
    })
}

/// Names of the pods that run, with their addresses.
fn pods(cluster: &KubeCluster) -> Result<BTreeMap<String, String>> {
    let format = r#"--output=jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{"\n"}{end}"#;
    let text = cluster.control_plane().kubectl_output([
        "get",
        "pods",
        "--selector=app=web",
        "--field-selector=status.phase=Running",
        format,
    ])?;
    Ok(text.lines().filter_map(|line| line.split_once(' ')).map(|(name, ip)| (name.into(), ip.into())).collect())
}

/// Each pod asks each other by HTTP, TCP and UDP.
fn all_pairs(cluster: &KubeCluster) -> Result<()> {
    let pods = pods(cluster)?;
    ensure!(pods.len() == 4, "{pods:?}");
    let targets = |ip: &String| [format!("http://{ip}:8080/x"), format!("tcp://{ip}:7000"), format!("udp://{ip}:7000")];
    let targets: Vec<String> = pods.values().flat_map(targets).collect();
    for pod in pods.keys() {
        let reach = ["exec", pod, "--", "/server", "reach"].map(String::from).into_iter().chain(targets.clone());
        let answers = cluster.control_plane().kubectl_output(reach)?;
        ensure!(answers.lines().count() == targets.len(), "{answers}");
        ensure!(answers.contains(&format!(" {} /x", pods[pod])), "no server saw {pod}'s own address:\n{answers}");
    }
    Ok(())
}

/// Tries again until it works; the last error after a minute and a half.
fn eventually<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(500)),
            done => return done,
        }
    }
}

#[test]
#[ignore = "needs a whole Kubernetes: `cargo xtask test --kubernetes`"]
fn pods_run_and_talk_and_survive_what_happens_to_nodes() -> Result<()> {
    let before = traces::settings();
    let began = Instant::now();
    let cluster = KubeCluster::builder(NAME).cni(Cni::Bridge).kube_proxy(true).start()?;
    println!("nodes Ready after {:.1} s", began.elapsed().as_secs_f64());
    let control_plane = cluster.control_plane();
    let manifest = control_plane.dir().path().join("web.json");
    fs::write(&manifest, deployment().to_string())?;
    let began = Instant::now();
    control_plane.apply(&manifest)?;
    control_plane.kubectl_output(["rollout", "status", "deployment/web", READY])?;
    println!("four pods after {:.1} s", began.elapsed().as_secs_f64());
    all_pairs(&cluster)?;
    let logs = control_plane.kubectl_output(["logs", "deployment/web"])?;
    ensure!(logs.contains("serving HTTP"), "{logs}");
    control_plane.kubectl_output(["expose", "deployment/web", "--port=80", "--target-port=8080"])?;
    let address = control_plane.kubectl_output(["get", "service/web", "--output=jsonpath={.spec.clusterIP}"])?;
    let service = format!("http://{address}/service");
    eventually(|| control_plane.kubectl_output(["exec", "deployment/web", "--", "/server", "reach", &service]))?;

    // A kubelet that is gone for a while changes nothing for its pods.
    let node = cluster.node("node-2")?;
    node.stop_service(Service::Kubelet, Signal::SIGKILL)?;
    ensure!(node.process(Service::Kubelet).is_none());
    let targets = pods(&cluster)?.into_values().map(|ip| format!("tcp://{ip}:7000"));
    let on_node_1 = ["get", "pods", "--output=name", "--selector=app=web", "--field-selector=spec.nodeName=node-1"];
    let on_node_1 = control_plane.kubectl_output(on_node_1)?;
    let first = on_node_1.lines().next().context("no pod is on node-1")?;
    let reach = ["exec", first, "--", "/server", "reach"].map(String::from).into_iter().chain(targets);
    control_plane.kubectl_output(reach)?;
    node.start_service(Service::Kubelet)?;
    eventually(|| all_pairs(&cluster)).context("a kubelet was killed and started again")?;

    // The power fails on a node, and comes back.
    node.crash()?;
    ensure!(node.command("true").is_err(), "a node without power runs nothing");
    let began = Instant::now();
    node.boot()?;
    eventually(|| all_pairs(&cluster)).context("the power of a node has failed")?;
    println!("all pods again {:.1} s after a power failure", began.elapsed().as_secs_f64());

    let began = Instant::now();
    drop(cluster);
    println!("down after {:.1} s", began.elapsed().as_secs_f64());
    traces::nothing_of(&NAME.parse()?, &before)
}
