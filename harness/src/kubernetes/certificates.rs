//! The certificates of a cluster: one authority, and what it signs.
use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Who a certificate is for.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The user, to the API server.
    pub name: &'a str,
    /// The user's group.
    pub group: Option<&'a str>,
    pub addresses: &'a [IpAddr],
    pub host_names: &'a [&'a str],
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub certificate: String,
    pub key: String,
}

/// The authority of a cluster, in its folder.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority and its files: `ca.crt`, `ca.key`, and the keys that sign service accounts' tokens.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "millrace test cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("make the key of the authority")?;
        let certificate = params.self_signed(&key).context("sign the authority")?.pem();
        write(&folder.join("ca.crt"), &certificate)?;
        write(&folder.join("ca.key"), &key.serialize_pem())?;
        let accounts = KeyPair::generate().context("make the key of service accounts")?;
        write(&folder.join("accounts.key"), &accounts.serialize_pem())?;
        write(&folder.join("accounts.pub"), &accounts.public_key_pem())?;
        Self::open(folder)
    }

    /// The authority of a cluster that is up.
    pub fn open(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let certificate = read("ca.crt")?;
        let key = KeyPair::from_pem(&read("ca.key")?).context("the key of the authority")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "millrace test cluster");
        Ok(Self { folder: folder.to_owned(), certificate, issuer: Issuer::new(params, key) })
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The certificate that all others are checked with.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs a certificate that is good for client and server.
    pub fn sign(&self, subject: &Subject<'_>) -> Result<Credentials> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, subject.name);
        if let Some(group) = subject.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names =
            subject.addresses.iter().map(|address| SanType::IpAddress(*address)).collect();
        for name in subject.host_names {
            let name = (*name).try_into().with_context(|| format!("host name {name}"))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let key = KeyPair::generate().with_context(|| format!("make the key of {}", subject.name))?;
        let certificate = params.signed_by(&key, &self.issuer);
        let certificate = certificate.with_context(|| format!("sign the certificate of {}", subject.name))?;
        Ok(Credentials { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Signs a certificate and writes it to the authority's folder, as `NAME.crt` and `NAME.key`.
    pub fn sign_to_file(&self, file: &str, subject: &Subject<'_>) -> Result<Credentials> {
        let credentials = self.sign(subject)?;
        write(&self.folder.join(format!("{file}.crt")), &credentials.certificate)?;
        write(&self.folder.join(format!("{file}.key")), &credentials.key)?;
        Ok(credentials)
    }

    /// Access to the API as this user: the text of a kubeconfig with everything in it.
    pub fn kubeconfig(&self, server: &str, user: &str, group: Option<&str>) -> Result<String> {
        let credentials = self.sign(&Subject { name: user, group, addresses: &[], host_names: &[] })?;
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "cluster",
                "cluster": { "server": server, "certificate-authority-data": base64(&self.certificate) },
            }],
            "users": [{
                "name": user,
                "user": {
                    "client-certificate-data": base64(&credentials.certificate),
                    "client-key-data": base64(&credentials.key),
                },
            }],
            "contexts": [{ "name": "cluster", "context": { "cluster": "cluster", "user": user } }],
            "current-context": "cluster",
        });
        serde_json::to_string_pretty(&config).context("a kubeconfig is plain data")
    }
}

/// Writes a file that only root may read.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

/// As kubeconfig files have certificates.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::with_capacity(text.len().div_ceil(3) * 4);
    for chunk in text.as_bytes().chunks(3) {
        let bytes = [chunk[0], chunk.get(1).copied().unwrap_or(0), chunk.get(2).copied().unwrap_or(0)];
        let number = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        for place in 0..4 {
            let digit = (number >> (18 - 6 * place)) & 63;
            encoded.push(if place <= chunk.len() { char::from(DIGITS[digit as usize]) } else { '=' });
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads_as_the_standard_says() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(plain), encoded);
        }
    }
}
