//! Bad input: the agent names the object and what to do, `status` shows it, and the last good state stays in force.

use std::{fmt::Write as _, fs, net::Ipv4Addr, os::unix::process::CommandExt, time::Duration};

use anyhow::{Context, Result, ensure};
use margay_lab::{
    Lab, LabBuilder,
    agent::text_of,
    builder::READY,
    manifests,
    names::pod_name,
    observe::{REPAIR, eventually},
    probe,
};
use margay_maps::layout;

fn two_nodes(name: &str) -> LabBuilder {
    Lab::builder(name).node("a").node("b").pod("x").on("a").pod("near").on("a").pod("far").on("b")
}

/// Writes a bad file, waits for the complaint, sees that everything else goes on, deletes it, waits until all is well.
fn complains(lab: &Lab, text: &str, object: &str, word: &str) -> Result<()> {
    let file = lab.manifests().join("zz-bad.yaml");
    fs::write(&file, text)?;
    for node in ["a", "b"] {
        let problem = lab.complaint_about(node, object)?;
        ensure!(problem.to_string().contains(word), "{problem} does not say {word:?}");
        ensure!(!problem.remedy.is_empty(), "{problem:?} does not say what to do");
    }
    let shown = text_of(&lab.margay("a", ["status"])?);
    ensure!(shown.contains(object), "`margay status` does not name {object}:\n{shown}");
    lab.everything_reaches_everything()?;
    fs::remove_file(&file)?;
    lab.no_complaints()
}

#[test]
fn text_that_is_no_manifest() {
    two_nodes("bad_yaml").test(|lab| {
        complains(lab, "kind: [Pod", "zz-bad.yaml", "")?;
        complains(lab, "\u{0}\u{1}\u{2}", "zz-bad.yaml", "")?;
        complains(lab, "kind: Pod\nmetadata: {name: y}\n", "zz-bad.yaml", "apiVersion")
    });
}

#[test]
fn a_good_file_that_is_spoilt_keeps_its_objects() {
    two_nodes("bad_spoilt").test(|lab| {
        let file = lab.manifests().join("pod-default_x.yaml");
        let good = fs::read_to_string(&file)?;
        fs::write(&file, &good[..good.len() / 2])?;
        lab.complaint_about("a", "pod-default_x.yaml")?;
        lab.everything_reaches_everything()?;
        fs::write(&file, &good)?;
        lab.no_complaints()?;
        lab.everything_reaches_everything()
    });
}

fn pod(name: &str, node: &str, address: Ipv4Addr) -> Result<String> {
    let object = manifests::pod_object(&pod_name(name)?, node, Some(address), &[].into());
    Ok(object.to_string())
}

#[test]
fn two_pods_with_one_address() {
    two_nodes("bad_twins").test(|lab| {
        let taken = lab.pod("x")?.address;
        complains(lab, &pod("twin", "a", taken)?, "default/twin", &taken.to_string())?;
        complains(lab, &pod("twin", "b", taken)?, "default/twin", &taken.to_string())?;
        let node = lab.node("b")?.address;
        complains(lab, &pod("thief", "a", node)?, "default/thief", &node.to_string())
    });
}

#[test]
fn blocks_that_overlap() {
    two_nodes("bad_blocks").test(|lab| {
        let object = manifests::node_object("zz", Some(Ipv4Addr::new(192, 168, 0, 99)), &["10.244.0.128/25".parse()?]);
        complains(lab, &object.to_string(), "Node zz", "10.244.0.0/24")
    });
}

#[test]
fn a_pod_on_a_node_that_does_not_exist() {
    two_nodes("bad_node")
        .test(|lab| complains(lab, &pod("lost", "nowhere", Ipv4Addr::new(10, 244, 0, 77))?, "default/lost", "nowhere"));
}

#[test]
fn addresses_that_are_none() {
    two_nodes("bad_addresses").test(|lab| {
        let text = pod("odd", "a", Ipv4Addr::new(10, 244, 0, 77))?.replace("10.244.0.77", "10.244.0.777");
        complains(lab, &text, "default/odd", "10.244.0.777")?;
        let object = manifests::node_object("zz", Some(Ipv4Addr::new(192, 168, 0, 99)), &["10.99.0.0/24".parse()?]);
        complains(lab, &object.to_string().replace("10.99.0.0/24", "10.99.0.0/40"), "Node zz", "10.99.0.0/40")
    });
}

#[test]
fn a_directory_that_vanishes() {
    two_nodes("bad_vanished").test(|lab| {
        let away = lab.manifests().with_extension("away");
        fs::rename(lab.manifests(), &away)?;
        lab.complaint_about("a", "manifests")?;
        lab.complaint_about("b", "manifests")?;
        lab.everything_reaches_everything()?;
        // A new agent knows what the last one knew.
        lab.restart_agent("a", None)?;
        lab.complaint_about("a", "manifests")?;
        lab.everything_reaches_everything()?;
        fs::rename(&away, lab.manifests())?;
        lab.no_complaints()?;
        let late = lab.add_pod("late", "b")?;
        let x = lab.pod("x")?;
        eventually("changes are noticed again", REPAIR, || probe::ping(&x.namespace, late.address).map(drop))
    });
}

#[test]
fn a_map_that_would_be_too_full() {
    let wide = |name: &str| -> Result<LabBuilder> {
        let node_a = ("a", Ipv4Addr::new(192, 168, 0, 1), "10.244.0.0/24");
        let node_b = ("b", Ipv4Addr::new(192, 168, 255, 1), "10.244.1.0/24");
        let lab = [node_a, node_b].into_iter().try_fold(Lab::builder(name), |lab, (name, address, block)| {
            anyhow::Ok(lab.node_at(name, address, block.parse()?))
        })?;
        Ok(lab.pod("x").on("a").pod("near").on("a").pod("far").on("b"))
    };
    wide("bad_full").expect("addresses are addresses").test(|lab| {
        // One node more than the map holds, each with its own address in the underlay's /16.
        let first = Ipv4Addr::new(192, 168, 1, 0).to_bits();
        let mut items = String::new();
        for i in 0..=layout::MAX_NODES {
            let object = manifests::node_object(&format!("n{i}"), Some(Ipv4Addr::from_bits(first + i)), &[]);
            write!(items, "{}{object}", if i == 0 { "" } else { "," })?;
        }
        let file = lab.manifests().join("zz-many.json");
        fs::write(&file, format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{items}]}}"#))?;
        let problem = lab.complaint_about("a", "map nodes")?;
        ensure!(problem.what.contains(&layout::MAX_NODES.to_string()), "{problem}");
        lab.everything_reaches_everything()?;
        fs::remove_file(&file)?;
        lab.no_complaints()?;
        lab.everything_reaches_everything()
    });
}

/// Runs an agent that cannot start, and returns what it says.
fn says(lab: &Lab, arguments: &[&str], prepare: impl FnOnce(&mut std::process::Command)) -> Result<String> {
    let mut command = lab.margay_command("a", ["agent", "--node-name", "a", "--manifests"])?;
    command.arg(lab.manifests()).args(arguments);
    prepare(&mut command);
    let output = command.output().context("running an agent that cannot start")?;
    let said = text_of(&output);
    ensure!(output.status.code() == Some(1), "{:?}: {said}", output.status);
    Ok(said)
}

#[test]
fn an_agent_that_cannot_start_says_what_it_lacks() {
    Lab::builder("bad_start").node("a").without_agents().test(|lab| {
        // Anybody may write to its directories, so that privileges are what it lacks.
        let state = lab.dir().agent_state("a");
        fs::create_dir_all(&state)?;
        let everybody = || std::os::unix::fs::PermissionsExt::from_mode(0o777);
        [&state, lab.dir().bpf().as_path()].into_iter().try_for_each(|dir| fs::set_permissions(dir, everybody()))?;
        let said = says(lab, &[], |command| {
            // After setns(2), which needs root.
            // SAFETY: setuid(2) is one system call; it allocates nothing.
            unsafe { command.pre_exec(|| nix::unistd::setuid(65_534.into()).map_err(Into::into)) };
        })?;
        ensure!(said.contains("root") || said.contains("CAP_") || said.contains("privileges"), "{said}");

        let elsewhere = tempfile::tempdir()?;
        let path = elsewhere.path().to_str().context("the path is text")?;
        let said = says(lab, &["--bpffs", path], |_| {})?;
        ensure!(said.contains("bpffs") && said.contains("mount"), "{said}");
        Ok(())
    });
}

#[test]
fn an_agent_without_manifests_waits_for_them() {
    two_nodes("bad_early").without_agents().test(|lab| {
        let away = lab.manifests().with_extension("away");
        fs::rename(lab.manifests(), &away)?;
        lab.start_agents()?;
        lab.complaint_about("a", "manifests")?;
        fs::rename(&away, lab.manifests())?;
        lab.wait_ready(READY)?;
        std::thread::sleep(Duration::from_millis(100));
        lab.everything_reaches_everything()
    });
}
