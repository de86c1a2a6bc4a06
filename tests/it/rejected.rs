//! An upstream that answers 401 to a token: it is refreshed, once a generation, and what is safe to send again is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::issuer::Reply as Issued;
use crate::support::upstream::{Reply, Seen};
use crate::support::{Issuer, Scene, Setup, Upstream};

fn request(method: &str, body: &str) -> String {
    format!("{method} /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An upstream to which `tok-1` is worth nothing any more, once it has accepted it once.
async fn before() -> (Issuer, Upstream, Scene) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.ready().await;
    assert_eq!(scene.get("/api/first").await.status, 200);
    upstream.answers(|seen| match seen.header("authorization") {
        Some("Bearer tok-1") => Reply::new(401),
        _ => Reply::ok("ok"),
    });
    (issuer, upstream, scene)
}

fn tokens(seen: &[Seen]) -> Vec<&str> {
    seen.iter().filter_map(|seen| seen.header("authorization")).collect()
}

#[tokio::test]
async fn what_is_idempotent_is_sent_again_with_the_next_generation() {
    let bodies = [("GET", ""), ("HEAD", ""), ("PUT", "a body"), ("DELETE", "")];
    for (method, body) in bodies {
        let (issuer, upstream, scene) = before().await;
        let mut client = scene.client().await;
        client.send(request(method, body)).await;
        let answer = if method == "HEAD" { client.answer_to_head().await } else { client.answer().await };
        assert_eq!(answer.expect("an answer").status, 200, "{method}");
        let seen = upstream.seen();
        assert_eq!(tokens(&seen[1..]), ["Bearer tok-1", "Bearer tok-2"], "{method}");
        assert!(seen[1..].iter().all(|seen| seen.body.bytes == body.len() && seen.method == method));
        assert_eq!(issuer.count(), 2);
        assert_eq!(scene.metric("countersign_requests_repeated_total", &[("cause", "rejected")]).await, 1.0);
        let uses = [("token", "api"), ("outcome", "ok")];
        scene.reaches("countersign_token_uses_total", &uses, 2.0).await;
        scene.finish().await;
    }
}

#[tokio::test]
async fn what_may_have_had_its_effect_is_not_sent_again_but_the_token_is_refreshed() {
    let (issuer, upstream, scene) = before().await;
    assert_eq!(scene.exchange(request("POST", "pay")).await.status, 401);
    scene.reaches("countersign_token_generation", &[("token", "api")], 2.0).await;
    assert_eq!(scene.exchange(request("POST", "pay")).await.status, 200);
    assert_eq!(tokens(&upstream.seen()[1..]), ["Bearer tok-1", "Bearer tok-2"]);
    assert_eq!(issuer.count(), 2);
    scene.finish().await;
}

#[tokio::test]
async fn a_body_too_large_to_be_kept_is_not_sent_again() {
    let (_issuer, upstream, scene) = before().await;
    assert_eq!(scene.exchange(request("PUT", &"x".repeat(100_000))).await.status, 401);
    assert_eq!(upstream.count(), 2);
    scene.finish().await;
}

#[tokio::test]
async fn an_upstream_that_always_says_401_cannot_drive_issuance() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.ready().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    upstream.answers(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Reply::new(401)
    });
    let mut client = scene.client().await;
    for _ in 0..200 {
        assert_eq!(client.get("/api/x").await.status, 401);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 201, "one of them was sent again");
    assert_eq!(issuer.count(), 2);
    scene.finish().await;
}

#[tokio::test]
async fn where_the_issuer_has_nothing_newer_the_401_passes() {
    let (issuer, upstream, scene) = before().await;
    issuer.next(Issued::with(500, "", "down"));
    assert_eq!(scene.get("/api/x").await.status, 401);
    assert_eq!(tokens(&upstream.seen()[1..]), ["Bearer tok-1"]);
    scene.finish().await;
}
