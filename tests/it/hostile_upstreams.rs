//! Upstreams that answer what they should not: the client gets an answer of one meaning or a refusal, the next one gets its
//! own, and the connection is not used again.

use std::time::Duration;

use tokio::time::interval;

use crate::support::raw::RawConnection;
use crate::support::{Client, Issuer, RawUpstream, SOON, Scene, Setup, soon, wait_until};

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
    "HTTP/1.1 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 1000 Odd\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "a word..,100 \r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
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
        ("HTTP/1.1 200 Bearer tok-1\r\nContent-Length: tok-1\r\n\r\n", "length is not one number"),
        ("HTTP/1.1 200 OK\r\nBearer tok-1\r\n\r\n", "its head is not one of HTTP/1.1"),
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

#[tokio::test]
async fn what_follows_an_answer_reaches_nobody() {
    const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let (_issuer, upstream, scene) = before().await;
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let answers = [
        ("GET", 200, OK, POISON),
        ("GET", 200, OK, "x"),
        ("GET", 200, OK, "\r\n"),
        ("GET", 200, chunked, POISON),
        ("GET", 200, chunked, "\r\n"),
        ("HEAD", 200, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "ok"),
        ("HEAD", 200, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "2\r\nok\r\n0\r\n\r\n"),
        ("HEAD", 200, "HTTP/1.1 200 OK\r\n\r\n", POISON),
        ("GET", 204, "HTTP/1.1 204 No Content\r\n\r\n", "ok"),
        ("GET", 204, "HTTP/1.1 204 No Content\r\n\r\n", POISON),
        ("GET", 304, "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", "ok"),
        ("GET", 304, "HTTP/1.1 304 Not Modified\r\n\r\n", POISON),
    ];
    for (method, status, answer, more) in answers {
        for at_once in [true, false] {
            let (mut client, mut connection) = asked(&scene, &upstream, &REQUEST.replace("GET", method)).await;
            if at_once {
                connection.write([answer, more].concat()).await;
            } else {
                connection.write(answer).await;
            }
            let got = if method == "HEAD" { client.answer_to_head().await } else { client.answer().await };
            let got = got.expect("an answer");
            assert_eq!((got.status, got.text()), (status, if got.body.is_empty() { "" } else { "ok" }), "{answer:?}");
            if !at_once {
                connection.write(more).await;
            }
            // It is seen to be odd before it is used again, whoever asks.
            assert_eq!(connection.rest().await, b"", "{method} {answer:?} {more:?}");
            client.send(REQUEST).await;
            let mut another = upstream.accept().await;
            another.head().await;
            another.write(OK.replace("ok", "no").replace("200 OK", "200 OK\r\nConnection: close")).await;
            assert_eq!(client.answer().await.expect("an answer").text(), "no", "{method} {answer:?} {more:?}");
        }
    }
    nothing_is_open(&scene).await;
    scene.finish().await;
}

/// The pool holds no connection, in use or not.
async fn nothing_is_open(scene: &Scene) {
    let open = async || scene.metric("countersign_upstream_connections", &[("route", "api")]).await == 0.0;
    wait_until("no connection is open", SOON, open).await;
}

/// Bodies that end before their end.
const CUT: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n8\r\nhalf",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX-Trailer: a\r\n",
];

/// Chunks that are none.
const MALFORMED: &[&str] = &[
    "x\r\nok\r\n0\r\n\r\n",
    "-2\r\nok\r\n0\r\n\r\n",
    "+2\r\nok\r\n0\r\n\r\n",
    "0x2\r\nok\r\n0\r\n\r\n",
    "2_0\r\nok\r\n0\r\n\r\n",
    "\r\nok\r\n0\r\n\r\n",
    ";a=b\r\nok\r\n0\r\n\r\n",
    "fffffffffffffffff\r\nok\r\n0\r\n\r\n",
    "10000000000000002\r\nok\r\n0\r\n\r\n",
    "2\nok\r\n0\r\n\r\n",
    "2\r\nok\n0\r\n\r\n",
    "2\r\nokk\r\n0\r\n\r\n",
    "2\r\nok0\r\n\r\n",
    "2;a=b\nc\r\nok\r\n0\r\n\r\n",
    "2\r\nok\r\n0\r\nno trailer\r\n\r\n",
];

#[tokio::test]
async fn a_body_that_breaks_off_looks_whole_to_no_client() {
    let (_issuer, upstream, scene) = before().await;
    let malformed = MALFORMED
        .iter()
        .map(|chunks| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n{chunks}"));
    let bodies: Vec<String> = CUT.iter().map(ToString::to_string).chain(malformed).collect();
    let mut broken = 0;
    for body in &bodies {
        for version in ["1.1", "1.0"] {
            let request = REQUEST.replace("HTTP/1.1", &format!("HTTP/{version}"));
            let (mut client, mut connection) = asked(&scene, &upstream, &request).await;
            connection.write(body).await;
            let head = client.head().await.expect("the head has passed");
            assert_eq!(head.status, 200);
            if CUT.contains(&body.as_str()) {
                connection.close().await;
            } else {
                assert_eq!(connection.rest().await, b"", "{body:?}");
            }
            let (rest, end) = client.rest().await;
            let whole = match (head.header("content-length"), head.header("transfer-encoding")) {
                (Some(length), None) => rest.len() >= length.parse().expect("a number"),
                (None, Some("chunked")) => rest.ends_with(b"0\r\n\r\n"),
                (None, None) => end.is_ok(),
                _ => panic!("{}", head.head),
            };
            assert!(!whole, "HTTP/{version} {body:?}: {rest:?} {end:?}");
            broken += 1;
            assert_eq!(errors(&scene).await, f64::from(broken), "{body:?}");
        }
    }
    let aborted = [("route", "api"), ("status_class", "aborted")];
    scene.reaches("countersign_requests_total", &aborted, f64::from(broken)).await;
    the_next_is_not_disturbed(&scene, &upstream).await;
    nothing_is_open(&scene).await;
    scene.finish().await;
}

#[tokio::test]
async fn chunk_extensions_and_trailers_that_belong_in_a_head_end_here() {
    let (_issuer, upstream, scene) = before().await;
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, X-Late\r\n\r\n";
    let trailers = "Content-Length: 999\r\nTransfer-Encoding: chunked\r\nHost: evil.test\r\nAuthorization: Bearer tok-1\r\n\
                    Set-Cookie: a=b\r\nX-Late: late\r\n";
    let request = REQUEST.replace("\r\n\r\n", "\r\nTE: trailers\r\n\r\n");
    let (mut client, mut connection) = asked(&scene, &upstream, &request).await;
    connection.write(format!("{head}2;a=b;tok-1=\"c\"\r\nok\r\n0;tok-1\r\n{trailers}\r\n")).await;
    let answer = client.head().await.expect("a head");
    assert_eq!((answer.status, answer.header("trailer")), (200, None));
    let body = b"2\r\nok\r\n0\r\nx-late: late\r\n\r\n";
    assert_eq!(client.bytes(body.len()).await.expect("a body"), body);
    // The connection is whole, and so is the next answer.
    client.send(REQUEST).await;
    connection.head().await;
    connection.write(OK.replace("200 OK", "200 OK\r\nConnection: close")).await;
    assert_eq!(client.answer().await.expect("an answer").text(), "ok");

    for flood in ["2;", "0\r\nX-Trailer: ", "0\r\nX: a\r\n"] {
        let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
        connection.write(format!("{}{flood}", head.replace("Trailer:", "X-Trailer:"))).await;
        client.head().await.expect("a head");
        let written = connection.flood(if flood.ends_with('\n') { "X-Flood: a\r\n" } else { "aaaaaaaa" }).await;
        assert!(written < 16 * 1024 * 1024, "{written} bytes");
        let (rest, _) = client.rest().await;
        assert_eq!(rest, b"", "{flood:?}");
    }
    assert_eq!(errors(&scene).await, 3.0);
    the_next_is_not_disturbed(&scene, &upstream).await;
    scene.finish().await;
}

#[tokio::test]
async fn an_answer_before_the_requests_end_passes_and_the_rest_is_sent_nowhere() {
    let (_issuer, upstream, scene) = before().await;
    for framing in ["Content-Length: 100000\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let request = format!("POST /api/x HTTP/1.1\r\nHost: localhost\r\n{framing}");
        let (mut client, mut connection) = asked(&scene, &upstream, &request).await;
        connection.write("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.text()), (413, "no"));
        // What had been sent of the body is there; then it ends.
        connection.rest().await;
        // Whatever comes after is the rest of the body, and no request.
        client.send("GET /api/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        if framing.starts_with("Transfer") {
            assert!(client.is_closed().await);
        }
        drop(client);
        assert!(upstream.is_left_alone().await);
        the_next_is_not_disturbed(&scene, &upstream).await;
    }
    nothing_is_open(&scene).await;
    scene.finish().await;
}

#[tokio::test]
async fn an_answer_cannot_be_split() {
    let (_issuer, upstream, scene) = before().await;
    let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
    let here = format!("https://{}", upstream.address);
    let fields = [
        format!("Location: {here}/a%0d%0aSet-Cookie:%20evil=1"),
        format!("Link: <{here}/a%0d%0a%0d%0aHTTP/1.1%20200%20OK>; rel=next"),
        "Content-Location: /a%0aSet-Cookie:evil=1".to_owned(),
        "X-Text: \u{e5}\u{98}\u{8a}\u{e5}\u{98}\u{8d}Set-Cookie:evil=1".to_owned(),
    ];
    connection.write(OK.replace("\r\n\r\n", &format!("\r\n{}\r\n\r\n", fields.join("\r\n")))).await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.header("location"), Some("http://localhost/api/a%0d%0aSet-Cookie:%20evil=1"));
    assert_eq!(answer.header("content-location"), Some("/api/a%0aSet-Cookie:evil=1"));
    assert_eq!((answer.header("set-cookie"), answer.text()), (None, "ok"));
    scene.finish().await;
}

#[tokio::test]
async fn an_upstream_that_drips_its_head_is_given_up() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let route = "token = \"api\"\ntimeouts = { response = \"300ms\" }";
    let scene = Setup::new().token("api", &issuer, "").route("api", &upstream, route).start().await;
    let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
    let dripping = async {
        let mut pace = interval(Duration::from_millis(30));
        connection.write("HTTP/1.1 200 OK\r\nX-Drip: ").await;
        while connection.try_write("a").await {
            pace.tick().await;
        }
    };
    let (answer, ()) = tokio::join!(client.answer(), soon("the end of the connection", dripping));
    assert_eq!(answer.expect("an answer").refusal(), (504, "upstream_timeout".to_owned()));
    nothing_is_open(&scene).await;
    the_next_is_not_disturbed(&scene, &upstream).await;
    scene.finish().await;
}

#[tokio::test]
async fn a_body_that_nobody_takes_any_more_is_not_read() {
    let (_issuer, upstream, scene) = before().await;
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ] {
        let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
        connection.write(head).await;
        client.head().await.expect("a head");
        drop(client);
        connection.flood("aaaaaaaaaaaaaaaa").await;
        the_next_is_not_disturbed(&scene, &upstream).await;
    }
    nothing_is_open(&scene).await;
    scene.finish().await;
}

#[tokio::test]
async fn an_upstream_that_stops_writing_is_not_written_to_again() {
    let (_issuer, upstream, scene) = before().await;
    for (sent, expected) in [("", 502), ("HTTP/1.1 200 OK\r\nContent-", 502), (OK, 200)] {
        let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
        connection.write(sent).await;
        connection.stop_writing().await;
        assert_eq!(client.answer().await.expect("an answer").status, expected, "{sent:?}");
        assert_eq!(connection.rest().await, b"", "{sent:?}");
        the_next_is_not_disturbed(&scene, &upstream).await;
    }
    assert_eq!(errors(&scene).await, 2.0);
    nothing_is_open(&scene).await;
    scene.finish().await;
}
