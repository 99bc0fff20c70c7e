//! Whose packets leave the cluster with the node's address.

use super::*;
use crate::object::testing::pool;

/// The ranges of sources and of all pools, of pools with natOutgoing (`+`) and without.
fn nat(pools: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
    let objects = pools.iter().zip('a'..).map(|(text, name)| {
        let (cidr, nat_outgoing) = text.strip_prefix('+').map_or((*text, false), |cidr| (cidr, true));
        pool(&name.to_string(), cidr, nat_outgoing).into()
    });
    let text = |ranges: BTreeSet<IpNet>| ranges.iter().map(ToString::to_string).collect();
    let Nat { sources, pools } = good(two_nodes().into_iter().chain(objects).collect(), &host("192.0.2.1", &[])).nat?;
    Some((text(sources), text(pools)))
}

fn ranges<const N: usize, const M: usize>(sources: [&str; N], pools: [&str; M]) -> Option<(Vec<String>, Vec<String>)> {
    Some((sources.map(str::to_owned).to_vec(), pools.map(str::to_owned).to_vec()))
}

#[test]
fn nothing_is_translated_unless_a_pool_asks() {
    assert_eq!(nat(&[]), None);
    assert_eq!(nat(&["10.0.0.0/16", "10.1.0.0/16"]), None);
    assert_eq!(nat(&["10.0.0.0/16", "+fd00::/64"]), None, "IPv6 is not planned for yet");
}

#[test]
fn sources_are_the_pools_that_ask_and_pools_all() {
    assert_eq!(nat(&["+10.1.0.0/16", "10.4.0.0/16"]), ranges(["10.1.0.0/16"], ["10.1.0.0/16", "10.4.0.0/16"]));
}

#[test]
fn neighbours_are_one_range() {
    assert_eq!(nat(&["+10.2.0.0/16", "+10.3.0.0/16"]), ranges(["10.2.0.0/15"], ["10.2.0.0/15"]));
}

#[test]
fn an_address_is_of_the_smallest_pool_around_it() {
    assert_eq!(
        nat(&["+10.0.0.0/8", "10.128.0.0/10"]),
        ranges(["10.0.0.0/9", "10.192.0.0/10"], ["10.0.0.0/8"]),
        "one inside that does not ask"
    );
    assert_eq!(nat(&["10.0.0.0/8", "+10.1.0.0/16"]), ranges(["10.1.0.0/16"], ["10.0.0.0/8"]), "one that does");
    assert_eq!(
        nat(&["+10.0.0.0/8", "10.0.0.0/9", "+10.0.0.0/24"]),
        ranges(["10.0.0.0/24", "10.128.0.0/9"], ["10.0.0.0/8"]),
        "three deep"
    );
    for twice in [["+10.0.0.0/8", "10.0.0.0/8"], ["10.0.0.0/8", "+10.0.0.0/8"]] {
        assert_eq!(nat(&twice), ranges(["10.0.0.0/8"], ["10.0.0.0/8"]), "the same twice");
    }
}
