//! Alerts leave the process: each sink is told what is wrong, and that it is over, however often that has to be tried.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::issuer::{Call, Reply};
use crate::support::operator::{APPROVER, act};
use crate::support::{Gate, Issuer, SOON, Scene, Setup, Upstream, wait_for, wait_until};

pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A place that takes what it is told; to tests it is like an issuer that gives nothing.
pub async fn receiver() -> Issuer {
    Issuer::answering(|_| taken()).await
}

fn taken() -> Reply {
    Reply::with(204, "", "")
}

fn setup(issuer: &Issuer, upstream: &Upstream) -> Setup {
    Setup::api(issuer, upstream).operators("admin")
}

pub fn webhook(receiver: &Issuer) -> String {
    format!("kind = \"webhook\"\nurl = \"{}\"\nsecret = \"file:webhook-secret\"", receiver.url())
}

async fn start(setup: &Setup) -> Scene {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    std::fs::write(folder.path().join("webhook-secret"), SECRET).expect("written");
    Scene::start_in(Arc::new(folder), setup).await
}

/// Waits for so many calls.
async fn calls(receiver: &Issuer, least: usize) -> Vec<Call> {
    let what = format!("{least} calls");
    wait_for(&what, SOON, async || Some(receiver.calls()).filter(|calls| calls.len() >= least)).await
}

pub fn json(call: &Call) -> Value {
    serde_json::from_str(&call.body).expect("JSON")
}

/// Type, name and token of what a webhook was told, which leads to a runbook that is there.
pub fn brief(call: &Call) -> String {
    let body = json(call);
    let runbook = body["data"]["runbook_url"].as_str().expect("a runbook");
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(runbook).is_file(), "{runbook}");
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    format!("{} {} {}", text(&body["type"]), text(&body["data"]["name"]), text(&body["data"]["token"]))
}

/// What the receiver computes of the secret and of what it got.
fn assert_signed(call: &Call) {
    let key = STANDARD.decode(&SECRET["whsec_".len()..]).expect("base64");
    let signed = format!("{}.{}.{}", call.header("webhook-id"), call.header("webhook-timestamp"), call.body);
    let own = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
    assert_eq!(call.header("webhook-signature"), format!("v1,{}", STANDARD.encode(own)));
    assert!(call.header("webhook-timestamp").parse::<u64>().is_ok_and(|seconds| seconds > 1_700_000_000));
}

async fn counted(scene: &Scene, sink: &str, outcome: &str) -> f64 {
    scene.metric("countersign_alerts_total", &[("sink", sink), ("outcome", outcome)]).await
}

#[tokio::test]
async fn a_webhook_is_told_with_a_signature_and_again_with_the_same_id_until_it_takes_it() {
    let (issuer, upstream, hook) = (Issuer::start().await, Upstream::http1().await, receiver().await);
    hook.next(Reply::with(503, "Retry-After: 1\r\n", ""));
    let scene = start(&setup(&issuer, &upstream).alert(&webhook(&hook))).await;
    scene.ready().await;
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    let told = calls(&hook, 2).await;
    assert!(told[0].head.starts_with("POST /token HTTP/1.1\r\n"), "{}", told[0].head);
    assert_eq!(told[0].header("content-type"), "application/json");
    assert_eq!(brief(&told[0]), "alert.firing CountersignTokenWithdrawn api");
    assert_eq!((&told[1].body, told[1].header("webhook-id")), (&told[0].body, told[0].header("webhook-id")));
    told.iter().for_each(assert_signed);
    scene.reaches("countersign_alerts_open", &[], 1.0).await;

    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    let told = calls(&hook, 3).await;
    assert_eq!(brief(&told[2]), "alert.resolved CountersignTokenWithdrawn api");
    assert_ne!(told[2].header("webhook-id"), told[0].header("webhook-id"));
    assert_signed(&told[2]);
    assert!(json(&told[2])["data"]["ended"].is_string(), "{}", told[2].body);
    wait_until("both are counted", SOON, async || counted(&scene, "webhook-1", "delivered").await == 2.0).await;
    assert_eq!(counted(&scene, "webhook-1", "failed").await, 1.0);
    assert_eq!(scene.metric("countersign_alerts_open", &[]).await, 0.0);
    assert!(!scene.ask("/metrics").await.text().contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
}

#[tokio::test]
async fn what_was_not_told_before_a_restart_is_told_after_it_and_so_is_its_end() {
    let (issuer, upstream, hook) = (Issuer::start().await, Upstream::http1().await, receiver().await);
    let gate = Gate::closed();
    hook.next(taken().behind(&gate));
    let setup = setup(&issuer, &upstream).alert(&webhook(&hook));
    let folder = Arc::new(tempfile::TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    std::fs::write(folder.path().join("webhook-secret"), SECRET).expect("written");
    let scene = Scene::start_in(folder.clone(), &setup).await;
    scene.ready().await;
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    let first = calls(&hook, 1).await.remove(0);
    scene.finish().await;

    let scene = Scene::start_in(folder.clone(), &setup).await;
    let told = calls(&hook, 2).await;
    assert_eq!((&told[1].body, told[1].header("webhook-id")), (&first.body, first.header("webhook-id")));
    wait_until("it is counted", SOON, async || counted(&scene, "webhook-1", "delivered").await == 1.0).await;
    scene.finish().await;

    let scene = Scene::start_in(folder, &setup).await;
    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    let told = calls(&hook, 3).await;
    assert_eq!(
        brief(&told[2]),
        "alert.resolved CountersignTokenWithdrawn api",
        "it is not told anew that it has begun"
    );
    assert_eq!(json(&told[2])["data"]["started"], json(&first)["data"]["started"]);
    gate.open();
}

#[tokio::test]
async fn a_webhook_that_is_gone_is_told_nothing_more() {
    let (issuer, upstream, hook) = (Issuer::start().await, Upstream::http1().await, receiver().await);
    hook.next(Reply::with(410, "", ""));
    let log = "kind = \"log\"\nname = \"log\"";
    let scene = start(&setup(&issuer, &upstream).alert(&webhook(&hook)).alert(log)).await;
    scene.ready().await;
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    wait_until("it is dropped", SOON, async || counted(&scene, "webhook-1", "dropped").await == 1.0).await;
    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    wait_until("the other sink is told", SOON, async || counted(&scene, "log", "delivered").await == 2.0).await;
    assert_eq!(hook.count(), 1);
}

#[tokio::test]
async fn alertmanager_hears_of_what_is_open_again_and_again_and_then_that_it_is_over() {
    let (issuer, upstream, manager) = (Issuer::start().await, Upstream::http1().await, receiver().await);
    let sink = format!("kind = \"alertmanager\"\nname = \"am\"\nurl = \"http://{}\"", manager.address);
    let scene = start(&setup(&issuer, &upstream).alert(&sink)).await;
    scene.ready().await;
    assert_eq!(act(&scene, "api", "revoke", None).await.status, 200);
    let told = calls(&manager, 1).await;
    assert!(told[0].head.starts_with("POST /api/v2/alerts HTTP/1.1\r\n"), "{}", told[0].head);
    let first = json(&told[0])[0].clone();
    assert_eq!(first["labels"]["alertname"], "CountersignTokenWithdrawn");
    assert_eq!((&first["labels"]["token"], &first["labels"]["severity"]), (&"api".into(), &"low".into()));
    assert!(first["startsAt"].as_str() < first["endsAt"].as_str(), "{first}");

    scene.clock.advance(Duration::from_secs(61));
    let told = calls(&manager, 2).await;
    let again = json(&told[1])[0].clone();
    assert_eq!((&again["labels"], &again["startsAt"]), (&first["labels"], &first["startsAt"]));
    assert!(again["endsAt"].as_str() > first["endsAt"].as_str(), "{again}");

    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    let told = calls(&manager, 3).await;
    let over = json(&told[2])[0].clone();
    assert_eq!((&over["labels"], &over["startsAt"]), (&first["labels"], &first["startsAt"]));
    assert!(over["endsAt"].as_str() < again["endsAt"].as_str(), "{over}");
    wait_until("both are counted", SOON, async || counted(&scene, "am", "delivered").await == 2.0).await;
}

#[tokio::test]
async fn a_sink_is_told_only_what_is_as_grave_as_it_says_and_a_reload_brings_another() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let (pager, hook) = (receiver().await, receiver().await);
    let pager_only =
        setup(&issuer, &upstream).alert(&format!("{}\nname = \"pager\"\nseverity = \"high\"", webhook(&pager)));
    let scene = start(&pager_only).await;
    scene.ready().await;
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    scene.reaches("countersign_alerts_open", &[], 1.0).await;
    scene.reload(&pager_only.alert(&format!("{}\nname = \"all\"", webhook(&hook)))).await.expect("taken");
    let told = calls(&hook, 1).await;
    assert_eq!(brief(&told[0]), "alert.firing CountersignTokenWithdrawn api");
    assert_eq!(pager.count(), 0);
}

#[tokio::test]
async fn a_token_whose_issuer_is_away_is_told_and_that_it_is_back() {
    let (issuer, upstream, hook) = (Issuer::named("tok", 3600).await, Upstream::http1().await, receiver().await);
    let scene = start(&setup(&issuer, &upstream).alert(&webhook(&hook))).await;
    scene.ready().await;
    issuer.answers(|_| Reply::with(503, "", ""));
    scene.rotate("api").await.expect_err("the issuer is away");
    wait_until("it is told", SOON, async || {
        scene.clock.advance(Duration::from_millis(100));
        hook.count() > 0
    })
    .await;
    let told = calls(&hook, 1).await;
    assert_eq!(brief(&told[0]), "alert.firing CountersignRotationFailing api");
    assert_eq!(json(&told[0])["data"]["severity"], "medium");
    assert!(told[0].body.contains("team@example.com"), "{}", told[0].body);

    scene.clock.advance(Duration::from_secs(3600));
    let graver = |calls: &[Call]| {
        let is_high = |call: &&Call| json(call)["data"]["severity"] == "high";
        calls.iter().filter(is_high).map(brief).collect::<Vec<_>>()
    };
    wait_until("none is left", SOON, async || {
        scene.clock.advance(Duration::from_secs(10));
        let all = graver(&hook.calls());
        all.contains(&"alert.firing CountersignRotationFailing api".to_owned())
            && all.contains(&"alert.firing CountersignTokenUnusable api".to_owned())
    })
    .await;
    issuer.answers(|_| Reply::token("tok-back", 3600));
    wait_until("both are over", SOON, async || {
        scene.get("/api/x").await;
        let all = graver(&hook.calls());
        all.contains(&"alert.resolved CountersignRotationFailing api".to_owned())
            && all.contains(&"alert.resolved CountersignTokenUnusable api".to_owned())
    })
    .await;
}

#[tokio::test]
async fn a_grant_that_ends_is_told_ahead_and_when_it_has_ended() {
    let (issuer, upstream, hook) = (Issuer::start().await, Upstream::http1().await, receiver().await);
    let setup = Setup::new()
        .token("api", &issuer, "expires = \"2098-12-31T00:00:00Z\"")
        .route("api", &upstream, "token = \"api\"")
        .alert(&webhook(&hook));
    let scene = start(&setup).await;
    scene.ready().await;
    let ends = scene.metric("countersign_token_grant_expiry_timestamp_seconds", &[("token", "api")]).await;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
    scene.clock.advance(Duration::from_secs_f64(ends - now - 6.0 * 86_400.0));
    let grants = |calls: &[Call]| {
        let of_grant = |call: &&Call| brief(call).contains("CountersignGrantEnding");
        let severity = |call: &Call| json(call)["data"]["severity"].as_str().map(str::to_owned);
        calls.iter().filter(of_grant).filter_map(severity).collect::<Vec<_>>()
    };
    wait_until("it is told ahead", SOON, async || grants(&hook.calls()) == ["medium"]).await;
    scene.clock.advance(Duration::from_secs(7 * 86_400));
    wait_until("it is told", SOON, async || grants(&hook.calls()) == ["medium", "high"]).await;
    assert_eq!(scene.get("/api/x").await.status, 403);
}

#[tokio::test]
async fn a_config_that_is_not_taken_and_a_review_that_is_overdue_are_told() {
    let (issuer, upstream, hook) = (Issuer::start().await, Upstream::http1().await, receiver().await);
    let setup = setup(&issuer, &upstream).review("every = \"7d\"").alert(&webhook(&hook));
    let scene = start(&setup).await;
    scene.ready().await;
    scene.reload(&setup.clone().workers(3)).await.expect_err("needs a restart");
    let told = calls(&hook, 1).await;
    assert_eq!(brief(&told[0]), "alert.firing CountersignReloadFailed -");
    scene.reload(&setup).await.expect("taken");
    let told = calls(&hook, 2).await;
    assert_eq!(brief(&told[1]), "alert.resolved CountersignReloadFailed -");
    scene.clock.advance(Duration::from_secs(8 * 86_400));
    wait_until("it is told", SOON, async || {
        hook.calls().iter().any(|call| brief(call) == "alert.firing CountersignReviewOverdue -")
    })
    .await;
}

#[tokio::test]
async fn a_token_that_nobody_uses_is_told_before_it_is_retired() {
    let (issuer, upstream, hook) = (Issuer::start().await, Upstream::http1().await, receiver().await);
    let setup = Setup::new()
        .token("api", &issuer, "retire_unused = \"30d\"")
        .route("api", &upstream, "token = \"api\"")
        .alert(&webhook(&hook));
    let scene = start(&setup).await;
    scene.ready().await;
    wait_until("it is looked at", SOON, async || {
        scene.metric("countersign_token_unused_retirement_timestamp_seconds", &[("token", "api")]).await > 0.0
    })
    .await;
    scene.clock.advance(Duration::from_secs(24 * 86_400));
    let told = |what: &str| hook.calls().iter().any(|call| brief(call) == what);
    wait_until("it is told", SOON, async || told("alert.firing CountersignUnusedTokenRetiring api")).await;
    wait_until("it works", SOON, async || scene.get("/api/x").await.status == 200).await;
    wait_until("it is over", SOON, async || told("alert.resolved CountersignUnusedTokenRetiring api")).await;
}
