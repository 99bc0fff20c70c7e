//! `scale`.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use margay_lab::{
    kubernetes::programs,
    scale::{self, Curve, Options, STEPS, Step, percentile},
    synthetic::Size,
};

/// Measure how the agent grows with its cluster: time to start, time for one change, memory
///
/// Builds clusters that do not exist, of 1, 10, 100, 1,000 and 10,000 policies, pods and nodes, in a real kube-apiserver if its
/// programs have been built (`cargo xtask setup`), in a directory of manifests otherwise, and starts the agent of one node on
/// them. A size of your own: --nodes, --pods, --policies.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this curve; may be given several times
    #[arg(long, value_name = "CURVE", value_enum, conflicts_with_all = ["nodes", "pods", "policies"])]
    curve: Vec<CurveName>,
    /// Nodes of the one cluster that is measured
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16_384))]
    nodes: Option<u16>,
    /// Its pods
    #[arg(long, value_name = "N", requires = "nodes")]
    pods: Option<usize>,
    /// Its NetworkPolicies
    #[arg(long, value_name = "N", requires = "nodes")]
    policies: Option<usize>,
    /// Feed the agent from a directory, even where a kube-apiserver could be had
    #[arg(long)]
    files: bool,
    /// Single changes of each kind
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=50))]
    changes: u8,
    /// Then so many policies are written at once
    #[arg(long, value_name = "N", default_value_t = 0)]
    burst: usize,
    /// The policies that come are about all pods of the node each, not about one
    #[arg(long)]
    about_all: bool,
    /// Also write everything to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the curves into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum CurveName {
    Policies,
    Pods,
    Nodes,
}

pub(super) fn scale(args: Args) -> Result<ExitCode> {
    let Args { curve, nodes, pods, policies, files, changes, burst, about_all, json, svg } = args;
    let api = !files && programs::path("kube-apiserver").is_ok() && programs::path("etcd").is_ok();
    let measure = |size: Size| -> Result<Step> {
        eprintln!("{} nodes, {} pods, {} policies", size.nodes, size.pods, size.policies);
        scale::measure(&Options { size, api, changes: changes.into(), burst, about_all })
    };
    let mut curves = Vec::new();
    if let Some(nodes) = nodes {
        let size = Size { nodes: nodes.into(), pods: pods.unwrap_or(0), policies: policies.unwrap_or(0), seed: 1 };
        let step = measure(size)?;
        print!("{}", scale::render(std::slice::from_ref(&step)));
        println!("agent from {}, at the start {:.0} MiB", step.source, step.memory.resident_kib as f64 / 1024.0);
        if let Some(burst_ms) = step.burst_ms {
            println!("{burst} policies at once: in force {burst_ms:.0} ms after the last was written");
        }
        println!(
            "one pod at p90 {:.1} ms, one policy {:.1} ms",
            percentile(&step.pod_ms, 0.9),
            percentile(&step.policy_ms, 0.9)
        );
        return written(json.as_ref(), || serde_json::to_string_pretty(&step).context("writing JSON"));
    }
    for wanted in
        Curve::ALL.into_iter().filter(|c| curve.is_empty() || curve.iter().any(|name| Curve::from(*name) == *c))
    {
        let steps = STEPS.iter().map(|number| measure(wanted.size(*number))).collect::<Result<Vec<_>>>()?;
        println!("\n### {}\n\n{}", wanted.title(), scale::render(&steps));
        curves.push((wanted, steps));
    }
    written(svg.as_ref(), || Ok(scale::draw(&curves)))?;
    written(json.as_ref(), || serde_json::to_string_pretty(&curves).context("writing JSON"))
}

fn written(file: Option<&PathBuf>, text: impl FnOnce() -> Result<String>) -> Result<ExitCode> {
    if let Some(file) = file {
        fs::write(file, text()?).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl From<CurveName> for Curve {
    fn from(name: CurveName) -> Self {
        match name {
            CurveName::Policies => Self::Policies,
            CurveName::Pods => Self::Pods,
            CurveName::Nodes => Self::Nodes,
        }
    }
}
