//! The ways in which an app names its route, and what the upstream gets of each.

use http::Request;

use crate::support::body::Payload;
use crate::support::{Client, Http2Client, Issuer, SOON, Scene, Setup, Upstream, wait_until};

async fn scene() -> (Issuer, Upstream, Scene) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::on("127.0.0.2").await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    (issuer, upstream, scene)
}

#[tokio::test]
async fn each_way_in_leads_to_the_same_request_at_the_upstream() {
    let (_issuer, upstream, scene) = scene().await;
    let authority = upstream.address;
    let (port, own) = (scene.proxy.port(), scene.proxy);
    let ways = [
        ("/api/repos/x?page=2&q=%20".to_owned(), "localhost".to_owned()),
        ("/api/repos/x?page=2&q=%20".to_owned(), format!("127.0.0.1:{port}")),
        ("/api/repos/x?page=2&q=%20".to_owned(), "[::1]:9".to_owned()),
        ("/repos/x?page=2&q=%20".to_owned(), format!("api.localhost:{port}")),
        ("/repos/x?page=2&q=%20".to_owned(), "API.LocalHost".to_owned()),
        (format!("http://{authority}/repos/x?page=2&q=%20"), authority.to_string()),
        // Port 80 of a plain request stands for the upstream's own.
        ("http://127.0.0.2/repos/x?page=2&q=%20".to_owned(), "127.0.0.2".to_owned()),
        ("http://127.0.0.2:80/repos/x?page=2&q=%20".to_owned(), "127.0.0.2".to_owned()),
        (format!("http://{own}/api/repos/x?page=2&q=%20"), own.to_string()),
        (format!("http://api.localhost:{port}/repos/x?page=2&q=%20"), format!("api.localhost:{port}")),
    ];
    for (number, (target, host)) in ways.iter().enumerate() {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nX-Kept: as it was\r\n\r\n");
        let answer = scene.exchange(request).await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]), "{target} {host}");
        let seen = upstream.last();
        assert_eq!(upstream.count(), number + 1);
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/repos/x?page=2&q=%20"), "{target}");
        assert_eq!(seen.all("authorization"), ["Bearer tok-1"], "{target}");
        assert_eq!(seen.all("host"), [authority.to_string()], "{target}");
        assert_eq!(seen.all("x-kept"), ["as it was"], "{target}");
        assert_eq!(seen.headers[0].0, "host", "it goes first");
    }
    let labels = [("route", "api"), ("client", "local"), ("method", "GET"), ("status_class", "2xx")];
    scene.reaches("countersign_requests_total", &labels, 10.0).await;
    let uses = scene.metric("countersign_token_uses_total", &[("token", "api"), ("outcome", "ok")]).await;
    assert_eq!(uses, 10.0);
    scene.finish().await;
}

#[tokio::test]
async fn http2_comes_through_a_forwarded_port_as_http1_does() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let route = "token = \"api\"\ndeny = [\"GET /api/denied\"]";
    let scene = Setup::new().token("api", &issuer, "").route("api", &upstream, route).start().await;
    let mut client = Http2Client::connect(scene.proxy).await;
    let (forwarded, own) = (1, upstream.address);
    let ways = [
        (format!("localhost:{forwarded}"), "/api/x", "/x"),
        (format!("127.0.0.1:{forwarded}"), "/api/x", "/x"),
        (format!("[::1]:{forwarded}"), "/api/x", "/x"),
        (format!("api.localhost:{forwarded}"), "/x", "/x"),
        ("localhost".to_owned(), "/api/x", "/x"),
        (scene.proxy.to_string(), "/api/x", "/x"),
        // What names the upstream exactly means it: we are the app's HTTP_PROXY.
        (own.to_string(), "/api/x", "/api/x"),
        (format!("localhost:{}", own.port()), "/api/x", "/x"),
    ];
    for (authority, path, expected) in ways {
        let request = Request::get(format!("http://{authority}{path}")).body(Payload::of("")).expect("a request");
        assert_eq!(client.exchange(request).await.status, 200, "{authority}");
        let seen = upstream.last();
        assert_eq!((seen.target.as_str(), seen.all("authorization")), (expected, vec!["Bearer tok-1"]), "{authority}");
    }
    let request = Request::get(format!("http://{own}/api/denied")).body(Payload::of("")).expect("a request");
    assert_eq!(client.exchange(request).await.reason().1, "path_denied", "the route's rules hold there, too");
    scene.finish().await;
}

#[tokio::test]
async fn a_unix_socket_is_a_way_in_and_is_gone_after_the_end() {
    let (_issuer, upstream, scene) = scene().await;
    let socket = scene.socket.clone();
    let mut client = Client::unix(&socket).await;
    assert_eq!(client.get("/api/x").await.status, 200);
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-1"]);
    drop(client);
    scene.finish().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_path_reaches_the_upstream_byte_for_byte() {
    let (_issuer, upstream, scene) = scene().await;
    let paths = [
        ("/", "/"),
        ("", "/"),
        ("/?", "/?"),
        ("/a/", "/a/"),
        ("/caf%C3%A9", "/caf%C3%A9"),
        ("/a%20b?c=%2F..%2f&d=//", "/a%20b?c=%2F..%2f&d=//"),
        ("/~user/@scope/$count/(1)/a+b,c=d&e!*'", "/~user/@scope/$count/(1)/a+b,c=d&e!*'"),
        // Only these two rewritings are safe.
        ("/%41%2d%7E", "/A-~"),
        ("/caf%c3%a9", "/caf%C3%A9"),
    ];
    for (sent, expected) in paths {
        assert_eq!(scene.get(&format!("/api{sent}")).await.status, 200, "{sent}");
        assert_eq!(upstream.last().target, expected, "{sent}");
    }
    scene.finish().await;
}

#[tokio::test]
async fn the_upstreams_own_path_goes_before_the_requests() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let route = format!("token = \"api\"\nupstream = \"https://{}/base/v1/\"", upstream.address);
    let setup = Setup::new().token("api", &issuer, "").route("api", &upstream, &route);
    let scene = setup.start().await;
    for (sent, expected) in [("/api/x?y", "/base/v1/x?y"), ("/api", "/base/v1/"), ("/api/", "/base/v1/")] {
        assert_eq!(scene.get(sent).await.status, 200);
        assert_eq!(upstream.last().target, expected);
    }
    let absolute = format!("GET http://{0}/x HTTP/1.1\r\nHost: {0}\r\n\r\n", upstream.address);
    assert_eq!(scene.exchange(absolute).await.status, 200);
    assert_eq!(upstream.last().target, "/base/v1/x");
    scene.finish().await;
}

#[tokio::test]
async fn an_old_client_gets_its_answer_until_the_connections_end() {
    let (_issuer, upstream, scene) = scene().await;
    for target in ["/api/chunked".to_owned(), format!("http://{}/chunked", upstream.address)] {
        let host = if target.starts_with('/') { "Host: localhost\r\n" } else { "" };
        let mut client = scene.client().await;
        client.send(format!("GET {target} HTTP/1.0\r\n{host}\r\n")).await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.text(), answer.header("transfer-encoding")), (200, "ok", None));
        assert!(client.is_closed().await);
        assert_eq!(upstream.last().all("authorization"), ["Bearer tok-1"]);
    }
    scene.finish().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let (_issuer, upstream, scene) = scene().await;
    let mut client = scene.client().await;
    let requests: String =
        (1..=20).map(|length| format!("GET /api/bytes/{length} HTTP/1.1\r\nHost: localhost\r\n\r\n")).collect();
    client.send(requests).await;
    for length in 1..=20 {
        let answer = client.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.body.len()), (200, length));
    }
    assert_eq!(upstream.count(), 20);
    scene.finish().await;
}

#[tokio::test]
async fn a_hundred_requests_of_a_client_need_one_connection_to_the_upstream() {
    let kinds = [("GET", "/"), ("GET", "/chunked"), ("HEAD", "/"), ("HEAD", "/chunked"), ("GET", "/status/204")];
    let more = [("GET", "/status/304"), ("GET", "/bytes/100000"), ("GET", "/bytes/0"), ("POST", "/"), ("DELETE", "/")];
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let issuer = Issuer::start().await;
        let scene = Setup::api(&issuer, &upstream).start().await;
        let mut client = scene.client().await;
        for (method, path) in kinds.iter().chain(&more).cycle().take(100) {
            client.send(format!("{method} /api{path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            let answer = if *method == "HEAD" { client.answer_to_head().await } else { client.answer().await };
            let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
            assert!([200, 204, 304].contains(&answer.status));
        }
        assert_eq!((upstream.count(), upstream.connections()), (100, 1));
        wait_until("the connection rests", SOON, async || {
            let active = [("route", "api"), ("state", "active")];
            scene.metric("countersign_upstream_connections", &active).await == 0.0
        })
        .await;
        assert_eq!(scene.metric("countersign_connections", &[]).await, 1.0);
        scene.finish().await;
    }
}
