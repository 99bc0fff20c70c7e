//! `lab status`.

use anyhow::Result;
use margay_lab::{Lab, LabName, kubernetes::KubeCluster, rundir};
use serde_json::{Value, json};

use super::{Format, kubernetes, table::Table};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The lab's name
    #[arg(long, value_name = "NAME", default_value = "lab", conflicts_with = "all")]
    name: LabName,
    /// The names of all labs of this machine instead
    #[arg(long)]
    all: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn status(args: Args) -> Result<()> {
    let Args { name, all, output } = args;
    match (all, output) {
        (true, Format::Table) => rundir::list()?.iter().for_each(|name| println!("{name}")),
        (true, Format::Json) => println!("{:#}", json!(rundir::list()?)),
        (false, _) if KubeCluster::exists(&name) => kubernetes::status(&name)?,
        (false, Format::Table) => print(&Lab::open(&name)?)?,
        (false, Format::Json) => println!("{:#}", as_json(&Lab::open(&name)?)),
    }
    Ok(())
}

/// How the agent of a node is, in a word, and what it complains about.
fn health(lab: &Lab, node: &str) -> (&'static str, Vec<String>) {
    match lab.agent(node) {
        None => return ("none", vec![]),
        Some(agent) if !agent.process.runs() => return ("ended", vec![]),
        Some(_) => {}
    }
    let Ok(status) = lab.margay_json(node, "status") else { return ("silent", vec![]) };
    let field = |problem: &Value, name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let problems = status["problems"].as_array().into_iter().flatten();
    let problems: Vec<_> =
        problems.map(|p| format!("{}: {}; {}", field(p, "object"), field(p, "what"), field(p, "remedy"))).collect();
    let word = match (status["ready"].as_bool(), problems.is_empty()) {
        (Some(true), true) => "ready",
        (Some(true), false) => "degraded",
        _ => "starting",
    };
    (word, problems)
}

pub(super) fn print(lab: &Lab) -> Result<()> {
    let mut nodes = Table::new(["NODE", "ADDRESS", "BLOCKS", "AGENT", "PID", "NETWORK NAMESPACE"]);
    let mut all_problems = Vec::new();
    for (name, node) in &lab.cluster().nodes {
        let (word, problems) = health(lab, name);
        all_problems.extend(problems.into_iter().map(|p| format!("{name}: {p}")));
        let blocks: Vec<_> = node.blocks.iter().map(ToString::to_string).collect();
        let pid = lab.agent(name).filter(|a| a.process.runs()).map_or("-".to_owned(), |a| a.process.pid.to_string());
        let namespace = lab.name().node(name);
        nodes.row([name.clone(), node.address.to_string(), blocks.join(","), word.to_owned(), pid, namespace]);
    }
    let mut pods = Table::new(["POD", "ADDRESS", "NODE", "NETWORK NAMESPACE"]);
    for (name, pod) in &lab.cluster().pods {
        pods.row([name.to_string(), pod.address.to_string(), pod.node.clone(), lab.name().pod(name)]);
    }
    print!("{}\n{}", nodes.render(), pods.render());
    all_problems.iter().for_each(|p| println!("problem: {p}"));
    Ok(())
}

fn as_json(lab: &Lab) -> Value {
    let node = |(name, node): (&String, &margay_lab::cluster::Node)| {
        let (word, problems) = health(lab, name);
        json!({
            "name": name, "address": node.address, "blocks": node.blocks, "namespace": lab.name().node(name),
            "agent": {"health": word, "pid": lab.agent(name).map(|a| a.process.pid), "problems": problems},
        })
    };
    let pod = |(name, pod): (&margay_lab::PodName, &margay_lab::cluster::Pod)| {
        json!({
            "namespace": name.namespace, "name": name.name, "address": pod.address, "node": pod.node,
            "netns": lab.name().pod(name),
        })
    };
    json!({
        "name": lab.name(), "manifests": lab.manifests(),
        "nodes": lab.cluster().nodes.iter().map(node).collect::<Vec<_>>(),
        "pods": lab.cluster().pods.iter().map(pod).collect::<Vec<_>>(),
    })
}
