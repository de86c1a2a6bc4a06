//! The public keys of an issuer, out of its JWK Set (RFC 7517).
//!
//! Invariant: a key verifies by the algorithm that it is made for, and by no other: a shared key (`oct`) is none at all.

use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::token::ALGORITHMS;
use crate::clock::Moment;

/// The most keys that are taken.
const MOST: usize = 64;

/// The keys as they were when the issuer was asked last.
pub struct Keys {
    list: Vec<Key>,
    pub asked: Moment,
}

pub struct Key {
    /// What it is: the same key under the same name. Whoever was let in by it is let in as long as it is there.
    pub identity: Arc<str>,
    name: Option<String>,
    algorithm: Algorithm,
    pub public: DecodingKey,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

impl Keys {
    /// What of a set can be used. `None` where it is no set, or nothing of it can be.
    pub fn parse(document: &[u8], asked: Moment) -> Option<Self> {
        let set: Set = serde_json::from_slice(document).ok()?;
        let list: Vec<Key> = set.keys.into_iter().take(MOST).filter_map(Key::of).collect();
        (!list.is_empty()).then_some(Self { list, asked })
    }

    /// The key of this name. Who names none means the only one.
    pub fn find(&self, name: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        let mut fit = self.list.iter().filter(|key| key.algorithm == algorithm);
        match name {
            Some(name) => fit.find(|key| key.name.as_deref() == Some(name)),
            None => fit.next().filter(|_| fit.next().is_none()),
        }
    }

    pub fn has(&self, identity: &str) -> bool {
        self.list.iter().any(|key| *key.identity == *identity)
    }
}

impl Key {
    /// `None` for a key that is none of a signature, or of no algorithm that is taken.
    fn of(value: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            return None;
        }
        let (_, algorithm) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => ALGORITHMS[0],
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => ALGORITHMS[1],
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => ALGORITHMS[2],
            _ => return None,
        };
        if jwk.common.key_algorithm.is_some_and(|own| own != algorithm.into()) {
            return None;
        }
        let thumbprint = jwk.thumbprint(ThumbprintHash::SHA256).ok()?;
        let public = DecodingKey::from_jwk(&jwk).ok()?;
        let identity = format!("{thumbprint} {}", jwk.common.key_id.as_deref().unwrap_or_default()).into();
        Some(Self { identity, name: jwk.common.key_id, algorithm, public })
    }
}
