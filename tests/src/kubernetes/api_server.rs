//! kube-apiserver's command line. In: where it runs and its keys. Out: a command. Never: a way in without a certificate or
//! token, as in any real cluster: RBAC decides.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
};

use anyhow::Result;

use super::{
    certificates::{Authority, Pair, TokenKeys},
    control_plane::{Extent, SERVICES, Settings},
    dir::KubeDir,
    etcd, programs,
};

/// The address of the Service `kubernetes`: the first of [`SERVICES`].
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Names of the Service `kubernetes`, and what people type.
const NAMES: [&str; 5] =
    ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];

/// What the server needs to be trusted and to trust.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    server: Pair,
    kubelet_client: Pair,
    tokens: TokenKeys,
    authority: std::path::PathBuf,
}

// === impl Keys ===

impl Keys {
    const SERVER: &str = "kube-apiserver";
    const KUBELET_CLIENT: &str = "kubelet-client";

    /// Those that have been made before.
    pub(super) fn open(authority: &Authority) -> Self {
        Self {
            server: authority.pair(Self::SERVER),
            kubelet_client: authority.pair(Self::KUBELET_CLIENT),
            tokens: authority.token_keys(),
            authority: authority.certificate(),
        }
    }

    /// Makes all of them, new.
    pub(super) fn create(authority: &Authority, settings: &Settings) -> Result<Self> {
        let addresses = [settings.address, settings.external, SERVICE, Ipv4Addr::LOCALHOST].map(IpAddr::V4);
        authority.server(Self::SERVER, &NAMES, &addresses)?;
        // RBAC lets this group reach the kubelets; real clusters do the same.
        authority.client(Self::KUBELET_CLIENT, "kube-apiserver", Some("system:masters"))?;
        authority.create_token_keys()?;
        Ok(Self::open(authority))
    }
}

/// The command that starts it.
pub(super) fn command(dir: &KubeDir, settings: &Settings, keys: &Keys) -> Result<Command> {
    let Keys { server, kubelet_client, tokens, authority } = keys;
    let Settings { namespace: _, address, external: _, port, extent, flags } = settings;
    let bind = match extent {
        Extent::Api => *address,
        Extent::Complete => Ipv4Addr::UNSPECIFIED,
    };
    let mut command = Command::new(programs::path("kube-apiserver")?);
    command.args([
        format!("--etcd-servers={}", etcd::url(&dir.etcd())),
        format!("--bind-address={bind}"),
        format!("--advertise-address={address}"),
        format!("--secure-port={port}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--client-ca-file={}", authority.display()),
        format!("--tls-cert-file={}", server.certificate.display()),
        format!("--tls-private-key-file={}", server.key.display()),
        format!("--kubelet-certificate-authority={}", authority.display()),
        format!("--kubelet-client-certificate={}", kubelet_client.certificate.display()),
        format!("--kubelet-client-key={}", kubelet_client.key.display()),
        format!("--service-account-key-file={}", tokens.public.display()),
        format!("--service-account-signing-key-file={}", tokens.private.display()),
    ]);
    command.args([
        // The port is kept for this server while it is down: see `Port`.
        "--permit-port-sharing",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--allow-privileged",
        // exec and logs: the names of nodes are known to nobody.
        "--kubelet-preferred-address-types=InternalIP",
        "--profiling=false",
    ]);
    if *extent == Extent::Api {
        // Nobody makes the namespaces' default accounts, without which no Pod could be created.
        command.arg("--disable-admission-plugins=ServiceAccount");
    }
    command.args(flags);
    Ok(command)
}
