//! Unusual use of a token, live: who is told, and what becomes of the token.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::alerts::{SECRET, brief, json as told_of, receiver, webhook};
use crate::support::body::Payload;
use crate::support::client::Answer;
use crate::support::issuer::Call;
use crate::support::operator::{APPROVER, act, json_of, own, socket};
use crate::support::upstream::Reply;
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, soon, trail, wait_for, wait_until};

/// More than eight days: what is usual is learned then.
const LEARNED: u32 = 120;
pub const BETWEEN: Duration = Duration::from_secs(2 * 3600);

/// Requests each time of a token whose silence would be noticed.
const BUSY: usize = 9;

/// Requests that nobody takes for usual.
const ATTACK: usize = 400;

pub struct Place {
    pub upstream: Upstream,
    folder: Arc<TempDir>,
}

impl Place {
    pub async fn new() -> Self {
        let folder = Arc::new(TempDir::new().expect("a temporary folder"));
        std::fs::write(folder.path().join("token"), "from-a-file").expect("written");
        std::fs::write(folder.path().join("webhook-secret"), SECRET).expect("written");
        let upstream = Upstream::http1().await;
        upstream.answers(|seen| Reply::new(if seen.target.starts_with("/usual") { 200 } else { 404 }));
        Self { upstream, folder }
    }

    /// A file that the config names.
    pub fn keep(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).expect("written");
    }

    /// One worker tells of uses in their order.
    pub fn setup(&self) -> Setup {
        Setup::new()
            .workers(1)
            .token_from("api", r#"{ kind = "file", path = "token" }"#, "")
            .route("api", &self.upstream, "token = \"api\"")
            .operators("responder")
    }

    pub async fn start(&self, setup: &Setup) -> Scene {
        let scene = Scene::start_in(self.folder.clone(), setup).await;
        scene.ready().await;
        scene
    }

    /// As [`Place::start`], and the app has done what it usually does for ten days.
    pub async fn usual(&self, setup: &Setup) -> Scene {
        let scene = self.start(setup).await;
        learn(&scene).await;
        scene
    }
}

pub async fn learn(scene: &Scene) {
    let mut client = scene.client().await;
    for _ in 0..LEARNED {
        assert_eq!(client.get("/api/usual").await.status, 200);
        scene.clock.advance(BETWEEN);
    }
}

/// Looks for what is not there, and gives back the answers that were not the upstream's.
async fn attack(scene: &Scene) -> Vec<(u16, String)> {
    let mut client = scene.client().await;
    let mut refused = Vec::new();
    for number in 0..ATTACK {
        let answer = client.get(&format!("/api/admin/{number}")).await;
        if answer.status != 404 {
            refused.push(answer.refusal());
        }
    }
    refused
}

async fn attack_until_it_is_taken_away(scene: &Scene) {
    assert_eq!(attack_until_refused(scene).await.refusal(), (403, "token_quarantined".to_owned()));
}

/// Looks for what is not there, until it gets an answer that is not the upstream's.
pub async fn attack_until_refused(scene: &Scene) -> Answer {
    let mut client = scene.client().await;
    let mut number = 0;
    wait_for("the attack is answered", SOON, async || {
        number += 1;
        let answer = client.get(&format!("/api/admin/{number}")).await;
        (answer.status != 404).then_some(answer)
    })
    .await
}

/// What the receiver heard of unusual use.
pub fn heard(hook: &Issuer) -> Vec<Call> {
    hook.calls().into_iter().filter(|call| brief(call).contains("CountersignAnomaly")).collect()
}

async fn anomalies(scene: &Scene) -> Vec<Value> {
    json_of(&own(scene, "GET /v1/anomalies", "").await)["anomalies"].as_array().expect("a list").clone()
}

/// What `countersign anomalies list` prints.
async fn operator_reads(scene: &Scene, options: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.args(["anomalies", "list"]).args(options).arg("--admin").arg(socket(scene));
    command.env_remove("COUNTERSIGN_OPERATOR_KEY");
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ran").expect("it started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn in_mode_respond_an_attack_ends_with_the_quarantine_of_the_token() {
    let place = Place::new().await;
    let scene = place.usual(&place.setup().detect("mode = \"respond\"")).await;
    assert_eq!(anomalies(&scene).await, [json!(null); 0]);
    attack_until_it_is_taken_away(&scene).await;
    let quarantined = scene.recorded("token_quarantined", 1).await;
    assert_eq!((&quarantined[0]["by"], &quarantined[0]["token"]), (&json!("detection"), &json!("api")));
    assert!(quarantined[0]["reason"].as_str().is_some_and(|reason| reason.contains("the most before")));
    println!("unusual since {}, quarantined {}", quarantined[0]["since"], quarantined[0]["time"]);
    let told = trail::of(&scene.trail(), "anomaly").into_iter().cloned().collect::<Vec<_>>();
    let last = told.last().expect("an anomaly");
    assert_eq!((&last["response"], &last["severity"]), (&json!("quarantine"), &json!("critical")));
    // The use that crossed, what is said of it, and the end of all use: in this order, by their own times.
    let crossed = told.iter().find(|told| told["response"] == "quarantine").expect("what was answered");
    let times =
        [&crossed["since"], &crossed["time"], &quarantined[0]["time"]].map(|time| time.as_str().expect("a time"));
    assert!(times.is_sorted() && quarantined[0]["since"] == crossed["since"], "{times:?}");
    assert_eq!(last["client"], "local");
    scene.reaches("countersign_anomalies_total", &[("token", "api"), ("response", "quarantine")], 1.0).await;
    scene.reaches("countersign_anomaly_score", &[("token", "api")], 0.9).await;
    scene.reaches("countersign_time_to_detect_seconds_count", &[], 1.0).await;
    let shown = anomalies(&scene).await;
    assert_eq!((&shown[0]["response"], &shown[0]["token"]), (&json!("quarantine"), &json!("api")));
    let signals = shown[0]["evidence"]["signals"].as_object().expect("signals");
    assert!(signals.len() >= 3, "{signals:?}");
    assert!(!shown[0].to_string().contains("admin"), "no bytes of requests: {}", shown[0]);
    let of_another = json_of(&own(&scene, "GET /v1/anomalies?token=other", "").await);
    assert_eq!(of_another, json!({ "anomalies": [] }));
    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    wait_until("it is let in again", SOON, async || scene.get("/api/usual").await.status == 200).await;
}

#[tokio::test]
async fn in_mode_alert_an_attack_is_an_alert_that_is_over_when_nothing_more_is_heard_of_it() {
    let (place, hook) = (Place::new().await, receiver().await);
    let scene = place.usual(&place.setup().detect("mode = \"alert\"").alert(&webhook(&hook))).await;
    assert_eq!(attack(&scene).await, []);
    let severity = |call: &Call| told_of(call)["data"]["severity"].clone();
    wait_until("it is told how grave it is", SOON, async || {
        heard(&hook).last().is_some_and(|call| severity(call) == "critical")
    })
    .await;
    let told = heard(&hook);
    assert!(told.iter().all(|call| brief(call) == "alert.firing CountersignAnomaly api"), "{told:?}");
    let severities: Vec<Value> = told.iter().map(severity).collect();
    let order = ["low", "medium", "high", "critical"].map(|severity| json!(severity));
    let places: Vec<_> = severities.iter().map(|severity| order.iter().position(|one| one == severity)).collect();
    assert!(places.is_sorted_by(|one, next| one < next), "again only when graver: {severities:?}");
    let last = told_of(told.last().expect("it was told"))["data"].clone();
    assert_eq!((&last["client"], &last["key"]), (&json!("local"), &json!("anomaly/api/local")));
    assert_eq!(last["runbook_url"], "docs/runbooks/anomaly.md");
    let shown = anomalies(&scene).await;
    let graver = shown.iter().rev().find(|shown| shown["severity"] == "critical").expect("it is shown");
    let (said, description) = (graver["evidence"]["said"].as_str(), last["description"].as_str().expect("a text"));
    assert!(said.is_some_and(|said| description.starts_with(said)), "{description}");
    assert!(description.contains("team@example.com") && !description.contains("admin/"), "{description}");

    wait_until("it is over", SOON, async || {
        scene.clock.advance(Duration::from_secs(60));
        heard(&hook).last().is_some_and(|call| brief(call) == "alert.resolved CountersignAnomaly api")
    })
    .await;
    let over = told_of(heard(&hook).last().expect("it is over"))["data"].clone();
    let time = |name: &str| over[name].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok()).expect("a time");
    let lasted = time("ended").duration_since(time("started"));
    assert!(lasted >= jiff::SignedDuration::from_hours(1), "{lasted:?}");
    assert_eq!(scene.get("/api/usual").await.status, 200);
    assert_eq!(trail::of(&scene.finish().await, "token_quarantined").len(), 0);
}

#[tokio::test]
async fn the_alert_of_a_token_that_was_quarantined_is_over_when_it_is_released() {
    let (place, hook) = (Place::new().await, receiver().await);
    let setup = place.setup().detect("mode = \"respond\"").alert(&webhook(&hook));
    let scene = place.usual(&setup).await;
    attack_until_it_is_taken_away(&scene).await;
    scene.reaches("countersign_anomaly_score", &[("token", "api")], 0.9).await;
    scene.clock.advance(BETWEEN);
    wait_until("time has passed for it", SOON, async || {
        scene.metric("countersign_anomaly_score", &[("token", "api")]).await == 0.0
    })
    .await;
    scene.finish().await;

    let scene = place.start(&setup).await;
    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    wait_until("it is over", SOON, async || {
        heard(&hook).last().is_some_and(|call| brief(call) == "alert.resolved CountersignAnomaly api")
    })
    .await;
    let told = heard(&hook);
    let over = told.iter().filter(|call| brief(call).starts_with("alert.resolved")).count();
    assert_eq!(over, 1, "not before: {told:?}");
    let last = told_of(&told[told.len() - 2])["data"].clone();
    assert_eq!((&last["severity"], &last["client"]), (&json!("critical"), &json!("local")));
    assert!(last["description"].as_str().is_some_and(|text| text.contains("tokens release api")), "{last}");
}

#[tokio::test]
async fn without_a_word_about_it_an_attack_is_written_down_and_blocks_nothing() {
    let (place, hook) = (Place::new().await, receiver().await);
    let scene = place.usual(&place.setup().alert(&webhook(&hook))).await;
    assert_eq!(attack(&scene).await, []);
    let told = scene.recorded("anomaly", 1).await;
    assert_eq!((&told[0]["response"], &told[0]["token"]), (&json!("observe"), &json!("api")));
    scene.reaches("countersign_anomalies_total", &[("token", "api"), ("response", "observe")], 1.0).await;
    assert!(!anomalies(&scene).await.is_empty());
    assert_eq!(scene.metric("countersign_alerts_open", &[]).await, 0.0);
    assert_eq!(scene.get("/api/usual").await.status, 200);
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_quarantined").len(), 0);
    let graver = trail::of(&records, "anomaly");
    assert!(graver.iter().any(|told| told["severity"] == "critical"), "{graver:?}");
    assert_eq!(hook.count(), 0);
}

#[tokio::test]
async fn what_is_exempt_is_noted_and_not_answered_until_it_is_exempt_no_more() {
    let place = Place::new().await;
    let exempt = r#"mode = "respond"
exempt = [{ token = "api", signals = ["burst", "errors", "fan_out", "new_place", "volume"], until = "2099-12-31", reason = "a migration" }]"#;
    let scene = place.usual(&place.setup().detect(exempt)).await;
    assert_eq!(attack(&scene).await, []);
    let told = scene.recorded("anomaly", 1).await;
    assert!(told.iter().all(|told| told["response"] == "exempt"), "{told:?}");
    // Without the exemption the next fact is answered.
    scene.reload(&place.setup().detect("mode = \"respond\"")).await.expect("taken");
    assert_eq!(scene.exchange("DELETE /api/usual HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
    wait_until("it is taken away", SOON, async || scene.get("/api/usual").await.status != 200).await;
    assert_eq!(scene.get("/api/usual").await.refusal(), (403, "token_quarantined".to_owned()));
}

#[tokio::test]
async fn a_restart_does_not_learn_anew() {
    let place = Place::new().await;
    let setup = place.setup().detect("mode = \"respond\"");
    place.usual(&setup).await.finish().await;
    let scene = place.start(&setup).await;
    scene.clock.advance(BETWEEN * LEARNED);
    attack_until_it_is_taken_away(&scene).await;
    scene.finish().await;
    // A new proxy knows nothing yet, and takes nothing for unusual.
    let elsewhere = Place::new().await;
    let scene = elsewhere.start(&elsewhere.setup().detect("mode = \"respond\"")).await;
    assert_eq!(attack(&scene).await, []);
    assert_eq!(trail::of(&scene.finish().await, "anomaly").len(), 0);
}

#[tokio::test]
async fn misuse_that_goes_on_over_a_restart_is_told_once_and_over_when_it_is() {
    let (place, hook) = (Place::new().await, receiver().await);
    let setup = place.setup().detect("mode = \"alert\"").alert(&webhook(&hook));
    let scene = place.usual(&setup).await;
    let delete = async |scene: &Scene| {
        assert_eq!(scene.exchange("DELETE /api/usual HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
    };
    delete(&scene).await;
    wait_until("it is told", SOON, async || !heard(&hook).is_empty()).await;
    scene.finish().await;
    let scene = place.start(&setup).await;
    // As long as the scene before had lasted.
    scene.clock.advance(BETWEEN * LEARNED);
    let half = Duration::from_secs(1800);
    for number in 1..=4 {
        scene.clock.advance(half);
        delete(&scene).await;
        scene.reaches("countersign_requests_total", &[("method", "DELETE")], f64::from(number)).await;
    }
    wait_until("it is over", SOON, async || {
        scene.clock.advance(Duration::from_secs(60));
        heard(&hook).last().is_some_and(|call| brief(call) == "alert.resolved CountersignAnomaly api")
    })
    .await;
    let told: Vec<String> = heard(&hook).iter().map(brief).collect();
    assert_eq!(told, ["alert.firing CountersignAnomaly api", "alert.resolved CountersignAnomaly api"]);
    let over = told_of(heard(&hook).last().expect("it is over"))["data"].clone();
    let time = |name: &str| over[name].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok()).expect("a time");
    let lasted = time("ended").duration_since(time("started"));
    assert!(lasted >= jiff::SignedDuration::from_hours(3), "for as long as it went on, and an hour: {lasted:?}");
    let records = scene.finish().await;
    let anomalies = trail::of(&records, "anomaly");
    assert_eq!(anomalies.iter().filter(|told| told["signal"] == "new_method").count(), 1, "{anomalies:?}");
}

#[tokio::test]
async fn a_memory_that_was_edited_is_told_and_moved_aside() {
    let place = Place::new().await;
    let scene = place.start(&place.setup()).await;
    assert_eq!(scene.get("/api/usual").await.status, 200);
    scene.finish().await;
    let record = place.folder.path().join("state/sealed/baseline-api.sealed");
    let mut sealed = std::fs::read(&record).expect("it was kept");
    *sealed.last_mut().expect("some bytes") ^= 1;
    std::fs::write(&record, &sealed).expect("written");
    let scene = place.start(&place.setup()).await;
    assert_eq!(scene.get("/api/usual").await.status, 200);
    let records = scene.finish().await;
    let told = trail::of(&records, "state_rejected");
    assert!(told.iter().any(|told| told["file"].as_str().is_some_and(|file| file.ends_with("baseline-api.sealed"))));
    assert_eq!(std::fs::read(record.with_extension("refused-1")).ok(), Some(sealed), "for somebody to look at");
    assert!(std::fs::read(&record).is_ok(), "another one took its place");
}

#[tokio::test]
async fn what_policy_says_no_to_is_unusual_too_and_given_out_with_its_token_and_reason() {
    const DENIED: usize = 30;
    let place = Place::new().await;
    let own_uid = rustix::process::getuid().as_raw();
    let setup = Setup::new()
        .workers(1)
        .token_from("api", r#"{ kind = "file", path = "token" }"#, "")
        .route("api", &place.upstream, "token = \"api\"\nallow = [\"GET /usual\"]")
        .operator("guard", &format!("uid = {own_uid}\nroles = [\"responder\"]"))
        .audit(r#"usage = "each""#)
        .detect("mode = \"alert\"");
    let scene = place.usual(&setup).await;
    let mut client = scene.client().await;
    for number in 0..DENIED {
        assert_eq!(client.get(&format!("/api/admin/{number}")).await.refusal(), (403, "path_denied".to_owned()));
    }
    let told = scene.recorded("anomaly", 1).await.remove(0);
    assert_eq!(["token", "client", "signal"].map(|key| told[key].as_str()), ["api", "local", "errors"].map(Some));

    scene.recorded("request", LEARNED as usize + DENIED).await;
    let events = json_of(&own(&scene, "GET /v1/usage?token=api&limit=1000", "").await)["events"].clone();
    let events = events.as_array().expect("a list");
    let denied = |event: &&Value| event["token"] == "api" && event["reason"] == "path_denied" && event["status"] == 403;
    assert_eq!(events.iter().filter(denied).count(), DENIED);
    let recorded: Vec<Value> = scene.recorded("request", 1).await;
    let denied: Vec<&Value> = recorded.iter().filter(|record| record["reason"] == "path_denied").collect();
    assert_eq!(denied.len(), DENIED);
    assert!(denied.iter().all(|record| record["token"].is_null()), "it was never attached");
}

#[tokio::test]
async fn a_busy_token_that_falls_silent_is_told_without_any_use_and_operators_see_it() {
    let place = Place::new().await;
    let scene = place.start(&place.setup().detect("mode = \"alert\"")).await;
    let mut client = scene.client().await;
    for _ in 0..LEARNED {
        for _ in 0..BUSY {
            assert_eq!(client.get("/api/usual").await.status, 200);
        }
        scene.clock.advance(BETWEEN);
    }
    assert_eq!(operator_reads(&scene, &[]).await, "nothing was unusual\n");
    scene.clock.advance(Duration::from_secs(30 * 3600));
    let told = scene.recorded("anomaly", 1).await.remove(0);
    let named = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(["token", "signal", "severity"].map(named), ["api", "silence", "low"]);

    let shown = anomalies(&scene).await;
    assert_eq!((shown.len(), &shown[0]["signal"]), (1, &json!("silence")));
    let table = operator_reads(&scene, &["--token", "api"]).await;
    let said = shown[0]["evidence"]["said"].as_str().expect("what a person reads");
    let row = table.lines().nth(1).expect("a head, and a row");
    for part in [shown[0]["time"].as_str().expect("a time"), "api", "local", "low", "silence", "alert", said] {
        assert!(row.contains(part), "{part:?} in {table}");
    }
    let printed: Value = serde_json::from_str(&operator_reads(&scene, &["--json"]).await).expect("JSON");
    assert_eq!(printed, json!({ "anomalies": shown }));
    assert_eq!(operator_reads(&scene, &["--token", "other"]).await, "nothing was unusual\n");
}

#[tokio::test]
async fn one_long_download_is_told_and_cut_before_its_end() {
    let place = Place::new().await;
    let (feed, fed) = mpsc::channel(1);
    let fed = Mutex::new(Some(fed));
    place.upstream.answers(move |seen| match seen.target.as_str() {
        "/usual/archive" => {
            Reply::new(200).body(Payload::Fed(fed.lock().expect("no panic").take().expect("it is asked for once")))
        }
        _ => Reply::ok("as usual"),
    });
    let setup = place.setup().detect("mode = \"respond\"\nrespond = { volume = \"quarantine\" }");
    let scene = place.usual(&setup).await;
    let mut thief = scene.client().await;
    thief.send("GET /api/usual/archive HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let cut = wait_until("it is cut", SOON, async || {
        scene.clock.advance(Duration::from_secs(10));
        feed.send(Ok(Bytes::from_static(&[0; 10_000]))).await.is_err()
    });
    let ((taken, _), ()) = soon("the client's end", async { tokio::join!(thief.rest(), cut) }).await;
    let told = &anomalies(&scene).await[0];
    assert_eq!((&told["signal"], &told["response"]), (&json!("volume"), &json!("quarantine")), "{told}");
    let said = told["evidence"]["said"].as_str().expect("a text");
    assert!(said.contains("bytes received in a minute"), "{said}");
    assert!(taken.len() >= 20_000, "{} bytes were let through while they were usual", taken.len());
    scene.reaches("countersign_token_uses_total", &[("outcome", "aborted")], 1.0).await;
    scene.finish().await;
}
