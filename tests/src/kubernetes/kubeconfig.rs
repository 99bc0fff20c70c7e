//! Kubeconfig files. In: an API server's address, its authority, and by what a client is known. Out: a file for kubectl, for the
//! cluster's components and for Rust clients. Never: a secret in it; it names the files that have them.

use std::path::Path;

use anyhow::Result;

use super::certificates::Pair;
use crate::rundir::replace_file;

/// By what the API server knows a client.
#[derive(Clone, Copy, Debug)]
pub enum Credential<'a> {
    /// A certificate, and its key.
    Certificate(&'a Pair),
    /// A file with a token.
    Token(&'a Path),
}

/// Writes a kubeconfig with one cluster, one user and one context, all called `margay-lab`.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &Path, url: &str, authority: &Path, client: Credential<'_>) -> Result<()> {
    let authority = authority.display();
    let user = match client {
        Credential::Certificate(Pair { certificate, key }) => {
            format!("client-certificate: {}\n    client-key: {}", certificate.display(), key.display())
        }
        Credential::Token(file) => format!("tokenFile: {}", file.display()),
    };
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
    {user}
contexts:
- name: margay-lab
  context:
    cluster: margay-lab
    user: margay-lab
"
    );
    replace_file(file, &text)
}
