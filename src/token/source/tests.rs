use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::fetcher;

fn source(settings: &Settings) -> Box<dyn Source> {
    build(settings, &fetcher(), None, Arc::new(ManualClock::default()), None).expect("no failure")
}

async fn from_file(content: &str) -> Result<Issued, Failure> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(content.as_bytes()).expect("writes");
    source(&Settings::File { path: file.path().to_owned() }).obtain().await
}

/// A JWT that ends that many seconds from now.
fn jwt(seconds: i64) -> String {
    let now = i64::try_from(ManualClock::default().now().wall.as_secs()).expect("well-formed");
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(json!({ "alg": "none" })), part(json!({ "exp": now + seconds })))
}

#[tokio::test]
async fn a_file_is_a_token_without_its_line_end() {
    let issued = from_file("abc.def\n").await.expect("no failure");
    assert!(issued.secret.same_as(&Secret::new("abc.def")));
    assert_eq!((issued.expires, issued.assumed, issued.granted), (None, false, None));
}

#[tokio::test]
async fn a_replaced_file_is_seen_at_the_next_call() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let source = source(&Settings::File { path: file.path().to_owned() });
    for token in ["one", "two"] {
        std::fs::write(file.path(), token).expect("written");
        assert!(source.obtain().await.expect("no failure").secret.same_as(&Secret::new(token)));
    }
}

#[tokio::test]
async fn a_jwt_in_a_file_names_its_own_end() {
    let left = from_file(&jwt(600))
        .await
        .expect("no failure")
        .expires
        .expect("an end")
        .remaining(ManualClock::default().now());
    assert!((590..=600).contains(&left.as_secs()), "{left:?}");
    let failure = from_file(&jwt(-1)).await.err().expect("a failure");
    assert_eq!(failure.reason, Reason::Expired);
    assert!(matches!(failure.class, Class::Transient { .. }), "whoever writes the file will write it again");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_not_quoted() {
    for (content, reason) in [
        ("", Reason::Secret),
        ("\n", Reason::Secret),
        ("canary\ncanary", Reason::TokenCharset),
        ("canary canary", Reason::TokenCharset),
        (&"c".repeat(64 * 1024 + 1), Reason::Secret),
    ] {
        let failure = from_file(content).await.err().expect("a failure");
        assert_eq!(failure.reason, reason, "{failure}");
        assert!(!failure.detail.contains("canary"), "{failure}");
    }
    let missing = source(&Settings::File { path: "/nowhere/token".into() }).obtain().await.err().expect("a failure");
    assert_eq!(missing.reason, Reason::Secret);
    assert_eq!(missing.detail, "cannot read /nowhere/token: No such file or directory (os error 2)");
}

#[tokio::test]
async fn a_variable_is_a_token_and_a_missing_one_stays_missing() {
    // It is set wherever a test runs, and tests cannot set one.
    let found = source(&Settings::Env { name: "PATH".to_owned() }).obtain().await.expect("no failure");
    assert!(found.secret.same_as(&Secret::new(std::env::var("PATH").expect("a variable"))));
    assert_eq!(found.expires, None);

    let failure =
        source(&Settings::Env { name: "COUNTERSIGN_NO_SUCH".to_owned() }).obtain().await.err().expect("a failure");
    assert_eq!(failure, Failure::refused(Reason::Secret, "the environment variable COUNTERSIGN_NO_SUCH is not set"));
}

#[test]
fn a_source_that_contradicts_itself_is_not_built() {
    let token_url = crate::authority::Endpoint::parse("https://issuer.example/token").expect("well-formed");
    let auth = oauth::Auth::Basic(crate::secret::Reference::Env("NONE".to_owned()));
    let settings = oauth::Settings {
        kind: "client_credentials",
        grant: oauth::Grant::ClientCredentials,
        revocation_url: None,
        issuer: oauth::Issuer::At(token_url),
        dpop: None,
        client: Some(oauth::Client { id: "ci".to_owned(), auth }),
        scope: Vec::new(),
        audience: Vec::new(),
        resource: Vec::new(),
        extra: vec![("grant_type".to_owned(), "password".to_owned())],
        headers: Vec::new(),
        tls: crate::tls::Settings { ca: Some("/nowhere/ca.pem".into()), ..crate::tls::Settings::default() },
    };
    let refused = |settings| {
        build(&settings, &fetcher(), None, Arc::new(ManualClock::default()), None).err().expect("a failure").to_string()
    };
    let twice = refused(Settings::OAuth(settings.clone().into()));
    assert_eq!(twice, "`extra` may not set \"grant_type\": the source itself sends it");
    let settings = oauth::Settings { extra: Vec::new(), ..settings };
    let no_roots = refused(Settings::OAuth(settings.into()));
    assert!(no_roots.starts_with("cannot read /nowhere/ca.pem"), "{no_roots}");
}

#[test]
fn every_reason_has_a_name_of_its_own() {
    let mut names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Reason::ALL.len());
}
