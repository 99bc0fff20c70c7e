//! `scale`.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use margay_lab::{
    scale::{self, Options, Step},
    synthetic::Size,
};

/// Measure how the agent grows with its cluster: time to start, time for one change, memory
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Nodes of the cluster
    #[arg(long, value_name = "N", default_value_t = 10)]
    nodes: usize,
    /// Pods of the cluster
    #[arg(long, value_name = "N", default_value_t = 500)]
    pods: usize,
    /// NetworkPolicies of the cluster
    #[arg(long, value_name = "N", default_value_t = 250)]
    policies: usize,
    /// Feed the agent from a directory, not from a real kube-apiserver
    #[arg(long)]
    files: bool,
    /// Single changes of each kind
    #[arg(long, value_name = "N", default_value_t = 50)]
    changes: usize,
    /// Policies that are written at once
    #[arg(long, value_name = "N", default_value_t = 0)]
    burst: usize,
    /// Also write everything to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) fn scale(args: Args) -> Result<ExitCode> {
    let Args { nodes, pods, policies, files, changes, burst, json } = args;
    let size = Size { nodes, pods, policies, seed: 1 };
    let step = scale::measure(&Options { size, api: !files, changes, burst })?;
    let Step { start_ms, memory, memory_after, pod_ms, policy_ms, burst_ms, .. } = &step;
    println!("start {start_ms:.0} ms; memory {memory:?}, after {memory_after:?}");
    let show = |what: &str, times: &[f64]| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at =
            |share: f64| sorted.get(((sorted.len() as f64 - 1.0) * share).round() as usize).copied().unwrap_or(0.0);
        println!(
            "{what}: min {:.1} median {:.1} p90 {:.1} p99 {:.1} ms of {}",
            at(0.0),
            at(0.5),
            at(0.9),
            at(0.99),
            sorted.len()
        );
    };
    show("pod", pod_ms);
    show("policy", policy_ms);
    println!("burst {burst_ms:?}");
    if let Some(file) = json {
        fs::write(&file, serde_json::to_string_pretty(&step)?)
            .with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
