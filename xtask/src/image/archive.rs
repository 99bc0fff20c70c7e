//! An image as one file: the OCI image layout (opencontainers/image-spec, image-layout.md) in a tar, which also has the
//! list of contents by which docker and podman read their own archives. Both name the same blobs.
//!
//! In: layers. Out: the archive's bytes, and the image's digest, by which registries and containerd know it. Layers are not
//! compressed: their digests then depend on nothing but what is in them.

use super::tar::Tar;
use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name without the tag.
    pub name: &'static str,
    /// Its tag.
    pub version: &'static str,
    /// Its layers, the lowest first, each a tar.
    pub layers: Vec<Vec<u8>>,
}

/// An image as one file.
#[derive(Clone, Debug)]
pub struct Archive {
    /// The file.
    pub bytes: Vec<u8>,
    /// The manifest's digest, which is the image's.
    pub manifest: String,
}

/// The program that the image starts.
const ENTRYPOINT: &str = "/margay";
/// Where commands are looked for: `kubectl exec … -- margay status`, and the agent's own nft.
const PATH: &str = "PATH=/usr/bin:/usr/sbin";
/// When everything was made: the same each time.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// As Go names this machine's kind.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// `sha256:` and the digits.
pub fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
}

/// Where a blob stands in the archive.
fn blob_path(bytes: &[u8]) -> String {
    format!("blobs/{}", digest(bytes).replace(':', "/"))
}

// === impl Image ===

impl Image {
    /// The archive.
    ///
    /// # Errors
    /// JSON cannot be written.
    pub fn archive(&self) -> Result<Archive> {
        let config = serde_json::to_vec(&self.config())?;
        let manifest = serde_json::to_vec(&self.manifest(&config))?;
        let mut tar = Tar::default();
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        tar.file("index.json", 0o644, &serde_json::to_vec(&self.index(&manifest))?);
        tar.file("manifest.json", 0o644, &serde_json::to_vec(&self.contents(&config))?);
        tar.directory("blobs");
        tar.directory("blobs/sha256");
        for blob in self.layers.iter().chain([&config, &manifest]) {
            tar.file(&blob_path(blob), 0o644, blob);
        }
        Ok(Archive { bytes: tar.finish(), manifest: digest(&manifest) })
    }

    fn config(&self) -> Value {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let history: Vec<Value> =
            self.layers.iter().map(|_| json!({ "created": CREATED, "created_by": "cargo xtask image" })).collect();
        json!({
            "architecture": ARCHITECTURE,
            "os": "linux",
            "created": CREATED,
            "config": {
                "Entrypoint": [ENTRYPOINT],
                "Env": [PATH],
                "WorkingDir": "/",
                "Labels": {
                    "org.opencontainers.image.title": "margay",
                    "org.opencontainers.image.version": self.version,
                },
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        })
    }

    fn manifest(&self, config: &[u8]) -> Value {
        let layers: Vec<Value> = self.layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config),
            "layers": layers,
        })
    }

    /// containerd takes the name from the one annotation, skopeo and podman the tag from the other.
    fn index(&self, manifest: &[u8]) -> Value {
        let mut described = descriptor(MANIFEST, manifest);
        described["platform"] = json!({ "architecture": ARCHITECTURE, "os": "linux" });
        described["annotations"] = json!({
            "io.containerd.image.name": self.reference(),
            "org.opencontainers.image.ref.name": self.version,
        });
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [described] })
    }

    /// What `docker save` writes.
    fn contents(&self, config: &[u8]) -> Value {
        let layers: Vec<String> = self.layers.iter().map(|layer| blob_path(layer)).collect();
        json!([{ "Config": blob_path(config), "RepoTags": [self.reference()], "Layers": layers }])
    }

    fn reference(&self) -> String {
        format!("{}:{}", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image { name: "docker.io/library/x", version: "1.2.3", layers: vec![b"one".to_vec(), b"two".to_vec()] }
    }

    #[test]
    fn digests_are_sha256() {
        let nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b""), nothing);
    }

    #[test]
    fn everything_that_is_named_is_there() {
        let image = image();
        let config = serde_json::to_vec(&image.config()).unwrap();
        let manifest = image.manifest(&config);
        assert_eq!(manifest["config"]["digest"], digest(&config));
        assert_eq!(manifest["layers"][1]["size"], 3);
        assert_eq!(image.config()["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let archive = image.archive().unwrap();
        let text = String::from_utf8_lossy(&archive.bytes);
        for name in [blob_path(b"one"), blob_path(b"two"), blob_path(&config), archive.manifest.replace("sha256:", "")]
        {
            assert!(text.contains(&name), "{name}");
        }
        assert!(text.contains(r#""io.containerd.image.name":"docker.io/library/x:1.2.3""#));
    }

    #[test]
    fn the_same_layers_give_the_same_bytes() {
        assert_eq!(image().archive().unwrap().bytes, image().archive().unwrap().bytes);
    }
}
