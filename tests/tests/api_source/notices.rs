//! Events about policies that are not in force, in a real API server: one for each, counted where it comes again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, api::ListParams};
use margay_loader::{
    notices::Notices,
    problem::Problem,
    source::kube::{Access, ApiConfig},
};

use super::{cluster::patience, restart_api_server, start};

/// Longer than the pauses between tries.
const LONG: Duration = Duration::from_secs(60);

async fn events(client: &Client) -> Result<Vec<Event>> {
    Ok(Api::<Event>::all(client.clone()).list(&ListParams::default()).await?.items)
}

/// The Event for this reason, once `holds`.
async fn until(client: &Client, reason: &str, holds: impl Fn(&Event) -> bool) -> Result<Event> {
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        let all = events(client).await.unwrap_or_default();
        if let Some(event) = all.iter().find(|e| e.reason.as_deref() == Some(reason) && holds(e)) {
            return Ok(event.clone());
        }
        ensure!(tokio::time::Instant::now() < deadline, "no such Event for {reason} among {all:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_are_refused_are_told_of_once_and_counted() -> Result<()> {
    let control_plane = start("api_source_notices")?;
    let access = Access::Kubeconfig(control_plane.kubeconfig().to_owned());
    let api = ApiConfig { access, address: None, patience: patience() };
    let client = api.connect().await.map_err(anyhow::Error::msg)?;
    let notices = Notices::new(api, "node-a");
    let full = Problem::new("map rules", "too many", "have fewer");

    notices.tell(&Problem::new("map routes", "too many", "not about policies"));
    notices.tell(&full);
    let event = until(&client, "NetworkPoliciesRefused", |_| true).await?;
    let regarding = event.regarding.context("it is about nothing")?;
    ensure!(regarding.kind.as_deref() == Some("Node") && regarding.name.as_deref() == Some("node-a"), "{regarding:?}");
    ensure!(
        event.type_.as_deref() == Some("Warning") && event.note.as_deref() == Some("map rules: too many; have fewer")
    );

    notices.tell(&full);
    until(&client, "NetworkPoliciesRefused", |e| e.series.as_ref().is_some_and(|series| series.count == 2)).await?;
    ensure!(
        events(&client).await?.iter().filter(|e| e.reporting_controller.as_deref() == Some("margay-agent")).count()
            == 1
    );

    // While the server is away it waits.
    control_plane.api_server().kill()?;
    notices.tell(&Problem::new("NetworkPolicy default/web", "no selector", "correct it"));
    restart_api_server(&control_plane)?;
    let event = until(&client, "NetworkPolicyInvalid", |_| true).await?;
    ensure!(event.metadata.namespace.as_deref() == Some("default"), "{event:?}");
    Ok(())
}
