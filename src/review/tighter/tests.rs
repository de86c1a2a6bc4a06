use proptest::prelude::*;

use super::*;
use crate::policy::rule::{Allow, Rule, Rules};
use crate::review::template::{Learned, Templates};

fn list(allow: Option<&[&str]>, done: &[(&str, &str, Option<&str>)]) -> Vec<String> {
    let allow: Option<Vec<String>> = allow.map(|rules| rules.iter().map(|rule| (*rule).to_owned()).collect());
    let done = done.iter().map(|(method, template, rule)| Done { method, template, rule: rule.map(RuleMark::of) });
    tighter(allow.as_deref(), done)
}

#[test]
fn what_is_proposed_is_what_rule_and_use_have_in_common() {
    for (rule, template, expected) in [
        ("GET /repos/**", "/repos/a/b", "GET /repos/a/b"),
        ("GET /repos/**", "/repos", "GET /repos"),
        ("GET /repos/**", "/repos/*/issues/**", "GET /repos/*/issues/**"),
        ("GET /repos/*/*/issues", "/repos/a/*/issues", "GET /repos/a/*/issues"),
        ("GET /repos/a/b", "/repos/*/b", "GET /repos/a/b"),
        ("GET /files/v*.json", "/files/*", "GET /files/v*.json"),
        ("GET /files/v*.json", "/files/v1.json", "GET /files/v1.json"),
        ("GET /a/*/c/*", "/a/b/**", "GET /a/b/c/*"),
        ("GET /caf%c3%a9", "/caf%C3%A9", "GET /caf%C3%A9"),
        ("* /a", "/a", "GET /a"),
        ("GET /a/**/z", "/a/b/z", "GET /a/**/z"),
    ] {
        assert_eq!(list(Some(&[rule]), &[("GET", template, Some(rule))]), [expected], "{rule} {template}");
    }
}

#[test]
fn where_anything_passes_what_was_used_is_proposed() {
    let used = [("GET", "/a/*", None), ("HEAD", "/a/*", None), ("GET", "/a/me", None), ("other", "/dav/*", None)];
    assert_eq!(list(None, &used), ["* /dav/*", "GET /a/*"], "each once, and none that another covers");
}

#[test]
fn a_rule_that_has_gone_is_asked_for_no_more() {
    let done = [("GET", "/a/1", Some("GET /a/**")), ("GET", "/b", Some("GET /b"))];
    assert_eq!(list(Some(&["GET /a/*"]), &done), ["GET /a/1"]);
}

#[derive(Default)]
struct Under(Vec<RuleMark>);

impl Learned for Under {
    fn absorb(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    fn size(&self) -> usize {
        1
    }
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![3 => "[a-c]", 2 => "[a-z]{1,2}", 1 => "[0-9]{1,3}", 1 => "v[0-9]\\.json"];
    prop::collection::vec(segment, 1..5).prop_map(|segments| format!("/{}", segments.join("/")))
}

const ALLOW: [&str; 6] = ["GET /a/**", "GET /b/*", "GET /b/*/c", "GET /*/v*.json", "GET /c/a/**", "GET /c"];

fn rules(texts: &[String]) -> Rules {
    let parse = |text: &String| Rule::parse(text, Form::Opaque).expect("a rule");
    let allow = Allow::These(texts.iter().map(parse).collect());
    Rules { form: Form::Opaque, allow, deny: Vec::new(), minting: Vec::new() }
}

proptest! {
    #[test]
    fn the_list_lets_pass_what_was_used_and_nothing_that_did_not_pass_before(
        used in prop::collection::vec(path(), 0..60),
        others in prop::collection::vec(path(), 60),
    ) {
        let allow = ALLOW.map(str::to_owned);
        let before = rules(&allow);
        let mut templates: Templates<Under> = Templates::default();
        let judge = |rules: &Rules, path: &str| {
            rules.judge(&http::Method::GET, &Form::Opaque.canonical(path).expect("a path"))
        };
        for path in &used {
            if let Ok(Some(mark)) = judge(&before, path) {
                templates.learn(path, |under| under.0.push(mark));
            }
        }
        let all = templates.all();
        let done = all.iter().flat_map(|(template, under)| {
            under.0.iter().map(|mark| Done { method: "GET", template, rule: Some(*mark) })
        });
        let proposed = tighter(Some(&allow), done);
        let after = rules(&proposed);
        for path in &used {
            prop_assert_eq!(judge(&before, path).is_ok(), judge(&after, path).is_ok(), "{}: {:?}", path, proposed);
        }
        for path in &others {
            prop_assert!(judge(&before, path).is_ok() || judge(&after, path).is_err(), "{}: {:?}", path, proposed);
        }
    }
}
