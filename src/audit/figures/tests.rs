//! Incidents as the trail tells them, and how long they took.

use serde_json::{Value, json};

use super::*;
use crate::audit::AccessCounts;

const START: u64 = 1_700_000_000;

fn time(second: u64) -> String {
    crate::audit::time_text(Duration::from_secs(START + second))
}

/// What is measured of these records, each at its second.
fn figures(records: &[(u64, Value)]) -> Vec<(Figure, u64)> {
    let mut figures = Figures::default();
    let mut measured = Vec::new();
    for (seq, (second, event)) in records.iter().enumerate() {
        let mut record = json!({ "v": 1, "seq": seq, "time": time(*second) });
        record.as_object_mut().expect("an object").extend(event.as_object().expect("an object").clone());
        measured.extend(figures.see(&Told::read(record.to_string().as_bytes()).expect("one of those that are read")));
    }
    measured.into_iter().map(|measured| (measured.figure, measured.took.as_secs())).collect()
}

fn requested() -> Value {
    json!({ "event": "token_requested", "request": "00", "token": "api" })
}

fn granted() -> Value {
    json!({ "event": "access_granted", "request": "00", "token": "api" })
}

fn issued(fingerprint: &str, expires: u64) -> Value {
    json!({ "event": "token_issued", "token": "api", "generation": 1, "fingerprint": fingerprint, "expires": time(expires) })
}

fn rotated(fingerprint: &str, cause: &str, expires: u64) -> Value {
    json!({ "event": "token_rotated", "token": "api", "generation": 2, "fingerprint": fingerprint, "cause": cause, "expires": time(expires) })
}

fn void(fingerprint: &str) -> Value {
    json!({ "event": "generation_revoked", "token": "api", "fingerprint": fingerprint, "outcome": "success" })
}

fn drill_started() -> Value {
    json!({ "event": "drill_started", "token": "api", "generation": 1 })
}

fn of(event: &str) -> Value {
    json!({ "event": event, "token": "api" })
}

#[test]
fn provisioning_is_measured_stage_by_stage_and_once() {
    let records = [
        (0, requested()),
        (60, granted()),
        (63, issued("a", 4000)),
        (70, of("token_first_used")),
        (500, rotated("b", "due", 5000)),
        (600, of("token_first_used")),
    ];
    assert_eq!(figures(&records), [(Figure::Decision, 60), (Figure::Generation, 3), (Figure::Use, 7)]);
}

#[test]
fn what_stricter_rules_judge_again_was_asked_before() {
    assert_eq!(figures(&[(0, requested()), (30, requested()), (60, granted())]), [(Figure::Decision, 60)]);
}

#[test]
fn a_grant_on_top_of_a_token_in_use_is_no_provisioning() {
    let records = [(0, issued("a", 4000)), (10, requested()), (15, granted()), (900, rotated("b", "due", 8000))];
    assert_eq!(figures(&records), [(Figure::Decision, 5)]);
}

#[test]
fn what_was_revoked_is_replaced_when_its_new_generation_is_there() {
    let revoked = json!({ "event": "token_revoked", "token": "api", "since": time(40) });
    let records = [
        (0, issued("a", 4000)),
        (100, revoked),
        (103, void("a")),
        (160, of("token_released")),
        (162, rotated("b", "due", 5000)),
    ];
    assert_eq!(figures(&records), [(Figure::Detect, 60), (Figure::Lifetime, 103), (Figure::Replace, 62)]);
}

#[test]
fn a_generation_that_its_issuer_prolongs_lives_until_it_ends_then() {
    let prolonged = json!({ "event": "token_prolonged", "token": "api", "expires": time(9000) });
    let records = [(0, issued("a", 4000)), (3000, prolonged), (5000, of("token_first_used")), (8000, void("a"))];
    assert_eq!(figures(&records), [(Figure::Lifetime, 8000)]);
}

#[test]
fn a_drill_replaces_what_a_roll_back_has_brought_back() {
    let rolled_back = json!({
        "event": "token_rolled_back", "token": "api", "generation": 3, "fingerprint": "a", "expires": time(4000),
    });
    let records = [
        (0, issued("a", 4000)),
        (100, rotated("b", "due", 5000)),
        (110, rolled_back),
        (111, void("b")),
        (200, json!({ "event": "drill_started", "token": "api", "generation": 3 })),
        (205, void("a")),
    ];
    let expected = [(Figure::Lifetime, 11), (Figure::Replace, 5), (Figure::Lifetime, 205)];
    assert_eq!(figures(&records), expected);
}

#[test]
fn what_was_quarantined_and_goes_on_was_not_replaced() {
    let quarantined = json!({ "event": "token_quarantined", "token": "api" });
    let goes_on = [
        (0, issued("a", 4000)),
        (100, quarantined.clone()),
        (200, of("token_released")),
        (900, rotated("b", "due", 8000)),
    ];
    assert_eq!(figures(&goes_on), []);
    let ran_out = [
        (0, issued("a", 150)),
        (100, quarantined.clone()),
        (200, of("token_released")),
        (201, rotated("b", "due", 8000)),
    ];
    assert_eq!(figures(&ran_out), [(Figure::Lifetime, 150), (Figure::Replace, 101)]);
    let restarted = [
        (0, issued("a", 4000)),
        (100, quarantined.clone()),
        (110, json!({ "event": "start" })),
        (200, of("token_released")),
        (203, issued("b", 8000)),
    ];
    assert_eq!(figures(&restarted), [(Figure::Replace, 103)]);
    let made_worse = [
        (0, issued("a", 4000)),
        (100, quarantined),
        (130, json!({ "event": "token_revoked", "token": "api" })),
        (200, of("token_released")),
        (203, rotated("b", "due", 8000)),
    ];
    assert_eq!(figures(&made_worse), [(Figure::Replace, 103)], "from when it was taken out of use");
}

#[test]
fn in_a_drill_the_clock_runs_until_the_replaced_generation_is_void() {
    let records = [
        (0, issued("a", 4000)),
        (100, drill_started()),
        (101, rotated("b", "asked", 5000)),
        (104, void("a")),
        (900, void("b")),
    ];
    assert_eq!(figures(&records), [(Figure::Replace, 4), (Figure::Lifetime, 104), (Figure::Lifetime, 799)]);
}

#[test]
fn a_drill_that_replaced_nothing_measures_nothing_afterwards() {
    let finished = json!({ "event": "drill_finished", "token": "api", "replaced": 1, "complete": false });
    let the_issuer_gave_nothing = [
        (0, issued("a", 9000)),
        (100, drill_started()),
        (101, finished),
        (3700, rotated("b", "due", 9000)),
        (3730, void("a")),
    ];
    assert_eq!(figures(&the_issuer_gave_nothing), [(Figure::Lifetime, 3730)]);
    let cut_off = [
        (0, issued("a", 9000)),
        (100, drill_started()),
        (110, json!({ "event": "start" })),
        (111, issued("a", 9000)),
        (3700, rotated("b", "due", 9000)),
        (3730, void("a")),
    ];
    assert_eq!(figures(&cut_off), [(Figure::Lifetime, 3730)]);
}

#[test]
fn after_a_restart_generations_are_counted_anew_and_a_drill_is_of_its_own_one() {
    let start = || json!({ "event": "start" });
    let another_number_one = [
        (0, issued("a", 9000)),
        (100, drill_started()),
        (101, rotated("b", "asked", 9000)),
        (110, start()),
        (111, issued("c", 9000)),
        (200, rotated("d", "due", 9000)),
        (230, void("c")),
    ];
    assert_eq!(figures(&another_number_one), [(Figure::Lifetime, 119)]);
    let told_on = [
        (0, issued("a", 9000)),
        (100, drill_started()),
        (101, rotated("b", "asked", 9000)),
        (110, start()),
        (130, void("a")),
    ];
    assert_eq!(figures(&told_on), [(Figure::Replace, 30), (Figure::Lifetime, 130)], "its issuer was told after it");
}

#[test]
fn a_generation_lives_until_it_is_void_or_has_run_out() {
    let replaced = [(0, issued("a", 300)), (210, rotated("b", "due", 510)), (240, of("token_retired"))];
    assert_eq!(figures(&replaced), [(Figure::Lifetime, 30)], "the first one may still be used where it was issued");
    let later = [(0, issued("a", 300)), (210, rotated("b", "due", 510)), (700, granted())];
    assert_eq!(figures(&later), [(Figure::Lifetime, 300), (Figure::Lifetime, 300)]);
    let found_again =
        [(0, issued("a", 9000)), (50, json!({ "event": "start" })), (60, issued("a", 9000)), (80, void("a"))];
    assert_eq!(figures(&found_again), [(Figure::Lifetime, 80)], "it is the same value");
    let taken_away = [(0, issued("a", 9000)), (50, rotated("b", "changed", 9000))];
    assert_eq!(figures(&taken_away), [(Figure::Lifetime, 50)], "by whoever changed it");
}

#[test]
fn how_tokens_stood_is_what_was_last_told_of_each_week() {
    let day = 86_400;
    let counts = |active| AccessCounts { active, least_privilege: 1, unused: 2, long_lived: 3 };
    let mut reading = Reading::default();
    for (seq, (at, active)) in [(0, 4), (day, 5), (2 * day, 6), (8 * day, 7)].into_iter().enumerate() {
        let time = crate::audit::time_text(Duration::from_secs(START + at));
        let record = json!({
            "seq": seq, "time": time, "event": "access_measured",
            "active": active, "least_privilege": 1, "unused": 2, "long_lived": 3,
        });
        reading.see(serde_json::from_value(record).expect("a record of figures"));
    }
    let not_done = json!({ "seq": 4, "time": "2023-11-20T00:00:00Z", "event": "not_done", "of": 2 });
    reading.see(serde_json::from_value(not_done).expect("a record of figures"));
    let (_, weeks) = reading.finish();
    let trend = [("2023-11-13".to_owned(), counts(5)), ("2023-11-20".to_owned(), counts(7))];
    assert_eq!((weeks.trend(), weeks.list()), (trend.to_vec(), Vec::new()));
}

#[test]
fn each_week_has_its_figures_and_the_oldest_are_let_go() {
    let (day, seconds) = (86_400, Duration::from_secs);
    let replaced =
        |at: u64, took: u64| Measured { figure: Figure::Replace, at: seconds(START + at), took: seconds(took) };
    let mut weeks = Weeks::default();
    weeks.add(&[replaced(0, 10), replaced(day, 30), replaced(2 * day, 20), replaced(9 * day, 4)]);
    let week = |begins: &str, count: u32, mean: u64, worst: u64| Week {
        figure: "time_to_replace",
        begins: begins.to_owned(),
        count,
        mean: seconds(mean),
        worst: seconds(worst),
    };
    // The first moment is a Tuesday.
    assert_eq!(weeks.list(), [week("2023-11-13", 3, 20, 30), week("2023-11-20", 1, 4, 4)]);
    for number in 2..100 {
        weeks.add(&[replaced(7 * number * day, number)]);
    }
    let list = weeks.list();
    assert_eq!((list.len(), list[0].worst, list[12].worst), (13, seconds(87), seconds(99)));
}
