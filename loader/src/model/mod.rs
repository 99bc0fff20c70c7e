//! The cluster as Margay sees it: nodes, pods, blocks and policies, checked and indexed.
//!
//! In: [`Objects`], and the model before this one. Out: a [`Model`] and a [`Problem`] for each thing that it leaves out. Never: two
//! objects with one address, two nodes with one block, or an address that cannot be one. What the objects say is checked here
//! and nowhere else, so that the plan need not.
//!
//! Both families are kept; the plan is for IPv4 alone as yet.

mod address;
mod amend;
#[cfg(test)]
mod amend_tests;
mod blocks;
pub mod labels;
pub mod policy;
#[cfg(test)]
mod policy_tests;
mod prefix;
pub mod service;
#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use margay_maps::Mac;
use serde::{Deserialize, Serialize};

use self::address::{Claim, read_address, read_block};
pub use self::amend::Touched;
pub use self::labels::{Labels, Selector};
pub use self::policy::Policy;
pub use self::prefix::PrefixMap;
pub use self::service::Service;
use crate::names;
use crate::object::{
    Held, NodeObject, ObjectName, Objects, PodName, PodObject, PolicyName, ServiceName, SharedLabels, SharedPorts,
    Standing, Text,
};
use crate::problem::Problem;

/// A cluster without contradictions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// All nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Pods that are on a node of the cluster and have, or will have, an interface of their own: neither those in their
    /// node's network nor those that have run to their end.
    pub pods: BTreeMap<PodName, Pod>,
    /// The node of each block. Blocks of two nodes share no address.
    pub blocks: PrefixMap<String>,
    /// The Node or Pod of each address.
    pub owners: BTreeMap<IpAddr, ObjectName>,
    /// Pools by name. They may lie in each other.
    #[serde(default)]
    pub pools: BTreeMap<String, Pool>,
    /// The labels of every namespace that there is, or that a pod is in; each has at least `kubernetes.io/metadata.name`.
    #[serde(default)]
    pub namespaces: BTreeMap<String, Labels>,
    /// NetworkPolicies by name: as they are, or as they last made sense, or what isolates their pods until they do.
    #[serde(default)]
    pub policies: BTreeMap<PolicyName, Held<Policy>>,
    /// Services with a ClusterIP, by name.
    #[serde(default)]
    pub services: BTreeMap<ServiceName, Service>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its own addresses, in the order in which the object has them.
    pub addresses: Vec<IpAddr>,
    /// The addresses of its overlay device: none, or one for each family.
    pub overlay_addresses: Vec<IpAddr>,
    /// The MAC of its overlay device.
    #[serde(with = "mac_as_text")]
    pub overlay_mac: Mac,
    /// Its blocks.
    pub blocks: BTreeSet<IpNet>,
}

/// A pod with a network of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// The node that it is bound to; always one of the model's.
    pub node: Text,
    /// Its addresses; none while nobody has given it any.
    pub addresses: Box<[IpAddr]>,
    /// Its labels.
    pub labels: SharedLabels,
    /// The ports that policies can call by name.
    #[serde(default)]
    pub ports: SharedPorts,
    /// Whether its labels and ports are known.
    #[serde(default)]
    pub standing: Standing,
}

/// A range that pods' addresses come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The range.
    pub range: IpNet,
    /// Whether what its pods send out of all pools leaves with their node's address.
    pub nat_outgoing: bool,
}

/// Pods of which more is known than their objects say.
pub type Amended = BTreeMap<PodName, PodObject>;

// === impl Model ===

impl Model {
    /// The model of `objects`. Where two claim one thing, the one that has it in `previous` keeps it.
    pub fn build(objects: &Objects, previous: Option<&Self>) -> (Self, Vec<Problem>) {
        Self::build_with(objects, &Amended::new(), previous)
    }

    /// As [`build`](Self::build), with some pods in place of those that `objects` have by these names.
    pub fn build_with(objects: &Objects, amended: &Amended, previous: Option<&Self>) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut nodes: BTreeMap<String, Node> =
            objects.nodes.values().map(|node| (node.name.clone(), read_node(node, &mut problems))).collect();
        let as_they_are = objects.pods.values().map(|pod| &**pod).filter(|pod| !amended.contains_key(&pod.name));
        let mut pods: BTreeMap<PodName, Pod> = as_they_are
            .chain(amended.values())
            .filter_map(|pod| Some((pod.name.clone(), read_pod(pod, &nodes, &mut problems)?)))
            .collect();

        let claims = claims(objects, amended, &nodes, &pods);
        let (owners, taken) = address::settle(claims, previous.map(|model| &model.owners));
        problems.extend(taken);
        let keep = |list: &mut Vec<IpAddr>, name: ObjectName| list.retain(|ip| owners.get(ip) == Some(&name));
        for (name, node) in &mut nodes {
            keep(&mut node.addresses, ObjectName::Node(name.clone()));
            keep(&mut node.overlay_addresses, ObjectName::Node(name.clone()));
        }
        for (name, pod) in &mut pods {
            let mut addresses = std::mem::take(&mut pod.addresses).into_vec();
            keep(&mut addresses, ObjectName::Pod(name.clone()));
            pod.addresses = addresses.into();
        }

        let (claims, unreadable) = blocks::claims(objects);
        let (blocks, overlaps) = blocks::settle(claims, previous.map(|model| &model.blocks));
        problems.extend(unreadable.into_iter().chain(overlaps));
        for (block, node) in blocks.iter() {
            if let Some(node) = nodes.get_mut(node) {
                node.blocks.insert(block);
            }
        }

        let (pools, unreadable) = read_pools(objects);
        problems.extend(unreadable);

        let namespaces = read_namespaces(objects, &pods);
        let (policies, faulty) = policy::read_all(objects, previous.map(|model| &model.policies));
        problems.extend(faulty);
        let (services, faulty) = service::read_all(objects, &owners, previous.map(|model| &model.services));
        problems.extend(faulty);

        problems.sort();
        problems.dedup();
        (Self { nodes, pods, blocks, owners, pools, namespaces, policies, services }, problems)
    }

    /// The pods of one node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = (&PodName, &Pod)> {
        self.pods.iter().filter(move |(_, pod)| pod.node == node)
    }

    /// The node in whose blocks `ip` lies.
    pub fn node_of_block(&self, ip: IpAddr) -> Option<&str> {
        self.blocks.longest_match(ip).map(|(_, node)| node.as_str())
    }
}

fn read_pools(objects: &Objects) -> (BTreeMap<String, Pool>, Vec<Problem>) {
    let mut pools = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, pool) in &objects.pools {
        match read_block(&pool.cidr) {
            Ok(range) => drop(pools.insert(name.clone(), Pool { range, nat_outgoing: pool.nat_outgoing })),
            Err(what) => {
                problems.push(Problem::new(ObjectName::Pool(name.clone()).to_string(), what, "correct spec.cidr"));
            }
        }
    }
    (pools, problems)
}

/// The label that every namespace has, with its name; the API server puts it there (core/v1, `LabelMetadataName`).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Those of the objects, and those that only pods tell of: manifests need not name them.
fn read_namespaces(objects: &Objects, pods: &BTreeMap<PodName, Pod>) -> BTreeMap<String, Labels> {
    let mut namespaces: BTreeMap<String, Labels> =
        objects.namespaces.values().map(|namespace| (namespace.name.clone(), namespace.labels.clone())).collect();
    for name in pods.keys().map(|pod| pod.namespace.as_str()) {
        if !namespaces.contains_key(name) {
            namespaces.insert(name.to_owned(), Labels::new());
        }
    }
    for (name, labels) in &mut namespaces {
        labels.entry(NAMESPACE_NAME.to_owned()).or_insert_with(|| name.clone());
    }
    namespaces
}

/// `None` for a pod that has no network of its own. Not (yet) bound to a node is no fault; bound to none that there is, is.
fn read_pod(pod: &PodObject, nodes: &BTreeMap<String, Node>, problems: &mut Vec<Problem>) -> Option<Pod> {
    let name = ObjectName::Pod(pod.name.clone());
    let node = pod.node.as_ref().filter(|_| !pod.host_network && !pod.finished())?;
    if !nodes.contains_key(node.as_str()) {
        problems.push(Problem::new(
            name.to_string(),
            format!("it is bound to Node {node}, which does not exist"),
            "create the Node, or delete the pod; until then it is out of reach",
        ));
        return None;
    }
    Some(Pod {
        node: node.clone(),
        addresses: read_addresses(pod.addresses(), &name, "status.podIPs (or the annotation in its place)", problems)
            .into(),
        labels: pod.labels.clone(),
        ports: pod.ports.clone(),
        standing: pod.standing,
    })
}

fn read_node(node: &NodeObject, problems: &mut Vec<Problem>) -> Node {
    let name = ObjectName::Node(node.name.clone());
    let overlay_mac = node.overlay_mac.as_deref().map(str::parse::<Mac>);
    if let Some(Err(error)) = &overlay_mac {
        problems.push(Problem::new(
            name.to_string(),
            format!("annotation projectcalico.org/VXLANTunnelMACAddr: {error}"),
            "correct or remove it; until then the MAC that follows from the node's name is in force",
        ));
    }
    Node {
        addresses: read_addresses(
            node.addresses(),
            &name,
            "status.addresses (or the annotation in its place)",
            problems,
        ),
        overlay_addresses: read_addresses(
            &node.overlay_addresses,
            &name,
            "annotation projectcalico.org/IPv4VXLANTunnelAddr (or IPv6…)",
            problems,
        ),
        overlay_mac: overlay_mac.and_then(Result::ok).unwrap_or_else(|| names::overlay_mac(&node.name)),
        blocks: BTreeSet::new(),
    }
}

/// Each readable address once.
fn read_addresses(
    texts: &[impl AsRef<str>],
    name: &ObjectName,
    field: &str,
    problems: &mut Vec<Problem>,
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for text in texts {
        match read_address(text.as_ref()) {
            Ok(ip) if addresses.contains(&ip) => {}
            Ok(ip) => addresses.push(ip),
            Err(what) => problems.push(Problem::new(name.to_string(), what, format!("correct {field}"))),
        }
    }
    addresses
}

fn claims(
    objects: &Objects,
    amended: &Amended,
    nodes: &BTreeMap<String, Node>,
    pods: &BTreeMap<PodName, Pod>,
) -> Vec<Claim> {
    let of_nodes = nodes.iter().flat_map(|(name, node)| {
        let created_secs = objects.nodes.get(name).and_then(|node| node.created_secs);
        node.addresses.iter().chain(&node.overlay_addresses).map(move |address| Claim {
            address: *address,
            owner: ObjectName::Node(name.clone()),
            created_secs,
        })
    });
    let of_pods = pods.iter().flat_map(|(name, pod)| {
        let object = amended.get(name).or_else(|| objects.pods.get(name).map(|pod| &**pod));
        let created_secs = object.and_then(|pod| pod.created_secs);
        pod.addresses.iter().map(move |address| Claim {
            address: *address,
            owner: ObjectName::Pod(name.clone()),
            created_secs,
        })
    });
    of_nodes.chain(of_pods).collect()
}

/// A MAC in JSON as people write it.
mod mac_as_text {
    use margay_maps::Mac;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(mac: &Mac, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(mac)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
