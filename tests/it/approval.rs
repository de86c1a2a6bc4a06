//! Access requests: nothing is provisioned before somebody approves who may, and nothing outlives what was granted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::proxy::Address;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Answer;
use crate::support::issuer::Reply;
use crate::support::{Client, Gate, Issuer, SOON, Scene, Setup, Upstream, trail, wait_until};

struct Place {
    issuer: Issuer,
    upstream: Upstream,
}

impl Place {
    async fn new() -> Self {
        Self { issuer: Issuer::start().await, upstream: Upstream::http1().await }
    }

    /// A token that its rules ask about, and people: alice and carol approve, bob asks, the owner is of the token's group.
    fn setup(&self) -> Setup {
        self.with("")
    }

    /// The same, with further lines of the token.
    fn with(&self, lines: &str) -> Setup {
        people(Setup::new().token("api", &self.issuer, lines).route("api", &self.upstream, ROUTE))
            .approval("default = \"ask\"")
    }
}

const ROUTE: &str = "token = \"api\"\nallow = [\"GET /x/**\"]\ndeny = [\"DELETE /**\"]";

fn people(setup: Setup) -> Setup {
    let key = |name: &str| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("key = \"sha256:{hex}\"\n")
    };
    setup
        .admin("listen = \"unix:admin.sock\"")
        .operator("alice", &format!("{}roles = [\"approver\"]", key("alice")))
        .operator("carol", &format!("{}groups = [\"friends\"]\nroles = [\"approver\"]", key("carol")))
        .operator("bob", &format!("{}groups = [\"friends\"]\nroles = [\"requester\"]", key("bob")))
        .operator("owner", &format!("{}groups = [\"team@example.com\"]\nroles = [\"approver\"]", key("owner")))
}

fn socket(scene: &Scene) -> PathBuf {
    match &scene.admin {
        Address::Unix(path) => path.clone(),
        Address::Tcp(address) | Address::Tls(address) => panic!("{address} is no unix socket"),
    }
}

/// A call of an operator, whose key is its name.
async fn call(scene: &Scene, who: &str, line: &str, body: &Value) -> Answer {
    let body = if line.starts_with("GET") { String::new() } else { body.to_string() };
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    };
    let mut client = Client::unix(&socket(scene)).await;
    client
        .send(format!("{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {who}\r\n{length}\r\n{body}"))
        .await;
    client.answer().await.expect("an answer")
}

/// An approval is of what somebody who may look at it has seen.
async fn decide(scene: &Scene, who: &str, id: &str, decision: &str) -> Answer {
    let mut body = json!({ "reason": "looked at it" });
    if decision == "approve" {
        let seen = call(scene, "alice", &format!("GET /v1/requests/{id}"), &Value::Null).await;
        let seen: Value = serde_json::from_slice(&seen.body).expect("JSON");
        body["digest"] = seen["digest"].clone();
    }
    call(scene, who, &format!("POST /v1/requests/{id}/{decision}"), &body).await
}

async fn approve(scene: &Scene, who: &str, id: &str) {
    let approved = decide(scene, who, id, "approve").await;
    assert_eq!(approved.status, 200, "{}", approved.text());
}

async fn requests(scene: &Scene) -> Vec<Value> {
    let answer = call(scene, "alice", "GET /v1/requests", &Value::Null).await;
    let mut answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    serde_json::from_value(answer["requests"].take()).expect("a list")
}

/// The id of the only request that waits.
async fn pending(scene: &Scene) -> String {
    let pending: Vec<Value> =
        requests(scene).await.into_iter().filter(|request| request["state"] == "pending").collect();
    assert_eq!(pending.len(), 1, "{pending:#?}");
    pending[0]["id"].as_str().expect("an id").to_owned()
}

/// Submits a request; its id.
async fn submit(scene: &Scene, who: &str, body: Value) -> String {
    let submitted = call(scene, who, "POST /v1/requests", &body).await;
    assert_eq!(submitted.status, 201, "{}", submitted.text());
    let submitted: Value = serde_json::from_slice(&submitted.body).expect("JSON");
    submitted["id"].as_str().expect("an id").to_owned()
}

async fn is_refused(scene: &Scene, path: &str, reason: &str) -> Value {
    let answer = scene.get(path).await;
    assert_eq!(answer.refusal(), (403, reason.to_owned()), "{path}");
    answer.problem()
}

async fn is_in_state(scene: &Scene, state: &str) {
    let labels = [("token", "api"), ("state", state)];
    wait_until(&format!("the token is {state}"), SOON, async || {
        scene.metric("countersign_token_state", &labels).await == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_token_works_the_moment_it_is_approved_and_not_before() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    scene.ready().await;
    let problem = is_refused(&scene, "/api/x/1", "approval_pending").await;
    let id = pending(&scene).await;
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(&id)), "{problem}");
    assert_eq!(problem["request"], format!("countersign requests approve {id} --reason TEXT"));
    assert_eq!(scene.get("/api/x/1").await.header("retry-after"), None);
    is_in_state(&scene, "pending").await;
    assert_eq!((place.issuer.count(), place.upstream.connections()), (0, 0), "nothing is provisioned");
    assert_eq!(scene.metric("countersign_access_requests_pending", &[]).await, 1.0);
    approve(&scene, "alice", &id).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    is_in_state(&scene, "active").await;
    assert_eq!(scene.metric("countersign_access_requests_pending", &[]).await, 0.0);
    assert_eq!(scene.metric("countersign_access_requests_total", &[("decision", "approved")]).await, 1.0);
    for stage in ["decision", "generation"] {
        // A record is shown a moment after it is on the disk.
        scene.reaches("countersign_time_to_provision_seconds_count", &[("stage", stage)], 1.0).await;
    }
    let records = scene.finish().await;
    let events = trail::events(&records);
    let expected = ["token_requested", "access_approved", "access_granted", "token_issued"];
    let told: Vec<&str> = events.iter().copied().filter(|event| expected.contains(event)).collect();
    assert_eq!(told, expected);
    let requested = trail::of(&records, "token_requested")[0];
    assert_eq!((&requested["decision"], &requested["request"]), (&json!("ask"), &json!(id)));
    assert_eq!(requested["requester"], "the owner of the config file");
    assert!(requested["risk"].as_str().is_some_and(|risk| risk.contains("first use of 127.0.0.1")), "{requested}");
    let approved = trail::of(&records, "access_approved")[0];
    assert_eq!((&approved["by"], &approved["reason"]), (&json!("alice"), &json!("looked at it")));
}

#[tokio::test]
async fn nobody_approves_what_is_its_own() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    let id = pending(&scene).await;
    for (who, reason, words) in [
        ("owner", "not_allowed", "its own group"),
        ("bob", "not_allowed", "needs the role approver"),
        ("stranger", "unauthenticated", "proves no operator"),
    ] {
        let refused = decide(&scene, who, &id, "approve").await;
        assert_eq!(refused.refusal().1, reason, "{who}");
        assert!(refused.text().contains(words), "{}", refused.text());
    }
    let other = json!({ "reason": "yes", "digest": "00".repeat(32) });
    let refused = call(&scene, "alice", &format!("POST /v1/requests/{id}/approve"), &other).await;
    assert_eq!(refused.refusal(), (409, "not_pending".to_owned()), "it looked at another one");
    let refused = call(&scene, "alice", &format!("POST /v1/requests/{id}/approve"), &json!({})).await;
    assert_eq!(refused.status, 422, "a decision needs a reason");
    let unseen = json!({ "reason": "yes" });
    let refused = call(&scene, "alice", &format!("POST /v1/requests/{id}/approve"), &unseen).await;
    assert_eq!(refused.status, 422, "nobody approves what it has not seen");
    assert!(refused.text().contains("`digest` is missing"), "{}", refused.text());
    let wish = json!({ "token": "api", "for": "30m", "reason": "a hotfix" });
    let submitted = submit(&scene, "bob", wish).await;
    let refused = decide(&scene, "carol", &submitted, "approve").await;
    assert!(refused.text().contains("friends"), "carol is of bob's group: {}", refused.text());
    is_refused(&scene, "/api/x/1", "approval_pending").await;
    assert_eq!(place.issuer.count(), 0);
    approve(&scene, "alice", &id).await;
    let again = decide(&scene, "carol", &id, "approve").await;
    assert_eq!(again.refusal(), (409, "not_pending".to_owned()), "a decision is used once");
    scene.finish().await;
}

#[tokio::test]
async fn without_the_section_only_what_is_risky_asks_and_our_own_user_does_not_approve() {
    let place = Place::new().await;
    let setup = Setup::api(&place.issuer, &place.upstream).admin("listen = \"unix:admin.sock\"");
    let other = Upstream::on("127.0.0.2").await;
    let setup = setup.token("for-ever", &place.issuer, "permanent = true");
    let scene = setup.route("for-ever", &other, "token = \"for-ever\"").start().await;
    assert_eq!(scene.get("/api/x").await.status, 200, "what is not risky passes");
    let problem = is_refused(&scene, "/for-ever/x", "approval_pending").await;
    let id = problem["detail"].as_str().and_then(|text| text.split([' ', ',']).find(|word| word.len() == 16));
    let own = json!({ "reason": "yes", "digest": "00".repeat(32) }).to_string();
    let line = format!("POST /v1/requests/{}/approve HTTP/1.1", id.expect("an id"));
    let mut client = Client::unix(&socket(&scene)).await;
    let fields = format!("Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {}", own.len());
    client.send(format!("{line}\r\n{fields}\r\n\r\n{own}")).await;
    assert_eq!(client.answer().await.expect("an answer").refusal(), (403, "not_allowed".to_owned()));
    let ends = scene.scrape().await.find("countersign_token_grant_expiry_timestamp_seconds", &[("token", "for-ever")]);
    assert_eq!(ends, None, "it has no end");
    let records = scene.finish().await;
    let granted = trail::of(&records, "access_granted");
    assert_eq!(granted.len(), 1);
    assert!(granted[0]["by"].as_str().is_some_and(|by| by.contains("medium risk")), "{}", granted[0]);
}

#[tokio::test]
async fn a_denied_token_says_so_until_it_is_asked_for_otherwise() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    let id = pending(&scene).await;
    assert_eq!(decide(&scene, "alice", &id, "deny").await.status, 200);
    let problem = is_refused(&scene, "/api/x/1", "approval_denied").await;
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(&id)), "{problem}");
    assert_eq!(problem["request"], "countersign requests submit api --for 1h --reason TEXT");
    is_in_state(&scene, "denied").await;
    assert_eq!(scene.ask("/readyz").await.status, 200);
    scene.reload(&place.setup()).await.expect("a good config");
    is_refused(&scene, "/api/x/1", "approval_denied").await;
    scene.reload(&place.with("reason = \"another one\"")).await.expect("a good config");
    is_refused(&scene, "/api/x/1", "approval_pending").await;
    approve(&scene, "alice", &pending(&scene).await).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    let records = scene.finish().await;
    let denied = trail::of(&records, "access_denied")[0];
    assert_eq!((&denied["by"], &denied["request"]), (&json!("alice"), &json!(id)));
}

#[tokio::test]
async fn a_grant_that_is_taken_away_takes_the_token_out_of_use() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    let id = pending(&scene).await;
    approve(&scene, "alice", &id).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    assert_eq!(decide(&scene, "carol", &id, "deny").await.status, 200);
    is_refused(&scene, "/api/x/1", "approval_denied").await;
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_retired").len(), 1);
}

#[tokio::test]
async fn what_is_denied_is_out_of_use_at_once_whatever_another_tokens_issuer_does() {
    let place = Place::new().await;
    let (slow, other) = (Issuer::named("slow", 3600).await, Upstream::on("127.0.0.2").await);
    let with = |lines: &str| place.setup().token("slow", &slow, lines).route("slow", &other, "token = \"slow\"");
    let scene = with("").start().await;
    for request in requests(&scene).await {
        approve(&scene, "alice", request["id"].as_str().expect("an id")).await;
    }
    assert_eq!((scene.get("/api/x/1").await.status, scene.get("/slow/x").await.status), (200, 200));
    scene.reload(&with("scopes = [\"read\", \"write\"]")).await.expect("a good config");
    let edit = pending(&scene).await;
    let gate = Gate::closed();
    let behind = gate.clone();
    slow.answers(move |_| Reply::token("wide", 3600).behind(&behind));
    let granted =
        requests(&scene).await.into_iter().find(|request| request["token"] == "api" && request["id"] != edit.as_str());
    let granted = granted.expect("it is granted")["id"].as_str().expect("an id").to_owned();
    let deny = async {
        wait_until("the issuer is asked for the edit", SOON, async || slow.count() == 2).await;
        assert_eq!(decide(&scene, "carol", &granted, "deny").await.status, 200);
        is_refused(&scene, "/api/x/1", "approval_denied").await;
        assert_eq!(scene.get("/slow/x").await.status, 200, "the other one goes on as it was");
        assert_eq!(other.last().all("authorization"), ["Bearer slow-1"]);
        gate.open();
    };
    tokio::join!(approve(&scene, "alice", &edit), deny);
    wait_until("the edit is in force", SOON, async || {
        assert_eq!(scene.get("/slow/x").await.status, 200);
        other.last().all("authorization") == ["Bearer wide"]
    })
    .await;
    is_refused(&scene, "/api/x/1", "approval_denied").await;
    scene.finish().await;
}

#[tokio::test]
async fn what_a_reload_asks_for_is_told_once_however_often_it_is_interrupted() {
    let place = Place::new().await;
    let (slow, other) = (Issuer::named("slow", 3600).await, Upstream::on("127.0.0.2").await);
    let with = |lines: &str| {
        let setup = people(Setup::new().token("api", &place.issuer, "").route("api", &place.upstream, ROUTE));
        setup.token("slow", &slow, lines).route("slow", &other, "token = \"slow\"").approval("default = \"approve\"")
    };
    let scene = with("").start().await;
    assert_eq!((scene.get("/api/x/1").await.status, scene.get("/slow/x").await.status), (200, 200));
    let granted = requests(&scene).await.into_iter().find(|request| request["token"] == "api");
    let granted = granted.expect("it is granted")["id"].as_str().expect("an id").to_owned();
    let gate = Gate::closed();
    slow.next(Reply::token("wide", 3600).behind(&gate));
    let edited = with("scopes = [\"read\", \"write\"]");
    let deny = async {
        wait_until("the issuer is asked for the edit", SOON, async || slow.count() == 2).await;
        assert_eq!(decide(&scene, "carol", &granted, "deny").await.status, 200);
        gate.open();
    };
    let (taken, ()) = tokio::join!(scene.reload(&edited), deny);
    taken.expect("it is taken in the end");
    assert!(slow.count() > 2, "it was interrupted");
    let records = scene.finish().await;
    let told = |event: &str| {
        let edits = trail::of(&records, event).into_iter().filter(|record| record["token"] == "slow");
        edits.map(|record| record["request"].clone()).collect::<Vec<_>>()
    };
    let asked = told("token_requested");
    assert_eq!(asked.len(), 2, "the first and the edited one, each once: {asked:?}");
    assert_eq!(told("access_granted"), asked);
}

#[tokio::test]
async fn an_approved_token_works_while_another_ones_issuer_gives_nothing() {
    let place = Place::new().await;
    let (mute, other) = (Issuer::named("mute", 3600).await, Upstream::on("127.0.0.2").await);
    let with = |lines: &str, more: &str| {
        let setup = place.with(more).token("mute", &mute, lines).route("mute", &other, "token = \"mute\"");
        setup.proxy("acquire_timeout = \"500ms\"")
    };
    let scene = with("", "").start().await;
    for request in requests(&scene).await {
        approve(&scene, "alice", request["id"].as_str().expect("an id")).await;
    }
    assert_eq!(scene.get("/mute/x").await.status, 200);
    scene
        .reload(&with("scopes = [\"read\", \"write\"]", "scopes = [\"read\", \"write\"]"))
        .await
        .expect("a good config");
    mute.answers(|_| Reply::json(400, r#"{"error":"invalid_scope"}"#));
    let waiting = requests(&scene).await.into_iter().filter(|request| request["state"] == "pending");
    let mut waiting: Vec<Value> = waiting.collect();
    waiting.sort_by_key(|request| request["token"] == "api");
    for request in waiting {
        approve(&scene, "alice", request["id"].as_str().expect("an id")).await;
    }
    assert_eq!((scene.get("/api/x/1").await.status, scene.get("/mute/x").await.status), (200, 200));
    assert_eq!(place.issuer.calls().last().expect("a call").fields["scope"], "read write");
    assert_eq!(other.last().all("authorization"), ["Bearer mute-1"], "it goes on as it was");
    scene.finish().await;
}

#[tokio::test]
async fn a_grant_on_top_that_is_denied_takes_its_scopes_along_without_its_issuer() {
    let (place, told) = (Place::new().await, Issuer::answering(|_| Reply::json(200, "")).await);
    let lines = "scopes_on_request = [\"write\"]\nrotation = { overlap = \"1h\" }";
    let setup = people(Setup::new().token_revoked_at("api", &place.issuer, &told.url(), lines).route(
        "api",
        &place.upstream,
        ROUTE,
    ));
    let setup = setup.approval("default = \"ask\"").proxy("acquire_timeout = \"500ms\"");
    let scene = setup.start().await;
    approve(&scene, "alice", &pending(&scene).await).await;
    let wish = json!({ "token": "api", "for": "30m", "reason": "a hotfix", "scopes": ["read", "write"] });
    let id = submit(&scene, "bob", wish).await;
    approve(&scene, "alice", &id).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    place.issuer.answers(|_| Reply::json(503, "{}"));
    assert_eq!(decide(&scene, "carol", &id, "deny").await.status, 200);
    assert_eq!(scene.get("/api/x/1").await.status, 503, "nobody has the wider one any more");
    wait_until("its issuer is told, whatever the overlap of rotations", SOON, async || {
        told.calls().iter().any(|call| call.fields["token"] == "tok-2")
    })
    .await;
    scene.finish().await;
}

#[tokio::test]
async fn a_retired_token_stays_so_when_a_grant_on_top_of_it_ends() {
    let place = Place::new().await;
    let folder = Arc::new(TempDir::new().expect("a folder"));
    std::fs::write(folder.path().join("client-secret"), "first-client-secret\n").expect("written");
    let setup = place
        .with("scopes_on_request = [\"write\"]")
        .operator("root", &format!("{}\nroles = [\"admin\"]", crate::support::operator::key("root")));
    let scene = Scene::start_in(folder.clone(), &setup).await;
    approve(&scene, "alice", &pending(&scene).await).await;
    let wish = json!({ "token": "api", "for": "30m", "reason": "a hotfix", "scopes": ["read", "write"] });
    approve(&scene, "alice", &submit(&scene, "bob", wish).await).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    let retired = call(&scene, "root", "POST /v1/tokens/api/retire", &json!({ "reason": "it is over" })).await;
    assert_eq!(retired.status, 200, "{}", retired.text());
    is_refused(&scene, "/api/x/1", "approval_denied").await;
    let calls = place.issuer.count();
    scene.clock.advance(Duration::from_secs(1801));
    scene.recorded("access_ended", 1).await;
    is_refused(&scene, "/api/x/1", "approval_denied").await;
    scene.reload(&setup.clone().proxy("acquire_timeout = \"9s\"")).await.expect("a good config");
    is_refused(&scene, "/api/x/1", "approval_denied").await;
    scene.finish().await;
    let scene = Scene::start_in(folder, &setup).await;
    is_refused(&scene, "/api/x/1", "approval_denied").await;
    assert_eq!(place.issuer.count(), calls);
    scene.finish().await;
}

#[tokio::test]
async fn what_waits_is_judged_by_the_rules_that_hold_when_it_is_decided() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    let id = pending(&scene).await;
    scene.reload(&place.setup().approval("required = 2")).await.expect("a good config");
    approve(&scene, "alice", &id).await;
    is_refused(&scene, "/api/x/1", "approval_pending").await;
    scene.reload(&place.setup()).await.expect("a good config");
    is_refused(&scene, "/api/x/1", "approval_pending").await;
    approve(&scene, "carol", &id).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_requested").len(), 2, "the trail has what each of the rules said");
}

#[tokio::test]
async fn two_have_to_agree_where_the_rules_say_so() {
    let place = Place::new().await;
    let scene = place.setup().approval("required = 2").start().await;
    let id = pending(&scene).await;
    approve(&scene, "alice", &id).await;
    assert_eq!(decide(&scene, "alice", &id, "approve").await.status, 403, "once each");
    is_refused(&scene, "/api/x/1", "approval_pending").await;
    approve(&scene, "carol", &id).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "access_granted")[0]["by"], "alice, carol");
}

#[tokio::test]
async fn an_edited_token_goes_on_as_it_was_granted_until_the_edit_is_decided() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    approve(&scene, "alice", &pending(&scene).await).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    assert_eq!(place.issuer.calls()[0].fields["scope"], "read");
    let wider = "token = \"api\"\nallow = [\"GET /x/**\", \"GET /y/**\"]\ndeny = [\"GET /x/secret\"]";
    let edited = people(Setup::new().token("api", &place.issuer, "scopes = [\"read\", \"write\"]"));
    let edited = edited.route("api", &place.upstream, wider).approval("default = \"ask\"");
    scene.reload(&edited).await.expect("a good config");
    assert_eq!(scene.get("/api/x/1").await.status, 200, "the old grant lives");
    assert_eq!(place.upstream.last().all("authorization"), ["Bearer tok-1"]);
    is_refused(&scene, "/api/y/1", "path_denied").await;
    is_refused(&scene, "/api/x/secret", "path_denied").await;
    assert_eq!(place.issuer.count(), 1, "nothing is provisioned for the edit");
    is_in_state(&scene, "active").await;
    approve(&scene, "alice", &pending(&scene).await).await;
    assert_eq!(scene.get("/api/y/1").await.status, 200);
    assert_eq!(place.issuer.calls()[1].fields["scope"], "read write");
    assert_eq!(place.upstream.last().all("authorization"), ["Bearer tok-2"]);
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "access_ended")[0]["cause"], "superseded");
}

#[tokio::test]
async fn a_next_source_is_asked_for_and_nothing_is_moved_before_that_is_granted() {
    let (place, next) = (Place::new().await, Issuer::named("new", 3600).await);
    let probe = format!("rotation = {{ probe = \"https://{}/x/health\" }}", place.upstream.address);
    let url = next.url();
    let source = format!(
        r#"{{ kind = "client_credentials", token_url = "{url}", client_id = "api", client_secret = "file:client-secret" }}"#
    );
    let scene = place.with(&probe).start().await;
    approve(&scene, "alice", &pending(&scene).await).await;
    wait_until("it works", SOON, async || scene.get("/api/x/1").await.status == 200).await;
    scene.reload(&place.with(&format!("{probe}\nnext_source = {source}"))).await.expect("a good config");
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    assert_eq!((scene.get("/api/x/1").await.status, next.count()), (200, 0));
    assert_eq!(place.upstream.last().all("authorization"), ["Bearer tok-2"]);
    let id = pending(&scene).await;
    let asked = requests(&scene).await.into_iter().find(|request| request["id"] == id.as_str()).expect("it is there");
    assert_eq!(asked["next_source"], "client_credentials");
    approve(&scene, "alice", &id).await;
    wait_until("it is moved", SOON, async || scene.rotate("api").await.is_ok() && next.count() == 1).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    assert_eq!(place.upstream.last().all("authorization"), ["Bearer new-1"]);
    scene.finish().await;
}

#[tokio::test]
async fn an_edited_source_waits_over_restarts_while_the_old_one_goes_on() {
    let place = Place::new().await;
    let folder = Arc::new(TempDir::new().expect("a folder"));
    std::fs::write(folder.path().join("client-secret"), "first-client-secret\n").expect("written");
    let scene = Scene::start_in(folder.clone(), &place.setup()).await;
    approve(&scene, "alice", &pending(&scene).await).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    scene.finish().await;
    let other = Issuer::named("other", 3600).await;
    let edited = people(Setup::new().token("api", &other, "").route("api", &place.upstream, ROUTE));
    let edited = edited.approval("default = \"ask\"");
    let configs = || {
        std::fs::read_dir(folder.path().join("state/sealed")).expect("a folder").flatten().filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("config-") && name.to_string_lossy().ends_with(".sealed")
        })
    };
    for turn in 0..2 {
        let scene = Scene::start_in(folder.clone(), &edited).await;
        assert_eq!(scene.get("/api/x/1").await.status, 200, "restart {turn}: the old grant lives");
        scene.rotate("api").await.expect("from the old issuer");
        assert_eq!(scene.get("/api/x/1").await.status, 200);
        scene.finish().await;
        assert_eq!((place.issuer.count() > 1 + turn, other.count()), (true, 0), "restart {turn}");
        assert_eq!(configs().count(), 2, "restart {turn}");
    }
    let scene = Scene::start_in(folder.clone(), &edited).await;
    let before = place.issuer.count();
    approve(&scene, "alice", &pending(&scene).await).await;
    wait_until("the other issuer's is used", SOON, async || {
        assert_eq!(scene.get("/api/x/1").await.status, 200);
        place.upstream.last().all("authorization") == ["Bearer other-1"]
    })
    .await;
    scene.finish().await;
    assert_eq!((place.issuer.count(), other.count()), (before, 1));
    Scene::start_in(folder.clone(), &edited).await.finish().await;
    assert_eq!(configs().count(), 1, "nobody needs the old one any more");
}

#[tokio::test]
async fn decisions_and_submitted_requests_outlive_a_restart() {
    let place = Place::new().await;
    let folder = Arc::new(TempDir::new().expect("a folder"));
    std::fs::write(folder.path().join("client-secret"), "first-client-secret\n").expect("written");
    let scene = Scene::start_in(folder.clone(), &place.setup()).await;
    approve(&scene, "alice", &pending(&scene).await).await;
    let wish = json!({ "token": "api", "for": "2h", "reason": "a hotfix", "allow": ["POST /x/**"] });
    let wish = submit(&scene, "bob", wish).await;
    scene.finish().await;
    // The config asks for more meanwhile: what was granted goes on.
    let scene = Scene::start_in(folder.clone(), &place.with("scopes = [\"read\", \"write\"]")).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    assert_eq!(place.issuer.calls().last().expect("a call").fields["scope"], "read");
    approve(&scene, "alice", &wish).await;
    let posted = scene.exchange("POST /api/x/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(posted.status, 200);
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "access_granted").len(), 2);
    assert_eq!(trail::of(&records, "token_requested").len(), 3);
    // One bit of what was kept, and nobody knows what was decided.
    let sealed = folder.path().join("state/sealed");
    for entry in std::fs::read_dir(&sealed).expect("a folder") {
        let entry = entry.expect("an entry");
        if !entry.file_name().to_string_lossy().starts_with("request-") {
            continue;
        }
        let path = entry.path();
        let mut bytes = std::fs::read(&path).expect("readable");
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).expect("written");
    }
    let scene = Scene::start_in(folder.clone(), &place.setup()).await;
    is_refused(&scene, "/api/x/1", "approval_pending").await;
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "state_rejected").len(), 3);
}

#[tokio::test]
async fn a_grant_on_top_widens_scopes_for_its_time() {
    let place = Place::new().await;
    let scene = place.with("scopes_on_request = [\"write\"]").start().await;
    approve(&scene, "alice", &pending(&scene).await).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    for (body, status, words) in [
        (json!({ "token": "api", "for": "30m", "reason": "r", "scopes": ["admin"] }), 409, "scopes_on_request"),
        (json!({ "token": "api", "for": "30m", "reason": "r", "allow": ["DELETE /**"] }), 409, "always wins"),
        (json!({ "token": "api", "for": "30m", "reason": "r", "allow": ["other:GET /"] }), 409, "has no route other"),
        (json!({ "token": "api", "for": "30d", "reason": "r" }), 422, "to 7d"),
        (json!({ "token": "api", "for": "30m", "reason": "r", "source": "exec:/bin/sh" }), 422, "unknown field"),
        (json!({ "token": "other", "for": "30m", "reason": "r" }), 404, "no token other"),
    ] {
        let refused = call(&scene, "bob", "POST /v1/requests", &body).await;
        assert!(refused.status == status && refused.text().contains(words), "{}", refused.text());
    }
    let refused =
        call(&scene, "alice", "POST /v1/requests", &json!({ "token": "api", "for": "1m", "reason": "r" })).await;
    assert_eq!(refused.status, 403, "an approver is no requester");
    let wish = json!({ "token": "api", "for": "30m", "reason": "a hotfix", "scopes": ["read", "write"] });
    let id = submit(&scene, "bob", wish).await;
    assert_eq!(decide(&scene, "bob", &id, "approve").await.status, 403);
    assert_eq!(place.issuer.count(), 1);
    approve(&scene, "alice", &id).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    assert_eq!(place.issuer.calls()[1].fields["scope"], "read write");
    assert_eq!(place.upstream.last().all("authorization"), ["Bearer tok-2"]);
    scene.clock.advance(Duration::from_secs(1795));
    wait_until("the token is as it was before", SOON, async || {
        assert_eq!(scene.get("/api/x/1").await.status, 200, "no request fails of it");
        place.upstream.last().all("authorization") == ["Bearer tok-3"]
    })
    .await;
    assert_eq!(place.issuer.calls()[2].fields["scope"], "read");
    scene.clock.advance(Duration::from_secs(10));
    scene.recorded("access_ended", 1).await;
    scene.finish().await;
}

#[tokio::test]
async fn a_grant_on_top_allows_more_for_its_time() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    approve(&scene, "alice", &pending(&scene).await).await;
    is_refused(&scene, "/api/y/1", "path_denied").await;
    let wish = json!({ "token": "api", "for": "30m", "reason": "a hotfix", "allow": ["GET /y/*"] });
    let id = submit(&scene, "bob", wish).await;
    let shown = requests(&scene).await.into_iter().find(|request| request["id"] == id.as_str()).expect("it is there");
    assert_eq!(shown["risk"]["level"], "high", "{shown:#}");
    assert!(shown["risk"].to_string().contains("more than the config grants: GET /y/* on api"), "{shown:#}");
    approve(&scene, "alice", &id).await;
    assert_eq!((scene.get("/api/y/1").await.status, scene.get("/api/x/1").await.status), (200, 200));
    assert_eq!(place.issuer.count(), 1, "the token itself is the same");
    scene.clock.advance(Duration::from_secs(1801));
    wait_until("the grant has ended", SOON, async || scene.get("/api/y/1").await.status == 403).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn a_grant_on_top_whose_scopes_the_issuer_refuses_takes_nothing_away() {
    let place = Place::new().await;
    let setup = place.with("scopes_on_request = [\"write\"]").proxy("acquire_timeout = \"500ms\"");
    let scene = setup.start().await;
    approve(&scene, "alice", &pending(&scene).await).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    place.issuer.answers(|_| Reply::json(400, r#"{"error":"invalid_scope"}"#));
    let wish = json!({ "token": "api", "for": "30m", "reason": "a hotfix", "scopes": ["write"] });
    approve(&scene, "alice", &submit(&scene, "bob", wish).await).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    assert_eq!(place.upstream.last().all("authorization"), ["Bearer tok-1"]);
    scene.finish().await;
}

/// A key that signs, and what the config holds of it.
fn signer() -> (Ed25519KeyPair, String) {
    let pair = Ed25519KeyPair::generate().expect("a key");
    let public = format!("ed25519:{}", STANDARD.encode(pair.public_key().as_ref()));
    (pair, public)
}

/// A file of a grant, made as its form is documented.
fn grant(pair: &Ed25519KeyPair, digest: &str, token: &str, approver: &str, until: &str) -> String {
    let text = format!("countersign grant 1\n{digest}\n{token}\n{approver}\n{until}\n");
    let signature = STANDARD.encode(pair.sign(text.as_bytes()));
    json!({ "grant": 1, "request": digest, "token": token, "approver": approver, "until": until, "signature": signature })
        .to_string()
}

#[tokio::test]
async fn signed_grants_hold_on_every_replica_and_others_are_refused_by_name() {
    let place = Place::new().await;
    let (alice, key) = signer();
    let (mallory, _) = signer();
    let folder = TempDir::new().expect("a folder");
    let signed = |setup: Setup| {
        setup.approval(&format!("signers = {{ alice = \"{key}\" }}\ngrants = \"{}\"", folder.path().display()))
    };
    let setup = signed(place.setup());
    let scene = setup.start().await;
    let request = requests(&scene).await.remove(0);
    let (digest, until) = (request["digest"].as_str().expect("a digest"), "2098-01-01T00:00:00.000Z");
    let other = "ab".repeat(32);
    let good = grant(&alice, digest, "api", "alice", until);
    for (name, text, words) in [
        ("self-made", grant(&mallory, digest, "api", "mallory", until), "mallory is not among"),
        ("wrongly-signed", grant(&mallory, digest, "api", "alice", until), "not alice's"),
        ("edited", good.replace("2098", "2099"), "it was edited"),
        ("expired", grant(&alice, digest, "api", "alice", "2020-01-01T00:00:00.000Z"), "held until 2020"),
        ("replayed", grant(&alice, &other, "api", "alice", until), "there is no request"),
        ("for-another", grant(&alice, digest, "other", "alice", until), "is for token api"),
        ("no-grant", "{}".to_owned(), "it is not a grant"),
    ] {
        std::fs::write(folder.path().join(name), text).expect("written");
        wait_until(&format!("{name} is refused"), SOON, async || {
            let records = scene.trail();
            trail::of(&records, "grant_refused").iter().any(|record| {
                let text = record.to_string();
                text.contains(&format!("/{name}")) && text.contains(words)
            })
        })
        .await;
        is_refused(&scene, "/api/x/1", "approval_pending").await;
    }
    assert_eq!(place.issuer.count(), 0);
    std::fs::write(folder.path().join("good"), &good).expect("written");
    wait_until("the grant is taken", SOON, async || scene.get("/api/x/1").await.status == 200).await;
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "access_approved")[0]["reason"], "a signed grant");
    let replica = setup.start().await;
    assert_eq!(replica.get("/api/x/1").await.status, 200, "another state folder, the same config");
    replica.finish().await;
    // The request was edited since: the grant is of another one.
    let edited = signed(place.with("scopes = [\"read\", \"write\"]")).start().await;
    is_refused(&edited, "/api/x/1", "approval_pending").await;
    edited.finish().await;
    let own = signed(place.with("owner = \"alice\"")).start().await;
    let request = requests_of(&own, "carol").await.remove(0);
    let digest = request["digest"].as_str().expect("a digest");
    std::fs::write(folder.path().join("own"), grant(&alice, digest, "api", "alice", until)).expect("written");
    wait_until("she is told", SOON, async || {
        let records = own.trail();
        trail::of(&records, "grant_refused").iter().any(|record| record.to_string().contains("its own request"))
    })
    .await;
    own.finish().await;
}

#[tokio::test]
async fn nobody_signs_what_its_group_owns() {
    let place = Place::new().await;
    let (owner, key) = signer();
    let folder = TempDir::new().expect("a folder");
    let setup =
        place.setup().approval(&format!("signers = {{ owner = \"{key}\" }}\ngrants = \"{}\"", folder.path().display()));
    let scene = setup.start().await;
    let request = requests(&scene).await.remove(0);
    let digest = request["digest"].as_str().expect("a digest");
    let signed = grant(&owner, digest, "api", "owner", "2098-01-01T00:00:00.000Z");
    std::fs::write(folder.path().join("theirs"), signed).expect("written");
    let refused = scene.recorded("grant_refused", 1).await.remove(0);
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.contains("its own group")), "{refused}");
    is_refused(&scene, "/api/x/1", "approval_pending").await;
    assert_eq!(place.issuer.count(), 0);
    scene.finish().await;
}

async fn requests_of(scene: &Scene, who: &str) -> Vec<Value> {
    let answer = call(scene, who, "GET /v1/requests", &Value::Null).await;
    let mut answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    serde_json::from_value(answer["requests"].take()).expect("a list")
}

#[tokio::test]
async fn a_grant_ends_with_the_signature_that_gave_it() {
    let place = Place::new().await;
    let (alice, key) = signer();
    let folder = TempDir::new().expect("a folder");
    let setup =
        place.setup().approval(&format!("signers = {{ alice = \"{key}\" }}\ngrants = \"{}\"", folder.path().display()));
    let scene = setup.start().await;
    let request = requests(&scene).await.remove(0);
    let digest = request["digest"].as_str().expect("a digest");
    std::fs::write(folder.path().join("a"), grant(&alice, digest, "api", "alice", "2098-01-01T00:00:00.000Z"))
        .expect("written");
    wait_until("the grant is taken", SOON, async || scene.get("/api/x/1").await.status == 200).await;
    let ends = scene.metric("countersign_token_grant_expiry_timestamp_seconds", &[("token", "api")]).await;
    assert_eq!(ends, 4_039_372_800.0, "not the date of the config");
    scene.clock.advance_wall(Duration::from_secs(100 * 365 * 86_400));
    wait_until("it has ended", SOON, async || scene.get("/api/x/1").await.status == 403).await;
    scene.finish().await;
}

/// The refusal of a request, as the app gets it.
async fn refused(scene: &Scene, line: &str) -> Value {
    let answer = scene.exchange(format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")).await;
    assert_eq!(answer.status, 403, "{line}");
    answer.problem()
}

#[tokio::test]
async fn what_a_request_was_refused_for_is_asked_for_by_its_id() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    let id = pending(&scene).await;
    approve(&scene, "alice", &id).await;
    for (line, reason, rule) in [
        ("POST /api/x/1", "method_denied", "POST /x/1"),
        ("GET /api/caf%c3%a9/a%20b?secret=1", "path_denied", "GET /caf%C3%A9/a%20b"),
    ] {
        let problem = refused(&scene, line).await;
        let request_id = problem["request_id"].as_str().expect("an id");
        assert_eq!(problem["reason"], reason);
        let command = format!("countersign requests submit api --for 30m --refused {request_id} --reason TEXT");
        assert_eq!(problem["request"], command, "{problem}");
        let body = json!({ "token": "api", "for": "30m", "refused": request_id, "reason": "a hotfix" });
        let id = submit(&scene, "bob", body).await;
        let asked = requests(&scene).await.into_iter().find(|request| request["id"] == id).expect("the request");
        assert_eq!(asked["routes"]["api"]["allow"], json!({ "these": [rule] }), "exactly what was refused");
        approve(&scene, "alice", &id).await;
        let passes = format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(scene.exchange(passes).await.status, 200, "{line}");
    }
    assert_eq!(refused(&scene, "POST /api/x/2").await["reason"], "method_denied", "and no more than that");
}

#[tokio::test]
async fn a_refusal_that_no_rule_would_change_gives_no_command() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    for line in ["DELETE /api/x/1", "GET /api/other/*", &format!("GET /api/{}", "a".repeat(2000))] {
        assert_eq!(refused(&scene, line).await.get("request"), None, "{line}");
    }
    for unknown in ["00", "0011223344556677-1"] {
        let body = json!({ "token": "api", "for": "30m", "refused": unknown, "reason": "a hotfix" });
        let answer = call(&scene, "bob", "POST /v1/requests", &body).await;
        assert_eq!(answer.refusal(), (404, "no_refusal".to_owned()));
    }
}
