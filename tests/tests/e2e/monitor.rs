//! `margay monitor` and `margay policy`: what happens is told with the names of pods and policies, to everybody who listens.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddrV4, TcpStream, UdpSocket},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use margay_lab::{Lab, LabBuilder, Place, agent::text_of, observe::eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

/// How long an event may take on a busy machine.
const SOON: Duration = Duration::from_secs(5);
const OPEN: u16 = 80;
const CLOSED: u16 = 81;

/// Into the server only the client may come, and only to one port; out of the client nothing else may go than to the server.
const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: default}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}]}]
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

/// A running `margay monitor`.
struct Monitor {
    child: Child,
    lines: Receiver<String>,
}

impl Monitor {
    fn start(lab: &Lab, node: &str, args: &str) -> Result<Self> {
        let words = args.split_whitespace();
        let mut command = lab.margay_command(node, ["monitor"].into_iter().chain(words))?;
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stderr.take().context("stderr")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        ensure!(line.contains("drops and new flows"), "the monitor says {line:?}");
        let out = BufReader::new(child.stdout.take().context("stdout")?);
        let (send, lines) = channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Ok(Self { child, lines })
    }

    /// The next event that is as wanted.
    fn find(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + SOON;
        let mut others = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            let event = serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
            if wanted(&event) {
                return Ok(event);
            }
            others.push(line);
        }
        anyhow::bail!("nobody told of {what}, but of:\n{}", others.join("\n"))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Tries to connect, whatever comes of it.
fn knock(from: &Place, to: &Place, port: u16) -> Result<()> {
    let address = SocketAddrV4::new(to.address, port);
    from.namespace.run(|| {
        drop(TcpStream::connect_timeout(&address.into(), Duration::from_millis(100)));
        Ok(())
    })
}

fn is(event: &Value, kind: &str, to: &str, port: u16) -> bool {
    event["type"] == kind && event["to"]["name"] == to && event["to"]["port"] == port
}

#[test]
fn drops_and_flows_are_told_of_with_names_policies_and_reasons() {
    lab("monitor_told").test(|lab| {
        let (client, near, far, other) = (lab.pod("client")?, lab.pod("near")?, lab.pod("far")?, lab.pod("other")?);
        let (here, there) = (Monitor::start(lab, "a", "-o json")?, Monitor::start(lab, "b", "-o json")?);
        let only_drops = Monitor::start(lab, "a", "-o json --drops --pod default/near --protocol tcp")?;

        knock(&client, &near, OPEN)?;
        let flow = here.find("the flow", |event| is(event, "flow", "default/near", OPEN))?;
        ensure!(flow["from"]["name"] == "default/client" && flow["from"]["kind"] == "pod", "{flow}");
        ensure!(flow["way"] == "pod" && flow["verdict"] == "allowed" && flow["protocol"] == "TCP", "{flow}");
        let rules = ["NetworkPolicy default/client, egress[0]", "NetworkPolicy default/server, ingress[0]"];
        ensure!(flow["allowed_by"] == serde_json::json!(rules), "{flow}");

        knock(&client, &near, CLOSED)?;
        for monitor in [&here, &only_drops] {
            let drop = monitor.find("the drop", |event| is(event, "drop", "default/near", CLOSED))?;
            ensure!(drop["reason"] == "ingress_denied" && drop["hook"] == "from_workload", "{drop}");
            ensure!(drop["denied_by"] == serde_json::json!(["default/server"]), "{drop}");
            ensure!(drop["allowed_by"] == serde_json::json!([rules[0]]), "{drop}");
            ensure!(drop["interface"].as_str().is_some_and(|name| name.starts_with("cali")), "{drop}");
        }
        knock(&client, &other, OPEN)?;
        let drop = here.find("the drop", |event| is(event, "drop", "default/other", OPEN))?;
        ensure!(
            drop["reason"] == "egress_denied" && drop["denied_by"] == serde_json::json!(["default/client"]),
            "{drop}"
        );

        knock(&client, &far, CLOSED)?;
        let drop = there.find("the far drop", |event| is(event, "drop", "default/far", CLOSED))?;
        ensure!(drop["hook"] == "from_uplink" && drop["from"]["name"] == "default/client", "{drop}");
        ensure!(only_drops.lines.try_iter().all(|line| !line.contains("\"flow\"")), "the filter lets flows through");
        Ok(())
    });
}

#[test]
fn the_programs_tell_only_while_somebody_listens() {
    lab("monitor_lease").test(|lab| {
        let maps = lab.maps("a")?;
        let until = || -> Result<u64> { Ok(maps.readers.get(&0)?.unwrap_or_default().until_ns) };
        ensure!(until()? == 0, "somebody reads already");
        let (first, second) = (Monitor::start(lab, "a", "")?, Monitor::start(lab, "a", "")?);
        ensure!(until()? > 0, "nobody reads");
        drop(first);
        thread::sleep(Duration::from_millis(200));
        ensure!(until()? > 0, "the other one reads on");
        drop(second);
        eventually("silence", SOON, || {
            ensure!(until()? == 0, "somebody still reads");
            Ok(())
        })?;
        // An agent that is killed cannot say so any more, but its word runs out.
        let _third = Monitor::start(lab, "a", "")?;
        lab.stop_agent("a", Signal::SIGKILL)?;
        let boot = || margay_loader::events::ring::boot_time().map(|now| now.as_nanos() as u64);
        ensure!(until()? < boot()? + 5_000_000_000, "it would read for ever");
        Ok(())
    });
}

#[test]
fn a_flood_is_told_of_in_part_and_the_rest_is_counted() {
    lab("monitor_flood").test(|lab| {
        let (client, other) = (lab.pod("client")?, lab.pod("other")?);
        let monitor = Monitor::start(lab, "a", "-o json --drops")?;
        client.namespace.run(|| {
            let socket = UdpSocket::bind((client.address, 0))?;
            for _ in 0..20_000 {
                socket.send_to(b"x", (other.address, 9))?;
            }
            Ok(())
        })?;
        let lost = monitor.find("what was lost", |event| event["type"] == "lost")?;
        ensure!(lost["events"].as_u64().is_some_and(|events| events > 0), "{lost}");
        Ok(())
    });
}

#[test]
fn policies_are_listed_and_shown_as_they_were_understood() {
    lab("policy_shown").test(|lab| {
        let list = lab.margay("a", ["policy", "list", "-o", "json"])?;
        let list: Value = serde_json::from_slice(&list.stdout).with_context(|| text_of(&list))?;
        let names: Vec<_> = list["policies"].as_array().into_iter().flatten().map(|policy| &policy["name"]).collect();
        ensure!(names == ["default/client", "default/server"], "{list}");
        ensure!(list["policies"][1]["pods"] == serde_json::json!(["default/near"]), "the far one is not here: {list}");
        ensure!(list["policies"][1]["map_rules"].as_u64() > Some(0), "{list}");
        let isolated: Vec<_> = list["isolated"].as_array().into_iter().flatten().map(|pod| &pod["pod"]).collect();
        ensure!(isolated == ["default/client", "default/near"], "{list}");
        ensure!(list["isolated"][0]["generation"].as_u64() > Some(0), "{list}");

        let shown = text_of(&lab.margay("a", ["policy", "show", "server"])?);
        ensure!(shown.contains("pods with app=client in namespace default") && shown.contains("TCP 80"), "{shown}");
        let unknown = lab.margay("a", ["policy", "show", "default/nothing"])?;
        ensure!(unknown.status.code() == Some(1) && text_of(&unknown).contains("default/nothing"), "{unknown:?}");

        fs::remove_file(lab.manifests().join("policies.yaml"))?;
        eventually("gone", SOON, || {
            let said = text_of(&lab.margay("a", ["policy", "list"])?);
            ensure!(said.contains("no policy is about a pod of this node"), "{said}");
            Ok(())
        })
    });
}
