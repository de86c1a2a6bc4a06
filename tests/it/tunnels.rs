//! CONNECT: tunnels that are looked into, tunnels that nobody looks into, and those that lead nowhere.

use std::io;
use std::sync::Arc;

use countersign::interception::Interception;
use countersign::store::Store;
use countersign::tls;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::task::JoinSet;

use crate::support::certificate::Certificate;
use crate::support::raw::RawConnection;
use crate::support::{Client, Issuer, RawUpstream, Scene, Setup, Upstream, soon, trail};

const TOKEN: &str = "token = \"api\"\n";

fn connect(authority: &str) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
}

/// The local authority, as an app gets it.
fn exported(scene: &Scene) -> String {
    let store = Store::open(&scene.folder().join("state"), None).expect("a store");
    Interception::exported(&store).expect("readable").expect("an authority")
}

/// What an app trusts that was told of the local authority, and of nothing else.
pub fn told(scene: &Scene, protocols: &[&str]) -> Arc<ClientConfig> {
    trusting_all(&exported(scene), protocols)
}

fn trusting_all(certificates: &str, protocols: &[&str]) -> Arc<ClientConfig> {
    let roots = CertificateDer::pem_slice_iter(certificates.as_bytes()).map(|root| root.expect("a certificate"));
    trusting(roots, protocols)
}

pub fn trusting<'c>(
    certificates: impl IntoIterator<Item = CertificateDer<'c>>,
    protocols: &[&str],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in certificates {
        roots.add(root.into_owned()).expect("a root");
    }
    let builder = ClientConfig::builder_with_provider(tls::provider());
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A connection inside of a tunnel to the upstream, by the name that the handshake says.
async fn inside(scene: &Scene, authority: &str, name: &str) -> io::Result<Client> {
    let mut client = scene.client().await;
    client.send(connect(authority)).await;
    let answer = client.head().await?;
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert_eq!((answer.header("content-length"), answer.header("transfer-encoding")), (None, None));
    client.over_tls(name, told(scene, &["http/1.1"])).await
}

/// Both ends of a tunnel that nobody looks into.
pub async fn blind(scene: &Scene, upstream: &RawUpstream) -> (Client, RawConnection) {
    let mut client = scene.client().await;
    client.send(connect(&upstream.address.to_string())).await;
    assert_eq!(client.head().await.expect("an answer").status, 200);
    let root = CertificateDer::from_pem_file(upstream.certificate.ca()).expect("a certificate");
    let shaking = client.over_tls("127.0.0.1", trusting([root], &["http/1.1"]));
    let (client, connection) = tokio::join!(shaking, upstream.accept());
    (client.expect("the upstream itself"), connection)
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// A route that intercepts, to an upstream by this name.
async fn intercepting(more: &str) -> (Issuer, Upstream, Scene, String) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let setup =
        Setup::new().token("api", &issuer, "").route("api", &upstream, &format!("{TOKEN}intercept = true\n{more}"));
    let scene = setup.start().await;
    scene.ready().await;
    let authority = upstream.address.to_string();
    (issuer, upstream, scene, authority)
}

#[tokio::test]
async fn a_tunnel_is_looked_into_and_its_requests_get_their_token() {
    let (_issuer, upstream, scene, authority) = intercepting("deny = [\"DELETE /**\"]").await;
    let mut client = inside(&scene, &authority, "127.0.0.1").await.expect("a tunnel");
    for turn in 1..=3 {
        client.send(get(&format!("/x/{turn}"), &authority)).await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
    }
    client.send(format!("DELETE /x/1 HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
    let denied = client.answer().await.expect("an answer");
    assert_eq!(denied.refusal(), (403, "path_denied".to_owned()), "the route's rules hold in a tunnel too");
    let seen = upstream.seen();
    let targets: Vec<_> = seen.iter().map(|seen| seen.target.as_str()).collect();
    assert_eq!(targets, ["/x/1", "/x/2", "/x/3"]);
    assert!(seen.iter().all(|seen| seen.header("authorization") == Some("Bearer tok-1")), "{seen:?}");
    let labels = [("route", "api"), ("status_class", "2xx")];
    assert_eq!(scene.metric("countersign_requests_total", &labels).await, 3.0);
    scene.finish().await;
}

#[tokio::test]
async fn what_comes_in_a_tunnel_is_for_its_own_authority() {
    let (_issuer, upstream, scene, authority) = intercepting("").await;
    let port = upstream.address.port();
    let other_port = format!("127.0.0.1:{}", port ^ 1);
    for request in [
        get("/x", "localhost"),
        get("/x", "api.localhost"),
        get("/x", &other_port),
        get("/x", "other.test"),
        get("/x", "127.0.0.1"),
        get(&format!("https://{other_port}/x"), &other_port),
        get(&format!("https://{authority}/x"), &other_port),
        get(&format!("http://{authority}/x"), &authority),
        format!("GET /x HTTP/1.1\r\nHost: {authority}\r\nHost: {authority}\r\n\r\n"),
        "GET /x HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        let mut client = inside(&scene, &authority, "127.0.0.1").await.expect("a tunnel");
        client.send(&request).await;
        let answer = client.answer().await.expect("an answer");
        assert_eq!(answer.refusal(), (400, "host_mismatch".to_owned()), "{request}");
    }
    let mut client = inside(&scene, &authority, "127.0.0.1").await.expect("a tunnel");
    client.send(connect(&authority)).await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.refusal(), (403, "tunnel_denied".to_owned()), "no tunnel in a tunnel");
    assert_eq!(upstream.seen().len(), 0);
    // The absolute form of the very authority is as good.
    let mut client = inside(&scene, &authority, "127.0.0.1").await.expect("a tunnel");
    client.send(get(&format!("https://{authority}/x"), &authority)).await;
    assert_eq!(client.answer().await.expect("an answer").status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn the_name_in_the_handshake_is_that_of_the_tunnel() {
    let certificate = Certificate::new(&["api.test"], &["http/1.1"]);
    let (issuer, upstream) = (Issuer::start().await, Upstream::with("127.0.0.1", certificate).await);
    let port = upstream.address.port();
    let route = format!("{TOKEN}intercept = true\n");
    let setup = Setup::new()
        .token("api", &issuer, "hosts = [\"api.test\"]\n")
        .route("api", &upstream, &format!("upstream = \"https://api.test:{port}\"\n{route}"))
        .resolver(|_| Ok(vec![[127, 0, 0, 1].into()]));
    let scene = setup.start().await;
    scene.ready().await;
    let authority = format!("api.test:{port}");
    let mut client = inside(&scene, &authority, "api.test").await.expect("a tunnel");
    client.send(get("/x", &authority)).await;
    assert_eq!(client.answer().await.expect("an answer").status, 200);
    assert!(inside(&scene, &authority, "other.test").await.is_err());
    assert!(inside(&scene, &authority, "x.api.test").await.is_err());
    scene.finish().await;
}

#[tokio::test]
async fn http2_is_spoken_in_a_tunnel() {
    let (_issuer, upstream, scene, authority) = intercepting("").await;
    let mut client = scene.client().await;
    client.send(connect(&authority)).await;
    assert_eq!(client.head().await.expect("an answer").status, 200);
    let tls = client.tls_stream("127.0.0.1", told(&scene, &["h2"])).await.expect("a handshake");
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.expect("a connection");
    let mut serving = JoinSet::new();
    serving.spawn(connection);
    for (host, status) in [(authority.as_str(), 200), ("other.test", 400), (authority.as_str(), 200)] {
        let request = http::Request::get(format!("https://{host}/x")).body(Empty::<bytes::Bytes>::new());
        let answer = soon("an answer", sender.send_request(request.expect("a request"))).await.expect("an answer");
        assert_eq!(answer.status(), status, "{host}");
        answer.into_body().collect().await.expect("a body");
    }
    assert_eq!(upstream.seen().len(), 2);
    drop((sender, serving));
    scene.finish().await;
}

#[tokio::test]
async fn no_tunnel_leads_where_a_token_would_be_missing() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let (ruled, open) = (Upstream::http1().await, RawUpstream::start().await);
    let setup = Setup::new()
        .token("api", &issuer, "")
        .route("api", &upstream, TOKEN)
        .route("ruled", &ruled, "allow = [\"GET /**\"]\n")
        .route("open", &open, "")
        .proxy("unrouted = \"tunnel\"");
    let scene = setup.start().await;
    scene.ready().await;
    let denied = (403, "tunnel_denied".to_owned());
    for (authority, why) in [
        (upstream.address.to_string(), "a token belongs there, and the route does not intercept"),
        (ruled.address.to_string(), "its rules could not be judged"),
        ("127.0.0.1:443".to_owned(), "a host of a route, on another port"),
        ("elsewhere.test:8443".to_owned(), "no other port than 443"),
    ] {
        let answer = scene.exchange(connect(&authority)).await;
        assert_eq!(answer.refusal(), denied, "{authority}: {why}");
        assert!(answer.text().contains("intercept = true"), "{}", answer.text());
    }
    let metadata = scene.exchange(connect("169.254.169.254:443")).await;
    assert_eq!(metadata.refusal(), (403, "destination_prohibited".to_owned()));
    let (mut client, mut connection) = blind(&scene, &open).await;
    client.send("whatever").await;
    assert_eq!(connection.bytes(8).await, b"whatever");
    connection.write("it says").await;
    assert_eq!(client.bytes(7).await.expect("bytes"), b"it says");
    connection.close().await;
    assert!(client.is_closed().await);
    drop(client);
    scene.reaches("countersign_tunnels_total", &[("outcome", "ended")], 1.0).await;
    for direction in ["request", "response"] {
        let bytes = scene.metric("countersign_tunnel_bytes_total", &[("direction", direction)]).await;
        assert!(bytes > 100.0, "a handshake, and some words: {bytes}");
    }
    let records = scene.finish().await;
    assert!(trail::of(&records, "token_issued").len() == 1);
    assert_eq!((upstream.seen().len(), ruled.seen().len()), (0, 0));
}

#[tokio::test]
async fn without_being_asked_for_no_tunnel_leads_to_hosts_without_a_route() {
    let scene = Setup::new().start().await;
    let answer = scene.exchange(connect("elsewhere.test:443")).await;
    assert_eq!(answer.refusal(), (403, "tunnel_denied".to_owned()));
    let old = scene.exchange("CONNECT elsewhere.test:443 HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.refusal(), (403, "tunnel_denied".to_owned()));
    scene.finish().await;
}

#[tokio::test]
async fn a_client_that_offers_http_1_0_alone_is_looked_into() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let setup = Setup::new().token("api", &issuer, "");
    let scene = setup.route("api", &upstream, "token = \"api\"\nintercept = true").start().await;
    scene.ready().await;
    let authority = upstream.address.to_string();
    let mut client = scene.client().await;
    client.send(format!("CONNECT {authority} HTTP/1.0\r\n\r\n")).await;
    assert_eq!(client.head().await.expect("an answer").status, 200);
    let mut inside = client.over_tls("127.0.0.1", told(&scene, &["http/1.0"])).await.expect("a handshake");
    inside.send(format!("GET /x HTTP/1.0\r\nHost: {authority}\r\n\r\n")).await;
    assert_eq!(inside.answer().await.expect("an answer").status, 200);
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-1"]);
    scene.finish().await;
}

#[tokio::test]
async fn a_tunnel_carries_no_more_than_it_may() {
    let open = RawUpstream::start().await;
    let scene = Setup::new().route("open", &open, "").limits("tunnel_bytes = \"1KiB\"").start().await;
    let mut client = scene.client().await;
    client.send(connect(&open.address.to_string())).await;
    assert_eq!(client.head().await.expect("an answer").status, 200);
    client.send(vec![b'x'; 1025]).await;
    assert!(client.is_closed().await);
    scene.reaches("countersign_tunnels_total", &[("outcome", "too_large")], 1.0).await;
    scene.finish().await;
}

#[tokio::test]
async fn the_authority_is_kept_and_another_is_made_for_other_hosts() {
    let (issuer, upstream, other) = (Issuer::start().await, Upstream::http1().await, Upstream::http1().await);
    let route = format!("{TOKEN}intercept = true\n");
    let setup = Setup::new().token("api", &issuer, "").route("api", &upstream, &route);
    let folder = Arc::new(tempfile::TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "first-client-secret\n").expect("written");
    let scene = Scene::start_in(folder.clone(), &setup).await;
    let first = exported(&scene);
    // The same host on another port is the same to a certificate.
    scene.reload(&setup.clone().route("other", &other, &route)).await.expect("reloads");
    assert_eq!(exported(&scene), first);
    scene.finish().await;
    let scene = Scene::start_in(folder.clone(), &setup).await;
    assert_eq!(exported(&scene), first);
    let named = setup
        .clone()
        .token("named", &issuer, "hosts = [\"other.test\"]\n")
        .route("named", &other, "upstream = \"https://other.test\"\ntoken = \"named\"\nintercept = true\n")
        .resolver(|_| Ok(vec![[127, 0, 0, 1].into()]));
    scene.reload(&named).await.expect("reloads");
    let both = exported(&scene);
    assert!(both.starts_with(&first) && both.matches("BEGIN CERTIFICATE").count() == 2, "one more: {both}");
    // An app that runs trusts the first, and goes on.
    let mut client = scene.client().await;
    client.send(connect(&upstream.address.to_string())).await;
    assert_eq!(client.head().await.expect("an answer").status, 200);
    let trusting_the_first = trusting_all(&first, &["http/1.1"]);
    let mut client = client.over_tls("127.0.0.1", trusting_the_first).await.expect("a handshake");
    client.send(get("/x", &upstream.address.to_string())).await;
    assert_eq!(client.answer().await.expect("an answer").status, 200);
    let kept: Vec<u8> = std::fs::read_dir(folder.path().join("state/sealed"))
        .expect("a folder")
        .flat_map(|entry| std::fs::read(entry.expect("an entry").path()).expect("readable"))
        .collect();
    assert!(!kept.windows(11).any(|bytes| bytes == b"PRIVATE KEY"), "it is sealed");
    scene.reload(&setup).await.expect("reloads");
    assert_eq!(exported(&scene), first, "what no route needs any more is gone");
    scene.finish().await;
}

#[tokio::test]
async fn a_tunnel_takes_one_of_the_routes_places_until_the_proxys_own_end() {
    let open = RawUpstream::start().await;
    let measured = Upstream::http1().await;
    let setup = Setup::new()
        .route("open", &open, "limits = { concurrency = 1 }\n")
        .route("measured", &measured, "limits = { body = \"1MiB\" }\n")
        .drain("100ms");
    let scene = setup.start().await;
    let (mut client, mut connection) = blind(&scene, &open).await;
    let second = scene.exchange(connect(&open.address.to_string())).await;
    assert_eq!(second.refusal(), (503, "overloaded".to_owned()));
    let unmeasured = scene.exchange(connect(&measured.address.to_string())).await;
    assert_eq!(unmeasured.refusal(), (403, "tunnel_denied".to_owned()), "nobody could measure its bodies");
    connection.write("until the end").await;
    assert_eq!(client.bytes(13).await.expect("bytes"), b"until the end");
    scene.finish().await;
    assert!(client.is_closed().await);
}

/// The time for a head begins with its first byte: a handshake is none.
#[tokio::test]
async fn an_app_may_rest_between_its_handshake_and_its_first_request() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let route = format!("{TOKEN}intercept = true\n");
    let setup = Setup::new().token("api", &issuer, "").route("api", &upstream, &route);
    let scene = setup.limits("header_timeout = \"300ms\"").start().await;
    scene.ready().await;
    let authority = upstream.address.to_string();
    let mut client = inside(&scene, &authority, "127.0.0.1").await.expect("a tunnel");
    // Another connection stalls for longer than a head may take.
    let mut stalled = scene.client().await;
    stalled.send("GET /x HTTP/1.1\r\n").await;
    assert_eq!(stalled.answer().await.expect("an answer").refusal(), (408, "request_timeout".to_owned()));
    client.send(get("/x", &authority)).await;
    assert_eq!(client.answer().await.expect("an answer").status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_ends_with_its_time() {
    let (_issuer, upstream, scene, authority) = {
        let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
        let route = format!("{TOKEN}intercept = true\n");
        let setup = Setup::new().token("api", &issuer, "").route("api", &upstream, &route);
        let scene = setup.limits("header_timeout = \"300ms\"").start().await;
        scene.ready().await;
        let authority = upstream.address.to_string();
        (issuer, upstream, scene, authority)
    };
    let mut client = scene.client().await;
    client.send(connect(&authority)).await;
    assert_eq!(client.head().await.expect("an answer").status, 200);
    client.send(b"\x16\x03\x01").await;
    assert!(client.is_closed().await);
    assert_eq!(upstream.seen().len(), 0);
    scene.finish().await;
}
