//! What the trail tells: one event for each change of state. Events hold names, numbers, fingerprints and texts; no type
//! that holds a secret can be serialised. A text is data: whatever it contains, JSON escapes it into its own field.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

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
    /// What was live before the process started again is live still.
    TokenResumed {
        token: TokenName,
        generation: u64,
        fingerprint: Fingerprint,
        #[serde(serialize_with = "time")]
        expires: Duration,
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
    /// What the source that a token is to move to gave has stood: it is the token's from now on.
    TokenMoved {
        token: TokenName,
        generation: u64,
        /// The kinds of both.
        from: &'static str,
        source: &'static str,
    },
    /// A token was not moved to its next source, or not for long: the one that it had is in use.
    TokenMoveFailed {
        token: TokenName,
        source: &'static str,
        to: &'static str,
        reason: &'static str,
        #[serde(serialize_with = "capped")]
        detail: String,
        attempt: u32,
    },
    /// An issuer could not be asked, or gave no token.
    TokenFailed {
        token: TokenName,
        reason: &'static str,
        #[serde(serialize_with = "capped")]
        detail: String,
        attempt: u32,
    },
    /// Its API refuses, at its probe, a generation that it took before.
    TokenProbeRefused {
        token: TokenName,
        generation: u64,
        #[serde(serialize_with = "capped")]
        detail: String,
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
    /// Nothing came of what this record tells: whoever waited for it had given up before it was durable, or what was to follow
    /// could not be done.
    NotDone { of: u64 },
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
    /// What came of it.
    DrillFinished(Exchanged),
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
    /// What came of it.
    ReplacementFinished(Exchanged),
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
    /// How the active tokens stand: each day, and when it is otherwise than before.
    AccessMeasured(AccessCounts),
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
    /// An upstream announces its end: its `deprecation` or its `sunset`.
    UpstreamChange {
        route: RouteName,
        change: &'static str,
        /// Absent: it does not say when.
        #[serde(serialize_with = "time_or_none", skip_serializing_if = "Option::is_none")]
        at: Option<Duration>,
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<String>,
    },
    /// The same of what we call ourselves, by its URL.
    IssuerChange {
        issuer: String,
        change: &'static str,
        #[serde(serialize_with = "time_or_none", skip_serializing_if = "Option::is_none")]
        at: Option<Duration>,
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<String>,
    },
    /// What an issuer tells of itself (RFC 8414) is not what it told before.
    IssuerMetadataChanged {
        token: TokenName,
        issuer: String,
        /// By the name that it has in the document.
        what: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// The process before ended without a stop: use after that moment is not told, which is a second's at most.
    UsageGap { from: String },
}

/// What came of the replacement of a generation, and how long its steps took that were gone.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Exchanged {
    pub token: TokenName,
    pub replaced: u64,
    /// Absent: the issuer gave none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Whether all steps were done within their time.
    pub complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoke_ms: Option<u64>,
}

/// How many tokens are active, and how many of those stand how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccessCounts {
    pub active: u64,
    pub least_privilege: u64,
    pub unused: u64,
    pub long_lived: u64,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_source: Option<String>,
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
            Self::TokenResumed { .. } => "token_resumed",
            Self::TokenProlonged { .. } => "token_prolonged",
            Self::TokenMoved { .. } => "token_moved",
            Self::TokenMoveFailed { .. } => "token_move_failed",
            Self::TokenFailed { .. } => "token_failed",
            Self::TokenProbeRefused { .. } => "token_probe_refused",
            Self::TokenRejected { .. } => "token_rejected",
            Self::TokenRefused { .. } => "token_refused",
            Self::TokenExpired { .. } => "token_expired",
            Self::TokenFirstUsed { .. } => "token_first_used",
            Self::TokenRetired { .. } => "token_retired",
            Self::AuditTailRepaired { .. } => "audit_tail_repaired",
            Self::NotDone { .. } => "not_done",
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
            Self::DrillFinished(_) => "drill_finished",
            Self::ReplacementStarted { .. } => "replacement_started",
            Self::ReplacementFinished(_) => "replacement_finished",
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
            Self::AccessMeasured(_) => "access_measured",
            Self::AccessReviewed { .. } => "access_reviewed",
            Self::ReviewOverdue { .. } => "review_overdue",
            Self::GhostFound { .. } => "ghost_found",
            Self::GhostGone { .. } => "ghost_gone",
            Self::Anomaly { .. } => "anomaly",
            Self::Tripwire { .. } => "tripwire",
            Self::UpstreamChange { .. } => "upstream_change",
            Self::IssuerChange { .. } => "issuer_change",
            Self::IssuerMetadataChanged { .. } => "issuer_metadata_changed",
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
pub(super) mod tests;
