//! The kubelet and kube-proxy on a node: configuration and command lines. In: a [`Spec`] and the certificates that were made
//! for it. Out: files and commands. Never: a directory of the machine's; see [`super::mounts`].

use std::{fs, path::Path, process::Command};

use anyhow::Result;

use super::{containerd, spec::Spec};
use crate::{
    kubernetes::{
        cluster::{DNS, POD_CIDR},
        dir::KubeDir,
        programs,
    },
    rundir::replace_file,
};

/// The kubelet's own name in files.
pub(super) const KUBELET: &str = "kubelet";
/// kube-proxy's own name in files.
pub(super) const KUBE_PROXY: &str = "kube-proxy";

/// How kube-proxy tells the kernel what to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyMode {
    /// By nftables.
    #[default]
    Nftables,
    /// By iptables.
    Iptables,
}

// === impl ProxyMode ===

impl ProxyMode {
    /// As kube-proxy calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// What was chosen for a node; nftables if nothing was.
    fn of(dir: &Path) -> Self {
        let chosen = fs::read_to_string(dir.join(MODE)).unwrap_or_default();
        if chosen == Self::Iptables.name() { Self::Iptables } else { Self::Nftables }
    }

    /// Chooses for a node. It counts when kube-proxy is started.
    pub(super) fn choose(self, dir: &Path) -> Result<()> {
        replace_file(&dir.join(MODE), self.name())
    }
}

/// The file in a node's directory with kube-proxy's mode.
const MODE: &str = "kube-proxy.mode";

/// The command that starts the kubelet.
pub(super) fn command(spec: &Spec) -> Result<Command> {
    let dir = spec.dir();
    let (config, resolv_conf) = (dir.join("kubelet.yaml"), dir.join("resolv.conf"));
    replace_file(&resolv_conf, "# Nobody outside the cluster answers.\n")?;
    replace_file(&config, &configuration(spec))?;
    let kubeconfig = KubeDir::of(&spec.cluster).kubeconfigs().join(user(&spec.name));
    let mut command = Command::new(programs::path("kubelet")?);
    command.arg("--config").arg(config).arg("--kubeconfig").arg(kubeconfig);
    command.arg(format!("--hostname-override={}", spec.name)).arg(format!("--node-ip={}", spec.address));
    command.env("PATH", programs::search_path()?);
    Ok(command)
}

/// The name of the files with the kubelet's client certificate and kubeconfig.
pub(super) fn user(node: &str) -> String {
    format!("system_node_{node}")
}

/// The name of the files with the kubelet's server certificate.
pub(super) fn server(node: &str) -> String {
    format!("kubelet-{node}")
}

/// The command that starts kube-proxy.
pub(super) fn proxy(spec: &Spec) -> Result<Command> {
    let kubeconfig = KubeDir::of(&spec.cluster).kubeconfigs().join("system_kube-proxy");
    let mut command = Command::new(programs::path("kube-proxy")?);
    command.arg("--kubeconfig").arg(kubeconfig).arg(format!("--hostname-override={}", spec.name));
    // How it tells pods from others, one way each. By addresses, as is usual, it takes other nodes' pods for pods too, and leads them
    // anywhere under their own address; by interfaces only this node's.
    match ProxyMode::of(&spec.dir()) {
        ProxyMode::Nftables => command.arg(format!("--cluster-cidr={POD_CIDR}")),
        ProxyMode::Iptables => {
            command.args(["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=cali"])
        }
    };
    // The limit of connections is the machine's, not the node's.
    command.args(["--conntrack-max-per-core=0", "--bind-address=0.0.0.0"]);
    command.arg(format!("--proxy-mode={}", ProxyMode::of(&spec.dir()).name()));
    command.env("PATH", programs::search_path()?);
    Ok(command)
}

/// YAML. Evictions are nearly off, because all nodes share one disk and one memory. 250 pods: tests have more than the
/// default of 110. Whatever crashes is started again at once, however often it was killed. A node shares its disk with whatever
/// else is built on the machine, so a disk that is nearly full ends no pods.
fn configuration(spec: &Spec) -> String {
    let pki = KubeDir::of(&spec.cluster).pki();
    let (pki, server) = (pki.display(), server(&spec.name));
    format!(
        "\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {pki}/ca.crt}}
authorization: {{mode: Webhook}}
tlsCertFile: {pki}/{server}.crt
tlsPrivateKeyFile: {pki}/{server}.key
containerRuntimeEndpoint: unix://{socket}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [{DNS}]
resolvConf: {resolv_conf}
volumePluginDir: /var/lib/kubelet/volume-plugins
maxPods: 250
crashLoopBackOff: {{maxContainerRestartPeriod: 2s}}
imageGCHighThresholdPercent: 100
evictionHard:
  memory.available: 50Mi
  nodefs.available: 50Mi
  nodefs.inodesFree: 1k
  imagefs.available: 50Mi
  imagefs.inodesFree: 1k
",
        socket = containerd::SOCKET,
        resolv_conf = spec.dir().join("resolv.conf").display(),
    )
}
