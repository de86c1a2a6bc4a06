//! Tokens that nobody uses are retired, and those that are used are not.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::support::operator::{act, key};
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, trail, wait_until};

const DAY: Duration = Duration::from_secs(86_400);

const RETIREMENT: &str = "countersign_token_unused_retirement_timestamp_seconds";

fn setup(issuer: &Issuer, upstream: &Upstream) -> Setup {
    let own = rustix::process::getuid().as_raw();
    Setup::new()
        .token("api", issuer, "retire_unused = \"30d\"")
        .route("api", upstream, "token = \"api\"")
        .operator("guard", &format!("uid = {own}\nroles = [\"admin\"]"))
        .operator("approver", &format!("{}\nroles = [\"approver\"]", key("the approver's key")))
}

async fn retirement(scene: &Scene) -> Option<f64> {
    scene.scrape().await.find(RETIREMENT, &[("token", "api")])
}

/// Waits until the proxy has looked at a use, or the passing of time.
async fn looked(scene: &Scene, before: f64) -> f64 {
    wait_until("it is looked at", SOON, async || retirement(scene).await.is_some_and(|end| end > before)).await;
    retirement(scene).await.expect("it is shown")
}

#[tokio::test]
async fn a_token_is_retired_when_nobody_has_used_it_for_so_long() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = setup(&issuer, &upstream).start().await;
    scene.ready().await;
    let begun = looked(&scene, 0.0).await;
    scene.clock.advance(29 * DAY);
    wait_until("it works", SOON, async || scene.get("/api/x").await.status == 200).await;
    let used = looked(&scene, begun).await;
    assert!((used - begun - 29.0 * 86_400.0).abs() < 30.0, "a use puts it off: {begun} {used}");
    scene.clock.advance(29 * DAY);
    assert_eq!(scene.recorded("token_unused", 0).await.len(), 0);
    wait_until("it still works", SOON, async || scene.get("/api/x").await.status == 200).await;
    looked(&scene, used).await;
    scene.clock.advance(30 * DAY + Duration::from_secs(60));
    let records = scene.recorded("token_unused", 1).await;
    assert!(records[0]["last_used"].is_string(), "{}", records[0]);
    assert_eq!(scene.get("/api/x").await.refusal(), (403, "approval_denied".to_owned()));
    assert_eq!(retirement(&scene).await, None, "there is nothing left to retire");
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_retired").len(), 1);
}

#[tokio::test]
async fn a_restart_makes_no_token_look_used() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let folder = Arc::new(tempfile::TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    let scene = Scene::start_in(folder.clone(), &setup(&issuer, &upstream)).await;
    scene.ready().await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    let before = looked(&scene, 0.0).await;
    scene.finish().await;
    let scene = Scene::start_in(folder.clone(), &setup(&issuer, &upstream)).await;
    let after = looked(&scene, 0.0).await;
    assert!((after - before).abs() < 3600.0, "{before} {after}");
    scene.clock.advance(30 * DAY);
    let unused = scene.recorded("token_unused", 1).await;
    assert_eq!(unused[0]["token"], json!("api"));
    scene.finish().await;
    let scene = Scene::start_in(folder, &setup(&issuer, &upstream)).await;
    assert_eq!(scene.get("/api/x").await.refusal(), (403, "approval_denied".to_owned()), "it stays retired");
}

#[tokio::test]
async fn time_in_quarantine_does_not_count() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = setup(&issuer, &upstream).start().await;
    scene.ready().await;
    let begun = looked(&scene, 0.0).await;
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    scene.clock.advance(40 * DAY);
    let put_off = looked(&scene, begun).await;
    assert!(put_off - begun > 39.0 * 86_400.0, "{begun} {put_off}");
    assert_eq!(act(&scene, "api", "release", Some("the approver's key")).await.status, 200);
    wait_until("it works", SOON, async || scene.get("/api/x").await.status == 200).await;
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_unused").len(), 0);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_ahead_retires_nothing() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = setup(&issuer, &upstream).start().await;
    scene.ready().await;
    let begun = looked(&scene, 0.0).await;
    scene.clock.advance_wall(31 * DAY);
    let later = looked(&scene, begun).await;
    assert!(later - begun > 30.0 * 86_400.0, "the whole of it is still to come: {begun} {later}");
    wait_until("it works", SOON, async || scene.get("/api/x").await.status == 200).await;
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_unused").len(), 0);
}

#[tokio::test]
async fn nothing_is_left_of_what_is_not_looked_after_any_more() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let folder = Arc::new(tempfile::TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    let scene = Scene::start_in(folder.clone(), &setup(&issuer, &upstream)).await;
    scene.ready().await;
    looked(&scene, 0.0).await;
    let record = scene.folder().join("state/sealed/used-api.sealed");
    wait_until("it is written down", SOON, async || record.exists()).await;
    let kept = Setup::new().token("api", &issuer, "").route("api", &upstream, "token = \"api\"");
    scene.reload(&kept).await.expect("the config is good");
    wait_until("the metric has gone", SOON, async || retirement(&scene).await.is_none()).await;
    wait_until("its record has gone", SOON, async || !record.exists()).await;
}
