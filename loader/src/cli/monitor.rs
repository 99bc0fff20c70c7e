//! `margay monitor`: drops and new flows as they happen.

use std::{
    io::{self, Write as _},
    net::IpAddr,
    path::Path,
    thread::sleep,
    time::Duration,
};

use anyhow::Result;
use clap::{Args, ValueEnum, builder::PossibleValuesParser};
use ipnet::IpNet;
use margay_maps::DropReason;
use serde::Serialize;

use super::{EXIT_OK, output::Format};
use crate::{
    events::told::{Party, Told},
    state::StateDir,
    view::{
        SOCKET,
        client::Agent,
        protocol::{Kind, Reply, Request},
    },
};

/// Which events.
#[derive(Debug, Default, Args)]
pub struct MonitorArgs {
    /// Only what this pod (namespace/name) sends or receives
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Only from there: a pod (namespace/name), a node, an address or a CIDR
    #[arg(long, value_name = "END")]
    from: Option<End>,
    /// Only to there, likewise
    #[arg(long, value_name = "END")]
    to: Option<End>,
    /// Only one kind of events
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<EventType>,
    /// Only drops: short for --type drop
    #[arg(long, conflicts_with = "kind")]
    drops: bool,
    /// Only drops for this reason, as `margay drops --all` names it; may be given several times
    #[arg(long, value_name = "REASON", hide_possible_values = true,
          value_parser = PossibleValuesParser::new(DropReason::ALL.iter().map(|reason| reason.name())))]
    reason: Vec<String>,
    /// Only from or to this port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only this protocol: tcp, udp, sctp, icmp, or a number
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// End after so many events
    #[arg(short = 'n', long, value_name = "EVENTS")]
    count: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EventType {
    /// Packets that are dropped
    Drop,
    /// Flows that are opened and may pass
    Flow,
}

/// Where something is from or to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Net(IpNet),
    Named(String),
}

/// How long to wait for the next agent when one has gone.
const PATIENCE: Duration = Duration::from_millis(500);

/// Prints events until it is killed, the reader of its output goes, or there were enough.
///
/// # Errors
/// No agent runs.
pub(super) fn run(args: &MonitorArgs, state: &StateDir, format: Format) -> Result<u8> {
    let socket = state.path(SOCKET);
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut agent = attach(&socket)?;
    while left > 0 {
        match agent.hear()? {
            Some(Reply::Told(told)) if args.wants(&told) => {
                print(&told, format)?;
                left -= 1;
            }
            Some(Reply::Lost(events)) => lost(events, format)?,
            Some(_) => {}
            None => {
                eprintln!("margay: the agent has ended; waiting for the next one");
                agent = loop {
                    sleep(PATIENCE);
                    if let Ok(agent) = attach(&socket) {
                        break agent;
                    }
                };
            }
        }
    }
    Ok(EXIT_OK)
}

fn attach(socket: &Path) -> Result<Agent> {
    let mut agent = Agent::connect(socket)?;
    if let Reply::Listening { node } = agent.ask(&Request::Monitor)? {
        eprintln!("margay: drops and new flows of node {node}");
    }
    agent.wait_forever()?;
    Ok(agent)
}

fn print(told: &Told, format: Format) -> Result<()> {
    let line = match format {
        Format::Json => serde_json::to_string(told)?,
        Format::Table => text(told),
    };
    // In one piece, so that it is there at once also in a pipe.
    Ok(io::stdout().write_all(format!("{line}\n").as_bytes())?)
}

fn lost(events: u64, format: Format) -> Result<()> {
    #[derive(Serialize)]
    struct Lost {
        #[serde(rename = "type")]
        kind: &'static str,
        events: u64,
    }
    let line = match format {
        Format::Json => serde_json::to_string(&Lost { kind: "lost", events })?,
        Format::Table => format!("{events} events lost: too many at once, or read too slowly"),
    };
    Ok(io::stdout().write_all(format!("{line}\n").as_bytes())?)
}

/// One line for people: `12:00:01.123456 drop ingress_denied TCP default/a (10.0.0.1:40000) → …`.
fn text(told: &Told) -> String {
    let time = told.time.split_once('T').map_or(told.time.as_str(), |(_, time)| time.trim_end_matches('Z'));
    let word = told.reason.as_deref().or(told.verdict.as_deref()).unwrap_or("-");
    let protocol = told.protocol.as_deref().unwrap_or("-");
    let mut line = format!("{time} {} {word} {protocol} {} → {}", told.kind, party(&told.from), party(&told.to));
    if let Some(bytes) = told.bytes {
        line += &format!(", {bytes} bytes");
    }
    match (&told.hook, &told.interface) {
        (Some(hook), Some(interface)) => line += &format!(", at {hook} of {interface}"),
        (None, Some(interface)) => line += &format!(", came in by {interface}"),
        _ => {}
    }
    match (told.way.as_deref(), &told.interface_out) {
        (Some("host"), _) => line += ", goes on by the host's stack",
        (Some("node"), Some(interface)) => line += &format!(", goes on to another node by {interface}"),
        (Some(_), Some(interface)) => line += &format!(", goes on by {interface}"),
        _ => {}
    }
    if !told.allowed_by.is_empty() {
        line += &format!("; allowed by {}", told.allowed_by.join(" and "));
    }
    if !told.denied_by.is_empty() {
        line += &format!("; no rule allows it of NetworkPolicy {}", told.denied_by.join(", "));
    }
    line
}

fn party(party: &Party) -> String {
    let address = match (party.address, party.port) {
        (Some(IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        (Some(address), None) => address.to_string(),
        (None, _) => "?".to_owned(),
    };
    match &party.owner {
        Some(owner) => format!("{} ({address})", owner.name),
        None => address,
    }
}

// === impl MonitorArgs ===

impl MonitorArgs {
    fn wants(&self, told: &Told) -> bool {
        let Self { pod, from, to, kind, drops, reason, port, protocol, count: _ } = self;
        let kind = if *drops { Some(EventType::Drop) } else { *kind };
        let is_kind = kind.is_none_or(|kind| {
            told.kind
                == match kind {
                    EventType::Drop => "drop",
                    EventType::Flow => "flow",
                }
        });
        let ports = [told.from.port, told.to.port];
        is_kind
            && pod.as_ref().is_none_or(|pod| told.from.is_pod(pod) || told.to.is_pod(pod))
            && from.as_ref().is_none_or(|end| end.is(&told.from))
            && to.as_ref().is_none_or(|end| end.is(&told.to))
            && (reason.is_empty() || told.reason.as_ref().is_some_and(|r| reason.contains(r)))
            && port.is_none_or(|port| ports.contains(&Some(port)))
            && protocol.as_ref().is_none_or(|wanted| is_protocol(wanted, told.protocol.as_deref()))
    }
}

fn is_protocol(wanted: &str, protocol: Option<&str>) -> bool {
    protocol.is_some_and(|protocol| {
        protocol.eq_ignore_ascii_case(wanted)
            || protocol.strip_prefix("protocol ").is_some_and(|number| number == wanted)
    })
}

// === impl End ===

impl std::str::FromStr for End {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        Ok(match text.parse().ok().or_else(address) {
            Some(net) => Self::Net(net),
            None => Self::Named(text.to_owned()),
        })
    }
}

impl End {
    fn is(&self, party: &Party) -> bool {
        match self {
            Self::Net(net) => party.address.is_some_and(|address| net.contains(&address)),
            Self::Named(name) => {
                let owner = party.owner.as_ref();
                owner.is_some_and(|owner| owner.kind != Kind::World && owner.name == *name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::view::protocol::Name;

    fn told() -> Told {
        let party = |name: &str, address: &str, port| Party {
            address: address.parse().ok(),
            port: Some(port),
            owner: Some(Name { kind: Kind::Pod, name: name.to_owned() }),
            identity: None,
        };
        Told {
            time: "2026-01-02T03:04:05.000006Z".to_owned(),
            kind: "drop".to_owned(),
            reason: Some("ingress_denied".to_owned()),
            hook: Some("from_workload".to_owned()),
            interface: Some("cali1".to_owned()),
            protocol: Some("TCP".to_owned()),
            from: party("default/a", "10.0.0.1", 40_000),
            to: party("default/b", "10.0.0.2", 80),
            bytes: Some(74),
            verdict: Some("ingress denied".to_owned()),
            way: None,
            interface_out: None,
            allowed_by: vec!["NetworkPolicy default/out, egress[0]".to_owned()],
            denied_by: vec!["default/deny".to_owned()],
        }
    }

    fn wants(args: &str) -> bool {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: MonitorArgs,
        }
        Line::try_parse_from(format!("monitor {args}").split_whitespace()).unwrap().args.wants(&told())
    }

    #[test]
    fn a_drop_reads_as_a_sentence() {
        assert_eq!(
            text(&told()),
            "03:04:05.000006 drop ingress_denied TCP default/a (10.0.0.1:40000) → default/b (10.0.0.2:80), 74 bytes, at \
             from_workload of cali1; allowed by NetworkPolicy default/out, egress[0]; no rule allows it of NetworkPolicy \
             default/deny"
        );
    }

    #[test]
    fn filters_all_have_to_agree() {
        for yes in [
            "",
            "--pod default/a",
            "--pod default/b",
            "--from 10.0.0.0/24 --to default/b",
            "--drops --reason ingress_denied --reason egress_denied",
            "--type drop --port 80 --protocol tcp",
        ] {
            assert!(wants(yes), "{yes}");
        }
        for no in [
            "--pod default/c",
            "--from default/b",
            "--to 10.0.0.1",
            "--type flow",
            "--reason egress_denied",
            "--port 81",
            "--protocol udp",
        ] {
            assert!(!wants(no), "{no}");
        }
    }
}
