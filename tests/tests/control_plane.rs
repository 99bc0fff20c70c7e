//! A real API server, alone: it starts, it can be made to fail in all the ways that agents must survive, and it leaves
//! nothing behind.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay_lab::kubernetes::{ControlPlane, control_plane::READY};

fn asks(control_plane: &ControlPlane, patience: &str) -> Result<String> {
    control_plane.kubectl_output(["get", "namespaces", "--output=name", &format!("--request-timeout={patience}")])
}

#[test]
fn an_api_server_survives_what_tests_do_to_it_and_leaves_nothing() -> Result<()> {
    let began = Instant::now();
    let control_plane = ControlPlane::start("control_plane_failures")?;
    println!("ready after {} ms", began.elapsed().as_millis());
    control_plane.kubectl_output(["create", "namespace", "kept"])?;

    control_plane.freeze()?;
    ensure!(asks(&control_plane, "1s").is_err(), "a frozen server must not answer");
    control_plane.thaw()?;
    ensure!(asks(&control_plane, "10s")?.contains("namespace/kept"));

    control_plane.api_server().kill()?;
    ensure!(asks(&control_plane, "1s").is_err(), "a dead server must not answer");
    let began = Instant::now();
    control_plane.start_api_server()?;
    control_plane.wait_ready(READY)?;
    println!("ready again after {} ms", began.elapsed().as_millis());
    ensure!(asks(&control_plane, "10s")?.contains("namespace/kept"));

    control_plane.etcd().stop(Duration::from_secs(5))?;
    control_plane.start_etcd()?;
    control_plane.wait_ready(READY)?;
    ensure!(asks(&control_plane, "10s")?.contains("namespace/kept"));

    let (dir, daemons) = (control_plane.dir().clone(), [control_plane.etcd(), control_plane.api_server()]);
    let processes = daemons.map(|d| d.process());
    drop(control_plane);
    ensure!(processes.iter().flatten().count() == 2 && !processes.iter().flatten().any(|p| p.runs()));
    ensure!(!dir.path().exists(), "{} is left", dir.path().display());
    Ok(())
}

#[test]
fn users_may_what_rbac_says_and_pods_can_be_created() -> Result<()> {
    let control_plane = ControlPlane::shared()?;
    let kubeconfig = control_plane.kubeconfig_for("system:node:a", Some("system:nodes"))?;
    let mut who = control_plane.kubectl(["auth", "whoami", "--output=jsonpath={.status.userInfo}"])?;
    let who = String::from_utf8(who.env("KUBECONFIG", kubeconfig).output()?.stdout).context("kubectl's output")?;
    ensure!(who.contains(r#""username":"system:node:a""#) && who.contains(r#""system:nodes""#), "{who}");
    let manifest = tempfile::tempdir()?;
    let file = manifest.path().join("pod.yaml");
    std::fs::write(
        &file,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: default}\n\
         spec: {containers: [{name: web, image: none}]}\n",
    )?;
    control_plane.apply(&file)?;
    ensure!(control_plane.kubectl_output(["get", "pod", "web", "--output=name"])?.trim() == "pod/web");
    let runtime = tokio::runtime::Runtime::new()?;
    let version = runtime.block_on(async { anyhow::Ok(control_plane.client().await?.apiserver_version().await?) });
    ensure!(version?.git_version.starts_with("v1."));
    Ok(())
}
