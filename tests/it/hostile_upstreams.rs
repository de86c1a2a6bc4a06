//! Upstreams that answer what they should not: the client gets an answer of one meaning or a refusal, the next one gets its
//! own, and the connection is not used again.

use crate::support::raw::RawConnection;
use crate::support::{Client, Issuer, RawUpstream, Scene, Setup};

const REQUEST: &str = "GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn before() -> (Issuer, RawUpstream, Scene) {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let scene = Setup::api(&issuer, &upstream).workers(1).start().await;
    (issuer, upstream, scene)
}

/// A request of a client of its own, as far as the upstream has its head.
async fn asked(scene: &Scene, upstream: &RawUpstream, request: &str) -> (Client, RawConnection) {
    let mut client = scene.client().await;
    client.send(request).await;
    let mut connection = upstream.accept().await;
    assert!(connection.head().await.contains("Bearer tok-1"));
    (client, connection)
}

/// The next request goes out on another connection, and gets its own answer.
async fn the_next_is_not_disturbed(scene: &Scene, upstream: &RawUpstream) {
    let (mut client, mut connection) = asked(scene, upstream, &REQUEST.replace("/x", "/next")).await;
    connection.write(OK.replace("ok", "no").replace("200 OK", "200 OK\r\nConnection: close")).await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, "no"));
}

async fn errors(scene: &Scene) -> f64 {
    scene.metric("countersign_upstream_protocol_errors_total", &[("route", "api")]).await
}

/// Heads that must not go on. hyper lets most of them pass.
const REFUSED: &[&str] = &[
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 20 Odd\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 2000 Odd\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "ok, and no head at all\r\n\r\n",
    "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
    "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nA: b\0c\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nA: b\rc\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nA\0: b\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\n: b\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nno field\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok",
];

#[tokio::test]
async fn an_answer_that_could_be_read_in_two_ways_is_refused_and_its_connection_is_closed() {
    let (_issuer, upstream, scene) = before().await;
    for (number, head) in REFUSED.iter().enumerate() {
        let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
        connection.write(head).await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!(answer.refusal(), (502, "upstream_protocol".to_owned()), "{head:?}");
        assert_eq!(connection.rest().await, b"", "{head:?}");
        assert_eq!(errors(&scene).await, (number + 1) as f64, "{head:?}");
    }
    the_next_is_not_disturbed(&scene, &upstream).await;
    let refused = scene.metric("countersign_refused_total", &[("reason", "upstream_protocol")]).await;
    assert_eq!(refused, REFUSED.len() as f64);
    scene.finish().await;
}

#[tokio::test]
async fn the_refusal_says_what_was_wrong_with_the_answer() {
    let (_issuer, upstream, scene) = before().await;
    let table = [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer coding"),
        ("HTTP/1.1 200 OK\n\n", "carriage return"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "nobody asked"),
        ("HTTP/1.1 200 Bearer tok-1\r\nContent-Length: tok-1\r\n\r\n", "not well-formed"),
    ];
    for (head, expected) in table {
        let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
        connection.write(head).await;
        let answer = client.answer().await.expect("an answer");
        let detail = answer.problem()["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains(expected) && !detail.contains("tok-1"), "{head:?}: {detail}");
    }
    scene.finish().await;
}

#[tokio::test]
async fn what_is_odd_and_has_one_meaning_passes_in_its_plain_form() {
    let (_issuer, upstream, scene) = before().await;
    let table = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "content-length: 2"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 002\r\n\r\nok", "content-length: 2"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED \r\n\r\n2\r\nok\r\n0\r\n\r\n", "transfer-encoding: chunked"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "content-length: 2"),
        ("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", "content-length: 2"),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", ""),
    ];
    for (sent, expected) in table {
        let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
        connection.write(sent).await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!(
            (answer.status, answer.text()),
            if expected.is_empty() { (204, "") } else { (200, "ok") },
            "{sent:?}"
        );
        let framing = answer.headers.iter().filter(|(name, _)| name.contains("length") || name.contains("encoding"));
        let framing: Vec<String> = framing.map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(framing.join(", "), expected, "{sent:?}");
        assert!(answer.head.starts_with("HTTP/1.1 "), "{sent:?}: {}", answer.head);
        connection.close().await;
    }
    assert_eq!(errors(&scene).await, 0.0);
    scene.finish().await;
}

#[tokio::test]
async fn a_reason_phrase_goes_no_further() {
    let (_issuer, upstream, scene) = before().await;
    let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
    connection.write(OK.replace("200 OK", "200 Bearer tok-1")).await;
    let answer = client.answer().await.expect("an answer");
    assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", answer.head);
    scene.finish().await;
}

#[tokio::test]
async fn interim_answers_end_here_and_only_so_many_are_taken() {
    let (_issuer, upstream, scene) = before().await;
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"] {
        let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
        connection.write(interim.repeat(8)).await;
        connection.write(OK).await;
        let answer = client.head().await.expect("a head");
        assert_eq!(answer.status, 200, "none is passed on");
        assert_eq!(client.bytes(2).await.expect("a body"), b"ok");
        // They are counted anew for each request of the connection.
        client.send(REQUEST).await;
        connection.head().await;
        connection.write(interim.repeat(9)).await;
        connection.write(OK).await;
        assert_eq!(client.answer().await.expect("an answer").refusal(), (502, "upstream_protocol".to_owned()));
        assert_eq!(connection.rest().await, b"");
    }
    assert_eq!(errors(&scene).await, 2.0);
    the_next_is_not_disturbed(&scene, &upstream).await;
    scene.finish().await;
}

#[tokio::test]
async fn a_head_without_end_is_given_up() {
    let (_issuer, upstream, scene) = before().await;
    let floods = ["HTTP/1.1 103 Early Hints\r\n\r\n", "X-Flood: a\r\n", "aaaaaaaaaaaaaaaa"];
    for (number, flood) in floods.into_iter().enumerate() {
        let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
        connection.write("HTTP/1.1 100 Continue\r\n").await;
        connection.write(if number == 0 { "\r\n" } else { "X-Field: " }).await;
        let written = connection.flood(flood).await;
        assert!(written < 16 * 1024 * 1024, "{written} bytes of {flood:?}");
        assert_eq!(client.answer().await.expect("an answer").refusal(), (502, "upstream_protocol".to_owned()));
        assert_eq!(errors(&scene).await, (number + 1) as f64);
    }
    let fields = |many: usize| (0..many).map(|number| format!("X-{number}: v\r\n")).collect::<String>();
    for (many, status) in [(98, 200), (101, 502)] {
        let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
        connection.write(OK.replace("\r\n\r\n", &format!("\r\nConnection: close\r\n{}\r\n", fields(many)))).await;
        assert_eq!(client.answer().await.expect("an answer").status, status, "{many} fields");
    }
    the_next_is_not_disturbed(&scene, &upstream).await;
    scene.finish().await;
}
