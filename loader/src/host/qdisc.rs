//! The clsact qdiscs that attaching filters has left behind. They cost nothing; `margay uninstall` takes them away all the
//! same.

use futures::TryStreamExt as _;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::{Host, HostError};

// === impl Host ===

impl Host {
    /// Removes the interface's clsact qdisc if no filter is left in it. Says whether it did.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn remove_empty_clsact(&self, ifindex: u32) -> Result<bool, HostError> {
        let index = ifindex as i32;
        let qdiscs = self.handle.qdisc().get().index(index).execute();
        let qdiscs: Vec<TcMessage> = qdiscs.try_collect().await.map_err(HostError::request("listing qdiscs"))?;
        let is_clsact = |m: &TcMessage| m.attributes.iter().any(|a| matches!(a, TcAttribute::Kind(k) if k == "clsact"));
        if !qdiscs.iter().any(|m| m.header.index == index && is_clsact(m)) {
            return Ok(false);
        }
        let ingress = self.handle.traffic_filter(index).get().ingress().execute();
        let egress = self.handle.traffic_filter(index).get().egress().execute();
        for filters in [ingress.try_collect::<Vec<TcMessage>>().await, egress.try_collect().await] {
            if !filters.map_err(HostError::request("listing filters"))?.is_empty() {
                return Ok(false);
            }
        }
        let mut delete = self.handle.qdisc().del(index);
        delete.message_mut().header.parent = TcHandle::CLSACT;
        let deleted = delete.execute().await;
        deleted.map_err(HostError::request(format!("removing the clsact qdisc of interface {ifindex}"))).map(|()| true)
    }
}
