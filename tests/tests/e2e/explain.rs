//! `margay explain`: the programs' own answer, with nothing sent and nothing changed.

use anyhow::{Context, Result, ensure};
use margay_lab::{Lab, LabBuilder, agent::text_of};
use margay_maps::{DropReason, Hook, Outcome};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: default}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 80}, {port: 80, protocol: UDP}, {port: 80, protocol: SCTP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client, namespace: default}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: server}}}]}]
";

fn lab(name: &str) -> LabBuilder {
    let lab = Lab::builder(name).node("a").node("b").file("policies.yaml", POLICIES);
    let lab = lab.pod("client").label("app", "client").on("a").pod("near").label("app", "server").on("a");
    lab.pod("far").label("app", "server").on("b").pod("other").on("a")
}

/// What it says, with `code` for its exit code.
fn explain(lab: &Lab, node: &str, words: &str, code: i32) -> Result<Value> {
    let words = words.split_whitespace();
    let output = lab.margay(node, ["explain", "-o", "json"].into_iter().chain(words.clone()))?;
    let said = text_of(&output);
    let asked: Vec<_> = words.collect();
    ensure!(output.status.code() == Some(code), "{asked:?}: exit code {:?} instead of {code}: {said}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{asked:?}: {said}"))
}

#[test]
fn the_programs_say_who_decides_and_where_it_goes() {
    lab("explain_says").test(|lab| {
        let near = explain(lab, "a", "default/client default/near --port 80", 0)?;
        ensure!(near["program"] == "from_workload" && near["outcome"] == "delivered", "{near}");
        ensure!(near["egress"]["allowed_by"] == "NetworkPolicy default/client, egress[0]", "{near}");
        ensure!(near["ingress"]["allowed_by"] == "NetworkPolicy default/server, ingress[0]", "{near}");
        ensure!(near["ingress"]["isolated_by"] == json!(["default/server"]), "{near}");
        ensure!(near["from"]["peers"] == json!(["pods with app=client in namespace default"]), "{near}");
        ensure!(near["way"]["way"] == "pod" && near["policy_generations"][0].as_u64() > Some(0), "{near}");

        let closed = explain(lab, "a", "default/client default/near --port 81", 3)?;
        ensure!(closed["reason"] == "ingress_denied" && closed["allowed"] == false, "{closed}");
        ensure!(closed["ingress"]["allowed_by"] == Value::Null && closed["way"] == Value::Null, "{closed}");
        let other = explain(lab, "a", "default/client default/other --port 80", 3)?;
        ensure!(
            other["reason"] == "egress_denied" && other["egress"]["isolated_by"] == json!(["default/client"]),
            "{other}"
        );

        let far = explain(lab, "a", "default/client default/far --port 81", 0)?;
        ensure!(far["outcome"] == "encapsulated" && far["ingress"]["ask_node"] == "b", "{far}");
        let node_b = lab.node("b")?.address.to_string();
        ensure!(far["way"]["node"] == json!(node_b), "{far}");
        let there = explain(lab, "b", "default/client default/far --port 81", 3)?;
        ensure!(there["program"] == "from_uplink" && there["egress"]["ask_node"] == "a", "{there}");
        explain(lab, "b", "default/client default/far --port 80", 0)?;
        Ok(())
    });
}

#[test]
fn every_protocol_and_every_kind_of_end_can_be_asked_about() {
    lab("explain_ends").test(|lab| {
        for (words, code) in [
            ("default/client default/near --port 80 --protocol udp", 0),
            ("default/client default/near --port 80 --protocol sctp", 0),
            // ICMP is part of no rule with ports.
            ("default/client default/near --protocol icmp", 3),
            ("default/other 203.0.113.7 --port 443", 0),
            ("203.0.113.7 default/near --port 80", 3),
            ("203.0.113.7 default/other --port 80", 0),
            ("default/other 224.0.0.1 --port 80", 3),
        ] {
            explain(lab, "a", words, code)?;
        }
        let node_a = lab.node("a")?.address;
        let own = explain(lab, "a", &format!("{node_a} default/near --port 1"), 0)?;
        ensure!(own["program"] == "to_workload", "{own}");
        let node_b = lab.node("b")?.address;
        let foreign = explain(lab, "a", &format!("{node_b} default/near --port 80"), 3)?;
        ensure!(foreign["from"]["kind"] == "node" && foreign["program"] == "from_uplink", "{foreign}");
        for (words, what) in [
            ("203.0.113.7 203.0.113.8 --port 1", "neither"),
            ("default/nobody default/near --port 1", "no pod default/nobody"),
        ] {
            let output = lab.margay("a", ["explain"].into_iter().chain(words.split_whitespace()))?;
            ensure!(output.status.code() == Some(1) && text_of(&output).contains(what), "{}", text_of(&output));
        }
        let output = lab.margay("a", ["explain", "default/client", "default/near"])?;
        ensure!(output.status.code() == Some(2), "without a port: {}", text_of(&output));
        Ok(())
    });
}

#[test]
fn nothing_is_sent_and_nothing_is_changed_and_no_agent_is_needed() {
    lab("explain_still").test(|lab| {
        let maps = lab.maps("a")?;
        let state = || -> Result<String> {
            let mut traffic = Vec::new();
            for hook in [Hook::FromWorkload, Hook::ToWorkload] {
                // The host's own IPv6 packets to pods are dropped at any time.
                for outcome in [Outcome::Delivered, Outcome::Encapsulated, Outcome::Answered] {
                    traffic.push(maps.traffic(hook, outcome)?.packets);
                }
            }
            let (client, near) = (lab.pod("client")?.address, lab.pod("near")?.address);
            let flows = maps.flows.keys()?;
            let ours = flows.iter().filter(|key| [key.low(), key.high()].contains(&client.into()) && key.protocol == 6);
            let denied = maps.drops(DropReason::IngressDenied)?.packets + maps.drops(DropReason::EgressDenied)?.packets;
            let slot = maps.endpoints.get(&near.into())?.context("the pod has an endpoint")?;
            let rest = (maps.config.get(&0)?, maps.enforcement.get(&slot.slot)?, maps.rules.keys()?.len());
            Ok(format!("{} flows, {denied} denied, {traffic:?}, {rest:?}", ours.count()))
        };
        let before = state()?;
        explain(lab, "a", "default/client default/near --port 80", 0)?;
        explain(lab, "a", "default/client default/near --port 81", 3)?;
        explain(lab, "a", "203.0.113.7 default/near --port 80", 3)?;
        lab.stop_agent("a", Signal::SIGKILL)?;
        let blind = explain(lab, "a", "default/client default/near --port 81", 3)?;
        ensure!(
            blind["reason"] == "ingress_denied" && blind["ingress"]["says"] == "isolated; no rule allows it",
            "{blind}"
        );
        let after = state()?;
        ensure!(before == after, "it was {before}, and is {after}");
        Ok(())
    });
}
