//! Text to addresses and blocks, and which object has an address that several name.
//!
//! In: what objects say. Out: addresses with their owners, and a [`Problem`] for each that is unreadable or taken. Never: two owners
//! of one address, or an answer that depends on the order of the objects.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::object::ObjectName;
use crate::problem::Problem;

/// How many bits stand before the IPv4 address in an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2).
pub(super) const MAPPED_BITS: u8 = 96;

/// An object that names an address as its own.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// The address.
    pub address: IpAddr,
    /// The object.
    pub owner: ObjectName,
    /// When it was made, in seconds since 1970 UTC.
    pub created_secs: Option<i64>,
}

/// Reads an address that somebody can have. IPv4 in IPv6's clothes becomes IPv4, since the maps cannot tell them apart.
pub(super) fn read_address(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.trim().parse().map_err(|_unreadable| format!("`{text}` is not an IP address"))?;
    let ip = ip.to_canonical();
    let nobodys = ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    if nobodys { Err(format!("{ip} is no address that a machine can have")) } else { Ok(ip) }
}

/// Reads a block. Bits past its length are cut off.
pub(super) fn read_block(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.trim().parse().map_err(|_unreadable| format!("`{text}` is not a CIDR block"))?;
    let net = match (net.addr().to_canonical(), net) {
        (IpAddr::V4(v4), IpNet::V6(_)) if net.prefix_len() >= MAPPED_BITS => {
            Ipv4Net::new(v4, net.prefix_len() - MAPPED_BITS).map_or(net, IpNet::V4)
        }
        _ => net,
    };
    if net.prefix_len() == 0 { Err(format!("the block {net} would hold every address")) } else { Ok(net.trunc()) }
}

/// Gives each address to one of those who claim it, and each of the others a problem.
///
/// A node goes before a pod: a pod with a node's address would take the node off the network. Among equals the incumbent
/// goes first, so that a mistake in a new object cannot cut off an old one; then the one that was made earlier (one
/// without a time of creation counts as younger than any other), then the lower name.
pub(super) fn settle(
    claims: Vec<Claim>,
    incumbents: Option<&BTreeMap<IpAddr, ObjectName>>,
) -> (BTreeMap<IpAddr, ObjectName>, Vec<Problem>) {
    let mut ranked: Vec<_> = claims
        .into_iter()
        .map(|Claim { address, owner, created_secs }| {
            let incumbent = incumbents.and_then(|all| all.get(&address)) == Some(&owner);
            let is_pod = matches!(owner, ObjectName::Pod(_));
            (address, is_pod, !incumbent, created_secs.unwrap_or(i64::MAX), owner)
        })
        .collect();
    ranked.sort();
    ranked.dedup();
    let mut owners: BTreeMap<IpAddr, ObjectName> = BTreeMap::new();
    let mut problems = Vec::new();
    for (address, _, _, _, owner) in ranked {
        match owners.get(&address) {
            None => drop(owners.insert(address, owner)),
            Some(first) if *first == owner => {}
            Some(first) => problems.push(taken(address, &owner, first)),
        }
    }
    (owners, problems)
}

fn taken(address: IpAddr, loser: &ObjectName, owner: &ObjectName) -> Problem {
    let remedy = match (loser, owner) {
        (ObjectName::Pod(_), ObjectName::Node(_)) => {
            "delete the pod so that it gets another address, and keep the nodes' addresses out of the pods' pools"
        }
        (ObjectName::Pod(_), _) => "delete one of the two so that it gets another address",
        _ => "give one of the two another address",
    };
    Problem::new(
        loser.to_string(),
        format!("its address {address} is {owner}'s"),
        format!("{remedy}; until then {address} leads to {owner}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_nobody_can_have_are_refused() {
        for text in [
            "",
            "10.0.0",
            "10.0.0.1/32",
            "10.0.0.300",
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "::1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(read_address(text).is_err(), "{text}");
        }
        for text in ["10.0.0.1", " 10.0.0.1 ", "fd00::1", "169.254.1.1"] {
            assert!(read_address(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn ipv4_in_ipv6_is_ipv4() {
        assert_eq!(read_address("::ffff:10.0.0.1"), Ok([10, 0, 0, 1].into()));
        assert_eq!(read_block("::ffff:10.0.0.0/120"), Ok("10.0.0.0/24".parse().unwrap()));
    }

    #[test]
    fn blocks_are_cut_to_their_length_and_never_hold_everything() {
        assert_eq!(read_block("10.1.2.3/24"), Ok("10.1.2.0/24".parse().unwrap()));
        for text in ["10.0.0.0", "10.0.0.0/33", "x/24", "", "0.0.0.0/0", "::/0", "::ffff:0:0/96"] {
            assert!(read_block(text).is_err(), "{text}");
        }
    }
}
