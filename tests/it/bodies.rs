//! Bodies: whole or visibly broken, streamed as they come, and counted.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::support::body::{Payload, noise, sha256};
use crate::support::upstream::{Reply, as_the_path_says};
use crate::support::{Client, Issuer, RawUpstream, SOON, Scene, Setup, Upstream, wait_until};

const LARGE: usize = 20 * 1024 * 1024;

const ROUTE: &[(&str, &str)] = &[("route", "api")];

async fn before(upstream: &Upstream) -> (Issuer, Scene) {
    let issuer = Issuer::start().await;
    let scene = Setup::api(&issuer, upstream).start().await;
    (issuer, scene)
}

fn chunked(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len() + bytes.len() / 1000);
    for piece in bytes.chunks(60_001) {
        text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        text.extend_from_slice(piece);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

#[tokio::test]
async fn large_bodies_pass_unchanged_in_both_directions() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let (_issuer, scene) = before(&upstream).await;
        let body = noise(LARGE);
        let answered = body.clone();
        upstream.answers(move |seen| {
            let known = seen.target == "/known";
            Reply::new(200).body(if known { Payload::of(answered.clone()) } else { Payload::chunked(answered.clone()) })
        });
        let mut client = scene.client().await;
        let requests = [
            (format!("POST /api/known HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LARGE}\r\n\r\n"), body.to_vec()),
            ("PUT /api/told HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".into(), chunked(&body)),
        ];
        for (head, sent) in requests {
            client.send(head).await;
            client.send(sent).await;
            let answer = client.answer().await.expect("an answer");
            assert_eq!((answer.body.len(), sha256(&answer.body)), (LARGE, sha256(&body)));
            let received = upstream.last().body;
            assert_eq!((received.bytes, received.complete), (LARGE, Some(sha256(&body))));
        }
        drop(client);
        for direction in ["request", "response"] {
            let labels = [("route", "api"), ("direction", direction)];
            scene.reaches("countersign_body_bytes_total", &labels, 2.0 * LARGE as f64).await;
            assert_eq!(scene.metric("countersign_body_bytes_total", &labels).await, 2.0 * LARGE as f64);
            let labels = [("token", "api"), ("direction", direction)];
            assert_eq!(scene.metric("countersign_token_bytes_total", &labels).await, 2.0 * LARGE as f64);
        }
        scene.finish().await;
    }
}

#[tokio::test]
async fn an_upload_streams() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let (_issuer, scene) = before(&upstream).await;
        let mut client = scene.client().await;
        client
            .send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .await;
        let first = async || upstream.seen().first().is_some_and(|seen| seen.body.bytes == 5);
        wait_until("the first chunk is at the upstream", SOON, first).await;
        assert_eq!(upstream.last().body.complete, None);
        client.send("4\r\nlast\r\n0\r\n\r\n").await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
        assert_eq!(upstream.last().body.complete, Some(sha256(b"firstlast")));
        scene.finish().await;
    }
}

#[tokio::test]
async fn an_answer_streams_like_server_sent_events() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let (_issuer, scene) = before(&upstream).await;
        let (feed, fed) = mpsc::channel(4);
        let fed = std::sync::Mutex::new(Some(fed));
        upstream.answers(move |_| {
            let fed = fed.lock().expect("no panic").take().expect("one request");
            Reply::new(200).body(Payload::Fed(fed)).header("content-type", "text/event-stream")
        });
        let mut client = scene.client().await;
        client.send("GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(client.head().await.expect("a head").header("content-type"), Some("text/event-stream"));
        for number in 1..=3 {
            feed.send(Ok(Bytes::from(format!("data: {number}\n\n")))).await.expect("somebody reads");
            let chunk = format!("9\r\ndata: {number}\n\n\r\n");
            assert_eq!(client.bytes(chunk.len()).await.expect("a chunk"), chunk.as_bytes());
        }
        drop(feed);
        assert_eq!(client.bytes(5).await.expect("the end"), b"0\r\n\r\n");
        scene.finish().await;
    }
}

#[tokio::test]
async fn a_client_that_waits_to_continue_is_told_to_and_the_upstream_is_not_asked() {
    let upstream = Upstream::http1().await;
    let (_issuer, scene) = before(&upstream).await;
    let mut client = scene.client().await;
    let head = "POST /api/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\n";
    client.send(head).await;
    assert_eq!(client.head().await.expect("an interim answer").status, 100);
    client.send("body").await;
    assert_eq!(client.answer().await.expect("an answer").status, 200);
    assert_eq!(upstream.last().body.complete, Some(sha256(b"body")));
    assert_eq!(upstream.last().header("expect"), None);
    client.send(head.replace("/api/", "/none/")).await;
    assert_eq!(client.head().await.expect("a final answer at once").status, 404);
    scene.finish().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_never_looks_complete_to_the_upstream() {
    let kinds = ["Content-Length: 1000\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"];
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let (_issuer, scene) = before(&upstream).await;
        for (number, kind) in kinds.into_iter().enumerate() {
            let mut client = scene.client().await;
            client.send(format!("POST /api/x HTTP/1.1\r\nHost: localhost\r\n{kind}")).await;
            let arrived = async || upstream.seen().get(number).is_some_and(|seen| seen.body.bytes == 4);
            wait_until("half of it is at the upstream", SOON, arrived).await;
            drop(client);
            wait_until("the upstream sees it break", SOON, async || upstream.last().body.failed).await;
            assert_eq!(upstream.last().body.complete, None);
        }
        let labels = [("route", "api"), ("client", "local"), ("method", "POST"), ("status_class", "aborted")];
        scene.reaches("countersign_requests_total", &labels, 2.0).await;
        assert_eq!(scene.metric("countersign_requests_total", ROUTE).await, 2.0, "each is counted once");
        let labels = [("token", "api"), ("outcome", "aborted")];
        assert_eq!(scene.metric("countersign_token_uses_total", &labels).await, 2.0);
        assert_eq!(scene.metric("countersign_token_uses_total", &[("token", "api")]).await, 2.0);
        assert_eq!(scene.get("/api/x").await.status, 200, "others are not disturbed");
        scene.finish().await;
    }
}

#[tokio::test]
async fn chunks_that_are_none_are_the_clients_fault() {
    let upstream = Upstream::http1().await;
    let (_issuer, scene) = before(&upstream).await;
    let mut client = scene.client().await;
    client.send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    let arrived = async || upstream.seen().first().is_some_and(|seen| seen.body.bytes == 4);
    wait_until("half of it is at the upstream", SOON, arrived).await;
    client.send("none\r\n").await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.refusal(), (400, "framing".to_owned()));
    assert!(client.is_closed().await);
    wait_until("the upstream sees it break", SOON, async || upstream.last().body.failed).await;
    assert_eq!(scene.metric("countersign_refused_total", &[("reason", "framing")]).await, 1.0);
    scene.finish().await;
}

#[tokio::test]
async fn the_last_chunk_of_an_upload_that_breaks_off_is_never_sent() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let mut client = scene.client().await;
    client.send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    let mut connection = upstream.accept().await;
    connection.head().await;
    assert_eq!(connection.bytes(9).await, b"4\r\nhalf\r\n");
    drop(client);
    assert_eq!(connection.rest().await, b"");
    scene.finish().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_complete_to_the_client() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let halves = [
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        // Ends with the connection, which ends without the word that TLS has for it.
        "HTTP/1.1 200 OK\r\n\r\nhalf",
    ];
    for (number, half) in halves.into_iter().enumerate() {
        let mut client = scene.client().await;
        client.send("GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let mut connection = upstream.accept().await;
        connection.head().await;
        connection.write(half).await;
        let head = client.head().await.expect("the head has passed");
        assert_eq!(head.status, 200);
        drop(connection);
        let (rest, end) = client.rest().await;
        let ended_well = rest.ends_with(b"0\r\n\r\n") || (head.header("content-length").is_none() && end.is_ok());
        let told = head.header("transfer-encoding").is_some();
        assert!(!rest.ends_with(b"0\r\n\r\n") && (told || !ended_well), "{half}: {rest:?} {end:?}");
        let labels = [("route", "api"), ("status_class", "aborted")];
        scene.reaches("countersign_requests_total", &labels, (number + 1) as f64).await;
    }
    assert_eq!(scene.metric("countersign_requests_total", ROUTE).await, 3.0);
    scene.finish().await;
}

#[tokio::test]
async fn an_answer_before_the_uploads_end_passes_and_its_connection_is_not_used_again() {
    let upstream = Upstream::http1().await;
    let (_issuer, scene) = before(&upstream).await;
    upstream.answers(|seen| if seen.method == "POST" { Reply::new(413).early() } else { as_the_path_says(seen) });
    let mut client = Client::tcp(scene.proxy).await;
    client.send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf").await;
    assert_eq!(client.answer().await.expect("an answer").status, 413);
    drop(client);
    assert_eq!(scene.get("/api/x").await.status, 200);
    let connections: Vec<usize> = upstream.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [1, 2]);
    scene.finish().await;
}
