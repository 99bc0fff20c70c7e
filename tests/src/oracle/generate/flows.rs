//! Questions about a cluster. In: a [`Cluster`] and bytes. Out: flows that prefer edges: ports one beside a range,
//! addresses one beside a prefix. Never: a flow without a pod, or from or to an address inside that nobody has; what becomes
//! of such a packet is not for policies to say.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;
use k8s_openapi::{
    api::core::v1::{ContainerPort, Pod},
    api::networking::v1::{IPBlock, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    dice::Dice,
    words::{PORTS, is_inside, outside},
};
use crate::oracle::{
    cluster::{Cluster, name_of},
    ends::{finished, on_host_network, pod_addresses},
    flow::{Direction, End, Flow, Traffic},
    judge::isolates,
};

/// Questions about a cluster; each has bytes of its own.
pub fn flows(cluster: &Cluster, bytes: &[Vec<u8>]) -> Vec<Flow> {
    let places = Places::of(cluster);
    let edges = traffic_of(cluster);
    bytes.iter().map(|bytes| flow(&places, &edges, &mut Dice::new(bytes))).collect()
}

fn flow(places: &Places, edges: &[Traffic], dice: &mut Dice<'_>) -> Flow {
    let isolated = !places.isolated.is_empty() && dice.below(4) > 0;
    let subject = dice.pick(if isolated { &places.isolated } else { &places.pods });
    let other = places.anybody(&subject, dice);
    let (from, to) = if dice.below(3) == 2 { (subject, other) } else { (other, subject) };
    let own = places.ports.get(&to).map(Vec::as_slice).unwrap_or_default();
    let traffic = match dice.below(10) {
        0..3 if !own.is_empty() => dice.pick(own),
        0..=7 if !edges.is_empty() => dice.pick(edges),
        8 => Traffic::Icmp,
        _ => {
            let port = dice.pick(&PORTS);
            dice.pick(&[Traffic::Tcp(port), Traffic::Udp(port), Traffic::Sctp(port)])
        }
    };
    Flow { from, to, traffic }
}

/// Who can be asked about.
struct Places {
    pods: Vec<End>,
    /// Pods that some policy selects.
    isolated: Vec<End>,
    /// What pods' containers say.
    ports: BTreeMap<End, Vec<Traffic>>,
    pod_addresses: Vec<End>,
    nodes: Vec<End>,
    edges: Vec<End>,
}

// === impl Places ===

impl Places {
    fn of(cluster: &Cluster) -> Self {
        let (mut pods, mut isolated, mut ports) = (Vec::new(), Vec::new(), BTreeMap::new());
        let (mut pod_addresses, mut nodes) = (Vec::new(), Vec::new());
        nodes.extend(cluster.nodes.iter().filter_map(|n| n.metadata.name.clone()).map(End::Node));
        for pod in cluster.pods.iter().filter(|p| !finished(p)) {
            let Some(address) = pod_addresses_of(pod) else { continue };
            let name = End::Pod(name_of(&pod.metadata));
            if on_host_network(pod) {
                nodes.push(name);
            } else {
                let directions = [Direction::Ingress, Direction::Egress];
                if cluster.policies.iter().any(|p| directions.iter().any(|d| isolates(p, *d, pod))) {
                    isolated.push(name.clone());
                }
                let its = container_ports(pod).map(|p| with_protocol(p.protocol.as_deref(), p.container_port));
                ports.insert(name.clone(), its.collect());
                pods.push(name);
                pod_addresses.push(End::Address(address));
            }
        }
        let usable =
            |a: &Ipv4Addr| is_usable(*a) && (!is_inside(*a) || pod_addresses.contains(&End::Address((*a).into())));
        let edges = edges_of(cluster).into_iter().filter(usable).map(|a| End::Address(a.into())).collect();
        Self { pods, isolated, ports, pod_addresses, nodes, edges }
    }

    /// Mostly another pod.
    fn anybody(&self, subject: &End, dice: &mut Dice<'_>) -> End {
        match dice.below(20) {
            0..9 => {
                let others: Vec<_> = self.pods.iter().filter(|p| *p != subject).cloned().collect();
                if others.is_empty() { dice.pick(&self.nodes) } else { dice.pick(&others) }
            }
            9..11 => dice.pick(&self.pod_addresses),
            11..13 => dice.pick(&self.nodes),
            13..=17 if !self.edges.is_empty() => dice.pick(&self.edges),
            18 => subject.clone(),
            _ => End::Address(outside(dice).into()),
        }
    }
}

fn pod_addresses_of(pod: &Pod) -> Option<IpAddr> {
    pod_addresses(pod).first().copied()
}

/// Whether hosts out there have such addresses: neither "this network", loopback, link-local, multicast nor reserved.
fn is_usable(address: Ipv4Addr) -> bool {
    !matches!(address.octets(), [0 | 127 | 224.., ..] | [169, 254, ..])
}

/// The first and the last address of every prefix that a policy names, and their neighbours.
fn edges_of(cluster: &Cluster) -> Vec<Ipv4Addr> {
    let blocks = peers(cluster).into_iter().filter_map(|peer| peer.ip_block);
    let prefixes = blocks.flat_map(|IPBlock { cidr, except }| except.unwrap_or_default().into_iter().chain([cidr]));
    let prefixes = prefixes.filter_map(|text| text.parse::<Ipv4Net>().ok());
    let edges = prefixes.flat_map(|prefix| {
        let (first, last) = (prefix.network().to_bits(), prefix.broadcast().to_bits());
        [first.wrapping_sub(1), first, last, last.wrapping_add(1)].map(Ipv4Addr::from_bits)
    });
    edges.collect()
}

/// Every port that a policy or a container names, as it is, one less and one more.
fn traffic_of(cluster: &Cluster) -> Vec<Traffic> {
    let mut named: Vec<(Option<String>, i32)> = Vec::new();
    for NetworkPolicyPort { protocol, port, end_port } in ports(cluster) {
        if let Some(IntOrString::Int(first)) = port {
            named.push((protocol.clone(), first));
            named.extend(end_port.map(|last| (protocol, last)));
        }
    }
    let theirs = cluster.pods.iter().flat_map(container_ports);
    named.extend(theirs.map(|port| (port.protocol.clone(), port.container_port)));
    let with_neighbours = named.into_iter().flat_map(|(protocol, port)| {
        let near = [port, port, port - 1, port + 1].into_iter().filter(|p| (1..=65_535).contains(p));
        near.map(move |port| with_protocol(protocol.as_deref(), port))
    });
    with_neighbours.collect()
}

fn with_protocol(protocol: Option<&str>, port: i32) -> Traffic {
    let port = u16::try_from(port).unwrap_or_default();
    match protocol {
        Some("UDP") => Traffic::Udp(port),
        Some("SCTP") => Traffic::Sctp(port),
        _ => Traffic::Tcp(port),
    }
}

fn container_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let containers = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    containers.flat_map(|c| c.ports.iter().flatten())
}

fn peers(cluster: &Cluster) -> Vec<NetworkPolicyPeer> {
    let specs = cluster.policies.iter().filter_map(|p| p.spec.as_ref());
    let lists = specs.flat_map(|s| {
        let from = s.ingress.iter().flatten().map(|r| &r.from);
        from.chain(s.egress.iter().flatten().map(|r| &r.to))
    });
    lists.flatten().flatten().cloned().collect()
}

fn ports(cluster: &Cluster) -> Vec<NetworkPolicyPort> {
    let specs = cluster.policies.iter().filter_map(|p| p.spec.as_ref());
    let lists = specs.flat_map(|s| {
        let ingress = s.ingress.iter().flatten().map(|r| &r.ports);
        ingress.chain(s.egress.iter().flatten().map(|r| &r.ports))
    });
    lists.flatten().flatten().cloned().collect()
}
