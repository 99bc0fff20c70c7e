//! `margay controller`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{EXIT_OK, api::ApiArgs, runtime};
use crate::controller::{self, ControllerConfig, lease::LeaseConfig};
use crate::ipam::retry::random;

/// What `margay controller` takes.
#[derive(Debug, Args)]
pub(super) struct ControllerArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// The namespace of the Lease by which one of several controllers is the one that works
    #[arg(long, default_value = "kube-system", value_name = "NAMESPACE")]
    lease_namespace: String,
    /// The name of the Lease
    #[arg(long, default_value = "margay-controller", value_name = "NAME")]
    lease_name: String,
    /// Look at everything this often
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
    /// Take back what has looked abandoned in every look for this long, and in two looks at least
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    grace: u64,
}

pub(super) fn run(args: ControllerArgs) -> Result<u8> {
    let ControllerArgs { api, lease_namespace, lease_name, interval, grace } = args;
    let lease = LeaseConfig { namespace: lease_namespace, name: lease_name, identity: identity() };
    let interval = Duration::from_secs(interval);
    let config = ControllerConfig { api: api.config()?, lease, interval, grace: Duration::from_secs(grace) };
    runtime()?.block_on(controller::run(config))?;
    Ok(EXIT_OK)
}

/// A name that no other controller has: the machine's (in a pod, the pod's) and a random number.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{:016x}", host.trim(), random())
}
