//! A Service and its endpoints, as manifests for a lab.
//!
//! In: what it is called, and who serves. Out: YAML, as a user would write it. Never: a file; whoever asks knows which.

use std::{fmt::Write as _, net::Ipv4Addr};

/// A Service, and the port that its backends have.
#[derive(Clone, Copy, Debug)]
pub struct ServiceManifest<'a> {
    /// Its name, in the namespace `default`.
    pub name: &'a str,
    /// Its ClusterIP.
    pub address: Ipv4Addr,
    /// Its port, the same for all protocols.
    pub port: u16,
    /// The backends' port, likewise.
    pub target: u16,
    /// Its protocols, as Kubernetes writes them (`TCP`). Its ports are named after them, in lower-case letters.
    pub protocols: &'a [&'a str],
}

// === impl ServiceManifest ===

impl ServiceManifest<'_> {
    /// The Service. `extra`: more of its spec, as lines of YAML.
    pub fn service(&self, extra: &str) -> String {
        let Self { name, address, port, target, protocols } = self;
        let mut ports = String::new();
        for protocol in *protocols {
            let port_name = protocol.to_lowercase();
            let _ =
                writeln!(ports, "  - {{name: {port_name}, port: {port}, protocol: {protocol}, targetPort: {target}}}");
        }
        format!(
            "\
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  clusterIP: {address}
  clusterIPs: [{address}]
  ports:
{ports}{extra}"
        )
    }

    /// Its endpoints, all of them ready: addresses, and the nodes that they are on.
    pub fn endpoints(&self, ready: &[(Ipv4Addr, &str)]) -> String {
        let Self { name, target, protocols, .. } = self;
        let mut ports = String::new();
        for protocol in *protocols {
            let _ = writeln!(ports, "- {{name: {}, port: {target}, protocol: {protocol}}}", protocol.to_lowercase());
        }
        let mut list = if ready.is_empty() { "endpoints: []\n".to_owned() } else { "endpoints:\n".to_owned() };
        for (address, node) in ready {
            let _ = writeln!(list, "- {{addresses: [{address}], nodeName: {node}, conditions: {{ready: true}}}}");
        }
        format!(
            "\
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports:
{ports}{list}"
        )
    }
}
