use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};

use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};
use crate::token::source::{Class, private_key};

const SECRET: &str = "canary+sécret/of the:client%";

/// The settings for `server`, and the file that holds the secret.
fn settings(server: &Scripted, auth: fn(Reference) -> Auth) -> (Settings, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("{SECRET}\n")).expect("written");
    let settings = Settings {
        kind: "client_credentials",
        grant: Grant::ClientCredentials,
        issuer: Issuer::At(server.endpoint()),
        revocation_url: Some(server.endpoint()),
        dpop: None,
        client: Some(Client { id: "the client: å".to_owned(), auth: auth(Reference::File(file.path().to_owned())) }),
        scope: vec!["a:read".to_owned(), "b".to_owned()],
        audience: vec!["https://api.example/".to_owned(), "two".to_owned()],
        resource: vec!["urn:one".to_owned()],
        extra: vec![("organization".to_owned(), "a&b=c".to_owned())],
        headers: vec![(HeaderName::from_static("x-tenant"), HeaderValue::from_static("t1"))],
        tls: tls::Settings::default(),
    };
    (settings, file)
}

/// The client proves itself in this way.
fn proved(auth: Auth, settings: Settings) -> Settings {
    Settings { client: settings.client.map(|client| Client { auth, ..client }), ..settings }
}

fn source(settings: Settings) -> OAuth {
    OAuth::new(settings, fetcher(), Arc::new(ManualClock::default())).expect("no failure")
}

fn json(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// What comes of asking an issuer that answers with `answer`, and the request that it got.
async fn ask(auth: fn(Reference) -> Auth, answer: &str) -> (Result<Issued, Failure>, String) {
    let server = Scripted::start().await;
    let (settings, _file) = settings(&server, auth);
    let source = source(settings);
    tokio::join!(source.obtain(), server.answer(answer))
}

fn fields(request: &str) -> Vec<(String, String)> {
    let (_, body) = request.split_once("\r\n\r\n").expect("two parts");
    form_urlencoded::parse(body.as_bytes()).into_owned().collect()
}

#[tokio::test]
async fn the_request_says_what_rfc_6749_wants() {
    let good = json("200 OK", r#"{"access_token":"abc","token_type":"bearer","expires_in":60,"scope":"b a:read"}"#);
    let (issued, request) = ask(Auth::Basic, &good).await;
    let issued = issued.expect("no failure");
    assert!(issued.secret.same_as(&Secret::new("abc")));
    assert_eq!(issued.granted, Some(vec!["b".to_owned(), "a:read".to_owned()]));

    assert!(request.starts_with("POST /token HTTP/1.1\r\n"), "{request}");
    for header in ["accept: application/json", "content-type: application/x-www-form-urlencoded", "x-tenant: t1"] {
        assert!(request.contains(&format!("\r\n{header}\r\n")), "{header}");
    }
    let expected = [
        ("grant_type", "client_credentials"),
        ("scope", "a:read b"),
        ("audience", "https://api.example/"),
        ("audience", "two"),
        ("resource", "urn:one"),
        ("organization", "a&b=c"),
    ];
    assert_eq!(fields(&request), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn basic_encodes_the_pair_as_a_form_before_base64() {
    let (_, request) = ask(Auth::Basic, &json("200 OK", "{}")).await;
    let basic = request.lines().find_map(|line| line.strip_prefix("authorization: Basic ")).expect("one of them");
    let pair = String::from_utf8(STANDARD.decode(basic).expect("verified")).expect("verified");
    assert_eq!(pair, "the+client%3A+%C3%A5:canary%2Bs%C3%A9cret%2Fof+the%3Aclient%25");
    assert!(!request.contains("client_secret"), "it is proved once");
}

#[tokio::test]
async fn post_puts_the_pair_into_the_form() {
    let (_, request) = ask(Auth::Post, &json("200 OK", "{}")).await;
    let fields: BTreeMap<String, String> = fields(&request).into_iter().collect();
    assert_eq!(fields["client_id"], "the client: å");
    assert_eq!(fields["client_secret"], SECRET);
    assert!(!request.contains("authorization:"), "it is proved once");
}

#[tokio::test]
async fn an_empty_scope_is_not_sent() {
    let server = Scripted::start().await;
    let (settings, _file) = settings(&server, Auth::Basic);
    let source = source(Settings { scope: Vec::new(), ..settings });
    let (issued, request) = tokio::join!(source.obtain(), server.answer(json("200 OK", r#"{"access_token":"abc"}"#)));
    assert!(issued.expect("no failure").assumed);
    assert!(!request.contains("scope="), "{request}");
}

#[tokio::test]
async fn the_form_is_built_in_a_buffer_that_never_grows() {
    let server = Scripted::start().await;
    let (settings, _file) = settings(&server, Auth::Post);
    let extra = vec![("ä".repeat(300), "ö".repeat(3000))];
    let source = source(Settings { extra, ..settings });
    let shown = source.settings.grant.show(&source.settings, source.clock.now()).await.expect("no failure");
    let form = source.form(&shown, &[("client_secret", Zeroizing::new(SECRET.to_owned()))]);
    let most = 3 * (600 + 6000);
    assert!((most..most + 2000).contains(&form.capacity()), "the first buffer is the last one: {}", form.capacity());
}

#[tokio::test]
async fn the_header_with_the_secret_is_sensitive() {
    let server = Scripted::start().await;
    let (settings, _file) = settings(&server, Auth::Basic);
    let source = source(settings);
    let headers = source.headers(&source.proof().await.expect("no failure")).expect("no failure");
    assert!(headers[AUTHORIZATION].is_sensitive());
}

#[tokio::test]
async fn an_issuer_that_repeats_our_secret_is_not_quoted() {
    let (_, request) = ask(Auth::Basic, &json("200 OK", "{}")).await;
    let basic = request.lines().find_map(|line| line.strip_prefix("authorization: Basic ")).expect("one of them");
    for echo in [SECRET, "canary%2Bs%C3%A9cret%2Fof+the%3Aclient%25", basic] {
        for auth in [Auth::Basic, Auth::Post] {
            let body = format!(r#"{{"error":"invalid_client","error_description":"not {echo}"}}"#);
            let (result, _) = ask(auth, &json("401 Unauthorized", &body)).await;
            let failure = result.err().expect("a failure");
            assert_eq!((failure.reason, failure.class), (Reason::InvalidClient, Class::Refused));
            assert_eq!(failure.detail, "the issuer answered 401: invalid_client (not [redacted])");
        }
    }
}

#[tokio::test]
async fn each_way_in_which_an_issuer_fails_has_its_reason() {
    for (answer, reason) in [
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", Reason::Redirected),
        ("HTTP/1.1 503 No\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n", Reason::Status),
        ("HTTP/1.1 429 No\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n", Reason::RateLimited),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\n{}", Reason::ContentType),
        ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{\"acc", Reason::CutOff),
        ("HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n", Reason::TooLarge),
        ("canary\r\n\r\n", Reason::Malformed),
        ("", Reason::CutOff),
    ] {
        let failure = ask(Auth::Basic, answer).await.0.err().expect("a failure");
        assert_eq!(failure.reason, reason, "{answer:?}");
        assert!(matches!(failure.class, Class::Transient { .. }), "{answer:?}");
        assert!(!failure.detail.contains("canary"), "{failure}");
    }
}

#[tokio::test]
async fn without_an_issuer_or_a_secret_there_is_no_call() {
    let server = Scripted::start().await;
    let (settings, file) = settings(&server, Auth::Basic);
    drop(server);
    let asked = source(settings);
    assert_eq!(asked.obtain().await.err().expect("a failure").reason, Reason::Connect);

    std::fs::write(file.path(), [0xff, 0xfe]).expect("written");
    let failure = asked.obtain().await.err().expect("a failure");
    assert_eq!((failure.reason, failure.detail.as_str()), (Reason::Secret, "the secret is not UTF-8 text"));
    drop(file);
    assert_eq!(asked.obtain().await.err().expect("a failure").reason, Reason::Secret);
}

/// The proof of a call, and whether this key verifies it.
async fn assertion_of_a_call(key: &KeyPair, algorithm: Algorithm) -> serde_json::Map<String, serde_json::Value> {
    let server = Scripted::start().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), key.serialize_pem()).expect("written");
    let reference = Reference::File(file.path().to_owned());
    let (settings, _file) = settings(&server, Auth::Basic);
    let audience = settings.issuer.audience();
    let auth = Auth::PrivateKeyJwt(Box::new(assertion::Settings {
        key: reference.clone(),
        algorithm,
        key_id: Some("one".to_owned()),
        certificate: None,
        audience: audience.clone(),
    }));
    let source = source(proved(auth, settings));
    let good = json("200 OK", r#"{"access_token":"abc","expires_in":60}"#);
    let (issued, request) = tokio::join!(source.obtain(), server.answer(&good));
    assert!(issued.is_ok());
    assert!(!request.contains("authorization:") && !request.contains("client_secret"), "it is proved once");
    let fields: BTreeMap<String, String> = fields(&request).into_iter().collect();
    assert_eq!(fields["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    assert_eq!(fields["client_id"], "the client: å");

    let assertion = &fields["client_assertion"];
    let (_, jwk) = private_key::read(&reference, algorithm, Some("one")).expect("a key");
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&[&audience]);
    validation.set_issuer(&["the client: å"]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    let data = jsonwebtoken::decode(assertion, &DecodingKey::from_jwk(&jwk).expect("verified"), &validation)
        .expect("verified");
    assert_eq!(data.header.kid.as_deref(), Some("one"));
    data.claims
}

#[tokio::test]
async fn a_client_proves_itself_with_a_jwt_that_it_signs_anew_for_each_call() {
    for (algorithm, kind) in [
        (Algorithm::ES256, &PKCS_ECDSA_P256_SHA256),
        (Algorithm::EdDSA, &PKCS_ED25519),
        (Algorithm::RS256, &PKCS_RSA_SHA256),
        (Algorithm::PS256, &PKCS_RSA_SHA256),
    ] {
        let key = KeyPair::generate_for(kind).expect("a key");
        let first = assertion_of_a_call(&key, algorithm).await;
        let second = assertion_of_a_call(&key, algorithm).await;
        assert_eq!(first["sub"], first["iss"]);
        assert_eq!(first["exp"].as_u64().expect("a key") - first["iat"].as_u64().expect("a key"), 60);
        assert_ne!(first["jti"], second["jti"], "{algorithm:?}");
    }
}

#[tokio::test]
async fn a_file_that_holds_no_key_is_named() {
    let server = Scripted::start().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "no key").expect("written");
    let (settings, _file) = settings(&server, Auth::Basic);
    let auth = Auth::PrivateKeyJwt(Box::new(assertion::Settings {
        key: Reference::File(file.path().to_owned()),
        algorithm: Algorithm::ES256,
        key_id: None,
        certificate: None,
        audience: "a".to_owned(),
    }));
    let failure = source(proved(auth, settings)).obtain().await.err().expect("a failure");
    assert_eq!(failure.reason, Reason::Key);
    assert!(failure.detail.contains("PKCS#8"), "{}", failure.detail);
}

/// What comes of telling an issuer that answers with `answer`, and the request that it got.
async fn tell(auth: fn(Reference) -> Auth, answer: &str) -> (Result<(), Failure>, String) {
    let server = Scripted::start().await;
    let (settings, _file) = settings(&server, auth);
    let source = source(settings);
    let value = Secret::new("canary+token");
    tokio::join!(source.revoke(&value), server.answer(answer))
}

#[tokio::test]
async fn a_revocation_says_what_rfc_7009_wants() {
    let (told, request) = tell(Auth::Post, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(told, Ok(()));
    let expected = [
        ("token", "canary+token"),
        ("token_type_hint", "access_token"),
        ("client_id", "the client: å"),
        ("client_secret", SECRET),
    ];
    assert_eq!(fields(&request), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert!(request.starts_with("POST ") && request.contains("x-tenant: t1"), "{request}");
    let (told, request) = tell(Auth::Basic, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((told, fields(&request).len()), (Ok(()), 2));
    assert!(request.to_ascii_lowercase().contains("authorization: basic "), "{request}");
}

#[tokio::test]
async fn only_a_plain_no_ends_a_revocation_and_no_failure_shows_the_token() {
    let transient = Class::Transient { retry_after: None };
    for (answer, class) in [
        (json("400 Bad Request", r#"{"error":"unsupported_token_type"}"#), Class::Refused),
        (json("400 Bad Request", r#"{"error":"invalid_request","error_description":"canary+token"}"#), transient),
        (json("401 Unauthorized", r#"{"error":"invalid_client"}"#), transient),
        (json("404 Not Found", "{}"), transient),
        (json("503 Service Unavailable", "{}"), transient),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_owned(), transient),
    ] {
        let (told, _) = tell(Auth::Basic, &answer).await;
        let failure = told.expect_err("it did not confirm");
        assert_eq!(failure.class, class, "{answer}");
        assert!(!failure.detail.contains("canary"), "{}", failure.detail);
    }
}
