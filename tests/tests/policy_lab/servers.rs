//! Somebody who answers, at every address and port that is asked. In: trials. Out: TCP servers that send one byte, and UDP
//! servers that send back what came, until dropped. Never: a port of somebody else's.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use margay_lab::{Namespace, oracle::Traffic};
use socket2::{Domain, Socket, Type};

use crate::Trial;

/// How often servers look whether they are to end.
const LOOK: Duration = Duration::from_millis(50);

/// All servers of a case.
pub struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

// === impl Servers ===

impl Servers {
    /// Starts one for each address and port that is asked; they listen when this returns.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(trials: &[Trial]) -> Result<Self> {
        let mut servers = Self { stop: Arc::default(), threads: Vec::new() };
        let mut started = BTreeSet::new();
        for Trial { to, cell, .. } in trials {
            if started.insert((to.address, cell.flow.traffic)) {
                servers
                    .add(&to.namespace, to.address, cell.flow.traffic)
                    .with_context(|| format!("listening at {to} for {}", cell.flow.traffic))?;
            }
        }
        Ok(servers)
    }

    fn add(&mut self, namespace: &Namespace, address: Ipv4Addr, traffic: Traffic) -> Result<()> {
        let stop = Arc::clone(&self.stop);
        match traffic {
            Traffic::Tcp(port) => {
                let listener = tcp(namespace, SocketAddrV4::new(address, port))?;
                self.threads.push(namespace.spawn(move || serve_tcp(&listener, &stop)));
            }
            Traffic::Udp(port) => {
                let socket = namespace.run(|| Ok(UdpSocket::bind((address, port))?))?;
                socket.set_read_timeout(Some(LOOK))?;
                self.threads.push(namespace.spawn(move || serve_udp(&socket, &stop)));
            }
            // The kernel answers, or nobody asks.
            Traffic::Icmp | Traffic::Sctp(_) => {}
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("a server: {error:#}");
            }
        }
    }
}

fn tcp(namespace: &Namespace, address: SocketAddrV4) -> Result<TcpListener> {
    let socket = namespace.run(|| Ok(Socket::new(Domain::IPV4, Type::STREAM, None)?))?;
    // The connections of the case before may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // Linux's accept(2) honours SO_RCVTIMEO (socket(7)).
    socket.set_read_timeout(Some(LOOK))?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn serve_tcp(listener: &TcpListener, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        // Nobody within the time, or somebody who has gone again.
        let Ok((mut stream, _)) = listener.accept() else { continue };
        // A client that has given up is its own affair.
        let _ = stream.write_all(b"!");
    }
    Ok(())
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    let mut datagram = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut datagram) else { continue };
        // The answer may be refused on its way; the client says what it has heard.
        let _ = socket.send_to(&datagram[..length], peer);
    }
    Ok(())
}
