//! Requests that are signed by a template: the key is sent nowhere, and what is signed is what the upstream gets.

use aws_lc_rs::hmac as library;

use crate::support::upstream::Seen;
use crate::support::{Issuer, Scene, Setup, Upstream};

const KEY: &str = "canary-hmac-key-tok-1";

async fn scene(upstream: &Upstream, hmac: &str) -> (Issuer, Scene) {
    let issuer = Issuer::named("canary-hmac-key-tok", 3600).await;
    let setup = Setup::new().token("api", &issuer, &format!("placement = {{ hmac = {{ {hmac} }} }}"));
    let scene = setup.route("api", upstream, "token = \"api\"").start().await;
    scene.ready().await;
    (issuer, scene)
}

/// The HMAC of a message, in hex.
fn tag(key: &str, message: &str) -> String {
    let tag = library::sign(&library::Key::new(library::HMAC_SHA256, key.as_bytes()), message.as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_told(seen: &Seen) -> bool {
    seen.headers.iter().any(|(_, value)| value.contains(KEY)) || seen.target.contains(KEY)
}

#[tokio::test]
async fn a_request_is_signed_as_the_template_says_and_nothing_of_the_apps_own_stands_there() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let hmac = r#"message = "{method}\n{target}\n{host}\n{timestamp}.{nonce}", header = "x-signature", template = "t={timestamp},v1={signature}", headers = { x-nonce = "{nonce}" }"#;
        let (_issuer, scene) = scene(&upstream, hmac).await;
        let own = "X-Signature: t=1,v1=mine\r\nx_nonce: mine\r\nX-Nonce: mine\r\nX-Nonce: twice\r\n";
        let request = format!("GET /api/a%20b?c=%64 HTTP/1.1\r\nHost: localhost\r\n{own}\r\n");
        assert_eq!(scene.exchange(request).await.status, 200);
        let seen = upstream.last();
        let (header, nonce) = (seen.all("x-signature").concat(), seen.all("x-nonce").concat());
        let (time, signature) = header.split_once(",v1=").expect("both");
        let time = time.strip_prefix("t=").expect("a time");
        let message = format!("GET\n/a%20b?c=%64\n{}\n{time}.{nonce}", upstream.address);
        assert_eq!(signature, tag(KEY, &message));
        assert!(nonce.len() == 32 && !is_told(&seen), "{:?}", seen.headers);
        assert!(seen.headers.iter().all(|(_, value)| !value.contains("mine")), "{:?}", seen.headers);
        assert_eq!(scene.metric("countersign_shadow_credentials_total", &[("route", "api")]).await, 1.0);
        assert_eq!(scene.metric("countersign_token_info", &[("placement", "hmac")]).await, 1.0);
        assert_eq!(scene.get("/api/x").await.status, 200);
        assert_ne!(upstream.last().all("x-nonce").concat(), nonce);
        scene.finish().await;
    }
}

/// "Validating webhook deliveries", docs.github.com.
#[tokio::test]
async fn a_body_is_signed_as_github_publishes_it_and_arrives_whole() {
    let upstream = Upstream::http1().await;
    let folder = tempfile::TempDir::new().expect("a folder");
    // A token holds no spaces.
    let hex: String = "It's a Secret to Everybody".bytes().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(folder.path().join("key"), hex).expect("written");
    let placement = r#"placement = { hmac = { message = "{body}", header = "x-hub-signature-256", template = "sha256={signature}", key = "hex" } }"#;
    let source = r#"{ kind = "file", path = "key" }"#;
    let setup = Setup::new().token_from("api", source, placement).route("api", &upstream, "token = \"api\"");
    let scene = Scene::start_in(folder.into(), &setup).await;
    let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    for body in [
        "Content-Length: 13\r\n\r\nHello, World!",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nHello\r\n8\r\n, World!\r\n0\r\n\r\n",
    ] {
        let answer = scene.exchange(format!("POST /api/x HTTP/1.1\r\nHost: localhost\r\n{body}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = upstream.last();
        assert_eq!((seen.all("x-hub-signature-256"), seen.body.bytes), (vec![expected], 13), "{body}");
    }
    scene.finish().await;
}

#[tokio::test]
async fn what_is_sent_again_is_signed_again_with_the_newer_key() {
    let upstream = Upstream::http1().await;
    upstream.answers(|seen| {
        let first = seen.header("x-signature").map(str::to_owned) == Some(tag(KEY, "PUT"));
        crate::support::upstream::Reply::new(if first { 401 } else { 200 })
    });
    let (_issuer, scene) = scene(&upstream, r#"message = "{method}", header = "x-signature""#).await;
    let request = "PUT /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab";
    assert_eq!(scene.exchange(request).await.status, 200);
    let newer = KEY.replace("tok-1", "tok-2");
    assert_eq!(upstream.last().all("x-signature"), [tag(&newer, "PUT")]);
    scene.finish().await;
}

#[tokio::test]
async fn a_body_that_is_too_long_to_be_held_is_refused_and_streamed_where_nobody_asks_for_it() {
    let upstream = Upstream::http1().await;
    let announced =
        "POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16777217\r\nExpect: 100-continue\r\n\r\n";
    let (_issuer, of_body) = scene(&upstream, r#"message = "{body_sha256}", header = "x-signature""#).await;
    assert_eq!(of_body.exchange(announced).await.refusal(), (413, "body_too_large".to_owned()));
    assert_eq!(upstream.count(), 0);
    of_body.finish().await;
    let (_issuer, scene) = scene(&upstream, r#"message = "{path}", header = "x-signature""#).await;
    let body = "a".repeat(100_000);
    let request = format!("POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(scene.exchange(request).await.status, 200);
    assert_eq!(
        (upstream.last().body.bytes, upstream.last().all("x-signature")),
        (100_000, vec![tag(KEY, "/x").as_str()])
    );
    scene.finish().await;
}
