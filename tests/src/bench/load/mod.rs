//! Loads: what a client and a server do to each other, and how much of it a second has room for.
//!
//! In: two places. Out: a [`Lane`], which runs the load for a slice of time when asked and counts. Never: traffic
//! between slices, or anything but blocking sockets, so that nothing but the network differs between two lanes.

mod crr;
mod rr;
mod stream;
mod udp;

use std::{
    io,
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use super::{report::Scope, seat::Seat, topology::Pair};

/// Servers listen on this port.
pub(super) const PORT: u16 = 5201;
/// What a slice runs and does not count first, so that caches, neighbours and congestion windows are warm.
const LEAD: Duration = Duration::from_millis(10);
/// How long a slice may take beyond its time.
const PATIENCE: Duration = Duration::from_secs(10);

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// One byte there and one byte back, on one connection.
    RequestResponse,
    /// A connection for each of them.
    ConnectRequestClose,
    /// As many bytes as fit, one way.
    Stream,
    /// Small packets, one way.
    Udp,
}

/// One side of a load, running on a thread of the client's namespace.
pub(super) trait Client: Send {
    /// Does the smallest whole thing; says how many units that was.
    fn step(&mut self) -> io::Result<u64>;

    /// Waits until everything that was sent has arrived.
    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a load runs.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// Whose network it is.
    pub contender: &'static str,
    /// Whether it leaves the node.
    pub scope: Scope,
    /// Who talks to whom.
    pub pair: Pair,
    /// On which CPU.
    pub seat: Seat,
}

/// A client and a server that wait to be asked for a slice. Dropping it ends both.
pub(super) struct Lane {
    what: String,
    ask: Sender<Duration>,
    answer: Receiver<Result<f64>>,
}

// === impl Load ===

impl Load {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 4] = [Self::RequestResponse, Self::ConnectRequestClose, Self::Stream, Self::Udp];

    /// As people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::RequestResponse => "TCP request/response",
            Self::ConnectRequestClose => "TCP connect/request/close",
            Self::Stream => "TCP stream",
            Self::Udp => "UDP packets",
        }
    }

    /// What is counted, and by how much the counted units are divided for people.
    pub fn unit(self) -> (&'static str, f64) {
        match self {
            Self::RequestResponse => ("transactions/s", 1.0),
            Self::ConnectRequestClose => ("connections/s", 1.0),
            Self::Stream => ("Gbit/s", 1e9 / 8.0),
            Self::Udp => ("packets/s", 1.0),
        }
    }

    /// Starts the server, and returns the client, connected. To be called on a thread of the client's namespace.
    fn open(self, ends: &Ends) -> Result<Box<dyn Client>> {
        Ok(match self {
            Self::RequestResponse => Box::new(rr::open(ends)?),
            Self::ConnectRequestClose => Box::new(crr::open(ends)?),
            Self::Stream => Box::new(stream::open(ends)?),
            Self::Udp => Box::new(udp::open(ends)?),
        })
    }
}

// === impl Lane ===

impl Lane {
    /// Starts client and server.
    pub fn open(load: Load, ends: &Ends) -> Result<Self> {
        let what = format!("contender {}, {}, {}", ends.contender, ends.scope.title(), load.title());
        let (ask, asked) = channel();
        let (tell, answer) = channel();
        let own = ends.clone();
        // Nobody joins it: it ends when `ask` is dropped, and the server with it.
        drop(ends.pair.client.namespace.spawn(move || {
            own.take_seat()?;
            let opened = load.open(&own);
            let ready = opened.as_ref().map(|_| 0.0).map_err(|e| anyhow!("{e:#}"));
            tell.send(ready).context("nobody waits for the lane")?;
            serve_slices(&mut *opened?, &asked, &tell);
            Ok(())
        }));
        let lane = Self { what, ask, answer };
        lane.wait(PATIENCE)?;
        Ok(lane)
    }

    /// Runs the load for `length`; returns units per second.
    pub fn slice(&self, length: Duration) -> Result<f64> {
        self.ask.send(length).map_err(|_| anyhow!("{}: the client has ended", self.what))?;
        self.wait(length + PATIENCE)
    }

    fn wait(&self, limit: Duration) -> Result<f64> {
        let answer = self.answer.recv_timeout(limit).with_context(|| format!("{}: no sign of life", self.what))?;
        answer.with_context(|| self.what.clone())
    }
}

/// Measures whenever asked.
fn serve_slices(client: &mut dyn Client, asked: &Receiver<Duration>, tell: &Sender<Result<f64>>) {
    for length in asked {
        let rate = measure(client, LEAD).and_then(|_warm| measure(client, length));
        if tell.send(rate.map_err(Into::into)).is_err() {
            return;
        }
    }
}

/// Units per second, from the first byte sent until the last has arrived.
fn measure(client: &mut dyn Client, length: Duration) -> io::Result<f64> {
    let began = Instant::now();
    let mut units = 0;
    while began.elapsed() < length {
        units += client.step()?;
    }
    client.settle()?;
    Ok(units as f64 / began.elapsed().as_secs_f64())
}

// === impl Ends ===

impl Ends {
    /// Moves the calling thread to the CPU, under the contender's name; with a star behind it on one node.
    fn take_seat(&self) -> Result<()> {
        let star = if self.scope == Scope::Same { "*" } else { "" };
        self.seat.take(&format!("{}{star}", self.contender))
    }

    /// Runs the server's side on a thread, which ends when the client's has.
    fn serve(&self, body: impl FnOnce() -> io::Result<()> + Send + 'static) {
        let own = self.clone();
        // Errors show on the client's side: it gets no answer.
        drop(std::thread::spawn(move || {
            own.take_seat().map_err(io::Error::other)?;
            body()
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten units a millisecond, and then it takes as long again until all have arrived.
    struct Slow {
        settled: bool,
    }

    impl Client for Slow {
        fn step(&mut self) -> io::Result<u64> {
            std::thread::sleep(Duration::from_millis(1));
            Ok(10)
        }

        fn settle(&mut self) -> io::Result<()> {
            std::thread::sleep(Duration::from_millis(20));
            self.settled = true;
            Ok(())
        }
    }

    #[test]
    fn the_time_until_all_has_arrived_counts() {
        let mut slow = Slow { settled: false };
        let rate = measure(&mut slow, Duration::from_millis(20)).unwrap();
        assert!(slow.settled);
        assert!(rate > 0.0 && rate <= 10.0 * 20.0 / 0.040, "{rate}");
    }
}
