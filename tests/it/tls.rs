//! Which servers are trusted, and that the others get nothing; what we prove ourselves with.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, date_time_ymd};
use rustls::ServerConfig;
use serde_json::json;
use tempfile::TempDir;

use crate::support::certificate::{Ca, Certificate, Leaf};
use crate::support::doubtful::Doubtful;
use crate::support::issuer::Reply;
use crate::support::setup::Place as _;
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, trail, wait_until};

const CERTIFICATE: &str = "tls_certificate_error";
const PROTOCOL: &str = "tls_protocol_error";
const ALERT: &str = "tls_alert_received";

/// A server that must not get a token, and what is said of it.
struct Bad {
    what: &'static str,
    server: Doubtful,
    /// The upstream's name; all lead to this machine.
    host: &'static str,
    /// A part of `tls` beside the CA.
    tls: String,
    error: &'static str,
    because: &'static str,
}

impl Bad {
    fn new(what: &'static str, server: Doubtful, error: &'static str, because: &'static str) -> Self {
        Self { what, server, host: "api.test", tls: String::new(), error, because }
    }

    fn at(self, host: &'static str) -> Self {
        Self { host, ..self }
    }
}

/// Shows a leaf that a trusted CA signed, changed in some way.
async fn showing(change: impl FnOnce(&mut CertificateParams)) -> Doubtful {
    let ca = Ca::new();
    Doubtful::tls(ca.sign(&["api.test"], change).server(&[]), &ca).await
}

async fn bad_certificates() -> Vec<Bad> {
    let (trusted, other) = (Ca::new(), Ca::new());
    let bad = |what, server, because| Bad::new(what, server, CERTIFICATE, because);
    let below = |ca: Ca| async move { Doubtful::tls(ca.sign(&["api.test"], |_| {}).server(&[]), &ca).await };
    let unknown = other.sign(&["api.test"], |_| {}).server(&[]);
    let alone = Leaf::self_signed(&["api.test"]).server(&[]);
    let named = |name| {
        let ca = Ca::new();
        let server = ca.sign(&[name], |_| {}).server(&[]);
        async move { Doubtful::tls(server, &ca).await }
    };
    let mut pinned = bad("another key than the pinned one", showing(|_| {}).await, "`pin` names another");
    pinned.tls = format!(r#", pin = "{}""#, other.sign(&["api.test"], |_| {}).pin());
    vec![
        bad("expired", showing(|leaf| leaf.not_after = date_time_ymd(2020, 1, 1)).await, "expired"),
        bad("not yet valid", showing(|leaf| leaf.not_before = date_time_ymd(4000, 1, 1)).await, "not valid yet"),
        bad("another name", named("other.test").await, "not valid for name"),
        bad("an address instead of the name", named("127.0.0.1").await, "not valid for name"),
        bad("self-signed", Doubtful::tls(alone, &trusted).await, "UnknownIssuer"),
        bad("an unknown CA", Doubtful::tls(unknown, &trusted).await, "UnknownIssuer"),
        bad("for clients only", showing(for_clients).await, "not allow extended key usage"),
        bad("a name in the subject alone", showing(without_names).await, "not valid for name"),
        bad("the certificate of a CA", showing(as_ca).await, "CaUsedAsEndEntity"),
        bad(
            "below what is no CA",
            below(Ca::new().intermediate(|ca| ca.is_ca = IsCa::ExplicitNoCa)).await,
            "EndEntityUsedAsCa",
        ),
        bad("below a CA too many", below(short_ca().await).await, "PathLenConstraintViolated"),
        bad(
            "below an expired CA",
            below(Ca::new().intermediate(|ca| ca.not_after = date_time_ymd(2020, 1, 1))).await,
            "expired",
        ),
        bad("a wildcard for deeper names", named("*.api.test").await, "not valid for name").at("a.b.api.test"),
        bad("a wildcard for its parent", named("*.api.test").await, "not valid for name"),
        bad("a wildcard inside of a label", named("a*.test").await, "not valid for name"),
        bad("another's key", Doubtful::tls(with_another_key(&trusted), &trusted).await, "BadSignature"),
        pinned,
    ]
}

fn for_clients(leaf: &mut CertificateParams) {
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}

fn without_names(leaf: &mut CertificateParams) {
    leaf.subject_alt_names.clear();
    leaf.distinguished_name.push(DnType::CommonName, "api.test");
}

fn as_ca(leaf: &mut CertificateParams) {
    leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
}

/// A CA below one that allows none below it.
async fn short_ca() -> Ca {
    let short = Ca::new().intermediate(|ca| ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    short.intermediate(|_| {})
}

/// The certificate is sound, and whoever shows it has not its key.
fn with_another_key(ca: &Ca) -> ServerConfig {
    let (shown, own) = (ca.sign(&["api.test"], |_| {}), ca.sign(&["api.test"], |_| {}));
    let mut server = shown.server(&[]);
    server.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(shown.with_key_of(&own)));
    server
}

async fn bad_manners() -> Vec<Bad> {
    let bad = |what, server, because| Bad::new(what, server, PROTOCOL, because);
    let ca = Ca::new();
    let other_protocol = Doubtful::tls(ca.sign(&["api.test"], |_| {}).server(&["spdy/3"]), &ca).await;
    let http = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    // Handshake failure, fatal.
    let alert = [0x15, 3, 3, 0, 2, 2, 40];
    vec![
        bad("TLS 1.1", Doubtful::says(hello_of_tls_1_1()).await, "peer is incompatible"),
        bad("noise", Doubtful::says([0x5a; 4096]).await, "corrupt message"),
        bad("plain HTTP", Doubtful::says(http).await, "corrupt message"),
        bad("an end in the handshake", Doubtful::closes().await, "eof"),
        Bad::new("an alert", Doubtful::says(alert).await, ALERT, "HandshakeFailure"),
        Bad::new("no protocol in common", other_protocol, ALERT, "NoApplicationProtocol"),
    ]
}

/// A ServerHello that chooses TLS 1.1 and a cipher of its time.
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    body.extend([0, 0, 0x2f, 0]);
    let length = u8::try_from(body.len()).expect("a short message");
    let mut record = vec![0x16, 3, 2, 0, length + 4, 2, 0, 0, length];
    record.append(&mut body);
    record
}

#[tokio::test]
async fn a_server_that_does_not_prove_itself_gets_nothing() {
    let mut all = bad_certificates().await;
    all.extend(bad_manners().await);
    assert!(all.len() >= 20);
    let issuer = Issuer::start().await;
    let hosts = r#"hosts = ["api.test", "a.b.api.test"]"#;
    let mut setup = Setup::new().token("api", &issuer, hosts).resolver(|_| Ok(vec![[127, 0, 0, 1].into()]));
    for (number, bad) in all.iter().enumerate() {
        let ca = bad.server.certificate().ca().display();
        let lines = format!(
            "token = \"api\"\nupstream = \"https://{}:{}\"\ntls = {{ ca = \"file:{ca}\"{} }}",
            bad.host,
            bad.server.address.port(),
            bad.tls
        );
        setup = setup.route(&format!("bad-{number}"), &bad.server, &lines);
    }
    let scene = setup.start().await;
    scene.ready().await;
    for (number, bad) in all.iter().enumerate() {
        let what = bad.what;
        let answer = scene.get(&format!("/bad-{number}/x")).await;
        assert_eq!(answer.refusal(), (502, "upstream_tls".to_owned()), "{what}");
        let status = format!("countersign; error={}; details=upstream_tls", bad.error);
        assert_eq!(answer.header("proxy-status"), Some(&*status), "{what}: {}", answer.text());
        let detail = answer.problem()["detail"].to_string();
        assert!(detail.contains(bad.because), "{what}: {detail}");
        assert!(!detail.contains("tok-1"), "{what}: {detail}");
    }
    for bad in &all {
        let heard = String::from_utf8_lossy(&bad.server.heard()).into_owned();
        assert!(!heard.contains("tok-1") && !heard.contains("GET"), "{}: {heard}", bad.what);
        if bad.error == CERTIFICATE {
            assert_eq!(heard, "", "{}", bad.what);
        }
    }
    let count = f64::from(u32::try_from(all.len()).expect("a few"));
    assert_eq!(scene.metric("countersign_refused_total", &[("reason", "upstream_tls")]).await, count);
    scene.finish().await;
}

#[tokio::test]
async fn a_server_that_proves_itself_gets_the_token() {
    let issuer = Issuer::start().await;
    let ca = Ca::new();
    let below = ca.intermediate(|_| {});
    let pinned = below.sign(&["127.0.0.1"], |_| {});
    let pins = format!(r#", pin = ["{}", "{}"]"#, ca.sign(&["b.test"], |_| {}).pin(), pinned.pin());
    let good = [
        ("a.api.test", ca.sign(&["*.api.test"], |_| {}), String::new()),
        ("127.0.0.1", ca.sign(&["127.0.0.1"], |_| {}), String::new()),
        ("api.test", below.sign(&["api.test"], |_| {}), String::new()),
        ("127.0.0.1", pinned, pins),
    ];
    for (host, leaf, more) in good {
        let upstream = Upstream::with("127.0.0.1", Certificate::of(leaf.server(&["http/1.1"]), &ca)).await;
        let lines = format!(
            "token = \"api\"\nupstream = \"https://{host}:{}\"\ntls = {{ ca = \"file:{}\"{more} }}",
            upstream.address.port(),
            upstream.certificate.ca().display()
        );
        let hosts = r#"hosts = ["api.test", "a.api.test", "127.0.0.1"]"#;
        let setup = Setup::new().token("api", &issuer, hosts).route("api", &upstream, &lines);
        let scene = setup.resolver(|_| Ok(vec![[127, 0, 0, 1].into()])).start().await;
        assert_eq!(scene.get("/api/x").await.status, 200, "{host}");
        assert!(upstream.last().header("authorization").is_some_and(|value| value.starts_with("Bearer tok-")));
        scene.finish().await;
    }
}

/// An upstream that lets in whom `ca` has signed, and a folder with a client's `client.pem` and `client.key`.
async fn closed_upstream(ca: &Ca) -> (Upstream, TempDir) {
    let leaf = ca.sign(&["127.0.0.1"], |_| {});
    let server = leaf.server_for(ca.client_verifier(), &["http/1.1"]);
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("client-secret"), "a secret\n").expect("written");
    ca.sign(&["client.test"], |_| {}).write(folder.path(), "client");
    (Upstream::with("127.0.0.1", Certificate::of(server, ca)).await, folder)
}

fn with_identity(upstream: &Upstream) -> String {
    let ca = upstream.certificate.ca().display();
    format!("token = \"api\"\ntls = {{ ca = \"file:{ca}\", cert = \"file:client.pem\", key = \"file:client.key\" }}")
}

#[tokio::test]
async fn an_upstream_that_asks_for_a_certificate_gets_that_of_its_route() {
    let (issuer, ca) = (Issuer::start().await, Ca::new());
    let (upstream, folder) = closed_upstream(&ca).await;
    let setup = Setup::new().token("api", &issuer, "").route("api", &upstream, &with_identity(&upstream));
    let scene = Scene::start_in(Arc::new(folder), &setup).await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-1"]);
    scene.finish().await;
}

#[tokio::test]
async fn an_upstream_that_does_not_get_the_certificate_it_asks_for_gets_no_request() {
    let (issuer, ca) = (Issuer::start().await, Ca::new());
    let (upstream, folder) = closed_upstream(&ca).await;
    Ca::new().sign(&["client.test"], |_| {}).write(folder.path(), "client");
    let setup = Setup::api(&issuer, &upstream);
    let setup = setup.without("route", "api").route("none", &upstream, r#"token = "api""#);
    let scene = Scene::start_in(Arc::new(folder), &setup).await;
    let answer = scene.get("/none/x").await;
    assert_eq!(answer.refusal(), (502, "upstream_tls".to_owned()));
    assert!(answer.text().contains("`tls.cert`"), "{}", answer.text());
    scene
        .reload(&setup.without("route", "none").route("wrong", &upstream, &with_identity(&upstream)))
        .await
        .expect("a good config");
    let answer = scene.get("/wrong/x").await;
    assert_eq!(answer.refusal(), (502, "upstream_tls".to_owned()));
    assert_eq!(upstream.count(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn files_of_a_route_that_were_replaced_are_read_at_the_next_reload() {
    let (issuer, ca, other) = (Issuer::start().await, Ca::new(), Ca::new());
    let (upstream, folder) = closed_upstream(&ca).await;
    let path = folder.path().to_owned();
    other.sign(&["client.test"], |_| {}).write(&path, "client");
    let setup = Setup::new().workers(1).token("api", &issuer, "");
    let setup = setup.route("api", &upstream, &with_identity(&upstream));
    let scene = Scene::start_in(Arc::new(folder), &setup).await;
    assert_eq!(scene.get("/api/x").await.status, 502);

    // Half of a pair: nothing changes.
    std::fs::write(path.join("client.key"), "no key").expect("written");
    let error = scene.reload(&setup).await.expect_err("no key").to_string();
    assert!(error.contains("client.key") && !error.contains("no key\n"), "{error}");

    ca.sign(&["client.test"], |_| {}).write(&path, "client");
    scene.reload(&setup).await.expect("a good config");
    assert_eq!(scene.get("/api/x").await.status, 200);
    let connections = upstream.connections();
    scene.reload(&setup).await.expect("a good config");
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(upstream.connections(), connections, "nothing was replaced");

    other.write(upstream.certificate.ca());
    scene.reload(&setup).await.expect("a good config");
    assert_eq!(scene.get("/api/x").await.refusal(), (502, "upstream_tls".to_owned()), "it is trusted no more");
    scene.finish().await;
}

/// A source that proves itself with `client.pem` and `client.key`, and trusts `ca.pem`.
fn mtls(issuer: &Issuer) -> String {
    mtls_at(&format!(r#"token_url = "{}""#, issuer.url()))
}

fn mtls_at(place: &str) -> String {
    format!(
        r#"{{ kind = "client_credentials", {place}, client_id = "api", auth = "mtls", tls = {{ ca = "file:ca.pem", cert = "file:client.pem", key = "file:client.key" }} }}"#
    )
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_certificate_is_asked_for_where_those_are_taken_and_sent_with_it() {
    let ca = Ca::new();
    let (upstream, folder) = closed_upstream(&ca).await;
    let leaf = ca.sign(&["127.0.0.1"], |_| {});
    let open = Issuer::under_tls(leaf.server(&[])).await;
    let closed = Issuer::under_tls(leaf.server_for(ca.client_verifier(), &[])).await;
    ca.write(&folder.path().join("ca.pem"));
    let name = open.url().trim_end_matches("/token").to_owned();
    let aliases = json!({ "token_endpoint": closed.url() });
    let told = json!({ "issuer": name, "token_endpoint": open.url(), "mtls_endpoint_aliases": aliases });
    open.answers(move |_| Reply::json(200, &told.to_string()));
    let source = mtls_at(&format!(r#"issuer = "{name}""#));
    let setup = Setup::new().token_from("api", &source, "").route("api", &upstream, &with_identity(&upstream));
    let scene = Scene::start_in(Arc::new(folder), &setup).await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-1"]);
    let asked = |issuer: &Issuer| -> Vec<String> {
        issuer.calls().iter().filter_map(|call| call.head.lines().next().map(str::to_owned)).collect()
    };
    assert_eq!(asked(&open), ["GET /.well-known/oauth-authorization-server HTTP/1.1"]);
    assert_eq!(asked(&closed), ["POST /token HTTP/1.1"]);
    scene.finish().await;
}

#[tokio::test]
async fn an_issuer_takes_a_certificate_for_a_secret() {
    let (ca, upstream, folder) = (Ca::new(), Upstream::http1().await, TempDir::new().expect("a folder"));
    let leaf = ca.sign(&["127.0.0.1"], |_| {});
    let issuer = Issuer::under_tls(leaf.server_for(ca.client_verifier(), &[])).await;
    ca.write(&folder.path().join("ca.pem"));
    ca.sign(&["client.test"], |_| {}).write(folder.path(), "client");
    let setup = Setup::new().token_from("api", &mtls(&issuer), "").route("api", &upstream, r#"token = "api""#);
    let scene = Scene::start_in(Arc::new(folder), &setup).await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-1"]);
    let call = issuer.calls().remove(0);
    assert_eq!(call.fields["client_id"], "api");
    assert!(!call.fields.contains_key("client_secret") && !call.head.contains("authorization"), "{call:?}");
    scene.finish().await;
}

#[tokio::test]
async fn files_of_a_source_that_were_replaced_are_read_at_its_next_call() {
    let (ca, other, upstream) = (Ca::new(), Ca::new(), Upstream::http1().await);
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().to_owned();
    let leaf = ca.sign(&["127.0.0.1"], |_| {});
    let issuer = Issuer::under_tls(leaf.server_for(ca.client_verifier(), &[])).await;
    ca.write(&path.join("ca.pem"));
    other.sign(&["client.test"], |_| {}).write(&path, "client");
    let setup = Setup::new().token_from("api", &mtls(&issuer), "").route("api", &upstream, r#"token = "api""#);
    let scene = Scene::start_in(Arc::new(folder), &setup).await;
    let failure = scene.recorded("token_failed", 1).await.remove(0);
    assert_eq!(failure["reason"], "tls", "{failure}");

    ca.sign(&["client.test"], |_| {}).write(&path, "client");
    // A call that was under way may still have seen the old ones.
    wait_until("a generation", SOON, async || scene.rotate("api").await.is_ok()).await;
    assert_eq!(scene.get("/api/x").await.status, 200);

    for (root, works) in [(&other, false), (&ca, true)] {
        root.write(&path.join("ca.pem"));
        scene.reload(&setup).await.expect("a good config");
        assert_eq!(scene.rotate("api").await.is_ok(), works, "the roots are read anew");
        assert_eq!(scene.get("/api/x").await.status, 200, "the live generation stays");
    }
    std::fs::remove_file(path.join("client.key")).expect("removed");
    scene.rotate("api").await.expect_err("no key");
    let records = scene.finish().await;
    let failures = trail::of(&records, "token_failed");
    let detail = failures.last().expect("a failure")["detail"].to_string();
    assert!(detail.contains("client.key"), "{detail}");
}
