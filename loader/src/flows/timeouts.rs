//! How long a flow without packets is kept.
//!
//! In: an entry and the time. Out: whether it is over. Never: a map, a clock.

use margay_maps::{
    Flow, FlowKey, FlowVerdict,
    protocol::{
        ICMP, SCTP, TCP, UDP,
        tcp::{FIN, RST},
    },
};

/// Seconds without a packet after which an entry goes, by protocol and state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, before the other end has answered.
    pub tcp_opening: u32,
    /// TCP, once it has: 2 h 5 min, just above the least that RFC 5382, section 5 allows (2 h 4 min).
    pub tcp_established: u32,
    /// TCP, after a FIN of each end, or a reset.
    pub tcp_closing: u32,
    /// UDP without an answer; as Linux (nf_conntrack_udp_timeout).
    pub udp: u32,
    /// UDP with answers; as Linux (nf_conntrack_udp_timeout_stream).
    pub udp_stream: u32,
    /// SCTP, before the other end has answered.
    pub sctp_opening: u32,
    /// SCTP, once it has: as for TCP.
    pub sctp_established: u32,
    /// ICMP; as Linux (nf_conntrack_icmp_timeout).
    pub icmp: u32,
    /// Any other protocol; as Linux (nf_conntrack_generic_timeout is 600, but these carry no ports to tell them apart).
    pub other: u32,
    /// What was denied: it is judged again after that. What was revoked when it had been answered is kept as if it went on: its ends
    /// send it again, and whoever may not have opened it must not pass for who has.
    pub denied: u32,
    /// What leads to a Service's backend, once the flow to that is gone.
    pub translated: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_opening: 60,
            tcp_established: 7_500,
            tcp_closing: 20,
            udp: 30,
            udp_stream: 120,
            sctp_opening: 60,
            sctp_established: 7_500,
            icmp: 30,
            other: 120,
            denied: 30,
            translated: 30,
        }
    }
}

// === impl Timeouts ===

impl Timeouts {
    /// For a table that is nearly full: what has not been answered goes at once, and so does what is closing. A flood of
    /// openings takes no place from established flows.
    pub fn under_pressure(self) -> Self {
        Self {
            tcp_opening: 2,
            tcp_closing: 1,
            udp: 2,
            sctp_opening: 2,
            icmp: 2,
            other: 10,
            denied: 1,
            translated: 2,
            ..self
        }
    }

    /// After how many seconds without a packet this flow goes.
    pub fn of(&self, key: &FlowKey, flow: &Flow) -> u32 {
        let answered = flow.halves.iter().all(|half| half.packets > 0);
        match flow.verdict {
            FlowVerdict::Allowed => {}
            FlowVerdict::Translated => return self.translated,
            FlowVerdict::EgressDenied | FlowVerdict::IngressDenied if answered => {}
            FlowVerdict::EgressDenied | FlowVerdict::IngressDenied | FlowVerdict::Unknown => return self.denied,
        }
        let [low, high] = flow.halves.each_ref().map(|half| half.tcp_flags);
        match key.protocol {
            TCP if (low | high) & RST != 0 || low & high & FIN != 0 => self.tcp_closing,
            TCP if answered => self.tcp_established,
            TCP => self.tcp_opening,
            UDP if answered => self.udp_stream,
            UDP => self.udp,
            SCTP if answered => self.sctp_established,
            SCTP => self.sctp_opening,
            ICMP => self.icmp,
            _ => self.other,
        }
    }

    /// Whether it is over. `now`: in seconds of the clock. `since`: when that began to tick; while it stood still nothing
    /// aged.
    pub fn is_over(&self, key: &FlowKey, flow: &Flow, now: u32, since: u32) -> bool {
        let [low, high] = flow.halves.each_ref().map(|half| half.last_seen);
        let last = low.max(high).max(flow.opened).max(since);
        now.saturating_sub(last) >= self.of(key, flow)
    }
}

#[cfg(test)]
mod tests {
    use margay_maps::{Addr, Half, protocol::tcp::SYN};

    use super::*;

    fn key(protocol: u8) -> FlowKey {
        let (low, high) = (Addr::from_v4([10, 0, 0, 1]), Addr::from_v4([10, 0, 0, 2]));
        FlowKey::between((low, 1), (high, 2), protocol)
    }

    fn flow(packets: [u64; 2], flags: [u8; 2], last_seen: u32) -> Flow {
        let half = |i: usize| Half { packets: packets[i], tcp_flags: flags[i], last_seen, ..Half::default() };
        Flow { halves: [half(0), half(1)], verdict: FlowVerdict::Allowed, ..Flow::default() }
    }

    #[test]
    fn each_state_has_its_time() {
        let t = Timeouts::default();
        let cases = [
            (TCP, [1, 0], [SYN, 0], t.tcp_opening),
            (TCP, [2, 1], [SYN, SYN], t.tcp_established),
            (TCP, [9, 9], [FIN | SYN, SYN], t.tcp_established),
            (TCP, [9, 9], [FIN | SYN, FIN | SYN], t.tcp_closing),
            (TCP, [1, 1], [SYN, RST], t.tcp_closing),
            (UDP, [1, 0], [0, 0], t.udp),
            (UDP, [1, 1], [0, 0], t.udp_stream),
            (SCTP, [1, 0], [0, 0], t.sctp_opening),
            (SCTP, [1, 1], [0, 0], t.sctp_established),
            (ICMP, [1, 1], [0, 0], t.icmp),
            (47, [1, 1], [0, 0], t.other),
        ];
        for (protocol, packets, flags, expected) in cases {
            assert_eq!(t.of(&key(protocol), &flow(packets, flags, 0)), expected, "{protocol} {packets:?} {flags:?}");
        }
        let denied = Flow { verdict: FlowVerdict::IngressDenied, ..flow([1, 0], [SYN, 0], 0) };
        assert_eq!(t.of(&key(TCP), &denied), t.denied);
        let revoked = |flags| Flow { verdict: FlowVerdict::IngressDenied, ..flow([1, 1], flags, 0) };
        assert_eq!(t.of(&key(TCP), &revoked([SYN, SYN])), t.tcp_established);
        assert_eq!(t.of(&key(TCP), &revoked([SYN, RST])), t.tcp_closing);
        let translated = Flow { verdict: FlowVerdict::Translated, ..flow([1, 0], [SYN, 0], 0) };
        assert_eq!(t.of(&key(TCP), &translated), t.translated);
    }

    #[test]
    fn time_counts_from_the_last_packet_and_only_while_the_clock_ticks() {
        let t = Timeouts::default();
        let (key, flow) = (key(UDP), flow([1, 0], [0, 0], 100));
        assert!(!t.is_over(&key, &flow, 129, 0));
        assert!(t.is_over(&key, &flow, 130, 0));
        assert!(!t.is_over(&key, &flow, 1_000, 971), "an agent that was away for long waits its time");
        assert!(t.is_over(&key, &flow, 1_001, 971));
        assert!(!t.is_over(&key, &flow, 50, 0), "a clock that runs backwards ends nothing");
    }

    #[test]
    fn pressure_spares_what_is_established() {
        let (calm, hard) = (Timeouts::default(), Timeouts::default().under_pressure());
        assert_eq!((calm.tcp_established, calm.udp_stream), (hard.tcp_established, hard.udp_stream));
        assert!(hard.tcp_opening < 5 && hard.denied < 5);
    }
}
