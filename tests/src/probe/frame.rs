//! Raw frames out and in (packet(7)). In: a namespace, a device and bytes. Out: what comes by there. Never: a change to what
//! was handed over, right or wrong as it is.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::is_timeout;
use crate::{netlink::Netlink, netns::Namespace};

/// Bytes that may wait until they are looked at.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Sends one frame out by a device, Ethernet header first.
///
/// # Errors
/// There is no such device, it is down, or the frame is longer than its MTU.
pub fn send_frame(namespace: &Namespace, device: &str, frame: &[u8]) -> Result<()> {
    Sender::open(namespace, device)?.send(frame)
}

/// Sends many frames out by one device.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
    device: String,
}

// === impl Sender ===

impl Sender {
    /// Opens a device.
    ///
    /// # Errors
    /// There is no such device.
    pub fn open(namespace: &Namespace, device: &str) -> Result<Self> {
        // Protocol 0: hears nothing.
        let socket = packet_socket(namespace, device, 0)?;
        Ok(Self { socket, device: format!("{device} in {}", namespace.name()) })
    }

    /// Sends a frame, Ethernet header first.
    ///
    /// # Errors
    /// The device is down, or the frame is longer than its MTU.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let sent = self.socket.write_all(frame);
        sent.with_context(|| format!("sending a frame of {} bytes by {}", frame.len(), self.device))
    }
}

/// Everything that comes by a device, from the moment this is made.
#[derive(Debug)]
pub struct Capture {
    socket: Socket,
}

// === impl Capture ===

impl Capture {
    /// Starts to listen on a device.
    ///
    /// # Errors
    /// There is no such device.
    pub fn start(namespace: &Namespace, device: &str) -> Result<Self> {
        let socket = packet_socket(namespace, device, libc::ETH_P_ALL as u16)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        Ok(Self { socket })
    }

    /// The first frame, from the start on or since the last call, that `wanted` accepts; `None` if none comes within
    /// `patience`.
    ///
    /// # Errors
    /// The device has gone.
    pub fn wait_for(&mut self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + patience;
        let mut frame = vec![0; 65_536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.read(&mut frame) {
                Ok(length) if wanted(&frame[..length]) => return Ok(Some(frame[..length].to_vec())),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => return Ok(None),
                Err(error) => return Err(error).context("capturing frames"),
            }
        }
    }
}

fn packet_socket(namespace: &Namespace, device: &str, protocol: u16) -> Result<Socket> {
    let index = Netlink::open(namespace)?.index(device)?;
    // Made deaf, then bound: otherwise it would hear other devices in between.
    let socket = namespace
        .run(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).context("opening a packet socket"))?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(index)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the addresses that a sockaddr_storage has room for, and plain integers.
    *unsafe { storage.view_as::<libc::sockaddr_ll>() } = address;
    // SAFETY: the storage holds an AF_PACKET address of just this length.
    let address = unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
    socket.bind(&address).with_context(|| format!("binding a packet socket to {device} in {}", namespace.name()))?;
    Ok(socket)
}
