//! The questions. In: trials. Out: what became of each: an answer, silence, or something that should not be. Never: longer than
//! [`PATIENCE`] for one, and as many at once as a machine bears.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use margay_lab::{Place, oracle::Traffic, probe::Ping};
use socket2::{Domain, Socket, Type};

use crate::Trial;

/// After how long silence is silence. An answer takes below a millisecond; a SYN is sent again after a second.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many ask at once.
const AT_ONCE: usize = 64;

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came.
    Open,
    /// Nothing came.
    Silent,
    /// A reset, an ICMP error, or anything else that is neither.
    Wrong(String),
}

/// Tries all, in their order.
///
/// # Errors
/// A socket cannot be made.
pub fn try_all(trials: &[Trial]) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for group in trials.chunks(AT_ONCE) {
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = group.iter().map(|trial| scope.spawn(|| try_one(trial))).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(anyhow!("a probe panicked")))).collect()
        });
        for (trial, result) in group.iter().zip(results) {
            outcomes.push(result.with_context(|| format!("asking: {}", trial.cell.flow))?);
        }
    }
    Ok(outcomes)
}

fn try_one(Trial { from, to, cell }: &Trial) -> Result<Outcome> {
    match cell.flow.traffic {
        Traffic::Tcp(port) => tcp(from, SocketAddrV4::new(to.address, port)),
        Traffic::Udp(port) => udp(from, SocketAddrV4::new(to.address, port)),
        Traffic::Icmp => ping(from, to),
        Traffic::Sctp(_) => Err(anyhow!("SCTP is not tried here")),
    }
}

/// The address to ask from: outside, one machine has several; everybody else leaves it to the kernel, as programs do.
fn source(from: &Place) -> Ipv4Addr {
    if from.node.is_empty() { from.address } else { Ipv4Addr::UNSPECIFIED }
}

fn tcp(from: &Place, to: SocketAddrV4) -> Result<Outcome> {
    let socket = from.namespace.run(|| Ok(Socket::new(Domain::IPV4, Type::STREAM, None)?))?;
    socket.bind(&SocketAddrV4::new(source(from), 0).into())?;
    let connected = socket.connect_timeout(&to.into(), PATIENCE);
    let mut stream = TcpStream::from(socket);
    let answer = connected.and_then(|()| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_exact(&mut [0])
    });
    let seen = stream.local_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip());
    Ok(outcome(answer, from, seen))
}

fn udp(from: &Place, to: SocketAddrV4) -> Result<Outcome> {
    let socket = from.namespace.run(|| Ok(UdpSocket::bind((source(from), 0))?))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let answer = socket.connect(SocketAddr::V4(to)).and_then(|()| {
        socket.send(b"?")?;
        socket.recv(&mut [0; 8]).map(drop)
    });
    let seen = socket.local_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip());
    Ok(outcome(answer, from, seen))
}

fn ping(from: &Place, to: &Place) -> Result<Outcome> {
    let report = Ping::to(to.address).patience(PATIENCE).from(&from.namespace)?;
    Ok(if report.received > 0 { Outcome::Open } else { Outcome::Silent })
}

/// An answer counts only if it was asked for with the address that the table means.
fn outcome(answer: io::Result<()>, from: &Place, source: IpAddr) -> Outcome {
    match answer {
        Ok(()) if source == from.address => Outcome::Open,
        Ok(()) => Outcome::Wrong(format!("asked with the address {source} instead of {}", from.address)),
        Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Outcome::Silent,
        Err(error) => Outcome::Wrong(error.to_string()),
    }
}
