//! A TCP connection for each request: connect, one byte there, one byte back, close.
//!
//! The server closes first, as HTTP/1.0 servers do, so it is the server's side that remembers the connection for a
//! minute (TIME_WAIT), and the client never runs out of ports.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use anyhow::Result;

use super::{Client, Ends, PORT, rr::listen};

/// An ordinary request, and the one that ends the server.
const REQUEST: u8 = 1;
const GOODBYE: u8 = 2;

pub(super) struct ConnectRequestClose {
    server: Ipv4Addr,
}

pub(super) fn open(ends: &Ends) -> Result<ConnectRequestClose> {
    let listener = listen(ends)?;
    ends.serve(move || answer(&listener));
    Ok(ConnectRequestClose { server: ends.pair.server.address })
}

fn answer(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        if byte == [GOODBYE] {
            return Ok(());
        }
        stream.write_all(&byte)?;
    }
}

impl Client for ConnectRequestClose {
    fn step(&mut self) -> io::Result<u64> {
        let mut stream = TcpStream::connect((self.server, PORT))?;
        stream.write_all(&[REQUEST])?;
        stream.read_exact(&mut [0])?;
        // Its end, so that the server has closed before we do.
        match stream.read(&mut [0])? {
            0 => Ok(1),
            _ => Err(io::Error::other("the server said more than it was asked")),
        }
    }
}

impl Drop for ConnectRequestClose {
    fn drop(&mut self) {
        // A server that is gone already needs no goodbye.
        let _ = TcpStream::connect((self.server, PORT)).and_then(|mut stream| stream.write_all(&[GOODBYE]));
    }
}
