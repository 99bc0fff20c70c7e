//! `lab up --kubernetes`, and what the other commands do with such a cluster.

use std::{env, ffi::OsString, os::unix::process::CommandExt};

use anyhow::{Context, Result, bail};
use margay_lab::{
    LabName,
    kubernetes::{Cni, KubeCluster, images, programs},
};

/// Where a node has its CNI plugins, and with them the cluster's own `margay`.
const PLUGINS: &str = "/opt/cni/bin";

#[derive(Debug, clap::Args)]
#[group(id = "cluster")]
pub(super) struct Args {
    /// Real Kubernetes instead of manifests: etcd, API server, scheduler, kubelets, containerd
    #[arg(long, help_heading = "Kubernetes")]
    pub(super) kubernetes: bool,
    /// How many nodes
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2,
        value_parser = clap::value_parser!(u8).range(1..=200),
        requires = "kubernetes",
        help_heading = "Kubernetes"
    )]
    nodes: u8,
    /// Who makes the pods' network
    #[arg(long, value_enum, default_value_t, requires = "kubernetes", help_heading = "Kubernetes")]
    cni: Cni,
    /// With a kube-proxy on each node
    #[arg(long, requires = "kubernetes", help_heading = "Kubernetes")]
    kube_proxy: bool,
}

/// Brings the cluster up, for as long as the user wants it.
pub(super) fn up(name: &LabName, args: &Args) -> Result<()> {
    let Args { kubernetes: _, nodes, cni, kube_proxy } = args;
    let builder = KubeCluster::builder(name.as_str()).nodes((*nodes).into()).cni(*cni).kube_proxy(*kube_proxy);
    let cluster = builder.report(|step| println!("{step}")).kept().start()?;
    let (kubectl, option) = (programs::path("kubectl")?, option(name));
    let first = cluster.nodes().first().map_or("NODE", |node| node.name());
    println!("\nexport KUBECONFIG={}", cluster.kubeconfig().display());
    println!("{} get nodes", kubectl.display());
    println!("cargo xtask lab exec{option} {first} -- ctr --namespace k8s.io containers list");
    println!("cargo xtask lab down{option}");
    println!("\nimages on all nodes: {}", [images::SERVER, images::BUSYBOX, images::AGNHOST].join(", "));
    Ok(())
}

/// Becomes a command on a node.
pub(super) fn exec(name: &LabName, place: &str, command: &[OsString]) -> Result<()> {
    let cluster = KubeCluster::open(name)?;
    if place.contains('/') {
        bail!("pods of a real cluster are entered by kubectl exec; KUBECONFIG={}", cluster.kubeconfig().display());
    }
    let shell = [OsString::from("/bin/sh")];
    let command = if command.is_empty() { &shell[..] } else { command };
    let mut process = cluster.node(place)?.command(&command[0])?;
    // Last, because one of the reference plugins has the name of a tool (bridge).
    let path = env::split_paths(&programs::search_path()?).chain([PLUGINS.into()]).collect::<Vec<_>>();
    process.env("PATH", env::join_paths(path)?);
    let error = process.args(&command[1..]).exec();
    Err(error).with_context(|| format!("running {} on {place}", command[0].display()))
}

/// Shows what kubectl knows.
pub(super) fn status(name: &LabName) -> Result<()> {
    let cluster = KubeCluster::open(name)?;
    for kind in ["nodes", "pods"] {
        let arguments = ["get", kind, "--all-namespaces", "--output=wide", "--request-timeout=5s"];
        println!("{}", cluster.control_plane().kubectl_output(arguments)?);
    }
    Ok(())
}

/// ` --name NAME`, where it is needed.
fn option(name: &LabName) -> String {
    match name.as_str() {
        "lab" => String::new(),
        name => format!(" --name {name}"),
    }
}
