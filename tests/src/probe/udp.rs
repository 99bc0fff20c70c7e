//! One UDP datagram and its echo. In: client, server and how many bytes. Out: the same bytes back, and who the server took
//! the client for. Never: a second try.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use super::{ANSWER, pattern::Pattern};
use crate::{lab::Place, netns::Namespace};

/// Sends one datagram of `bytes` (65,507 at most) to an echo server. Returns the client's address as the server saw it.
///
/// # Errors
/// No answer, or one with other content. The message names both ends.
pub fn echo(client: &Place, server: &Place, bytes: usize) -> Result<IpAddr> {
    try_echo(client, server, bytes, ANSWER).with_context(|| format!("UDP, {bytes} bytes, {client} to {server}"))
}

/// As [`echo`], with no more than `patience` for each direction.
///
/// # Errors
/// As [`echo`].
pub fn try_echo(client: &Place, server: &Place, bytes: usize, patience: Duration) -> Result<IpAddr> {
    let (serving, address) = bind(&server.namespace, server.address.into(), patience)?;
    // Unspecified: the kernel chooses the source, as it would for a program.
    let (asking, _) = bind(&client.namespace, IpAddr::from([0, 0, 0, 0]), patience)?;
    asking.connect(address).with_context(|| format!("there is no way to {address}"))?;
    thread::scope(|scope| {
        let server = scope.spawn(move || -> Result<IpAddr> {
            let mut datagram = vec![0; 65_536];
            let (length, peer) = serving.recv_from(&mut datagram).context("the server received nothing")?;
            serving.send_to(&datagram[..length], peer).context("the server sending the echo")?;
            Ok(peer.ip())
        });
        let asked = ask(&asking, bytes);
        let served = server.join().unwrap_or_else(|_| Err(anyhow!("the server panicked")));
        // The server's error says more: without its answer the client cannot have one.
        let peer = served?;
        asked.map(|()| peer)
    })
}

fn ask(socket: &UdpSocket, bytes: usize) -> Result<()> {
    let pattern = Pattern::new(bytes);
    socket.send(pattern.at(0, bytes)).context("sending")?;
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer).context("the echo did not come back")?;
    match pattern.at(0, bytes) == &answer[..length] {
        true => Ok(()),
        false => bail!("the echo has {length} bytes and is not what was sent"),
    }
}

/// A socket on a free port that waits no longer than `patience`, and its address.
pub(super) fn bind(namespace: &Namespace, address: IpAddr, patience: Duration) -> Result<(UdpSocket, SocketAddr)> {
    let socket = namespace.run(|| UdpSocket::bind((address, 0)).with_context(|| format!("binding {address}")))?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}
