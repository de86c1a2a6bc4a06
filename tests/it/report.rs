//! What tokens are used for: the report, the metrics beside it, and the review of it.

use std::sync::Arc;
use std::time::Duration;

use countersign::seal::Label;
use countersign::store::Store;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::operator::{JSON, call, json_of, key, own, sent, socket};
use crate::support::{Client, Issuer, SOON, Scene, Setup, Upstream, trail, wait_for, wait_until};

const DAY: Duration = Duration::from_secs(86_400);

async fn world() -> (Issuer, Upstream) {
    (Issuer::named("tok", 100_000).await, Upstream::http1().await)
}

fn listed(issuer: &Issuer, upstream: &Upstream, allow: &str) -> Setup {
    Setup::new().token("api", issuer, "").route("api", upstream, &format!("token = \"api\"\nallow = {allow}"))
}

async fn report(scene: &Scene) -> Value {
    let answer = own(scene, "GET /v1/report", "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    json_of(&answer)
}

/// What the report says of a token, once it knows of that many uses.
async fn entry(scene: &Scene, token: &str, uses: u64) -> Value {
    wait_for("the uses are in the report", SOON, async || {
        let report = report(scene).await;
        let tokens = report["tokens"].as_array().expect("a list");
        tokens.iter().find(|entry| entry["token"] == token && entry["uses"] == uses).cloned()
    })
    .await
}

fn kinds(entry: &Value) -> Vec<&str> {
    entry["findings"].as_array().expect("a list").iter().filter_map(|finding| finding["kind"].as_str()).collect()
}

async fn shows(scene: &Scene, metric: &str, value: f64) {
    let name = format!("countersign_{metric}");
    wait_until(&format!("{metric} is {value}"), SOON, async || scene.scrape().await.find(&name, &[]) == Some(value))
        .await;
}

#[tokio::test]
async fn the_report_tells_what_was_used_and_its_list_makes_the_privilege_least() {
    let (issuer, upstream) = world().await;
    let wide = listed(&issuer, &upstream, r#"["GET /repos/**", "DELETE /repos/**"]"#);
    let other = Upstream::on("127.0.0.2").await;
    let idle = wide.token("idle", &issuer, "").route("idle", &other, r#"token = "idle""#);
    let scene = idle.start().await;
    scene.ready().await;
    for number in 0..3 {
        assert_eq!(scene.get(&format!("/api/repos/{number}/issues?secret=query")).await.status, 200);
    }
    let used = entry(&scene, "api", 3).await;
    assert_eq!((kinds(&used), &used["least_privilege"]), (vec!["unused_rule"], &false.into()));
    assert_eq!(used["routes"][0]["tighter"], json!(["GET /repos/*/issues"]));
    assert_eq!(used["routes"][0]["uses"][0]["template"], "/repos/*/issues");
    assert_eq!((&used["clients"][0]["client"], &used["owner"]), (&"local".into(), &"team@example.com".into()));
    let idle = entry(&scene, "idle", 0).await;
    assert_eq!(kinds(&idle), ["open_route", "unused_scope", "unused_token"]);
    assert!(!report(&scene).await.to_string().contains("secret=query"));
    shows(&scene, "tokens_unused", 1.0).await;
    shows(&scene, "tokens_least_privilege_ratio", 0.0).await;
    shows(&scene, "tokens_long_lived", 0.0).await;

    let proposed = used["routes"][0]["tighter"].to_string();
    scene.reload(&listed(&issuer, &upstream, &proposed)).await.expect("the proposed list is taken");
    assert_eq!(scene.get("/api/repos/9/issues").await.status, 200);
    assert_eq!(scene.get("/api/repos/9").await.status, 403);
    shows(&scene, "tokens_least_privilege_ratio", 1.0).await;
    shows(&scene, "tokens_unused", 0.0).await;
}

#[tokio::test]
async fn usage_is_given_out_in_the_form_that_detectors_read() {
    let (issuer, upstream) = world().await;
    let setup = listed(&issuer, &upstream, r#"["GET /repos/**"]"#);
    let scene = setup.clone().audit(r#"usage = "each""#).start().await;
    scene.ready().await;
    scene.get("/api/repos/1?secret=query").await;
    scene.recorded("request", 1).await;
    let answer = json_of(&own(&scene, "GET /v1/usage?token=api", "").await);
    let events = answer["events"].as_array().expect("a list");
    let [issued, used] = &events[..] else { panic!("{answer}") };
    assert_eq!((&issued["event"], &issued["token"]), (&"issued".into(), &"api".into()));
    let expected = json!({
        "time": used["time"], "token": "api", "client": "local", "route": "api", "host": "127.0.0.1", "method": "GET",
        "path": "/repos/1", "status": 200, "request_bytes": 0, "response_bytes": used["response_bytes"],
        "duration_ms": used["duration_ms"],
    });
    assert_eq!(*used, expected);
    let first = json_of(&own(&scene, "GET /v1/usage?token=api&limit=1", "").await);
    assert_eq!(first["events"].as_array().map(Vec::len), Some(1));
    let rest = json_of(&own(&scene, &format!("GET /v1/usage?token=api&from={}", first["next"]), "").await);
    assert_eq!(rest["events"], json!([used]));
    assert_eq!(json_of(&own(&scene, "GET /v1/usage?since=99999999999", "").await), json!({ "events": [] }));

    let sums = setup.start().await;
    sums.ready().await;
    sums.get("/api/repos/1").await;
    sums.clock.advance(Duration::from_secs(60));
    sums.recorded("usage", 1).await;
    let answer = json_of(&own(&sums, "GET /v1/usage", "").await);
    let events = answer["events"].as_array().expect("a list");
    assert_eq!(events.last().map(|event| &event["requests"]), Some(&1.into()), "{answer}");
}

#[tokio::test]
async fn what_was_used_is_known_after_a_restart() {
    let (issuer, upstream) = world().await;
    let setup = listed(&issuer, &upstream, r#"["GET /repos/**"]"#);
    let folder = Arc::new(TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "first-client-secret\n").expect("written");
    let scene = Scene::start_in(folder.clone(), &setup).await;
    scene.ready().await;
    scene.get("/api/repos/1").await;
    let before = entry(&scene, "api", 1).await;
    scene.finish().await;
    let again = Scene::start_in(folder, &setup).await;
    let after = entry(&again, "api", 1).await;
    assert_eq!((&before["first_use"], &before["routes"]), (&after["first_use"], &after["routes"]));
    assert_eq!(before["known_since"], after["known_since"]);
}

#[tokio::test]
async fn what_cannot_be_read_of_earlier_reviews_is_told_and_kept_aside() {
    let (issuer, upstream) = world().await;
    let folder = Arc::new(TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "first-client-secret\n").expect("written");
    let store = Store::open(&folder.path().join("state"), None).expect("a store");
    store.write(Label { kind: "review", name: "memory" }, 1, b"of another version").expect("written");
    let scene = Scene::start_in(folder.clone(), &listed(&issuer, &upstream, r#"["GET /repos/**"]"#)).await;
    let records = scene.recorded("state_rejected", 1).await;
    assert!(records[0]["file"].as_str().is_some_and(|file| file.ends_with("review-memory.sealed")), "{}", records[0]);
    scene.ready().await;
    scene.finish().await;
    let sealed = folder.path().join("state/sealed");
    assert!(sealed.join("review-memory.refused-1").exists() && sealed.join("review-memory.sealed").exists());
}

#[tokio::test]
async fn a_token_that_was_not_used_for_a_window_counts_as_unused() {
    let (issuer, upstream) = world().await;
    let scene = listed(&issuer, &upstream, r#"["GET /repos/**"]"#).review(r#"every = "2d""#).start().await;
    scene.ready().await;
    scene.get("/api/repos/1").await;
    entry(&scene, "api", 1).await;
    shows(&scene, "tokens_unused", 0.0).await;
    scene.clock.advance(3 * DAY);
    let late = entry(&scene, "api", 0).await;
    assert!(kinds(&late).contains(&"unused_token") && late["last_use"].is_string(), "{late}");
}

#[tokio::test]
async fn how_tokens_stand_is_in_the_trail_and_so_in_the_reports_of_later_weeks() {
    let (issuer, upstream) = world().await;
    let scene = listed(&issuer, &upstream, r#"["GET /repos/**"]"#).start().await;
    scene.ready().await;
    shows(&scene, "tokens_unused", 1.0).await;
    scene.clock.advance(Duration::from_secs(301));
    let told = scene.recorded("access_measured", 1).await;
    let counts = ["active", "least_privilege", "unused", "long_lived"].map(|key| told[0][key].as_u64());
    assert_eq!(counts, [1, 0, 1, 0].map(Some), "{}", told[0]);
    let trend = report(&scene).await["trend"].clone();
    assert_eq!((trend.as_array().map(Vec::len), &trend[0]["unused"]), (Some(1), &1.into()), "{trend}");
    assert_eq!(scene.get("/api/repos/1").await.status, 200);
    shows(&scene, "tokens_unused", 0.0).await;
    scene.clock.advance(Duration::from_secs(301));
    scene.recorded("access_measured", 2).await;
    assert_eq!(report(&scene).await["trend"][0]["unused"], 0, "the last of the week counts");
}

#[tokio::test]
async fn a_review_is_due_on_a_schedule_and_done_by_an_approver_or_an_admin() {
    let (issuer, upstream) = world().await;
    let mut setup = Setup::api(&issuer, &upstream).review(r#"every = "1d""#);
    for role in ["viewer", "responder", "approver", "admin"] {
        setup = setup.operator(role, &format!("{}\nroles = [\"{role}\"]", key(&format!("key of {role}"))));
    }
    let scene = setup.start().await;
    scene.ready().await;
    shows(&scene, "review_overdue", 0.0).await;
    shows(&scene, "review_timestamp_seconds", 0.0).await;
    scene.clock.advance(2 * DAY);
    shows(&scene, "review_overdue", 1.0).await;
    scene.recorded("review_overdue", 1).await;
    let review = async |role: &str, body: &str| {
        let bearer = format!("Bearer key of {role}");
        let text = call("POST /v1/report/reviewed", "localhost", &[JSON, ("Authorization", &bearer)], body);
        sent(Client::unix(&socket(&scene)).await, &text).await
    };
    let body = json!({ "reason": "nothing to tighten" }).to_string();
    for role in ["viewer", "responder"] {
        assert_eq!(review(role, &body).await.status, 403, "{role}");
    }
    assert_eq!(review("approver", "{}").await.status, 422, "nobody reviews without a word");
    let done = review("approver", &body).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let standing = &json_of(&done)["review"];
    assert_eq!((&standing["last"]["by"], &standing["overdue"]), (&"approver".into(), &false.into()));
    shows(&scene, "review_overdue", 0.0).await;
    assert!(scene.scrape().await.value("countersign_review_timestamp_seconds", &[]) > 1.7e9);
    assert_eq!(review("admin", &body).await.status, 200);
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "review_overdue").len(), 1, "said once");
    let reviewed = trail::of(&records, "access_reviewed");
    let told: Vec<_> = reviewed.iter().map(|record| (&record["by"], &record["reason"])).collect();
    let reason = Value::from("nothing to tighten");
    assert_eq!(told, [(&Value::from("approver"), &reason), (&Value::from("admin"), &reason)]);
}
