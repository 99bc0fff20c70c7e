//! The reader's end of the ring buffer `events`, and the word to the programs that somebody reads.
//!
//! In: the pinned maps. Out: [`Event`]s, each once. Never: two readers: a ring buffer has one place that is read from, so whoever
//! opens it must be the only one (the agent, which holds its directory's lock).

use std::{path::Path, time::Duration};

use aya::maps::{Map, MapData, MapError, RingBuf};
use margay_maps::{
    Event, Readers,
    layout::EVENTS,
    user::{HandleError, Maps},
};
use nix::time::{ClockId, clock_gettime};

/// The events cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The map is not there, or is not ours.
    #[error("opening the map {name}: {source}", name = EVENTS.name)]
    Open {
        /// What was wrong.
        #[from]
        source: MapError,
    },
    /// The map beside it could not be written or read.
    #[error(transparent)]
    Map(#[from] HandleError),
    /// The kernel does not say the time.
    #[error("reading the clock: {0}")]
    Clock(#[from] nix::Error),
}

/// The open ring buffer.
pub struct Ring {
    ring: RingBuf<MapData>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

// === impl Ring ===

impl Ring {
    /// Opens what is pinned below `pins`.
    ///
    /// # Errors
    /// Nothing is, or it may not be mapped.
    pub fn open(pins: &Path) -> Result<Self, RingError> {
        let map = MapData::from_pin(pins.join(EVENTS.name))?;
        Ok(Self { ring: RingBuf::try_from(Map::RingBuf(map))? })
    }

    /// The oldest event that was not read yet. What is no event is passed over: something else wrote it.
    pub fn read(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            if let Some(event) = Event::from_record(&item) {
                return Some(event);
            }
        }
    }

    /// Forgets what was not read.
    pub fn skip(&mut self) {
        while self.ring.next().is_some() {}
    }
}

/// Tells the programs that somebody reads for so long from now on; for no time at all: that nobody does.
///
/// # Errors
/// The map `readers` cannot be written.
pub fn announce(maps: &Maps, patience: Duration) -> Result<(), RingError> {
    let until_ns = if patience.is_zero() { 0 } else { (boot_time()? + patience).as_nanos() as u64 };
    Ok(maps.readers.insert(&0, &Readers { until_ns })?)
}

/// Since boot, as the programs read it.
///
/// # Errors
/// The kernel does not say.
pub fn boot_time() -> Result<Duration, nix::Error> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}
