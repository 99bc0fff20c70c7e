//! Certificates of a cluster. In: who they are for. Out: PEM files below one directory. Never: a key that leaves it, or an
//! authority that anything but this cluster trusts.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// A certificate authority, and what it has signed.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// The key pair that signs service accounts' tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKeys {
    /// Checks tokens, PEM.
    pub public: PathBuf,
    /// Signs tokens, PEM.
    pub private: PathBuf,
}

// === impl Authority ===

impl Authority {
    /// Makes an authority in `directory`, which is made too.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn create(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let key = KeyPair::generate().context("making the key of a cluster's authority")?;
        let params = Self::params();
        let certificate = params.self_signed(&key).context("signing the certificate of a cluster's authority")?;
        let pair = pair(directory, "ca");
        write(&pair.certificate, &certificate.pem())?;
        write(&pair.key, &key.serialize_pem())?;
        Ok(Self { directory: directory.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// Opens an authority that another process has made.
    ///
    /// # Errors
    /// There is none in `directory`.
    pub fn open(directory: &Path) -> Result<Self> {
        let file = pair(directory, "ca").key;
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let key = KeyPair::from_pem(&text).with_context(|| format!("understanding {}", file.display()))?;
        Ok(Self { directory: directory.to_owned(), issuer: Issuer::new(Self::params(), key) })
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "margay-lab");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        pair(&self.directory, "ca").certificate
    }

    /// The authority's own key.
    pub fn key(&self) -> PathBuf {
        pair(&self.directory, "ca").key
    }

    /// A certificate for a user of the API: `user` and `group` as RBAC names them. `file` names the two files.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<Pair> {
        let mut params = CertificateParams::default();
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, params)
    }

    /// A certificate for a server with these names and addresses.
    ///
    /// # Errors
    /// A name is none, or the files cannot be written.
    pub fn server(&self, file: &str, names: &[&str], addresses: &[IpAddr]) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, file);
        for name in names {
            let name = (*name).try_into().with_context(|| format!("{name} cannot be a server's name"))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(file, params)
    }

    /// The two files of a certificate that this has signed.
    pub(super) fn pair(&self, file: &str) -> Pair {
        pair(&self.directory, file)
    }

    fn issue(&self, file: &str, mut params: CertificateParams) -> Result<Pair> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().with_context(|| format!("making the key {file}"))?;
        let certificate =
            params.signed_by(&key, &self.issuer).with_context(|| format!("signing the certificate {file}"))?;
        let pair = pair(&self.directory, file);
        write(&pair.certificate, &certificate.pem())?;
        write(&pair.key, &key.serialize_pem())?;
        Ok(pair)
    }

    /// Where the key pair for service accounts' tokens is.
    pub fn token_keys(&self) -> TokenKeys {
        TokenKeys {
            public: self.directory.join("service-accounts.pub"),
            private: self.directory.join("service-accounts.key"),
        }
    }

    /// Makes a new key pair for service accounts' tokens.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn create_token_keys(&self) -> Result<TokenKeys> {
        let key = KeyPair::generate().context("making the key of service accounts")?;
        let keys = self.token_keys();
        write(&keys.public, &key.public_key_pem())?;
        write(&keys.private, &key.serialize_pem())?;
        Ok(keys)
    }
}

fn pair(directory: &Path, file: &str) -> Pair {
    Pair { certificate: directory.join(format!("{file}.crt")), key: directory.join(format!("{file}.key")) }
}

/// For root alone, as keys should be.
fn write(file: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut options = fs::File::options();
    let opened = options.create(true).write(true).truncate(true).mode(0o600).open(file);
    opened.and_then(|mut f| f.write_all(text.as_bytes())).with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_is_opened_again_signs_for_the_same_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let made = Authority::create(directory.path()).unwrap();
        let pem = fs::read_to_string(made.certificate()).unwrap();
        let opened = Authority::open(directory.path()).unwrap();
        let pair = opened.client("a", "system:node:a", Some("system:nodes")).unwrap();
        assert!(fs::read_to_string(pair.certificate).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
        assert_eq!(fs::read_to_string(opened.certificate()).unwrap(), pem);
    }
}
