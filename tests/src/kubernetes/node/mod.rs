//! A node of a Kubernetes cluster: [`KubeNode`], a machine in all but the kernel, with a containerd, a kubelet and a bpffs
//! of its own.
//!
//! In: a running control plane and a name. Out: a node that registers itself, and everything a test does to a machine: run
//! a program on it, stop a service, cut the power. Never: its network; that is made by [`super::network`], and the pods'
//! by the cluster's CNI plugin.

mod cgroups;
mod containerd;
pub mod init;
mod kubelet;
mod mounts;
mod services;
mod spec;

use std::{
    env,
    ffi::OsStr,
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;

pub use kubelet::ProxyMode;
pub use services::Service;
pub use spec::Spec;

use super::{
    certificates::Authority,
    control_plane::ControlPlane,
    daemon::{Daemon, Lifetime},
    programs,
};
use crate::{
    agent::text_of,
    lab::Place,
    names::LabName,
    netns::{self, Namespace},
    process::Process,
    rundir::read_json,
    wiring::DEVICE,
};
use cgroups::Cgroup;

/// How long a service may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node. Dropping this changes nothing: the cluster takes its nodes down.
#[derive(Clone, Debug)]
pub struct KubeNode {
    spec: Spec,
    lifetime: Lifetime,
}

// === impl KubeNode ===

impl KubeNode {
    /// Makes what a node needs to start: directories, a control group, certificates, reference plugins.
    pub(super) fn create(spec: Spec, control_plane: &ControlPlane, lifetime: Lifetime) -> Result<Self> {
        let dir = spec.dir();
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        mounts::make_data(&spec.data)?;
        install_reference_plugins(&spec.data.join("opt/cni/bin"))?;
        certify(&spec, control_plane)?;
        Cgroup::of_node(spec.cluster.as_str(), &spec.name)?.create()?;
        spec.save()?;
        if !spec.kube_proxy {
            let hold = Service::KubeProxy.hold(&dir);
            fs::write(&hold, "").with_context(|| format!("writing {}", hold.display()))?;
        }
        Ok(Self { spec, lifetime })
    }

    /// The node of a cluster that another process has made.
    pub(super) fn open(cluster: &LabName, node: &str) -> Result<Self> {
        let spec = Spec::load(cluster, node).with_context(|| format!("cluster {cluster} has no node {node}"))?;
        Ok(Self { spec, lifetime: Lifetime::Kept })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its InternalIP.
    pub fn address(&self) -> Ipv4Addr {
        self.spec.address
    }

    /// Its network namespace.
    ///
    /// # Errors
    /// It is gone.
    pub fn namespace(&self) -> Result<Namespace> {
        Namespace::open(&self.spec.cluster.node(&self.spec.name))
    }

    /// Switches it on. Its disk is as it was.
    ///
    /// # Errors
    /// It runs, or `margay-lab` is missing.
    pub fn boot(&self) -> Result<()> {
        let mut command = Command::new(find_binary()?);
        command.args([init::COMMAND, self.spec.cluster.as_str(), self.name()]);
        self.machine().start(self.namespace()?.entering(command), self.lifetime)
    }

    /// Cuts the power: every process on it is gone at once. [`KubeNode::boot`] switches it on again.
    ///
    /// # Errors
    /// A process does not end.
    pub fn crash(&self) -> Result<()> {
        self.machine().kill()?;
        if let Ok(first) = self.first()
            && !first.wait(PATIENCE)
        {
            bail!("process 1 of node {} does not end", self.name());
        }
        Ok(())
    }

    /// The process that stands for the whole machine.
    pub(super) fn machine(&self) -> Daemon {
        Daemon::new(&self.spec.dir(), "machine")
    }

    /// Its process 1, as this machine counts.
    fn first(&self) -> Result<Process> {
        read_json(&self.spec.dir().join(init::FIRST)).with_context(|| format!("node {} was never booted", self.name()))
    }

    /// A command that runs on the node, in all of its namespaces. `PATH` has the cluster's programs (ctr, kubectl…).
    ///
    /// # Errors
    /// The node does not run.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let first = self.first()?;
        if !first.runs() {
            bail!("node {} is switched off", self.name());
        }
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(first.pid.to_string());
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]).arg(program);
        command.env("PATH", programs::search_path()?);
        Ok(command)
    }

    /// The process of a service, if it runs.
    pub fn process(&self, service: Service) -> Option<Process> {
        let first = self.first().ok()?;
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", first.pid)).ok()?;
        let named = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == service.name())
        };
        let pid = children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(named)?;
        Process::of(pid).ok().filter(Process::runs)
    }

    /// Ends a service by `signal`, and keeps it down until [`KubeNode::start_service`]. To freeze one, send SIGSTOP to
    /// [`KubeNode::process`].
    ///
    /// # Errors
    /// It does not end.
    pub fn stop_service(&self, service: Service, signal: Signal) -> Result<()> {
        let hold = service.hold(&self.spec.dir());
        fs::write(&hold, "").with_context(|| format!("writing {}", hold.display()))?;
        let Some(process) = self.process(service) else { return Ok(()) };
        process.signal(signal)?;
        if !process.wait(PATIENCE) {
            bail!("{} on node {} does not end after {signal}", service.name(), self.name());
        }
        Ok(())
    }

    /// Starts a service that was stopped, without waiting for what it does.
    ///
    /// # Errors
    /// It does not start within a few seconds.
    pub fn start_service(&self, service: Service) -> Result<()> {
        let hold = service.hold(&self.spec.dir());
        let _ = fs::remove_file(&hold);
        let deadline = Instant::now() + PATIENCE;
        while self.process(service).is_none() {
            if Instant::now() > deadline {
                bail!("{} on node {} does not start; see {}", service.name(), self.name(), self.log(service).display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Starts kube-proxy in a mode, or again in another one.
    ///
    /// # Errors
    /// The one that runs does not end, or the new one does not start.
    pub fn start_kube_proxy(&self, mode: ProxyMode) -> Result<()> {
        self.stop_service(Service::KubeProxy, Signal::SIGTERM)?;
        mode.choose(&self.spec.dir())?;
        self.start_service(Service::KubeProxy)
    }

    /// What a service says.
    pub fn log(&self, service: Service) -> PathBuf {
        service.log(&self.spec.dir())
    }

    /// Writes a file as the node sees it, with the directories above it, whole or not at all.
    ///
    /// # Errors
    /// The node does not run, or the file cannot be written.
    pub fn write_file(&self, file: &str, text: &str) -> Result<()> {
        let script = r#"mkdir -p "${1%/*}" && cat > "$1.new" && mv "$1.new" "$1""#;
        let mut command = self.command("sh")?;
        let mut shell =
            command.args(["-c", script, "sh", file]).stdin(Stdio::piped()).spawn().context("starting sh")?;
        if let Some(mut stdin) = shell.stdin.take() {
            stdin.write_all(text.as_bytes()).with_context(|| format!("writing {file} on node {}", self.name()))?;
        }
        let status = shell.wait().context("waiting for sh")?;
        if !status.success() {
            bail!("writing {file} on node {} failed ({status})", self.name());
        }
        Ok(())
    }

    /// Imports the images in an archive, so that pods can use them.
    ///
    /// # Errors
    /// The node does not run, or containerd refuses the archive.
    pub fn import_images(&self, archive: &Path) -> Result<()> {
        let import = containerd::import(archive)?;
        let mut command = self.command(import.get_program())?;
        let output = command.args(import.get_args()).stdin(Stdio::null()).output().context("starting ctr")?;
        if !output.status.success() {
            bail!("importing {} on node {}: {}", archive.display(), self.name(), text_of(&output).trim());
        }
        Ok(())
    }
}

// === impl KubeNode: what is on it ===

impl KubeNode {
    /// The node as a place that probes can be sent from and to.
    ///
    /// # Errors
    /// Its namespace is gone.
    pub fn place(&self) -> Result<Place> {
        let name = self.name().to_owned();
        Ok(Place { name: name.clone(), address: self.address(), node: name, namespace: self.namespace()? })
    }

    /// The network namespaces of pods on it, each with the addresses of its `eth0`.
    ///
    /// # Errors
    /// The node does not run.
    pub fn sandboxes(&self) -> Result<Vec<(Namespace, Vec<Ipv4Addr>)>> {
        // The node has a /run of its own.
        let dir = PathBuf::from(format!("/proc/{}/root{}", self.first()?.pid, netns::DIR));
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // It may be going at this moment.
            let Ok(namespace) = Namespace::at(&name, &entry.path()) else { continue };
            if let Ok(addresses) = namespace.run(|| addresses_of(DEVICE)) {
                found.push((namespace, addresses));
            }
        }
        Ok(found)
    }

    /// Its running agent.
    pub fn agent(&self) -> Option<Process> {
        let group = format!("/margay-lab/{}/{}/", self.spec.cluster, self.name());
        let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        let is_agent = |pid: &i32| {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            read("cmdline").starts_with("/margay\0agent\0") && read("cgroup").contains(&group)
        };
        pids.filter(is_agent).find_map(|pid| Process::of(pid).ok().filter(Process::runs))
    }

    /// Runs a command on the node and returns what it printed.
    ///
    /// # Errors
    /// It fails; the message has what it said.
    pub fn output<S: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = self.command(program)?;
        let output = command.args(args).stdin(Stdio::null()).output().with_context(|| format!("starting {program}"))?;
        if !output.status.success() {
            bail!("{program} on node {} failed ({}): {}", self.name(), output.status, text_of(&output).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What the plugin that is installed on the node prints as JSON: `status`, `endpoints`…
    ///
    /// # Errors
    /// It is not installed, or fails.
    pub fn margay_json(&self, command: &str) -> Result<serde_json::Value> {
        let text = self.output("/opt/cni/bin/margay", ["--output=json", command])?;
        serde_json::from_str(&text).with_context(|| format!("understanding `margay {command}` of node {}", self.name()))
    }
}

/// IPv4 addresses of a device in the calling thread's namespace.
fn addresses_of(device: &str) -> Result<Vec<Ipv4Addr>> {
    let all = nix::ifaddrs::getifaddrs().context("listing addresses")?.filter(|a| a.interface_name == device);
    Ok(all.filter_map(|a| Some(a.address?.as_sockaddr_in()?.ip())).collect())
}

/// Where a cluster's nodes keep what is large.
pub(super) fn data(cluster: &LabName) -> PathBuf {
    mounts::data(cluster)
}

/// Kills everything on all nodes of a cluster, and removes their disks.
pub(super) fn remove_all(cluster: &LabName) -> Result<()> {
    // Groups of nodes first: a group with groups below it cannot be removed. `remove` goes bottom-up.
    Cgroup::of_cluster(cluster.as_str())?.remove()?;
    let data = mounts::data(cluster);
    match fs::remove_dir_all(&data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("deleting {}", data.display()));
        }
        _ => {}
    }
    // Fails while other clusters have theirs.
    let _ = data.parent().map(fs::remove_dir);
    Ok(())
}

/// The certificates and kubeconfigs that kubeadm would have brought to the node.
fn certify(spec: &Spec, control_plane: &ControlPlane) -> Result<()> {
    let authority: &Authority = control_plane.authority();
    let url = control_plane.url_for_nodes();
    control_plane.kubeconfig_at(&url, &format!("system:node:{}", spec.name), Some("system:nodes"))?;
    authority.server(&kubelet::server(&spec.name), &[&spec.name], &[IpAddr::V4(spec.address)])?;
    control_plane.kubeconfig_at(&url, "system:kube-proxy", None).map(drop)
}

/// Copies, because a plugin may be replaced on one node alone.
fn install_reference_plugins(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let source = programs::bin("cni-plugins")?;
    for entry in fs::read_dir(&source).with_context(|| format!("listing {}", source.display()))? {
        let file = entry?.path();
        let target = dir.join(file.file_name().unwrap_or_default());
        fs::copy(&file, &target).with_context(|| format!("copying {} to {}", file.display(), target.display()))?;
    }
    Ok(())
}

/// Finds `margay-lab`: this executable, or (tests stand in `target/debug/deps`) beside or above it.
fn find_binary() -> Result<PathBuf> {
    let me = env::current_exe().context("finding this executable")?;
    if me.file_name() == Some(OsStr::new("margay-lab")) {
        return Ok(me);
    }
    let places = me.ancestors().skip(1).take(2).map(|dir| dir.join("margay-lab"));
    let found = places.into_iter().find(|p| p.is_file());
    found.ok_or_else(|| anyhow!("there is no margay-lab beside {}: build it (cargo build --bins)", me.display()))
}
