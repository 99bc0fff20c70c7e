//! The agent: one loop that makes the kernel what the cluster's state asks for, again and again.
//!
//! A pass reads everything, plans, and repairs the difference. What triggers it (a file, an interface, a route, the
//! clock) does not matter to it, so whatever was missed, failed or undone by hand is mended by the next one. Stopping
//! the agent, however it happens, changes nothing: programs, maps and routes stay and go on working.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use margay_maps::Features;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tracing::{error, info, warn};

use crate::{
    apply,
    cni::{
        SOCKET,
        server::{NoAddresses, PassRequest, Readiness, Server},
    },
    datapath::{
        Datapath,
        attach::{Depth, Known},
    },
    host::{Host, HostError, sysctl},
    model::Model,
    plan::{self, Attachment, HostView, Options, Plan},
    problem::Problem,
    source::{self, Keep, Source, SourceConfig},
    state::{StateDir, Status},
};

/// How the agent is to run.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// `metadata.name` of this node's Node object.
    pub node_name: String,
    /// Where the state of the cluster comes from.
    pub source: SourceConfig,
    /// The directory below which everything is pinned.
    pub bpffs: PathBuf,
    /// The agent's own directory.
    pub state_dir: PathBuf,
    /// Uplinks by name; empty: found by themselves.
    pub uplinks: Vec<String>,
    /// Leave encapsulation and its undoing to the overlay device.
    pub encap_by_device: bool,
    /// VXLAN's network identifier.
    pub vni: u32,
    /// VXLAN's UDP port.
    pub port: u16,
    /// How often everything is looked at even if nothing seems to have changed.
    pub resync: Duration,
}

/// How long a starting agent waits for a stopping one: a supervisor starts the new one when it has told the old one
/// to stop, not when it has stopped.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The least time from the end of one pass to the next that an event brings about, so that a burst of events is one
/// pass. Plugins do not wait for it.
const PASS_GAP: Duration = Duration::from_millis(10);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The agent cannot start: no privileges, no bpffs, an old kernel, another agent. Once it runs, it reports and goes on.
pub async fn run(config: AgentConfig) -> Result<()> {
    let state = StateDir::of(&config.state_dir);
    let _lock = state.lock(LOCK_PATIENCE)?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut host_changes = Host::watch()?;
    let mut agent = Agent::start(config, state)?;
    let mut source_changes = agent.source.watch();
    let mut cni_requests = agent.serve_cni()?;
    let mut resync = tokio::time::interval(agent.config.resync);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    info!(node = agent.config.node_name, "agent started");
    let mut calm = tokio::time::Instant::now();
    loop {
        let mut waiting = Vec::new();
        let depth = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = resync.tick() => Depth::Everything,
            Some(request) = cni_requests.recv() => {
                waiting.push(request);
                Depth::Changes
            }
            Some(()) = after(calm, host_changes.recv()) => Depth::Changes,
            Some(()) = after(calm, source_changes.recv()) => Depth::Changes,
        };
        // Whoever asks while this pass is being prepared is served by it too.
        while let Ok(request) = cni_requests.try_recv() {
            waiting.push(request);
        }
        agent.pass(depth).await;
        agent.answer(waiting);
        calm = tokio::time::Instant::now() + PASS_GAP;
    }
    agent.source.keep(&agent.state, Keep::Last)?;
    info!("agent stops; the datapath stays in force");
    Ok(())
}

/// `event`, but not before `calm`.
async fn after<T>(calm: tokio::time::Instant, event: impl Future<Output = T>) -> T {
    tokio::time::sleep_until(calm).await;
    event.await
}

/// Everything that lives from pass to pass.
struct Agent {
    config: AgentConfig,
    state: StateDir,
    host: Host,
    datapath: Datapath,
    source: Box<dyn Source>,
    model: Option<Model>,
    attached: Known,
    reported: Vec<Problem>,
    passes: u64,
    cni: Arc<Server>,
    cni_requests: Option<mpsc::Receiver<PassRequest>>,
    readiness: watch::Sender<Readiness>,
    /// The interfaces that the last pass has put in force, and what it could not.
    in_force: BTreeSet<String>,
}

// === impl Agent ===

impl Agent {
    fn start(config: AgentConfig, state: StateDir) -> Result<Self> {
        let datapath = Datapath::load(&config.bpffs)?;
        let host = Host::connect()?;
        let source = source::open(config.source.clone(), &state)?;
        let (readiness, watched) = watch::channel(Readiness::default());
        let (cni, cni_requests) = Server::new(state.clone(), Box::new(NoAddresses), watched)?;
        Ok(Self {
            config,
            state,
            host,
            datapath,
            source,
            model: None,
            attached: Known::new(),
            reported: Vec::new(),
            passes: 0,
            cni,
            cni_requests: Some(cni_requests),
            readiness,
            in_force: BTreeSet::new(),
        })
    }

    /// Opens the socket for CNI plugins. What they ask of the loop comes out of the channel.
    fn serve_cni(&mut self) -> Result<mpsc::Receiver<PassRequest>> {
        let socket = self.state.path(SOCKET);
        self.cni.listen(&socket).with_context(|| format!("listening on {}", socket.display()))?;
        self.cni_requests.take().context("the CNI server is started once")
    }

    /// Tells the plugins that waited for the last pass how it went.
    fn answer(&self, waiting: Vec<PassRequest>) {
        for PassRequest { interface, done } in waiting {
            let result = match &interface {
                Some(name) if !self.in_force.contains(name) => Err(self.what_keeps(name)),
                _ => Ok(()),
            };
            // A plugin that has gone does not want to know.
            drop(done.send(result));
        }
    }

    fn what_keeps(&self, interface: &str) -> String {
        let problems = self.reported.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        format!(
            "{interface} is not in force: {}",
            if problems.is_empty() { "the kernel has no such interface" } else { &problems }
        )
    }

    /// Reads everything, and mends whatever differs.
    async fn pass(&mut self, depth: Depth) {
        let started = Instant::now();
        let mut problems = Vec::new();
        self.read(&mut problems);
        self.in_force.clear();
        let plan = match self.enforce(depth, &mut problems).await {
            Ok(plan) => Some(plan),
            Err(e) => {
                problems.push(Problem::new("this node", format!("{e:#}"), "see the agent's log; it tries again"));
                None
            }
        };
        problems.sort();
        problems.dedup();
        self.report(&problems);
        self.passes += 1;
        self.write_status(plan.as_ref(), problems, started.elapsed());
    }

    /// Takes in the objects: the model changes as far as they are good.
    fn read(&mut self, problems: &mut Vec<Problem>) {
        self.source.read();
        problems.extend(self.source.problems());
        if let Err(e) = self.source.keep(&self.state, Keep::NowAndThen) {
            problems.push(Problem::new("last good state", e.to_string(), "make the state directory writable"));
        }
        let Some(mut objects) = self.source.objects().map(Cow::into_owned) else { return };
        self.cni.records().amend(&mut objects, &self.config.node_name);
        let (model, found) = Model::build(&objects, self.model.as_ref());
        problems.extend(found);
        self.model = Some(model);
    }

    /// Plans, and makes the kernel what was planned.
    async fn enforce(&mut self, depth: Depth, problems: &mut Vec<Problem>) -> Result<Plan> {
        let Some(model) = &self.model else {
            problems.push(Problem::new(
                "input",
                "nothing is known of the cluster yet: what was in force stays in force",
                "see the other problems; without any, wait until the source has been read for the first time",
            ));
            return Ok(Plan::default());
        };
        let options = options(&self.config, self.datapath.features());
        let mut view = self.host.view().await?;
        let mut plan = plan::plan(model, &view, &options);
        if let Some(overlay) = &plan.overlay {
            // Without the device pods of one node still reach each other: what fails is reported, the rest goes on.
            match self.host.ensure_overlay(overlay).await {
                Ok(true) => {
                    view = self.host.view().await?;
                    plan = plan::plan(model, &view, &options);
                }
                Ok(false) => {}
                Err(e) => problems.push(host_problem("the overlay device", &e)),
            }
        }
        problems.extend(plan.problems.iter().cloned());
        problems.extend(apply::apply(&plan, &self.datapath.maps));
        let failed = self.datapath.attach(&plan.attachments, &mut self.attached, depth);
        if failed.is_empty() {
            self.datapath.pins().remove_others()?;
        }
        problems.extend(failed.iter().map(|e| {
            Problem::new("datapath", format!("{:#}", anyhow::format_err!("{e}")), "see the agent's log; it tries again")
        }));
        let (refused, set) = sysctl::ensure(&plan.sysctls);
        problems.extend(refused);
        self.state.remember_sysctls(&set)?;
        if let Err(e) = self.host.ensure_routes(&plan.host_routes, overlay_index(&view)).await {
            problems.push(host_problem("the host's routes", &e));
        }
        self.in_force = in_force(&plan, &self.attached);
        self.readiness.send_replace(Readiness { ready: true, mtu: plan.config.overlay_mtu });
        Ok(plan)
    }

    /// Logs what is newly wrong, and what no longer is.
    fn report(&mut self, problems: &[Problem]) {
        for problem in problems.iter().filter(|p| !self.reported.contains(p)) {
            warn!("{problem}");
        }
        for problem in self.reported.iter().filter(|p| !problems.contains(p)) {
            info!(object = problem.object, "no longer: {}", problem.what);
        }
        self.reported = problems.to_vec();
    }

    fn write_status(&mut self, plan: Option<&Plan>, problems: Vec<Problem>, took: Duration) {
        let programs = self.datapath.facts().unwrap_or_default();
        let features = self.datapath.features().names().map(str::to_owned).collect();
        let status = Status {
            node: self.config.node_name.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layout: self.datapath.pins().layout(),
            ready: plan.is_some() && self.model.is_some(),
            synced_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            pass_ms: took.as_millis().try_into().unwrap_or(u64::MAX),
            passes: self.passes,
            backend: self.datapath.backend(),
            features,
            programs,
            nodes: self.model.as_ref().map_or(0, |m| m.nodes.len()),
            pods: self.model.as_ref().map_or(0, |m| m.pods.len()),
            names: self.model.as_ref().map(|m| names(m, &self.config.node_name)).unwrap_or_default(),
            waiting: plan.map(|p| p.waiting.clone()).unwrap_or_default(),
            interfaces: plan.map(|p| p.attachments.iter().map(|a| a.name.clone()).collect()).unwrap_or_default(),
            problems,
        };
        if let Err(e) = self.state.write_status(&status) {
            error!("{e}");
        }
    }
}

fn host_problem(object: &str, error: &HostError) -> Problem {
    Problem::new(object, error.to_string(), "see the agent's log; it tries again")
}

/// The interfaces that have both an address in the maps and all of their programs.
fn in_force(plan: &Plan, attached: &Known) -> BTreeSet<String> {
    let with_address: BTreeSet<u32> = plan.endpoints.values().map(|e| e.ifindex).collect();
    let complete = |a: &&Attachment| {
        with_address.contains(&a.ifindex)
            && a.role.hooks().iter().all(|(hook, _)| attached.contains(&(a.ifindex, *hook)))
    };
    plan.attachments.iter().filter(complete).map(|a| a.name.clone()).collect()
}

/// This node's pods by address, for people.
fn names(model: &Model, node: &str) -> BTreeMap<IpAddr, String> {
    let pods = model.pods_on(node);
    pods.flat_map(|(name, pod)| pod.addresses.iter().map(move |ip| (*ip, name.to_string()))).collect()
}

fn options(config: &AgentConfig, found: Features) -> Options {
    let by_hand = Features::OWN_ENCAP | Features::OWN_DECAP;
    let features = if config.encap_by_device { Features { bits: found.bits & !by_hand } } else { found };
    Options {
        node_name: config.node_name.clone(),
        uplinks: config.uplinks.clone(),
        vni: config.vni,
        port: config.port,
        features,
    }
}

fn overlay_index(view: &HostView) -> Option<u32> {
    let mut interfaces = view.interfaces.iter();
    interfaces.find(|(_, i)| i.name == margay_maps::overlay::DEVICE).map(|(index, _)| *index)
}
