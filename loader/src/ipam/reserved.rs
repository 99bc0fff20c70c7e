//! Addresses that are kept back: IPReservations.
//!
//! In: the objects. Out: whether an address is kept back. Never: an error; what cannot be read keeps nothing back, and
//! `margay ipam check` names it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::crd::IpReservation;

/// All reservations together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved(Vec<IpNet>);

// === impl Reserved ===

impl Reserved {
    /// Those of all objects.
    pub fn of(reservations: &[IpReservation]) -> Self {
        let all = reservations.iter().flat_map(|reservation| &reservation.spec.reserved_cidrs);
        Self(all.filter_map(|text| read(text)).collect())
    }

    /// Whether an address is kept back.
    pub fn holds(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// Whether one reservation keeps a whole block back.
    pub fn covers(&self, block: IpNet) -> bool {
        self.0.iter().any(|net| net.contains(&block))
    }
}

/// An address or a block.
pub(super) fn read(text: &str) -> Option<IpNet> {
    let text = text.trim();
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::IpReservationSpec;

    #[test]
    fn addresses_and_blocks_are_kept_back() {
        let texts = ["10.0.0.0/26", "10.0.1.7", "fd00::/64", "nonsense", "10.0.9.9/24"];
        let spec = IpReservationSpec { reserved_cidrs: texts.map(str::to_owned).to_vec() };
        let reserved = Reserved::of(&[IpReservation::new("r", spec)]);
        for (ip, held) in [
            ("10.0.0.63", true),
            ("10.0.0.64", false),
            ("10.0.1.7", true),
            ("10.0.1.8", false),
            ("fd00::9", true),
            ("10.0.9.1", true),
        ] {
            assert_eq!(reserved.holds(ip.parse().unwrap()), held, "{ip}");
        }
        assert!(reserved.covers("10.0.0.0/26".parse().unwrap()));
        assert!(!reserved.covers("10.0.0.0/25".parse().unwrap()));
    }
}
