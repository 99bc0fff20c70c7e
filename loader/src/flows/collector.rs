//! The thread that tells the programs the time and takes out flows that are over.
//!
//! In: the maps. Out: the map `clock`, each second; fewer entries in `flows`. Never: more than a step of the table at once
//! ([`BATCH`] entries), nor anything that the agent's loop waits for.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use margay_maps::{
    Clock, Flow, FlowKey, FlowVerdict,
    layout::MAX_FLOWS,
    user::{BATCH, Batch, HandleError, MapHandle, Maps},
};
use nix::time::{ClockId, clock_gettime};
use tracing::{debug, warn};

use super::Timeouts;

/// How often the clock ticks.
const TICK: Duration = Duration::from_secs(1);
/// How many ticks from one look at the whole table to the next; under pressure each tick is one.
const SWEEP_EVERY: u32 = 5;
/// From how many entries on there is pressure: three quarters.
const PRESSURE: usize = MAX_FLOWS as usize / 4 * 3;

/// Starts the thread. It ends with the process.
///
/// # Errors
/// The maps below `pins` cannot be opened, or there can be no thread.
pub fn start(pins: PathBuf, timeouts: Timeouts) -> Result<()> {
    let maps = Maps::open(&pins).context("opening the maps for the flows")?;
    let since = tick(&maps)?;
    thread::Builder::new().name("flows".to_owned()).spawn(move || run(&maps, timeouts, since)).map(drop)?;
    Ok(())
}

fn run(maps: &Maps, timeouts: Timeouts, since: u32) {
    let (mut ticks, mut found) = (0_u32, 0);
    loop {
        thread::sleep(TICK);
        ticks = ticks.wrapping_add(1);
        let worked = tick(maps).and_then(|now| {
            let pressure = found >= PRESSURE;
            if pressure || ticks.is_multiple_of(SWEEP_EVERY) {
                let timeouts = if pressure { timeouts.under_pressure() } else { timeouts };
                let Step { kept, removed, .. } = sweep(&maps.flows, Rule { timeouts, now, since })?;
                // Also what is gone counts: while somebody floods the table it is full again at once.
                found = kept + removed;
            }
            Ok(())
        });
        if let Err(error) = worked {
            warn!("the flow table: {error:#}; it is tried again");
        }
    }
}

/// Sets the clock, and says what it shows.
fn tick(maps: &Maps) -> Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).context("reading the clock")?;
    let seconds = u32::try_from(now.tv_sec()).context("seconds since boot")?;
    maps.clock.insert(&0, &Clock { seconds })?;
    Ok(seconds)
}

/// What the collector does with the flow table.
trait Table {
    fn batch(&self, from: Option<u32>, count: u32) -> Result<Batch<FlowKey, Flow>, HandleError>;
    fn get(&self, key: &FlowKey) -> Result<Option<Flow>, HandleError>;
    fn remove(&self, keys: &[FlowKey]) -> Result<(), HandleError>;
}

// === impl MapHandle ===

impl Table for MapHandle<FlowKey, Flow> {
    fn batch(&self, from: Option<u32>, count: u32) -> Result<Batch<FlowKey, Flow>, HandleError> {
        self.batch(from, count)
    }

    fn get(&self, key: &FlowKey) -> Result<Option<Flow>, HandleError> {
        self.get(key)
    }

    fn remove(&self, keys: &[FlowKey]) -> Result<(), HandleError> {
        self.remove_all(keys)
    }
}

/// Which entries stay.
#[derive(Clone, Copy)]
struct Rule {
    timeouts: Timeouts,
    now: u32,
    since: u32,
}

/// What became of the entries of one step, or of all.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    kept: usize,
    removed: usize,
    /// Where the next one begins; `None` at the end.
    next: Option<u32>,
}

/// Whether an entry leads to a flow that still is: for a while only that one's answers may have come.
fn is_needed(table: &impl Table, key: &FlowKey, flow: &Flow) -> Result<bool, HandleError> {
    let Some(target) = flow.leads_to(key) else { return Ok(false) };
    Ok(table.get(&target)?.is_some_and(|flow| flow.verdict == FlowVerdict::Allowed))
}

/// Looks at every entry once, step by step, removes those that are over, and says how many there were of both.
fn sweep(table: &impl Table, rule: Rule) -> Result<Step, HandleError> {
    let began = Instant::now();
    let mut all = step(table, rule, None)?;
    while all.next.is_some() {
        let Step { kept, removed, next } = step(table, rule, all.next)?;
        all = Step { kept: all.kept + kept, removed: all.removed + removed, next };
    }
    let Step { kept, removed, .. } = all;
    if removed > 0 {
        debug!(kept, removed, took = ?began.elapsed(), "flows that were over are gone");
    }
    Ok(all)
}

/// Looks at no more than [`BATCH`] entries, however full the table is.
fn step(table: &impl Table, rule: Rule, from: Option<u32>) -> Result<Step, HandleError> {
    let Rule { timeouts, now, since } = rule;
    let batch = table.batch(from, BATCH)?;
    let mut over = Vec::new();
    for (key, flow) in &batch.entries {
        if timeouts.is_over(key, flow, now, since) && !is_needed(table, key, flow)? {
            over.push(*key);
        }
    }
    table.remove(&over)?;
    Ok(Step { kept: batch.entries.len() - over.len(), removed: over.len(), next: batch.next })
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        collections::{BTreeMap, BTreeSet},
    };

    use margay_maps::{Addr, Half, Opener, protocol::TCP};

    use super::*;

    /// A table in the order of its keys; it notes what is asked of it.
    #[derive(Default)]
    struct Fake {
        entries: BTreeMap<FlowKey, Flow>,
        asked: RefCell<Vec<(Option<u32>, u32)>>,
        removed: RefCell<BTreeSet<FlowKey>>,
    }

    impl Fake {
        /// Every third flow is established, the others were never answered.
        fn with(flows: u32) -> Self {
            let entries = (0..flows).map(|number| (key(number), flow(number.is_multiple_of(3))));
            Self { entries: entries.collect(), ..Self::default() }
        }
    }

    impl Table for Fake {
        fn batch(&self, from: Option<u32>, count: u32) -> Result<Batch<FlowKey, Flow>, HandleError> {
            self.asked.borrow_mut().push((from, count));
            let first = from.unwrap_or_default() as usize;
            let entries: Vec<_> = self.entries.iter().skip(first).take(count as usize).map(|(k, f)| (*k, *f)).collect();
            let end = first + entries.len();
            Ok(Batch { entries, next: (end < self.entries.len()).then_some(end as u32) })
        }

        fn get(&self, key: &FlowKey) -> Result<Option<Flow>, HandleError> {
            Ok(self.entries.get(key).copied())
        }

        fn remove(&self, keys: &[FlowKey]) -> Result<(), HandleError> {
            self.removed.borrow_mut().extend(keys);
            Ok(())
        }
    }

    fn key(number: u32) -> FlowKey {
        let [a, b, c, d] = number.to_be_bytes();
        let (low, high) = (Addr::from_v4([10, 0, a, b]), Addr::from_v4([10, 1, 0, 1]));
        FlowKey::between((low, u16::from_be_bytes([c, d])), (high, 80), TCP)
    }

    #[test]
    fn what_leads_to_a_backend_stays_as_long_as_the_flow_to_it() {
        let client = (Addr::from_v4([10, 0, 0, 2]), 40_000);
        let (service, backend) = ((Addr::from_v4([10, 96, 0, 1]), 80), (Addr::from_v4([10, 0, 0, 3]), 8_080));
        let entry = FlowKey::between(client, service, TCP);
        let leads = Flow {
            verdict: FlowVerdict::Translated,
            opener: Opener::of_half(u32::from(entry.low() != client.0)),
            nat_v4: backend.0.v4(),
            nat_port_be: 8_080_u16.to_be_bytes(),
            ..Flow::default()
        };
        let target = FlowKey::between(client, backend, TCP);
        let both = Fake { entries: [(entry, leads), (target, flow(true))].into(), ..Fake::default() };
        let rule = Rule { timeouts: Timeouts::default(), now: 1_000, since: 0 };
        assert_eq!(sweep(&both, rule).unwrap(), Step { kept: 2, removed: 0, next: None });
        let alone = Fake { entries: [(entry, leads)].into(), ..Fake::default() };
        assert_eq!(sweep(&alone, rule).unwrap(), Step { kept: 0, removed: 1, next: None });
    }

    fn flow(established: bool) -> Flow {
        let half = |packets| Half { packets, last_seen: 100, ..Half::default() };
        Flow { halves: [half(1), half(established.into())], verdict: FlowVerdict::Allowed, ..Flow::default() }
    }

    fn under_pressure() -> Rule {
        Rule { timeouts: Timeouts::default().under_pressure(), now: 110, since: 0 }
    }

    #[test]
    fn a_full_table_is_swept_in_steps_of_one_size() {
        let table = Fake::with(MAX_FLOWS);
        let Step { kept, removed, .. } = sweep(&table, under_pressure()).unwrap();
        assert_eq!(kept, MAX_FLOWS.div_ceil(3) as usize, "what is established stays");
        assert_eq!(removed, MAX_FLOWS as usize - kept, "what was never answered goes");
        assert_eq!(table.removed.borrow().len(), removed);
        let asked = table.asked.borrow();
        assert_eq!(asked.len(), (MAX_FLOWS / BATCH) as usize);
        assert!(asked.iter().all(|(_, count)| *count == BATCH), "a step looked at more than its share");
        assert!(asked.windows(2).all(|two| two[0].0 < two[1].0), "steps go on where the one before ended");
    }

    #[test]
    fn a_step_touches_its_own_entries_alone() {
        let table = Fake::with(3 * BATCH);
        let step = step(&table, under_pressure(), Some(BATCH)).unwrap();
        assert_eq!(step.kept + step.removed, BATCH as usize);
        assert_eq!(step.next, Some(2 * BATCH));
        let range = key(BATCH)..key(2 * BATCH);
        assert!(table.removed.borrow().iter().all(|key| range.contains(key)));
    }
}
