//! Whether a device sends what it is given.
//!
//! In: a device's index. Out: the moment from which on it sends. Never: a change to it.

use std::time::Duration;

use futures::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_route::link::{LinkAttribute, State},
};
use tokio::time::{Instant, sleep};

use super::HostError;

/// How long to wait: a machine whose interfaces change all the time keeps the kernel's lock for some ten milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long until the next question.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits until the device sends. One whose other end came up after it (a veth) has no queue at first, and discards what it is to send,
/// until the kernel has noticed the carrier by a work of its own, which waits for the RTNL lock (net/core/link_watch.c,
/// `linkwatch_do_dev`). From Linux 6.8 on the question alone is enough (net/core/rtnetlink.c, `rtnl_getlink`).
///
/// # Errors
/// There is no such device, or it does not come up within five seconds.
pub async fn until_it_sends(handle: &Handle, index: u32) -> Result<(), HostError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = handle.link().get().match_index(index).execute().try_next().await;
        let link = asked.map_err(HostError::request(format!("looking for the device with index {index}")))?;
        let attributes = link.map(|link| link.attributes).unwrap_or_default();
        if attributes.contains(&LinkAttribute::OperState(State::Up)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(HostError::StaysDown);
        }
        sleep(PAUSE).await;
    }
}
