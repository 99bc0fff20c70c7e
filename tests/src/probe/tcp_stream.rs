//! One TCP connection that carries bytes one way until told to stop. In: sender and receiver. Out: how many bytes arrived
//! in order and unharmed, and how long the longest silence was. Never: more than a few seconds of patience with a
//! connection that is dead.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{
    ANSWER,
    pattern::Pattern,
    tcp::{connect, limit, listen},
};
use crate::lab::Place;

/// Bytes of one write. One is written each millisecond, so that the stream is steady and leaves the processor to others.
const PIECE: usize = 4 * 1024;

/// What arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes that arrived, each the right one. All that were sent.
    pub bytes: u64,
    /// The longest time between two arrivals.
    pub longest_gap: Duration,
    /// Segments that the sender had to send again (`tcpi_total_retrans`, tcp(7)).
    pub retransmitted: u32,
}

/// A running stream.
#[derive(Debug)]
pub struct TcpStreamProbe {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<(u64, u32)>>,
    receiver: JoinHandle<Result<(u64, Duration)>>,
    names: String,
}

// === impl TcpStreamProbe ===

impl TcpStreamProbe {
    /// Connects and starts to send.
    ///
    /// # Errors
    /// There is no connection.
    pub fn start(from: &Place, to: &Place) -> Result<Self> {
        let names = format!("{} to {}", from.name, to.name);
        let (listener, address) = listen(&to.namespace, to.address, ANSWER)?;
        let sending =
            connect(&from.namespace, address, ANSWER).with_context(|| format!("the TCP stream from {names}"))?;
        let (receiving, _) = listener.accept().with_context(|| format!("the TCP stream from {names}"))?;
        limit(&receiving, ANSWER)?;
        let stop = Arc::new(AtomicBool::new(false));
        let sender = thread::spawn({
            let stop = Arc::clone(&stop);
            move || send_until(&stop, sending)
        });
        Ok(Self { stop, sender, receiver: thread::spawn(move || receive_all(receiving)), names })
    }

    /// Stops, and waits until everything has arrived.
    ///
    /// # Errors
    /// The connection broke, stalled for seconds, or carried wrong bytes.
    pub fn stop(self) -> Result<Report> {
        let Self { stop, sender, receiver, names } = self;
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        let context = || format!("the TCP stream from {names}");
        let (sent, retransmitted) = sent.with_context(context)?;
        let (bytes, longest_gap) = received.with_context(context)?;
        ensure!(bytes == sent, "{}: {sent} bytes were sent and {bytes} arrived", context());
        Ok(Report { bytes, longest_gap, retransmitted })
    }
}

fn send_until(stop: &AtomicBool, mut stream: TcpStream) -> Result<(u64, u32)> {
    let pattern = Pattern::new(PIECE);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(pattern.at(sent, PIECE)).with_context(|| format!("sending after {sent} bytes"))?;
        sent += PIECE as u64;
        sleep(Duration::from_millis(1));
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The receiver closes when it has everything; by then nothing can be sent again any more.
    let mut rest = [0; 1];
    if stream.read(&mut rest).context("waiting for the receiver to close")? != 0 {
        bail!("the receiver sent something");
    }
    Ok((sent, retransmitted(&stream)?))
}

fn receive_all(mut stream: TcpStream) -> Result<(u64, Duration)> {
    let pattern = Pattern::new(PIECE);
    let mut buffer = vec![0; PIECE];
    let (mut received, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    loop {
        let length = stream.read(&mut buffer).with_context(|| format!("receiving after {received} bytes"))?;
        if length == 0 {
            return Ok((received, longest));
        }
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if let Some(at) = pattern.differs(received, &buffer[..length]) {
            bail!("byte {at} is not the one that was sent");
        }
        received += length as u64;
    }
}

fn retransmitted(stream: &TcpStream) -> Result<u32> {
    use std::os::fd::AsRawFd;
    // SAFETY: tcp_info is plain integers, so all zeros is a value of it.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, and the descriptor is open for as long as `stream` is.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    ensure!(result == 0, "asking for TCP_INFO: {}", std::io::Error::last_os_error());
    Ok(info.tcpi_total_retrans)
}
