//! `margay explain`: would this packet get through, and who decides?

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, bail};
use clap::{Args, CommandFactory as _, error::ErrorKind};
use margay_maps::{
    DropReason, EndpointKind, FlowVerdict, Hook, Id, Outcome, Way,
    protocol::{ICMP, SCTP, TCP, UDP},
    user::{Maps, text::protocol_name},
};
use serde::Serialize;

use super::{
    Cli, EXIT_DEGRADED, EXIT_OK,
    list::{interface_name, open},
    output::{Format, json},
};
use crate::{
    datapath::pins::PinDir,
    explain::{Finding, Opening, ask},
    state::StateDir,
    view::{
        SOCKET,
        client::{Agent, AskError},
        protocol::{End, Isolation, Kind, Reply, Request},
    },
};

/// Which packet.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Who opens the flow: a pod as namespace/name, or an address
    from: String,
    /// To whom, likewise
    to: String,
    /// The destination port; needed for every protocol that has ports
    #[arg(short, long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The protocol
    #[arg(long, default_value = "tcp", value_name = "PROTOCOL")]
    protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Protocol {
    /// A SYN
    Tcp,
    /// A datagram
    Udp,
    /// An INIT
    Sctp,
    /// An echo request
    Icmp,
}

/// What is printed.
#[derive(Serialize)]
struct Explanation {
    /// Whether it goes on, as far as this node has a say.
    allowed: bool,
    from: End,
    to: End,
    /// Where a Service's address leads, if `to` is one.
    backend: Option<Backend>,
    protocol: String,
    port: Option<u16>,
    /// The program that was asked.
    program: Hook,
    interface: Option<String>,
    outcome: Outcome,
    reason: Option<DropReason>,
    verdict: Option<FlowVerdict>,
    egress: Half,
    ingress: Half,
    way: Option<Route>,
    /// Of endpoints, routes and nodes.
    generation: u32,
    /// Of the policies of both ends; none of who is no pod of this node.
    policy_generations: [Option<u32>; 2],
    /// Flows between these ends in the table: allowed, denied.
    live_flows: [usize; 2],
}

#[derive(Serialize)]
struct Backend {
    #[serde(flatten)]
    end: End,
    port: u16,
}

/// What one end's policies say.
#[derive(Serialize)]
struct Half {
    /// In one sentence.
    says: String,
    /// The policies that isolate the pod in this direction.
    isolated_by: Vec<String>,
    /// The rule that allows.
    allowed_by: Option<String>,
    /// The node that has to be asked, where it is not this one.
    ask_node: Option<String>,
}

/// Where it goes.
#[derive(Serialize)]
struct Route {
    way: Way,
    interface: Option<String>,
    node: Option<IpAddr>,
    next_hop: Option<IpAddr>,
}

/// Whom the names and policies are asked of: the agent, if one runs.
struct Known {
    agent: Option<Agent>,
    names: BTreeMap<IpAddr, String>,
}

/// Asks the programs, and prints what they say.
///
/// # Errors
/// An end is unknown, neither is of this node, or there is no datapath.
pub(super) fn run(args: &ExplainArgs, state: &StateDir, pins: &PinDir, format: Format) -> Result<u8> {
    if args.port.is_none() && args.protocol != Protocol::Icmp {
        let missing = "which port? Give --port PORT, or --protocol icmp";
        Cli::command().error(ErrorKind::MissingRequiredArgument, missing).exit()
    }
    let maps = open(pins)?;
    let mut known = Known::of(state)?;
    let ends = known.ends(&maps, vec![args.from.clone(), args.to.clone()])?;
    let [from, to] = <[End; 2]>::try_from(ends).map_err(|_other| anyhow::anyhow!("the agent is of another version"))?;
    let opening = Opening {
        from: v4(&from)?,
        to: v4(&to)?,
        protocol: args.protocol.number(),
        port: args.port.unwrap_or_default(),
    };
    let finding = ask(pins, &maps, opening)?;
    let explanation = explain(&maps, &mut known, from, to, opening, &finding)?;
    match format {
        Format::Json => json(&explanation)?,
        Format::Table => println!("{}", text(&explanation)),
    }
    Ok(if explanation.allowed { EXIT_OK } else { EXIT_DEGRADED })
}

fn v4(end: &End) -> Result<std::net::Ipv4Addr> {
    match end.address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => bail!("{address}: IPv6 is not carried yet"),
    }
}

fn explain(
    maps: &Maps,
    known: &mut Known,
    from: End,
    to: End,
    opening: Opening,
    finding: &Finding,
) -> Result<Explanation> {
    let flow = finding.flow.as_ref();
    let backend = match flow.filter(|flow| flow.to != to.address) {
        Some(flow) => {
            let mut ends = known.ends(maps, vec![flow.to.to_string()])?;
            ends.pop().map(|end| Backend { end, port: flow.port })
        }
        None => None,
    };
    let [egress_by, ingress_by] = known.origins(flow.map_or([Id::NONE; 2], |flow| flow.origins))?;
    let verdict = flow.map(|flow| flow.verdict);
    let egress =
        half(&from, from.egress.as_ref(), egress_by, verdict == Some(FlowVerdict::EgressDenied), flow.is_some());
    let other = backend.as_ref().map_or(&to, |backend| &backend.end);
    let ingress = match verdict {
        Some(FlowVerdict::EgressDenied) => Half::says("not looked at: egress is denied".to_owned()),
        _ if finding.hook == Hook::ToWorkload => Half::says("a node always reaches its own pods".to_owned()),
        _ => {
            half(other, other.ingress.as_ref(), ingress_by, verdict == Some(FlowVerdict::IngressDenied), flow.is_some())
        }
    };
    Ok(Explanation {
        allowed: finding.is_allowed(),
        protocol: protocol_name(opening.protocol).into_owned(),
        port: opening.has_ports().then_some(opening.port),
        program: finding.hook,
        interface: interface_name(finding.ifindex),
        outcome: finding.outcome,
        reason: finding.reason,
        verdict,
        egress,
        ingress,
        way: flow.filter(|flow| flow.verdict == FlowVerdict::Allowed).map(|flow| Route {
            way: flow.way,
            interface: interface_name(flow.ifindex),
            node: flow.node.map(IpAddr::from),
            next_hop: flow.next_hop.map(IpAddr::from),
        }),
        generation: finding.generation,
        policy_generations: finding.generations,
        live_flows: finding.live,
        from,
        to,
        backend,
    })
}

/// What the policies of one end have to do with it.
fn half(end: &End, isolation: Option<&Isolation>, rule: Option<String>, denied: bool, judged: bool) -> Half {
    let isolated_by = isolation.map(|isolation| isolation.policies.clone()).unwrap_or_default();
    let who = match isolated_by.as_slice() {
        [] => "isolated".to_owned(),
        policies => format!("isolated by NetworkPolicy {}", policies.join(", ")),
    };
    let elsewhere = end.node.clone().filter(|_| end.kind == Kind::Pod && !end.here);
    let says = match (&elsewhere, isolation) {
        (Some(node), _) => format!("judged by node {node}: ask there"),
        (None, _) if end.kind != Kind::Pod => "no pod: no policy is about it".to_owned(),
        (None, None) => "open: no policy isolates the pod in this direction".to_owned(),
        (None, Some(_)) if denied => format!("{who}; no rule allows it"),
        (None, Some(_)) => match &rule {
            Some(rule) => format!("{who}; allowed by {rule}"),
            None if judged => format!("{who}; not asked, as a pod always reaches itself"),
            None => format!("{who}; not asked"),
        },
    };
    Half { says, isolated_by, allowed_by: rule, ask_node: elsewhere }
}

fn text(explanation: &Explanation) -> String {
    let Explanation { from, to, backend, program, interface, outcome, reason, .. } = explanation;
    let port = explanation.port.map(|port| format!(" to port {port}")).unwrap_or_default();
    let by = interface.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
    let mut lines = vec![format!("From        {}", end_text(from)), format!("To          {}", end_text(to))];
    if let Some(Backend { end, port }) = backend {
        lines.push(format!("Backend     {}, port {port}", end_text(end)));
    }
    lines.push(format!("Packet      {}{port}, given to {program}{by}", explanation.protocol));
    lines.push(match reason {
        Some(reason) => format!("Verdict     dropped, {reason}: {}", reason.explain()),
        None => format!("Verdict     allowed here: {outcome}"),
    });
    lines.push(format!("Egress      {}", explanation.egress.says));
    lines.push(format!("Ingress     {}", explanation.ingress.says));
    if let Some(way) = &explanation.way {
        lines.push(format!("Way         {}", way_text(way)));
    }
    let number = |generation: Option<u32>| generation.map_or_else(|| "-".to_owned(), |g| g.to_string());
    let [from, to] = explanation.policy_generations.map(number);
    lines.push(format!(
        "Generation  {} of routes, {from} of the sender's policies, {to} of the receiver's",
        explanation.generation
    ));
    lines.push(match explanation.live_flows {
        [0, 0] => "Live flows  none".to_owned(),
        [allowed, denied] => format!("Live flows  {allowed} allowed, {denied} denied"),
    });
    lines.join("\n")
}

fn end_text(end: &End) -> String {
    let who = match (end.kind, &end.name, &end.node) {
        (Kind::Pod, Some(name), Some(_)) if end.here => format!("pod {name}, here"),
        (Kind::Pod, Some(name), Some(node)) => format!("pod {name}, of node {node}"),
        (Kind::Pod, Some(name), None) => format!("pod {name}"),
        (Kind::Pod, None, _) => "a pod here".to_owned(),
        (Kind::Node, Some(name), _) if end.here => format!("node {name} itself"),
        (Kind::Node, Some(name), _) => format!("node {name}"),
        _ => "nobody of the cluster".to_owned(),
    };
    let identity = match &end.identity {
        Some(id) => format!("\n            identity {id}: {}", end.peers.join("; ")),
        None => String::new(),
    };
    format!("{} ({who}){identity}", end.address)
}

fn way_text(way: &Route) -> String {
    let by = way.interface.as_ref().map(|name| format!(" by {name}")).unwrap_or_default();
    match (way.way, way.node, way.next_hop) {
        (Way::Pod, ..) => format!("into the pod{by}"),
        (Way::Node, Some(node), Some(hop)) if node != hop => format!("to node {node}{by}, next hop {hop}"),
        (Way::Node, Some(node), _) => format!("to node {node}{by}"),
        _ => "the host's stack".to_owned(),
    }
}

fn say_blind() {
    eprintln!("margay: no agent answers on this node: names and policies are known as far as the maps tell");
}

// === impl Half ===

impl Half {
    fn says(says: String) -> Self {
        Self { says, isolated_by: Vec::new(), allowed_by: None, ask_node: None }
    }
}

// === impl Protocol ===

impl Protocol {
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
            Self::Sctp => SCTP,
            Self::Icmp => ICMP,
        }
    }
}

// === impl Known ===

impl Known {
    fn of(state: &StateDir) -> Result<Self> {
        let agent = Agent::connect(&state.path(SOCKET)).ok();
        if agent.is_none() {
            say_blind();
        }
        Ok(Self { agent, names: state.status()?.map(|status| status.names).unwrap_or_default() })
    }

    fn ends(&mut self, maps: &Maps, ends: Vec<String>) -> Result<Vec<End>> {
        if let Some(agent) = &mut self.agent {
            match agent.ask(&Request::Ends { ends: ends.clone() }) {
                Ok(Reply::Ends(ends)) => return Ok(ends),
                Ok(_) => bail!("the agent is of another version"),
                Err(AskError::Refused(why)) => bail!("{why}"),
                Err(AskError::Gone(_)) => {
                    say_blind();
                    self.agent = None;
                }
            }
        }
        ends.iter().map(|end| self.end_without_agent(maps, end)).collect()
    }

    /// From the maps, and the names that an agent left.
    fn end_without_agent(&self, maps: &Maps, text: &str) -> Result<End> {
        let named = || self.names.iter().find(|(_, name)| *name == text).map(|(address, _)| *address);
        let address = text.parse().ok().or_else(named);
        let address: IpAddr = address
            .with_context(|| format!("who is {text}? Without an agent give an address, or a pod of this node"))?;
        let endpoint = maps.endpoints.get(&address.into())?;
        let pod = endpoint.filter(|endpoint| endpoint.kind == EndpointKind::Workload);
        let enforcement = match pod {
            Some(pod) => maps.enforcement.get(&pod.slot)?,
            None => None,
        };
        let isolation = |id: Option<Id>| {
            id.filter(|id| !id.is_none()).map(|id| Isolation { policies: Vec::new(), id: id.to_string() })
        };
        Ok(End {
            address,
            kind: match endpoint.map(|endpoint| endpoint.kind) {
                Some(EndpointKind::Workload) => Kind::Pod,
                Some(EndpointKind::Host) => Kind::Node,
                None => Kind::World,
            },
            name: self.names.get(&address).cloned(),
            node: None,
            here: endpoint.is_some(),
            identity: None,
            peers: Vec::new(),
            ingress: isolation(enforcement.map(|enforcement| enforcement.ingress)),
            egress: isolation(enforcement.map(|enforcement| enforcement.egress)),
        })
    }

    /// Who wrote these rules.
    fn origins(&mut self, ids: [Id; 2]) -> Result<[Option<String>; 2]> {
        let wanted = ids.iter().filter(|id| !id.is_none()).map(ToString::to_string).collect();
        let known = match &mut self.agent {
            Some(agent) => match agent.ask(&Request::Origins { ids: wanted })? {
                Reply::Origins(known) => known,
                _ => bail!("the agent is of another version"),
            },
            None => BTreeMap::new(),
        };
        Ok(ids.map(|id| {
            let text = id.to_string();
            (!id.is_none()).then(|| known.get(&text).cloned().unwrap_or_else(|| format!("rule {text}")))
        }))
    }
}
