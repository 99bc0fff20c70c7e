//! The specification's JSON: network configuration in, result or error out, in each version that runtimes use.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The versions of the specification that we speak, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A network configuration, as it stands in a conflist's `plugins`, with what the runtime adds to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// The version that the result must have.
    pub cni_version: String,
    /// The network's name.
    #[serde(default)]
    pub name: String,
    /// The pod's MTU in bytes; unset or 0: the agent says, from the overlay's.
    #[serde(default)]
    pub mtu: u32,
    /// Another plugin that gives the addresses, such as `{"type": "host-local", …}`. Unset: Margay's own.
    #[serde(default)]
    pub ipam: Option<Ipam>,
    /// The agent's socket, if it is not at its usual place.
    #[serde(default)]
    pub socket: Option<String>,
    /// What the runtime passes for the capabilities that the configuration declares.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// What the plugin before us in the chain returned. Kept as it is.
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// GC: the attachments that still exist.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<AttachmentId>>,
}

/// Who gives the addresses.
#[derive(Clone, Debug, Deserialize)]
pub struct Ipam {
    /// The plugin's name; `margay` (or none): Margay's own.
    #[serde(default, rename = "type")]
    pub kind: String,
}

/// Values for capabilities.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RuntimeConfig {
    /// The addresses that the pod is to have.
    #[serde(default)]
    pub ips: Vec<String>,
    /// The MAC that the pod's interface is to have.
    #[serde(default)]
    pub mac: Option<String>,
    /// Limits, if the pod has any. They are the plugin `bandwidth`'s to set.
    #[serde(default)]
    pub bandwidth: Option<Value>,
}

/// One attachment, as GC names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentId {
    /// The container (for Kubernetes: the sandbox).
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
}

/// An error as the specification has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}: {details} (CNI error {code})")]
pub struct CniError {
    /// One of the [`code`]s.
    pub code: u32,
    /// What was being done.
    pub msg: String,
    /// What went wrong, and what to do.
    #[serde(default)]
    pub details: String,
}

/// Well-known error codes (SPEC.md, "Error"), and ours from 100 on.
pub mod code {
    /// The configuration asks for a version that we do not speak.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// CHECK or DEL of something that was never added.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A necessary environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Input or output failed.
    pub const IO: u32 = 5;
    /// The configuration is no JSON, or not the JSON that it should be.
    pub const DECODING: u32 = 6;
    /// The configuration contradicts itself.
    pub const INVALID_CONFIG: u32 = 7;
    /// Nothing is wrong with the request; try again.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin cannot serve ADD now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// No address is left.
    pub const NO_ADDRESS: u32 = 100;
    /// The kernel refused.
    pub const KERNEL: u32 = 101;
    /// CHECK: what there is differs from what was added.
    pub const CHECK_FAILED: u32 = 102;
}

// === impl CniError ===

impl CniError {
    /// An error.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// The JSON for stdout, in the version that was asked for.
    pub fn to_json(&self, version: &str) -> Value {
        let Self { code, msg, details } = self;
        json!({ "cniVersion": version, "code": code, "msg": msg, "details": details })
    }
}

/// A pod's interface as it was made: what ADD returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The host's side.
    pub host_interface: String,
    /// The host's side's MAC.
    pub host_mac: String,
    /// The pod's side.
    pub interface: String,
    /// The pod's side's MAC.
    pub mac: String,
    /// The path of the pod's network namespace.
    pub netns: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The MTU of both sides, in bytes.
    pub mtu: u32,
    /// The gateway's address.
    pub gateway: IpAddr,
}

// === impl Added ===

impl Added {
    /// The result in the version that was asked for, after whatever the plugins before us returned. Two interfaces,
    /// the host's first, and addresses that belong to the second, as Calico returns them.
    pub fn to_json(&self, version: &str, previous: Option<&Value>) -> Value {
        let Self { host_interface, host_mac, interface, mac, netns, addresses, mtu, gateway } = self;
        let earlier = |key: &str| previous.and_then(|p| p.get(key)).and_then(Value::as_array).cloned();
        let mut interfaces = earlier("interfaces").unwrap_or_default();
        let index = interfaces.len() + 1;
        let mut host = json!({ "name": host_interface, "mac": host_mac });
        let mut pod = json!({ "name": interface, "mac": mac, "sandbox": netns });
        if version == "1.1.0" {
            host["mtu"] = (*mtu).into();
            pod["mtu"] = (*mtu).into();
        }
        interfaces.extend([host, pod]);
        let mut ips = earlier("ips").unwrap_or_default();
        ips.extend(addresses.iter().map(|ip| {
            let mut entry = json!({ "address": IpNet::from(*ip).to_string(), "interface": index });
            // Dropped from the specification in 1.0.0.
            if version.starts_with("0.") {
                entry["version"] = if ip.is_ipv4() { "4" } else { "6" }.into();
            }
            entry
        }));
        let mut routes = earlier("routes").unwrap_or_default();
        routes.push(json!({ "dst": "0.0.0.0/0", "gw": gateway }));
        let dns = previous.and_then(|p| p.get("dns")).cloned().unwrap_or_else(|| Value::Object(Map::new()));
        json!({ "cniVersion": version, "interfaces": interfaces, "ips": ips, "routes": routes, "dns": dns })
    }
}

/// What VERSION returns.
pub fn versions_json(asked: &str) -> Value {
    let version = if VERSIONS.contains(&asked) { asked } else { VERSIONS[VERSIONS.len() - 1] };
    json!({ "cniVersion": version, "supportedVersions": VERSIONS })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added() -> Added {
        Added {
            host_interface: "cali68caf03a5f4".to_owned(),
            host_mac: "ee:ee:ee:ee:ee:ee".to_owned(),
            interface: "eth0".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            netns: "/run/netns/x".to_owned(),
            addresses: vec!["10.244.0.5".parse().unwrap()],
            mtu: 1450,
            gateway: "169.254.1.1".parse().unwrap(),
        }
    }

    #[test]
    fn each_version_gets_its_own_shape() {
        for (version, family, mtu) in
            [("0.3.1", true, false), ("0.4.0", true, false), ("1.0.0", false, false), ("1.1.0", false, true)]
        {
            let result = added().to_json(version, None);
            assert_eq!(result["cniVersion"], version);
            assert_eq!(result["ips"][0]["address"], "10.244.0.5/32");
            assert_eq!(result["ips"][0]["interface"], 1);
            assert_eq!(result["ips"][0].get("version").is_some(), family, "{version}");
            assert_eq!(result["interfaces"][1]["sandbox"], "/run/netns/x");
            assert_eq!(result["interfaces"][0].get("mtu").is_some(), mtu, "{version}");
        }
    }

    #[test]
    fn what_earlier_plugins_made_comes_first_and_keeps_its_indices() {
        let previous =
            json!({ "interfaces": [{ "name": "lo" }], "ips": [{ "address": "127.0.0.1/8", "interface": 0 }] });
        let result = added().to_json("1.0.0", Some(&previous));
        assert_eq!(result["interfaces"][0]["name"], "lo");
        assert_eq!(result["ips"][0]["interface"], 0);
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["interfaces"][2]["name"], "eth0");
    }

    #[test]
    fn a_real_configuration_is_understood() {
        let conf: NetConf = serde_json::from_value(json!({
            "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "margay",
            "capabilities": { "ips": true, "mac": true },
            "runtimeConfig": { "ips": ["10.244.0.9"], "mac": "02:00:00:00:00:09" },
            "ipam": { "type": "host-local", "subnet": "10.244.0.0/24" },
            "cni.dev/valid-attachments": [{ "containerID": "a", "ifname": "eth0" }],
        }))
        .unwrap();
        assert_eq!(conf.runtime_config.ips, ["10.244.0.9"]);
        assert_eq!(conf.ipam.unwrap().kind, "host-local");
        assert_eq!(conf.valid_attachments.unwrap()[0].container_id, "a");
    }
}
