//! Whether what is written down about addresses makes sense.
//!
//! In: a [`Snapshot`], the pools and the reservations. Out: one [`Problem`] for each contradiction. Never: a change; the controller takes
//! back what leaks, and people mend the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use kube::ResourceExt as _;

use super::pool::Pool;
use super::reserved;
use super::snapshot::{Held, Snapshot};
use crate::crd::{IpPool, IpReservation, names};
use crate::model::PrefixMap;
use crate::object::PodObject;
use crate::problem::Problem;

/// All that is wrong.
pub fn check(snapshot: &Snapshot, pools: &[IpPool], reservations: &[IpReservation]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = pools.iter().filter_map(|pool| Pool::read(pool).err()).collect();
    let pools: Vec<Pool> = pools.iter().filter_map(|pool| Pool::read(pool).ok()).collect();
    let held = snapshot.held();
    problems.extend(reservations.iter().flat_map(unreadable));
    problems.extend(blocks(snapshot, &pools));
    problems.extend(affinities(snapshot));
    problems.extend(held.iter().filter_map(leak));
    problems.extend(handles(snapshot, &held));
    problems.extend(pods(snapshot, &pools, &held));
    problems.sort();
    problems
}

fn unreadable(reservation: &IpReservation) -> impl Iterator<Item = Problem> {
    let object = format!("IPReservation {}", reservation.name_any());
    let bad = reservation.spec.reserved_cidrs.iter().filter(|text| reserved::read(text).is_none());
    bad.map(move |text| {
        let what = format!("`{text}` is neither an address nor a CIDR block and keeps nothing back");
        Problem::new(object.clone(), what, "correct spec.reservedCIDRs")
    })
}

fn leak(held: &Held) -> Option<Problem> {
    held.state.is_leak().then(|| {
        let what = format!("it is taken by {}, but {}", held.owner(), held.state.explain());
        Problem::new(held.address.to_string(), what, "margay controller takes it back after a while; see that it runs")
    })
}

/// Blocks by themselves and beside each other.
fn blocks(snapshot: &Snapshot, pools: &[Pool]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut seen: PrefixMap<String> = PrefixMap::default();
    for block in &snapshot.blocks {
        let name = block.name_any();
        let mut problem = |what: String, remedy: &str| {
            problems.push(Problem::new(format!("IPAMBlock {name}"), what, remedy));
        };
        let net = match block.spec.checked() {
            Ok(net) => net,
            Err(what) => {
                problem(what, "restore the object from a backup; nothing is given out from it until then");
                continue;
            }
        };
        if name != names::block(net) {
            problem(format!("it is of {net}"), "delete it once its pods are gone: nobody finds it by this name");
        }
        if let Some((other, owner)) = seen.overlapping(net).next() {
            let what = format!("{net} overlaps {other} of IPAMBlock {owner}: an address may be given out twice");
            problem(what, "delete the pods of one of the two, then the block");
        }
        if !pools.iter().any(|pool| pool.cidr.contains(&net)) {
            problem(format!("no pool holds {net}"), "create its IPPool again, or delete its pods so that it goes");
        }
        seen.insert(net, name);
    }
    problems
}

/// Affinities against blocks and nodes.
fn affinities(snapshot: &Snapshot) -> Vec<Problem> {
    let owners: BTreeMap<IpNet, Option<&str>> =
        snapshot.blocks.iter().filter_map(|b| Some((b.spec.cidr.parse().ok()?, b.spec.node()))).collect();
    let mut problems = Vec::new();
    let mut confirmed = BTreeSet::new();
    for affinity in snapshot.affinities.iter().filter(|affinity| affinity.spec.is_of_host()) {
        let spec = &affinity.spec;
        let mut problem = |what: String, remedy: &str| {
            problems.push(Problem::new(format!("BlockAffinity {}", affinity.name_any()), what, remedy));
        };
        let Some(net) = spec.block() else {
            problem(format!("`{}` is not a CIDR block", spec.cidr), "delete it");
            continue;
        };
        if !snapshot.nodes.contains(&spec.node) {
            let what = format!("Node {} does not exist", spec.node);
            problem(what, "margay controller gives the block up after a while; see that it runs");
        } else if spec.is_confirmed() && owners.get(&net) != Some(&Some(spec.node.as_str())) {
            let what = format!("{net} is said to be Node {}'s, but the IPAMBlock says otherwise", spec.node);
            problem(what, "it is mended when the node needs another address; or delete it");
        }
        if spec.is_confirmed() {
            confirmed.insert((net, spec.node.clone()));
        }
    }
    for (net, node) in owners.iter().filter_map(|(net, node)| Some((*net, (*node)?))) {
        if !confirmed.contains(&(net, node.to_owned())) {
            let what =
                format!("it is Node {node}'s without a confirmed BlockAffinity: no other node finds its way there");
            let remedy = "it is mended when the node needs another address";
            problems.push(Problem::new(format!("IPAMBlock {}", names::block(net)), what, remedy));
        }
    }
    problems
}

/// Handles against blocks.
fn handles(snapshot: &Snapshot, held: &[Held]) -> Vec<Problem> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (handle, held) in held.iter().filter_map(|held| Some((held.handle.as_ref()?, held))) {
        *counts.entry((names::handle(handle), held.block.to_string())).or_default() += 1;
    }
    let mut problems = Vec::new();
    for handle in &snapshot.handles {
        let name = handle.name_any();
        let mut problem = |what: String, remedy: &str| {
            problems.push(Problem::new(format!("IPAMHandle {name}"), what, remedy));
        };
        for (block, promised) in &handle.spec.block {
            let count = counts.remove(&(name.clone(), block.clone())).unwrap_or_default();
            if count == 0 {
                let what = format!("it names {block}, which holds no address for it");
                problem(what, "none is lost; margay controller deletes it after a while");
            } else if count != *promised {
                let what = format!("it counts {promised} addresses in {block}, which holds {count} for it");
                problem(what, "none is lost; it goes with its pod");
            }
        }
    }
    for ((handle, block), count) in counts {
        let what = format!("{block} holds {count} for it, but it does not exist or does not name the block");
        let remedy = "margay controller takes them back when their pod is gone, and nobody else will";
        problems.push(Problem::new(format!("IPAMHandle {handle}"), what, remedy));
    }
    problems
}

/// Pods against each other and against what is written down.
fn pods(snapshot: &Snapshot, pools: &[Pool], held: &[Held]) -> Vec<Problem> {
    let written: BTreeSet<IpAddr> = held.iter().map(|held| held.address).collect();
    let mut owners: BTreeMap<IpAddr, &PodObject> = BTreeMap::new();
    let mut problems = Vec::new();
    for pod in snapshot.pods.values().filter(|pod| !pod.host_network && !pod.finished()) {
        for address in pod.addresses().iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
            let mut problem = |what: String, remedy: &str| {
                problems.push(Problem::new(format!("Pod {}", pod.name), what, remedy));
            };
            if let Some(other) = owners.insert(address, pod) {
                problem(format!("it has the address {address} of Pod {} as well", other.name), "delete one of the two");
            }
            if pools.iter().any(|pool| pool.cidr.contains(&address)) && !written.contains(&address) {
                let what = format!("it has the address {address} of a pool, which no block says is taken");
                problem(what, "delete the pod so that it gets another, before somebody else gets this one");
            }
        }
    }
    problems
}
