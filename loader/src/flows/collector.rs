//! The thread that tells the programs the time and takes out flows that are over.
//!
//! In: the maps. Out: the map `clock`, each second; fewer entries in `flows`. Never: more than a batch of the table at once, nor
//! anything that the agent's loop waits for.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use margay_maps::{
    Clock,
    layout::MAX_FLOWS,
    user::{BATCH, HandleError, Maps},
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
    let (mut ticks, mut kept) = (0_u32, 0);
    loop {
        thread::sleep(TICK);
        ticks = ticks.wrapping_add(1);
        let worked = tick(maps).and_then(|now| {
            let pressure = kept >= PRESSURE;
            if pressure || ticks.is_multiple_of(SWEEP_EVERY) {
                let timeouts = if pressure { timeouts.under_pressure() } else { timeouts };
                kept = sweep(maps, timeouts, now, since)?;
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

/// Looks at every entry once, removes those that are over, and says how many it has kept.
fn sweep(maps: &Maps, timeouts: Timeouts, now: u32, since: u32) -> Result<usize, HandleError> {
    let began = Instant::now();
    let (mut kept, mut removed, mut from) = (0, 0, None);
    loop {
        let batch = maps.flows.batch(from, BATCH)?;
        for (key, flow) in &batch.entries {
            if timeouts.is_over(key, flow, now, since) {
                maps.flows.remove(key)?;
                removed += 1;
            } else {
                kept += 1;
            }
        }
        from = batch.next;
        if from.is_none() {
            break;
        }
    }
    if removed > 0 {
        debug!(kept, removed, took = ?began.elapsed(), "flows that were over are gone");
    }
    Ok(kept)
}
