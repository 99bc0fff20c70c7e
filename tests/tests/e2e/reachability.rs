//! Who reaches whom, by every way, in every size.

use std::time::Duration;

use anyhow::{Result, ensure};
use margay_lab::{
    Lab, LabBuilder,
    netlink::Netlink,
    probe::{self, Ping},
    wiring::{DEVICE, POD_MTU, UNDERLAY_MTU},
};
use margay_loader::names::workload_interface;

/// Two pods on each of two nodes, joined directly, and a third node by itself if asked for.
fn pairs_on(lab: LabBuilder, nodes: &[&str]) -> LabBuilder {
    nodes.iter().fold(lab, |lab, node| {
        lab.node(node).pod(&format!("{node}-0")).on(node).pod(&format!("other/{node}-1")).on(node)
    })
}

#[test]
fn everything_reaches_everything_on_three_nodes() {
    pairs_on(Lab::builder("reach3"), &["a", "b", "c"]).test(|lab| lab.everything_reaches_everything());
}

#[test]
fn everything_reaches_everything_on_two_nodes() {
    pairs_on(Lab::builder("reach2"), &["a", "b"]).test(|lab| lab.everything_reaches_everything());
}

#[test]
fn everything_reaches_everything_when_the_device_encapsulates() {
    pairs_on(Lab::builder("reach_device"), &["a", "b", "c"])
        .agent_argument("--encap=device")
        .test(|lab| lab.everything_reaches_everything());
}

#[test]
fn nodes_that_encapsulate_themselves_and_nodes_that_do_not_understand_each_other() {
    pairs_on(Lab::builder("reach_mixed"), &["a", "b"]).test(|lab| {
        lab.set_agent_arguments(vec!["--encap=device".to_owned()])?;
        lab.restart_agent("a", None)?;
        lab.wait_ready(margay_lab::builder::READY)?;
        lab.everything_reaches_everything()
    });
}

#[test]
fn manifests_without_any_address_are_enough() {
    let pod = |name: &str, node: &str| {
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: {node}}}}}\n---\n")
    };
    let node = |name: &str| format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}\n---\n");
    let text = [node("a.example"), node("b.example"), pod("x", "a.example"), pod("y", "b.example")].concat();
    Lab::builder("reach_bare").file("all.yaml", &text).test(|lab| lab.everything_reaches_everything());
}

#[test]
fn calicos_block_affinities_say_who_owns_what() {
    let affinity = |node: &str, cidr: &str| {
        format!(
            "{{apiVersion: crd.projectcalico.org/v1, kind: BlockAffinity, metadata: {{name: {node}}}, \
             spec: {{state: confirmed, node: {node}, cidr: {cidr}, deleted: 'false'}}}}\n---\n"
        )
    };
    let nodes =
        "{apiVersion: v1, kind: Node, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Node, metadata: {name: b}}\n";
    Lab::builder("reach_calico")
        .file("nodes.yaml", nodes)
        .file("blocks.yaml", &[affinity("a", "10.65.0.64/26"), affinity("b", "10.65.7.128/26")].concat())
        .pod("x")
        .on("a")
        .pod("y")
        .on("b")
        .test(|lab| {
            ensure!(lab.pod("x")?.address.octets()[..3] == [10, 65, 0], "{}", lab.pod("x")?);
            ensure!(lab.pod("y")?.address.octets()[..3] == [10, 65, 7], "{}", lab.pod("y")?);
            lab.everything_reaches_everything()
        });
}

#[test]
fn traceroute_shows_every_node_on_the_way() {
    Lab::builder("trace").node("a").node("b").pod("x").on("a").pod("near").on("a").pod("far").on("b").test(|lab| {
        let (x, near, far) = (lab.pod("x")?, lab.pod("near")?, lab.pod("far")?);
        let (a, b) = (lab.node("a")?.address, lab.node("b")?.address);
        let ways = [
            (near.address, vec![a, near.address]),
            (far.address, vec![a, b, far.address]),
            (a, vec![a]),
            (b, vec![a, b]),
        ];
        for (to, expected) in ways {
            let hops = probe::traceroute(&x.namespace, to)?;
            ensure!(hops == expected.iter().copied().map(Some).collect::<Vec<_>>(), "to {to}: {hops:?}");
        }
        Ok(())
    });
}

#[test]
fn megabytes_arrive_unharmed() {
    Lab::builder("megabytes").node("a").node("b").pod("x").on("a").pod("near").on("a").pod("far").on("b").test(|lab| {
        let x = lab.pod("x")?;
        for other in [lab.pod("near")?, lab.pod("far")?, lab.node("b")?] {
            probe::tcp_exchange(&x, &other, 20_000_000)?;
        }
        // The longest datagram there is: 46 fragments.
        probe::udp_echo(&x, &lab.pod("far")?, 65_507)?;
        Ok(())
    });
}

#[test]
fn the_largest_packet_that_fits_goes_uncut() {
    Lab::builder("largest").node("a").node("b").pod("x").on("a").pod("y").on("b").test(|lab| {
        let (x, y) = (lab.pod("x")?, lab.pod("y")?);
        // IPv4 and ICMP headers: 28 bytes.
        for size in [POD_MTU as usize - 28, POD_MTU as usize - 27] {
            let report = Ping::to(y.address).size(size).count(3).from(&x.namespace)?;
            ensure!(report.received == 3, "{size} bytes: {report:?}");
        }
        Ok(())
    });
}

/// Pods that were made with the MTU of the node's own network: what is too long for the overlay gets its ICMP answer, or is
/// cut, and arrives.
#[test]
fn pods_with_too_large_an_mtu_find_the_right_one() -> Result<()> {
    Lab::builder("mtu").node("a").node("b").pod("x").on("a").pod("y").on("b").test(|lab| {
        let (x, y) = (lab.pod("x")?, lab.pod("y")?);
        for pod in [&x, &y] {
            let name = pod.name.trim_start_matches("default/");
            Netlink::open(&lab.node(&pod.node)?.namespace)?
                .set_mtu(&workload_interface("default", name), UNDERLAY_MTU)?;
            Netlink::open(&pod.namespace)?.set_mtu(DEVICE, UNDERLAY_MTU)?;
        }
        probe::tcp_exchange(&x, &y, 500_000)?;
        probe::tcp_exchange(&y, &x, 500_000)?;
        let report = Ping::to(y.address).size(8_000).count(2).patience(Duration::from_secs(1)).from(&x.namespace)?;
        ensure!(report.received > 0, "{report:?}");
        Ok(())
    });
    Ok(())
}
