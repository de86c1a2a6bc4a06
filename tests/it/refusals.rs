//! What is refused, how that is said, and that nothing of it reaches an upstream.

use std::collections::BTreeSet;

use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::client::Answer;
use crate::support::{Issuer, Scene, Setup, Upstream};

/// Stands in every part of a request, and in no answer.
const CANARY: &str = "canary-7d1c";

const ROUTE: &str = r#"token = "api"
allow = ["GET /repos/**", "POST /repos/*"]
deny = ["GET /repos/secret/**"]"#;

/// A request's line and fields, and how it is refused. `HOST` stands for a good Host field, `BODY` for a body, which all have
/// but those for a tunnel.
const TABLE: &[(&str, u16, &str)] = &[
    ("GET /canary-7d1c HTTP/1.1|HOST", 404, "no_route"),
    ("GET / HTTP/1.1|HOST", 404, "no_route"),
    ("GET //api/repos/x HTTP/1.1|HOST", 404, "no_route"),
    ("GET /API/repos/x HTTP/1.1|HOST", 404, "no_route"),
    ("GET /repos/x HTTP/1.1|Host: canary-7d1c.localhost", 404, "no_route"),
    ("GET http://canary-7d1c.test/repos/x HTTP/1.1|Host: canary-7d1c.test", 404, "no_route"),
    ("GET http://127.0.0.1:1/repos/x HTTP/1.1|Host: 127.0.0.1:1", 404, "no_route"),
    ("OPTIONS * HTTP/1.1|HOST", 404, "no_route"),
    ("GET /api/canary-7d1c HTTP/1.1|HOST", 403, "path_denied"),
    ("GET /api/reposx HTTP/1.1|HOST", 403, "path_denied"),
    ("GET /api/repos/secret/canary-7d1c HTTP/1.1|HOST", 403, "path_denied"),
    ("DELETE /api/repos/canary-7d1c HTTP/1.1|HOST", 403, "method_denied"),
    ("POST /api/repos/a/canary-7d1c HTTP/1.1|HOST", 403, "method_denied"),
    ("get /api/repos/x HTTP/1.1|HOST", 403, "method_denied"),
    ("GET /api/repos//canary-7d1c HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/../canary-7d1c HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/./x HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/%2e%2E/canary-7d1c HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/.%2e;a=b/x HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/a%2Fcanary-7d1c HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/a;canary-7d1c HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/a%5Ccanary-7d1c HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/a%00 HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/a%0d%0aX:canary-7d1c HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/%252e%252e/x HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/%c0%ae%c0%ae/x HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/%zz HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/{\"canary-7d1c\":1} HTTP/1.1|HOST", 400, "path_ambiguous"),
    ("GET /api/repos/x HTTP/1.1|X-A: b", 400, "host_mismatch"),
    ("GET /api/repos/x HTTP/1.1|HOST|HOST", 400, "host_mismatch"),
    ("GET /api/repos/x HTTP/1.1|Host: canary-7d1c@localhost", 400, "host_mismatch"),
    ("GET /api/repos/x HTTP/1.1|Host: localhost:080", 400, "host_mismatch"),
    ("GET http://UPSTREAM/repos/x HTTP/1.1|Host: canary-7d1c.test", 400, "host_mismatch"),
    ("GET http://UPSTREAM/repos/x HTTP/1.1|X-A: b", 400, "host_mismatch"),
    ("GET /api/repos/x HTTP/1.1|Host: evil.test", 421, "host_unknown"),
    ("GET /api/repos/x HTTP/1.1|Host: canary-7d1c.test:8080", 421, "host_unknown"),
    ("GET /repos/x HTTP/1.1|Host: api.localhost.evil.test", 421, "host_unknown"),
    ("GET /api/repos/x HTTP/1.1|Host: 0.0.0.0", 421, "host_unknown"),
    ("GET /api/repos/x HTTP/1.1|HOST|Origin: https://canary-7d1c.test", 403, "browser_refused"),
    ("GET /api/repos/x HTTP/1.1|HOST|Origin: null", 403, "browser_refused"),
    (
        "OPTIONS /api/repos/x HTTP/1.1|HOST|Origin: https://a.test|Access-Control-Request-Method: GET",
        403,
        "browser_refused",
    ),
    ("GET /api/repos/x HTTP/1.1|HOST|Sec-Fetch-Site: cross-site", 403, "browser_refused"),
    ("GET /api/repos/x HTTP/1.1|HOST|Sec-Fetch-Site: same-site", 403, "browser_refused"),
    ("TRACE /api/repos/x HTTP/1.1|HOST", 405, "method_refused"),
    ("TRACK /api/repos/x HTTP/1.1|HOST", 405, "method_refused"),
    ("CANARY-7D1C-IN-A-METHOD-OF-MORE-THAN-32-BYTES /api/repos/x HTTP/1.1|HOST", 405, "method_refused"),
    ("CONNECT UPSTREAM HTTP/1.1|Host: UPSTREAM", 403, "tunnel_denied"),
    ("CONNECT canary-7d1c.test:443 HTTP/1.1|Host: canary-7d1c.test:443", 403, "tunnel_denied"),
    ("CONNECT UPSTREAM HTTP/1.0", 403, "tunnel_denied"),
    ("CONNECT UPSTREAM HTTP/1.1|Host: UPSTREAM|BODY", 400, "framing"),
    ("CONNECT UPSTREAM HTTP/1.1", 400, "host_mismatch"),
    ("GET /api/repos/x HTTP/1.1|HOST|Expect: canary-7d1c", 417, "expect_refused"),
    ("GET /api/repos/LONG HTTP/1.1|HOST", 414, "target_too_long"),
    ("GET /api/repos/x?LONG HTTP/1.1|HOST", 414, "target_too_long"),
    ("GET /api/repos/x HTTP/1.1|HOST|X-A: LARGE", 431, "headers_too_large"),
    ("GET /api/repos/x HTTP/1.1|HOST|MANY", 431, "headers_too_large"),
    ("GET /api/repos/x HTTP/1.1|HOST|CROWD", 431, "headers_too_large"),
    ("GET /api/repos/x HTTP/1.1|HOST|X A: canary-7d1c", 400, "framing"),
    ("GET /api/repos/x HTTP/7.3|HOST", 400, "framing"),
    ("canary-7d1c", 400, "framing"),
];

/// A request of the table, with the canary in a field and a body.
fn request(line: &str, upstream: &Upstream) -> String {
    let head = line
        .replace("HOST", "Host: localhost")
        .replace("UPSTREAM", &upstream.address.to_string())
        .replace("LONG", &CANARY.repeat(30))
        .replace("LARGE", &CANARY.repeat(800))
        .replace("CROWD", &format!("X-A: {CANARY}|").repeat(150))
        .replace("MANY", &format!("X-A: {CANARY}|").repeat(30))
        .replace('|', "\r\n");
    let has_body = !head.starts_with("CONNECT") || head.ends_with("BODY");
    let head = head.trim_end_matches("BODY").trim_end();
    let (length, body) =
        if has_body { (format!("Content-Length: {}\r\n", CANARY.len()), CANARY) } else { Default::default() };
    format!("{head}\r\nX-Canary: {CANARY}\r\nCookie: {CANARY}\r\n{length}\r\n{body}")
}

/// An answer of our own has one form.
fn judge(answer: &Answer, status: u16, reason: &str, case: &str) {
    assert_eq!(answer.refusal(), (status, reason.to_owned()), "{case}");
    let problem = answer.problem();
    assert_eq!(problem["type"], format!("urn:countersign:{reason}"), "{case}");
    assert_eq!(problem["status"], status, "{case}");
    for member in ["title", "detail", "request_id"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{case}: {member}");
    }
    for member in ["route", "token"] {
        assert!(problem.get(member).is_some(), "{case}: {member}");
    }
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{case}");
    let said = answer.header("proxy-status").expect("a Proxy-Status");
    assert!(said.starts_with("countersign; error="), "{case}: {said}");
    assert!(said.ends_with(&format!("; details={reason}")), "{case}: {said}");
    let whole = format!("{}{}", answer.head, answer.text()).to_ascii_lowercase();
    assert!(!whole.contains(CANARY), "{case}: {whole}");
}

#[tokio::test]
async fn a_refused_request_is_answered_in_one_form_counted_and_kept_from_the_upstream() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let limits = "target_bytes = 256\nheader_bytes = 8192\nheader_count = 20";
    let setup = Setup::new().limits(limits).token("api", &issuer, "").route("api", &upstream, ROUTE);
    let scene = setup.start().await;
    let mut ids = BTreeSet::new();
    for (line, status, reason) in TABLE {
        let before = scene.metric("countersign_refused_total", &[("reason", reason)]).await;
        let answer = scene.exchange(request(line, &upstream)).await;
        judge(&answer, *status, reason, line);
        assert!(ids.insert(answer.problem()["request_id"].to_string()), "each has a number of its own");
        let after = scene.metric("countersign_refused_total", &[("reason", reason)]).await;
        assert_eq!(after, before + 1.0, "{line}");
    }
    let count = TABLE.len() as f64;
    assert_eq!(scene.metric("countersign_refused_total", &[]).await, count);
    assert_eq!(scene.metric("countersign_requests_total", &[]).await, count);
    assert_eq!(scene.metric("countersign_token_uses_total", &[]).await, 0.0);
    assert_eq!((upstream.count(), upstream.connections()), (0, 0));
    let denied = scene.get("/api/denied").await.problem();
    assert_eq!((&denied["route"], &denied["token"]), (&"api".into(), &"api".into()));
    scene.finish().await;
}

#[tokio::test]
async fn a_connection_goes_on_after_a_refusal_that_leaves_no_doubt() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::new().token("api", &issuer, "").route("api", &upstream, ROUTE).start().await;
    let mut client = scene.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/api/denied").await.status, 403);
        assert_eq!(client.get("/api/repos/x").await.status, 200);
    }
    client.send("GET /api/repos/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert_eq!(client.answer().await.expect("an answer").header("connection"), Some("close"));
    assert!(client.is_closed().await);
    scene.finish().await;
}

#[tokio::test]
async fn what_is_no_well_formed_head_is_refused_and_its_connection_closed() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let heads = [
        "GET /api/x?canary-7d1c=\"a\" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET api/canary-7d1c HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /api/x HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n canary-7d1c\r\n\r\n",
        "GET /api/x HTTP/1.1\r\nHost: localhost\r\nX-A : canary-7d1c\r\n\r\n",
        "GET /api/x HTTP/1.1\r\nHost: localhost\r\nX-A: canary-7d1c\0\r\n\r\n",
        "POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: canary-7d1c\r\n\r\n",
        "POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9223372036854775808\r\n\r\ncanary-7d1c\n",
        "POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: +12\r\n\r\ncanary-7d1c\n",
        "POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\nContent-Length: 13\r\n\r\ncanary-7d1c\n",
    ];
    for head in heads {
        let mut client = scene.client().await;
        client.send(head).await;
        judge(&client.answer().await.expect("an answer"), 400, "framing", head);
        assert!(client.is_closed().await, "{head:?}");
    }
    assert_eq!(scene.metric("countersign_refused_total", &[("reason", "framing")]).await, heads.len() as f64);
    assert_eq!(upstream.connections(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn heads_far_beyond_the_limits_are_refused_before_they_are_kept() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let heads = [
        format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\n{}\r\n", format!("X-A: {CANARY}\r\n").repeat(500)),
        format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\nX-A: {}\r\n\r\n", CANARY.repeat(20_000)),
        format!("GET /api/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", CANARY.repeat(10_000)),
    ];
    for head in heads {
        let answer = scene.exchange(&head).await;
        assert!([414, 431].contains(&answer.status), "{}", answer.head);
        assert!(!answer.head.contains(CANARY) && !answer.text().contains(CANARY));
    }
    assert_eq!(upstream.connections(), 0);
    scene.finish().await;
}

async fn with_clients(clients: &[(&str, u32)], route: &str) -> (Issuer, Upstream, Scene) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let mut setup = Setup::new().token("api", &issuer, "");
    for (name, uid) in clients {
        setup = setup.client(name, &format!("uid = {uid}"));
    }
    let scene = setup.route("api", &upstream, route).start().await;
    (issuer, upstream, scene)
}

/// A user that is not us.
const OTHER: u32 = 4242;

#[tokio::test]
async fn a_process_that_is_no_client_gets_nothing() {
    let (_issuer, upstream, scene) = with_clients(&[("app", OTHER)], r#"token = "api""#).await;
    let spoofed = "X-Forwarded-For: 127.0.0.1\r\nForwarded: for=app\r\nX-Client: app";
    let request = format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\n{spoofed}\r\n\r\n");
    judge(&scene.exchange(&request).await, 403, "client_unknown", "tcp");
    let mut client = crate::support::Client::unix(&scene.socket).await;
    client.send(&request).await;
    judge(&client.answer().await.expect("an answer"), 403, "client_unknown", "unix");
    assert_eq!(scene.metric("countersign_refused_total", &[("reason", "client_unknown")]).await, 2.0);
    assert_eq!(upstream.connections(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn a_route_of_another_client_is_denied() {
    let own = rustix::process::geteuid().as_raw();
    let route = "token = \"api\"\nclients = [\"other\"]";
    let (_issuer, upstream, scene) = with_clients(&[("me", own), ("other", OTHER)], route).await;
    let absolute = format!("GET http://{0}/x HTTP/1.1\r\nHost: {0}\r\n\r\n", upstream.address);
    judge(&scene.get("/api/x").await, 403, "route_denied", "by prefix");
    judge(&scene.exchange(absolute).await, 403, "route_denied", "by authority");
    let labels = [("route", "api"), ("client", "me"), ("status_class", "4xx")];
    assert_eq!(scene.metric("countersign_requests_total", &labels).await, 2.0);
    assert_eq!(upstream.connections(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn over_http2_a_refusal_without_a_body_ends_with_its_head() {
    let (_issuer, _upstream, scene) = with_clients(&[], r#"token = "api""#).await;
    let stream = tokio::net::TcpStream::connect(scene.proxy).await.expect("connects");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("HTTP/2");
    let mut running = tokio::task::JoinSet::new();
    running.spawn(connection);
    let head = http::Request::head("http://localhost/unknown/x");
    // gRPC takes a status for one only where the stream ends with it.
    let call = http::Request::post("http://localhost/unknown/x").header("content-type", "application/grpc");
    for (request, status) in [(head, 404), (call, 200)] {
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), status);
        assert!(hyper::body::Body::is_end_stream(answer.body()), "{:?}", answer.headers());
    }
    scene.finish().await;
}
