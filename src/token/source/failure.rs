//! Why a source has no token: what to count it under, what to do about it, and what to tell an operator.

use std::time::Duration;

use crate::dial::DialError;
use crate::fetch::FetchError;

/// A failed attempt to obtain a token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    pub reason: Reason,
    pub class: Class,
    /// A sentence for an operator. It holds no token, no secret and no raw bytes of an answer.
    pub detail: String,
}

/// What a failure means for the next attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// It may well pass: try again, but not sooner than the issuer asks for.
    Transient { retry_after: Option<Duration> },
    /// The issuer, or the config, says no: nothing changes until somebody changes something.
    Refused,
    /// The grant is gone: a human has to log in again.
    Reauthenticate,
}

/// The stable name of a failure: the label `reason` of `rotation_failures_total`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    // No answer.
    Prohibited,
    Resolve,
    Connect,
    Tls,
    Timeout,
    CutOff,
    // An answer that says no.
    Status,
    Redirected,
    RateLimited,
    AccessDenied,
    InvalidClient,
    InvalidGrant,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    UnauthorizedClient,
    UnsupportedGrantType,
    IssuerError,
    // An answer that is not one.
    ContentType,
    TooLarge,
    Malformed,
    // A token that cannot be used.
    TokenMissing,
    TokenCharset,
    TokenType,
    Lifetime,
    Expired,
    /// It would end before the live one.
    Worse,
    Scope,
    /// It was revoked.
    Revoked,
    /// The API refuses it.
    Probe,
    /// The API does not say what it thinks of it.
    ProbeUnanswered,
    // What we bring ourselves.
    Secret,
    Key,
    Program,
    /// The state folder cannot be used.
    State,
}

impl Reason {
    /// All of them: metrics are there from the start, at zero.
    pub const ALL: [Self; 35] = [
        Self::Prohibited,
        Self::Resolve,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::CutOff,
        Self::Status,
        Self::Redirected,
        Self::RateLimited,
        Self::AccessDenied,
        Self::InvalidClient,
        Self::InvalidGrant,
        Self::InvalidRequest,
        Self::InvalidScope,
        Self::InvalidTarget,
        Self::UnauthorizedClient,
        Self::UnsupportedGrantType,
        Self::IssuerError,
        Self::ContentType,
        Self::TooLarge,
        Self::Malformed,
        Self::TokenMissing,
        Self::TokenCharset,
        Self::TokenType,
        Self::Lifetime,
        Self::Expired,
        Self::Worse,
        Self::Scope,
        Self::Revoked,
        Self::Probe,
        Self::ProbeUnanswered,
        Self::Secret,
        Self::Key,
        Self::Program,
        Self::State,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prohibited => "prohibited",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::CutOff => "cut_off",
            Self::Status => "status",
            Self::Redirected => "redirected",
            Self::RateLimited => "rate_limited",
            Self::AccessDenied => "access_denied",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidScope => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::IssuerError => "issuer_error",
            Self::ContentType => "content_type",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::TokenMissing => "token_missing",
            Self::TokenCharset => "token_charset",
            Self::TokenType => "token_type",
            Self::Lifetime => "lifetime",
            Self::Expired => "expired",
            Self::Worse => "worse",
            Self::Scope => "scope",
            Self::Revoked => "revoked",
            Self::Probe => "probe",
            Self::ProbeUnanswered => "probe_unanswered",
            Self::Secret => "secret",
            Self::Key => "key",
            Self::Program => "program",
            Self::State => "state",
        }
    }
}

impl Failure {
    pub fn refused(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, class: Class::Refused, detail: detail.into() }
    }

    pub fn transient(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, class: Class::Transient { retry_after: None }, detail: detail.into() }
    }
}

impl From<FetchError> for Failure {
    /// No answer is never a "no": DNS, networks and certificates are repaired without a word to us.
    fn from(error: FetchError) -> Self {
        Self::transient(Reason::from(&error), error.to_string())
    }
}

impl From<&FetchError> for Reason {
    fn from(error: &FetchError) -> Self {
        match error {
            FetchError::Dial(DialError::Prohibited(_) | DialError::Clear(_) | DialError::Metadata(_)) => {
                Self::Prohibited
            }
            FetchError::Dial(DialError::Proxy { .. } | DialError::Tunnel { .. }) => Self::Connect,
            FetchError::Dial(DialError::Resolve(..)) => Self::Resolve,
            FetchError::Dial(DialError::Refused(_) | DialError::Connect(..)) => Self::Connect,
            FetchError::Dial(DialError::Tls { .. }) | FetchError::Tls(_) | FetchError::Alert(_) => Self::Tls,
            FetchError::Dial(DialError::Timeout(_)) | FetchError::Timeout => Self::Timeout,
            FetchError::CutOff => Self::CutOff,
            FetchError::HeadTooLarge | FetchError::BodyTooLarge => Self::TooLarge,
            FetchError::NotHttp(_) | FetchError::Unwritable => Self::Malformed,
        }
    }
}
