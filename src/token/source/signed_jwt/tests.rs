use std::collections::HashSet;
use std::path::Path;
use std::task::{Context, Poll, Waker};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, TokenData, Validation};
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

use super::*;
use crate::clock::ManualClock;
use crate::token::source::Reason;

fn pem(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
    KeyPair::generate_for(algorithm).expect("a key").serialize_pem()
}

fn key_file(content: impl AsRef<[u8]>) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), content).expect("written");
    file
}

fn settings(key: &Path, algorithm: Algorithm) -> Settings {
    Settings {
        key: Reference::File(key.to_owned()),
        algorithm,
        key_id: None,
        issuer: "https://countersign.example".to_owned(),
        subject: "ci".to_owned(),
        audience: vec!["api".to_owned()],
        lifetime: Duration::from_secs(300),
        claims: Map::from_iter([("role".to_owned(), json!("reader"))]),
    }
}

fn source(settings: Settings) -> (SignedJwt, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    (SignedJwt::new(settings, clock.clone()).expect("no failure"), clock)
}

/// A key in a file keeps nobody waiting.
fn sign(source: &SignedJwt) -> Result<Issued, Failure> {
    match source.obtain().as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(issued) => issued,
        Poll::Pending => panic!("it waits"),
    }
}

/// The JWT as whoever has the published keys sees it.
fn verify(source: &SignedJwt, issued: &Issued) -> Result<TokenData<Map<String, Value>>, jsonwebtoken::errors::Error> {
    let token = issued.secret.header_value("", "").expect("no failure");
    let token = token.to_str().expect("a text");
    let kid = jsonwebtoken::decode_header(token)?.kid.expect("a kid");
    let keys = source.public_keys();
    let key = keys.iter().find(|key| key["kid"] == kid.as_str()).expect("the key is published");
    let key: Jwk = serde_json::from_value(key.clone()).expect("JSON");
    let mut validation = Validation::new(source.settings.algorithm);
    validation.set_audience(&["api"]);
    validation.set_issuer(&["https://countersign.example"]);
    jsonwebtoken::decode(token, &DecodingKey::from_jwk(&key)?, &validation)
}

#[test]
fn the_published_key_verifies_what_was_signed() {
    for (algorithm, key) in [
        (Algorithm::ES256, &PKCS_ECDSA_P256_SHA256),
        (Algorithm::ES384, &PKCS_ECDSA_P384_SHA384),
        (Algorithm::EdDSA, &PKCS_ED25519),
        (Algorithm::RS256, &PKCS_RSA_SHA256),
        (Algorithm::PS512, &PKCS_RSA_SHA256),
    ] {
        let file = key_file(pem(key));
        let (source, clock) = source(settings(file.path(), algorithm));
        let issued = sign(&source).unwrap_or_else(|failure| panic!("{algorithm:?}: {failure}"));
        let data = verify(&source, &issued).unwrap_or_else(|error| panic!("{algorithm:?}: {error}"));
        assert_eq!(data.header.alg, algorithm);
        assert_eq!(
            (&data.claims["sub"], &data.claims["aud"], &data.claims["role"]),
            (&json!("ci"), &json!("api"), &json!("reader"))
        );
        let life =
            data.claims["exp"].as_u64().expect("of that kind") - data.claims["iat"].as_u64().expect("of that kind");
        assert_eq!(life, 300);
        let left = issued.expires.expect("an end").remaining(clock.now()).as_secs();
        assert!((295..=300).contains(&left), "{left}");
    }
}

#[test]
fn only_public_members_are_published() {
    for (algorithm, key) in [(Algorithm::ES256, &PKCS_ECDSA_P256_SHA256), (Algorithm::RS256, &PKCS_RSA_SHA256)] {
        let file = key_file(pem(key));
        let (source, _) = source(settings(file.path(), algorithm));
        let keys = source.public_keys();
        let public = ["kty", "use", "alg", "kid", "crv", "x", "y", "n", "e"];
        for name in keys[0].as_object().expect("an object").keys() {
            assert!(public.contains(&name.as_str()), "{name}");
        }
        assert_eq!(keys[0]["use"], "sig");
    }
}

#[test]
fn several_audiences_are_a_list_and_none_is_left_out() {
    let file = key_file(pem(&PKCS_ECDSA_P256_SHA256));
    let audience = |audience: &[&str]| {
        let audience = audience.iter().map(ToString::to_string).collect();
        let (source, _) = source(Settings { audience, ..settings(file.path(), Algorithm::ES256) });
        sign(&source).expect("no failure").secret.jwt_claims().expect("claims").get("aud").cloned()
    };
    assert_eq!(audience(&["a", "b"]), Some(json!(["a", "b"])));
    assert_eq!(audience(&[]), None);
}

#[test]
fn no_two_jwts_are_the_same() {
    let file = key_file(pem(&PKCS_ED25519));
    let (source, _) = source(settings(file.path(), Algorithm::EdDSA));
    let id = |_| sign(&source).expect("no failure").secret.jwt_claims().expect("claims")["jti"].to_string();
    assert_eq!((0..20).map(id).collect::<HashSet<_>>().len(), 20);
}

#[test]
fn the_config_may_name_the_key() {
    let file = key_file(pem(&PKCS_ED25519));
    let (source, _) = source(Settings { key_id: Some("one".to_owned()), ..settings(file.path(), Algorithm::EdDSA) });
    verify(&source, &sign(&source).expect("no failure")).expect("JSON");
    assert_eq!(source.public_keys()[0]["kid"], "one");
}

#[test]
fn a_key_without_a_name_goes_by_its_thumbprint() {
    // The key of RFC 8037, appendix A, and its thumbprint there.
    let start = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").expect("verified");
    let base64 = STANDARD.encode([&start[..], &seed].concat());
    let file = key_file(format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n"));
    let (source, _) = source(settings(file.path(), Algorithm::EdDSA));
    let key = &source.public_keys()[0];
    assert_eq!(key["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    assert_eq!(key["kid"], "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    assert_eq!(key["alg"], "EdDSA");
}

#[test]
fn a_replaced_key_is_published_until_its_last_jwt_has_ended() {
    let file = key_file(pem(&PKCS_ED25519));
    let (source, clock) = source(settings(file.path(), Algorithm::EdDSA));
    let old = sign(&source).expect("no failure");
    std::fs::write(file.path(), pem(&PKCS_ED25519)).expect("written");
    let new = sign(&source).expect("no failure");
    assert_eq!(source.public_keys().len(), 2);
    verify(&source, &old).expect("written");
    verify(&source, &new).expect("written");

    clock.advance(Duration::from_secs(301));
    assert_eq!(source.public_keys().len(), 1);
}

#[test]
fn a_key_that_does_not_fit_is_a_failure() {
    let public = KeyPair::generate().expect("written").public_key_pem();
    let (p256, p384, ed) = (pem(&PKCS_ECDSA_P256_SHA256), pem(&PKCS_ECDSA_P384_SHA384), pem(&PKCS_ED25519));
    for (algorithm, key) in [
        (Algorithm::ES256, p384.as_str()),
        (Algorithm::ES384, &p256),
        (Algorithm::ES256, &ed),
        (Algorithm::ES256, &public),
        (Algorithm::EdDSA, &p256),
        (Algorithm::RS256, &p256),
        (Algorithm::RS256, "canary"),
        (Algorithm::ES256, "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n"),
        (Algorithm::EdDSA, "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"),
        (Algorithm::ES256, ""),
    ] {
        let file = key_file(key);
        let (source, _) = source(settings(file.path(), algorithm));
        let failure = sign(&source).err().expect("a failure");
        assert_eq!(failure.reason, Reason::Key, "{algorithm:?} {key}");
        assert!(!failure.detail.contains("canary"), "{failure}");
        assert!(source.public_keys().is_empty());
    }
    let (source, _) = source(settings(Path::new("/nowhere/key.pem"), Algorithm::ES256));
    let failure = sign(&source).err().expect("a failure");
    assert_eq!(
        failure,
        Failure::transient(Reason::Key, "cannot read /nowhere/key.pem: No such file or directory (os error 2)")
    );
}

#[test]
fn a_shared_key_or_a_claim_of_ours_is_refused() {
    let refused = |settings| {
        SignedJwt::new(settings, Arc::new(ManualClock::default())).err().expect("it contradicts itself").to_string()
    };
    assert!(refused(settings(Path::new("/k"), Algorithm::HS256)).starts_with("HS256 signs with a key"));
    let claims = Map::from_iter([("exp".to_owned(), json!(9_999_999_999_u64))]);
    let twice = refused(Settings { claims, ..settings(Path::new("/k"), Algorithm::ES256) });
    assert_eq!(twice, "`claims` may not set \"exp\": the source itself sets it");
}

proptest! {
    #[test]
    fn no_key_file_breaks_the_signer(
        noise in prop::collection::vec(any::<u8>(), 0..80),
        at in 0usize..60,
        algorithm in prop_oneof![Just(Algorithm::ES256), Just(Algorithm::EdDSA), Just(Algorithm::RS256)],
    ) {
        // A sound start of a PKCS#8 key, and something else from some byte on.
        let mut der = KeyPair::generate().expect("a key").serialize_der();
        der.truncate(at);
        der.extend(&noise);
        let base64 = STANDARD.encode(&der);
        let file = key_file(format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n"));
        let (source, _) = source(settings(file.path(), algorithm));
        prop_assert!(sign(&source).is_err_and(|failure| failure.reason == Reason::Key));
    }
}
