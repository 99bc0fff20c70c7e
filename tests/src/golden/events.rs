//! What the programs tell of the golden packets, beside what became of them; and that a flood of drops is told of in part, with
//! the rest counted.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{TestRun as _, programs::TestRunOptions};
use margay_loader::{
    datapath::Datapath,
    events::ring::{Ring, announce, boot_time},
};
use margay_maps::{DropReason, Event, EventCounts, EventKind, FlowVerdict, Hook, protocol::UDP};

use super::{
    Case,
    packet::{ETHER_TYPE, IP, OVERHEAD, udp},
    services,
    world::{NEIGHBOUR, NOBODY},
};

/// Longer than all cases take.
const LEASE: Duration = Duration::from_secs(600);

/// Reads along.
pub struct Listener {
    ring: Ring,
    flows: usize,
}

// === impl Listener ===

impl Listener {
    /// From here on the programs tell.
    pub fn new(datapath: &Datapath) -> Result<Self> {
        let ring = Ring::open(datapath.pins().dir()).context("opening the ring buffer")?;
        announce(&datapath.maps, LEASE)?;
        Ok(Self { ring, flows: 0 })
    }

    fn all(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.ring.read()).collect()
    }

    /// A drop is told of once, with its reason and the packet's ends; what passes at most as a new flow.
    pub fn check(&mut self, case: &Case, reason: Option<DropReason>) -> Result<()> {
        let now = boot_time()?.as_nanos() as u64;
        let events = self.all();
        let drops: Vec<&Event> = events.iter().filter(|event| event.kind == EventKind::Drop).collect();
        let reasons: Vec<_> = drops.iter().filter_map(|event| event.drop_reason()).collect();
        ensure!(reasons.as_slice() == reason.as_slice(), "told of {reasons:?} instead of {reason:?}");
        let flows = events.len() - drops.len();
        ensure!(flows <= 1, "told of {flows} flows");
        self.flows += flows;
        for event in &events {
            ensure!(event.time_ns <= now && now - event.time_ns < LEASE.as_nanos() as u64, "the time is wrong");
            let ends = (IpAddr::from(event.src), IpAddr::from(event.dst));
            if let Some(expected) = ends_of(case, reason) {
                let expected = if event.kind == EventKind::Flow { services::flow_ends(expected) } else { expected };
                ensure!(ends == expected, "told of {ends:?} instead of {expected:?}");
            }
            match event.kind {
                EventKind::Drop => {
                    ensure!(event.drop_hook() == Some(case.hook), "told of hook {}", event.hook);
                    ensure!(event.bytes as usize == case.packet.len(), "told of {} bytes", event.bytes);
                }
                EventKind::Flow => ensure!(event.verdict == FlowVerdict::Allowed, "a flow that is not allowed"),
            }
        }
        Ok(())
    }

    /// The flows that the cases open, and then silence: who reads no more is told nothing, and loses nothing.
    pub fn finish(mut self, datapath: &mut Datapath) -> Result<()> {
        ensure!(self.flows >= 10, "told of {} flows only", self.flows);
        ensure!(datapath.maps.lost_events()? == 0, "events were lost");
        // A window that no case has used.
        std::thread::sleep(Duration::from_nanos(EventCounts::WINDOW_NS));
        let packets = 4 * EventCounts::MAX_DROPS;
        flood(datapath, packets)?;
        let told = self.all();
        ensure!(
            told.iter().all(|event| event.protocol == UDP && event.dst_port_be == 7_u16.to_be_bytes()),
            "the ports"
        );
        let lost = datapath.maps.lost_events()?;
        let told = told.len() as u64;
        ensure!(told >= u64::from(EventCounts::MAX_DROPS), "of a flood {told} were told of");
        ensure!(lost > 0 && told + lost == u64::from(packets), "{told} told of, {lost} lost");
        announce(&datapath.maps, Duration::ZERO)?;
        flood(datapath, 1)?;
        announce(&datapath.maps, Duration::from_nanos(1))?;
        flood(datapath, 1)?;
        ensure!(self.all().is_empty(), "events although nobody reads");
        ensure!(datapath.maps.lost_events()? == lost, "lost events although nobody reads");
        Ok(())
    }
}

/// The ends as they stand in the packet that the verdict is about; `None` where it has none, or is damaged.
fn ends_of(case: &Case, reason: Option<DropReason>) -> Option<(IpAddr, IpAddr)> {
    let inside = case.hook == Hook::FromUplink && reason != Some(DropReason::UnknownNode);
    let eth = if inside { OVERHEAD } else { 0 };
    let frame = case.packet.get(eth..)?;
    let is_ipv4 = frame.get(ETHER_TYPE..IP)? == [0x08, 0x00];
    let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(IP + at..IP + at + 4)?).ok()?));
    if is_ipv4 { Some((address(12)?, address(16)?)) } else { None }
}

/// Packets that are all dropped.
fn flood(datapath: &mut Datapath, packets: u32) -> Result<()> {
    let packet = udp(NEIGHBOUR, NOBODY, 64, 7, 8);
    let mut options = TestRunOptions::new();
    options.data_in = Some(&packet);
    options.repeat = packets;
    datapath.program(Hook::FromWorkload)?.test_run(options).context("running the program")?;
    Ok(())
}
