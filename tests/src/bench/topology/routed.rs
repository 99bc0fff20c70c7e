//! Calico's way: a route to each pod's veth, the kernel's VXLAN device between the nodes, and netfilter rules with
//! connection tracking that every packet passes. The rules are in `routed.nft`.

use anyhow::Result;
use ipnet::Ipv4Net;
use margay_loader::names::workload_interface;
use margay_maps::{Mac, overlay};

use super::{NODES, Topology, kernel_vxlan, load_rules, with_pods};
use crate::{
    Lab,
    netlink::Netlink,
    wiring::{DEVICE, GATEWAY},
};

/// The rules, with `@@POD_CHAINS@@` and the like where names of devices go.
const RULES: &str = include_str!("routed.nft");

/// Builds it.
pub fn routed(name: &str) -> Result<Topology> {
    let lab = with_pods(name).without_agents().start()?;
    for node in NODES {
        kernel_vxlan(&lab, node, overlay::DEVICE, overlay::VNI, overlay::PORT)?;
        let devices = route_to_pods(&lab, node)?;
        load_rules(&lab.node(node)?, &rules(&devices))?;
    }
    Topology::of_pods(lab)
}

/// A route to each pod of the node, and the gateway's MAC in each pod. Returns the pods' devices.
fn route_to_pods(lab: &Lab, node: &str) -> Result<Vec<String>> {
    let netlink = Netlink::open(&lab.node(node)?.namespace)?;
    let mut devices = Vec::new();
    for (name, pod) in lab.cluster().pods.iter().filter(|(_, pod)| pod.node == node) {
        let device = workload_interface(&name.namespace, &name.name);
        netlink.add_route(Ipv4Net::from(pod.address), None, &device)?;
        // Calico answers for the gateway by proxy ARP; once it has answered, this is what the pod knows.
        let inside = Netlink::open(&lab.pod(&name.to_string())?.namespace)?;
        inside.set_neighbour(DEVICE, GATEWAY, Mac::GATEWAY)?;
        devices.push(device);
    }
    Ok(devices)
}

/// The ruleset for these devices of pods.
fn rules(devices: &[String]) -> String {
    let chains = |device: &String| {
        format!(
            "  chain fw-{device} {{ jump from-workload; }}\n  \
             chain tw-{device} {{ jump to-workload; }}\n"
        )
    };
    let verdicts = |direction: &str| {
        let entry = |device: &String| format!("{device} : goto {direction}-{device}");
        devices.iter().map(entry).collect::<Vec<_>>().join(", ")
    };
    let chains: String = devices.iter().map(chains).collect();
    RULES
        .replace("@@POD_CHAINS@@", &chains)
        .replace("@@FROM_PODS@@", &verdicts("fw"))
        .replace("@@TO_PODS@@", &verdicts("tw"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_gets_its_chains_and_no_mark_is_left() {
        let text = rules(&["cali1".to_owned(), "cali2".to_owned()]);
        assert!(!text.contains("@@"), "{text}");
        for part in ["chain fw-cali1", "chain tw-cali2", "cali1 : goto fw-cali1, cali2 : goto fw-cali2"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
