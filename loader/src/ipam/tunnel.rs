//! The address of this node's end of the overlay: an address of a pool like any other, with the handle
//! `vxlan-tunnel-addr-<node>`, written down in an annotation of the Node (calico/node, pkg/allocateip).
//!
//! In: the Node, the pools. Out: the address. Never: a second one while the first is good.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

use super::assign::Search;
use super::block::Claimant;
use super::inner::Inner;
use super::pool::{Asking, Use, choose};
use super::store::Store;
use super::world::World;
use super::{Family, Ipam, IpamError, detached};

// === impl Family ===

impl Family {
    /// The annotation of a Node with its overlay's address.
    pub fn tunnel_annotation(self) -> &'static str {
        match self {
            Self::V4 => "projectcalico.org/IPv4VXLANTunnelAddr",
            Self::V6 => "projectcalico.org/IPv6VXLANTunnelAddr",
        }
    }

    /// The handle of a node's overlay address.
    pub fn tunnel_handle(self, node: &str) -> String {
        match self {
            Self::V4 => format!("vxlan-tunnel-addr-{node}"),
            Self::V6 => format!("vxlan-v6-tunnel-addr-{node}"),
        }
    }

    fn tunnel_type(self) -> &'static str {
        match self {
            Self::V4 => "vxlanTunnelAddress",
            Self::V6 => "vxlanV6TunnelAddress",
        }
    }
}

// === impl Ipam ===

impl<S: Store> Ipam<S> {
    /// The address of this node's overlay device, taken from a pool if it has none, and written to its Node.
    ///
    /// # Errors
    /// There is none, or it cannot be written.
    pub async fn tunnel_address(&self, family: Family) -> Result<IpAddr, IpamError> {
        let inner = Arc::clone(&self.0);
        detached(async move {
            let busy = inner.busy(&family.tunnel_handle(&inner.node));
            let _alone = busy.lock().await;
            inner.tunnel_address(family).await
        })
        .await
    }
}

// === impl Inner ===

impl<S: Store> Inner<S> {
    async fn tunnel_address(&self, family: Family) -> Result<IpAddr, IpamError> {
        let node = self.retried(|| self.store.get::<Node>(&self.node)).await?;
        let node = node.ok_or_else(|| IpamError::NoNode { node: self.node.clone() })?;
        let noted = node.annotations().get(family.tunnel_annotation()).cloned();
        // Asked for seldom, so never from an old world.
        let address = self.tunnel_from(&*self.worlds.look_again().await?, family).await?;
        if noted.is_none_or(|noted| noted != address.to_string()) {
            let annotation = [(family.tunnel_annotation(), Some(address.to_string()))];
            self.retried(|| self.store.annotate::<Node>(&self.node, &annotation)).await?;
        }
        Ok(address)
    }

    /// The address that the handle has, if it is in a pool that may still be used, or a new one.
    async fn tunnel_from(&self, world: &World, family: Family) -> Result<IpAddr, IpamError> {
        let id = family.tunnel_handle(&self.node);
        let labels = BTreeMap::new();
        let mut asking = Asking {
            family,
            what_for: Use::Tunnel,
            node_labels: &world.node_labels,
            namespace_labels: &labels,
            wanted: &[],
        };
        // The overlay's own pools, if any is said to have one.
        let fitting = choose(&world.pools, &asking).map_err(|why| IpamError::NoPool { why })?;
        let wanted: Vec<String> = fitting.iter().filter(|pool| pool.vxlan).map(|pool| pool.name.clone()).collect();
        asking.wanted = &wanted;
        let pools = choose(&world.pools, &asking).map_err(|why| IpamError::NoPool { why })?;
        let mut handle = self.known_handle(&id);
        if !handle.exists() {
            handle.refresh().await?;
        }
        for block in handle.blocks() {
            if let Some(address) = self.of_handle(block, handle.id()).await?.first()
                && !pools.iter().any(|pool| pool.cidr.contains(address))
            {
                self.release(&id).await?;
                handle = self.known_handle(&id);
                break;
            }
        }
        let attributes = BTreeMap::from([
            ("node".to_owned(), self.node.clone()),
            ("type".to_owned(), family.tunnel_type().to_owned()),
        ]);
        let who = Arc::new(Claimant { handle: id, attributes });
        let address = Search::new(self, world, who, &mut handle).any(&asking).await?;
        self.remember(handle);
        Ok(address)
    }
}
