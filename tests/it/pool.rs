//! Connections to upstreams: kept, shared where the protocol can, and never trusted again once something is odd.

use tokio::task::JoinSet;

use crate::support::upstream::{Reply, as_the_path_says};
use crate::support::{Gate, Issuer, RawUpstream, SOON, Setup, Upstream, wait_until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn connections_that_the_upstream_closes_between_requests_fail_none() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let issuer = Issuer::start().await;
        let scene = Setup::api(&issuer, &upstream).start().await;
        let mut client = scene.client().await;
        for number in 0..40 {
            client.send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody").await;
            let answer = client.answer().await.expect("an answer");
            assert_eq!((answer.status, answer.text()), (200, "ok"), "number {number}");
            upstream.close_connections().await;
            assert_eq!(client.get("/api/x").await.status, 200, "number {number}");
            upstream.close_connections().await;
        }
        assert_eq!(upstream.count(), 80, "none is sent twice");
        scene.finish().await;
    }
}

#[tokio::test]
async fn requests_to_an_upstream_with_http2_share_a_connection() {
    const AT_ONCE: usize = 50;
    let (issuer, upstream, gate) = (Issuer::start().await, Upstream::http2().await, Gate::closed());
    let held = gate.clone();
    upstream.answers(move |seen| as_the_path_says(seen).behind(&held));
    let scene = Setup::api(&issuer, &upstream).workers(1).start().await;
    let mut clients = JoinSet::new();
    for _ in 0..AT_ONCE {
        let mut client = scene.client().await;
        clients.spawn(async move { client.get("/api/x?y").await });
    }
    wait_until("all are at the upstream", SOON, async || upstream.count() == AT_ONCE).await;
    gate.open();
    assert!(clients.join_all().await.iter().all(|answer| answer.status == 200 && answer.text() == "ok"));
    assert_eq!(upstream.connections(), 1);
    let seen = upstream.last();
    assert_eq!((seen.version, seen.target.as_str()), (http::Version::HTTP_2, "/x?y"));
    assert_eq!(
        (seen.authority, seen.headers.iter().any(|(name, _)| name == "host")),
        (Some(upstream.address.to_string()), false)
    );
    scene.finish().await;
}

#[tokio::test]
async fn no_more_connections_are_made_than_requests_are_under_way() {
    const AT_ONCE: usize = 50;
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).workers(1).start().await;
    let mut clients = JoinSet::new();
    for _ in 0..AT_ONCE {
        let mut client = scene.client().await;
        clients.spawn(async move {
            for _ in 0..20 {
                assert_eq!(client.get("/api/x").await.status, 200);
            }
        });
    }
    clients.join_all().await;
    assert!(upstream.connections() <= AT_ONCE, "{}", upstream.connections());
    assert_eq!(upstream.count(), AT_ONCE * 20);
    scene.finish().await;
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_reaches_nobody() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let scene = Setup::api(&issuer, &upstream).workers(1).start().await;
    let mut client = scene.client().await;
    client.send("GET /api/first HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut first = upstream.accept().await;
    first.head().await;
    first.write(format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")).await;
    assert_eq!(client.answer().await.expect("an answer").text(), "ok");
    client.send("GET /api/second HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut second = upstream.accept().await;
    assert!(second.head().await.starts_with("GET /second "));
    second.write(OK).await;
    assert_eq!(client.answer().await.expect("an answer").text(), "ok");
    assert_eq!(first.rest().await, b"", "nothing more was sent on the odd connection");
    scene.finish().await;
}

#[tokio::test]
async fn a_request_that_may_have_run_is_not_sent_again() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let answers = [
        "",
        "HTTP/1.1 200",
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    ];
    for method in ["POST", "GET"] {
        for answer in answers {
            let mut client = scene.client().await;
            client.send(format!("{method} /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")).await;
            let mut connection = upstream.accept().await;
            connection.head().await;
            connection.write(answer).await;
            connection.close().await;
            let refused = client.answer().await.expect("an answer");
            assert_eq!(refused.refusal(), (502, "upstream_protocol".to_owned()), "{method} {answer:?}");
            assert!(upstream.is_left_alone().await, "{method} {answer:?}");
        }
    }
    let errors = [("token", "api"), ("outcome", "server_error")];
    assert_eq!(scene.metric("countersign_token_uses_total", &errors).await, 8.0);
    scene.finish().await;
}

#[tokio::test]
async fn a_safe_request_that_was_lost_on_a_connection_that_had_rested_is_sent_again() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let scene = Setup::api(&issuer, &upstream).workers(1).start().await;
    for (method, sent_again) in [("GET", true), ("HEAD", true), ("OPTIONS", true), ("DELETE", false)] {
        let mut client = scene.client().await;
        let request = format!("{method} /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.send("GET /api/first HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let mut connection = upstream.accept().await;
        connection.head().await;
        connection.write(OK).await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
        // The pool looks once a second: after two looks the connection has surely rested.
        let answered = tokio::time::Instant::now();
        wait_until("it has rested", SOON, async || answered.elapsed().as_millis() > 2100).await;
        client.send(&request).await;
        connection.head().await;
        connection.close().await;
        if sent_again {
            let mut connection = upstream.accept().await;
            assert!(connection.head().await.contains("authorization: Bearer tok-1"), "with its token");
            if method == "OPTIONS" {
                connection.close().await;
                assert_eq!(client.answer().await.expect("an answer").status, 502, "it is sent no third time");
                assert!(upstream.is_left_alone().await);
                continue;
            }
            connection.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            assert_eq!(client.head().await.expect("an answer").status, 204, "{method}");
        } else {
            let refusal = client.answer().await.expect("an answer").refusal();
            assert_eq!(refusal, (502, "upstream_protocol".to_owned()), "it may have run");
            assert!(upstream.is_left_alone().await);
        }
    }
    scene.finish().await;
}

#[tokio::test]
async fn an_upstream_that_ends_its_connection_after_each_answer_gets_a_new_one_each_time() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    upstream.answers(|_| Reply::ok("ok").header("connection", "close"));
    let scene = Setup::api(&issuer, &upstream).start().await;
    let mut client = scene.client().await;
    for _ in 0..20 {
        let answer = client.get("/api/x").await;
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    assert_eq!((upstream.count(), upstream.connections()), (20, 20));
    scene.finish().await;
}
