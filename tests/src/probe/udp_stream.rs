//! Datagrams with sequence numbers, one way, until told to stop. In: sender, receiver, rate. Out: what was lost, doubled or
//! out of order, and the longest silence. Never: a loss that is the receiver's own: its buffer is far larger than what is
//! on the way, and what overflows it all the same is told apart.

use std::{
    net::UdpSocket,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

use super::{is_timeout, udp::bind};
use crate::lab::Place;

/// Bytes of each datagram.
const SIZE: usize = 256;
/// Bytes that may wait at the receiver: more than a second at 100,000 datagrams a second.
const RECEIVE_BUFFER: usize = 64 << 20;
/// What has not arrived when nothing has for so long after the last was sent is lost. A busy machine can take its time.
const QUIET: Duration = Duration::from_secs(1);
/// How often a waiting receiver looks whether the sender has ended.
const LOOK: Duration = Duration::from_millis(20);
/// The number of datagrams that were sent, until it is known.
const UNKNOWN: u64 = u64::MAX;

/// What arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Datagrams that the sender handed to the kernel.
    pub sent: u64,
    /// Datagrams that the sender's kernel refused (no route, device down); not part of `sent`.
    pub refused: u64,
    /// Different ones that arrived.
    pub received: u64,
    /// Sent and never arrived.
    pub lost: u64,
    /// Arrived again.
    pub duplicated: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// The longest time between two arrivals.
    pub longest_gap: Duration,
}

/// A running stream.
#[derive(Debug)]
pub struct UdpStreamProbe {
    stop: Arc<AtomicBool>,
    sent_all: Arc<AtomicU64>,
    sender: JoinHandle<(u64, u64)>,
    receiver: JoinHandle<Result<Seen>>,
    names: String,
}

#[derive(Debug, Default)]
struct Seen {
    /// One bit for each sequence number.
    bits: Vec<u64>,
    received: u64,
    duplicated: u64,
    reordered: u64,
    highest: Option<u64>,
    last: Option<Instant>,
    longest_gap: Duration,
}

// === impl UdpStreamProbe ===

impl UdpStreamProbe {
    /// Starts to send `per_second` datagrams a second.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn start(from: &Place, to: &Place, per_second: u32) -> Result<Self> {
        let (receiver, address) = bind(&to.namespace, to.address.into(), LOOK)?;
        enlarge(&receiver).context("enlarging the receive buffer")?;
        let (sender, _) = bind(&from.namespace, from.address.into(), QUIET)?;
        sender.connect(address).with_context(|| format!("there is no way to {address}"))?;
        let (stop, sent_all) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(UNKNOWN)));
        Ok(Self {
            sender: thread::spawn({
                let stop = Arc::clone(&stop);
                move || {
                    // A sender that changes its CPU half way overtakes itself: each has a queue of its own.
                    stay_on_this_cpu();
                    send_until(&stop, &sender, per_second)
                }
            }),
            receiver: thread::spawn({
                let sent_all = Arc::clone(&sent_all);
                move || receive_until(&sent_all, &receiver)
            }),
            stop,
            sent_all,
            names: format!("{} to {}", from.name, to.name),
        })
    }

    /// Stops, waits for what is on the way, and counts.
    ///
    /// # Errors
    /// A socket failed.
    pub fn stop(self) -> Result<Report> {
        let Self { stop, sent_all, sender, receiver, names } = self;
        stop.store(true, Ordering::Relaxed);
        let (sent, refused) = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        sent_all.store(sent, Ordering::Relaxed);
        let seen = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        let Seen { received, duplicated, reordered, longest_gap, .. } =
            seen.with_context(|| format!("the UDP stream from {names}"))?;
        Ok(Report { sent, refused, received, lost: sent - received, duplicated, reordered, longest_gap })
    }

    /// [`UdpStreamProbe::stop`], and an error if a single datagram was lost, refused, doubled or overtaken.
    ///
    /// # Errors
    /// As [`UdpStreamProbe::stop`]; or the stream was not perfect.
    pub fn stop_perfect(self) -> Result<Report> {
        let names = self.names.clone();
        let report = self.stop()?;
        let Report { sent, refused, lost, duplicated, reordered, .. } = report;
        ensure!(sent > 0, "the UDP stream from {names} sent nothing");
        ensure!((refused, lost, duplicated, reordered) == (0, 0, 0, 0), "the UDP stream from {names}: {report:?}");
        Ok(report)
    }
}

/// Where that is refused, the scheduler goes on as it likes.
fn stay_on_this_cpu() {
    let cpu = sched_getcpu().ok();
    let mut set = CpuSet::new();
    if cpu.is_some_and(|cpu| set.set(cpu).is_ok()) {
        let _refused = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// How long the first datagram may wait for its neighbour's address. Those that follow at once could overtake it: the kernel sends what
/// has waited on the CPU that the address came in by.
const RESOLVED: Duration = Duration::from_millis(20);

fn send_until(stop: &AtomicBool, socket: &UdpSocket, per_second: u32) -> (u64, u64) {
    let mut datagram = [0; SIZE];
    let (mut sent, mut refused) = (0_u64, 0);
    let began = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // In bursts of a millisecond: what should have been sent by now.
        let due = (began.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        while sent + refused < due {
            datagram[..8].copy_from_slice(&sent.to_be_bytes());
            match socket.send(&datagram) {
                Ok(_) => sent += 1,
                Err(_) => refused += 1,
            }
            if sent == 1 {
                sleep(RESOLVED);
            }
        }
        sleep(Duration::from_millis(1));
    }
    (sent, refused)
}

/// Until everything has arrived, or nothing more comes.
fn receive_until(sent_all: &AtomicU64, socket: &UdpSocket) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut datagram = [0; SIZE];
    let mut silent_since = None;
    loop {
        match socket.recv(&mut datagram) {
            Ok(SIZE) => {
                let mut number = [0; 8];
                number.copy_from_slice(&datagram[..8]);
                seen.note(u64::from_be_bytes(number), Instant::now());
                silent_since = None;
            }
            Ok(other) => bail!("a datagram of {other} bytes arrived, {SIZE} were sent"),
            Err(error) if is_timeout(&error) => {
                let sent = sent_all.load(Ordering::Relaxed);
                let silence = silent_since.get_or_insert_with(Instant::now).elapsed();
                if sent == seen.received || (sent != UNKNOWN && silence > QUIET) {
                    return Ok(seen);
                }
            }
            Err(error) => return Err(error).context("receiving"),
        }
    }
}

/// Beyond what `net.core.rmem_max` allows; root may.
fn enlarge(socket: &UdpSocket) -> Result<()> {
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .with_context(|| format!("SO_RCVBUFFORCE on descriptor {}", socket.as_raw_fd()))
}

// === impl Seen ===

impl Seen {
    fn note(&mut self, number: u64, now: Instant) {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        self.bits[word] |= bit;
        self.received += 1;
        if self.highest.is_some_and(|h| number < h) {
            self.reordered += 1;
        }
        self.highest = self.highest.max(Some(number));
        if let Some(last) = self.last {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_doubled_and_overtaken_are_told_apart() {
        let mut seen = Seen::default();
        let start = Instant::now();
        for (i, number) in [0, 1, 3, 2, 2, 70, 5].into_iter().enumerate() {
            seen.note(number, start + Duration::from_millis(i as u64 * 10));
        }
        assert_eq!((seen.received, seen.duplicated, seen.reordered), (6, 1, 2));
        assert_eq!(seen.longest_gap, Duration::from_millis(20), "a doubled one is no sign of life");
    }
}
