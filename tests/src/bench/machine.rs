//! What kind of machine the figures are from. In: /proc. Out: a [`Machine`]. Never: a name or address of it.

use std::{fs, thread::available_parallelism};

use anyhow::{Context, Result};
use serde::Serialize;

use super::seat::Seat;
use crate::{Place, wiring};

/// Where a namespace's TCP congestion control stands, below `/proc/sys`.
const CONGESTION: &str = "net/ipv4/tcp_congestion_control";

/// What figures depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The kernel's version, without what its builder has added.
    pub kernel: String,
    /// Its kind of CPU.
    pub architecture: &'static str,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// The one that clients and servers ran on.
    pub cpu: usize,
    /// Whether they had the highest priority (nice -20).
    pub first: bool,
    /// TCP congestion control, the same for all contenders.
    pub congestion: String,
    /// Whether the load generators were built with optimisation.
    pub optimised: bool,
    /// How many processes wanted to run when the bench began, a minute's mean (proc_loadavg(5)).
    pub load_average: String,
}

// === impl Machine ===

impl Machine {
    /// Looks at the machine, and at one of the namespaces that loads run in.
    pub(super) fn look(seat: Seat, place: &Place) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(file).with_context(|| format!("reading {file}"));
        Ok(Self {
            kernel: version(&read("/proc/sys/kernel/osrelease")?),
            architecture: std::env::consts::ARCH,
            cpus: available_parallelism().context("counting CPUs")?.get(),
            cpu: seat.cpu,
            first: seat.first,
            congestion: wiring::sysctl(&place.namespace, CONGESTION)?,
            optimised: !cfg!(debug_assertions),
            load_average: read("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
        })
    }
}

/// `6.12.3` of `6.12.3-cloud-amd64`.
fn version(release: &str) -> String {
    release.split(['-', '+']).next().unwrap_or_default().trim().to_owned()
}

/// Sets TCP congestion control wherever loads run, if one is named.
pub(super) fn set_congestion(places: &[&Place], name: Option<&str>) -> Result<()> {
    let Some(name) = name else { return Ok(()) };
    places.iter().try_for_each(|place| {
        wiring::set_sysctl(&place.namespace, CONGESTION, name)
            .with_context(|| format!("choosing {name} as TCP congestion control"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_builder_of_a_kernel_added_is_left_out() {
        assert_eq!(version("6.12.3-cloud-amd64\n"), "6.12.3");
        assert_eq!(version("7.2.0+deb13-amd64\n"), "7.2.0");
        assert_eq!(version("5.10.0\n"), "5.10.0");
    }
}
