//! Oracle, planner and the real programs must agree: generated clusters, policies and packets, each judged three times.
//!
//! In: cases from [`margay_lab::oracle::generate`]. Out: the first disagreement, with the cluster as manifests. Never: a packet on a
//! wire; the programs run by BPF_PROG_TEST_RUN on maps that the agent's own code has filled.

mod kernel;

use anyhow::{Context as _, Result, ensure};
use margay_lab::{
    bpffs::Bpffs,
    oracle::generate::{self, Case},
};
use margay_loader::datapath::Datapath;
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use self::kernel::Kernel;

/// How many clusters, each with [`generate::FLOWS`] packets: 10,000 packets and more.
const CLUSTERS: usize = 1_200;

#[test]
fn oracle_planner_and_programs_agree() -> Result<()> {
    let bpffs = Bpffs::mount("oracle")?;
    let mut kernel = Kernel::new(Datapath::load(bpffs.dir())?);
    // The same cases each time: what fails here fails there.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (mut packets, mut denied) = (0, 0);
    for number in 0..CLUSTERS {
        let case = generate::case().new_tree(&mut runner).map_err(anyhow::Error::msg)?.current();
        let counts = check(&mut kernel, &case).with_context(|| describe(&case, number))?;
        packets += counts.0;
        denied += counts.1;
    }
    println!("{CLUSTERS} clusters, {packets} packets, {denied} of them denied");
    ensure!(packets >= 10_000, "only {packets} packets were judged");
    ensure!(denied * 5 > packets && denied * 5 < packets * 4, "{denied} of {packets} denied: such cases say little");
    Ok(())
}

/// How many packets were judged, and how many denied.
fn check(kernel: &mut Kernel, case: &Case) -> Result<(usize, usize)> {
    let mut counts = (0, 0);
    for node in &case.cluster.nodes {
        let node = node.metadata.name.as_deref().unwrap_or_default();
        for judged in kernel.judge(&case.cluster, node, &case.flows)? {
            let expected = judged.expected;
            ensure!(
                judged.planner == expected && judged.programs == expected,
                "on {node}, {} -> {} {}: oracle {expected}, planner {}, programs {}",
                judged.flow.from,
                judged.flow.to,
                judged.flow.traffic,
                judged.planner,
                judged.programs,
            );
            counts.0 += 1;
            counts.1 += usize::from(!expected);
        }
    }
    Ok(counts)
}

fn describe(case: &Case, number: usize) -> String {
    let manifests = case.cluster.to_yaml().unwrap_or_else(|e| e.to_string());
    format!("case {number}, with this cluster:\n{manifests}")
}
