use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};
use crate::token::source::Class;

const KEYS: &str = r#"{"Code":"Success","AccessKeyId":"ASIAMACHINE","SecretAccessKey":"secret","Token":"token","Expiration":"2099-01-01T00:00:00Z"}"#;

fn machine(settings: Settings) -> Machine {
    Machine::new(settings, fetcher(), Arc::new(ManualClock::default())).expect("no failure")
}

fn url(server: &Scripted, path: &str) -> Endpoint {
    Endpoint::parse(&server.endpoint().to_string().replace("/token", path)).expect("well-formed")
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn an_instance_is_asked_for_its_role_with_a_token_of_the_service() {
    let server = Scripted::start().await;
    let source = machine(Settings::Instance { url: url(&server, ""), role: None });
    let answers = async {
        let mut requests = Vec::new();
        for body in ["imds-token", "reader\nother", KEYS] {
            requests.push(server.answer(answer("200 OK", body)).await);
        }
        requests
    };
    let (issued, requests) = tokio::join!(source.obtain(), answers);
    let issued = issued.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(issued.secret.same_as(&Secret::of_aws(b"ASIAMACHINE", b"secret", Some(b"token")).expect("no failure")));
    assert!(issued.expires.is_some());
    assert!(requests[0].starts_with("PUT /latest/api/token HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].contains("\r\nx-aws-ec2-metadata-token-ttl-seconds: 300\r\n"), "{}", requests[0]);
    let path = "/latest/meta-data/iam/security-credentials/";
    for (request, path) in requests[1..].iter().zip([path.to_owned(), format!("{path}reader")]) {
        assert!(request.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{request}");
        assert!(request.contains("\r\nx-aws-ec2-metadata-token: imds-token\r\n"), "{request}");
    }
}

#[tokio::test]
async fn a_container_shows_what_it_was_given() {
    let (server, folder) = (Scripted::start().await, tempfile::tempdir().expect("a folder"));
    std::fs::write(folder.path().join("shown"), "shown-token\n").expect("written");
    let authorization = Some(Reference::parse("file:shown", folder.path()).expect("well-formed"));
    let source = machine(Settings::Container { url: Some(url(&server, "/v1/credentials")), authorization });
    let (issued, request) = tokio::join!(source.obtain(), server.answer(answer("200 OK", KEYS)));
    assert!(issued.is_ok());
    assert!(request.starts_with("GET /v1/credentials HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nauthorization: shown-token\r\n"), "{request}");
}

#[tokio::test]
async fn what_is_no_answer_with_keys_is_a_failure_that_passes() {
    let server = Scripted::start().await;
    let source = machine(Settings::Container { url: Some(url(&server, "/keys")), authorization: None });
    for (status, body, reason) in [
        ("404 Not Found", String::new(), Reason::Status),
        ("302 Found", String::new(), Reason::Status),
        ("200 OK", "[]".to_owned(), Reason::Malformed),
        ("200 OK", KEYS.replace("Success", "Failed"), Reason::IssuerError),
        ("200 OK", KEYS.replace("\"secret\"", "null"), Reason::TokenMissing),
        ("200 OK", KEYS.replace("\"secret\"", "\"se cret\""), Reason::TokenCharset),
        ("200 OK", KEYS.replace("2099", "1969"), Reason::Expired),
        ("200 OK", KEYS.replace("2099", "x"), Reason::Lifetime),
    ] {
        let (issued, _) = tokio::join!(source.obtain(), server.answer(answer(status, &body)));
        let failure = issued.err().unwrap_or_else(|| panic!("{status} {body}"));
        assert_eq!(failure.reason, reason, "{status} {body}");
        assert!(matches!(failure.class, Class::Transient { .. }) && !failure.detail.contains("se cret"), "{failure}");
    }
}

#[test]
fn only_a_sound_name_is_a_role() {
    assert_eq!(first_role(b"reader+1@b\n").ok().as_deref(), Some("reader+1@b"));
    for body in ["", "\n", "a/b", "a b", "<html>"] {
        assert!(first_role(body.as_bytes()).is_err(), "{body:?}");
    }
}
