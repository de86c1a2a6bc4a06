//! Pins: a peer's certificate must be valid, and its public key be one that we were told (RFC 7469, section 2.4).
//!
//! The key is that of the server's own certificate. A pin does not match the key of a CA in the chain: a server may
//! send certificates that its own does not depend on, and would pass by sending a copy of the pinned one. To trust one
//! CA alone is what `ca` is for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// The SHA-256 of a certificate's SubjectPublicKeyInfo, written `sha256/BASE64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pin([u8; 32]);

/// A text that is no pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a pin is \"sha256/\" and the base64 of a SHA-256, 44 characters with the `=` at its end")]
pub struct NotAPin;

impl Pin {
    /// Of the key in a certificate.
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        let mut pin = [0; 32];
        pin.copy_from_slice(digest::digest(&digest::SHA256, &key).as_ref());
        Ok(Self(pin))
    }
}

impl FromStr for Pin {
    type Err = NotAPin;

    fn from_str(text: &str) -> Result<Self, NotAPin> {
        let bytes = STANDARD.decode(text.strip_prefix("sha256/").ok_or(NotAPin)?).map_err(|_| NotAPin)?;
        bytes.try_into().map(Self).map_err(|_| NotAPin)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

/// The peer's certificate is valid, and not the one that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("its key is {0}, and `pin` names another")]
struct OtherPin(Pin);

/// Verifies as ever, and then compares the key.
#[derive(Debug)]
pub(super) struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    pins: Vec<Pin>,
}

impl Verifier {
    pub(super) fn new(usual: Arc<WebPkiServerVerifier>, pins: Vec<Pin>) -> Self {
        Self { usual, pins }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let pin = Pin::of(end_entity)?;
        if self.pins.contains(&pin) {
            Ok(verified)
        } else {
            Err(CertificateError::Other(OtherError(Arc::new(OtherPin(pin)))).into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    #[test]
    fn a_pin_is_written_as_it_is_read() {
        let text = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        assert_eq!(text.parse::<Pin>().expect("a pin").to_string(), text);
        for bad in [
            "",
            "sha256/",
            "sha256/abc",
            "sha1/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "sha256/47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert_eq!(bad.parse::<Pin>(), Err(NotAPin), "{bad}");
        }
    }

    #[test]
    fn the_pin_of_a_certificate_is_that_of_its_key() {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(["a.test".to_owned()]).expect("a name").self_signed(&key);
        let pin = Pin::of(certificate.expect("a certificate").der()).expect("a certificate");
        assert_eq!(pin.0, digest::digest(&digest::SHA256, &key.subject_public_key_info()).as_ref());
    }
}
