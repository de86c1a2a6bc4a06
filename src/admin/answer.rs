//! What the admin API answers: JSON, or the reason for a refusal in the form that the proxy's own refusals have (RFC 9457).
//!
//! Invariant: a refusal repeats nothing of the request but names that the config knows.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::drill::NotDrilled;
use super::requests::{NotDecided, NotSubmitted};
use super::{NotDone, NotReloaded};
use crate::access::approval::NotAllowed;
use crate::access::submission::Problem;
use crate::operator::Role;
use crate::token::RotateError;

/// What an endpoint gives back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    pub fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body }
    }

    pub fn into_response(self) -> Response<Full<Bytes>> {
        response(self.status, "application/json", &self.body)
    }
}

/// Why a call was refused, or what it asked for did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("nothing here is for this Host: call it by the address that it listens on")]
    HostUnknown,
    #[error("browsers have no business here")]
    BrowserRefused,
    #[error("too many calls of yours proved nothing: wait")]
    TooManyFailures(Duration),
    #[error("this proves no operator: give the key of one, or come as its user or with its certificate")]
    Unauthenticated,
    #[error("too many calls: wait")]
    RateLimited(Duration),
    #[error("there is nothing here: see /openapi.json")]
    NotFound,
    #[error("this path has the methods {0}")]
    MethodRefused(&'static str),
    #[error("this needs the role {0}")]
    NotAllowed(Role),
    #[error("this needs the role {0}, and whoever is known only by a user that an app or the proxy shares has it not")]
    NotToldApart(Role),
    #[error("the body of a POST is application/json")]
    ContentType,
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(usize),
    #[error("the body did not come in time")]
    RequestTimeout,
    #[error("{0}")]
    Invalid(String),
    #[error("there is no token of this name")]
    NoToken,
    #[error("there is no request of this id")]
    NoRequest,
    #[error("{0}")]
    NotInTrail(String),
    #[error("{0}")]
    NotSubmitted(NotSubmitted),
    #[error("{0}")]
    NotDecided(NotDecided),
    #[error("the token was not rotated: {0}")]
    NotRotated(RotateError),
    #[error("{0}")]
    NotDrilled(NotDrilled),
    #[error("{0}")]
    NotReloaded(NotReloaded),
    #[error("{0}")]
    NotDone(#[from] NotDone),
    #[error("nobody lets in again what is its own, or its group's")]
    OwnToken,
    #[error("the audit trail cannot be read")]
    TrailUnreadable,
    #[error("this took too long, and may still happen")]
    Slow,
}

/// What is told of a refusal.
struct Words {
    status: StatusCode,
    reason: &'static str,
    title: &'static str,
}

impl Refusal {
    fn words(&self) -> Words {
        use StatusCode as S;
        let (status, reason, title) = match self {
            Self::HostUnknown => (S::MISDIRECTED_REQUEST, "host_unknown", "Unknown host"),
            Self::BrowserRefused => (S::FORBIDDEN, "browser_refused", "Browsers are refused"),
            Self::TooManyFailures(_) => (S::TOO_MANY_REQUESTS, "too_many_failures", "Too many failures"),
            Self::Unauthenticated => (S::UNAUTHORIZED, "unauthenticated", "Not an operator"),
            Self::RateLimited(_) => (S::TOO_MANY_REQUESTS, "rate_limited", "Too many calls"),
            Self::NotFound => (S::NOT_FOUND, "not_found", "Not found"),
            Self::MethodRefused(_) => (S::METHOD_NOT_ALLOWED, "method_refused", "Method not allowed"),
            Self::NotAllowed(_) | Self::NotToldApart(_) => (S::FORBIDDEN, "not_allowed", "Not allowed"),
            Self::ContentType => (S::UNSUPPORTED_MEDIA_TYPE, "content_type", "Not JSON"),
            Self::BodyTooLarge(_) => (S::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large"),
            Self::RequestTimeout => (S::REQUEST_TIMEOUT, "request_timeout", "Request timeout"),
            Self::Invalid(_) => (S::UNPROCESSABLE_ENTITY, "invalid", "Invalid call"),
            Self::NoToken => (S::NOT_FOUND, "no_token", "No such token"),
            Self::NoRequest => (S::NOT_FOUND, "no_request", "No such request"),
            Self::NotInTrail(_) => (S::NOT_FOUND, "not_in_trail", "Not in the trail"),
            Self::NotSubmitted(NotSubmitted::NoToken(_)) => (S::NOT_FOUND, "no_token", "No such token"),
            Self::NotSubmitted(NotSubmitted::UnknownRefusal) => (S::NOT_FOUND, "no_refusal", "No such refusal"),
            Self::NotSubmitted(NotSubmitted::OtherToken(_)) => (S::CONFLICT, "other_token", "Of another token"),
            Self::NotSubmitted(NotSubmitted::Problems(problems)) if problems.iter().all(Problem::is_of_the_config) => {
                (S::CONFLICT, "not_offered", "Not offered by the config")
            }
            Self::NotSubmitted(NotSubmitted::Problems(_)) => (S::UNPROCESSABLE_ENTITY, "invalid", "Invalid request"),
            Self::NotSubmitted(NotSubmitted::NotTaken(_)) => (S::TOO_MANY_REQUESTS, "too_many_requests", "Too many"),
            Self::NotSubmitted(NotSubmitted::NotNow(_)) | Self::NotDecided(NotDecided::NotNow(_)) => {
                (S::SERVICE_UNAVAILABLE, "not_kept", "Not kept")
            }
            Self::NotSubmitted(NotSubmitted::Trail(_)) | Self::NotDecided(NotDecided::Trail(_)) => {
                (S::SERVICE_UNAVAILABLE, "audit_unavailable", "No audit trail")
            }
            Self::NotDecided(NotDecided::Unknown(_)) => (S::NOT_FOUND, "no_request", "No such request"),
            Self::NotDecided(NotDecided::NotAllowed(error)) => match error {
                NotAllowed::Decided(_) | NotAllowed::Edited(..) | NotAllowed::Past(_) => {
                    (S::CONFLICT, "not_pending", "Nothing to decide")
                }
                NotAllowed::NoReason => (S::UNPROCESSABLE_ENTITY, "invalid", "Invalid call"),
                NotAllowed::Role(..)
                | NotAllowed::NotToldApart(_)
                | NotAllowed::Own(_)
                | NotAllowed::Group(..)
                | NotAllowed::Twice(_) => (S::FORBIDDEN, "not_allowed", "Not allowed"),
            },
            Self::NotRotated(RotateError::Issuer(_)) => (S::BAD_GATEWAY, "not_rotated", "The issuer gave nothing"),
            Self::NotRotated(_) => (S::CONFLICT, "not_rotated", "Not rotated"),
            Self::NotDrilled(NotDrilled::NoToken) => (S::NOT_FOUND, "no_token", "No such token"),
            Self::NotDrilled(NotDrilled::NotReplaced(RotateError::Issuer(_))) => {
                (S::BAD_GATEWAY, "not_rotated", "The issuer gave nothing")
            }
            Self::NotDrilled(NotDrilled::NotInUse | NotDrilled::NotReplaced(_)) => {
                (S::CONFLICT, "not_rotated", "Not rotated")
            }
            Self::NotDrilled(NotDrilled::UnderWay) => (S::CONFLICT, "not_done", "Not done"),
            Self::NotDrilled(NotDrilled::Trail(_)) => (S::SERVICE_UNAVAILABLE, "audit_unavailable", "No audit trail"),
            Self::NotReloaded(NotReloaded::Problems(_)) => (S::UNPROCESSABLE_ENTITY, "config_refused", "Not reloaded"),
            Self::NotReloaded(NotReloaded::NeedsRestart(_) | NotReloaded::NoFile) => {
                (S::CONFLICT, "config_refused", "Not reloaded")
            }
            Self::NotReloaded(NotReloaded::NotNow(_)) => (S::SERVICE_UNAVAILABLE, "config_refused", "Not reloaded"),
            Self::NotDone(NotDone::NoClient) => (S::NOT_FOUND, "not_found", "No such client"),
            Self::NotDone(NotDone::NoToken) => (S::NOT_FOUND, "no_token", "No such token"),
            Self::NotDone(NotDone::Gone(_) | NotDone::NotReleased(_) | NotDone::NotHeld) => {
                (S::CONFLICT, "not_done", "Not done")
            }
            Self::NotDone(NotDone::Unkept(_) | NotDone::NotLifted(_)) => {
                (S::SERVICE_UNAVAILABLE, "not_kept", "Not written down")
            }
            Self::NotDone(NotDone::Stuck(_)) => (S::SERVICE_UNAVAILABLE, "not_confirmed", "Not confirmed"),
            Self::NotDone(NotDone::Trail(_)) => (S::SERVICE_UNAVAILABLE, "audit_unavailable", "No audit trail"),
            Self::OwnToken => (S::FORBIDDEN, "not_allowed", "Not allowed"),
            Self::TrailUnreadable => (S::SERVICE_UNAVAILABLE, "audit_unavailable", "No audit trail"),
            Self::Slow => (S::GATEWAY_TIMEOUT, "slow", "Too slow"),
        };
        Words { status, reason, title }
    }

    pub fn reason(&self) -> &'static str {
        self.words().reason
    }

    pub fn status(&self) -> StatusCode {
        self.words().status
    }

    /// Whether the caller was kept from something, as opposed to having asked for what is not there.
    pub fn is_denial(&self) -> bool {
        match self {
            Self::HostUnknown
            | Self::BrowserRefused
            | Self::TooManyFailures(_)
            | Self::Unauthenticated
            | Self::RateLimited(_)
            | Self::NotAllowed(_)
            | Self::NotToldApart(_)
            | Self::OwnToken => true,
            Self::NotDecided(NotDecided::NotAllowed(error)) => match error {
                NotAllowed::Role(..) | NotAllowed::NotToldApart(_) | NotAllowed::Own(_) | NotAllowed::Group(..) => true,
                NotAllowed::Twice(_)
                | NotAllowed::Decided(_)
                | NotAllowed::Edited(..)
                | NotAllowed::Past(_)
                | NotAllowed::NoReason => false,
            },
            Self::NotFound
            | Self::MethodRefused(_)
            | Self::ContentType
            | Self::BodyTooLarge(_)
            | Self::RequestTimeout
            | Self::Invalid(_)
            | Self::NoToken
            | Self::NoRequest
            | Self::NotInTrail(_)
            | Self::NotSubmitted(_)
            | Self::NotDecided(NotDecided::Unknown(_) | NotDecided::Trail(_) | NotDecided::NotNow(_))
            | Self::NotRotated(_)
            | Self::NotDrilled(_)
            | Self::NotReloaded(_)
            | Self::NotDone(_)
            | Self::TrailUnreadable
            | Self::Slow => false,
        }
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let seconds = |wait: &Duration| {
            HeaderValue::from(wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).clamp(1, 3600))
        };
        match self {
            Self::TooManyFailures(wait) | Self::RateLimited(wait) => Some((RETRY_AFTER, seconds(wait))),
            Self::Unauthenticated => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"countersign\""))),
            Self::MethodRefused(methods) => Some((ALLOW, HeaderValue::from_static(methods))),
            _ => None,
        }
    }

    pub fn into_response(self) -> Response<Full<Bytes>> {
        let Words { status, reason, title } = self.words();
        let mut body = json!({
            "type": format!("urn:countersign:{reason}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.to_string(),
            "reason": reason,
            "request_id": format!("{:016x}", fastrand::u64(..)),
        });
        let header = self.header();
        if let Self::NotReloaded(NotReloaded::Problems(problems)) = self {
            body["problems"] = problems;
        }
        let mut response = response(status, "application/problem+json", &body);
        response.headers_mut().extend(header);
        response
    }
}

fn response(status: StatusCode, kind: &'static str, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body:#}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
