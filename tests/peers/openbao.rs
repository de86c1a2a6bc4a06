//! A real vault, OpenBao, as the source of tokens and secrets: logged in to by AppRole and by a JWT, for moments; what it has
//! and what it makes reaches an API, and what was taken away is worth nothing to it any more.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::caddy::Caddy;
use crate::support::issuer::{CLIENT_SECRET, Issuer};
use crate::support::openbao::{OpenBao, ROOT};
use crate::support::proxy::{Proxy, ROUTE, Settings};
use crate::support::{in_turn, wait_until};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn what_is_put_into_the_vault_reaches_the_api_while_logins_come_and_go() {
    in_turn(async {
        let (issuer, caddy, vault) = (Issuer::start().await, Caddy::start().await, OpenBao::start().await);
        let policy = r#"path "secret/data/api" { capabilities = ["read"] }"#;
        let role = json!({ "token_policies": "countersign", "token_ttl": "4s", "token_max_ttl": "9s" });
        let section = vault.approle(policy, &role);
        vault.write("secret/data/api", &json!({ "data": { "token": "the-first-one" } }));
        let source = r#"kind = "vault_kv", path = "secret/api", field = "token", every = "1s""#.to_owned();
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let mut proxy = Proxy::start(&Settings { proxy_lines: section, source, ..usual }).await;
        assert_eq!(used(&proxy, &caddy, "/first").await, "the-first-one");

        vault.write("secret/data/api", &json!({ "data": { "token": "the-second-one" } }));
        rotated_to(&proxy, &caddy, "the-second-one").await;
        // The login has been renewed until its bound, and followed by others, which read on.
        let logins = || proxy.output().matches("logged in to the vault").count();
        wait_until("three logins", Duration::from_secs(60), async || (logins() >= 3).then_some(())).await;
        vault.write("secret/data/api", &json!({ "data": { "token": "the-third-one" } }));
        rotated_to(&proxy, &caddy, "the-third-one").await;
        let (_, records) = proxy.run(&["audit", "show", "--event", "token_rotated"]);
        assert!(records.contains("version=3"), "{records}");

        let accessors = || vault.ask(ROOT, "LIST", "auth/token/accessors", &Value::Null).1["data"]["keys"].clone();
        let before = accessors().as_array().expect("a list").len();
        proxy.terminate().await;
        assert!(proxy.output().contains("logged out of the vault"));
        assert!(accessors().as_array().expect("a list").len() < before, "the last login is void");
        for secret in ["the-first-one", "the-second-one", "the-third-one"] {
            assert!(!proxy.output().contains(secret), "no log shows a token");
        }
    });
}

#[test]
fn a_client_secret_lies_in_the_vault_and_a_jwt_logs_in() {
    in_turn(async {
        let (issuer, caddy, vault) = (Issuer::start().await, Caddy::start().await, OpenBao::start().await);
        let key = KeyPair::generate().expect("a key");
        vault
            .write("sys/policies/acl/countersign", &json!({ "policy": r#"path "kv/ci" { capabilities = ["read"] }"# }));
        vault.write("sys/auth/jwt", &json!({ "type": "jwt" }));
        vault.write("auth/jwt/config", &json!({ "jwt_validation_pubkeys": [key.public_key_pem()] }));
        let role = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": "countersign",
            "token_policies": ["countersign"], "token_ttl": "60s",
        });
        vault.write("auth/jwt/role/proxy", &role);
        // The first version of the engine.
        vault.write("sys/mounts/kv", &json!({ "type": "kv", "options": { "version": "1" } }));
        vault.write("kv/ci", &json!({ "client": CLIENT_SECRET }));
        let jwt = vault.folder.path().join("jwt");
        std::fs::write(&jwt, signed(&key)).expect("written");

        let section = vault.section(&format!(r#"kind = "jwt", role = "proxy", jwt = "file:{}""#, jwt.display()));
        let source = issuer.source().replace("env:PEERS_CLIENT_SECRET", "vault:kv/ci#client");
        assert!(source.contains("vault:kv/ci#client"), "{source}");
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let proxy = Proxy::start(&Settings { proxy_lines: section, source, ..usual }).await;
        let token = used(&proxy, &caddy, "/x").await;
        assert!(crate::support::trail::expiry(&token, &issuer.keys().await).is_some(), "the issuer signed it");

        // Secrets are read anew for each use.
        vault.write("kv/ci", &json!({ "client": "no-such-secret" }));
        let failed = async || {
            proxy.metrics().await.lines().any(|line| {
                line.starts_with("countersign_rotation_failures_total")
                    && line.contains("invalid_client")
                    && !line.ends_with(" 0")
            })
        };
        wait_until("the issuer refuses another secret", SOON, async || failed().await.then_some(())).await;
        assert!(!proxy.output().contains(CLIENT_SECRET) && !proxy.output().contains("no-such-secret"));
    });
}

#[test]
fn a_token_that_the_vault_makes_is_renewed_replaced_and_void_when_it_is_taken_away() {
    in_turn(async {
        let (issuer, caddy, vault) = (Issuer::start().await, Caddy::start().await, OpenBao::start().await);
        let policy = r#"
            path "auth/token/create/api" { capabilities = ["update"] }
            path "auth/token/renew-accessor" { capabilities = ["update"] }
            path "auth/token/revoke-accessor" { capabilities = ["update"] }"#;
        let section = vault.approle(policy, &json!({ "token_policies": "countersign", "token_ttl": "60s" }));
        vault.write("auth/token/roles/api", &json!({ "allowed_policies": ["default"], "orphan": true }));
        let source =
            r#"kind = "vault_dynamic", path = "auth/token/create/api", field = "token", parameters = { ttl = "4s" }"#;
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let token_lines = r#"rotation = { max_life = "10s", overlap = "1s", skew = "1s" }"#;
        let settings = Settings { proxy_lines: section, source: source.to_owned(), token_lines, ..usual };
        let proxy = Proxy::start(&settings).await;
        let first = used(&proxy, &caddy, "/first").await;
        assert!(is_good(&vault, &first));
        let shown = |event: &str| proxy.run(&["audit", "show", "--event", event]).1;
        wait_until("a renewal", SOON, async || shown("token_prolonged").contains("generation=1").then_some(())).await;
        assert_eq!(used(&proxy, &caddy, "/renewed").await, first);
        // Ten seconds are the longest.
        wait_until("another generation", SOON, async || shown("token_rotated").contains("generation=2").then_some(()))
            .await;
        let second = used(&proxy, &caddy, "/second").await;
        assert_ne!(second, first);
        is_void(&vault, &first).await;

        let (code, printed) = proxy.run(&["tokens", "revoke", ROUTE, "--reason", "a drill"]);
        assert_eq!(code, Some(0), "{printed}");
        let refused = proxy.get("/revoked").await.expect("an answer");
        assert_eq!((refused.status, refused.reason().as_deref()), (StatusCode::FORBIDDEN, Some("token_revoked")));
        is_void(&vault, &second).await;
        let told = shown("generation_revoked");
        assert!(told.contains("generation=2 outcome=success"), "{told}");
        // It may have ended by itself before the vault was told.
        let is_over = |outcome: &str| told.contains(&format!("generation=1 outcome={outcome}"));
        assert!(is_over("success") || is_over("expired"), "{told}");
        assert!(!proxy.output().contains(&first) && !proxy.output().contains(&second));
    });
}

#[test]
fn credentials_under_a_lease_are_gone_from_their_system_when_it_ends() {
    in_turn(async {
        let (issuer, caddy, vault) = (Issuer::start().await, Caddy::start().await, OpenBao::start().await);
        let broker = Broker::start();
        let policy = r#"
            path "rabbitmq/creds/api" { capabilities = ["read"] }
            path "sys/leases/renew" { capabilities = ["update"] }
            path "sys/leases/revoke" { capabilities = ["update"] }
            path "sys/leases/lookup" { capabilities = ["update"] }
            path "sys/leases/lookup/rabbitmq/creds/api*" { capabilities = ["list", "sudo"] }"#;
        let section = vault.approle(policy, &json!({ "token_policies": "countersign", "token_ttl": "600s" }));
        vault.write("sys/mounts/rabbitmq", &json!({ "type": "rabbitmq" }));
        let uri = format!("http://{}", broker.address);
        let connection = json!({ "connection_uri": uri, "username": "a", "password": "b", "verify_connection": false });
        vault.write("rabbitmq/config/connection", &connection);
        vault.write("rabbitmq/config/lease", &json!({ "ttl": "120s", "max_ttl": "600s" }));
        let vhosts = r#"{"/":{"write":".*","read":".*"}}"#;
        vault.write("rabbitmq/roles/api", &json!({ "vhosts": vhosts }));
        let source = r#"kind = "vault_dynamic", path = "rabbitmq/creds/api", field = "username", list = true"#;
        // Somebody else's, of whom nobody knows.
        let (_, stranger) = vault.ask(ROOT, "GET", "rabbitmq/creds/api", &Value::Null);
        let stranger =
            |name: &str| stranger[name].as_str().or(stranger["data"][name].as_str()).expect("a text").to_owned();
        let (lease, left_behind) = (stranger("lease_id"), stranger("username"));
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let token_lines = r#"rotation = { overlap = "1s" }"#;
        let settings = Settings { proxy_lines: section, source: source.to_owned(), token_lines, ..usual };
        let proxy = Proxy::start(&settings).await;
        let first = used(&proxy, &caddy, "/first").await;
        assert_eq!(broker.users(), [first.clone(), left_behind.clone()].into());
        let (code, printed) = proxy.run(&["tokens", "rotate", ROUTE]);
        assert_eq!(code, Some(0), "{printed}");
        let second = used(&proxy, &caddy, "/second").await;
        assert_ne!(second, first);
        let only = async |users: &[&String]| {
            let expected: BTreeSet<String> = users.iter().map(|user| (*user).clone()).collect();
            wait_until("the vault takes users away", SOON, async || (broker.users() == expected).then_some(())).await;
        };
        only(&[&second, &left_behind]).await;
        wait_until("the ghost is told", Duration::from_secs(60), async || {
            proxy.metrics().await.lines().any(|line| line == "countersign_ghosts 1").then_some(())
        })
        .await;
        let (_, records) = proxy.run(&["audit", "show", "--event", "ghost_found"]);
        assert!(records.contains(&lease) && records.lines().count() == 1, "{records}");
        let (_, report) = proxy.run(&["report"]);
        assert!(report.contains(&lease) && report.contains("nobody here has"), "{report}");
        vault.write("sys/leases/revoke", &json!({ "lease_id": lease, "sync": true }));
        let (code, printed) = proxy.run(&["tokens", "retire", ROUTE, "--reason", "a drill"]);
        assert_eq!(code, Some(0), "{printed}");
        only(&[]).await;
    });
}

/// The management API of a message broker, as far as the vault calls it: who its users are.
struct Broker {
    address: SocketAddr,
    users: Arc<Mutex<BTreeSet<String>>>,
}

impl Broker {
    /// In a thread of its own: a command that a test waits for may need it.
    fn start() -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let users: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let broker = Self { address: listener.local_addr().expect("an address"), users: users.clone() };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move { serve(TcpListener::from_std(listener).expect("a socket"), users).await });
        });
        broker
    }

    fn users(&self) -> BTreeSet<String> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(listener: TcpListener, users: Arc<Mutex<BTreeSet<String>>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let users = users.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer(&request, &users);
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        connections
            .spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
    }
}

fn answer(request: &Request<Incoming>, users: &Mutex<BTreeSet<String>>) -> Response<Empty<Bytes>> {
    let mut users = users.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(user) = request.uri().path().strip_prefix("/api/users/") {
        match *request.method() {
            Method::PUT => users.insert(user.to_owned()),
            Method::DELETE => users.remove(user),
            _ => false,
        };
    }
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// What logs in for five minutes.
fn signed(key: &KeyPair) -> String {
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({ "sub": "countersign", "aud": "vault", "iat": now, "nbf": now - 5, "exp": now + 300 });
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    let pem = key.serialize_pem();
    let signing = jsonwebtoken::EncodingKey::from_ec_pem(pem.as_bytes()).expect("a key");
    jsonwebtoken::encode(&header, &claims, &signing).expect("signed")
}

/// The token that came with a request.
async fn used(proxy: &Proxy, caddy: &Caddy, path: &str) -> String {
    wait_until("a request passes", SOON, async || proxy.get(path).await.filter(|answer| answer.status == 200)).await;
    let tokens = caddy.trail().tokens(path);
    assert_eq!(tokens.len(), 1, "{path}");
    tokens.into_iter().next().expect("one")
}

async fn rotated_to(proxy: &Proxy, caddy: &Caddy, token: &str) {
    wait_until(&format!("requests carry {token}"), SOON, async || {
        proxy.get("/rotated").await.filter(|answer| answer.status == 200)?;
        caddy.trail().tokens("/rotated").contains(token).then_some(())
    })
    .await;
}

fn is_good(vault: &OpenBao, token: &str) -> bool {
    match vault.ask(token, "GET", "auth/token/lookup-self", &Value::Null) {
        (200, _) => true,
        (403, _) => false,
        (status, answer) => panic!("{status}: {answer}"),
    }
}

async fn is_void(vault: &OpenBao, token: &str) {
    wait_until("the vault refuses it", SOON, async || (!is_good(vault, token)).then_some(())).await;
}
