//! Devices, addresses, routes and neighbours of one namespace, over rtnetlink, with calls that block.
//!
//! In: a [`Namespace`] and what should be there. Out: the kernel's answer, with the device and namespace named in
//! every error. Never: a look at the namespace that the caller is in.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, anyhow};
use futures::{StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use margay_loader::host::link::until_it_sends;
use margay_maps::Mac;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteMessage, RouteScope};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder};
use tokio::runtime::{Builder, Runtime};

use crate::netns::Namespace;

/// One netlink socket of one namespace. It stays the namespace's, whichever thread uses it.
#[derive(Debug)]
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
    namespace: String,
}

/// One end of a veth pair, as it should come into being.
#[derive(Clone, Debug)]
pub struct VethEnd<'a> {
    /// Where it lives.
    pub namespace: &'a Namespace,
    /// Its name.
    pub name: &'a str,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its MAC; `None`: the kernel chooses.
    pub mac: Option<Mac>,
}

/// Makes a veth pair, each end at once where it belongs, both down.
///
/// # Errors
/// The kernel refuses: a name is taken, or there is no veth driver.
pub fn add_veth(near: &VethEnd<'_>, far: &VethEnd<'_>) -> Result<()> {
    let mut peer = LinkUnspec::new_with_name(far.name).mtu(far.mtu).setns_by_fd(far.namespace.raw_fd());
    if let Some(mac) = far.mac {
        peer = peer.address(mac.bytes.to_vec());
    }
    let mut link =
        LinkVeth::new(near.name, far.name).mtu(near.mtu).set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
    if let Some(mac) = near.mac {
        link = link.address(mac.bytes.to_vec());
    }
    Netlink::open(near.namespace)?.add_link(near.name, link.build())
}

// === impl Netlink ===

impl Netlink {
    /// Opens a socket in `namespace`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or there is no memory for a socket.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        let name = namespace.name();
        let (runtime, handle) = namespace.run(|| {
            let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
            let guard = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            drop(guard);
            Ok((runtime, handle))
        })?;
        Ok(Self { runtime, handle, namespace: name.to_owned() })
    }

    fn add_link(&self, name: &str, message: LinkMessage) -> Result<()> {
        self.runtime
            .block_on(self.handle.link().add(message).execute())
            .with_context(|| format!("adding the device {name} in {}", self.namespace))
    }

    fn change_link(&self, name: &str, message: LinkMessage) -> Result<()> {
        self.runtime
            .block_on(self.handle.link().change(message).execute())
            .with_context(|| format!("changing the device {name} in {}", self.namespace))
    }

    /// All devices, by index.
    ///
    /// # Errors
    /// Netlink fails.
    pub fn links(&self) -> Result<Vec<LinkMessage>> {
        self.runtime
            .block_on(self.handle.link().get().execute().try_collect())
            .with_context(|| format!("listing the devices of {}", self.namespace))
    }

    /// The index of a device.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn index(&self, device: &str) -> Result<u32> {
        self.find(device)?.ok_or_else(|| anyhow!("there is no device {device} in {}", self.namespace))
    }

    /// The index of a device, if there is one of this name.
    ///
    /// # Errors
    /// Netlink fails.
    pub fn find(&self, device: &str) -> Result<Option<u32>> {
        let named = |l: &LinkMessage| l.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(n) if n == device));
        Ok(self.links()?.into_iter().find(named).map(|l| l.header.index))
    }

    /// The MAC of a device.
    ///
    /// # Errors
    /// There is no such device, or it has none.
    pub fn mac(&self, device: &str) -> Result<Mac> {
        let index = self.index(device)?;
        let links = self.links()?;
        let link = links.into_iter().find(|l| l.header.index == index);
        let mac = link.into_iter().flat_map(|l| l.attributes).find_map(|a| match a {
            LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes).ok(),
            _ => None,
        });
        let bytes = mac.ok_or_else(|| anyhow!("the device {device} in {} has no MAC address", self.namespace))?;
        Ok(Mac { bytes })
    }

    /// Sets a device up.
    ///
    /// # Errors
    /// There is no such device, or the kernel refuses.
    pub fn up(&self, device: &str) -> Result<()> {
        self.change_link(device, LinkUnspec::new_with_name(device).up().build())
    }

    /// Waits until a device that is up sends what it is given; see [`until_it_sends`].
    ///
    /// # Errors
    /// There is no such device, or its other end is down.
    pub fn until_it_sends(&self, device: &str) -> Result<()> {
        let ready = until_it_sends(&self.handle, self.index(device)?);
        self.runtime.block_on(ready).with_context(|| format!("{device} in {}", self.namespace))
    }

    /// Sets a device down.
    ///
    /// # Errors
    /// There is no such device, or the kernel refuses.
    pub fn down(&self, device: &str) -> Result<()> {
        self.change_link(device, LinkUnspec::new_with_name(device).down().build())
    }

    /// Sets a device's MTU, in bytes.
    ///
    /// # Errors
    /// There is no such device, or it cannot have this one.
    pub fn set_mtu(&self, device: &str, mtu: u32) -> Result<()> {
        self.change_link(device, LinkUnspec::new_with_name(device).mtu(mtu).build())
    }

    /// Deletes a device.
    ///
    /// # Errors
    /// There is no such device, or the kernel refuses.
    pub fn delete(&self, device: &str) -> Result<()> {
        let index = self.index(device)?;
        self.runtime
            .block_on(self.handle.link().del(index).execute())
            .with_context(|| format!("deleting the device {device} in {}", self.namespace))
    }

    /// Makes a bridge, up.
    ///
    /// # Errors
    /// The name is taken, or there is no bridge driver.
    pub fn add_bridge(&self, device: &str, mtu: u32) -> Result<()> {
        self.add_link(device, LinkBridge::new(device).mtu(mtu).up().build())
    }

    /// Makes `device` a port of `bridge`.
    ///
    /// # Errors
    /// Either does not exist, or the kernel refuses.
    pub fn set_master(&self, device: &str, bridge: &str) -> Result<()> {
        let index = self.index(bridge)?;
        self.change_link(device, LinkUnspec::new_with_name(device).controller(index).build())
    }

    /// Makes a VXLAN device of the kernel's own kind, with static entries only, up.
    ///
    /// # Errors
    /// The name or port is taken, or there is no VXLAN driver.
    pub fn add_vxlan(&self, device: &str, vni: u32, local: Ipv4Addr, port: u16, mac: Mac, mtu: u32) -> Result<()> {
        let link = LinkVxlan::new(device, vni).local(local).port(port).learning(false);
        self.add_link(device, link.address(mac.bytes.to_vec()).mtu(mtu).up().build())
    }

    /// Gives a device an address.
    ///
    /// # Errors
    /// There is no such device, or it has the address already.
    pub fn add_address(&self, device: &str, address: Ipv4Net) -> Result<()> {
        let index = self.index(device)?;
        let request = self.handle.address().add(index, IpAddr::V4(address.addr()), address.prefix_len());
        self.runtime
            .block_on(request.execute())
            .with_context(|| format!("adding {address} to {device} in {}", self.namespace))
    }

    /// Takes an address away from a device. No error if it has none like it.
    ///
    /// # Errors
    /// There is no such device, or the kernel refuses.
    pub fn delete_address(&self, device: &str, address: Ipv4Addr) -> Result<()> {
        let index = self.index(device)?;
        let addresses = self.handle.address();
        let found = addresses.get().set_link_index_filter(index).set_address_filter(IpAddr::V4(address)).execute();
        let found: Vec<_> = self.runtime.block_on(found.try_collect())?;
        for message in found {
            self.runtime
                .block_on(addresses.del(message).execute())
                .with_context(|| format!("taking {address} from {device} in {}", self.namespace))?;
        }
        Ok(())
    }

    /// Adds a route out by a device: by a gateway, or, without one, to neighbours (scope link).
    ///
    /// # Errors
    /// There is no such device, the gateway cannot be reached by it, or the route is there already.
    pub fn add_route(&self, dst: Ipv4Net, gateway: Option<Ipv4Addr>, device: &str) -> Result<()> {
        let route = self.route(dst, gateway, device)?;
        self.runtime
            .block_on(self.handle.route().add(route).execute())
            .with_context(|| format!("adding the route to {dst} by {device} in {}", self.namespace))
    }

    fn route(&self, dst: Ipv4Net, gateway: Option<Ipv4Addr>, device: &str) -> Result<RouteMessage> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(dst.network(), dst.prefix_len())
            .output_interface(self.index(device)?);
        Ok(match gateway {
            Some(gateway) => route.gateway(gateway).build(),
            None => route.scope(RouteScope::Link).build(),
        })
    }

    /// The routes of the main table that lead out by `device`.
    ///
    /// # Errors
    /// There is no such device.
    pub fn routes(&self, device: &str) -> Result<Vec<RouteMessage>> {
        use netlink_packet_route::route::{RouteAttribute, RouteHeader};
        let index = self.index(device)?;
        let all: Vec<_> = self
            .runtime
            .block_on(self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute().try_collect())
            .with_context(|| format!("listing the routes of {}", self.namespace))?;
        let ours = |r: &RouteMessage| {
            r.header.table == RouteHeader::RT_TABLE_MAIN
                && r.attributes.iter().any(|a| matches!(a, RouteAttribute::Oif(i) if *i == index))
        };
        Ok(all.into_iter().filter(ours).collect())
    }

    /// Deletes a route, as [`Netlink::routes`] returned it.
    ///
    /// # Errors
    /// It is gone already.
    pub fn delete_route(&self, route: RouteMessage) -> Result<()> {
        self.runtime
            .block_on(self.handle.route().del(route).execute())
            .with_context(|| format!("deleting a route in {}", self.namespace))
    }

    /// Sets a permanent neighbour (ARP) entry.
    ///
    /// # Errors
    /// There is no such device.
    pub fn set_neighbour(&self, device: &str, address: Ipv4Addr, mac: Mac) -> Result<()> {
        let request = self.handle.neighbours().add(self.index(device)?, IpAddr::V4(address));
        self.runtime
            .block_on(request.link_layer_address(&mac.bytes).replace().execute())
            .with_context(|| format!("setting the neighbour {address} of {device} in {}", self.namespace))
    }

    /// Puts another qdisc in the place of a device's root.
    ///
    /// # Errors
    /// There is no such device, or the kernel has no such qdisc.
    pub fn replace_root_qdisc(&self, device: &str, attributes: Vec<TcAttribute>) -> Result<()> {
        let mut message = TcMessage::with_index(i32::try_from(self.index(device)?)?);
        message.header.parent = TcHandle::ROOT;
        message.attributes = attributes;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.runtime
            .block_on(async {
                let mut answers = self.handle.clone().request(request)?;
                while let Some(answer) = answers.next().await {
                    if let NetlinkPayload::Error(error) = answer.payload {
                        return Err(rtnetlink::Error::NetlinkError(error));
                    }
                }
                Ok(())
            })
            .with_context(|| format!("changing the root qdisc of {device} in {}", self.namespace))
    }

    /// Gives a device its root qdisc back.
    ///
    /// # Errors
    /// There is no such device, or it has the one that it came with.
    pub fn delete_root_qdisc(&self, device: &str) -> Result<()> {
        let mut request = self.handle.qdisc().del(i32::try_from(self.index(device)?)?);
        request.message_mut().header.parent = TcHandle::ROOT;
        self.runtime
            .block_on(request.execute())
            .with_context(|| format!("deleting the root qdisc of {device} in {}", self.namespace))
    }

    /// Sets a permanent forwarding entry of a VXLAN device: frames to `mac` go to the machine `remote`.
    ///
    /// # Errors
    /// There is no such device, or it is no VXLAN device.
    pub fn set_vxlan_peer(&self, device: &str, mac: Mac, remote: Ipv4Addr) -> Result<()> {
        use netlink_packet_route::neighbour::NeighbourFlags;
        let request = self.handle.neighbours().add_bridge(self.index(device)?, &mac.bytes);
        let request = request.destination(IpAddr::V4(remote)).flags(NeighbourFlags::Own).replace();
        self.runtime
            .block_on(request.execute())
            .with_context(|| format!("setting the forwarding entry of {mac} on {device} in {}", self.namespace))
    }
}
