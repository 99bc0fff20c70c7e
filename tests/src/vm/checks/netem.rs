//! A bad network between the nodes: what is lost, delayed, overtaken and doubled under TCP and UDP, with policies on both ends. Nothing
//! arrives wrong, nothing is stuck, nothing that is denied gets through.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Result, ensure};

use super::{Context, attach::NODES, policy::FILE};
use crate::{
    Lab,
    builder::READY,
    netem::{self, Netem},
    observe::eventually,
    probe::{self, Ping, TcpStreamProbe, UdpStreamProbe},
    wiring::DEVICE,
};

/// Both ends isolated in both directions, and open to each other alone.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: pair, namespace: default}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [web, db]}]}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [web, db]}]}}]}]
  egress: [{to: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [web, db]}]}}]}]
";

/// What happens to packets in each direction.
const BAD: Netem = Netem {
    delay: Duration::from_millis(4),
    jitter: Duration::from_millis(2),
    loss: 0.02,
    duplicate: 0.03,
    reorder: 0.05,
};
/// How long streams run.
const STREAM: Duration = Duration::from_secs(3);
const PER_SECOND: u32 = 300;
/// The longest silence of a TCP stream: several losses in a row, each waited for twice as long.
const LONGEST: Duration = Duration::from_secs(3);
/// After how long silence is silence.
const SILENCE: Duration = Duration::from_millis(300);

/// Runs streams both ways.
pub fn run(context: &mut Context) -> Result<String> {
    let lab = context.lab()?;
    fs::write(lab.manifests().join(FILE), POLICY)?;
    let result = streams(lab).inspect_err(|_| lab.report_failure());
    fs::remove_file(lab.manifests().join(FILE))?;
    result?;
    eventually("good again", READY, || probe::udp_echo(&lab.pod("cache")?, &lab.pod("db")?, 64).map(drop))?;
    Ok(String::new())
}

fn streams(lab: &Lab) -> Result<()> {
    let (web, cache, db) = (lab.pod("web")?, lab.pod("cache")?, lab.pod("db")?);
    eventually("the policy is in force", READY, || {
        ensure!(Ping::to(db.address).patience(SILENCE).from(&cache.namespace)?.received == 0, "{cache} reaches {db}");
        Ok(())
    })?;
    for node in NODES {
        BAD.spoil(&lab.node(node)?.namespace, DEVICE)?;
    }
    let tcp = [TcpStreamProbe::start(&web, &db)?, TcpStreamProbe::start(&db, &web)?];
    let udp = UdpStreamProbe::start(&web, &db, PER_SECOND)?;
    sleep(STREAM);
    let denied = Ping::to(db.address).count(3).patience(SILENCE).from(&cache.namespace)?;
    ensure!(denied.received == 0, "{cache} reaches {db} while the network is bad");
    // What does not fit into a packet comes in fragments, in any order.
    let large = Ping::to(db.address).size(4_000).count(10).patience(SILENCE).from(&web.namespace)?;
    ensure!(large.received > 0, "no answer in fragments has arrived");
    for stream in tcp {
        let report = stream.stop()?;
        ensure!(report.longest_gap < LONGEST, "a TCP stream was stuck: {report:?}");
        println!("TCP: {report:?}");
    }
    let report = udp.stop()?;
    println!("UDP: {report:?}");
    ensure!(report.received * 10 > report.sent * 8, "more is lost than the network loses: {report:?}");
    // Or the network was not bad at all.
    ensure!(report.lost > 0 && report.duplicated > 0 && report.reordered > 0, "nothing was spoilt: {report:?}");
    for node in NODES {
        netem::heal(&lab.node(node)?.namespace, DEVICE)?;
    }
    Ok(())
}
