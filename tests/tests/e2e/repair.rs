//! Whatever somebody breaks by hand comes back.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use margay_lab::{
    Lab, LabBuilder,
    netlink::Netlink,
    observe::{REPAIR, eventually},
    probe::{self, UdpStreamProbe},
    wiring::{self, DEVICE},
};
use margay_loader::names::{overlay_mac, workload_interface};
use margay_maps::{Addr, overlay};

fn two_nodes(name: &str) -> LabBuilder {
    Lab::builder(name).node("a").node("b").pod("x").on("a").pod("near").on("a").pod("far").on("b")
}

fn everything_works_again(lab: &Lab) -> Result<()> {
    eventually("everything reaches everything again", REPAIR, || lab.everything_reaches_everything())?;
    lab.no_complaints()
}

/// Breaks something that pods' packets do not need, so not one of them may be lost.
fn pods_do_not_notice(lab: &Lab, damage: impl FnOnce() -> Result<()>) -> Result<()> {
    let (x, near, far) = (lab.pod("x")?, lab.pod("near")?, lab.pod("far")?);
    let streams = [UdpStreamProbe::start(&x, &near, 2_000)?, UdpStreamProbe::start(&x, &far, 2_000)?];
    let done = damage().and_then(|()| everything_works_again(lab));
    let reports = streams.map(UdpStreamProbe::stop_perfect);
    done?;
    reports.into_iter().try_for_each(|report| report.map(drop))
}

#[test]
fn routes() {
    two_nodes("fix_routes").test(|lab| {
        let netlink = Netlink::open(&lab.node("a")?.namespace)?;
        pods_do_not_notice(lab, || {
            let devices = [overlay::DEVICE.to_owned(), workload_interface("default", "x")];
            for device in &devices {
                let routes = netlink.routes(device)?;
                ensure!(!routes.is_empty(), "there are no routes by {device}");
                routes.into_iter().try_for_each(|route| netlink.delete_route(route))?;
            }
            eventually("the routes come back", REPAIR, || {
                for device in &devices {
                    ensure!(!netlink.routes(device)?.is_empty(), "there are no routes by {device}");
                }
                Ok(())
            })
        })
    });
}

#[test]
fn the_overlay_device_deleted() {
    two_nodes("fix_deleted").test(|lab| {
        let netlink = Netlink::open(&lab.node("a")?.namespace)?;
        pods_do_not_notice(lab, || {
            netlink.delete(overlay::DEVICE)?;
            eventually("the device comes back", REPAIR, || netlink.index(overlay::DEVICE).map(drop))
        })
    });
}

#[test]
fn the_overlay_device_set_down() {
    two_nodes("fix_down").test(|lab| {
        let netlink = Netlink::open(&lab.node("a")?.namespace)?;
        pods_do_not_notice(lab, || netlink.down(overlay::DEVICE))
    });
}

#[test]
fn the_overlay_device_replaced_by_a_wrong_one() {
    two_nodes("fix_wrong").test(|lab| {
        let a = lab.node("a")?;
        let netlink = Netlink::open(&a.namespace)?;
        netlink.delete(overlay::DEVICE)?;
        // Loses the race if the agent has been quicker; then there is nothing wrong to repair.
        let _ = netlink.add_vxlan(overlay::DEVICE, 7, a.address, 4790, overlay_mac("nobody"), 1400);
        everything_works_again(lab)?;
        ensure!(netlink.mac(overlay::DEVICE)? == overlay_mac("a"));
        Ok(())
    });
}

#[test]
fn settings_of_the_kernel() {
    two_nodes("fix_sysctl").test(|lab| {
        let a = lab.node("a")?;
        let files = [
            "net/ipv4/ip_forward".to_owned(),
            format!("net/ipv4/conf/{}/forwarding", workload_interface("default", "x")),
            format!("net/ipv4/conf/{}/forwarding", overlay::DEVICE),
        ];
        let before: Vec<_> = files.iter().map(|f| wiring::sysctl(&a.namespace, f)).collect::<Result<_>>()?;
        pods_do_not_notice(lab, || {
            files.iter().try_for_each(|file| wiring::set_sysctl(&a.namespace, file, "0"))?;
            eventually("the settings come back", REPAIR, || {
                for (file, before) in files.iter().zip(&before) {
                    let now = wiring::sysctl(&a.namespace, file)?;
                    ensure!(now == *before, "{file} was {before} and is {now}");
                }
                Ok(())
            })
        })
    });
}

#[test]
fn detached_programs() {
    two_nodes("fix_links").test(|lab| {
        let layout = layout_dir(lab, "a")?;
        let links: Vec<_> = fs::read_dir(layout.join("links"))?.flatten().map(|entry| entry.path()).collect();
        ensure!(!links.is_empty(), "there are no pinned links: is this kernel older than 6.6?");
        links.iter().try_for_each(fs::remove_file)?;
        everything_works_again(lab)?;
        let missing: Vec<_> = links.iter().filter(|link| !link.exists()).collect();
        ensure!(missing.is_empty(), "not back: {missing:?}");
        Ok(())
    });
}

/// Where the maps of a node are pinned.
fn layout_dir(lab: &Lab, node: &str) -> Result<std::path::PathBuf> {
    let maps = lab.margay_json(node, "maps")?;
    let pin = maps[0]["pinned"].as_str().context("the first map is pinned")?;
    Ok(std::path::Path::new(pin).parent().context("in a directory")?.to_owned())
}

#[test]
fn entries_of_maps() {
    two_nodes("fix_maps").test(|lab| {
        let maps = lab.maps("a")?;
        let x = Addr::from(lab.pod("x")?.address);
        let (endpoints, routes, nodes) = (maps.endpoints.entries()?, maps.routes.entries()?, maps.nodes.entries()?);
        ensure!(!endpoints.is_empty() && !routes.is_empty() && !nodes.is_empty());
        maps.endpoints.remove(&x)?;
        routes.iter().try_for_each(|(key, _)| maps.routes.remove(key))?;
        nodes.iter().try_for_each(|(key, _)| maps.nodes.remove(key))?;
        maps.config.insert(&0, &margay_maps::Config::default())?;
        maps.endpoints.insert(&Addr::from_v4([203, 0, 113, 1]), &margay_maps::Endpoint::default())?;
        everything_works_again(lab)?;
        let sorted = |mut entries: Vec<_>| {
            entries.sort();
            entries
        };
        ensure!(sorted(maps.endpoints.entries()?) == sorted(endpoints), "the endpoints are not the same");
        Ok(())
    });
}

#[test]
fn the_uplink_set_down_and_up() {
    two_nodes("fix_uplink").test(|lab| {
        let netlink = Netlink::open(&lab.node("a")?.namespace)?;
        netlink.down(DEVICE)?;
        std::thread::sleep(Duration::from_millis(200));
        probe::ping(&lab.pod("x")?.namespace, lab.pod("near")?.address).context("the same node needs no uplink")?;
        netlink.up(DEVICE)?;
        everything_works_again(lab)
    });
}

#[test]
fn a_pods_interface_set_down_and_up() {
    two_nodes("fix_workload").test(|lab| {
        let netlink = Netlink::open(&lab.node("a")?.namespace)?;
        let device = workload_interface("default", "x");
        netlink.down(&device)?;
        std::thread::sleep(Duration::from_millis(200));
        netlink.up(&device)?;
        everything_works_again(lab)
    });
}
