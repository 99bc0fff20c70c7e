//! What the command line and the agent say to each other: one JSON object a line. Each question is answered by one line, but for
//! [`Request::Monitor`], after which the agent goes on until either side hangs up.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::events::told::Told;

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Request {
    /// Who are these: pods as `namespace/name`, or addresses?
    Ends {
        /// As somebody typed them.
        ends: Vec<String>,
    },
    /// Who wrote the rules with these ids?
    Origins {
        /// The ids, in hexadecimal digits.
        ids: Vec<String>,
    },
    /// Which policies are in force?
    Policies,
    /// What happens?
    Monitor,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// To [`Request::Ends`], in the same order.
    Ends(Vec<End>),
    /// To [`Request::Origins`]: those that are known.
    Origins(BTreeMap<String, String>),
    /// To [`Request::Policies`].
    Policies(Policies),
    /// To [`Request::Monitor`]: from here on everything is told.
    Listening {
        /// The node.
        node: String,
    },
    /// Something happened.
    Told(Box<Told>),
    /// So many events could not be told of.
    Lost(u64),
    /// It could not be answered.
    Failed(String),
}

/// What an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A pod with an interface of its own.
    Pod,
    /// A node, or a pod in its network.
    Node,
    /// Nobody that the cluster knows.
    World,
}

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// What it is.
    pub kind: Kind,
    /// `namespace/name` of a pod, or a node's name.
    pub name: String,
}

/// Somebody who sends or receives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The address.
    pub address: IpAddr,
    /// What it is.
    pub kind: Kind,
    /// `namespace/name` of a pod, or a node's name.
    pub name: Option<String>,
    /// The node that it is on, or is.
    pub node: Option<String>,
    /// Whether that is this node.
    pub here: bool,
    /// The id of the peers of this node's policies that it matches; none where no policy tells it from others.
    pub identity: Option<String>,
    /// These peers, in words.
    pub peers: Vec<String>,
    /// Of a pod of this node: what isolates it from what would come in.
    pub ingress: Option<Isolation>,
    /// What isolates it from what would go out.
    pub egress: Option<Isolation>,
}

/// Why not everything may pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The NetworkPolicies, `namespace/name`. None where a pod is isolated because nothing is known of it yet.
    pub policies: Vec<String>,
    /// The id of what they allow together, as the maps have it.
    pub id: String,
}

/// The policies that are in force on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// Those that are about pods of this node.
    pub policies: Vec<PolicyView>,
    /// The pods of this node that are isolated in any direction.
    pub isolated: Vec<IsolatedPod>,
    /// Why what is in force is not what was written, if it is not.
    pub problems: Vec<String>,
}

/// A NetworkPolicy as it was understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// `namespace/name`.
    pub name: String,
    /// Which pods of its namespace it is about, in words.
    pub selects: String,
    /// Those of this node.
    pub pods: Vec<String>,
    /// Whether it is what somebody wrote; otherwise it could not be understood, and isolates its pods until it can.
    pub understood: bool,
    /// The rules for what comes in. None: it does not isolate in this direction; an empty list: nothing may.
    pub ingress: Option<Vec<RuleView>>,
    /// The rules for what goes out.
    pub egress: Option<Vec<RuleView>>,
    /// How many entries of the map `rules` name it as the one that allows.
    pub map_rules: usize,
    /// The ids of what its pods are allowed, as the maps have them, for what comes in and what goes out.
    pub ids: [Vec<String>; 2],
}

/// A rule as it was understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// The peers, in words.
    pub peers: Vec<String>,
    /// The ports, in words.
    pub ports: Vec<String>,
}

/// A pod that not everything may reach, or that may not reach everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolatedPod {
    /// `namespace/name`.
    pub pod: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What isolates it from what would come in.
    pub ingress: Option<Isolation>,
    /// What isolates it from what would go out.
    pub egress: Option<Isolation>,
    /// Whether nothing at all may come in.
    pub nothing_in: bool,
    /// Whether nothing at all may go out.
    pub nothing_out: bool,
    /// Whether its labels are not known yet.
    pub announced: bool,
}
