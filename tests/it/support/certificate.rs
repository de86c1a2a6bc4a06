//! Certificates: CAs, what they sign, and the servers that show it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::tls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData as _};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::NamedTempFile;

/// A server's certificate, and the file of the CA that is to be trusted for it.
pub struct Certificate {
    pub server: Arc<ServerConfig>,
    ca: NamedTempFile,
}

impl Certificate {
    /// For these names, from a CA of its own; `protocols` are offered in the handshake.
    pub fn new(names: &[&str], protocols: &[&str]) -> Self {
        let ca = Ca::new();
        Self::of(ca.sign(names, |_| {}).server(protocols), &ca)
    }

    /// A server that is configured so, and a file with this CA.
    pub fn of(server: ServerConfig, ca: &Ca) -> Self {
        let file = NamedTempFile::new().expect("a temporary file");
        ca.write(file.path());
        Self { server: Arc::new(server), ca: file }
    }

    pub fn ca(&self) -> &Path {
        self.ca.path()
    }
}

/// Signs certificates.
pub struct Ca {
    params: CertificateParams,
    key: KeyPair,
    /// Its own certificate, and those of the CAs above it but the root.
    chain: Vec<CertificateDer<'static>>,
    root: String,
}

impl Ca {
    pub fn new() -> Self {
        let params = ca_params();
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a certificate").pem();
        Self { params, key, chain: Vec::new(), root }
    }

    /// One below this one; `change` makes it another than a sound one.
    pub fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let own = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).expect("a certificate");
        let chain = std::iter::once(own.der().clone()).chain(self.chain.iter().cloned()).collect();
        Self { params, key, chain, root: self.root.clone() }
    }

    /// A certificate for these names; `change` makes it another than a sound one.
    pub fn sign(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("good names");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let own = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).expect("a certificate");
        let chain = std::iter::once(own.der().clone()).chain(self.chain.iter().cloned()).collect();
        Leaf { chain, key }
    }

    /// Puts the root's certificate into a file.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, &self.root).expect("written");
    }

    /// Verifies clients whose certificates this CA has signed; there are no others.
    pub fn client_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        let own = self.params.self_signed(&self.key).expect("a certificate");
        roots.add(own.der().clone()).expect("a root");
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider()).build().expect("a verifier")
    }
}

/// A name of its own: whoever looks for the issuer of a certificate finds one at most.
fn ca_params() -> CertificateParams {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let mut params = CertificateParams::new(Vec::new()).expect("no names to refuse");
    let name = format!("CA {} of the tests", NEXT.fetch_add(1, Ordering::Relaxed));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A certificate with its key.
pub struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Leaf {
    /// Signed by nobody but itself.
    pub fn self_signed(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().expect("a key");
        let own = CertificateParams::new(names).expect("good names").self_signed(&key).expect("a certificate");
        Self { chain: vec![own.der().clone()], key }
    }

    /// A server that shows it.
    pub fn server(&self, protocols: &[&str]) -> ServerConfig {
        let verifier = WebPkiClientVerifier::no_client_auth();
        self.server_for(verifier, protocols)
    }

    /// A server that shows it to clients that prove themselves.
    pub fn server_for(&self, clients: Arc<dyn ClientCertVerifier>, protocols: &[&str]) -> ServerConfig {
        let mut server = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions that the provider has")
            .with_client_cert_verifier(clients)
            .with_single_cert(self.chain.clone(), self.key())
            .expect("a key that fits");
        server.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        server
    }

    /// Writes `NAME.pem`, with the chain, and `NAME.key` into a folder.
    pub fn write(&self, folder: &Path, name: &str) {
        let chain = self.chain.iter().map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref())));
        std::fs::write(folder.join(format!("{name}.pem")), chain.collect::<String>()).expect("written");
        std::fs::write(folder.join(format!("{name}.key")), self.key.serialize_pem()).expect("written");
    }

    /// As `tls.pin` names it.
    pub fn pin(&self) -> String {
        let digest = digest::digest(&digest::SHA256, &self.key.subject_public_key_info());
        format!("sha256/{}", STANDARD.encode(digest))
    }

    /// Its certificates with the key of another.
    pub fn with_key_of(&self, other: &Self) -> CertifiedKey {
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&other.key()).expect("a key");
        CertifiedKey::new(self.chain.clone(), key)
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        self.key.serialize_der().try_into().expect("a key in DER")
    }
}
