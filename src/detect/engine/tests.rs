//! What the whole says of tokens, clients and hosts.

mod kept;
mod time;

use std::time::Duration;

use super::open::{MOST_FACTS, MOST_FIGURES, Open};
use super::token::MOST_SHADOWS;
use super::*;
use crate::detect::anomaly::{Severity, Signal};
use crate::detect::baseline::DAY;
use crate::detect::event::Step;
use crate::detect::memory::VERSION;

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
        ..Event::default()
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
fn each_fact_is_told_though_its_anomaly_was_told_before() {
    let mut engine = usual();
    let mut said = |event: Event| -> Vec<String> {
        engine.observe(&event).iter().map(|anomaly| anomaly.findings[0].said.clone()).collect()
    };
    let by = |client: &str, seconds| request("github", client, NOW + seconds);
    assert!(said(by("stranger", 0))[0].starts_with("first use by stranger;"));
    assert!(said(by("another", 1))[0].starts_with("first use by another;"));
    assert_eq!(said(by("stranger", 2)), [""; 0]);
    let tripped = |client: &str, seconds| Event { event: Some(Step::Tripwire), ..by(client, seconds) };
    for client in ["app", "stranger"] {
        assert_eq!(said(tripped(client, 3)), ["a phantom key was used where it cannot be"], "{client}");
    }
    // Each in a loop: told once a day.
    for seconds in 4..5 * HOUR {
        for client in ["app", "stranger"] {
            assert_eq!(said(tripped(client, seconds)), [""; 0], "{client} after {seconds} s");
        }
    }
    engine.pass(request("", "", NOW + DAY).time);
    let mut said = |event: Event| -> Vec<String> {
        engine.observe(&event).iter().map(|anomaly| anomaly.findings[0].said.clone()).collect()
    };
    assert_eq!(said(tripped("app", DAY)), ["a phantom key was used where it cannot be"]);
}

#[test]
fn an_hour_has_so_many_facts_and_no_more() {
    let mut engine = usual();
    let mut told = 0;
    for number in 0..MOST_FACTS as u64 * 2 {
        let host = format!("{number}.example.com");
        told += engine.observe(&Event { host, ..request("github", "app", NOW + number) }).len();
    }
    assert!((MOST_FACTS..MOST_FACTS + 4).contains(&told), "{told}");
}

#[test]
fn an_anomaly_names_the_client_of_its_gravest_finding() {
    let mut engine = usual();
    let write = |client: &str, seconds| Event { method: "DELETE".to_owned(), ..request("github", client, seconds) };
    assert_eq!(engine.observe(&request("github", "stranger", NOW))[0].client, "stranger");
    let told = engine.observe(&write("app", NOW + 1));
    assert_eq!((told[0].signal(), told[0].client.as_str()), (Signal::NewClient, "stranger"));
    let clients: Vec<(Signal, &str)> =
        told[0].findings.iter().map(|finding| (finding.signal, finding.client.as_str())).collect();
    assert_eq!(clients, [(Signal::NewClient, "stranger"), (Signal::NewMethod, "app")]);
}

#[test]
fn a_strong_figure_of_a_signal_does_not_hide_a_fact_of_it() {
    let mut engine = usual();
    for number in 0..200 {
        let path = format!("/kind-{}{}", char::from(b'a' + number / 26), char::from(b'a' + number % 26));
        engine.observe(&Event { path, ..request("github", "app", NOW + u64::from(number) / 10) });
    }
    let host = "elsewhere.example.com".to_owned();
    let told = engine.observe(&Event { host, path: "/kind".to_owned(), ..request("github", "app", NOW + 30) });
    let said: Vec<&str> = told.iter().flat_map(|told| &told.findings).map(|finding| finding.said.as_str()).collect();
    assert!(said.iter().any(|said| said.contains("first request to elsewhere.example.com")), "{said:?}");
}

#[test]
fn signals_of_one_cause_are_one_anomaly_that_is_told_again_with_another_signal_and_when_it_is_graver() {
    let mut engine = usual();
    let mut told = Vec::new();
    for second in 0..600 {
        let path = format!("/admin/{second}");
        told.extend(engine.observe(&Event { path, status: 403, ..request("github", "app", NOW + second) }));
    }
    let brief: Vec<(Severity, usize)> = told.iter().map(|told| (told.severity, told.findings.len())).collect();
    assert!(brief.is_sorted_by(|before, after| before < after), "{brief:?}");
    let signals: Vec<Signal> = told[told.len() - 1].findings.iter().map(|finding| finding.signal).collect();
    assert!([Signal::Errors, Signal::Burst].iter().all(|signal| signals.contains(signal)), "{signals:?}");
}

#[test]
fn a_burst_of_each_client_is_told_though_another_ones_was_told_within_the_hour() {
    let mut engine = Engine::default();
    for turn in 0..10 * 288 {
        for client in ["app", "batch", "cron"] {
            assert_eq!(engine.observe(&request("github", client, turn * 300)), []);
        }
    }
    let mut burst_of = |client: &str, from: u64| {
        let mut told = Vec::new();
        for tenth in 0..600 {
            told.extend(engine.observe(&request("github", client, NOW + from + tenth / 10)));
        }
        let is_burst = |finding: &Finding| finding.signal == Signal::Burst && finding.client == client;
        told.iter().filter(|told| told.findings.iter().any(is_burst)).count()
    };
    // As strong as the first one's: no anomaly becomes graver by it.
    let told = [("app", 0), ("batch", 120), ("cron", 240)].map(|(client, from)| burst_of(client, from));
    assert!(told.iter().all(|told| *told > 0), "{told:?}");
}

#[test]
fn what_a_person_approved_of_may_grow_and_what_is_new_is_told() {
    let mut engine = usual();
    let scan = |number: u64| {
        let path = format!("/admin/{number}");
        Event { path, status: 404, ..request("github", "app", NOW + number / 10) }
    };
    let first = (0..).find(|number| !engine.observe(&scan(*number)).is_empty()).expect("it is told");
    engine.approve("github", "app", scan(first).time);
    for number in first + 1..1000 {
        assert_eq!(engine.observe(&scan(number)), [], "{number}");
    }
    let delete = Event { method: "DELETE".to_owned(), ..scan(1000) };
    assert_eq!(engine.observe(&delete)[0].signal(), Signal::NewMethod);
    // It goes on for longer than anybody has approved of.
    let told = (0..).map(|minute| scan(1000 + minute * 600)).find(|event| !engine.observe(event).is_empty());
    assert!(told.is_some_and(|event| event.time.seconds() > MONDAY + NOW + HOUR));
}

#[test]
fn an_hour_has_so_many_figures_and_no_more() {
    let mut open = Open { since: 0, severity: Severity::Low, findings: Vec::new() };
    for number in 0..MOST_FIGURES * 2 {
        let figure = Finding::new(Signal::Burst, 1.0 + number as f64 / 100.0, "said".to_owned());
        assert!(open.add(std::iter::once(Finding { client: format!("client-{number}"), ..figure })), "{number}");
    }
    assert_eq!(open.findings.len(), MOST_FIGURES);
    assert!(open.findings.iter().all(|finding| finding.client != "client-0"), "the weakest made room");
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

/// When a burst of one token is told of, a tenth of a second a request, after so many answers of one status to these.
fn burst_after(tokens: &[&str], status: u16, seconds: u64) -> Option<u64> {
    let mut engine = usual();
    for second in 0..seconds {
        for token in tokens {
            engine.observe(&Event { status, ..request(token, "app", NOW + second) });
        }
    }
    (0..1200).find(|tenth| {
        let told = engine.observe(&request("github", "app", NOW + 60 + tenth / 10));
        told.iter().any(|anomaly| anomaly.signal() == Signal::Burst)
    })
}

#[test]
fn whoever_provokes_failures_of_a_host_does_not_hide_behind_them() {
    let usually = burst_after(&["other"], 200, 5);
    assert!(usually.is_some_and(|tenth| tenth < 200), "{usually:?}");
    for (token, status, seconds) in [("github", 500, 5), ("github", 503, 40), ("other", 503, 40), ("github", 401, 5)] {
        let told = burst_after(&[token], status, seconds);
        assert!(told.is_some_and(|tenth| tenth < 100), "{token} {status}: {told:?}");
    }
    let of_many = burst_after(&["github", "other"], 503, 5);
    assert!(of_many.is_some_and(|tenth| tenth < 600) && of_many > usually, "{of_many:?}");
}

#[test]
fn what_is_never_answered_is_asked_nevertheless() {
    for status in [0, 429, 500] {
        let mut engine = usual();
        let told = (0..600).find(|second| {
            let told = engine.observe(&Event { status, ..request("github", "app", NOW + second) });
            !told.is_empty()
        });
        assert!(told.is_some_and(|second| status != 0 || second < 20), "{status}: {told:?}");
    }
}

#[test]
fn what_policy_says_no_to_is_told_of_whoever_asks_for_it() {
    let mut engine = usual();
    let denied = |second| Event {
        status: 403,
        reason: "path_denied".to_owned(),
        path: String::new(),
        ..request("github", "app", NOW + second)
    };
    let told: Vec<Anomaly> = (0..30).flat_map(|second| engine.observe(&denied(second))).collect();
    assert_eq!(told.first().map(Anomaly::signal), Some(Signal::Errors), "{told:?}");
    let write = Event { method: "DELETE".to_owned(), reason: "method_denied".to_owned(), ..denied(40) };
    let told = engine.observe(&write);
    let signals: Vec<Signal> = told.iter().flat_map(|told| &told.findings).map(|finding| finding.signal).collect();
    assert!(signals.contains(&Signal::NewMethod), "{told:?}");
}

#[test]
fn what_no_client_does_much_of_shows_in_what_all_do_together() {
    let mut engine = Engine::default();
    let client = |number: u64| format!("client-{}", number % 10);
    for turn in 0..10 * 24 * 60 {
        let path = format!("/kind/{}", turn % 7);
        let event = Event { path, ..request("github", &client(turn), turn * 60) };
        assert_eq!(engine.observe(&event), [], "at {turn}");
    }
    let told: Vec<Anomaly> = (0..300)
        .flat_map(|turn| {
            let path = format!("/users/{turn}");
            engine.observe(&Event { path, ..request("github", &client(turn), NOW + turn * 6) })
        })
        .collect();
    assert!(told.iter().any(|anomaly| anomaly.signal() == Signal::FanOut), "{told:?}");
    let now = told[told.len() - 1].time;
    assert!(engine.goes_on("github", "", now), "it is nobody's by itself");
    assert!((0..10).all(|number| !engine.goes_on("github", &client(number), now)));
}

#[test]
fn a_stranger_is_judged_by_the_past_of_the_token() {
    let mut engine = usual();
    let told: Vec<Anomaly> = (0..600)
        .flat_map(|turn| {
            let path = format!("/users/{turn}");
            engine.observe(&Event { path, ..request("github", "stranger", NOW + turn / 10) })
        })
        .collect();
    let last = &told[told.len() - 1];
    let signals: Vec<Signal> = last.findings.iter().map(|finding| finding.signal).collect();
    assert!([Signal::NewClient, Signal::Burst, Signal::FanOut].iter().all(|signal| signals.contains(signal)));
    assert!(last.findings.iter().all(|finding| finding.client == "stranger"), "{last:?}");
    assert_eq!(last.severity, Severity::Critical);
    let first = engine.observe(&Event { method: "DELETE".to_owned(), ..request("github", "stranger", NOW + 70) });
    assert_eq!(first.len(), 1, "the token never deleted anything: {first:?}");
}

#[test]
fn more_clients_of_a_token_are_told_and_are_not_critical() {
    let mut engine = usual();
    for number in 0..10 {
        let told = engine.observe(&request("github", &format!("pod-{number}"), NOW + number * 600));
        assert!(told.iter().all(|anomaly| anomaly.severity <= Severity::High), "{told:?}");
        assert_eq!(told.len(), 1);
    }
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

/// What has come of a download that goes on, in each ten seconds.
fn piece(client: &str, seconds: u64, bytes: u64) -> Event {
    let event = Some(Step::UnderWay);
    Event { event, status: 0, response_bytes: bytes, ..request("github", client, seconds) }
}

#[test]
fn a_download_that_goes_on_is_told_before_its_end_and_is_one_request() {
    let mut engine = usual();
    let told = (1..1000).find_map(|turn| {
        let told = engine.observe(&piece("app", NOW + turn * 10, 5_000));
        told.first().map(|anomaly| (anomaly.signal(), anomaly.said(), turn))
    });
    let (signal, said, turn) = told.expect("it is told while it goes on");
    assert_eq!(signal, Signal::Volume, "{said}");
    assert!(turn <= 6, "within a minute: {turn}");
    let end = Event { response_bytes: 10, ..request("github", "app", NOW + 10_000) };
    engine.observe(&end);
    let delete = Event { method: "DELETE".to_owned(), ..request("github", "app", NOW + 10_001) };
    let told = engine.observe(&delete);
    assert!(told.iter().any(|anomaly| anomaly.said().contains("first DELETE in 2881 requests")), "{told:?}");
}

#[test]
fn whoever_takes_a_token_for_one_long_exchange_is_told_at_its_first_piece() {
    let mut engine = usual();
    let told = engine.observe(&piece("stranger", NOW, 10));
    assert_eq!(told.first().map(Anomaly::signal), Some(Signal::NewClient));
    assert_eq!(engine.observe(&piece("stranger", NOW + 10, 10)), []);
    assert_eq!(engine.observe(&request("github", "stranger", NOW + 20)), []);
}

#[test]
fn long_downloads_are_usual_to_whoever_always_makes_them() {
    let mut engine = Engine::default();
    for hour in 0..12 * 24 {
        let from = hour * 3600;
        for turn in 1..30 {
            assert_eq!(engine.observe(&piece("app", from + turn * 10, 1_000_000)), [], "hour {hour}");
        }
        assert_eq!(engine.observe(&request("github", "app", from + 300)), []);
    }
}
