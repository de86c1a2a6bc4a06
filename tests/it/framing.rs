//! Requests whose end could be read in two ways: they are refused, or go on as one request that has one end.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::upstream::Seen;
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, soon, wait_until};

/// To whom the length counts this is a body; to whom the chunks count, an empty one and another request.
const CHUNKS_FIRST: &str = "0\r\n\r\nGET /api/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// To whom the chunks count this is a body; to whom a length of 4 counts, that and another request.
const LENGTH_FIRST: &str = "35\r\nGET /api/smuggled HTTP/1.1\r\nHost: localhost\r\nA: b\r\n\r\n\r\n0\r\n\r\n";

/// How a transfer coding is written by those who want one reader to see it and another not to.
const CODINGS: &[&str] = &[
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: CHUNKED",
    "transfer-encoding:chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding: chunked\t",
    "Transfer-Encoding: chunked ",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: , chunked",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: chunked;a=b",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding:",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: chunked\x0c",
    "Transfer-Encoding: chunked\0",
    "Transfer-Encoding: chun\rked",
    "Transfer-Encoding\t: chunked",
    "Transfer-Encoding : chunked",
    " Transfer-Encoding: chunked",
    "X-A: b\r\n Transfer-Encoding: chunked",
    "X-A: b\rTransfer-Encoding: chunked",
    "X-A: b\nTransfer-Encoding: chunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding: chunked\nX-A: b",
    "Transfer_Encoding: chunked",
    "-Transfer-Encoding: chunked",
    "Transfer-Encoding-: chunked",
    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    "Connection: Content-Length\r\nTransfer-Encoding: chunked",
];

/// How a length is written that not everybody reads as the same number, `N` of them.
const LENGTHS: &[&str] = &[
    "Content-Length: N",
    "content-length:N",
    "Content-Length: 0N",
    "Content-Length: N\r\nContent-Length: N",
    "Content-Length: N\r\nContent-Length: 0",
    "Content-Length: 0\r\nContent-Length: N",
    "Content-Length: N, N",
    "Content-Length: N,0",
    "Content-Length: +N",
    "Content-Length: -N",
    "Content-Length: N.0",
    "Content-Length: 0xN",
    "Content-Length: N N",
    "Content-Length: \"N\"",
    "Content-Length: ",
    "Content-Length: 18446744073709551616",
    "Content-Length: 9223372036854775808",
    "Content-Length : N",
    "Content-Length: N\nX-A: b",
    "Content-Length\0: N",
    "Connection: Content-Length\r\nContent-Length: N",
];

/// What the upstream got has one end, and nothing beside it that a careless server could take for another.
fn has_one_framing(seen: &Seen) -> bool {
    let frames = |name: &str| {
        let plain = name.replace('_', "-");
        let plain = plain.trim_matches('-');
        plain == "transfer-encoding" || plain == "content-length"
    };
    let framing: Vec<_> = seen.headers.iter().filter(|(name, _)| frames(name)).collect();
    let plain = |name: &str, value: &str| match name {
        "transfer-encoding" => value == "chunked",
        "content-length" => value == seen.body.bytes.to_string(),
        _ => false,
    };
    framing.len() == 1 && framing.iter().all(|(name, value)| plain(name, value))
}

#[tokio::test]
async fn a_request_whose_end_could_be_read_in_two_ways_is_refused_or_has_one_from_here_on() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let (mut refused, mut passed) = (0, 0);
    for coding in CODINGS {
        for length in LENGTHS {
            // What not everybody sees as a coding is tried with the body that is whole by its length.
            let seen_by_all = coding.to_ascii_lowercase().starts_with("transfer-encoding:");
            let bodies = [(CHUNKS_FIRST, CHUNKS_FIRST.len()), (LENGTH_FIRST, 4)];
            for (body, told) in bodies.into_iter().take(if seen_by_all { 2 } else { 1 }) {
                let length = length.replace('N', &told.to_string());
                for fields in [format!("{coding}\r\n{length}"), format!("{length}\r\n{coding}")] {
                    let before = upstream.count();
                    let mut client = scene.client().await;
                    let head = format!("POST /api/x HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n");
                    client.send(format!("{head}{body}")).await;
                    let answer = client.answer().await.expect("an answer");
                    let seen = upstream.seen().split_off(before);
                    assert!(seen.iter().all(|seen| seen.target == "/x"), "{fields:?}: {seen:?}");
                    match answer.status {
                        200 => {
                            assert_eq!(seen.len(), 1, "{fields:?}");
                            assert!(has_one_framing(&seen[0]), "{fields:?}: {:?}", seen[0].headers);
                            assert!(seen[0].body.complete.is_some(), "{fields:?}");
                            passed += 1;
                        }
                        _ => {
                            assert_eq!(answer.refusal(), (400, "framing".to_owned()), "{fields:?}");
                            assert_eq!(seen.len(), 0, "{fields:?}");
                            assert!(client.is_closed().await, "{fields:?}");
                            refused += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(refused > 1000 && passed > 0, "{refused} refused, {passed} passed");
    assert_eq!(scene.metric("countersign_refused_total", &[("reason", "framing")]).await, f64::from(refused));
    scene.finish().await;
}

type Fields = Vec<(&'static str, &'static str)>;

/// A request of HTTP/2 that passes: each case below differs from it in one respect.
const PLAIN: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", "/api/x")];

fn with(name: &'static str, value: &'static str) -> Fields {
    let mut fields = PLAIN.to_vec();
    match fields.iter_mut().find(|(known, _)| *known == name) {
        Some(field) => field.1 = value,
        None => fields.push((name, value)),
    }
    fields
}

fn without(name: &str) -> Fields {
    PLAIN.into_iter().filter(|(known, _)| *known != name).collect()
}

fn and(more: &[(&'static str, &'static str)]) -> Fields {
    [&PLAIN[..], more].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame of stream 1.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// Literals that no table keeps (RFC 7541, section 6.2.2).
fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// A connection on which these frames have been sent.
async fn spoken(scene: &Scene, frames: &[u8]) -> TcpStream {
    const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut stream = TcpStream::connect(scene.proxy).await.expect("connects");
    stream.write_all(&[BEGINNING, frames].concat()).await.expect("writes");
    stream
}

/// What becomes of these frames on a connection of their own: the kind of the first frame that is no small talk, as that of
/// an answer, a reset or a goodbye.
async fn told(scene: &Scene, frames: &[u8]) -> u8 {
    const SMALL_TALK: [u8; 3] = [4, 6, 8];
    let mut stream = spoken(scene, frames).await;
    let telling = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a frame");
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            stream.read_exact(&mut vec![0; length]).await.expect("its payload");
            if !SMALL_TALK.contains(&head[3]) {
                return head[3];
            }
        }
    };
    soon("an answer, a reset or a goodbye", telling).await
}

#[tokio::test]
async fn a_malformed_request_of_http2_reaches_no_upstream() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let whole = |fields: &[(&str, &str)]| frame(HEADERS, END_HEADERS | END_STREAM, &head(fields));
    assert_eq!((told(&scene, &whole(&PLAIN)).await, upstream.count()), (HEADERS, 1), "the plain one passes");
    let table = [
        without(":method"),
        without(":scheme"),
        without(":authority"),
        without(":path"),
        with(":method", "GE T"),
        with(":method", "POST /api/y HTTP/1.1\r\n"),
        with(":scheme", "ftp"),
        with(":scheme", "http://localhost/api/y?"),
        with(":authority", "me@localhost"),
        with(":authority", "localhost/api"),
        with(":authority", "localhost:080"),
        with(":authority", "local host"),
        with(":authority", ""),
        with(":path", ""),
        with(":path", "*"),
        with(":path", "api/x"),
        with(":path", "//api/x"),
        with(":path", "/api/x y"),
        with(":path", "/api/x HTTP/1.1\r\nX-A: b"),
        with(":path", "/api/x\0"),
        with(":path", "http://localhost/api/x"),
        and(&[(":path", "/api/y")]),
        and(&[(":method", "GET")]),
        and(&[(":authority", "localhost")]),
        and(&[(":status", "200")]),
        and(&[(":odd", "b")]),
        and(&[("x-a", "b"), (":odd", "b")]),
        [&[("x-a", "b")], &PLAIN[..]].concat(),
        with("host", "evil.test"),
        with("host", "me@localhost"),
        with("host", ""),
        and(&[("host", "localhost"), ("host", "localhost")]),
        and(&[("host", "localhost"), ("host", "evil.test")]),
        with("transfer-encoding", "chunked"),
        with("connection", "close"),
        with("connection", "authorization"),
        with("keep-alive", "timeout=5"),
        with("proxy-connection", "keep-alive"),
        with("upgrade", "h2c"),
        with("te", "gzip"),
        with("content-length", "5"),
        with("content-length", "x"),
        with("content-length", "+0"),
        and(&[("content-length", "0"), ("content-length", "5")]),
        with("X-A", "b"),
        with("x a", "b"),
        with("x-a:", "b"),
        with("x-a\r\nx-b", "b"),
        with("", "b"),
        with("x-a", "b\r\nX-B: c"),
        with("x-a", "b\nc"),
        with("x-a", "b\rc"),
        with("x-a", "b\0"),
        with("x-a", " b"),
        with("x-a", "b\t"),
    ];
    for fields in table {
        told(&scene, &whole(&fields)).await;
        assert_eq!(upstream.count(), 1, "{fields:?}");
    }
    // h2 cuts a fragment off; what was judged is what is sent.
    assert_eq!(told(&scene, &whole(&with(":path", "/api/x#/../y"))).await, HEADERS);
    assert!(upstream.seen().iter().all(|seen| seen.target == "/x"), "{:?}", upstream.seen());
    scene.finish().await;
}

#[tokio::test]
async fn an_upload_of_http2_with_malformed_trailers_never_looks_complete() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let upload = |trailers: &[(&str, &str)]| {
        let end = frame(HEADERS, END_HEADERS | END_STREAM, &head(trailers));
        [frame(HEADERS, END_HEADERS, &head(&PLAIN)), frame(DATA, 0, b"half"), end].concat()
    };
    assert_eq!(told(&scene, &upload(&[("x-a", "b")])).await, HEADERS, "well-formed ones pass, and end here");
    assert!(upstream.last().body.complete.is_some());
    // h2 drops a pseudo-header that comes this late before anybody sees it: it must not change what was judged.
    for trailer in [(":path", "/api/y"), (":status", "200")] {
        told(&scene, &upload(&[trailer])).await;
        assert!(upstream.last().target == "/x" && upstream.last().body.bytes == 4, "{:?}", upstream.last());
    }
    let whole = upstream.count();
    for trailer in [("x-a", "b\r\nX-B: c"), ("X-A", "b"), ("connection", "close")] {
        told(&scene, &upload(&[trailer])).await;
    }
    scene.finish().await;
    let seen = upstream.seen();
    assert_eq!(seen.iter().filter(|seen| seen.body.complete.is_some()).count(), whole, "{seen:?}");
    assert!(seen.iter().all(|seen| seen.headers.iter().all(|(name, _)| !name.starts_with("x-"))), "{seen:?}");
}

#[tokio::test]
async fn an_upload_of_http2_that_is_reset_never_looks_complete() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    // Without an error (RFC 9113, section 7), and because the client has thought better of it.
    for (number, code) in [0, 8].into_iter().enumerate() {
        let begun = [frame(HEADERS, END_HEADERS, &head(&PLAIN)), frame(DATA, 0, b"half")].concat();
        let mut stream = spoken(&scene, &begun).await;
        let arrived = async || upstream.seen().get(number).is_some_and(|seen| seen.body.bytes == 4);
        wait_until("half of it is at the upstream", SOON, arrived).await;
        stream.write_all(&frame(RST_STREAM, 0, &[0, 0, 0, code])).await.expect("writes");
        wait_until("the upstream sees it break", SOON, async || upstream.last().body.failed).await;
        assert!(upstream.last().body.complete.is_none(), "{code}");
    }
    scene.finish().await;
}
