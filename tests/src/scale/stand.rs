//! One node with a few pods in a cluster of any size, and its agent.
//!
//! In: a [`Size`] and a [`Feed`]. Out: a running agent that has everything in force, and what it needs for that. Never: an agent
//! that outlives the stand.

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use margay_loader::{
    datapath::pins::PinDir,
    state::{StateDir, Status},
};
use margay_maps::{Addr, user::Maps};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::feed::Feed;
use crate::{
    Lab,
    agent::find_binary,
    netlink::Netlink,
    synthetic,
    synthetic::{Size, Subject},
    wiring::DEVICE,
};

/// The node.
const NODE: &str = "a";
/// The namespace of its pods.
pub const NAMESPACE: &str = "default";
/// How long an agent may take to have everything in force for the first time.
const PATIENCE: Duration = Duration::from_secs(180);

/// A node, its agent, and where that has the cluster from.
pub struct Stand {
    lab: Lab,
    /// Where objects are written.
    pub feed: Feed,
    agent: Option<Child>,
}

/// What an agent's process has of the machine's memory, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Now (`VmRSS`).
    pub resident_kib: u64,
    /// At most so far (`VmHWM`).
    pub peak_kib: u64,
}

// === impl Stand ===

impl Stand {
    /// Runs `body` on a stand without an agent, in the node's network namespace. `pods`: how many are on the node.
    pub fn with<T: Send>(
        name: &str,
        size: Size,
        pods: usize,
        api: bool,
        body: impl FnOnce(&mut Self) -> Result<T> + Send,
    ) -> Result<T> {
        let builder = (0..pods).fold(Lab::builder(name).node(NODE), |builder, number| {
            builder.pod(&local_pod(number)).label("app", &format!("app-{number}")).label("tier", "backend").on(NODE)
        });
        let lab = builder.without_agents().start()?;
        let namespace = lab.node(NODE)?.namespace;
        namespace.run(|| {
            let feed = if api { Feed::api(&format!("{name}_api"))? } else { Feed::files(lab.dir().burden())? };
            Netlink::open(&namespace)?.add_route(synthetic::UNDERLAY, None, DEVICE)?;
            let mut stand = Self { lab, feed, agent: None };
            stand.feed.fill("own", stand.own_objects()?.into_iter())?;
            stand.feed.fill("cluster", Size { policies: 0, ..size }.objects())?;
            stand.feed.fill("policies", size.policies(Subject::Namespace(NAMESPACE)))?;
            body(&mut stand)
        })
    }

    /// The objects of this node itself.
    fn own_objects(&self) -> Result<Vec<Value>> {
        let node = &self.lab.cluster().nodes[NODE];
        let block = node.blocks.first().context("the node has no block")?;
        let mut objects = vec![json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE },
            "spec": { "podCIDR": block, "podCIDRs": [block] },
            "status": { "addresses": [{ "type": "InternalIP", "address": node.address }] },
        })];
        objects.extend(self.lab.cluster().pods.iter().map(|(name, pod)| {
            let labels = json!({ "app": app_of(&name.name), "tier": "backend" });
            running_pod(&name.name, NODE, &pod.address.to_string(), &labels)
        }));
        Ok(objects)
    }

    /// Starts the agent, and waits until it has everything in force. How long that took.
    pub fn start_agent(&mut self) -> Result<Duration> {
        for dir in [self.lab.dir().bpf_of(NODE), self.lab.dir().agent_state(NODE)] {
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let log = fs::File::options().create(true).append(true).open(self.lab.dir().agent_log(NODE))?;
        let mut command = std::process::Command::new(find_binary()?);
        command.args(["agent", "--node-name", NODE]).args(self.feed.arguments()).args(self.lab.margay_dirs(NODE));
        let began = Instant::now();
        self.agent = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        let state = StateDir::of(&self.lab.dir().agent_state(NODE));
        while !state.status()?.is_some_and(|status| status.ready) {
            if began.elapsed() > PATIENCE {
                bail!("the agent is not ready:\n{}", self.lab.log_tail(NODE));
            }
            sleep(Duration::from_millis(2));
        }
        let took = began.elapsed();
        let status = self.status()?;
        let problems: Vec<_> = status.problems.iter().map(ToString::to_string).collect();
        ensure!(problems.is_empty(), "the agent has problems: {}", problems.join("; "));
        Ok(took)
    }

    /// What the agent said of itself after its last pass.
    pub fn status(&self) -> Result<Status> {
        StateDir::of(&self.lab.dir().agent_state(NODE)).status()?.context("the agent has no status")
    }

    /// Where the agent pins.
    pub fn bpffs(&self) -> PathBuf {
        self.lab.dir().bpf_of(NODE)
    }

    /// The address of one of the node's pods.
    pub fn ip(&self, pod: usize) -> Result<Ipv4Addr> {
        Ok(self.lab.pod(&local_pod(pod))?.address)
    }

    /// Ends it, as a crash would.
    pub fn kill_agent(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            kill(Pid::from_raw(i32::try_from(agent.id())?), Signal::SIGKILL)?;
            agent.wait()?;
        }
        Ok(())
    }

    /// The maps.
    pub fn maps(&self) -> Result<Maps> {
        Ok(Maps::open(PinDir::of(&self.lab.dir().bpf_of(NODE)).dir())?)
    }

    /// What the agent holds.
    pub fn memory(&self) -> Result<Memory> {
        let pid = self.agent.as_ref().context("no agent runs")?.id();
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        };
        let (now, peak) = (field("VmRSS:"), field("VmHWM:"));
        Ok(Memory { resident_kib: now.context("VmRSS")?, peak_kib: peak.context("VmHWM")? })
    }

    /// The same, as maps have it.
    pub fn address(&self, pod: usize) -> Result<Addr> {
        Ok(self.ip(pod)?.into())
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if let Err(error) = self.kill_agent() {
            eprintln!("ending the agent: {error:#}");
        }
    }
}

/// The name of one of the node's own pods.
pub fn local_pod(number: usize) -> String {
    format!("local-{number}")
}

fn app_of(name: &str) -> String {
    name.replacen("local", "app", 1)
}

/// A pod as a kubelet and Calico leave it. An API server takes no status with a new pod, so it has Calico's annotation too.
pub fn running_pod(name: &str, node: &str, address: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "labels": labels,
            "annotations": { "cni.projectcalico.org/podIPs": format!("{address}/32") },
        },
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false,
            "containers": [{ "name": "c", "image": "none" }],
        },
        "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] },
    })
}
