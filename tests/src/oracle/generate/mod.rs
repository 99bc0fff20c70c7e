//! Clusters, policies and flows by chance, for property tests: [`case`].
//!
//! In: bytes, from proptest's randomness or from a fuzzer. Out: a [`Case`]: objects that an API server would accept, and questions about them that the oracle
//! has an answer for. Never: large numbers or long names; the alphabets are small, so that selectors, ports and prefixes hit, and
//! questions prefer the edges of what policies say.
//!
//! ```no_run
//! use margay_lab::oracle::generate;
//! use proptest::prelude::*;
//!
//! proptest!(|(case in generate::case())| {
//!     for flow in &case.flows {
//!         let answer = case.cluster.ask(flow).unwrap();
//!         // Compare `answer.allowed()` with something fast here.
//!     }
//! });
//! ```

mod dice;
mod flows;
mod pods;
mod policies;
#[cfg(test)]
mod tests;
mod words;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::{collection::vec, prelude::*};

use self::dice::Dice;
use super::{cluster::Cluster, flow::Flow};

/// How many questions a case asks.
pub const FLOWS: usize = 10;
/// The most pods of a cluster.
pub const MAX_PODS: usize = 12;
/// The most policies of a cluster.
pub const MAX_POLICIES: usize = 8;

/// What the decisions for each kind of object need, in bytes. What needs more gets zeros.
mod bytes {
    pub const FRAME: usize = 16;
    pub const POD: usize = 20;
    pub const POLICY: usize = 64;
    pub const FLOW: usize = 8;
}

/// A cluster and questions about it.
#[derive(Clone, Debug)]
pub struct Case {
    /// 2 or 3 nodes, 3 or 4 namespaces, pods and policies.
    pub cluster: Cluster,
    /// At least one end of each is a pod of the pod network, and whatever is outside has no address out of the nodes' or
    /// the pods' ranges.
    pub flows: Vec<Flow>,
}

/// Clusters with [`FLOWS`] questions each.
pub fn case() -> impl Strategy<Value = Case> {
    let flows = vec(entropy(bytes::FLOW), FLOWS);
    (cluster(), flows).prop_map(|(cluster, flows)| Case { flows: flows::flows(&cluster, &flows), cluster })
}

/// Clusters, with 0 to [`MAX_POLICIES`] policies.
pub fn cluster() -> impl Strategy<Value = Cluster> {
    let pods = vec(entropy(bytes::POD), 1..=MAX_PODS);
    let policies = vec(entropy(bytes::POLICY), 0..=MAX_POLICIES);
    (entropy(bytes::FRAME), pods, policies).prop_map(|(frame, pods, policies)| build(&frame, &pods, &policies))
}

/// Policies, named `NAMESPACE/extra`, for clusters that exist: all have the first three namespaces.
pub fn policy() -> impl Strategy<Value = NetworkPolicy> {
    entropy(bytes::POLICY).prop_map(|bytes| policies::policy("extra", 3, &mut Dice::new(&bytes)))
}

/// So many bytes. Words, because proptest is slow with many small values; little-endian, so that the last ones shrink first.
fn entropy(bytes: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u32>(), bytes / 4).prop_map(|words| words.into_iter().flat_map(u32::to_le_bytes).collect())
}

// === impl Case ===

impl Case {
    /// The case that these bytes stand for, whatever they are; for fuzzers.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut dice = Dice::new(bytes);
        let mut take = |count: usize| -> Vec<u8> { (0..count).map(|_| dice.byte()).collect() };
        let [pods, policies, flows] = [take(1), take(1), take(1)].map(|count| usize::from(count[0]));
        let frame = take(bytes::FRAME);
        let pods: Vec<_> = (0..1 + pods % MAX_PODS).map(|_| take(bytes::POD)).collect();
        let policies: Vec<_> = (0..policies % (MAX_POLICIES + 1)).map(|_| take(bytes::POLICY)).collect();
        let flows: Vec<_> = (0..1 + flows % FLOWS).map(|_| take(bytes::FLOW)).collect();
        let cluster = build(&frame, &pods, &policies);
        Self { flows: flows::flows(&cluster, &flows), cluster }
    }
}

fn build(frame: &[u8], pods: &[Vec<u8>], policies: &[Vec<u8>]) -> Cluster {
    let cluster = pods::cluster(&mut Dice::new(frame), pods);
    let namespaces = cluster.namespaces.len();
    let policies = policies.iter().enumerate();
    let policies =
        policies.map(|(i, bytes)| policies::policy(&format!("policy-{i}"), namespaces, &mut Dice::new(bytes)));
    Cluster { policies: policies.collect(), ..cluster }
}
