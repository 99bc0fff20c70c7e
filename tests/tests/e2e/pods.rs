//! Pods that come, go and move.

use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::{
    Lab, LabBuilder, Place,
    observe::{REPAIR, eventually},
    probe::{self, Ping, UdpStreamProbe},
};
use margay_maps::DropReason;

fn two_nodes(name: &str) -> LabBuilder {
    Lab::builder(name).node("a").node("b").pod("x").on("a").pod("far").on("b")
}

fn comes_within(limit: Duration, from: &Place, to: &Place) -> Result<()> {
    eventually(&format!("{from} reaches {to}"), limit, || {
        let report = Ping::to(to.address).patience(Duration::from_millis(100)).from(&from.namespace)?;
        ensure!(report.received == 1);
        Ok(())
    })
}

#[test]
fn a_new_pod_is_reached_at_once() {
    // Events, not the look by the clock, are to bring it about.
    two_nodes("pod_new").agent_argument("--resync=600").test(|lab| {
        let near = lab.add_pod("shop/new-near", "a")?;
        let far = lab.add_pod("shop/new-far", "b")?;
        let x = lab.pod("x")?;
        comes_within(REPAIR, &x, &near)?;
        comes_within(REPAIR, &x, &far)?;
        lab.wait_ready(REPAIR)?;
        lab.everything_reaches_everything()
    });
}

#[test]
fn a_pod_that_has_gone_is_nobody() {
    two_nodes("pod_gone").test(|lab| {
        let gone = lab.add_pod("gone", "b")?;
        let x = lab.pod("x")?;
        comes_within(REPAIR, &x, &gone)?;
        lab.remove_pod("gone")?;
        eventually("b knows that nobody has the address", REPAIR, || {
            lab.drops_with("b", DropReason::NoEndpoint, || {
                Ping::to(gone.address).patience(Duration::from_millis(20)).from(&x.namespace).map(drop)
            })
        })?;
        lab.no_complaints()?;
        lab.everything_reaches_everything()
    });
}

#[test]
fn a_pod_that_moves_takes_its_address_along() {
    two_nodes("pod_moves").test(|lab| {
        let before = lab.add_pod("mover", "a")?;
        let (x, far) = (lab.pod("x")?, lab.pod("far")?);
        comes_within(REPAIR, &far, &before)?;
        lab.remove_pod("mover")?;
        // Its address now lies outside its node's block: Calico does that when blocks run short.
        let after = lab.add_pod_with_address("mover", "b", Some(before.address))?;
        ensure!(after.address == before.address && after.node == "b");
        comes_within(REPAIR, &x, &after)?;
        comes_within(REPAIR, &far, &after)?;
        lab.no_complaints()?;
        lab.everything_reaches_everything()
    });
}

#[test]
fn others_do_not_notice_pods_that_come_and_go() {
    two_nodes("pod_churn").test(|lab| {
        let (x, far) = (lab.pod("x")?, lab.pod("far")?);
        let streams = [UdpStreamProbe::start(&x, &far, 3_000)?, UdpStreamProbe::start(&far, &x, 3_000)?];
        for round in 0..4 {
            for (index, node) in ["a", "b"].into_iter().enumerate() {
                let name = format!("round-{round}-{index}");
                let pod = lab.add_pod(&name, node)?;
                comes_within(REPAIR, &x, &pod)?;
                lab.remove_pod(&name)?;
            }
        }
        for stream in streams {
            stream.stop_perfect()?;
        }
        lab.no_complaints()
    });
}

#[test]
fn thirty_pods_at_once() {
    let lab = (0..30).fold(Lab::builder("pod_thirty").node("a").node("b"), |lab, i| {
        lab.pod(&format!("p{i}")).on(if i % 2 == 0 { "a" } else { "b" })
    });
    lab.test(|lab| {
        let pods = lab.pods()?;
        ensure!(pods.len() == 30);
        // Each to the next two: some on the same node, some on the other.
        for (i, from) in pods.iter().enumerate() {
            for step in [1, 2] {
                let to = &pods[(i + step) % pods.len()];
                probe::ping(&from.namespace, to.address)?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_node_that_comes_later_is_reached() {
    Lab::builder("node_late").node("a").node("b").node("c").pod("x").on("a").test(|lab| {
        margay_lab::manifests::write_object(
            lab.manifests(),
            "node-late.yaml",
            &margay_lab::manifests::node_object("late", None, &["10.244.77.0/24".parse()?]),
        )?;
        lab.sync()?;
        lab.start_agent("late", &margay_lab::agent::find_binary()?)?;
        let late = lab.add_pod("late-pod", "late")?;
        let x = lab.pod("x")?;
        comes_within(REPAIR, &x, &late)?;
        lab.wait_ready(REPAIR)?;
        lab.everything_reaches_everything()
    });
}

#[test]
fn a_node_that_changes_its_address_is_found_again() {
    two_nodes("node_moves").test(|lab| {
        let address = "192.168.0.200".parse()?;
        let object = margay_lab::manifests::node_object("b", Some(address), &lab.cluster().nodes["b"].blocks);
        margay_lab::manifests::write_object(lab.manifests(), "node-b.yaml", &object)?;
        lab.sync()?;
        ensure!(lab.node("b")?.address == address);
        eventually("everything reaches everything", REPAIR, || lab.everything_reaches_everything())?;
        lab.no_complaints()
    });
}
