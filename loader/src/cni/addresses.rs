//! Addresses from the Kubernetes API: Margay's own IPAM, asked with what the pod's annotations say.
//!
//! In: what the plugin wants for a pod. Out: addresses, or the plugin's error with its remedy. Never: an address kept in
//! memory only; [`crate::ipam`] writes it down first.

use std::{net::IpAddr, sync::Arc};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::sync::OnceCell;

use super::{
    protocol::Prepare,
    server::{AddressManager, Annotations, Assigned},
    spec::{AttachmentId, CniError, code},
};
use crate::{
    ipam::{Family, Ipam, IpamError, NETWORK, PodRequest, pod_handle},
    object::{CALICO_HW_ADDR, CALICO_IP_ADDRS, CALICO_IPV4_POOLS, CALICO_IPV6_POOLS},
    source::kube::ApiConfig,
};

/// The address manager of a node whose agent reads the Kubernetes API.
pub struct KubeAddresses {
    config: ApiConfig,
    node: String,
    connected: OnceCell<(Client, Ipam)>,
}

/// What a pod's annotations ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asked {
    addresses: Vec<IpAddr>,
    pools_v4: Vec<String>,
    pools_v6: Vec<String>,
    mac: Option<String>,
}

// === impl KubeAddresses ===

impl KubeAddresses {
    /// For a node. No connection is made before the first pod.
    pub fn new(config: ApiConfig, node: impl Into<String>) -> Self {
        Self { config, node: node.into(), connected: OnceCell::new() }
    }

    async fn connected(&self) -> Result<&(Client, Ipam), CniError> {
        let connect = || async {
            let client = self.config.connect().await?;
            Ok::<_, String>((client.clone(), Ipam::new(client, self.node.clone())))
        };
        let connected = self.connected.get_or_try_init(connect).await;
        connected.map_err(|e| CniError::new(code::TRY_AGAIN, "connecting to the Kubernetes API", e))
    }

    async fn give(&self, request: &Prepare, known: Option<Annotations>) -> Result<Assigned, CniError> {
        let (client, ipam) = self.connected().await?;
        let annotations = match known {
            Some(annotations) => annotations,
            None => read_annotations(client, request).await?,
        };
        let Asked { addresses, pools_v4, pools_v6, mac } = annotated(&annotations).map_err(|what| {
            CniError::new(code::INVALID_CONFIG, format!("reading the annotations of Pod {}", request.pod), what)
        })?;
        // What the runtime asks for goes before what the annotation says.
        let addresses = if request.wanted.is_empty() { addresses } else { request.wanted.clone() };
        let plain = PodRequest::new(&request.attachment.container_id, request.pod.clone());
        let families = if addresses.is_empty() { plain.families.clone() } else { Vec::new() };
        let wanted = PodRequest { addresses, families, pools_v4, pools_v6, ..plain };
        let given = ipam.assign(&wanted).await.map_err(|e| refused("giving the pod an address", &e))?;
        Ok(Assigned { addresses: given.into_iter().map(|net| net.addr()).collect(), mac })
    }

    async fn take_back(&self, attachment: &AttachmentId) -> Result<(), CniError> {
        let (_, ipam) = self.connected().await?;
        let handle = pod_handle(NETWORK, &attachment.container_id);
        ipam.release(&handle).await.map(drop).map_err(|e| refused("taking the pod's address back", &e))
    }

    /// Sees to it that the node's overlay has an address of its own, as Calico's nodes expect it of each other.
    ///
    /// # Errors
    /// There is none, or it cannot be written.
    pub async fn tunnel_address(&self) -> Result<IpAddr, CniError> {
        let (_, ipam) = self.connected().await?;
        let given = ipam.tunnel_address(Family::V4).await;
        given.map_err(|e| refused("giving the overlay an address", &e))
    }
}

impl AddressManager for Arc<KubeAddresses> {
    fn assign<'a>(
        &'a self,
        request: &'a Prepare,
        known: Option<Annotations>,
    ) -> BoxFuture<'a, Result<Assigned, CniError>> {
        Box::pin(self.give(request, known))
    }

    fn release<'a>(&'a self, attachment: &'a AttachmentId) -> BoxFuture<'a, Result<(), CniError>> {
        Box::pin(self.take_back(attachment))
    }
}

/// Reads the pod. One that the API does not have (any more) asks for nothing; the runtime will find out.
async fn read_annotations(client: &Client, request: &Prepare) -> Result<Annotations, CniError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &request.pod.namespace);
    let pod = pods.get_metadata_opt(&request.pod.name).await;
    let pod = pod.map_err(|e| CniError::new(code::TRY_AGAIN, "reading the pod's annotations", e.to_string()))?;
    Ok(pod.and_then(|pod| pod.metadata.annotations).unwrap_or_default())
}

fn annotated(annotations: &Annotations) -> Result<Asked, String> {
    let list = |name: &str| match annotations.get(name) {
        Some(text) => serde_json::from_str::<Vec<String>>(text)
            .map_err(|_no_list| format!("{name} is {text:?}, which is no JSON list of strings such as [\"a\"]")),
        None => Ok(Vec::new()),
    };
    let address = |text: String| text.parse().map_err(|_| format!("{CALICO_IP_ADDRS}: {text:?} is no IP address"));
    Ok(Asked {
        addresses: list(CALICO_IP_ADDRS)?.into_iter().map(address).collect::<Result<_, _>>()?,
        pools_v4: list(CALICO_IPV4_POOLS)?,
        pools_v6: list(CALICO_IPV6_POOLS)?,
        mac: annotations.get(CALICO_HW_ADDR).cloned(),
    })
}

fn refused(doing: &str, error: &IpamError) -> CniError {
    let code = if error.is_transient() { code::TRY_AGAIN } else { code::NO_ADDRESS };
    CniError::new(code, doing, format!("{error}; {}", error.remedy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Asked, String> {
        annotated(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn calicos_annotations_are_understood() {
        let asked = of(&[
            (CALICO_IP_ADDRS, r#"["10.0.0.7"]"#),
            (CALICO_IPV4_POOLS, r#"["fast", "10.1.0.0/16"]"#),
            (CALICO_HW_ADDR, "02:00:00:00:00:07"),
        ]);
        assert_eq!(
            asked,
            Ok(Asked {
                addresses: vec!["10.0.0.7".parse().unwrap()],
                pools_v4: vec!["fast".to_owned(), "10.1.0.0/16".to_owned()],
                pools_v6: vec![],
                mac: Some("02:00:00:00:00:07".to_owned()),
            })
        );
        assert_eq!(of(&[]), Ok(Asked::default()));
    }

    #[test]
    fn what_is_no_list_is_named() {
        assert!(of(&[(CALICO_IP_ADDRS, "10.0.0.7")]).unwrap_err().contains(CALICO_IP_ADDRS));
        assert!(of(&[(CALICO_IP_ADDRS, r#"["10.0.0"]"#)]).unwrap_err().contains("10.0.0"));
        assert!(of(&[(CALICO_IPV4_POOLS, "fast")]).unwrap_err().contains(CALICO_IPV4_POOLS));
    }
}
