//! Other plugins before, behind and below ours, and all versions of the specification.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use margay_lab::kubernetes::programs;
use serde_json::{Value, json};

use super::node::{Node, Sandbox, code, ip_of};

#[test]
fn each_version_gets_the_result_that_it_knows() {
    Node::test("cni_versions", |node| {
        for (version, with_family, with_mtu) in
            [("0.3.1", true, false), ("0.4.0", true, false), ("1.0.0", false, false), ("1.1.0", false, true)]
        {
            let pod = node.sandbox(&format!("v{}", version.replace('.', "-")))?;
            let call = |command: &str| pod.call_with(command, &json!({ "cniVersion": version }));
            let result = call("ADD")?;
            ensure!(result["cniVersion"] == version, "{result}");
            ensure!(result["ips"][0].get("version").is_some() == with_family, "{result}");
            ensure!(result["interfaces"][1].get("mtu").is_some() == with_mtu, "{result}");
            node.reaches(ip_of(&result)?)?;
            for (command, since) in [("CHECK", "0.4.0"), ("STATUS", "1.1.0")] {
                match call(command) {
                    Ok(_) => ensure!(version >= since, "{command} in {version}"),
                    Err(error) => ensure!(version < since && code(&error) == 1, "{command} in {version}: {error}"),
                }
            }
            call("DEL")?;
        }
        node.has_no_trace()
    });
}

/// A plugin's own part of a configuration list, with what a runtime adds to it.
fn part(kind: &str, own: &Value, previous: &Value) -> Value {
    let mut part = json!({ "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": kind, "prevResult": previous });
    part.as_object_mut().into_iter().for_each(|part| part.extend(own.as_object().cloned().unwrap_or_default()));
    part
}

#[test]
fn the_reference_plugins_follow_ours_in_a_chain() {
    Node::test("cni_chain", |node| {
        let pod = node.sandbox("chained")?;
        let run = |kind: &str, command: &str, own: &Value, previous: &Value| -> Result<Value> {
            let result = pod.run(&programs::path(kind)?, command, &part(kind, own, previous));
            result.with_context(|| format!("{kind} {command}"))
        };
        // containerd calls loopback for itself, before the network's plugins; its result is not ours to keep.
        let none = json!({});
        run("loopback", "ADD", &none, &Value::Null)?;
        let ports = json!({
            "capabilities": { "portMappings": true }, "backend": "nftables",
            "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] },
        });
        let limits = json!({
            "capabilities": { "bandwidth": true },
            "runtimeConfig": { "bandwidth": { "ingressRate": 80_000_000, "ingressBurst": 8_000_000,
                                              "egressRate": 80_000_000, "egressBurst": 8_000_000 } },
        });
        // Whoever declares a capability is told of it, so ours knows that bandwidth follows.
        let ours = json!({ "cniVersion": "1.0.0", "runtimeConfig": limits["runtimeConfig"] });
        let ours = pod.call_with("ADD", &ours)?;
        let result = run("portmap", "ADD", &ports, &ours)?;
        ensure!(result["ips"] == ours["ips"] && result["interfaces"] == ours["interfaces"], "{result}");
        let result = run("bandwidth", "ADD", &limits, &result)?;
        ensure!(result["ips"] == ours["ips"], "{result}");
        let address = ip_of(&ours)?;
        node.reaches(address)?;

        let check = json!({ "cniVersion": "1.0.0", "prevResult": result });
        pod.call_with("CHECK", &check)?;
        run("portmap", "CHECK", &ports, &result)?;
        run("bandwidth", "CHECK", &limits, &result)?;

        // The agent comes back to a pod that others have worked on.
        node.kill_agent()?;
        node.start_agent()?;
        node.reaches(address)?;
        pod.call_with("CHECK", &check)?;
        run("bandwidth", "CHECK", &limits, &result)?;

        run("bandwidth", "DEL", &limits, &result)?;
        run("portmap", "DEL", &ports, &result)?;
        pod.call_with("DEL", &check)?;
        run("loopback", "DEL", &none, &Value::Null)?;
        node.has_no_trace()
    });
}

#[test]
fn another_plugin_may_give_the_addresses() {
    Node::test("cni_host_local", |node| {
        let data = tempfile::tempdir()?;
        let config = |subnet: &str| {
            json!({ "cniVersion": "1.1.0",
                    "ipam": { "type": "host-local", "dataDir": data.path(), "ranges": [[{ "subnet": subnet }]] } })
        };
        let small = config("10.65.0.0/29");
        // Ten addresses out of six: what comes back is given again.
        let pods: Vec<Sandbox> = (0..10).map(|i| node.sandbox(&format!("pod-{i}"))).collect::<Result<_>>()?;
        for pod in &pods {
            let result = pod.call_with("ADD", &small)?;
            let address = ip_of(&result)?;
            ensure!(address.octets()[..3] == [10, 65, 0], "{result}");
            node.reaches(address)?;
            pod.call_with("CHECK", &small)?;
            pod.call_with("STATUS", &small)?;
            pod.call_with("DEL", &small)?;
        }
        // One that fails gives its address back.
        let kept = &pods[0];
        kept.call_with("ADD", &small)?;
        let gone = &pods[1];
        gone.remove_netns()?;
        ensure!(code(&gone.call_with("ADD", &small).expect_err("no namespace")) == 5);
        ensure!(leases(data.path())? == 1, "one address is out");
        // GC reaches the other plugin too.
        let mut collect = small.clone();
        collect["cni.dev/valid-attachments"] = json!([]);
        kept.call_with("GC", &collect)?;
        ensure!(leases(data.path())? == 0, "GC takes all of them back");
        node.remove_interface(&kept.host_interface())?;

        let error = kept.call_with("ADD", &json!({ "ipam": { "type": "no-such-plugin" } })).expect_err("no plugin");
        ensure!(error.to_string().contains("no-such-plugin"), "{error}");
        node.has_no_trace()
    });
}

/// How many addresses host-local has given out: a file of its network's directory is named after each.
fn leases(data: &Path) -> Result<usize> {
    let files = std::fs::read_dir(data.join("k8s-pod-network"))?;
    Ok(files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("10.")).count())
}
