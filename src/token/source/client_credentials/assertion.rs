//! How a client proves itself with a JWT that it signs (RFC 7523, section 2.2; OpenID Connect Core, section 9).

use jsonwebtoken::Algorithm;
use serde_json::json;
use zeroize::Zeroizing;

use crate::clock::Moment;
use crate::secret::Reference;
use crate::token::source::{Failure, private_key};

/// `auth = "private_key_jwt"`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// A private key, PEM.
    pub key: Reference,
    pub algorithm: Algorithm,
    /// The `kid`; default: the key's RFC 7638 thumbprint.
    pub key_id: Option<String>,
    /// Who is to accept the proof: the issuer, or its token endpoint.
    pub audience: String,
}

/// A proof of this client for one call: no two are alike, and an issuer that lets each pass once refuses a copy.
pub fn sign(settings: &Settings, client_id: &str, now: Moment) -> Result<Zeroizing<String>, Failure> {
    let Settings { key, algorithm, key_id, audience } = settings;
    let issued_at = now.wall.as_secs();
    let claims = json!({
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "jti": private_key::unique_id()?,
        "iat": issued_at,
        "exp": issued_at + LIFE_SECONDS,
    });
    let (signed, _) = private_key::sign(key, *algorithm, key_id.as_deref(), &claims)?;
    Ok(signed)
}

/// Enough for one call, with clocks that differ a little.
const LIFE_SECONDS: u64 = 60;
