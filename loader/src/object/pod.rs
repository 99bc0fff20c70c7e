//! Pods: where they run, which addresses they have, and what policies need to know of them.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

pub use super::names::PodName;
use super::{SharedLabels, SharedPorts, Text, annotation, created_secs, without_length};

/// Calico's annotation with all of a pod's addresses, each with `/32` or `/128`, joined by commas.
const CALICO_POD_IPS: &str = "cni.projectcalico.org/podIPs";
/// Calico's older annotation with a pod's one address.
const CALICO_POD_IP: &str = "cni.projectcalico.org/podIP";
/// Calico's annotation by which a user asks for addresses: a JSON list of them.
pub const CALICO_IP_ADDRS: &str = "cni.projectcalico.org/ipAddrs";
/// Calico's annotation by which a user asks for certain pools of IPv4: a JSON list of names or ranges.
pub const CALICO_IPV4_POOLS: &str = "cni.projectcalico.org/ipv4pools";
/// The same for IPv6.
pub const CALICO_IPV6_POOLS: &str = "cni.projectcalico.org/ipv6pools";
/// Calico's annotation by which a user asks for a MAC.
pub const CALICO_HW_ADDR: &str = "cni.projectcalico.org/hwAddr";

const WISHES: [&str; 4] = [CALICO_IP_ADDRS, CALICO_IPV4_POOLS, CALICO_IPV6_POOLS, CALICO_HW_ADDR];

/// A list that holds no more than what is in it.
pub type Texts = Box<[Box<str>]>;

/// A Pod. Addresses are text as the object has them; the model reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodObject {
    /// Namespace and name.
    pub name: PodName,
    /// `metadata.creationTimestamp` in seconds since 1970 UTC.
    pub created_secs: Option<i64>,
    /// `metadata.labels`.
    pub labels: SharedLabels,
    /// `spec.nodeName`: the node that the pod is bound to.
    pub node: Option<Text>,
    /// `spec.hostNetwork`: the pod has its node's addresses and no interface of its own.
    pub host_network: bool,
    /// `status.podIPs`, or `status.podIP` alone.
    pub status_ips: Texts,
    /// The first of Calico's annotations `podIPs`, `podIP` and `ipAddrs` that is there, without lengths of prefixes.
    pub calico_ips: Texts,
    /// What the user asks for, and of which pod of the name.
    pub wishes: Option<Box<PodWishes>>,
    /// `status.phase`.
    pub phase: Option<Text>,
    /// The named ports of all containers that run as long as the pod does. Ports without a name are only words.
    pub ports: SharedPorts,
    /// Who has told of it.
    pub standing: Standing,
}

/// What a user asks for when a pod gets its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodWishes {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// Those of Calico's annotations by which a user asks for addresses and a MAC.
    pub annotations: BTreeMap<String, String>,
}

/// A port of a container, by the name that policies may call it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamedPort {
    /// Its name.
    pub name: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, the one that counts where none is named.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

/// Who has told of a pod, and so what is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// The source: everything is known.
    #[default]
    Known,
    /// As yet the CNI plugin alone: neither its labels nor its ports are known.
    Announced,
}

// === impl Protocol ===

impl Protocol {
    /// As Kubernetes writes it; no word is TCP.
    pub fn read(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// Its number (IANA, protocol numbers).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

// === impl PodObject ===

impl PodObject {
    /// The pod's addresses: those in its status, and only where there are none, those that Calico noted.
    pub fn addresses(&self) -> &[Box<str>] {
        if self.status_ips.is_empty() { &self.calico_ips } else { &self.status_ips }
    }

    /// Whether it has run to its end. Its addresses are free then, although the object still names them.
    pub fn finished(&self) -> bool {
        matches!(self.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Takes over what `later` says in status and annotations, and its node where there was none.
    pub fn amend(&mut self, later: Self) {
        let Self {
            name: _,
            created_secs,
            labels: _,
            node,
            host_network: _,
            status_ips,
            calico_ips,
            wishes,
            phase,
            ports: _,
            standing: _,
        } = later;
        self.wishes = self.wishes.take().or(wishes);
        self.created_secs = self.created_secs.or(created_secs);
        self.node = self.node.take().or(node);
        for (earlier, later) in [(&mut self.status_ips, status_ips), (&mut self.calico_ips, calico_ips)] {
            if !later.is_empty() {
                *earlier = later;
            }
        }
        self.phase = phase.or(self.phase.take());
    }
}

impl From<Pod> for PodObject {
    fn from(pod: Pod) -> Self {
        let Pod { metadata, spec, status } = pod;
        let spec = spec.unwrap_or_default();
        let status = status.unwrap_or_default();
        Self {
            created_secs: created_secs(&metadata),
            ports: named_ports(&spec),
            node: spec.node_name.as_deref().filter(|node| !node.is_empty()).map(Text::common),
            host_network: spec.host_network.unwrap_or_default(),
            standing: Standing::Known,
            calico_ips: calico_ips(&metadata),
            wishes: wishes(&metadata).map(Box::new),
            phase: status.phase.as_deref().filter(|phase| !phase.is_empty()).map(Text::common),
            status_ips: status_ips(status),
            labels: metadata.labels.unwrap_or_default().into(),
            name: PodName::new(metadata.namespace.as_deref().unwrap_or("default"), metadata.name.unwrap_or_default()),
        }
    }
}

/// Those of containers, and of init containers that go on running beside them (sidecars).
fn named_ports(spec: &PodSpec) -> SharedPorts {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
    let mut ports: Vec<NamedPort> = containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let name = port.name.as_deref().filter(|name| !name.is_empty())?;
            let number = u16::try_from(port.container_port).ok().filter(|number| *number > 0)?;
            Some(NamedPort { name: name.into(), protocol: Protocol::read(port.protocol.as_deref())?, number })
        })
        .collect();
    ports.sort();
    ports.dedup();
    ports.into()
}

fn status_ips(status: PodStatus) -> Texts {
    let texts =
        |ips: &mut dyn Iterator<Item = String>| ips.filter(|ip| !ip.is_empty()).map(Box::from).collect::<Texts>();
    let all = texts(&mut status.pod_ips.into_iter().flatten().map(|ip| ip.ip));
    if all.is_empty() { texts(&mut status.pod_ip.into_iter()) } else { all }
}

fn wishes(meta: &ObjectMeta) -> Option<PodWishes> {
    let wish = |name: &&str| Some(((*name).to_owned(), annotation(meta, name)?.to_owned()));
    let annotations = WISHES.iter().filter_map(wish).collect();
    Some(PodWishes { uid: meta.uid.as_deref()?.into(), annotations })
}

fn calico_ips(meta: &ObjectMeta) -> Texts {
    if let Some(list) = annotation(meta, CALICO_POD_IPS).or_else(|| annotation(meta, CALICO_POD_IP)) {
        return list.split(',').map(without_length).filter(|ip| !ip.is_empty()).map(Box::from).collect();
    }
    let Some(list) = annotation(meta, CALICO_IP_ADDRS) else { return Texts::default() };
    // What is no list stays as it is: the model then says of which pod it is and that it is no address.
    serde_json::from_str(list).unwrap_or_else(|_no_list| Box::new([list.into()]))
}
