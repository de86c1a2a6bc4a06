//! What the whole says of tokens, clients and hosts.

use std::time::Duration;

use super::*;

const MONDAY: u64 = 1_788_739_200;

fn request(token: &str, client: &str, seconds: u64) -> Event {
    Event {
        time: Time(Duration::from_secs(MONDAY + seconds)),
        token: token.to_owned(),
        event: None,
        client: client.to_owned(),
        host: "api.github.com".to_owned(),
        method: "GET".to_owned(),
        path: "/repos".to_owned(),
        status: 200,
        request_bytes: 0,
        response_bytes: 100,
    }
}

/// Ten days of two tokens, with nothing unusual in them.
fn usual() -> Engine {
    let mut engine = Engine::default();
    for turn in 0..10 * 288 {
        for token in ["github", "other"] {
            assert_eq!(engine.observe(&request(token, "app", turn * 300)), []);
        }
    }
    engine
}

const NOW: u64 = 10 * DAY;

#[test]
fn another_client_of_a_token_is_told_at_its_first_request_and_only_then() {
    let mut engine = usual();
    let told = engine.observe(&request("github", "stranger", NOW));
    assert_eq!((told.len(), told[0].signal(), told[0].severity), (1, Signal::NewClient, Severity::High));
    let line = told[0].to_json("alert");
    assert_eq!(line["time"], "2026-09-17T00:00:00.000Z");
    assert_eq!(
        (&line["token"], &line["signal"], &line["response"]),
        (&"github".into(), &"new_client".into(), &"alert".into())
    );
    assert!(line["evidence"]["said"].as_str().is_some_and(|said| said.starts_with("first use by stranger; 1 clients")));
    assert_eq!(engine.observe(&request("github", "stranger", NOW + 1)), []);
}

#[test]
fn signals_of_one_cause_are_one_anomaly_that_is_told_again_only_when_it_is_graver() {
    let mut engine = usual();
    let mut told = Vec::new();
    for second in 0..600 {
        let path = format!("/admin/{second}");
        told.extend(engine.observe(&Event { path, status: 403, ..request("github", "app", NOW + second) }));
    }
    let severities: Vec<Severity> = told.iter().map(|anomaly| anomaly.severity).collect();
    assert!(severities.is_sorted_by(|before, after| before < after), "{severities:?}");
    let signals: Vec<Signal> = told[told.len() - 1].findings.iter().map(|finding| finding.signal).collect();
    assert!([Signal::Errors, Signal::Burst].iter().all(|signal| signals.contains(signal)), "{signals:?}");
}

#[test]
fn a_host_that_refuses_every_token_is_in_trouble_and_one_token_alone_is_not() {
    let refusals = |tokens: &[&str]| {
        let mut engine = usual();
        let mut told = Vec::new();
        for second in 0..300 {
            for token in tokens {
                told.extend(engine.observe(&Event { status: 401, ..request(token, "app", NOW + second) }));
            }
        }
        told.iter().filter(|anomaly| anomaly.signal() == Signal::Errors).count()
    };
    assert_eq!(refusals(&["github", "other"]), 0);
    assert!(refusals(&["github"]) > 0);
}

#[test]
fn a_phantom_key_in_the_wrong_place_is_critical_from_the_first_moment() {
    let mut engine = Engine::default();
    let told = engine.observe(&Event { event: Some(Step::Tripwire), ..request("github", "app", 0) });
    assert_eq!((told[0].signal(), told[0].severity), (Signal::Tripwire, Severity::Critical));
}

#[test]
fn what_the_issuer_changes_is_told() {
    let mut engine = usual();
    let mut step = |step, seconds| engine.observe(&Event { event: Some(step), ..request("github", "", NOW + seconds) });
    assert_eq!(step(Step::Rotated, 0), []);
    assert_eq!(step(Step::ScopeChanged, 1)[0].signal(), Signal::IssuerChange);
}

#[test]
fn a_busy_token_that_falls_silent_is_told_once() {
    let mut engine = usual();
    let mut told = Vec::new();
    for hour in 0..72 {
        told.extend(engine.observe(&request("elsewhere", "app", NOW + hour * HOUR)));
    }
    let tokens: Vec<&str> = told.iter().map(|anomaly| anomaly.token.as_str()).collect();
    assert_eq!(tokens, ["github", "other"], "{told:?}");
    assert!(told.iter().all(|anomaly| anomaly.signal() == Signal::Silence));
}

#[test]
fn names_without_end_take_no_room_without_end() {
    let mut engine = Engine::default();
    for number in 0..MOST_TOKENS as u64 + 50 {
        engine.observe(&request(&format!("token-{number}"), "app", number));
    }
    assert!(engine.tokens.len() <= MOST_TOKENS);
    assert!(!engine.tokens.contains_key("token-0"), "the one that rested longest made room");
    assert_eq!(engine.profiles, engine.tokens.len());
    for number in 0..MOST_HOSTS as u64 + 50 {
        let host = format!("{number}.example.com");
        engine.observe(&Event { host, ..request("token-100", "app", 10_000 + number) });
    }
    assert!(engine.hosts.len() <= MOST_HOSTS);
}
