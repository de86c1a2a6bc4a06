use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};
use crate::secret::Secret;

/// A source whose API server is `server`, and the file that proves it.
fn source(server: &Scripted, audience: &[&str]) -> (Kubernetes, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "canary.of.the.pod\n").expect("written");
    let settings = Settings {
        url: Endpoint::parse(&server.endpoint().to_string().replace("/token", "")).expect("well-formed"),
        namespace: "billing".to_owned(),
        service_account: "reader".to_owned(),
        own_token: Reference::File(file.path().to_owned()),
        audience: audience.iter().map(ToString::to_string).collect(),
        lifetime: Duration::from_secs(600),
        tls: tls::Settings::default(),
    };
    (Kubernetes::new(settings, fetcher(), Arc::new(ManualClock::default())).expect("no failure"), file)
}

fn answer(status: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn good() -> Value {
    let ends = ManualClock::default().now().after(Duration::from_secs(600)).to_rfc3339();
    json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "spec": { "audiences": ["api"], "expirationSeconds": 600 },
        "status": { "token": "a.jwt.here", "expirationTimestamp": ends },
    })
}

#[tokio::test]
async fn the_cluster_is_asked_for_an_account_an_audience_and_a_time() {
    let server = Scripted::start().await;
    let (source, _file) = source(&server, &["api"]);
    let (issued, request) = tokio::join!(source.obtain(), server.answer(answer("201 Created", &good())));
    let issued = issued.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(issued.secret.same_as(&Secret::new("a.jwt.here")));
    assert_eq!(issued.granted, None, "an account has no scopes");
    let left = issued.expires.expect("an end").remaining(ManualClock::default().now()).as_secs();
    assert!((598..=600).contains(&left), "{left}");
    let (head, body) = request.split_once("\r\n\r\n").expect("two parts");
    assert!(head.starts_with("POST /api/v1/namespaces/billing/serviceaccounts/reader/token HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nauthorization: Bearer canary.of.the.pod\r\n"), "{head}");
    let expected = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "audiences": ["api"], "expirationSeconds": 600 },
    });
    assert_eq!(serde_json::from_str::<Value>(body).expect("JSON"), expected);
}

#[tokio::test]
async fn without_an_audience_the_cluster_chooses() {
    let server = Scripted::start().await;
    let (source, _file) = source(&server, &[]);
    let (issued, request) = tokio::join!(source.obtain(), server.answer(answer("201 Created", &good())));
    assert!(issued.is_ok() && !request.contains("audiences"), "{request}");
}

#[tokio::test]
async fn what_the_cluster_refuses_is_told_without_our_own_token() {
    let server = Scripted::start().await;
    let (source, file) = source(&server, &["api"]);
    let status = |message: &str| json!({ "kind": "Status", "status": "Failure", "message": message });
    let forbidden = status("canary.of.the.pod cannot create resource serviceaccounts/token");
    let (issued, _) = tokio::join!(source.obtain(), server.answer(answer("403 Forbidden", &forbidden)));
    let failure = issued.err().expect("a failure");
    assert_eq!(failure.detail, "the issuer answered 403: [redacted] cannot create resource serviceaccounts/token");
    assert_eq!((failure.reason, failure.class), (Reason::Status, super::super::Class::Refused));

    for (body, reason) in [
        (json!({}), Reason::Lifetime),
        (json!({ "status": "Success" }), Reason::Malformed),
        (json!({ "status": { "token": "a", "expirationTimestamp": "2001-01-01T00:00:00Z" } }), Reason::Expired),
    ] {
        let (issued, _) = tokio::join!(source.obtain(), server.answer(answer("201 Created", &body)));
        assert_eq!(issued.err().expect("a failure").reason, reason, "{body}");
    }
    std::fs::remove_file(file.path()).expect("changed");
    assert_eq!(source.obtain().await.err().expect("a failure").reason, Reason::Secret);
}
