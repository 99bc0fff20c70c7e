//! Clusters of any size, made up: a thousand nodes, fifty thousand pods, ten thousand policies.
//!
//! In: a [`Size`]. Out: Kubernetes objects as JSON, one by one, so that whoever takes them (a file, an API server, a parser)
//! decides what is kept. Never: anything but a function of size and seed: a cluster is the same in every process.
//!
//! What matters for a network is like on a real cluster: pods belong to Deployments, whose pods share their labels and lie on
//! all nodes; names and hashes are as long as Kubernetes makes them; policies name peers by labels, by namespaces and by
//! ranges of addresses, and ports by number, by range and by name.

mod policies;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

pub use self::policies::Subject;

/// How large a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Nodes, each with a block of 256 addresses; at most [`MAX_NODES`].
    pub nodes: usize,
    /// Pods, which lie evenly on the nodes; at most [`PODS_PER_NODE`] on each.
    pub pods: usize,
    /// NetworkPolicies.
    pub policies: usize,
    /// Changes who belongs to which Deployment.
    pub seed: u64,
}

/// Node addresses are 10.64.0.0/16, blocks 10.128.0.0/10.
pub const MAX_NODES: usize = 16_384;
/// What fits into a node's block beside its network and broadcast addresses.
pub const PODS_PER_NODE: usize = 254;
/// Where the nodes' addresses lie: whoever joins such a cluster needs a route there.
pub const UNDERLAY: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 16);

/// How many pods a Deployment has, on average.
const PODS_PER_DEPLOYMENT: usize = 10;
/// How many Deployments a namespace has.
const DEPLOYMENTS_PER_NAMESPACE: usize = 10;
/// At most so many namespaces and different `app` labels.
const MAX_NAMESPACES: usize = 100;

// === impl Size ===

impl Size {
    /// Everything, in the order in which an API server takes it.
    pub fn objects(self) -> impl Iterator<Item = Value> {
        let namespaces = (0..self.namespaces()).map(namespace);
        let nodes = (0..self.nodes).map(node);
        let pods = (0..self.pods).map(move |number| self.pod(number));
        namespaces.chain(nodes).chain(pods).chain(self.policies(Subject::Deployments))
    }

    /// All NetworkPolicies, about these pods.
    pub fn policies(self, subject: Subject) -> impl Iterator<Item = Value> {
        (0..self.policies).map(move |number| self.policy(number, subject))
    }

    /// How many namespaces the pods are in.
    pub fn namespaces(self) -> usize {
        self.deployments().div_ceil(DEPLOYMENTS_PER_NAMESPACE).clamp(1, MAX_NAMESPACES)
    }

    /// How many Deployments the pods belong to.
    fn deployments(self) -> usize {
        self.pods.div_ceil(PODS_PER_DEPLOYMENT).max(1)
    }

    /// The Deployment of a pod, by a number that looks drawn.
    fn deployment_of(self, pod: usize) -> usize {
        usize::try_from(mix(self.seed ^ mix(pod as u64)) % self.deployments() as u64).unwrap_or_default()
    }

    /// The namespace of a Deployment.
    fn namespace_of(self, deployment: usize) -> String {
        namespace_name(deployment % self.namespaces())
    }

    /// A pod, running, with its address.
    pub fn pod(self, number: usize) -> Value {
        let deployment = self.deployment_of(number);
        let (app, hash) = (app_name(deployment), mix(deployment as u64));
        let template = format!("{:09x}", hash & 0xf_ffff_ffff);
        let name = format!("{app}-{template}-{:05x}", mix(number as u64) & 0xf_ffff);
        let address = self.address_of_pod(number);
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": format!("{name}-{number}"),
                "namespace": self.namespace_of(deployment),
                "labels": { "app": app, "tier": tier(deployment), "pod-template-hash": template },
                // Where Calico notes it; an API server takes no status with a new pod.
                "annotations": { "cni.projectcalico.org/podIPs": format!("{address}/32") },
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "nodeName": node_name(self.node_of(number)),
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "app",
                    "image": "registry.example/app:1",
                    "ports": [{ "name": "http", "containerPort": 8080 }],
                }],
            },
            "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] },
        })
    }

    /// The node that a pod is on.
    pub fn node_of(self, pod: usize) -> usize {
        pod % self.nodes.max(1)
    }

    /// The address of a pod.
    pub fn address_of_pod(self, pod: usize) -> Ipv4Addr {
        let place = pod / self.nodes.max(1);
        let host = u32::try_from(1 + place % PODS_PER_NODE).unwrap_or_default();
        Ipv4Addr::from_bits(block(self.node_of(pod)).network().to_bits() + host)
    }
}

/// A node, with its address and its block.
pub fn node(number: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": node_name(number) },
        "spec": { "podCIDR": block(number), "podCIDRs": [block(number)] },
        "status": { "addresses": [{ "type": "InternalIP", "address": address_of_node(number) }] },
    })
}

/// The name of a node.
pub fn node_name(number: usize) -> String {
    format!("worker-{number:05}.example")
}

/// The address of a node.
pub fn address_of_node(number: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(number + 1).unwrap_or(u16::MAX).to_be_bytes();
    Ipv4Addr::new(10, 64, high, low)
}

/// The block of a node.
pub fn block(node: usize) -> Ipv4Net {
    let network = Ipv4Addr::new(10, 128, 0, 0).to_bits() + (u32::try_from(node).unwrap_or_default() << 8);
    Ipv4Net::new_assert(Ipv4Addr::from_bits(network), 24)
}

fn namespace(number: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": namespace_name(number), "labels": { "team": team(number) } },
    })
}

fn namespace_name(number: usize) -> String {
    format!("team-{}-{number}", team(number))
}

/// One of eight, so that a selector of namespaces finds some and not all.
fn team(namespace: usize) -> &'static str {
    const TEAMS: [&str; 8] = ["red", "blue", "green", "gold", "grey", "pink", "teal", "plum"];
    TEAMS[namespace % TEAMS.len()]
}

/// Deployments of different namespaces share names, as they do where everybody has an `api` and a `db`.
fn app_name(deployment: usize) -> String {
    format!("app-{}", deployment / DEPLOYMENTS_PER_NAMESPACE % MAX_NAMESPACES)
}

fn tier(deployment: usize) -> &'static str {
    ["frontend", "backend", "storage"][deployment % 3]
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Objects as one `v1` List, which manifests may be.
///
/// # Errors
/// The disk is full.
pub fn write_list(file: &std::path::Path, objects: impl Iterator<Item = Value>) -> anyhow::Result<()> {
    use anyhow::Context as _;
    use std::io::Write as _;
    let open = std::fs::File::create(file).with_context(|| format!("making {}", file.display()))?;
    let mut out = std::io::BufWriter::new(open);
    let mut between = r#"{"apiVersion":"v1","kind":"List","items":["#;
    for object in objects {
        out.write_all(between.as_bytes())?;
        serde_json::to_writer(&mut out, &object)?;
        between = ",\n";
    }
    if between.starts_with('{') {
        out.write_all(between.as_bytes())?;
    }
    out.write_all(b"]}\n")?;
    out.flush().with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use margay_loader::{
        model::Model,
        object::{
            Objects,
            parse::{Format, manifest},
        },
        policy,
    };

    use super::*;

    const SMALL: Size = Size { nodes: 20, pods: 1_000, policies: 100, seed: 1 };

    fn model(size: Size) -> Model {
        let list = json!({ "kind": "List", "apiVersion": "v1", "items": size.objects().collect::<Vec<_>>() });
        let read = manifest(&list.to_string(), Format::Json).unwrap();
        assert_eq!(read.ignored, 0);
        let objects: Objects = read.objects.into_iter().collect();
        let (model, problems) = Model::build(&objects, None);
        assert_eq!(problems, []);
        model
    }

    #[test]
    fn every_object_makes_sense_and_none_is_there_twice() {
        let model = model(SMALL);
        assert_eq!((model.nodes.len(), model.pods.len(), model.policies.len()), (20, 1_000, 100));
        assert_eq!(model.blocks.iter().count(), 20);
        let here = model.node_of_block(SMALL.address_of_pod(7).into()).unwrap();
        assert_eq!(here, node_name(SMALL.node_of(7)));
    }

    #[test]
    fn the_policies_are_about_pods_and_allow_and_deny() {
        let model = model(SMALL);
        let plan = policy::compile(&model, &node_name(3), None);
        assert_eq!(plan.problems, []);
        let isolated = plan.enforcement.values().filter(|pod| !pod.ingress.is_none()).count();
        assert!(isolated > 5 && isolated <= 50, "{isolated}");
        let ids: BTreeSet<_> = plan.identities.values().collect();
        assert!(plan.rules.len() > 50 && ids.len() > 5, "{} rules, {} identities", plan.rules.len(), ids.len());
    }

    #[test]
    fn a_seed_is_a_cluster() {
        let text = |seed| Size { seed, ..SMALL }.objects().map(|object| object.to_string()).collect::<String>();
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }
}
