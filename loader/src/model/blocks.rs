//! Which node owns which block of addresses.
//!
//! In: BlockAffinities and `spec.podCIDRs`. Out: blocks with their nodes, and a [`Problem`] for each that is unreadable or
//! in another node's way. Never: an address with two nodes, or an answer that depends on the order of the objects.

use ipnet::IpNet;

use super::address::read_block;
use super::prefix::PrefixMap;
use crate::object::{ObjectName, Objects};
use crate::problem::Problem;

/// A node that is said to own a block.
#[derive(Clone, Debug)]
pub(super) struct BlockClaim {
    /// The block.
    pub block: IpNet,
    /// The node.
    pub node: String,
    /// When the object that says so was made, in seconds since 1970 UTC.
    pub created_secs: Option<i64>,
    /// That object.
    pub said_by: ObjectName,
}

/// Everything that the objects say about blocks.
///
/// One confirmed BlockAffinity anywhere means that Calico's IPAM gives out the pods' addresses. The podCIDRs, which Kubernetes goes
/// on giving to nodes all the same, then say nothing about where a pod is, and would be in the way of the blocks that do: all of
/// them are ignored.
pub(super) fn claims(objects: &Objects) -> (Vec<BlockClaim>, Vec<Problem>) {
    let confirmed = || objects.blocks.values().filter(|block| block.confirmed);
    let mut said = Vec::new();
    if confirmed().next().is_some() {
        said.extend(confirmed().map(|block| {
            (
                ObjectName::Block(block.name.clone()),
                block.created_secs,
                block.node.as_str(),
                block.cidr.as_str(),
                "spec.cidr",
            )
        }));
    } else {
        said.extend(objects.nodes.values().flat_map(|node| {
            let name = ObjectName::Node(node.name.clone());
            let of_node = move |cidr| (name.clone(), node.created_secs, node.name.as_str(), cidr, "spec.podCIDRs");
            node.pod_cidrs.iter().map(String::as_str).map(of_node)
        }));
    }
    let mut claims = Vec::new();
    let mut problems = Vec::new();
    for (said_by, created_secs, node, cidr, field) in said {
        let object = said_by.to_string();
        match read_block(cidr) {
            Err(what) => problems.push(Problem::new(object, what, format!("correct {field}"))),
            Ok(_) if !objects.nodes.contains_key(node) => problems.push(Problem::new(
                object,
                format!("the block {cidr} is said to be on Node {node}, which does not exist"),
                "delete the BlockAffinity, or create the Node; until then nothing is sent there",
            )),
            Ok(block) => claims.push(BlockClaim { block, node: node.to_owned(), created_secs, said_by }),
        }
    }
    (claims, problems)
}

/// Takes the claims one by one, the incumbent's first, then the older, then by name of the node, and refuses each
/// block that overlaps one of another node. Blocks of one node may lie in each other.
pub(super) fn settle(
    claims: Vec<BlockClaim>,
    incumbents: Option<&PrefixMap<String>>,
) -> (PrefixMap<String>, Vec<Problem>) {
    let mut ranked: Vec<_> = claims
        .into_iter()
        .map(|BlockClaim { block, node, created_secs, said_by }| {
            let incumbent = incumbents.and_then(|all| all.get(block)) == Some(&node);
            (!incumbent, created_secs.unwrap_or(i64::MAX), node, block, said_by)
        })
        .collect();
    ranked.sort();
    let mut blocks = PrefixMap::default();
    let mut refused = Vec::new();
    for (_, _, node, block, said_by) in ranked {
        if blocks.overlapping(block).any(|(_, owner): (_, &String)| *owner != node) {
            refused.push((block, node, said_by));
        } else {
            blocks.insert(block, node);
        }
    }
    // By what is there in the end: the next look, which begins with the incumbents, is to say the same.
    let problem = |(block, node, said_by): (IpNet, String, ObjectName)| {
        let (other, owner) = blocks.overlapping(block).find(|(_, owner)| **owner != node)?;
        Some(Problem::new(
            said_by.to_string(),
            format!("the block {block} of Node {node} overlaps {other} of Node {owner}"),
            format!("give the nodes separate blocks; until then the addresses are Node {owner}'s"),
        ))
    };
    let problems = refused.into_iter().filter_map(problem).collect();
    (blocks, problems)
}
