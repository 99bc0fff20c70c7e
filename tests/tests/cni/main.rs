//! The CNI plugin and Margay's IPAM against a real API server: the node is a network namespace, pods are namespaces that
//! the plugin is called for as a container runtime calls it. Needs root.

mod at_once;
mod chain;
mod figures;
mod lost_del;
mod node;
mod sends_at_once;

use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::json;

use self::node::{Node, code, ip_of};

#[test]
fn a_pod_comes_is_reached_and_goes_without_a_trace() {
    Node::test("cni_basics", |node| {
        let pod = node.sandbox("web-0")?;
        let result = pod.add()?;
        let address = ip_of(&result)?;
        ensure!(result["interfaces"][0]["name"] == json!(pod.host_interface()), "{result}");
        ensure!(result["interfaces"][1]["sandbox"] == json!(pod.netns()), "{result}");
        ensure!(result["ips"][0]["interface"] == 1 && result["routes"][0]["gw"] == "169.254.1.1", "{result}");
        node.reaches(address)?;
        pod.call("CHECK")?;
        ensure!(pod.add()?["ips"] == result["ips"], "ADD again gives the same address");
        node.reaches(address)?;

        pod.call("DEL")?;
        pod.call("DEL").context("DEL of what is gone already")?;
        ensure!(pod.call("CHECK").is_err(), "CHECK after DEL");
        node.has_no_trace()
    });
}

#[test]
fn annotations_and_capabilities_choose_address_and_mac() {
    Node::test("cni_choices", |node| {
        let wanted = node.sandbox("fixed")?;
        node.create_pod(
            "fixed",
            &json!({ "cni.projectcalico.org/ipAddrs": "[\"10.66.0.77\"]",
                                          "cni.projectcalico.org/hwAddr": "02:aa:00:00:00:77" }),
        )?;
        let result = wanted.add()?;
        ensure!(result["ips"][0]["address"] == "10.66.0.77/32", "{result}");
        ensure!(result["interfaces"][1]["mac"] == "02:aa:00:00:00:77", "{result}");
        node.reaches(ip_of(&result)?)?;

        let asked = node.sandbox("asked")?;
        let runtime = json!({ "runtimeConfig": { "ips": ["10.66.0.78"], "mac": "02:aa:00:00:00:78" } });
        let result = asked.call_with("ADD", &runtime)?;
        ensure!(result["ips"][0]["address"] == "10.66.0.78/32", "{result}");
        ensure!(result["interfaces"][1]["mac"] == "02:aa:00:00:00:78", "{result}");

        let taken = node.sandbox("taken")?;
        node.create_pod("taken", &json!({ "cni.projectcalico.org/ipAddrs": "[\"10.66.0.77\"]" }))?;
        let error = taken.add().expect_err("the address is taken");
        ensure!(code(&error) == 100 && error.to_string().contains("10.66.0.77"), "{error}");
        let nonsense = node.sandbox("nonsense")?;
        node.create_pod("nonsense", &json!({ "cni.projectcalico.org/ipAddrs": "10.66.0.9" }))?;
        let error = nonsense.add().expect_err("no JSON list");
        ensure!(code(&error) == 7 && error.to_string().contains("ipAddrs"), "{error}");

        // Only who asks for it gets something from this pool.
        node.create(&json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": { "name": "other" },
            "spec": { "cidr": "10.67.0.0/24", "vxlanMode": "Always", "nodeSelector": "!all()" },
        }))?;
        let pool = node.sandbox("pool")?;
        node.create_pod("pool", &json!({ "cni.projectcalico.org/ipv4pools": "[\"other\"]" }))?;
        let address = ip_of(&pool.add()?)?;
        ensure!(address.octets()[..3] == [10, 67, 0], "{address}");
        node.reaches(address)?;

        [wanted, asked, pool].iter().try_for_each(|pod| pod.call("DEL").map(drop))?;
        node.has_no_trace()
    });
}

#[test]
fn a_dead_agent_is_try_again_at_once_and_its_pods_live_on() {
    Node::test("cni_dead_agent", |node| {
        let old = node.sandbox("old")?;
        let address = ip_of(&old.add()?)?;
        node.kill_agent()?;
        let new = node.sandbox("new")?;
        for command in ["ADD", "DEL", "CHECK"] {
            let began = Instant::now();
            let error = new.call(command).expect_err("no agent");
            ensure!(code(&error) == 11, "{command}: {error}");
            ensure!(began.elapsed().as_secs() < 3, "{command} took {:?}", began.elapsed());
        }
        ensure!(code(&new.call("STATUS").expect_err("no agent")) == 50);
        node.reaches(address)?;

        node.start_agent()?;
        new.call("STATUS")?;
        node.reaches(address).context("after the agent's restart")?;
        old.call("CHECK").context("the agent remembers")?;
        node.reaches(ip_of(&new.add()?)?)?;
        old.call("DEL")?;
        new.call("DEL")?;
        node.has_no_trace()
    });
}

#[test]
fn odd_calls_get_the_right_code_and_leave_nothing() {
    Node::test("cni_odd_calls", |node| {
        // The namespace is gone before, or while, the pod is made.
        let gone = node.sandbox("gone")?;
        gone.remove_netns()?;
        ensure!(code(&gone.add().expect_err("no namespace")) == 5);

        // A sandbox is replaced; the DEL of the old one comes late.
        let first = node.sandbox("pod")?;
        first.add()?;
        let second = node.sandbox_of("pod", "second")?;
        let address = ip_of(&second.add()?)?;
        first.call("DEL")?;
        node.reaches(address).context("a late DEL of the old sandbox leaves the new one alone")?;
        second.call("CHECK")?;

        // An interface of the same name is left over from whatever.
        let left = node.sandbox("left")?;
        node.add_stray_interface(&left.host_interface())?;
        node.reaches(ip_of(&left.add()?)?)?;

        // Versions.
        let error = left.call_with("ADD", &json!({ "cniVersion": "9.9.9" })).expect_err("no such version");
        ensure!(code(&error) == 1, "{error}");
        ensure!(left.call("VERSION")?["supportedVersions"].as_array().is_some_and(|v| v.len() >= 4));

        // GC: only `left` still exists.
        left.call_with(
            "GC",
            &json!({ "cni.dev/valid-attachments": [{ "containerID": left.id(), "ifname": "eth0" }] }),
        )?;
        ensure!(code(&second.call("CHECK").expect_err("collected")) == 3);
        left.call("CHECK")?;
        left.call("DEL")?;
        node.remove_interface(&second.host_interface())?;
        node.has_no_trace()
    });
}

#[test]
fn a_full_pool_says_so_and_gives_again_what_comes_back() {
    // The pool has 64 addresses; the overlay's own is one of them.
    Node::test_with_pool("cni_full_pool", "10.66.0.0/30", 30, |node| {
        let mut pods = Vec::new();
        let full = loop {
            let pod = node.sandbox(&format!("pod-{}", pods.len()))?;
            match pod.add() {
                Ok(_) => pods.push(pod),
                Err(error) => break (pod, error),
            }
            ensure!(pods.len() <= 4, "a /30 has no more than four addresses");
        };
        ensure!(code(&full.1) == 100, "{}", full.1);
        pods.pop().context("one pod at least")?.call("DEL")?;
        node.reaches(ip_of(&full.0.add()?)?)?;
        full.0.call("DEL")?;
        pods.iter().try_for_each(|pod| pod.call("DEL").map(drop))?;
        node.has_no_trace()
    });
}
