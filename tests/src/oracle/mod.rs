//! May this flow begin? A plain, slow evaluator of networking.k8s.io/v1 NetworkPolicy, to compare everything fast with.
//!
//! In: Kubernetes objects as the API server hands them out ([`Cluster`]) and a question ([`Flow`]). Out: yes or no for each
//! end, and which policy or exception decided ([`Answer`]). Never: an index, a cache, or a line of the implementation that
//! it is compared with; it is written from the API's field documentation and <https://kubernetes.io/docs/concepts/services-networking/network-policies/>.
//!
//! It answers for the packet that opens a flow, after translation of Services; replies always pass and are not asked about.
//! Objects that no API server accepts (a peer without any field, a malformed prefix, an unknown operator) match nothing.
//!
//! Where the specification leaves room, this is the reading:
//! * **policyTypes missing or empty** means Ingress, and Egress if there is at least one egress rule. The API server fills it
//!   in so: `egress: []` alone does not isolate egress, although the field's documentation speaks of "an egress section".
//! * **ICMP** and everything else without ports is isolated with the rest, and allowed by rules without `ports` alone. The
//!   specification leaves it to the implementation; Calico and most others do this.
//! * **A node** may open any flow to its own pods. In the other direction nothing is exempt: a pod whose egress is isolated
//!   needs a rule (an ipBlock, or one for all) to reach even its own node.
//! * **Pods of the host's network** count as their node: no selector matches them, neither as subject nor as peer, and their
//!   named ports are unknown. An ipBlock that holds the node's address matches them.
//! * **An ipBlock** looks at addresses alone, so it matches pods and nodes too. `except` takes away from its own block only.
//! * **A named port** means each port of that name and protocol in the destination pod: of all containers, and of init
//!   containers that keep running (`restartPolicy: Always`). If two containers use one name, both ports count.
//! * **Finished pods** (Succeeded, Failed) have no address, whatever their status says. A pod that is being deleted counts
//!   until it has finished or its object is gone.
//! * **A Namespace** always has the label `kubernetes.io/metadata.name`, and one without an object (manifests in a
//!   directory) has that label alone.

pub mod answer;
pub mod cluster;
mod ends;
pub mod flow;
pub mod generate;
mod judge;
mod selector;
pub mod tables;
#[cfg(test)]
mod tests;

pub use answer::{Answer, Judgement, NoAnswer, RuleName};
pub use cluster::Cluster;
pub use flow::{Direction, End, Flow, Name, Traffic};
