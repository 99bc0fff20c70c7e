//! The controller: takes back what deleted nodes and pods left behind.
//!
//! In: the Kubernetes API. Out: fewer addresses, handles and affinities in it, and a description of the cluster ([`identity`]).
//! Never: anything taken away on a first look. What looks abandoned must look so again after a while, in a pass that could read
//! everything, and once more a moment before.
//!
//! One controller of a cluster works at a time, the one that holds a Lease ([`lease`]). Two that both believe they hold it do
//! no harm: each write compares the object with what was seen.

pub mod collect;
pub mod identity;
pub mod lease;
pub mod suspects;
#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};
use tracing::{info, warn};

use self::{collect::Collector, lease::LeaseConfig};
use crate::ipam::{retry::part_of, store::KubeStore};
use crate::source::kube::ApiConfig;

/// The longest wait after a pass that failed; it is shorter after the first.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// The wait after the first pass that failed; it doubles with each.
const BACKOFF: Duration = Duration::from_secs(2);

/// How the controller is to run.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// Where the API server is.
    pub api: ApiConfig,
    /// The Lease that says which controller works.
    pub lease: LeaseConfig,
    /// How long to wait between two passes.
    pub interval: Duration,
    /// For how long something must look abandoned.
    pub grace: Duration,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start. Once it runs, it reports and tries again.
pub async fn run(config: ControllerConfig) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let client = config.api.connect().await.map_err(anyhow::Error::msg)?;
    let (leads, leading) = watch::channel(false);
    let (stop, stopped) = watch::channel(());
    let holding = tokio::spawn(lease::hold(client.clone(), config.lease.clone(), leads, stopped));
    info!(lease = %config.lease, "controller started");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = work(KubeStore::new(client), &config, leading) => {}
    }
    drop(stop);
    holding.await.context("giving the Lease up")?;
    info!("controller stops");
    Ok(())
}

/// Passes, as long as this controller leads.
async fn work(store: KubeStore, config: &ControllerConfig, mut leading: watch::Receiver<bool>) {
    let mut failures = 0;
    // Who begins to lead has seen nothing yet.
    let mut collector = None;
    loop {
        if !*leading.borrow_and_update() {
            collector = None;
            if leading.changed().await.is_err() {
                return;
            }
            continue;
        }
        let collector = collector.get_or_insert_with(|| Collector::new(store.clone(), config.grace));
        if let Err(error) = identity::ensure(&store).await {
            warn!("the cluster has no description, without which `calicoctl ipam check` does not work: {error}");
        }
        let wait = match collector.pass().await {
            Ok(taken) => {
                failures = 0;
                if !taken.is_nothing() {
                    info!("{taken}");
                }
                config.interval
            }
            Err(error) => {
                failures += 1;
                let wait = backoff(failures);
                warn!("a pass came to nothing, the next is in {} s: {error}", wait.as_secs());
                wait
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            changed = leading.changed() => if changed.is_err() { return },
        }
    }
}

/// Between half and all of a wait that doubles with each failure.
fn backoff(failures: u32) -> Duration {
    let doubled = BACKOFF.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let longest = doubled.min(BACKOFF_MAX);
    longest / 2 + part_of(longest / 2)
}
