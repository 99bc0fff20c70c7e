//! Takes back what [`Remains`] finds, beside the passes.
//!
//! In: what each pass has seen. Out: rounds of releases, one at a time, and problems for what cannot be taken back yet. Never:
//! a pass that waits for the API server, or a record that is forgotten before its addresses are back.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    records::{Record, Records},
    remains::Remains,
    server::Server,
};
use crate::problem::Problem;

/// The wait after a round that failed; it doubles with each.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest wait.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Everything that lives from pass to pass.
pub struct Sweeper {
    server: Arc<Server>,
    remains: Remains,
    /// The round under way.
    round: Option<JoinHandle<Option<Problem>>>,
    /// What ended the last round early.
    stuck: Option<Problem>,
    pause: Duration,
    not_before: Instant,
}

// === impl Sweeper ===

impl Sweeper {
    /// Has seen nothing yet.
    pub fn new(server: Arc<Server>) -> Self {
        Self { server, remains: Remains::default(), round: None, stuck: None, pause: PAUSE, not_before: Instant::now() }
    }

    /// Takes note of what a pass has seen: the records, then the interfaces that the kernel had. Says what could not be taken
    /// back so far.
    pub fn look(&mut self, records: &Records, interfaces: &BTreeSet<&str>, now: Instant) -> Option<Problem> {
        self.end_round(now);
        let is_called_about = |attachment: &_| self.server.is_called_about(attachment);
        let over = self.remains.look(records, |name| interfaces.contains(name), is_called_about, now);
        if over.is_empty() {
            self.stuck = None;
        } else if self.round.is_none() && now >= self.not_before {
            self.round = Some(tokio::spawn(round(Arc::clone(&self.server), over)));
        }
        self.stuck.clone()
    }

    fn end_round(&mut self, now: Instant) {
        let Some(ended) = self.round.take_if(|round| round.is_finished()) else { return };
        self.stuck = ended.now_or_never().and_then(Result::ok).flatten();
        if self.stuck.is_none() {
            self.pause = PAUSE;
        } else {
            self.not_before = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Ends with the first that fails: what keeps one keeps the others too.
async fn round(server: Arc<Server>, over: Vec<Record>) -> Option<Problem> {
    for record in over {
        if let Err(error) = server.take_back(&record).await {
            let what =
                format!("its sandbox {} is gone, and what it had is not back yet", record.attachment.container_id);
            return Some(Problem::new(format!("Pod {}", record.pod), what, error.to_string()));
        }
    }
    None
}
