//! A signal whenever an interface, address or route changes, and a hint at what it was.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt;
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkFlags, LinkMessage},
        route::{RouteHeader, RouteMessage, RouteProtocol},
    },
};
use tokio::sync::mpsc;

use super::{Host, HostError, ROUTE_PROTOCOL, routes};
use crate::plan::HostRoute;

/// What is to be looked at again. What it is like now the kernel has to be asked: what it said of it may be old.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// Indices of interfaces.
    pub(super) links: BTreeSet<u32>,
    /// Those of them that were down at some time: the kernel then drops their routes, and does not say so.
    pub(super) down: BTreeSet<u32>,
    /// Routes of our protocol that have been added: nothing is to be looked at if they are those that we have.
    pub(super) added: BTreeSet<HostRoute>,
    /// Routes of our protocol that have been removed: likewise.
    pub(super) removed: BTreeSet<HostRoute>,
    /// All addresses.
    pub(super) addresses: bool,
    /// All routes.
    pub(super) routes: bool,
    /// Everything.
    pub(super) everything: bool,
}

/// The hints that nobody has taken yet.
#[derive(Clone, Debug, Default)]
pub struct Hints(Arc<Mutex<Hint>>);

// === impl Hints ===

impl Hints {
    /// Takes what there is.
    pub fn take(&self) -> Hint {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, message: &NetlinkMessage<RouteNetlinkMessage>) -> News {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).note(message)
    }
}

/// Whether somebody should look at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// Yes.
    Yes,
    /// A route of ours has come, as it does when we add it: the next look is soon enough.
    Own,
}

// === impl Hint ===

impl Hint {
    /// Whether an interface or its addresses may have changed.
    pub fn concerns(&self, index: u32) -> bool {
        self.everything || self.addresses || self.links.contains(&index)
    }

    fn note(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) -> News {
        match &message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => self.link(link),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                self.down.insert(link.header.index);
                self.link(link);
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_)) => {
                // With an address go the routes that have it as their source, and the kernel does not say so.
                (self.addresses, self.routes) = (true, true);
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                if let Some(own) = own(route) {
                    self.added.insert(own);
                    return News::Own;
                }
                self.routes |= is_of_main_table(route);
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => match own(route) {
                Some(own) => drop(self.removed.insert(own)),
                None => self.routes |= is_of_main_table(route),
            },
            _ => self.everything = true,
        }
        News::Yes
    }

    fn link(&mut self, link: &LinkMessage) {
        self.links.insert(link.header.index);
        if !link.header.flags.contains(LinkFlags::Up) {
            self.down.insert(link.header.index);
        }
    }
}

fn is_of_main_table(route: &RouteMessage) -> bool {
    route.header.table == RouteHeader::RT_TABLE_MAIN
}

fn own(route: &RouteMessage) -> Option<HostRoute> {
    let ours = is_of_main_table(route) && route.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL);
    if ours { routes::parse(route) } else { None }
}

// === impl Host ===

impl Host {
    /// A channel of capacity one that has a message in it whenever something changed since it was last read, and hints at what
    /// changed. An overrun of the socket is a change of everything.
    ///
    /// # Errors
    /// No socket could be had.
    pub fn watch() -> Result<(mpsc::Receiver<()>, Hints), HostError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
        let (connection, handle, mut messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(HostError::Socket)?;
        tokio::spawn(connection);
        let (changed, signal) = mpsc::channel(1);
        let hints = Hints::default();
        let noted = hints.clone();
        tokio::spawn(async move {
            // The connection ends when its last handle does.
            let _handle = handle;
            while let Some((message, _from)) = messages.next().await {
                if noted.note(&message) == News::Own {
                    continue;
                }
                // A full channel says already that something changed.
                if let Err(mpsc::error::TrySendError::Closed(())) = changed.try_send(()) {
                    return;
                }
            }
        });
        Ok((signal, hints))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, flags: LinkFlags) -> LinkMessage {
        let mut link = LinkMessage::default();
        (link.header.index, link.header.flags) = (index, flags);
        link
    }

    fn hint(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> (Hint, Vec<News>) {
        let mut hint = Hint::default();
        let news = messages.into_iter().map(|message| hint.note(&NetlinkMessage::from(message))).collect();
        (hint, news)
    }

    fn route(protocol: u8, table: u8) -> RouteMessage {
        let mut route = rtnetlink::RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix([10, 0, 0, 1].into(), 32)
            .output_interface(7)
            .build();
        (route.header.protocol, route.header.table) = (RouteProtocol::from(protocol), table);
        route
    }

    #[test]
    fn an_interface_that_was_down_may_have_lost_routes() {
        let (up, down) = (LinkFlags::Up, LinkFlags::empty());
        let (hint, _) = hint([
            RouteNetlinkMessage::NewLink(link(1, up)),
            RouteNetlinkMessage::NewLink(link(2, down)),
            RouteNetlinkMessage::NewLink(link(2, up)),
            RouteNetlinkMessage::DelLink(link(3, up)),
        ]);
        assert_eq!(hint, Hint { links: [1, 2, 3].into(), down: [2, 3].into(), ..Hint::default() });
    }

    #[test]
    fn a_route_of_ours_is_no_news_and_others_are() {
        let main = RouteHeader::RT_TABLE_MAIN;
        let (ours, news) = hint([RouteNetlinkMessage::NewRoute(route(ROUTE_PROTOCOL, main))]);
        assert_eq!((ours.added.len(), ours.routes, news), (1, false, vec![News::Own]));
        let (lost, news) = hint([RouteNetlinkMessage::DelRoute(route(ROUTE_PROTOCOL, main))]);
        assert_eq!((lost.removed.len(), lost.routes, news), (1, false, vec![News::Yes]));
        let (others, news) = hint([RouteNetlinkMessage::NewRoute(route(3, main))]);
        assert_eq!((others, news), (Hint { routes: true, ..Hint::default() }, vec![News::Yes]));
        let (local, _) = hint([RouteNetlinkMessage::NewRoute(route(2, 255))]);
        assert_eq!(local, Hint::default());
    }
}
