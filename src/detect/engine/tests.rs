//! What the whole says of tokens, clients and hosts.

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
fn a_client_that_made_room_is_not_new_when_it_comes_back() {
    let mut engine = usual();
    let client = |number: u64| format!("client-{number}");
    for number in 0..1200 {
        engine.observe(&request("github", &client(number), NOW + number));
    }
    let mut restored = Engine::default();
    for (name, page) in engine.pages(0, 10) {
        restored.restore(&name, &page);
    }
    assert!(restored.tokens["github"].clients.len() < 1200, "not all of them are kept");
    for number in 0..1200 {
        let told = restored.observe(&request("github", &client(number), NOW + DAY + number));
        assert!(told.iter().all(|anomaly| anomaly.signal() != Signal::NewClient), "{number}: {told:?}");
    }
}

#[test]
fn a_clock_that_was_ahead_blinds_no_token() {
    for seconds_ahead in [2 * HOUR, 2 * DAY, 300 * DAY] {
        let mut engine = usual();
        let told = engine.observe(&request("github", "app", NOW + seconds_ahead));
        assert_eq!(told, [], "{seconds_ahead}");
        assert_eq!(engine.observe(&request("github", "app", NOW + 300)), []);
        let burst = (0..60).find(|second| {
            let told = engine.observe(&request("github", "app", NOW + 600 + second));
            told.iter().any(|anomaly| anomaly.signal() == Signal::Burst)
        });
        assert!(burst.is_some(), "{seconds_ahead}");
    }
}

/// An anomaly that is open, of a client that goes on with it.
fn told_once() -> Engine {
    let mut engine = usual();
    let delete = Event { method: "DELETE".to_owned(), ..request("github", "app", NOW) };
    assert_eq!(engine.observe(&delete).len(), 1);
    engine
}

#[test]
fn a_long_request_is_judged_while_it_was_under_way_and_turns_no_clock_back() {
    let mut engine = told_once();
    engine.observe(&request("github", "app", NOW + 60));
    let duration = Duration::from_secs(5 * HOUR);
    let long = Event { duration, ..request("github", "app", NOW + 60 - 5 * HOUR) };
    assert_eq!(engine.observe(&long), []);
    assert!(engine.is_open("github", request("", "", NOW + 61).time), "what was told still goes on");
    let again = Event { method: "DELETE".to_owned(), ..request("github", "app", NOW + 62) };
    assert_eq!(engine.observe(&again), [], "it was told");
    // A log in the order in which requests began.
    let began = Event { duration, ..request("github", "app", NOW + 63) };
    assert_eq!(engine.observe(&began), []);
    assert_eq!(engine.latest, began.time, "nobody knows yet when it ends");
}

#[test]
fn what_comes_a_second_late_belongs_to_the_anomaly_that_was_told() {
    let mut engine = told_once();
    let late = Event { method: "DELETE".to_owned(), ..request("github", "app", NOW - 1) };
    assert_eq!(engine.observe(&late), []);
    let place = Event { host: "other.example.com".to_owned(), ..request("github", "app", NOW - 2) };
    let told = engine.observe(&place);
    assert_eq!(told[0].findings.len(), 2, "both are one: {told:?}");
}

#[test]
fn what_is_over_is_not_told_again_with_what_begins() {
    let mut engine = usual();
    assert_eq!(engine.observe(&request("github", "stranger", NOW))[0].client, "stranger");
    for minute in 0..150 {
        engine.observe(&Event { method: "DELETE".to_owned(), ..request("github", "app", NOW + 1 + minute * 60) });
    }
    let place = Event { host: "other.example.com".to_owned(), ..request("github", "app", NOW + 150 * 60) };
    let told = engine.observe(&place);
    assert!(told[0].findings.len() > 1 && told[0].findings.iter().all(|finding| finding.client == "app"), "{told:?}");
}

#[test]
fn a_silence_goes_on_until_it_is_broken_also_over_a_restart() {
    let mut engine = usual();
    let at = |seconds: u64| request("", "", NOW + seconds).time;
    let mut told = 0;
    for hour in 0..72 {
        // Nobody looks at the same second of each hour.
        let now = at(hour * HOUR + hour * 37 % 300);
        told += engine.pass(now).len();
        assert!(told == 0 || engine.goes_on("github", "app", now), "{hour}");
        let mut restored = Engine::default();
        for (name, page) in engine.pages(0, 10) {
            restored.restore(&name, &page).expect("it was kept");
            restored.latest = now;
            assert_eq!(restored.goes_on(&name, "app", now), engine.goes_on(&name, "app", now), "{hour}");
        }
        engine.not_kept(["github".to_owned(), "other".to_owned()].into_iter());
    }
    assert_eq!(told, 2, "each token once");
    engine.observe(&request("github", "app", NOW + 72 * HOUR));
    engine.pass(at(74 * HOUR));
    assert!(!engine.goes_on("github", "app", at(74 * HOUR)));
}

#[test]
fn what_is_taken_up_has_the_bound_of_what_is_learned() {
    let mut engine = Engine::default();
    for number in 0..500 {
        engine.observe(&request("github", &format!("client-{number}"), number));
    }
    let (_, page) = engine.pages(0, 1).remove(0);
    let mut restored = Engine::default();
    for number in 0..2 * MOST_PROFILES / 500 {
        restored.restore(&format!("token-{number}"), &page).expect("it was kept");
        assert!(restored.profiles < MOST_PROFILES, "{}", restored.profiles);
    }
    let profiles: usize = restored.tokens.values().map(|token| token.clients.len()).sum();
    assert_eq!(profiles, restored.profiles);
}

#[test]
fn a_rest_is_told_of_when_its_end_is_borne_out_or_nothing_is_left_to_bear_it_out() {
    let wakes = |mut engine: Engine, after: Option<u64>| {
        let mut told = engine.observe(&request("github", "app", NOW + 30 * DAY));
        assert_eq!(told, []);
        told.extend(match after {
            Some(seconds) => engine.observe(&request("other", "app", NOW + 30 * DAY + seconds)),
            None => engine.end(),
        });
        let dormant = told.iter().find(|anomaly| anomaly.signal() == Signal::Dormant);
        dormant.map(|anomaly| anomaly.time.seconds())
    };
    assert_eq!(wakes(usual(), Some(1)), Some(MONDAY + NOW + 30 * DAY));
    assert_eq!(wakes(usual(), None), Some(MONDAY + NOW + 30 * DAY));
    let mut engine = usual();
    engine.observe(&request("github", "app", NOW + 30 * DAY));
    let told = engine.pass(request("", "", NOW + 30 * DAY + 1).time);
    assert!(told.iter().any(|anomaly| anomaly.signal() == Signal::Dormant), "{told:?}");
}

#[test]
fn one_cause_is_told_once_while_it_goes_on_and_again_the_next_day() {
    let mut engine = usual();
    let mut told = Vec::new();
    for minute in 0..26 * 60 {
        for second in 0..10 {
            told.extend(engine.observe(&request("github", "app", NOW + minute * 60 + second)));
        }
    }
    told.retain(|anomaly| anomaly.token == "github");
    assert!((1..=4).contains(&told.len()), "{}: {told:?}", told.len());
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
    for number in 0..MOST_SHADOWS as u64 + 50 {
        let shadow = request("token-100", &format!("client-{number}"), 12_000 + number);
        assert_eq!(engine.observe(&Event { event: Some(Step::Shadow), ..shadow }).is_empty(), number >= 16);
    }
    assert!(engine.tokens["token-100"].shadows.len() <= MOST_SHADOWS);
}

#[test]
fn what_was_kept_is_taken_up_and_goes_on_as_if_nothing_had_been() {
    let mut engine = usual();
    let mut restored = Engine::default();
    for (name, page) in engine.pages(0, 10) {
        assert_eq!(restored.restore(&name, &page), Some(MONDAY + 10 * DAY - 300));
    }
    assert_eq!((restored.tokens.len(), restored.profiles), (2, 2));
    assert_eq!(engine.pages(0, 10), [], "nothing has changed since");
    for second in 0..300 {
        for (client, status) in [("app", 404), ("stranger", 200)] {
            let path = format!("/admin/{second}");
            let event = Event { path, status, ..request("github", client, NOW + second) };
            assert_eq!(engine.observe(&event), restored.observe(&event), "{second}");
        }
    }
    assert!(restored.tokens["github"].open.is_some(), "there was something to tell");
}

#[test]
fn what_is_told_and_goes_on_does_so_over_a_restart_until_a_person_says_otherwise() {
    let mut engine = usual();
    let restarted = |engine: &mut Engine| {
        let mut restored = Engine::default();
        for (name, page) in engine.pages(0, 10) {
            restored.restore(&name, &page).expect("it was kept");
        }
        restored
    };
    let at = |seconds: u64| Time(Duration::from_secs(MONDAY + NOW + seconds));
    let delete = |seconds| Event { method: "DELETE".to_owned(), ..request("github", "app", NOW + seconds) };
    let shadow = |seconds| Event { event: Some(Step::Shadow), ..request("github", "app", NOW + seconds) };
    assert_eq!((engine.observe(&delete(0)).len(), engine.observe(&shadow(1)).len()), (1, 1));
    for hour in 1..4 {
        engine = restarted(&mut engine);
        let times = [hour * HOUR - 60, hour * HOUR];
        assert_eq!((engine.observe(&delete(times[0])), engine.observe(&shadow(times[1]))), (vec![], vec![]), "{hour}");
        assert!(engine.goes_on("github", "app", at(times[1])), "{hour}");
    }
    assert!(!restarted(&mut engine).goes_on("github", "app", at(4 * HOUR)), "nothing more is seen of it");
    engine.observe(&delete(4 * HOUR - 1));
    engine.close("github");
    let mut engine = restarted(&mut engine);
    assert!(!engine.goes_on("github", "app", at(4 * HOUR)), "somebody has said that it may be");
    assert_eq!(engine.pages(0, 10), []);
}

#[test]
fn a_record_has_a_bound_whatever_is_told() {
    let mut engine = Engine::default();
    let name = |number: u64| format!("{number:0>64}");
    for number in 0..2000 {
        let mut event = request("github", &name(number), number);
        event.host = format!("{number:0>250}");
        engine.observe(&event);
        engine.observe(&Event { event: Some(Step::Shadow), ..event });
    }
    let token = engine.tokens.get_mut("github").expect("a token");
    for number in 0..2000 {
        let mut event = request("github", &name(number), 3000);
        for host in 0..10 {
            event.host = format!("{host:0>250}");
            let place = Finding::fact(Signal::NewPlace, 2.5, format!("first request to {}", event.host));
            let place = Finding { client: event.client.clone(), ..place };
            token.tell(event.time, "github", &event, vec![place]);
        }
    }
    let bytes = token.page().len();
    assert!(bytes < 1024 * 1024, "{bytes}");
    println!("{bytes} bytes at the most");
}

#[test]
fn a_token_is_kept_once_a_minute_and_so_many_at_once() {
    let mut engine = Engine::default();
    let names = |pages: Vec<(String, Vec<u8>)>| pages.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    for token in ["a", "b", "c"] {
        engine.observe(&request(token, "app", 0));
    }
    assert_eq!(names(engine.pages(60, 2)), [""; 0]);
    engine.pass(request("a", "app", 60).time);
    assert_eq!(names(engine.pages(60, 2)), ["a", "b"]);
    assert_eq!(names(engine.pages(60, 2)), ["c"]);
    engine.observe(&request("a", "app", 61));
    assert_eq!(names(engine.pages(60, 2)), [""; 0]);
    engine.not_kept(["b".to_owned()].into_iter());
    assert_eq!(names(engine.pages(0, 2)), ["a", "b"]);
}

#[test]
fn what_nobody_kept_is_not_taken_up() {
    let (name, page) = usual().pages(0, 1).remove(0);
    let mut engine = Engine::default();
    for wrong in [&page[..page.len() - 1], &[&page[..], &[0]].concat(), &[&[VERSION + 1], &page[1..]].concat(), &[]] {
        assert_eq!(engine.restore(&name, wrong), None);
    }
    assert_eq!((engine.tokens.len(), engine.profiles), (0, 0));
}

#[test]
fn ten_thousand_clients_of_tokens_take_less_than_two_kib_each_at_rest() {
    let mut engine = Engine::default();
    for number in 0..10_000 {
        engine.observe(&request(&format!("token-{}", number % 100), &format!("client-{}", number / 100), number));
    }
    let bytes: usize = engine.pages(0, 100).iter().map(|(_, page)| page.len()).sum();
    println!("{bytes} bytes for 10,000 clients of tokens");
    assert!(bytes < 2048 * 10_000, "{bytes}");
}
