//! WebSocket on the routes that allow it: a tunnel after an answer that proves itself, and none before.

use std::time::Duration;

use crate::support::{Issuer, RawUpstream, SOON, Scene, Setup, soon, wait_until};

const ASK: &str = "GET /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const GRANT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

async fn before(more: &str) -> (Issuer, RawUpstream, Scene) {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let setup = Setup::new().token("api", &issuer, "");
    let scene = setup.route("api", &upstream, &format!("token = \"api\"\n{more}")).start().await;
    scene.ready().await;
    (issuer, upstream, scene)
}

#[tokio::test]
async fn a_tunnel_opens_after_an_answer_that_proves_itself() {
    let (_issuer, upstream, scene) = before("websocket = true").await;
    let mut client = scene.client().await;
    client.send(format!("{ASK}early")).await;
    let mut connection = upstream.accept().await;
    let head = connection.head().await.to_ascii_lowercase();
    for field in ["authorization: bearer tok-1\r\n", "connection: upgrade\r\n", "upgrade: websocket\r\n"] {
        assert_eq!(head.matches(field).count(), 1, "{field} in {head}");
    }
    let grant = GRANT.replace("Switching Protocols", "Bearer tok-1");
    connection.write(format!("{grant}hello")).await;
    let answer = client.head().await.expect("an answer");
    assert!(answer.head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{}", answer.head);
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.bytes(5).await.expect("bytes"), b"hello");
    assert_eq!(connection.bytes(5).await, b"early");
    for _ in 0..3 {
        client.send("ping").await;
        assert_eq!(connection.bytes(4).await, b"ping");
        connection.write("pong").await;
        assert_eq!(client.bytes(4).await.expect("bytes"), b"pong");
    }
    let bytes = |direction| [("token", "api"), ("direction", direction)];
    // A tunnel may last for days: it is seen before its end.
    wait_until("what has passed is counted", SOON, async || {
        scene.clock.advance(Duration::from_secs(10));
        client.send("p").await;
        connection.bytes(1).await;
        scene.metric("countersign_token_bytes_total", &bytes("response")).await >= 17.0
    })
    .await;
    let labels = [("route", "api"), ("status_class", "1xx")];
    assert_eq!(scene.metric("countersign_requests_total", &labels).await, 0.0);
    connection.close().await;
    assert!(client.is_closed().await);
    drop(client);
    scene.reaches("countersign_requests_total", &labels, 1.0).await;
    scene.reaches("countersign_token_bytes_total", &bytes("request"), 17.0).await;
    scene.reaches("countersign_token_bytes_total", &bytes("response"), 17.0).await;
    scene.finish().await;
}

#[tokio::test]
async fn an_answer_that_does_not_prove_itself_opens_nothing() {
    let bad = [
        GRANT.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        GRANT.replace("Upgrade: websocket", "Upgrade: h2c"),
        GRANT.replace("Connection: Upgrade\r\n", ""),
        GRANT.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: not-asked-for\r\n\r\n"),
    ];
    for grant in bad {
        let (_issuer, upstream, scene) = before("websocket = true").await;
        let mut client = scene.client().await;
        client.send(format!("{ASK}early")).await;
        let mut connection = upstream.accept().await;
        connection.head().await;
        connection.write(&grant).await;
        assert_eq!(client.answer().await.expect("an answer").refusal(), (502, "upstream_protocol".to_owned()));
        assert_eq!(connection.rest().await, b"", "{grant}");
        scene.finish().await;
    }
}

#[tokio::test]
async fn an_upstream_may_say_no() {
    let (_issuer, upstream, scene) = before("websocket = true").await;
    let mut client = scene.client().await;
    client.send(ASK).await;
    let mut connection = upstream.accept().await;
    connection.head().await;
    connection.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!((answer.status, answer.text()), (403, "no"));
    scene.finish().await;
}

#[tokio::test]
async fn a_malformed_request_for_it_is_refused_and_elsewhere_it_is_an_ordinary_one() {
    let (_issuer, upstream, scene) = before("websocket = true").await;
    let bad = [
        ASK.replace("Version: 13", "Version: 12"),
        ASK.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        ASK.replacen("GET", "POST", 1),
    ];
    for ask in bad {
        assert_eq!(scene.exchange(&ask).await.refusal(), (400, "header_invalid".to_owned()), "{ask}");
    }
    assert!(upstream.is_left_alone().await);
    scene.finish().await;

    let (_issuer, upstream, scene) = before("").await;
    let mut client = scene.client().await;
    client.send(ASK).await;
    let mut connection = upstream.accept().await;
    let head = connection.head().await.to_ascii_lowercase();
    assert!(!head.contains("upgrade"), "{head}");
    connection.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(soon("an answer", client.answer()).await.expect("an answer").status, 200);
    scene.finish().await;
}
