//! Which programs a Kubernetes cluster of the tests consists of, and the Go modules they come from.
//!
//! One list for two readers: xtask builds the programs, the lab starts them. Each group's directory beside this file has
//! the `go.mod` that pins the version and the `go.sum` with the checksums. Built programs are kept in
//! `<cache>/kubernetes/GROUP-VERSION/bin/`, where `<cache>` is `$XDG_CACHE_HOME/margay`, by default `~/.cache/margay`.

use std::path::{Path, PathBuf};

/// Programs of one Go module in one version.
#[derive(Debug)]
pub struct Group {
    /// The directory of its go.mod, and the first half of its name in the cache.
    pub name: &'static str,
    /// The module's version, as go.mod has it but without the `v`.
    pub version: &'static str,
    /// In the order in which they are built.
    pub programs: &'static [Program],
}

/// One executable.
#[derive(Debug)]
pub struct Program {
    /// The name of its file.
    pub name: &'static str,
    /// The Go package that it is built from.
    pub package: &'static str,
    /// Who needs it.
    pub part: Part,
}

/// How much of a cluster is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// etcd, an API server and kubectl, and the CNI plugins that ours works with.
    Api,
    /// The rest of the control plane, and nodes.
    Nodes,
}

/// The environment variable of envtest (sigs.k8s.io/controller-runtime) that names a directory with `etcd`, `kube-apiserver` and `kubectl`.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// All programs. Groups are independent of each other.
pub const GROUPS: &[Group] = &[
    Group {
        name: "etcd",
        version: "3.7.3",
        programs: &[Program { name: "etcd", package: "go.etcd.io/etcd/server/v3", part: Part::Api }],
    },
    Group {
        name: "kubernetes",
        version: "1.36.3",
        programs: &[
            Program { name: "kube-apiserver", package: "k8s.io/kubernetes/cmd/kube-apiserver", part: Part::Api },
            Program { name: "kubectl", package: "k8s.io/kubernetes/cmd/kubectl", part: Part::Api },
            Program {
                name: "kube-controller-manager",
                package: "k8s.io/kubernetes/cmd/kube-controller-manager",
                part: Part::Nodes,
            },
            Program { name: "kube-scheduler", package: "k8s.io/kubernetes/cmd/kube-scheduler", part: Part::Nodes },
            Program { name: "kubelet", package: "k8s.io/kubernetes/cmd/kubelet", part: Part::Nodes },
            Program { name: "kube-proxy", package: "k8s.io/kubernetes/cmd/kube-proxy", part: Part::Nodes },
            Program { name: "agnhost", package: "k8s.io/kubernetes/test/images/agnhost", part: Part::Nodes },
        ],
    },
    Group {
        name: "containerd",
        version: "2.4.2",
        programs: &[
            Program {
                name: "containerd",
                package: "github.com/containerd/containerd/v2/cmd/containerd",
                part: Part::Nodes,
            },
            Program {
                name: "containerd-shim-runc-v2",
                package: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                part: Part::Nodes,
            },
            Program { name: "ctr", package: "github.com/containerd/containerd/v2/cmd/ctr", part: Part::Nodes },
        ],
    },
    Group {
        name: "runc",
        version: "1.5.2",
        programs: &[Program { name: "runc", package: "github.com/opencontainers/runc", part: Part::Nodes }],
    },
    Group {
        name: "cni-plugins",
        version: "1.9.1",
        programs: &[
            plugin("bridge", "github.com/containernetworking/plugins/plugins/main/bridge", Part::Nodes),
            plugin("ptp", "github.com/containernetworking/plugins/plugins/main/ptp", Part::Nodes),
            plugin("loopback", "github.com/containernetworking/plugins/plugins/main/loopback", Part::Api),
            plugin("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local", Part::Api),
            plugin("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap", Part::Api),
            plugin("bandwidth", "github.com/containernetworking/plugins/plugins/meta/bandwidth", Part::Api),
        ],
    },
    // Calico's own tools, which have to agree with us about addresses. Its releases are no versions to Go, which calls this
    // commit (of August 2025, in the line v3.28) so.
    Group {
        name: "calico",
        version: "1.11.0-cni-plugin.0.20250813170300-a0db560f0520",
        programs: &[
            Program {
                name: "calicoctl",
                package: "github.com/projectcalico/calico/calicoctl/calicoctl",
                part: Part::Api,
            },
            Program {
                name: "calico-ipam",
                package: "github.com/projectcalico/calico/cni-plugin/cmd/calico",
                part: Part::Api,
            },
        ],
    },
];

const fn plugin(name: &'static str, package: &'static str, part: Part) -> Program {
    Program { name, package, part }
}

// === impl Group ===

impl Group {
    /// Where its programs are, below `kubernetes`, the directory of all groups.
    pub fn bin(&self, kubernetes: &Path) -> PathBuf {
        kubernetes.join(format!("{}-{}", self.name, self.version)).join("bin")
    }
}
