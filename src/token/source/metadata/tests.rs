use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};
use crate::token::source::Class;

const GOOD: &str = r#"{"access_token":"abc","expires_in":3599,"token_type":"Bearer"}"#;

fn source(server: &Scripted, wish: Wish) -> Metadata {
    let url = Endpoint::parse(&server.endpoint().to_string().replace("/token", "")).expect("well-formed");
    Metadata::new(Settings { url, wish }, fetcher(), Arc::new(ManualClock::default())).expect("no failure")
}

fn google() -> Wish {
    Wish::Google { account: "default".to_owned(), scope: vec!["https://a/b".to_owned(), "c".to_owned()] }
}

fn answer(fields: &str, body: &str) -> String {
    answer_with("200 OK", "application/json", fields, body)
}

fn answer_with(status: &str, kind: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn google_is_asked_with_its_flavour_and_answers_with_it() {
    let server = Scripted::start().await;
    let source = source(&server, google());
    let (issued, request) = tokio::join!(source.obtain(), server.answer(answer("Metadata-Flavor: Google\r\n", GOOD)));
    assert!(issued.expect("no failure").secret.same_as(&Secret::new("abc")));
    let expected =
        "GET /computeMetadata/v1/instance/service-accounts/default/token?scopes=https%3A%2F%2Fa%2Fb%2Cc HTTP/1.1\r\n";
    assert!(request.starts_with(expected) && request.contains("\r\nmetadata-flavor: Google\r\n"), "{request}");

    let (issued, _) = tokio::join!(source.obtain(), server.answer(answer("", GOOD)));
    assert_eq!(issued.err().expect("a failure").reason, Reason::Malformed, "something else answered");
}

#[tokio::test]
async fn google_says_who_the_machine_is() {
    let server = Scripted::start().await;
    let source = source(&server, Wish::GoogleIdentity { account: "default".to_owned(), audience: "api".to_owned() });
    let jwt = "eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDB9.c2ln";
    let (issued, request) = tokio::join!(source.obtain(), server.answer(answer("Metadata-Flavor: Google\r\n", jwt)));
    let issued = issued.expect("no failure");
    assert!(issued.secret.same_as(&Secret::new(jwt)) && issued.expires.is_some(), "it names its own end");
    assert!(request.contains("/identity?audience=api&format=full HTTP/1.1\r\n"), "{request}");
}

#[tokio::test]
async fn azure_is_asked_for_an_api_and_counts_in_texts() {
    let server = Scripted::start().await;
    let wish = Wish::Azure { resource: "https://vault.azure.net".to_owned(), client: Some("one".to_owned()) };
    let source = source(&server, wish);
    let body = r#"{"access_token":"abc","expires_in":"3599","expires_on":"1","resource":"x","token_type":"Bearer"}"#;
    let (issued, request) = tokio::join!(source.obtain(), server.answer(answer("", body)));
    assert!(issued.is_ok_and(|issued| !issued.assumed));
    let expected = "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net&client_id=one HTTP/1.1\r\n";
    assert!(request.starts_with(expected) && request.contains("\r\nmetadata: true\r\n"), "{request}");
}

#[tokio::test]
async fn what_is_no_token_of_azure_is_told_for_what_it_is() {
    let server = Scripted::start().await;
    let source = source(&server, Wish::Azure { resource: "https://vault.azure.net".to_owned(), client: None });
    let (json, html, transient) = ("application/json", "text/html", Class::Transient { retry_after: None });
    let unknown = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
    for (status, kind, body, reason, class) in [
        ("200 OK", json, "", Reason::Malformed, transient),
        ("200 OK", json, "{}", Reason::TokenMissing, transient),
        ("200 OK", json, r#"{"access_token":"","expires_in":"60"}"#, Reason::TokenMissing, transient),
        ("200 OK", html, "<html></html>", Reason::ContentType, transient),
        ("400 Bad Request", json, unknown, Reason::InvalidRequest, Class::Refused),
        ("404 Not Found", html, "<html></html>", Reason::Status, Class::Refused),
        ("500 No", html, "", Reason::Status, transient),
    ] {
        let (issued, _) = tokio::join!(source.obtain(), server.answer(answer_with(status, kind, "", body)));
        let failure = issued.err().unwrap_or_else(|| panic!("{status} {body}"));
        assert_eq!((failure.reason, failure.class), (reason, class), "{status} {body}: {failure}");
    }
}

#[tokio::test]
async fn what_is_no_identity_is_told_for_what_it_is() {
    let server = Scripted::start().await;
    let source = source(&server, Wish::GoogleIdentity { account: "default".to_owned(), audience: "api".to_owned() });
    let transient = Class::Transient { retry_after: None };
    for (status, body, reason, class) in [
        ("200 OK", "", Reason::TokenMissing, transient),
        ("200 OK", "\n", Reason::TokenMissing, transient),
        ("200 OK", "<html></html>", Reason::Malformed, transient),
        ("200 OK", "two words", Reason::TokenCharset, transient),
        ("404 Not Found", "Not Found", Reason::Status, Class::Refused),
        ("500 No", "<html></html>", Reason::Status, transient),
    ] {
        let answered = server.answer(answer_with(status, "text/html", "Metadata-Flavor: Google\r\n", body));
        let (issued, _) = tokio::join!(source.obtain(), answered);
        let failure = issued.err().unwrap_or_else(|| panic!("{status} {body}"));
        assert_eq!((failure.reason, failure.class), (reason, class), "{status} {body}: {failure}");
    }
}
