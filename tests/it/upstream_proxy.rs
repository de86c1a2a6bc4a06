//! Out through a company's proxy: what it sees, what it is not asked for, and what it can do to a request.

use std::io;
use std::sync::Arc;

use tempfile::TempDir;

use crate::support::certificate::{Ca, Certificate};
use crate::support::corporate::{Corporate, Manner};
use crate::support::{Issuer, Scene, Setup, Upstream, log};

const PASSWORD: &str = "canary-of-the-proxy-51c3";

/// An upstream that is `api.test`, and one that is `direct.test`.
struct Place {
    ca: Ca,
    issuer: Issuer,
    proxy: Corporate,
    upstream: Upstream,
    direct: Upstream,
}

impl Place {
    async fn new() -> Self {
        let ca = Ca::new();
        let at = |name: &'static str| Certificate::of(ca.sign(&[name], |_| {}).server(&["http/1.1"]), &ca);
        Self {
            issuer: Issuer::under_tls(ca.sign(&["issuer.test"], |_| {}).server(&[])).await,
            proxy: Corporate::start().await,
            upstream: Upstream::with("127.0.0.1", at("api.test")).await,
            direct: Upstream::with("127.0.0.1", at("direct.test")).await,
            ca,
        }
    }

    fn folder(&self) -> Arc<TempDir> {
        let folder = TempDir::new().expect("a folder");
        self.ca.write(&folder.path().join("ca.pem"));
        std::fs::write(folder.path().join("client-secret"), "a secret\n").expect("written");
        std::fs::write(folder.path().join("proxy-password"), format!("{PASSWORD}\n")).expect("written");
        Arc::new(folder)
    }

    /// Everything is asked for by name, and only those of the proxy and of `direct.test` can be resolved.
    fn setup(&self, upstream_proxy: &str) -> Setup {
        let source = format!(
            r#"{{ kind = "client_credentials", token_url = "https://issuer.test:{}/token", client_id = "api", client_secret = "file:client-secret", tls = {{ ca = "file:ca.pem" }} }}"#,
            self.issuer.address.port()
        );
        let route = |host: &str, upstream: &Upstream| {
            let port = upstream.address.port();
            format!(
                "token = \"api\"\nupstream = \"https://{host}:{port}\"\ntls = {{ ca = \"file:ca.pem\" }}\ntimeouts = {{ connect = \"2s\" }}"
            )
        };
        let hosts = r#"hosts = ["api.test", "direct.test", "127.0.0.1", "10.0.0.1", "169.254.169.254", "metadata.google.internal"]"#;
        Setup::new()
            .proxy(upstream_proxy)
            .token_from("api", &source, hosts)
            .route("api", &self.upstream, &route("api.test", &self.upstream))
            .route("direct", &self.direct, &route("direct.test", &self.direct))
            .resolver(|name| match name {
                "proxy.test" | "direct.test" => Ok(vec![[127, 0, 0, 1].into()]),
                "private.test" => Ok(vec![[10, 0, 0, 1].into()]),
                _ => Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} was asked for"))),
            })
    }

    /// As most companies have it: with a password and exceptions.
    fn usual(&self) -> Setup {
        self.setup(&format!(
            r#"upstream_proxy = {{ url = "http://proxy.test:{}", username = "app", password = "file:proxy-password", no_proxy = ["direct.test"] }}"#,
            self.proxy.address.port()
        ))
    }

    async fn start(&self, setup: &Setup) -> Scene {
        let scene = Scene::start_in(self.folder(), setup).await;
        scene.ready().await;
        scene
    }
}

#[tokio::test]
async fn upstreams_and_issuers_are_reached_through_it_and_it_sees_no_request() {
    let place = Place::new().await;
    let scene = place.start(&place.usual()).await;
    assert_eq!(scene.get("/api/secret-path").await.status, 200);
    assert_eq!(place.upstream.last().all("authorization"), ["Bearer tok-1"]);
    assert_eq!(place.upstream.last().header("proxy-authorization"), None);
    let heads = place.proxy.heads();
    let asked: Vec<_> = heads.iter().filter_map(|head| head.lines().next()).collect();
    let expected = [
        format!("CONNECT issuer.test:{} HTTP/1.1", place.issuer.address.port()),
        format!("CONNECT api.test:{} HTTP/1.1", place.upstream.address.port()),
    ];
    assert_eq!(asked, expected);
    let credential = format!("proxy-authorization: Basic {}", encoded(&format!("app:{PASSWORD}")));
    for head in &heads {
        assert!(head.contains(&credential), "{head}");
        assert!(head.contains("\r\nhost: issuer.test:") || head.contains("\r\nhost: api.test:"), "{head}");
        assert!(!head.contains("tok-1"), "{head}");
    }
    let passed = String::from_utf8_lossy(&place.proxy.passed()).into_owned();
    assert!(!passed.contains("tok-1") && !passed.contains("secret-path"), "it is encrypted for the upstream");
    scene.finish().await;
    for form in [PASSWORD.to_owned(), encoded(&format!("app:{PASSWORD}"))] {
        assert!(!log::text().contains(&form), "it is in the log");
    }
}

fn encoded(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn what_is_excepted_and_what_is_on_this_machine_goes_past_it() {
    let place = Place::new().await;
    let local = Upstream::http1().await;
    let setup = place.usual().route("local", &local, r#"token = "api""#);
    let scene = place.start(&setup).await;
    let before = place.proxy.heads().len();
    assert_eq!(scene.get("/direct/x").await.status, 200);
    assert_eq!(scene.get("/local/x").await.status, 200);
    assert_eq!((place.direct.count(), local.count()), (1, 1));
    assert_eq!(place.proxy.heads().len(), before);
    scene.finish().await;
}

#[tokio::test]
async fn a_proxy_under_tls_is_verified_for_its_own_name() {
    let place = Place::new().await;
    let proxy = Corporate::under_tls(place.ca.sign(&["proxy.test"], |_| {}).server(&["http/1.1"])).await;
    let at = |host: &str| {
        let port = proxy.address.port();
        place.setup(&format!(r#"upstream_proxy = {{ url = "https://{host}:{port}", tls = {{ ca = "file:ca.pem" }} }}"#))
    };
    let scene = place.start(&at("proxy.test")).await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    let seen = proxy.heads().len();
    assert_eq!(seen, 2);
    // Another name leads to it, which its certificate does not hold.
    scene.reload(&at("direct.test")).await.expect("a good config");
    let answer = scene.get("/api/x").await;
    assert_eq!(answer.refusal(), (502, "upstream_connect".to_owned()));
    assert!(answer.text().contains("through the proxy direct.test"), "{}", answer.text());
    assert_eq!(proxy.heads().len(), seen, "it was asked for nothing");
    scene.finish().await;
}

#[tokio::test]
async fn a_proxy_that_opens_no_tunnel_is_what_the_refusal_tells_of() {
    let place = Place::new().await;
    let scene = place.start(&place.usual()).await;
    let large = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", "a".repeat(64 * 1024));
    let table: [(&str, &str); 8] = [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 6\r\n\r\ncanary",
            "does not take the credential (407)",
        ),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ncanary", "forbids the upstream (403)"),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "answers 503 Service Unavailable to CONNECT"),
        ("HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1/\r\n\r\n", "answers 301 Moved Permanently"),
        ("HTTP/1.1 200 OK\r\n\r\nbytes", "before it was asked for any"),
        ("canary canary canary\r\n\r\n", "no sound HTTP/1.1"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "no sound HTTP/1.1"),
        (&large, "larger than 16 KiB"),
    ];
    for (says, told) in table {
        place.proxy.behaves(Manner::Says(says.into()));
        let answer = scene.get("/api/x").await;
        assert_eq!(answer.refusal(), (502, "upstream_connect".to_owned()), "{told}");
        assert!(answer.text().contains(told) && answer.text().contains("proxy.test"), "{told}: {}", answer.text());
        assert!(!answer.text().contains("canary"), "{}", answer.text());
    }
    place.proxy.behaves(Manner::IsSilent);
    let answer = scene.get("/api/x").await;
    assert_eq!(answer.refusal(), (504, "upstream_timeout".to_owned()));
    assert!(answer.text().contains("the proxy had not opened the tunnel"), "{}", answer.text());
    assert_eq!(place.upstream.count(), 0);

    place.proxy.behaves(Manner::Tunnels);
    assert_eq!(scene.get("/api/x").await.status, 200, "and it works as soon as the proxy does");
    scene.finish().await;
}

#[tokio::test]
async fn a_proxy_that_leads_elsewhere_gets_no_token_there() {
    let place = Place::new().await;
    let lines = format!(
        "token = \"api\"\nupstream = \"https://api.test:{}\"\ntls = {{ ca = \"file:ca.pem\" }}",
        place.direct.address.port()
    );
    let setup = place.usual().without("route", "direct").route("other", &place.direct, &lines);
    let scene = place.start(&setup).await;
    // The tunnel ends at a server that is `direct.test`.
    let answer = scene.get("/other/x").await;
    assert_eq!(answer.refusal(), (502, "upstream_tls".to_owned()));
    assert!(answer.header("proxy-status").is_some_and(|status| status.contains("tls_certificate_error")));
    assert_eq!(place.direct.count(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn the_guard_of_destinations_is_not_evaded_through_it() {
    let place = Place::new().await;
    let mut setup = place.usual();
    let prohibited = ["10.0.0.1", "169.254.169.254", "metadata.google.internal"];
    for (number, host) in prohibited.iter().enumerate() {
        let lines = format!("token = \"api\"\nupstream = \"https://{host}\"");
        setup = setup.route(&format!("bad-{number}"), &place.upstream, &lines);
    }
    let scene = place.start(&setup).await;
    let before = place.proxy.heads().len();
    for (number, host) in prohibited.iter().enumerate() {
        let answer = scene.get(&format!("/bad-{number}/x")).await;
        assert_eq!(answer.refusal(), (403, "destination_prohibited".to_owned()), "{host}");
    }
    assert_eq!(place.proxy.heads().len(), before, "it is not asked");

    // The proxy is a destination itself.
    scene.reload(&place.setup(r#"upstream_proxy = "http://private.test:3128""#)).await.expect("a good config");
    let answer = scene.get("/api/x").await;
    assert_eq!(answer.refusal(), (403, "destination_prohibited".to_owned()));
    assert!(answer.text().contains("through the proxy private.test:3128: 10.0.0.1"), "{}", answer.text());
    scene.finish().await;
}
