//! A new generation is tried against its API before any request carries it.

use std::time::Duration;

use crate::support::upstream::Reply;
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, trail, wait_for, wait_until};

const PROBE: &str = "/health";

/// A token that is tried at the upstream, whose issuer is told what is void.
fn probed(issuer: &Issuer, upstream: &Upstream) -> Setup {
    let rotation = format!("rotation = {{ probe = \"https://{}{PROBE}\" }}", upstream.address);
    Setup::new().token_revoked_at("api", issuer, &issuer.url().replace("/token", "/revoke"), &rotation).route(
        "api",
        upstream,
        r#"token = "api""#,
    )
}

/// What has come to the probe's URL, each with the token it carried.
fn probes(upstream: &Upstream) -> Vec<String> {
    let seen = upstream.seen();
    let probes = seen.iter().filter(|seen| seen.target == PROBE);
    probes.map(|seen| seen.all("authorization").concat().replace("Bearer ", "")).collect()
}

async fn token_in_use(scene: &Scene, upstream: &Upstream) -> String {
    assert_eq!(scene.get("/api/x").await.status, 200);
    upstream.last().all("authorization").concat()
}

#[tokio::test]
async fn a_generation_is_tried_before_any_request_carries_it() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = probed(&issuer, &upstream).start().await;
    scene.ready().await;
    assert_eq!(probes(&upstream), ["tok-1"]);
    assert_eq!(token_in_use(&scene, &upstream).await, "Bearer tok-1");
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    assert_eq!(probes(&upstream), ["tok-1", "tok-2"]);
    assert_eq!(token_in_use(&scene, &upstream).await, "Bearer tok-2");
    let probe = upstream.seen().into_iter().find(|seen| seen.target == PROBE).expect("a probe");
    assert_eq!((probe.method.as_str(), probe.body.bytes), ("GET", 0));
    let passed = [("token", "api"), ("outcome", "passed")];
    assert_eq!(scene.metric("countersign_probes_total", &passed).await, 2.0);
    scene.finish().await;
}

#[tokio::test]
async fn a_generation_that_the_api_refuses_is_dropped_and_the_one_before_stays() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    upstream.answers(|seen| match seen.header("authorization") {
        Some("Bearer tok-2") => Reply::new(403),
        _ => Reply::ok("ok"),
    });
    let scene = probed(&issuer, &upstream).start().await;
    scene.ready().await;
    let error = scene.rotate("api").await.expect_err("refused").to_string();
    assert!(error.contains("probe"), "{error}");
    assert_eq!(token_in_use(&scene, &upstream).await, "Bearer tok-1");
    let record = scene.recorded("token_rejected", 1).await.remove(0);
    assert_eq!(
        (&record["reason"], &record["detail"]),
        (&"probe".into(), &"the API answered the probe with 403".into())
    );
    let reason = [("token", "api"), ("reason", "probe")];
    assert_eq!(scene.metric("countersign_rotation_failures_total", &reason).await, 1.0);
    // Its issuer is told, and is asked for another one that passes.
    let voided = scene.recorded("generation_revoked", 1).await.remove(0);
    assert_eq!((&voided["generation"], &voided["cause"]), (&2.into(), &"discarded".into()));
    let told = issuer.calls().into_iter().find(|call| call.head.starts_with("POST /revoke")).expect("told");
    assert_eq!(told.fields["token"], "tok-2");
    scene.recorded("token_rotated", 1).await;
    assert!(token_in_use(&scene, &upstream).await.as_str() > "Bearer tok-2");
    let carried: Vec<_> = upstream.seen().into_iter().filter(|seen| seen.target != PROBE).collect();
    assert!(carried.iter().all(|seen| seen.all("authorization") != ["Bearer tok-2"]), "no request carried it");
    let records = scene.finish().await;
    assert!(trail::of(&records, "token_rotated").iter().all(|record| record["replaces"] == 1));
}

#[tokio::test]
async fn a_first_generation_that_the_api_refuses_is_not_used() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    upstream.answers(|seen| if seen.target == PROBE { Reply::new(401) } else { Reply::ok("ok") });
    let scene = probed(&issuer, &upstream).start().await;
    scene.recorded("token_rejected", 1).await;
    let refused = scene.get("/api/x").await;
    assert_eq!(refused.refusal(), (503, "token_unavailable".to_owned()));
    assert!(upstream.seen().iter().all(|seen| seen.target == PROBE));
    scene.finish().await;
}

#[tokio::test]
async fn while_nobody_answers_the_probe_the_one_before_goes_on_and_the_issuer_is_left_alone() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = probed(&issuer, &upstream).start().await;
    scene.ready().await;
    upstream.answers(|seen| if seen.target == PROBE { Reply::new(503) } else { Reply::ok("ok") });
    let error = scene.rotate("api").await.expect_err("not yet").to_string();
    assert!(error.contains("probe_unanswered"), "{error}");
    wait_until("it is tried again", SOON, async || probes(&upstream).len() >= 3).await;
    assert_eq!(token_in_use(&scene, &upstream).await, "Bearer tok-1");
    assert_eq!(issuer.count(), 2, "what it gave is kept");
    upstream.answers(|_| Reply::ok("ok"));
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    assert_eq!((token_in_use(&scene, &upstream).await.as_str(), issuer.count()), ("Bearer tok-2", 2));
    scene.finish().await;
}

#[tokio::test]
async fn what_is_being_tried_is_voided_with_the_rest() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = probed(&issuer, &upstream).start().await;
    scene.ready().await;
    upstream.answers(|seen| if seen.target == PROBE { Reply::new(503) } else { Reply::ok("ok") });
    scene.rotate("api").await.expect_err("not yet");
    let without = Setup::new().route("api", &upstream, "");
    scene.reload(&without).await.expect("a good config");
    let records = scene.recorded("generation_revoked", 2).await;
    let mut voided: Vec<_> = records.iter().map(|record| record["generation"].as_u64().expect("a number")).collect();
    voided.sort_unstable();
    assert_eq!(voided, [1, 2]);
    scene.finish().await;
}

#[tokio::test]
async fn what_the_api_took_and_refuses_now_is_told_and_taken_from_nobody() {
    let (issuer, upstream) = (Issuer::named("tok", 30 * 86_400).await, Upstream::http1().await);
    let rotation = format!(
        "rotation = {{ probe = \"https://{}{PROBE}\", probe_every = \"1m\", max_life = \"30d\" }}",
        upstream.address
    );
    let setup = Setup::new().token_revoked_at("api", &issuer, &issuer.url().replace("/token", "/revoke"), &rotation);
    let scene = setup.route("api", &upstream, r#"token = "api""#).start().await;
    scene.ready().await;
    assert_eq!(probes(&upstream), ["tok-1"]);
    wait_until("it is tried again", SOON, async || {
        scene.clock.advance(Duration::from_secs(10));
        probes(&upstream).len() >= 3
    })
    .await;
    assert_eq!(scene.metric("countersign_alerts_open", &[]).await, 0.0);
    upstream.answers(|seen| match (seen.target.as_str(), seen.header("authorization")) {
        (PROBE, Some("Bearer tok-1")) => Reply::new(401),
        _ => Reply::ok("ok"),
    });
    let record = wait_for("it is told", SOON, async || {
        scene.clock.advance(Duration::from_secs(10));
        trail::of(&scene.trail(), "token_probe_refused").first().map(|record| (*record).clone())
    })
    .await;
    assert_eq!((&record["token"], &record["generation"]), (&"api".into(), &1.into()));
    assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("401")), "{record}");
    scene.reaches("countersign_alerts_open", &[], 1.0).await;
    assert!(scene.metric("countersign_probes_total", &[("token", "api"), ("outcome", "refused")]).await >= 1.0);
    assert_eq!(token_in_use(&scene, &upstream).await, "Bearer tok-1");
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    wait_until("it is over", SOON, async || scene.metric("countersign_alerts_open", &[]).await == 0.0).await;
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_probe_refused").len(), 1, "once for a generation");
    assert_eq!(trail::of(&records, "token_issued").len(), 1);
}
