//! A signed token as it was sent: taken apart, judged by its claims and by a key.
//!
//! Invariant: what is judged are the very bytes that are signed. Nothing that the token says of where its key is (`jku`,
//! `jwk`, `x5u`) is looked at, and no algorithm but those of public keys is there to be chosen.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;

use super::Refused;
use super::keys::{Key, Keys};
use super::subject;
use crate::clock::Moment;

/// The longest token that is looked at, in bytes.
const LONGEST: usize = 16 * 1024;

/// How far an issuer's clock may be ahead of ours.
const SKEW: Duration = Duration::from_secs(30);

/// What is taken of a token's signature.
pub const ALGORITHMS: [(&str, Algorithm); 3] =
    [("RS256", Algorithm::RS256), ("ES256", Algorithm::ES256), ("EdDSA", Algorithm::EdDSA)];

/// Its three parts, and what two of them say.
pub struct Token<'t> {
    signed: &'t str,
    signature: &'t str,
    header: Header,
    pub claims: Claims,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// What has to be understood: we understand none of it.
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    aud: Audience,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Claims {
    /// For whom the token is, if for nobody else: another recipient could show it to us.
    pub fn audience(&self) -> Option<&str> {
        match &self.aud {
            Audience::One(one) => Some(one),
            Audience::Several(several) => match &several[..] {
                [one] => Some(one),
                _ => None,
            },
        }
    }

    /// Until when it is good.
    ///
    /// # Errors
    /// When it is not good now.
    fn ends(&self, now: Moment) -> Result<Moment, Refused> {
        let exp = seconds(self.exp.ok_or(Refused::Malformed)?)?;
        if exp <= now.wall {
            return Err(Refused::Expired);
        }
        for not_before in [self.nbf, self.iat].into_iter().flatten() {
            if seconds(not_before)? > now.wall.saturating_add(SKEW) {
                return Err(Refused::NotYet);
            }
        }
        Ok(now.after(exp.saturating_sub(now.wall)))
    }
}

impl<'t> Token<'t> {
    /// `None` for what has not the form of a signed token, whatever its claims may be worth.
    pub fn parse(text: &'t [u8]) -> Option<Self> {
        if !has_form(text) {
            return None;
        }
        let (signed, signature) = std::str::from_utf8(text).ok()?.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let part = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header = serde_json::from_slice(&part(header)?).ok()?;
        let claims = serde_json::from_slice(&part(claims)?).ok()?;
        Some(Self { signed, signature, header, claims })
    }

    /// Judges it by the keys of its issuer. Returns the key that has signed it, and until when it is good.
    ///
    /// # Errors
    /// When it is not good now.
    pub fn judge<'k>(&self, keys: &'k Keys, now: Moment) -> Result<(&'k Key, Moment), Refused> {
        let algorithm = ALGORITHMS.iter().find(|(name, _)| *name == self.header.alg);
        let (_, algorithm) = algorithm.ok_or(Refused::Algorithm)?;
        if self.header.crit.is_some() {
            return Err(Refused::Malformed);
        }
        let key = keys.find(self.header.kid.as_deref(), *algorithm).ok_or(Refused::KeyUnknown)?;
        let is_signed = jsonwebtoken::crypto::verify(self.signature, self.signed.as_bytes(), &key.public, *algorithm);
        if !is_signed.unwrap_or(false) {
            return Err(Refused::Signature);
        }
        if !subject::is_subject(&self.claims.sub) {
            return Err(Refused::Malformed);
        }
        Ok((key, self.claims.ends(now)?))
    }
}

/// Whether it is three parts of base64url with dots between. The last, the signature, may be missing: that is no good, and
/// not something else.
pub fn has_form(text: &[u8]) -> bool {
    let is_of_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let mut parts = text.split(|byte| *byte == b'.');
    let has_both = parts.by_ref().take(2).all(|part| !part.is_empty());
    has_both && parts.count() == 1 && text.len() <= LONGEST && text.iter().all(is_of_base64)
}

/// Of a NumericDate (RFC 7519, section 2).
fn seconds(date: f64) -> Result<Duration, Refused> {
    Duration::try_from_secs_f64(date).map_err(|_| Refused::Malformed)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{EncodingKey, Header as Signed};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
    use serde_json::{Value, json};

    use super::*;

    const NOW: Moment = Moment { boot: Duration::from_secs(5000), wall: Duration::from_secs(1_800_000_000) };

    /// A key of the issuer, and what it publishes of it.
    struct Signer {
        key: EncodingKey,
        algorithm: Algorithm,
        published: Value,
    }

    impl Signer {
        fn new(algorithm: Algorithm, kind: &'static rcgen::SignatureAlgorithm) -> Self {
            let pem = KeyPair::generate_for(kind).expect("a key").serialize_pem();
            let key = match algorithm {
                Algorithm::RS256 | Algorithm::PS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
                _ => EncodingKey::from_ec_pem(pem.as_bytes()),
            };
            let key = key.expect("a key");
            let mut jwk = Jwk::from_encoding_key(&key, algorithm).expect("a public half");
            jwk.common.key_id = Some("one".to_owned());
            Self { key, algorithm, published: serde_json::to_value(jwk).expect("JSON") }
        }

        fn p256() -> Self {
            Self::new(Algorithm::ES256, &PKCS_ECDSA_P256_SHA256)
        }

        fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
            let header = Signed { kid: kid.map(str::to_owned), ..Signed::new(self.algorithm) };
            jsonwebtoken::encode(&header, claims, &self.key).expect("signed")
        }
    }

    fn keys(published: &[&Value]) -> Keys {
        Keys::parse(json!({ "keys": published }).to_string().as_bytes(), NOW).expect("keys")
    }

    fn claims(others: Value) -> Value {
        let wall = NOW.wall.as_secs();
        let mut claims = json!({
            "iss": "https://ci.example", "aud": "countersign", "sub": "repo:org/app:x",
            "iat": wall - 10, "nbf": wall - 10, "exp": wall + 300,
        });
        claims.as_object_mut().expect("an object").extend(others.as_object().expect("an object").clone());
        claims
    }

    fn judged(token: &str, keys: &Keys) -> Result<u64, Refused> {
        let token = Token::parse(token.as_bytes()).ok_or(Refused::Malformed)?;
        token.judge(keys, NOW).map(|(_, ends)| ends.remaining(NOW).as_secs())
    }

    fn encoded(part: &Value) -> String {
        URL_SAFE_NO_PAD.encode(part.to_string())
    }

    #[test]
    fn a_token_is_good_by_the_key_that_it_names_and_until_it_ends() {
        for signer in [Signer::p256(), Signer::new(Algorithm::RS256, &PKCS_RSA_SHA256)] {
            let keys = keys(&[&signer.published]);
            assert_eq!(judged(&signer.sign(Some("one"), &claims(json!({}))), &keys), Ok(300));
            assert_eq!(judged(&signer.sign(None, &claims(json!({}))), &keys), Ok(300), "the only key");
            assert_eq!(judged(&signer.sign(Some("two"), &claims(json!({}))), &keys), Err(Refused::KeyUnknown));
        }
        let (one, other) = (Signer::p256(), Signer::p256());
        let both = keys(&[&one.published, &other.published]);
        assert_eq!(judged(&one.sign(None, &claims(json!({}))), &both), Err(Refused::KeyUnknown), "which of them?");
        assert_eq!(judged(&other.sign(Some("one"), &claims(json!({}))), &both), Err(Refused::Signature));
    }

    #[test]
    fn times_are_judged_and_an_end_there_must_be() {
        let (signer, wall) = (Signer::p256(), NOW.wall.as_secs());
        let keys = keys(&[&signer.published]);
        for (others, outcome) in [
            (json!({ "exp": wall + 1 }), Ok(1)),
            (json!({ "exp": wall }), Err(Refused::Expired)),
            (json!({ "exp": wall - 1 }), Err(Refused::Expired)),
            (json!({ "exp": -1 }), Err(Refused::Malformed)),
            (json!({ "exp": 1e300 }), Err(Refused::Malformed)),
            (json!({ "exp": null }), Err(Refused::Malformed)),
            (json!({ "exp": "soon" }), Err(Refused::Malformed)),
            (json!({ "nbf": wall + 29 }), Ok(300)),
            (json!({ "nbf": wall + 31 }), Err(Refused::NotYet)),
            (json!({ "iat": wall + 31 }), Err(Refused::NotYet)),
            (json!({ "nbf": null, "iat": null }), Ok(300)),
            (json!({ "sub": "a\nb" }), Err(Refused::Malformed)),
            (json!({ "sub": null }), Err(Refused::Malformed)),
        ] {
            assert_eq!(judged(&signer.sign(Some("one"), &claims(others.clone())), &keys), outcome, "{others}");
        }
    }

    #[test]
    fn an_algorithm_that_the_attacker_chooses_is_no_algorithm() {
        let signer = Signer::new(Algorithm::RS256, &PKCS_RSA_SHA256);
        let keys = keys(&[&signer.published]);
        let good = signer.sign(Some("one"), &claims(json!({})));
        let (_, signature) = good.rsplit_once('.').expect("three parts");
        for alg in ["none", "None", "NONE", "HS256", "HS512", "PS256", "RS512", "rs256", ""] {
            let message = format!("{}.{}", encoded(&json!({ "alg": alg, "kid": "one" })), encoded(&claims(json!({}))));
            for signature in ["", signature] {
                assert_eq!(judged(&format!("{message}.{signature}"), &keys), Err(Refused::Algorithm), "{alg}");
            }
        }
        // Signed with the public key, as if it were a shared one.
        let public = signer.published.to_string();
        let header = Signed { kid: Some("one".to_owned()), ..Signed::new(Algorithm::HS256) };
        let forged = jsonwebtoken::encode(&header, &claims(json!({})), &EncodingKey::from_secret(public.as_bytes()));
        assert_eq!(judged(&forged.expect("signed"), &keys), Err(Refused::Algorithm));
        // A good signature under another algorithm of the same key.
        let other = Signer { algorithm: Algorithm::PS256, ..signer };
        assert_eq!(judged(&other.sign(Some("one"), &claims(json!({}))), &keys), Err(Refused::Algorithm));
        let elliptic = Signer::p256().sign(Some("one"), &claims(json!({})));
        assert_eq!(judged(&elliptic, &keys), Err(Refused::KeyUnknown), "no key of that kind");
    }

    #[test]
    fn not_a_byte_can_be_changed() {
        let signer = Signer::p256();
        let keys = keys(&[&signer.published]);
        let good = signer.sign(Some("one"), &claims(json!({})));
        let [header, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { unreachable!("three parts") };
        let other = encoded(&claims(json!({ "sub": "repo:org/other:x" })));
        assert_eq!(judged(&format!("{header}.{other}.{signature}"), &keys), Err(Refused::Signature));
        assert_eq!(judged(&format!("{header}.{body}."), &keys), Err(Refused::Signature));
        let critical = encoded(&json!({ "alg": "ES256", "kid": "one", "crit": ["exp"] }));
        assert_eq!(judged(&format!("{critical}.{body}.{signature}"), &keys), Err(Refused::Malformed));
        // A key of its own, which it brings along.
        let own = Signer::p256();
        let header = Signed {
            kid: Some("one".to_owned()),
            jwk: Some(serde_json::from_value(own.published.clone()).expect("a key")),
            jku: Some("https://evil.example/keys".to_owned()),
            ..Signed::new(Algorithm::ES256)
        };
        let forged = jsonwebtoken::encode(&header, &claims(json!({})), &own.key).expect("signed");
        assert_eq!(judged(&forged, &keys), Err(Refused::Signature));
    }

    #[test]
    fn a_claim_that_stands_twice_is_no_claim() {
        let signer = Signer::p256();
        let twice = r#"{"iss":"a","iss":"b","sub":"x","aud":"c","exp":1900000000}"#;
        let message = format!("{}.{}", encoded(&json!({ "alg": "ES256" })), URL_SAFE_NO_PAD.encode(twice));
        assert_eq!(judged(&format!("{message}.AAAA"), &keys(&[&signer.published])), Err(Refused::Malformed));
    }

    #[test]
    fn only_a_token_for_us_alone_is_for_us() {
        let signer = Signer::p256();
        for (audience, read) in [
            (json!("countersign"), Some("countersign")),
            (json!(["countersign"]), Some("countersign")),
            (json!(["countersign", "other"]), None),
            (json!([]), None),
        ] {
            let token = signer.sign(None, &claims(json!({ "aud": audience })));
            let token = Token::parse(token.as_bytes()).expect("a token");
            assert_eq!(token.claims.audience(), read);
        }
        let token = signer.sign(None, &claims(json!({ "aud": { "a": 1 } })));
        assert!(Token::parse(token.as_bytes()).is_none());
    }

    #[test]
    fn the_form_is_three_parts() {
        for good in ["a.b.c", "a.b.", "eyJ_-9.a.b"] {
            assert!(has_form(good.as_bytes()), "{good}");
        }
        for bad in ["", "a", "a.b", "a.b.c.d", ".b.c", "a..c", "a.b.c=", "a b.c.d", "a.b.\u{e9}", "sk-a.b/c.d"] {
            assert!(!has_form(bad.as_bytes()), "{bad}");
        }
        assert!(!has_form(format!("a.b.{}", "c".repeat(LONGEST)).as_bytes()));
    }

    #[test]
    fn what_is_no_key_of_a_signature_is_left_out() {
        let good = Signer::p256().published;
        let with = |more: Value| {
            let mut key = good.clone();
            key.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            key
        };
        let shared = json!({ "kty": "oct", "k": "AAAA", "kid": "one", "alg": "HS256" });
        let large = Signer::new(Algorithm::ES384, &PKCS_ECDSA_P384_SHA384).published;
        let strange = json!({ "kty": "new", "kid": "one" });
        for bad in [&shared, &large, &strange, &with(json!({ "use": "enc" })), &with(json!({ "alg": "RS256" }))] {
            let only_bad = json!({ "keys": [bad] }).to_string();
            assert!(Keys::parse(only_bad.as_bytes(), NOW).is_none(), "{bad}");
            assert!(keys(&[bad, &good]).find(Some("one"), Algorithm::ES256).is_some(), "the others are taken");
        }
    }
}
