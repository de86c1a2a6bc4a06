//! A certificate authority of the test's own, and a certificate for servers on loopback.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// Where the PEM files are.
pub struct Certificates {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificates {
    pub fn make(folder: &Path) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "the authority of the peers test");
        let authority_key = KeyPair::generate().expect("a key");
        let authority_certificate = authority.self_signed(&authority_key).expect("a certificate");
        let issuer = Issuer::new(authority, authority_key);

        let names = ["localhost", "api.test", "*.peers.test"].map(str::to_owned);
        let mut server = CertificateParams::new(names).expect("a name");
        server.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let server_key = KeyPair::generate().expect("a key");
        let server_certificate = server.signed_by(&server_key, &issuer).expect("a certificate");

        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("write a PEM file");
            path
        };
        Self {
            ca: write("ca.pem", authority_certificate.pem()),
            certificate: write("server.pem", server_certificate.pem()),
            key: write("server.key", server_key.serialize_pem()),
        }
    }
}
