//! What the kernel has: interfaces, addresses and routes, as one value.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use futures::{TryStreamExt, future::join_all};
use ipnet::IpNet;
use margay_maps::Mac;
use rtnetlink::{
    LinkGetRequest, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
    },
};

use super::{Hint, Host, HostError, ROUTE_PROTOCOL};
use crate::names::WORKLOAD_PREFIX;
use crate::plan::{FibRoute, HostView, Interface};

// === impl Host ===

impl Host {
    /// Everything that the plan depends on. Of what `previous` holds only that is looked at again at which the `hint` points, and
    /// the interfaces in `fresh`, whose pods' MACs may have changed without a word.
    ///
    /// # Errors
    /// The kernel refused a request.
    pub async fn view(
        &self,
        previous: Option<HostView>,
        hint: &Hint,
        fresh: &BTreeSet<String>,
    ) -> Result<HostView, HostError> {
        let Some(mut view) = previous.filter(|_| !hint.everything) else { return self.whole_view().await };
        let loses_routes = |index: &u32| view.interfaces.get(index).is_some_and(|interface| interface.up);
        let routes = hint.routes || hint.down.iter().any(loses_routes);
        self.look_at_links(&mut view, hint, fresh).await?;
        if hint.addresses {
            view.addresses = self.addresses().await?;
        }
        if routes {
            view.fib = self.fib().await?;
        }
        Ok(view)
    }

    async fn whole_view(&self) -> Result<HostView, HostError> {
        let links = self.links().await?;
        let mut interfaces: BTreeMap<u32, Interface> = links.iter().map(|l| (l.header.index, interface(l))).collect();
        for link in &links {
            let peer_mac = self.peer_mac(link, &interfaces).await;
            if let Some(interface) = interfaces.get_mut(&link.header.index) {
                interface.peer_mac = peer_mac;
            }
        }
        Ok(HostView { interfaces, addresses: self.addresses().await?, fib: self.fib().await? })
    }

    /// Brings the interfaces up to date that may have changed, each by a request of its own: on a node with many pods a dump
    /// of all costs milliseconds.
    async fn look_at_links(&self, view: &mut HostView, hint: &Hint, fresh: &BTreeSet<String>) -> Result<(), HostError> {
        let unfinished = |interface: &Interface| {
            interface.name.starts_with(WORKLOAD_PREFIX)
                && interface.peer_mac.is_none()
                && !fresh.contains(&interface.name)
        };
        let unfinished = view.interfaces.iter().filter(|(_, interface)| unfinished(interface));
        let mut indices: BTreeSet<u32> = unfinished.map(|(index, _)| *index).collect();
        indices.extend(&hint.links);
        let named = join_all(fresh.iter().map(|name| self.link(self.handle.link().get().match_name(name)))).await;
        for (name, link) in fresh.iter().zip(named) {
            // Another of that name has taken its place, or none.
            view.interfaces.retain(|_, interface| interface.name != *name);
            if let Some(link) = link? {
                indices.remove(&link.header.index);
                self.put(view, &link, None).await;
            }
        }
        let numbered =
            join_all(indices.iter().map(|index| self.link(self.handle.link().get().match_index(*index)))).await;
        for (index, link) in indices.into_iter().zip(numbered) {
            let before = view.interfaces.remove(&index);
            if let Some(link) = link? {
                self.put(view, &link, before.and_then(|before| before.peer_mac)).await;
            }
        }
        Ok(())
    }

    async fn put(&self, view: &mut HostView, link: &LinkMessage, known_peer: Option<Mac>) {
        let mut found = interface(link);
        view.interfaces.retain(|_, other| other.name != found.name);
        found.peer_mac = if known_peer.is_some() { known_peer } else { self.peer_mac(link, &view.interfaces).await };
        view.interfaces.insert(link.header.index, found);
    }

    /// One interface; `None` if it is gone.
    pub(super) async fn link(&self, get: LinkGetRequest) -> Result<Option<LinkMessage>, HostError> {
        match without_counters(get).execute().try_next().await {
            Ok(link) => Ok(link),
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::ENODEV => Ok(None),
            Err(e) => Err(HostError::request("looking at an interface")(e)),
        }
    }

    async fn addresses(&self) -> Result<BTreeSet<(IpAddr, u32)>, HostError> {
        let mut addresses = BTreeSet::new();
        let mut dump = self.handle.address().get().execute();
        while let Some(message) = dump.try_next().await.map_err(HostError::request("listing addresses"))? {
            addresses.extend(local_address(&message.attributes).map(|ip| (ip, message.header.index)));
        }
        Ok(addresses)
    }

    async fn fib(&self) -> Result<Vec<FibRoute>, HostError> {
        Ok(self.main_table().await?.iter().filter_map(fib_route).collect())
    }

    async fn links(&self) -> Result<Vec<LinkMessage>, HostError> {
        let dump = without_counters(self.handle.link().get()).execute();
        dump.try_collect().await.map_err(HostError::request("listing interfaces"))
    }

    /// All IPv4 routes of the main table.
    pub(super) async fn main_table(&self) -> Result<Vec<RouteMessage>, HostError> {
        let all = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let dump = self.handle.route().get(all).execute();
        let routes: Vec<RouteMessage> = dump.try_collect().await.map_err(HostError::request("listing routes"))?;
        Ok(routes.into_iter().filter(|r| r.header.table == RouteHeader::RT_TABLE_MAIN).collect())
    }

    /// The MAC of a veth's other end, in whatever namespace that is. The kernel answers for another namespace when
    /// it is named by the id that it has here (`IFLA_TARGET_NETNSID`, 4.20; net/core/rtnetlink.c, `rtnl_getlink`).
    async fn peer_mac(&self, link: &LinkMessage, here: &BTreeMap<u32, Interface>) -> Option<Mac> {
        let peer = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        })?;
        let namespace = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::LinkNetNsId(id) => Some(*id),
            _ => None,
        });
        let Some(namespace) = namespace else { return here.get(&peer).map(|i| i.mac) };
        let mut get = self.handle.link().get().match_index(peer);
        get.message_mut().attributes.push(LinkAttribute::IfNetnsId(namespace));
        // A pod that is just going away takes its end with it: that is no error, and the next pass sees it.
        let answer = get.execute().try_next().await.ok()??;
        Some(mac(&answer))
    }
}

/// Counters are half of what the kernel says of an interface.
fn without_counters(get: LinkGetRequest) -> LinkGetRequest {
    get.set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats])
}

fn interface(link: &LinkMessage) -> Interface {
    let mut name = String::new();
    let mut mtu = 0;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(n) => name.clone_from(n),
            LinkAttribute::Mtu(m) => mtu = *m,
            _ => {}
        }
    }
    Interface { name, mac: mac(link), mtu, up: link.header.flags.contains(LinkFlags::Up), peer_mac: None }
}

/// The interface's MAC; zero where it has none.
pub(super) fn mac(link: &LinkMessage) -> Mac {
    let bytes = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    Mac { bytes: bytes.unwrap_or_default() }
}

/// The address itself: `Local` where the kernel gives both ends of a point-to-point address, else `Address`.
fn local_address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

/// A route to other machines, if this is one and not ours.
fn fib_route(route: &RouteMessage) -> Option<FibRoute> {
    let ours = RouteProtocol::from(ROUTE_PROTOCOL);
    if route.header.kind != RouteType::Unicast || route.header.protocol == ours {
        return None;
    }
    let mut ifindex = None;
    let mut gateway = None;
    let mut metric = 0;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(via) => gateway = address_of(via),
            RouteAttribute::MultiPath(hops) => {
                // Of several ways the first is as good as any; it is the whole way or none.
                let Some(hop) = hops.first() else { continue };
                ifindex = Some(hop.interface_index);
                gateway = hop.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Gateway(via) => address_of(via),
                    _ => None,
                });
            }
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    Some(FibRoute { dst: destination(route)?, ifindex: ifindex?, gateway, metric })
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// The route's destination; the default route has no attribute for it.
pub(super) fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    let len = route.header.destination_prefix_length;
    match address {
        Some(ip) => IpNet::new(ip, len).ok(),
        None if len == 0 => IpNet::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0).ok(),
        None => None,
    }
}
