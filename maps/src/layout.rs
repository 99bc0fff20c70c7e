//! Which maps there are, and a hash of all that the two sides must agree on.
//!
//! Each map has a hash of its own, so that an upgrade keeps the maps whose layout it still shares with the running
//! one; [`LAYOUT`], over all of them, names the directory of pins.

use crate::{
    addr::{Addr, Mac, PrefixKey},
    config::{CONFIG_SLOTS, Config, Features},
    counters::{Counter, Hook, Outcome, TRAFFIC_SLOTS},
    drops::DROP_SLOTS,
    endpoint::{Endpoint, EndpointKind},
    event::{Event, EventCounts, EventKind, Readers},
    flow::{Clock, Flow, FlowKey, FlowVerdict, Fragment, FragmentKey, Half, Opener, Way},
    node::Node,
    policy::{Enforcement, Id, Rule, RuleKey},
    route::{Route, RouteKind},
    service::{Affinity, AffinityKey, Backend, BackendKey, Member, Service, ServiceKey, ServiceState},
};

/// The type of a map (`enum bpf_map_type`, include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`, preallocated.
    Hash,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash,
    /// `BPF_MAP_TYPE_RINGBUF`: records, one after the other. It has no keys; `max_entries` is in bytes.
    RingBuf,
}

/// What both sides agree on for one map.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec {
    /// The name in the object, in `bpftool map` (cut to 15 bytes) and of its pin.
    pub name: &'static str,
    /// The map's type.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value (on one CPU).
    pub value_size: u32,
    /// How many entries it can hold.
    pub max_entries: u32,
    /// The fields and variants of key, value and what they contain, in words; part of the hash.
    pub fields: &'static [&'static str],
    /// What it is for, in one line.
    pub purpose: &'static str,
}

/// How many local addresses a node can have: 4,096 pods of one family.
pub const MAX_ENDPOINTS: u32 = 4_096;
/// How many prefixes: blocks of all nodes, their own addresses, and single addresses outside their node's blocks.
pub const MAX_ROUTES: u32 = 131_072;
/// How many other nodes.
pub const MAX_NODES: u32 = 16_384;

/// How many slots of policies: one for each pod, and slot 0, which is nobody's.
pub const MAX_SLOTS: u32 = MAX_ENDPOINTS + 1;
/// How many pods' addresses can have an identity of their own.
pub const MAX_IDENTITIES: u32 = 65_536;
/// How many prefixes can have an identity: those that the policies of this node name.
pub const MAX_NETWORKS: u32 = 16_384;
/// How many rules: for each policy of this node and each identity that it allows, the ports.
pub const MAX_RULES: u32 = 262_144;
/// How many flows: 52 MiB. When all are in use, packets are judged one by one.
pub const MAX_FLOWS: u32 = 262_144;
/// How many packets can be in fragments at once.
pub const MAX_FRAGMENTS: u32 = 8_192;
/// How many bytes of events, a power of two: 10,000 events that nobody has read yet.
pub const EVENT_BYTES: u32 = 1 << 20;
/// How many ports of Services, each of their addresses counted.
pub const MAX_SERVICES: u32 = 16_384;
/// How many backends all sets have together, old and new ones while they change.
pub const MAX_BACKENDS: u32 = 65_536;
/// How many clients' choices are remembered for Services with session affinity.
pub const MAX_AFFINITIES: u32 = 16_384;

/// Address to pod or host, on this node. Key [`Addr`], value [`Endpoint`].
pub const ENDPOINTS: MapSpec = MapSpec {
    name: "endpoints",
    kind: MapKind::Hash,
    key_size: size_of::<Addr>() as u32,
    value_size: size_of::<Endpoint>() as u32,
    max_entries: MAX_ENDPOINTS,
    fields: &[Addr::FIELDS, Endpoint::FIELDS, EndpointKind::FIELDS, Mac::FIELDS],
    purpose: "addresses of this node's pods and of the node itself",
};

/// Prefix to node. Key [`PrefixKey`], value [`Route`].
pub const ROUTES: MapSpec = MapSpec {
    name: "routes",
    kind: MapKind::LpmTrie,
    key_size: size_of::<PrefixKey>() as u32,
    value_size: size_of::<Route>() as u32,
    max_entries: MAX_ROUTES,
    fields: &[PrefixKey::FIELDS, Addr::FIELDS, Route::FIELDS, RouteKind::FIELDS, Mac::FIELDS],
    purpose: "which node has which block of addresses",
};

/// Other nodes by their address. Key [`Addr`], value [`Node`].
pub const NODES: MapSpec = MapSpec {
    name: "nodes",
    kind: MapKind::Hash,
    key_size: size_of::<Addr>() as u32,
    value_size: size_of::<Node>() as u32,
    max_entries: MAX_NODES,
    fields: &[Addr::FIELDS, Node::FIELDS, Mac::FIELDS],
    purpose: "nodes whose VXLAN packets are accepted",
};

/// The node's own data. Key index 0, value [`Config`].
pub const CONFIG: MapSpec = MapSpec {
    name: "config",
    kind: MapKind::Array,
    key_size: 4,
    value_size: size_of::<Config>() as u32,
    max_entries: CONFIG_SLOTS,
    fields: &[Config::FIELDS, Addr::FIELDS, Features::FIELDS, Mac::FIELDS],
    purpose: "what the programs know about their own node",
};

/// Packets and bytes by hook and outcome. Key [`crate::counters::traffic_slot`], value [`Counter`].
pub const TRAFFIC: MapSpec = MapSpec {
    name: "traffic",
    kind: MapKind::PerCpuArray,
    key_size: 4,
    value_size: size_of::<Counter>() as u32,
    max_entries: TRAFFIC_SLOTS,
    fields: &[Hook::FIELDS, Outcome::FIELDS, Counter::FIELDS],
    purpose: "packets and bytes by hook and outcome",
};

/// Packets and bytes by reason. Key [`crate::DropReason`], value [`Counter`].
pub const DROPS: MapSpec = MapSpec {
    name: "drops",
    kind: MapKind::PerCpuArray,
    key_size: 4,
    value_size: size_of::<Counter>() as u32,
    max_entries: DROP_SLOTS,
    fields: &[Counter::FIELDS],
    purpose: "dropped packets and bytes by reason",
};

/// Slot to policies, for each pod of this node. Key index, value [`Enforcement`].
pub const ENFORCEMENT: MapSpec = MapSpec {
    name: "enforcement",
    kind: MapKind::Array,
    key_size: 4,
    value_size: size_of::<Enforcement>() as u32,
    max_entries: MAX_SLOTS,
    fields: &[Enforcement::FIELDS, Id::FIELDS],
    purpose: "which policies are in force for each pod of this node",
};

/// Pod's address to identity. Key [`Addr`], value [`Id`].
pub const IDENTITIES: MapSpec = MapSpec {
    name: "identities",
    kind: MapKind::Hash,
    key_size: size_of::<Addr>() as u32,
    value_size: size_of::<Id>() as u32,
    max_entries: MAX_IDENTITIES,
    fields: &[Addr::FIELDS, Id::FIELDS],
    purpose: "which peers of policies a pod's address matches",
};

/// Prefix to identity. Key [`PrefixKey`], value [`Id`].
pub const NETWORKS: MapSpec = MapSpec {
    name: "networks",
    kind: MapKind::LpmTrie,
    key_size: size_of::<PrefixKey>() as u32,
    value_size: size_of::<Id>() as u32,
    max_entries: MAX_NETWORKS,
    fields: &[PrefixKey::FIELDS, Addr::FIELDS, Id::FIELDS],
    purpose: "which peers of policies any other address matches",
};

/// What policies allow. Key [`RuleKey`], value [`Rule`].
pub const RULES: MapSpec = MapSpec {
    name: "rules",
    kind: MapKind::LpmTrie,
    key_size: size_of::<RuleKey>() as u32,
    value_size: size_of::<Rule>() as u32,
    max_entries: MAX_RULES,
    fields: &[RuleKey::FIELDS, Id::FIELDS, Rule::FIELDS],
    purpose: "what each policy allows, by identity, protocol and port",
};

/// The flow table. Key [`FlowKey`], value [`Flow`].
pub const FLOWS: MapSpec = MapSpec {
    name: "flows",
    kind: MapKind::Hash,
    key_size: size_of::<FlowKey>() as u32,
    value_size: size_of::<Flow>() as u32,
    max_entries: MAX_FLOWS,
    fields: &[
        FlowKey::FIELDS,
        Flow::FIELDS,
        Half::FIELDS,
        Mac::FIELDS,
        FlowVerdict::FIELDS,
        Opener::FIELDS,
        Way::FIELDS,
        Id::FIELDS,
    ],
    purpose: "connections: verdict, state and way of both directions",
};

/// Ports of packets in fragments. Key [`FragmentKey`], value [`Fragment`].
pub const FRAGMENTS: MapSpec = MapSpec {
    name: "fragments",
    kind: MapKind::LruHash,
    key_size: size_of::<FragmentKey>() as u32,
    value_size: size_of::<Fragment>() as u32,
    max_entries: MAX_FRAGMENTS,
    fields: &[FragmentKey::FIELDS, Addr::FIELDS, Fragment::FIELDS],
    purpose: "the ports of packets that come in fragments",
};

/// The time, for flows. Key index 0, value [`Clock`].
pub const CLOCK: MapSpec = MapSpec {
    name: "clock",
    kind: MapKind::Array,
    key_size: 4,
    value_size: size_of::<Clock>() as u32,
    max_entries: 1,
    fields: &[Clock::FIELDS],
    purpose: "seconds since boot, set by the agent",
};

/// Service to its backends. Key [`ServiceKey`], value [`Service`].
pub const SERVICES: MapSpec = MapSpec {
    name: "services",
    kind: MapKind::Hash,
    key_size: size_of::<ServiceKey>() as u32,
    value_size: size_of::<Service>() as u32,
    max_entries: MAX_SERVICES,
    fields: &[ServiceKey::FIELDS, Addr::FIELDS, Service::FIELDS, ServiceState::FIELDS, Id::FIELDS],
    purpose: "ports of Services: which set of backends stands for each",
};

/// Set and index to backend. Key [`BackendKey`], value [`Backend`].
pub const BACKENDS: MapSpec = MapSpec {
    name: "backends",
    kind: MapKind::Hash,
    key_size: size_of::<BackendKey>() as u32,
    value_size: size_of::<Backend>() as u32,
    max_entries: MAX_BACKENDS,
    fields: &[BackendKey::FIELDS, Id::FIELDS, Backend::FIELDS, Addr::FIELDS],
    purpose: "the backends of each set",
};

/// Set and backend to index. Key [`Member`], value `u32`.
pub const MEMBERS: MapSpec = MapSpec {
    name: "members",
    kind: MapKind::Hash,
    key_size: size_of::<Member>() as u32,
    value_size: 4,
    max_entries: MAX_BACKENDS,
    fields: &[Member::FIELDS, Id::FIELDS, Backend::FIELDS, Addr::FIELDS],
    purpose: "whether a backend is still one of a set",
};

/// Client and Service to backend. Key [`AffinityKey`], value [`Affinity`].
pub const AFFINITY: MapSpec = MapSpec {
    name: "affinity",
    kind: MapKind::LruHash,
    key_size: size_of::<AffinityKey>() as u32,
    value_size: size_of::<Affinity>() as u32,
    max_entries: MAX_AFFINITIES,
    fields: &[AffinityKey::FIELDS, ServiceKey::FIELDS, Affinity::FIELDS, Backend::FIELDS, Addr::FIELDS],
    purpose: "which backend a client of a Service with session affinity keeps",
};

/// What happens, for whoever reads: records of [`Event`].
pub const EVENTS: MapSpec = MapSpec {
    name: "events",
    kind: MapKind::RingBuf,
    key_size: 0,
    value_size: 0,
    max_entries: EVENT_BYTES,
    fields: &[Event::FIELDS, EventKind::FIELDS, FlowVerdict::FIELDS, Way::FIELDS, Addr::FIELDS, Id::FIELDS],
    purpose: "drops and new flows as they happen, while somebody reads",
};

/// Whether anybody reads. Key index 0, value [`Readers`].
pub const READERS: MapSpec = MapSpec {
    name: "readers",
    kind: MapKind::Array,
    key_size: 4,
    value_size: size_of::<Readers>() as u32,
    max_entries: 1,
    fields: &[Readers::FIELDS],
    purpose: "until when somebody reads events",
};

/// Events told of and lost. Key index 0, value [`EventCounts`].
pub const EVENT_COUNTS: MapSpec = MapSpec {
    name: "event_counts",
    kind: MapKind::PerCpuArray,
    key_size: 4,
    value_size: size_of::<EventCounts>() as u32,
    max_entries: 1,
    fields: &[EventCounts::FIELDS],
    purpose: "how many events were lost",
};

/// Every map, in the order in which they are documented and listed.
pub const MAPS: [MapSpec; 20] = [
    ENDPOINTS,
    ROUTES,
    NODES,
    CONFIG,
    ENFORCEMENT,
    IDENTITIES,
    NETWORKS,
    RULES,
    SERVICES,
    BACKENDS,
    MEMBERS,
    AFFINITY,
    FLOWS,
    FRAGMENTS,
    CLOCK,
    TRAFFIC,
    DROPS,
    EVENTS,
    READERS,
    EVENT_COUNTS,
];

/// The hash of everything in [`MAPS`]: FNV-1a, 32 bits (a directory's name, not a secret).
pub const LAYOUT: u32 = {
    let mut hash = FNV_OFFSET;
    let mut i = 0;
    while i < MAPS.len() {
        hash = MAPS[i].layout_from(hash);
        i += 1;
    }
    hash
};

/// FNV-1a's offset basis and prime for 32 bits (draft-eastlake-fnv, section 5).
const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

/// `hash` continued over `bytes`.
const fn fnv(mut hash: u32, bytes: &[u8]) -> u32 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(FNV_PRIME);
        i += 1;
    }
    hash
}

// === impl MapSpec ===

impl MapSpec {
    /// The hash of this map alone: equal hashes, interchangeable maps.
    pub const fn layout(&self) -> u32 {
        self.layout_from(FNV_OFFSET)
    }

    const fn layout_from(&self, hash: u32) -> u32 {
        // `purpose` is for readers and stays out.
        let Self { name, kind, key_size, value_size, max_entries, fields, purpose: _ } = self;
        let hash = fnv(hash, name.as_bytes());
        let hash = fnv(hash, &[*kind as u8]);
        let hash = fnv(hash, &key_size.to_le_bytes());
        let hash = fnv(hash, &value_size.to_le_bytes());
        let hash = fnv(hash, &max_entries.to_le_bytes());
        let mut i = 0;
        let mut hash = hash;
        while i < fields.len() {
            hash = fnv(hash, fields[i].as_bytes());
            i += 1;
        }
        hash
    }
}
