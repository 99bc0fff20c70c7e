//! The routes of the host's stack that are Margay's: added, replaced and removed until they are exactly the planned.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use tracing::info;

use super::{Host, HostError, ROUTE_PROTOCOL, observe::destination};
use crate::plan::{HostRoute, RouteTarget};

/// A route that the kernel has, with the message that names it for removal.
struct Found {
    route: HostRoute,
    message: RouteMessage,
}

// === impl Host ===

impl Host {
    /// Makes the kernel's routes of our protocol exactly `wanted`. `overlay`: the overlay device, for routes through
    /// it; while there is none those wait. Says how many changes it made.
    ///
    /// # Errors
    /// The first request that the kernel refused; the others are made all the same.
    pub async fn ensure_routes(&self, wanted: &BTreeSet<HostRoute>, overlay: Option<u32>) -> Result<usize, HostError> {
        let wanted: BTreeSet<HostRoute> = wanted.iter().filter_map(|r| resolve(r, overlay)).collect();
        let found = self.own_routes().await?;
        let present: BTreeSet<&HostRoute> = found.iter().map(|f| &f.route).collect();
        let mut first_error = None;
        let mut changes = 0;
        for route in wanted.iter().filter(|r| !present.contains(r)) {
            info!(route = %describe(route), "adding a route");
            changes += 1;
            // Replaces the one of the same destination in one step: there is no moment without a route.
            let added = self.handle.route().add(message(route)).replace().execute().await;
            let added = added.map_err(HostError::request(format!("adding the route {}", describe(route))));
            first_error = first_error.or(added.err());
        }
        let kept: BTreeSet<IpNet> = wanted.iter().map(|r| r.dst).collect();
        for stale in found.iter().filter(|f| !wanted.contains(&f.route) && !kept.contains(&f.route.dst)) {
            info!(route = %describe(&stale.route), "removing a route");
            changes += 1;
            let removed = self.handle.route().del(stale.message.clone()).execute().await;
            let removed = removed.map_err(HostError::request(format!("removing the route {}", describe(&stale.route))));
            first_error = first_error.or(removed.err());
        }
        first_error.map_or(Ok(changes), Err)
    }

    async fn own_routes(&self) -> Result<Vec<Found>, HostError> {
        let ours = RouteProtocol::from(ROUTE_PROTOCOL);
        let table = self.main_table().await?;
        let ours = table.into_iter().filter(|r| r.header.protocol == ours);
        Ok(ours.filter_map(|message| Some(Found { route: parse(&message)?, message })).collect())
    }
}

/// The route with the overlay device's index; `None` while there is no such device.
fn resolve(route: &HostRoute, overlay: Option<u32>) -> Option<HostRoute> {
    let target = match &route.target {
        RouteTarget::Overlay { source } => RouteTarget::Device { ifindex: overlay?, source: *source },
        other => other.clone(),
    };
    Some(HostRoute { dst: route.dst, target })
}

fn parse(message: &RouteMessage) -> Option<HostRoute> {
    let dst = destination(message)?;
    if message.header.kind == RouteType::BlackHole {
        return Some(HostRoute { dst, target: RouteTarget::Blackhole });
    }
    let mut ifindex = 0;
    let mut source = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = *index,
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => source = Some(IpAddr::V4(*ip)),
            _ => {}
        }
    }
    Some(HostRoute { dst, target: RouteTarget::Device { ifindex, source } })
}

fn message(route: &HostRoute) -> RouteMessage {
    let IpAddr::V4(network) = route.dst.network() else {
        // The planner makes no others yet; an empty message is refused by the kernel, and that is reported.
        return RouteMessage::default();
    };
    let builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network, route.dst.prefix_len())
        .protocol(RouteProtocol::from(ROUTE_PROTOCOL));
    match route.target {
        RouteTarget::Blackhole => builder.kind(RouteType::BlackHole).build(),
        RouteTarget::Device { ifindex, source } => {
            let builder = builder.output_interface(ifindex).scope(RouteScope::Link);
            match source {
                Some(IpAddr::V4(source)) => builder.pref_source(source).build(),
                _ => builder.build(),
            }
        }
        RouteTarget::Overlay { .. } => RouteMessage::default(),
    }
}

fn describe(route: &HostRoute) -> String {
    match &route.target {
        RouteTarget::Blackhole => format!("blackhole {}", route.dst),
        RouteTarget::Overlay { .. } => format!("{} by the overlay", route.dst),
        RouteTarget::Device { ifindex, source: Some(source) } => {
            format!("{} by interface {ifindex}, source {source}", route.dst)
        }
        RouteTarget::Device { ifindex, source: None } => format!("{} by interface {ifindex}", route.dst),
    }
}
