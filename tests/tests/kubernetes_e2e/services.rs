//! Services: ClusterIPs for pods, which Margay translates itself; what it leaves to kube-proxy; and host ports, which are the plugin
//! `portmap`'s. The lab's kube-proxy masquerades what it must, and no more: an answer that goes past the host's stack would
//! not be translated back.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use margay_lab::{
    Place,
    kubernetes::{KubeCluster, ProxyMode, Service, images},
    observe::eventually,
};
use margay_test_images::client::ask_all;
use serde_json::json;

use crate::{
    pods::REPLICAS,
    suite::{PATIENCE, Suite, apply, delete, deployed, kubectl, pod_on},
};

/// So often each way is tried, so that every pod is likely to be chosen.
const TRIES: usize = 40;
/// The Service's port on each node.
const NODE_PORT: u16 = 30_080;
/// The port on each node of the Service that leads to pods of that node alone, and hides nobody's address.
const LOCAL_PORT: u16 = 30_081;
/// The port that a pod has on its node.
const HOST_PORT: u16 = 18_080;
/// The DNS server in the images of these tests, at the address that kubelets tell to pods.
const DNS: &str = "10.96.0.10";

/// The API server's Service, as the API server makes it.
const API_SERVER: &str = "10.96.0.1:443";

pub fn pods_reach_them_without_a_kube_proxy(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let with_proxy = cluster.nodes().iter().find(|node| node.process(Service::KubeProxy).is_some());
    ensure!(with_proxy.is_none(), "a kube-proxy runs: who translates?");
    let (pods, address) = service(cluster)?;
    let targets = [format!("http://{address}/x"), format!("tcp://{address}:7000"), format!("udp://{address}:7000")];
    let api_server: SocketAddr = API_SERVER.parse()?;
    for node in cluster.nodes() {
        let pod = pod_on(&pods, node.name())?;
        eventually(&format!("a pod of {} reaches the Service", node.name()), PATIENCE, || works(pod, &targets))?;
        // Its backend is outside of the cluster: translated by us, masqueraded by the host's stack.
        let connect = || Ok(TcpStream::connect_timeout(&api_server, Duration::from_secs(3))?);
        pod.namespace.run(connect).with_context(|| format!("{pod} connects to the API server's Service"))?;
    }
    choose_among_many(&pods[0], &targets[0])?;
    stop(cluster, "web", pods)?;
    suite.is_clean()
}

/// Whether connections are spread over the pods.
fn choose_among_many(from: &Place, target: &str) -> Result<()> {
    let asked: Vec<String> = (0..TRIES).map(|_| target.to_owned()).collect();
    let chosen: BTreeSet<String> =
        works(from, &asked)?.iter().filter_map(|a| Some(a.split_once(' ')?.0.into())).collect();
    ensure!(chosen.len() > REPLICAS / 2, "only {chosen:?} were chosen in {TRIES} tries");
    Ok(())
}

pub fn they_work_with_a_kube_proxy(suite: &mut Suite) -> Result<()> {
    work_in(suite, ProxyMode::Nftables)
}

pub fn they_work_with_a_kube_proxy_that_uses_iptables(suite: &mut Suite) -> Result<()> {
    let done = work_in(suite, ProxyMode::Iptables);
    // The checks that follow have the usual one.
    let back = suite.cluster()?.nodes().iter().try_for_each(|node| node.start_kube_proxy(ProxyMode::Nftables));
    done.and(back)
}

fn work_in(suite: &mut Suite, mode: ProxyMode) -> Result<()> {
    let cluster = suite.cluster()?;
    cluster.nodes().iter().try_for_each(|node| node.start_kube_proxy(mode))?;
    let (pods, address) = service(cluster)?;
    // A port that hides nobody's address is asked by those who are no backends: kube-proxy can lead a pod that asks another node to
    // itself, under its own address, which the pod's kernel refuses (nftables mode; only what a node has itself is masqueraded).
    let clients = deployed(cluster, "client", cluster.nodes().len())?;
    let cluster_ip = [format!("http://{address}/x"), format!("tcp://{address}:7000"), format!("udp://{address}:7000")];
    let node_ports = cluster.nodes().iter().map(|node| format!("http://{}:{NODE_PORT}/x", node.address()));
    let node_ports: Vec<String> = node_ports.collect();
    let nodes: Vec<Place> = cluster.nodes().iter().map(|node| node.place()).collect::<Result<_>>()?;
    // Often enough that pods of every node are chosen, where any may be.
    let local_ports = cluster.nodes().iter().cycle().take(8 * cluster.nodes().len());
    let local_ports: Vec<String> =
        local_ports.map(|node| format!("http://{}:{LOCAL_PORT}/x", node.address())).collect();
    let outside = cluster.outside()?;
    for node in &nodes {
        eventually("kube-proxy has heard of the Services", PATIENCE, || {
            works(node, &cluster_ip)?;
            works(&outside, &local_ports)
        })?;
    }
    for node in &nodes {
        let (pod, client) = (pod_on(&pods, &node.name)?, pod_on(&clients, &node.name)?);
        for from in [pod, client, node] {
            works(from, &cluster_ip)?;
            works(from, &node_ports)?;
        }
        for from in [client, node] {
            works(from, &local_ports)?;
        }
    }
    works(&outside, &node_ports)?;
    for answer in works(&outside, &local_ports)? {
        ensure!(answer.ends_with(&format!(" {} /x", outside.address)), "the pod saw another client: {answer}");
    }
    choose_among_many(&nodes[0], &cluster_ip[0])?;
    delete(cluster, "client", clients)?;
    stop(cluster, "web", pods)?;
    suite.is_clean()
}

pub fn names_are_resolved(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let (pods, address) = service(cluster)?;
    let control_plane = cluster.control_plane();
    let server = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "dns", "namespace": "default", "labels": { "app": "dns" } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "server", "image": images::SERVER,
                "args": ["dns", format!("web.default.svc.cluster.local={address}")],
            }],
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "dns", "namespace": "default" },
        "spec": { "clusterIP": DNS, "selector": { "app": "dns" }, "ports": [{ "port": 53, "protocol": "UDP" }] },
    });
    apply(control_plane, "dns", &[server, service])?;
    kubectl(control_plane, "wait pod/dns --for=condition=Ready --timeout=60s")?;
    for node in cluster.nodes() {
        let pod = pod_on(&pods, node.name())?;
        let name = pod.name.trim_start_matches("default/");
        for host in ["web.default.svc.cluster.local", "web"] {
            let ask = format!("exec {name} -- /server reach http://{host}/x");
            eventually(&format!("{host} is resolved on {}", node.name()), PATIENCE, || kubectl(control_plane, &ask))?;
        }
    }
    kubectl(control_plane, "delete pod/dns service/dns --wait=false")?;
    stop(cluster, "web", pods)?;
    suite.is_clean()
}

/// By the reference plugin that is chained after ours, for everybody.
pub fn ports_of_hosts_lead_to_pods(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let node = cluster.node("node-1")?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "hosted", "namespace": "default", "labels": { "app": "hosted" } },
        "spec": {
            "terminationGracePeriodSeconds": 1, "nodeName": node.name(),
            "containers": [{
                "name": "server", "image": images::SERVER, "ports": [{ "containerPort": 8080, "hostPort": HOST_PORT }],
            }],
        },
    });
    apply(cluster.control_plane(), "hosted", &[pod])?;
    kubectl(cluster.control_plane(), "wait pod/hosted --for=condition=Ready --timeout=60s")?;
    let target = [format!("http://{}:{HOST_PORT}/x", node.address())];
    let outside = cluster.outside()?;
    let answer = works(&outside, &target)?;
    ensure!(answer[0].ends_with(&format!(" {} /x", outside.address)), "the pod saw another client: {answer:?}");
    let pods = deployed(cluster, "web", REPLICAS)?;
    for node in cluster.nodes() {
        let pod = pod_on(&pods, node.name())?;
        let answer = works(pod, &target).context("a pod")?;
        ensure!(answer[0].ends_with(&format!(" {} /x", pod.address)), "the pod saw another client: {answer:?}");
        works(&node.place()?, &target).context("a node")?;
    }
    kubectl(cluster.control_plane(), "delete pod/hosted --wait=false")?;
    delete(cluster, "web", pods)?;
    suite.is_clean()
}

/// A deployment, and two Services before it. Returns the pods, and the first Service's address.
fn service(cluster: &KubeCluster) -> Result<(Vec<Place>, String)> {
    let pods = deployed(cluster, "web", REPLICAS)?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "type": "NodePort", "selector": { "app": "web" },
            "ports": [
                { "name": "http", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT },
                { "name": "tcp", "port": 7000 },
                { "name": "udp", "port": 7000, "protocol": "UDP" },
            ],
        },
    });
    let local = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "local", "namespace": "default" },
        "spec": {
            "type": "NodePort", "externalTrafficPolicy": "Local", "selector": { "app": "web" },
            "ports": [{ "port": 80, "targetPort": 8080, "nodePort": LOCAL_PORT }],
        },
    });
    apply(cluster.control_plane(), "service", &[service, local])?;
    let address = kubectl(cluster.control_plane(), "get service/web --output=jsonpath={.spec.clusterIP}")?;
    Ok((pods, address))
}

fn stop(cluster: &KubeCluster, name: &str, pods: Vec<Place>) -> Result<()> {
    kubectl(cluster.control_plane(), &format!("delete service/{name} service/local"))?;
    delete(cluster, name, pods)
}

/// Asks all at once; all must answer.
fn works(from: &Place, targets: &[String]) -> Result<Vec<String>> {
    let answers = from.namespace.run(|| Ok(ask_all(targets, Duration::from_secs(3))))?;
    let answers = targets.iter().zip(answers);
    answers.map(|(to, answer)| Ok(answer.with_context(|| format!("{from} asks {to}"))?.0)).collect()
}
