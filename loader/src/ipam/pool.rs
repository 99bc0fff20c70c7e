//! Which pools an address may come from.
//!
//! In: IPPools, and who asks. Out: the pools in the order in which they are tried. Never: a pool that is disabled, of
//! the other family, or not meant for what is asked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::cidr::{self, Family};
use super::selector::Selector;
use crate::crd::{DEFAULT_BLOCK_LEN_V4, DEFAULT_BLOCK_LEN_V6, IpPool};
use crate::problem::Problem;

/// The largest block has so many host bits: 4,096 addresses (Calico allows /20 to /32 and /116 to /128).
const MAX_HOST_BITS: u8 = 12;

/// A pool that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// `metadata.name`.
    pub name: String,
    /// The range.
    pub cidr: IpNet,
    /// The length of its blocks' prefixes.
    pub block_len: u8,
    /// Whether nothing more is given out: disabled, or being deleted.
    pub disabled: bool,
    /// Whether pods' packets that leave all pools get their node's address.
    pub nat_outgoing: bool,
    /// Whether it has VXLAN, for some nodes at least.
    pub vxlan: bool,
    /// Whether those get addresses who did not ask for this pool.
    pub automatic: bool,
    nodes: Selector,
    namespaces: Selector,
    uses: Vec<Use>,
}

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A pod.
    Workload,
    /// A node's end of the overlay.
    Tunnel,
}

/// Who asks for an address.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The family.
    pub family: Family,
    /// What for.
    pub what_for: Use,
    /// The labels of the node.
    pub node_labels: &'a BTreeMap<String, String>,
    /// The labels of the pod's namespace; none for a tunnel.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// Names or ranges of the pools that are asked for; empty: any that fits.
    pub wanted: &'a [String],
}

// === impl Pool ===

impl Pool {
    /// Reads a pool.
    ///
    /// # Errors
    /// It makes no sense; nothing is given out from it until it does.
    pub fn read(pool: &IpPool) -> Result<Self, Problem> {
        let name = pool.metadata.name.clone().unwrap_or_default();
        let problem = |what: String, remedy: &str| Problem::new(format!("IPPool {name}"), what, remedy);
        let spec = &pool.spec;
        let cidr: IpNet = spec.cidr.trim().parse().map_err(|_unreadable| {
            problem(format!("`{}` is not a CIDR block", spec.cidr), "make the pool again with a good spec.cidr")
        })?;
        let cidr = cidr.trunc();
        let default = if cidr.addr().is_ipv4() { DEFAULT_BLOCK_LEN_V4 } else { DEFAULT_BLOCK_LEN_V6 };
        let block_len = spec.block_size.filter(|len| *len != 0).unwrap_or(default);
        let shortest = cidr.prefix_len().max(cidr.max_prefix_len() - MAX_HOST_BITS);
        if !(shortest..=cidr.max_prefix_len()).contains(&block_len) {
            return Err(problem(
                format!("blocks of /{block_len} do not fit into {cidr}"),
                &format!("make the pool again with a spec.blockSize from {shortest} to {}", cidr.max_prefix_len()),
            ));
        }
        let selector = |text: &Option<String>, field: &str| {
            Selector::parse(text.as_deref().unwrap_or_default())
                .map_err(|error| problem(error.to_string(), &format!("correct {field}")))
        };
        Ok(Self {
            cidr,
            block_len,
            disabled: spec.disabled || pool.metadata.deletion_timestamp.is_some(),
            nat_outgoing: spec.nat_outgoing,
            vxlan: matches!(spec.vxlan_mode.as_deref(), Some("Always" | "CrossSubnet")),
            automatic: spec.assignment_mode.as_deref() != Some("Manual"),
            nodes: selector(&spec.node_selector, "spec.nodeSelector")?,
            namespaces: selector(&spec.namespace_selector, "spec.namespaceSelector")?,
            uses: uses(spec.allowed_uses.as_deref().unwrap_or_default()),
            name: name.clone(),
        })
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.cidr.addr())
    }

    /// Whether a node with these labels may have blocks of it.
    pub fn selects_node(&self, labels: &BTreeMap<String, String>) -> bool {
        self.nodes.matches(labels)
    }

    /// Whether pods of all namespaces may use it.
    pub fn takes_any_namespace(&self) -> bool {
        self.namespaces == Selector::default()
    }

    /// Whether it is meant for this.
    pub fn allows(&self, what_for: Use) -> bool {
        self.uses.contains(&what_for)
    }

    /// The block in which an address of the pool is.
    pub fn block_of(&self, ip: IpAddr) -> Option<IpNet> {
        cidr::block_of(self.cidr, self.block_len, ip)
    }

    fn is_called(&self, wanted: &str) -> bool {
        self.name == wanted || wanted.parse::<IpNet>().is_ok_and(|net| net.trunc() == self.cidr)
    }
}

/// Unknown uses are for somebody else.
fn uses(texts: &[String]) -> Vec<Use> {
    if texts.is_empty() {
        return vec![Use::Workload, Use::Tunnel];
    }
    let read = |text: &String| match text.as_str() {
        "Workload" => Some(Use::Workload),
        "Tunnel" => Some(Use::Tunnel),
        _ => None,
    };
    texts.iter().filter_map(read).collect()
}

/// The pools for who asks, by name, or in the order of `wanted`. Who asks for a pool gets it whatever its selectors
/// say, as with Calico.
///
/// # Errors
/// There is none, and why, as part of a sentence.
pub fn choose<'p>(pools: &'p [Pool], asking: &Asking<'_>) -> Result<Vec<&'p Pool>, String> {
    let open = || pools.iter().filter(|pool| pool.family() == asking.family && !pool.disabled);
    let mut chosen: Vec<&Pool> = Vec::new();
    for wanted in asking.wanted {
        let pool = open().find(|pool| pool.is_called(wanted));
        chosen.push(pool.ok_or_else(|| format!("there is no enabled {} pool `{wanted}`", asking.family))?);
    }
    if asking.wanted.is_empty() {
        chosen = open().filter(|pool| pool.automatic).collect();
        chosen.sort_by(|a, b| a.name.cmp(&b.name));
        if chosen.is_empty() {
            return Err(format!("there is no enabled {} pool", asking.family));
        }
        chosen.retain(|pool| pool.selects_node(asking.node_labels));
        if chosen.is_empty() {
            return Err("no enabled pool's nodeSelector selects the node".to_owned());
        }
        chosen.retain(|pool| pool.namespaces.matches(asking.namespace_labels));
        if chosen.is_empty() {
            return Err("no enabled pool's namespaceSelector selects the pod's namespace".to_owned());
        }
    }
    chosen.retain(|pool| pool.allows(asking.what_for));
    if chosen.is_empty() {
        return Err(format!("no enabled pool has {:?} among its allowedUses", asking.what_for));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::IpPoolSpec;

    fn pool(name: &str, cidr: &str, change: impl FnOnce(&mut IpPoolSpec)) -> Pool {
        Pool::read(&object(name, cidr, change)).unwrap_or_else(|problem| panic!("{problem}"))
    }

    fn object(name: &str, cidr: &str, change: impl FnOnce(&mut IpPoolSpec)) -> IpPool {
        let mut spec = IpPoolSpec { cidr: cidr.to_owned(), ..IpPoolSpec::default() };
        change(&mut spec);
        IpPool::new(name, spec)
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn pools_have_calicos_defaults() {
        let v4 = pool("a", "10.0.0.9/16", |_| {});
        assert_eq!((v4.cidr.to_string().as_str(), v4.block_len), ("10.0.0.0/16", 26));
        assert!(v4.allows(Use::Workload) && v4.allows(Use::Tunnel) && v4.automatic && !v4.disabled && !v4.vxlan);
        assert_eq!(pool("a", "fd00::/48", |_| {}).block_len, 122);
        assert_eq!(pool("a", "fd00::/48", |p| p.block_size = Some(0)).block_len, 122);
        let deleted = {
            let mut object = object("a", "10.0.0.0/16", |_| {});
            object.metadata.deletion_timestamp = serde_json::from_str("\"2026-01-02T03:04:05Z\"").unwrap();
            Pool::read(&object).unwrap()
        };
        assert!(deleted.disabled);
    }

    #[test]
    fn pools_that_make_no_sense_say_so() {
        for (cidr, len, selector, part) in [
            ("10.0.0.0", None, "", "`10.0.0.0` is not a CIDR block"),
            (
                "10.0.0.0/27",
                None,
                "",
                "blocks of /26 do not fit into 10.0.0.0/27; make the pool again with a spec.blockSize from 27 to 32",
            ),
            ("10.0.0.0/8", Some(19), "", "from 20 to 32"),
            ("10.0.0.0/8", Some(33), "", "blocks of /33"),
            ("fd00::/64", Some(64), "", "from 116 to 128"),
            ("10.0.0.0/8", None, "has(", "at character 5 of the selector `has(`"),
        ] {
            let object = object("p", cidr, |p| {
                p.block_size = len;
                p.node_selector = text(selector);
            });
            let problem = Pool::read(&object).unwrap_err().to_string();
            assert!(problem.starts_with("IPPool p: ") && problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn the_pools_that_fit_are_chosen() {
        let pools = [
            pool("z-all", "10.0.0.0/16", |_| {}),
            pool("a-west", "10.1.0.0/16", |p| p.node_selector = text("zone == 'west'")),
            pool("b-off", "10.2.0.0/16", |p| p.disabled = true),
            pool("c-tunnel", "10.3.0.0/16", |p| p.allowed_uses = Some(vec!["Tunnel".to_owned()])),
            pool("d-shop", "10.4.0.0/16", |p| p.namespace_selector = text("team == 'shop'")),
            pool("e-manual", "10.5.0.0/16", |p| p.assignment_mode = text("Manual")),
            pool("f-lb", "10.6.0.0/16", |p| p.allowed_uses = Some(vec!["LoadBalancer".to_owned()])),
            pool("six", "fd00::/48", |_| {}),
        ];
        let west = BTreeMap::from([("zone".to_owned(), "west".to_owned())]);
        let shop = BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
        let none = BTreeMap::new();
        let names = |family, what_for, node_labels, namespace_labels, wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
            let asking = Asking { family, what_for, node_labels, namespace_labels, wanted: &wanted };
            choose(&pools, &asking).map(|pools| pools.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(" "))
        };
        let ok = |text: &str| Ok(text.to_owned());
        use Family::{V4, V6};
        use Use::{Tunnel, Workload};
        assert_eq!(names(V4, Workload, &none, &none, &[]), ok("z-all"));
        assert_eq!(names(V4, Workload, &west, &none, &[]), ok("a-west z-all"));
        assert_eq!(names(V4, Workload, &west, &shop, &[]), ok("a-west d-shop z-all"));
        assert_eq!(names(V4, Tunnel, &none, &none, &[]), ok("c-tunnel z-all"));
        assert_eq!(names(V6, Workload, &none, &none, &[]), ok("six"));
        assert_eq!(names(V4, Workload, &none, &none, &["e-manual", "10.1.0.0/16"]), ok("e-manual a-west"));
        let error = |text: &str| Err(text.to_owned());
        assert_eq!(names(V4, Workload, &none, &none, &["b-off"]), error("there is no enabled IPv4 pool `b-off`"));
        assert_eq!(names(V6, Workload, &none, &none, &["z-all"]), error("there is no enabled IPv6 pool `z-all`"));
        assert_eq!(
            names(V4, Workload, &none, &none, &["c-tunnel"]),
            error("no enabled pool has Workload among its allowedUses")
        );
        let only = |pool: &Pool, node_labels| {
            let asking = Asking { family: V4, what_for: Workload, node_labels, namespace_labels: &none, wanted: &[] };
            choose(std::slice::from_ref(pool), &asking).map(|_| ()).unwrap_err()
        };
        assert!(only(&pools[1], &none).contains("nodeSelector"));
        assert!(only(&pools[4], &none).contains("namespaceSelector"));
        assert_eq!(only(&pools[7], &none), "there is no enabled IPv4 pool");
    }
}
