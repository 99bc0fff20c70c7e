//! `lab up` and `lab sync`.

use std::{path::PathBuf, time::Duration, time::Instant};

use anyhow::{Context, Result};
use margay_lab::Lab;

use super::{Which, kubernetes};

/// How long the agents may take to be ready.
const READY: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A directory with manifests (*.yaml, *.yml, *.json): Nodes, Pods, and Calico's BlockAffinities if there are any
    #[arg(value_name = "DIR", required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Only namespaces and devices, no agents
    #[arg(long, conflicts_with = "kubernetes")]
    no_agents: bool,
    #[command(flatten)]
    kubernetes: kubernetes::Args,
}

#[derive(Debug, clap::Args)]
pub(super) struct SyncArgs {
    #[command(flatten)]
    which: Which,
}

pub(super) fn up(args: Args) -> Result<()> {
    let Args { directory, which: Which { name }, no_agents, kubernetes } = args;
    let Some(directory) = directory else { return kubernetes::up(&name, &kubernetes) };
    let began = Instant::now();
    let mut lab = Lab::from_dir(&name, &directory).with_context(|| format!("building lab {name}"))?;
    complain(&lab);
    let cluster = lab.cluster();
    println!("lab {name}: {} nodes, {} pods, in {} ms", cluster.nodes.len(), cluster.pods.len(), ms(began));
    lab.keep()?;
    if !no_agents {
        // From here on the lab stays whatever happens, so that one can look at what went wrong.
        lab.start_agents()?;
        lab.wait_ready(READY).context("the lab is up, but not all of its agents are ready")?;
        println!("agents ready, in {} ms", ms(began));
    }
    super::status::print(&lab)?;
    println!("\ncargo xtask lab exec{0} NODE|NAMESPACE/POD -- COMMAND\ncargo xtask lab down{0}", option(&lab));
    Ok(())
}

pub(super) fn sync(args: SyncArgs) -> Result<()> {
    let mut lab = Lab::open(&args.which.name)?;
    let agents = lab.cluster().nodes.keys().any(|n| lab.agent(n).is_some());
    let changes = lab.sync()?;
    complain(&lab);
    for node in &changes.nodes_added {
        println!("node {node} added");
        if agents {
            lab.start_agent(node, &margay_lab::agent::find_binary()?)?;
        }
    }
    changes.pods_removed.iter().for_each(|pod| println!("pod {pod} removed"));
    changes.pods_added.iter().for_each(|pod| println!("pod {pod} added"));
    if changes == margay_lab::lab::Changes::default() {
        println!("nothing has changed");
    }
    Ok(())
}

/// ` --name NAME`, where it is needed.
pub(super) fn option(lab: &Lab) -> String {
    match lab.name().as_str() {
        "lab" => String::new(),
        name => format!(" --name {name}"),
    }
}

fn complain(lab: &Lab) {
    lab.complaints().iter().for_each(|c| eprintln!("warning: {c}"));
}

fn ms(began: Instant) -> u128 {
    began.elapsed().as_millis()
}
