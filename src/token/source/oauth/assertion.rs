//! How a client proves itself with a JWT that it signs (RFC 7523, section 2.2; OpenID Connect Core, section 9).

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Header};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use zeroize::Zeroizing;

use crate::clock::Moment;
use crate::secret::Reference;
use crate::token::source::{Failure, Reason, private_key};

/// `auth = "private_key_jwt"`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// A private key, PEM.
    pub key: Reference,
    pub algorithm: Algorithm,
    /// The `kid`; default: the key's RFC 7638 thumbprint.
    pub key_id: Option<String>,
    /// A file with the key's certificate, PEM, where the issuer knows the key by that; it stands in the place of the `kid`.
    pub certificate: Option<PathBuf>,
    /// Who is to accept the proof: the issuer, or its token endpoint.
    pub audience: String,
}

/// A proof of this client for one call: no two are alike, and an issuer that lets each pass once refuses a copy.
pub async fn sign(settings: &Settings, client_id: &str, now: Moment) -> Result<Zeroizing<String>, Failure> {
    let Settings { key, algorithm, key_id, certificate, audience } = settings;
    let issued_at = now.wall.as_secs();
    let claims = json!({
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "jti": private_key::unique_id()?,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": issued_at + LIFE_SECONDS,
    });
    match certificate {
        Some(certificate) => {
            let mut header = Header::new(*algorithm);
            header.x5t_s256 = Some(thumbprint(certificate)?);
            private_key::sign_under(header, key, &claims).await
        }
        None => private_key::sign(key, *algorithm, key_id.as_deref(), &claims).await.map(|(signed, _)| signed),
    }
}

/// `x5t#S256` (RFC 7515, section 4.1.8) of the first certificate in the file.
fn thumbprint(certificate: &Path) -> Result<String, Failure> {
    let unfit = |what: String| Failure::transient(Reason::Key, format!("{}: {what}", certificate.display()));
    let pem = std::fs::read(certificate).map_err(|error| unfit(error.to_string()))?;
    let der = CertificateDer::from_pem_slice(&pem)
        .map_err(|_| unfit("it holds no certificate in PEM (\"BEGIN CERTIFICATE\")".to_owned()))?;
    Ok(URL_SAFE_NO_PAD.encode(digest(&SHA256, &der)))
}

/// Enough for one call, with clocks that differ a little.
const LIFE_SECONDS: u64 = 60;
