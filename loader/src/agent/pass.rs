//! One pass: everything is read, planned and mended.
//!
//! In: the source, the kernel's own account of itself, attachments of the CNI plugin. Out: a kernel that is as planned,
//! and problems. What has not changed is not looked at again until a pass of [`Depth::Everything`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use margay_maps::Features;
use tokio::sync::{mpsc, watch};
use tracing::debug;

use super::{AgentConfig, policies::Policies, services::Services};
use crate::{
    apply,
    cni::{
        SOCKET,
        addresses::KubeAddresses,
        records::Records,
        server::{AddressManager, NoAddresses, PassRequest, Readiness, Server, Wishes},
        sweep::Sweeper,
    },
    datapath::{
        Backend, Datapath,
        attach::{Depth, Known},
    },
    events::pump::Pump,
    flows::{self, Timeouts},
    health::{Health, Took},
    host::{
        Hint, Hints, Host, HostError, OwnRoutes,
        nftables::{TABLE, Table},
        sysctl,
    },
    model::{Model, Touched},
    names::WORKLOAD_PREFIX,
    notices::Notices,
    object::{ObjectName, PodName},
    plan::{self, Attachment, HostView, Options, OverlayDevice, Plan},
    problem::Problem,
    source::{self, Keep, Source, SourceConfig},
    state::StateDir,
    view::{self, View},
};

/// Everything that lives from pass to pass.
pub(super) struct Agent {
    pub(super) config: AgentConfig,
    pub(super) state: StateDir,
    pub(super) datapath: Datapath,
    pub(super) source: Box<dyn Source>,
    pub(super) model: Option<Arc<Model>>,
    pub(super) reported: Vec<Problem>,
    pub(super) passes: u64,
    pub(super) health: Health,
    host: Host,
    hints: Hints,
    table: Table,
    cni: Arc<Server>,
    cni_requests: Option<mpsc::Receiver<PassRequest>>,
    sweeper: Sweeper,
    readiness: watch::Sender<Readiness>,
    view: watch::Sender<Option<Arc<View>>>,
    pub(super) known: Done,
    /// The way to people by Events, where there is an API for them.
    pub(super) notices: Option<Notices>,
    policies: Policies,
    services: Services,
    /// The interfaces that the last pass has put in force.
    in_force: BTreeSet<String>,
}

/// What earlier passes have seen and done.
#[derive(Default)]
pub(super) struct Done {
    /// The attachments that the model was built with.
    records: Records,
    /// What was wrong with the objects that the model was built from.
    model_problems: Vec<Problem>,
    /// What the kernel was like when the last pass looked; `None` if that pass did not come to its end.
    view: Option<HostView>,
    routes: OwnRoutes,
    /// The overlay device as it was found to be right, and its index.
    overlay: Option<(OverlayDevice, u32)>,
    maps: apply::Known,
    attached: Known,
    attachments: BTreeSet<Attachment>,
    sysctls: BTreeMap<String, String>,
    /// What was last planned, without its policies, as long as no object that it follows from has changed.
    plan: Option<Plan>,
    /// The node's own pods by address, as long as none of them has changed.
    pub(super) names: Option<BTreeMap<IpAddr, String>>,
}

/// What a pass is to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The objects; the kernel has not said that anything has changed there since the last pass.
    Objects,
    /// The kernel too.
    All,
}

// === impl Agent ===

impl Agent {
    /// Loads the datapath, and opens everything that a pass needs.
    pub(super) fn start(config: AgentConfig, state: StateDir, hints: Hints) -> Result<Self> {
        let datapath = Datapath::load(&config.bpffs)?;
        flows::start(datapath.pins().dir().to_owned(), Timeouts::default())?;
        let host = Host::connect()?;
        let source = source::open(config.source.clone(), &config.node_name, &state)?;
        let (readiness, watched) = watch::channel(Readiness::default());
        let (cni, cni_requests) = Server::new(state.clone(), address_manager(&config), watched)?;
        let model = state.incumbents()?.map(Arc::new);
        let health = Health::new(config.resync);
        let notices = match &config.source {
            SourceConfig::Directories(_) => None,
            SourceConfig::Kubernetes(api) => Some(Notices::new(api.clone(), &config.node_name)),
        };
        if let Some(address) = config.health {
            health.serve(address, datapath.pins().clone());
        }
        Ok(Self {
            config,
            state,
            datapath,
            source,
            model,
            reported: Vec::new(),
            passes: 0,
            health,
            host,
            hints,
            table: Table::default(),
            sweeper: Sweeper::new(Arc::clone(&cni)),
            cni,
            cni_requests: Some(cni_requests),
            readiness,
            view: watch::Sender::new(None),
            known: Done::default(),
            notices,
            policies: Policies::default(),
            services: Services::default(),
            in_force: BTreeSet::new(),
        })
    }

    /// Opens the socket for CNI plugins. What they ask of the loop comes out of the channel.
    pub(super) fn serve_cni(&mut self) -> Result<mpsc::Receiver<PassRequest>> {
        let socket = self.state.path(SOCKET);
        self.cni.listen(&socket).with_context(|| format!("listening on {}", socket.display()))?;
        self.cni_requests.take().context("the CNI server is started once")
    }

    /// Opens the socket for questions.
    pub(super) fn serve_view(&mut self) -> Result<()> {
        let socket = self.state.path(view::SOCKET);
        let pump = Pump::start(self.datapath.pins().dir().to_owned(), self.view.subscribe())?;
        view::server::listen(&socket, self.view.subscribe(), pump)
            .with_context(|| format!("listening on {}", socket.display()))
    }

    /// Tells the plugins that waited for the last pass how it went.
    pub(super) async fn answer(&mut self, waiting: Vec<PassRequest>) {
        for PassRequest { interface, settled, done } in waiting {
            if let Some(name) = interface.as_deref().filter(|_| settled) {
                self.settle_interface(name).await;
            }
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
        let what = if problems.is_empty() { "the kernel has no such interface" } else { &problems };
        format!("{interface} is not in force: {what}")
    }

    /// How many hooks still have the filters that they got in haste.
    pub(super) fn hasty(&self) -> usize {
        match self.datapath.backend() {
            Backend::Tcx => self.known.attached.values().filter(|how| **how == Backend::Clsact).count(),
            Backend::Clsact => 0,
        }
    }

    /// Whether the maps still hold what only a change of policies needed.
    pub(super) fn is_settled(&self) -> bool {
        self.policies.is_settled()
    }

    /// Gives one of them its link.
    pub(super) fn settle_one(&mut self) {
        self.datapath.settle_one(&self.known.attachments, &mut self.known.attached);
    }

    /// Gives an interface its links now, and takes the emptied qdisc away: some other plugin wants the place.
    async fn settle_interface(&mut self, name: &str) {
        let attachment = self.known.attachments.iter().find(|a| a.name == name);
        let Some(ifindex) = attachment.map(|a| a.ifindex).filter(|_| self.hasty() > 0) else { return };
        self.datapath.settle(ifindex, &self.known.attachments, &mut self.known.attached);
        if let Err(e) = self.host.remove_empty_clsact(ifindex).await {
            debug!(interface = name, "the emptied qdisc stays: {e:#}");
        }
    }

    /// Reads everything, and mends whatever differs. `waiting`: who waits for it.
    pub(super) async fn pass(&mut self, depth: Depth, look: Look, waiting: &[PassRequest]) {
        let started = Instant::now();
        let fresh = waiting.iter().filter_map(|request| request.interface.clone()).collect();
        let mut problems = Vec::new();
        self.read(&mut problems);
        self.in_force.clear();
        let again = if look == Look::Objects { self.plan_again(&mut problems) } else { None };
        let planned = match again {
            Some(plan) => Ok(Some(plan)),
            None => self.enforce(depth, &fresh, &mut problems).await,
        };
        let plan = match planned {
            Ok(plan) => plan,
            Err(e) => {
                problems.push(Problem::new("this node", format!("{e:#}"), "see the agent's log; it tries again"));
                None
            }
        };
        let took = Took { pass: started.elapsed(), change: self.source.heard().map(|heard| heard.elapsed()) };
        // Only now: nobody's change waits for it.
        if let Err(e) = self.source.keep(&self.state, Keep::NowAndThen) {
            problems.push(Problem::new("last good state", e.to_string(), "make the state directory writable"));
        }
        problems.sort();
        problems.dedup();
        self.report(problems);
        self.passes += 1;
        self.write_status(plan.as_ref(), took);
        debug!(in_force = ?took, took = ?started.elapsed(), ?look, "pass");
        self.known.plan = plan.map(|plan| Plan { policy: Arc::default(), ..plan });
    }

    /// Takes in the objects: the model changes as far as they are good.
    fn read(&mut self, problems: &mut Vec<Problem>) {
        let changed = self.source.read();
        problems.extend(self.source.problems());
        problems.extend(self.health.problem());
        let records = self.cni.records();
        if changed || self.passes == 0 || self.model.is_none() || records != self.known.records {
            self.bring_up_to_date(records, problems);
        }
        problems.extend(self.known.model_problems.iter().cloned());
    }

    /// What this node's pods ask for in their annotations.
    fn wishes(&self) -> Wishes {
        let objects = self.source.objects();
        let pods = objects.iter().flat_map(|objects| objects.pods.values());
        let here = pods.filter(|pod| pod.node.as_deref() == Some(&self.config.node_name));
        here.filter_map(|pod| Some((pod.name.clone(), pod.wishes.as_deref()?.clone()))).collect()
    }

    /// The model becomes what the objects say: by what has changed if that is all, or built anew.
    fn bring_up_to_date(&mut self, records: Records, problems: &mut Vec<Problem>) {
        let names = self.source.changes();
        if self.passes == 0 || names.as_ref().is_none_or(|names| names.iter().any(|name| self.is_here(name))) {
            self.cni.know(self.wishes());
        }
        let settled = self.known.model_problems.is_empty() && self.passes > 0;
        match names.filter(|_| settled).and_then(|names| self.amend(&records, names)) {
            Some(touched) => {
                self.policies.touched(&touched);
                if self.concerns_the_plan(&touched) {
                    (self.known.plan, self.known.names) = (None, None);
                }
                self.known.records = records;
            }
            None => {
                (self.known.plan, self.known.names) = (None, None);
                self.rebuild(records, problems);
            }
        }
    }

    /// Whether the object is a pod of this node, or was one.
    fn is_here(&self, name: &ObjectName) -> bool {
        let Some(name) = name.pod() else { return false };
        let objects = self.source.objects();
        let now = objects.as_ref().and_then(|objects| objects.pods.get(name)).and_then(|pod| pod.node.as_ref());
        let before = self.model.as_ref().and_then(|model| model.pods.get(name)).map(|pod| &pod.node);
        now.into_iter().chain(before).any(|node| *node == self.config.node_name)
    }

    fn amend(&mut self, records: &Records, mut names: BTreeSet<ObjectName>) -> Option<Touched> {
        // Whoever looks at the model keeps it as it was: then it would have to be copied.
        self.view.send_replace(None);
        let model = Arc::make_mut(self.model.as_mut()?);
        let objects = self.source.objects()?;
        names.extend(records.differing(&self.known.records).into_iter().cloned().map(ObjectName::Pod));
        let pods: BTreeSet<&PodName> = names.iter().filter_map(ObjectName::pod).collect();
        let amended = records.amended_of(&objects, &self.config.node_name, |pod| pods.contains(pod));
        model.amend(&objects, &amended, &names)
    }

    /// Whether more than the identity of some addresses follows from it.
    fn concerns_the_plan(&self, touched: &Touched) -> bool {
        let Some(model) = &self.model else { return true };
        touched.pods.iter().any(|(name, before)| {
            let mut pods = before.iter().chain(model.pods.get(name));
            pods.any(|pod| pod.node == self.config.node_name || plan::is_stray(model, pod))
        })
    }

    fn rebuild(&mut self, records: Records, problems: &mut Vec<Problem>) {
        let Some(objects) = self.source.objects() else {
            // Whose addresses were whose an earlier agent knew; what there is, nobody knows yet.
            self.model = self.model.take().filter(|_| self.passes > 0);
            return;
        };
        let amended = records.amended(&objects, &self.config.node_name);
        let (model, found) = Model::build_with(&objects, &amended, self.model.as_deref());
        drop(objects);
        // Only while two claim the same does it matter who was first.
        let kept = if found.is_empty() { self.state.forget_incumbents() } else { self.state.write_incumbents(&model) };
        if let Err(e) = kept {
            problems.push(Problem::new("last good state", e.to_string(), "make the state directory writable"));
        }
        self.known.model_problems = found;
        self.known.records = records;
        self.policies.renewed(self.model.as_deref(), &model);
        self.model = Some(Arc::new(model));
    }

    /// What was planned last, with the policies of now, and enforces these. `None` where that is not all there is to do.
    fn plan_again(&mut self, problems: &mut Vec<Problem>) -> Option<Plan> {
        let model = self.model.clone()?;
        // What went wrong beside the policies is to be tried again, with everything else.
        let mut plan = self.known.plan.take().filter(|_| self.reported.is_empty())?;
        let slots = apply::slots::assign(&plan.endpoints, self.known.maps.endpoints(&self.datapath.maps).ok()?);
        self.policies.plan(&model, &self.config.node_name, &slots, &mut plan);
        problems.extend(plan.problems.iter().cloned());
        problems.extend(apply::apply(&plan, &self.datapath.maps, &mut self.known.maps, Depth::Changes));
        self.policies.applied(self.known.maps.has_policies());
        self.show(&model, &plan);
        self.in_force = in_force(&plan, &self.known.attached);
        Some(plan)
    }

    /// Whoever asks is told of this from now on.
    fn show(&self, model: &Arc<Model>, plan: &Plan) {
        let seen = View::new(self.config.node_name.clone(), Arc::clone(model), Arc::clone(&plan.policy));
        self.view.send_replace(Some(Arc::new(seen)));
    }

    /// Plans, and makes the kernel what was planned. `None` while nothing is known of the cluster.
    async fn enforce(
        &mut self,
        depth: Depth,
        fresh: &BTreeSet<String>,
        problems: &mut Vec<Problem>,
    ) -> Result<Option<Plan>> {
        let Some(model) = self.model.clone() else {
            problems.push(Problem::new(
                "input",
                "nothing is known of the cluster yet: what was in force stays in force",
                "see the other problems; without any, wait until the source has been read for the first time",
            ));
            return Ok(None);
        };
        let options = options(&self.config, self.datapath.features());
        // Not kept if anything fails from here on: the hints are taken, and the next pass has to look at everything.
        let before = self.known.view.take().filter(|_| depth == Depth::Changes);
        let hint = self.hints.take();
        match &before {
            Some(before) => self.known.routes.consider(&hint, before),
            None => self.known.routes.forget(),
        }
        let known: BTreeSet<u32> = before.iter().flat_map(|view| view.interfaces.keys().copied()).collect();
        let mut view = self.host.view(before, &hint, fresh).await?;
        let mut plan = plan::plan(&model, &view, &options);
        let mended =
            self.known.overlay.take().filter(|mended| !known.is_empty() && is_as_mended(mended, &hint, &plan, &view));
        if mended.is_some() {
            self.known.overlay = mended;
        } else if let Some(overlay) = &plan.overlay {
            // Without the device pods of one node still reach each other: what fails is reported, the rest goes on.
            match self.host.ensure_overlay(overlay).await {
                Ok(true) => {
                    // Looked at again by the next pass, which its own changes bring about.
                    view = self.host.view(None, &hint, fresh).await?;
                    plan = plan::plan(&model, &view, &options);
                }
                Ok(false) => self.known.overlay = overlay_index(&view).map(|index| (overlay.clone(), index)),
                Err(e) => problems.push(host_problem("the overlay device", &e)),
            }
        }
        let slots = apply::slots::assign(&plan.endpoints, self.known.maps.endpoints(&self.datapath.maps)?);
        self.policies.plan(&model, &self.config.node_name, &slots, &mut plan);
        self.services.plan(&model, &self.config.node_name, &mut plan);
        problems.extend(plan.problems.iter().cloned());
        let applied = apply::apply(&plan, &self.datapath.maps, &mut self.known.maps, depth);
        self.policies.applied(self.known.maps.has_policies());
        self.show(&model, &plan);
        self.services.write_titles(&self.state)?;
        problems.extend(applied);
        self.attach(&plan, depth, problems)?;
        self.set_sysctls(&plan, &view, &known, problems)?;
        let own = &mut self.known.routes;
        if let Err(e) = self.host.ensure_routes(&plan.host_routes, overlay_index(&view), own).await {
            problems.push(host_problem("the host's routes", &e));
        }
        if let Err(e) = self.table.ensure(plan.nat.as_ref(), depth).await {
            problems.push(Problem::new(format!("nftables table {TABLE}"), e.to_string(), e.remedy()));
        }
        self.in_force = in_force(&plan, &self.known.attached);
        self.readiness.send_replace(Readiness { ready: true, mtu: plan.config.overlay_mtu });
        problems.extend(self.sweep(&view));
        self.known.view = Some(view);
        Ok(Some(plan))
    }

    /// What no DEL has come through for is taken back. The records were read before the interfaces were, and a record is
    /// made after its interface.
    fn sweep(&mut self, view: &HostView) -> Option<Problem> {
        let interfaces = view.interfaces.values().map(|interface| interface.name.as_str()).collect();
        self.sweeper.look(&self.known.records, &interfaces, tokio::time::Instant::now())
    }

    /// Programs where they belong; another build's pins go once nothing uses them.
    fn attach(&mut self, plan: &Plan, depth: Depth, problems: &mut Vec<Problem>) -> Result<()> {
        let failed = self.datapath.attach(&plan.attachments, &mut self.known.attached, depth);
        if failed.is_empty() {
            self.datapath.pins().remove_others()?;
        }
        let remedy = "see the agent's log; it tries again";
        problems.extend(failed.iter().map(|e| Problem::new("datapath", format!("{e:#}"), remedy)));
        self.known.attachments.clone_from(&plan.attachments);
        Ok(())
    }

    /// Settings of the kernel: all of them if no interface is `known` from before, else those that are new or of a new interface.
    fn set_sysctls(
        &mut self,
        plan: &Plan,
        view: &HostView,
        known: &BTreeSet<u32>,
        problems: &mut Vec<Problem>,
    ) -> Result<()> {
        let new = view.interfaces.iter().filter(|(index, _)| !known.contains(index));
        let new: Vec<String> = new.map(|(_, interface)| format!("/conf/{}/", interface.name)).collect();
        let done = |name: &str, value: &str| {
            !known.is_empty()
                && self.known.sysctls.get(name).is_some_and(|known| known == value)
                && !new.iter().any(|part| name.contains(part))
        };
        let todo = plan.sysctls.iter().filter(|(name, value)| !done(name, value));
        let todo = todo.map(|(n, v)| (n.clone(), v.clone())).collect();
        let (refused, set) = sysctl::ensure(&self.config.proc_sys, &todo);
        self.known.sysctls = if refused.is_empty() { plan.sysctls.clone() } else { BTreeMap::new() };
        problems.extend(refused);
        // Those of pods' interfaces go with them.
        let lasting = set.into_iter().filter(|(name, _)| !name.contains(WORKLOAD_PREFIX)).collect();
        self.state.remember_sysctls(&lasting)?;
        Ok(())
    }
}

/// Who gives addresses to pods: Margay itself where the API can be written to. There the overlay gets one as well, as
/// Calico's nodes expect of each other; that may take its time.
fn address_manager(config: &AgentConfig) -> Box<dyn AddressManager> {
    match &config.source {
        SourceConfig::Directories(_) => Box::new(NoAddresses),
        SourceConfig::Kubernetes(api) => {
            let addresses = Arc::new(KubeAddresses::new(api.clone(), config.node_name.clone()));
            tokio::spawn(keep_asking_for_tunnel_address(Arc::clone(&addresses)));
            Box::new(addresses)
        }
    }
}

/// The longest time between two tries to get an address for the overlay.
const TUNNEL_ADDRESS_PAUSE: Duration = Duration::from_secs(60);

async fn keep_asking_for_tunnel_address(addresses: Arc<KubeAddresses>) {
    let mut pause = Duration::from_secs(1);
    loop {
        match addresses.tunnel_address().await {
            Ok(address) => return debug!(%address, "the overlay has its address"),
            // Without one the node's own address is the source of what it sends to pods: nothing is broken.
            Err(e) => debug!("no address for the overlay yet: {e}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(TUNNEL_ADDRESS_PAUSE);
    }
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

/// Whether the overlay device is what it was when nothing about it had to be mended, and what is wanted.
fn is_as_mended((device, index): &(OverlayDevice, u32), hint: &Hint, plan: &Plan, view: &HostView) -> bool {
    plan.overlay.as_ref() == Some(device) && !hint.concerns(*index) && overlay_index(view) == Some(*index)
}

fn overlay_index(view: &HostView) -> Option<u32> {
    let mut interfaces = view.interfaces.iter();
    interfaces.find(|(_, i)| i.name == margay_maps::overlay::DEVICE).map(|(index, _)| *index)
}

fn host_problem(object: &str, error: &HostError) -> Problem {
    Problem::new(object, error.to_string(), "see the agent's log; it tries again")
}

/// The interfaces that have both an address in the maps and all of their programs.
fn in_force(plan: &Plan, attached: &Known) -> BTreeSet<String> {
    let with_address: BTreeSet<u32> = plan.endpoints.values().map(|e| e.ifindex).collect();
    let complete = |a: &&Attachment| {
        with_address.contains(&a.ifindex)
            && a.role.hooks().iter().all(|(hook, _)| attached.contains_key(&(a.ifindex, *hook)))
    };
    plan.attachments.iter().filter(complete).map(|a| a.name.clone()).collect()
}
