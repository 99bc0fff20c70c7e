//! How the contract's types look to people and in JSON: addresses as addresses, MACs as MACs, names for enums.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Serialize, Serializer};

use crate::{
    addr::{Addr, Mac, PrefixKey, V4_PREFIX_BITS},
    config::{Config, Features},
    counters::{Hook, Outcome},
    drops::DropReason,
    endpoint::{Endpoint, EndpointKind},
    event::EventKind,
    flow::{Flow, FlowKey, FlowVerdict, Way},
    layout::{MapKind, MapSpec},
    node::Node,
    policy::{Id, RuleKey},
    protocol::{ICMP, SCTP, TCP, UDP},
    route::{Route, RouteKind},
    service::ServiceState,
};

// === Addr ===

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self { bytes: v6.octets() },
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4(ip.octets())
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() { Self::V4(addr.v4().into()) } else { Self::V6(Ipv6Addr::from(addr.bytes)) }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

// === PrefixKey ===

impl From<IpNet> for PrefixKey {
    fn from(net: IpNet) -> Self {
        let skipped = if matches!(net, IpNet::V4(_)) { V4_PREFIX_BITS } else { 0 };
        Self { prefix_len: u32::from(net.prefix_len()) + skipped, addr: net.network().into() }
    }
}

impl PrefixKey {
    /// The key that matches one address.
    pub fn host(addr: Addr) -> Self {
        Self { prefix_len: 128, addr }
    }

    /// As a CIDR. A prefix that is longer than its family allows, which only damage could bring about, is cut to it.
    pub fn net(&self) -> IpNet {
        let len = self.prefix_len.min(128) as u8;
        match IpAddr::from(self.addr) {
            IpAddr::V4(v4) if self.prefix_len >= V4_PREFIX_BITS => {
                IpNet::V4(Ipv4Net::new_assert(v4, len - V4_PREFIX_BITS as u8))
            }
            _ => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(self.addr.bytes), len)),
        }
    }
}

impl fmt::Display for PrefixKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.net().fmt(f)
    }
}

// === Mac ===

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.bytes;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

/// The text is not six hexadecimal bytes joined by colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address: expected six bytes like 66:1f:00:a2:4b:0c")]
pub struct ParseMacError;

impl std::str::FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(ParseMacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_not_hex| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(Self { bytes }) }
    }
}

// === policy and flows ===

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:016x}", u64::from_be_bytes(self.bytes)))
    }
}

impl fmt::Display for RuleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix_len, policy, identity, protocol, pad: _, port_be } = *self;
        write!(f, "policy {policy} identity {identity}")?;
        if prefix_len > Self::ANY_PROTOCOL {
            write!(f, " {}", protocol_name(protocol))?;
        }
        match prefix_len.saturating_sub(Self::ANY_PORT) {
            0 => Ok(()),
            bits => {
                let first = u16::from_be_bytes(port_be);
                let last = first | u16::MAX.checked_shr(bits).unwrap_or_default();
                if first == last { write!(f, " port {first}") } else { write!(f, " ports {first}-{last}") }
            }
        }
    }
}

impl FlowKey {
    /// The key of the flow between two ends, each an IPv4 address and a port.
    pub fn between(a: (Addr, u16), b: (Addr, u16), protocol: u8) -> Self {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let [low_port_be, high_port_be] = [low.1, high.1].map(u16::to_be_bytes);
        Self { low_v4: low.0.v4(), high_v4: high.0.v4(), low_port_be, high_port_be, protocol, pad: [0; 3] }
    }

    /// The two ends of the flow, who opened it first.
    pub fn ends(&self, opener: u32) -> [(Addr, u16); 2] {
        let (low, high) = ((self.low(), self.low_port()), (self.high(), self.high_port()));
        if opener == 0 { [low, high] } else { [high, low] }
    }

    /// The lower end's port.
    pub fn low_port(&self) -> u16 {
        u16::from_be_bytes(self.low_port_be)
    }

    /// The higher end's port.
    pub fn high_port(&self) -> u16 {
        u16::from_be_bytes(self.high_port_be)
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high, protocol) = (self.low(), self.high(), self.protocol);
        write!(f, "{} {low}:{} {high}:{}", protocol_name(protocol), self.low_port(), self.high_port())
    }
}

/// A protocol's usual name, or its number (IANA, protocol numbers).
pub fn protocol_name(protocol: u8) -> std::borrow::Cow<'static, str> {
    match protocol {
        ICMP => "ICMP".into(),
        TCP => "TCP".into(),
        UDP => "UDP".into(),
        58 => "ICMPv6".into(),
        SCTP => "SCTP".into(),
        other => format!("protocol {other}").into(),
    }
}

// === impl Flow ===

impl Flow {
    /// Of an entry that leads to a backend: the key of the flow to it. `key`: the entry's own.
    pub fn leads_to(&self, key: &FlowKey) -> Option<FlowKey> {
        if self.verdict != FlowVerdict::Translated {
            return None;
        }
        let [(from, from_port), _service] = key.ends(self.opener.half());
        // A pod that has reached itself: see `Addr::GATEWAY`.
        let (backend, port) = self.nat()?;
        let from = if from == backend { Addr::GATEWAY } else { from };
        Some(FlowKey::between((from, from_port), (backend, port), key.protocol))
    }

    /// The backend, or the Service's address, with its port: see `nat_v4`.
    pub fn nat(&self) -> Option<(Addr, u16)> {
        let translated = self.nat_v4 != [0; 4];
        translated.then(|| (Addr::from_v4(self.nat_v4), u16::from_be_bytes(self.nat_port_be)))
    }
}

// === enums ===

/// Both `Display` and `Serialize` from a method `name`.
macro_rules! by_name {
    ($($type:ty),+) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.name())
            }
        }
    )+};
}

by_name!(Hook, Outcome, DropReason, EndpointKind, RouteKind, MapKind, FlowVerdict, Way, EventKind, ServiceState);

impl EndpointKind {
    /// The word that tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Workload => "workload",
        }
    }
}

impl RouteKind {
    /// The word that tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

impl FlowVerdict {
    /// The word that tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Allowed => "allowed",
            Self::EgressDenied => "egress denied",
            Self::IngressDenied => "ingress denied",
            Self::Translated => "translated",
        }
    }
}

impl EventKind {
    /// The word that tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Flow => "flow",
        }
    }
}

impl Way {
    /// The word that tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Host => "host",
            Self::Pod => "pod",
            Self::Node => "node",
        }
    }
}

impl ServiceState {
    /// The words that tables show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::NoEndpoints => "no endpoints",
            Self::NoneHere => "no endpoint on this node",
        }
    }
}

impl MapKind {
    /// The name that bpftool uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::LpmTrie => "lpm_trie",
            Self::Array => "array",
            Self::PerCpuArray => "percpu_array",
            Self::LruHash => "lru_hash",
            Self::RingBuf => "ringbuf",
        }
    }
}

// === Features ===

impl Features {
    const NAMES: [(u32, &'static str); 3] =
        [(Self::OWN_ENCAP, "own_encap"), (Self::OWN_DECAP, "own_decap"), (Self::ENCAP_L2_ETH, "encap_l2_eth")];

    /// The names of the bits that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(bit, _)| self.has(*bit)).map(|(_, name)| name)
    }
}

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.names())
    }
}

// === serde of the structs: what bpftool shows as bytes, as people write it ===

/// `Serialize` as the text of `Display`.
macro_rules! as_text {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    )+};
}

as_text!(Addr, PrefixKey, Mac, Id, FlowKey);

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            kind: EndpointKind,
            ifindex: u32,
            mac: Mac,
            slot: u32,
        }
        let Self { kind, ifindex, mac, pad: _, slot } = *self;
        View { kind, ifindex, mac, slot }.serialize(s)
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            kind: RouteKind,
            ifindex: u32,
            node: Addr,
            next_hop: Addr,
            mac: Mac,
        }
        let Self { kind, ifindex, node, next_hop, mac, pad: _ } = *self;
        View { kind, ifindex, node, next_hop, mac }.serialize(s)
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            mac: Mac,
        }
        let Self { mac, pad: _ } = *self;
        View { mac }.serialize(s)
    }
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            node: Addr,
            overlay_ifindex: u32,
            overlay_mtu: u32,
            features: Features,
            vni: u32,
            port: u16,
            mac: Mac,
            generation: u32,
            service_generation: u32,
        }
        let Self { node, overlay_ifindex, overlay_mtu, features, vni, port_be, mac, generation, service_generation } =
            *self;
        let port = u16::from_be_bytes(port_be);
        View { node, overlay_ifindex, overlay_mtu, features, vni, port, mac, generation, service_generation }
            .serialize(s)
    }
}

impl MapSpec {
    /// The name as the kernel keeps it: cut to 15 bytes (`BPF_OBJ_NAME_LEN` less its NUL).
    pub fn kernel_name(&self) -> &'static str {
        self.name.get(..15).unwrap_or(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_people_write_them() {
        let cases = ["10.244.1.2", "0.0.0.0", "255.255.255.255", "fd00::1", "::"];
        for text in cases {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::from(ip).to_string(), text);
            assert_eq!(IpAddr::from(Addr::from(ip)), ip);
        }
    }

    #[test]
    fn prefixes_of_both_families_share_one_trie() {
        let cases = [("10.244.1.0/24", 120), ("0.0.0.0/0", 96), ("10.0.0.1/32", 128), ("fd00::/64", 64), ("::/0", 0)];
        for (text, bits) in cases {
            let net: IpNet = text.parse().unwrap();
            let key = PrefixKey::from(net);
            assert_eq!((key.prefix_len, key.net()), (bits, net));
        }
    }

    #[test]
    fn a_prefix_drops_its_host_bits() {
        let net: IpNet = "10.244.1.77/26".parse().unwrap();
        assert_eq!(PrefixKey::from(net).to_string(), "10.244.1.64/26");
    }

    #[test]
    fn macs_are_parsed_strictly() {
        assert_eq!("ee:ee:ee:ee:ee:ee".parse(), Ok(Mac::GATEWAY));
        assert_eq!(Mac::GATEWAY.to_string(), "ee:ee:ee:ee:ee:ee");
        for bad in ["", "ee", "ee:ee:ee:ee:ee", "ee:ee:ee:ee:ee:ee:ee", "e:ee:ee:ee:ee:ee", "zz:ee:ee:ee:ee:ee"] {
            assert_eq!(bad.parse::<Mac>(), Err(ParseMacError), "{bad:?}");
        }
    }

    #[test]
    fn every_drop_reason_has_a_name_and_a_sentence() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        assert!(DropReason::ALL.iter().all(|r| r.explain().ends_with('.')));
    }

    #[test]
    fn the_layout_is_the_hash_of_every_map() {
        let mut hashes: Vec<_> = crate::MAPS.iter().map(|m| m.layout()).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), crate::MAPS.len());
        assert!(!hashes.contains(&crate::LAYOUT));
    }
}
