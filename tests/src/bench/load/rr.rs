//! One byte there and one byte back over one TCP connection, again and again.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
};

use anyhow::{Context, Result};

use super::{Client, Ends, PORT};

pub(super) struct RequestResponse {
    stream: TcpStream,
}

pub(super) fn open(ends: &Ends) -> Result<RequestResponse> {
    let stream = connect(ends, echo)?;
    Ok(RequestResponse { stream })
}

/// Starts a server for one connection, and makes that connection.
pub(super) fn connect(
    ends: &Ends,
    server: impl FnOnce(TcpStream) -> io::Result<()> + Send + 'static,
) -> Result<TcpStream> {
    let listener = listen(ends)?;
    ends.serve(move || server(listener.accept()?.0));
    let stream = TcpStream::connect((ends.pair.server.address, PORT)).context("connecting")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A listening socket where the server is.
pub(super) fn listen(ends: &Ends) -> Result<TcpListener> {
    let address = (ends.pair.server.address, PORT);
    ends.pair.server.namespace.run(|| TcpListener::bind(address).with_context(|| format!("listening on {address:?}")))
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

impl Client for RequestResponse {
    fn step(&mut self) -> io::Result<u64> {
        self.stream.write_all(&[1])?;
        self.stream.read_exact(&mut [0])?;
        Ok(1)
    }
}
