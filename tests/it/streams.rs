//! Streams of HTTP/2 that turn into tunnels (RFC 9113, section 8.5) and WebSockets (RFC 8441).

use http::Request;
use hyper::ext::Protocol;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::support::body::Payload;
use crate::support::{Client, Http2Client, Issuer, RawUpstream, SOON, Scene, Setup, Upstream, wait_until};
use crate::tunnels;

fn connect(authority: &str) -> Request<Payload> {
    Request::connect(authority).body(Payload::of("")).expect("a request")
}

/// A stream that is asked for as this protocol.
fn extended(client: &Http2Client, protocol: &'static str, path: &str) -> Request<Payload> {
    let request = client.request("CONNECT", path).extension(Protocol::from_static(protocol));
    request.header("sec-websocket-version", "13").body(Payload::of("")).expect("a request")
}

async fn http2(scene: &Scene) -> Http2Client {
    let mut client = Http2Client::connect(scene.proxy).await;
    // What the proxy grants is known with its first answer.
    assert_eq!(client.get("/nowhere/x").await.reason(), (404, "no_route".to_owned()));
    client
}

#[tokio::test]
async fn tunnels_are_looked_into_many_on_one_connection() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let setup = Setup::new().token("api", &issuer, "");
    let scene = setup.route("api", &upstream, "token = \"api\"\nintercept = true").start().await;
    scene.ready().await;
    let authority = upstream.address.to_string();
    let mut client = http2(&scene).await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        let (answer, stream) = client.open(connect(&authority)).await;
        assert_eq!((answer.status().as_u16(), answer.headers().get("content-length")), (200, None));
        let stream = Client::on(stream.expect("a stream"));
        let told = tunnels::told(&scene, &["http/1.1"]);
        tunnels.push(stream.over_tls("127.0.0.1", told).await.expect("a tunnel"));
    }
    for turn in 0..2 {
        for tunnel in &mut tunnels {
            tunnel.send(format!("GET /x/{turn} HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
            let answer = tunnel.answer().await.expect("an answer");
            assert_eq!((answer.status, answer.text()), (200, "ok"));
        }
        assert_eq!(client.get("/api/beside").await.status, 200);
    }
    assert_eq!(upstream.count(), 8);
    assert!(upstream.seen().iter().all(|seen| seen.all("authorization") == ["Bearer tok-1"]));
    let other = "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n";
    tunnels[0].send(other).await;
    assert_eq!(tunnels[0].answer().await.expect("an answer").refusal(), (400, "host_mismatch".to_owned()));
    drop(tunnels);
    assert_eq!(client.get("/api/after").await.status, 200, "the connection goes on without them");
    scene.finish().await;
}

#[tokio::test]
async fn a_tunnel_that_there_is_no_room_for_is_refused_and_not_granted() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let setup = Setup::new().token("api", &issuer, "").limits("connections = 2");
    let scene = setup.route("api", &upstream, "token = \"api\"\nintercept = true").start().await;
    scene.ready().await;
    let authority = upstream.address.to_string();
    let mut client = http2(&scene).await;
    let (answer, stream) = client.open(connect(&authority)).await;
    assert_eq!(answer.status().as_u16(), 200, "beside the connection itself there is room for one");
    let refused = client.exchange(connect(&authority)).await;
    assert_eq!(refused.reason(), (503, "overloaded".to_owned()));
    assert_eq!(scene.metric("countersign_refused_total", &[("reason", "overloaded")]).await, 1.0);
    drop(stream);
    wait_until("its place is another's", SOON, async || {
        client.open(connect(&authority)).await.0.status().as_u16() == 200
    })
    .await;
    scene.finish().await;
}

#[tokio::test]
async fn a_stream_that_nobody_looks_into_carries_bytes_and_others_are_refused() {
    let (issuer, open, kept) = (Issuer::start().await, RawUpstream::start().await, Upstream::http1().await);
    let setup = Setup::new().token("api", &issuer, "").route("kept", &kept, "token = \"api\"");
    let scene = setup.route("open", &open, "").start().await;
    scene.ready().await;
    let mut client = http2(&scene).await;
    for (authority, reason) in [
        (kept.address.to_string(), (403, "tunnel_denied")),
        ("other.example:443".to_owned(), (403, "tunnel_denied")),
        ("other.example".to_owned(), (400, "host_mismatch")),
    ] {
        let answer = client.exchange(connect(&authority)).await;
        assert_eq!(answer.reason(), (reason.0, reason.1.to_owned()), "{authority}");
    }
    let (answer, stream) = client.open(connect(&open.address.to_string())).await;
    assert_eq!(answer.status().as_u16(), 200);
    let root = CertificateDer::from_pem_file(open.certificate.ca()).expect("a certificate");
    let config = tunnels::trusting([root], &["http/1.1"]);
    let shaking = Client::on(stream.expect("a stream")).over_tls("127.0.0.1", config);
    let (inside, mut upstream) = tokio::join!(shaking, open.accept());
    let mut inside = inside.expect("the upstream itself");
    for _ in 0..3 {
        inside.send("ping").await;
        assert_eq!(upstream.bytes(4).await, b"ping");
        upstream.write("pong").await;
        assert_eq!(inside.bytes(4).await.expect("bytes"), b"pong");
    }
    drop(inside);
    upstream.close().await;
    scene.reaches("countersign_tunnels_total", &[], 1.0).await;
    assert_eq!(kept.count(), 0);
    scene.finish().await;
}

const GRANT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: ";

/// What proves that this request was read (RFC 6455, section 4.2.2).
fn proof(head: &str) -> String {
    use base64::Engine as _;
    let line = head
        .lines()
        .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")));
    let (_, key) = line.expect("a key");
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

#[tokio::test]
async fn a_websocket_is_a_stream() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let setup = Setup::new().token("api", &issuer, "");
    let scene = setup.route("api", &upstream, "token = \"api\"\nwebsocket = true").start().await;
    scene.ready().await;
    let mut client = http2(&scene).await;
    let mut request = extended(&client, "websocket", "/api/chat?x=1");
    request.headers_mut().insert("sec-websocket-protocol", "chat, mqtt".parse().expect("a value"));
    request.headers_mut().insert("authorization", "Bearer the-apps-own".parse().expect("a value"));
    let opening = client.open(request);
    let granting = async {
        let mut connection = upstream.accept().await;
        let head = connection.head().await;
        connection.write(format!("{GRANT}{}\r\n\r\nhello", proof(&head))).await;
        (connection, head)
    };
    let ((answer, stream), (mut connection, head)) = tokio::join!(opening, granting);
    let lines = head.to_ascii_lowercase();
    assert!(lines.starts_with("get /chat?x=1 http/1.1\r\n"), "{head}");
    for field in [
        "authorization: bearer tok-1\r\n",
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-version: 13\r\n",
    ] {
        assert_eq!(lines.matches(field).count(), 1, "{field} in {head}");
    }
    assert!(!lines.contains("the-apps-own") && !lines.contains(":protocol"), "{head}");
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    for name in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    let mut stream = Client::on(stream.expect("a stream"));
    assert_eq!(stream.bytes(5).await.expect("bytes"), b"hello");
    for _ in 0..3 {
        stream.send("ping").await;
        assert_eq!(connection.bytes(4).await, b"ping");
        connection.write("pong").await;
        assert_eq!(stream.bytes(4).await.expect("bytes"), b"pong");
    }
    connection.close().await;
    assert!(stream.is_closed().await);
    drop(stream);
    scene.reaches("countersign_requests_total", &[("route", "api"), ("status_class", "1xx")], 1.0).await;
    scene.finish().await;
}

#[tokio::test]
async fn a_stream_that_comes_to_nothing_is_refused_and_no_success() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let setup = Setup::new().token("api", &issuer, "");
    let setup = setup.route("api", &upstream, "token = \"api\"\nwebsocket = true");
    let scene = setup.route("plain", &upstream, "upstream = \"https://127.0.0.1:1\"\ntoken = \"api\"").start().await;
    scene.ready().await;
    let mut client = http2(&scene).await;
    for (protocol, path) in [("websocket", "/plain/chat"), ("connect-udp", "/plain/chat"), ("connect-udp", "/api/chat")]
    {
        let answer = client.exchange(extended(&client, protocol, path)).await;
        assert_eq!(answer.reason(), (400, "header_invalid".to_owned()), "{protocol} {path}");
    }
    for (said, outcome) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", (502, "upstream_protocol")),
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            (502, "upstream_protocol"),
        ),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", (403, "")),
    ] {
        let request = extended(&client, "websocket", "/api/chat");
        let answering = async {
            let mut connection = upstream.accept().await;
            connection.head().await;
            connection.write(said).await;
            connection
        };
        let (answer, _connection) = tokio::join!(client.exchange(request), answering);
        match outcome {
            (status, "") => assert_eq!((answer.status, answer.text()), (status, "no")),
            (status, reason) => assert_eq!(answer.reason(), (status, reason.to_owned()), "{said}"),
        }
    }
    scene.finish().await;
}
