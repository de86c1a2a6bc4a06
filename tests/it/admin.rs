//! Operators call the admin API: who is let in, who is not, and what each of them learns.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use countersign::secret::Reference;
use countersign::tls::{self, Alpn, Identity};
use serde_json::{Value, json};

use crate::support::certificate::Ca;
use crate::support::issuer::Reply;
use crate::support::operator::{JSON, call, json_of, key, own, sent, socket, tcp};
use crate::support::{Client, Gate, Issuer, SOON, Scene, Setup, Upstream, trail, wait_for, wait_until};

const USER: u32 = 1234;

struct Place {
    issuer: Issuer,
    upstream: Upstream,
}

impl Place {
    async fn new() -> Self {
        Self { issuer: Issuer::start().await, upstream: Upstream::http1().await }
    }

    fn setup(&self) -> Setup {
        Setup::api(&self.issuer, &self.upstream)
    }

    async fn start(&self, setup: &Setup) -> Scene {
        let scene = setup.start().await;
        // So that other users reach the sockets in it.
        std::fs::set_permissions(scene.folder(), std::fs::Permissions::from_mode(0o755)).expect("a folder");
        scene.ready().await;
        scene
    }
}

#[tokio::test]
async fn our_own_user_sees_tokens_and_rotates_them() {
    let place = Place::new().await;
    let scene = place.start(&place.setup()).await;
    let listed = own(&scene, "GET /v1/tokens", "").await;
    assert_eq!((listed.status, listed.header("cache-control")), (200, Some("no-store")));
    let listed = json_of(&listed);
    assert_eq!(listed["tokens"].as_array().map(Vec::len), Some(1));
    let token = &listed["tokens"][0];
    assert_eq!(
        (&token["name"], &token["state"], &token["owner"]),
        (&json!("api"), &json!("active"), &json!("team@example.com"))
    );
    assert_eq!(token["generation"]["number"], 1);
    let rotated = own(&scene, "POST /v1/tokens/api/rotate", "{}").await;
    assert_eq!((rotated.status, &json_of(&rotated)["generation"]["number"]), (200, &json!(2)));
    assert_eq!(json_of(&own(&scene, "GET /v1/tokens/api", "").await), json_of(&rotated));
    assert_eq!(own(&scene, "GET /v1/tokens/other", "").await.refusal(), (404, "no_token".to_owned()));
    assert_eq!(place.issuer.count(), 2);
    let calls = trail::of(&scene.finish().await, "admin_call")
        .iter()
        .map(|record| {
            assert_eq!(record["operator"], "local");
            format!("{} {}", record["call"].as_str().expect("a call"), record["status"])
        })
        .collect::<Vec<_>>();
    assert_eq!(
        calls,
        ["GET /v1/tokens 200", "POST /v1/tokens/api/rotate 200", "GET /v1/tokens/api 200", "GET /v1/tokens/other 404",]
    );
}

#[tokio::test]
async fn what_an_operator_has_begun_goes_on_when_nobody_waits_for_it() {
    let place = Place::new().await;
    let scene = place.start(&place.setup()).await;
    let gate = Gate::closed();
    place.issuer.next(Reply::token("tok-2", 3600).behind(&gate));
    let mut client = Client::unix(&socket(&scene)).await;
    client.send(&call("POST /v1/tokens/api/rotate", "localhost", &[JSON], "{}")).await;
    wait_until("the issuer is asked", SOON, async || place.issuer.count() == 2).await;
    drop(client);
    // Whoever comes after it is served when its end has been seen.
    assert_eq!(own(&scene, "GET /v1/operator", "").await.status, 200);
    gate.open();
    let recorded = async || {
        let records = json_of(&own(&scene, "GET /v1/audit/records?event=admin_call", "").await);
        let calls = records["records"].as_array().expect("a list");
        calls.iter().any(|record| record["call"] == "POST /v1/tokens/api/rotate" && record["status"] == 200)
    };
    wait_until("it is in the trail", SOON, recorded).await;
    scene.finish().await;
}

/// Every call that the description names, made so that whoever may make it does no harm: method and path, the role that it
/// needs, and a body with all that is required.
fn calls(described: &Value) -> Vec<(String, String, String)> {
    let example = |schema: &Value| match (&schema["type"], schema["pattern"].as_str()) {
        (kind, _) if kind == "array" => json!(["read"]),
        (_, Some(pattern)) if pattern.contains("{64}") => json!("00".repeat(32)),
        (_, Some(pattern)) if pattern.contains("604800000") => json!("30m"),
        _ => json!("api"),
    };
    let mut calls = Vec::new();
    for (path, operations) in described["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let role = operation["description"].as_str().and_then(|text| text.strip_prefix("Needs the role "));
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let field = |name: Value| {
                let name = name.as_str().expect("a name").to_owned();
                (name.clone(), example(&schema["properties"][&name]))
            };
            let body: serde_json::Map<String, Value> = required.into_iter().map(field).collect();
            let path = path.replace("{name}", "nobody").replace("{id}", "0011223344556677");
            let query = if path.ends_with("/proof") { "?seq=0" } else { "" };
            let line = format!("{} {path}{query}", method.to_uppercase());
            calls.push((line, role.expect("a role").trim_end_matches('.').to_owned(), Value::Object(body).to_string()));
        }
    }
    calls
}

#[tokio::test]
async fn each_role_may_what_it_says_in_every_call_that_there_is() {
    let place = Place::new().await;
    let mut setup = place.setup().admin("listen = \"unix:admin.sock\"");
    let roles = ["viewer", "requester", "approver", "responder", "admin"];
    for role in roles {
        setup = setup.operator(role, &format!("{}\nroles = [\"{role}\"]", key(&format!("key of {role}"))));
    }
    let scene = place.start(&setup).await;
    let path = scene.folder().join("it.toml");
    std::fs::write(&path, setup.text()).expect("written");
    let _asks = scene.watch(&path, &setup);
    let as_role = async |role: &str, line: &str, body: &str| {
        let bearer = format!("Bearer key of {role}");
        let text = call(line, "localhost", &[JSON, ("Authorization", &bearer)], body);
        sent(Client::unix(&socket(&scene)).await, &text).await
    };
    let described = json_of(&as_role("viewer", "GET /openapi.json", "").await);
    let calls = calls(&described);
    assert!(calls.len() >= 20, "{calls:?}");
    let mut denied = Vec::new();
    for (line, needed, body) in &calls {
        for role in roles {
            let may = match needed.as_str() {
                // Of two roles, each may; which is looked at when the call is under way.
                "viewer" if line == "POST /v1/report/reviewed" => ["approver", "admin"].contains(&role),
                "viewer" => true,
                "requester" | "responder" => role == needed || role == "admin",
                _ => role == needed,
            };
            let answer = as_role(role, line, if line.starts_with("POST") { body } else { "" }).await;
            if may {
                assert!(matches!(answer.status, 200 | 201 | 404), "{role}: {line} {body}: {}", answer.text());
            } else {
                assert_eq!(answer.refusal(), (403, "not_allowed".to_owned()), "{role}: {line}");
                denied.push((role.to_owned(), line.split(['?']).next().unwrap_or_default().to_owned()));
            }
        }
    }
    let submitted =
        as_role("requester", "POST /v1/requests", r#"{"token":"api","for":"30m","reason":"a hotfix"}"#).await;
    assert_eq!((submitted.status, &json_of(&submitted)["state"]), (201, &json!("granted")), "{}", submitted.text());
    let records = scene.finish().await;
    let template = |line: &str| line.replace("/nobody", "/{name}").replace("/0011223344556677", "/{id}");
    for (role, line) in denied {
        let is_told = trail::of(&records, "admin_denied")
            .iter()
            .any(|record| record["operator"] == role && record["call"] == template(&line));
        assert!(is_told, "{role}: {line}");
    }
}

#[tokio::test]
async fn who_decides_what_it_may_not_is_denied_and_the_trail_says_what() {
    let place = Place::new().await;
    let setup = place.setup().admin("listen = \"unix:admin.sock\"").approval("default = \"ask\"");
    let setup =
        setup.operator("owner", &format!("{}\ngroups = [\"team@example.com\"]\nroles = [\"approver\"]", key("k")));
    let scene = setup.start().await;
    let as_owner = async |line: &str, body: &str| {
        let text = call(line, "localhost", &[JSON, ("Authorization", "Bearer k")], body);
        sent(Client::unix(&socket(&scene)).await, &text).await
    };
    let request = json_of(&as_owner("GET /v1/requests", "").await)["requests"][0].take();
    let line = format!("POST /v1/requests/{}/approve", request["id"].as_str().expect("an id"));
    let body = json!({ "reason": "mine", "digest": request["digest"] }).to_string();
    assert_eq!(as_owner(&line, &body).await.refusal(), (403, "not_allowed".to_owned()));
    let denied = scene.recorded("admin_denied", 1).await;
    assert_eq!((&denied[0]["operator"], &denied[0]["count"]), (&json!("owner"), &json!(1)));
    assert_eq!(denied[0]["call"], "POST /v1/requests/{id}/approve");
    scene.finish().await;
}

#[tokio::test]
async fn users_are_told_by_the_kernel_and_strangers_learn_nothing() {
    let place = Place::new().await;
    let setup = place
        .setup()
        .admin("listen = \"unix:admin.sock\"")
        .operator("alice", &format!("uid = {USER}\nroles = [\"viewer\"]"));
    let scene = place.start(&setup).await;
    let socket = socket(&scene);
    let who = sent(Client::unix_of_user(USER, &socket).await, &call("GET /v1/operator", "localhost", &[], "")).await;
    assert_eq!(json_of(&who), json!({ "name": "alice", "groups": [], "roles": ["viewer"], "told_apart": true }));
    for line in ["GET /v1/tokens", "GET /v1/tokens/api", "GET /v1/tokens/none", "GET /nothing", "PUT /v1/tokens"] {
        let stranger = Client::unix_of_user(USER + 1, &socket).await;
        let answer = sent(stranger, &call(line, "localhost", &[], "")).await;
        assert_eq!(answer.refusal(), (401, "unauthenticated".to_owned()), "{line}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"countersign\""));
    }
    // The proxy's own user is none once there are others.
    assert_eq!(own(&scene, "GET /v1/tokens", "").await.status, 401);
    // The sums of a second are recorded together, and the calls may be those of several seconds.
    let count = |record: &Value| record["count"].as_u64().expect("a number");
    let denied = wait_for("all that was denied", SOON, async || {
        let trail = scene.trail();
        let denied: Vec<Value> = trail::of(&trail, "admin_denied").into_iter().cloned().collect();
        (denied.iter().map(count).sum::<u64>() >= 6).then_some(denied)
    })
    .await;
    let stranger = format!("uid {}", USER + 1);
    let of_stranger: u64 = denied.iter().filter(|record| record["source"] == stranger).map(count).sum();
    assert_eq!(of_stranger, 5);
}

/// What an operator's good call is turned into, and what is answered then.
#[tokio::test]
async fn whoever_abuses_the_listener_is_refused() {
    let place = Place::new().await;
    let admin = "listen = \"127.0.0.1:0\"";
    let scene =
        place.start(&place.setup().admin(admin).operator("alice", &format!("{}\nroles = [\"admin\"]", key("k")))).await;
    let address = tcp(&scene);
    let (good, bearer) = (address.to_string(), ("Authorization", "Bearer k"));
    let cases: &[(&str, String, (u16, &str))] = &[
        ("another host", call("GET /v1/tokens", "evil.test", &[bearer], ""), (421, "host_unknown")),
        ("a host of another port", call("GET /v1/tokens", "localhost:1", &[bearer], ""), (421, "host_unknown")),
        (
            "a page",
            call("GET /v1/tokens", &good, &[bearer, ("Origin", "http://evil.test")], ""),
            (403, "browser_refused"),
        ),
        (
            "a page of ours",
            call("GET /v1/tokens", &good, &[bearer, ("Origin", &format!("http://{good}"))], ""),
            (403, "browser_refused"),
        ),
        (
            "a page's image",
            call("GET /v1/tokens", &good, &[bearer, ("Sec-Fetch-Site", "cross-site")], ""),
            (403, "browser_refused"),
        ),
        (
            "a preflight",
            call("OPTIONS /v1/tokens", &good, &[("Origin", "http://evil.test")], ""),
            (403, "browser_refused"),
        ),
        (
            "an absolute target",
            format!("GET http://{good}/v1/tokens HTTP/1.1\r\nHost: {good}\r\nAuthorization: Bearer k\r\n\r\n"),
            (421, "host_unknown"),
        ),
        ("no key", call("GET /v1/tokens", &good, &[], ""), (401, "unauthenticated")),
        ("another key", call("GET /v1/tokens", &good, &[("Authorization", "Bearer l")], ""), (401, "unauthenticated")),
        (
            "another scheme",
            call("GET /v1/tokens", &good, &[("Authorization", "Basic azo=")], ""),
            (401, "unauthenticated"),
        ),
        ("two keys", call("GET /v1/tokens", &good, &[bearer, bearer], ""), (401, "unauthenticated")),
        ("a key in the query", call("GET /v1/tokens?access_token=k", &good, &[], ""), (401, "unauthenticated")),
        (
            "a form",
            call("POST /v1/reload", &good, &[bearer, ("Content-Type", "application/x-www-form-urlencoded")], "{}"),
            (415, "content_type"),
        ),
        (
            "text",
            call("POST /v1/reload", &good, &[bearer, ("Content-Type", "text/plain")], "{}"),
            (415, "content_type"),
        ),
        ("nothing said", call("POST /v1/reload", &good, &[bearer], "{}"), (415, "content_type")),
        ("no JSON", call("POST /v1/reload", &good, &[bearer, JSON], "{"), (422, "invalid")),
        ("a list", call("POST /v1/reload", &good, &[bearer, JSON], "[]"), (422, "invalid")),
        ("deep JSON", call("POST /v1/reload", &good, &[bearer, JSON], &"[".repeat(60_000)), (422, "invalid")),
        (
            "an unknown field",
            call("POST /v1/reload", &good, &[bearer, JSON], "{\"file\":\"/etc/passwd\"}"),
            (422, "invalid"),
        ),
        ("an unknown query", call("GET /v1/tokens?all=1", &good, &[bearer], ""), (422, "invalid")),
        ("a large body", call("POST /v1/reload", &good, &[bearer, JSON], &" ".repeat(70_000)), (413, "body_too_large")),
        ("a change by GET", call("GET /v1/tokens/api/rotate", &good, &[bearer], ""), (405, "method_refused")),
        ("another method", call("DELETE /v1/tokens/api", &good, &[bearer], ""), (405, "method_refused")),
        ("a traversal", call("GET /v1/tokens/../config", &good, &[bearer], ""), (404, "not_found")),
        ("an encoded name", call("GET /v1/tokens/%61pi", &good, &[bearer], ""), (404, "not_found")),
        ("another path", call("GET /metrics", &good, &[bearer], ""), (404, "not_found")),
    ];
    for (what, text, (status, reason)) in cases {
        let answer = sent(Client::tcp(address).await, text).await;
        assert_eq!(answer.refusal(), (*status, (*reason).to_owned()), "{what}");
        let problem = answer.problem();
        assert_eq!(problem["type"], format!("urn:countersign:{reason}"), "{what}");
        assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("access-control")), "{what}");
    }
    assert_eq!(sent(Client::tcp(address).await, &call("GET /v1/tokens", &good, &[bearer], "")).await.status, 200);
    assert_eq!(place.issuer.count(), 1, "nothing was done");
}

#[tokio::test]
async fn keys_are_not_tried_one_after_the_other() {
    let place = Place::new().await;
    let setup = place
        .setup()
        .admin("listen = \"unix:admin.sock\"")
        .operator("alice", &format!("{}\nroles = [\"viewer\"]", key("k")));
    let scene = place.start(&setup).await;
    let socket = socket(&scene);
    let tried = async |user: u32, sent_key: &str| {
        let bearer = format!("Bearer {sent_key}");
        sent(
            Client::unix_of_user(user, &socket).await,
            &call("GET /v1/tokens", "localhost", &[("Authorization", &bearer)], ""),
        )
        .await
    };
    let mut tries = 0;
    while tried(USER, &format!("wrong {tries}")).await.status == 401 {
        tries += 1;
        assert!(tries < 100, "nobody tries for ever");
    }
    assert!(tries >= 10, "a few mistakes are nobody's attack: {tries}");
    let refused = tried(USER, "k").await;
    assert_eq!(refused.refusal(), (429, "too_many_failures".to_owned()), "the right key does not help");
    assert!(["1", "2"].contains(&refused.header("retry-after").expect("a wait")));
    assert_eq!(tried(USER + 1, "k").await.status, 200, "others are let in");
    scene.clock.advance(Duration::from_secs(3));
    assert_eq!(tried(USER, "k").await.status, 200);
    let denied = scene.recorded("admin_denied", 1).await;
    assert!(denied.iter().all(|record| record["source"] == format!("uid {USER}")), "{denied:?}");
}

#[tokio::test]
async fn an_operator_that_calls_without_end_is_slowed_down() {
    let place = Place::new().await;
    let scene = place.start(&place.setup()).await;
    let mut passed = 0;
    let refused = loop {
        let answer = own(&scene, "GET /v1/operator", "").await;
        if answer.status != 200 {
            break answer;
        }
        passed += 1;
    };
    assert_eq!(refused.refusal(), (429, "rate_limited".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(passed >= 200, "{passed}");
}

#[tokio::test]
async fn a_certificate_lets_its_operator_in_over_tls() {
    let place = Place::new().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ca, strangers) = (Ca::new(), Ca::new());
    ca.write(&folder.path().join("ca.pem"));
    ca.sign(&["127.0.0.1"], |_| {}).write(folder.path(), "server");
    for (who, signer, name) in
        [("alice", &ca, "alice.ops"), ("bob", &ca, "bob.ops"), ("mallory", &strangers, "alice.ops")]
    {
        signer.sign(&[name], |_| {}).write(folder.path(), who);
    }
    let at = folder.path().display();
    let admin = format!(
        "listen = \"127.0.0.1:0\"\ntls = {{ cert = \"file:{at}/server.pem\", key = \"file:{at}/server.key\", client_ca = \"file:{at}/ca.pem\" }}"
    );
    let setup = place
        .setup()
        .admin(&admin)
        .operator("alice", "certificate = \"alice.ops\"\nroles = [\"viewer\", \"approver\"]")
        .operator("carol", &format!("{}\nroles = [\"viewer\"]", key("k")));
    let scene = place.start(&setup).await;
    let address = tcp(&scene);
    let asked = async |who: Option<&str>, fields: &[(&str, &str)]| {
        let identity = who.map(|who| Identity {
            certificate: folder.path().join(format!("{who}.pem")),
            key: Reference::File(folder.path().join(format!("{who}.key"))),
        });
        let settings = tls::Settings { ca: Some(folder.path().join("ca.pem")), identity, pins: Vec::new() };
        let config: Arc<_> = settings.client_config(Alpn::Http1).expect("a client");
        let mut client = Client::tls(address, config).await.ok()?;
        client.send(call("GET /v1/operator", &address.to_string(), fields, "")).await;
        client.answer().await.ok()
    };
    let alice = json_of(&asked(Some("alice"), &[]).await.expect("an answer"));
    assert_eq!(
        (&alice["name"], &alice["told_apart"], &alice["roles"][1]),
        (&json!("alice"), &json!(true), &json!("approver"))
    );
    assert_eq!(asked(Some("bob"), &[]).await.expect("an answer").status, 401, "a good certificate of nobody");
    assert!(asked(Some("mallory"), &[]).await.is_none(), "a certificate of another CA ends the handshake");
    assert_eq!(asked(None, &[]).await.expect("an answer").status, 401);
    let carol = json_of(&asked(None, &[("Authorization", "Bearer k")]).await.expect("an answer"));
    assert_eq!(carol["name"], "carol");
    let mut plain = Client::tcp(address).await;
    plain.send(call("GET /v1/operator", &address.to_string(), &[("Authorization", "Bearer k")], "")).await;
    let (rest, _) = plain.rest().await;
    assert!(!rest.starts_with(b"HTTP"), "nobody is answered in the clear");
}

#[tokio::test]
async fn the_listener_cannot_be_reached_through_the_proxy() {
    let place = Place::new().await;
    // A port that is known beforehand, so that a route can name it.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let setup = place
        .setup()
        .admin(&format!("listen = \"127.0.0.1:{port}\""))
        .operator("alice", &format!("{}\nroles = [\"admin\"]", key("k")))
        .route("admin", &place.upstream, &format!("upstream = \"http://127.0.0.1:{port}\"\ntls = {{}}"))
        .route("other", &place.upstream, &format!("upstream = \"http://127.0.0.2:{port}\"\ntls = {{}}"));
    let scene = place.start(&setup).await;
    let address = tcp(&scene);
    let direct = call("GET /v1/tokens", &address.to_string(), &[("Authorization", "Bearer k")], "");
    assert_eq!(sent(Client::tcp(address).await, &direct).await.status, 200);
    let proxied = call("GET /admin/v1/tokens", &scene.proxy.to_string(), &[("Authorization", "Bearer k")], "");
    let answer = sent(Client::tcp(scene.proxy).await, &proxied).await;
    assert_eq!(answer.refusal(), (403, "destination_prohibited".to_owned()));
}

#[tokio::test]
async fn the_config_in_force_is_shown_without_what_may_be_secret() {
    let place = Place::new().await;
    let source = format!(
        r#"{{ kind = "client_credentials", token_url = "{}", client_id = "api", client_secret = "file:client-secret", headers = {{ X-Key = "may-be-secret" }} }}"#,
        place.issuer.url()
    );
    let setup = Setup::new().token_from("api", &source, "").route("api", &place.upstream, "token = \"api\"").operator(
        "alice",
        &format!("uid = {}\n{}\nroles = [\"viewer\"]", rustix::process::getuid().as_raw(), key("k")),
    );
    let scene = place.start(&setup).await;
    let text = call("GET /v1/config", "localhost", &[("Authorization", "Bearer k")], "");
    let answer = sent(Client::unix(&socket(&scene)).await, &text).await;
    let config = json_of(&answer);
    assert_eq!(config["token"][0]["reason"], "the tests need it");
    assert_eq!(config["proxy"]["workers"], 2);
    assert_eq!(config["token"][0]["source"]["headers"], "(not shown)");
    assert_eq!(config["operator"][0]["key"], "(not shown)");
    assert!(!answer.text().contains("may-be-secret") && !answer.text().contains("sha256:"));
}

#[tokio::test]
async fn a_reload_answers_with_what_came_of_it() {
    let place = Place::new().await;
    let setup = place.setup();
    let scene = place.start(&setup).await;
    assert_eq!(
        own(&scene, "POST /v1/reload", "{}").await.refusal(),
        (409, "config_refused".to_owned()),
        "there is no file"
    );
    let path = scene.folder().join("it.toml");
    std::fs::write(&path, setup.text()).expect("written");
    let _asks = scene.watch(&path, &setup);
    wait_until("somebody looks after the file", SOON, async || {
        own(&scene, "POST /v1/reload", "{}").await.status == 200
    })
    .await;

    std::fs::write(&path, setup.text().replace("[proxy]", "[proxy]\nwokers = 3")).expect("written");
    let refused = own(&scene, "POST /v1/reload", "{}").await;
    assert_eq!(refused.refusal(), (422, "config_refused".to_owned()));
    let problems = refused.problem()["problems"].as_array().cloned().expect("problems");
    let error = problems.iter().find(|problem| problem["severity"] == "error").expect("an error");
    assert_eq!((&error["line"], &error["help"]), (&json!(2), &json!("did you mean `workers`?")));

    std::fs::write(&path, setup.clone().workers(3).text()).expect("written");
    let refused = own(&scene, "POST /v1/reload", "{}").await;
    assert_eq!(refused.refusal(), (409, "config_refused".to_owned()));
    assert!(refused.problem()["detail"].as_str().expect("words").contains("proxy.workers"));

    let with_alice = setup.operator("alice", &format!("uid = {USER}\nroles = [\"admin\"]"));
    std::fs::write(&path, with_alice.text()).expect("written");
    assert_eq!(own(&scene, "POST /v1/reload", "{}").await.status, 200);
    assert_eq!(own(&scene, "POST /v1/reload", "{}").await.status, 401, "others are operators now");
}

#[tokio::test]
async fn no_answer_and_no_record_holds_a_token() {
    let place = Place::new().await;
    let scene = place.start(&place.setup()).await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    let value = place.upstream.last().header("authorization").expect("a token").to_owned();
    let value = value.strip_prefix("Bearer ").expect("a bearer");
    for line in
        ["GET /v1/tokens", "GET /v1/tokens/api", "POST /v1/tokens/api/rotate", "GET /v1/config", "GET /openapi.json"]
    {
        let answer = own(&scene, line, "{}").await;
        assert_eq!(answer.status, 200, "{line}");
        assert!(!answer.text().contains(value), "{line}");
        assert!(!answer.text().contains("first-client-secret"), "{line}");
    }
    let trail = serde_json::to_string(&scene.finish().await).expect("JSON");
    assert!(!trail.contains(value));
}

/// The calls that the documentation tells of, as the description writes them.
fn documented() -> BTreeSet<String> {
    let table = include_str!("../../docs/admin.md").lines().filter(|line| line.starts_with("| `"));
    let calls = table.flat_map(|line| line.split('|').nth(1).unwrap_or_default().split('`'));
    let calls = calls.filter(|text| text.starts_with("GET /") || text.starts_with("POST /"));
    calls
        .map(|text| text.split('?').next().unwrap_or_default().replace("NAME", "{name}").replace("ID", "{id}"))
        .collect()
}

#[tokio::test]
async fn the_description_and_the_documentation_name_every_call() {
    let place = Place::new().await;
    let scene = place.start(&place.setup()).await;
    let described = json_of(&own(&scene, "GET /openapi.json", "").await);
    assert_eq!(described["openapi"], "3.1.0");
    let mut named = BTreeSet::new();
    for (path, operations) in described["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            named.insert(format!("{} {path}", method.to_uppercase()));
            let responses = &operation["responses"];
            assert!(responses["200"].is_object() || responses["201"].is_object(), "{method} {path}");
            assert!(responses["401"].is_object() && responses["403"].is_object(), "{method} {path}");
        }
    }
    assert_eq!(named, documented());
}
