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

use super::{Hint, Host, HostError, ROUTE_PROTOCOL, observe::destination};
use crate::plan::{HostRoute, HostView, RouteTarget};

/// The routes of our protocol that the kernel is known to have; unknown at first.
#[derive(Clone, Debug, Default)]
pub struct OwnRoutes(Option<BTreeSet<HostRoute>>);

// === impl OwnRoutes ===

impl OwnRoutes {
    /// Forgets what may have changed. `view`: the interfaces before.
    pub fn consider(&mut self, hint: &Hint, view: &HostView) {
        let Some(known) = &self.0 else { return };
        let leads_to = |index: &u32| view.interfaces.get(index).is_some_and(|interface| interface.up);
        let unchanged = !hint.everything
            && !hint.routes
            && !hint.down.iter().any(leads_to)
            && hint.added.is_subset(known)
            && hint.removed.is_disjoint(known);
        if !unchanged {
            self.0 = None;
        }
    }

    /// Forgets all.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

// === impl Host ===

impl Host {
    /// Makes the kernel's routes of our protocol exactly `wanted`. `overlay`: the overlay device, for routes through
    /// it; while there is none those wait. Says how many changes it made.
    ///
    /// # Errors
    /// The first request that the kernel refused; the others are made all the same.
    pub async fn ensure_routes(
        &self,
        wanted: &BTreeSet<HostRoute>,
        overlay: Option<u32>,
        own: &mut OwnRoutes,
    ) -> Result<usize, HostError> {
        let wanted: BTreeSet<HostRoute> = wanted.iter().filter_map(|r| resolve(r, overlay)).collect();
        let found = match own.0.take() {
            Some(known) => known,
            None => self.own_routes().await?,
        };
        let mut first_error = None;
        let mut changes = 0;
        for route in wanted.difference(&found) {
            info!(route = %describe(route), "adding a route");
            changes += 1;
            // Replaces the one of the same destination in one step: there is no moment without a route.
            let added = self.handle.route().add(message(route)).replace().execute().await;
            let added = added.map_err(HostError::request(format!("adding the route {}", describe(route))));
            first_error = first_error.or(added.err());
        }
        let kept: BTreeSet<IpNet> = wanted.iter().map(|r| r.dst).collect();
        for stale in found.difference(&wanted).filter(|route| !kept.contains(&route.dst)) {
            info!(route = %describe(stale), "removing a route");
            changes += 1;
            let removed = self.handle.route().del(message(stale)).execute().await;
            let removed = removed.map_err(HostError::request(format!("removing the route {}", describe(stale))));
            first_error = first_error.or(removed.err());
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        own.0 = Some(wanted);
        Ok(changes)
    }

    async fn own_routes(&self) -> Result<BTreeSet<HostRoute>, HostError> {
        let ours = RouteProtocol::from(ROUTE_PROTOCOL);
        let table = self.main_table().await?;
        Ok(table.iter().filter(|r| r.header.protocol == ours).filter_map(parse).collect())
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

pub(super) fn parse(message: &RouteMessage) -> Option<HostRoute> {
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
