//! When something is judged, what belongs together in time, and what its passing tells.

use super::*;

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
