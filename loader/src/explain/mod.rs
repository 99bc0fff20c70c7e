//! What the programs would do with a packet, found out by asking them.
//!
//! In: who opens a flow to whom, and the pinned maps. Out: a [`Finding`]. Never: a packet on a wire, a change to anything that is
//! pinned, a verdict that was worked out here instead of by the programs.

mod packet;
mod programs;

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, bail};
use margay_maps::{
    Addr, Config, DropReason, Endpoint, EndpointKind, Flow, FlowKey, FlowVerdict, Hook, Mac, Outcome, PrefixKey,
    RouteKind, Way,
    user::{BATCH, Maps},
};

pub use self::packet::{Opening, SOURCE_PORT};
use self::programs::{Run, Sender};
use crate::datapath::pins::PinDir;

/// What was found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The program that was asked.
    pub hook: Hook,
    /// The interface whose packet it took this for; 0: none.
    pub ifindex: u32,
    /// Whether the program was given the packet in another way than it would come: from the world, through the host's stack.
    pub forwarded: bool,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was dropped, if it was.
    pub reason: Option<DropReason>,
    /// What was remembered of the flow, if anything.
    pub flow: Option<Judged>,
    /// `config`'s generation: that of endpoints, routes and nodes.
    pub generation: u32,
    /// The generations of the policies of whoever opens the flow and of the other end; `None`: no pod of this node.
    pub generations: [Option<u32>; 2],
    /// Flows between the same ends, to the same port, that are in the table now: how many are allowed, and how many denied.
    pub live: [usize; 2],
}

/// A flow as it was judged, from its opener's point of view.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Where it leads, after any translation.
    pub to: IpAddr,
    /// The destination port there.
    pub port: u16,
    /// The verdict.
    pub verdict: FlowVerdict,
    /// How its opener's packets go on.
    pub way: Way,
    /// By which interface; 0 by none of its own.
    pub ifindex: u32,
    /// With [`Way::Node`]: the node.
    pub node: Option<Ipv4Addr>,
    /// Likewise: the neighbour on the uplink, where the agent knows it.
    pub next_hop: Option<Ipv4Addr>,
    /// The rules that allow it, for egress and ingress.
    pub origins: [margay_maps::Id; 2],
}

/// Stands for the neighbour from which the world's packets come (RFC 5737).
const ANYBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// How the packet of a question comes in.
struct Entrance {
    hook: Hook,
    ifindex: u32,
    sender: Sender,
    frame: Vec<u8>,
}

/// Asks the programs.
///
/// # Errors
/// Neither end is of this node, or the programs could not be asked.
pub fn ask(pins: &PinDir, live: &Maps, opening: Opening) -> Result<Finding> {
    let config = live.config.get(&0)?.unwrap_or_default();
    let ends = [opening.from, opening.to].map(Addr::from);
    let [from, to] = [live.endpoints.get(&ends[0])?, live.endpoints.get(&ends[1])?];
    let Entrance { hook, ifindex, sender, frame } = entrance(live, &config, opening, from, to)?;
    let Run { outcome, reason, flow } = programs::run(pins, live, hook, ifindex, sender, &frame)?;
    let generation = |end: Option<Endpoint>| -> Result<Option<u32>> {
        let Some(pod) = end.filter(|end| end.kind == EndpointKind::Workload) else { return Ok(None) };
        Ok(live.enforcement.get(&pod.slot)?.map(|enforcement| enforcement.generation))
    };
    Ok(Finding {
        hook,
        ifindex,
        forwarded: sender != Sender::Known,
        outcome,
        reason,
        flow: flow.map(|(key, flow)| judged(&key, &flow)),
        generation: config.generation,
        generations: [generation(from)?, generation(to)?],
        live: live_flows(live, opening)?,
    })
}

/// The program that would see the packet first, and the packet as it would.
fn entrance(
    live: &Maps,
    config: &Config,
    opening: Opening,
    from: Option<Endpoint>,
    to: Option<Endpoint>,
) -> Result<Entrance> {
    let workload = |end: Option<Endpoint>| end.filter(|end| end.kind == EndpointKind::Workload);
    let route = |addr: Ipv4Addr| -> Result<_> {
        let route = live.routes.get(&PrefixKey::host(addr.into()))?;
        Ok(route.filter(|route| route.kind == RouteKind::Remote))
    };
    let plain =
        |hook, ifindex, src, dst| Ok(Entrance { hook, ifindex, sender: Sender::Known, frame: opening.frame(src, dst) });
    if let Some(pod) = workload(from) {
        return plain(Hook::FromWorkload, pod.ifindex, pod.mac, Mac::GATEWAY);
    }
    if from.is_some() {
        return match (workload(to), route(opening.to)?) {
            (Some(pod), _) => plain(Hook::ToWorkload, pod.ifindex, Mac::GATEWAY, pod.mac),
            (None, Some(_)) => plain(Hook::ToOverlay, config.overlay_ifindex, Mac::GATEWAY, Mac::GATEWAY),
            (None, None) => {
                bail!("{} is this node itself, and {} is no pod: no program sees that", opening.from, opening.to)
            }
        };
    }
    if to.is_none() {
        bail!("neither {} nor {} is of this node: ask on the node of one of them", opening.from, opening.to);
    }
    let sender = route(opening.from)?.map(|route| route.node);
    let outer = sender.map(|node| Ipv4Addr::from(node.v4()));
    let inner = opening.frame(Mac::GATEWAY, config.mac);
    let port = u16::from_be_bytes(config.port_be);
    let node = Ipv4Addr::from(config.node.v4());
    Ok(Entrance {
        hook: Hook::FromUplink,
        ifindex: 0,
        sender: if sender.is_some() { Sender::Known } else { Sender::Assumed(ANYBODY.into()) },
        frame: packet::vxlan(outer.unwrap_or(ANYBODY), node, config.vni, port, &inner),
    })
}

fn judged(key: &FlowKey, flow: &Flow) -> Judged {
    let opener = flow.opener.half();
    let ([_, (to, port)], half) = (key.ends(opener), flow.half(opener));
    let of_node = |v4: [u8; 4]| (half.way == Way::Node && v4 != [0; 4]).then(|| v4.into());
    Judged {
        to: to.into(),
        port,
        verdict: flow.verdict,
        way: half.way,
        ifindex: half.ifindex,
        node: of_node(half.node_v4),
        next_hop: of_node(flow.next_hop_v4),
        origins: flow.origins,
    }
}

/// Those between the same ends, whatever port they come from.
fn live_flows(live: &Maps, opening: Opening) -> Result<[usize; 2]> {
    let [opener, other] = [opening.from, opening.to].map(Addr::from);
    let (mut found, mut from) = ([0, 0], None);
    loop {
        let batch = live.flows.batch(from, BATCH)?;
        for (key, flow) in &batch.entries {
            let [(src, _), (dst, port)] = key.ends(flow.opener.half());
            if flow.verdict == FlowVerdict::Translated {
                continue;
            }
            let any_port = !opening.has_ports();
            if (src, dst, key.protocol) == (opener, other, opening.protocol) && (any_port || port == opening.port) {
                found[usize::from(flow.verdict != FlowVerdict::Allowed)] += 1;
            }
        }
        from = batch.next;
        if from.is_none() {
            return Ok(found);
        }
    }
}

// === impl Finding ===

impl Finding {
    /// Whether the packet goes on.
    pub fn is_allowed(&self) -> bool {
        self.outcome != Outcome::Dropped && self.reason.is_none()
    }

    /// How it goes on, where the flow says so.
    pub fn way(&self) -> Way {
        self.flow.as_ref().map_or(Way::Unknown, |flow| flow.way)
    }
}
