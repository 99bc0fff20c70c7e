//! `margay uninstall` leaves a node as it was.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use margay_lab::{
    Lab, LabBuilder, Place,
    agent::{find_binary, text_of},
    builder::READY,
    netlink::Netlink,
    observe::{REPAIR, eventually},
    probe,
    wiring::{self, DEVICE},
};
use margay_loader::names::workload_interface;
use margay_maps::overlay;
use nix::sys::signal::Signal;

fn two_nodes(name: &str) -> LabBuilder {
    Lab::builder(name).node("a").node("b").pod("x").on("a").pod("far").on("b")
}

/// What a node's namespace looks like: devices, routes by each, settings.
fn looks(node: &Place) -> Result<BTreeMap<String, String>> {
    let netlink = Netlink::open(&node.namespace)?;
    let mut looks = BTreeMap::new();
    for device in [DEVICE, overlay::DEVICE, &workload_interface("default", "x")] {
        let routes = netlink.find(device)?.map(|_| netlink.routes(device)).transpose()?;
        looks.insert(device.to_owned(), format!("{:?}", routes.map(|r| r.len())));
    }
    for file in ["net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter"] {
        looks.insert(file.to_owned(), wiring::sysctl(&node.namespace, file)?);
    }
    Ok(looks)
}

#[test]
fn nothing_is_left() {
    two_nodes("uninstall").without_agents().test(|lab| {
        let a = lab.node("a")?;
        let before = looks(&a)?;
        lab.start_agents()?;
        lab.wait_ready(READY)?;
        lab.everything_reaches_everything()?;
        ensure!(looks(&a)? != before);
        let status = lab.margay_json("a", "status")?;
        let programs = status["programs"].as_array().context("status lists the programs")?;
        let ids: Vec<_> = programs.iter().filter_map(|p| p["id"].as_u64()).collect();
        ensure!(!ids.is_empty() && ids.iter().all(|id| is_loaded(*id)), "{status}");

        lab.stop_agent("a", Signal::SIGTERM)?;
        let output = lab.margay("a", ["uninstall"])?;
        ensure!(output.status.success(), "{}", text_of(&output));

        let after = looks(&a)?;
        ensure!(after == before, "before: {before:#?}\nafter: {after:#?}");
        ensure!(!lab.dir().agent_state("a").exists(), "the agent's files are still there");
        let pins: Vec<_> = fs::read_dir(lab.dir().bpf_of("a")).into_iter().flatten().flatten().collect();
        ensure!(pins.is_empty(), "{pins:?}");
        eventually("the kernel forgets the programs", REPAIR, || {
            let left: Vec<_> = ids.iter().filter(|id| is_loaded(**id)).collect();
            ensure!(left.is_empty(), "programs {left:?} are still loaded");
            Ok(())
        })?;
        // The other node does not care.
        ensure!(probe::ping(&lab.node("b")?.namespace, lab.pod("far")?.address)? == 64);
        // And it can be installed again.
        fs::create_dir_all(lab.dir().bpf_of("a"))?;
        lab.start_agent("a", &find_binary()?)?;
        lab.wait_ready(READY)?;
        lab.everything_reaches_everything()
    });
}

/// Whether the kernel has a BPF program with this id.
fn is_loaded(id: u64) -> bool {
    aya::programs::loaded_programs().flatten().any(|program| u64::from(program.id()) == id)
}

#[test]
fn not_while_an_agent_runs() {
    two_nodes("uninstall_busy").test(|lab| {
        let output = lab.margay("a", ["uninstall"])?;
        let said = text_of(&output);
        ensure!(output.status.code() == Some(1) && said.contains("stop"), "{:?}: {said}", output.status);
        lab.everything_reaches_everything()
    });
}

#[test]
fn twice_is_as_good_as_once() {
    two_nodes("uninstall_twice").test(|lab| {
        lab.stop_agent("a", Signal::SIGKILL)?;
        for _ in 0..2 {
            let output = lab.margay("a", ["uninstall"])?;
            ensure!(output.status.success(), "{}", text_of(&output));
        }
        Ok(())
    });
}
