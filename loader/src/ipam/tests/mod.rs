//! Blocks as values, and the whole against a store in memory.

mod ahead;
mod blocks;
mod check;
mod faults;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use kube::api::ObjectMeta;

use super::memory::MemoryStore;
use super::*;
use crate::crd::{BlockAffinity, IpPool, IpPoolSpec, IpamBlock, IpamConfig, IpamConfigSpec, IpamHandle, names};
use crate::model::PrefixMap;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A cluster with one pool of `/len` cut into blocks of `/block`, and nodes.
fn cluster<const N: usize>(pool: &str, block: u8, nodes: [&str; N]) -> MemoryStore {
    let store = MemoryStore::default();
    add_pool(&store, "pool", pool, |spec| spec.block_size = Some(block));
    for node in nodes {
        add_node(&store, node, []);
    }
    store
}

fn add_pool(store: &MemoryStore, name: &str, cidr: &str, change: impl FnOnce(&mut IpPoolSpec)) {
    let mut spec = IpPoolSpec { cidr: cidr.to_owned(), ..IpPoolSpec::default() };
    change(&mut spec);
    store.put(IpPool::new(name, spec));
}

fn add_node<const N: usize>(store: &MemoryStore, name: &str, labels: [(&str, &str); N]) {
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let metadata =
        ObjectMeta { name: Some(name.to_owned()), labels: Some(BTreeMap::from(labels)), ..ObjectMeta::default() };
    store.put(Node { metadata, ..Node::default() });
}

fn rules(store: &MemoryStore, change: impl FnOnce(&mut IpamConfigSpec)) {
    let mut spec = IpamConfigSpec::default();
    change(&mut spec);
    store.put(IpamConfig::new("default", spec));
}

fn node(store: &MemoryStore, name: &str) -> Ipam<MemoryStore> {
    Ipam::with_store(store.clone(), name)
}

fn request(id: &str) -> PodRequest {
    PodRequest::new(id, PodName::new("shop", format!("pod-{id}")))
}

/// One IPv4 address for a pod.
async fn assign(ipam: &Ipam<MemoryStore>, id: &str) -> IpAddr {
    let addresses = ipam.assign(&request(id)).await.unwrap_or_else(|error| panic!("{id}: {error}"));
    assert!(addresses.len() == 1 && addresses[0].prefix_len() == addresses[0].max_prefix_len());
    addresses[0].addr()
}

async fn release(ipam: &Ipam<MemoryStore>, id: &str) -> Vec<IpAddr> {
    ipam.release(&pod_handle(NETWORK, id)).await.unwrap_or_else(|error| panic!("{id}: {error}"))
}

/// Who has which address, from the blocks; each block is free of contradictions, none overlaps another, every owner's
/// handle names the block, and every node that uses a block of its own has a confirmed affinity for it.
fn consistent(store: &MemoryStore) -> BTreeMap<IpAddr, String> {
    let handles: BTreeMap<String, IpamHandle> =
        store.all::<IpamHandle>().into_iter().map(|h| (h.name_any(), h)).collect();
    let affinities: BTreeSet<String> =
        store.all::<BlockAffinity>().iter().filter(|a| a.spec.is_confirmed()).map(|a| a.name_any()).collect();
    let mut owners = BTreeMap::new();
    let mut blocks = PrefixMap::default();
    for block in store.all::<IpamBlock>() {
        let net = block.spec.checked().unwrap_or_else(|what| panic!("{}: {what}", block.name_any()));
        assert_eq!(block.name_any(), names::block(net));
        assert_eq!(blocks.overlapping(net).next(), None, "{net} overlaps another");
        blocks.insert(net, ());
        assert_eq!(block.spec.taken().count() + block.spec.unallocated.len(), cidr::size(net), "{net} lost addresses");
        let owner = block.spec.node().unwrap_or_default();
        if block.spec.taken().any(|taken| taken.by.secondary.get("node").is_some_and(|node| node == owner)) {
            assert!(
                affinities.contains(&names::affinity(owner, net)),
                "{owner} uses {net} without a confirmed affinity"
            );
        }
        for taken in block.spec.taken() {
            let handle = taken.by.handle.clone().unwrap();
            let promised = handles.get(&names::handle(&handle)).and_then(|h| h.spec.block.get(&net.to_string()));
            assert!(promised.is_some(), "{} of {handle}: the handle does not name {net}", taken.address);
            assert_eq!(owners.insert(taken.address, handle), None, "{} twice", taken.address);
        }
    }
    owners
}
