//! Keys that an API makes and deletes: one is made for each generation, and none is left behind that anybody knows of.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::issuer::Reply as Told;
use crate::support::upstream::{Reply, Seen};
use crate::support::{Issuer, Scene, Setup, Upstream, operator};

const ADMIN: &str = "canary-admin-key";

/// A source of keys at this address.
fn source(base: &str, more: &str) -> String {
    format!(
        r#"{{ kind = "key_endpoint", secret = "file:admin", auth = {{ header = "x-admin" }}, create = {{ url = "{base}/v1/keys", body = '{{"name":"proxy-{{unique}}","ttl":{{life}}}}' }}, key = "/data/secret", id = "/data/id", delete = {{ url = "{base}/v1/keys/{{id}}"{more} }}, life = "24h""#
    )
}

/// An API that makes key-1, key-2... and answers what deletes them with this.
async fn keys(deleted: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Upstream {
    let api = Upstream::http1().await;
    let made = AtomicUsize::new(0);
    api.answers(move |seen| {
        if seen.method != "POST" {
            return deleted(seen);
        }
        let number = made.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = json!({ "data": { "id": format!("id/{number}"), "secret": format!("key-{number}") } });
        Reply::ok(answer.to_string()).header("content-type", "application/json")
    });
    api
}

async fn scene(api: &Upstream, upstream: &Upstream, more: &str) -> Scene {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("admin"), ADMIN).expect("written");
    let base = format!("https://{}", api.address);
    let ca = api.certificate.ca().display().to_string();
    let source = source(&base, more) + &format!(", tls = {{ ca = \"file:{ca}\" }} }}");
    let setup = Setup::new().token_from("api", &source, "rotation = { overlap = \"0s\", max_life = \"24h\" }");
    Scene::start_in(folder.into(), &setup.route("api", upstream, "token = \"api\"")).await
}

/// The calls of the API, each as its method and path.
fn calls(api: &Upstream) -> Vec<String> {
    api.seen().iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect()
}

async fn key_in_use(scene: &Scene, upstream: &Upstream) -> String {
    assert_eq!(scene.get("/api/x").await.status, 200);
    upstream.last().all("authorization").concat()
}

#[tokio::test]
async fn a_key_is_made_for_each_generation_and_deleted_when_another_has_replaced_it() {
    let (api, upstream) = (keys(|_| Reply::new(204)).await, Upstream::http1().await);
    let scene = scene(&api, &upstream, "").await;
    assert_eq!(key_in_use(&scene, &upstream).await, "Bearer key-1");
    let made = api.last();
    assert_eq!((made.all("x-admin"), made.header("authorization")), (vec![ADMIN], None));
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    assert_eq!(key_in_use(&scene, &upstream).await, "Bearer key-2");
    let revoked = scene.recorded("generation_revoked", 1).await.remove(0);
    assert_eq!(
        (&revoked["cause"], &revoked["outcome"], &revoked["generation"]),
        (&json!("replaced"), &json!("success"), &json!(1))
    );
    assert_eq!(calls(&api), ["POST /v1/keys", "POST /v1/keys", "DELETE /v1/keys/id%2F1"]);
    assert_eq!(key_in_use(&scene, &upstream).await, "Bearer key-2");
    let records = Value::from(scene.finish().await).to_string();
    assert!(!records.contains(ADMIN) && !records.contains("key-1") && !records.contains("id/1"), "{records}");
}

#[tokio::test]
async fn a_key_is_deleted_again_and_again_until_its_api_confirms_it() {
    let asked = AtomicUsize::new(0);
    let refuses = move |_: &Seen| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::new(500),
        1 => Reply::new(403),
        _ => Reply::new(410),
    };
    let (api, upstream) = (keys(refuses).await, Upstream::http1().await);
    let scene = scene(&api, &upstream, "").await;
    scene.ready().await;
    let answer = operator::act(&scene, "api", "revoke", None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let revoked = scene.recorded("generation_revoked", 1).await.remove(0);
    assert_eq!(
        (&revoked["cause"], &revoked["outcome"], &revoked["attempts"]),
        (&json!("revoked"), &json!("success"), &json!(3))
    );
    assert_eq!(scene.get("/api/x").await.refusal().1, "token_revoked");
    scene.finish().await;
}

#[tokio::test]
async fn a_key_that_is_not_there_is_gone_unless_the_api_says_that_to_those_who_may_not_look_too() {
    for (more, attempts) in [("", 1), (", missing = \"unclear\"", 2)] {
        let asked = AtomicUsize::new(0);
        let missing = move |_: &Seen| Reply::new(if asked.fetch_add(1, Ordering::Relaxed) == 0 { 404 } else { 204 });
        let (api, upstream) = (keys(missing).await, Upstream::http1().await);
        let scene = scene(&api, &upstream, more).await;
        scene.ready().await;
        assert_eq!(operator::act(&scene, "api", "retire", None).await.status, 200);
        let revoked = scene.recorded("generation_revoked", 1).await.remove(0);
        assert_eq!((&revoked["outcome"], &revoked["attempts"]), (&json!("success"), &json!(attempts)), "{more}");
        scene.finish().await;
    }
}

/// The failure of a source whose first call is answered so, and what the API was asked then.
async fn failed(answer: Told) -> (String, Vec<String>) {
    let (api, upstream) = (Issuer::answering(|_| Told::json(503, "{}")).await, Upstream::http1().await);
    api.next(answer);
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("admin"), ADMIN).expect("written");
    let base = format!("http://{}", api.address);
    let setup = Setup::new().token_from("api", &(source(&base, "") + " }"), "");
    let scene = Scene::start_in(folder.into(), &setup.route("api", &upstream, "token = \"api\"")).await;
    let failure = scene.recorded("token_failed", 1).await.remove(0);
    let calls = api.calls().iter().filter_map(|call| call.head.lines().next().map(str::to_owned)).collect();
    assert_eq!((scene.get("/api/x").await.status, upstream.count()), (503, 0));
    scene.finish().await;
    (failure["detail"].as_str().expect("a detail").to_owned(), calls)
}

#[tokio::test]
async fn what_is_of_no_use_is_deleted_and_what_nobody_knows_of_is_said() {
    for answer in [json!({ "data": { "id": "k1" } }), json!({ "data": { "id": "k1", "secret": "a b" } })] {
        let (detail, calls) = failed(Told::json(201, &answer.to_string())).await;
        assert_eq!(calls.get(1).map(String::as_str), Some("DELETE /v1/keys/k1 HTTP/1.1"), "{detail}");
        assert!(detail.ends_with("and the key that it made is not deleted"), "the API refuses that here: {detail}");
    }
    let (detail, _) = failed(Told::json(201, r#"{"data":{"secret":"key-1"}}"#)).await;
    assert!(detail.contains("no id at /data/id: the key that it made cannot be deleted"), "{detail}");
    let (detail, _) = failed(Told::raw("HTTP/1.1 201 Made\r\nContent-Length: 1000\r\n\r\n{")).await;
    assert!(detail.contains("a key may have been made that nobody here knows"), "{detail}");
    let (detail, _) = failed(Told::json(403, r#"{"message":"canary-admin-key may not"}"#)).await;
    assert_eq!(detail, "the issuer answered 403: [redacted] may not");
}

#[tokio::test]
async fn what_is_asked_for_is_what_the_templates_say() {
    let (api, upstream) = (Issuer::start().await, Upstream::http1().await);
    let ends = (jiff::Timestamp::now() + Duration::from_secs(3600)).to_string();
    let answer = json!({ "data": { "id": 7, "secret": "key-1", "ends": ends } });
    api.next(Told::json(201, &answer.to_string()));
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("admin"), ADMIN).expect("written");
    let source = source(&format!("http://{}", api.address), r#", method = "POST", body = '{"revoke":"{id}"}'"#)
        .replace("life = \"24h\"", "life = \"2h\", expires = \"/data/ends\", headers = { x-version = \"2\" } }");
    let setup = Setup::new().token_from("api", &source, "rotation = { max_life = \"24h\" }");
    let scene = Scene::start_in(folder.into(), &setup.route("api", &upstream, "token = \"api\"")).await;
    assert_eq!(key_in_use(&scene, &upstream).await, "Bearer key-1");
    let call = api.calls().remove(0);
    let body: Value = serde_json::from_str(&call.body).expect("JSON");
    assert_eq!((body["ttl"].as_u64(), body["name"].as_str().map(str::len)), (Some(7200), Some("proxy-".len() + 16)));
    assert_eq!((call.header("x-version"), call.header("content-type")), ("2", "application/json"));
    let expires = scene.metric("countersign_token_expiry_timestamp_seconds", &[("token", "api")]).await;
    let told: jiff::Timestamp = ends.parse().expect("a time");
    assert!((expires - told.as_second() as f64).abs() <= 2.0, "{expires} {told}");
    api.next(Told::json(200, "{}"));
    assert_eq!(operator::act(&scene, "api", "revoke", None).await.status, 200);
    scene.recorded("generation_revoked", 1).await;
    let call = api.calls().remove(1);
    assert_eq!((call.head.lines().next(), call.body.as_str()), (Some("POST /v1/keys/7 HTTP/1.1"), r#"{"revoke":"7"}"#));
    scene.finish().await;
}
