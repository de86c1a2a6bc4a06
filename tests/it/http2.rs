//! Clients that speak HTTP/2 by prior knowledge: the same policy as in HTTP/1.1, many requests at once, and gRPC with its
//! trailers.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::support::body::Payload;
use crate::support::http2::whole;
use crate::support::upstream::{Reply, as_the_path_says};
use crate::support::{Gate, Http2Client, Issuer, SOON, Scene, Setup, Upstream, soon, wait_until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

async fn before(upstream: Upstream) -> (Issuer, Upstream, Scene) {
    let issuer = Issuer::start().await;
    let scene = Setup::api(&issuer, &upstream).workers(1).start().await;
    scene.ready().await;
    (issuer, upstream, scene)
}

#[tokio::test]
async fn a_request_of_http2_gets_its_token_whatever_the_upstream_speaks() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let (_issuer, upstream, scene) = before(upstream).await;
        let mut client = Http2Client::connect(scene.proxy).await;
        let answer = client.get("/api/x?y=1").await;
        assert_eq!((answer.status, answer.text()), (200, "ok"));
        let request = client.request("POST", "/api/y").header("authorization", "mine").header("cookie", "a=1");
        let request = request.header("cookie", "b=2").body(Payload::chunked("a body")).expect("a request");
        assert_eq!(client.exchange(request).await.status, 200);
        let seen = upstream.seen();
        assert_eq!((seen[0].target.as_str(), seen[0].all("authorization")), ("/x?y=1", vec!["Bearer tok-1"]));
        assert_eq!(seen[1].all("authorization"), ["Bearer tok-1"]);
        assert_eq!((seen[1].all("cookie"), seen[1].body.bytes), (vec!["a=1; b=2"], 6));
        scene.finish().await;
    }
}

#[tokio::test]
async fn many_requests_are_under_way_on_one_connection() {
    let (_issuer, upstream, scene) = before(Upstream::http2().await).await;
    let gate = Gate::closed();
    let held = gate.clone();
    upstream.answers(move |seen| as_the_path_says(seen).behind(&held));
    let mut client = Http2Client::connect(scene.proxy).await;
    let mut answers = JoinSet::new();
    let mut heads = Vec::new();
    for number in 0..50 {
        let request = client.request("GET", &format!("/api/bytes/{number}")).body(Payload::of("")).expect("a request");
        heads.push(client.start(request));
    }
    for (number, head) in heads.into_iter().enumerate() {
        answers.spawn(async move { (number, whole(head.await.expect("an answer")).await) });
    }
    wait_until("all are under way", SOON, async || upstream.count() == 50).await;
    gate.open();
    for (number, answer) in soon("all answers", answers.join_all()).await {
        assert_eq!((answer.status, answer.body.len()), (200, number));
    }
    assert_eq!(scene.metric("countersign_connections", &[]).await, 1.0);
    scene.finish().await;
}

#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let (_issuer, upstream, scene) = before(Upstream::http2().await).await;
    upstream.answers(|_| {
        let trailers = [("grpc-status", "0"), ("grpc-message", "fine"), ("set-cookie", "no"), ("authorization", "no")];
        Reply::new(200).header("content-type", "application/grpc").body(Payload::trailed("message", &trailers))
    });
    let mut client = Http2Client::connect(scene.proxy).await;
    let ask = |client: &Http2Client| {
        let request =
            client.request("POST", "/api/pkg.Service/Method").header("content-type", "application/grpc+proto");
        request.header("te", "trailers")
    };
    let request = ask(&client).body(Payload::chunked("ask")).expect("a request");
    let answer = client.exchange(request).await;
    let trailers = answer.trailers.as_ref().expect("trailers");
    assert_eq!((answer.text(), trailers.len()), ("message", 2), "{trailers:?}");
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&"0".parse().expect("a value"), &"fine".parse().expect("a value"))
    );
    assert_eq!(
        (upstream.last().header("te"), upstream.last().header("authorization")),
        (Some("trailers"), Some("Bearer tok-1"))
    );

    let plain = client.request("POST", "/api/x").body(Payload::of("ask")).expect("a request");
    assert!(client.exchange(plain).await.trailers.is_none(), "who did not ask for trailers gets none");
    scene.finish().await;
}

#[tokio::test]
async fn a_stream_in_both_directions_is_not_held_up() {
    let (_issuer, upstream, scene) = before(Upstream::http2().await).await;
    let (down, fed) = mpsc::channel(1);
    let fed = std::sync::Mutex::new(Some(fed));
    upstream.answers(move |_| {
        let fed = fed.lock().expect("a lock").take().expect("one request");
        Reply::new(200).body(Payload::Fed(fed)).early()
    });
    let mut client = Http2Client::connect(scene.proxy).await;
    let (up, feeding) = mpsc::channel(1);
    let request = client.request("POST", "/api/chat").header("te", "trailers").body(Payload::Fed(feeding));
    let mut answer = client.send(request.expect("a request")).await;
    for (number, word) in ["one", "two", "three"].into_iter().enumerate() {
        up.send(Ok(Bytes::from(word))).await.expect("the client goes on");
        wait_until("it has come up", SOON, async || upstream.last().body.bytes >= 3 * (number + 1)).await;
        down.send(Ok(Bytes::from(word))).await.expect("the upstream goes on");
        let frame = soon("a word back", answer.frame()).await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), word);
    }
    drop(up);
    wait_until("the upload has ended", SOON, async || upstream.last().body.complete.is_some()).await;
    drop(down);
    assert_eq!(whole(answer).await.text(), "");
    scene.finish().await;
}

#[tokio::test]
async fn a_refusal_of_grpc_is_said_in_its_own_fields() {
    let (_issuer, upstream, scene) = before(Upstream::http2().await).await;
    let mut client = Http2Client::connect(scene.proxy).await;
    let request = client.request("POST", "/nowhere/pkg.Service/Method").header("content-type", "application/grpc");
    let answer = client.exchange(request.header("te", "trailers").body(Payload::of("x")).expect("a request")).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.headers["grpc-status"], "12");
    assert_eq!(answer.headers["grpc-message"], "no_route: No route has this name or authority.");
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert!(answer.headers["proxy-status"].to_str().expect("text").contains("no_route"));
    assert_eq!(scene.metric("countersign_refused_total", &[("reason", "no_route")]).await, 1.0);

    assert_eq!(client.get("/nowhere/x").await.reason(), (404, "no_route".to_owned()), "others get a problem");
    assert_eq!(upstream.count(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn what_http1_could_not_say_is_refused() {
    let (_issuer, upstream, scene) = before(Upstream::http1().await).await;
    let mut client = Http2Client::connect(scene.proxy).await;
    let with = |client: &Http2Client, name: &str, value: &str| {
        client.request("GET", "/api/x").header(name, value).body(Payload::of("")).expect("a request")
    };
    let cases = [
        (with(&client, "x-padded", " a"), (400, "header_invalid")),
        (with(&client, "x-padded", "a\t"), (400, "header_invalid")),
        (with(&client, "host", "evil.test"), (400, "host_mismatch")),
        (with(&client, "origin", "https://evil.test"), (403, "browser_refused")),
        (with(&client, "expect", "the-unexpected"), (417, "expect_refused")),
        (client.request("TRACE", "/api/x").body(Payload::of("")).expect("a request"), (405, "method_refused")),
        (client.request("GET", "/api/a/../b").body(Payload::of("")).expect("a request"), (400, "path_ambiguous")),
    ];
    for (request, (status, reason)) in cases {
        let what = format!("{request:?}", request = request.headers());
        assert_eq!(client.exchange(request).await.reason(), (status, reason.to_owned()), "{what}");
    }
    assert_eq!(upstream.connections(), 0);
    assert_eq!(client.get("/api/x").await.status, 200, "the connection goes on");
    scene.finish().await;
}

#[tokio::test]
async fn an_upload_that_is_refused_may_end_all_the_same() {
    let (_issuer, upstream, scene) = before(Upstream::http1().await).await;
    let mut client = Http2Client::connect(scene.proxy).await;
    for _ in 0..3 {
        let (up, feeding) = mpsc::channel(1);
        let request = client.request("POST", "/nowhere/x").body(Payload::Fed(feeding)).expect("a request");
        assert_eq!(whole(client.send(request).await).await.reason(), (404, "no_route".to_owned()));
        // More than the windows hold: a client that is stopped in the middle of it may take its answer for lost.
        for _ in 0..64 {
            soon("it is taken", up.send(Ok(Bytes::from_static(&[0; 65536])))).await.expect("the client goes on");
        }
        drop(up);
        assert_eq!(client.get("/api/x").await.status, 200, "the connection goes on");
    }
    assert_eq!(upstream.count(), 3);
    scene.finish().await;
}

#[tokio::test]
async fn an_upload_that_is_refused_is_not_read_for_ever() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).limits("body_timeout = \"500ms\"").start().await;
    let mut client = Http2Client::connect(scene.proxy).await;
    for is_silent in [true, false] {
        let (up, feeding) = mpsc::channel(1);
        let request = client.request("POST", "/nowhere/x").body(Payload::Fed(feeding)).expect("a request");
        assert_eq!(client.send(request).await.status(), 404);
        let stopped = async {
            if is_silent {
                return up.closed().await;
            }
            let mut pause = tokio::time::interval(Duration::from_millis(50));
            while up.send(Ok(Bytes::from("more"))).await.is_ok() {
                pause.tick().await;
            }
        };
        soon("it is stopped", stopped).await;
        assert_eq!(client.get("/api/x").await.status, 200, "the connection goes on");
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_client_that_floods_with_empty_frames_is_let_go_of() {
    let (_issuer, upstream, scene) = before(Upstream::http1().await).await;
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    for flood in [SETTINGS, &ping[..]] {
        let mut client = TcpStream::connect(scene.proxy).await.expect("connects");
        client.write_all(&[PREFACE, SETTINGS].concat()).await.expect("writes");
        let (mut reading, mut writing) = client.into_split();
        let flooding = async { while writing.write_all(&flood.repeat(100)).await.is_ok() {} };
        let mut said = Vec::new();
        let closing = async { while matches!(reading.read_buf(&mut said).await, Ok(1..)) {} };
        soon("it is closed", async { tokio::join!(flooding, closing) }).await;
    }
    scene.reaches("countersign_http2_abuse_total", &[], 2.0).await;
    assert_eq!(Http2Client::connect(scene.proxy).await.get("/api/x").await.status, 200, "others are served");
    assert_eq!(upstream.count(), 1);
    scene.finish().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answers_is_let_go_of() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).limits("body_timeout = \"500ms\"").start().await;
    let mut client = Http2Client::connect(scene.proxy).await;
    let request = client.request("GET", "/api/bytes/50000000").body(Payload::of("")).expect("a request");
    let answer = client.send(request).await;
    assert_eq!(answer.status(), 200);
    wait_until("it is closed", SOON, async || client.is_closed()).await;
    scene.reaches("countersign_connections_closed_total", &[("why", "stalled")], 1.0).await;
    drop(answer);
    scene.finish().await;
}

#[tokio::test]
async fn a_connection_that_rests_is_told_goodbye() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).limits("idle_timeout = \"500ms\"").start().await;
    let mut client = Http2Client::connect(scene.proxy).await;
    assert_eq!(client.get("/api/x").await.status, 200);
    wait_until("it is closed", Duration::from_secs(10), async || client.is_closed()).await;
    scene.reaches("countersign_connections_closed_total", &[("why", "idle")], 1.0).await;
    scene.finish().await;
}
