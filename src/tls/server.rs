//! TLS of a listener of ours: what we prove ourselves with, and whose client certificates we take.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Alpn, Content, Error, Identity, certificates_of, provider, roots_of};

/// `tls = { cert, key, client_ca }` of a listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerSettings {
    pub identity: Identity,
    /// Whoever shows a certificate must have one of these. `None`: nobody is asked for one.
    pub client_ca: Option<PathBuf>,
}

/// Whether clients show a certificate, where there is a `client_ca`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// Without one the handshake fails.
    Always,
    IfThereIsOne,
}

/// A server's half of TLS, ready to be used.
pub struct Server {
    pub config: Arc<ServerConfig>,
    own: CertificateDer<'static>,
    /// Verifies clients' certificates, where they are asked for one.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl ServerSettings {
    /// For operators: HTTP/1.1, and whoever has no certificate may still have a key.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub fn server(&self) -> Result<Server, Error> {
        self.build(Alpn::Http1, Shown::IfThereIsOne)
    }

    /// For apps: HTTP/2 or HTTP/1.1. No handshake leans on one before it, so that each meets the roots that are trusted now.
    ///
    /// # Errors
    /// As [`ServerSettings::server`].
    pub fn server_of_apps(&self, certificates: Shown) -> Result<Server, Error> {
        let mut server = self.build(Alpn::Http2OrHttp1, certificates)?;
        let config = Arc::make_mut(&mut server.config);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(server)
    }

    /// What the files hold now, to be compared later. A file that cannot be read holds nothing.
    pub fn content(&self) -> Content {
        Content::of(self.client_ca.as_deref(), Some(&self.identity))
    }

    /// Whether our certificate, as its file is now, holds this name or address.
    pub fn is_for(&self, name: &str) -> bool {
        let own = certificates_of(&self.identity.certificate);
        own.is_ok_and(|chain| chain.first().is_some_and(|own| holds(own, name)))
    }

    fn build(&self, alpn: Alpn, certificates: Shown) -> Result<Server, Error> {
        let certified = self.identity.load()?;
        let own = certified.cert.first().cloned().ok_or_else(|| {
            let path = self.identity.certificate.clone();
            Error::NoCertificate(path)
        })?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(Error::Provider)?;
        let verifier = match &self.client_ca {
            None => None,
            Some(path) => {
                let roots = Arc::new(roots_of(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = match certificates {
                    Shown::Always => verifier,
                    Shown::IfThereIsOne => verifier.allow_unauthenticated(),
                };
                Some(verifier.build()?)
            }
        };
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = alpn.accepted();
        Ok(Server { config: Arc::new(config), own, verifier })
    }
}

impl Server {
    /// Whether a client that shows this chain, or nothing, would be let in now, a time since the Unix epoch.
    pub fn takes(&self, shown: &[CertificateDer<'_>], now: Duration) -> bool {
        let now = UnixTime::since_unix_epoch(now);
        match (&self.verifier, shown.split_first()) {
            (Some(verifier), Some((own, above))) => verifier.verify_client_cert(own, above, now).is_ok(),
            (Some(verifier), None) => !verifier.client_auth_mandatory(),
            (None, Some(_)) => false,
            (None, None) => true,
        }
    }

    /// Whether our certificate holds this name or address.
    pub fn is_for(&self, name: &str) -> bool {
        holds(&self.own, name)
    }
}

fn holds(own: &CertificateDer<'_>, name: &str) -> bool {
    let (Ok(name), Ok(own)) = (ServerName::try_from(name), ParsedCertificate::try_from(own)) else {
        return false;
    };
    rustls::client::verify_server_name(&own, &name).is_ok()
}
