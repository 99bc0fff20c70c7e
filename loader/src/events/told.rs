//! An event as people read it: names for addresses, words for numbers, and the policies and rules that decided.
//!
//! In: an [`Event`], and the [`View`] of the last pass. Out: a [`Told`]. Never: a map; but the kernel is asked for the name of an
//! interface.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use k8s_openapi::jiff::Timestamp;
use margay_maps::{Addr, Event, EventKind, FlowVerdict, Half, Id, Way, user::text::protocol_name};
use serde::{Deserialize, Serialize};

use crate::{
    policy::content::Direction,
    view::{
        View,
        protocol::{Kind, Name},
    },
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When (RFC 3339, UTC).
    pub time: String,
    /// `drop` or `flow`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a drop: why, as `margay drops` names it.
    pub reason: Option<String>,
    /// Of a drop: where.
    pub hook: Option<String>,
    /// Where the packet came in; of a drop at a `to_*` hook, where it would have gone out.
    pub interface: Option<String>,
    /// `TCP`, or a number; none of what is no IP packet.
    pub protocol: Option<String>,
    /// Who sent it.
    pub from: Party,
    /// To whom.
    pub to: Party,
    /// Of a drop: the packet's length in bytes, Ethernet header included.
    pub bytes: Option<u32>,
    /// Of a flow, and of what policies dropped.
    pub verdict: Option<String>,
    /// Of a flow: where its packets go on.
    pub way: Option<String>,
    /// Of a flow: the interface by which they do.
    pub interface_out: Option<String>,
    /// The rules that allow it.
    pub allowed_by: Vec<String>,
    /// The policies none of whose rules does.
    pub denied_by: Vec<String>,
}

/// One of the two ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// The address, where the packet has one.
    pub address: Option<IpAddr>,
    /// The port, where there is one. ICMP echo: the identifier.
    pub port: Option<u16>,
    /// Whose the address is.
    #[serde(flatten)]
    pub owner: Option<Name>,
    /// The id of the peers of this node's policies that it matches; none where no policy tells it from others.
    pub identity: Option<String>,
}

/// Tells events, and remembers what it has looked up.
#[derive(Debug)]
pub struct Teller<'a> {
    view: &'a View,
    /// When the machine was booted.
    booted: SystemTime,
    interfaces: HashMap<u32, Option<String>>,
    owners: HashMap<Addr, (Option<Name>, Option<String>)>,
    isolating: HashMap<(Addr, Direction), Vec<String>>,
}

// === impl Teller ===

impl<'a> Teller<'a> {
    /// Tells what that view knows. `boot_time`: since when the machine runs now.
    pub fn new(view: &'a View, boot_time: Duration) -> Self {
        Self {
            view,
            booted: SystemTime::now() - boot_time,
            interfaces: HashMap::new(),
            owners: HashMap::new(),
            isolating: HashMap::new(),
        }
    }

    /// One event.
    pub fn tell(&mut self, event: &Event) -> Told {
        let is_drop = event.kind == EventKind::Drop;
        let denied_by = match event.verdict {
            FlowVerdict::EgressDenied => self.isolating(event.src, Direction::Egress),
            FlowVerdict::IngressDenied => self.isolating(event.dst, Direction::Ingress),
            _ => Vec::new(),
        };
        let allowed_by = event.origins.iter().filter(|id| !id.is_none()).map(|id| self.origin(*id)).collect();
        Told {
            time: self.time(event.time_ns),
            kind: event.kind.to_string(),
            reason: is_drop.then(|| event.drop_reason().map_or_else(|| event.reason.to_string(), |r| r.to_string())),
            hook: is_drop.then(|| event.drop_hook().map_or_else(|| event.hook.to_string(), |hook| hook.to_string())),
            interface: self.interface(event.ifindex),
            protocol: (event.protocol != 0).then(|| protocol_name(event.protocol).into_owned()),
            from: self.party(event.src, event.src_port_be),
            to: self.party(event.dst, event.dst_port_be),
            bytes: is_drop.then_some(event.bytes),
            verdict: (event.verdict != FlowVerdict::Unknown).then(|| event.verdict.to_string()),
            way: (event.way != Way::Unknown).then(|| event.way.to_string()),
            interface_out: self.interface(event.ifindex_out),
            allowed_by,
            denied_by,
        }
    }

    fn time(&self, since_boot_ns: u64) -> String {
        let time = self.booted + Duration::from_nanos(since_boot_ns);
        Timestamp::try_from(time).map_or_else(|_out_of_range| String::new(), |time| format!("{time:.6}"))
    }

    fn party(&mut self, addr: Addr, port_be: [u8; 2]) -> Party {
        let address = IpAddr::from(addr);
        let view = self.view;
        let (owner, identity) = self
            .owners
            .entry(addr)
            .or_insert_with(|| (view.name(address), view.identity(address).map(|(id, _)| id.to_string())))
            .clone();
        let port = u16::from_be_bytes(port_be);
        Party {
            address: (addr != Addr::UNSPECIFIED).then_some(address),
            port: (port != 0).then_some(port),
            owner,
            identity,
        }
    }

    fn isolating(&mut self, addr: Addr, direction: Direction) -> Vec<String> {
        let view = self.view;
        let policies = || {
            let pod = view.pod_here(addr.into());
            pod.map(|pod| view.isolating(pod, direction).iter().map(ToString::to_string).collect()).unwrap_or_default()
        };
        self.isolating.entry((addr, direction)).or_insert_with(policies).clone()
    }

    fn origin(&self, id: Id) -> String {
        self.view.origin(id).unwrap_or_else(|| format!("rule {id}"))
    }

    fn interface(&mut self, ifindex: u32) -> Option<String> {
        match ifindex {
            0 => None,
            Half::OVERLAY => Some("overlay".to_owned()),
            _ => self.interfaces.entry(ifindex).or_insert_with(|| interface_name(ifindex)).clone(),
        }
    }
}

/// The name of an interface of this network namespace.
fn interface_name(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?;
    Some(name.to_string_lossy().into_owned())
}

// === impl Party ===

impl Party {
    /// Whether it is this pod.
    pub fn is_pod(&self, name: &str) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.kind == Kind::Pod && owner.name == name)
    }
}
