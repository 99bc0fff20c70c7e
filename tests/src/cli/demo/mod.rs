//! The demo: a cluster from plain manifests, and what its network does, in a few seconds.
//!
//! In: a directory of manifests. Out: text for people; exit code 0 if everything works. Never: anything left behind, unless
//! `--keep` asks for it.

mod look;
mod reach;

use std::{
    cell::Cell,
    fmt::Display,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use margay_lab::{Lab, LabName, rundir};

use super::{
    interrupt,
    style::{bold, dim, green},
};

/// Where the example stands, in the repository that this was built from.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/three-nodes");
/// How long the agents may take to be ready.
const READY: Duration = Duration::from_secs(10);
#[derive(Debug, clap::Args)]
#[command(about = "Three nodes and six pods on this machine, and who reaches whom", long_about = LONG)]
pub(super) struct Args {
    /// A directory of Kubernetes manifests
    #[arg(value_name = "DIR", default_value = EXAMPLE, hide_default_value = true)]
    directory: PathBuf,
    /// The name of the lab that it makes
    #[arg(long, value_name = "NAME", default_value = "demo")]
    name: LabName,
    /// Leave the cluster up at the end, and print the commands to explore it
    #[arg(long)]
    keep: bool,
}

const LONG: &str = "\
Three nodes and six pods on this machine, and who reaches whom.

Builds a cluster of network namespaces from deploy/examples/three-nodes (or from any directory of manifests), starts an agent \
on each node, and tries ping, TCP and UDP with 64 and 8,000 bytes between all pairs: pod and pod, node and pod. Then a \
traceroute, a pod that lies about its address, the counters of dropped packets, and a look into a BPF map. Takes \
everything down at the end.

Exit code: 0 if everything works, 1 if not.";

pub(super) fn demo(args: Args) -> Result<()> {
    let Args { directory, name, keep } = args;
    interrupt::note_signals()?;
    clear_away(&name)?;
    let began = Instant::now();
    let steps = Steps::of(if keep { 6 } else { 7 });
    let mut lab = build(&steps, &name, &directory)?;
    let outcome = show(&steps, &lab);
    if keep {
        lab.keep()?;
        if let Err(error) = &outcome {
            eprintln!("\n{error:#}");
        }
        look::how_to_explore(&lab);
    } else {
        steps.next("taking everything down");
        drop(lab);
        steps.done("nothing is left");
    }
    outcome?;
    println!("\n{}", green(format!("Everything works. {:.1} s", began.elapsed().as_secs_f64())));
    Ok(())
}

fn build(steps: &Steps, name: &LabName, directory: &Path) -> Result<Lab> {
    let directory = directory.canonicalize().with_context(|| format!("opening {}", directory.display()))?;
    let here = std::env::current_dir().unwrap_or_default();
    let shown = directory.strip_prefix(&here).unwrap_or(&directory);
    steps.next(format!("building the cluster of {}", shown.display()));
    let lab = Lab::from_dir(name, &directory)?;
    let cluster = lab.cluster();
    steps.done(format!("{} nodes, {} pods: a network namespace each", cluster.nodes.len(), cluster.pods.len()));
    interrupt::check()?;
    steps.next("starting an agent on each node");
    lab.start_agents()?;
    let ready = lab.wait_ready(READY);
    interrupt::check()?;
    ready?;
    steps.done("all of them ready");
    Ok(lab)
}

/// Shows something, and says in a sentence what it has shown.
type Part = fn(&Lab) -> Result<String>;

/// The parts in their order. A part that fails does not keep the others from being shown.
fn show(steps: &Steps, lab: &Lab) -> Result<()> {
    let parts: [(&str, Part); 4] = [
        ("trying every pair", reach::matrix),
        ("tracing the way across nodes", look::trace),
        ("sending from a stolen address", look::spoof),
        ("looking into the maps", look::maps),
    ];
    let mut failures = Vec::new();
    for (what, part) in parts {
        interrupt::check()?;
        steps.next(what);
        match part(lab) {
            Ok(said) => steps.done(said),
            Err(error) => {
                steps.failed(format!("{error:#}"));
                failures.push(what);
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}\n{}", failures.join(", "), look::how_to_find_out(lab)) }
}

/// What `--keep` has left standing is the demo's own and is in its way.
fn clear_away(name: &LabName) -> Result<()> {
    if rundir::list()?.contains(name) {
        match rundir::RunDir::of(name).load() {
            Ok(state) if state.owner.is_some_and(|o| o.runs()) => bail!("another demo is running"),
            _ => {}
        }
        println!("{}", dim("taking down the cluster of the last demo"));
        Lab::down(name)?;
    }
    Ok(())
}

/// Numbered progress.
#[derive(Debug)]
struct Steps {
    all: u8,
    number: Cell<u8>,
    began: Cell<Instant>,
}

// === impl Steps ===

impl Steps {
    fn of(all: u8) -> Self {
        Self { all, number: Cell::new(0), began: Cell::new(Instant::now()) }
    }

    fn next(&self, what: impl Display) {
        self.number.set(self.number.get() + 1);
        self.began.set(Instant::now());
        println!("\n{} {}", dim(format!("[{}/{}]", self.number.get(), self.all)), bold(what));
    }

    fn done(&self, said: impl Display) {
        println!("      {} {}", green(said), dim(self.took()));
    }

    fn failed(&self, why: impl Display) {
        println!("      {} {}", super::style::red(why), dim(self.took()));
    }

    fn took(&self) -> String {
        format!("({:.2} s)", self.began.get().elapsed().as_secs_f64())
    }
}
