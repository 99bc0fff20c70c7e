//! Looks at single things: a way, a drop, a map.

use std::{net::Ipv4Addr, path::PathBuf, process::Command};

use anyhow::{Context, Result, anyhow, bail, ensure};
use margay_lab::{
    Lab, Place,
    agent::text_of,
    netlink::Netlink,
    probe::{self, packet},
    wiring::DEVICE,
};
use margay_maps::{DropReason, Mac};

use crate::cli::{style::dim, up};

/// An address that is nobody's (RFC 5737, TEST-NET-3).
const STOLEN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// How many lines of a dump are shown.
const DUMP_LINES: usize = 28;

/// Two pods on two nodes.
fn apart(lab: &Lab) -> Result<(Place, Place)> {
    let pods = lab.pods()?;
    let from = pods.first().context("there are no pods")?;
    let to = pods.iter().find(|p| p.node != from.node).context("all pods are on one node")?;
    Ok((from.clone(), to.clone()))
}

pub(super) fn trace(lab: &Lab) -> Result<String> {
    let (from, to) = apart(lab)?;
    println!("      traceroute from {from} to {to}");
    let hops = probe::traceroute(&from.namespace, to.address)?;
    for (index, hop) in hops.iter().enumerate() {
        let address = hop.map_or("*".to_owned(), |a| a.to_string());
        let who = hop.and_then(|a| lab.who_is(a)).unwrap_or_default();
        println!("      {:>3}  {address:<15}  {}", index + 1, dim(who));
    }
    let expected = [lab.node(&from.node)?.address, lab.node(&to.node)?.address, to.address];
    ensure!(hops == expected.map(Some), "the way should lead over {}", expected.map(|a| a.to_string()).join(", "));
    Ok("both nodes are on the way, as in any routed network".to_owned())
}

pub(super) fn spoof(lab: &Lab) -> Result<String> {
    let (from, to) = apart(lab)?;
    let mac = Netlink::open(&from.namespace)?.mac(DEVICE)?;
    let ip = packet::Ipv4::new(STOLEN, to.address, packet::UDP, &packet::udp(1, 9, b"boo")).bytes();
    println!("      {} sends to {to} from {STOLEN}", from.name);
    let frame = packet::ethernet(Mac::GATEWAY, mac, packet::ETH_IPV4, &ip);
    lab.drops_with(&from.node, DropReason::SpoofedSource, || probe::send_frame(&from.namespace, DEVICE, &frame))?;
    println!("      margay drops, on {}:", from.node);
    let drops = lab.margay(&from.node, ["drops"])?;
    text_of(&drops).lines().for_each(|line| println!("        {line}"));
    Ok("dropped, and counted under its reason".to_owned())
}

pub(super) fn maps(lab: &Lab) -> Result<String> {
    let node = lab.cluster().nodes.keys().next().context("there are no nodes")?;
    let pin = pin_of(lab, node, "endpoints")?;
    println!("      bpftool map dump pinned {}", pin.display());
    let output = match Command::new("bpftool").args(["map", "dump", "pinned"]).arg(&pin).output() {
        Ok(output) => output,
        Err(error) => return Ok(format!("bpftool cannot be run ({error}); on Debian: apt-get install bpftool")),
    };
    let text = text_of(&output);
    ensure!(output.status.success(), "{text}");
    text.lines().take(DUMP_LINES).for_each(|line| println!("        {line}"));
    let rest = text.lines().count().saturating_sub(DUMP_LINES);
    if rest > 0 {
        println!("        {}", dim(format!("({rest} more lines)")));
    }
    ensure!(text.contains("\"ifindex\""), "the dump has no field names: the map has no BTF");
    Ok("fields and variants have their names".to_owned())
}

/// Where a map of a node is pinned.
fn pin_of(lab: &Lab, node: &str, map: &str) -> Result<PathBuf> {
    let maps = lab.margay_json(node, "maps")?;
    let rows = maps.as_array().context("`margay maps -o json` prints no list")?;
    let row = rows.iter().find(|row| row["name"] == map).ok_or_else(|| anyhow!("there is no map {map}"))?;
    match row["pinned"].as_str() {
        Some(path) => Ok(path.into()),
        None => bail!("`margay maps -o json` does not say where {map} is pinned"),
    }
}

pub(super) fn how_to_explore(lab: &Lab) {
    let lines = match (apart(lab), lab.cluster().nodes.keys().next()) {
        (Ok((from, to)), Some(node)) => commands(lab, &from, &to, node),
        _ => vec![format!("cargo xtask lab status{}", up::option(lab))],
    };
    println!("\nThe cluster is up. To explore it:");
    lines.iter().for_each(|line| println!("  {line}"));
}

fn commands(lab: &Lab, from: &Place, to: &Place, node: &str) -> Vec<String> {
    let option = up::option(lab);
    let exec = format!("cargo xtask lab exec{option}");
    let pin = pin_of(lab, node, "routes").map(|p| p.display().to_string()).unwrap_or_default();
    vec![
        format!("cargo xtask lab status{option}"),
        format!("{exec} {} -- ping {}", from.name, to.address),
        format!("{exec} {node} -- margay status"),
        format!("{exec} {node} -- margay endpoints   # or: routes, nodes, drops, maps"),
        format!("{exec} {node} -- ip route"),
        format!("bpftool map dump pinned {pin}"),
        format!("less {}", lab.dir().agent_log(node).display()),
        format!("cargo xtask lab down{option}"),
    ]
}

pub(super) fn how_to_find_out(lab: &Lab) -> String {
    let node = lab.cluster().nodes.keys().next().map(String::as_str).unwrap_or_default();
    let exec = format!("cargo xtask lab exec{}", up::option(lab));
    format!(
        "To find out why: cargo xtask demo --keep, then\n  \
         {exec} {node} -- margay status   # what the agent complains about\n  \
         {exec} {node} -- margay drops    # which packets were dropped, and why\n  \
         {exec} NAMESPACE/POD -- ping ADDRESS"
    )
}
