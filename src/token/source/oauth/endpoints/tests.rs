use super::super::{Client, Grant, OAuth};
use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};
use crate::secret::{Reference, Secret};
use crate::tls;
use crate::token::source::{Class, Source as _};

/// A source whose issuer is this server by its name.
struct Named {
    server: Scripted,
    name: String,
    clock: Arc<ManualClock>,
    source: OAuth,
    _secret: tempfile::NamedTempFile,
}

impl Named {
    async fn start() -> Self {
        let server = Scripted::start().await;
        let endpoint = Endpoint { path: "/".to_owned(), ..server.endpoint() };
        let name = endpoint.to_string().trim_end_matches('/').to_owned();
        let secret = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(secret.path(), "canary").expect("written");
        let auth = Auth::Post(Reference::File(secret.path().to_owned()));
        let settings = Settings {
            kind: "client_credentials",
            grant: Grant::ClientCredentials,
            issuer: Issuer::Named { name: name.clone(), endpoint },
            revocation_url: None,
            dpop: None,
            client: Some(Client { id: "ci".to_owned(), auth }),
            scope: Vec::new(),
            audience: Vec::new(),
            resource: Vec::new(),
            extra: Vec::new(),
            headers: Vec::new(),
            tls: tls::Settings::default(),
        };
        let clock = Arc::new(ManualClock::default());
        let source = OAuth::new(settings, fetcher(), clock.clone()).expect("well-formed");
        Self { server, name, clock, source, _secret: secret }
    }

    /// What it tells of itself, with its token endpoint at `path`.
    fn document(&self, path: &str, more: &str) -> String {
        json("200 OK", &format!(r#"{{"issuer":"{0}","token_endpoint":"{0}{path}"{more}}}"#, self.name))
    }

    /// Obtains while the server answers with these, in this order; the first lines of the requests, and how it went.
    async fn obtain(&self, answers: &[&str]) -> (Result<(), Failure>, Vec<String>) {
        let (issued, lines) = tokio::join!(self.source.obtain(), async {
            let mut lines = Vec::new();
            for answer in answers {
                let request = self.server.answer(answer).await;
                lines.push(request.lines().next().unwrap_or_default().replace(" HTTP/1.1", ""));
            }
            lines
        });
        (issued.map(|_| ()), lines)
    }
}

fn json(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn token() -> String {
    json("200 OK", r#"{"access_token":"abc","token_type":"bearer","expires_in":60}"#)
}

const DOCUMENT: &str = "GET /.well-known/oauth-authorization-server";
const OPENID: &str = "GET /.well-known/openid-configuration";

#[tokio::test]
async fn an_issuer_is_asked_where_it_says_and_is_taken_at_its_word_for_an_hour() {
    let named = Named::start().await;
    let document = named.document("/t1", "");
    let (issued, lines) = named.obtain(&[&document, &token()]).await;
    assert_eq!((issued, lines.as_slice()), (Ok(()), [DOCUMENT, "POST /t1"].map(str::to_owned).as_slice()));
    named.clock.advance(Duration::from_secs(3599));
    assert_eq!(named.obtain(&[&token()]).await.1, ["POST /t1"]);
    named.clock.advance(Duration::from_secs(2));
    assert_eq!(named.obtain(&[&document, &token()]).await.1, [DOCUMENT, "POST /t1"]);
    assert_eq!(named.source.issuer_changes(), [], "it says what it said");
}

#[tokio::test]
async fn what_an_issuer_changes_is_in_use_and_told_once() {
    let named = Named::start().await;
    let before = named.document("/t1", r#","jwks_uri":"https://a.example/keys""#);
    named.obtain(&[&before, &token()]).await.0.expect("a token");
    named.clock.advance(Duration::from_secs(3601));
    let methods = r#","revocation_endpoint":"https://a.example/r","token_endpoint_auth_methods_supported":["none"]"#;
    let after = named.document("/t2", methods);
    assert!(!named.source.revokes());
    assert_eq!(named.obtain(&[&after, &token()]).await.1, [DOCUMENT, "POST /t2"]);
    assert!(named.source.revokes(), "it says where, now");
    let changes = named.source.issuer_changes();
    let told: Vec<_> = changes
        .iter()
        .map(|change| (change.what.as_str(), change.before.as_deref(), change.after.as_deref()))
        .collect();
    let (t1, t2) = (format!("{}/t1", named.name), format!("{}/t2", named.name));
    let expected = [
        ("token_endpoint", Some(t1.as_str()), Some(t2.as_str())),
        ("jwks_uri", Some("https://a.example/keys"), None),
        ("revocation_endpoint", None, Some("https://a.example/r")),
    ];
    assert_eq!(told, expected);
    assert_eq!(named.source.issuer_changes(), []);
}

#[tokio::test]
async fn a_way_of_proving_oneself_that_is_not_taken_any_more_is_told() {
    let named = Named::start().await;
    let taken =
        |method: &str| named.document("/t", &format!(r#","token_endpoint_auth_methods_supported":["{method}"]"#));
    named.obtain(&[&taken("client_secret_post"), &token()]).await.0.expect("a token");
    named.clock.advance(Duration::from_secs(3601));
    named.obtain(&[&taken("private_key_jwt"), &token()]).await.0.expect("a token");
    let change = named.source.issuer_changes().remove(0);
    assert_eq!(change.what, "token_endpoint_auth_methods_supported");
    assert_eq!(change.after.as_deref(), Some("our own is not among them"));
}

#[tokio::test]
async fn what_was_told_before_stays_in_use_while_the_document_cannot_be_had() {
    let named = Named::start().await;
    named.obtain(&[&named.document("/t1", ""), &token()]).await.0.expect("a token");
    named.clock.advance(Duration::from_secs(3601));
    let down = json("503 Service Unavailable", "{}");
    assert_eq!(named.obtain(&[&down, &token()]).await.1, [DOCUMENT, "POST /t1"]);
    assert_eq!(named.obtain(&[&token()]).await.1, ["POST /t1"], "it is not asked each time");
    named.clock.advance(Duration::from_secs(61));
    let other =
        named.document("/evil", "").replace(&format!("\"issuer\":\"{}", named.name), "\"issuer\":\"https://b.example");
    let other = other.split_once("\r\n\r\n").map(|(_, body)| json("200 OK", body)).expect("a body");
    assert_eq!(named.obtain(&[&other, &token()]).await.1, [DOCUMENT, "POST /t1"]);
}

#[tokio::test]
async fn an_issuer_that_has_moved_is_found_where_it_is_now() {
    let named = Named::start().await;
    named.obtain(&[&named.document("/t1", ""), &token()]).await.0.expect("a token");
    named.clock.advance(Duration::from_secs(61));
    named.obtain(&[&json("404 Not Found", "{}")]).await.0.expect_err("nobody there");
    let (issued, lines) = named.obtain(&[&named.document("/t2", ""), &token()]).await;
    assert_eq!((issued, lines.as_slice()), (Ok(()), [DOCUMENT, "POST /t2"].map(str::to_owned).as_slice()));
}

#[tokio::test]
async fn without_a_document_no_secret_is_sent_and_the_failure_names_the_place() {
    let missing = json("404 Not Found", "{}");
    for (answer, asked, reason, said) in [
        (missing, 2, Reason::Status, "/.well-known/oauth-authorization-server answers 404"),
        (json("503 No", "{}"), 1, Reason::Status, "answers 503"),
        (
            "HTTP/1.1 302 No\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".to_owned(),
            1,
            Reason::Redirected,
            "answers 302",
        ),
        (json("200 OK", r#"{"issuer":"https://b.example"}"#), 1, Reason::Malformed, "is of another issuer"),
        (json("200 OK", "ISSUER"), 1, Reason::Malformed, "it does not tell `token_endpoint`"),
        (json("200 OK", "PLAIN"), 1, Reason::Malformed, "its `token_endpoint` is plain http"),
    ] {
        let named = Named::start().await;
        let own = json("200 OK", &format!(r#"{{"issuer":"{}"}}"#, named.name));
        let plain = r#","token_endpoint":"http://127.0.0.9/t"}"#;
        let plain = json("200 OK", &format!(r#"{{"issuer":"{}"{plain}"#, named.name));
        let answer = if answer.ends_with("ISSUER") {
            own
        } else if answer.ends_with("PLAIN") {
            plain
        } else {
            answer
        };
        let (issued, lines) = named.obtain(&vec![answer.as_str(); asked]).await;
        let failure = issued.expect_err("no token");
        assert_eq!(failure.reason, reason, "{failure}");
        assert!(matches!(failure.class, Class::Transient { .. }));
        assert!(failure.detail.contains(said) && failure.detail.starts_with("the issuer's metadata: "), "{failure}");
        assert_eq!(lines, [DOCUMENT, OPENID][..asked]);
    }
}

#[tokio::test]
async fn an_issuer_is_told_what_is_void_where_it_says() {
    let named = Named::start().await;
    let document = named.document("/t", &format!(r#","revocation_endpoint":"{}/r""#, named.name));
    assert!(named.source.revokes(), "nobody knows yet that it cannot be told");
    let value = Secret::new("abc");
    let (told, requests) = tokio::join!(named.source.revoke(&value), async {
        [named.server.answer(&document).await, named.server.answer(&json("200 OK", "{}")).await]
    });
    assert_eq!(told, Ok(()));
    assert!(requests[1].starts_with("POST /r HTTP/1.1\r\n") && requests[1].contains("token=abc"), "{}", requests[1]);
}
