//! `margay flows`: the flow table as it is now.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use margay_maps::{
    Addr, Flow, FlowKey, FlowVerdict, Way,
    user::{BATCH, text::protocol_name},
};
use serde::Serialize;

use super::{
    list::open,
    output::{Format, Row, list},
};
use crate::{datapath::pins::PinDir, state::StateDir};

/// One flow, in the direction in which it was opened.
#[derive(Serialize)]
struct FlowRow {
    protocol: String,
    from: IpAddr,
    from_port: u16,
    /// `namespace/name` of the pod, as far as the agent has said.
    from_name: Option<String>,
    to: IpAddr,
    to_port: u16,
    to_name: Option<String>,
    verdict: FlowVerdict,
    /// Of a flow to a Service: the backend that stands for it. Of one to a backend: the Service that the opener knows it by.
    nat: Option<SocketAddr>,
    /// How the opener's packets go on, and the answers.
    ways: [Way; 2],
    packets: [u64; 2],
    bytes: [u64; 2],
    /// Seconds since it was opened, and since its last packet.
    age_secs: u32,
    idle_secs: u32,
}

impl Row for FlowRow {
    const HEAD: &'static [&'static str] = &["proto", "from", "to", "verdict", "packets", "bytes", "age", "idle"];
    fn cells(&self) -> Vec<String> {
        let end = |address: IpAddr, port: u16, name: &Option<String>| match name {
            Some(name) => format!("{name} ({address}:{port})"),
            None => format!("{address}:{port}"),
        };
        let both = |[there, back]: [u64; 2]| format!("{there}/{back}");
        vec![
            self.protocol.clone(),
            end(self.from, self.from_port, &self.from_name),
            end(self.to, self.to_port, &self.to_name),
            self.verdict_and_nat(),
            both(self.packets),
            both(self.bytes),
            format!("{} s", self.age_secs),
            format!("{} s", self.idle_secs),
        ]
    }
}

/// Prints all flows, or those that have `only` for one of their ends: an address, or a pod as `namespace/name`.
pub(super) fn run(state: &StateDir, pins: &PinDir, only: Option<&str>, format: Format) -> Result<u8> {
    let maps = open(pins)?;
    let names = state.status()?.map(|status| status.names).unwrap_or_default();
    let now = maps.clock.get(&0)?.unwrap_or_default().seconds;
    let name = |addr: Addr| names.get(&IpAddr::from(addr)).cloned();
    let (mut rows, mut from) = (Vec::new(), None);
    loop {
        let batch = maps.flows.batch(from, BATCH)?;
        let all = batch.entries.into_iter().map(|(key, flow)| row(&key, &flow, now, name));
        rows.extend(all.filter(|row| only.is_none_or(|only| row.has_end(only))));
        from = batch.next;
        if from.is_none() {
            break;
        }
    }
    rows.sort_by(|a, b| {
        (a.from, a.to, &a.protocol, a.to_port, a.from_port).cmp(&(b.from, b.to, &b.protocol, b.to_port, b.from_port))
    });
    list(&rows, format)
}

// === impl FlowRow ===

impl FlowRow {
    fn verdict_and_nat(&self) -> String {
        match (self.verdict, self.nat) {
            (FlowVerdict::Translated, Some(backend)) => format!("to backend {backend}"),
            (verdict, Some(service)) => format!("{verdict}, as {service}"),
            (verdict, None) => verdict.to_string(),
        }
    }

    fn has_end(&self, end: &str) -> bool {
        let names = [&self.from_name, &self.to_name];
        names.into_iter().flatten().any(|name| name == end)
            || [self.from, self.to].iter().any(|address| address.to_string() == end)
    }
}

fn row(key: &FlowKey, flow: &Flow, now: u32, name: impl Fn(Addr) -> Option<String>) -> FlowRow {
    let opener = flow.opener.half();
    let [from, to] = key.ends(opener);
    let (there, back) = (flow.half(opener), flow.half(opener ^ 1));
    FlowRow {
        protocol: protocol_name(key.protocol).into_owned(),
        from: from.0.into(),
        from_port: from.1,
        from_name: name(from.0),
        to: to.0.into(),
        to_port: to.1,
        to_name: name(to.0),
        verdict: flow.verdict,
        nat: flow.nat().map(|(addr, port)| SocketAddr::new(addr.into(), port)),
        ways: [there.way, back.way],
        packets: [there.packets, back.packets],
        bytes: [there.bytes, back.bytes],
        age_secs: now.saturating_sub(flow.opened),
        idle_secs: now.saturating_sub(there.last_seen.max(back.last_seen)),
    }
}

#[cfg(test)]
mod tests {
    use margay_maps::{Half, Opener};

    use super::*;

    #[test]
    fn a_flow_reads_in_the_direction_in_which_it_was_opened() {
        let (low, high) = (Addr::from_v4([10, 0, 0, 1]), Addr::from_v4([10, 0, 0, 2]));
        let key = FlowKey::between((low, 80), (high, 0x1000), 6);
        let half = |packets, last_seen| Half { packets, last_seen, ..Half::default() };
        let flow =
            Flow { halves: [half(3, 90), half(5, 95)], opener: Opener::of_half(1), opened: 60, ..Flow::default() };
        let name = |addr: Addr| (addr == low).then(|| "default/web".to_owned());
        let row = row(&key, &flow, 100, name);
        assert_eq!((row.from_port, row.to_port, row.packets), (4096, 80, [5, 3]));
        assert_eq!((row.age_secs, row.idle_secs), (40, 5));
        assert_eq!(row.cells()[2], "default/web (10.0.0.1:80)");
        assert!(row.has_end("default/web") && row.has_end("10.0.0.2") && !row.has_end("10.0.0.3"));
    }
}
