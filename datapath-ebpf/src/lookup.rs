//! The maps, and the questions that are asked of them. What each costs stands in docs/ARCHITECTURE.md.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
    macros::btf_map,
};
use margay_maps::{
    Addr, Affinity, AffinityKey, Backend, BackendKey, Clock, Config, Counter, Endpoint, Enforcement, Event,
    EventCounts, Flow, FlowKey, FlowVerdict, Fragment, FragmentKey, Id, Member, Node, Readers, Route, RouteKind, Rule,
    RuleKey, Service, ServiceKey, TRAFFIC_SLOTS,
    config::CONFIG_SLOTS,
    drops::DROP_SLOTS,
    layout::{
        EVENT_BYTES, MAX_AFFINITIES, MAX_BACKENDS, MAX_ENDPOINTS, MAX_FLOWS, MAX_FRAGMENTS, MAX_IDENTITIES,
        MAX_NETWORKS, MAX_NODES, MAX_ROUTES, MAX_RULES, MAX_SERVICES, MAX_SLOTS,
    },
};

use crate::{service::Choice, tuple::Tuple};

/// See [`margay_maps::layout::ENDPOINTS`].
#[btf_map(name = "endpoints")]
static ENDPOINTS: HashMap<Addr, Endpoint, { MAX_ENDPOINTS as usize }> = HashMap::new();

/// See [`margay_maps::layout::ROUTES`].
#[btf_map(name = "routes")]
static ROUTES: LpmTrie<Addr, Route, { MAX_ROUTES as usize }> = LpmTrie::new();

/// See [`margay_maps::layout::NODES`].
#[btf_map(name = "nodes")]
static NODES: HashMap<Addr, Node, { MAX_NODES as usize }> = HashMap::new();

/// See [`margay_maps::layout::CONFIG`].
#[btf_map(name = "config")]
static CONFIG: Array<Config, { CONFIG_SLOTS as usize }> = Array::new();

/// See [`margay_maps::layout::ENFORCEMENT`].
#[btf_map(name = "enforcement")]
static ENFORCEMENT: Array<Enforcement, { MAX_SLOTS as usize }> = Array::new();

/// See [`margay_maps::layout::IDENTITIES`].
#[btf_map(name = "identities")]
pub(crate) static IDENTITIES: HashMap<Addr, Id, { MAX_IDENTITIES as usize }> = HashMap::new();

/// See [`margay_maps::layout::NETWORKS`].
#[btf_map(name = "networks")]
pub(crate) static NETWORKS: LpmTrie<Addr, Id, { MAX_NETWORKS as usize }> = LpmTrie::new();

/// [`margay_maps::RuleKey`] without its prefix length, which the library adds.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RuleData {
    pub(crate) policy: Id,
    pub(crate) identity: Id,
    pub(crate) protocol: u8,
    pub(crate) pad: u8,
    pub(crate) port_be: [u8; 2],
}

const _: () = assert!(size_of::<RuleData>() + size_of::<u32>() == size_of::<RuleKey>());

/// See [`margay_maps::layout::RULES`].
#[btf_map(name = "rules")]
pub(crate) static RULES: LpmTrie<RuleData, Rule, { MAX_RULES as usize }> = LpmTrie::new();

/// See [`margay_maps::layout::SERVICES`].
#[btf_map(name = "services")]
pub(crate) static SERVICES: HashMap<ServiceKey, Service, { MAX_SERVICES as usize }> = HashMap::new();

/// See [`margay_maps::layout::BACKENDS`].
#[btf_map(name = "backends")]
pub(crate) static BACKENDS: HashMap<BackendKey, Backend, { MAX_BACKENDS as usize }> = HashMap::new();

/// See [`margay_maps::layout::MEMBERS`].
#[btf_map(name = "members")]
pub(crate) static MEMBERS: HashMap<Member, u32, { MAX_BACKENDS as usize }> = HashMap::new();

/// See [`margay_maps::layout::AFFINITY`].
#[btf_map(name = "affinity")]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity, { MAX_AFFINITIES as usize }> = LruHashMap::new();

/// See [`margay_maps::layout::FLOWS`].
#[btf_map(name = "flows")]
pub(crate) static FLOWS: HashMap<FlowKey, Flow, { MAX_FLOWS as usize }> = HashMap::new();

/// Where a new flow is put together: it is too big for the stack. Not pinned; nobody else reads it.
#[btf_map(name = "scratch")]
pub(crate) static SCRATCH: PerCpuArray<Flow, 1> = PerCpuArray::new();

/// The choice of a backend. Not pinned either.
#[btf_map(name = "choice")]
pub(crate) static CHOICE: PerCpuArray<Choice, 1> = PerCpuArray::new();

/// The packet in hand. Not pinned either.
#[btf_map(name = "tuple")]
pub(crate) static TUPLE: PerCpuArray<Tuple, 1> = PerCpuArray::new();

/// See [`margay_maps::layout::FRAGMENTS`].
#[btf_map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, Fragment, { MAX_FRAGMENTS as usize }> = LruHashMap::new();

/// See [`margay_maps::layout::CLOCK`].
#[btf_map(name = "clock")]
static CLOCK: Array<Clock, 1> = Array::new();

/// See [`margay_maps::layout::TRAFFIC`].
#[btf_map(name = "traffic")]
pub(crate) static TRAFFIC: PerCpuArray<Counter, { TRAFFIC_SLOTS as usize }> = PerCpuArray::new();

/// See [`margay_maps::layout::DROPS`].
#[btf_map(name = "drops")]
pub(crate) static DROPS: PerCpuArray<Counter, { DROP_SLOTS as usize }> = PerCpuArray::new();

/// See [`margay_maps::layout::EVENTS`].
#[btf_map(name = "events")]
pub(crate) static EVENTS: RingBuf<Event, { EVENT_BYTES as usize }> = RingBuf::new();

/// See [`margay_maps::layout::READERS`].
#[btf_map(name = "readers")]
static READERS: Array<Readers, 1> = Array::new();

/// See [`margay_maps::layout::EVENT_COUNTS`].
#[btf_map(name = "event_counts")]
pub(crate) static EVENT_COUNTS: PerCpuArray<EventCounts, 1> = PerCpuArray::new();

/// A key on the stack. The compiler clears and copies eight bytes at a time wherever it likes (see `RUSTFLAGS` in xtask), and on
/// the stack the verifier wants them aligned.
#[repr(C, align(8))]
pub(crate) struct Aligned<T>(pub(crate) T);

/// Likewise for a trie: what stands behind the prefix length is aligned.
#[repr(C, align(8))]
pub(crate) struct TrieKey<T> {
    before: u32,
    key: Key<T>,
}

// === impl TrieKey ===

impl<T> TrieKey<T> {
    /// So many bits of `data`.
    #[inline(always)]
    pub(crate) fn new(prefix_len: u32, data: T) -> Self {
        Self { before: 0, key: Key::new(prefix_len, data) }
    }

    /// As the map wants it.
    #[inline(always)]
    pub(crate) fn get(&self) -> &Key<T> {
        &self.key
    }
}

/// Who on this node has the address.
#[inline(always)]
pub fn endpoint(addr: &Addr) -> Option<&'static Endpoint> {
    // SAFETY: the element may be overwritten while we read it. Its fields are read once each, each is at most one
    // word, and any mixture of an old and a new endpoint of one address is a delivery to one of the two.
    unsafe { ENDPOINTS.get(&Aligned(*addr).0) }
}

/// Whether the address belongs to the pod behind the interface.
#[inline(always)]
pub fn is_own(addr: &Addr, ifindex: u32) -> bool {
    endpoint(addr).is_some_and(|local| local.is_behind(ifindex))
}

/// Which node has the address.
#[inline(always)]
pub fn route(addr: &Addr) -> Option<&'static Route> {
    ROUTES.get(TrieKey::new(128, *addr).get())
}

/// Whether the address is of a block of this node.
#[inline(always)]
pub fn is_of_own_block(addr: &Addr) -> bool {
    matches!(route(addr), Some(route) if route.kind == RouteKind::Local)
}

/// Whether the address is another node's, whose overlay packets are believed.
#[inline(always)]
pub fn is_node(addr: &Addr) -> bool {
    // SAFETY: only presence counts; nothing of the element is read.
    unsafe { NODES.get(&Aligned(*addr).0) }.is_some()
}

/// The node's own data; all zero until the agent has written it.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// What is in force for the endpoint with this slot; slot 0 is always there, and says nothing.
#[inline(always)]
pub fn enforcement(slot: u32) -> Option<&'static Enforcement> {
    ENFORCEMENT.get(slot)
}

/// The time in seconds, as the agent last said.
#[inline(always)]
pub fn clock() -> u32 {
    CLOCK.get(0).map_or(0, |clock| clock.seconds)
}

/// Until when somebody reads events, in nanoseconds since boot; 0: nobody does.
#[inline(always)]
pub fn read_until() -> u64 {
    READERS.get(0).map_or(0, |readers| readers.until_ns)
}

/// Whether this flow is known and may pass.
#[inline(always)]
pub fn is_allowed(key: &FlowKey) -> bool {
    // SAFETY: one field is read, once.
    unsafe { FLOWS.get(key) }.is_some_and(|flow| flow.verdict == FlowVerdict::Allowed)
}

/// The ports that the first fragment of a packet had.
#[inline(always)]
pub fn fragment(key: &FragmentKey) -> Option<Fragment> {
    // SAFETY: four bytes that are written at once.
    unsafe { FRAGMENTS.get(&Aligned(*key).0) }.copied()
}

/// Remembers them. Where that fails the other fragments count as without ports.
#[inline(always)]
pub fn remember_fragment(key: &FragmentKey, ports: &Fragment) {
    let _full = FRAGMENTS.insert(&Aligned(*key).0, ports, 0);
}
