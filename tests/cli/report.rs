//! `report`

use crate::support::Place;

#[test]
fn the_report_comes_in_the_form_that_is_asked_for() {
    let (place, _proxy) = Place::running("");
    let text = place.run(&["report"]).ok();
    assert!(text.starts_with("Access review, ") && text.contains("\napi (active, "), "{text}");
    let markdown = place.run(&["report", "--format", "md"]).ok();
    assert!(markdown.starts_with("# Access review, ") && markdown.contains("\n## api (active, "), "{markdown}");
    let html = place.run(&["report", "--format", "html"]).ok();
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"), "{html}");
    let json = place.run(&["report", "--format", "json"]).json();
    assert_eq!((&json["tokens"][0]["token"], &json["sums"]["active"]), (&"api".into(), &1.into()));
    assert!(!format!("{text}{markdown}{html}{json}").contains("the-token"));
}

#[test]
fn usage_is_given_out_in_lines() {
    let (place, _proxy) = Place::running("");
    let lines = place.run(&["usage", "export", "--since", "1h", "--token", "api"]).ok();
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&first["event"], &first["token"]), (&"issued".into(), &"api".into()), "{lines}");
    assert_eq!(place.run(&["usage", "export", "--since", "2099-01-01T00:00:00Z"]).ok(), "");
    let said = place.run(&["usage", "export", "--since", "yesterday"]).failed(64);
    assert!(said.contains("as in 2026-11-22T10:00:00Z, or 24h"), "{said}");
}

#[test]
fn a_review_is_said_with_a_reason() {
    let (place, _proxy) = Place::running("");
    let said = place.run(&["report", "--reviewed"]).failed(64);
    assert!(said.contains("--reason <TEXT>"), "{said}");
    let text = place.run(&["report", "--reviewed", "--reason", "nothing to tighten"]).ok();
    assert!(text.contains("last reviewed ") && text.contains(" by local: nothing to tighten; no schedule"), "{text}");
}
