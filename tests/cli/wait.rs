//! `wait`

use std::process::Stdio;

use crate::support::Place;

#[test]
fn it_returns_when_the_proxy_becomes_ready() {
    let place = Place::new("");
    let _proxy = place.start();
    let waiting = place.command(&["wait"]).stderr(Stdio::piped()).spawn().expect("the program runs");
    place.write("token", "the-token");
    let ended = waiting.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(ended.stderr.is_empty());
}

#[test]
fn it_says_what_is_missing_when_time_is_up() {
    let place = Place::new("");
    let _proxy = place.start();
    let said = place.run(&["wait", "--timeout", "200ms"]).failed(1);
    assert!(said.contains("is not ready:\n  token api not yet\n"), "{said}");
    let address = place.telemetry.to_string();
    let said = Place::empty().run(&["wait", "--timeout", "200ms", "--telemetry", &address]).failed(1);
    assert!(said.contains("token api not yet"), "without a config, {said}");
}

#[test]
fn where_nobody_listens_it_is_not_reachable() {
    let place = Place::new("");
    let said = place.run(&["wait", "--timeout", "100ms"]).failed(69);
    assert!(said.contains(&format!("cannot be reached at {}: ", place.telemetry)), "{said}");
}

#[test]
fn a_timeout_without_a_unit_is_a_usage_error() {
    let said = Place::new("").run(&["wait", "--timeout", "30"]).failed(64);
    assert!(said.contains("as in 250ms, 30s or 5m"), "{said}");
}

#[test]
fn without_a_config_there_is_nobody_to_wait_for() {
    let said = Place::empty().run(&["wait"]).failed(78);
    assert!(said.contains("the file is not there"), "{said}");
}
