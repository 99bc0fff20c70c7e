//! The command line. Its `--help` is the manual; what the commands print is in the modules below.

mod api;
mod controller;
#[cfg(test)]
mod deploy_tests;
mod explain;
mod flows;
mod install;
mod ipam;
mod list;
mod monitor;
mod output;
mod policy;
mod services;
mod status;

use std::{io::IsTerminal as _, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use nix::sys::signal::{SigHandler, Signal, signal};
use tracing_subscriber::EnvFilter;

pub use self::output::Format;
use crate::{
    agent::{self, AgentConfig},
    datapath::pins::{DEFAULT_BPFFS, PinDir},
    host::sysctl::DEFAULT_PROC_SYS,
    source::{
        SourceConfig,
        kube::{Access, ApiConfig, Patience},
    },
    state::{DEFAULT_STATE_DIR, StateDir},
    uninstall,
};

/// All is well.
const EXIT_OK: u8 = 0;
/// The command could not do what it was asked.
const EXIT_FAILED: u8 = 1;
/// The command worked, and has found that something is wrong (`status`, `ipam check`), or is dropped (`explain`).
const EXIT_DEGRADED: u8 = 3;
/// No agent runs (`status`).
const EXIT_NOT_RUNNING: u8 = 4;

/// A Kubernetes network in eBPF: the agent of a node, and the commands that look at its work.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "\
Exit codes: 0 all is well; 1 the command failed; 2 it was called wrongly; \
3 something is wrong (status, ipam check), or it is dropped (explain); 4 no agent runs (status)."
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// The directory on a bpffs below which maps and links are pinned
    #[arg(long, global = true, env = "MARGAY_BPFFS", default_value = DEFAULT_BPFFS, value_name = "DIR")]
    bpffs: PathBuf,
    /// The agent's own directory: its lock, its status, the last good input
    #[arg(long, global = true, env = "MARGAY_STATE_DIR", default_value = DEFAULT_STATE_DIR, value_name = "DIR")]
    state_dir: PathBuf,
    /// Where the kernel's settings are. In a container /proc/sys is read-only: mount the host's elsewhere
    #[arg(long, global = true, env = "MARGAY_PROC_SYS", default_value = DEFAULT_PROC_SYS, value_name = "DIR")]
    proc_sys: PathBuf,
    /// How to print lists
    #[arg(short, long, global = true, default_value = "table", value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this node's agent until SIGTERM
    ///
    /// Loads and attaches the programs, and keeps maps, routes, the overlay device and settings what the cluster's
    /// state asks for. Stopping the agent changes nothing of that: traffic goes on.
    Agent(AgentArgs),
    /// Say how the agent is: ready or not, what is wrong, packets and bytes by hook
    Status {
        /// Wait up to so many seconds until all is well
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,
    },
    /// List this node's addresses: pods and the node itself
    Endpoints,
    /// List which node has which addresses
    Routes,
    /// List the other nodes, whose overlay packets are accepted
    Nodes,
    /// List dropped packets and bytes by reason
    Drops {
        /// Also list the reasons for which nothing was dropped
        #[arg(long)]
        all: bool,
    },
    /// List the flows: who opened which to whom, the verdict, packets and bytes there and back
    Flows {
        /// Only those with this end: an address, or a pod as namespace/name
        end: Option<String>,
    },
    /// Say whether a packet would get through, which policies and rules decide, and where it would go
    ///
    /// The programs of this node are asked, over the maps that are in force, with the first packet of such a flow. Nothing is sent and
    /// nothing is changed. A pod's node has the say about its policies: where the other end is another node's, ask there too.
    /// Exit code 0: it goes on, as far as this node has a say; 3: it is dropped; 1: it could not be found out.
    Explain(explain::ExplainArgs),
    /// Show or list the NetworkPolicies that are in force on this node
    Policy(policy::PolicyArgs),
    /// Print drops and new flows of this node as they happen, with pods, policies and reasons
    ///
    /// Several may watch at once: the agent tells them all. A packet that policies deny is a drop; a flow is told of once, when it
    /// is opened and may pass. With -o json each line is an object. What could not be told of, because there was too much at once or
    /// because it was read too slowly, is counted: "N events lost". Ends with Ctrl-C.
    Monitor(monitor::MonitorArgs),
    /// List the Services: address, port, and which backends stand for them on this node
    Services {
        /// Only this one: namespace/name, or its address
        service: Option<String>,
    },
    /// List the maps: where each is pinned, and how full it is
    Maps,
    /// Show or check what is written down about addresses in the Kubernetes API
    Ipam(ipam::IpamArgs),
    /// Run the cluster's controller until SIGTERM: it takes back the addresses of deleted nodes and pods
    ///
    /// Nothing is taken back on a first look: it must look abandoned for a while, in looks that could see everything.
    /// Several controllers may run; one of them works, and the others wait for its Lease to run out.
    Controller(controller::ControllerArgs),
    /// Remove every trace of Margay from this node
    ///
    /// Detaches all programs, removes pins, routes, the overlay device and the agent's files, and sets kernel
    /// settings back to what they were. The agent must not be running. Pods stay, without a network. The container
    /// runtime's directories are left as they are unless they are given.
    Uninstall(install::UninstallArgs),
    /// Install the CNI plugin: this binary, and the network configuration that makes the container runtime call it
    ///
    /// Each file is there whole or not at all, the configuration last. Installing again changes only what differs.
    Install(install::InstallArgs),
}

#[derive(Debug, Args)]
struct AgentArgs {
    /// This node's name: metadata.name of its Node object
    #[arg(long, env = "NODENAME", value_name = "NAME")]
    node_name: String,
    /// A directory of Kubernetes manifests to watch; may be given several times, later ones override the status,
    /// annotations and podCIDRs of objects in earlier ones
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "kubernetes_api"])]
    manifests: Vec<PathBuf>,
    /// Take the cluster's state from the Kubernetes API, as the current context of this file says. Without it and
    /// without --manifests the service account of the pod is used that the agent runs in
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The address of the API server, in place of the kubeconfig's or the pod's own (KUBERNETES_SERVICE_HOST and _PORT).
    /// It must not be a Service's: the agent has to reach it before any Service works
    #[arg(long, value_name = "HOST:PORT")]
    kubernetes_api: Option<String>,
    /// An interface that leads to the other nodes; may be given several times [default: found by the node's address
    /// and the routes to the other nodes]
    #[arg(long, value_name = "INTERFACE")]
    uplink: Vec<String>,
    /// Who writes and takes off VXLAN headers of pods' packets: the programs, or the kernel's vxlan device
    #[arg(long, default_value = "own", value_name = "WHO")]
    encap: Encap,
    /// VXLAN's network identifier
    #[arg(long, default_value_t = margay_maps::overlay::VNI, value_name = "VNI",
          value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    vni: u32,
    /// VXLAN's UDP port
    #[arg(long, default_value_t = margay_maps::overlay::PORT, value_name = "PORT",
          value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Serve /healthz, /readyz and /metrics (for Prometheus) at this address [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    health_addr: Option<SocketAddr>,
    /// Look at everything this often, even if nothing seems to have changed
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    resync: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Encap {
    /// The programs: the fast way
    Own,
    /// The kernel's vxlan device: the fallback
    Device,
}

/// What agent and controller log. The client of the Kubernetes API logs every failed try as an error; they say
/// themselves, and once, what is wrong.
const DAEMON_LOG: &str = "info,kube_client=off";
/// What the other commands log.
const COMMAND_LOG: &str = "warn,kube_client=off";

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    let daemon = matches!(command, Command::Agent(_) | Command::Controller(_));
    if !daemon {
        die_with_the_reader();
    }
    let filter = EnvFilter::try_from_env("MARGAY_LOG");
    let filter = filter.unwrap_or_else(|_unset| EnvFilter::new(if daemon { DAEMON_LOG } else { COMMAND_LOG }));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match run(common, command) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("margay: {e:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// `margay status | head` ends when head does, without a word: Rust ignores SIGPIPE, and would panic instead.
fn die_with_the_reader() {
    // SAFETY: the default action has no handler that could run in a bad moment; no other thread exists yet.
    let set = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    debug_assert!(set.is_ok(), "SIGPIPE is a signal that can be set");
}

fn run(common: Common, command: Command) -> Result<u8> {
    let Common { bpffs, state_dir, proc_sys, output } = common;
    let state = StateDir::of(&state_dir);
    let pins = PinDir::of(&bpffs);
    match command {
        Command::Agent(args) => {
            runtime()?.block_on(agent::run(agent_config(args, bpffs, state_dir, proc_sys)))?;
            Ok(EXIT_OK)
        }
        Command::Status { wait } => status::print(&state, &pins, output, Duration::from_secs(wait)),
        Command::Endpoints => list::endpoints(&state, &pins, output),
        Command::Routes => list::routes(&pins, output),
        Command::Nodes => list::nodes(&pins, output),
        Command::Drops { all } => list::drops(&pins, output, all),
        Command::Flows { end } => flows::run(&state, &pins, end.as_deref(), output),
        Command::Explain(args) => explain::run(&args, &state, &pins, output),
        Command::Policy(args) => policy::run(&args, &state, &pins, output),
        Command::Monitor(args) => monitor::run(&args, &state, output),
        Command::Services { service } => services::run(&state, &pins, service.as_deref(), output),
        Command::Maps => list::maps(&pins, output),
        Command::Ipam(args) => ipam::run(args, output),
        Command::Controller(args) => controller::run(args),
        Command::Install(args) => install::install(args, &state_dir, output),
        Command::Uninstall(args) => {
            let mut removed = runtime()?.block_on(uninstall::run(&bpffs, &state, &proc_sys))?;
            removed.extend(install::uninstall(&args)?);
            output::uninstalled(&removed, output)
        }
    }
}

fn agent_config(args: AgentArgs, bpffs: PathBuf, state_dir: PathBuf, proc_sys: PathBuf) -> AgentConfig {
    let AgentArgs { node_name, manifests, kubeconfig, kubernetes_api, uplink, encap, vni, port, health_addr, resync } =
        args;
    AgentConfig {
        node_name,
        source: source_config(manifests, kubeconfig, kubernetes_api),
        bpffs,
        state_dir,
        proc_sys,
        uplinks: uplink,
        encap_by_device: encap == Encap::Device,
        vni,
        port,
        health: health_addr,
        resync: Duration::from_secs(resync),
    }
}

fn source_config(manifests: Vec<PathBuf>, kubeconfig: Option<PathBuf>, address: Option<String>) -> SourceConfig {
    if !manifests.is_empty() {
        return SourceConfig::Directories(manifests);
    }
    let access = match kubeconfig {
        Some(file) => Access::Kubeconfig(file),
        None if address.is_some() || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => Access::InCluster,
        None => {
            let missing = "where does the cluster's state come from? Give --manifests DIR or --kubeconfig FILE, or run \
                           the agent in a pod";
            Cli::command().error(ErrorKind::MissingRequiredArgument, missing).exit()
        }
    };
    SourceConfig::Kubernetes(ApiConfig { access, address, patience: Patience::default() })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("starting the runtime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }
}
