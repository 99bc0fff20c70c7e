//! The words of a question: who, to whom, with what.
//!
//! In: names, addresses and ports, also as text (`shop/web`, `node-a`, `203.0.113.7`, `tcp/80`). Out: values that print as
//! they are read. Never: a look at a cluster; whether somebody of that name exists is not known here.

use std::{fmt, net::IpAddr, str::FromStr};

use anyhow::{Context, Result, bail};

/// A namespaced object: a pod or a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// A pod. One of the host's network counts as its node.
    Pod(Name),
    /// A node, by its InternalIP.
    Node(String),
    /// Whoever has this address: a pod, a node, or somebody outside of the cluster.
    Address(IpAddr),
}

/// Protocol and destination port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// TCP to this port.
    Tcp(u16),
    /// UDP to this port.
    Udp(u16),
    /// SCTP to this port.
    Sctp(u16),
    /// An ICMP echo request; stands for all protocols without ports.
    Icmp,
}

/// The question: may this packet open a flow?
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Who begins.
    pub from: End,
    /// Whom it is for.
    pub to: End,
    /// With what.
    pub traffic: Traffic,
}

/// Seen from a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Into the pod.
    Ingress,
    /// Out of the pod.
    Egress,
}

// === impl Name ===

impl Name {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl End ===

impl FromStr for End {
    type Err = anyhow::Error;

    /// A pod has a slash, an address reads as one, everything else is a node.
    fn from_str(text: &str) -> Result<Self> {
        if let Some((namespace, name)) = text.split_once('/') {
            return Ok(Self::Pod(Name::new(namespace, name)));
        }
        if text.is_empty() {
            bail!("an end of a flow without a name; write NAMESPACE/POD, NODE or an address");
        }
        Ok(text.parse().map_or_else(|_| Self::Node(text.to_owned()), Self::Address))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => name.fmt(f),
            Self::Node(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

// === impl Traffic ===

impl Traffic {
    /// The protocol as NetworkPolicy and Pods write it, and the port. ICMP has neither.
    pub fn protocol_and_port(self) -> Option<(&'static str, u16)> {
        match self {
            Self::Tcp(port) => Some(("TCP", port)),
            Self::Udp(port) => Some(("UDP", port)),
            Self::Sctp(port) => Some(("SCTP", port)),
            Self::Icmp => None,
        }
    }
}

impl FromStr for Traffic {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "icmp" {
            return Ok(Self::Icmp);
        }
        let (protocol, port) = text.split_once('/').with_context(|| format!("{text:?} is not like tcp/80 or icmp"))?;
        let port = port.parse().with_context(|| format!("the port of {text:?}"))?;
        match protocol {
            "tcp" => Ok(Self::Tcp(port)),
            "udp" => Ok(Self::Udp(port)),
            "sctp" => Ok(Self::Sctp(port)),
            _ => bail!("{text:?}: the protocol is tcp, udp, sctp or icmp"),
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp/{port}"),
            Self::Udp(port) => write!(f, "udp/{port}"),
            Self::Sctp(port) => write!(f, "sctp/{port}"),
            Self::Icmp => f.write_str("icmp"),
        }
    }
}

// === impl Flow ===

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} with {}", self.from, self.to, self.traffic)
    }
}

// === impl Direction ===

impl Direction {
    /// As `policyTypes` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}
