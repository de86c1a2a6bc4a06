//! Generations follow each other without a request noticing.

use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::support::issuer::Reply;
use crate::support::upstream::Seen;
use crate::support::{Issuer, Setup, Upstream, trail, wait_until};

#[tokio::test]
async fn ten_rotations_pass_without_a_failed_request() {
    const LIFE: u64 = 2;
    let (issuer, upstream) = (Issuer::named("tok", LIFE).await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let mut client = scene.client().await;
        load.spawn(async move {
            let mut pace = interval(Duration::from_millis(5));
            loop {
                pace.tick().await;
                assert_eq!(client.get("/api/x").await.status, 200);
            }
        });
    }
    let generation = async || {
        assert!(load.try_join_next().is_none(), "a client failed");
        scene.metric("countersign_token_generation", &[("token", "api")]).await >= 11.0
    };
    wait_until("ten rotations", Duration::from_secs(40), generation).await;
    load.shutdown().await;

    let issued: Vec<_> = issuer.calls().iter().map(|call| call.at).collect();
    let outlived = |seen: &Seen| {
        let number: usize =
            seen.header("authorization").and_then(|value| value.strip_prefix("Bearer tok-"))?.parse().ok()?;
        Some(seen.at.saturating_duration_since(issued[number - 1]) < Duration::from_secs(LIFE))
    };
    let seen = upstream.seen();
    assert!(seen.len() > 1000, "{} requests", seen.len());
    assert!(seen.iter().all(|seen| outlived(seen) == Some(true)), "no token is sent that has expired");
    let apart = issued.windows(2).all(|pair| pair[1] - pair[0] > Duration::from_millis(900));
    assert!(apart, "the issuer is not asked more than once a second: {issued:?}");

    let success = [("token", "api"), ("outcome", "success")];
    assert!(scene.metric("countersign_rotations_total", &success).await >= 10.0);
    assert_eq!(scene.metric("countersign_rotation_failures_total", &[]).await, 0.0);
    let records = scene.finish().await;
    let rotated = trail::of(&records, "token_rotated");
    for (number, record) in (2..).zip(&rotated) {
        assert_eq!((&record["generation"], &record["replaces"]), (&number.into(), &(number - 1).into()));
    }
    assert!(rotated.len() >= 10);
    assert_eq!(trail::of(&records, "token_expired").len(), 0);
}

#[tokio::test]
async fn lives_are_shortened_while_nothing_fails_and_are_longer_again_when_something_does() {
    let (issuer, upstream) = (Issuer::named("tok", 3600).await, Upstream::http1().await);
    let lines = "rotation = { shorten = true, max_life = \"1h\", jitter = 0.0 }";
    let setup = Setup::new().token("api", &issuer, lines).route("api", &upstream, r#"token = "api""#);
    let scene = setup.start().await;
    scene.ready().await;
    let of_token = [("token", "api")];
    let live_for = async |generation: f64| {
        wait_until("the next generation", crate::support::SOON, async || {
            scene.metric("countersign_token_generation", &of_token).await == generation
        })
        .await;
        let issued = scene.metric("countersign_token_issued_timestamp_seconds", &of_token).await;
        let expires = scene.metric("countersign_token_expiry_timestamp_seconds", &of_token).await;
        // Both are told in whole seconds.
        let life = expires - issued;
        [3600.0, 2700.0].into_iter().find(|whole: &f64| (life - whole).abs() <= 2.0).unwrap_or(life)
    };
    let mut lives = Vec::new();
    for generation in 1..=5 {
        let life = live_for(f64::from(generation)).await;
        lives.push(life);
        assert_eq!(scene.get("/api/x").await.status, 200);
        // Its time comes at seven tenths.
        if generation < 5 {
            scene.clock.advance(Duration::from_secs_f64(life * 0.75));
        }
    }
    assert_eq!(lives, [3600.0, 3600.0, 3600.0, 3600.0, 2700.0], "three good lives, then a step");

    issuer.next(Reply::json(503, "{}"));
    scene.clock.advance(Duration::from_secs(2700 * 3 / 4));
    scene.reaches("countersign_rotation_failures_total", &of_token, 1.0).await;
    scene.clock.advance(Duration::from_secs(61));
    assert_eq!(live_for(6.0).await, 3600.0, "a failure makes them longer again");
    assert_eq!(scene.get("/api/x").await.status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn a_rotation_on_demand_is_live_when_it_returns() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.ready().await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    assert_eq!(scene.get("/api/x").await.status, 200);
    let tokens: Vec<String> = upstream.seen().iter().map(|seen| seen.all("authorization").concat()).collect();
    assert_eq!(tokens, ["Bearer tok-1", "Bearer tok-2"]);
    let error = scene.rotate("none").await.expect_err("no such token");
    assert_eq!(error.to_string(), "there is no token none");
    scene.finish().await;
}

#[tokio::test]
async fn a_rotation_cuts_no_answer_that_is_under_way() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let gate = crate::support::Gate::closed();
    let held = gate.clone();
    upstream.answers(move |_| crate::support::upstream::Reply::ok("late").behind(&held));
    let scene = Setup::api(&issuer, &upstream).start().await;
    let mut client = scene.client().await;
    client.send("GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    wait_until("it is at the upstream", crate::support::SOON, async || upstream.count() == 1).await;
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    gate.open();
    assert_eq!(client.answer().await.expect("an answer").text(), "late");
    assert_eq!(client.get("/api/x").await.status, 200);
    assert_eq!((upstream.connections(), upstream.last().all("authorization")), (1, vec!["Bearer tok-2"]));
    scene.finish().await;
}

#[tokio::test]
async fn the_issuer_is_asked_as_the_config_says() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let source = |auth: &str| {
        format!(
            r#"{{ kind = "client_credentials", token_url = "{}", client_id = "app id", client_secret = "file:client-secret", auth = "{auth}", audience = "https://api.test", extra = {{ tenant = "blue" }}, headers = {{ x-version = "7" }} }}"#,
            issuer.url()
        )
    };
    let setup = Setup::new().route("api", &upstream, r#"token = "api""#);
    let scopes = "scopes = [\"read\", \"write\"]";
    let scene = setup.clone().token_from("api", &source("basic"), scopes).start().await;
    scene.ready().await;
    let call = issuer.calls().remove(0);
    assert!(call.head.starts_with("POST /token HTTP/1.1\r\n"), "{}", call.head);
    // app+id:first-client-secret
    assert!(call.head.contains("\r\nauthorization: Basic YXBwK2lkOmZpcnN0LWNsaWVudC1zZWNyZXQ="), "{}", call.head);
    assert!(call.head.contains("\r\nx-version: 7"), "{}", call.head);
    let fields: Vec<(&str, &str)> = call.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let audience = ("audience", "https://api.test");
    let expected = [audience, ("grant_type", "client_credentials"), ("scope", "read write"), ("tenant", "blue")];
    assert_eq!(fields, expected);
    scene.reload(&setup.token_from("api", &source("post"), scopes)).await.expect("a good config");
    wait_until("another call", crate::support::SOON, async || issuer.count() == 2).await;
    let call = issuer.calls().remove(1);
    assert!(!call.head.contains("authorization"), "{}", call.head);
    assert_eq!(
        (call.fields["client_id"].as_str(), call.fields["client_secret"].as_str()),
        ("app id", "first-client-secret")
    );
    scene.finish().await;
}

#[tokio::test]
async fn a_client_secret_that_a_program_prints_is_asked_of_it_for_each_call() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let folder = TempDir::new().expect("a folder");
    let printed = folder.path().join("printed");
    std::fs::write(&printed, "first-client-secret\nissued to: api\n").expect("written");
    let source = format!(
        r#"{{ kind = "client_credentials", token_url = "{}", client_id = "api", client_secret = "exec:/bin/cat {}" }}"#,
        issuer.url(),
        printed.display()
    );
    let setup = Setup::new().token_from("api", &source, "").route("api", &upstream, r#"token = "api""#);
    let scene = setup.start().await;
    scene.ready().await;
    std::fs::write(&printed, "second\n").expect("written");
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    let heads: Vec<String> = issuer.calls().into_iter().map(|call| call.head).collect();
    assert!(heads[0].contains("Basic YXBpOmZpcnN0LWNsaWVudC1zZWNyZXQ="), "{}", heads[0]);
    assert!(heads[1].contains("Basic YXBpOnNlY29uZA=="), "{}", heads[1]);
    std::fs::remove_file(&printed).expect("removed");
    let error = scene.rotate("api").await.expect_err("the program fails").to_string();
    assert!(error.contains("secret"), "{error}");
    assert_eq!(issuer.calls().len(), 2, "the issuer is not asked without a secret");
    let failure = scene.recorded("token_failed", 1).await.remove(0);
    assert!(failure.to_string().contains("/bin/cat ended with code 1"), "{failure}");
    assert_eq!(scene.get("/api/x").await.status, 200, "the live generation goes on");
    scene.finish().await;
}

#[tokio::test]
async fn a_client_secret_that_was_replaced_is_read_anew() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.ready().await;
    std::fs::write(scene.folder().join("client-secret"), "second").expect("written");
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    let heads: Vec<String> = issuer.calls().into_iter().map(|call| call.head).collect();
    assert!(heads[0].contains("Basic YXBpOmZpcnN0LWNsaWVudC1zZWNyZXQ="), "{}", heads[0]);
    assert!(heads[1].contains("Basic YXBpOnNlY29uZA=="), "{}", heads[1]);
    scene.finish().await;
}
