//! Which backend a packet to a Service goes to, and between whom packets then are: docs/ARCHITECTURE.md, "Services".
//!
//! In: a packet's [`Place`], and what the programs have chosen where they may choose. Out: the place of the flow to the backend, or
//! why there is none. Never: a choice of its own.

use margay_maps::ServiceState;

use super::{
    End, Entry, Fate, Key, Model, Place, Verdict,
    parse::{About, Ip},
};
use crate::fuzz::{
    mutate::GATEWAY,
    readdress::{Change, Kind},
    services::{Name, Service},
};

/// What the programs have chosen: the backend in the entry of this key, if it is one that leads to a backend.
pub type Chosen<'a> = &'a dyn Fn(&Key) -> Option<End>;

const UDP: u8 = 17;

// === impl Place ===

impl Place {
    /// The place of the flow to this backend. A pod that is led to itself goes by another name.
    fn led_to(self, backend: End) -> Self {
        let (client, service) = self.key.ends(self.half);
        let from = if client.ip == backend.ip { End { ip: GATEWAY, ..client } } else { client };
        let (key, half) = Key::of(from, backend, self.key.protocol);
        Self { key, half, nat: Some(service), ..self }
    }

    /// How a packet of this place is readdressed, in a flow that this half opened, whose opener knows the other end as `nat`.
    pub(super) fn change(&self, opener: u32, nat: Option<End>) -> Option<Change> {
        let (from, to) = self.key.ends(self.half);
        let about = self.error.then_some(self.key.protocol);
        if let Some(service) = self.nat {
            let client = if from.ip == GATEWAY { End { ip: to.ip, ..from } } else { from };
            return Some(Change { kind: Kind::Question, was: (client, service), to: (from, to), about });
        }
        let service = nat.filter(|_| opener != self.half)?;
        let client = if to.ip == GATEWAY { End { ip: from.ip, ..to } } else { to };
        Some(Change { kind: Kind::Answer, was: (from, to), to: (service, client), about })
    }
}

// === impl Model ===

impl Model {
    /// Where a pod's packet goes, if it is for a Service; the place that it has, if it is not.
    pub(super) fn lead(&mut self, ip: &Ip, place: Place, chosen: Chosen<'_>) -> Result<Place, Fate> {
        if let Some(about) = place.other {
            return Ok(self.lead_error(ip, about).unwrap_or(place));
        }
        if place.stateless {
            return Ok(place);
        }
        let Place { key, half, opens, .. } = place;
        let (client, service) = key.ends(half);
        let name = (service, key.protocol);
        let entry = self.flows.get(&key).copied();
        let is_denial = |entry: &Entry| matches!(entry.verdict, Verdict::EgressDenied | Verdict::IngressDenied);
        if entry.is_some_and(|entry| is_denial(&entry) && entry.current && entry.opener == half) {
            return Ok(place);
        }
        let choice = entry.filter(|entry| entry.verdict == Verdict::Translated && entry.opener == half);
        let known = choice.and_then(|entry| entry.nat);
        if let Some(backend) = known.filter(|_| !opens && choice.is_some_and(|entry| entry.current)) {
            return Ok(place.led_to(backend));
        }
        // A SYN on a connection that is over begins another.
        let known = known.filter(|backend| !opens || self.is_open(&place.led_to(*backend).key));
        let is_established = !opens && key.protocol != UDP;
        let Some(there) = self.world.services.by_name.get(&name).cloned() else {
            return Ok(known.filter(|_| is_established).map_or(place, |backend| place.led_to(backend)));
        };
        let kept = known.filter(|backend| is_established || there.backends.contains(backend));
        let backend = match (kept, there.state) {
            (Some(backend), _) => backend,
            (None, ServiceState::NoEndpoints) => return Err(Fate::Reject),
            (None, ServiceState::NoneHere) => return Err(Fate::Drop),
            (None, ServiceState::Served) => self.pick(client, name, &there, chosen(&key))?,
        };
        let choice = Entry {
            verdict: Verdict::Translated,
            opener: half,
            closed: false,
            by_host: false,
            current: true,
            nat: Some(backend),
        };
        self.flows.insert(key, choice);
        Ok(place.led_to(backend))
    }

    /// Whether what was chosen is one of the Service's, and the client's last one where that counts.
    fn pick(&mut self, client: End, name: Name, service: &Service, chosen: Option<End>) -> Result<End, Fate> {
        let Some(backend) = chosen.filter(|backend| service.backends.contains(backend)) else {
            return Err(Fate::Wrong("what was chosen is none of the Service's backends"));
        };
        if service.affinity_secs == 0 {
            return Ok(backend);
        }
        let services = &mut self.world.services;
        let last = services.affinities.insert((client.ip, name), (backend, services.clock));
        let due = last
            .filter(|(last, used)| services.clock - used < service.affinity_secs && service.backends.contains(last));
        match due {
            Some((last, _)) if last != backend => Err(Fate::Wrong("the client's last backend was not chosen")),
            _ => Ok(backend),
        }
    }

    /// The place of a client's error about what it got from a Service, if it did.
    fn lead_error(&self, ip: &Ip, about: About) -> Option<Place> {
        let (service, client) = (End::of(about.src), End::of(about.dst));
        let (key, half) = Key::of(service, client, about.protocol);
        let half = 1 - half;
        let choice = self.flows.get(&key).filter(|e| e.verdict == Verdict::Translated && e.opener == half)?;
        let is_client = ip.src == client.ip && self.world.pods.get(&ip.src) == Some(&true);
        let place = Place::of(key, half);
        let place = Place { stateless: true, error: true, ..place.led_to(choice.nat?) };
        let allowed = self.flows.get(&place.key).is_some_and(|entry| entry.verdict == Verdict::Allowed);
        (is_client && allowed).then_some(place)
    }

    fn is_open(&self, key: &Key) -> bool {
        self.flows.get(key).is_some_and(|entry| entry.verdict == Verdict::Allowed && !entry.closed)
    }
}
