//! The commands that list what stands in the maps. They read the pins, so they work while no agent runs.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use margay_maps::{Addr, Counter, DropReason, Endpoint, EndpointKind, MAPS, Mac, Route, RouteKind, user::Maps};
use serde::Serialize;

use super::output::{Format, Row, list};
use crate::{datapath::pins::PinDir, state::StateDir};

/// Opens the pinned maps.
pub(super) fn open(pins: &PinDir) -> Result<Maps> {
    Maps::open(pins.dir()).with_context(|| {
        format!(
            "there is no datapath of this version in {}: start the agent, or name its directory with --bpffs",
            pins.dir().display()
        )
    })
}

#[derive(Serialize)]
struct EndpointRow {
    address: IpAddr,
    kind: EndpointKind,
    /// `namespace/name` of the pod, as far as the agent has said.
    name: Option<String>,
    interface: Option<String>,
    ifindex: u32,
    mac: Option<Mac>,
}

impl Row for EndpointRow {
    const HEAD: &'static [&'static str] = &["address", "kind", "name", "interface", "mac"];
    fn cells(&self) -> Vec<String> {
        let Self { address, kind, name, interface, ifindex: _, mac } = self;
        vec![address.to_string(), kind.to_string(), or_dash(name), or_dash(interface), or_dash(mac)]
    }
}

pub(super) fn endpoints(state: &StateDir, pins: &PinDir, format: Format) -> Result<u8> {
    let status = state.status()?;
    let mut entries = open(pins)?.endpoints.entries()?;
    entries.sort();
    let row = |(addr, Endpoint { kind, ifindex, mac, pad: _, slot: _ }): (Addr, Endpoint)| {
        let address = IpAddr::from(addr);
        let name = match kind {
            EndpointKind::Workload => status.as_ref().and_then(|s| s.names.get(&address).cloned()),
            EndpointKind::Host => status.as_ref().map(|s| s.node.clone()),
        };
        let mac = (!mac.is_zero()).then_some(mac);
        EndpointRow { address, kind, name, interface: interface_name(ifindex), ifindex, mac }
    };
    list(&entries.into_iter().map(row).collect::<Vec<_>>(), format)
}

#[derive(Serialize)]
struct RouteRow {
    prefix: String,
    kind: RouteKind,
    node: Option<Addr>,
    next_hop: Option<Addr>,
    interface: Option<String>,
    ifindex: u32,
    mac: Option<Mac>,
}

impl Row for RouteRow {
    const HEAD: &'static [&'static str] = &["prefix", "kind", "node", "next hop", "interface", "overlay mac"];
    fn cells(&self) -> Vec<String> {
        let Self { prefix, kind, node, next_hop, interface, ifindex: _, mac } = self;
        vec![prefix.clone(), kind.to_string(), or_dash(node), or_dash(next_hop), or_dash(interface), or_dash(mac)]
    }
}

pub(super) fn routes(pins: &PinDir, format: Format) -> Result<u8> {
    let mut entries = open(pins)?.routes.entries()?;
    entries.sort_by_key(|(key, _)| (key.addr, key.prefix_len));
    let row = |(key, Route { kind, ifindex, node, next_hop, mac, pad: _ }): (margay_maps::PrefixKey, Route)| {
        let remote = kind == RouteKind::Remote;
        RouteRow {
            prefix: key.to_string(),
            kind,
            node: remote.then_some(node),
            next_hop: remote.then_some(next_hop),
            interface: interface_name(ifindex),
            ifindex,
            mac: remote.then_some(mac),
        }
    };
    list(&entries.into_iter().map(row).collect::<Vec<_>>(), format)
}

#[derive(Serialize)]
struct NodeRow {
    address: Addr,
    mac: Mac,
}

impl Row for NodeRow {
    const HEAD: &'static [&'static str] = &["address", "overlay mac"];
    fn cells(&self) -> Vec<String> {
        let Self { address, mac } = self;
        vec![address.to_string(), mac.to_string()]
    }
}

pub(super) fn nodes(pins: &PinDir, format: Format) -> Result<u8> {
    let mut entries = open(pins)?.nodes.entries()?;
    entries.sort();
    let rows: Vec<_> = entries.into_iter().map(|(address, node)| NodeRow { address, mac: node.mac }).collect();
    list(&rows, format)
}

#[derive(Serialize)]
struct DropRow {
    reason: DropReason,
    packets: u64,
    bytes: u64,
    explain: &'static str,
}

impl Row for DropRow {
    const HEAD: &'static [&'static str] = &["reason", "packets", "bytes", "what it means"];
    fn cells(&self) -> Vec<String> {
        let Self { reason, packets, bytes, explain } = self;
        vec![reason.to_string(), packets.to_string(), bytes.to_string(), (*explain).to_owned()]
    }
}

pub(super) fn drops(pins: &PinDir, format: Format, all: bool) -> Result<u8> {
    let maps = open(pins)?;
    let mut rows = Vec::new();
    for &reason in DropReason::ALL {
        let Counter { packets, bytes } = maps.drops(reason)?;
        if all || packets != 0 {
            rows.push(DropRow { reason, packets, bytes, explain: reason.explain() });
        }
    }
    list(&rows, format)
}

#[derive(Serialize)]
struct MapRow {
    name: &'static str,
    #[serde(rename = "type")]
    kind: margay_maps::MapKind,
    key_bytes: u32,
    value_bytes: u32,
    used: Option<usize>,
    max_entries: u32,
    layout: String,
    pinned: String,
    purpose: &'static str,
}

impl Row for MapRow {
    const HEAD: &'static [&'static str] = &["name", "type", "key", "value", "used", "max", "pinned"];
    fn cells(&self) -> Vec<String> {
        let used = match self.used {
            Some(used) => format!("{used} ({}%)", used * 100 / self.max_entries.max(1) as usize),
            None => "-".to_owned(),
        };
        vec![
            self.name.to_owned(),
            self.kind.to_string(),
            self.key_bytes.to_string(),
            self.value_bytes.to_string(),
            used,
            self.max_entries.to_string(),
            self.pinned.clone(),
        ]
    }
}

pub(super) fn maps(pins: &PinDir, format: Format) -> Result<u8> {
    let maps = open(pins)?;
    let mut rows = Vec::new();
    for spec in &MAPS {
        rows.push(MapRow {
            name: spec.name,
            kind: spec.kind,
            key_bytes: spec.key_size,
            value_bytes: spec.value_size,
            used: maps.used(spec)?,
            max_entries: spec.max_entries,
            layout: format!("{:08x}", spec.layout()),
            pinned: pins.map(spec).display().to_string(),
            purpose: spec.purpose,
        });
    }
    list(&rows, format)
}

/// The name of an interface of this network namespace.
pub(super) fn interface_name(ifindex: u32) -> Option<String> {
    if ifindex == 0 {
        return None;
    }
    let name = nix::net::if_::if_indextoname(ifindex).ok()?;
    Some(name.to_string_lossy().into_owned())
}

fn or_dash(value: &Option<impl ToString>) -> String {
    value.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}
