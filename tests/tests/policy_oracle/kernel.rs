//! One node of a generated cluster in the maps, and packets through its programs.

use std::{collections::BTreeMap, net::IpAddr, net::Ipv4Addr};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{TestRun as _, programs::TestRunOptions};
use etherparse::{IpNumber, PacketBuilder};
use margay_lab::oracle::{Cluster, Flow, Traffic};
use margay_loader::{
    apply::{self, Known},
    datapath::{Datapath, attach::Depth},
    model::Model,
    object::{
        Objects,
        parse::{Format, manifest},
    },
    plan::Plan,
    policy::{self, PolicyPlan},
};
use margay_maps::{
    Addr, Config, DropReason, Endpoint, EndpointKind, Hook, Mac, Node, PrefixKey, Route, RouteKind, overlay,
};

/// The interface that BPF_PROG_TEST_RUN takes for the packet's: the loopback device.
const TEST_IFINDEX: u32 = 1;
/// The pods' interfaces begin here.
const FIRST_IFINDEX: u32 = 100;
/// A node that is no node of the generated clusters: it sends and receives whatever is not of the node in question.
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// `TC_ACT_SHOT` (include/uapi/linux/pkt_cls.h).
const SHOT: u32 = 2;

/// The programs, and what the maps hold.
pub struct Kernel {
    datapath: Datapath,
    known: Known,
    /// Source ports, so that each packet is a flow of its own.
    port: u16,
}

/// What three said about a packet.
pub struct Judged<'a> {
    /// The packet.
    pub flow: &'a Flow,
    /// The oracle.
    pub expected: bool,
    /// The planner's tables.
    pub planner: bool,
    /// The programs.
    pub programs: bool,
}

/// Who is who on a node.
struct World {
    own: Ipv4Addr,
    /// The node's pods with their slots.
    pods: BTreeMap<Ipv4Addr, (String, u32)>,
    policy: PolicyPlan,
}

// === impl Kernel ===

impl Kernel {
    pub fn new(datapath: Datapath) -> Self {
        Self { datapath, known: Known::default(), port: 1_024 }
    }

    /// Judges those of the flows that this node has a say in.
    pub fn judge<'a>(&mut self, cluster: &Cluster, node: &str, flows: &'a [Flow]) -> Result<Vec<Judged<'a>>> {
        let mut objects = Objects::default();
        for object in manifest(&cluster.to_yaml()?, Format::Yaml)?.objects {
            objects.add(object);
        }
        let (model, problems) = Model::build(&objects, None);
        ensure!(problems.is_empty(), "the model has problems: {problems:?}");
        let world = World::new(&model, node)?;
        let plan = plan(&model, node, &world);
        let problems = apply::apply(&plan, &self.datapath.maps, &mut self.known, Depth::Changes);
        ensure!(problems.is_empty(), "applying: {problems:?}");
        let mut judged = Vec::new();
        for flow in flows {
            let (from, to) = (cluster.address_of(&flow.from)?, cluster.address_of(&flow.to)?);
            let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { bail!("{flow:?} is not IPv4") };
            let answer = cluster.ask(flow).map_err(|e| anyhow::anyhow!("{e}"))?;
            let (sends, receives) = (world.pods.contains_key(&from), world.pods.contains_key(&to));
            if !sends && !receives {
                continue;
            }
            let expected = (!sends || answer.egress.allowed()) && (!receives || answer.ingress.allowed());
            let planner = world.planner(from, to, flow.traffic);
            let programs = self.run(&world, from, to, flow.traffic).with_context(|| format!("{flow:?}"))?;
            judged.push(Judged { flow, expected, planner, programs });
        }
        for (key, _) in self.datapath.maps.flows.batch(None, 4_096)?.entries {
            self.datapath.maps.flows.remove(&key)?;
        }
        Ok(judged)
    }

    /// Whether the programs let the packet through.
    fn run(&mut self, world: &World, from: Ipv4Addr, to: Ipv4Addr, traffic: Traffic) -> Result<bool> {
        self.port = self.port.checked_add(1).unwrap_or(1_024);
        let inner = packet(from, to, traffic, self.port);
        let Some((_, slot)) = world.pods.get(&from) else {
            // To a pod here: from the node itself through its stack, from anybody else over the overlay.
            return if from == world.own {
                self.test_run(Hook::ToWorkload, &inner)
            } else {
                self.test_run(Hook::FromUplink, &vxlan(world.own, &inner))
            };
        };
        let endpoints = &self.datapath.maps.endpoints;
        let (key, slot) = (Addr::from(from), *slot);
        endpoints.insert(&key, &pod(TEST_IFINDEX, slot))?;
        let passed = self.test_run(Hook::FromWorkload, &inner);
        self.datapath.maps.endpoints.insert(&key, &pod(FIRST_IFINDEX + slot, slot))?;
        passed
    }

    fn test_run(&mut self, hook: Hook, packet: &[u8]) -> Result<bool> {
        let before = self.denials()?;
        let mut out = vec![0_u8; packet.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        let verdict = self.datapath.program(hook)?.test_run(options).context("running the program")?.return_value;
        let denied = self.denials()? - before;
        match (verdict, denied) {
            (SHOT, 1) => Ok(false),
            (verdict, 0) if verdict != SHOT => Ok(true),
            _ => bail!("{hook}: verdict {verdict} with {denied} denials"),
        }
    }

    fn denials(&self) -> Result<u64> {
        let maps = &self.datapath.maps;
        Ok(maps.drops(DropReason::EgressDenied)?.packets + maps.drops(DropReason::IngressDenied)?.packets)
    }
}

// === impl World ===

impl World {
    fn new(model: &Model, node: &str) -> Result<Self> {
        let own = model.nodes.get(node).context("the node is in the model")?;
        let own = v4(&own.addresses).next().context("the node has an address")?;
        let pods = model.pods_on(node).flat_map(|(name, pod)| v4(&pod.addresses).map(move |ip| (ip, name.to_string())));
        let pods = pods.zip(1..).map(|((ip, name), slot)| (ip, (name, slot))).collect();
        Ok(Self { own, pods, policy: policy::compile(model, node, None) })
    }

    /// What the planner's own tables say.
    fn planner(&self, from: Ipv4Addr, to: Ipv4Addr, traffic: Traffic) -> bool {
        let (protocol, port) = numbers(traffic);
        let tables = self.policy.tables();
        let directions = |ip| {
            let name = self.pods.get(&ip).map(|(name, _)| name);
            self.policy.enforcement.iter().find(|(pod, _)| Some(&pod.to_string()) == name).map(|(_, d)| *d)
        };
        let (sender, receiver) = (directions(from).unwrap_or_default(), directions(to).unwrap_or_default());
        let egress = tables.judge(sender.egress, to.into(), protocol, port).passes();
        let ingress = from == self.own || tables.judge(receiver.ingress, from.into(), protocol, port).passes();
        from == to || (egress && ingress)
    }
}

/// The node's maps, as the agent would fill them.
fn plan(model: &Model, node: &str, world: &World) -> Plan {
    let mut plan = Plan { policy: world.policy.clone().into(), ..Plan::default() };
    plan.config = Config {
        node: world.own.into(),
        overlay_ifindex: TEST_IFINDEX,
        overlay_mtu: 1_450,
        features: margay_maps::Features { bits: margay_maps::Features::OWN_DECAP },
        vni: overlay::VNI,
        port_be: overlay::PORT.to_be_bytes(),
        ..Config::default()
    };
    plan.nodes.insert(PEER.into(), Node::default());
    plan.endpoints.insert(world.own.into(), Endpoint { kind: EndpointKind::Host, ..Endpoint::default() });
    let remote = Route { kind: RouteKind::Remote, ifindex: TEST_IFINDEX, node: PEER.into(), ..Route::default() };
    for (name, of_pod) in &model.pods {
        for ip in v4(&of_pod.addresses) {
            match world.pods.get(&ip) {
                Some((_, slot)) => {
                    plan.endpoints.insert(ip.into(), pod(FIRST_IFINDEX + slot, *slot));
                    plan.pods.insert(FIRST_IFINDEX + slot, name.clone());
                }
                None => drop(plan.routes.insert(PrefixKey::host(ip.into()), remote)),
            }
        }
    }
    let others = model.nodes.iter().filter(|(name, _)| *name != node).flat_map(|(_, other)| v4(&other.addresses));
    plan.routes.extend(others.map(|ip| (PrefixKey::host(ip.into()), remote)));
    let slots = world.pods.values().map(|(_, slot)| (FIRST_IFINDEX + slot, *slot)).collect();
    plan.give_slots(&slots);
    plan.raise = slots.into_values().collect();
    plan
}

fn pod(ifindex: u32, slot: u32) -> Endpoint {
    Endpoint { kind: EndpointKind::Workload, ifindex, mac: Mac { bytes: [2; 6] }, slot, ..Endpoint::default() }
}

fn v4(addresses: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> {
    addresses.iter().filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    })
}

/// Protocol number and port.
fn numbers(traffic: Traffic) -> (u8, u16) {
    match traffic {
        Traffic::Tcp(port) => (6, port),
        Traffic::Udp(port) => (17, port),
        Traffic::Sctp(port) => (132, port),
        Traffic::Icmp => (1, 0),
    }
}

/// The first packet of such a flow.
fn packet(from: Ipv4Addr, to: Ipv4Addr, traffic: Traffic, src_port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], Mac::GATEWAY.bytes).ipv4(from.octets(), to.octets(), 64);
    let mut packet = Vec::new();
    let written = match traffic {
        Traffic::Tcp(port) => builder.tcp(src_port, port, 1, 64_000).syn().write(&mut packet, &[]),
        Traffic::Udp(port) => builder.udp(src_port, port).write(&mut packet, &[0; 8]),
        Traffic::Icmp => builder.icmpv4_echo_request(src_port, 1).write(&mut packet, &[0; 8]),
        Traffic::Sctp(port) => {
            let (from, to) = (src_port.to_be_bytes(), port.to_be_bytes());
            // Ports, verification tag, checksum, and an INIT chunk (RFC 9260, section 3.3.2) without parameters.
            let mut init = vec![from[0], from[1], to[0], to[1], 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20];
            init.extend([0; 16]);
            builder.write(&mut packet, IpNumber::SCTP, &init)
        }
    };
    written.expect("a Vec takes any packet");
    packet
}

/// From [`PEER`], in VXLAN.
fn vxlan(to: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = overlay::VNI.to_be_bytes();
    let mut payload = vec![0x08, 0, 0, 0, a, b, c, 0];
    payload.extend([0; 6]);
    payload.extend_from_slice(&inner[6..]);
    let builder = PacketBuilder::ethernet2([4; 6], [6; 6]).ipv4(PEER.octets(), to.octets(), 64);
    let mut packet = Vec::new();
    builder.udp(50_000, overlay::PORT).write(&mut packet, &payload).expect("a Vec takes any packet");
    packet
}
