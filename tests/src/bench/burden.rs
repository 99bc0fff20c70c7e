//! What Margay has to carry beside the load, for those of its contenders that are about that.
//!
//! In: which burden. Out: manifests, beside those of the lab. Never: a policy that denies the load, or a pod that the load meets
//! and that has no policy.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use margay_maps::user::Maps;
use serde_json::{Value, json};

use super::load::PORT;
use crate::{
    builder::READY,
    synthetic::{Size, Subject, write_list},
};

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Burden {
    /// No policy, and no other pod.
    Nothing,
    /// Every pod denies everything in both directions, and allows the load.
    Policy,
    /// As `Policy`, and [`MANY`]`.policies` more about each pod.
    Policies,
    /// As `Policies`, and the nodes and pods of [`MANY`].
    Full,
}

/// What "everything" is.
pub const MANY: Size = Size { nodes: 1_000, pods: 50_000, policies: 10_000, seed: 1 };
/// The namespace of the lab's pods.
const NAMESPACE: &str = "default";

// === impl Burden ===

impl Burden {
    /// Writes it into a directory of manifests.
    pub fn write(self, directory: &Path) -> Result<()> {
        let list = |name: &str, objects: &mut dyn Iterator<Item = Value>| write_list(&directory.join(name), objects);
        if self != Self::Nothing {
            list("policy.json", &mut allow_the_load().into_iter())?;
        }
        if matches!(self, Self::Policies | Self::Full) {
            list("policies.json", &mut MANY.policies(Subject::Namespace(NAMESPACE)))?;
        }
        if self.has_nodes() {
            list("cluster.json", &mut Size { policies: 0, ..MANY }.objects())?;
        }
        Ok(())
    }

    /// Whether it is in the maps, all of it: a bench that carries nothing would find that it weighs nothing.
    pub fn check(self, maps: &Maps) -> Result<()> {
        let (policies, nodes, pods) = match self {
            Self::Nothing => (0, 0, 0),
            Self::Policy => (1, 0, 0),
            // Peers that nobody is need no rule, and neither have pods that are no peer an identity.
            Self::Policies => (MANY.policies / 2, 0, 0),
            Self::Full => (MANY.policies / 2, MANY.nodes, MANY.pods / 2),
        };
        let found = (maps.rules.keys()?.len(), maps.routes.keys()?.len(), maps.identities.keys()?.len());
        let least = (policies, nodes, pods);
        ensure!(
            found.0 >= least.0 && found.1 >= least.1 && found.2 >= least.2,
            "rules, routes and identities are {found:?}, and should be at least {least:?}"
        );
        Ok(())
    }

    /// Whether there are nodes that a route must lead to.
    pub fn has_nodes(self) -> bool {
        self == Self::Full
    }

    /// How often the agent looks at everything, in seconds. Seldom where a debug build needs a second for that: what is measured
    /// are its programs, and it would take their CPU's caches.
    pub fn resync(self) -> &'static str {
        if matches!(self, Self::Policies | Self::Full) { "600" } else { "5" }
    }

    /// How long the agents may take until everything is in force.
    pub fn patience(self) -> Duration {
        if matches!(self, Self::Policies | Self::Full) { READY * 5 } else { READY }
    }
}

/// Deny by default; clients may ask servers, servers may be asked by clients.
fn allow_the_load() -> Vec<Value> {
    let policy = |name: &str, spec: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": spec,
        })
    };
    let pods = |role: &str| json!({ "matchLabels": { "role": role } });
    let ports = json!([{ "protocol": "TCP", "port": PORT }, { "protocol": "UDP", "port": PORT }]);
    vec![
        policy("deny-by-default", json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] })),
        policy(
            "clients-may-ask",
            json!({
                "podSelector": pods("client"),
                "policyTypes": ["Egress"],
                "egress": [{ "to": [{ "podSelector": pods("server") }], "ports": ports }],
            }),
        ),
        policy(
            "servers-may-be-asked",
            json!({
                "podSelector": pods("server"),
                "policyTypes": ["Ingress"],
                "ingress": [{ "from": [{ "podSelector": pods("client") }], "ports": ports }],
            }),
        ),
    ]
}
