//! JWTs that we sign ourselves (RFC 7519), and the public keys to verify them with (RFC 7517).
//!
//! Invariant: the published keys are those of every JWT of ours that still lives. The key file may be replaced at any
//! time: the old key stays published until the last JWT that it signed has ended. A key that a program prints is published once it has
//! signed something.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde_json::{Map, Value, json};

use super::{BuildError, Failure, Issued, Obtaining, Pace, Source, private_key};
use crate::clock::{Clock, Moment};
use crate::secret::{Reference, Secret};

/// `source = { kind = "signed_jwt", key = "file:...", algorithm = "ES256", ... }`
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// A private key, PEM.
    pub key: Reference,
    pub algorithm: Algorithm,
    /// The `kid`; default: the key's RFC 7638 thumbprint.
    pub key_id: Option<String>,
    pub issuer: String,
    pub subject: String,
    pub audience: Vec<String>,
    pub lifetime: Duration,
    /// Further claims.
    pub claims: Map<String, Value>,
}

impl Settings {
    /// Whether the claims and the algorithm can be used at all.
    pub(super) fn judge(&self) -> Result<(), BuildError> {
        // An HMAC key has no public half: its JWK would be the secret itself.
        if self.algorithm.family() == AlgorithmFamily::Hmac {
            return Err(BuildError::SharedKey(self.algorithm));
        }
        match self.claims.keys().find(|name| RESERVED.contains(&name.as_str())) {
            Some(name) => Err(BuildError::ReservedClaim(name.clone())),
            None => Ok(()),
        }
    }

    /// The claims of a JWT of this time.
    pub(super) fn claims_at(&self, issued_at: u64, ends: u64) -> Result<Map<String, Value>, Failure> {
        let mut claims = self.claims.clone();
        claims.insert("iss".to_owned(), json!(self.issuer));
        claims.insert("sub".to_owned(), json!(self.subject));
        match self.audience.as_slice() {
            [] => None,
            [one] => claims.insert("aud".to_owned(), json!(one)),
            several => claims.insert("aud".to_owned(), json!(several)),
        };
        claims.insert("iat".to_owned(), json!(issued_at));
        claims.insert("exp".to_owned(), json!(ends));
        claims.insert("jti".to_owned(), json!(private_key::unique_id()?));
        Ok(claims)
    }
}

pub struct SignedJwt {
    settings: Settings,
    clock: Arc<dyn Clock>,
    /// The keys that signed something, each with the end of what it signed last.
    used: Mutex<Vec<(Jwk, Moment)>>,
}

impl SignedJwt {
    /// # Errors
    /// When the algorithm is no public-key one, or a claim is set twice.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        settings.judge()?;
        Ok(Self { settings, clock, used: Mutex::default() })
    }

    async fn sign(&self) -> Result<Issued, Failure> {
        let now = self.clock.now();
        let issued_at = now.wall.as_secs();
        let ends = issued_at.saturating_add(self.settings.lifetime.as_secs());
        let Settings { key, algorithm, key_id, .. } = &self.settings;
        let (token, jwk) =
            private_key::sign(key, *algorithm, key_id.as_deref(), &self.settings.claims_at(issued_at, ends)?).await?;
        let expires = now.after(Duration::from_secs(ends).saturating_sub(now.wall));
        self.remember(jwk, expires, now);
        let secret = Secret::new(token.as_bytes());
        Ok(Issued { secret, expires: Some(expires), assumed: false, granted: None, void_by: None, version: None })
    }

    fn remember(&self, jwk: Jwk, until: Moment, now: Moment) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|(other, end)| *other != jwk && !end.reached(now));
        used.push((jwk, until));
    }

    fn published(&self) -> Vec<Jwk> {
        let now = self.clock.now();
        let Settings { key, algorithm, key_id, .. } = &self.settings;
        let read = private_key::read(key, *algorithm, key_id.as_deref());
        let mut keys: Vec<Jwk> = read.into_iter().map(|(_, jwk)| jwk).collect();
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        for (jwk, end) in used.iter() {
            if !end.reached(now) && !keys.contains(jwk) {
                keys.push(jwk.clone());
            }
        }
        keys
    }
}

impl Source for SignedJwt {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.sign())
    }

    fn kind(&self) -> &'static str {
        "signed_jwt"
    }

    /// Nobody is asked but our own key.
    fn pace(&self) -> Pace {
        Pace { between_calls: Duration::from_millis(200), recheck: Duration::from_secs(60) }
    }

    fn public_keys(&self) -> Vec<Value> {
        self.published().into_iter().filter_map(|jwk| serde_json::to_value(jwk).ok()).collect()
    }
}

/// Claims of our own.
const RESERVED: [&str; 6] = ["iss", "sub", "aud", "iat", "exp", "jti"];

#[cfg(test)]
mod tests;
