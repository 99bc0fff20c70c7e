//! A bad network between nodes, made by the qdisc netem (tc-netem(8)).
//!
//! In: a namespace, a device, and what is to become of the packets that leave by it. Out: the qdisc, as the device's root. Never: a choice
//! of what to lose: the kernel's dice decide.

use std::time::Duration;

use anyhow::{Context, Result};
use netlink_packet_route::tc::TcAttribute;
use rtnetlink::packet_core::DefaultNla;

use crate::{netlink::Netlink, netns::Namespace};

/// What becomes of packets. Parts are of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Netem {
    /// How long each takes longer.
    pub delay: Duration,
    /// How much that differs, up and down.
    pub jitter: Duration,
    /// How many are lost.
    pub loss: f64,
    /// How many come twice.
    pub duplicate: f64,
    /// How many are not delayed, and so overtake others.
    pub reorder: f64,
}

/// `TCA_OPTIONS` (include/uapi/linux/rtnetlink.h).
const TCA_OPTIONS: u16 = 2;
/// `TCA_NETEM_REORDER` (include/uapi/linux/pkt_sched.h).
const TCA_NETEM_REORDER: u16 = 3;
/// How many packets may wait.
const LIMIT: u32 = 1_000;
/// The unit of times: `PSCHED_SHIFT` (include/net/pkt_sched.h) is 6.
const NANOSECONDS_PER_TICK: u128 = 64;

// === impl Netem ===

impl Netem {
    /// Makes the network behind a device bad, until [`heal`].
    ///
    /// # Errors
    /// The kernel has no netem, or the device is not there.
    pub fn spoil(&self, namespace: &Namespace, device: &str) -> Result<()> {
        let options = TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, self.options()));
        Netlink::open(namespace)?
            .replace_root_qdisc(device, vec![TcAttribute::Kind("netem".to_owned()), options])
            .context("the qdisc netem")
    }

    /// `struct tc_netem_qopt`, then one attribute.
    fn options(&self) -> Vec<u8> {
        let ticks = |time: Duration| u32::try_from(time.as_nanos() / NANOSECONDS_PER_TICK).unwrap_or(u32::MAX);
        let part = |of_one: f64| (of_one * f64::from(u32::MAX)) as u32;
        // Every packet may be one that overtakes.
        let gap = 1;
        let words = [ticks(self.delay), LIMIT, part(self.loss), gap, part(self.duplicate), ticks(self.jitter)]
            .map(u32::to_ne_bytes);
        let mut bytes = words.concat();
        bytes.extend([12_u16, TCA_NETEM_REORDER].map(u16::to_ne_bytes).concat());
        bytes.extend([part(self.reorder), 0].map(u32::to_ne_bytes).concat());
        bytes
    }
}

/// Makes the network behind a device good again.
///
/// # Errors
/// It was never spoilt.
pub fn heal(namespace: &Namespace, device: &str) -> Result<()> {
    Netlink::open(namespace)?.delete_root_qdisc(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_what_the_kernel_reads() {
        let netem = Netem { delay: Duration::from_micros(64), loss: 1.0, reorder: 0.5, ..Netem::default() };
        let words: Vec<_> =
            netem.options().chunks(4).map(|word| u32::from_ne_bytes(word.try_into().expect("four bytes"))).collect();
        assert_eq!(words, [1_000, LIMIT, u32::MAX, 1, 0, 0, u32::from(TCA_NETEM_REORDER) << 16 | 12, u32::MAX / 2, 0]);
    }
}
