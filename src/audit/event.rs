//! What the trail tells: one event for each change of state. Events hold names, numbers, fingerprints and texts; no type
//! that holds a secret can be serialised. A text is data: whatever it contains, JSON escapes it into its own field.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::used::{Request, Used};
use crate::clock::Moment;
use crate::name::{ClientName, OperatorName, RouteName, TokenName};
use crate::secret::Fingerprint;

/// One change of state. Fields named `reason` that are `&'static str` hold the stable name of a failure; times are since
/// the Unix epoch.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The process takes up its work.
    Start { version: &'static str, config_digest: String },
    /// The process ends, and why.
    Stop { cause: String },
    /// A new configuration is in force.
    Reload { config_digest: String },
    /// A new configuration had problems: the old one stays.
    ReloadRefused { problems: u32 },
    /// The files of the listeners under TLS were replaced, and taken.
    ListenerCertificatesReplaced,
    /// They were, and cannot be used: those before them go on.
    ListenerCertificatesRefused {
        #[serde(serialize_with = "capped")]
        detail: String,
    },
    /// Somebody asked for a token, with the four things that each token needs.
    TokenRequested(Box<Requested>),
    /// The first generation of a token is live.
    TokenIssued {
        token: TokenName,
        generation: u64,
        fingerprint: Fingerprint,
        #[serde(serialize_with = "time")]
        expires: Duration,
        source: &'static str,
        /// Its number where it was found.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
    /// A generation took the place of another.
    TokenRotated {
        token: TokenName,
        generation: u64,
        replaces: u64,
        /// Why: `due`, `asked` for, `changed` at its source, or `rejected` by an upstream's 401.
        cause: &'static str,
        fingerprint: Fingerprint,
        #[serde(serialize_with = "time")]
        expires: Duration,
        source: &'static str,
        /// As for [`Event::TokenIssued`].
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
    /// The issuer renewed the live generation: it ends later now.
    TokenProlonged {
        token: TokenName,
        generation: u64,
        #[serde(serialize_with = "time")]
        expires: Duration,
    },
    /// Upstreams refused a generation that had just gone live: the value of the one before it is live again.
    TokenRolledBack {
        token: TokenName,
        generation: u64,
        replaces: u64,
        /// Under which number the value was live before.
        restores: u64,
        fingerprint: Fingerprint,
        #[serde(serialize_with = "time")]
        expires: Duration,
    },
    /// An issuer could not be asked, or gave no token.
    TokenFailed {
        token: TokenName,
        reason: &'static str,
        #[serde(serialize_with = "capped")]
        detail: String,
        attempt: u32,
    },
    /// An issuer's answer was refused.
    TokenRejected {
        token: TokenName,
        reason: &'static str,
        #[serde(serialize_with = "capped")]
        detail: String,
    },
    /// Requests were refused because the token could not be attached.
    TokenRefused { token: TokenName, route: RouteName, client: ClientName, reason: &'static str, count: u64 },
    /// The live generation expired before another took its place.
    TokenExpired { token: TokenName, generation: u64 },
    /// An upstream accepted a request with the token, for the first time since this process has it.
    TokenFirstUsed { token: TokenName, generation: u64 },
    /// A replaced generation is no longer used, and wiped.
    TokenRetired { token: TokenName, generation: u64 },
    /// An incomplete end of the trail, left by a crash, was cut.
    AuditTailRepaired { bytes: u64 },
    /// Records that never reached the trail.
    AuditRecordsLost { count: u64 },
    /// The trail could not be written for a while.
    AuditFailed {
        operation: &'static str,
        #[serde(serialize_with = "capped")]
        detail: String,
    },
    /// A token was taken out of use; its generation is kept.
    TokenQuarantined {
        token: TokenName,
        generation: u64,
        by: String,
        #[serde(serialize_with = "capped")]
        reason: String,
        /// When that began for which it is taken out of use, as far as is known.
        #[serde(serialize_with = "time_or_none", skip_serializing_if = "Option::is_none")]
        since: Option<Duration>,
    },
    /// A token's generations were voided.
    TokenRevoked {
        token: TokenName,
        generation: u64,
        by: String,
        #[serde(serialize_with = "capped")]
        reason: String,
        /// As for [`Event::TokenQuarantined`].
        #[serde(serialize_with = "time_or_none", skip_serializing_if = "Option::is_none")]
        since: Option<Duration>,
    },
    /// What was quarantined or revoked is let in again.
    TokenReleased {
        token: TokenName,
        by: String,
        #[serde(serialize_with = "capped")]
        reason: String,
    },
    /// An issuer was told that a generation is void: what came of it.
    GenerationRevoked {
        token: TokenName,
        generation: u64,
        fingerprint: Fingerprint,
        cause: &'static str,
        outcome: &'static str,
        attempts: u32,
    },
    /// A token was retired because nobody has used it for long.
    TokenUnused {
        token: TokenName,
        /// Absent: never.
        #[serde(serialize_with = "time_or_none", skip_serializing_if = "Option::is_none")]
        last_used: Option<Duration>,
    },
    /// A token was retired because no client has a version any more that its routes are for.
    TokenOutdated {
        token: TokenName,
        #[serde(serialize_with = "time")]
        since: Duration,
    },
    /// Something is held back from a client, because its use is unusual: `throttle` or `approval`, of a token; `block`, of all.
    ClientHeld {
        client: ClientName,
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<TokenName>,
        hold: &'static str,
        by: String,
        #[serde(serialize_with = "capped")]
        reason: String,
        /// When that began for which it is held back.
        #[serde(serialize_with = "time")]
        since: Duration,
    },
    /// A client has that again which was held back from it: of one token, or all.
    ClientReleased {
        client: ClientName,
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<TokenName>,
        by: String,
        #[serde(serialize_with = "capped")]
        reason: String,
    },
    /// Somebody rehearses a compromise of this generation.
    DrillStarted {
        token: TokenName,
        generation: u64,
        by: String,
        #[serde(serialize_with = "capped")]
        reason: String,
    },
    /// What came of it, and how long its steps took that were gone.
    DrillFinished {
        token: TokenName,
        replaced: u64,
        /// Absent: the issuer gave none.
        #[serde(skip_serializing_if = "Option::is_none")]
        generation: Option<u64>,
        /// Whether all steps were done within the drill.
        complete: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        replace_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        quarantine_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        revoke_ms: Option<u64>,
    },
    /// The use of a token was such that this generation is to be void.
    ReplacementStarted {
        token: TokenName,
        generation: u64,
        by: String,
        #[serde(serialize_with = "capped")]
        reason: String,
        /// When that began.
        #[serde(serialize_with = "time_or_none", skip_serializing_if = "Option::is_none")]
        since: Option<Duration>,
    },
    /// What came of it, as of a drill.
    ReplacementFinished {
        token: TokenName,
        replaced: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        generation: Option<u64>,
        complete: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        replace_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        quarantine_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        revoke_ms: Option<u64>,
    },
    /// An operator's call of the admin API.
    AdminCall {
        operator: OperatorName,
        call: String,
        status: u16,
        #[serde(serialize_with = "capped_option", skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Calls of the admin API that were denied, of one kind, within a second.
    AdminDenied {
        operator: Option<OperatorName>,
        source: String,
        /// As the description has it; none where there is no such call.
        call: Option<String>,
        reason: &'static str,
        count: u64,
    },
    /// Somebody approved a request; so many more approvals are missing.
    AccessApproved { request: String, token: TokenName, by: String, reason: String, missing: u32 },
    /// A request was granted: by a rule, or by everybody who has to approve.
    AccessGranted {
        request: String,
        digest: String,
        token: TokenName,
        by: String,
        /// Absent: for ever.
        #[serde(serialize_with = "time_or_none", skip_serializing_if = "Option::is_none")]
        until: Option<Duration>,
    },
    /// A request was denied, or what it was granted was taken away.
    AccessDenied { request: String, token: TokenName, by: String, reason: String },
    /// Nothing more comes of a request: it `expired`, was `superseded` or `withdrawn`, or is `unanswered`.
    AccessEnded { request: String, token: TokenName, cause: &'static str },
    /// A signed grant does not count.
    GrantRefused { file: String, reason: String },
    /// A record of the state folder is not used.
    StateRejected { file: String, reason: String },
    /// What a client has used a token for, in sum.
    Usage(Used),
    /// What a client has used a token for, or a route without one: one request.
    Request(Request),
    /// Somebody has reviewed what tokens are used for.
    AccessReviewed { by: OperatorName, reason: String },
    /// A review of access was due then, and nobody has made it.
    ReviewOverdue {
        #[serde(serialize_with = "time")]
        due: Duration,
    },
    /// The token's issuer lists something as issued that nobody here has.
    GhostFound {
        token: TokenName,
        /// What the issuer knows it by.
        #[serde(serialize_with = "capped")]
        id: String,
        #[serde(serialize_with = "time_or_none")]
        issued: Option<Duration>,
        #[serde(serialize_with = "time_or_none")]
        expires: Option<Duration>,
    },
    /// Its issuer lists it no more, or it is ours.
    GhostGone {
        token: TokenName,
        #[serde(serialize_with = "capped")]
        id: String,
    },
    /// The use of a token was unusual, or what a client did without one, and what was done about it.
    Anomaly {
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<TokenName>,
        client: String,
        signal: &'static str,
        score: f64,
        severity: &'static str,
        response: &'static str,
        /// What a person reads: counts, names of methods and hosts; nothing that a request says otherwise.
        #[serde(serialize_with = "capped")]
        said: String,
        #[serde(serialize_with = "time")]
        since: Duration,
    },
    /// A phantom key was seen where it cannot be: `client` is whose it is.
    Tripwire {
        client: ClientName,
        /// `other_client`, `other_host` or `wrong_place`.
        cause: &'static str,
        /// Absent: from somebody who is no client.
        #[serde(skip_serializing_if = "Option::is_none")]
        sent_by: Option<ClientName>,
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// Where it was to go, and that route's token.
        #[serde(skip_serializing_if = "Option::is_none")]
        route: Option<RouteName>,
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<TokenName>,
        count: u64,
    },
    /// The process before ended without a stop: use after that moment is not told, which is a second's at most.
    UsageGap { from: String },
}

/// An access request, and what the rules make of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Requested {
    pub token: TokenName,
    pub owner: String,
    pub reason: String,
    pub scopes: Vec<String>,
    pub hosts: Vec<String>,
    /// Each with what it allows.
    pub routes: Vec<String>,
    /// Neither this nor `for_seconds`: it is permanent.
    #[serde(serialize_with = "time_or_none", skip_serializing_if = "Option::is_none")]
    pub grant_ends: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
    pub source: String,
    pub request: String,
    pub digest: String,
    pub requester: String,
    /// Its level, and what it is made of.
    #[serde(serialize_with = "capped")]
    pub risk: String,
    /// What the rules make of it: `approve`, `ask` or `deny`.
    pub decision: &'static str,
    pub decided_by: String,
}

impl Event {
    /// The value of the `event` field, and of the label of `countersign_audit_records_total`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Reload { .. } => "reload",
            Self::ReloadRefused { .. } => "reload_refused",
            Self::ListenerCertificatesReplaced => "listener_certificates_replaced",
            Self::ListenerCertificatesRefused { .. } => "listener_certificates_refused",
            Self::TokenRequested(_) => "token_requested",
            Self::TokenIssued { .. } => "token_issued",
            Self::TokenRotated { .. } => "token_rotated",
            Self::TokenRolledBack { .. } => "token_rolled_back",
            Self::TokenProlonged { .. } => "token_prolonged",
            Self::TokenFailed { .. } => "token_failed",
            Self::TokenRejected { .. } => "token_rejected",
            Self::TokenRefused { .. } => "token_refused",
            Self::TokenExpired { .. } => "token_expired",
            Self::TokenFirstUsed { .. } => "token_first_used",
            Self::TokenRetired { .. } => "token_retired",
            Self::AuditTailRepaired { .. } => "audit_tail_repaired",
            Self::AuditRecordsLost { .. } => "audit_records_lost",
            Self::AuditFailed { .. } => "audit_failed",
            Self::TokenQuarantined { .. } => "token_quarantined",
            Self::TokenRevoked { .. } => "token_revoked",
            Self::TokenReleased { .. } => "token_released",
            Self::GenerationRevoked { .. } => "generation_revoked",
            Self::TokenUnused { .. } => "token_unused",
            Self::TokenOutdated { .. } => "token_outdated",
            Self::ClientHeld { .. } => "client_held",
            Self::ClientReleased { .. } => "client_released",
            Self::DrillStarted { .. } => "drill_started",
            Self::DrillFinished { .. } => "drill_finished",
            Self::ReplacementStarted { .. } => "replacement_started",
            Self::ReplacementFinished { .. } => "replacement_finished",
            Self::AdminCall { .. } => "admin_call",
            Self::AdminDenied { .. } => "admin_denied",
            Self::AccessApproved { .. } => "access_approved",
            Self::AccessGranted { .. } => "access_granted",
            Self::AccessDenied { .. } => "access_denied",
            Self::AccessEnded { .. } => "access_ended",
            Self::GrantRefused { .. } => "grant_refused",
            Self::StateRejected { .. } => "state_rejected",
            Self::Usage(_) => "usage",
            Self::Request(_) => "request",
            Self::AccessReviewed { .. } => "access_reviewed",
            Self::ReviewOverdue { .. } => "review_overdue",
            Self::GhostFound { .. } => "ghost_found",
            Self::GhostGone { .. } => "ghost_gone",
            Self::Anomaly { .. } => "anomaly",
            Self::Tripwire { .. } => "tripwire",
            Self::UsageGap { .. } => "usage_gap",
        }
    }
}

/// An event with its place in the trail: the JSON of one line.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    #[serde(rename = "v")]
    pub version: u32,
    pub seq: u64,
    #[serde(serialize_with = "time")]
    pub time: Duration,
    #[serde(flatten)]
    pub event: &'a Event,
}

fn time<S: Serializer>(since_epoch: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&Moment { boot: Duration::ZERO, wall: *since_epoch }.to_rfc3339())
}

fn time_or_none<S: Serializer>(since_epoch: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match since_epoch {
        Some(since_epoch) => time(since_epoch, serializer),
        None => serializer.serialize_none(),
    }
}

/// Details come from outside (an issuer's error text): a long one is cut, so that it cannot crowd out the trail.
pub(super) fn capped<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    if text.len() <= MAX_DETAIL_BYTES {
        return serializer.serialize_str(text);
    }
    let cut = text.floor_char_boundary(MAX_DETAIL_BYTES);
    serializer.collect_str(&format_args!("{}…", &text[..cut]))
}

fn capped_option<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => capped(text, serializer),
        None => serializer.serialize_none(),
    }
}

const MAX_DETAIL_BYTES: usize = 2048;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::secret::{Fingerprinter, Secret};

    /// One of each.
    pub fn samples() -> Vec<Event> {
        let token: TokenName = "github".parse().expect("a name");
        let fingerprint = Fingerprinter::new(&[1; 32]).of(&Secret::new("a"));
        let expires = Duration::from_secs(1_700_000_000);
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
                request: "00112233aabbccdd".into(),
                digest: "00112233aabbccdd".repeat(4),
                requester: "the owner of the config file".into(),
                risk: "low".into(),
                decision: "approve",
                decided_by: "rule read-only".into(),
            })),
            Event::TokenIssued {
                token: token.clone(),
                generation: 1,
                fingerprint,
                expires,
                source: "env",
                version: None,
            },
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
            Event::TokenRolledBack {
                token: token.clone(),
                generation: 3,
                replaces: 2,
                restores: 1,
                fingerprint,
                expires,
            },
            Event::TokenProlonged { token: token.clone(), generation: 2, expires },
            Event::TokenFailed { token: token.clone(), reason: "timeout", detail: "…".into(), attempt: 3 },
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
            Event::DrillFinished {
                token: token.clone(),
                replaced: 1,
                generation: Some(2),
                complete: true,
                replace_ms: Some(12),
                quarantine_ms: Some(1),
                revoke_ms: Some(20),
            },
            Event::ReplacementStarted {
                token: token.clone(),
                generation: 1,
                by: "detection".into(),
                reason: "anomaly: errors".into(),
                since: Some(expires),
            },
            Event::ReplacementFinished {
                token: token.clone(),
                replaced: 1,
                generation: Some(2),
                complete: true,
                replace_ms: Some(12),
                quarantine_ms: Some(1),
                revoke_ms: Some(20),
            },
            Event::AuditTailRepaired { bytes: 17 },
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
        let text =
            json(&Event::AuditFailed { operation: "write", detail: format!("a{}", "ä".repeat(MAX_DETAIL_BYTES)) });
        assert!(text.len() < MAX_DETAIL_BYTES + 200);
        assert!(text.contains("ä…\""));
    }
}
