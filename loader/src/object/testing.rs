//! Objects for tests, each in a few words. Fields that a test is not about are changed in place.

use std::collections::BTreeMap;

use super::parse::{Format, manifest};
use super::{BlockObject, NamespaceObject, NodeObject, Object, PodName, PodObject, PolicyObject, PoolObject};

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}

/// A node with its own addresses and its blocks.
pub fn node<const A: usize, const B: usize>(name: &str, addresses: [&str; A], pod_cidrs: [&str; B]) -> NodeObject {
    NodeObject {
        name: name.to_owned(),
        status_addresses: texts(addresses),
        pod_cidrs: texts(pod_cidrs),
        ..NodeObject::default()
    }
}

/// A pod of the namespace `default` on a node.
pub fn pod<const A: usize>(name: &str, node: &str, addresses: [&str; A]) -> PodObject {
    PodObject {
        name: PodName::new("default", name),
        node: Some(node.into()),
        status_ips: addresses.map(Box::from).into(),
        ..PodObject::default()
    }
}

/// A confirmed block of a node.
pub fn block(name: &str, node: &str, cidr: &str) -> BlockObject {
    BlockObject {
        name: name.to_owned(),
        cidr: cidr.to_owned(),
        node: node.to_owned(),
        confirmed: true,
        ..BlockObject::default()
    }
}

/// A pool.
pub fn pool(name: &str, cidr: &str, nat_outgoing: bool) -> PoolObject {
    PoolObject { name: name.to_owned(), cidr: cidr.to_owned(), nat_outgoing, ..PoolObject::default() }
}

/// Labels: `app=web,tier=front`, or nothing.
pub fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A namespace with labels.
pub fn namespace(name: &str, with: &str) -> NamespaceObject {
    NamespaceObject { name: name.to_owned(), labels: labels(with) }
}

/// A NetworkPolicy of the namespace `default` with this `spec` in YAML's flow style.
pub fn policy(name: &str, spec: &str) -> PolicyObject {
    policy_in("default", name, spec)
}

/// A NetworkPolicy with this `spec` in YAML's flow style.
pub fn policy_in(namespace: &str, name: &str, spec: &str) -> PolicyObject {
    let text = format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: {namespace}, name: {name}}}, spec: {spec}}}"
    );
    match manifest(&text, Format::Yaml).unwrap_or_else(|error| panic!("{error}\n{text}")).objects.pop() {
        Some(Object::Policy(policy)) => policy.into_inner(),
        other => panic!("a policy expected: {other:?}"),
    }
}

/// A cluster of `nodes` nodes, `node-0` and so on, with a block of 256 addresses each, and as many pods, spread evenly over them.
/// Node `n` is 192.168.`n`, its block 10.`n`.0 (the number in two bytes).
pub fn cluster(nodes: usize, pods: usize) -> Vec<Object> {
    let bytes = |i: usize| (i / 256, i % 256);
    let node_objects = (0..nodes).map(|i| {
        let (high, low) = bytes(i);
        node(&format!("node-{i}"), [&format!("192.168.{high}.{low}")], [&format!("10.{high}.{low}.0/24")]).into()
    });
    let pod_objects = (0..pods).map(|i| {
        let (high, low) = bytes(i % nodes);
        let host = 2 + i / nodes;
        pod(&format!("pod-{i}"), &format!("node-{}", i % nodes), [&format!("10.{high}.{low}.{host}")]).into()
    });
    node_objects.chain(pod_objects).collect()
}
