//! Who reaches whom: every pair of pods, and of nodes and pods, asked in every way.
//!
//! In: a [`Lab`], or any places. Out: for each pair and way, an answer that was verified: content, source address, TTL. Never: a pair
//! that is left out, or a failure that hides another.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    lab::{Lab, Place},
    probe::{self, Ping},
};

/// The small size and the one that does not fit into a packet, in bytes.
pub const SIZES: [usize; 2] = [64, 8_000];

/// Which way packets take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Between two pods of one node.
    PodToPodSameNode,
    /// Between pods of two nodes.
    PodToPodOtherNode,
    /// From a node to a pod of its own, as the kubelet's probes go.
    NodeToOwnPod,
    /// From a node to a pod of another.
    NodeToOtherPod,
    /// From a pod to its node.
    PodToOwnNode,
    /// From a pod to another node.
    PodToOtherNode,
}

/// What to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// An ICMP echo of so many bytes, with the right TTL.
    Ping(usize),
    /// A TCP connection, so many bytes each way.
    Tcp(usize),
    /// A datagram of so many bytes, and its echo.
    Udp(usize),
}

/// Who asks whom.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The way between them.
    pub kind: Kind,
    /// Who begins.
    pub from: Place,
    /// Who answers.
    pub to: Place,
}

// === impl Kind ===

impl Kind {
    /// All, in the order in which tables have them.
    pub const ALL: [Self; 6] = [
        Self::PodToPodSameNode,
        Self::PodToPodOtherNode,
        Self::NodeToOwnPod,
        Self::NodeToOtherPod,
        Self::PodToOwnNode,
        Self::PodToOtherNode,
    ];

    /// For tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodToPodSameNode => "pod to pod, same node",
            Self::PodToPodOtherNode => "pod to pod, other node",
            Self::NodeToOwnPod => "node to its own pod",
            Self::NodeToOtherPod => "node to another's pod",
            Self::PodToOwnNode => "pod to its own node",
            Self::PodToOtherNode => "pod to another node",
        }
    }

    /// With which TTL an answer arrives: 64, less one for each node that routes it. A node does not route what is its own.
    pub const fn ttl(self) -> u8 {
        match self {
            Self::PodToPodOtherNode => 62,
            Self::PodToPodSameNode | Self::NodeToOtherPod | Self::PodToOtherNode => 63,
            Self::NodeToOwnPod | Self::PodToOwnNode => 64,
        }
    }

    fn of(from: &Place, to: &Place) -> Option<Self> {
        let same_node = from.node == to.node;
        match (from.is_pod(), to.is_pod()) {
            (true, true) if same_node => Some(Self::PodToPodSameNode),
            (true, true) => Some(Self::PodToPodOtherNode),
            (false, true) if same_node => Some(Self::NodeToOwnPod),
            (false, true) => Some(Self::NodeToOtherPod),
            (true, false) if same_node => Some(Self::PodToOwnNode),
            (true, false) => Some(Self::PodToOtherNode),
            (false, false) => None,
        }
    }
}

// === impl Check ===

impl Check {
    /// All that are tried.
    pub const ALL: [Self; 6] = {
        let [small, large] = SIZES;
        [Self::Ping(small), Self::Ping(large), Self::Tcp(small), Self::Tcp(large), Self::Udp(small), Self::Udp(large)]
    };

    /// For tables.
    pub fn name(self) -> String {
        match self {
            Self::Ping(size) => format!("ping {size}"),
            Self::Tcp(size) => format!("TCP {size}"),
            Self::Udp(size) => format!("UDP {size}"),
        }
    }
}

// === impl Pair ===

impl Pair {
    /// Tries one thing.
    ///
    /// # Errors
    /// It does not work, or it works with another TTL or source address than it should.
    pub fn check(&self, check: Check) -> Result<()> {
        let Self { kind, from, to } = self;
        let result = match check {
            Check::Ping(size) => self.ping(size),
            Check::Tcp(size) => probe::tcp_exchange(from, to, size as u64).and_then(|seen| self.source(seen)),
            Check::Udp(size) => probe::udp_echo(from, to, size).and_then(|seen| self.source(seen)),
        };
        result.with_context(|| format!("{}, {}: {from} to {to}", kind.name(), check.name()))
    }

    fn ping(&self, size: usize) -> Result<()> {
        let Self { kind, from, to } = self;
        let report = Ping::to(to.address).size(size).from(&from.namespace)?;
        ensure!(report.received == report.sent, "no answer");
        if report.ttl != kind.ttl() {
            bail!("the answer has TTL {} and should have {}", report.ttl, kind.ttl());
        }
        Ok(())
    }

    /// The other side must see who it really is.
    fn source(&self, seen: IpAddr) -> Result<()> {
        ensure!(seen == self.from.address, "{} saw the source {seen} instead of {}", self.to.name, self.from.address);
        Ok(())
    }
}

/// Every ordered pair of pods, and of node and pod, grouped by kind.
pub fn pairs(places: &[Place]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for from in places {
        for to in places.iter().filter(|to| to.name != from.name) {
            let kind = Kind::of(from, to);
            pairs.extend(kind.map(|kind| Pair { kind, from: from.clone(), to: to.clone() }));
        }
    }
    pairs.sort_by_key(|pair| pair.kind);
    pairs
}

// === impl Lab: pairs ===

impl Lab {
    /// Every ordered pair of pods, and of node and pod, grouped by kind.
    ///
    /// # Errors
    /// A namespace has been removed by somebody else.
    pub fn pairs(&self) -> Result<Vec<Pair>> {
        let places: Vec<_> = self.nodes()?.into_iter().chain(self.pods()?).collect();
        Ok(pairs(&places))
    }

    /// Tries everything between all pairs.
    ///
    /// # Errors
    /// All that does not work, a line each.
    pub fn everything_reaches_everything(&self) -> Result<()> {
        let pairs = self.pairs()?;
        let tries = pairs.iter().flat_map(|pair| Check::ALL.map(|check| (pair, check)));
        let failures: Vec<_> = tries.filter_map(|(p, c)| p.check(c).err().map(|e| format!("{e:#}"))).collect();
        ensure!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), pairs.len() * 6, failures.join("\n"));
        Ok(())
    }

    /// Whose address this is, for people.
    pub fn who_is(&self, address: Ipv4Addr) -> Option<String> {
        let node = self.cluster().nodes.iter().find(|(_, n)| n.address == address).map(|(name, _)| name.clone());
        node.or_else(|| {
            self.cluster().pods.iter().find(|(_, p)| p.address == address).map(|(name, _)| name.to_string())
        })
    }
}
