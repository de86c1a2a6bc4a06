//! TLS of a listener of ours: what we prove ourselves with, and whose client certificates we take.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{CertificateDer, ServerName};

use super::{Error, Identity, provider, roots_of};

/// `tls = { cert, key, client_ca }` of a listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerSettings {
    pub identity: Identity,
    /// Whoever shows a certificate must have one of these. `None`: nobody is asked for one.
    pub client_ca: Option<PathBuf>,
}

/// A server's half of TLS, ready to be used.
pub struct Server {
    pub config: Arc<ServerConfig>,
    own: CertificateDer<'static>,
}

impl ServerSettings {
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub fn server(&self) -> Result<Server, Error> {
        let certified = self.identity.load()?;
        let own = certified.cert.first().cloned().ok_or_else(|| {
            let path = self.identity.certificate.clone();
            Error::NoCertificate(path)
        })?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(Error::Provider)?;
        let builder = match &self.client_ca {
            Some(path) => {
                let roots = Arc::new(roots_of(path)?);
                // Who has none may still have a key.
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated();
                builder.with_client_cert_verifier(verifier.build()?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Server { config: Arc::new(config), own })
    }
}

impl Server {
    /// Whether our certificate holds this name or address.
    pub fn is_for(&self, name: &str) -> bool {
        let (Ok(name), Ok(own)) = (ServerName::try_from(name), ParsedCertificate::try_from(&self.own)) else {
            return false;
        };
        rustls::client::verify_server_name(&own, &name).is_ok()
    }
}
