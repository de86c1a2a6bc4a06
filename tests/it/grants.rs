//! What readiness waits for, and the end of a grant.

use std::time::Duration;

use crate::support::issuer::Reply;
use crate::support::{Gate, Issuer, SOON, Setup, Upstream, trail, wait_until};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

#[tokio::test]
async fn readiness_waits_for_the_required_tokens_alone() {
    let (issuer, slow, gate) = (Issuer::start().await, Issuer::start().await, Gate::closed());
    let (upstream, other) = (Upstream::http1().await, Upstream::http1().await);
    issuer.next(Reply::token("tok-1", 3600).behind(&gate));
    slow.answers(|_| Reply::raw(""));
    let setup = Setup::api(&issuer, &upstream).token("nice", &slow, "required = false");
    let scene = setup.route("nice", &other, r#"token = "nice""#).start().await;
    let status = async |path: &str| scene.ask(path).await.status;
    assert_eq!((status("/livez").await, status("/readyz").await, status("/startupz").await), (200, 503, 503));
    let verbose = scene.ask("/readyz?verbose").await;
    assert!(verbose.text().contains("[-]token api not yet"), "{}", verbose.text());
    assert!(!verbose.text().contains("nice"), "{}", verbose.text());
    gate.open();
    scene.ready().await;
    assert_eq!((status("/startupz").await, status("/livez").await), (200, 200));
    assert_eq!(status("/metrics").await, 200);
    scene.finish().await;
}

#[tokio::test]
async fn a_grant_in_the_past_never_gets_a_token_and_nothing_waits_for_it() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let setup = Setup::new().token("api", &issuer, r#"expires = "2020-01-01""#);
    let scene = setup.route("api", &upstream, r#"token = "api""#).start().await;
    scene.ready().await;
    let answer = scene.get("/api/x").await;
    assert_eq!((answer.refusal(), answer.header("retry-after")), ((403, "approval_denied".to_owned()), None));
    assert_eq!((issuer.count(), upstream.connections()), (0, 0));
    assert_eq!(scene.metric("countersign_token_state", &[("token", "api"), ("state", "retired")]).await, 1.0);
    let ends = scene.metric("countersign_token_grant_expiry_timestamp_seconds", &[("token", "api")]).await;
    assert_eq!(ends, 1_577_923_200.0, "the day itself is granted");
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_retired").len(), 1);
    assert_eq!(trail::events(&records)[..3], ["start", "token_requested", "access_ended"]);
}

#[tokio::test]
async fn a_grant_that_ends_takes_its_token_out_of_use_for_good() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    scene.clock.advance_wall(100 * YEAR);
    wait_until("the end of the grant is known", SOON, async || {
        scene.get("/api/x").await.refusal() == (403, "approval_denied".to_owned())
    })
    .await;
    assert_eq!(upstream.count(), 1, "what has expired is not sent meanwhile");
    assert_eq!(issuer.count(), 1);
    let error = scene.rotate("api").await.expect_err("no grant").to_string();
    assert!(error.contains("grant has ended"), "{error}");
    assert_eq!(scene.ask("/readyz").await.status, 200, "nobody waits for it");
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_retired").len(), 1);
}

#[tokio::test]
async fn what_a_token_is_for_stands_in_the_trail_before_anything_is_issued() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.ready().await;
    let records = scene.finish().await;
    assert_eq!(trail::events(&records), ["start", "token_requested", "access_granted", "token_issued", "stop"]);
    let requested = &records[1];
    assert_eq!((&requested["owner"], &requested["reason"]), (&"team@example.com".into(), &"the tests need it".into()));
    assert_eq!((&requested["scopes"][0], &requested["hosts"][0]), (&"read".into(), &"127.0.0.1".into()));
    assert_eq!(requested["grant_ends"], "2099-01-02T00:00:00.000Z");
    assert_eq!(records[4]["cause"], "the test's end");
}
