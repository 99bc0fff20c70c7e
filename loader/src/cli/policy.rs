//! `margay policy`: what is in force on this node.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use margay_maps::{Addr, user::Maps};
use serde::Serialize;

use super::{
    EXIT_OK,
    list::open,
    output::{Format, json, table},
};
use crate::{
    datapath::pins::PinDir,
    state::StateDir,
    view::{
        SOCKET,
        client::Agent,
        protocol::{IsolatedPod, Isolation, Policies, PolicyView, Reply, Request, RuleView},
    },
};

/// What to do.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// List the NetworkPolicies that are about pods of this node, and the pods that they isolate
    List,
    /// Show one: its rules as they were understood, its pods here, how much of the maps it takes
    Show {
        /// The policy, as namespace/name; without a namespace: of the namespace default
        name: String,
    },
}

/// An isolated pod, with what the maps say of it.
#[derive(Serialize)]
struct PodRow {
    #[serde(flatten)]
    pod: IsolatedPod,
    /// The generation of its slot; raised whenever a verdict about it could have changed. None while it has no interface.
    generation: Option<u32>,
}

#[derive(Serialize)]
struct Listing {
    policies: Vec<PolicyView>,
    isolated: Vec<PodRow>,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    policy: PolicyView,
    isolated: Vec<PodRow>,
    problems: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// No agent runs, or it knows no such policy here.
pub(super) fn run(args: &PolicyArgs, state: &StateDir, pins: &PinDir, format: Format) -> Result<u8> {
    let Reply::Policies(Policies { policies, isolated, problems }) =
        Agent::connect(&state.path(SOCKET))?.ask(&Request::Policies)?
    else {
        bail!("the agent is of another version");
    };
    let maps = open(pins)?;
    let isolated = isolated.into_iter().map(|pod| PodRow { generation: generation(&maps, &pod), pod }).collect();
    match &args.command {
        PolicyCommand::List => list(&Listing { policies, isolated, problems }, format)?,
        PolicyCommand::Show { name } => show(name, Listing { policies, isolated, problems }, format)?,
    }
    Ok(EXIT_OK)
}

fn generation(maps: &Maps, pod: &IsolatedPod) -> Option<u32> {
    let endpoint = pod.addresses.iter().find_map(|address| maps.endpoints.get(&Addr::from(*address)).ok()?)?;
    Some(maps.enforcement.get(&endpoint.slot).ok()??.generation)
}

fn list(listing: &Listing, format: Format) -> Result<()> {
    if format == Format::Json {
        return json(listing);
    }
    let Listing { policies, isolated, problems } = listing;
    if policies.is_empty() {
        println!("no policy is about a pod of this node");
    } else {
        let row = |policy: &PolicyView| {
            vec![
                policy.name.clone(),
                policy.selects.clone(),
                policy.pods.len().to_string(),
                rules(policy.ingress.as_ref()),
                rules(policy.egress.as_ref()),
                policy.map_rules.to_string(),
                if policy.understood { "in force" } else { "not understood" }.to_owned(),
            ]
        };
        let head = ["policy", "selects", "pods here", "ingress", "egress", "map rules", "state"];
        println!("{}", table(&head, policies.iter().map(row)));
    }
    if !isolated.is_empty() {
        println!("\n{}", pods(isolated));
    }
    trouble(problems);
    Ok(())
}

fn pods(pods: &[PodRow]) -> String {
    let row = |PodRow { pod, generation }: &PodRow| {
        vec![
            pod.pod.clone(),
            direction(pod.ingress.as_ref(), pod.nothing_in, pod.announced),
            direction(pod.egress.as_ref(), pod.nothing_out, pod.announced),
            generation.map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
        ]
    };
    table(&["isolated pod", "ingress", "egress", "generation"], pods.iter().map(row))
}

fn direction(isolation: Option<&Isolation>, nothing: bool, announced: bool) -> String {
    match isolation {
        None => "open".to_owned(),
        Some(_) if announced => "nothing: its labels are not known yet".to_owned(),
        Some(isolation) if nothing => format!("nothing ({})", isolation.policies.join(", ")),
        Some(isolation) => isolation.policies.join(", "),
    }
}

fn rules(rules: Option<&Vec<RuleView>>) -> String {
    match rules.map(Vec::len) {
        None => "-".to_owned(),
        Some(0) => "nothing".to_owned(),
        Some(1) => "1 rule".to_owned(),
        Some(n) => format!("{n} rules"),
    }
}

fn show(name: &str, listing: Listing, format: Format) -> Result<()> {
    let name = if name.contains('/') { name.to_owned() } else { format!("default/{name}") };
    let Listing { policies, isolated, problems } = listing;
    let Some(policy) = policies.into_iter().find(|policy| policy.name == name) else {
        bail!("no NetworkPolicy {name} is about a pod of this node; `margay policy list` names those that are");
    };
    let isolated = isolated.into_iter().filter(|row| policy.pods.contains(&row.pod.pod)).collect();
    let shown = Shown { policy, isolated, problems };
    if format == Format::Json {
        return json(&shown);
    }
    let Shown { policy, isolated, problems } = shown;
    println!("Policy     {}", policy.name);
    println!("Selects    {}", policy.selects);
    for (what, rules, ids) in [("Ingress", &policy.ingress, &policy.ids[0]), ("Egress", &policy.egress, &policy.ids[1])]
    {
        let Some(rules) = rules else { continue };
        let id = if ids.is_empty() { String::new() } else { format!(" (id {})", ids.join(", ")) };
        println!("{what:10} {}{id}", if rules.is_empty() { "nothing is allowed" } else { "what any of these allows" });
        for (i, RuleView { peers, ports }) in rules.iter().enumerate() {
            println!("  [{i}]      {}\n             at {}", peers.join("\n             or "), ports.join(", "));
        }
    }
    println!("Map rules  {}", policy.map_rules);
    if !policy.understood {
        println!("State      not understood: it isolates its pods until it is");
    }
    println!("\n{}", pods(&isolated));
    trouble(&problems);
    Ok(())
}

fn trouble(problems: &[String]) {
    for problem in problems {
        println!("\nnot in force as written: {problem}");
    }
}
