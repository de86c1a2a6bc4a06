//! How long things take: as the scrape shows it since the start, and as the report shows it week by week.

use std::time::Duration;

use countersign::review::Report;
use serde_json::json;

use crate::support::issuer::Reply;
use crate::support::operator::{APPROVER, act, own};
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, wait_until};

async fn sum(scene: &Scene, figure: &str) -> f64 {
    scene.metric(&format!("countersign_{figure}_seconds_sum"), &[]).await
}

/// What the report tells of a figure: how often, and the worst.
async fn reported(scene: &Scene, figure: &str) -> (u32, f64) {
    let report = own(scene, "GET /v1/report", "").await;
    let report: Report = serde_json::from_slice(&report.body).expect("a report");
    let weeks = report.figures.iter().filter(|week| week.name == figure);
    weeks.fold((0, 0.0), |(count, worst), week| (count + week.count, week.worst_seconds.max(worst)))
}

/// To a second.
fn is_about(measured: f64, seconds: f64) -> bool {
    (measured - seconds).abs() < 1.0
}

#[tokio::test]
async fn an_incident_is_measured_to_the_second() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let told = Issuer::answering(|_| Reply::json(200, "")).await;
    let setup = Setup::new()
        .token_revoked_at("api", &issuer, &told.url(), "")
        .route("api", &upstream, "token = \"api\"")
        .operators("admin");
    let scene = setup.start().await;
    scene.ready().await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    scene.recorded("token_first_used", 1).await;

    scene.clock.advance(Duration::from_secs(600));
    let too_old = json!({ "reason": "seen in a log", "since": "366d" }).to_string();
    let refused = own(&scene, "POST /v1/tokens/api/revoke", &too_old).await;
    assert!(refused.status == 422 && refused.text().contains("365d at most"), "{}", refused.text());
    let order = json!({ "reason": "seen in a log", "since": "30d" }).to_string();
    assert_eq!(own(&scene, "POST /v1/tokens/api/revoke", &order).await.status, 200);
    scene.recorded("generation_revoked", 1).await;
    scene.clock.advance(Duration::from_secs(120));
    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    assert_eq!(scene.get("/api/x").await.status, 200);
    scene.reaches("countersign_time_to_replace_seconds_count", &[], 1.0).await;
    let (detect, replace) = (sum(&scene, "time_to_detect").await, sum(&scene, "time_to_replace").await);
    assert!(is_about(detect, 30.0 * 86_400.0), "{detect}");
    assert!(is_about(replace, 120.0), "{replace}");
    let lifetime = sum(&scene, "token_lifetime").await;
    assert!(is_about(lifetime, 600.0), "void at the issuer: {lifetime}");

    // What runs out by itself is measured too, once the trail goes on.
    scene.clock.advance(Duration::from_secs(7200));
    assert_eq!(scene.get("/api/x").await.status, 200);
    scene.reaches("countersign_token_lifetime_seconds_count", &[], 2.0).await;
    let lifetime = sum(&scene, "token_lifetime").await - lifetime;
    assert!(is_about(lifetime, 3600.0), "as long as the issuer said: {lifetime}");

    let (count, worst) = reported(&scene, "time_to_replace").await;
    assert!(count == 1 && is_about(worst, 120.0), "{count} times, {worst} s");
    assert_eq!((reported(&scene, "token_lifetime").await.0, reported(&scene, "time_to_use").await.0), (2, 1));
}

#[tokio::test]
async fn a_token_that_rules_approve_is_in_use_within_two_seconds() {
    const TOKENS: u32 = 20;
    let issuer = Issuer::start().await;
    let (mut setup, mut upstreams) = (Setup::new(), Vec::new());
    for number in 0..TOKENS {
        let (name, upstream) = (format!("api-{number}"), Upstream::http1().await);
        setup = setup.token(&name, &issuer, "").route(&name, &upstream, &format!("token = \"{name}\""));
        upstreams.push(upstream);
    }
    let scene = setup.start().await;
    for number in 0..TOKENS {
        assert_eq!(scene.get(&format!("/api-{number}/x")).await.status, 200);
    }
    scene.recorded("token_first_used", TOKENS as usize).await;
    // A record is shown a moment after it is on the disk.
    scene.reaches("countersign_time_to_provision_seconds_count", &[], f64::from(3 * TOKENS)).await;
    let mut all = 0.0;
    for stage in ["time_to_decision", "time_to_generation", "time_to_use"] {
        let (count, worst) = reported(&scene, stage).await;
        assert_eq!(count, TOKENS, "{stage}");
        all += worst;
    }
    assert!(all <= 2.0, "{all}");
}

#[tokio::test]
async fn an_incident_is_measured_over_a_restart() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let setup = Setup::api(&issuer, &upstream).operators("admin");
    let folder = std::sync::Arc::new(tempfile::TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    let scene = Scene::start_in(folder.clone(), &setup).await;
    scene.ready().await;
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    scene.finish().await;
    let scene = Scene::start_in(folder, &setup).await;
    scene.clock.advance(Duration::from_secs(60));
    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    wait_until("it is let in", SOON, async || scene.get("/api/x").await.status == 200).await;
    scene.reaches("countersign_time_to_replace_seconds_count", &[], 1.0).await;
    let replace = sum(&scene, "time_to_replace").await;
    // The start took its time too.
    assert!((60.0..90.0).contains(&replace), "{replace}");
    let since_the_start = scene.metric("countersign_time_to_provision_seconds_count", &[("stage", "generation")]).await;
    let (count, _) = reported(&scene, "time_to_generation").await;
    assert_eq!((since_the_start, count), (0.0, 1), "the report knows what was before");
}
