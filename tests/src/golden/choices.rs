//! Choices of backends, which chance makes: what many packets show, and no single one.
//!
//! In: a loaded datapath in the golden world. Out: what was wrong. Never: a Service, flow or time that is left behind.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use aya::{TestRun as _, programs::TestRunOptions};
use margay_loader::datapath::Datapath;
use margay_maps::{
    Addr, Backend, BackendKey, Clock, FlowKey, Hook, Id, Member, Service, ServiceKey, protocol::UDP, user::Maps,
};

use super::{
    policies::clear,
    transport::datagram,
    world::{NEIGHBOUR, POD, REMOTE, WORLD},
};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);
const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8_080;
const BACKENDS: [Ipv4Addr; 3] = [REMOTE, NEIGHBOUR, WORLD];
const SET: Id = Id { bytes: [7; 8] };
/// For how long a client keeps its backend, in seconds.
const KEPT: u32 = 10;
/// So many conversations: that three backends, or two, are not all chosen comes about once in 2^40.
const TRIES: u16 = 64;

/// Whether all backends are chosen, one for each client where that is asked for, and no longer than was asked for.
///
/// # Errors
/// They are not, or a map refused.
pub fn check(datapath: &mut Datapath) -> Result<()> {
    let result = all(datapath);
    let maps = &datapath.maps;
    maps.services.remove(&key())?;
    clear(&maps.backends)?;
    clear(&maps.members)?;
    clear(&maps.flows)?;
    clear(&maps.affinity)?;
    maps.clock.insert(&0, &Clock::default())?;
    result
}

fn all(datapath: &mut Datapath) -> Result<()> {
    let all: BTreeSet<_> = BACKENDS.into();
    for (index, backend) in BACKENDS.into_iter().enumerate() {
        let backend = in_map(backend);
        datapath.maps.backends.insert(&BackendKey { set: SET, index: index as u32 }, &backend)?;
        datapath.maps.members.insert(&Member { set: SET, backend }, &(index as u32))?;
    }
    write(&datapath.maps, 0)?;
    let chosen = ask(datapath, 0)?;
    ensure!(chosen == all, "without affinity {chosen:?} were chosen");

    write(&datapath.maps, KEPT)?;
    let chosen = ask(datapath, KEPT - 1)?;
    ensure!(chosen.len() == 1, "a client that comes back in time was led to {chosen:?}");
    let chosen = ask(datapath, KEPT)?;
    ensure!(chosen == all, "clients that come back too late were led to {chosen:?}");
    Ok(())
}

fn in_map(backend: Ipv4Addr) -> Backend {
    Backend { addr: backend.into(), port_be: BACKEND_PORT.to_be_bytes(), pad: [0; 2] }
}

fn key() -> ServiceKey {
    ServiceKey { addr: Addr::from(SERVICE), port_be: PORT.to_be_bytes(), protocol: UDP, pad: 0 }
}

fn write(maps: &Maps, affinity_secs: u32) -> Result<()> {
    clear(&maps.affinity)?;
    Ok(maps.services.insert(&key(), &Service { set: SET, count: 3, affinity_secs, ..Service::default() })?)
}

/// Whom the pod is led to, from other ports each time, so many seconds apart.
fn ask(datapath: &mut Datapath, every: u32) -> Result<BTreeSet<Ipv4Addr>> {
    let mut chosen = BTreeSet::new();
    clear(&datapath.maps.flows)?;
    for port in 20_000..20_000 + TRIES {
        let seconds = datapath.maps.clock.get(&0)?.unwrap_or_default().seconds + every;
        datapath.maps.clock.insert(&0, &Clock { seconds })?;
        let packet = datagram((POD, port), (SERVICE, PORT)).from_pod();
        let mut options = TestRunOptions::new();
        options.data_in = Some(&packet);
        datapath.program(Hook::FromWorkload)?.test_run(options).context("running the program")?;
        let flow = FlowKey::between((POD.into(), port), (SERVICE.into(), PORT), UDP);
        let flow = datapath.maps.flows.get(&flow)?.with_context(|| format!("nothing was chosen for port {port}"))?;
        chosen.insert(flow.nat_v4.into());
    }
    Ok(chosen)
}
