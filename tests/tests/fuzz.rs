//! A short, repeatable run of the fuzzer. `cargo xtask fuzz --seconds 600` is a long one.

use margay_lab::{
    bpffs::Bpffs,
    fuzz::{self, Plan, Until},
    golden::world::NOBODY,
};
use margay_loader::datapath::Datapath;
use margay_maps::{Endpoint, EndpointKind, Hook};

/// How many states of the maps; each meets some dozens of packets.
const ROUNDS: u64 = 2_500;

#[test]
fn no_packet_meets_the_wrong_fate() {
    let bpffs = Bpffs::mount("fuzz-test").unwrap();
    let mut datapath = Datapath::load(bpffs.dir()).unwrap();
    let plan = Plan { seed: 1, first: 0, until: Until::Rounds(ROUNDS) };
    let report = fuzz::run(&mut datapath, plan).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{report}");
    // A run that sees little says little.
    assert!(report.said.len() > 40, "the packets have met {} fates alone", report.said.len());
    // Questions and answers, errors about either, of pods to themselves and to others.
    assert_eq!(report.readdressed.len(), 8, "not every sort of packet was readdressed");
    assert!(Hook::ALL.iter().all(|hook| report.said.keys().any(|(seen, _)| seen == hook)));
}

#[test]
fn a_wrong_fate_is_noticed() {
    let bpffs = Bpffs::mount("fuzz-proof").unwrap();
    let mut datapath = Datapath::load(bpffs.dir()).unwrap();
    // A pod that nothing says is here: what is sent to it should fall, and is delivered.
    let pod = Endpoint { kind: EndpointKind::Workload, ifindex: 7, ..Endpoint::default() };
    datapath.maps.endpoints.insert(&NOBODY.into(), &pod).unwrap();
    let plan = Plan { seed: 1, first: 0, until: Until::Rounds(ROUNDS / 10) };
    let error = fuzz::run(&mut datapath, plan).expect_err("packets to a pod that should not be there");
    assert!(format!("{error:#}").contains("cargo xtask fuzz --seed 1 --round"), "{error:#}");
}
