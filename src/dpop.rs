//! Proofs of possession (RFC 9449): a token that is bound to a key is worth nothing without a proof that this key has signed, for one
//! request.
//!
//! ```text
//!  key ─▶ token endpoint: proof ──────────────▶ a token that is bound to it
//!    └──▶ upstream: token + proof with its hash ▶ answer ─▶ nonce, for the next proof towards that place
//! ```
//!
//! Invariant: no two proofs are alike, and one names the method and the place that it is for.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::authority::Endpoint;
use crate::clock::Moment;
use crate::secret::{NotVisibleAscii, Secret};

/// Where a proof goes.
pub const PROOF: HeaderName = HeaderName::from_static("dpop");

/// What a server wants to read in the next proof.
pub const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// What servers say that want another nonce (RFC 9449, sections 8 and 9).
pub const USE_NONCE: &str = "use_dpop_nonce";

/// The longest nonce that is repeated, and the places whose nonces are remembered.
const LONGEST_NONCE: usize = 512;
const MOST_PLACES: usize = 64;

/// What signs proofs.
pub struct Key {
    signer: EncodingKey,
    header: Header,
    /// As it is kept for a next run, where it was made here: PKCS#8, base64.
    made: Option<Secret>,
    /// By scheme and authority.
    nonces: ArcSwap<BTreeMap<String, String>>,
}

/// A token that is bound to a key, as a request carries it.
pub struct Bound {
    pub value: HeaderValue,
    /// The hash of the token.
    hash: String,
    key: Arc<Key>,
}

/// What cannot sign proofs.
#[derive(Debug, thiserror::Error)]
#[error("it is no private key for ES256, in PKCS#8 form and PEM")]
pub struct NotAKey;

/// The claims of a proof (section 4.2).
#[derive(Serialize)]
struct Claims<'a> {
    jti: String,
    htm: &'a str,
    htu: &'a str,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
}

impl Key {
    /// A key that nobody has had before.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn made() -> Self {
        let pair =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("the operating system gives randomness");
        let der = pair.to_pkcs8v1().expect("a key that was made can be written");
        Self::of_document(der.as_ref()).expect("what was made for ES256 signs so")
    }

    /// One that a former run [made](Self::made), as that has [kept](Self::kept) it.
    ///
    /// # Errors
    /// When the text is another thing than that.
    pub fn made_before(kept: &str) -> Result<Self, NotAKey> {
        Self::of_document(&Zeroizing::new(STANDARD.decode(kept).map_err(|_| NotAKey)?))
    }

    fn of_document(der: &[u8]) -> Result<Self, NotAKey> {
        let made = Some(Secret::new(STANDARD.encode(der)));
        Ok(Self { made, ..Self::of(EncodingKey::from_ec_der(der))? })
    }

    /// For a next run to go on with; `None` of a key that lies somewhere else.
    pub fn kept(&self) -> Option<&Secret> {
        self.made.as_ref()
    }

    /// # Errors
    /// When the text is another thing than a private key for ES256.
    pub fn read(pem: &[u8]) -> Result<Self, NotAKey> {
        Self::of(EncodingKey::from_ec_pem(pem).map_err(|_| NotAKey)?)
    }

    fn of(signer: EncodingKey) -> Result<Self, NotAKey> {
        let mut public = Jwk::from_encoding_key(&signer, Algorithm::ES256).map_err(|_| NotAKey)?;
        // Only what makes the key: a proof is sent with each request.
        public.common = Default::default();
        let header = Header { typ: Some("dpop+jwt".to_owned()), jwk: Some(public), ..Header::new(Algorithm::ES256) };
        let key = Self { signer, header, made: None, nonces: ArcSwap::default() };
        // Another curve shows when it signs.
        key.signed(&Claims { jti: String::new(), htm: "", htu: "", iat: 0, ath: None, nonce: None }).ok_or(NotAKey)?;
        Ok(key)
    }

    /// Whether it is the same key.
    pub fn is(&self, other: &Self) -> bool {
        let name = |key: &Self| key.header.jwk.as_ref().and_then(|key| key.thumbprint(ThumbprintHash::SHA256).ok());
        name(self).is_some_and(|own| Some(own) == name(other))
    }

    /// A proof for one request to the token endpoint.
    pub fn proof(&self, method: &str, endpoint: &Endpoint, now: Moment) -> Option<HeaderValue> {
        self.sign(method, &place(endpoint), &endpoint.to_string(), None, now)
    }

    fn sign(&self, method: &str, place: &str, url: &str, hash: Option<&str>, now: Moment) -> Option<HeaderValue> {
        let mut id = [0; 16];
        rand::fill(&mut id).ok()?;
        let nonces = self.nonces.load();
        let claims = Claims {
            jti: URL_SAFE_NO_PAD.encode(id),
            htm: method,
            htu: url,
            iat: now.wall.as_secs(),
            ath: hash,
            nonce: nonces.get(place).map(String::as_str),
        };
        HeaderValue::try_from(self.signed(&claims)?).ok()
    }

    fn signed(&self, claims: &Claims<'_>) -> Option<String> {
        jsonwebtoken::encode(&self.header, claims, &self.signer).ok()
    }

    /// Remembers what the server at an endpoint wants to read next.
    pub fn heard(&self, endpoint: &Endpoint, nonce: Option<&HeaderValue>) {
        let fits = |nonce: &&str| !nonce.is_empty() && nonce.len() <= LONGEST_NONCE;
        let Some(nonce) = nonce.and_then(|nonce| nonce.to_str().ok()).filter(fits) else { return };
        let place = place(endpoint);
        if self.nonces.load().get(&place).is_some_and(|known| known == nonce) {
            return;
        }
        self.nonces.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            if known.len() >= MOST_PLACES {
                known.clear();
            }
            known.insert(place.clone(), nonce.to_owned());
            known
        });
    }
}

impl Bound {
    /// # Errors
    /// When the token cannot stand in a header.
    pub fn new(token: &Secret, key: Arc<Key>) -> Result<Self, NotVisibleAscii> {
        let hash = URL_SAFE_NO_PAD.encode(token.hash());
        Ok(Self { value: token.header_value("DPoP ", "")?, hash, key })
    }

    /// A proof for one request to a server of an upstream. `path` is as it is sent, without the query.
    pub fn proof(&self, method: &str, upstream: &Endpoint, path: &str, now: Moment) -> Option<HeaderValue> {
        let place = place(upstream);
        self.key.sign(method, &place, &format!("{place}{path}"), Some(&self.hash), now)
    }

    /// Whether the server of an upstream has said what it wants to read.
    pub fn knows(&self, upstream: &Endpoint) -> bool {
        self.key.nonces.load().contains_key(&place(upstream))
    }

    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// As [`Key::heard`].
    pub fn heard(&self, upstream: &Endpoint, nonce: Option<&HeaderValue>) {
        self.key.heard(upstream, nonce);
    }
}

/// The headers of a request that carries it.
pub fn headers(bound: &Bound, proof: HeaderValue) -> HeaderMap {
    [(http::header::AUTHORIZATION, bound.value.clone()), (PROOF, proof)].into_iter().collect()
}

fn place(endpoint: &Endpoint) -> String {
    format!("{}://{}", endpoint.scheme, endpoint.authority.to_header(endpoint.scheme))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
    use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
    use serde_json::{Map, Value};

    use super::*;

    const NOW: Moment = Moment { boot: Duration::ZERO, wall: Duration::from_secs(1_767_225_600) };

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::parse(url).expect("well-formed")
    }

    /// What a proof says, if the key in it has signed it.
    fn read(proof: &HeaderValue) -> Map<String, Value> {
        let text = proof.to_str().expect("text");
        let header = decode_header(text).expect("a header");
        assert_eq!(header.typ.as_deref(), Some("dpop+jwt"));
        let jwk = header.jwk.expect("its key");
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        decode(text, &DecodingKey::from_jwk(&jwk).expect("a key"), &validation).expect("a good signature").claims
    }

    #[test]
    fn a_proof_is_for_one_request_with_one_token_and_no_two_are_alike() {
        let bound = Bound::new(&Secret::new("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"), Key::made().into());
        let bound = bound.expect("visible ASCII");
        let upstream = endpoint("https://resource.example.org/base");
        let proof = || bound.proof("GET", &upstream, "/protected%20resource", NOW).expect("signed");
        let (one, two) = (proof(), proof());
        assert!(!one.to_str().expect("text").contains("Kz~8") && bound.value.is_sensitive());
        let (one, two) = (read(&one), read(&two));
        assert_eq!(one["htm"], "GET");
        assert_eq!(one["htu"], "https://resource.example.org/protected%20resource");
        assert_eq!(one["iat"], NOW.wall.as_secs());
        // RFC 9449, section 7.1: the hash of the token of the RFC's example.
        assert_eq!(one["ath"], "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo");
        assert_ne!(one["jti"], two["jti"]);
        assert_eq!(one.get("nonce"), None);
    }

    #[test]
    fn a_nonce_is_for_the_place_that_gave_it_and_the_newest_counts() {
        let key = Key::made();
        let (one, other) = (endpoint("https://a.example/token"), endpoint("https://b.example/token"));
        for nonce in ["first", "second"] {
            key.heard(&one, Some(&HeaderValue::from_static(nonce)));
        }
        key.heard(&one, Some(&HeaderValue::from_static("")));
        key.heard(&one, None);
        let nonce =
            |endpoint: &Endpoint| read(&key.proof("POST", endpoint, NOW).expect("signed")).get("nonce").cloned();
        assert_eq!(nonce(&one), Some("second".into()));
        assert_eq!(nonce(&endpoint("https://a.example/other")), Some("second".into()));
        assert_eq!(nonce(&other), None);
        let proof = read(&key.proof("POST", &one, NOW).expect("signed"));
        assert_eq!((&proof["htu"], proof.get("ath")), (&Value::from("https://a.example/token"), None));
    }

    #[test]
    fn only_a_key_for_es256_signs_and_it_is_the_same_one_when_it_is_read_again() {
        let pair = KeyPair::generate().expect("a key");
        let read = || Key::read(pair.serialize_pem().as_bytes()).expect("a key for ES256");
        assert!(read().is(&read()) && !read().is(&Key::made()));
        for kind in [&PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256] {
            let other = KeyPair::generate_for(kind).expect("a key");
            assert!(Key::read(other.serialize_pem().as_bytes()).is_err());
        }
        assert!(Key::read(b"no key").is_err());
        assert!(Key::read(pair.serialize_pem().as_bytes()).expect("a key").kept().is_none(), "it lies somewhere else");
    }

    #[test]
    fn a_key_that_was_made_is_the_same_one_in_a_next_run() {
        let made = Key::made();
        let kept = made.kept().expect("it can be kept").expose_to_issuer().expect("it is text");
        let again = Key::made_before(kept).expect("it is one");
        assert!(again.is(&made) && again.kept().is_some_and(|again| again.same_as(&Secret::new(kept))));
        for bad in ["", "no base64!", "AAAA"] {
            assert!(Key::made_before(bad).is_err(), "{bad}");
        }
    }
}
