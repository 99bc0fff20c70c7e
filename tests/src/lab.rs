//! A cluster from a directory of Kubernetes manifests: [`Lab`].
//!
//! In: the directory. Out: namespaces for nodes and pods, wired, with an agent on each node if asked for. Never: anything
//! that outlives [`Lab::down`].

use std::{
    fmt, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use margay_loader::source::snapshot::Snapshot;

use crate::{
    cluster::Cluster,
    manifests,
    names::{LabName, PodName, pod_name},
    netns::Namespace,
    process::Process,
    rundir::{RunDir, State},
    teardown, wiring,
};

/// Set to anything but `0`: a test that fails leaves its lab standing, and says how to enter it.
pub const KEEP_VARIABLE: &str = "MARGAY_KEEP_LAB";

/// A running lab. The process that made it takes it down when this is dropped, panics included.
#[derive(Debug)]
pub struct Lab {
    pub(crate) state: State,
    pub(crate) dir: RunDir,
    complaints: Vec<String>,
    /// Whether dropping this takes the lab down.
    owned: bool,
}

/// What a [`Lab::sync`] has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nodes that have come.
    pub nodes_added: Vec<String>,
    /// Pods that have come.
    pub pods_added: Vec<PodName>,
    /// Pods that have gone.
    pub pods_removed: Vec<PodName>,
}

/// A node or a pod: where it is and who it is.
#[derive(Clone, Debug)]
pub struct Place {
    /// As people call it: `node-a` or `default/web`.
    pub name: String,
    /// The address of its `eth0`.
    pub address: Ipv4Addr,
    /// The node it is, or is on.
    pub node: String,
    /// Its network namespace.
    pub namespace: Namespace,
}

// === impl Place ===

impl Place {
    /// Whether it is a pod; otherwise a node. Only pods have a slash in their names.
    pub fn is_pod(&self) -> bool {
        self.name.contains('/')
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

// === impl Lab ===

impl Lab {
    /// Builds the cluster that the manifests in `directory` describe, without agents. Lives until it is dropped.
    ///
    /// # Errors
    /// A lab of this name is up; the directory has no nodes; the kernel refuses. Nothing is left then.
    pub fn from_dir(name: &LabName, directory: &Path) -> Result<Self> {
        require_root()?;
        let directory =
            fs::canonicalize(directory).with_context(|| format!("opening the manifests in {}", directory.display()))?;
        let dir = RunDir::of(name);
        take_down_orphan(&dir)?;
        dir.create()?;
        Self::build(name, dir, directory)
    }

    /// As [`Lab::from_dir`], in a directory that exists already and from then on belongs to the lab.
    pub(crate) fn build(name: &LabName, dir: RunDir, manifests: PathBuf) -> Result<Self> {
        let owner = Some(Process::current()?);
        let state = State {
            name: name.clone(),
            manifests,
            owner,
            cluster: Cluster::default(),
            snapshot: Snapshot::default(),
            agent_arguments: Vec::new(),
        };
        // From here on, Drop cleans up.
        let mut lab = Self { state, dir, complaints: Vec::new(), owned: true };
        lab.dir.save(&lab.state)?;
        lab.sync()?;
        Ok(lab)
    }

    /// Opens a lab that another process has made. Dropping it leaves the lab as it is.
    ///
    /// # Errors
    /// There is no such lab.
    pub fn open(name: &LabName) -> Result<Self> {
        require_root()?;
        let dir = RunDir::of(name);
        let state = dir.load()?;
        Ok(Self { state, dir, complaints: Vec::new(), owned: false })
    }

    /// Leaves the lab standing when this process ends.
    ///
    /// # Errors
    /// The lab's state cannot be written.
    pub fn keep(&mut self) -> Result<()> {
        self.disown();
        self.state.owner = None;
        self.dir.save(&self.state)
    }

    /// From now on, dropping this leaves the lab as it is.
    pub(crate) fn disown(&mut self) {
        self.owned = false;
    }

    /// Takes a lab down, whoever made it: agents, namespaces with all processes in them, pins, directories.
    ///
    /// # Errors
    /// All that could not be removed; the rest is gone.
    pub fn down(name: &LabName) -> Result<()> {
        require_root()?;
        teardown::take_down(name)
    }

    /// Its name.
    pub fn name(&self) -> &LabName {
        &self.state.name
    }

    /// What stands.
    pub fn cluster(&self) -> &Cluster {
        &self.state.cluster
    }

    /// The directory of manifests that it follows.
    pub fn manifests(&self) -> &Path {
        &self.state.manifests
    }

    /// Its own directory.
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// What made no sense in the manifests, since the last [`Lab::sync`].
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// A node.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn node(&self, name: &str) -> Result<Place> {
        let node = self.state.cluster.nodes.get(name).ok_or_else(|| {
            let known: Vec<_> = self.state.cluster.nodes.keys().map(String::as_str).collect();
            anyhow!("lab {} has no node {name}; it has {}", self.name(), known.join(", "))
        })?;
        let namespace = Namespace::open(&self.name().node(name))?;
        Ok(Place { name: name.to_owned(), address: node.address, node: name.to_owned(), namespace })
    }

    /// A pod, as `NAMESPACE/NAME`, or `NAME` in the namespace `default`.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn pod(&self, name: &str) -> Result<Place> {
        let name = pod_name(name)?;
        let pod = self.state.cluster.pods.get(&name).ok_or_else(|| {
            let known: Vec<_> = self.state.cluster.pods.keys().map(PodName::to_string).collect();
            anyhow!("lab {} has no pod {name}; it has {}", self.name(), known.join(", "))
        })?;
        let namespace = Namespace::open(&self.name().pod(&name))?;
        Ok(Place { name: name.to_string(), address: pod.address, node: pod.node.clone(), namespace })
    }

    /// All nodes.
    ///
    /// # Errors
    /// A namespace has been removed by somebody else.
    pub fn nodes(&self) -> Result<Vec<Place>> {
        self.state.cluster.nodes.keys().map(|name| self.node(name)).collect()
    }

    /// All pods.
    ///
    /// # Errors
    /// A namespace has been removed by somebody else.
    pub fn pods(&self) -> Result<Vec<Place>> {
        self.state.cluster.pods.keys().map(|name| self.pod(&name.to_string())).collect()
    }

    /// Reads the manifests again, and makes and removes what has changed. Nodes that have gone keep their namespaces:
    /// a machine does not vanish with its Node.
    ///
    /// # Errors
    /// The directory cannot be read, an address cannot be given, or the kernel refuses.
    pub fn sync(&mut self) -> Result<Changes> {
        let read = manifests::read(self.manifests(), Some(self.state.snapshot.clone()))?;
        self.state.snapshot = read.snapshot;
        let before = self.state.cluster.clone();
        let (mut cluster, homeless) = Cluster::assign(read.wanted, &before)?;
        self.complaints = read.complaints;
        self.complaints.extend(homeless.iter().map(|p| format!("Pod {p} is on a node that does not exist")));
        manifests::write_assigned(&self.dir.status(), &cluster)?;
        for (name, node) in &before.nodes {
            cluster.nodes.entry(name.clone()).or_insert_with(|| node.clone());
        }
        if cluster.nodes.is_empty() {
            let why =
                if self.complaints.is_empty() { String::new() } else { format!(": {}", self.complaints.join("; ")) };
            bail!("there is no Node in the manifests of {}{why}", self.manifests().display());
        }
        self.wire(&cluster)
    }

    /// Brings the namespaces from what stands to `wanted`, noting each step, so that nothing is made that is not known.
    fn wire(&mut self, wanted: &Cluster) -> Result<Changes> {
        let mut changes = Changes::default();
        self.remove_pods(wanted, &mut changes)?;
        self.bring_nodes(wanted, &mut changes)?;
        self.add_pods(wanted, &mut changes)?;
        self.dir.save(&self.state)?;
        Ok(changes)
    }

    fn remove_pods(&mut self, wanted: &Cluster, changes: &mut Changes) -> Result<()> {
        for (pod, was) in self.state.cluster.pods.clone() {
            let stays = wanted.pods.get(&pod).is_some_and(|is| (&is.node, is.address) == (&was.node, was.address));
            if !stays {
                wiring::remove_pod(&self.state.name, &pod, &was)?;
                self.state.cluster.pods.remove(&pod);
                changes.pods_removed.push(pod);
            }
        }
        Ok(())
    }

    fn bring_nodes(&mut self, wanted: &Cluster, changes: &mut Changes) -> Result<()> {
        let name = &self.state.name;
        let before = std::mem::replace(&mut self.state.cluster.nodes, wanted.nodes.clone());
        if before.is_empty() {
            return wiring::build_nodes(name, wanted);
        }
        for (node, is) in &wanted.nodes {
            match before.get(node) {
                None => {
                    wiring::add_node(name, node, wanted)?;
                    changes.nodes_added.push(node.clone());
                }
                Some(was) if was.address != is.address => wiring::readdress_node(name, node, was.address, wanted)?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn add_pods(&mut self, wanted: &Cluster, changes: &mut Changes) -> Result<()> {
        for (pod, is) in &wanted.pods {
            if !self.state.cluster.pods.contains_key(pod) {
                wiring::add_pod(&self.state.name, pod, is)?;
                changes.pods_added.push(pod.clone());
            }
            self.state.cluster.pods.insert(pod.clone(), is.clone());
        }
        Ok(())
    }

    /// Adds a pod: writes its manifest into the lab's directory, wires it, and returns where it is.
    ///
    /// # Errors
    /// The lab follows somebody else's directory; the node does not exist; the kernel refuses.
    pub fn add_pod(&mut self, pod: &str, node: &str) -> Result<Place> {
        self.add_pod_with_address(pod, node, None)
    }

    /// As [`Lab::add_pod`], with an address of the caller's choice.
    ///
    /// # Errors
    /// As [`Lab::add_pod`].
    pub fn add_pod_with_address(&mut self, pod: &str, node: &str, address: Option<Ipv4Addr>) -> Result<Place> {
        self.node(node)?;
        let name = pod_name(pod)?;
        let object = manifests::pod_object(&name, node, address, &[].into());
        manifests::write_object(self.own_manifests()?, &manifests::pod_file(&name), &object)?;
        self.sync()?;
        self.pod(pod)
    }

    /// Removes a pod: its manifest from the lab's directory, then its namespace.
    ///
    /// # Errors
    /// The lab follows somebody else's directory; there is no such pod.
    pub fn remove_pod(&mut self, pod: &str) -> Result<()> {
        let name = pod_name(pod)?;
        let file = self.own_manifests()?.join(manifests::pod_file(&name));
        fs::remove_file(&file).with_context(|| format!("deleting the manifest of pod {name}, {}", file.display()))?;
        self.sync()?;
        Ok(())
    }

    /// The directory of manifests, if it is the lab's own to write to.
    fn own_manifests(&self) -> Result<&Path> {
        if self.manifests() != self.dir.manifests() {
            bail!("lab {} follows {}: change the manifests there, then sync", self.name(), self.manifests().display());
        }
        Ok(self.manifests())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = teardown::take_down(self.name())
        {
            eprintln!("taking lab {} down: {error:#}", self.name());
        }
    }
}

/// Says at once what would fail later with many words.
pub fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab makes network namespaces and loads BPF programs: run this as root, or through sudo");
    }
    Ok(())
}

/// A lab whose process was killed is in nobody's use: its name is free again.
pub(crate) fn take_down_orphan(dir: &RunDir) -> Result<()> {
    match dir.load() {
        Ok(State { owner: Some(owner), name, .. }) if !owner.runs() => teardown::take_down(&name),
        _ => Ok(()),
    }
}

/// How long agents and other processes of a lab may take to end by themselves.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
