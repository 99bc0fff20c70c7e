//! The client. In: targets as URLs. Out: for each, the answer and how long it took, or what went wrong. Never: longer than
//! the time limit for connecting, sending and receiving each.

use std::{
    io::{self, Error, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    thread,
    time::{Duration, Instant},
};

/// What is sent to echo servers.
const PAYLOAD: &[u8] = b"margay";

/// Asks all targets at once.
pub fn ask_all(targets: &[String], timeout: Duration) -> Vec<io::Result<(String, Duration)>> {
    thread::scope(|scope| {
        let asked = targets.iter().map(|target| {
            scope.spawn(move || {
                let began = Instant::now();
                ask(target, timeout).map(|answer| (answer, began.elapsed()))
            })
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(Error::other("asking panicked")))).collect()
    })
}

fn ask(target: &str, timeout: Duration) -> io::Result<String> {
    let (scheme, rest) = target.split_once("://").ok_or_else(|| invalid("a target is SCHEME://HOST:PORT"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    // `[::1]` has colons, but no port.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let address = if scheme == "http" && !has_port { format!("{host}:80") } else { host.to_owned() };
    let address = address.to_socket_addrs()?.next().ok_or_else(|| invalid("the name has no address"))?;
    match scheme {
        "http" => http(address, host, path, timeout),
        "tcp" => tcp(address, timeout),
        "udp" => udp(address, timeout),
        _ => Err(invalid("a target is http, tcp or udp")),
    }
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, what)
}

fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

fn http(address: SocketAddr, host: &str, path: &str, timeout: Duration) -> io::Result<String> {
    let mut stream = connect(address, timeout)?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| Error::other("the answer is cut short"))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.trim_end().to_owned()),
        status => Err(Error::other(format!("status {}", status.unwrap_or("missing")))),
    }
}

fn tcp(address: SocketAddr, timeout: Duration) -> io::Result<String> {
    let mut stream = connect(address, timeout)?;
    stream.write_all(PAYLOAD)?;
    let mut answer = [0; PAYLOAD.len()];
    stream.read_exact(&mut answer)?;
    echoed(&answer)
}

fn udp(address: SocketAddr, timeout: Duration) -> io::Result<String> {
    let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.connect(address)?;
    socket.send(PAYLOAD)?;
    let mut answer = [0; 2 * PAYLOAD.len()];
    let length = socket.recv(&mut answer)?;
    echoed(&answer[..length])
}

fn echoed(answer: &[u8]) -> io::Result<String> {
    if answer == PAYLOAD { Ok("echoed".to_owned()) } else { Err(Error::other("another answer than what was sent")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server;

    #[test]
    fn the_client_understands_the_server() {
        thread::spawn(|| server::run(18_080, 17_000));
        let targets = ["http://127.0.0.1:18080/a", "tcp://127.0.0.1:17000", "udp://127.0.0.1:17000"].map(String::from);
        let deadline = Instant::now() + Duration::from_secs(5);
        let answers = loop {
            let answers = ask_all(&targets, Duration::from_secs(1));
            if answers.iter().all(Result::is_ok) || Instant::now() > deadline {
                break answers;
            }
        };
        let answers: Vec<_> = answers.into_iter().map(|a| a.unwrap().0).collect();
        assert!(answers[0].ends_with(" 127.0.0.1 /a"), "{answers:?}");
        assert_eq!(answers[1..], ["echoed", "echoed"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let targets = ["ftp://127.0.0.1:1", "127.0.0.1", "tcp://127.0.0.1:1", "http://127.0.0.1:1"].map(String::from);
        let answers = ask_all(&targets, Duration::from_secs(1));
        assert!(answers.iter().all(Result::is_err));
    }
}
