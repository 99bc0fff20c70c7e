//! The command line. In: arguments. Out: an exit code: 0, or 1 with a sentence on standard error, or that of the command
//! that `exec` ran. Never: a decision that the library could make.

mod bench;
mod demo;
mod down;
mod exec;
mod fuzz;
mod interrupt;
mod kubernetes;
mod scale;
mod status;
mod style;
mod table;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use margay_lab::LabName;

/// A Kubernetes cluster on this machine, without Kubernetes: a network namespace for each node and pod, and Margay's agent
/// on each node.
#[derive(Debug, Parser)]
#[command(name = "margay-lab", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Top,
}

#[derive(Debug, Subcommand)]
enum Top {
    /// A cluster from any directory of Kubernetes manifests: up, look around, change, down
    #[command(subcommand)]
    Lab(Lab),
    Demo(demo::Args),
    Bench(bench::Args),
    Fuzz(fuzz::Args),
    Scale(scale::Args),
}

#[derive(Debug, Subcommand)]
enum Lab {
    /// Build the cluster and start an agent on each node; or, with --kubernetes, start a real Kubernetes
    Up(up::Args),
    /// Run a command on a node or in a pod
    Exec(exec::Args),
    /// Show nodes, pods, and how the agents are
    Status(status::Args),
    /// Follow the manifests after they have changed: add and remove pods and nodes
    Sync(up::SyncArgs),
    /// Take the lab down: agents, namespaces, everything
    Down(down::Args),
}

/// Which lab is meant.
#[derive(Clone, Debug, clap::Args)]
struct Which {
    /// The lab's name: lower-case letters, digits and underscores
    #[arg(long, value_name = "NAME", default_value = "lab")]
    name: LabName,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Runs what the arguments ask for.
pub fn run() -> ExitCode {
    let Cli { command } = Cli::parse();
    let result = match command {
        Top::Demo(args) => done(demo::demo(args)),
        Top::Bench(args) => bench::bench(args),
        Top::Fuzz(args) => done(fuzz::fuzz(args)),
        Top::Scale(args) => scale::scale(args),
        Top::Lab(Lab::Up(args)) => done(up::up(args)),
        Top::Lab(Lab::Sync(args)) => done(up::sync(args)),
        Top::Lab(Lab::Exec(args)) => exec::exec(args),
        Top::Lab(Lab::Status(args)) => done(status::status(args)),
        Top::Lab(Lab::Down(args)) => done(down::down(args)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn done(result: Result<()>) -> Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}
