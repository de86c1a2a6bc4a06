//! `next_source`: what can be verified, and left again.

use super::{GOOD, good, parse};
use crate::token::source::Settings as Source;

const NEXT: &str = "[token.next_source]\nkind = \"file\"\npath = \"/run/secrets/token\"\n";

fn with(rotation: &str, next: &str) -> String {
    let first = "source  = { kind = \"env\", name = \"GITHUB_TOKEN\" }";
    let source = GOOD.lines().find(|line| line.starts_with("source")).expect("a source");
    GOOD.replacen(source, &format!("{first}\nrotation = {{ {rotation} }}\n{next}"), 1)
}

/// What is said of it.
fn bad(text: &str) -> String {
    parse(text).expect_err("it is refused").to_string()
}

const PROBE: &str = "probe = \"https://api.github.com/rate_limit\"";

#[test]
fn a_next_source_is_read_as_a_source_is_and_is_known_by_its_own_hash() {
    let config = good(&with(PROBE, NEXT));
    let token = &config.tokens[0];
    assert_eq!(token.next_source.as_ref().map(Source::kind), Some("file"));
    let terms = &config.terms[&token.name];
    assert!(terms.next_source.is_some() && terms.next_source.as_ref() != Some(&terms.source));
    assert_eq!(config.terms[&token.name].source, good(&with(PROBE, "")).terms[&token.name].source);
}

#[test]
fn what_cannot_be_verified_or_left_again_is_refused() {
    let same = "[token.next_source]\nkind = \"env\"\nname = \"GITHUB_TOKEN\"\n";
    let unknown = format!("{NEXT}keys = 1\n");
    for (rotation, next, message) in [
        ("at = 0.5", NEXT, "there is no `probe`"),
        ("mode = \"exclusive\", single_instance = true", NEXT, "nothing to go back to"),
        (&*format!("{PROBE}, overlap = \"0s\""), NEXT, "goes back to `source`"),
        (PROBE, same, "the same as `source`"),
        (PROBE, &*unknown, "`keys`"),
        (PROBE, "next_source = \"env\"\n", "`next_source`"),
    ] {
        let said = bad(&with(rotation, next));
        assert!(said.contains(message), "{rotation} {next}: {said}");
    }
}

#[test]
fn two_sources_agree_about_proofs_and_keep_one_refresh_token() {
    let oauth = |kind: &str, more: &str| {
        format!("kind = \"{kind}\"\ntoken_url = \"https://issuer.example/token\"\nclient_id = \"a\"\n{more}")
    };
    let between = |own: &str, next: &str| {
        let text = with(PROBE, "");
        let source = text.lines().find(|line| line.starts_with("source")).expect("a source").to_owned();
        let rotation = text.lines().find(|line| line.starts_with("rotation")).expect("a rotation").to_owned();
        let both = format!("[token.source]\n{own}\n[token.next_source]\n{next}\n");
        text.replacen(&source, "", 1).replacen(&rotation, &format!("{rotation}\n{both}"), 1)
    };
    let plain = oauth("client_credentials", "client_secret = \"env:A\"");
    let said = bad(&between(&plain, &format!("{plain}\ndpop = true")));
    assert!(said.contains("agree about `dpop`"), "{said}");
    let refresh =
        |name: &str| oauth("refresh_token", &format!("single_instance = true\nrefresh_token = \"file:/{name}\""));
    let said = bad(&between(&refresh("a"), &refresh("b")));
    assert!(said.contains("one refresh token"), "{said}");
    good(&between(&plain, &refresh("b")));
}
