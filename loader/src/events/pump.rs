//! The thread that reads events and passes them on to everybody who listens.
//!
//! In: the ring buffer, and the view of the last pass. Out: lines of JSON, to each listener the same. Never: a wait for a listener, whose
//! pace is its own: what it does not take in time is lost for it, and counted. While nobody listens the thread sleeps, and the
//! programs tell nothing.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use margay_maps::{Event, user::Maps};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{
    ring::{Ring, announce, boot_time},
    told::Teller,
};
use crate::view::{Watched, protocol::Reply};

/// How often the ring buffer is looked into: the programs wake nobody, which would cost more than the events.
const PERIOD: Duration = Duration::from_millis(20);
/// How long the programs go on telling when the agent has died.
const LEASE: Duration = Duration::from_secs(3);
/// How often that is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How many events are passed on at once, at most.
const BATCH: usize = 512;
/// How many such batches wait for a listener.
const WAITING: usize = 64;

/// Lines of JSON.
pub type Lines = Arc<[u8]>;

/// The way to the thread.
#[derive(Clone, Debug)]
pub struct Pump {
    new: Sender<Listener>,
}

/// Somebody who listens.
#[derive(Debug)]
struct Listener {
    lines: mpsc::Sender<Lines>,
    /// Told when it is listened for.
    ready: Option<oneshot::Sender<()>>,
    /// How many events it has lost and does not know of yet.
    lost: u64,
}

// === impl Pump ===

impl Pump {
    /// Starts the thread, which ends with the process.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start(pins: PathBuf, view: Watched) -> Result<Self> {
        let (new, listeners) = channel();
        let thread = thread::Builder::new().name("events".to_owned());
        thread.spawn(move || run(&pins, &view, &listeners)).context("starting the thread for events")?;
        Ok(Self { new })
    }

    /// From here on what happens comes out of the channel. It is closed when events cannot be read.
    pub async fn listen(&self) -> mpsc::Receiver<Lines> {
        let (lines, told) = mpsc::channel(WAITING);
        let (ready, listening) = oneshot::channel();
        // A thread that has ended closes both.
        drop(self.new.send(Listener { lines, ready: Some(ready), lost: 0 }));
        drop(listening.await);
        told
    }
}

fn run(pins: &Path, view: &Watched, new: &Receiver<Listener>) {
    while let Ok(first) = new.recv() {
        if let Err(e) = serve(pins, view, new, first) {
            warn!("events cannot be read: {e:#}");
        }
    }
}

/// As long as anybody listens.
fn serve(pins: &Path, view: &Watched, new: &Receiver<Listener>, first: Listener) -> Result<()> {
    let maps = Maps::open(pins)?;
    let mut ring = Ring::open(pins)?;
    // What was told to earlier listeners and never read.
    ring.skip();
    let mut lost = maps.lost_events()?;
    let mut listeners = vec![first];
    let mut renewed = Instant::now();
    announce(&maps, LEASE)?;
    while !listeners.is_empty() {
        for listener in &mut listeners {
            if let Some(ready) = listener.ready.take() {
                // Whoever has gone meanwhile does not want to know.
                let _gone = ready.send(());
            }
        }
        match new.recv_timeout(PERIOD) {
            Ok(listener) => listeners.push(listener),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if renewed.elapsed() >= RENEW_EVERY {
            announce(&maps, LEASE)?;
            renewed = Instant::now();
        }
        pass_on(&mut ring, view, &mut listeners)?;
        let now = maps.lost_events()?;
        let more = now.wrapping_sub(lost);
        lost = now;
        for listener in &mut listeners {
            listener.lost += more;
            listener.confess();
        }
        listeners.retain(|listener| !listener.lines.is_closed());
    }
    Ok(announce(&maps, Duration::ZERO)?)
}

/// Everything that is in the ring buffer.
fn pass_on(ring: &mut Ring, view: &Watched, listeners: &mut [Listener]) -> Result<()> {
    // In the middle of a pass there is no view: what happens waits in the ring buffer.
    let Some(view) = view.borrow().clone() else { return Ok(()) };
    let mut events = Vec::new();
    // As much as is there now: a flood must not keep the lease from being renewed.
    let until = boot_time()?.as_nanos() as u64;
    while let Some(event) = ring.read() {
        events.push(event);
        if event.time_ns > until {
            break;
        }
    }
    if events.is_empty() {
        return Ok(());
    }
    let mut teller = Teller::new(&view, boot_time()?);
    for batch in events.chunks(BATCH) {
        let lines: Lines = lines(&mut teller, batch).into();
        for listener in listeners.iter_mut() {
            listener.hear(&lines, batch.len());
        }
    }
    Ok(())
}

fn lines(teller: &mut Teller<'_>, events: &[Event]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(events.len() * 512);
    for event in events {
        let start = lines.len();
        let told = Reply::Told(Box::new(teller.tell(event)));
        match serde_json::to_writer(&mut lines, &told) {
            Ok(()) => lines.push(b'\n'),
            Err(_not_text) => lines.truncate(start),
        }
    }
    lines
}

// === impl Listener ===

impl Listener {
    fn hear(&mut self, lines: &Lines, events: usize) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.lines.try_send(Arc::clone(lines)) {
            self.lost += events as u64;
        }
    }

    /// Tells it how much it has missed.
    fn confess(&mut self) {
        if self.lost == 0 {
            return;
        }
        let Ok(mut line) = serde_json::to_vec(&Reply::Lost(self.lost)) else { return };
        line.push(b'\n');
        if self.lines.try_send(line.into()).is_ok() {
            self.lost = 0;
        }
    }
}
