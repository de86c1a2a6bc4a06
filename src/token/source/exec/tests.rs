use std::time::Duration;

use super::*;
use crate::clock::ManualClock;

/// What comes of a shell's script.
async fn printed(script: &str, format: Format) -> Result<Issued, Failure> {
    let program = Program {
        path: "/bin/sh".into(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        // Cargo sets this one for every test.
        variables: vec!["CARGO_PKG_NAME".to_owned()],
        timeout: Duration::from_secs(20),
    };
    let settings = Settings { program, format, scopes: vec!["read".to_owned()] };
    Exec::new(settings, Arc::new(ManualClock::default())).obtain().await
}

async fn life(script: &str) -> Duration {
    let issued = printed(script, Format::Json).await.expect("a token");
    assert!(issued.secret.same_as(&Secret::new("abc.def")));
    issued.expires.expect("an end").remaining(ManualClock::default().now())
}

fn about(seconds: u64) -> std::ops::RangeInclusive<Duration> {
    Duration::from_secs(seconds.saturating_sub(20))..=Duration::from_secs(seconds)
}

#[tokio::test]
async fn the_first_line_is_the_token() {
    for script in ["echo abc.def", "printf abc.def", "printf '  abc.def \\r\\nand more\\n'"] {
        let issued = printed(script, Format::Text).await.expect("a token");
        assert!(issued.secret.same_as(&Secret::new("abc.def")), "{script}");
        assert_eq!((issued.expires, issued.granted), (None, None));
    }
}

#[tokio::test]
async fn an_object_is_judged_as_a_token_endpoints_answer() {
    assert!(about(60).contains(&life(r#"echo '{"access_token":"abc.def","expires_in":60,"scope":"read"}'"#).await));
    assert!(about(90).contains(&life(r#"echo '{"token":"abc.def","expires_in":"90"}'"#).await));
    assert!(about(900).contains(&life(r#"echo '{"token":"abc.def"}'"#).await), "assumed");
    let time = ManualClock::default().now().after(Duration::from_secs(300)).to_rfc3339();
    assert!(about(300).contains(&life(&format!(r#"echo '{{"token":"abc.def","expires_at":"{time}"}}'"#)).await));
}

#[tokio::test]
async fn what_a_helper_of_kubectl_prints_is_a_token_with_its_end_or_without() {
    let print = |status: &str| {
        format!(
            r#"echo '{{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{{}},"status":{status}}}'"#
        )
    };
    let time = ManualClock::default().now().after(Duration::from_secs(300)).to_rfc3339();
    let script = print(&format!(r#"{{"token":"abc.def","expirationTimestamp":"{time}"}}"#));
    let issued = printed(&script, Format::Kubernetes).await.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(about(300).contains(&issued.expires.expect("an end").remaining(ManualClock::default().now())));
    let issued = printed(&print(r#"{"token":"abc.def"}"#), Format::Kubernetes).await.expect("a token");
    assert!(issued.secret.same_as(&Secret::new("abc.def")));
    assert_eq!((issued.expires, issued.granted), (None, None));

    for (script, reason) in [
        (print("{}"), Reason::TokenMissing),
        (print(r#"{"token":""}"#), Reason::TokenMissing),
        (print(r#"{"token":"canary canary"}"#), Reason::TokenCharset),
        (print(r#"{"clientCertificateData":"canary"}"#), Reason::TokenMissing),
        (print(r#"{"token":"a","expirationTimestamp":"soon"}"#), Reason::Lifetime),
        (print(r#"{"token":"a","expirationTimestamp":"2001-01-01T00:00:00Z"}"#), Reason::Expired),
        ("echo canary".to_owned(), Reason::Malformed),
        (r#"echo '{"token":"canary"}'"#.to_owned(), Reason::Malformed),
        (r#"echo '{"kind":"Pod","status":{"token":"canary"}}'"#.to_owned(), Reason::Malformed),
    ] {
        let failure = printed(&script, Format::Kubernetes).await.err().unwrap_or_else(|| panic!("{script}"));
        assert_eq!(failure.reason, reason, "{script}: {failure}");
        assert!(!failure.detail.contains("canary"), "{failure}");
    }
}

#[tokio::test]
async fn what_is_no_token_is_refused_for_what_it_is() {
    use Format::{Json, Text};
    for (script, format, reason) in [
        ("true", Text, Reason::TokenMissing),
        ("echo; echo abc", Text, Reason::TokenMissing),
        ("echo abc def", Text, Reason::TokenCharset),
        ("true", Json, Reason::Malformed),
        ("echo abc", Json, Reason::Malformed),
        ("echo '[]'", Json, Reason::Malformed),
        ("echo '{}'", Json, Reason::TokenMissing),
        (r#"echo '{"token":5}'"#, Json, Reason::TokenMissing),
        (r#"echo '{"token":"a b"}'"#, Json, Reason::TokenCharset),
        (r#"echo '{"token":"a","access_token":"b"}'"#, Json, Reason::Malformed),
        (r#"echo '{"token":"a","expires_in":5,"expires_at":"2099-01-01T00:00:00Z"}'"#, Json, Reason::Malformed),
        (r#"echo '{"token":"a","expires_in":0}'"#, Json, Reason::Lifetime),
        (r#"echo '{"token":"a","expires_at":"tomorrow"}'"#, Json, Reason::Lifetime),
        (r#"echo '{"token":"a","expires_at":4102444800}'"#, Json, Reason::Lifetime),
        (r#"echo '{"token":"a","expires_at":"2001-01-01T00:00:00Z"}'"#, Json, Reason::Expired),
        (r#"echo '{"token":"a","scope":"write"}'"#, Json, Reason::Scope),
        (r#"echo '{"token":"a","token_type":"mac"}'"#, Json, Reason::TokenType),
        (r#"echo '{"error":"not today"}'"#, Json, Reason::IssuerError),
    ] {
        let failure = printed(script, format).await.err().expect("no token");
        assert_eq!(failure.reason, reason, "{script}: {}", failure.detail);
        assert!(failure.detail.starts_with("/bin/sh: "), "{}", failure.detail);
    }
}

#[tokio::test]
async fn an_error_that_it_prints_is_told_without_the_token_and_what_it_was_given() {
    let script =
        r#"echo "{\"error\":\"no\",\"error_description\":\"$CARGO_PKG_NAME got abc.def\",\"token\":\"abc.def\"}""#;
    let failure = printed(script, Format::Json).await.err().expect("no token");
    assert_eq!(failure.detail, "/bin/sh: it reports an error: no ([redacted] got [redacted])");
}

#[tokio::test]
async fn a_failure_may_pass_unless_the_program_says_that_it_will_not() {
    for (code, refused) in [(1, false), (75, false), (77, true), (78, true)] {
        let failure = printed(&format!("echo abc; exit {code}"), Format::Text).await.err().expect("a failure");
        assert_eq!((failure.reason, failure.class == Class::Refused), (Reason::Program, refused), "{code}");
        assert_eq!(failure.detail, format!("/bin/sh ended with code {code}"));
    }
}

#[test]
fn of_what_it_says_no_more_is_shown_than_may_be() {
    let output = |stdout: &str, stderr: &str| Output {
        status: ExitStatus::default(),
        stdout: stdout.as_bytes().to_vec().into(),
        stderr: stderr.as_bytes().to_vec().into(),
    };
    let said = |stdout: &str, stderr: &str| without_secrets(&output(stdout, stderr), &[]);
    assert_eq!(said("token-one\n", "got token-one:\n\x1b[31mtoken-one!\n"), "got [redacted]: [31m[redacted]!");
    assert_eq!(said(r#"{"token":"token-one"}"#, "is token-one"), "is [redacted]");
    assert_eq!(said("token-one token-one-two", "token-one-two"), "[redacted]");
    assert_eq!(said("", "  \n"), "");
    assert_eq!(said("", &"x".repeat(1000)).chars().count(), MAX_SAID + 1);
    // Cargo sets this one for every test.
    let given = [("CARGO_PKG_NAME".to_owned())];
    assert_eq!(without_secrets(&output("", "for countersign"), &given), "for [redacted]");
}
