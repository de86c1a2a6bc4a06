//! What a profile takes for unusual, and the room it takes.

use std::time::Duration;

use super::*;
use crate::detect::event::Time;
use crate::detect::response::Sensitivity;

/// A Monday, midnight.
const MONDAY: u64 = 1_788_739_200;

fn request(seconds: u64) -> Event {
    Event {
        time: Time(Duration::from_secs(MONDAY + seconds)),
        token: "github".to_owned(),
        event: None,
        client: "app".to_owned(),
        host: "api.github.com".to_owned(),
        method: "GET".to_owned(),
        path: "/repos/team/app".to_owned(),
        status: 200,
        request_bytes: 0,
        response_bytes: 1000,
        ..Event::default()
    }
}

impl Profile {
    /// All that is unusual about a request that comes alone.
    fn judge(&mut self, event: &Event, surroundings: Surroundings) -> Vec<Finding> {
        let mut found = self.observe(event, event.time.seconds(), surroundings);
        found.extend(self.weigh(surroundings.caution));
        found
    }
}

/// A request every five minutes for so many days, all of them usual.
fn polled(days: u64) -> Profile {
    let mut profile = Profile::new(MONDAY);
    for turn in 0..days * 288 {
        let found = profile.judge(&request(turn * 300), Surroundings::default());
        assert_eq!(found, [], "at {turn}");
    }
    profile
}

fn signals(found: &[Finding]) -> Vec<Signal> {
    found.iter().map(|finding| finding.signal).collect()
}

#[test]
fn a_profile_takes_less_than_two_kib() {
    assert!(size_of::<Profile>() < 2048, "{}", size_of::<Profile>());
}

#[test]
fn the_first_write_of_a_reader_is_told_once() {
    let mut profile = polled(10);
    let write = |seconds| Event { method: "DELETE".to_owned(), ..request(10 * DAY + seconds) };
    let found = profile.judge(&write(0), Surroundings::default());
    assert_eq!(signals(&found), [Signal::NewMethod]);
    assert_eq!(found[0].said, "first DELETE in 2880 requests");
    assert_eq!(profile.judge(&write(60), Surroundings::default()), []);
}

#[test]
fn a_fact_is_told_also_after_another_of_its_signal() {
    let mut profile = polled(10);
    let mut said = |method: &str, host: &str, seconds| -> Vec<String> {
        let (method, host) = (method.to_owned(), host.to_owned());
        let event = Event { method, host, ..request(10 * DAY + seconds) };
        profile.judge(&event, Surroundings::default()).into_iter().map(|finding| finding.said).collect()
    };
    assert_eq!(said("POST", "api.github.com", 0), ["first POST in 2880 requests"]);
    assert_eq!(said("DELETE", "api.github.com", 1), ["first DELETE in 2881 requests"]);
    assert_eq!(said("GET", "one.example.com", 2), ["first request to one.example.com"]);
    assert_eq!(said("GET", "other.example.com", 3), ["first request to other.example.com"]);
    assert_eq!(said("DELETE", "other.example.com", 4), [""; 0]);
}

#[test]
fn a_burst_is_told_within_its_first_minute_and_later_while_the_host_fails() {
    let burst = |surroundings| {
        let mut profile = polled(10);
        (0..60).find(|second| !profile.judge(&request(10 * DAY + second), surroundings).is_empty())
    };
    let (usually, in_trouble) =
        (burst(Surroundings::default()), burst(Surroundings { trouble: Trouble::OfMany, ..Surroundings::default() }));
    assert!(usually.is_some_and(|seconds| seconds < 30), "{usually:?}");
    assert!(in_trouble > usually, "{in_trouble:?}");
}

#[test]
fn what_was_approved_is_told_after_its_time_though_others_were_heard_to_do_it_all_along() {
    let mut profile = polled(10);
    let burst = |excess| [Finding::new(Signal::Burst, excess, "many".to_owned())];
    profile.approve_told(profile.last);
    for day in 10..14 {
        profile.judge(&request(day * DAY), Surroundings::default());
        profile.heard(&burst(8.0));
    }
    let now = profile.last;
    assert!(!profile.tells(now, &burst(8.5)[0]), "another one has just been told of it");
    assert!(profile.tells(now, &burst(11.0)[0]));
}

#[test]
fn how_soon_a_burst_is_told_is_for_people_to_say() {
    let burst = |sensitivity: Sensitivity| {
        let mut profile = polled(10);
        let surroundings = Surroundings { caution: sensitivity.caution(), ..Surroundings::default() };
        (0..60).find(|second| !profile.judge(&request(10 * DAY + second), surroundings).is_empty())
    };
    let [high, medium, low] = [Sensitivity::High, Sensitivity::Medium, Sensitivity::Low].map(burst);
    assert!(high.is_some() && high < medium && medium < low, "{high:?} {medium:?} {low:?}");
}

#[test]
fn a_token_that_wakes_after_weeks_is_told_with_how_long_it_rested() {
    let mut profile = polled(10);
    let found = profile.judge(&request(40 * DAY), Surroundings::default());
    assert!(signals(&found).contains(&Signal::Dormant), "{found:?}");
    assert!(found.iter().any(|finding| finding.said.starts_with("used after 30 days of rest")), "{found:?}");
}

#[test]
fn another_host_is_told_and_another_resource_of_a_known_kind_is_not() {
    let mut profile = polled(10);
    let known = Event { path: "/repos/team/app".to_owned(), ..request(10 * DAY) };
    assert_eq!(profile.judge(&known, Surroundings::default()), []);
    let elsewhere = Event { host: "uploads.github.com".to_owned(), ..request(10 * DAY + 1) };
    assert_eq!(signals(&profile.judge(&elsewhere, Surroundings::default())), [Signal::NewPlace]);
    let template = |path| template(Hash::default(), path).finish();
    assert_eq!(template("/users/4711/keys/7f3c2a9b"), template("/users/*/keys/*"));
    assert_ne!(template("/v2/users"), template("/*/users"));
}

#[test]
fn refusals_are_counted_against_the_usual_ones_and_not_while_the_host_refuses_everybody() {
    let refused = |seconds| Event { status: 401, ..request(10 * DAY + seconds) };
    let mut profile = polled(10);
    let told = (0..60).find(|second| {
        signals(&profile.judge(&refused(second * 5), Surroundings::default())).contains(&Signal::Errors)
    });
    assert!(told.is_some(), "an hour of refusals");
    let mut profile = polled(10);
    for second in 0..60 {
        assert_eq!(
            profile.judge(&refused(second * 5), Surroundings { trouble: Trouble::OfMany, ..Surroundings::default() }),
            []
        );
    }
}

#[test]
fn a_client_that_keeps_hours_is_told_outside_them_all_night() {
    let mut profile = Profile::new(MONDAY);
    let at = |day: u64, minute: u64| request(day * DAY + minute * 60);
    for day in (0..21).filter(|day| day % 7 < 5) {
        for minute in (9 * 60..17 * 60).step_by(5) {
            assert_eq!(profile.judge(&at(day, minute), Surroundings::default()), [], "day {day}");
        }
    }
    // An hour beside the usual ones is none of it; the middle of the night is.
    for minute in (17 * 60..18 * 60).step_by(10) {
        assert_eq!(profile.judge(&at(21, minute), Surroundings::default()), []);
    }
    let found: Vec<Finding> = (22 * 60..23 * 60)
        .step_by(10)
        .flat_map(|minute| profile.judge(&at(21, minute), Surroundings::default()))
        .collect();
    assert_eq!(signals(&found), [Signal::Hours]);
    assert_eq!(found[0].said, "never used on weekdays 22:00 before");
}

#[test]
fn whoever_raises_use_by_a_twentieth_a_day_is_taken_for_usual_and_by_a_half_is_not() {
    let told = |growth: f64| {
        let mut profile = Profile::new(MONDAY);
        let mut daily = 400.0;
        let mut told = false;
        for day in 0..16_u64 {
            let many = daily as u64;
            for turn in 0..many {
                told |= !profile.judge(&request(day * DAY + turn * DAY / many), Surroundings::default()).is_empty();
            }
            if day >= 9 {
                daily *= growth;
            }
        }
        told
    };
    assert!(!told(1.05));
    assert!(told(1.5));
}

#[test]
fn odd_events_do_no_harm() {
    let mut profile = polled(10);
    let odd = Event { response_bytes: u64::MAX, request_bytes: u64::MAX, status: 999, ..request(0) };
    for seconds in [0, 10 * DAY, 5, u64::from(u32::MAX)] {
        let event = Event { time: Time(Duration::from_secs(seconds)), path: "/".repeat(5000), ..odd.clone() };
        for finding in profile.judge(&event, Surroundings::default()) {
            assert!((0.5..=1.0).contains(&finding.score), "{finding:?}");
        }
    }
}
