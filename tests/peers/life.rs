//! One token's whole life between a real issuer and a real API: requested in the config, approved, provisioned, used,
//! quarantined, released, rotated, revoked, provisioned anew, retired; by the commands alone. What it is worth at each step, its
//! issuer says when it is asked; what became of it, the trail.

use std::time::Duration;

use serde_json::Value;

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::operators::{as_approver, operators};
use crate::support::proxy::{Proxy, ROUTE, Settings};
use crate::support::{in_turn, wait_until};

#[test]
fn a_token_is_worth_at_its_issuer_what_operators_have_said() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let proxy_lines = format!("{}\n[approval]\ndefault = \"ask\"", operators());
        let settings = Settings { proxy_lines, source: issuer.opaque_source(), ..usual };
        let proxy = Proxy::start(&settings).await;
        let approver = as_approver(&proxy);
        let approver: Vec<&str> = approver.iter().map(String::as_str).collect();
        let does = |what: &str, more: &[&str]| {
            let (code, printed) = proxy.run(&[&["tokens", what, ROUTE], more].concat());
            assert_eq!(code, Some(0), "{what}: {printed}");
            printed
        };
        let reason = ["--reason", "a drill"];

        assert_eq!(refused(&proxy).await, "approval_pending");
        is_approved(&proxy, &approver);
        let first = used(&proxy, &caddy, "/first").await;
        assert!(issuer.is_active(&first));
        does("quarantine", &reason);
        assert_eq!(refused(&proxy).await, "token_quarantined");
        assert!(issuer.is_active(&first), "it is kept");
        let (code, _) = proxy.run(&["tokens", "release", ROUTE, "--reason", "I want it"]);
        assert_eq!(code, Some(77), "whoever took it away does not let it in");
        does("release", &approver);
        assert_eq!(used(&proxy, &caddy, "/released").await, first);

        does("rotate", &[]);
        let second = used(&proxy, &caddy, "/second").await;
        assert_ne!(second, first);
        is_void(&issuer, &first).await;
        assert!(issuer.is_active(&second));

        does("revoke", &reason);
        assert_eq!(refused(&proxy).await, "token_revoked");
        is_void(&issuer, &second).await;
        does("release", &approver);
        let third = used(&proxy, &caddy, "/third").await;
        assert!(third != second && issuer.is_active(&third));

        let shown = does("retire", &reason);
        assert!(shown.contains("state:        retired"), "{shown}");
        assert_eq!(refused(&proxy).await, "approval_denied");
        is_void(&issuer, &third).await;
        for token in [&first, &second, &third] {
            assert!(!proxy.output().contains(token.as_str()), "no log shows a token");
        }
        is_in_the_trail(&proxy).await;
    });
}

/// Looked for, looked at and approved; not by whoever is no approver.
fn is_approved(proxy: &Proxy, approver: &[&str]) {
    let does = |arguments: &[&str]| {
        let (code, printed) = proxy.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {printed}");
        printed
    };
    let list = does(&["requests", "list"]);
    let row: Vec<&str> = list.lines().nth(1).expect("a request").split_whitespace().collect();
    let [id, "pending", ROUTE, ..] = row[..] else { panic!("{list}") };
    let page = does(&["requests", "show", id]);
    for line in [
        "requester:     the owner of the config file",
        "owner:         team-peers@example.com",
        "scopes:        api:read",
    ] {
        assert!(page.contains(line), "{line} in {page}");
    }
    let (code, said) = proxy.run(&["requests", "approve", id, "--reason", "I want it"]);
    assert_eq!(code, Some(77), "{said}");
    let page = does(&[&["requests", "approve", id], approver].concat());
    assert!(page.contains("granted by approver until"), "{page}");
}

/// What the trail has of it, from the request to the end, and that nobody has touched that.
async fn is_in_the_trail(proxy: &Proxy) {
    // These are told as soon as the issuer has answered, or at the next look; the others when they happen.
    let beside = ["usage", "token_refused", "token_first_used", "generation_revoked"];
    let told = wait_until("the trail has the last revocation", Duration::from_secs(20), async || {
        let (code, lines) = proxy.run(&["audit", "show", "--json", "--token", ROUTE]);
        assert_eq!(code, Some(0), "{lines}");
        let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let told: Vec<String> = records.map(|record| step(&record)).collect();
        told.iter().any(|step| step == "generation_revoked 3").then_some(told)
    })
    .await;
    let of = |event: &str| -> Vec<&String> { told.iter().filter(|step| step.starts_with(event)).collect() };
    assert_eq!(of("generation_revoked"), ["generation_revoked 1", "generation_revoked 2", "generation_revoked 3"]);
    assert_eq!(of("token_first_used"), ["token_first_used 1"]);
    assert!(!of("token_refused").is_empty());
    let steps: Vec<&String> = told.iter().filter(|step| !beside.iter().any(|event| step.starts_with(event))).collect();
    let expected = [
        "token_requested",
        "access_approved approver",
        "access_granted approver",
        "token_issued 1",
        "token_quarantined 1 guard",
        "token_released approver",
        "token_rotated 2",
        "token_revoked 2 guard",
        "token_released approver",
        "token_rotated 3",
        "token_retired 3",
    ];
    assert_eq!(steps, expected);
    let (code, said) = proxy.run(&["audit", "verify"]);
    assert!(code == Some(0) && said.contains(": ok, "), "{said}");
}

/// A record in a few words: what happened, to which generation, by whom.
fn step(record: &Value) -> String {
    let words = ["event", "generation", "by"].map(|key| match &record[key] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The token that came with a request.
async fn used(proxy: &Proxy, caddy: &Caddy, path: &str) -> String {
    wait_until("a request passes", Duration::from_secs(20), async || {
        proxy.get(path).await.filter(|answer| answer.status == 200)
    })
    .await;
    let tokens = caddy.trail().tokens(path);
    assert_eq!(tokens.len(), 1, "{path}");
    tokens.into_iter().next().expect("one")
}

/// Why a request did not pass.
async fn refused(proxy: &Proxy) -> String {
    let answer = proxy.get("/refused").await.expect("an answer");
    assert_eq!(answer.status, 403);
    answer.reason().expect("a reason")
}

/// A generation that was replaced is told of half a minute later.
async fn is_void(issuer: &Issuer, token: &str) {
    wait_until("the issuer calls it void", Duration::from_secs(60), async || (!issuer.is_active(token)).then_some(()))
        .await;
}
