//! Upstreams that send the token back: in a field it never reaches the client, in a body it does not where the route wants
//! that.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::body::{Payload, hex, noise, sha256};
use crate::support::raw::RawConnection;
use crate::support::setup::Place;
use crate::support::upstream::Reply;
use crate::support::{Client, Issuer, RawUpstream, Scene, Setup, Upstream, log, soon};

const TOKEN: &str = "echoed-Token/0123+456789=-1";

const FILLER: &str = "[redacted]*****************";

const SCRUB: &str = "token = \"api\"\nscrub = true";

async fn before(upstream: &impl Place, route: &str) -> (Issuer, Scene) {
    let issuer = Issuer::named("echoed-Token/0123+456789=", 3600).await;
    let setup = Setup::new().token("api", &issuer, "").route("api", upstream, route);
    (issuer, setup.workers(1).start().await)
}

/// How programs write what they were sent.
fn forms() -> Vec<String> {
    let bytes = TOKEN.as_bytes();
    let percent = |wide: bool| {
        let written = |byte: &u8| match byte {
            byte if wide || !(byte.is_ascii_alphanumeric() || *byte == b'-') => format!("%{byte:02X}"),
            byte => char::from(*byte).to_string(),
        };
        bytes.iter().map(written).collect::<String>()
    };
    let mut forms = vec![TOKEN.to_owned(), hex(bytes), hex(bytes).to_uppercase(), percent(true), percent(false)];
    forms.extend([percent(true).to_lowercase(), TOKEN.replace('/', "\\/"), TOKEN.replace('+', "\\u002B")]);
    for before in ["", "a", "ab"] {
        forms.push(STANDARD.encode(format!("{before}{TOKEN}")));
        forms.push(URL_SAFE_NO_PAD.encode(format!("{before}{TOKEN}::")));
    }
    forms
}

/// As much of a form as says something of the token alone.
fn is_told(form: &str, text: &str) -> bool {
    let inner = &form[4..form.len() - 4];
    text.contains(inner)
}

async fn echoes(scene: &Scene) -> f64 {
    scene.metric("countersign_credential_echoes_total", &[("route", "api")]).await
}

#[tokio::test]
async fn a_token_in_a_field_of_an_answer_is_taken_out_on_every_route() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        for route in ["token = \"api\"", SCRUB] {
            let (_issuer, scene) = before(&upstream, &format!("{route}\nset_cookie = \"pass\"")).await;
            for (number, form) in forms().into_iter().enumerate() {
                let echo = form.clone();
                upstream.answers(move |_| {
                    Reply::new(302)
                        .header("location", &format!("/next?token={echo}&a=b"))
                        .header("set-cookie", &format!("t={echo}; Secure"))
                        .header("x-echo", &format!("Bearer {echo}, Bearer {echo}"))
                        .header("x-other", "stays")
                });
                let answer = scene.get("/api/x").await;
                assert!(!is_told(&form, &answer.head), "{form}: {}", answer.head);
                assert_eq!((answer.status, answer.header("x-other")), (302, Some("stays")));
                let location = answer.header("location").expect("a location");
                assert!(location.starts_with("/api/next?token=") && location.ends_with("&a=b"), "{location}");
                assert!(location.contains("[redacted]"), "{location}");
                assert!(answer.header("set-cookie").is_some_and(|cookie| cookie.contains("[redacted]")));
                assert_eq!(answer.header("x-echo").expect("a field").matches("[redacted]").count(), 2);
                assert_eq!(echoes(&scene).await, (number + 1) as f64, "an answer counts once");
            }
            upstream.answers(|_| Reply::ok("ok").header("x-echo", &TOKEN[1..]));
            assert_eq!(scene.get("/api/x").await.header("x-echo"), Some(&TOKEN[1..]), "a part is not a token");
            assert_eq!(echoes(&scene).await, forms().len() as f64);
            scene.finish().await;
        }
    }
    let log = log::text();
    assert!(log.contains("sent the token back") && !log.contains(TOKEN));
    assert!(log.contains("echoed=true") && log.contains("echoed=false"), "each request's line says it");
}

#[tokio::test]
async fn a_token_in_a_body_is_taken_out_where_the_route_wants_that() {
    let text: String = forms().iter().map(|form| format!("{{\"before\": \"{form}\", \"after\": 1}}\n")).collect();
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let answered = text.clone();
        upstream.answers(move |seen| {
            Reply::new(200).body(match seen.target.as_str() {
                "/known" => Payload::of(answered.clone()),
                _ => Payload::chunked(answered.clone()),
            })
        });
        let (_issuer, scene) = before(&upstream, SCRUB).await;
        for path in ["/api/known", "/api/told"] {
            let answer = scene.get(path).await;
            assert_eq!(answer.body.len(), text.len(), "a length that was told stays true");
            for form in forms() {
                assert!(!is_told(&form, answer.text()), "{form}: {}", answer.text());
            }
            assert_eq!(answer.text().matches("[redacted]").count(), forms().len());
            let untouched = |line: &str| line.starts_with("{\"before\": \"") && line.ends_with("\", \"after\": 1}");
            assert!(answer.text().lines().all(untouched), "{}", answer.text());
        }
        assert_eq!(echoes(&scene).await, 2.0);
        scene.finish().await;

        let (_issuer, scene) = before(&upstream, "token = \"api\"").await;
        assert_eq!(scene.get("/api/known").await.text(), text, "other routes leave bodies alone");
        assert_eq!(echoes(&scene).await, 0.0);
        scene.finish().await;
    }
}

async fn asked(scene: &Scene, upstream: &RawUpstream, request: &str) -> (Client, RawConnection) {
    let mut client = scene.client().await;
    client.send(request).await;
    let mut connection = upstream.accept().await;
    assert!(connection.head().await.contains(TOKEN));
    (client, connection)
}

const REQUEST: &str = "GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn a_token_that_comes_in_two_pieces_is_taken_out_and_what_goes_before_it_does_not_wait() {
    let upstream = RawUpstream::start().await;
    let (_issuer, scene) = before(&upstream, SCRUB).await;
    let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
    for at in 0..=TOKEN.len() {
        let length = "before: ".len() + TOKEN.len() + " after".len();
        connection.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nbefore: {}", &TOKEN[..at])).await;
        client.head().await.expect("a head");
        let early = if at == TOKEN.len() { format!("before: {FILLER}") } else { "before: ".to_owned() };
        assert_eq!(client.bytes(early.len()).await.expect("the beginning"), early.as_bytes());
        connection.write(format!("{} after", &TOKEN[at..])).await;
        let rest = client.bytes(length - early.len()).await.expect("the end");
        assert_eq!(early + std::str::from_utf8(&rest).expect("text"), format!("before: {FILLER} after"), "cut at {at}");
        client.send(REQUEST).await;
        connection.head().await;
    }
    assert_eq!(echoes(&scene).await, (TOKEN.len() + 1) as f64);
    scene.finish().await;
}

#[tokio::test]
async fn the_beginning_of_a_token_that_never_goes_on_is_passed_at_the_end() {
    let upstream = RawUpstream::start().await;
    let (_issuer, scene) = before(&upstream, SCRUB).await;
    let begun = &TOKEN[..TOKEN.len() - 1];
    let endings = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{begun}", begun.len()),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{begun}\r\n0\r\n\r\n", begun.len()),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{begun}\r\n0\r\nX-Echo: {TOKEN}\r\n\r\n",
            begun.len()
        ),
    ];
    for ending in endings {
        let request = REQUEST.replace("\r\n\r\n", "\r\nTE: trailers\r\nConnection: close\r\n\r\n");
        let (mut client, mut connection) = asked(&scene, &upstream, &request).await;
        connection.write(&ending).await;
        let (all, _) = client.rest().await;
        let all = String::from_utf8(all).expect("text");
        assert!(all.contains(begun) && !all.contains(TOKEN), "{all}");
        let ends = [begun, "\r\n0\r\n\r\n", "\r\n0\r\nx-echo: [redacted]\r\n\r\n"];
        assert!(ends.iter().any(|end| all.ends_with(end)), "{all}");
        connection.close().await;
    }
    // A body that breaks off there ends without it.
    let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
    connection.write(format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbefore: {begun}")).await;
    client.head().await.expect("a head");
    connection.close().await;
    assert_eq!(client.rest().await.0, b"before: ");
    scene.finish().await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_searched_does_not_pass() {
    let upstream = Upstream::http1().await;
    let (_issuer, scene) = before(&upstream, SCRUB).await;
    upstream.answers(|_| Reply::ok("\u{1f}\u{8b}coded").header("content-encoding", "gzip"));
    let fields = "Accept-Encoding: gzip, br\r\nRange: bytes=0-9\r\nIf-Range: \"a\"\r\nAccept: x";
    let answer = scene.exchange(REQUEST.replace("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"))).await;
    assert_eq!(answer.refusal(), (502, "upstream_protocol".to_owned()));
    assert!(answer.problem()["detail"].as_str().is_some_and(|detail| detail.contains("coded")), "{}", answer.text());
    let seen = upstream.last();
    assert_eq!(seen.all("accept-encoding"), ["identity"]);
    assert_eq!((seen.header("range"), seen.header("if-range"), seen.header("accept")), (None, None, Some("x")));
    let labels = [("route", "api")];
    assert_eq!(scene.metric("countersign_upstream_protocol_errors_total", &labels).await, 1.0);
    // Where there is no body there is nothing to search.
    upstream.answers(|_| Reply::new(304).header("content-encoding", "gzip"));
    assert_eq!(scene.get("/api/x").await.status, 304);
    scene.finish().await;

    let (_issuer, scene) = before(&upstream, "token = \"api\"").await;
    upstream.answers(|_| Reply::ok("coded").header("content-encoding", "gzip"));
    let answer = scene.exchange(REQUEST.replace("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"))).await;
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")));
    assert_eq!(upstream.last().all("accept-encoding"), ["gzip, br"]);
    assert_eq!(upstream.last().header("range"), Some("bytes=0-9"));
    scene.finish().await;
}

#[tokio::test]
async fn a_large_body_is_searched_as_it_passes() {
    const LARGE: usize = 10 * 1024 * 1024;
    const EVERY: usize = 99_991;
    let mut text = noise(LARGE).to_vec();
    let mut expected = text.clone();
    for place in (0..LARGE - TOKEN.len()).step_by(EVERY) {
        text[place..place + TOKEN.len()].copy_from_slice(TOKEN.as_bytes());
        expected[place..place + TOKEN.len()].copy_from_slice(FILLER.as_bytes());
    }
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let (_issuer, scene) = before(&upstream, SCRUB).await;
        let answered = Bytes::from(text.clone());
        upstream.answers(move |seen| {
            let known = seen.target == "/known";
            Reply::new(200).body(if known { Payload::of(answered.clone()) } else { Payload::chunked(answered.clone()) })
        });
        for path in ["/api/known", "/api/told"] {
            let answer = scene.get(path).await;
            assert_eq!((answer.body.len(), sha256(&answer.body)), (LARGE, sha256(&expected)), "{path}");
        }
        let clean = noise(LARGE);
        let answered = clean.clone();
        upstream.answers(move |_| Reply::ok(answered.clone()));
        assert_eq!(sha256(&scene.get("/api/clean").await.body), sha256(&clean));
        assert_eq!(echoes(&scene).await, 2.0);
        scene.finish().await;
    }
}

#[tokio::test]
async fn events_are_passed_on_as_they_come() {
    let upstream = RawUpstream::start().await;
    let (_issuer, scene) = before(&upstream, SCRUB).await;
    let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
    connection.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.head().await.expect("a head");
    for event in ["data: one\n\n", &format!("data: {TOKEN}\n\n"), "data: echoed-\n\n", "data: e\n\n", ": \n\n"] {
        connection.write(format!("{:X}\r\n{event}\r\n", event.len())).await;
        let passed = event.replace(TOKEN, FILLER);
        let chunk = format!("{:x}\r\n{passed}\r\n", passed.len());
        assert_eq!(
            client.bytes(chunk.len()).await.expect("an event"),
            chunk.as_bytes(),
            "nothing waits for what follows"
        );
    }
    connection.write("0\r\n\r\n").await;
    assert_eq!(client.bytes(5).await.expect("the end"), b"0\r\n\r\n");
    scene.finish().await;
}

#[tokio::test]
async fn the_generation_that_was_sent_is_the_one_that_is_looked_for() {
    let upstream = RawUpstream::start().await;
    let (_issuer, scene) = before(&upstream, SCRUB).await;
    let (mut client, mut connection) = asked(&scene, &upstream, REQUEST).await;
    scene.rotate("api").await.expect("a generation");
    let echo = format!("X-Echo: {TOKEN}\r\nContent-Length: {}\r\n\r\n{TOKEN}", TOKEN.len());
    connection.write(format!("HTTP/1.1 200 OK\r\n{echo}")).await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!((answer.header("x-echo"), answer.text()), (Some("[redacted]"), FILLER));
    // The next request carries the next one.
    client.send(REQUEST).await;
    let next = TOKEN.replace("=-1", "=-2");
    assert!(connection.head().await.contains(&next));
    connection.write(format!("HTTP/1.1 200 OK\r\n{}", echo.replace(TOKEN, &next))).await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!((answer.header("x-echo"), answer.text()), (Some("[redacted]"), FILLER));
    scene.finish().await;
}

#[tokio::test]
async fn a_token_in_a_trailer_is_taken_out_after_what_was_held_back() {
    let upstream = RawUpstream::start().await;
    for route in ["token = \"api\"", SCRUB] {
        let (_issuer, scene) = before(&upstream, route).await;
        let tcp = TcpStream::connect(scene.proxy).await.expect("connects");
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.expect("prior knowledge");
        let mut running = JoinSet::new();
        running.spawn(connection);
        let request = Request::get(format!("http://{}/api/x", scene.proxy)).header("te", "trailers");
        let asking = sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request"));
        let answering = async {
            let mut connection = upstream.accept().await;
            connection.head().await;
            let head = "HTTP/1.1 200 OK\r\nTrailer: X-Echo\r\nTransfer-Encoding: chunked\r\n\r\n";
            connection.write(format!("{head}6\r\nechoed\r\n0\r\nX-Echo: a {TOKEN} b\r\nX-Other: stays\r\n\r\n")).await;
            connection
        };
        let (response, _connection) = tokio::join!(asking, answering);
        let body = soon("a body", response.expect("an answer").into_body().collect()).await.expect("whole");
        let trailers = body.trailers().expect("trailers").clone();
        assert_eq!(body.to_bytes(), "echoed", "the beginning of a token, which did not go on");
        assert_eq!(trailers["x-echo"], "a [redacted] b");
        assert_eq!(trailers["x-other"], "stays");
        assert_eq!(echoes(&scene).await, 1.0);
        scene.finish().await;
    }
}
