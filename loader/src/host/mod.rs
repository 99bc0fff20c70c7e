//! The node's network stack, by netlink and `/proc/sys`.
//!
//! In: a plan's wishes. Out: a [`crate::plan::HostView`], repairs, and a signal when something changed. Never: a
//! decision of its own, or a touch on a route, device or address that is not Margay's.

pub mod link;
pub mod nftables;
mod observe;
mod overlay;
mod qdisc;
mod routes;
pub mod sysctl;
mod watch;

use rtnetlink::Handle;

pub use self::{
    routes::OwnRoutes,
    watch::{Hint, Hints},
};

/// Margay's number among the routing protocols (`rtm_protocol`, include/uapi/linux/rtnetlink.h: everything above
/// RTPROT_STATIC is for whoever wants it; iproute2's rt_protos names none of this number). It marks the routes that
/// are ours to keep and to remove; `ip route show proto 77` lists them.
pub const ROUTE_PROTOCOL: u8 = 77;

/// A request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No netlink socket could be had.
    #[error("opening a netlink socket: {0}")]
    Socket(#[source] std::io::Error),
    /// The kernel refused a request.
    #[error("{doing}: {source}")]
    Request {
        /// What was being done, to what.
        doing: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// A device has been set up, and is not up in the kernel's eyes.
    #[error(
        "the device has not come up within {} s: its other end is down or gone, or the kernel is busy with other interfaces; try again",
        link::PATIENCE.as_secs()
    )]
    StaysDown,
}

// === impl HostError ===

impl HostError {
    fn request(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Request { doing, source }
    }
}

/// A connection to the kernel's rtnetlink, in the network namespace of the thread that opened it.
#[derive(Clone, Debug)]
pub struct Host {
    handle: Handle,
}

// === impl Host ===

impl Host {
    /// Opens the connection. Needs a tokio runtime, on which it keeps a task.
    ///
    /// # Errors
    /// The process may not open netlink sockets.
    pub fn connect() -> Result<Self, HostError> {
        let (connection, handle, _messages) = rtnetlink::new_connection().map_err(HostError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }
}
