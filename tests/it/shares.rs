//! How much of a route one client may use, and what a route that only observes lets pass.

use std::time::Duration;

use crate::support::client::Answer;
use crate::support::upstream::{Reply, as_the_path_says};
use crate::support::{Client, Gate, SOON, Scene, Setup, Upstream, log, wait_until};

const OTHER: u32 = 4242;

/// A route `api` without a token, for this user as the client `me` and another one as `other`.
fn two_clients(upstream: &Upstream, more: &str) -> Setup {
    let own = rustix::process::geteuid();
    assert!(own.is_root(), "a process of another user can only be started by root: run the tests as root");
    let setup = Setup::new().client("me", &format!("uid = {}", own.as_raw()));
    setup.client("other", &format!("uid = {OTHER}")).route("api", upstream, more)
}

async fn held(scene: &Scene, upstream: &Upstream, gate: &Gate) -> Client {
    let own = gate.clone();
    upstream.answers(move |seen| {
        let reply = as_the_path_says(seen);
        if seen.target == "/held" { reply.behind(&own) } else { reply }
    });
    let (mut client, before) = (scene.client().await, upstream.count());
    client.send("GET /api/held HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    wait_until("it is at the upstream", SOON, async || upstream.count() > before).await;
    client
}

fn is_limited(answer: &Answer) -> bool {
    answer.refusal() == (429, "rate_limited".to_owned())
}

#[tokio::test]
async fn each_client_has_its_own_rate_on_each_route() {
    let (upstream, other) = (Upstream::http1().await, Upstream::http1().await);
    let rate = "rate = \"2/h burst 3\"";
    let scene = two_clients(&upstream, rate).route("other", &other, rate).start().await;
    let mut mine = scene.client().await;
    for _ in 0..3 {
        assert_eq!(mine.get("/api/x").await.status, 200);
    }
    let answer = mine.get("/api/x").await;
    assert!(is_limited(&answer), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("1800"));
    assert_eq!(answer.header("ratelimit-policy"), Some("\"rate\";q=2;w=3600"));
    assert_eq!(answer.header("ratelimit"), Some("\"rate\";r=0;t=1800"));
    assert_eq!(upstream.count(), 3, "nothing of it has reached the upstream");
    assert_eq!(mine.get("/other/x").await.status, 200);
    let mut theirs = Client::of_user(OTHER, scene.proxy).await;
    assert_eq!(theirs.get("/api/x").await.status, 200);
    scene.clock.advance(Duration::from_secs(1800));
    assert_eq!(mine.get("/api/x").await.status, 200);
    assert!(is_limited(&mine.get("/api/x").await));
    scene.reaches("countersign_refused_total", &[("reason", "rate_limited")], 2.0).await;
    scene.finish().await;
}

#[tokio::test]
async fn a_request_that_the_rules_refuse_does_not_count_for_the_rate() {
    let upstream = Upstream::http1().await;
    let route = "rate = \"1/h\"\nallow = [\"GET /yes\"]";
    let scene = Setup::new().route("api", &upstream, route).start().await;
    assert_eq!(scene.get("/api/no").await.refusal(), (403, "path_denied".to_owned()));
    assert_eq!(scene.get("/api/yes").await.status, 200);
    assert!(is_limited(&scene.get("/api/yes").await));
    scene.finish().await;
}

#[tokio::test]
async fn a_reload_that_leaves_the_rate_as_it_is_gives_nobody_more() {
    let (upstream, other) = (Upstream::http1().await, Upstream::http1().await);
    let setup = |rate: &str| Setup::new().route("api", &upstream, &format!("rate = \"{rate}\""));
    let scene = setup("1/h").start().await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    scene.reload(&setup("1/h").route("new", &other, "")).await.expect("a good config");
    assert_eq!(scene.get("/new/x").await.status, 200);
    assert!(is_limited(&scene.get("/api/x").await));
    scene.reload(&setup("2/h")).await.expect("a good config");
    assert_eq!(scene.get("/api/x").await.status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn a_client_has_so_many_requests_at_a_time() {
    let upstream = Upstream::http1().await;
    let scene = two_clients(&upstream, "limits = { concurrency = 1 }").start().await;
    let gate = Gate::closed();
    let mut first = held(&scene, &upstream, &gate).await;
    let mut second = scene.client().await;
    let answer = second.get("/api/x").await;
    assert_eq!((answer.refusal(), answer.header("retry-after")), ((503, "overloaded".to_owned()), Some("1")));
    assert_eq!(Client::of_user(OTHER, scene.proxy).await.get("/api/x").await.status, 200, "that is another client");
    gate.open();
    assert_eq!(first.answer().await.expect("an answer").status, 200);
    for _ in 0..3 {
        assert_eq!(second.get("/api/x").await.status, 200, "its place is free, and so is that of each after it");
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_client_that_goes_leaves_its_place() {
    let upstream = Upstream::http1().await;
    let scene = Setup::new().route("api", &upstream, "limits = { concurrency = 1 }").start().await;
    let gate = Gate::closed();
    let first = held(&scene, &upstream, &gate).await;
    assert_eq!(scene.get("/api/x").await.status, 503);
    drop(first);
    wait_until("its place is free", SOON, async || scene.get("/api/x").await.status == 200).await;
    scene.finish().await;
}

#[tokio::test]
async fn a_body_that_says_that_it_is_too_long_is_refused_before_anything_is_sent() {
    let upstream = Upstream::http1().await;
    let scene = Setup::new().route("api", &upstream, "limits = { body = \"1KiB\" }").start().await;
    let post = |length: usize| format!("POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    let answer = scene.exchange(post(1025)).await;
    assert_eq!(answer.refusal(), (413, "body_too_large".to_owned()));
    assert_eq!(upstream.connections(), 0);
    assert_eq!(scene.exchange(post(1024) + &"x".repeat(1024)).await.status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn a_stream_that_becomes_too_long_never_looks_complete() {
    let upstream = Upstream::http1().await;
    let scene = Setup::new().route("api", &upstream, "limits = { body = \"1KiB\" }").start().await;
    let head = "POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("200\r\n{}\r\n", "x".repeat(512));
    assert_eq!(scene.exchange(format!("{head}{chunk}{chunk}0\r\n\r\n")).await.status, 200);
    let mut client = scene.client().await;
    client.send(format!("{head}{chunk}{chunk}")).await;
    wait_until("it is at the upstream", SOON, async || upstream.count() == 2).await;
    client.send("1\r\nx\r\n0\r\n\r\n").await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.refusal(), (413, "body_too_large".to_owned()));
    assert!(client.is_closed().await);
    wait_until("the upstream sees it break", SOON, async || upstream.last().body.failed).await;
    assert_eq!(upstream.last().body.complete, None);
    scene.finish().await;
}

#[tokio::test]
async fn a_route_that_observes_tells_what_it_would_refuse_and_lets_it_pass() {
    let upstream = Upstream::http1().await;
    let route = "mode = \"observe\"\nrate = \"1/h\"\nallow = [\"GET /yes\", \"PUT /other\"]\ndeny = [\"GET /secret\"]\nclients = [\"me\"]";
    let scene = two_clients(&upstream, route).start().await;
    upstream.answers(|_| Reply::ok("ok"));
    for path in ["/api/yes", "/api/observed-no", "/api/other", "/api/secret"] {
        assert_eq!(scene.get(path).await.status, 200, "{path}");
    }
    assert_eq!(upstream.count(), 4);
    for (reason, count) in [("path_denied", 2.0), ("method_denied", 1.0), ("rate_limited", 3.0)] {
        let labels = [("route", "api"), ("reason", reason)];
        assert_eq!(scene.metric("countersign_observed_total", &labels).await, count, "{reason}");
    }
    assert_eq!(scene.metric("countersign_refused_total", &[]).await, 0.0);
    assert!(log::text().contains("/observed-no"), "the first is in the log");

    let theirs = Client::of_user(OTHER, scene.proxy).await.get("/api/yes").await;
    assert_eq!(theirs.refusal(), (403, "route_denied".to_owned()), "who may use the route is never left open");
    assert_eq!(scene.get("/api/a//b").await.refusal(), (400, "path_ambiguous".to_owned()));
    assert_eq!(upstream.count(), 4);
    scene.finish().await;
}
