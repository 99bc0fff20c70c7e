//! The nftables table: what pods of a pool with natOutgoing send out of all pools leaves with their node's address. What comes from
//! pods without programs is `e2e first_packet`'s. Needs root, and nft.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt as _,
};

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;
use margay_lab::{
    Lab, LabBuilder, Namespace, Place,
    agent::{find_binary, text_of},
    netlink::{Netlink, VethEnd, add_veth},
    observe::{REPAIR, eventually},
    probe,
    wiring::{self, DEVICE},
};
use nix::sys::signal::Signal;

/// Node a has pods of both pools, node b one of the first.
const NODE_A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const PLAIN: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 5);

/// 10.244.0.0/16 with natOutgoing, as said, and 10.245.0.0/16 without.
fn pools(nat_outgoing: bool) -> String {
    let pool = |name: &str, cidr: &str, nat: bool| {
        format!(
            "{{apiVersion: crd.projectcalico.org/v1, kind: IPPool, metadata: {{name: {name}}}, \
             spec: {{cidr: {cidr}, natOutgoing: {nat}}}}}\n"
        )
    };
    format!("{}---\n{}", pool("hidden", "10.244.0.0/16", nat_outgoing), pool("plain", "10.245.0.0/16", false))
}

/// Three nodes, because then there is an underlay that others can join.
fn cluster(name: &str) -> LabBuilder {
    let block = |n| Ipv4Net::new_assert([10, 244, n, 0].into(), 24);
    Lab::builder(name)
        .node_at("a", NODE_A, block(0))
        .node_at("b", [192, 0, 2, 2].into(), block(1))
        .node_at("c", [192, 0, 2, 3].into(), block(2))
        .pod("hidden")
        .on("a")
        .pod("plain")
        .at(PLAIN)
        .on("a")
        .pod("far")
        .on("b")
        .file("pools.yaml", &pools(true))
}

/// A machine beside the nodes, which knows the way to the plain pool, and to no other.
fn world(lab: &Lab) -> Result<Place> {
    let (underlay, world) =
        (Namespace::open(&lab.name().underlay())?, Namespace::create(&format!("{}_world", lab.name().prefix()))?);
    let end = |namespace, name| VethEnd { namespace, name, mtu: wiring::UNDERLAY_MTU, mac: None };
    add_veth(&end(&world, DEVICE), &end(&underlay, "world"))?;
    let bridge = Netlink::open(&underlay)?;
    bridge.set_master("world", "br0")?;
    bridge.up("world")?;
    let netlink = Netlink::open(&world)?;
    netlink.up("lo")?;
    netlink.add_address(DEVICE, Ipv4Net::new(WORLD, 24)?)?;
    netlink.up(DEVICE)?;
    netlink.add_route("10.245.0.0/16".parse()?, Some(NODE_A), DEVICE)?;
    Ok(Place { name: "world".to_owned(), address: WORLD, node: String::new(), namespace: world })
}

fn nft(node: &Place, arguments: &[&str]) -> Result<()> {
    let output = node.namespace.command("nft").args(arguments).output().context("starting nft")?;
    ensure!(output.status.success(), "nft {arguments:?}: {}", text_of(&output));
    Ok(())
}

fn has_table(node: &Place) -> bool {
    nft(node, &["list", "table", "inet", "margay"]).is_ok()
}

fn translates(node: &Place) -> bool {
    nft(node, &["list", "chain", "inet", "margay", "postrouting"]).is_ok()
}

/// What the server sees as the client's address, by TCP, UDP and without complaint of ping.
fn seen(client: &Place, server: &Place) -> Result<IpAddr> {
    probe::ping(&client.namespace, server.address)?;
    let udp = probe::udp_echo(client, server, 64)?;
    ensure!(probe::tcp_exchange(client, server, 100_000)? == udp);
    Ok(udp)
}

#[test]
fn only_what_leaves_all_pools_gets_the_nodes_address() {
    cluster("nat").test(|lab| {
        let world = world(lab)?;
        let (hidden, plain, far) = (lab.pod("hidden")?, lab.pod("plain")?, lab.pod("far")?);
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        ensure!(seen(&hidden, &world)? == a.address);
        ensure!(seen(&far, &world)? == b.address);
        ensure!(seen(&plain, &world)? == PLAIN);
        for server in [&far, &plain, &a, &b] {
            ensure!(seen(&hidden, server)? == hidden.address, "{server} is in the cluster");
        }
        ensure!(seen(&far, &plain)? == far.address);
        ensure!(seen(&a, &world)? == a.address);
        lab.no_complaints()
    });
}

#[test]
fn the_table_comes_back() {
    cluster("nat_repair").test(|lab| {
        let world = world(lab)?;
        let (hidden, a) = (lab.pod("hidden")?, lab.node("a")?);
        let damages: [&[&str]; 3] = [
            &["delete", "table", "inet", "margay"],
            &["flush", "chain", "inet", "margay", "postrouting"],
            &["delete", "element", "inet", "margay", "sources", "{ 10.244.0.0/16 }"],
        ];
        for damage in damages {
            nft(&a, damage)?;
            eventually("the table comes back", REPAIR, || {
                ensure!(seen(&hidden, &world)? == a.address, "{damage:?}");
                Ok(())
            })?;
        }
        lab.no_complaints()
    });
}

#[test]
fn translation_goes_with_the_last_pool_that_asks_and_comes_again() {
    cluster("nat_change").test(|lab| {
        let world = world(lab)?;
        let (hidden, a) = (lab.pod("hidden")?, lab.node("a")?);
        let file = lab.manifests().join("pools.yaml");
        ensure!(translates(&a));
        fs::write(&file, pools(false))?;
        eventually("translation goes", REPAIR, || {
            ensure!(!translates(&a));
            Ok(())
        })?;
        ensure!(has_table(&a), "what comes from pods without programs is to be dropped all the same");
        // The world does not know the way back, unless it is told.
        ensure!(seen(&hidden, &world).is_err());
        Netlink::open(&world.namespace)?.add_route("10.244.0.0/24".parse()?, Some(NODE_A), DEVICE)?;
        ensure!(seen(&hidden, &world)? == hidden.address);
        fs::write(&file, pools(true))?;
        eventually("translation comes", REPAIR, || {
            ensure!(seen(&hidden, &world)? == a.address);
            Ok(())
        })
    });
}

#[test]
fn uninstall_takes_the_table_away() {
    cluster("nat_uninstall").test(|lab| {
        let a = lab.node("a")?;
        ensure!(has_table(&a));
        lab.stop_agent("a", Signal::SIGTERM)?;
        ensure!(has_table(&a), "without an agent it stays in force");
        let output = lab.margay("a", ["uninstall"])?;
        ensure!(
            output.status.success() && text_of(&output).contains("nftables table inet margay"),
            "{}",
            text_of(&output)
        );
        ensure!(!has_table(&a));
        Ok(())
    });
}

#[test]
fn without_nft_there_is_a_problem_with_a_remedy() {
    cluster("nat_missing").without_agents().test(|lab| {
        // Without nft on its PATH.
        let binary = find_binary()?;
        let wrapper = lab.dir().node("a").parent().context("nodes have a directory")?.join("margay-without-nft");
        fs::write(&wrapper, format!("#!/bin/sh\nPATH=/nonexistent exec {} \"$@\"\n", binary.display()))?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        lab.start_agent("a", &wrapper)?;
        let problem = lab.complaint_about("a", "nftables table inet margay")?;
        ensure!(problem.what.contains("no program nft") && problem.remedy.contains("install nftables"), "{problem}");
        // And all the rest works.
        lab.start_agent("b", &find_binary()?)?;
        eventually("pods reach each other", REPAIR, || {
            probe::ping(&lab.pod("hidden")?.namespace, lab.pod("far")?.address)
        })?;
        Ok(())
    });
}
