//! Arithmetic of blocks: which address is where in which block of which pool.
//!
//! In and out: values. Never: a block that is not aligned, or an address outside its block.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

// === impl Family ===

impl Family {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// How many bits its addresses have.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// How many addresses a block holds; all of them are given out, the first and the last too.
pub fn size(block: IpNet) -> usize {
    let host_bits = u32::from(block.max_prefix_len() - block.prefix_len());
    1_usize.checked_shl(host_bits).unwrap_or(usize::MAX)
}

/// The address with this ordinal, if the block has so many.
pub fn nth(block: IpNet, ordinal: usize) -> Option<IpAddr> {
    (ordinal < size(block)).then(|| offset(block.network(), ordinal as u128))
}

/// The ordinal of an address, if it is in the block.
pub fn ordinal(block: IpNet, ip: IpAddr) -> Option<usize> {
    block.contains(&ip).then(|| usize::try_from(number(ip) - number(block.network())).ok())?
}

/// The block of a pool in which an address is, if it is in the pool.
pub fn block_of(pool: IpNet, block_len: u8, ip: IpAddr) -> Option<IpNet> {
    pool.contains(&ip).then(|| IpNet::new(ip, block_len).ok().map(|net| net.trunc()))?
}

/// How many blocks a pool has.
pub fn block_count(pool: IpNet, block_len: u8) -> u128 {
    let bits = u32::from(block_len.saturating_sub(pool.prefix_len()));
    1_u128.checked_shl(bits).unwrap_or(u128::MAX)
}

/// All blocks of a pool, each once, from the one with index `first` (modulo their number) to the end and around.
pub fn blocks_from(pool: IpNet, block_len: u8, first: u128) -> impl Iterator<Item = IpNet> {
    let count = block_count(pool, block_len);
    let step = u32::from(pool.max_prefix_len() - block_len);
    (0..count).filter_map(move |i| {
        let index = (first % count).wrapping_add(i) % count;
        let start = offset(pool.network(), index.checked_shl(step)?);
        IpNet::new(start, block_len).ok()
    })
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn offset(ip: IpAddr, by: u128) -> IpAddr {
    match ip {
        #[expect(clippy::cast_possible_truncation, reason = "an offset inside an IPv4 block has no more than 32 bits")]
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(by as u32)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(by)).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ordinals_and_addresses_are_two_names_of_one_thing() {
        for (block, address, place) in [
            ("10.0.0.64/26", "10.0.0.64", Some(0)),
            ("10.0.0.64/26", "10.0.0.127", Some(63)),
            ("10.0.0.64/26", "10.0.0.128", None),
            ("10.0.0.64/26", "fd00::40", None),
            ("10.0.0.7/32", "10.0.0.7", Some(0)),
            ("255.255.255.192/26", "255.255.255.255", Some(63)),
            ("fd00::40/122", "fd00::7f", Some(63)),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffc0/122", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(63)),
        ] {
            assert_eq!(ordinal(net(block), ip(address)), place, "{address} in {block}");
            if let Some(place) = place {
                assert_eq!(nth(net(block), place), Some(ip(address)), "{place} of {block}");
            }
        }
        assert_eq!(nth(net("10.0.0.64/26"), 64), None);
    }

    #[test]
    fn a_pool_falls_apart_into_its_blocks() {
        let blocks: Vec<IpNet> = blocks_from(net("10.0.0.0/24"), 26, 2).collect();
        assert_eq!(blocks, ["10.0.0.128/26", "10.0.0.192/26", "10.0.0.0/26", "10.0.0.64/26"].map(net));
        assert_eq!(blocks_from(net("10.0.0.0/24"), 26, 7).next(), Some(net("10.0.0.192/26")));
        assert_eq!(blocks_from(net("10.0.0.0/26"), 26, 0).count(), 1);
        assert_eq!(blocks_from(net("0.0.0.0/0"), 26, u128::MAX).take(9).count(), 9);
        assert_eq!(blocks_from(net("fd00::/16"), 122, 1 << 105).next(), Some(net("fd00:8000::/122")));
        assert_eq!(blocks_from(net("::/0"), 128, u128::MAX).next().map(|n| n.prefix_len()), Some(128));
        assert_eq!(block_of(net("10.0.0.0/24"), 26, ip("10.0.0.77")), Some(net("10.0.0.64/26")));
        assert_eq!(block_of(net("10.0.0.0/24"), 26, ip("10.0.1.77")), None);
    }

    proptest! {
        #[test]
        fn every_address_of_a_pool_is_in_one_of_its_blocks(len in 20_u8..=28, more in 0_u8..=4, host in any::<u32>()) {
            let pool = IpNet::new(ip("10.128.0.0"), len).unwrap();
            let address = nth(pool, host as usize % size(pool)).unwrap();
            let block = block_of(pool, len + more, address).unwrap();
            prop_assert_eq!(blocks_from(pool, len + more, u128::from(host)).filter(|b| b.contains(&address)).collect::<Vec<_>>(), vec![block]);
            prop_assert_eq!(nth(block, ordinal(block, address).unwrap()), Some(address));
        }
    }
}
