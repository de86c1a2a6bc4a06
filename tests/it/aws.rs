//! Requests to AWS are signed again: the upstream gets one signature, ours, over what it gets.

use std::sync::Arc;

use tempfile::TempDir;

use crate::support::body::{noise, sha256};
use crate::support::sigv4::Signer;
use crate::support::upstream::Seen;
use crate::support::{Scene, Setup, Upstream};

const DYNAMODB: Signer = Signer { id: ID, key: KEY, region: "eu-west-1", service: "dynamodb" };
const S3: Signer = Signer { service: "s3", ..DYNAMODB };
const ID: &str = "AKIDITTEST0000000001";
const KEY: &str = "it-test/secret+access=key-0123456789abcd";
const SESSION: &str = "it-session-token/0123456789+abcdef==";
const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// As an SDK signs with keys that mean nothing.
const DUMMY: &str = "Authorization: AWS4-HMAC-SHA256 Credential=countersign/20260101/us-west-9/other/aws4_request, \
                     SignedHeaders=host;x-amz-date, Signature=00\r\nX-Amz-Date: 20260101T000000Z\r\n";

fn keys(folder: &TempDir, session: bool) -> String {
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("id", ID);
    write("key", KEY);
    write("session", SESSION);
    let session = if session { r#", session_token = "file:session""# } else { "" };
    format!(r#"{{ kind = "aws_static", access_key_id = "file:id", secret_access_key = "file:key"{session} }}"#)
}

async fn scene(upstream: &Upstream, signer: &Signer, session: bool) -> Scene {
    let folder = TempDir::new().expect("a folder");
    let setup = setup(&folder, upstream, signer, session);
    Scene::start_in(Arc::new(folder), &setup).await
}

fn setup(folder: &TempDir, upstream: &Upstream, signer: &Signer, session: bool) -> Setup {
    let source = keys(folder, session);
    let Signer { region, service, .. } = signer;
    let placement = format!(r#"placement = {{ sigv4 = {{ region = "{region}", service = "{service}" }} }}"#);
    let setup = Setup::new().token_from("api", &source, &placement);
    setup.route("api", upstream, "token = \"api\"\npath = \"opaque\"")
}

async fn sent(scene: &Scene, upstream: &Upstream, request: &str, fields: &str, body: &[u8]) -> Seen {
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{fields}\r\n");
    let answer = scene.exchange([head.as_bytes(), body].concat()).await;
    assert_eq!(answer.status, 200, "{request}");
    upstream.last()
}

#[tokio::test]
async fn a_request_is_signed_in_place_of_the_clients_own_signature() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let scene = scene(&upstream, &DYNAMODB, true).await;
        let body = br#"{"TableName":"t"}"#;
        let fields = format!("{DUMMY}X-Amz-Target: DynamoDB_20120810.GetItem\r\nX-Amz-Security-Token: dummy\r\n");
        let seen = sent(&scene, &upstream, "POST /api/a@b/%40?b=2&a=1", &fields, body).await;
        let signature = DYNAMODB.verify(&seen, &sha256(body));
        assert_eq!(seen.body.complete, Some(sha256(body)));
        assert_eq!(seen.all("x-amz-security-token"), [SESSION]);
        for name in ["host", "x-amz-date", "x-amz-security-token", "x-amz-target"] {
            assert!(signature.signed_headers.iter().any(|signed| signed == name), "{name}");
        }
        assert!(seen.headers.iter().all(|(_, value)| !value.contains("countersign/2026")), "{:?}", seen.headers);
        assert_ne!(signature.date, "20260101T000000Z", "the date is ours");
        let labels = [("route", "api")];
        assert_eq!(scene.metric("countersign_shadow_credentials_total", &labels).await, 0.0, "keys that mean nothing");
        scene.finish().await;
    }
}

#[tokio::test]
async fn keys_of_aws_in_the_clients_signature_are_a_credential_of_its_own() {
    let upstream = Upstream::http1().await;
    let scene = scene(&upstream, &DYNAMODB, false).await;
    let real = DUMMY.replace("=countersign/", "=AKIAIOSFODNN7EXAMPLE/");
    for fields in [real.as_str(), "Authorization: Bearer mine\r\n", "X-Api-Key: mine\r\n"] {
        let seen = sent(&scene, &upstream, "GET /api/x", fields, b"").await;
        DYNAMODB.verify(&seen, NOTHING);
        assert!(seen.headers.iter().all(|(_, value)| !value.contains("AKIAIOS") && !value.contains("mine")));
    }
    assert_eq!(scene.metric("countersign_shadow_credentials_total", &[("route", "api")]).await, 3.0);
    scene.finish().await;
}

#[tokio::test]
async fn a_phantom_key_may_be_the_id_that_the_client_signs_with() {
    const PHANTOM: &str = "sk-0phantom0K3yOfTheApp0123456789abcdefghijklmnopqr";
    let (upstream, folder) = (Upstream::http1().await, TempDir::new().expect("a folder"));
    std::fs::write(folder.path().join("app.key"), PHANTOM).expect("written");
    let setup = setup(&folder, &upstream, &S3, false).client("app", "key = \"file:app.key\"");
    let scene = Scene::start_in(Arc::new(folder), &setup).await;
    let fields = DUMMY.replace("=countersign/", &format!("={PHANTOM}/")) + "X-Amz-Security-Token: dummy\r\n";
    let seen = sent(&scene, &upstream, "GET /api/x", &fields, b"").await;
    S3.verify(&seen, NOTHING);
    assert!(seen.all("x-amz-security-token").is_empty(), "it went with the signature");
    let query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={PHANTOM}%2F20260101%2Fx%2Fs3%2Faws4_request\
         &X-Amz-Date=20260101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00"
    );
    let seen = sent(&scene, &upstream, &format!("GET /api/bucket/key?{query}"), "", b"").await;
    S3.verify_query(&seen, "UNSIGNED-PAYLOAD");
    assert!(!seen.target.contains(PHANTOM), "{}", seen.target);
    let old = format!("GET /api/bucket/key?AWSAccessKeyId={PHANTOM}&Expires=1&Signature=x");
    let seen = sent(&scene, &upstream, &old, "", b"").await;
    S3.verify_query(&seen, "UNSIGNED-PAYLOAD");
    assert!(!seen.target.contains(PHANTOM), "{}", seen.target);
    assert_eq!(scene.metric("countersign_tripwires_total", &[]).await, 0.0);
    assert_eq!(scene.metric("countersign_shadow_credentials_total", &[]).await, 0.0);
    let bare = scene.exchange("GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(bare.refusal(), (407, "client_auth_required".to_owned()));
    let before = upstream.count();
    // What is part of no signature is taken out by none.
    for pair in [format!("key={PHANTOM}"), format!("X-Amz-Credential={PHANTOM}"), format!("AWSAccessKeyId={PHANTOM}")] {
        let elsewhere = format!("GET /api/x?{pair} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(scene.exchange(elsewhere).await.refusal(), (403, "client_unknown".to_owned()), "{pair}");
    }
    assert_eq!(upstream.count(), before);
    scene.finish().await;
}

#[tokio::test]
async fn what_the_client_declares_of_its_body_is_kept() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let scene = scene(&upstream, &S3, false).await;
        let large = noise(20 * 1024 * 1024);
        for (declared, body) in [
            ("UNSIGNED-PAYLOAD", &large[..]),
            ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"),
            (&sha256(&large), &large[..]),
        ] {
            let fields = format!("{DUMMY}X-Amz-Content-Sha256: {declared}\r\nContent-Type: text/plain\r\n");
            let seen = sent(&scene, &upstream, "PUT /api/bucket/a%20key/%2F!'(*)", &fields, body).await;
            S3.verify(&seen, declared);
            assert_eq!(seen.all("x-amz-content-sha256"), [declared]);
            assert_eq!(seen.target, "/bucket/a%20key/%2F!'(*)");
            assert_eq!(seen.body.complete, Some(sha256(body)));
        }
        scene.finish().await;
    }
}

#[tokio::test]
async fn a_body_of_which_nothing_is_declared_is_hashed_or_left_out_of_the_signature() {
    let upstream = Upstream::http1().await;
    let scene = scene(&upstream, &S3, false).await;
    let large = noise(17 * 1024 * 1024);
    let seen = sent(&scene, &upstream, "PUT /api/key", "", &large).await;
    S3.verify(&seen, "UNSIGNED-PAYLOAD");
    assert_eq!(seen.all("x-amz-content-sha256"), ["UNSIGNED-PAYLOAD"]);
    assert_eq!(seen.body.complete, Some(sha256(&large)));
    let seen = sent(&scene, &upstream, "GET /api/key?list-type=2&prefix=a%2Fb%2Bc&acl", "", b"").await;
    S3.verify(&seen, NOTHING);
    scene.finish().await;

    let scene = self::scene(&upstream, &DYNAMODB, false).await;
    let seen = sent(&scene, &upstream, "POST /api/", "", &large[..1_000_000]).await;
    DYNAMODB.verify(&seen, &sha256(&large[..1_000_000]));
    assert_eq!(seen.body.complete, Some(sha256(&large[..1_000_000])));
    // Piece by piece it takes no more room than whole.
    let pieces: String = "1\r\nx\r\n".repeat(100_000);
    let head = "POST /api/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(scene.exchange(format!("{head}{pieces}0\r\n\r\n")).await.status, 200);
    DYNAMODB.verify(&upstream.last(), &sha256("x".repeat(100_000).as_bytes()));
    let count = upstream.count();
    let mut client = scene.client().await;
    client.send(format!("POST /api/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", large.len())).await;
    let refusal = client.answer().await.expect("an answer").refusal();
    assert_eq!((refusal, upstream.count()), ((413, "body_too_large".to_owned()), count));
    scene.finish().await;
}

#[tokio::test]
async fn a_signature_in_the_query_is_made_again_in_the_query() {
    for (upstream, session) in [(Upstream::http1().await, true), (Upstream::http2().await, false)] {
        let scene = scene(&upstream, &S3, session).await;
        let dummy = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=countersign%2F20260101%2Fx%2Fs3%2Faws4_request\
                     &X-Amz-Date=20260101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
        let request = format!("GET /api/bucket/key?{dummy}&response-content-type=text%2Fplain");
        let seen = sent(&scene, &upstream, &request, "", b"").await;
        S3.verify_query(&seen, "UNSIGNED-PAYLOAD");
        assert!(seen.target.starts_with("/bucket/key?response-content-type=text%2Fplain&X-Amz-"), "{}", seen.target);
        assert!(seen.target.contains("&X-Amz-Expires=60") && !seen.target.contains("20260101"), "{}", seen.target);
        assert_eq!(seen.target.contains("X-Amz-Security-Token="), session);
        assert!(seen.all("x-amz-security-token").is_empty());
        scene.finish().await;
    }
}

#[tokio::test]
async fn a_body_whose_kind_nobody_knows_is_refused() {
    let upstream = Upstream::http1().await;
    let scene = scene(&upstream, &S3, false).await;
    let fields = "X-Amz-Content-Sha256: STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD\r\n";
    let request = format!("PUT /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n{fields}\r\nab");
    assert_eq!(scene.exchange(request).await.refusal(), (400, "header_invalid".to_owned()));
    assert_eq!(upstream.connections(), 0);
    scene.finish().await;
}

/// `body` in chunks of 64 KiB, each with the signature that `sign` makes of it.
fn in_chunks(body: &[u8], mut sign: impl FnMut(&[u8]) -> String) -> Vec<u8> {
    let mut all = Vec::new();
    for chunk in body.chunks(65_536).chain([&[][..]]) {
        all.extend_from_slice(format!("{:x};chunk-signature={}\r\n", chunk.len(), sign(chunk)).as_bytes());
        all.extend_from_slice(chunk);
        if !chunk.is_empty() {
            all.extend_from_slice(b"\r\n");
        }
    }
    all
}

#[tokio::test]
async fn signed_chunks_are_signed_again_while_they_pass() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let scene = scene(&upstream, &S3, true).await;
        let body = noise(5 * 1024 * 1024 + 1);
        for trailers in ["", "x-amz-checksum-crc32:AAAAAA==\r\n"] {
            let kind = if trailers.is_empty() { "" } else { "-TRAILER" };
            let payload = format!("STREAMING-AWS4-HMAC-SHA256-PAYLOAD{kind}");
            let theirs = "0".repeat(64);
            let end = |signature: &str| match trailers {
                "" => "\r\n".to_owned(),
                trailers => format!("{trailers}x-amz-trailer-signature:{signature}\r\n\r\n"),
            };
            let mut sent_body = in_chunks(&body, |_| theirs.clone());
            sent_body.extend_from_slice(end(&theirs).as_bytes());
            let fields = format!("{DUMMY}X-Amz-Content-Sha256: {payload}\r\nContent-Encoding: aws-chunked\r\n");
            let seen = sent(&scene, &upstream, "PUT /api/bucket/key", &fields, &sent_body).await;

            let head = S3.verify(&seen, &payload);
            let (date, mut before) = (&head.date, head.value.clone());
            let mut expected = in_chunks(&body, |chunk| {
                let about = format!("{NOTHING}\n{}", sha256(chunk));
                before = S3.sign_further("AWS4-HMAC-SHA256-PAYLOAD", date, &before, &about);
                before.clone()
            });
            let about = sha256(trailers.replace("\r\n", "\n").as_bytes());
            let last = S3.sign_further("AWS4-HMAC-SHA256-TRAILER", date, &before, &about);
            expected.extend_from_slice(end(&last).as_bytes());
            assert_eq!((seen.body.bytes, seen.body.complete), (sent_body.len(), Some(sha256(&expected))), "{payload}");
        }
        scene.finish().await;
    }
}

#[tokio::test]
async fn a_body_that_is_not_in_the_chunks_it_says_never_looks_complete() {
    let upstream = Upstream::http1().await;
    let scene = scene(&upstream, &S3, false).await;
    let whole = [in_chunks(b"hello", |_| "0".repeat(64)), b"\r\n".to_vec()].concat();
    for body in [b"hello".to_vec(), whole[..whole.len() - 2].to_vec(), [&whole[..], b"more"].concat()] {
        let fields = "X-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n";
        let head = format!("PUT /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{fields}\r\n", body.len());
        let refusal = scene.exchange([head.as_bytes(), &body[..]].concat()).await.refusal();
        assert_eq!(refusal, (400, "framing".to_owned()));
        assert!(upstream.seen().iter().all(|seen| seen.body.complete.is_none()));
    }
    scene.finish().await;
}

#[tokio::test]
async fn keys_that_a_program_prints_sign() {
    let (folder, upstream) = (TempDir::new().expect("a folder"), Upstream::http1().await);
    let printed = format!(
        r#"{{"Version":1,"AccessKeyId":"{ID}","SecretAccessKey":"{KEY}","SessionToken":"{SESSION}","Expiration":"2099-01-01T00:00:00Z"}}"#
    );
    std::fs::write(folder.path().join("keys"), printed).expect("written");
    let file = folder.path().join("keys");
    let source = format!(r#"{{ kind = "exec", command = ["/bin/cat", "{}"], format = "aws" }}"#, file.display());
    let placement = r#"placement = { sigv4 = { region = "eu-west-1", service = "dynamodb" } }"#;
    let setup = Setup::new().token_from("api", &source, placement).route("api", &upstream, r#"token = "api""#);
    let scene = Scene::start_in(Arc::new(folder), &setup).await;
    let seen = sent(&scene, &upstream, "POST /api/", "", b"{}").await;
    DYNAMODB.verify(&seen, &sha256(b"{}"));
    assert_eq!(seen.all("x-amz-security-token"), [SESSION]);
    scene.finish().await;
}
