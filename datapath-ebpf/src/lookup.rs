//! The maps, and the questions that are asked of them. What each costs stands in docs/ARCHITECTURE.md.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    macros::btf_map,
};
use margay_maps::{
    Addr, Config, Counter, Endpoint, EndpointKind, Node, Route, TRAFFIC_SLOTS,
    config::CONFIG_SLOTS,
    drops::DROP_SLOTS,
    layout::{MAX_ENDPOINTS, MAX_NODES, MAX_ROUTES},
};

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

/// See [`margay_maps::layout::TRAFFIC`].
#[btf_map(name = "traffic")]
pub(crate) static TRAFFIC: PerCpuArray<Counter, { TRAFFIC_SLOTS as usize }> = PerCpuArray::new();

/// See [`margay_maps::layout::DROPS`].
#[btf_map(name = "drops")]
pub(crate) static DROPS: PerCpuArray<Counter, { DROP_SLOTS as usize }> = PerCpuArray::new();

/// Who on this node has the address.
#[inline(always)]
pub fn endpoint(addr: &Addr) -> Option<&'static Endpoint> {
    // SAFETY: the element may be overwritten while we read it. Its fields are read once each, each is at most one
    // word, and any mixture of an old and a new endpoint of one address is a delivery to one of the two.
    unsafe { ENDPOINTS.get(addr) }
}

/// Whether the address belongs to the pod behind the interface.
#[inline(always)]
pub fn is_own(addr: &Addr, ifindex: u32) -> bool {
    matches!(endpoint(addr), Some(e) if e.kind == EndpointKind::Workload && e.ifindex == ifindex)
}

/// Which node has the address.
#[inline(always)]
pub fn route(addr: &Addr) -> Option<&'static Route> {
    ROUTES.get(&Key::new(128, *addr))
}

/// Whether the address is another node's, whose overlay packets are believed.
#[inline(always)]
pub fn is_node(addr: &Addr) -> bool {
    // SAFETY: only presence counts; nothing of the element is read.
    unsafe { NODES.get(addr) }.is_some()
}

/// The node's own data; all zero until the agent has written it.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}
