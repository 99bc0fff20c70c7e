//! The node's interfaces: which are uplinks, which programs belong where, and how the kernel is to treat each.

use std::collections::{BTreeMap, BTreeSet};

use margay_maps::overlay;

use super::build::Context;
use super::peers::Peer;
use super::{Attachment, Role};
use crate::names::WORKLOAD_PREFIX;
use crate::problem::Problem;

/// Indices of interfaces that lead to other machines.
pub(super) type Uplinks = BTreeSet<u32>;

/// The loopback device: it leads nowhere, even where it holds the node's address.
const LOOPBACK: &str = "lo";

/// Whether an interface may lead to another machine: neither a pod's, nor the overlay, nor the loopback.
pub(super) fn leads_out(name: &str) -> bool {
    !is_workload(name) && name != overlay::DEVICE && name != LOOPBACK
}

fn is_workload(name: &str) -> bool {
    name.starts_with(WORKLOAD_PREFIX)
}

/// The uplinks: those that the operator names, or else the one that holds the node's address and those by which it reaches the others.
pub(super) fn uplinks(context: &Context<'_>, peers: &[Peer<'_>], problems: &mut Vec<Problem>) -> Uplinks {
    if !context.options.uplinks.is_empty() {
        let named = context.options.uplinks.iter();
        return named
            .filter_map(|name| named_uplink(context, name).map_err(|problem| problems.push(problem)).ok())
            .collect();
    }
    let holds_address = context.host.addresses.iter().filter(|(ip, _)| Some(*ip) == context.address);
    let candidates = holds_address.map(|(_, ifindex)| *ifindex).chain(peers.iter().map(|peer| peer.ifindex));
    let interface = |ifindex: &u32| context.host.interfaces.get(ifindex);
    candidates.filter(|ifindex| interface(ifindex).is_some_and(|found| leads_out(&found.name))).collect()
}

fn named_uplink(context: &Context<'_>, name: &str) -> Result<u32, Problem> {
    let remedy = "name another with --uplink, or leave the option out to have the uplinks found";
    match context.ifindex(name) {
        None => Err(Problem::new(format!("interface {name}"), "this machine has no such uplink", remedy)),
        Some(_) if !leads_out(name) => {
            Err(Problem::new(format!("interface {name}"), "it leads to no other machine, so it is no uplink", remedy))
        }
        Some(ifindex) => Ok(ifindex),
    }
}

/// Every pod's interface, also one whose pod is not known (yet): an interface without programs would be open.
pub(super) fn attachments(context: &Context<'_>, uplinks: &Uplinks) -> BTreeSet<Attachment> {
    let role = |ifindex: &u32, name: &str| match name {
        name if is_workload(name) => Some(Role::Workload),
        overlay::DEVICE => Some(Role::Overlay),
        _ => uplinks.contains(ifindex).then_some(Role::Uplink),
    };
    let interfaces = context.host.interfaces.iter();
    interfaces
        .filter_map(|(ifindex, interface)| {
            let name = interface.name.clone();
            role(ifindex, &name).map(|role| Attachment { ifindex: *ifindex, name, role })
        })
        .collect()
}

/// The kernel's switches, as paths below `/proc/sys` (Documentation/networking/ip-sysctl.rst).
///
/// * Forwarding: what the programs pass up for the host's stack to deliver has to be let through.
/// * `rp_filter` of pods' interfaces is 1, strict: a pod's packet comes from the interface that its address is routed to. The
///   programs check that first; this is the second lock.
/// * `rp_filter` of the overlay is 2, loose: another node's own packets come through the overlay from that node's address, the route
///   to which goes by the uplink. 2 and not 0, since the kernel takes the higher one of this and `conf/all`, where 1 is common.
pub(super) fn sysctls(context: &Context<'_>) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::from([("net/ipv4/ip_forward".to_owned(), "1".to_owned())]);
    for interface in context.host.interfaces.values() {
        let name = &interface.name;
        let rp_filter = match name.as_str() {
            name if is_workload(name) => "1",
            overlay::DEVICE => "2",
            _ => continue,
        };
        sysctls.insert(format!("net/ipv4/conf/{name}/forwarding"), "1".to_owned());
        sysctls.insert(format!("net/ipv4/conf/{name}/rp_filter"), rp_filter.to_owned());
    }
    sysctls
}
