//! A node with a real API server and a real agent, all in the node's network namespace, and sandboxes for which the
//! plugin is called.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use margay_lab::{
    Lab, Namespace,
    agent::find_binary,
    kubernetes::{ControlPlane, daemon::Daemon, programs},
    netlink::Netlink,
    netns,
    observe::eventually,
    probe::ping::Ping,
};
use margay_loader::names::workload_interface;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// The node's name.
const NODE: &str = "a";

/// A node.
pub struct Node {
    lab: Lab,
    control_plane: ControlPlane,
    binary: PathBuf,
    agent: Mutex<Option<Child>>,
}

/// A pod's sandbox: a network namespace and a container's id.
pub struct Sandbox {
    name: String,
    namespace: Namespace,
    binary: PathBuf,
    socket: PathBuf,
    pod: String,
    /// The pod's `metadata.uid`, where there is a Pod object.
    uid: Option<String>,
}

/// The CNI error's code, if it is one.
pub fn code(error: &anyhow::Error) -> u64 {
    error.downcast_ref::<PluginError>().map_or(0, |e| e.0["code"].as_u64().unwrap_or_default())
}

/// The first address of a result.
pub fn ip_of(result: &Value) -> Result<Ipv4Addr> {
    let text = result["ips"][0]["address"].as_str().with_context(|| format!("no address in {result}"))?;
    text.trim_end_matches("/32").parse().with_context(|| format!("{text} is no /32"))
}

/// A Pod object of the node's.
fn pod(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "annotations": annotations },
        "spec": { "nodeName": NODE, "automountServiceAccountToken": false,
                  "containers": [{ "name": "c", "image": "none" }] },
    })
}

/// What the plugin printed when it failed.
#[derive(Debug)]
struct PluginError(Value);

impl std::fmt::Display for PluginError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for PluginError {}

// === impl Node ===

impl Node {
    /// Runs a test on a node whose pool has room for everybody.
    pub fn test(name: &str, body: impl FnOnce(&Self) -> Result<()> + Send) {
        Self::test_with_pool(name, "10.66.0.0/16", 26, body);
    }

    /// Runs a test on a node with this pool.
    pub fn test_with_pool(name: &str, pool: &str, block: u8, body: impl FnOnce(&Self) -> Result<()> + Send) {
        // An API server and its store each: more of them at once only wait for each other.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let address = Ipv4Addr::new(192, 168, 66, 1);
        let unused = "10.65.0.0/24".parse().expect("a block");
        let lab = Lab::builder(name).node_at(NODE, address, unused).without_agents().start().expect("the lab");
        let namespace = lab.node(NODE).expect("the node").namespace;
        // The API server listens on the loopback address of the node's namespace, so everything happens there.
        let done = namespace.run(|| {
            let control_plane = ControlPlane::start(&format!("{name}_api"))?;
            let node = Self { lab, control_plane, binary: find_binary()?, agent: Mutex::new(None) };
            node.prepare(address, pool, block)?;
            let done = node.start_agent().and_then(|()| body(&node));
            if done.is_err() {
                eprintln!("{}", fs::read_to_string(node.lab.dir().agent_log(NODE)).unwrap_or_default());
            }
            node.kill_agent()?;
            done
        });
        if let Err(error) = done {
            panic!("{error:#}");
        }
    }

    fn prepare(&self, address: Ipv4Addr, pool: &str, block: u8) -> Result<()> {
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
        for file in fs::read_dir(crds)?.flatten().filter(|f| f.path().extension().is_some_and(|e| e == "yaml")) {
            self.control_plane.apply(&file.path())?;
        }
        self.control_plane.kubectl_output(["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
        // The agent may do what it may on a cluster, and no more.
        self.control_plane.apply(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/rbac.yaml"))?;
        self.create(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE } }))?;
        let status = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": address }] } });
        self.control_plane.kubectl_output([
            "patch",
            "node",
            NODE,
            "--subresource=status",
            "--type=merge",
            "--patch",
            &status.to_string(),
        ])?;
        self.create(&json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": { "name": "pods" },
            "spec": { "cidr": pool, "blockSize": block, "vxlanMode": "Always", "ipipMode": "Never", "nodeSelector": "all()" },
        }))
    }

    /// Creates any object.
    pub fn create(&self, object: &Value) -> Result<()> {
        let file = tempfile::Builder::new().suffix(".json").tempfile()?;
        fs::write(file.path(), object.to_string())?;
        self.control_plane.kubectl_output([Path::new("create"), Path::new("-f"), file.path()]).map(drop)
    }

    /// A Pod object of this node's, with annotations.
    pub fn create_pod(&self, name: &str, annotations: &Value) -> Result<()> {
        self.create(&pod(name, annotations))
    }

    /// Starts the agent and waits until it is ready.
    pub fn start_agent(&self) -> Result<()> {
        let log = self.lab.dir().agent_log(NODE);
        fs::create_dir_all(self.lab.dir().node(NODE))?;
        let log = fs::File::options().create(true).append(true).open(log)?;
        let dirs = self.lab.margay_dirs(NODE);
        let mut command = Command::new(&self.binary);
        let account = self.control_plane.kubeconfig_of_account("kube-system", "margay-agent")?;
        command.args(["agent", "--node-name", NODE, "--kubeconfig"]).arg(account);
        let agent = command.args(&dirs).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        *self.agent.lock().expect("the lock") = Some(agent);
        let mut status = Command::new(&self.binary);
        let status = status.args(["status", "--wait", "20"]).args(&dirs).output()?;
        ensure!(status.status.success(), "the agent is not well:\n{}", String::from_utf8_lossy(&status.stdout));
        Ok(())
    }

    /// SIGKILL, if it runs.
    pub fn kill_agent(&self) -> Result<()> {
        if let Some(mut agent) = self.agent.lock().expect("the lock").take() {
            kill(Pid::from_raw(agent.id() as i32), Signal::SIGKILL)?;
            agent.wait()?;
        }
        Ok(())
    }

    /// Sends the agent a signal; SIGSTOP makes one that hangs.
    pub fn signal_agent(&self, signal: Signal) -> Result<()> {
        let agent = self.agent.lock().expect("the lock");
        let agent = agent.as_ref().context("the agent does not run")?;
        Ok(kill(Pid::from_raw(agent.id() as i32), signal)?)
    }

    /// A sandbox with a namespace of its own, for a pod of this name.
    pub fn sandbox(&self, pod: &str) -> Result<Sandbox> {
        self.sandbox_of(pod, "first")
    }

    /// One of several sandboxes of a pod.
    pub fn sandbox_of(&self, pod: &str, which: &str) -> Result<Sandbox> {
        let name = format!("{}-{pod}-{which}", self.lab.name());
        Ok(Sandbox {
            namespace: Namespace::create(&format!("mgy-{name}"))?,
            // A handle's name is made of it, and Kubernetes takes no underscores there.
            name: name.replace('_', "-"),
            binary: self.binary.clone(),
            socket: self.lab.dir().agent_state(NODE).join("cni.sock"),
            pod: pod.to_owned(),
            uid: None,
        })
    }

    /// Sandboxes of so many pods that are in the API and that the agent has heard of, as it has when a kubelet starts them.
    pub fn sandboxes_of_known_pods(&self, count: usize) -> Result<Vec<Sandbox>> {
        let pods: Vec<_> = (0..count).map(|i| pod(&format!("pod-{i}"), &json!({}))).collect();
        self.create(&json!({ "apiVersion": "v1", "kind": "List", "items": pods }))?;
        let listed = self.control_plane.kubectl_output(["get", "pods", "--output=json"])?;
        let listed: Value = serde_json::from_str(&listed)?;
        let uids: BTreeMap<_, _> = listed["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pod| Some((pod["metadata"]["name"].as_str()?, pod["metadata"]["uid"].as_str()?)))
            .collect();
        let sandbox = |i| {
            let name = format!("pod-{i}");
            let mut sandbox = self.sandbox(&name)?;
            sandbox.uid = Some((*uids.get(name.as_str()).with_context(|| format!("{name} has no uid"))?).to_owned());
            Ok(sandbox)
        };
        let sandboxes = (0..count).map(sandbox).collect();
        eventually("the agent has heard of the pods", Duration::from_secs(10), || {
            let status = self.lab.margay_json(NODE, "status")?;
            ensure!(status["pods"].as_u64() >= Some(count as u64), "it knows {}", status["pods"]);
            Ok(())
        })?;
        sandboxes
    }

    /// The node pings the address.
    pub fn reaches(&self, address: Ipv4Addr) -> Result<()> {
        let report = Ping::to(address).patience(Duration::from_secs(2)).from(&self.lab.node(NODE)?.namespace)?;
        ensure!(report.received == report.sent, "{address} does not answer");
        Ok(())
    }

    /// A device of this name that nobody made for a pod.
    pub fn add_stray_interface(&self, name: &str) -> Result<()> {
        Netlink::open(&self.lab.node(NODE)?.namespace)?.add_bridge(name, 1500)
    }

    /// Removes a device, as the end of a sandbox's namespace would.
    pub fn remove_interface(&self, name: &str) -> Result<()> {
        let netlink = Netlink::open(&self.lab.node(NODE)?.namespace)?;
        if netlink.find(name)?.is_some() { netlink.delete(name) } else { Ok(()) }
    }

    /// Nothing of any pod is left: no device, no map entry, no route, no record, no address, no handle.
    pub fn has_no_trace(&self) -> Result<()> {
        self.has_no_trace_within(Duration::from_secs(5))
    }

    /// The same, after a while at most.
    pub fn has_no_trace_within(&self, patience: Duration) -> Result<()> {
        let deadline = std::time::Instant::now() + patience;
        loop {
            match self.traces()? {
                traces if traces.is_empty() => return Ok(()),
                traces if std::time::Instant::now() > deadline => bail!("left behind: {}", traces.join("; ")),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// The processor time that everybody has used so far who has to do with an ADD: kube-apiserver, etcd, the agent, and all
    /// programs that this process has started and waited for, plugins above all.
    pub fn processor_times(&self) -> Result<[(&'static str, Duration); 4]> {
        let agent = self.agent.lock().expect("the lock").as_ref().context("the agent does not run")?.id();
        let daemon = |daemon: Daemon| {
            daemon.process().map_or(Ok(Duration::ZERO), |process| processor_time(process.pid.cast_unsigned()))
        };
        Ok([
            ("kube-apiserver", daemon(self.control_plane.api_server())?),
            ("etcd", daemon(self.control_plane.etcd())?),
            ("agent", processor_time(agent)?),
            ("plugins", waited_for()?),
        ])
    }

    /// The addresses that blocks say are some pod's of this node.
    pub fn addresses_in_use(&self) -> Result<usize> {
        let blocks = self.control_plane.kubectl_output(["get", "ipamblocks", "--output=json"])?;
        Ok(blocks.matches("\"k8s-pod-network.").count())
    }

    /// Runs `body` without an API server; it is the same one afterwards.
    pub fn without_api_server(&self, body: impl FnOnce() -> Result<()>) -> Result<()> {
        self.control_plane.api_server().kill()?;
        let done = body();
        self.control_plane.start_api_server()?;
        self.control_plane.wait_ready(Duration::from_secs(60))?;
        done
    }

    fn traces(&self) -> Result<Vec<String>> {
        let mut traces = Vec::new();
        let netlink = Netlink::open(&self.lab.node(NODE)?.namespace)?;
        for link in netlink.links()? {
            let text = format!("{:?}", link.attributes.iter().find(|a| format!("{a:?}").starts_with("IfName")));
            if text.contains("cali") && !text.contains("vxlan.calico") {
                traces.push(format!("device {text}"));
            }
        }
        let endpoints = self.lab.margay_json(NODE, "endpoints")?;
        let workloads = endpoints.as_array().into_iter().flatten().filter(|e| e["kind"] == "workload");
        traces.extend(workloads.map(|e| format!("map entry {e}")));
        let state = self.lab.dir().agent_state(NODE).join("attachments.json");
        let records = fs::read_to_string(state).unwrap_or_default();
        if records.contains("containerID") {
            traces.push(format!("records {records}"));
        }
        let handles = self.control_plane.kubectl_output(["get", "ipamhandles", "--output=name"])?;
        traces.extend(handles.lines().filter(|h| h.contains("k8s-pod-network")).map(str::to_owned));
        let blocks = self.control_plane.kubectl_output(["get", "ipamblocks", "--output=json"])?;
        if blocks.contains("k8s-pod-network.") {
            traces.push("an address in an IPAMBlock".to_owned());
        }
        Ok(traces)
    }
}

/// What a process has used (proc_pid_stat(5): `utime` and `stime`, in hundredths of a second).
fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after_name) = stat.rsplit_once(')').context("a process without a name")?;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// What this process's children have used that have ended.
fn waited_for() -> Result<Duration> {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = used.user_time() + used.system_time();
    Ok(Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1_000))
}

// === impl Sandbox ===

impl Sandbox {
    /// The container's id.
    pub fn id(&self) -> &str {
        &self.name
    }

    /// The path of the network namespace.
    pub fn netns(&self) -> String {
        netns::path(self.namespace.name()).display().to_string()
    }

    /// The host's side.
    pub fn host_interface(&self) -> String {
        workload_interface("default", &self.pod)
    }

    /// ADD.
    pub fn add(&self) -> Result<Value> {
        self.call("ADD")
    }

    /// Any command, with the usual configuration.
    pub fn call(&self, command: &str) -> Result<Value> {
        self.call_with(command, &json!({}))
    }

    /// Any command; `extra` is merged into the configuration.
    pub fn call_with(&self, command: &str, extra: &Value) -> Result<Value> {
        let mut config =
            json!({ "cniVersion": "1.1.0", "name": "k8s-pod-network", "type": "margay", "socket": self.socket });
        for (key, value) in extra.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        self.run(&self.binary, command, &config)
    }

    /// Any command of any plugin, with this configuration.
    pub fn run(&self, plugin: &Path, command: &str, config: &Value) -> Result<Value> {
        // In the node's namespace, as this thread is: a child that had to enter it first would be a copy of this
        // process, made and thrown away within what is measured.
        let mut prepared = Command::new(plugin);
        prepared
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.name)
            .env("CNI_NETNS", self.netns())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", programs::bin("cni-plugins")?)
            .env("CNI_ARGS", self.arguments());
        let mut child = prepared.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let stdin = child.stdin.take().context("the plugin's input")?;
        serde_json::to_writer(stdin, config)?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let printed = if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).context(text)? };
        if output.status.success() { Ok(printed) } else { Err(PluginError(printed).into()) }
    }

    fn arguments(&self) -> String {
        let uid = self.uid.iter().map(|uid| format!(";K8S_POD_UID={uid}")).collect::<String>();
        format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}{uid}", self.pod)
    }

    /// Takes the namespace away, as a runtime does with a sandbox that failed.
    pub fn remove_netns(&self) -> Result<()> {
        Namespace::remove(self.namespace.name())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The test has failed, or has shown what it had to.
        drop(Namespace::remove(self.namespace.name()));
    }
}
