//! Listeners under TLS: clients of other machines, known by their certificates.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign::secret::Reference;
use countersign::tls::{self, Alpn, Identity};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use rustls::HandshakeKind;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::certificate::{Ca, Leaf};
use crate::support::{Client, Http2Client, Issuer, RawUpstream, SOON, Scene, Setup, Upstream, log, soon, wait_until};
use crate::tunnels;

const BILLING: &str = "spiffe://example.org/ns/prod/sa/billing";

/// What a listener under TLS needs, and who calls it.
struct Place {
    folder: TempDir,
    /// Vouches for clients.
    apps: Ca,
    /// Vouches for us.
    own: Ca,
    issuer: Issuer,
    upstream: Upstream,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (apps, own) = (Ca::new(), Ca::new());
        apps.write(&folder.path().join("apps.pem"));
        own.write(&folder.path().join("own.pem"));
        let place = Self { folder, apps, own, issuer: Issuer::start().await, upstream: Upstream::http1().await };
        place.show(&place.own.sign(&["127.0.0.1", "proxy.example"], |_| {}));
        place
    }

    /// Writes what we prove ourselves with.
    fn show(&self, leaf: &Leaf) {
        leaf.write(self.folder.path(), "proxy");
    }

    /// A route `api`, and the two clients `billing` (by its SPIFFE ID) and `reports` (by a name).
    fn setup(&self) -> Setup {
        let at = self.folder.path().display();
        let tls = format!(
            "tls = {{ cert = \"file:{at}/proxy.pem\", key = \"file:{at}/proxy.key\", client_ca = \"file:{at}/apps.pem\" }}"
        );
        Setup::api(&self.issuer, &self.upstream)
            .listen(r#"["127.0.0.1:0", "unix:proxy.sock", "tls:127.0.0.1:0"]"#)
            .proxy(&tls)
            .client("billing", &format!("spiffe = \"{BILLING}\""))
            .client("reports", "dns = \"reports.apps.example\"")
    }

    async fn start(&self, setup: &Setup) -> Scene {
        let scene = setup.start().await;
        scene.ready().await;
        scene
    }

    /// A certificate in files, with these URIs and names.
    fn leaf(&self, name: &str, ca: &Ca, uris: &[&str], names: &[&str]) -> Identity {
        self.changed(name, ca, names, |leaf| add_uris(leaf, uris))
    }

    fn changed(&self, name: &str, ca: &Ca, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        ca.sign(names, change).write(self.folder.path(), name);
        let file = |end: &str| self.folder.path().join(format!("{name}.{end}"));
        Identity { certificate: file("pem"), key: Reference::File(file("key")) }
    }

    fn billing(&self) -> Identity {
        self.leaf("billing", &self.apps, &[BILLING], &[])
    }

    /// How an app is set up that trusts us, and shows this.
    fn app(&self, identity: Option<Identity>, alpn: Alpn) -> Arc<rustls::ClientConfig> {
        let settings = tls::Settings { ca: Some(self.path("own.pem")), identity, pins: Vec::new() };
        settings.client_config(alpn).expect("a client")
    }

    async fn connect(&self, scene: &Scene, identity: Option<Identity>) -> io::Result<Client> {
        soon("a handshake", Client::tls(address(scene), self.app(identity, Alpn::Http1))).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One request of an app that shows this; an error where the handshake fails, of which an app with TLS 1.3 may learn late.
    async fn asked(&self, scene: &Scene, identity: Option<Identity>, fields: &str) -> io::Result<(u16, String)> {
        let mut client = self.connect(scene, identity).await?;
        client.send(format!("GET /api/x HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", address(scene))).await;
        let answer = client.answer().await?;
        Ok(if answer.status == 200 { (200, "passes".to_owned()) } else { answer.refusal() })
    }
}

fn address(scene: &Scene) -> SocketAddr {
    scene.under_tls.expect("a listener under TLS")
}

fn add_uris(leaf: &mut CertificateParams, uris: &[&str]) {
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    leaf.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("a URI"))));
}

async fn failed(scene: &Scene, why: &str) -> f64 {
    scene.metric("countersign_tls_handshakes_failed_total", &[("why", why)]).await
}

#[tokio::test]
async fn a_client_is_known_by_the_names_of_its_certificate() {
    let place = Place::new().await;
    let scene = place.start(&place.setup()).await;
    let apps = &place.apps;
    for (what, identity) in [
        ("an ID", place.billing()),
        ("an ID with names", place.leaf("named", apps, &[BILLING], &["billing.apps.example"])),
        ("a name", place.leaf("reports", apps, &[], &["other.example", "Reports.Apps.Example"])),
        ("below an authority", place.leaf("below", &apps.intermediate(|_| {}), &[BILLING], &[])),
    ] {
        let outcome = place.asked(&scene, Some(identity), "").await.expect(what);
        assert_eq!(outcome, (200, "passes".to_owned()), "{what}");
    }
    assert!(place.upstream.seen().iter().all(|seen| seen.all("authorization") == ["Bearer tok-1"]));
    for (client, count) in [("billing", 3.0), ("reports", 1.0)] {
        scene.reaches("countersign_requests_total", &[("client", client)], count).await;
    }
    let in_subject = |leaf: &mut CertificateParams| {
        leaf.distinguished_name.push(DnType::CommonName, "reports.apps.example");
    };
    for (what, identity) in [
        ("another ID", place.leaf("other", apps, &["spiffe://example.org/ns/prod/sa/billing2"], &[])),
        ("another trust domain", place.leaf("domain", apps, &["spiffe://example.com/ns/prod/sa/billing"], &[])),
        ("two IDs", place.leaf("two", apps, &[BILLING, "spiffe://example.org/x"], &["reports.apps.example"])),
        ("an ID and a URL", place.leaf("url", apps, &["https://example.org/", BILLING], &[])),
        ("another name", place.leaf("else", apps, &[], &["else.apps.example"])),
        ("a wildcard", place.leaf("wild", apps, &[], &["*.apps.example"])),
        ("a name in the subject alone", place.changed("subject", apps, &["x.example"], in_subject)),
        ("the names of two clients", place.leaf("both", apps, &[BILLING], &["reports.apps.example"])),
    ] {
        let outcome = place.asked(&scene, Some(identity), "").await.expect(what);
        assert_eq!(outcome, (403, "client_unknown".to_owned()), "{what}");
    }
    assert_eq!(scene.metric("countersign_refused_total", &[("reason", "client_unknown")]).await, 8.0);
    assert_eq!(scene.get("/api/x").await.refusal(), (403, "client_unknown".to_owned()), "without TLS nobody is known");
    let detail = scene.get("/api/x").await.problem()["detail"].to_string();
    assert!(detail.contains("`spiffe`"), "{detail}");
    assert_eq!(place.upstream.count(), 4);
    scene.finish().await;
}

#[tokio::test]
async fn who_proves_nothing_comes_to_nothing_and_is_counted() {
    let place = Place::new().await;
    let scene = place.start(&place.setup()).await;
    let (apps, strangers) = (&place.apps, Ca::new());
    let with = |name: &str, change: fn(&mut CertificateParams)| {
        place.changed(name, apps, &["reports.apps.example"], |leaf| {
            add_uris(leaf, &[BILLING]);
            change(leaf);
        })
    };
    for (what, identity, why) in [
        ("no certificate", None, "no_certificate"),
        ("of another authority", Some(place.leaf("stranger", &strangers, &[BILLING], &[])), "certificate"),
        ("of our own authority", Some(place.leaf("server", &place.own, &[BILLING], &[])), "certificate"),
        ("expired", Some(with("expired", |leaf| leaf.not_after = date_time_ymd(2020, 1, 1))), "certificate"),
        ("not yet valid", Some(with("early", |leaf| leaf.not_before = date_time_ymd(4000, 1, 1))), "certificate"),
        (
            "for servers only",
            Some(with("usage", |leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
            "certificate",
        ),
    ] {
        let before = failed(&scene, why).await;
        assert!(place.asked(&scene, identity, "").await.is_err(), "{what}");
        let labels = [("why", why)];
        scene.reaches("countersign_tls_handshakes_failed_total", &labels, before + 1.0).await;
    }
    let mut plain = Client::tcp(address(&scene)).await;
    plain.send("GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(!plain.rest().await.0.starts_with(b"HTTP"), "nobody is answered in the clear");
    assert_eq!(failed(&scene, "protocol").await, 1.0);
    let trusts_another = tls::Settings { ca: Some(place.path("apps.pem")), ..tls::Settings::default() };
    let app = trusts_another.client_config(Alpn::Http1).expect("a client");
    assert!(Client::tls(address(&scene), app).await.is_err());
    scene.reaches("countersign_tls_handshakes_failed_total", &[("why", "alert")], 1.0).await;
    let told = |why: &str| {
        let line = format!("why=\"{why}\"");
        log::text().lines().any(|text| text.contains("handshakes of clients failed") && text.contains(&line))
    };
    wait_until("the failures are told", SOON, async || told("no_certificate") && told("certificate")).await;
    assert_eq!(place.upstream.count(), 0);
    assert_eq!(place.asked(&scene, Some(place.billing()), "").await.expect("an answer").0, 200);
    scene.finish().await;
}

#[tokio::test]
async fn a_certificate_may_be_lacked_where_a_client_is_known_by_its_key_alone() {
    const KEY: &str = "sk-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH0001";
    let place = Place::new().await;
    std::fs::write(place.path("laptop.key"), KEY).expect("written");
    let with_key =
        |setup: Setup| setup.client("laptop", &format!("key = \"file:{}\"", place.path("laptop.key").display()));
    let scene = place.start(&with_key(place.setup())).await;
    let fields = format!("X-Api-Key: {KEY}\r\n");
    let asked = async |identity, fields: &str| place.asked(&scene, identity, fields).await;
    assert_eq!(asked(None, &fields).await.expect("an answer").0, 200);
    assert_eq!(asked(None, "").await.expect("an answer"), (407, "client_auth_required".to_owned()));
    assert_eq!(asked(Some(place.billing()), "").await.expect("an answer").0, 200);
    let unknown = (403, "client_unknown".to_owned());
    assert_eq!(asked(Some(place.billing()), &fields).await.expect("an answer"), unknown, "the key of another");
    scene.reaches("countersign_tripwires_total", &[("client", "laptop"), ("cause", "other_client")], 1.0).await;
    let stranger = place.leaf("nobody", &place.apps, &[], &["nobody.example"]);
    assert_eq!(asked(Some(stranger), "").await.expect("an answer"), unknown);
    let other = place.leaf("stranger", &Ca::new(), &[BILLING], &[]);
    assert!(asked(Some(other), &fields).await.is_err(), "what is shown has to be good");
    scene.reload(&place.setup()).await.expect("taken");
    wait_until("a certificate is asked of everybody", SOON, async || asked(None, &fields).await.is_err()).await;
    scene.reload(&with_key(place.setup())).await.expect("taken");
    wait_until("it may be lacked again", SOON, async || asked(None, &fields).await.is_ok()).await;
    scene.finish().await;
}

#[tokio::test]
async fn both_protocols_are_spoken_and_links_lead_back_under_tls() {
    let place = Place::new().await;
    let authority = place.upstream.address;
    place.upstream.answers(move |seen| {
        let answer = crate::support::upstream::as_the_path_says(seen);
        answer.header("location", &format!("https://{authority}/next"))
    });
    let scene = place.start(&place.setup()).await;
    let port = address(&scene).port();
    for (base, name) in [
        (format!("https://proxy.example:{port}"), "proxy.example"),
        ("https://proxy.example".to_owned(), "proxy.example"),
        (format!("https://127.0.0.1:{port}"), "127.0.0.1"),
    ] {
        let stream = Client::tcp(address(&scene)).await;
        let app = place.app(Some(place.billing()), Alpn::Http2OrHttp1);
        let stream = stream.tls_stream(name, app).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut client = Http2Client::over(stream, &base).await;
        for _ in 0..3 {
            let answer = client.get("/api/x").await;
            assert_eq!((answer.status, answer.text()), (200, "ok"), "{base}");
            assert_eq!(answer.headers["location"], format!("{base}/api/next").as_str());
        }
    }
    let mut client = place.connect(&scene, Some(place.billing())).await.expect("a handshake");
    for (host, outcome) in [
        ("proxy.example", "https://proxy.example/api/next"),
        ("127.0.0.1:1", "https://127.0.0.1:1/api/next"),
        ("localhost", "https://localhost/api/next"),
        ("api.localhost", ""),
        ("other.example", ""),
        ("api.proxy.example", ""),
    ] {
        client.send(format!("GET /api/x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let answer = client.answer().await.expect("an answer");
        match outcome {
            "" if host == "api.localhost" => assert_eq!(answer.header("location"), Some("https://api.localhost/next")),
            "" => assert_eq!(answer.refusal(), (421, "host_unknown".to_owned()), "{host}"),
            link => assert_eq!(answer.header("location"), Some(link), "{host}"),
        }
    }
    // As a proxy, we lead to the upstream's plain form.
    client.send(format!("GET http://{authority}/x HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.header("location"), Some(format!("http://{authority}/next").as_str()));
    scene.finish().await;
}

#[tokio::test]
async fn tunnels_and_websockets_work_as_on_a_plain_listener() {
    let place = Place::new().await;
    let socket = RawUpstream::start().await;
    let setup = place.setup().without("route", "api");
    let setup = setup.route("api", &place.upstream, "token = \"api\"\nintercept = true");
    let setup = setup.route("chat", &socket, "token = \"api\"\nwebsocket = true");
    let scene = place.start(&setup).await;
    let authority = place.upstream.address.to_string();
    let mut client = place.connect(&scene, Some(place.billing())).await.expect("a handshake");
    client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
    assert_eq!(client.head().await.expect("an answer").status, 200);
    let mut inside = client.over_tls("127.0.0.1", tunnels::told(&scene, &["http/1.1"])).await.expect("a tunnel");
    for _ in 0..2 {
        inside.send(format!("GET /x HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
        assert_eq!(inside.answer().await.expect("an answer").status, 200);
    }
    assert_eq!(place.upstream.last().all("authorization"), ["Bearer tok-1"]);
    scene.reaches("countersign_requests_total", &[("client", "billing"), ("route", "api")], 2.0).await;

    let mut client = place.connect(&scene, Some(place.billing())).await.expect("a handshake");
    client.send(CHAT).await;
    let mut connection = socket.accept().await;
    let head = connection.head().await.to_ascii_lowercase();
    assert!(head.contains("authorization: bearer tok-1\r\n"), "{head}");
    connection.write(format!("{CHAT_ANSWER}hello")).await;
    assert_eq!(client.head().await.expect("an answer").status, 101);
    assert_eq!(client.bytes(5).await.expect("bytes"), b"hello");
    client.send("ping").await;
    assert_eq!(connection.bytes(4).await, b"ping");
    connection.close().await;
    assert!(client.is_closed().await);
    scene.finish().await;
}

const CHAT: &str = "GET /chat/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const CHAT_ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                           Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Connects as this app; how the handshake went, and the serial number of who answered.
async fn shaken(scene: &Scene, app: &Arc<rustls::ClientConfig>) -> io::Result<(HandshakeKind, Vec<u8>)> {
    let client = Client::tcp(address(scene)).await;
    let mut stream = client.tls_stream("127.0.0.1", app.clone()).await?;
    // What a server has to say after a handshake, such as a ticket or an alert, comes before its answer.
    let request = format!("GET /api/x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", address(scene));
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await?;
    let mut answer = Vec::new();
    soon("an answer", tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer)).await?;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let (_, tls) = stream.get_ref();
    let shown = tls.peer_certificates().and_then(<[_]>::first).expect("a certificate");
    Ok((tls.handshake_kind().expect("a handshake"), shown.to_vec()))
}

#[tokio::test]
async fn files_are_followed_under_live_connections_and_nothing_is_resumed() {
    let place = Place::new().await;
    let scene = place.start(&place.setup()).await;
    let app = place.app(Some(place.billing()), Alpn::Http1);
    let mut live = place.connect(&scene, Some(place.billing())).await.expect("a handshake");
    assert_eq!(live.get("/api/x").await.status, 200);
    let (kind, first) = shaken(&scene, &app).await.expect("an answer");
    assert_eq!(kind, HandshakeKind::Full);
    assert_eq!(shaken(&scene, &app).await.expect("an answer"), (HandshakeKind::Full, first.clone()), "not resumed");

    place.show(&place.own.sign(&["127.0.0.1"], |_| {}));
    let is_new = async || shaken(&scene, &app).await.expect("no handshake fails meanwhile").1 != first;
    wait_until("the new certificate is shown", SOON, is_new).await;
    assert_eq!(scene.recorded("listener_certificates_replaced", 1).await.len(), 1);
    assert_eq!(live.get("/api/x").await.status, 200, "what is live goes on");

    let mut rests = place.connect(&scene, Some(place.billing())).await.expect("a handshake");
    assert_eq!(rests.get("/api/x").await.status, 200);
    let (_, second) = shaken(&scene, &app).await.expect("an answer");
    std::fs::write(place.path("proxy.key"), "no key").expect("written");
    let refused = scene.recorded("listener_certificates_refused", 1).await;
    assert!(refused[0]["detail"].as_str().is_some_and(|detail| detail.contains("proxy.key")), "{refused:?}");
    let fails = async || scene.metric("countersign_tls_reload_success", &[]).await == 0.0;
    wait_until("the metric says so", SOON, fails).await;
    assert_eq!(shaken(&scene, &app).await.expect("an answer").1, second, "the one before goes on");
    std::fs::write(place.path("apps.pem"), "").expect("written");
    assert_eq!(scene.recorded("listener_certificates_refused", 2).await.len(), 2, "told once for what there is");
    assert!(shaken(&scene, &app).await.is_ok());

    let other = Ca::new();
    other.write(&place.path("apps.pem"));
    place.show(&place.own.sign(&["127.0.0.1"], |_| {}));
    wait_until("the old authority vouches for nobody", SOON, async || shaken(&scene, &app).await.is_err()).await;
    scene.reaches("countersign_tls_reload_success", &[], 1.0).await;
    assert!(live.is_closed().await && rests.is_closed().await, "nor does it for those whom it has let in");
    scene.reaches("countersign_connections_closed_total", &[("why", "outdated")], 2.0).await;
    let mut client =
        place.connect(&scene, Some(place.leaf("new", &other, &[BILLING], &[]))).await.expect("a handshake");
    assert_eq!(client.get("/api/x").await.status, 200);
    let records = scene.finish().await;
    assert_eq!(crate::support::trail::of(&records, "listener_certificates_replaced").len(), 2);
}

#[tokio::test]
async fn a_connection_does_not_long_outlive_its_certificate() {
    let place = Place::new().await;
    let scene = place.start(&place.setup()).await;
    let years = |year| move |leaf: &mut CertificateParams| leaf.not_after = date_time_ymd(year, 1, 1);
    let names = ["reports.apps.example"];
    let (brief, lasting) = (
        place.changed("brief", &place.apps, &names, years(2100)),
        place.changed("lasting", &place.apps, &names, years(2900)),
    );
    let mut first = place.connect(&scene, Some(brief.clone())).await.expect("a handshake");
    let mut second = place.connect(&scene, Some(lasting)).await.expect("a handshake");
    assert_eq!((first.get("/api/x").await.status, second.get("/api/x").await.status), (200, 200));
    let stream = Client::tcp(address(&scene)).await;
    let app = place.app(Some(brief), Alpn::Http2OrHttp1);
    let stream = stream.tls_stream("127.0.0.1", app).await.expect("a handshake");
    let mut http2 = Http2Client::over(stream, "https://proxy.example").await;
    assert_eq!(http2.get("/api/x").await.status, 200);
    // A token's grant would end as well.
    let later = Duration::from_secs(80 * 366 * 86_400);
    scene.clock.advance(later);
    assert!(first.is_closed().await);
    wait_until("the connection of HTTP/2 ends", SOON, async || http2.is_closed()).await;
    assert_eq!(scene.metric("countersign_connections_closed_total", &[("why", "outdated")]).await, 2.0);
    assert_ne!(second.get("/api/x").await.refusal().1, "client_unknown", "whose certificate is good is served");
    scene.finish().await;
}

#[tokio::test]
async fn handshakes_that_stall_end_and_leave_room_for_others() {
    const STALLED: usize = 160;
    let place = Place::new().await;
    let scene = place.start(&place.setup().limits("header_timeout = \"8s\"")).await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(TcpStream::connect(address(&scene)).await.expect("connects"));
    }
    scene.reaches("countersign_tls_handshakes_failed_total", &[("why", "crowded")], 32.0).await;
    assert_eq!(scene.get("/api/x").await.status, 403, "the plain listener answers meanwhile");
    scene.reaches("countersign_tls_handshakes_failed_total", &[("why", "timeout")], 128.0).await;
    assert_eq!(failed(&scene, "crowded").await + failed(&scene, "timeout").await, 160.0);
    assert_eq!(place.asked(&scene, Some(place.billing()), "").await.expect("an answer").0, 200);
    let label = format!("tls:{}", address(&scene));
    let none_left = async || scene.metric("countersign_connections", &[("listener", &label)]).await == 0.0;
    wait_until("nothing is left of them", SOON, none_left).await;
    drop(stalled);
    scene.finish().await;
}

#[tokio::test]
async fn what_cannot_be_used_at_the_start_is_named() {
    let place = Place::new().await;
    std::fs::write(place.path("proxy.pem"), "nothing").expect("written");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = place.setup().config(folder.path());
    std::fs::write(folder.path().join("client-secret"), "s").expect("written");
    let error = start(config).await;
    assert!(error.contains("`tls` in [proxy]") && error.contains("proxy.pem"), "{error}");
}

async fn start(config: countersign::config::Config) -> String {
    let clock = Arc::new(countersign::clock::SystemClock);
    match countersign::app::App::bind(config, clock, None).await {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    }
}
