//! One TCP connection, both ways. In: client, server and how many bytes. Out: every byte verified at both ends, and who
//! the server took the client for. Never: a listening socket that outlives the call.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use socket2::{Domain, Socket, Type};

use super::{ANSWER, pattern::Pattern};
use crate::{lab::Place, netns::Namespace};

/// How much is written or read at once, in bytes.
const PIECE: usize = 16 * 1024;

/// Connects, sends `bytes` from client to server and as many back, and closes. Returns the client's address as the server
/// saw it.
///
/// # Errors
/// No connection, a stall, or wrong content. The message names both ends.
pub fn exchange(client: &Place, server: &Place, bytes: u64) -> Result<IpAddr> {
    try_exchange(client, server, bytes, ANSWER)
        .with_context(|| format!("TCP, {bytes} bytes each way, {client} to {server}"))
}

/// As [`exchange`], with no more than `patience` for each step.
///
/// # Errors
/// As [`exchange`].
pub fn try_exchange(client: &Place, server: &Place, bytes: u64, patience: Duration) -> Result<IpAddr> {
    let (listener, address) = listen(&server.namespace, server.address, patience)?;
    thread::scope(|scope| {
        let serving = scope.spawn(move || -> Result<IpAddr> {
            let (mut stream, peer) = listener.accept().context("the server saw no connection")?;
            limit(&stream, patience)?;
            receive(&mut stream, bytes).context("the server receiving")?;
            send(&mut stream, bytes).context("the server sending")?;
            Ok(peer.ip())
        });
        let asked = ask(&client.namespace, address, bytes, patience);
        let served = serving.join().unwrap_or_else(|_| Err(anyhow!("the server panicked")));
        // The client's error says more: its connection failed first.
        asked?;
        served
    })
}

fn ask(namespace: &Namespace, server: SocketAddr, bytes: u64, patience: Duration) -> Result<()> {
    let mut stream = connect(namespace, server, patience)?;
    send(&mut stream, bytes).context("the client sending")?;
    receive(&mut stream, bytes).context("the client receiving")?;
    let mut rest = [0; 1];
    match stream.read(&mut rest).context("waiting for the server to close")? {
        0 => Ok(()),
        _ => bail!("the server sent more than it was asked for"),
    }
}

/// A connection that waits no longer than `patience` for anything.
pub(super) fn connect(namespace: &Namespace, server: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let stream = namespace
        .run(|| TcpStream::connect_timeout(&server, patience).with_context(|| format!("connecting to {server}")))?;
    limit(&stream, patience)?;
    Ok(stream)
}

/// A listening socket on a free port, whose `accept` gives up after `patience`, and its address.
pub(super) fn listen(
    namespace: &Namespace,
    address: Ipv4Addr,
    patience: Duration,
) -> Result<(TcpListener, SocketAddr)> {
    let socket =
        namespace.run(|| Ok(Socket::new(Domain::IPV4, Type::STREAM, None)?)).context("opening a TCP socket")?;
    socket.bind(&SocketAddrV4::new(address, 0).into()).with_context(|| format!("binding {address}"))?;
    // Linux's accept(2) honours SO_RCVTIMEO (socket(7)).
    socket.set_read_timeout(Some(patience))?;
    socket.listen(16)?;
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}

pub(super) fn limit(stream: &TcpStream, patience: Duration) -> Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(())
}

fn send(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    let pattern = Pattern::new(PIECE);
    let mut sent = 0;
    while sent < bytes {
        let piece = (bytes - sent).min(PIECE as u64) as usize;
        stream.write_all(pattern.at(sent, piece)).with_context(|| format!("after {sent} bytes"))?;
        sent += piece as u64;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    let pattern = Pattern::new(PIECE);
    let mut buffer = vec![0; PIECE];
    let mut received = 0;
    while received < bytes {
        let piece = (bytes - received).min(PIECE as u64) as usize;
        let length = stream.read(&mut buffer[..piece]).with_context(|| format!("after {received} bytes"))?;
        if length == 0 {
            bail!("the connection ended after {received} bytes");
        }
        if let Some(at) = pattern.differs(received, &buffer[..length]) {
            bail!("byte {at} is not the one that was sent");
        }
        received += length as u64;
    }
    Ok(())
}
