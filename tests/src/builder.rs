//! A cluster in one sentence, for tests and benchmarks:
//!
//! ```no_run
//! # use margay_lab::{Lab, probe};
//! Lab::builder("readme").node("a").node("b").pod("web").on("a").pod("db").on("b").test(|lab| {
//!     let (web, db) = (lab.pod("web")?, lab.pod("db")?);
//!     probe::tcp_exchange(&web, &db, 64)?;
//!     Ok(())
//! });
//! ```
//!
//! In: the sentence. Out: manifests in the lab's own directory, and the lab that `lab up` would make of them. Never:
//! another way to a lab than by manifests.

use std::{
    collections::BTreeMap,
    env, fs,
    net::Ipv4Addr,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;

use crate::{
    agent::text_of,
    lab::{KEEP_VARIABLE, Lab, require_root, take_down_orphan},
    manifests,
    names::{LabName, PodName, pod_name},
    rundir::RunDir,
};

/// How long agents may take until they are ready. They take well below a second on a machine that is not busy.
pub const READY: Duration = Duration::from_secs(60);

/// What a lab is to have. See the [module](self).
#[derive(Clone, Debug)]
#[must_use = "`start` or `test` builds the lab"]
pub struct LabBuilder {
    name: String,
    nodes: Vec<NodeSpec>,
    pods: Vec<PodSpec>,
    files: Vec<(String, String)>,
    agent_arguments: Vec<String>,
    agents: bool,
}

#[derive(Clone, Debug)]
struct NodeSpec {
    name: String,
    address: Option<Ipv4Addr>,
    block: Option<Ipv4Net>,
}

#[derive(Clone, Debug)]
struct PodSpec {
    name: String,
    node: String,
    address: Option<Ipv4Addr>,
    labels: BTreeMap<String, String>,
}

/// A pod whose node is still to be said. See [`LabBuilder::pod`].
#[derive(Clone, Debug)]
#[must_use = "`on` says on which node the pod is, and goes on with the sentence"]
pub struct PodBuilder {
    lab: LabBuilder,
    pod: PodSpec,
}

// === impl Lab: builder ===

impl Lab {
    /// Begins a cluster. The name is the lab's: lower-case letters, digits and underscores, as the names of tests are.
    pub fn builder(name: &str) -> LabBuilder {
        LabBuilder {
            name: name.to_owned(),
            nodes: Vec::new(),
            pods: Vec::new(),
            files: Vec::new(),
            agent_arguments: Vec::new(),
            agents: true,
        }
    }
}

// === impl LabBuilder ===

impl LabBuilder {
    /// A node; the lab gives it an address and a block of pods' addresses: the first one has 10.244.0.0/24, and so on.
    pub fn node(mut self, name: &str) -> Self {
        let block = u8::try_from(self.nodes.len()).ok().map(|n| Ipv4Net::new_assert([10, 244, n, 0].into(), 24));
        self.nodes.push(NodeSpec { name: name.to_owned(), address: None, block });
        self
    }

    /// A node with this InternalIP and this podCIDR.
    pub fn node_at(mut self, name: &str, address: Ipv4Addr, block: Ipv4Net) -> Self {
        self.nodes.push(NodeSpec { name: name.to_owned(), address: Some(address), block: Some(block) });
        self
    }

    /// A pod, as `NAMESPACE/NAME` or, in the namespace `default`, `NAME`. Say with [`PodBuilder::on`] where it is.
    pub fn pod(self, name: &str) -> PodBuilder {
        let pod = PodSpec { name: name.to_owned(), node: String::new(), address: None, labels: BTreeMap::new() };
        PodBuilder { lab: self, pod }
    }

    /// Another file in the directory of manifests, right or wrong.
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Another argument for the agents.
    pub fn agent_argument(mut self, argument: &str) -> Self {
        self.agent_arguments.push(argument.to_owned());
        self
    }

    /// Namespaces and devices alone.
    pub fn without_agents(mut self) -> Self {
        self.agents = false;
        self
    }

    /// Builds the lab and starts its agents, without waiting for them. It lives until it is dropped.
    ///
    /// # Errors
    /// Not root; a lab of this name is up; the kernel refuses; the binary is missing. Nothing is left then.
    pub fn start(self) -> Result<Lab> {
        require_root()?;
        let name: LabName = self.name.parse()?;
        let dir = RunDir::of(&name);
        take_down_orphan(&dir)?;
        dir.create()?;
        let directory = dir.manifests();
        let written = self.write(&directory);
        // Made before the error is looked at: from its making on, dropping it cleans up.
        let lab = Lab::build(&name, dir, directory);
        written?;
        let mut lab = lab?;
        lab.set_agent_arguments(self.agent_arguments)?;
        if self.agents {
            lab.start_agents()?;
        }
        Ok(lab)
    }

    fn write(&self, directory: &std::path::Path) -> Result<()> {
        fs::create_dir(directory).with_context(|| format!("making {}", directory.display()))?;
        for NodeSpec { name, address, block } in &self.nodes {
            let object = manifests::node_object(name, *address, block.as_slice());
            manifests::write_object(directory, &manifests::node_file(name), &object)?;
        }
        for PodSpec { name, node, address, labels } in &self.pods {
            let pod: PodName = pod_name(name)?;
            let object = manifests::pod_object(&pod, node, *address, labels);
            manifests::write_object(directory, &manifests::pod_file(&pod), &object)?;
        }
        for (name, text) in &self.files {
            fs::write(directory.join(name), text).with_context(|| format!("writing the manifest {name}"))?;
        }
        Ok(())
    }

    /// Starts the lab, waits until all agents are ready, and runs `body`. When it fails, says what the agents know, and with
    /// `MARGAY_KEEP_LAB=1` leaves the lab standing.
    ///
    /// # Panics
    /// When the lab does not start, or `body` fails or panics: this is the whole of a test.
    pub fn test(self, body: impl FnOnce(&mut Lab) -> Result<()>) {
        let mut lab = match self.clone().start() {
            Ok(lab) => lab,
            Err(error) => panic!("starting lab {}: {error:#}", self.name),
        };
        let result = catch_unwind(AssertUnwindSafe(|| {
            if self.agents {
                lab.wait_ready(READY)?;
            }
            body(&mut lab)
        }));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                lab.report_failure();
                drop(lab);
                panic!("{error:#}");
            }
            Err(panic) => {
                lab.report_failure();
                drop(lab);
                resume_unwind(panic);
            }
        }
    }
}

// === impl PodBuilder ===

impl PodBuilder {
    /// The pod's address, instead of the next one of its node's block.
    pub fn at(mut self, address: Ipv4Addr) -> Self {
        self.pod.address = Some(address);
        self
    }

    /// A label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.pod.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The pod's node.
    pub fn on(self, node: &str) -> LabBuilder {
        let Self { mut lab, mut pod } = self;
        node.clone_into(&mut pod.node);
        lab.pods.push(pod);
        lab
    }
}

// === impl Lab: failures ===

impl Lab {
    /// Says on standard error what one wants to know about a lab in which something went wrong, and keeps the lab if the
    /// environment asks for that.
    pub fn report_failure(&mut self) {
        for node in self.cluster().nodes.keys() {
            eprintln!("---- lab {}, node {node} ----", self.name());
            for command in ["status", "drops"] {
                match self.margay(node, [command]) {
                    Ok(output) => eprint!("{}", text_of(&output)),
                    Err(error) => eprintln!("margay {command}: {error:#}"),
                }
            }
            eprint!("agent's log, {}:\n{}", self.dir().agent_log(node).display(), self.log_tail(node));
        }
        let keep = env::var_os(KEEP_VARIABLE).is_some_and(|v| !v.is_empty() && v != "0");
        let first = self.cluster().nodes.keys().next().cloned().unwrap_or_default();
        if keep {
            // The owner stays written down: once this process has ended, the next lab of this name replaces this one.
            self.disown();
            eprintln!("---- the lab stands; enter it: cargo xtask lab exec --name {} {first} ----", self.name());
        } else {
            eprintln!("---- {KEEP_VARIABLE}=1 leaves the lab standing ----");
        }
    }
}
