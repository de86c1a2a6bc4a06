use std::collections::BTreeMap;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::{Map, Value, json};

use super::super::*;
use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};
use crate::token::source::private_key;

const GOOD: &str = r#"{"access_token":"abc","token_type":"bearer","expires_in":60}"#;

fn file(content: &str) -> (tempfile::NamedTempFile, Reference) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), content).expect("written");
    let reference = Reference::File(file.path().to_owned());
    (file, reference)
}

fn settings(server: &Scripted, grant: Grant) -> Settings {
    Settings {
        kind: "jwt_bearer",
        grant,
        issuer: Issuer::At(server.endpoint()),
        revocation_url: None,
        dpop: None,
        client: None,
        scope: vec!["a".to_owned(), "b".to_owned()],
        audience: Vec::new(),
        resource: Vec::new(),
        extra: Vec::new(),
        headers: Vec::new(),
        tls: tls::Settings::default(),
    }
}

/// What comes of asking, and the form and the head that the issuer got.
async fn ask(
    server: &Scripted,
    settings: Settings,
    answer: &str,
) -> (Result<Issued, Failure>, BTreeMap<String, String>, String) {
    let source = OAuth::new(settings, fetcher(), Arc::new(ManualClock::default())).expect("no failure");
    let length = answer.len();
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{answer}");
    let (issued, request) = tokio::join!(source.obtain(), server.answer(answer));
    let (head, body) = request.split_once("\r\n\r\n").expect("two parts");
    (issued, form_urlencoded::parse(body.as_bytes()).into_owned().collect(), head.to_owned())
}

fn claims(jwt: &str, key: &DecodingKey, algorithm: Algorithm, audience: &str) -> Map<String, Value> {
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&[audience]);
    jsonwebtoken::decode(jwt, key, &validation).expect("well-formed").claims
}

#[tokio::test]
async fn an_assertion_that_we_sign_is_the_whole_proof() {
    let server = Scripted::start().await;
    let (_file, key) = file(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key").serialize_pem());
    let signed = signed_jwt::Settings {
        key: key.clone(),
        algorithm: Algorithm::ES256,
        key_id: Some("one".to_owned()),
        issuer: "the app".to_owned(),
        subject: "alice@example.com".to_owned(),
        audience: vec!["https://issuer.example".to_owned()],
        lifetime: std::time::Duration::from_secs(120),
        claims: Map::from_iter([("role".to_owned(), json!("reader"))]),
    };
    let grant = Grant::JwtBearer(Assertion::Signed(Box::new(signed)));
    let (issued, fields, head) = ask(&server, settings(&server, grant), GOOD).await;
    assert!(issued.is_ok());
    assert_eq!(fields["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!(fields["scope"], "a b");
    assert!(!fields.contains_key("client_id") && !head.contains("authorization:"), "{head}");
    let (_, jwk) = private_key::read(&key, Algorithm::ES256, None).expect("a key");
    let key = DecodingKey::from_jwk(&jwk).expect("a key");
    let claims = claims(&fields["assertion"], &key, Algorithm::ES256, "https://issuer.example");
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!("the app"), &json!("alice@example.com")));
    assert_eq!(claims["role"], "reader");
    assert_eq!(claims["exp"].as_u64().expect("of that kind") - claims["iat"].as_u64().expect("of that kind"), 120);
}

#[tokio::test]
async fn an_assertion_that_somebody_else_keeps_fresh_is_read_for_each_call_and_never_repeated() {
    let server = Scripted::start().await;
    let (kept, reference) = file("canary.one");
    let grant = Grant::JwtBearer(Assertion::Ready(reference));
    let refused = r#"{"error":"invalid_grant","error_description":"bad canary.one"}"#;
    let (issued, fields, _) = ask(&server, settings(&server, grant.clone()), refused).await;
    assert_eq!(fields["assertion"], "canary.one");
    let failure = issued.err().expect("a failure");
    assert_eq!((failure.reason, failure.detail.contains("canary")), (Reason::InvalidGrant, false), "{failure}");
    std::fs::write(kept.path(), "canary.two").expect("written");
    let (issued, fields, _) = ask(&server, settings(&server, grant), GOOD).await;
    assert_eq!((issued.is_ok(), fields["assertion"].as_str()), (true, "canary.two"));
}

#[tokio::test]
async fn a_service_account_signs_its_scopes_and_whom_it_stands_in_for() {
    let server = Scripted::start().await;
    let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key");
    let content = json!({
        "type": "service_account",
        "client_email": "ci@project.iam.example",
        "private_key": pair.serialize_pem(),
        "private_key_id": "k1",
        "token_uri": "https://elsewhere.example/token",
    });
    let (_file, key) = file(&content.to_string());
    let account = Assertion::ServiceAccount { key, subject: Some("alice@example.com".to_owned()) };
    let settings = settings(&server, Grant::JwtBearer(account));
    let endpoint = settings.issuer.audience();
    let (issued, fields, _) = ask(&server, settings, GOOD).await;
    assert!(issued.is_ok());
    assert!(!fields.contains_key("scope"), "the scopes are signed: {fields:?}");
    assert_eq!(jsonwebtoken::decode_header(&fields["assertion"]).expect("JSON").kid.as_deref(), Some("k1"));
    let (_pem, key) = file(&pair.serialize_pem());
    let (_, jwk) = private_key::read(&key, Algorithm::RS256, None).expect("verified");
    let claims =
        claims(&fields["assertion"], &DecodingKey::from_jwk(&jwk).expect("verified"), Algorithm::RS256, &endpoint);
    let expected = json!(["ci@project.iam.example", "a b", "alice@example.com"]);
    assert_eq!(json!([claims["iss"], claims["scope"], claims["sub"]]), expected);
}

#[tokio::test]
async fn a_file_that_is_no_key_file_is_named_and_not_quoted() {
    let server = Scripted::start().await;
    for content in ["canary", "{}", r#"{"client_email":"a","private_key":"canary"}"#, r#"{"client_email":"a"}"#] {
        let (_file, key) = file(content);
        let grant = Grant::JwtBearer(Assertion::ServiceAccount { key, subject: None });
        let source =
            OAuth::new(settings(&server, grant), fetcher(), Arc::new(ManualClock::default())).expect("no failure");
        let failure = source.obtain().await.err().expect("a failure");
        assert_eq!((failure.reason, failure.detail.contains("canary")), (Reason::Key, false), "{failure}");
    }
}

#[tokio::test]
async fn a_token_is_exchanged_for_another_of_any_kind() {
    let server = Scripted::start().await;
    let presented = |name: &str| {
        let (file, token) = file(&format!("canary-{name}"));
        (file, Presented { token, kind: format!("urn:example:{name}") })
    };
    let ((_subject, subject), (_actor, actor)) = (presented("subject"), presented("actor"));
    let exchange = Exchange { subject, actor: Some(actor), requested_type: Some("urn:example:wanted".to_owned()) };
    let settings = Settings { audience: vec!["api".to_owned()], ..settings(&server, Grant::TokenExchange(exchange)) };
    let body = r#"{"access_token":"abc","issued_token_type":"urn:example:wanted","token_type":"N_A","expires_in":60}"#;
    let (issued, fields, _) = ask(&server, settings.clone(), body).await;
    assert!(issued.expect("no failure").secret.same_as(&Secret::new("abc")));
    let expected = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", "canary-subject"),
        ("subject_token_type", "urn:example:subject"),
        ("actor_token", "canary-actor"),
        ("actor_token_type", "urn:example:actor"),
        ("requested_token_type", "urn:example:wanted"),
        ("scope", "a b"),
        ("audience", "api"),
    ];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());

    let mac = r#"{"access_token":"abc","token_type":"mac","expires_in":60}"#;
    let (issued, ..) = ask(&server, settings, mac).await;
    assert_eq!(issued.err().expect("a failure").reason, Reason::TokenType);
}

#[tokio::test]
async fn a_client_is_proved_by_its_certificate_or_by_what_its_cluster_signs() {
    let server = Scripted::start().await;
    let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key");
    let certificate = CertificateParams::default().self_signed(&pair).expect("a key");
    let (_key, key) = file(&pair.serialize_pem());
    let (pem, _) = file(&certificate.pem());
    let signed = Auth::PrivateKeyJwt(Box::new(assertion::Settings {
        key,
        algorithm: Algorithm::PS256,
        key_id: None,
        certificate: Some(pem.path().to_owned()),
        audience: "issuer".to_owned(),
    }));
    let of = |auth| Some(Client { id: "me".to_owned(), auth });
    let credentials = || settings(&server, Grant::ClientCredentials);
    let (issued, fields, _) = ask(&server, Settings { client: of(signed), ..credentials() }, GOOD).await;
    assert!(issued.is_ok());
    let header = jsonwebtoken::decode_header(&fields["client_assertion"]).expect("verified");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.der());
    let thumbprint = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, digest);
    assert_eq!((header.x5t_s256, header.kid), (Some(thumbprint), None));
    assert_eq!(fields["client_id"], "me");

    let (_file, federated) = file("a.cluster.signed");
    let client = of(Auth::Assertion(federated));
    let (issued, fields, _) = ask(&server, Settings { client, ..credentials() }, GOOD).await;
    assert!(issued.is_ok());
    assert_eq!(fields["client_assertion"], "a.cluster.signed");
    assert_eq!(fields["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
}

#[tokio::test]
async fn a_refresh_token_is_shown_by_its_own_source_alone() {
    let server = Scripted::start().await;
    let settings = settings(&server, Grant::RefreshToken);
    let source = OAuth::new(settings, fetcher(), Arc::new(ManualClock::default())).expect("no failure");
    let failure = source.obtain().await.err().expect("a failure");
    assert_eq!((failure.reason, failure.class), (Reason::Secret, crate::token::source::Class::Refused));
}
