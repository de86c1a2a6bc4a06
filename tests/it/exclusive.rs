//! An issuer that makes the generation before void as it issues a new one: nobody sees a 401.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::issuer::Reply as Issued;
use crate::support::upstream::Reply;
use crate::support::{Gate, Issuer, RawUpstream, SOON, Setup, Upstream, log, wait_until};

const EXCLUSIVE: &str = r#"rotation = { mode = "exclusive", single_instance = true }"#;

/// An issuer and an upstream of which each knows the last token alone.
async fn jealous() -> (Issuer, Upstream) {
    let current = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::http1().await;
    let issued = current.clone();
    let issuer = Issuer::answering(move |number| {
        issued.store(number, Ordering::SeqCst);
        Issued::token(&format!("tok-{number}"), 3600)
    })
    .await;
    upstream.answers(move |seen| {
        let good = format!("Bearer tok-{}", current.load(Ordering::SeqCst));
        if seen.all("authorization") == [good.as_str()] { Reply::ok("ok") } else { Reply::new(401) }
    });
    (issuer, upstream)
}

#[tokio::test]
async fn rotations_under_load_are_seen_by_nobody() {
    let (issuer, upstream) = jealous().await;
    let scene = Setup::new().token("api", &issuer, EXCLUSIVE).route("api", &upstream, r#"token = "api""#).start().await;
    scene.ready().await;
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let mut client = scene.client().await;
        load.spawn(async move {
            loop {
                // Nothing that could be sent again unseen.
                client.send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi").await;
                assert_eq!(client.answer().await.expect("an answer").status, 200);
            }
        });
    }
    for number in 2..=6 {
        let before = upstream.count();
        assert_eq!(scene.rotate("api").await.expect("a generation"), number);
        wait_until("requests go on", SOON, async || upstream.count() > before + 20).await;
        assert!(load.try_join_next().is_none(), "a client failed");
    }
    load.shutdown().await;
    assert_eq!(scene.metric("countersign_rotation_hold_seconds_count", &[("token", "api")]).await, 5.0);
    assert_eq!(scene.ask("/readyz").await.status, 200);
    let records = scene.finish().await;
    assert!(records.iter().all(|record| record["event"] != "token_rejected" && record["cause"] != "rejected"));
}

#[tokio::test]
async fn the_issuer_is_not_asked_while_a_request_waits_for_its_answer() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let gate = Gate::closed();
    let held = gate.clone();
    upstream.answers(move |seen| match seen.target.as_str() {
        "/slow" => Reply::ok("late").behind(&held),
        _ => Reply::ok("ok"),
    });
    let scene = Setup::new().token("api", &issuer, EXCLUSIVE).route("api", &upstream, r#"token = "api""#).start().await;
    scene.ready().await;
    let mut slow = scene.client().await;
    slow.send("GET /api/slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    wait_until("it is at the upstream", SOON, async || upstream.count() == 1).await;
    let (rotated, opened) = tokio::join!(scene.rotate("api"), async {
        let held = async || {
            let mut later = scene.client().await;
            tokio::time::timeout(Duration::from_millis(300), later.get("/api/x")).await.is_err()
        };
        wait_until("requests are held", SOON, held).await;
        let opened = Instant::now();
        gate.open();
        opened
    });
    assert_eq!(rotated.expect("a generation"), 2);
    assert_eq!(slow.answer().await.expect("an answer").text(), "late");
    assert!(issuer.calls()[1].at >= opened, "the issuer was asked before");
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-2"]);
    scene.finish().await;
}

#[tokio::test]
async fn when_the_issuer_gives_none_requests_go_on_with_what_there_is() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::new().token("api", &issuer, EXCLUSIVE).route("api", &upstream, r#"token = "api""#).start().await;
    scene.ready().await;
    issuer.next(Issued::json(503, "{}"));
    scene.rotate("api").await.expect_err("none");
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-1"]);
    scene.finish().await;
}

#[tokio::test]
async fn a_rejected_request_does_not_hold_up_the_rotation_that_it_waits_for() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    upstream
        .answers(|seen| if seen.all("authorization") == ["Bearer tok-1"] { Reply::new(401) } else { Reply::ok("ok") });
    let route = r#"token = "waited-for""#;
    let scene = Setup::new().token("waited-for", &issuer, EXCLUSIVE).route("api", &upstream, route).start().await;
    scene.ready().await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-2"]);
    scene.finish().await;
    let log = log::text();
    let waited = |line: &&str| line.contains("requests still wait for answers") && line.contains("token=waited-for ");
    assert_eq!(log.lines().find(waited), None, "nobody but the request itself had the generation");
}

#[tokio::test]
async fn a_websocket_waits_for_the_generation_as_any_request() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let route = "token = \"api\"\nwebsocket = true";
    let scene = Setup::new().token("api", &issuer, EXCLUSIVE).route("api", &upstream, route).start().await;
    scene.ready().await;
    let gate = Gate::closed();
    issuer.next(Issued::token("tok-2", 3600).behind(&gate));
    let asked = async {
        wait_until("the issuer is asked", SOON, async || issuer.count() == 2).await;
        let mut client = scene.client().await;
        client.send(WEBSOCKET).await;
        // Dialled already, and not yet written to.
        let mut connection = upstream.accept().await;
        gate.open();
        connection.head().await.to_ascii_lowercase()
    };
    let (rotated, head) = tokio::join!(scene.rotate("api"), asked);
    assert_eq!(rotated.expect("a generation"), 2);
    assert!(head.contains("authorization: bearer tok-2\r\n"), "{head}");
    scene.finish().await;
}

const WEBSOCKET: &str = "GET /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
