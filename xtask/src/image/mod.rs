//! `image`: the container image that `deploy/` names, as one file, without a container engine.
//!
//! In: the workspace, and nft of the machine's own distribution. Out: an archive that containerd, podman and docker import,
//! with its digest; the same input gives the same bytes. Never: a registry, a daemon, or a program that the agent does
//! not start.
//!
//! ```text
//! build ──► margay, static ──┐
//!                            ├─► rootfs ──► tar: layers ──► archive: config, manifest, index ──► tar: margay-VERSION.tar
//! nft and its libraries ─────┘
//! ```

mod archive;
mod build;
mod rootfs;
mod tar;

use crate::{
    paths,
    setup::{self, Need},
};
use anyhow::{Context, Result};
use archive::{Archive, Image, digest};
pub use build::TARGET;
use rootfs::Rootfs;
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Build the container image that deploy/ names, as an archive that containerd imports
///
/// A static binary (musl), and nft with its libraries from this machine's packages, for masquerading. No container engine is
/// needed. Import it on every node: ctr -n k8s.io images import FILE (or: podman load -i FILE, docker load -i FILE).
#[derive(clap::Args)]
pub struct Args {
    /// The archive [default: <target>/image/margay-VERSION.tar]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Write what the image holds into this directory, in place of an archive (deploy/Containerfile does that)
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    rootfs: Option<PathBuf>,
    /// How to print what was made
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    /// Lines for people
    Table,
    /// One JSON object
    Json,
}

/// The image's name without its tag, as `deploy/` has it.
const NAME: &str = "docker.io/library/margay";
/// Its tag; all packages of the workspace have one version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs `cargo xtask image`.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build, Need::Image])?;
    let layers = layers()?;
    if let Some(dir) = &args.rootfs {
        layers.iter().try_for_each(|layer| layer.write_to(dir))?;
        println!("{}", dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    let file = match &args.file {
        Some(file) => file.clone(),
        None => default_file()?,
    };
    let archive = archive(&layers)?;
    write(&file, &archive.bytes)?;
    match args.output {
        Output::Table => {
            let mb = archive.bytes.len() as f64 / 1e6;
            println!("{}\n{NAME}:{VERSION}\n{}\n{mb:.1} MB", file.display(), archive.manifest);
        }
        Output::Json => {
            let size = archive.bytes.len();
            let sha256 = digest(&archive.bytes);
            let made = json!({
                "file": file, "image": format!("{NAME}:{VERSION}"), "digest": archive.manifest, "bytes": size,
                "file_digest": sha256,
            });
            println!("{made:#}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the image and writes the archive where it belongs, for those who put it onto nodes.
pub fn build() -> Result<PathBuf> {
    let file = default_file()?;
    write(&file, &archive(&layers()?)?.bytes)?;
    Ok(file)
}

fn default_file() -> Result<PathBuf> {
    Ok(paths::target()?.join(format!("image/margay-{VERSION}.tar")))
}

fn archive(layers: &[Rootfs]) -> Result<Archive> {
    Image { name: NAME, version: VERSION, layers: layers.iter().map(Rootfs::tar).collect() }.archive()
}

/// What changes seldom first: nodes that have it already need only the other.
fn layers() -> Result<[Rootfs; 2]> {
    Ok([Rootfs::of_nft()?, Rootfs::of_margay(&build::static_binary()?)?])
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    fs::write(file, bytes).with_context(|| format!("writing {}", file.display()))
}
