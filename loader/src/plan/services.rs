//! Which backends stand for each Service, on this node.
//!
//! In: the model, and which node this is. Out: the whole content of `services`, `backends` and `members`. Never: a backend that is
//! not ready while another is, or one of another node where only this node's may be used.
//!
//! A set of backends has its content's hash for an id: it is never changed, only replaced, and Services with the same endpoints
//! share it.

use std::collections::BTreeMap;

use margay_maps::{Backend, BackendKey, Id, Member, Service, ServiceKey, ServiceState, layout};
use serde::{Deserialize, Serialize};

use crate::model::Model;
use crate::model::service::{self, Reach, ServicePort};
use crate::object::service::EndpointState;
use crate::policy::hash::Hash8;
use crate::problem::Problem;

/// What the maps of Services should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// The whole content of the map `services`.
    pub services: BTreeMap<ServiceKey, Service>,
    /// The whole content of the map `backends`.
    pub backends: BTreeMap<BackendKey, Backend>,
    /// The whole content of the map `members`.
    pub members: BTreeMap<Member, u32>,
    /// What people call the entries of `services`, in their order.
    pub titles: Vec<ServiceTitle>,
    /// What does not fit. Then the content is not to be written.
    pub problem: Option<Problem>,
}

/// What people call a Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTitle {
    /// Address, port and protocol, as [`ServiceKey`] is printed.
    pub key: String,
    /// `namespace/name`.
    pub service: String,
    /// The port's name; empty where it has none.
    pub port: String,
}

/// What should be in force on `node`.
pub fn services(model: &Model, node: &str) -> ServicePlan {
    let mut plan = ServicePlan::default();
    let mut titles = BTreeMap::new();
    for (name, service) in &model.services {
        for port in &service.ports {
            let (state, chosen) = choose(port, service.reach, node);
            let set = plan.add_set(chosen);
            for address in service.addresses.iter().filter(|ip| ip.is_ipv4()) {
                let key = key(*address, port);
                let value = value(service, state, set);
                plan.services.insert(key, value);
                titles.insert(
                    key,
                    ServiceTitle { key: key.to_string(), service: name.to_string(), port: port.name.clone() },
                );
            }
        }
    }
    plan.titles = titles.into_values().collect();
    plan.problem = overfull(&plan);
    plan
}

fn key(address: std::net::IpAddr, port: &ServicePort) -> ServiceKey {
    let protocol = port.protocol.number();
    ServiceKey { addr: address.into(), port_be: port.number.to_be_bytes(), protocol, pad: 0 }
}

fn value(service: &service::Service, state: ServiceState, (set, count): (Id, u32)) -> Service {
    Service { set, state, count, affinity_secs: service.affinity_secs.unwrap_or_default() }
}

/// The backends that new connections get: those that are ready, or, where there are none, those that drain but still serve
/// (KEP-1669); of these the ones that may be used here.
fn choose(port: &ServicePort, reach: Reach, node: &str) -> (ServiceState, Vec<Backend>) {
    let v4 = || port.backends.iter().filter(|backend| backend.address.is_ipv4());
    let here = |backend: &&service::Backend| match reach {
        Reach::Cluster => true,
        Reach::Local => backend.node.as_deref() == Some(node),
    };
    let in_state = |state| v4().filter(here).filter(move |backend| backend.state == state).map(backend).collect();
    let mut chosen: Vec<Backend> = in_state(EndpointState::Ready);
    if chosen.is_empty() {
        chosen = in_state(EndpointState::Draining);
    }
    let state = match (chosen.is_empty(), v4().next()) {
        (false, _) => ServiceState::Served,
        (true, Some(_)) => ServiceState::NoneHere,
        (true, None) => ServiceState::NoEndpoints,
    };
    chosen.sort_unstable();
    (state, chosen)
}

fn backend(backend: &service::Backend) -> Backend {
    Backend { addr: backend.address.into(), port_be: backend.port.to_be_bytes(), pad: [0; 2] }
}

fn overfull(plan: &ServicePlan) -> Option<Problem> {
    let ServicePlan { services, backends, .. } = plan;
    let full = [(&layout::SERVICES, services.len()), (&layout::BACKENDS, backends.len())]
        .into_iter()
        .find(|(map, entries)| *entries > map.max_entries as usize);
    full.map(|(map, entries)| {
        Problem::new(
            format!("map {}", map.name),
            format!(
                "it would need {entries} entries and can hold {}; no change of a Service takes effect",
                map.max_entries
            ),
            "have fewer Services or endpoints, or raise the limit in maps/src/layout.rs and build again",
        )
    })
}

// === impl ServicePlan ===

impl ServicePlan {
    /// Adds a set, unless it is there. Its id, and how many backends it has.
    fn add_set(&mut self, backends: Vec<Backend>) -> (Id, u32) {
        if backends.is_empty() {
            return (Id::NONE, 0);
        }
        let mut hash = Hash8::new("backends");
        hash.number(backends.len());
        for Backend { addr, port_be, pad: _ } in &backends {
            hash.bytes(&addr.bytes).bytes(port_be);
        }
        let set = hash.id();
        let count = backends.len() as u32;
        for (index, backend) in (0..).zip(backends) {
            self.backends.insert(BackendKey { set, index }, backend);
            self.members.insert(Member { set, backend }, index);
        }
        (set, count)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::object::{Protocol, ServiceName};

    fn backend(address: &str, state: EndpointState, node: &str) -> service::Backend {
        service::Backend { address: address.parse().unwrap(), port: 8080, state, node: Some(node.into()), zone: None }
    }

    fn model(reach: Reach, backends: Vec<service::Backend>) -> Model {
        let port = ServicePort { name: "web".to_owned(), protocol: Protocol::Tcp, number: 80, backends };
        let addresses: Vec<IpAddr> = vec!["10.96.0.10".parse().unwrap(), "fd00::10".parse().unwrap()];
        let service = service::Service { addresses, ports: vec![port], affinity_secs: Some(60), reach };
        let services = BTreeMap::from([(ServiceName::new("default", "web"), service)]);
        Model { services, ..Model::default() }
    }

    fn one(plan: &ServicePlan) -> (ServiceState, Vec<String>) {
        assert_eq!(plan.services.len(), 1, "its IPv4 address");
        let service = *plan.services.values().next().unwrap();
        let backends =
            (0..service.count).map(|index| plan.backends[&BackendKey { set: service.set, index }].to_string());
        (service.state, backends.collect())
    }

    #[test]
    fn the_ready_ones_serve_and_the_draining_ones_where_there_are_no_others() {
        use EndpointState::{Draining, Ready};
        let (a, b, c) = ("10.244.1.2", "10.244.2.2", "fd00::2");
        let cases = [
            (Reach::Cluster, vec![(a, Ready, "n1"), (b, Draining, "n2")], ServiceState::Served, vec![a]),
            (Reach::Cluster, vec![(a, Draining, "n1"), (b, Draining, "n2")], ServiceState::Served, vec![a, b]),
            (Reach::Cluster, vec![(c, Ready, "n1")], ServiceState::NoEndpoints, vec![]),
            (Reach::Cluster, vec![], ServiceState::NoEndpoints, vec![]),
            (Reach::Local, vec![(a, Ready, "n1"), (b, Ready, "n2")], ServiceState::Served, vec![a]),
            (Reach::Local, vec![(a, Draining, "n1"), (b, Ready, "n2")], ServiceState::Served, vec![a]),
            (Reach::Local, vec![(b, Ready, "n2")], ServiceState::NoneHere, vec![]),
            (Reach::Local, vec![], ServiceState::NoEndpoints, vec![]),
        ];
        for (reach, endpoints, state, expected) in cases {
            let backends = endpoints.iter().map(|(ip, state, node)| backend(ip, *state, node)).collect();
            let expected: Vec<String> = expected.iter().map(|ip| format!("{ip}:8080")).collect();
            assert_eq!(one(&services(&model(reach, backends), "n1")), (state, expected), "{endpoints:?}");
        }
    }

    #[test]
    fn a_set_is_named_by_its_content_and_every_backend_is_a_member() {
        let plan = |ips: &[&str]| {
            let backends = ips.iter().map(|ip| backend(ip, EndpointState::Ready, "n1")).collect();
            services(&model(Reach::Cluster, backends), "n1")
        };
        let set = |plan: &ServicePlan| plan.services.values().next().unwrap().set;
        let (ab, ba, a) = (plan(&["10.0.0.1", "10.0.0.2"]), plan(&["10.0.0.2", "10.0.0.1"]), plan(&["10.0.0.1"]));
        assert_eq!(ab, ba);
        assert_ne!(set(&ab), set(&a));
        for (BackendKey { set, index }, backend) in ab.backends.iter().map(|(k, v)| (*k, *v)) {
            assert_eq!(ab.members.get(&Member { set, backend }), Some(&index));
        }
        assert_eq!(ab.members.len(), ab.backends.len());
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let many: Vec<_> = (0..70_000_u32)
            .map(|i| backend(&IpAddr::from((0x0a00_0000 + i).to_be_bytes()).to_string(), EndpointState::Ready, "n1"))
            .collect();
        let problem = services(&model(Reach::Cluster, many), "n1").problem.unwrap();
        assert!(problem.what.contains("70000") && problem.what.contains("65536"), "{problem}");
    }
}
