//! Margay itself, installed as its users do it. In: a cluster, `deploy/` and the archive that `cargo xtask image` makes. Out:
//! what `kubectl apply -k` makes of an overlay over `deploy/`, and the pool of its example. Never: another way onto
//! a node than the manifests'.

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::kubernetes::cluster::KubeCluster;

/// Names the archive with Margay's image, if it is not in cargo's target directory.
pub const IMAGE_VARIABLE: &str = "MARGAY_IMAGE";
/// Names the directory with the manifests, if it is not above this executable.
pub const DEPLOY_VARIABLE: &str = "MARGAY_DEPLOY";

/// The image onto every node, then the manifests, then a pool.
///
/// # Errors
/// Image or manifests are not there, a node does not take the image, or the API server the manifests.
pub fn install(cluster: &KubeCluster) -> Result<()> {
    let (image, deploy) = (find_image()?, find_deploy()?);
    import(cluster, &image)?;
    let overlay = cluster.control_plane().dir().path().join("overlay");
    write_overlay(cluster, &deploy, &overlay)?;
    let kustomization = format!("--kustomize={}", overlay.display());
    let control_plane = cluster.control_plane();
    control_plane.kubectl_output(["apply", &kustomization])?;
    let definition = "customresourcedefinition/ippools.crd.projectcalico.org";
    control_plane.kubectl_output(["wait", "--for=condition=Established", "--timeout=30s", definition])?;
    control_plane.apply(&deploy.join("examples/ippool.yaml"))
}

/// All nodes at once.
fn import(cluster: &KubeCluster, image: &Path) -> Result<()> {
    thread::scope(|scope| {
        let imports: Vec<_> = cluster.nodes().iter().map(|node| scope.spawn(|| node.import_images(image))).collect();
        imports.into_iter().try_for_each(|i| i.join().unwrap_or_else(|_| bail!("importing Margay's image panicked")))
    })
}

/// What an administrator of such a cluster would choose: the API server's address where nothing makes its Service work.
fn write_overlay(cluster: &KubeCluster, deploy: &Path, overlay: &Path) -> Result<()> {
    fs::create_dir_all(overlay).with_context(|| format!("making {}", overlay.display()))?;
    let mut patches = vec![CONTROLLER_PATCH.to_owned()];
    if !cluster.choices().kube_proxy {
        patches.push(server_patch(cluster));
    }
    if !may_have(SYS_RESOURCE)? {
        patches.push(CAPABILITIES_PATCH.to_owned());
    }
    let patches = format!("patches:\n{}", patches.concat());
    // kustomize takes no absolute path.
    let up = "../".repeat(overlay.components().count() - 1);
    let base = format!("{up}{}", deploy.display().to_string().trim_start_matches('/'));
    let kustomization =
        format!("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [{base}]\n{patches}");
    let file = overlay.join("kustomization.yaml");
    fs::write(&file, kustomization).with_context(|| format!("writing {}", file.display()))
}

fn server_patch(cluster: &KubeCluster) -> String {
    let settings = cluster.control_plane().settings();
    format!(
        "\
- patch: |
    apiVersion: v1
    kind: ConfigMap
    metadata: {{name: margay-config, namespace: kube-system}}
    data: {{KUBERNETES_SERVICE_HOST: \"{}\", KUBERNETES_SERVICE_PORT: \"{}\"}}
",
        settings.address, settings.port
    )
}

/// Who watches a lab waits seconds, not minutes, for what the controller takes back.
const CONTROLLER_PATCH: &str = "\
- target: {kind: Deployment, name: margay-controller}
  patch: |
    - op: replace
      path: /spec/template/spec/containers/0/args
      value: [controller, --interval=5, --grace=15]
";

/// CAP_SYS_RESOURCE, capabilities(7).
const SYS_RESOURCE: u32 = 24;
/// The agent wants it for kernels before 5.11. A machine that nobody may have it on (some sandboxes) starts no container that
/// asks for it, so there the manifest must not.
const CAPABILITIES_PATCH: &str = "\
- target: {kind: DaemonSet, name: margay-agent}
  patch: |
    - op: replace
      path: /spec/template/spec/containers/0/securityContext/capabilities/add
      value: [BPF, NET_ADMIN, PERFMON]
";

/// Whether a program on this machine may have a capability.
fn may_have(capability: u32) -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("it has no line CapBnd")?;
    let bounding = u64::from_str_radix(bounding.trim(), 16).with_context(|| format!("understanding {bounding}"))?;
    Ok(bounding >> capability & 1 == 1)
}

/// The archive with the image.
fn find_image() -> Result<PathBuf> {
    if let Some(file) = env::var_os(IMAGE_VARIABLE) {
        return fs::canonicalize(&file)
            .with_context(|| format!("opening {}, which {IMAGE_VARIABLE} names", Path::new(&file).display()));
    }
    let name = format!("image/margay-{}.tar", env!("CARGO_PKG_VERSION"));
    let me = env::current_exe().context("finding this executable")?;
    let found = me.ancestors().map(|dir| dir.join(&name)).find(|file| file.is_file());
    found.ok_or_else(|| anyhow!("there is no {name} above {}: `cargo xtask image` makes it", me.display()))
}

/// The directory with the manifests.
fn find_deploy() -> Result<PathBuf> {
    if let Some(dir) = env::var_os(DEPLOY_VARIABLE) {
        return fs::canonicalize(&dir)
            .with_context(|| format!("opening {}, which {DEPLOY_VARIABLE} names", Path::new(&dir).display()));
    }
    let me = env::current_exe().context("finding this executable")?;
    // cargo sets it for tests, whose executables may be anywhere.
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let starts = package.iter().map(PathBuf::as_path).chain([me.as_path()]);
    let found =
        starts.flat_map(Path::ancestors).map(|dir| dir.join("deploy")).find(|d| d.join("kustomization.yaml").is_file());
    found.ok_or_else(|| anyhow!("there is no deploy/ above {}; name it in {DEPLOY_VARIABLE}", me.display()))
}
