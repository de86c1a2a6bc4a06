//! What was under way with a token that is taken out of use ends, before whoever took it is answered; a rotation ends
//! nothing, and other tokens go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::support::body::Payload;
use crate::support::operator::act;
use crate::support::upstream::Reply;
use crate::support::{Client, Gate, Http2Client, Issuer, RawUpstream, SOON, Scene, Setup, Upstream, soon, wait_until};

const BEARER: &str = "Bearer tok-1";

/// A stream of the upstream, and the client that reads it.
struct Streaming {
    client: Client,
    feed: mpsc::Sender<std::io::Result<bytes::Bytes>>,
}

impl Streaming {
    async fn begin(scene: &Scene, upstream: &Upstream, path: &str) -> Self {
        let (feed, fed) = mpsc::channel(1);
        let fed = std::sync::Mutex::new(Some(fed));
        upstream.answers(move |_| match fed.lock().expect("no panic").take() {
            Some(fed) => Reply::new(200).body(Payload::Fed(fed)),
            None => Reply::ok("ok"),
        });
        let mut client = scene.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        feed.send(Ok("one\n".into())).await.expect("the upstream sends");
        assert_eq!(client.head().await.expect("a head").status, 200);
        assert_eq!(client.bytes(9).await.expect("a chunk"), b"4\r\none\n\r\n");
        Self { client, feed }
    }

    async fn goes_on(&mut self) {
        self.feed.send(Ok("two\n".into())).await.expect("the upstream sends");
        assert_eq!(self.client.bytes(9).await.expect("a chunk"), b"4\r\ntwo\n\r\n");
    }

    /// The client's end is a reset: an answer that was cut must not look whole.
    async fn ends_cut(mut self) {
        let (rest, end) = self.client.rest().await;
        assert_eq!(end.expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
        wait_until("the upstream's end is cut too", SOON, async || self.feed.is_closed()).await;
    }
}

#[tokio::test]
async fn streams_are_cut_when_their_token_is_taken_out_of_use_and_go_on_when_it_is_rotated() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        for what in ["quarantine", "revoke", "retire"] {
            let (issuer, other) = (Issuer::start().await, Upstream::http1().await);
            let setup = Setup::api(&issuer, &upstream).token("other", &issuer, "");
            let scene = setup.route("other", &other, "token = \"other\"").start().await;
            scene.ready().await;
            let mut cut = Streaming::begin(&scene, &upstream, "/api/stream").await;
            let mut kept = Streaming::begin(&scene, &other, "/other/stream").await;
            assert_eq!(act(&scene, "api", "rotate", None).await.status, 200);
            cut.goes_on().await;
            assert_eq!(act(&scene, "api", what, None).await.status, 200);
            cut.ends_cut().await;
            kept.goes_on().await;
        }
    }
}

/// Of another user, whose key nobody else may send.
const OTHERS: &str = "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";

#[tokio::test]
async fn what_a_client_has_under_way_ends_when_it_is_blocked() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let (issuer, plain, blind) = (Issuer::start().await, Upstream::http1().await, RawUpstream::start().await);
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("other.key");
        std::fs::write(&key, OTHERS).expect("written");
        let setup = Setup::api(&issuer, &upstream).route("plain", &plain, "").route("blind", &blind, "");
        let setup = setup.client("app", &format!("uid = {}", rustix::process::geteuid().as_raw()));
        let setup = setup.client("other", &format!("uid = 4242\nkey = \"file:{}\"", key.display()));
        let scene = setup.detect("mode = \"respond\"").start().await;
        scene.ready().await;
        let streams = [
            Streaming::begin(&scene, &upstream, "/api/stream").await,
            Streaming::begin(&scene, &plain, "/plain/stream").await,
        ];
        let (mut tunnel, mut connection) = crate::tunnels::blind(&scene, &blind).await;
        let gate = Gate::closed();
        let held = gate.clone();
        upstream.answers(move |_| Reply::ok("late").behind(&held));
        let (mut waiting, before) = (scene.client().await, upstream.count());
        waiting.send("GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        wait_until("it is there", SOON, async || upstream.count() > before).await;

        let stolen = format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {OTHERS}\r\n\r\n");
        assert_eq!(scene.exchange(stolen).await.refusal(), (403, "client_unknown".to_owned()));
        for stream in streams {
            stream.ends_cut().await;
        }
        assert!(tunnel.rest().await.1.is_err(), "no good end");
        assert!(connection.rest().await.is_empty());
        assert_eq!(waiting.answer().await.expect("an answer").refusal(), (403, "client_unknown".to_owned()));
        gate.open();
    }
}

#[tokio::test]
async fn a_tunnel_is_cut_with_its_token() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let setup = Setup::new().token("api", &issuer, "").route("api", &upstream, "token = \"api\"\nwebsocket = true");
    let scene = setup.start().await;
    scene.ready().await;
    let mut client = scene.client().await;
    client
        .send(
            "GET /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    let mut connection = upstream.accept().await;
    connection.head().await;
    connection
        .write(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
        .await;
    assert_eq!(client.head().await.expect("an answer").status, 101);
    connection.write("pong").await;
    assert_eq!(client.bytes(4).await.expect("bytes"), b"pong");
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    let (rest, end) = client.rest().await;
    assert_eq!((rest, end.expect_err("a reset").kind()), (Vec::new(), std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn an_answer_over_http2_is_reset_and_its_connection_goes_on() {
    let (issuer, upstream, other) = (Issuer::start().await, Upstream::http1().await, Upstream::http1().await);
    let setup = Setup::api(&issuer, &upstream).route("other", &other, "");
    let scene = setup.start().await;
    scene.ready().await;
    let (feed, fed) = mpsc::channel(1);
    let fed = std::sync::Mutex::new(Some(fed));
    upstream.answers(move |_| match fed.lock().expect("no panic").take() {
        Some(fed) => Reply::new(200).body(Payload::Fed(fed)),
        None => Reply::ok("ok"),
    });
    let mut client = Http2Client::connect(scene.proxy).await;
    let request = client.request("GET", "/api/stream").body(Payload::of("")).expect("a request");
    let mut stream = client.send(request).await.into_body();
    feed.send(Ok("one\n".into())).await.expect("the upstream sends");
    let piece = soon("a piece", stream.frame()).await.expect("a frame").expect("a good one");
    assert_eq!(piece.into_data().expect("data"), "one\n");
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    let error = soon("the end", stream.frame()).await.expect("no good end").expect_err("no more data");
    assert!(format!("{error:?}").contains("Reset(StreamId("), "RST_STREAM: {error:?}");
    assert_eq!(client.get("/other/x").await.status, 200);
}

#[tokio::test]
async fn a_request_that_waits_for_its_answer_is_told_why_there_is_none() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let issuer = Issuer::start().await;
        let scene = Setup::api(&issuer, &upstream).start().await;
        scene.ready().await;
        let gate = Gate::closed();
        let held = gate.clone();
        upstream.answers(move |_| Reply::ok("late").behind(&held));
        let mut clients = Vec::new();
        for method in ["GET", "POST"] {
            let mut client = scene.client().await;
            let before = upstream.count();
            client.send(format!("{method} /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")).await;
            wait_until("it is there", SOON, async || upstream.count() > before).await;
            clients.push(client);
        }
        assert_eq!(act(&scene, "api", "revoke", None).await.status, 200);
        for mut client in clients {
            let answer = client.answer().await.expect("an answer");
            assert_eq!(answer.refusal(), (403, "token_revoked".to_owned()));
        }
        gate.open();
    }
}

#[tokio::test]
async fn after_the_acknowledgement_no_request_leaves_with_the_generation() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let issuer = Issuer::start().await;
        let scene = Arc::new(Setup::api(&issuer, &upstream).start().await);
        scene.ready().await;
        let acknowledged = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let mut load = JoinSet::new();
        for _ in 0..16 {
            let (scene, acknowledged, answered) = (scene.clone(), acknowledged.clone(), answered.clone());
            load.spawn(async move {
                let mut client = scene.client().await;
                loop {
                    let began_after = acknowledged.load(Ordering::SeqCst);
                    client.send("GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
                    let Ok(answer) = client.answer().await else {
                        client = scene.client().await;
                        continue;
                    };
                    answered.fetch_add(1, Ordering::SeqCst);
                    if began_after {
                        assert_eq!(answer.refusal(), (403, "token_revoked".to_owned()));
                        return;
                    }
                }
            });
        }
        wait_until("there is load", SOON, async || answered.load(Ordering::SeqCst) > 200).await;
        assert_eq!(act(&scene, "api", "revoke", None).await.status, 200);
        acknowledged.store(true, Ordering::SeqCst);
        // What had left before has arrived, or never will: each of the clients has gone on.
        while let Some(ended) = load.join_next().await {
            ended.expect("no panic");
        }
        let carried = |seen: &crate::support::upstream::Seen| seen.header("authorization") == Some(BEARER);
        let before = upstream.seen().iter().filter(|seen| carried(seen)).count();
        let statuses: Vec<u16> = {
            let mut statuses = Vec::new();
            for _ in 0..50 {
                statuses.push(scene.get("/api/x").await.status);
            }
            statuses
        };
        assert!(statuses.iter().all(|status| *status == 403), "{statuses:?}");
        assert_eq!(upstream.seen().iter().filter(|seen| carried(seen)).count(), before);
    }
}
