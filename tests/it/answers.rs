//! What issuers answer that is not a good token: it never takes the place of one.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::issuer::Reply;
use crate::support::{Issuer, SOON, Setup, Upstream, trail, wait_until};

/// An answer of a second call, and how it is named. The first gave a token for ten minutes.
fn bad_answers() -> Vec<(&'static str, Reply)> {
    let token = |members: &str| Reply::json(200, &format!(r#"{{"access_token":"tok-bad",{members}}}"#));
    let kind = r#""token_type":"Bearer""#;
    let raw = |head: &str, body: &str| Reply::raw(format!("HTTP/1.1 {head}\r\n\r\n{body}"));
    let json = "200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
    let good = r#"{"access_token":"tok-bad","token_type":"Bearer","expires_in":3600}"#;
    vec![
        ("lifetime", token(&format!(r#"{kind},"expires_in":0"#))),
        ("lifetime", token(&format!(r#"{kind},"expires_in":-3600"#))),
        ("lifetime", token(&format!(r#"{kind},"expires_in":null"#))),
        ("lifetime", token(&format!(r#"{kind},"expires_in":"soon""#))),
        ("lifetime", token(&format!(r#"{kind},"expires_in":"NaN""#))),
        ("lifetime", token(&format!(r#"{kind},"expires_in":["3600"]"#))),
        ("malformed", token(&format!(r#"{kind},"expires_in":NaN"#))),
        ("malformed", token(&format!(r#"{kind},"expires_in":3600,"expires_in":3600"#))),
        ("worse", token(&format!(r#"{kind},"expires_in":60"#))),
        ("scope", token(&format!(r#"{kind},"expires_in":3600,"scope":"write""#))),
        ("scope", token(&format!(r#"{kind},"expires_in":3600,"scope":"""#))),
        ("token_type", token(r#""token_type":"mac","expires_in":3600"#)),
        ("token_missing", Reply::json(200, r#"{"token_type":"Bearer","expires_in":3600}"#)),
        ("token_missing", Reply::json(200, r#"{"access_token":"","token_type":"Bearer","expires_in":3600}"#)),
        ("token_charset", Reply::token("tok\r\nX-Injected: 1", 3600)),
        ("token_charset", Reply::token("tok bad", 3600)),
        ("token_charset", Reply::token("tök", 3600)),
        ("content_type", Reply::with(200, "Content-Type: text/html\r\n", "<html>Sign in</html>")),
        ("content_type", Reply::with(200, "", good)),
        ("malformed", Reply::json(200, r#"{"access_token":"tok-bad","token_type":"#)),
        ("malformed", Reply::json(200, "[]")),
        ("cut_off", raw(&format!("{json}1000"), good)),
        ("cut_off", Reply::raw("")),
        ("too_large", Reply::json(200, &format!("{good}{}", " ".repeat(70_000)))),
        ("malformed", Reply::raw("SSH-2.0-OpenSSH_9.9\r\n\r\n")),
        ("redirected", Reply::with(302, "Location: http://127.0.0.1:1/token\r\n", "")),
        ("redirected", Reply::with(307, "Location: /token\r\n", "")),
        ("status", Reply::with(500, "", "down")),
        ("status", Reply::with(404, "", "")),
        ("rate_limited", Reply::with(429, "Retry-After: 1\r\n", "")),
        ("invalid_client", Reply::json(401, r#"{"error":"invalid_client"}"#)),
        ("access_denied", Reply::json(200, r#"{"error":"access_denied","access_token":"tok-bad"}"#)),
        ("timeout", Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nslow").and_hangs()),
    ]
}

#[tokio::test]
async fn a_bad_answer_never_replaces_a_good_token() {
    let mut cases = Vec::new();
    let mut setup = Setup::new();
    for (number, (reason, reply)) in bad_answers().into_iter().enumerate() {
        // After the bad answer there is none at all.
        let (issuer, upstream) = (Issuer::answering(|_| Reply::raw("")).await, Upstream::http1().await);
        issuer.next(Reply::token("tok-good", 600));
        issuer.next(reply);
        let name = format!("t{number}");
        setup = setup.token(&name, &issuer, "").route(&name, &upstream, &format!("token = \"{name}\""));
        cases.push((name, reason, upstream, issuer));
    }
    let scene = std::sync::Arc::new(setup.start().await);
    scene.ready().await;
    let mut rotations = JoinSet::new();
    for (name, reason, ..) in &cases {
        let (scene, name, reason) = (scene.clone(), name.clone(), *reason);
        rotations.spawn(async move {
            let error = scene.rotate(&name).await.expect_err(reason).to_string();
            assert_eq!(error, format!("token {name}: the issuer gave no new generation: {reason}"));
        });
    }
    rotations.join_all().await;

    let scrape = scene.scrape().await;
    for (name, reason, upstream, _) in &cases {
        let token = [("token", name.as_str())];
        assert_eq!(scrape.value("countersign_token_generation", &token), 1.0, "{name} {reason}");
        let failures = scrape.value("countersign_rotation_failures_total", &[token[0], ("reason", reason)]);
        assert!(failures >= 1.0, "{name} {reason}");
        assert!(scrape.value("countersign_rotations_total", &[token[0], ("outcome", "failure")]) >= 1.0, "{reason}");
        assert_eq!(scene.get(&format!("/{name}/x")).await.status, 200, "{reason}");
        let sent = upstream.last();
        assert_eq!(sent.all("authorization"), ["Bearer tok-good"], "{reason}");
        assert_eq!(sent.header("x-injected"), None);
    }
    let records = std::sync::Arc::into_inner(scene).expect("nobody else holds it").finish().await;
    for (name, reason, ..) in &cases {
        let told = |record: &&serde_json::Value| {
            record["token"] == name.as_str()
                && record["reason"] == *reason
                && (record["event"] == "token_failed" || record["event"] == "token_rejected")
        };
        let record = records.iter().find(told).unwrap_or_else(|| panic!("{name} {reason}"));
        let detail = record["detail"].as_str().expect("a detail");
        assert!(!detail.is_empty() && !detail.contains("tok-bad") && !detail.contains('\n'), "{detail}");
    }
    let rejected = trail::of(&records, "token_rejected");
    assert!(rejected.iter().any(|record| record["reason"] == "worse"), "{rejected:?}");
}

#[tokio::test]
async fn odd_answers_that_are_good_are_taken_within_their_bounds() {
    let now = countersign::clock::Clock::now(&countersign::clock::SystemClock).wall.as_secs_f64();
    let token = |members: &str| Reply::json(200, &format!(r#"{{"access_token":"tok-odd",{members}}}"#));
    let long = Duration::from_secs(3600).as_secs_f64();
    let cases = [
        (token(r#""token_type":"bearer","expires_in":"1800""#), 1800.0),
        (token(r#""token_type":"BEARER","expires_in":1800.9"#), 1800.0),
        (token(r#""token_type":"Bearer","expires_in":1e300"#), long),
        (token(r#""token_type":"Bearer","expires_in":99999999999999999999999"#), long),
        (token(r#""token_type":"Bearer""#), 900.0),
        (token(r#""expires_in":1800,"scope":"read write","more":[{}]"#), 1800.0),
        (
            Reply::with(
                201,
                "Content-Type: application/vnd.x+json; a=b\r\n",
                r#"{"access_token":"tok-odd","expires_in":60}"#,
            ),
            60.0,
        ),
    ];
    for (reply, life) in cases {
        let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
        issuer.next(reply);
        let scene = Setup::api(&issuer, &upstream).start().await;
        assert_eq!(scene.get("/api/x").await.status, 200);
        assert_eq!(upstream.last().all("authorization"), ["Bearer tok-odd"]);
        let expiry = scene.metric("countersign_token_expiry_timestamp_seconds", &[("token", "api")]).await - now;
        assert!((life - 2.0..life + 20.0).contains(&expiry), "{expiry} instead of {life}");
        scene.finish().await;
    }
}

#[tokio::test]
async fn a_client_that_its_issuer_refuses_says_so_and_is_not_hurried() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let said = r#"{"error":"invalid_client","error_description":"first-client-secret is\u001b[31m wrong"}"#;
    issuer.answers(move |_| Reply::json(401, said));
    let scene = Setup::api(&issuer, &upstream).start().await;
    let failure = scene.recorded("token_failed", 1).await.remove(0);
    let expected = "the issuer answered 401: invalid_client ([redacted] is [31m wrong)";
    assert_eq!((&failure["reason"], &failure["detail"]), (&"invalid_client".into(), &expected.into()));
    wait_until("requests hear of it", SOON, async || {
        scene.get("/api/x").await.refusal() == (503, "token_unavailable".to_owned())
    })
    .await;
    assert_eq!(upstream.connections(), 0);
    scene.finish().await;
}
