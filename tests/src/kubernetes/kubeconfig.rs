//! Kubeconfig files. In: an API server's address, its authority and a client certificate. Out: a file for kubectl, for the
//! cluster's components and for Rust clients. Never: a secret in it; it names the files that have them.

use std::path::Path;

use anyhow::Result;

use super::certificates::Pair;
use crate::rundir::replace_file;

/// Writes a kubeconfig with one cluster, one user and one context, all called `margay-lab`.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &Path, url: &str, authority: &Path, client: &Pair) -> Result<()> {
    let Pair { certificate, key } = client;
    let (authority, certificate, key) = (authority.display(), certificate.display(), key.display());
    let text = format!(
        "\
apiVersion: v1
kind: Config
current-context: margay-lab
clusters:
- name: margay-lab
  cluster:
    server: {url}
    certificate-authority: {authority}
users:
- name: margay-lab
  user:
    client-certificate: {certificate}
    client-key: {key}
contexts:
- name: margay-lab
  context:
    cluster: margay-lab
    user: margay-lab
"
    );
    replace_file(file, &text)
}
