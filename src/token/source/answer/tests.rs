use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ASKED_AT: Moment = Moment { boot: Duration::from_secs(1_000), wall: Duration::from_secs(1_700_000_000) };
const TOKEN: &str = "canary-Token.0123456789";
const SECRET: &str = "canary secret+of/the client";

/// Two seconds after it was asked.
fn now() -> Moment {
    ASKED_AT.after(Duration::from_secs(2))
}

fn reply<'a>(status: u16, content_type: &'a str, body: &'a [u8]) -> Reply<'a> {
    let status = StatusCode::from_u16(status).expect("well-formed");
    Reply { status, content_type: Some(content_type.as_bytes()), retry_after: None, body }
}

fn judged(reply: &Reply<'_>, scopes: &[&str]) -> Result<Issued, Failure> {
    let scopes: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    judge(reply, &Asked { scopes: &scopes, at: ASKED_AT, now: now(), secrets: &[SECRET] })
}

fn json_200(body: impl AsRef<[u8]>) -> Result<Issued, Failure> {
    judged(&reply(200, "application/json", body.as_ref()), &[])
}

fn failure(result: Result<Issued, Failure>) -> Failure {
    result.err().expect("this should have failed")
}

/// An answer with the members of `with`, beyond a sound token; a `null` removes one.
fn answer(with: Value) -> String {
    let mut members = json!({ "access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600 });
    for (name, value) in with.as_object().expect("an object") {
        members[name] = value.clone();
    }
    members.to_string()
}

fn jwt(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(&json!({ "alg": "ES256" })), part(claims))
}

fn jwt_ending_in(seconds: i64) -> String {
    jwt(&json!({ "exp": i64::try_from(now().wall.as_secs()).expect("well-formed") + seconds }))
}

#[test]
fn a_sound_answer_yields_its_token() {
    let issued = json_200(answer(json!({ "refresh_token": "x", "extra": [{}] }))).expect("no failure");
    assert!(issued.secret.same_as(&Secret::new(TOKEN)));
    assert_eq!(issued.expires, Some(ASKED_AT.after(Duration::from_secs(3600))), "it counts from when it was asked");
    assert!(!issued.assumed);
    assert_eq!(issued.granted, None);
}

#[test]
fn a_lifetime_is_believed_only_if_it_is_one() {
    for (expires_in, life) in [
        ("1800", Some(1800)),
        ("10", Some(10)),
        ("3599.999", Some(3599)),
        ("1e3", Some(1000)),
        ("\"1800\"", Some(1800)),
        ("\"0001800\"", Some(1800)),
        ("315360000", Some(315_360_000)),
        ("315360001", Some(315_360_000)),
        ("18446744073709551615", Some(315_360_000)),
        ("18446744073709551616", Some(315_360_000)),
        ("1e300", Some(315_360_000)),
        ("\"99999999999999999999999999999999\"", Some(315_360_000)),
        ("0", None),
        ("-0", None),
        ("0.9", None),
        ("-1", None),
        ("-1e300", None),
        ("null", None),
        ("true", None),
        ("[3600]", None),
        ("{}", None),
        ("\"\"", None),
        ("\"0\"", None),
        ("\"NaN\"", None),
        ("\"Infinity\"", None),
        ("\"soon\"", None),
        ("\"-5\"", None),
        ("\"+5\"", None),
        ("\"1.5\"", None),
        ("\" 5\"", None),
        ("\"1e3\"", None),
        ("\"0x10\"", None),
        ("\"١٢\"", None),
    ] {
        let body = format!(r#"{{"access_token":"{TOKEN}","expires_in":{expires_in}}}"#);
        match (json_200(body), life) {
            (Ok(issued), Some(life)) => {
                assert_eq!(issued.expires, Some(ASKED_AT.after(Duration::from_secs(life))), "{expires_in}");
                assert!(!issued.assumed, "{expires_in}");
            }
            (Err(failure), None) => assert_eq!(failure.reason, Reason::Lifetime, "{expires_in}"),
            (result, _) => panic!("{expires_in}: {:?}", result.err()),
        }
    }
}

#[test]
fn a_missing_lifetime_is_assumed_to_be_a_quarter_of_an_hour() {
    let issued = json_200(format!(r#"{{"access_token":"{TOKEN}"}}"#)).expect("no failure");
    assert_eq!(issued.expires, Some(ASKED_AT.after(Duration::from_secs(900))));
    assert!(issued.assumed);
}

#[test]
fn the_end_that_a_jwt_names_wins_if_it_is_sooner() {
    let with = |exp, expires_in| {
        let mut members = json!({ "access_token": jwt_ending_in(exp) });
        if let Some(expires_in) = expires_in {
            members["expires_in"] = json!(expires_in);
        }
        let issued = json_200(members.to_string()).expect("no failure");
        (issued.expires.expect("an end").remaining(now()).as_secs(), issued.assumed)
    };
    assert_eq!(with(60, Some(3600)), (60, false));
    assert_eq!(with(7200, Some(3600)), (3598, false));
    assert_eq!(with(60, None), (60, false), "then nothing had to be assumed");
    assert_eq!(with(7200, None), (898, true));
    assert_eq!(with(i64::MAX / 2, Some(3600)), (3598, false));
}

#[test]
fn a_token_that_has_ended_is_refused() {
    for exp in [0, -1, -1_700_000_000, -4_000_000_000] {
        let body = answer(json!({ "access_token": jwt_ending_in(exp) }));
        assert_eq!(failure(json_200(body)).reason, Reason::Expired, "{exp}");
    }
    let slow = failure(json_200(answer(json!({ "expires_in": 2 }))));
    assert_eq!(slow.reason, Reason::Expired, "the answer took as long as the token lives");
}

#[test]
fn what_only_looks_like_a_jwt_names_no_end() {
    for claims in [json!({}), json!({ "exp": "1" }), json!({ "exp": null }), json!([1]), json!("exp")] {
        let issued = json_200(answer(json!({ "access_token": jwt(&claims) }))).expect("no failure");
        assert_eq!(issued.expires, Some(ASKED_AT.after(Duration::from_secs(3600))), "{claims}");
    }
}

#[test]
fn only_a_bearer_token_of_visible_ascii_is_one() {
    for (with, reason) in [
        (json!({ "access_token": "" }), Reason::TokenMissing),
        (json!({ "access_token": null }), Reason::TokenMissing),
        (json!({ "access_token": 7 }), Reason::TokenMissing),
        (json!({ "access_token": ["abc"] }), Reason::TokenMissing),
        (json!({ "access_token": "abc\r\nX: y" }), Reason::TokenCharset),
        (json!({ "access_token": "abc def" }), Reason::TokenCharset),
        (json!({ "access_token": "abc\u{0}" }), Reason::TokenCharset),
        (json!({ "access_token": "ä" }), Reason::TokenCharset),
        (json!({ "access_token": "abc\u{7f}" }), Reason::TokenCharset),
        (json!({ "token_type": "mac" }), Reason::TokenType),
        (json!({ "token_type": "DPoP" }), Reason::TokenType),
        (json!({ "token_type": "N_A" }), Reason::TokenType),
        (json!({ "token_type": "" }), Reason::TokenType),
        (json!({ "token_type": "Bearer " }), Reason::TokenType),
        (json!({ "token_type": 1 }), Reason::TokenType),
    ] {
        assert_eq!(failure(json_200(answer(with.clone()))).reason, reason, "{with}");
    }
    assert_eq!(failure(json_200("{}")).reason, Reason::TokenMissing);
    for tolerated in [json!("bearer"), json!("BEARER"), json!(null)] {
        assert!(json_200(answer(json!({ "token_type": tolerated }))).is_ok());
    }
}

#[test]
fn every_scope_that_was_asked_must_be_granted() {
    let granted = |scope: Value, asked: &[&str]| {
        let body = answer(json!({ "scope": scope }));
        judged(&reply(200, "application/json", body.as_bytes()), asked)
            .map(|issued| issued.granted)
            .map_err(|failure| (failure.reason, failure.class))
    };
    let list = |scopes: &[&str]| Ok(Some(scopes.iter().map(ToString::to_string).collect::<Vec<_>>()));
    let refused = Err((Reason::Scope, Class::Refused));
    assert_eq!(granted(json!("b  a"), &["a", "b"]), list(&["b", "a"]));
    assert_eq!(granted(json!("a b admin"), &["a"]), list(&["a", "b", "admin"]), "more than was asked");
    assert_eq!(granted(json!(""), &[]), list(&[]));
    assert_eq!(granted(json!(null), &["a"]), Ok(None));
    assert_eq!(granted(json!("a"), &["a", "b"]), refused);
    assert_eq!(granted(json!("A"), &["a"]), refused);
    assert_eq!(granted(json!("ab"), &["a"]), refused);
    assert_eq!(granted(json!(""), &["a"]), refused);
    assert_eq!(granted(json!(["a"]), &["a"]), refused);
    assert_eq!(granted(json!("a\nb"), &[]), refused);
}

#[test]
fn only_json_is_read() {
    let body = answer(json!({}));
    let with = |content_type| judged(&reply(200, content_type, body.as_bytes()), &[]);
    for json in [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;x",
        "application/jwt+json",
    ] {
        assert!(with(json).is_ok(), "{json}");
    }
    for other in
        ["", "text/html", "text/json", "application/jsonx", "application/x-www-form-urlencoded", "json", "+json"]
    {
        assert_eq!(failure(with(other)).reason, Reason::ContentType, "{other}");
    }
    let absent = Reply { content_type: None, ..reply(200, "", body.as_bytes()) };
    assert_eq!(failure(judged(&absent, &[])).reason, Reason::ContentType);
}

#[test]
fn what_is_not_one_json_object_is_malformed() {
    let duplicate = format!(r#"{{"access_token":"{TOKEN}","access_token":"other"}}"#);
    let garbage = format!("{} x", answer(json!({})));
    let cut = &answer(json!({}))[..30];
    let list = format!(r#"["{TOKEN}","Bearer",3600]"#);
    for body in [
        "",
        " ",
        "null",
        "3",
        "[]",
        "{",
        "<html>",
        "access_token=x",
        "{\"access_token\":\"\\ud800\"}",
        "{\"expires_in\":NaN}",
        "{\"expires_in\":1e999}",
        "\u{feff}{}",
        &duplicate,
        &garbage,
        cut,
        &list,
    ] {
        let failure = failure(json_200(body));
        let start: String = body.chars().take(40).collect();
        assert_eq!(failure.reason, Reason::Malformed, "{start}");
        assert_eq!(failure.class, Class::Transient { retry_after: None }, "{start}");
        assert!(!failure.detail.contains("canary"), "{}", failure.detail);
    }
    assert_eq!(failure(json_200([b'{', 0xff, 0xfe, b'}'])).reason, Reason::Malformed);
}

#[test]
fn what_is_skipped_may_be_as_deep_as_it_likes() {
    let deep = ["[".repeat(30_000), "]".repeat(30_000)].concat();
    assert!(json_200(format!(r#"{{"access_token":"{TOKEN}","other":{deep}}}"#)).is_ok());
    let typed = format!(r#"{{"access_token":"{TOKEN}","token_type":{deep}}}"#);
    assert_eq!(failure(json_200(typed)).reason, Reason::TokenType);
}

#[test]
fn a_no_is_named_and_classed() {
    let refused = Class::Refused;
    let transient = Class::Transient { retry_after: None };
    for (status, error, reason, class) in [
        (400, json!("invalid_request"), Reason::InvalidRequest, refused),
        (401, json!("invalid_client"), Reason::InvalidClient, refused),
        (400, json!("invalid_grant"), Reason::InvalidGrant, refused),
        (400, json!("unauthorized_client"), Reason::UnauthorizedClient, refused),
        (400, json!("unsupported_grant_type"), Reason::UnsupportedGrantType, refused),
        (400, json!("invalid_scope"), Reason::InvalidScope, refused),
        (400, json!("invalid_target"), Reason::InvalidTarget, refused),
        (403, json!("access_denied"), Reason::AccessDenied, refused),
        (400, json!("temporarily_unavailable"), Reason::IssuerError, transient),
        (400, json!("server_error"), Reason::IssuerError, transient),
        (400, json!("something_new"), Reason::IssuerError, refused),
        (400, json!({ "code": 400 }), Reason::Status, refused),
        (404, json!(null), Reason::Status, refused),
        (200, json!("invalid_client"), Reason::InvalidClient, refused),
        (200, json!("something_new"), Reason::IssuerError, refused),
        (200, json!(""), Reason::IssuerError, refused),
        (200, json!(false), Reason::IssuerError, refused),
        (429, json!("invalid_client"), Reason::RateLimited, transient),
        (408, json!(null), Reason::Status, transient),
        (500, json!("invalid_client"), Reason::Status, transient),
        (503, json!(null), Reason::Status, transient),
        (302, json!("invalid_client"), Reason::Redirected, transient),
        (204, json!(null), Reason::Status, transient),
        (101, json!(null), Reason::Status, transient),
        (999, json!(null), Reason::Status, transient),
    ] {
        // A token beside it changes nothing.
        let body = answer(json!({ "error": error }));
        let failure = failure(judged(&reply(status, "application/json", body.as_bytes()), &[]));
        assert_eq!((failure.reason, failure.class), (reason, class), "{status} {error}");
    }
    assert!(json_200(answer(json!({ "error": null, "error_description": null }))).is_ok());
}

#[test]
fn an_error_page_is_counted_and_not_quoted() {
    let failure = failure(judged(&reply(403, "text/html", b"<h1>canary</h1>"), &[]));
    assert_eq!((failure.reason, failure.class), (Reason::Status, Class::Refused));
    assert_eq!(failure.detail, "the issuer answered 403");
}

#[test]
fn retry_after_is_honoured_within_reason() {
    for (text, seconds) in [
        ("0", Some(0)),
        ("7", Some(7)),
        (" 7 ", Some(7)),
        ("600", Some(600)),
        ("86400", Some(600)),
        ("99999999999999999999999", Some(600)),
        ("Tue, 14 Nov 2023 22:14:22 GMT", Some(60)),
        ("Tue, 14 Nov 2023 22:13:22 GMT", Some(0)),
        ("Fri, 14 Nov 2053 22:13:22 GMT", Some(600)),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
    ] {
        for status in [429, 503] {
            let reply = Reply { retry_after: Some(text.as_bytes()), ..reply(status, "text/plain", b"") };
            let retry_after = seconds.map(Duration::from_secs);
            assert_eq!(failure(judged(&reply, &[])).class, Class::Transient { retry_after }, "{status} {text}");
        }
    }
}

#[test]
fn the_issuers_words_are_cleaned_redacted_and_cut() {
    let said = |members: Value| {
        let body = members.to_string();
        failure(judged(&reply(400, "application/json", body.as_bytes()), &[])).detail
    };
    assert_eq!(
        said(json!({ "error": "invalid_scope", "error_description": "no\r\nsuch \u{1b}[31mscope" })),
        "the issuer answered 400: invalid_scope (no such [31mscope)"
    );
    assert_eq!(said(json!({ "error_description": "no" })), "the issuer answered 400: no");
    assert_eq!(
        said(json!({ "error": "invalid_client", "error_description": format!("{SECRET} is wrong") })),
        "the issuer answered 400: invalid_client ([redacted] is wrong)"
    );
    assert_eq!(
        said(json!({ "access_token": TOKEN, "error": format!("x{TOKEN}x") })),
        "the issuer answered 400: x[redacted]x"
    );
    let long = said(json!({ "error": TOKEN.repeat(500), "access_token": TOKEN }));
    assert!(!long.contains("canary"), "{long}");
    assert!(long.chars().count() < 240, "{long}");
}

/// Any text, with what must not come out again in all places where it may stand.
fn hostile_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![Just(TOKEN.to_owned()), Just(SECRET.to_owned()), any::<String>(), "[ -~]{0,300}"];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn hostile_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        hostile_text().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        Just(json!(TOKEN)),
        Just(json!("Bearer")),
        (-10i64..10).prop_map(|seconds| json!(jwt_ending_in(seconds))),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| prop::collection::vec(inner, 0..3).prop_map(Value::from))
}

fn hostile_members() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("token_type"),
        Just("expires_in"),
        Just("scope"),
        Just("error"),
        Just("error_description"),
        Just("other")
    ];
    let members = prop::collection::btree_map(name, hostile_value(), 0..6);
    let token = prop_oneof![4 => Just(json!(TOKEN)), 1 => hostile_value()];
    (members, token).prop_map(|(members, token)| {
        let mut members = json!(members);
        members["access_token"] = token;
        members
    })
}

fn check(status: u16, body: &[u8], retry_after: &[u8], token: &str) -> Result<(), TestCaseError> {
    let reply = Reply { retry_after: Some(retry_after), ..reply(status, "application/json", body) };
    match judged(&reply, &["read"]) {
        Ok(issued) => {
            prop_assert!(issued.secret.header_value("", "").is_ok());
            prop_assert!(issued.expires.is_some_and(|end| !end.reached(now())));
        }
        Err(failure) => {
            prop_assert!(!failure.detail.contains(SECRET), "{}", failure.detail);
            // A shorter one may well be a word of ours.
            prop_assert!(token.len() < 8 || !failure.detail.contains(token), "{}", failure.detail);
            prop_assert!(failure.detail.chars().count() < 300);
            prop_assert!(!failure.detail.chars().any(char::is_control));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_members_break_the_judge_or_leak(
        status in prop_oneof![Just(200u16), Just(400), Just(429), Just(500), 100u16..1000],
        members in hostile_members(),
        retry_after in "[ -~]{0,40}",
    ) {
        let token = members["access_token"].as_str().unwrap_or_default();
        check(status, members.to_string().as_bytes(), retry_after.as_bytes(), token)?;
    }

    #[test]
    fn no_bytes_break_the_judge(
        status in prop_oneof![Just(200u16), Just(400)],
        body in prop::collection::vec(any::<u8>(), 0..200),
        cut in 0usize..200,
        retry_after in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        check(status, &body, &retry_after, TOKEN)?;
        let mut mixed = answer(json!({ "scope": "read" })).into_bytes();
        mixed.truncate(cut);
        mixed.extend(&body);
        check(status, &mixed, &retry_after, TOKEN)?;
    }
}
