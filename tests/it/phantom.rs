//! Phantom keys: an app sends one where its SDK wants an API key, the API never sees it, and one that is elsewhere is told.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::support::body::Payload;
use crate::support::client::Answer;
use crate::support::{Client, Http2Client, Issuer, SOON, Scene, Setup, Upstream, log, trail, wait_until};
use crate::tunnels::told;

const KEY: &str = "sk-0phantom0K3yOfTheApp0123456789abcdefghijklmnopqr";
const OTHERS: &str = "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";
const UNKNOWN: &str = "sk-0phantom0K3yOfNobody123456789abcdefghijklmnopqr0";
const OTHER_USER: u32 = 4242;

fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// With the client `app`, of our own user, and `other`, of another.
fn with_clients(setup: Setup) -> Setup {
    let setup = setup.client("app", &format!("uid = {}\nkey = \"file:app.key\"", own()));
    setup.client("other", &format!("uid = {OTHER_USER}\nkey = \"file:other.key\""))
}

async fn started(setup: Setup) -> Scene {
    let folder = TempDir::new().expect("a folder");
    for (name, text) in [("client-secret", "first-client-secret"), ("app.key", KEY), ("other.key", OTHERS)] {
        std::fs::write(folder.path().join(name), format!("{text}\n")).expect("written");
    }
    Scene::start_in(Arc::new(folder), &with_clients(setup)).await
}

async fn scene(upstream: &Upstream, placement: &str) -> (Issuer, Scene) {
    let issuer = Issuer::start().await;
    let setup = Setup::new().token("api", &issuer, &format!("placement = {placement}"));
    let scene = started(setup.route("api", upstream, r#"token = "api""#)).await;
    scene.ready().await;
    (issuer, scene)
}

fn basic(pair: &str) -> String {
    STANDARD.encode(pair)
}

/// The answer to a GET of this target with these fields.
async fn sent(scene: &Scene, target: &str, fields: &str) -> Answer {
    let host = target.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap_or("localhost");
    scene.exchange(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await
}

/// That nothing of a key reached the upstream.
fn unseen(upstream: &Upstream) {
    for seen in upstream.seen() {
        let all = format!("{} {:?}", seen.target, seen.headers);
        let encoded = [KEY, OTHERS].iter().any(|key| all.contains(&basic(&format!("x:{key}"))));
        assert!(!all.contains(KEY) && !all.contains(OTHERS) && !encoded, "{all}");
    }
}

#[tokio::test]
async fn a_key_opens_the_proxy_in_each_place_of_an_api_key_and_goes_no_further() {
    let places = [
        format!("Authorization: Bearer {KEY}\r\n"),
        format!("authorization: bearer {KEY}\r\n"),
        format!("Authorization: {KEY}\r\n"),
        format!("Authorization: token {KEY}\r\n"),
        format!("Authorization: Basic {}\r\n", basic(&format!("x:{KEY}"))),
        format!("Authorization: Basic {}\r\n", basic(&format!("{KEY}:"))),
        format!("X-Api-Key: {KEY}\r\n"),
        format!("x-goog-api-key: {KEY}\r\n"),
        format!("Proxy-Authorization: Basic {}\r\n", basic(&format!("app:{KEY}"))),
        format!("Proxy-Authorization: Bearer {KEY}\r\n"),
        format!("Proxy-Authorization: Bearer {KEY}\r\nAuthorization: Bearer {KEY}\r\n"),
    ];
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let (_issuer, scene) = scene(&upstream, r#""bearer""#).await;
        let authority = upstream.address;
        for target in ["/api/x".to_owned(), format!("http://{authority}/x")] {
            for fields in &places {
                let answer = sent(&scene, &target, fields).await;
                assert_eq!(answer.status, 200, "{target} {fields}: {}", answer.text());
                assert_eq!(upstream.last().all("authorization"), ["Bearer tok-1"], "{fields}");
            }
        }
        unseen(&upstream);
        assert_eq!(scene.metric("countersign_shadow_credentials_total", &[]).await, 0.0, "it is no credential");
        assert_eq!(scene.metric("countersign_tripwires_total", &[]).await, 0.0);
        let labels = [("route", "api"), ("client", "app")];
        scene.reaches("countersign_requests_total", &labels, 2.0 * places.len() as f64).await;
        scene.finish().await;
    }
}

#[tokio::test]
async fn a_key_may_stand_where_the_token_goes_and_an_own_credential_is_still_noticed() {
    for (placement, target, fields) in [
        (r#"{ header = "x-own-place" }"#, "/api/x".to_owned(), format!("X-Own-Place: {KEY}\r\n")),
        (r#"{ query = "key" }"#, format!("/api/x?a=1&key={KEY}"), String::new()),
        (r#"{ query = "key" }"#, format!("/api/x?%6bey={}", KEY.replace('-', "%2D")), String::new()),
        (r#"{ cookie = "session" }"#, "/api/x".to_owned(), format!("Cookie: a=1; session={KEY}\r\n")),
    ] {
        let upstream = Upstream::http1().await;
        let (_issuer, scene) = scene(&upstream, placement).await;
        let answer = sent(&scene, &target, &fields).await;
        assert_eq!(answer.status, 200, "{placement}: {}", answer.text());
        unseen(&upstream);
        assert_eq!(scene.metric("countersign_shadow_credentials_total", &[]).await, 0.0, "{placement}");
        assert_eq!(sent(&scene, &target, &format!("{fields}Authorization: Bearer mine\r\n")).await.status, 200);
        assert_eq!(scene.metric("countersign_shadow_credentials_total", &[]).await, 1.0, "{placement}");
        scene.finish().await;
    }
}

#[tokio::test]
async fn a_route_without_token_passes_the_apps_own_credential_and_no_phantom_key() {
    let upstream = Upstream::http1().await;
    let scene = started(Setup::new().route("open", &upstream, "")).await;
    let fields = format!("Authorization: Bearer {KEY}\r\nX-Api-Key: mine\r\n");
    assert_eq!(sent(&scene, "/open/x", &fields).await.status, 200);
    let seen = upstream.last();
    assert_eq!((seen.header("authorization"), seen.header("x-api-key")), (None, Some("mine")));
    scene.finish().await;
}

#[tokio::test]
async fn a_request_without_its_key_is_told_how_to_send_one() {
    let upstream = Upstream::http1().await;
    let (_issuer, scene) = scene(&upstream, r#""bearer""#).await;
    let almost = KEY.replace("0phantom", "1phantom");
    for fields in ["".to_owned(), format!("Authorization: Bearer {UNKNOWN}\r\n"), format!("X-Api-Key: {almost}\r\n")] {
        let answer = sent(&scene, "/api/x", &fields).await;
        assert_eq!(answer.refusal(), (407, "client_auth_required".to_owned()), "{fields}");
        assert_eq!(answer.header("proxy-authenticate"), Some("Basic realm=\"countersign\""));
        assert!(answer.text().contains("phantom key") && !answer.text().contains(UNKNOWN), "{}", answer.text());
    }
    assert_eq!(upstream.count(), 0);
    let refused = [("reason", "client_auth_required")];
    assert_eq!(scene.metric("countersign_refused_total", &refused).await, 3.0);
    assert_eq!(scene.metric("countersign_tripwires_total", &[]).await, 0.0, "nobody's key is no tripwire");
    scene.finish().await;
}

#[tokio::test]
async fn http2_and_tunnels_that_are_looked_into_know_the_key_too() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let setup = |more: &str| {
        let route = format!("token = \"api\"\nintercept = true\n{more}");
        Setup::new().token("api", &issuer, "").route("api", &upstream, &route)
    };
    let scene = started(setup("")).await;
    scene.ready().await;
    let mut client = Http2Client::connect(scene.proxy).await;
    let request = client.request("GET", "/api/x").header("authorization", format!("Bearer {KEY}"));
    assert_eq!(client.exchange(request.body(Payload::of("")).expect("a request")).await.status, 200);
    let request = client.request("GET", "/api/x").body(Payload::of("")).expect("a request");
    assert_eq!(client.exchange(request).await.reason(), (407, "client_auth_required".to_owned()));

    let authority = upstream.address.to_string();
    let connect = |fields: &str| format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n");
    let answer = scene.exchange(connect("")).await;
    assert_eq!(answer.refusal(), (407, "client_auth_required".to_owned()));
    let mut client = scene.client().await;
    client.send(connect(&format!("Proxy-Authorization: Basic {}\r\n", basic(&format!("app:{KEY}"))))).await;
    assert_eq!(client.head().await.expect("an answer").status, 200);
    let mut client = client.over_tls("127.0.0.1", told(&scene, &["http/1.1"])).await.expect("a tunnel");
    for fields in ["".to_owned(), format!("Authorization: Bearer {KEY}\r\n")] {
        client.send(format!("GET /x HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n")).await;
        assert_eq!(client.answer().await.expect("an answer").status, 200, "the tunnel was opened with the key");
        scene.reload(&with_clients(setup("websocket = true"))).await.expect("taken");
    }
    // A key that is replaced is not good in a tunnel that was opened with it.
    std::fs::write(scene.folder().join("app.key"), UNKNOWN).expect("written");
    wait_until("the new key", SOON, async || {
        sent(&scene, "/api/x", &format!("X-Api-Key: {UNKNOWN}\r\n")).await.status == 200
    })
    .await;
    client.send(format!("GET /x HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
    assert_eq!(client.answer().await.expect("an answer").refusal(), (407, "client_auth_required".to_owned()));
    assert_eq!(sent(&scene, "/api/x", &format!("X-Api-Key: {KEY}\r\n")).await.status, 407);
    unseen(&upstream);
    scene.finish().await;
}

#[tokio::test]
async fn a_key_file_that_breaks_changes_nothing() {
    let upstream = Upstream::http1().await;
    let (_issuer, scene) = scene(&upstream, r#""bearer""#).await;
    std::fs::write(scene.folder().join("app.key"), "half").expect("written");
    wait_until("it is said", SOON, async || log::text().contains("a phantom key cannot be read again")).await;
    assert_eq!(sent(&scene, "/api/x", &format!("X-Api-Key: {KEY}\r\n")).await.status, 200);
    scene.finish().await;
}

/// The trail's records of tripped wires: cause, whose key, who sent it, route.
fn tripped(records: &[serde_json::Value]) -> Vec<(String, String, Option<String>, Option<String>)> {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let told = |record: &&serde_json::Value| {
        let [cause, client] = ["cause", "client"].map(|field| text(&record[field]).expect("a text"));
        (cause, client, text(&record["sent_by"]), text(&record["route"]))
    };
    trail::of(records, "tripwire").iter().map(told).collect()
}

#[tokio::test]
async fn a_key_in_a_place_that_is_none_is_a_tripwire() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let setup = Setup::new().token("api", &issuer, "").route("api", &upstream, r#"token = "api""#);
    let scene = started(setup).await;
    scene.ready().await;
    let own = format!("Authorization: Bearer {KEY}\r\n");
    let cases = [
        (format!("/api/x?key={KEY}"), String::new()),
        (format!("/api/x?q=a%20{}", KEY.replace('k', "%6b")), String::new()),
        (format!("/api/x?q={KEY}"), own.clone()),
        (format!("/api/repos/{KEY}/x"), String::new()),
        ("/api/x".to_owned(), format!("Cookie: session={KEY}\r\n")),
        ("/api/x".to_owned(), format!("X-Debug: {KEY}\r\n")),
        ("/api/x".to_owned(), format!("User-Agent: agent/1 ({KEY})\r\n{own}")),
        ("/api/x".to_owned(), format!("{own}X-Api-Key: {OTHERS}\r\n")),
    ];
    for (number, (target, fields)) in cases.iter().enumerate() {
        let answer = sent(&scene, target, fields).await;
        assert_eq!(answer.refusal(), (403, "client_unknown".to_owned()), "{target} {fields}");
        assert!(!answer.text().contains("phantom"), "whoever has found a key learns nothing: {}", answer.text());
        let least = number as f64 + 1.0;
        assert_eq!(scene.metric("countersign_tripwires_total", &[]).await, least, "{target} {fields}");
    }
    assert_eq!(upstream.count(), 0);
    let records = scene.finish().await;
    let causes = |cause: &str| {
        trail::of(&records, "tripwire")
            .iter()
            .filter(|record| record["cause"] == cause)
            .map(|record| record["count"].as_u64().expect("a count"))
            .sum::<u64>()
    };
    assert_eq!((causes("wrong_place"), causes("other_client")), (7, 1));
    let all = format!("{records:?}{}", log::text());
    assert!(!all.contains(KEY) && !all.contains(OTHERS), "a key is in the trail or the log");
}

#[tokio::test]
async fn a_key_towards_a_host_that_is_not_its_clients_is_a_tripwire() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let theirs = Upstream::on("127.0.0.2").await;
    let setup = Setup::new().token("api", &issuer, "").route("api", &upstream, r#"token = "api""#);
    let setup = setup.route("theirs", &theirs, "token = \"api\"\nclients = [\"other\"]");
    let scene = started(setup).await;
    scene.ready().await;
    let in_api = format!("Authorization: Bearer {KEY}\r\n");
    let for_proxy = format!("Proxy-Authorization: Bearer {KEY}\r\n");
    let elsewhere = "http://collector.example/x";
    let at_theirs = format!("http://{}/x", theirs.address);
    for target in [elsewhere, &at_theirs, "/theirs/x"] {
        assert_eq!(sent(&scene, target, &in_api).await.refusal(), (403, "client_unknown".to_owned()), "{target}");
    }
    // A client that is told to use a proxy sends that one with every request.
    assert_eq!(sent(&scene, elsewhere, &for_proxy).await.refusal(), (404, "no_route".to_owned()));
    assert_eq!(sent(&scene, &at_theirs, &for_proxy).await.refusal(), (403, "route_denied".to_owned()));
    let tunnel =
        |fields: &str| format!("CONNECT collector.example:443 HTTP/1.1\r\nHost: collector.example:443\r\n{fields}\r\n");
    assert_eq!(scene.exchange(tunnel(&for_proxy)).await.refusal(), (403, "tunnel_denied".to_owned()));
    assert_eq!(scene.exchange(tunnel(&in_api)).await.refusal(), (403, "client_unknown".to_owned()));
    assert_eq!(sent(&scene, "/nowhere/x", &in_api).await.refusal(), (404, "no_route".to_owned()), "a misspelt name");
    let count = async |cause| scene.metric("countersign_tripwires_total", &[("client", "app"), ("cause", cause)]).await;
    assert_eq!((count("other_host").await, count("wrong_place").await), (3.0, 1.0));
    assert_eq!(upstream.count() + theirs.count(), 0);
    let records = scene.finish().await;
    let route = |route: Option<&str>| {
        ("other_host".to_owned(), "app".to_owned(), Some("app".to_owned()), route.map(str::to_owned))
    };
    let told = tripped(&records);
    assert!(told.contains(&route(None)) && told.contains(&route(Some("theirs"))), "{told:?}");
}

/// Needs root, for a connection of another user.
#[tokio::test]
async fn a_key_that_another_client_sends_is_a_tripwire() {
    let upstream = Upstream::http1().await;
    let (_issuer, scene) = scene(&upstream, r#""bearer""#).await;
    let request = |key: &str| format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n");
    let mut other = Client::of_user(OTHER_USER, scene.proxy).await;
    other.send(request(OTHERS)).await;
    assert_eq!(other.answer().await.expect("an answer").status, 200, "its own");
    for (user, sender) in [(OTHER_USER, Some("other")), (4343, None)] {
        let mut thief = Client::of_user(user, scene.proxy).await;
        thief.send(request(KEY)).await;
        let answer = thief.answer().await.expect("an answer");
        assert_eq!(answer.refusal(), (403, "client_unknown".to_owned()));
        let least = if user == OTHER_USER { 1 } else { 2 };
        let records = scene.recorded("tripwire", least).await;
        let record = records.last().expect("a record");
        assert_eq!((&record["client"], &record["uid"]), (&"app".into(), &user.into()));
        assert_eq!(record["sent_by"].as_str(), sender);
    }
    let mut unix = Client::unix_of_user(OTHER_USER, &scene.socket).await;
    unix.send(request(KEY)).await;
    assert_eq!(unix.answer().await.expect("an answer").refusal(), (403, "client_unknown".to_owned()));
    assert_eq!(sent(&scene, "/api/x", &format!("X-Api-Key: {KEY}\r\n")).await.status, 200, "whose it is goes on");
    assert_eq!(upstream.count(), 2);
    scene.finish().await;
}
