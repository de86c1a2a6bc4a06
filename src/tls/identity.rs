//! The client certificate that we prove ourselves with, where a peer asks for one.

use std::path::PathBuf;

use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs::sign;
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::{Error, certificates_of};
use crate::secret::Reference;

/// A certificate and its key: `tls = { cert, key }`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The file of the chain in PEM, our own certificate first.
    pub certificate: PathBuf,
    /// The private key in PEM.
    pub key: Reference,
}

impl Identity {
    /// Reads both, and sees that they belong together. Of the key, what the library signs with is kept.
    ///
    /// # Errors
    /// When one cannot be read or used, or they do not belong together.
    pub(super) fn load(&self) -> Result<CertifiedKey, Error> {
        let Self { certificate, key } = self;
        let chain = certificates_of(certificate)?;
        if let Some(path) = key.open_to_everyone() {
            let help = format!("chmod o-r {}", path.display());
            tracing::warn!(key = %path.display(), help, "every user of the machine can read a private key");
        }
        let pem = key.resolve().map_err(Error::Key)?;
        let decoded = PrivateKeyDer::from_pem_slice(pem.expose_to_signer());
        let decoded = Zeroizing::new(decoded.map_err(|_| Error::NoKey(key.clone()))?);
        let signer = sign::any_supported_type(&decoded).map_err(|error| Error::BadKey(key.clone(), error))?;
        let certified = CertifiedKey::new(chain, signer);
        match certified.keys_match() {
            Ok(()) => Ok(certified),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(Error::OtherKey { key: key.clone(), certificate: certificate.clone() })
            }
            Err(error) => Err(Error::BadCertificate { path: certificate.clone(), number: 1, error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    /// A folder with `cert.pem` and `key.pem` in it, which belong together.
    fn folder() -> (TempDir, Identity) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(["client.test".to_owned()]).expect("a name").self_signed(&key);
        std::fs::write(folder.path().join("cert.pem"), certificate.expect("a certificate").pem()).expect("written");
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).expect("written");
        let identity = Identity {
            certificate: folder.path().join("cert.pem"),
            key: Reference::File(folder.path().join("key.pem")),
        };
        (folder, identity)
    }

    #[test]
    fn a_certificate_and_its_key_are_loaded() {
        let (_folder, identity) = folder();
        assert_eq!(identity.load().expect("an identity").cert.len(), 1);
    }

    #[test]
    fn what_cannot_be_used_is_named_and_the_key_is_not_shown() {
        let (folder, identity) = folder();
        let key = folder.path().join("key.pem");
        let other = KeyPair::generate().expect("a key").serialize_pem();
        let encrypted = other.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        for (content, what) in [
            (other.as_str(), "is not that of the first certificate"),
            (encrypted.as_str(), "not encrypted"),
            ("-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n", "cannot be used"),
            ("hunter2", "holds no private key"),
            ("", "is empty"),
        ] {
            std::fs::write(&key, content).expect("written");
            let error = identity.load().expect_err(what).to_string();
            assert!(error.contains(what) && error.contains("key.pem"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        std::fs::write(folder.path().join("cert.pem"), "no certificate").expect("written");
        assert!(matches!(identity.load(), Err(Error::NoCertificate(_))));
    }
}
