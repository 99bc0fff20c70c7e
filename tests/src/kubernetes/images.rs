//! Images for pods, made here. In: static programs. Out: an archive that `ctr images import` takes (docker-archive: a tar with
//! a layer, a configuration and a manifest for each image). Never: a registry, or anything that needs a container engine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::{programs, tar::Tar};

/// The sandbox of every pod.
pub const PAUSE: &str = "margay.test/pause:1";
/// A server and client of our own: see `tests/images/`.
pub const SERVER: &str = "margay.test/server:1";
/// Debian's static busybox, with all of its names. Do not use its `wget -T`, which crashes.
pub const BUSYBOX: &str = "margay.test/busybox:1";
/// Kubernetes' own server and client for tests.
pub const AGNHOST: &str = "margay.test/agnhost:1";

/// An image with one layer.
#[derive(Debug)]
pub struct Image {
    name: String,
    layer: Tar,
    entrypoint: Vec<String>,
}

// === impl Image ===

impl Image {
    /// An image of this name (with a tag) that runs `entrypoint`.
    pub fn new(name: &str, entrypoint: &[&str]) -> Self {
        let entrypoint = entrypoint.iter().map(|&word| word.to_owned()).collect();
        let mut layer = Tar::default();
        for dir in ["tmp", "bin", "etc"] {
            layer.directory(dir, if dir == "tmp" { 0o1777 } else { 0o755 });
        }
        Self { name: name.to_owned(), layer, entrypoint }
    }

    /// With an executable at `path` (no slash in front).
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn program(mut self, path: &str, file: &Path) -> Result<Self> {
        let content =
            fs::read(file).with_context(|| format!("reading {} for the image {}", file.display(), self.name))?;
        self.layer.file(path, 0o755, &content);
        Ok(self)
    }

    /// With a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.layer.link(path, target);
        self
    }
}

/// All of the images in one archive.
pub fn archive(images: Vec<Image>) -> Vec<u8> {
    let mut archive = Tar::default();
    let mut manifest = Vec::new();
    for Image { name, layer, entrypoint } in images {
        let layer = layer.finish();
        let layer_digest = sha256(&layer);
        let configuration = configuration(&entrypoint, &layer_digest).to_string();
        let (layer_file, file) = (format!("{layer_digest}.tar"), format!("{}.json", sha256(configuration.as_bytes())));
        archive.file(&layer_file, 0o644, &layer);
        archive.file(&file, 0o644, configuration.as_bytes());
        manifest.push(json!({ "Config": file, "RepoTags": [name], "Layers": [layer_file] }));
    }
    archive.file("manifest.json", 0o644, Value::from(manifest).to_string().as_bytes());
    archive.finish()
}

/// What a runtime must know of an image (OCI image specification, config.md).
fn configuration(entrypoint: &[String], layer_digest: &str) -> Value {
    json!({
        "architecture": if env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": entrypoint, "Env": ["PATH=/bin"], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
    })
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the archive with the images of all tests: [`PAUSE`], [`SERVER`], [`BUSYBOX`], [`AGNHOST`].
///
/// # Errors
/// A program has not been built, or the disk is full.
pub(super) fn write_all(file: &Path) -> Result<()> {
    let (busybox, agnhost) = (programs::busybox()?, programs::path("agnhost")?);
    let mut shell = Image::new(BUSYBOX, &["/bin/sh"]).program("bin/busybox", &busybox)?;
    for name in applets(&busybox)?.lines().filter(|name| *name != "busybox") {
        shell = shell.link(&format!("bin/{name}"), "busybox");
    }
    let images = vec![
        Image::new(PAUSE, &["/pause"]).program("pause", &own("pause")?)?,
        Image::new(SERVER, &["/server"]).program("server", &own("server")?)?,
        shell,
        Image::new(AGNHOST, &["/agnhost"]).program("agnhost", &agnhost)?,
    ];
    fs::write(file, archive(images)).with_context(|| format!("writing {}", file.display()))
}

/// The names that busybox answers to.
fn applets(busybox: &Path) -> Result<String> {
    let output = Command::new(busybox).arg("--list").output();
    let output = output.with_context(|| format!("asking {} for its names", busybox.display()))?;
    String::from_utf8(output.stdout).context("understanding busybox")
}

/// A program of `tests/images/`, which cargo puts beside the directory of this one.
fn own(name: &str) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl/release/{name}", env::consts::ARCH);
    let me = env::current_exe().context("finding this executable")?;
    let found = me.ancestors().map(|dir| dir.join(&target)).find(|file| file.is_file());
    found.ok_or_else(|| {
        anyhow!("there is no {target} above {}: `cargo xtask lab up --kubernetes` builds it", me.display())
    })
}
