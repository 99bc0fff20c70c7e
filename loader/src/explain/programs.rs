//! The programs a second time, over the same maps as those in force, but for the maps that programs write to: of these they have
//! their own.
//!
//! In: the pinned maps, a packet, and where it comes in. Out: a [`Run`]. Never: a packet on a wire, a change to anything that is pinned.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::Map,
    programs::{SchedClassifier, TestRunOptions},
};
use margay_maps::{
    Addr, Config, DropReason, Features, Flow, FlowKey, FlowVerdict, Hook, MAPS, MapSpec, Node, Outcome,
    layout::{AFFINITY, CONFIG, DROPS, EVENT_COUNTS, EVENTS, FLOWS, FRAGMENTS, NODES, READERS, TRAFFIC},
    user::{HandleError, Maps},
};

use crate::datapath::{OBJECT, pins::PinDir};

/// What programs write to. Whoever gives them another such map adds it here.
const WRITTEN: [&MapSpec; 8] = [&FLOWS, &FRAGMENTS, &AFFINITY, &TRAFFIC, &DROPS, &EVENTS, &READERS, &EVENT_COUNTS];

/// What the programs did with the packet.
#[derive(Clone, Debug)]
pub struct Run {
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was dropped, if it was.
    pub reason: Option<DropReason>,
    /// What the flow table would remember.
    pub flow: Option<(FlowKey, Flow)>,
}

/// Who sends an overlay packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A node of the cluster, as the map `nodes` has them.
    Known,
    /// This address, which stands for whatever the host's stack would forward.
    Assumed(Addr),
}

/// Gives `packet` to the program of `hook`. `ifindex`: the interface; 0: none that matters.
///
/// # Errors
/// The programs could not be loaded, or did not run.
pub fn run(pins: &PinDir, live: &Maps, hook: Hook, ifindex: u32, sender: Sender, packet: &[u8]) -> Result<Run> {
    let overlay = hook == Hook::FromUplink;
    let is_private = |spec: &MapSpec| {
        WRITTEN.iter().any(|written| written.name == spec.name)
            || (overlay && (spec.name == CONFIG.name || (spec.name == NODES.name && sender != Sender::Known)))
    };
    let mut loader = EbpfLoader::new();
    for spec in MAPS.iter().filter(|spec| !is_private(spec)) {
        loader.map_pin_path(spec.name, pins.map(spec));
    }
    // One packet needs no more; the ring buffer at least one page of any machine.
    for small in [&FLOWS, &FRAGMENTS, &AFFINITY] {
        loader.map_max_entries(small.name, 16);
    }
    loader.map_max_entries(EVENTS.name, 1 << 16);
    let mut ebpf = loader.load(OBJECT).context("loading the programs a second time")?;
    let maps = Maps::from_fds(|spec| fd_of(&ebpf, spec)).context("opening the maps of these programs")?;
    if overlay {
        let live = live.config.get(&0)?.unwrap_or_default();
        // Where the device takes headers off, the program judges what is inside all the same.
        let features = Features { bits: live.features.bits | Features::OWN_DECAP };
        maps.config.insert(&0, &Config { features, ..live })?;
        if let Sender::Assumed(node) = sender {
            maps.nodes.insert(&node, &Node::default())?;
        }
    }
    test_run(&mut ebpf, hook, ifindex, packet)?;
    found(&maps, hook)
}

/// A map of the loaded object.
fn fd_of(ebpf: &Ebpf, spec: &MapSpec) -> Result<OwnedFd, HandleError> {
    let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, "the object has no such map");
    let data = match ebpf.map(spec.name) {
        Some(
            Map::Array(data)
            | Map::HashMap(data)
            | Map::LpmTrie(data)
            | Map::LruHashMap(data)
            | Map::PerCpuArray(data)
            | Map::RingBuf(data),
        ) => Ok(data),
        _ => Err(missing()),
    };
    let fd = data.and_then(|data| data.fd().as_fd().try_clone_to_owned());
    fd.map_err(|source| HandleError::Open { name: spec.name, source })
}

/// The offset of `ifindex` in `struct __sk_buff` (include/uapi/linux/bpf.h); what is before it may be zero.
const IFINDEX: usize = 40;

fn test_run(ebpf: &mut Ebpf, hook: Hook, ifindex: u32, packet: &[u8]) -> Result<()> {
    let program = ebpf.program_mut(hook.name()).with_context(|| format!("the object has no program {hook}"))?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load().with_context(|| format!("loading the program {hook}"))?;
    let mut context = [0; IFINDEX + 4];
    context[IFINDEX..].copy_from_slice(&ifindex.to_ne_bytes());
    let mut out = vec![0; packet.len() + 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    options.data_out = Some(&mut out);
    options.ctx_in = (ifindex != 0).then_some(&context);
    program.test_run(options).with_context(|| format!("running the program {hook}"))?;
    Ok(())
}

fn found(maps: &Maps, hook: Hook) -> Result<Run> {
    let counted = |outcome: &Outcome| maps.traffic(hook, *outcome).is_ok_and(|counter| counter.packets > 0);
    let Some(outcome) = Outcome::ALL.into_iter().find(counted) else { bail!("the program {hook} counted no packet") };
    let reason = DropReason::ALL.iter().copied().find(|reason| maps.drops(*reason).is_ok_and(|c| c.packets > 0));
    // To a Service there are two entries: the flow is the one to the backend.
    let mut entries = maps.flows.batch(None, 16)?.entries.into_iter();
    let flow = entries.find(|(_, flow)| flow.verdict != FlowVerdict::Translated);
    Ok(Run { outcome, reason, flow })
}
