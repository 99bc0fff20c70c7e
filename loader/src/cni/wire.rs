//! The pod's veth pair: made, and taken away.
//!
//! ```text
//!  host                                       pod
//!    caliX  ee:ee:ee:ee:ee:ee  ── veth pair ──  eth0  addresses/32, default via 169.254.1.1
//! ```
//!
//! In: names, addresses and the path of a network namespace. Out: devices. Never: anything that the agent keeps (programs,
//! the host's route to the pod, sysctls of `cali*`). Whatever fails half-way is taken away again.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd as _,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use futures::TryStreamExt as _;
use margay_maps::Mac;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
        route::RouteScope,
    },
};
use tokio::runtime::{Builder, Runtime};

/// The gateway of every pod, as Calico has it. Nobody has the address: eBPF answers for it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A pod's interface to be made.
#[derive(Clone, Debug)]
pub struct Wire<'a> {
    /// The pod's side.
    pub interface: &'a str,
    /// The pod's side's MAC; `None`: the kernel chooses.
    pub mac: Option<Mac>,
    /// The pod's addresses.
    pub addresses: &'a [IpAddr],
    /// The MTU of both sides, in bytes.
    pub mtu: u32,
}

/// A netlink connection in one network namespace.
struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

// === impl Netlink ===

impl Netlink {
    /// In the namespace of the calling thread.
    fn here() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build().context("starting the runtime")?;
        let guard = runtime.enter();
        let (connection, handle, _messages) = rtnetlink::new_connection().context("opening a netlink socket")?;
        runtime.spawn(connection);
        drop(guard);
        Ok(Self { runtime, handle })
    }

    fn find(&self, name: &str) -> Result<Option<LinkMessage>> {
        let found = self.handle.link().get().match_name(name.to_owned()).execute();
        match self.runtime.block_on(found.try_collect::<Vec<_>>()) {
            Ok(links) => Ok(links.into_iter().next()),
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::ENODEV => Ok(None),
            Err(e) => Err(e).with_context(|| format!("looking for the device {name}")),
        }
    }

    /// One that is gone already is no error.
    fn delete(&self, index: u32) -> Result<()> {
        match self.runtime.block_on(self.handle.link().del(index).execute()) {
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::ENODEV => Ok(()),
            other => other.context("deleting the device"),
        }
    }

    fn loopback_up(&self) -> Result<()> {
        let message = LinkUnspec::new_with_name("lo").up().build();
        self.runtime.block_on(self.handle.link().change(message).execute()).context("setting lo up")
    }

    /// Sets MTU and MAC, and the device up.
    fn up(&self, index: u32, mtu: u32, mac: Option<Mac>) -> Result<()> {
        let mut message = LinkUnspec::new_with_index(index).mtu(mtu).up();
        if let Some(mac) = mac {
            message = message.address(mac.bytes.to_vec());
        }
        self.runtime.block_on(self.handle.link().change(message.build()).execute()).context("setting the device up")
    }
}

/// The host's side of a pair that was made here. The name may be another pair's by the time it is used: a second sandbox
/// of the same pod takes it over.
#[derive(Clone, Copy, Debug)]
pub struct HostSide {
    index: u32,
}

// === impl HostSide ===

impl HostSide {
    /// Takes the pair away; one that is not there any more is no error.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(self) -> Result<()> {
        Netlink::here()?.delete(self.index)
    }
}

/// Makes the pair, both ends down. What an earlier call left under the host's name is taken away first.
///
/// The agent sees the new `cali*` at once and attaches its programs while the caller still asks for addresses.
///
/// # Errors
/// The namespace is gone, the pod's name is taken, or the kernel refused; nothing is left then.
pub fn make(netns: &File, host_interface: &str, interface: &str) -> Result<HostSide> {
    let host = Netlink::here()?;
    if let Some(leftover) = host.find(host_interface)? {
        host.delete(leftover.header.index)?;
    }
    let peer = LinkUnspec::new_with_name(interface).setns_by_fd(netns.as_raw_fd()).build();
    let pair = LinkVeth::new(host_interface, interface)
        .address(Mac::GATEWAY.bytes.to_vec())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    let names = || format!("making the veth pair {host_interface} and {interface}");
    host.runtime.block_on(host.handle.link().add(pair).execute()).with_context(names)?;
    // By way of the pod's side: by now the host's name may be another pair's.
    let pod = inside(netns, || Netlink::here()?.find(interface))?;
    let peer = pod.iter().flat_map(|link| &link.attributes).find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    Ok(HostSide { index: peer.ok_or_else(|| anyhow!("the new {interface} has vanished from the pod"))? })
}

/// Gives both ends what they need and sets them up. Returns the pod side's MAC.
///
/// # Errors
/// The namespace or the pair is gone, or the kernel refused.
pub fn configure(netns: &File, host: HostSide, wire: &Wire<'_>) -> Result<Mac> {
    let mac = inside(netns, || configure_pod(wire))?;
    Netlink::here()?.up(host.index, wire.mtu, None).context("the host's side")?;
    Ok(mac)
}

/// The pod's side: loopback up, addresses, the route to the gateway and by it to everywhere.
fn configure_pod(wire: &Wire<'_>) -> Result<Mac> {
    let pod = Netlink::here()?;
    pod.loopback_up()?;
    let gone = || anyhow!("the pod has no {}", wire.interface);
    let index = pod.find(wire.interface)?.ok_or_else(gone)?.header.index;
    pod.up(index, wire.mtu, wire.mac).with_context(|| format!("the pod's {}", wire.interface))?;
    let link = pod.find(wire.interface)?.ok_or_else(gone)?;
    for ip in wire.addresses {
        let len = if ip.is_ipv4() { 32 } else { 128 };
        let added = pod.runtime.block_on(pod.handle.address().add(index, *ip, len).execute());
        added.with_context(|| format!("giving {} the address {ip}", wire.interface))?;
    }
    let gateway = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index);
    let to_gateway = gateway.clone().destination_prefix(GATEWAY, 32).scope(RouteScope::Link).build();
    let default = gateway.gateway(GATEWAY).build();
    for route in [to_gateway, default] {
        let added = pod.runtime.block_on(pod.handle.route().add(route).execute());
        added.with_context(|| format!("adding a route by {}", wire.interface))?;
    }
    Ok(mac_of(&link))
}

fn mac_of(link: &LinkMessage) -> Mac {
    let bytes = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    Mac { bytes: bytes.unwrap_or_default() }
}

/// Takes the pair away by its host's side; one that is not there is no error.
///
/// # Errors
/// The kernel refused.
pub fn remove(host_interface: &str) -> Result<()> {
    let host = Netlink::here()?;
    match host.find(host_interface)? {
        Some(link) => host.delete(link.header.index),
        None => Ok(()),
    }
}

/// Takes the pair away by its pod's side; one that is not there is no error.
///
/// # Errors
/// The kernel refused.
pub fn remove_inside(netns: &File, interface: &str) -> Result<()> {
    inside(netns, || {
        let pod = Netlink::here()?;
        match pod.find(interface)? {
            Some(link) => pod.delete(link.header.index),
            None => Ok(()),
        }
    })
}

/// Whether the pod's side is there, up and has the addresses.
///
/// # Errors
/// Says what is missing.
pub fn check(netns: &File, interface: &str, addresses: &[IpAddr]) -> Result<()> {
    inside(netns, || {
        let pod = Netlink::here()?;
        let link = pod.find(interface)?.ok_or_else(|| anyhow!("the pod has no interface {interface}"))?;
        let dump = pod.handle.address().get().set_link_index_filter(link.header.index).execute();
        let found: Vec<_> = pod.runtime.block_on(dump.try_collect()).context("listing addresses")?;
        for ip in addresses {
            let has = |attribute: &_| matches!(attribute, rtnetlink::packet_route::address::AddressAttribute::Address(a) if a == ip);
            if !found.iter().any(|m| m.attributes.iter().any(has)) {
                return Err(anyhow!("the pod's {interface} has lost the address {ip}"));
            }
        }
        Ok(())
    })
}

/// Runs `f` on a thread of its own in the namespace: the calling thread stays where it is.
fn inside<T: Send>(netns: &File, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let entered = || {
        setns(netns, CloneFlags::CLONE_NEWNET).context("entering the pod's network namespace")?;
        f()
    };
    let joined = thread::scope(|scope| scope.spawn(entered).join());
    joined.unwrap_or_else(|_panic| Err(anyhow!("the thread in the pod's network namespace panicked")))
}
