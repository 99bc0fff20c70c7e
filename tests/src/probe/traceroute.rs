//! The way to an address. In: who asks, and the address. Out: who answered at each hop. Never: more than [`MOST`] hops.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    packet::echo_request,
    ping::{Answer, next_id, raw_socket, receive},
};
use crate::netns::Namespace;

/// Ways in a lab are shorter.
pub const MOST: u32 = 8;
/// How long to wait for a hop's answer. A hop that says nothing costs this much each time.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Sends ICMP echo requests with growing TTL until `to` answers, or [`MOST`] hops have been asked. A hop that stays
/// silent is `None`.
///
/// # Errors
/// There is no route to `to`.
pub fn traceroute(namespace: &Namespace, to: Ipv4Addr) -> Result<Vec<Option<Ipv4Addr>>> {
    let socket = raw_socket(namespace)?;
    let id = next_id();
    let mut hops = Vec::new();
    for ttl in 1..=MOST {
        socket.set_ttl_v4(ttl)?;
        let request = echo_request(id, ttl as u16, &[0; 32]);
        socket
            .send_to(&request, &SocketAddrV4::new(to, 0).into())
            .with_context(|| format!("sending an ICMP echo request with TTL {ttl} to {to}"))?;
        let deadline = Instant::now() + PATIENCE;
        let mut hop = None;
        while let Some(packet) = receive(&socket, deadline)? {
            let answer = Answer::parse(&packet).filter(|a| (a.id, u32::from(a.sequence)) == (id, ttl));
            if let Some(answer) = answer {
                hop = Some(answer.from);
                break;
            }
        }
        hops.push(hop);
        if hop == Some(to) {
            break;
        }
    }
    Ok(hops)
}
