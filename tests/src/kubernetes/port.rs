//! A TCP port that stays ours. In: nothing. Out: a port of 127.0.0.1 that nobody else is given, while one server may use it,
//! end, and use it again. Never: a connection; nobody listens here.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// A bound socket with SO_REUSEPORT, which the server's own socket has too (`--permit-port-sharing`). The kernel gives
/// connections to sockets that listen alone.
#[derive(Debug)]
pub(super) struct Port {
    _socket: Socket,
    number: u16,
}

// === impl Port ===

impl Port {
    /// Takes a free one.
    pub(super) fn reserve() -> Result<Self> {
        let reserve = || -> std::io::Result<(Socket, u16)> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_port(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
            let number = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
            Ok((socket, number))
        };
        let (socket, number) = reserve().context("taking a port of 127.0.0.1 for kube-apiserver")?;
        Ok(Self { _socket: socket, number })
    }

    /// Its number.
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}
