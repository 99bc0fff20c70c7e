//! NetworkPolicies of made-up clusters: every way to name a peer and a port, in turn.

use serde_json::{Value, json};

use super::{MAX_NAMESPACES, Size, app_name, mix, team, tier};

/// Which pods policies are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Those of a Deployment each, in its namespace.
    Deployments,
    /// All of one namespace: the most that one pod can have.
    Namespace(&'static str),
}

// === impl Size ===

impl Size {
    /// A NetworkPolicy. It isolates in both directions, and allows one peer at one or a few ports in each.
    pub fn policy(self, number: usize, subject: Subject) -> Value {
        let deployment = number % self.deployments();
        let (namespace, selector) = match subject {
            Subject::Deployments => {
                (self.namespace_of(deployment), json!({ "matchLabels": { "app": app_name(deployment) } }))
            }
            Subject::Namespace(name) => (name.to_owned(), json!({})),
        };
        let (from, to) = (peer(number), peer(number + 1));
        let ports = ports(number);
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "name": format!("policy-{number}"), "namespace": namespace },
            "spec": {
                "podSelector": selector,
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{ "from": [from], "ports": ports }],
                "egress": [{ "to": [to], "ports": ports }],
            },
        })
    }
}

fn peer(number: usize) -> Value {
    let drawn = usize::try_from(mix(number as u64) >> 1).unwrap_or_default();
    let app = format!("app-{}", drawn % MAX_NAMESPACES);
    match number % 4 {
        0 => json!({ "podSelector": { "matchLabels": { "app": app } } }),
        1 => json!({
            "namespaceSelector": { "matchLabels": { "team": team(drawn) } },
            "podSelector": { "matchLabels": { "app": app } },
        }),
        2 => {
            let (high, low) = (number / 256 % 64, number % 256);
            json!({ "ipBlock": {
                "cidr": format!("172.{}.{low}.0/24", 16 + high % 16),
                "except": [format!("172.{}.{low}.128/26", 16 + high % 16)],
            }})
        }
        _ => json!({
            "namespaceSelector": {},
            "podSelector": { "matchExpressions": [
                { "key": "tier", "operator": "In", "values": [tier(drawn)] },
                { "key": "app", "operator": "In", "values": [app] },
            ]},
        }),
    }
}

fn ports(number: usize) -> Value {
    let port = 10_000 + number % 20_000;
    match number % 3 {
        0 => json!([{ "protocol": "TCP", "port": port }]),
        1 => json!([{ "protocol": "TCP", "port": port, "endPort": port + 7 }, { "protocol": "UDP", "port": 53 }]),
        _ => json!([{ "protocol": "TCP", "port": "http" }]),
    }
}
