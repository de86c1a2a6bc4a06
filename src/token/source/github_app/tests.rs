use jsonwebtoken::{DecodingKey, Validation};
use rcgen::{KeyPair, PKCS_RSA_SHA256};

use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};

const GOOD: &str = r#"{"token":"ghs_1","expires_at":"EXPIRES","permissions":{"contents":"read","metadata":"read"},"repository_selection":"selected"}"#;

/// A source whose API is `server`, and the file with its key.
fn source(server: &Scripted, permissions: &[&str]) -> (GithubApp, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), KeyPair::generate_for(&PKCS_RSA_SHA256).expect("written").serialize_pem())
        .expect("written");
    let settings = Settings {
        api_url: Endpoint::parse(&server.endpoint().to_string().replace("/token", "/api/v3")).expect("well-formed"),
        app: "Iv1.app".to_owned(),
        installation: 42,
        key: Reference::File(file.path().to_owned()),
        repositories: vec!["one".to_owned()],
        permissions: permissions.iter().map(ToString::to_string).collect(),
        tls: tls::Settings::default(),
    };
    (GithubApp::new(settings, fetcher(), Arc::new(ManualClock::default())).expect("no failure"), file)
}

fn answer(status: &str, body: &str) -> String {
    let ends = ManualClock::default().now().after(std::time::Duration::from_secs(3600)).to_rfc3339();
    let body = body.replace("EXPIRES", &ends);
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn the_app_proves_itself_and_asks_for_no_more_than_the_scopes() {
    let server = Scripted::start().await;
    let (source, _file) = source(&server, &["contents:read"]);
    let (issued, request) = tokio::join!(source.obtain(), server.answer(answer("201 Created", GOOD)));
    let issued = issued.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(issued.secret.same_as(&Secret::new("ghs_1")));
    assert_eq!(issued.granted, Some(vec!["contents:read".to_owned()]), "that of metadata comes with each token");
    let left = issued.expires.expect("an end").remaining(ManualClock::default().now()).as_secs();
    assert!((3598..=3600).contains(&left), "{left}");

    let (head, body) = request.split_once("\r\n\r\n").expect("two parts");
    assert!(head.starts_with("POST /api/v3/app/installations/42/access_tokens HTTP/1.1\r\n"), "{head}");
    assert_eq!(
        serde_json::from_str::<Value>(body).expect("two parts"),
        json!({ "permissions": { "contents": "read" }, "repositories": ["one"] })
    );
    let jwt = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).expect("two parts");
    let (_, jwk) = private_key::read(&source.settings.key, Algorithm::RS256, None).expect("one of them");
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&["Iv1.app"]);
    let claims = jsonwebtoken::decode::<Value>(jwt, &DecodingKey::from_jwk(&jwk).expect("a key"), &validation)
        .expect("a key")
        .claims;
    let (issued_at, ends) =
        (claims["iat"].as_u64().expect("of that kind"), claims["exp"].as_u64().expect("of that kind"));
    assert!(ends - issued_at <= 600, "GitHub takes ten minutes at most");
}

#[tokio::test]
async fn the_highest_level_is_asked_for_and_covers_those_below_it() {
    let server = Scripted::start().await;
    let good = |level| GOOD.replace("\"contents\":\"read\"", &format!("\"contents\":\"{level}\""));
    for scopes in [["contents:write", "contents:read"], ["contents:read", "contents:write"]] {
        let (source, _file) = source(&server, &scopes);
        let answered = server.answer(answer("201 Created", &good("write")));
        let (issued, request) = tokio::join!(source.obtain(), answered);
        let (_, body) = request.split_once("\r\n\r\n").expect("two parts");
        assert_eq!(
            serde_json::from_str::<Value>(body).expect("two parts")["permissions"],
            json!({ "contents": "write" })
        );
        let granted = issued.unwrap_or_else(|failure| panic!("{failure}")).granted.expect("scopes");
        assert_eq!(granted, scopes, "and nothing beyond them");
    }
    let (source, _file) = source(&server, &["contents:write"]);
    for (level, granted) in [("read", None), ("none", None), ("admin", Some(["contents:write", "contents:admin"]))] {
        let (issued, _) = tokio::join!(source.obtain(), server.answer(answer("201 Created", &good(level))));
        match (issued, granted) {
            (Ok(issued), Some(granted)) => assert_eq!(issued.granted.expect("scopes"), granted, "more is told"),
            (Err(failure), None) => assert_eq!(failure.reason, Reason::Scope, "{failure}"),
            (issued, _) => panic!("{level}: {:?}", issued.err()),
        }
    }
}

#[tokio::test]
async fn what_github_says_is_told_without_the_proof_and_what_it_lacks_is_no_token() {
    let server = Scripted::start().await;
    let (source, _file) = source(&server, &["contents:read", "issues:write"]);
    for (status, body, reason) in [
        ("201 Created", GOOD, Reason::Scope),
        ("201 Created", r#"{"expires_at":"EXPIRES"}"#, Reason::Scope),
        ("201 Created", r#"{"token":"a","expires_at":1,"permissions":{}}"#, Reason::Lifetime),
        ("201 Created", r#"["canary"]"#, Reason::Malformed),
        ("401 Unauthorized", r#"{"message":"A JSON web token could not be decoded"}"#, Reason::Status),
        ("404 Not Found", r#"{"message":"Not Found"}"#, Reason::Status),
        ("429 Slow", r#"{"message":"Slow down"}"#, Reason::RateLimited),
        ("302 Found", "{}", Reason::Redirected),
        ("200 OK", "<html>", Reason::Malformed),
    ] {
        let (issued, _) = tokio::join!(source.obtain(), server.answer(answer(status, body)));
        let failure = issued.err().unwrap_or_else(|| panic!("{body}"));
        assert_eq!(failure.reason, reason, "{status} {body}: {failure}");
        assert!(!failure.detail.contains("canary"), "{failure}");
    }
    let (issued, _) = tokio::join!(source.obtain(), server.answer(answer("404 Not Found", r#"{"message":"Gone"}"#)));
    assert_eq!(issued.err().expect("a failure").detail, "the issuer answered 404: Gone");
}

#[tokio::test]
async fn a_scope_that_is_no_permission_is_never_left_out_silently_nor_are_all() {
    let server = Scripted::start().await;
    for scopes in [&["contents"] as &[&str], &["contents:read", "contents:all"], &[]] {
        let (source, _file) = source(&server, scopes);
        let failure = source.obtain().await.err().expect("a failure");
        assert_eq!((failure.reason, failure.class), (Reason::InvalidScope, super::super::Class::Refused), "{scopes:?}");
    }
}

#[tokio::test]
async fn a_token_is_voided_with_itself() {
    let server = Scripted::start().await;
    let (source, _file) = source(&server, &["contents:read"]);
    let value = Secret::new("ghs_canary");
    for (status, told) in [("204 No Content", true), ("401 Unauthorized", true), ("500 No", false)] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        let (result, request) = tokio::join!(source.revoke(&value), server.answer(answer));
        assert_eq!(result.is_ok(), told, "{status}");
        assert!(request.starts_with("DELETE /api/v3/installation/token HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nauthorization: Bearer ghs_canary\r\n"), "{request}");
    }
}
