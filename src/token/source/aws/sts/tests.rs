use std::path::Path;

use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};

const ROLE: &str = "arn:aws:iam::123456789012:role/reader";

const YES: &str = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
    <AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>secret/key+</SecretAccessKey><SessionToken>token==</SessionToken>\
    <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";

fn reference(folder: &Path, name: &str, text: &str) -> Reference {
    std::fs::write(folder.join(name), text).expect("written");
    Reference::parse(&format!("file:{name}"), folder).expect("well-formed")
}

fn keys(folder: &Path) -> Proof {
    Proof::Keys(fixed::Settings {
        access_key_id: reference(folder, "id", "AKIDBASE"),
        secret_access_key: reference(folder, "key", "base/secret"),
        session_token: None,
    })
}

fn source(server: &Scripted, proof: Proof) -> Sts {
    let place = sigv4::Place { region: Some("eu-west-1".to_owned()), service: Some("sts".to_owned()) };
    let settings = Settings {
        url: server.endpoint().below("/"),
        place,
        role: ROLE.to_owned(),
        session_name: "countersign".to_owned(),
        external_id: Some("one&two".to_owned()),
        lifetime: Duration::from_secs(900),
        proof,
        tls: tls::Settings::default(),
    };
    Sts::new(settings, fetcher(), Arc::new(ManualClock::default())).expect("no failure")
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_role_is_asked_for_with_signed_keys() {
    let (server, folder) = (Scripted::start().await, tempfile::tempdir().expect("a folder"));
    let source = source(&server, keys(folder.path()));
    let (issued, request) = tokio::join!(source.obtain(), server.answer(answer("200 OK", YES)));
    let issued = issued.unwrap_or_else(|failure| panic!("{failure}"));
    let expected = Secret::of_aws(b"ASIAEXAMPLE", b"secret/key+", Some(b"token==")).expect("no failure");
    assert!(issued.secret.same_as(&expected) && !issued.assumed);
    assert!(issued.expires.is_some_and(|end| end.wall.as_secs() <= 4_070_908_800));
    let form = "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Freader\
                &RoleSessionName=countersign&DurationSeconds=900&ExternalId=one%26two";
    assert!(request.ends_with(form), "{request}");
    let signature = "\r\nauthorization: AWS4-HMAC-SHA256 Credential=AKIDBASE/";
    assert!(request.contains(signature) && request.contains("/eu-west-1/sts/aws4_request, "), "{request}");
    assert!(!request.contains("base/secret"));
    assert_eq!(source.kind(), "aws_assume_role");
}

#[tokio::test]
async fn a_jwt_is_shown_without_a_signature() {
    let (server, folder) = (Scripted::start().await, tempfile::tempdir().expect("a folder"));
    let source = source(&server, Proof::WebIdentity(reference(folder.path(), "jwt", "ey.a+b.c\n")));
    let (issued, request) = tokio::join!(source.obtain(), server.answer(answer("200 OK", YES)));
    assert!(issued.is_ok());
    assert!(request.contains("Action=AssumeRoleWithWebIdentity&") && !request.contains("authorization"), "{request}");
    assert!(request.ends_with("&WebIdentityToken=ey.a%2Bb.c"), "{request}");
    assert_eq!(source.kind(), "aws_web_identity");
}

#[tokio::test]
async fn no_answer_of_sts_brings_half_of_a_secret_into_an_error() {
    let (server, folder) = (Scripted::start().await, tempfile::tempdir().expect("a folder"));
    let shown = reference(folder.path(), "shown", "canary.token");
    let keys = fixed::Settings {
        access_key_id: reference(folder.path(), "id", "AKIDBASE"),
        secret_access_key: reference(folder.path(), "key", "base/secret"),
        session_token: Some(shown.clone()),
    };
    for proof in [Proof::Keys(keys), Proof::WebIdentity(shown)] {
        let source = source(&server, proof);
        let said = format!("{}canary.token", "x".repeat(190));
        let body = format!("<Error><Code>SignatureDoesNotMatch</Code><Message>{said}</Message></Error>");
        let (issued, _) = tokio::join!(source.obtain(), server.answer(answer("403 Forbidden", &body)));
        let failure = issued.err().expect("a failure");
        assert!(failure.detail.contains("xxx") && !failure.detail.contains("canary"), "{failure}");
    }
}

#[tokio::test]
async fn what_sts_says_is_told_and_decides_whether_it_is_asked_again() {
    let (server, folder) = (Scripted::start().await, tempfile::tempdir().expect("a folder"));
    let source = source(&server, keys(folder.path()));
    let error =
        |code: &str| format!("<ErrorResponse><Error><Code>{code}</Code><Message>why</Message></Error></ErrorResponse>");
    let again = Class::Transient { retry_after: None };
    for (status, body, reason, class) in [
        ("403 Forbidden", error("AccessDenied"), Reason::AccessDenied, Class::Refused),
        ("403 Forbidden", error("InvalidClientTokenId"), Reason::InvalidClient, Class::Refused),
        ("403 Forbidden", error("ExpiredToken"), Reason::InvalidGrant, again),
        ("400 Bad Request", error("ValidationError"), Reason::InvalidRequest, Class::Refused),
        ("400 Bad Request", error("Throttling"), Reason::RateLimited, again),
        ("400 Bad Request", error("SomethingNew"), Reason::IssuerError, Class::Refused),
        ("503 Slow Down", String::new(), Reason::Status, again),
        ("404 Not Found", "<html>".to_owned(), Reason::Status, Class::Refused),
        ("302 Found", String::new(), Reason::Redirected, again),
        ("200 OK", "{}".to_owned(), Reason::Malformed, again),
        ("200 OK", YES.replace("2099", "1969"), Reason::Expired, again),
        ("200 OK", YES.replace("2099-01", "soon"), Reason::Lifetime, again),
        ("200 OK", YES.replace("token==", "to&amp;ken"), Reason::Malformed, again),
        ("200 OK", YES.replace("token==", "to ken"), Reason::TokenCharset, again),
        ("200 OK", YES.replace("</Credentials>", "<SessionToken>b</SessionToken>"), Reason::Malformed, again),
    ] {
        let (issued, _) = tokio::join!(source.obtain(), server.answer(answer(status, &body)));
        let failure = issued.err().unwrap_or_else(|| panic!("{status} {body}"));
        assert_eq!((failure.reason, failure.class), (reason, class), "{status} {body}");
        assert!(!failure.detail.contains("secret"), "{failure}");
        assert!(!body.contains("why") || failure.detail.ends_with("(why)"), "{failure}");
    }
}
