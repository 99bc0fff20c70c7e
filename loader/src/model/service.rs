//! ClusterIP Services with their backends.
//!
//! In: Services and EndpointSlices. Out: [`Service`]s, and a [`Problem`] for each thing that is left out. Never: two Services at one
//! address, or one at an address that a node or a pod has: its packets would go to somebody else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::address::read_address;
use crate::object::service::{EndpointState, PortObject, ServiceKind, ServiceObject, SliceObject};
use crate::object::{ObjectName, Objects, Protocol, ServiceName};
use crate::problem::Problem;

/// How long a client keeps its backend where nobody says otherwise, in seconds (core/v1, `DefaultClientIPServiceAffinitySeconds`).
const DEFAULT_AFFINITY_SECS: u32 = 10_800;
/// The longest time that can be said (core/v1, `MaxClientIPServiceAffinitySeconds`).
const MAX_AFFINITY_SECS: u32 = 86_400;

/// A Service with a ClusterIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its ClusterIPs: one, or one of each family.
    pub addresses: Vec<IpAddr>,
    /// Its ports, in the order in which the object has them.
    pub ports: Vec<ServicePort>,
    /// For how long a client keeps its backend, in seconds. `None`: each connection may have another.
    pub affinity_secs: Option<u32>,
    /// Which backends may be used.
    pub reach: Reach,
}

/// Which backends of a Service a pod may be led to (`internalTrafficPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// All.
    #[default]
    Cluster,
    /// Those on the pod's own node, even if there is none.
    Local,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty where it has none.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub number: u16,
    /// Who serves it, of all families, in order of address and port, each once.
    pub backends: Vec<Backend>,
}

/// Who serves a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its own port.
    pub port: u16,
    /// What it is fit for: one that drains is to be used only where no other is.
    pub state: EndpointState,
    /// The node that it is on.
    pub node: Option<Box<str>>,
    /// The zone that it is in.
    pub zone: Option<Box<str>>,
}

/// All Services. `taken`: addresses that nodes and pods have.
pub(super) fn read_all(
    objects: &Objects,
    taken: &BTreeMap<IpAddr, ObjectName>,
    previous: Option<&BTreeMap<ServiceName, Service>>,
) -> (BTreeMap<ServiceName, Service>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut services: BTreeMap<ServiceName, Service> = BTreeMap::new();
    let ours = objects.services.values().filter(|service| service.kind == ServiceKind::ClusterIp);
    for object in ours {
        match Service::read(object, &mut problems) {
            Ok(service) => drop(services.insert(object.name.clone(), service)),
            Err((what, remedy)) => problems.push(Problem::new(title(&object.name), what, remedy)),
        }
    }
    problems.extend(settle(&mut services, taken, previous));
    for slice in objects.slices.values() {
        let name = slice.service.as_ref().map(|service| ServiceName::new(&slice.name.namespace, service));
        let Some(service) = name.and_then(|name| services.get_mut(&name)) else { continue };
        if let Err(what) = service.add(slice) {
            let remedy = "correct it, or see who wrote it; until then its endpoints get nothing";
            problems.push(Problem::new(ObjectName::Slice(slice.name.clone()).to_string(), what, remedy));
        }
    }
    (services, problems)
}

fn title(name: &ServiceName) -> String {
    ObjectName::Service(name.clone()).to_string()
}

/// Takes from each Service the addresses that are somebody else's: a node's or a pod's, or those of another Service, which keeps
/// them if it had them before, or else comes first by name.
fn settle(
    services: &mut BTreeMap<ServiceName, Service>,
    taken: &BTreeMap<IpAddr, ObjectName>,
    previous: Option<&BTreeMap<ServiceName, Service>>,
) -> Vec<Problem> {
    let mut owners: BTreeMap<IpAddr, (bool, ServiceName)> = BTreeMap::new();
    for (name, service) in services.iter() {
        let had = previous.and_then(|all| all.get(name));
        for ip in &service.addresses {
            let claim = (!had.is_some_and(|had| had.addresses.contains(ip)), name.clone());
            let owner = owners.entry(*ip).or_insert_with(|| claim.clone());
            if claim < *owner {
                *owner = claim;
            }
        }
    }
    let mut problems = Vec::new();
    for (name, service) in services.iter_mut() {
        service.addresses.retain(|ip| {
            let owner = match (taken.get(ip), owners.get(ip)) {
                (Some(owner), _) => owner.to_string(),
                (None, Some((_, owner))) if owner != name => title(owner),
                _ => return true,
            };
            problems.push(Problem::new(
                title(name),
                format!("its address {ip} is {owner}'s"),
                format!("delete and create it again, so that it gets another; until then {ip} leads to {owner}"),
            ));
            false
        });
    }
    services.retain(|_, service| !service.addresses.is_empty());
    problems
}

/// What is wrong, and what to do.
type Fault = (String, &'static str);

// === impl Service ===

impl Service {
    fn read(object: &ServiceObject, problems: &mut Vec<Problem>) -> Result<Self, Fault> {
        if object.cluster_ips.is_empty() {
            return Err((
                "it has no ClusterIP".to_owned(),
                "give it one, or `None` if it is to be headless; until then nothing leads to it",
            ));
        }
        let addresses = object.cluster_ips.iter().map(|text| read_address(text)).collect::<Result<_, _>>();
        let addresses = addresses.map_err(|what| (what, "correct spec.clusterIPs; until then nothing leads to it"))?;
        let ports = object.ports.iter().enumerate().map(|(i, port)| {
            let what =
                |what| (format!("spec.ports[{i}]: {what}"), "correct it; until then nothing leads to the Service");
            let (name, protocol, number) = read_port(port).map_err(what)?;
            Ok(ServicePort { name, protocol, number, backends: Vec::new() })
        });
        let ports = ports.collect::<Result<_, Fault>>()?;
        let mut doubt = |what: String, until: &str| {
            problems.push(Problem::new(title(&object.name), what, format!("correct it; until then {until}")));
        };
        let affinity_secs = read_affinity(object).unwrap_or_else(|what| {
            doubt(what, "each connection may get another backend");
            None
        });
        let reach = match object.internal_traffic_policy.as_deref() {
            None | Some("Cluster") => Reach::Cluster,
            Some("Local") => Reach::Local,
            Some(other) => {
                doubt(format!("spec.internalTrafficPolicy `{other}` is neither Cluster nor Local"), "it is Cluster");
                Reach::Cluster
            }
        };
        Ok(Self { addresses, ports, affinity_secs, reach })
    }

    /// Adds the endpoints of a slice to the ports of the same name and protocol. All of them, or none.
    fn add(&mut self, slice: &SliceObject) -> Result<(), String> {
        let ports = slice.ports.iter().enumerate();
        let ports = ports.map(|(i, port)| read_port(port).map_err(|what| format!("ports[{i}]: {what}")));
        let ports = ports.collect::<Result<Vec<_>, _>>()?;
        let endpoints = slice.endpoints.iter().enumerate();
        let endpoints = endpoints.map(|(i, endpoint)| match read_address(&endpoint.address) {
            Ok(ip) => Ok((ip, endpoint)),
            Err(what) => Err(format!("endpoints[{i}]: {what}")),
        });
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        for (name, protocol, number) in ports {
            let same = |port: &&mut ServicePort| port.name == name && port.protocol == protocol;
            let Some(port) = self.ports.iter_mut().find(same) else { continue };
            for (ip, endpoint) in &endpoints {
                let backend = Backend {
                    address: *ip,
                    port: number,
                    state: endpoint.state,
                    node: endpoint.node.clone(),
                    zone: endpoint.zone.clone(),
                };
                match port.backends.binary_search_by_key(&(*ip, number), |known| (known.address, known.port)) {
                    Err(at) => port.backends.insert(at, backend),
                    // In two slices for the time of a move from one to the other.
                    Ok(at) if backend.state < port.backends[at].state => port.backends[at] = backend,
                    Ok(_) => {}
                }
            }
        }
        Ok(())
    }
}

fn read_affinity(object: &ServiceObject) -> Result<Option<u32>, String> {
    match object.affinity.as_deref() {
        None | Some("None") => Ok(None),
        Some("ClientIP") => {
            let secs = object.affinity_timeout_secs.map_or(Ok(DEFAULT_AFFINITY_SECS), u32::try_from);
            let secs = secs.ok().filter(|secs| (1..=MAX_AFFINITY_SECS).contains(secs));
            secs.map(Some).ok_or_else(|| format!("its session affinity's timeout is not 1 to {MAX_AFFINITY_SECS} s"))
        }
        Some(other) => Err(format!("spec.sessionAffinity `{other}` is neither None nor ClientIP")),
    }
}

fn read_port(port: &PortObject) -> Result<(String, Protocol, u16), String> {
    let PortObject { name, protocol, port } = port;
    let protocol = Protocol::read(protocol.as_deref())
        .ok_or_else(|| format!("`{}` is none of TCP, UDP and SCTP", protocol.as_deref().unwrap_or_default()))?;
    let number = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let number = number.ok_or_else(|| format!("{} is no port: these are 1 to 65535", port.unwrap_or_default()))?;
    Ok((name.to_string(), protocol, number))
}
