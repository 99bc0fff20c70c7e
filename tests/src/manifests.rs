//! Kubernetes manifests in and out. In: directories, read as the agent reads them. Out: what is [`Wanted`], and, in a
//! directory of its own, what the lab assigned. Never: a change to the directory that the lab follows.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::Path};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use margay_loader::{
    object::{Objects, PodObject},
    source::{dir::DirSource, snapshot::Snapshot},
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Pod, Wanted, WantedNode, WantedPod},
    names::{PodName, check_node_name, check_pod_name},
    rundir::replace_file,
};

/// What a directory says, and what in it makes no sense.
#[derive(Debug, Default)]
pub struct Read {
    /// What is to stand. What an unreadable file said before still counts.
    pub wanted: Wanted,
    /// Sentences about what was left out.
    pub complaints: Vec<String>,
    /// For the next reading.
    pub snapshot: Snapshot,
}

/// Reads all manifests of a directory, as the agent reads them. `before` is the snapshot of the last reading.
///
/// # Errors
/// The directory cannot be listed. A single file that cannot be read is a complaint.
pub fn read(dir: &Path, before: Option<Snapshot>) -> Result<Read> {
    fs::read_dir(dir).with_context(|| format!("listing the manifests in {}", dir.display()))?;
    let mut source = DirSource::new(vec![dir.to_owned()], before);
    source.read();
    let complaints = source.problems().iter().map(ToString::to_string).collect();
    let mut read = Read { complaints, snapshot: source.snapshot().clone(), ..Default::default() };
    read.add(source.objects().unwrap_or_default());
    Ok(read)
}

// === impl Read ===

impl Read {
    fn add(&mut self, objects: Objects) {
        let Objects { nodes, pods, blocks, pools: _, namespaces: _, policies: _, services: _, slices: _ } = objects;
        for (name, node) in nodes {
            if self.accept(check_node_name(&name)).is_some() {
                let address = node.addresses().iter().find_map(|a| a.parse().ok());
                let blocks = node.pod_cidrs.iter().filter_map(|c| self.block(&format!("Node {name}"), c)).collect();
                self.wanted.nodes.insert(name, WantedNode { address, blocks });
            }
        }
        for (name, block) in blocks.into_iter().filter(|(_, b)| b.confirmed) {
            let cidr = self.block(&format!("BlockAffinity {name}"), &block.cidr);
            if let (Some(cidr), Some(node)) = (cidr, self.wanted.nodes.get_mut(&block.node)) {
                node.blocks.push(cidr);
            }
        }
        for (name, pod) in pods {
            if self.accept(check_pod_name(&name)).is_some()
                && let Some(pod) = wanted_pod(&pod)
            {
                self.wanted.pods.insert(name, pod);
            }
        }
    }

    fn accept<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.complaints.push(format!("{error:#}"))).ok()
    }

    /// An IPv4 prefix; IPv6 is passed over, anything else is a complaint.
    fn block(&mut self, object: &str, text: &str) -> Option<Ipv4Net> {
        match text.parse() {
            Ok(ipnet::IpNet::V4(block)) => Some(block.trunc()),
            Ok(ipnet::IpNet::V6(_)) => None,
            Err(_) => {
                self.complaints.push(format!("{object}: {text:?} is no prefix like 10.244.1.0/24"));
                None
            }
        }
    }
}

/// The pod if it needs a namespace of its own.
fn wanted_pod(pod: &PodObject) -> Option<WantedPod> {
    if pod.host_network || pod.finished() {
        return None;
    }
    let address = pod.addresses().iter().find_map(|a| a.parse().ok());
    Some(WantedPod { node: pod.node.as_ref()?.to_string(), address })
}

/// Writes what the lab assigned into `dir`, and deletes from it what is no longer so.
///
/// # Errors
/// The disk is full, or the directory is gone.
pub fn write_assigned(dir: &Path, cluster: &Cluster) -> Result<()> {
    let nodes =
        cluster.nodes.iter().filter(|(_, n)| n.assigned).map(|(name, n)| (node_file(name), node_status(name, n)));
    let pods = cluster.pods.iter().filter(|(_, p)| p.assigned).map(|(name, p)| (pod_file(name), pod_status(name, p)));
    let files: BTreeMap<_, _> = nodes.chain(pods).collect();
    for entry in fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?.flatten() {
        if !entry.file_name().to_str().is_some_and(|name| files.contains_key(name)) {
            fs::remove_file(entry.path()).with_context(|| format!("deleting {}", entry.path().display()))?;
        }
    }
    for (name, object) in files {
        // An unchanged file stays as it is, so that whoever watches it is not woken.
        let text = yaml(&object)?;
        if fs::read_to_string(dir.join(&name)).ok().as_ref() != Some(&text) {
            replace_file(&dir.join(&name), &text)?;
        }
    }
    Ok(())
}

/// The file of a node's manifest.
pub fn node_file(node: &str) -> String {
    format!("node-{node}.yaml")
}

/// The file of a pod's manifest.
pub fn pod_file(pod: &PodName) -> String {
    format!("pod-{}_{}.yaml", pod.namespace, pod.name)
}

/// Writes one object as YAML.
///
/// # Errors
/// The disk is full, or the directory is gone.
pub fn write_object(dir: &Path, file: &str, object: &Value) -> Result<()> {
    replace_file(&dir.join(file), &yaml(object)?)
}

fn yaml(object: &Value) -> Result<String> {
    serde_saphyr::to_string(object).context("writing YAML")
}

/// A Node as the kubelet and the controller-manager leave it.
fn node_status(name: &str, node: &Node) -> Value {
    node_object(name, Some(node.address), &node.blocks)
}

/// A Pod as the scheduler and the kubelet leave it.
fn pod_status(name: &PodName, pod: &Pod) -> Value {
    pod_object(name, &pod.node, Some(pod.address), &BTreeMap::new())
}

/// A Node.
pub fn node_object(name: &str, address: Option<Ipv4Addr>, blocks: &[Ipv4Net]) -> Value {
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    if let Some(first) = blocks.first() {
        node["spec"] = json!({"podCIDR": first, "podCIDRs": blocks});
    }
    if let Some(address) = address {
        node["status"] = json!({"addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": name},
        ]});
    }
    node
}

/// A Pod that is bound to a node.
pub fn pod_object(name: &PodName, node: &str, address: Option<Ipv4Addr>, labels: &BTreeMap<String, String>) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name.name, "namespace": name.namespace},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}]},
    });
    if !labels.is_empty() {
        pod["metadata"]["labels"] = json!(labels);
    }
    if let Some(address) = address {
        pod["status"] = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::pod_name;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
        dir
    }

    #[test]
    fn only_pods_that_need_a_namespace_are_wanted() {
        let dir = directory(&[(
            "all.yaml",
            "
apiVersion: v1
kind: Node
metadata: {name: a}
spec: {podCIDR: 10.244.3.0/24}
status: {addresses: [{type: Hostname, address: a}, {type: InternalIP, address: 172.18.0.3}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {nodeName: a}, status: {podIP: 10.244.3.7}}
---
{apiVersion: v1, kind: Pod, metadata: {name: proxy}, spec: {nodeName: a, hostNetwork: true}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pending}, spec: {}}
---
{apiVersion: v1, kind: Pod, metadata: {name: job}, spec: {nodeName: a}, status: {phase: Succeeded}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: other}}
",
        )]);
        let read = read(dir.path(), None).unwrap();
        assert!(read.complaints.is_empty(), "{:?}", read.complaints);
        let a = &read.wanted.nodes["a"];
        assert_eq!(
            (a.address, &a.blocks[..]),
            (Some(Ipv4Addr::new(172, 18, 0, 3)), &["10.244.3.0/24".parse().unwrap()][..])
        );
        assert_eq!(read.wanted.pods.keys().collect::<Vec<_>>(), [&pod_name("web").unwrap()]);
    }

    #[test]
    fn confirmed_affinities_count_as_blocks() {
        let dir = directory(&[
            ("a.yaml", "{apiVersion: v1, kind: Node, metadata: {name: a}}"),
            (
                "b.yaml",
                "
apiVersion: crd.projectcalico.org/v1
kind: BlockAffinity
metadata: {name: a-10-0-0-64-26}
spec: {state: confirmed, node: a, cidr: 10.0.0.64/26, deleted: 'false'}
---
apiVersion: crd.projectcalico.org/v1
kind: BlockAffinity
metadata: {name: a-10-0-0-128-26}
spec: {state: pending, node: a, cidr: 10.0.0.128/26, deleted: 'false'}
",
            ),
        ]);
        assert_eq!(read(dir.path(), None).unwrap().wanted.nodes["a"].blocks, ["10.0.0.64/26".parse().unwrap()]);
    }

    #[test]
    fn one_bad_file_is_a_complaint_and_the_others_count() {
        let dir = directory(&[
            ("bad.yaml", "kind: [Node"),
            ("good.yaml", "{apiVersion: v1, kind: Node, metadata: {name: a}}"),
            (".hidden.yaml", "kind: [Node"),
            ("notes.txt", "kind: [Node"),
            ("evil.yaml", "{apiVersion: v1, kind: Node, metadata: {name: ../../etc}}"),
        ]);
        let read = read(dir.path(), None).unwrap();
        assert_eq!(read.complaints.len(), 2, "{:?}", read.complaints);
        assert!(read.complaints[0].contains("bad.yaml"));
        assert_eq!(read.wanted.nodes.len(), 1);
    }

    #[test]
    fn what_was_assigned_reads_back() {
        let dir = directory(&[("pod-default_gone.yaml", "left over")]);
        let node = WantedNode::default();
        let pod = WantedPod { node: "a".to_owned(), address: None };
        let wanted = Wanted { nodes: [("a".to_owned(), node)].into(), pods: [(pod_name("web").unwrap(), pod)].into() };
        let (cluster, _) = Cluster::assign(wanted, &Cluster::default()).unwrap();
        write_assigned(dir.path(), &cluster).unwrap();
        write_assigned(dir.path(), &cluster).unwrap();
        let read = read(dir.path(), None).unwrap();
        assert_eq!(read.wanted.nodes["a"].address, Some(cluster.nodes["a"].address));
        assert_eq!(read.wanted.nodes["a"].blocks, cluster.nodes["a"].blocks);
        let web = pod_name("web").unwrap();
        assert_eq!(read.wanted.pods[&web].address, Some(cluster.pods[&web].address));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
