//! A line to the API server that can be cut.
//!
//! In: a port on 127.0.0.1. Out: another one that leads there, or nowhere. Never: a change of a byte.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// What the line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Carries,
    /// Connections break, and new ones end at once.
    Cut,
    /// Connections stay, and carry nothing.
    Stalled,
}

/// The line. It ends when it is dropped.
pub struct Line {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    _carrying: JoinSet<()>,
}

// === impl Line ===

impl Line {
    /// To a port on 127.0.0.1.
    pub async fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listening for a line")?;
        let address = listener.local_addr()?;
        let (mode, watched) = watch::channel(Mode::Carries);
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(carry(stream, port, watched.clone()));
            }
        });
        Ok(Self { address, mode, _carrying: carrying })
    }

    /// `HOST:PORT` of the near end.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Breaks all connections, and lets none be made.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Leaves all connections as they are, and carries nothing on them any more.
    pub fn stall(&self) {
        self.mode.send_replace(Mode::Stalled);
    }

    /// New connections are carried. Old ones are lost.
    pub fn mend(&self) {
        self.mode.send_replace(Mode::Carries);
    }
}

async fn carry(mut near: TcpStream, port: u16, mut mode: watch::Receiver<Mode>) {
    let now = *mode.borrow_and_update();
    if now == Mode::Carries
        && let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await
    {
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => return,
            _ = mode.changed() => {}
        }
    }
    // Stalled: open until the mode changes again.
    while *mode.borrow_and_update() == Mode::Stalled {
        if mode.changed().await.is_err() {
            return;
        }
    }
}
