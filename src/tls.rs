//! TLS towards upstreams and issuers: whose certificates are trusted, what we prove ourselves with, and what is offered. And
//! TLS of our own listeners, in `server`.
//!
//! Invariant: whatever is built here verifies its peer, and a pin is asked for beyond that. There is no switch that turns
//! it off, and a plain connection is a value of its own ([`Security::Plain`]) that only an `http` scheme leads to.

pub mod identity;
pub mod pin;
mod server;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provided};
use rustls::server::VerifierBuilderError;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, CertificateError, CipherSuite, ClientConfig, OtherError, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{Error as PemError, PemObject};

pub use self::identity::Identity;
pub use self::pin::Pin;
pub use self::server::{Server, ServerSettings, Shown};
use crate::authority::Scheme;
use crate::secret::{Reference, ResolveError, Secret};

/// What differs from the defaults for one upstream or issuer: `tls = { ... }`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// A file of PEM certificates that replaces the system's roots.
    pub ca: Option<PathBuf>,
    /// What we prove ourselves with, where the peer asks for it.
    pub identity: Option<Identity>,
    /// Keys of which the peer's certificate must have one. Empty: any that its certificate vouches for.
    pub pins: Vec<Pin>,
}

/// Which protocols are offered to the peer (RFC 7301).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alpn {
    Http1,
    Http2OrHttp1,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2OrHttp1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }

    /// What a server takes: old clients offer what they speak, and nothing else.
    pub fn accepted(self) -> Vec<Vec<u8>> {
        let mut accepted = self.protocols();
        accepted.push(b"http/1.0".to_vec());
        accepted
    }
}

/// How a connection is protected. Made from the scheme it is for: `https` is never dialled in the clear.
#[derive(Clone, Debug)]
pub enum Security {
    Plain,
    Tls(Arc<ClientConfig>),
}

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {error}", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} is not well-formed PEM: {error}", .path.display())]
    NotPem { path: PathBuf, error: PemError },
    #[error("{} holds no certificate: there is no \"BEGIN CERTIFICATE\" in it", .0.display())]
    NoCertificate(PathBuf),
    #[error("certificate {number} in {} cannot be trusted as a root: {error}", .path.display())]
    BadCertificate { path: PathBuf, number: usize, error: rustls::Error },
    #[error("the system has no root certificates ({0}): install its CA bundle, set SSL_CERT_FILE, or give `tls.ca`")]
    NoSystemRoots(String),
    #[error("cannot read the key of the certificate: {0}")]
    Key(ResolveError),
    #[error("{0} holds no private key that can be read: one in PEM, not encrypted (\"BEGIN PRIVATE KEY\"), is needed")]
    NoKey(Reference),
    #[error("the private key in {0} cannot be used: {1}")]
    BadKey(Reference, rustls::Error),
    #[error("the private key in {key} is not that of the first certificate in {}", .certificate.display())]
    OtherKey { key: Reference, certificate: PathBuf },
    #[error("the TLS library does not take the roots: {0}")]
    Verifier(#[from] VerifierBuilderError),
    #[error("the TLS library refuses its own settings: {0}")]
    Provider(rustls::Error),
}

impl Security {
    /// # Errors
    /// When the scheme is `https` and the roots cannot be read.
    pub fn new(scheme: Scheme, settings: &Settings, alpn: Alpn) -> Result<Self, Error> {
        match scheme {
            Scheme::Http => Ok(Self::Plain),
            Scheme::Https => settings.client_config(alpn).map(Self::Tls),
        }
    }

    /// The same for a connection that has to speak HTTP/1.1. Sessions are resumed across both.
    pub fn of_http1(&self) -> Self {
        match self {
            Self::Plain => Self::Plain,
            Self::Tls(config) => {
                let mut config = ClientConfig::clone(config);
                config.alpn_protocols = Alpn::Http1.protocols();
                Self::Tls(Arc::new(config))
            }
        }
    }
}

/// What the files of some settings held when they were looked at. Tells nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content([u8; 32]);

impl Settings {
    /// What the files hold now, to be compared later. A file that cannot be read holds nothing.
    pub fn content(&self) -> Content {
        Content::of(self.ca.as_deref(), self.identity.as_ref())
    }

    /// The same, without what we prove ourselves with: enough to see whether the rest can be used.
    pub fn without_identity(&self) -> Self {
        Self { identity: None, ..self.clone() }
    }

    /// The configuration for connections under these settings. It holds the sessions that can be resumed: keep it, and
    /// make one for each upstream.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub fn client_config(&self, alpn: Alpn) -> Result<Arc<ClientConfig>, Error> {
        let roots = match &self.ca {
            Some(path) => Arc::new(roots_of(path)?),
            None => system_roots()?,
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(Error::Provider)?;
        let builder = if self.pins.is_empty() {
            builder.with_root_certificates(roots)
        } else {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?;
            let pinned = pin::Verifier::new(verifier, self.pins.clone());
            // "Dangerous" for what others do with it: this one verifies all that the usual one does, and then more.
            builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned))
        };
        let mut config = match &self.identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.load()?))),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.alpn_protocols = alpn.protocols();
        Ok(Arc::new(config))
    }
}

impl Content {
    fn of(roots: Option<&Path>, identity: Option<&Identity>) -> Self {
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: Option<&[u8]>| {
            let bytes = bytes.unwrap_or_default();
            digest.update(&bytes.len().to_be_bytes());
            digest.update(bytes);
        };
        add(roots.and_then(|path| std::fs::read(path).ok()).as_deref());
        if let Some(Identity { certificate, key }) = identity {
            add(std::fs::read(certificate).ok().as_deref());
            let key = key.resolve().ok();
            add(key.as_ref().map(Secret::expose_to_signer));
        }
        let mut content = [0; 32];
        content.copy_from_slice(digest.finish().as_ref());
        Self(content)
    }
}

/// The alert with which a peer has ended a connection, if that is behind an error. In TLS 1.3 a peer that misses our
/// certificate says so when the handshake is over for us.
pub fn alert(error: &(dyn std::error::Error + 'static)) -> Option<AlertDescription> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(rustls::Error::AlertReceived(alert)) = inner.and_then(|inner| inner.downcast_ref()) {
            return Some(*alert);
        }
        next = error.source();
    }
    None
}

/// Why a handshake failed, for an operator.
pub fn explain(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match (alert(error), inner) {
        (Some(alert), _) => describe(alert),
        // The library would show the structure of what others found wrong, and not say it.
        (None, Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(found))))) => {
            format!("invalid peer certificate: {found}")
        }
        (None, _) => error.to_string(),
    }
}

/// What an alert says, and what to do about those that are for a human.
pub fn describe(alert: AlertDescription) -> String {
    let name = alert.as_str().unwrap_or("unknown");
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            format!("the peer asks for a client certificate ({name}): give one in `tls.cert` and `tls.key`")
        }
        _ => format!("the peer ended the TLS connection with the alert {name}"),
    }
}

/// The one provider of cryptography, given by hand: nothing is installed for the whole process.
/// AES-128-GCM goes first, which costs less than AES-256 and is no weaker in practice; X25519 is the first key share.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        let mut provider = provided::default_provider();
        provider.cipher_suites.sort_by_key(|suite| !is_aes_128(suite.suite()));
        Arc::new(provider)
    };
    PROVIDER.get_or_init(make).clone()
}

fn is_aes_128(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

/// The system's roots, read once they were found; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
fn system_roots() -> Result<Arc<RootCertStore>, Error> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // One odd certificate among the system's hundred is no reason to trust none of the others.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| "none was found".to_owned(), ToString::to_string);
        return Err(Error::NoSystemRoots(why));
    }
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}

/// The system's roots as a file has them, for apps that are to trust one more.
///
/// # Errors
/// When there are none.
pub fn system_roots_in_pem() -> Result<String, Error> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map_or_else(|| "none was found".to_owned(), ToString::to_string);
        return Err(Error::NoSystemRoots(why));
    }
    let certificates: Vec<_> = found.certs.iter().map(|root| pem::Pem::new("CERTIFICATE", root.as_ref())).collect();
    let unix = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    Ok(pem::encode_many_config(&certificates, unix))
}

/// The roots in a file of PEM. Here each must be sound: the file was written for us.
fn roots_of(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates_of(path)?.into_iter().enumerate() {
        let refuse = |error| Error::BadCertificate { path: path.to_owned(), number: index + 1, error };
        roots.add(certificate).map_err(refuse)?;
    }
    Ok(roots)
}

/// The certificates in a file of PEM: at least one.
fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = std::fs::read(path).map_err(|error| Error::Unreadable { path: path.to_owned(), error })?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::NotPem { path: path.to_owned(), error })?;
    if certificates.is_empty() { Err(Error::NoCertificate(path.to_owned())) } else { Ok(certificates) }
}

/// Sessions that are kept to be resumed, at the one upstream that a configuration is for. The library's default makes room
/// for many servers.
const SESSIONS: usize = 8;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustls::NamedGroup;

    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(content.as_bytes()).expect("writes");
        file
    }

    fn config(content: &str) -> Result<Arc<ClientConfig>, Error> {
        let file = file(content);
        Settings { ca: Some(file.path().to_owned()), ..Settings::default() }.client_config(Alpn::Http2OrHttp1)
    }

    #[test]
    fn the_cheap_cipher_is_offered_first_and_x25519_stays_usable() {
        let provider = provider();
        assert_eq!(provider.cipher_suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(provider.kx_groups[0].name(), NamedGroup::X25519);
        assert!(provider.cipher_suites.len() >= 9, "nothing was dropped");
    }

    #[test]
    fn a_file_replaces_the_roots_of_the_system() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let root =
            rcgen::CertificateParams::new(["ca.test".to_owned()]).expect("a key").self_signed(&key).expect("a key");
        let config = config(&format!("a comment\n{}", root.pem())).expect("a key");
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }

    #[test]
    fn a_bad_file_is_named_with_what_is_wrong() {
        let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(config(broken), Err(Error::NotPem { .. })));
        assert!(matches!(config(no_certificate), Err(Error::BadCertificate { number: 1, .. })));
        assert!(matches!(config("hello"), Err(Error::NoCertificate(_))));
        assert!(matches!(config(""), Err(Error::NoCertificate(_))));

        let missing = Settings { ca: Some("/nowhere/ca.pem".into()), ..Settings::default() };
        let error = missing.client_config(Alpn::Http1).expect_err("there is no such file");
        assert_eq!(error.to_string(), "cannot read /nowhere/ca.pem: No such file or directory (os error 2)");
    }

    #[test]
    fn plain_http_asks_for_no_roots() {
        let missing = Settings { ca: Some("/nowhere/ca.pem".into()), ..Settings::default() };
        assert!(matches!(Security::new(Scheme::Http, &missing, Alpn::Http1), Ok(Security::Plain)));
        assert!(Security::new(Scheme::Https, &missing, Alpn::Http1).is_err());
    }
}
