//! The server. In: two ports. Out: over HTTP, `HOSTNAME CLIENT-ADDRESS PATH` (200 for every path but `/status/N`, which answers
//! N); over TCP and UDP, what was sent. Never: a second request on an HTTP connection.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use nix::sys::signal::{SigSet, Signal};

/// How long a client may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Serves until SIGTERM.
///
/// # Errors
/// A port is taken.
pub fn run(http: u16, echo: u16) -> io::Result<()> {
    // Before the threads, which take over what is blocked. Process 1 must ask for the signals that it wants.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block()?;
    listen(http, answer)?;
    listen(echo, |stream, _| repeat(stream))?;
    let socket = UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, echo)))?;
    thread::spawn(move || repeat_datagrams(&socket));
    println!("serving HTTP on {http}, TCP and UDP echo on {echo}");
    signals.wait()?;
    Ok(())
}

/// A thread for each connection. The IPv6 wildcard takes IPv4 too.
fn listen(port: u16, serve: fn(TcpStream, SocketAddr) -> io::Result<()>) -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    thread::spawn(move || {
        loop {
            if let Ok((stream, peer)) = listener.accept() {
                // A client that goes away is nobody's failure.
                thread::spawn(move || serve(stream, peer).unwrap_or_default());
            }
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or("/");
    let status = path.strip_prefix("/status/").and_then(|code| code.parse().ok()).unwrap_or(200_u16);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let body = format!("{} {} {path}\n", host.trim(), peer.ip().to_canonical());
    write!(
        stream,
        "HTTP/1.1 {status} -\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn repeat(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut buffer = [0; 64 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn repeat_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 64 * 1024];
    loop {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            // An answer that cannot be sent is lost, as others are.
            let _ = socket.send_to(&buffer[..length], peer);
        }
    }
}
