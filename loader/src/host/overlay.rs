//! The overlay device `vxlan.calico`: made where it is missing, mended where it differs.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVxlan,
    packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    },
};
use tracing::{info, warn};

use super::{Host, HostError, observe::mac};
use crate::plan::OverlayDevice;

/// `margay_maps::overlay::DEVICE`.
const NAME: &str = margay_maps::overlay::DEVICE;

// === impl Host ===

impl Host {
    /// Makes the device what it should be. Says whether anything had to be done.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn ensure_overlay(&self, wanted: &OverlayDevice) -> Result<bool, HostError> {
        let mut changed = false;
        let found = match self.overlay().await? {
            Some(link) if carries_overlay(&link, wanted.port) => link,
            Some(link) => {
                warn!(device = NAME, "is no collect-metadata vxlan device on port {}: making it anew", wanted.port);
                self.delete_link(link.header.index).await?;
                changed = true;
                self.create_overlay(wanted).await?
            }
            None => {
                info!(device = NAME, "making the overlay device");
                changed = true;
                self.create_overlay(wanted).await?
            }
        };
        changed |= self.mend_overlay(&found, wanted).await?;
        changed |= self.ensure_overlay_address(found.header.index, wanted.address).await?;
        Ok(changed)
    }

    /// Removes the device, if it is there. Says whether it was.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn remove_overlay(&self) -> Result<bool, HostError> {
        match self.overlay().await? {
            Some(link) => self.delete_link(link.header.index).await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn overlay(&self) -> Result<Option<LinkMessage>, HostError> {
        self.link(self.handle.link().get().match_name(NAME)).await
    }

    async fn delete_link(&self, index: u32) -> Result<(), HostError> {
        let deleted = self.handle.link().del(index).execute().await;
        deleted.map_err(HostError::request(format!("deleting the device {NAME}")))
    }

    async fn create_overlay(&self, wanted: &OverlayDevice) -> Result<LinkMessage, HostError> {
        let device = LinkMessageBuilder::<LinkVxlan>::new(NAME)
            .collect_metadata(true)
            .learning(false)
            .port(wanted.port)
            .mtu(wanted.mtu)
            .address(wanted.mac.bytes.to_vec())
            .build();
        let made = self.handle.link().add(device).execute().await;
        made.map_err(HostError::request(format!(
            "making the device {NAME} (is another vxlan device on UDP port {}?)",
            wanted.port
        )))?;
        let gone = || HostError::Request {
            doing: format!("finding the device {NAME} that has just been made"),
            source: rtnetlink::Error::RequestFailed,
        };
        self.overlay().await?.ok_or_else(gone)
    }

    /// MAC, MTU, up, and no ARP: every neighbour behind the device is reached by the route alone.
    async fn mend_overlay(&self, link: &LinkMessage, wanted: &OverlayDevice) -> Result<bool, HostError> {
        let mtu = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        let flags = link.header.flags;
        let fine = mac(link) == wanted.mac
            && mtu == Some(wanted.mtu)
            && flags.contains(LinkFlags::Up)
            && flags.contains(LinkFlags::Noarp);
        if fine {
            return Ok(false);
        }
        let change = LinkUnspec::new_with_index(link.header.index)
            .address(wanted.mac.bytes.to_vec())
            .mtu(wanted.mtu)
            .arp(false)
            .up()
            .build();
        let changed = self.handle.link().set(change).execute().await;
        changed.map_err(HostError::request(format!("configuring the device {NAME}")))?;
        info!(device = NAME, mac = %wanted.mac, mtu = wanted.mtu, "configured");
        Ok(true)
    }

    /// Exactly the wanted IPv4 address, or none.
    async fn ensure_overlay_address(&self, index: u32, wanted: Option<IpAddr>) -> Result<bool, HostError> {
        let listing = || HostError::request(format!("listing the addresses of {NAME}"));
        let found: Vec<AddressMessage> = (self.handle.address().get().set_link_index_filter(index).execute())
            .try_collect()
            .await
            .map_err(listing())?;
        let mut present = false;
        let mut changed = false;
        for address in found {
            let ip = address.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
            match ip {
                ip if ip == wanted => present = true,
                Some(IpAddr::V4(ip)) => {
                    warn!(device = NAME, %ip, "removing an address that does not belong there");
                    changed = true;
                    (self.handle.address().del(address).execute().await)
                        .map_err(HostError::request(format!("removing {ip} from {NAME}")))?;
                }
                _ => {}
            }
        }
        if let (Some(IpAddr::V4(ip)), false) = (wanted, present) {
            info!(device = NAME, %ip, "adding the tunnel address");
            let added = self.handle.address().add(index, IpAddr::V4(ip), 32).execute().await;
            added.map_err(HostError::request(format!("adding {ip} to {NAME}")))?;
            changed = true;
        }
        Ok(changed)
    }
}

/// Whether this is a vxlan device that takes its tunnel's data from each packet, on the port.
fn carries_overlay(link: &LinkMessage, wanted_port: u16) -> bool {
    let infos = link.attributes.iter().filter_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let (mut vxlan, mut collects, mut port) = (false, false, None);
    for info in infos.flatten() {
        match info {
            LinkInfo::Kind(InfoKind::Vxlan) => vxlan = true,
            LinkInfo::Data(InfoData::Vxlan(data)) => {
                for item in data {
                    match item {
                        InfoVxlan::CollectMetadata(yes) => collects = *yes,
                        InfoVxlan::Port(p) => port = Some(*p),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    vxlan && collects && port == Some(wanted_port)
}
