//! A server's certificate, and the file of the CA that signed it.

use std::path::Path;
use std::sync::Arc;

use countersign::tls;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use tempfile::NamedTempFile;

pub struct Certificate {
    pub server: Arc<ServerConfig>,
    ca: NamedTempFile,
}

impl Certificate {
    /// For these names, from a CA of its own; `protocols` are offered in the handshake.
    pub fn new(names: &[&str], protocols: &[&str]) -> Self {
        let mut ca = CertificateParams::new(Vec::new()).expect("no names to refuse");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().expect("a key");
        let file = NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), ca.self_signed(&ca_key).expect("a certificate").pem()).expect("written");

        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let leaf = CertificateParams::new(names).expect("good names");
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, &ca_key)).expect("a certificate");
        let mut server = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions that the provider has")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().expect("a key in DER"))
            .expect("a key that fits");
        server.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { server: Arc::new(server), ca: file }
    }

    pub fn ca(&self) -> &Path {
        self.ca.path()
    }
}
