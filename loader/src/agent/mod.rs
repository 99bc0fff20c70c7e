//! The agent: one loop that makes the kernel what the cluster's state asks for, again and again.
//!
//! A pass reads everything, plans, and repairs the difference. What triggers it (a file, an interface, a route, the
//! clock) does not matter to it, so whatever was missed, failed or undone by hand is mended by the next one. Stopping
//! the agent, however it happens, changes nothing: programs, maps and routes stay and go on working.

mod pass;
mod policies;
mod report;
mod services;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, sleep_until},
};
use tracing::info;

use self::pass::{Agent, Look};
use crate::{
    datapath::attach::Depth,
    host::Host,
    source::{Keep, Source, SourceConfig},
    state::StateDir,
};

/// How the agent is to run.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// `metadata.name` of this node's Node object.
    pub node_name: String,
    /// Where the state of the cluster comes from.
    pub source: SourceConfig,
    /// The directory below which everything is pinned.
    pub bpffs: PathBuf,
    /// The agent's own directory.
    pub state_dir: PathBuf,
    /// Where the kernel's settings are: `/proc/sys`, or the host's in a container.
    pub proc_sys: PathBuf,
    /// Uplinks by name; empty: found by themselves.
    pub uplinks: Vec<String>,
    /// Leave encapsulation and its undoing to the overlay device.
    pub encap_by_device: bool,
    /// VXLAN's network identifier.
    pub vni: u32,
    /// VXLAN's UDP port.
    pub port: u16,
    /// Where `/healthz`, `/readyz` and `/metrics` are served, if anywhere.
    pub health: Option<SocketAddr>,
    /// How often everything is looked at even if nothing seems to have changed.
    pub resync: Duration,
}

/// How long a starting agent waits for a stopping one: a supervisor starts the new one when it has told the old one
/// to stop, not when it has stopped.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The least time from the end of one pass to the next that an event brings about, so that a burst of events is one
/// pass. Plugins do not wait for it.
const PASS_GAP: Duration = Duration::from_millis(10);

/// How long no plugin must have called before interfaces get their links in place of the filters that they got in
/// haste: making one keeps the loop, and the kernel's network configuration, busy for some 10 ms.
const SETTLE_AFTER: Duration = Duration::from_secs(1);

/// How long after a pass that has changed policies what only the change needed is taken away.
const TIDY_AFTER: Duration = Duration::from_millis(100);

/// Between two such links: room for whatever else wants to be done.
const SETTLE_GAP: Duration = Duration::from_millis(20);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The agent cannot start: no privileges, no bpffs, an old kernel, another agent. Once it runs, it reports and goes on.
pub async fn run(config: AgentConfig) -> Result<()> {
    let state = StateDir::of(&config.state_dir);
    let _lock = state.lock(LOCK_PATIENCE)?;
    state.forget_status()?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let (mut host_changes, hints) = Host::watch()?;
    let mut resync = tokio::time::interval(config.resync);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut agent = Agent::start(config, state, hints)?;
    let mut source_changes = agent.source.watch();
    settle(&*agent.source).await;
    let mut cni_requests = agent.serve_cni()?;
    agent.serve_view()?;
    info!(node = agent.config.node_name, "agent started");
    let mut calm = Instant::now();
    let mut quiet = Instant::now();
    loop {
        let mut waiting = Vec::new();
        let mut look = Look::All;
        let depth = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = resync.tick() => Depth::Everything,
            Some(request) = cni_requests.recv() => {
                waiting.push(request);
                Depth::Changes
            }
            Some(()) = after(calm, host_changes.recv()) => Depth::Changes,
            Some(()) = after(calm, source_changes.recv()) => {
                look = Look::Objects;
                Depth::Changes
            }
            () = sleep_until(calm + TIDY_AFTER), if !agent.is_settled() => Depth::Changes,
            () = sleep_until(quiet), if agent.hasty() > 0 => {
                agent.settle_one();
                quiet = Instant::now() + SETTLE_GAP;
                continue;
            }
        };
        // Whoever asks while this pass is being prepared is served by it too.
        while let Ok(request) = cni_requests.try_recv() {
            waiting.push(request);
        }
        if !waiting.is_empty() {
            look = Look::All;
        }
        let hasty = agent.hasty();
        agent.pass(depth, look, &waiting).await;
        calm = Instant::now() + PASS_GAP;
        if agent.hasty() > hasty || !waiting.is_empty() {
            quiet = Instant::now() + SETTLE_AFTER;
        }
        agent.answer(waiting).await;
    }
    agent.source.keep(&agent.state, Keep::Last)?;
    info!("agent stops; the datapath stays in force");
    Ok(())
}

/// How long the first pass waits for the source.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);

/// Gives the source the moment that it needs to say what there is: the first pass is not to undo for it what an earlier
/// agent did.
async fn settle(source: &dyn Source) {
    let deadline = Instant::now() + SETTLE_PATIENCE;
    while !source.is_settled() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// `event`, but not before `calm`.
async fn after<T>(calm: Instant, event: impl Future<Output = T>) -> T {
    sleep_until(calm).await;
    event.await
}
