//! A signal whenever an interface, address or route changes.

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;

use super::{Host, HostError};

// === impl Host ===

impl Host {
    /// A channel of capacity one that has a message in it whenever something changed since it was last read. What
    /// changed is not said: whoever reads it looks at everything anew. An overrun of the socket is a change too.
    ///
    /// # Errors
    /// No socket could be had.
    pub fn watch() -> Result<mpsc::Receiver<()>, HostError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
        let (connection, handle, mut messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(HostError::Socket)?;
        tokio::spawn(connection);
        let (changed, signal) = mpsc::channel(1);
        tokio::spawn(async move {
            // The connection ends when its last handle does.
            let _handle = handle;
            while messages.next().await.is_some() {
                // A full channel says already that something changed.
                if let Err(mpsc::error::TrySendError::Closed(())) = changed.try_send(()) {
                    return;
                }
            }
        });
        Ok(signal)
    }
}
