//! `margay services`: the Services in the maps, with their backends.

use std::collections::BTreeMap;

use anyhow::Result;
use margay_maps::{BackendKey, Service, ServiceKey, ServiceState, user::Maps, user::text::protocol_name};
use serde::Serialize;

use super::{
    list::open,
    output::{Format, Row, list},
};
use crate::{datapath::pins::PinDir, plan::services::ServiceTitle, state::StateDir};

/// How many backends a line of the table names.
const SHOWN: usize = 4;

/// A Service's port.
#[derive(Serialize)]
struct ServiceRow {
    /// `namespace/name`, as far as the agent has said.
    service: Option<String>,
    /// The port's name.
    port_name: Option<String>,
    address: String,
    port: u16,
    protocol: String,
    state: ServiceState,
    /// Seconds for which a client keeps its backend.
    affinity_secs: Option<u32>,
    /// Address and port of each, in the order of the map.
    backends: Vec<String>,
}

impl Row for ServiceRow {
    const HEAD: &'static [&'static str] = &["service", "port", "address", "proto", "affinity", "backends"];
    fn cells(&self) -> Vec<String> {
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            dash(&self.service),
            dash(&self.port_name),
            format!("{}:{}", self.address, self.port),
            self.protocol.clone(),
            self.affinity_secs.map_or_else(|| "-".to_owned(), |secs| format!("{secs} s")),
            self.who_serves(),
        ]
    }
}

// === impl ServiceRow ===

impl ServiceRow {
    fn who_serves(&self) -> String {
        if self.state != ServiceState::Served {
            return self.state.to_string();
        }
        let shown = self.backends.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        match self.backends.len().saturating_sub(SHOWN) {
            0 => shown,
            more => format!("{shown} and {more} more"),
        }
    }
}

/// Prints all of them, or those whose name (`namespace/name`) or address is `only`.
pub(super) fn run(state: &StateDir, pins: &PinDir, only: Option<&str>, format: Format) -> Result<u8> {
    let maps = open(pins)?;
    let titles = state.services::<Vec<ServiceTitle>>()?.unwrap_or_default();
    let titles: BTreeMap<String, ServiceTitle> = titles.into_iter().map(|title| (title.key.clone(), title)).collect();
    let mut entries = maps.services.entries()?;
    entries.sort_unstable_by_key(|(key, _)| *key);
    let mut rows = Vec::new();
    for (key, service) in entries {
        let row = row(&maps, key, service, titles.get(&key.to_string()))?;
        if only.is_none_or(|only| row.service.as_deref() == Some(only) || row.address == only) {
            rows.push(row);
        }
    }
    rows.sort_by(|a, b| (&a.service, &a.address, a.port).cmp(&(&b.service, &b.address, b.port)));
    list(&rows, format)
}

fn row(maps: &Maps, key: ServiceKey, service: Service, title: Option<&ServiceTitle>) -> Result<ServiceRow> {
    let mut backends = Vec::new();
    for index in 0..service.count {
        // One that is missing has been replaced while we look.
        backends.extend(maps.backends.get(&BackendKey { set: service.set, index })?.map(|backend| backend.to_string()));
    }
    Ok(ServiceRow {
        service: title.map(|title| title.service.clone()),
        port_name: title.map(|title| title.port.clone()).filter(|name| !name.is_empty()),
        address: key.addr.to_string(),
        port: key.port(),
        protocol: protocol_name(key.protocol).into_owned(),
        state: service.state,
        affinity_secs: (service.affinity_secs != 0).then_some(service.affinity_secs),
        backends,
    })
}
