//! As many bytes as fit through one TCP connection, one way. Counted are bytes that have arrived: a slice ends when the
//! server has read the last.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::Result;

use super::{Client, Ends, rr::connect};

/// Bytes that one call writes and, at most, reads: the size of the biggest packet before it is cut (GSO).
const CHUNK: usize = 64 * 1024;

pub(super) struct Stream {
    stream: TcpStream,
    chunk: Vec<u8>,
    sent: u64,
    arrived: Arc<AtomicU64>,
}

pub(super) fn open(ends: &Ends) -> Result<Stream> {
    let arrived = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&arrived);
    let stream = connect(ends, move |stream| sink(stream, &count))?;
    Ok(Stream { stream, chunk: vec![0xab; CHUNK], sent: 0, arrived })
}

fn sink(mut stream: TcpStream, arrived: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => arrived.fetch_add(n as u64, Ordering::Release),
        };
    }
}

impl Client for Stream {
    fn step(&mut self) -> io::Result<u64> {
        self.stream.write_all(&self.chunk)?;
        self.sent += self.chunk.len() as u64;
        Ok(self.chunk.len() as u64)
    }

    fn settle(&mut self) -> io::Result<()> {
        while self.arrived.load(Ordering::Acquire) < self.sent {
            // The server is on the same CPU.
            thread::yield_now();
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
