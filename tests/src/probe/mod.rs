//! Questions to the network, asked from inside namespaces, without external commands.
//!
//! In: [`Place`](crate::Place)s or [`Namespace`](crate::Namespace)s. Out: what came back, byte for byte verified, or an
//! error that says who did not hear from whom. Never: waiting without a limit.
//!
//! A socket belongs to the namespace in which it was made, whichever thread uses it later, so only making it happens
//! inside.

pub mod frame;
pub mod packet;
mod pattern;
pub mod ping;
pub mod tcp;
pub mod tcp_stream;
pub mod traceroute;
pub mod udp;
pub mod udp_stream;

use std::{io, time::Duration};

pub use frame::{Capture, Sender, send_frame};
pub use ping::{Ping, ping};
pub use tcp::exchange as tcp_exchange;
pub use tcp_stream::TcpStreamProbe;
pub use traceroute::traceroute;
pub use udp::echo as udp_echo;
pub use udp_stream::UdpStreamProbe;

/// How long any single answer may take. Networks of a lab answer within a millisecond; this leaves room for a busy machine.
pub const ANSWER: Duration = Duration::from_secs(5);

/// Whether an error is the end of a socket's patience.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
