//! The cluster that a lab builds, complete: every node and pod with its address.
//!
//! In: what the manifests say ([`Wanted`]). Out: a [`Cluster`] in which the lab has played kubelet and CNI where they
//! say nothing. Never: a system call, or another address for something that already has one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::{Result, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::names::PodName;

/// What the manifests say, as far as it concerns wiring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Nodes by name.
    pub nodes: BTreeMap<String, WantedNode>,
    /// Pods that need a namespace: bound to a node, not of the host's network, not finished.
    pub pods: BTreeMap<PodName, WantedPod>,
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedNode {
    /// Its InternalIP, if it has one yet.
    pub address: Option<Ipv4Addr>,
    /// Its podCIDRs and confirmed block affinities.
    pub blocks: Vec<Ipv4Net>,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPod {
    /// `spec.nodeName`.
    pub node: String,
    /// `status.podIP`, if it has one yet.
    pub address: Option<Ipv4Addr>,
}

/// Everything with its address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<PodName, Pod>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The address of its `eth0`.
    pub address: Ipv4Addr,
    /// Where its pods' addresses come from.
    pub blocks: Vec<Ipv4Net>,
    /// Whether address or blocks are the lab's choice.
    pub assigned: bool,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its node.
    pub node: String,
    /// The address of its `eth0`.
    pub address: Ipv4Addr,
    /// Whether the address is the lab's choice.
    pub assigned: bool,
}

// === impl Cluster ===

impl Cluster {
    /// Gives everything that lacks one an address:
    /// * a node, the next one in the /24 of the first node that has one, otherwise in the first 192.168.x.0/24 that is
    ///   free;
    /// * a node without blocks that must give a pod an address, the first free 10.244.x.0/24;
    /// * a pod, the first free one of its node's blocks (not the first two and the last of a block).
    ///
    /// What `before` has keeps its address. Pods on nodes that do not exist are left out; their names come second.
    ///
    /// # Errors
    /// A range is used up.
    pub fn assign(wanted: Wanted, before: &Self) -> Result<(Self, Vec<PodName>)> {
        let mut used = Used::collect(&wanted, before);
        let Wanted { nodes: wanted_nodes, pods: wanted_pods } = wanted;
        let needy: BTreeSet<&String> =
            wanted_pods.values().filter(|p| p.address.is_none()).map(|pod| &pod.node).collect();

        let mut cluster = Self::default();
        for (name, node) in wanted_nodes {
            let before = before.nodes.get(&name).filter(|n| n.assigned);
            let address = match node.address.or(before.map(|n| n.address)) {
                Some(address) => address,
                None => used.node_address(&name)?,
            };
            let mut blocks = node.blocks.clone();
            if blocks.is_empty()
                && let Some(before) = before
            {
                blocks.clone_from(&before.blocks);
            }
            if blocks.is_empty() && needy.contains(&name) {
                blocks.push(used.block(&name)?);
            }
            let assigned = node.address.is_none() || blocks != node.blocks;
            cluster.nodes.insert(name, Node { address, blocks, assigned });
        }

        let mut homeless = Vec::new();
        for (name, pod) in wanted_pods {
            let Some(node) = cluster.nodes.get(&pod.node) else {
                homeless.push(name);
                continue;
            };
            let before = before.pods.get(&name).filter(|p| p.assigned && p.node == pod.node);
            let address = match pod.address.or(before.map(|p| p.address)) {
                Some(address) => address,
                None => used.pod_address(&name, &pod.node, &node.blocks)?,
            };
            let assigned = pod.address.is_none();
            cluster.pods.insert(name, Pod { node: pod.node, address, assigned });
        }
        Ok((cluster, homeless))
    }

    /// The longest prefix, 24 bits at most, that holds all nodes: what their `eth0` has.
    pub fn underlay_prefix(&self) -> u8 {
        let mut addresses = self.nodes.values().map(|n| n.address.to_bits());
        let Some(first) = addresses.next() else { return 24 };
        let common = addresses.map(|a| (a ^ first).leading_zeros()).min().unwrap_or(32);
        common.min(24) as u8
    }
}

/// What is taken, so that nothing collides with it.
#[derive(Debug, Default)]
struct Used {
    addresses: BTreeSet<Ipv4Addr>,
    blocks: Vec<Ipv4Net>,
    /// Where nodes get theirs.
    node_range: Option<Ipv4Net>,
}

// === impl Used ===

impl Used {
    fn collect(wanted: &Wanted, before: &Cluster) -> Self {
        let node_addresses: Vec<_> =
            (wanted.nodes.values().filter_map(|n| n.address)).chain(before.nodes.values().map(|n| n.address)).collect();
        let pod_addresses =
            (wanted.pods.values().filter_map(|p| p.address)).chain(before.pods.values().map(|p| p.address));
        let blocks = (wanted.nodes.values().flat_map(|n| n.blocks.clone()))
            .chain(before.nodes.values().flat_map(|n| n.blocks.clone()));
        let node_range = node_addresses.first().map(|a| Ipv4Net::new_assert(*a, 24).trunc());
        Self {
            addresses: node_addresses.iter().copied().chain(pod_addresses).collect(),
            blocks: blocks.collect(),
            node_range,
        }
    }

    /// Whether nothing that is known lies in `range`.
    fn is_free(&self, range: &Ipv4Net) -> bool {
        let overlaps = |b: &Ipv4Net| b.contains(range) || range.contains(b);
        !self.blocks.iter().any(overlaps) && !self.addresses.iter().any(|a| range.contains(a))
    }

    fn free_range(&self, make: impl Fn(u8) -> Ipv4Addr) -> Option<Ipv4Net> {
        (0..=255).map(|x| Ipv4Net::new_assert(make(x), 24)).find(|range| self.is_free(range))
    }

    fn node_address(&mut self, node: &str) -> Result<Ipv4Addr> {
        let range = self.node_range.or_else(|| self.free_range(|x| Ipv4Addr::new(192, 168, x, 0)));
        self.node_range = range;
        let free = range.and_then(|r| r.hosts().find(|a| !self.addresses.contains(a)));
        let Some(address) = free else {
            bail!("node {node} has no InternalIP, and no address is left to give it; write one into its status");
        };
        self.addresses.insert(address);
        Ok(address)
    }

    fn block(&mut self, node: &str) -> Result<Ipv4Net> {
        let Some(block) = self.free_range(|x| Ipv4Addr::new(10, 244, x, 0)) else {
            bail!("node {node} has no podCIDR, and no range of 10.244.0.0/16 is left; write one into its spec");
        };
        self.blocks.push(block);
        Ok(block)
    }

    fn pod_address(&mut self, pod: &PodName, node: &str, blocks: &[Ipv4Net]) -> Result<Ipv4Addr> {
        // CNI plugins leave the first for the network and the second, often, for a gateway.
        let usable = |b: &Ipv4Net| b.hosts().skip(usize::from(b.prefix_len() < 30)).collect::<Vec<_>>();
        let free = blocks.iter().flat_map(usable).find(|a| !self.addresses.contains(a));
        let Some(address) = free else {
            bail!("pod {pod} has no podIP, and the blocks of its node {node} are used up; write one into its status");
        };
        self.addresses.insert(address);
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::pod_name;

    fn node(address: Option<&str>, blocks: &[&str]) -> WantedNode {
        WantedNode {
            address: address.map(|a| a.parse().unwrap()),
            blocks: blocks.iter().map(|b| b.parse().unwrap()).collect(),
        }
    }

    fn pod(node: &str, address: Option<&str>) -> WantedPod {
        WantedPod { node: node.to_owned(), address: address.map(|a| a.parse().unwrap()) }
    }

    fn wanted(nodes: &[(&str, WantedNode)], pods: &[(&str, WantedPod)]) -> Wanted {
        Wanted {
            nodes: nodes.iter().map(|(name, node)| ((*name).to_owned(), node.clone())).collect(),
            pods: pods.iter().map(|(name, pod)| (pod_name(name).unwrap(), pod.clone())).collect(),
        }
    }

    fn assign(wanted: Wanted) -> Cluster {
        Cluster::assign(wanted, &Cluster::default()).unwrap().0
    }

    fn address_of<'a>(cluster: &'a Cluster, pod: &str) -> &'a Ipv4Addr {
        &cluster.pods[&pod_name(pod).unwrap()].address
    }

    #[test]
    fn what_the_manifests_say_stays() {
        let cluster = assign(wanted(
            &[("a", node(Some("172.18.0.2"), &["10.0.0.0/24"]))],
            &[("default/web", pod("a", Some("10.0.0.9")))],
        ));
        assert_eq!(cluster.nodes["a"].address, Ipv4Addr::new(172, 18, 0, 2));
        assert!(!cluster.nodes["a"].assigned);
        assert_eq!(*address_of(&cluster, "web"), Ipv4Addr::new(10, 0, 0, 9));
    }

    #[test]
    fn a_bare_cluster_gets_everything_and_nothing_twice() {
        let cluster = assign(wanted(
            &[("a", node(None, &[])), ("b", node(None, &[])), ("c", node(None, &[]))],
            &[("web", pod("a", None)), ("api", pod("a", None)), ("db", pod("b", None))],
        ));
        let nodes: Vec<_> = cluster.nodes.values().map(|n| n.address.to_string()).collect();
        assert_eq!(nodes, ["192.168.0.1", "192.168.0.2", "192.168.0.3"]);
        assert_eq!(cluster.nodes["a"].blocks, ["10.244.0.0/24".parse().unwrap()]);
        assert_eq!(cluster.nodes["b"].blocks, ["10.244.1.0/24".parse().unwrap()]);
        assert_eq!(cluster.nodes["c"].blocks, [], "nobody there needs one");
        assert_eq!(address_of(&cluster, "api").to_string(), "10.244.0.2");
        assert_eq!(address_of(&cluster, "web").to_string(), "10.244.0.3");
        assert_eq!(address_of(&cluster, "db").to_string(), "10.244.1.2");
    }

    #[test]
    fn ranges_in_use_are_avoided() {
        let cluster = assign(wanted(
            &[("a", node(None, &["192.168.0.0/24"])), ("b", node(None, &["10.244.0.0/23"])), ("c", node(None, &[]))],
            &[("web", pod("c", None)), ("db", pod("b", Some("10.244.0.2"))), ("api", pod("b", None))],
        ));
        assert_eq!(cluster.nodes["a"].address.to_string(), "192.168.1.1");
        assert_eq!(cluster.nodes["c"].blocks, ["10.244.2.0/24".parse().unwrap()]);
        assert_eq!(address_of(&cluster, "api").to_string(), "10.244.0.3");
    }

    #[test]
    fn nodes_without_an_address_join_those_that_have_one() {
        let cluster = assign(wanted(&[("a", node(None, &[])), ("b", node(Some("10.9.8.1"), &[]))], &[]));
        assert_eq!(cluster.nodes["a"].address.to_string(), "10.9.8.2");
    }

    #[test]
    fn a_second_pass_moves_nothing() {
        let nodes = [("a", node(None, &[])), ("b", node(None, &[]))];
        let first = assign(wanted(&nodes, &[("web", pod("a", None)), ("db", pod("b", None))]));
        let more = wanted(&nodes, &[("api", pod("a", None)), ("web", pod("a", None)), ("db", pod("b", None))]);
        let (second, _) = Cluster::assign(more, &first).unwrap();
        assert_eq!(second.nodes, first.nodes);
        assert_eq!(address_of(&second, "web"), address_of(&first, "web"));
        assert_ne!(address_of(&second, "api"), address_of(&first, "web"));
        // A pod that has gone gives its place back with the pass after.
        let (third, _) = Cluster::assign(wanted(&nodes, &[("db", pod("b", None))]), &second).unwrap();
        let again = Cluster::assign(wanted(&nodes, &[("new", pod("a", None))]), &third).unwrap().0;
        assert_eq!(address_of(&again, "new"), address_of(&first, "web"));
    }

    #[test]
    fn pods_on_unknown_nodes_are_left_out_and_named() {
        let wanted = wanted(&[("a", node(None, &[]))], &[("web", pod("nowhere", None))]);
        let (cluster, homeless) = Cluster::assign(wanted, &Cluster::default()).unwrap();
        assert!(cluster.pods.is_empty());
        assert_eq!(homeless, [pod_name("web").unwrap()]);
    }

    #[test]
    fn a_full_block_is_an_error_that_names_the_pod() {
        let wanted = wanted(
            &[("a", node(None, &["10.0.0.0/30"]))],
            &[("x", pod("a", None)), ("y", pod("a", None)), ("z", pod("a", None))],
        );
        let error = Cluster::assign(wanted, &Cluster::default()).unwrap_err().to_string();
        assert!(error.contains("default/z") && error.contains("node a"), "{error}");
    }

    #[test]
    fn the_underlay_covers_all_nodes() {
        let cases: [(&[&str], u8); 5] = [
            (&[], 24),
            (&["10.0.0.1"], 24),
            (&["10.0.0.1", "10.0.0.200"], 24),
            (&["10.0.0.1", "10.0.1.1"], 23),
            (&["10.0.0.1", "192.168.0.1"], 0),
        ];
        for (addresses, prefix) in cases {
            let named: Vec<_> = addresses.iter().map(|a| (*a, node(Some(a), &[]))).collect();
            assert_eq!(assign(wanted(&named, &[])).underlay_prefix(), prefix, "{addresses:?}");
        }
    }
}
