//! One of each event, and how records of them read.

use super::*;
use crate::secret::{Fingerprinter, Secret};

/// One of each.
pub fn samples() -> Vec<Event> {
    let token: TokenName = "github".parse().expect("a name");
    let fingerprint = Fingerprinter::new(&[1; 32]).of(&Secret::new("a"));
    let expires = Duration::from_secs(1_700_000_000);
    let exchanged = Exchanged {
        token: token.clone(),
        replaced: 1,
        generation: Some(2),
        complete: true,
        replace_ms: Some(12),
        quarantine_ms: Some(1),
        revoke_ms: Some(20),
    };
    vec![
        Event::Start { version: "0.1.0", config_digest: "abc".into() },
        Event::Stop { cause: "SIGTERM".into() },
        Event::Reload { config_digest: "abc".into() },
        Event::ReloadRefused { problems: 2 },
        Event::TokenRequested(Box::new(Requested {
            token: token.clone(),
            owner: "team".into(),
            reason: "reads issues".into(),
            scopes: vec!["repo".into()],
            hosts: vec!["api.github.com".into()],
            routes: vec!["github: GET /repos/**".into()],
            grant_ends: Some(expires),
            for_seconds: None,
            source: "client_credentials".into(),
            next_source: None,
            request: "00112233aabbccdd".into(),
            digest: "00112233aabbccdd".repeat(4),
            requester: "the owner of the config file".into(),
            risk: "low".into(),
            decision: "approve",
            decided_by: "rule read-only".into(),
        })),
        Event::TokenIssued { token: token.clone(), generation: 1, fingerprint, expires, source: "env", version: None },
        Event::TokenRotated {
            token: token.clone(),
            generation: 2,
            replaces: 1,
            cause: "due",
            fingerprint,
            expires,
            source: "env",
            version: Some(7),
        },
        Event::TokenRolledBack { token: token.clone(), generation: 3, replaces: 2, restores: 1, fingerprint, expires },
        Event::TokenMoved { token: token.clone(), generation: 3, from: "env", source: "github_app" },
        Event::TokenMoveFailed {
            token: token.clone(),
            source: "env",
            to: "github_app",
            reason: "probe",
            detail: "403".into(),
            attempt: 1,
        },
        Event::TokenResumed { token: token.clone(), generation: 3, fingerprint, expires },
        Event::TokenProlonged { token: token.clone(), generation: 2, expires },
        Event::TokenFailed { token: token.clone(), reason: "timeout", detail: "…".into(), attempt: 3 },
        Event::TokenProbeRefused { token: token.clone(), generation: 1, detail: "the API answered with 401".into() },
        Event::TokenRejected { token: token.clone(), reason: "charset", detail: "byte 7".into() },
        Event::TokenRefused {
            token: token.clone(),
            route: "github".parse().expect("a name"),
            client: ClientName::implicit(),
            reason: "token_expired",
            count: 7,
        },
        Event::TokenExpired { token: token.clone(), generation: 2 },
        Event::TokenRetired { token: token.clone(), generation: 1 },
        Event::TokenFirstUsed { token: token.clone(), generation: 1 },
        Event::TokenQuarantined {
            token: token.clone(),
            generation: 1,
            by: "alice".into(),
            reason: "odd".into(),
            since: None,
        },
        Event::TokenRevoked {
            token: token.clone(),
            generation: 1,
            by: "alice".into(),
            reason: "leaked".into(),
            since: Some(expires),
        },
        Event::TokenReleased { token: token.clone(), by: "bob".into(), reason: "it was us".into() },
        Event::GenerationRevoked {
            token: token.clone(),
            generation: 1,
            fingerprint,
            cause: "revoked",
            outcome: "success",
            attempts: 2,
        },
        Event::TokenUnused { token: token.clone(), last_used: Some(expires) },
        Event::TokenOutdated { token: token.clone(), since: expires },
        Event::ClientHeld {
            client: ClientName::implicit(),
            token: Some(token.clone()),
            hold: "throttle",
            by: "detection".into(),
            reason: "anomaly: burst".into(),
            since: expires,
        },
        Event::ClientReleased {
            client: ClientName::implicit(),
            token: None,
            by: "bob".into(),
            reason: "it was us".into(),
        },
        Event::DrillStarted {
            token: token.clone(),
            generation: 1,
            by: "alice".into(),
            reason: "a drill a month".into(),
        },
        Event::DrillFinished(exchanged.clone()),
        Event::ReplacementStarted {
            token: token.clone(),
            generation: 1,
            by: "detection".into(),
            reason: "anomaly: errors".into(),
            since: Some(expires),
        },
        Event::ReplacementFinished(exchanged.clone()),
        Event::AuditTailRepaired { bytes: 17 },
        Event::NotDone { of: 6 },
        Event::AuditRecordsLost { count: 3 },
        Event::AuditFailed { operation: "sync", detail: "Input/output error".into() },
        Event::AdminCall {
            operator: OperatorName::implicit(),
            call: "POST /v1/reload".into(),
            status: 200,
            reason: Some("an incident".into()),
        },
        Event::AdminDenied {
            operator: None,
            source: "uid 1000".into(),
            call: Some("POST /v1/tokens/{name}/revoke".into()),
            reason: "unauthenticated",
            count: 2,
        },
        Event::AccessApproved {
            request: "00112233aabbccdd".into(),
            token: token.clone(),
            by: "alice".into(),
            reason: "looked at it".into(),
            missing: 1,
        },
        Event::AccessGranted {
            request: "00112233aabbccdd".into(),
            digest: "00112233aabbccdd".repeat(4),
            token: token.clone(),
            by: "alice, bob".into(),
            until: Some(expires),
        },
        Event::AccessDenied {
            request: "00112233aabbccdd".into(),
            token: token.clone(),
            by: "alice".into(),
            reason: "too wide".into(),
        },
        Event::AccessEnded { request: "00112233aabbccdd".into(), token: token.clone(), cause: "expired" },
        Event::GrantRefused { file: "/etc/countersign/grants/a.json".into(), reason: "it held until then".into() },
        Event::StateRejected { file: "sealed/request-00.sealed".into(), reason: "it was edited".into() },
        Event::Usage(Used { token: "github".into(), client: "local".into(), requests: 3, ..Used::default() }),
        Event::Request(Request {
            token: Some("github".into()),
            route_token: None,
            client: "local".into(),
            route: "github".into(),
            host: "api.github.com".into(),
            method: "GET",
            path: "/repos/a".into(),
            status: 200,
            reason: None,
            generation: Some(1),
            request_bytes: 0,
            response_bytes: 512,
            duration_ms: 41,
            complete: true,
        }),
        Event::AccessMeasured(AccessCounts { active: 4, least_privilege: 3, unused: 1, long_lived: 0 }),
        Event::AccessReviewed { by: OperatorName::implicit(), reason: "nothing to tighten".into() },
        Event::ReviewOverdue { due: expires },
        Event::GhostFound { token: token.clone(), id: "db/creds/a/b".into(), issued: None, expires: Some(expires) },
        Event::GhostGone { token: token.clone(), id: "db/creds/a/b".into() },
        Event::Anomaly {
            token: Some("github".parse().expect("a name")),
            client: "app".into(),
            signal: "burst",
            score: 0.97,
            severity: "high",
            response: "alert",
            said: "600 requests in a minute, 20.0x the most before".into(),
            since: expires,
        },
        Event::Tripwire {
            client: "billing".parse().expect("a name"),
            cause: "other_client",
            sent_by: None,
            uid: Some(1001),
            route: None,
            token: None,
            count: 3,
        },
        Event::UpstreamChange {
            route: "github".parse().expect("a name"),
            change: "sunset",
            at: Some(expires),
            link: Some("https://api.example.com/end".into()),
        },
        Event::IssuerChange {
            issuer: "https://issuer.example/token".into(),
            change: "deprecation",
            at: None,
            link: None,
        },
        Event::IssuerMetadataChanged {
            token: "github".parse().expect("a name"),
            issuer: "https://issuer.example".into(),
            what: "token_endpoint".into(),
            before: Some("https://issuer.example/token".into()),
            after: None,
        },
        Event::UsageGap { from: "2026-11-22T10:00:00.000Z".into() },
        Event::ListenerCertificatesReplaced,
        Event::ListenerCertificatesRefused { detail: "not PEM".into() },
    ]
}

fn json(event: &Event) -> String {
    let record = Record { version: 1, seq: 7, time: Duration::from_millis(1_700_000_000_123), event };
    serde_json::to_string(&record).expect("plain data")
}

#[test]
fn an_event_is_named_as_it_is_labelled() {
    for event in samples() {
        let value: serde_json::Value = serde_json::from_str(&json(&event)).expect("JSON");
        assert_eq!(value["event"], event.name());
    }
}

#[test]
fn a_record_begins_with_its_place_and_shows_times_and_fingerprints_as_text() {
    let issued = &samples()[5];
    assert_eq!(
        json(issued),
        r#"{"v":1,"seq":7,"time":"2023-11-14T22:13:20.123Z","event":"token_issued","token":"github","generation":1,"fingerprint":"FP","expires":"2023-11-14T22:13:20.000Z","source":"env"}"#
            .replace("FP", &Fingerprinter::new(&[1; 32]).of(&Secret::new("a")).to_string())
    );
}

#[test]
fn a_text_with_control_characters_stays_in_its_field() {
    let text = json(&Event::Stop { cause: "a\",\"event\":\"start\"}\r\n\u{1b}[31m\0".into() });
    assert!(!text.contains(char::is_control));
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["event"], "stop");
}

#[test]
fn a_long_detail_is_cut_between_characters() {
    let text = json(&Event::AuditFailed { operation: "write", detail: format!("a{}", "ä".repeat(MAX_DETAIL_BYTES)) });
    assert!(text.len() < MAX_DETAIL_BYTES + 200);
    assert!(text.contains("ä…\""));
}
