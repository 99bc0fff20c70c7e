//! How long a change takes, from its being written to its being in the maps, where programs go by it.
//!
//! In: a stand with a running agent. Out: times. Never: a guess: the maps are read until they say it.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use margay_maps::{Addr, Enforcement, Id, user::Maps};
use serde_json::{Value, json};

use super::stand::{NAMESPACE, Stand, local_pod, running_pod};

/// Longer than any change may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a map; a look is one system call.
const LOOK: Duration = Duration::from_micros(100);
/// So long nothing must have changed before a burst counts as over.
const QUIET: Duration = Duration::from_millis(1500);

/// The policy that makes the pods of [`pods`] peers, so that each has an identity.
pub fn watchful_policy() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "watchful", "namespace": NAMESPACE },
        "spec": {
            "podSelector": { "matchLabels": { "app": "app-0" } },
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "measured": "yes" } } }], "ports": [{ "port": 80 }] }],
        },
    })
}

/// A pod like those of [`pods`], so that these are not the first that the policy is about, nor the last.
pub fn measured_namesake() -> Value {
    measured_pod("measured", "10.128.0.199")
}

fn measured_pod(name: &str, address: &str) -> Value {
    running_pod(name, NODE, address, &json!({ "app": "measured", "measured": "yes" }))
}

/// The node of the pods that come: one of the synthetic ones, which there is in every cluster.
const NODE: &str = "worker-00000.example";

/// How long a change took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// From its being written to its being in the maps.
    pub whole: Duration,
    /// Of that the agent's own part, from hearing of it, if the agent says so.
    pub agent: Option<Duration>,
}

/// How long the agent may take to say how long it took.
const SAID: Duration = Duration::from_millis(50);

/// Pods come on another node, one after the other: from each one's write to its identity's being there.
pub fn pods(stand: &Stand, count: usize) -> Result<Vec<Took>> {
    let maps = stand.maps()?;
    (0..count)
        .map(|number| {
            // Within the node's block, above its own pods.
            let address = format!("10.128.0.{}", 200 + number);
            let pod = measured_pod(&format!("measured-{number}"), &address);
            let addr = Addr::from(address.parse::<std::net::Ipv4Addr>()?);
            let passes = stand.status()?.passes;
            let began = Instant::now();
            stand.feed.create(&pod)?;
            until("a pod's identity", || Ok(maps.identities.get(&addr)?.is_some()))?;
            let whole = began.elapsed();
            let took = Took { whole, agent: said(stand, passes)? };
            // Not in step with the agent's own clock.
            sleep(Duration::from_millis(20 + 7 * (number as u64 % 13)));
            Ok(took)
        })
        .collect()
}

/// What the agent says of a pass after so many that took a change in. `None`: it said nothing in time, or something else since.
fn said(stand: &Stand, passes: u64) -> Result<Option<Duration>> {
    let began = Instant::now();
    while began.elapsed() < SAID {
        let status = stand.status()?;
        if let Some(change) = status.change_us.filter(|_| status.passes > passes) {
            return Ok(Some(Duration::from_micros(change)));
        }
        sleep(LOOK);
    }
    Ok(None)
}

/// Which of the node's pods policies that come are about.
#[derive(Clone, Copy, Debug)]
pub enum About {
    /// One of so many, in turn, so that none has the policies of another.
    Each(usize),
    /// All of so many: pods with ten thousand policies of their own each would be more than a map holds.
    All(usize),
}

impl About {
    /// As many policies as make each pod different from the others are as many rules over again.
    pub fn pods(pods: usize, policies: usize) -> Self {
        if policies > 1_000 { Self::All(pods) } else { Self::Each(pods) }
    }

    /// How many there are.
    fn count(self) -> usize {
        let (Self::Each(pods) | Self::All(pods)) = self;
        pods
    }

    /// One that a policy is about, and what selects it.
    fn subject(self, number: usize) -> (usize, Value) {
        match self {
            Self::Each(pods) => (number % pods, json!({ "matchLabels": { "app": format!("app-{}", number % pods) } })),
            Self::All(pods) => (number % pods, json!({})),
        }
    }
}

/// A policy about such pods. Each has a port of its own.
fn policy(number: usize, about: About) -> Value {
    let (_, selector) = about.subject(number);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": format!("measured-{number}"), "namespace": NAMESPACE },
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": {} }], "ports": [{ "port": 20_000 + number }] }],
        },
    })
}

/// Policies come one after the other: from each one's write to its being in force for its pod. Then they go.
pub fn policies(stand: &Stand, count: usize, about: About) -> Result<Vec<Duration>> {
    let watch = Watch::new(stand, about.count())?;
    let mut times = Vec::new();
    for number in 0..count {
        let (policy, (pod, _)) = (policy(number, about), about.subject(number));
        let before = watch.ingress(pod)?;
        let began = Instant::now();
        stand.feed.create(&policy)?;
        until("a policy's being in force", || Ok(watch.ingress(pod)? != before))?;
        times.push(began.elapsed());
        // Not in step with the agent's own clock.
        sleep(Duration::from_millis(20 + 7 * (number as u64 % 13)));
    }
    for number in 0..count {
        stand.feed.delete(&policy(number, about))?;
    }
    Ok(times)
}

/// Many policies come at once: from the last one's write to the last change of what is in force.
pub fn burst(stand: &Stand, count: usize, about: About) -> Result<Duration> {
    let watch = Watch::new(stand, about.count())?;
    let all: Vec<Value> = (0..count).map(|number| policy(number, about)).collect();
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            stand.feed.create_at_once(all)?;
            anyhow::Ok(Instant::now())
        });
        let last = watch.last_change(|| writer.is_finished())?;
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        anyhow::Ok((written, last))
    });
    let (written, last) = written?;
    Ok(last.saturating_duration_since(written))
}

/// What is in force for the node's pods.
struct Watch {
    maps: Maps,
    slots: Vec<u32>,
}

// === impl Watch ===

impl Watch {
    fn new(stand: &Stand, pods: usize) -> Result<Self> {
        let maps = stand.maps()?;
        let slot = |pod| {
            let endpoint = maps.endpoints.get(&stand.address(pod)?)?;
            endpoint.map(|endpoint| endpoint.slot).with_context(|| format!("{} has no endpoint", local_pod(pod)))
        };
        let slots = (0..pods).map(slot).collect::<Result<_>>()?;
        Ok(Self { maps, slots })
    }

    fn in_force(&self, pod: usize) -> Result<Enforcement> {
        Ok(self.maps.enforcement.get(&self.slots[pod])?.unwrap_or_default())
    }

    fn ingress(&self, pod: usize) -> Result<Id> {
        Ok(self.in_force(pod)?.ingress)
    }

    /// When something was last seen to change, once `is_over` and nothing has changed for a while.
    fn last_change(&self, is_over: impl Fn() -> bool) -> Result<Instant> {
        let all = || (0..self.slots.len()).map(|pod| self.ingress(pod)).collect::<Result<Vec<Id>>>();
        let (mut before, mut last) = (all()?, Instant::now());
        loop {
            let now = all()?;
            if now != before {
                (before, last) = (now, Instant::now());
            } else if is_over() && last.elapsed() > QUIET {
                return Ok(last);
            }
            sleep(LOOK);
        }
    }
}

fn until(what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !holds()? {
        if began.elapsed() > PATIENCE {
            bail!("{what}: not within {PATIENCE:?}");
        }
        sleep(LOOK);
    }
    Ok(())
}
