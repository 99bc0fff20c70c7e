//! Small UDP packets, one way, in bursts; the server answers each burst with one packet, and only then comes the next.
//! So none is lost for want of a buffer, and what is counted has arrived.

use std::{io, net::UdpSocket, time::Duration};

use anyhow::{Context, Result};

use super::{Client, Ends, PORT};

/// Bytes of payload: with UDP, IP and Ethernet headers the shortest frame that Ethernet has, 60 bytes.
const PAYLOAD: usize = 18;
/// Packets of a burst. They fit into the smallest default receive buffer (212,992 bytes, below 1,280 for each packet).
const BURST: u64 = 128;
/// After so long without an answer a packet must have been lost.
const LOST: Duration = Duration::from_secs(1);
/// How a packet begins: an ordinary one, and the one that ends the server.
const ORDINARY: u8 = 1;
const GOODBYE: u8 = 2;

pub(super) struct Udp {
    socket: UdpSocket,
}

pub(super) fn open(ends: &Ends) -> Result<Udp> {
    let bind = |address| UdpSocket::bind(address).with_context(|| format!("opening the UDP socket {address:?}"));
    let server = ends.pair.server.namespace.run(|| bind((ends.pair.server.address, PORT)))?;
    let socket = bind((ends.pair.client.address, 0))?;
    socket.connect((ends.pair.server.address, PORT)).context("naming the UDP server")?;
    socket.set_read_timeout(Some(LOST))?;
    server.connect(socket.local_addr()?).context("naming the UDP client")?;
    ends.serve(move || answer(&server));
    Ok(Udp { socket })
}

fn answer(socket: &UdpSocket) -> io::Result<()> {
    let mut packet = [0; PAYLOAD];
    for count in 1_u64.. {
        socket.recv(&mut packet)?;
        if packet[0] == GOODBYE {
            break;
        }
        if count % BURST == 0 {
            socket.send(&[ORDINARY])?;
        }
    }
    Ok(())
}

impl Client for Udp {
    fn step(&mut self) -> io::Result<u64> {
        for _ in 0..BURST {
            self.socket.send(&[ORDINARY; PAYLOAD])?;
        }
        match self.socket.recv(&mut [0; PAYLOAD]) {
            Ok(_) => Ok(BURST),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::Error::other("a packet was lost")),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        // A server that is gone already needs no goodbye.
        let _ = self.socket.send(&[GOODBYE]);
    }
}
