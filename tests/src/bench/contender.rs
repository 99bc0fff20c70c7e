//! The table of contenders. A new mode of Margay is one more row.

use std::{env, iter::once, path::PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::{
    burden::Burden,
    topology::{self, Topology},
};

/// One way to join pods.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// What it is, in a line.
    pub title: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Host,
    Bridge { rules: Option<&'static str> },
    Routed,
    Margay { options: &'static [&'static str], burden: Burden, watched: Watched },
}

/// Who reads what the programs tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// Nobody.
    Nowhere,
    /// A `margay monitor` on each node.
    Everywhere,
}

/// Why a contender does not take part.
#[derive(Clone, Debug, Serialize)]
pub struct Absent {
    /// Its name.
    pub contender: &'static str,
    /// What is missing, and what to do.
    pub why: String,
}

/// The contender that all are divided by.
pub const CEILING: &str = "host";
/// The contenders that Margay replaces and is compared with: a bridge and nothing else, and the same as Flannel
/// sets it up.
pub const BRIDGE: &str = "bridge";
/// See [`BRIDGE`].
pub const FLANNEL: &str = "flannel";
/// Margay without any policy, which its other modes are compared with.
pub const OURS: &str = "margay";
/// Margay with policies that allow the load, by default deny and rules in both directions: the contender that has goals.
pub const POLICY: &str = "margay-policy";
/// The same, with ten thousand policies about the same pods.
pub const POLICIES: &str = "margay-policies";
/// The same, and a thousand nodes with fifty thousand pods.
pub const FULL: &str = "margay-full";

/// As [`OURS`], while somebody monitors it.
pub const MONITORED: &str = "margay-monitor";

/// All of them, the ceiling first.
pub const CONTENDERS: [Contender; 10] = [
    Contender { name: CEILING, title: "plain host to host: the ceiling", kind: Kind::Host },
    Contender {
        name: BRIDGE,
        title: "Linux bridge, kernel VXLAN, static entries, no netfilter rules",
        kind: Kind::Bridge { rules: None },
    },
    Contender {
        name: FLANNEL,
        title: "the same with Flannel's own masquerading and forwarding rules (Flannel's way)",
        kind: Kind::Bridge { rules: Some(topology::FLANNEL_RULES) },
    },
    Contender {
        name: "routed",
        title: "routed veths, kernel VXLAN, nftables with conntrack (Calico's way)",
        kind: Kind::Routed,
    },
    Contender {
        name: OURS,
        title: "margay agent, nothing else: no policy is about any pod",
        kind: Kind::Margay { options: &[], burden: Burden::Nothing, watched: Watched::Nowhere },
    },
    Contender {
        name: POLICY,
        title: "the same with default deny, and rules that allow the load at both ends",
        kind: Kind::Margay { options: &[], burden: Burden::Policy, watched: Watched::Nowhere },
    },
    Contender {
        name: POLICIES,
        title: "the same with 10,000 more policies about the same pods",
        kind: Kind::Margay { options: &[], burden: Burden::Policies, watched: Watched::Nowhere },
    },
    Contender {
        name: FULL,
        title: "the same, and 1,000 nodes with 50,000 pods, each with a route or an identity",
        kind: Kind::Margay { options: &[], burden: Burden::Full, watched: Watched::Nowhere },
    },
    Contender {
        name: MONITORED,
        title: "margay without policies, and `margay monitor` attached on both nodes",
        kind: Kind::Margay { options: &[], burden: Burden::Nothing, watched: Watched::Everywhere },
    },
    Contender {
        name: "margay-device",
        title: "margay agent --encap device: the kernel's vxlan device writes and takes off headers",
        kind: Kind::Margay { options: &["--encap", "device"], burden: Burden::Nothing, watched: Watched::Nowhere },
    },
];

// === impl Contender ===

impl Contender {
    /// What keeps it from taking part on this machine, if anything.
    pub fn obstacle(&self) -> Option<Absent> {
        let nft = topology::NFT;
        let needs_nft = matches!(self.kind, Kind::Routed | Kind::Bridge { rules: Some(_) });
        (needs_nft && !is_installed(nft)).then(|| Absent {
            contender: self.name,
            why: format!("there is no {nft} here: `cargo xtask bench` installs it, or install the package nftables"),
        })
    }

    /// Builds its network. The name of its lab, `bench_...`, says which it is.
    ///
    /// # Errors
    /// The kernel refuses, or an agent does not become ready. Nothing is left then.
    pub(super) fn build(&self) -> Result<Topology> {
        let name = format!("bench_{}", self.name.replace('-', "_"));
        match self.kind {
            Kind::Host => topology::host(&name),
            Kind::Bridge { rules } => topology::bridge(&name, rules),
            Kind::Routed => topology::routed(&name),
            Kind::Margay { options, burden, watched } => topology::margay(&name, options, burden, watched),
        }
    }
}

/// Whether a program is on the search path, or in the system's directories, which some users' paths leave out.
fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(once(PathBuf::from("/usr/sbin"))).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_and_the_ceiling_is_the_first() {
        let names: BTreeSet<_> = CONTENDERS.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), CONTENDERS.len());
        assert_eq!(CONTENDERS[0].name, CEILING);
        assert!(names.contains(BRIDGE) && names.contains(FLANNEL) && names.contains(OURS));
    }
}
