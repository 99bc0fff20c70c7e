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
    rc::Rc,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use futures::{TryStreamExt as _, future::join_all};
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

use crate::host::link::until_it_sends;

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
    runtime: Rc<Runtime>,
    handle: Handle,
}

// === impl Netlink ===

impl Netlink {
    /// In the namespace of the calling thread.
    fn here() -> Result<Self> {
        let runtime = runtime()?;
        let handle = connect(&runtime)?;
        Ok(Self { runtime: Rc::new(runtime), handle })
    }

    /// Here and in the pod's namespace. A socket stays in the namespace in which it was made, whoever uses it.
    fn here_and_inside(netns: &File) -> Result<(Self, Self)> {
        let runtime = runtime()?;
        let (host, pod) = (connect(&runtime)?, inside(netns, || connect(&runtime))?);
        let runtime = Rc::new(runtime);
        Ok((Self { runtime: Rc::clone(&runtime), handle: host }, Self { runtime, handle: pod }))
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

    /// Sets MTU and MAC, and the device up.
    async fn up(&self, index: u32, mtu: u32, mac: Option<Mac>) -> Result<()> {
        let mut message = LinkUnspec::new_with_index(index).mtu(mtu).up();
        if let Some(mac) = mac {
            message = message.address(mac.bytes.to_vec());
        }
        self.handle.link().change(message.build()).execute().await.context("setting the device up")
    }
}

fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build().context("starting the runtime")
}

/// A connection in the namespace of the calling thread.
fn connect(runtime: &Runtime) -> Result<Handle> {
    let _guard = runtime.enter();
    let (connection, handle, _messages) = rtnetlink::new_connection().context("opening a netlink socket")?;
    runtime.spawn(connection);
    Ok(handle)
}

/// A pair that was made here. The host's name may be another pair's by the time it is used: a second sandbox of the same pod
/// takes it over. Hence the numbers.
pub struct Pair {
    host: Netlink,
    pod: Netlink,
    host_index: u32,
    pod_index: u32,
    /// The pod's side's MAC, as the kernel chose it.
    mac: Mac,
}

// === impl Pair ===

impl Pair {
    /// Makes the pair, both ends down. What an earlier call left under the host's name is taken away first.
    ///
    /// The agent sees the new `cali*` at once and attaches its programs while the caller still asks for addresses.
    ///
    /// # Errors
    /// The namespace is gone, the pod's name is taken, or the kernel refused; nothing is left then.
    pub fn make(netns: &File, host_interface: &str, interface: &str) -> Result<Self> {
        let (host, pod) = Netlink::here_and_inside(netns)?;
        let add = || {
            let peer = LinkUnspec::new_with_name(interface).setns_by_fd(netns.as_raw_fd()).build();
            let pair = LinkVeth::new(host_interface, interface)
                .address(Mac::GATEWAY.bytes.to_vec())
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .build();
            host.runtime.block_on(host.handle.link().add(pair).execute())
        };
        let mut added = add();
        if is_taken(&added)
            && let Some(leftover) = host.find(host_interface)?
        {
            host.delete(leftover.header.index)?;
            added = add();
        }
        added.with_context(|| format!("making the veth pair {host_interface} and {interface}"))?;
        // By way of the pod's side: by now the host's name may be another pair's.
        let vanished = || anyhow!("the new {interface} has vanished from the pod");
        let link = pod.find(interface)?.ok_or_else(vanished)?;
        let host_index = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        });
        let (host_index, pod_index, mac) = (host_index.ok_or_else(vanished)?, link.header.index, mac_of(&link));
        Ok(Self { host, pod, host_index, pod_index, mac })
    }

    /// Gives both ends what they need and sets them up: the pod's side addresses, the route to the gateway and by it to
    /// everywhere, and a loopback that is up. From then on both send. Returns the pod side's MAC.
    ///
    /// # Errors
    /// The namespace or the pair is gone, or the kernel refused.
    pub fn configure(&self, wire: &Wire<'_>) -> Result<Mac> {
        let Self { host, pod, host_index, pod_index, mac } = self;
        let name = wire.interface;
        let gateway = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(*pod_index);
        let to_gateway = gateway.clone().destination_prefix(GATEWAY, 32).scope(RouteScope::Link).build();
        let default = gateway.gateway(GATEWAY).build();
        let addresses = wire.addresses.iter().map(|ip| {
            let added = pod.handle.address().add(*pod_index, *ip, if ip.is_ipv4() { 32 } else { 128 }).execute();
            async move { added.await.with_context(|| format!("giving {name} the address {ip}")) }
        });
        let routes = [to_gateway, default].map(|route| {
            let added = pod.handle.route().add(route).execute();
            async move { added.await.with_context(|| format!("adding a route by {name}")) }
        });
        let loopback = LinkUnspec::new_with_name("lo").up().build();
        // Begun in this order, and each request is done when it has been sent: nobody waits for an answer in between.
        let all = async {
            tokio::join!(
                biased;
                pod.handle.link().change(loopback).execute(),
                pod.up(*pod_index, wire.mtu, wire.mac),
                join_all(addresses),
                join_all(routes),
                host.up(*host_index, wire.mtu, None),
            )
        };
        let (loopback, pods, addresses, routes, hosts) = host.runtime.block_on(all);
        loopback.context("setting lo up")?;
        pods.with_context(|| format!("the pod's {name}"))?;
        addresses.into_iter().chain(routes).collect::<Result<()>>()?;
        hosts.context("the host's side")?;
        // Whichever came up first discards packets until the kernel has noticed the other one.
        let both =
            async { tokio::join!(until_it_sends(&host.handle, *host_index), until_it_sends(&pod.handle, *pod_index)) };
        let (hosts, pods) = host.runtime.block_on(both);
        hosts.with_context(|| format!("waiting until the host's side of the pod's {name} sends"))?;
        pods.with_context(|| format!("waiting until the pod's {name} sends"))?;
        Ok(wire.mac.unwrap_or(*mac))
    }

    /// Takes the pair away; one that is not there any more is no error.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self) -> Result<()> {
        self.host.delete(self.host_index)
    }
}

fn is_taken(added: &Result<(), rtnetlink::Error>) -> bool {
    matches!(added, Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::EEXIST)
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
