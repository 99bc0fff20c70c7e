//! `/healthz`, `/readyz` and `/metrics`, on one port.
//!
//! In: the agent's status after each pass, and at each request the counters in the maps. Out: answers to GET. Never: an answer
//! that waits for the agent's loop, or one that lets a supervisor kill an agent because the API server is away: while
//! it can do nothing better, the last state stays in force.
//!
//! | path | 200 while | otherwise |
//! |---|---|---|
//! | `/healthz` | passes come to their end | 503: the loop hangs, a restart may help |
//! | `/readyz` | the last pass has put the cluster's state in force | 503, with what is wrong |
//! | `/metrics` | there is a datapath | 500; text as Prometheus reads it, version 0.0.4 |

mod metrics;
mod server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use self::metrics::{Counters, Histogram};
use crate::datapath::pins::PinDir;
use crate::problem::Problem;
use crate::state::Status;

/// What the agent and the server share.
#[derive(Clone, Debug)]
pub struct Health {
    shared: Arc<Mutex<Shared>>,
    /// A pass that takes longer than this hangs.
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    /// When the last pass ended, or the agent started.
    last: Instant,
    passes: Option<Passes>,
    /// Why nobody can ask, if so.
    deaf: Option<Problem>,
}

/// What there is to say after a pass.
#[derive(Clone, Debug)]
struct Passes {
    status: Status,
    took: Histogram,
    changes: Histogram,
    as_of: Option<SystemTime>,
}

/// How long something took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// The pass, until everything was in force.
    pub pass: Duration,
    /// Until then from the moment when the source had heard of the first change that the pass took in, if it took any in.
    pub change: Option<Duration>,
}

/// A pass that takes so many times the resync interval hangs.
const HANGS_AFTER_RESYNCS: u32 = 10;
/// But none that takes less than this: the first one, on a slow machine with much to attach.
const HANGS_AFTER: Duration = Duration::from_secs(120);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: String,
}

// === impl Health ===

impl Health {
    /// Of an agent that begins a pass at least every `resync`.
    pub fn new(resync: Duration) -> Self {
        let shared = Shared { last: Instant::now(), passes: None, deaf: None };
        Self { shared: Arc::new(Mutex::new(shared)), patience: HANGS_AFTER.max(resync * HANGS_AFTER_RESYNCS) }
    }

    /// Starts to answer requests at `address`, with the counters pinned in `pins`. An address that is taken is tried
    /// again and again, and is a [`problem`](Self::problem) until then.
    ///
    /// Must be called within a tokio runtime with time and I/O.
    pub fn serve(&self, address: SocketAddr, pins: PinDir) {
        tokio::spawn(server::run(address, self.clone(), pins));
    }

    /// A pass has come to its end: what the agent says of itself, how long it took, and when what it knows was last known
    /// to be the state of the cluster.
    pub fn passed(&self, status: Status, took: Took, as_of: Option<SystemTime>) {
        let mut shared = self.shared();
        shared.last = Instant::now();
        let before = shared.passes.take().map(|passes| (passes.took, passes.changes));
        let (mut passes, mut changes) = before.unwrap_or_default();
        passes.add(took.pass);
        if let Some(change) = took.change {
            changes.add(change);
        }
        shared.passes = Some(Passes { status, took: passes, changes, as_of });
    }

    /// Why nobody can ask, if so.
    pub fn problem(&self) -> Option<Problem> {
        self.shared().deaf.clone()
    }

    fn set_problem(&self, problem: Option<Problem>) {
        self.shared().deaf = problem;
    }

    fn alive(&self, now: Instant) -> Answer {
        let age = now.saturating_duration_since(self.shared().last);
        if age > self.patience {
            return Answer::unavailable(format!("no pass has come to its end for {} s", age.as_secs()));
        }
        Answer::ok("ok")
    }

    fn ready(&self) -> Answer {
        let shared = self.shared();
        match &shared.passes {
            None => Answer::unavailable("no pass has come to its end yet"),
            Some(passes) if passes.status.ready => Answer::ok("ok"),
            Some(passes) => {
                let problems: Vec<_> = passes.status.problems.iter().map(ToString::to_string).collect();
                Answer::unavailable(format!("the cluster's state is not in force\n{}", problems.join("\n")))
            }
        }
    }

    fn metrics(&self, counters: Result<&Counters, String>, now: SystemTime) -> Answer {
        let passes = self.shared().passes.clone();
        match counters {
            Ok(counters) => Answer { status: 200, body: metrics::text(passes.as_ref(), counters, now) },
            Err(error) => Answer { status: 500, body: format!("{error}\n") },
        }
    }

    /// A task that panicked has changed one field or none.
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Answer ===

impl Answer {
    fn ok(body: impl Into<String>) -> Self {
        Self { status: 200, body: body.into() + "\n" }
    }

    fn unavailable(body: impl Into<String>) -> Self {
        Self { status: 503, body: body.into() + "\n" }
    }
}
