//! Every refusal the proxy makes itself, and the one table that says it in HTTP: status, reason, RFC 9209 error.
//!
//! Invariant: an answer never repeats bytes of the request, and is never 401: an SDK would take that for the API's word.

mod cause;

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, PROXY_AUTHENTICATE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode, Version};
use prometheus::IntCounter;

use super::answer::Fault;
use super::grpc;
use super::message::{Fields, Response};
use super::tripwire::Tripped;
use super::wanted::command;
use crate::access::request::RequestId;
use crate::identity::job::Refused;
use crate::metrics::{Error as MetricsError, Metrics as Registry};
use crate::name::{RouteName, TokenName};
use crate::path::PathError;
use crate::policy::limit::Exceeded;

const NO_CLIENT: &str = "No client of the configuration is this process. Run the app as the user that `[[client]]` names; \
                         over TLS, give it a certificate that has the `spiffe` or `dns` name of one.";

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("The request's head is not well-formed HTTP/1.1.")]
    Framing,
    #[error("The Host header and the request's target name different hosts, or there is more than one Host.")]
    HostMismatch,
    #[error("{0}")]
    PathAmbiguous(#[from] PathError),
    #[error("The query holds a character that must be percent-encoded.")]
    QueryAmbiguous,
    #[error("{NO_CLIENT}")]
    ClientUnknown,
    // In the same words: whoever has found a key learns nothing of it.
    #[error("{NO_CLIENT}")]
    Tripped(Box<Tripped>),
    #[error("The job's token proves nothing: {0}.")]
    JobRefused(Refused),
    #[error("The issuer of the job's token cannot be asked for its keys.")]
    ClientUnverified,
    #[error(
        "The client is known by a phantom key, or by the token of its job, and the request has none. Send it where the API key goes, or in Proxy-Authorization, as HTTP_PROXY=http://app:KEY@... does."
    )]
    ClientAuthRequired,
    #[error("This client is blocked. An operator can release it: countersign clients release NAME.")]
    ClientBlocked,
    #[error("The route is not for this client: see `clients` of the route.")]
    RouteDenied,
    #[error("The route allows this path, but not with this method: see `allow` of the route.")]
    MethodDenied,
    #[error("The route does not allow this path: see `allow` and `deny` of the route.")]
    PathDenied,
    #[error(
        "The answer would be a credential of its own, which the client would keep: see `minting` of the route, or what its `preset` says there."
    )]
    DerivedCredential,
    #[error("This client may not use this method here, although the route allows it: see `allow` of the [[client]].")]
    MethodDeniedToClient,
    #[error(
        "This client may not use this path, although the route allows it: see `allow` and `deny` of the [[client]]."
    )]
    PathDeniedToClient,
    #[error("The upstream's address may not be reached: {0}. Name it in `[proxy.destinations] allow` if it is meant.")]
    DestinationProhibited(String),
    #[error("The request comes from a web page. Browsers may not use this proxy.")]
    BrowserRefused,
    #[error(
        "No tunnel leads there. To a host with a route: `intercept = true` on the route, and an app that trusts `countersign ca export`; or the route's base URL. To any other: a route, or `unrouted = \"tunnel\"` in [proxy] for port 443."
    )]
    TunnelDenied,
    #[error(
        "This client has lists or a rate of its own (`allow`, `deny`, `rate`), and what a tunnel carries cannot be held to them. With `intercept = true` on a route it can, for an app that trusts `countersign ca export`; or use the route's base URL."
    )]
    TunnelDeniedToClient,
    #[error("The token's grant has ended: its owner can renew it by setting a later `expires` after a review.")]
    GrantEnded,
    #[error("The request for this token, {0}, waits for an approver. The token works the moment it is approved.")]
    ApprovalPending(RequestId),
    #[error("The request for this token, {0}, was denied.")]
    ApprovalDenied(RequestId),
    #[error(
        "The client's use of this token is unusual: its request {0} waits for an approver. The token works the moment it is approved."
    )]
    UseAwaiting(RequestId),
    #[error(
        "The client's use of this token is unusual, and its request {0} was not approved. An operator can release the token: countersign tokens release NAME."
    )]
    UseDenied(RequestId),
    #[error("Somebody has taken the token out of use. An operator can release it: countersign tokens release NAME.")]
    TokenQuarantined,
    #[error("The token was revoked. An operator can release it for a new one: countersign tokens release NAME.")]
    TokenRevoked,
    #[error("The upstream's URL is plain http, and its name leads to another machine.")]
    PlaintextUpstream,
    #[error("No route has this name or authority.")]
    NoRoute,
    #[error("This method is never forwarded.")]
    MethodRefused,
    #[error("The request's head did not arrive in time.")]
    RequestTimeout,
    #[error("The request's body made no progress in time.")]
    BodyTimeout,
    #[error("The request's body is not well-formed.")]
    BodyMalformed,
    #[error("The client's connection ended before the request's body did.")]
    ClientGone,
    #[error("The request's target is longer than the limit.")]
    TargetTooLong,
    #[error("Only `Expect: 100-continue` is understood.")]
    ExpectRefused,
    #[error("The Host header names neither this machine's loopback address nor a route.")]
    HostUnknown,
    #[error("The request's header fields are more, or larger, than the limit.")]
    HeadersTooLarge,
    #[error("The upstream could not be reached: {0}.")]
    UpstreamConnect(String),
    #[error("The upstream's TLS could not be trusted: {0}.")]
    UpstreamTls(String),
    #[error("The upstream's certificate could not be verified: {0}.")]
    UpstreamCertificate(String),
    #[error("The upstream does not want this TLS connection: {0}.")]
    UpstreamAlert(String),
    #[error("The upstream's answer was not well-formed HTTP, or it closed the connection early.")]
    UpstreamProtocol,
    #[error("The upstream's answer may not be passed on: {0}.")]
    UpstreamAnswer(#[from] Fault),
    #[error("The upstream did not answer in time.")]
    UpstreamTimeout,
    #[error("The upstream could not be reached in time: {0}.")]
    ConnectTimeout(String),
    #[error("The first token has not arrived from its issuer yet.")]
    TokenPending,
    #[error("The token has expired, and its issuer has given no other. Nothing was sent.")]
    TokenExpired { retry_after: Option<Duration> },
    #[error("The token is held while it is rotated, and its issuer has not given the new one yet. Nothing was sent.")]
    TokenHeld,
    #[error("The issuer gives no token. Nothing was sent.")]
    TokenUnavailable { retry_after: Duration },
    #[error("The issuer wants its operator to sign in again. Nothing was sent.")]
    ReauthRequired,
    #[error("The audit trail cannot be written, and the configuration wants no token used then.")]
    AuditUnavailable,
    #[error("There are as many connections as the limit allows.")]
    Overloaded,
    #[error("There is no room for another request's body that has to be hashed for its signature.")]
    NoRoomToSign,
    #[error("The request has passed through this proxy before: its upstream leads back here.")]
    Loop,
    #[error("A header field cannot be passed on: {0}.")]
    HeaderInvalid(&'static str),
    #[error("This client has as many requests under way as `limits.concurrency` of the route allows.")]
    Busy,
    #[error("The request's body is longer than `limits.body` of the route allows.")]
    BodyTooLarge,
    #[error(
        "The request's body is too long to be hashed for its signature: no more than 16 MiB are. To AWS the client may declare it, in x-amz-content-sha256."
    )]
    BodyUnsignable,
    #[error("This client sends more requests than `rate` of the route allows.")]
    RateLimited(Exceeded),
    #[error("The client's use of this token is unusual: until that is over it is held to what is usual.")]
    Throttled(Exceeded),
    #[error("This client sends more requests than `rate` of its [[client]] allows, over all routes.")]
    RateOfClient(Exceeded),
}

/// A refusal in the words of HTTP.
#[derive(Clone, Copy)]
struct Words {
    status: StatusCode,
    reason: &'static str,
    title: &'static str,
    /// RFC 9209, section 2.3
    proxy_error: &'static str,
}

/// The names of every reason, for a counter that is there from the start.
const REASONS: [&str; 40] = [
    "framing",
    "host_mismatch",
    "path_ambiguous",
    "client_unknown",
    "client_auth_required",
    "client_unverified",
    "route_denied",
    "method_denied",
    "path_denied",
    "derived_credential",
    "destination_prohibited",
    "browser_refused",
    "tunnel_denied",
    "approval_pending",
    "approval_denied",
    "token_quarantined",
    "token_revoked",
    "plaintext_upstream",
    "no_route",
    "method_refused",
    "request_timeout",
    "target_too_long",
    "expect_refused",
    "host_unknown",
    "headers_too_large",
    "upstream_connect",
    "upstream_tls",
    "upstream_protocol",
    "upstream_timeout",
    "token_pending",
    "token_expired",
    "token_unavailable",
    "reauth_required",
    "audit_unavailable",
    "overloaded",
    "loop",
    "header_invalid",
    "body_too_large",
    "rate_limited",
    "throttled",
];

impl Refusal {
    /// The one table from refusals to HTTP.
    fn words(&self) -> Words {
        const DENIED: &str = "http_request_denied";
        const MALFORMED: &str = "http_request_error";
        const CONFIGURATION: &str = "proxy_configuration_error";
        let words = |status, reason, title, proxy_error| Words { status, reason, title, proxy_error };
        match self {
            Self::Framing => words(StatusCode::BAD_REQUEST, "framing", "Malformed request", MALFORMED),
            Self::HostMismatch => words(StatusCode::BAD_REQUEST, "host_mismatch", "Host mismatch", MALFORMED),
            Self::PathAmbiguous(_) => words(StatusCode::BAD_REQUEST, "path_ambiguous", "Ambiguous path", MALFORMED),
            Self::QueryAmbiguous => words(StatusCode::BAD_REQUEST, "path_ambiguous", "Ambiguous query", MALFORMED),
            Self::ClientUnknown | Self::Tripped(_) | Self::JobRefused(_) => {
                words(StatusCode::FORBIDDEN, "client_unknown", "Unknown client", DENIED)
            }
            Self::ClientUnverified => unavailable("client_unverified", "Client not verified"),
            Self::ClientAuthRequired => words(
                StatusCode::PROXY_AUTHENTICATION_REQUIRED,
                "client_auth_required",
                "Client authentication required",
                DENIED,
            ),
            Self::ClientBlocked => words(StatusCode::FORBIDDEN, "client_unknown", "Client blocked", DENIED),
            Self::RouteDenied => words(StatusCode::FORBIDDEN, "route_denied", "Route denied", DENIED),
            Self::MethodDenied | Self::MethodDeniedToClient => {
                words(StatusCode::FORBIDDEN, "method_denied", "Method denied", DENIED)
            }
            Self::PathDenied | Self::PathDeniedToClient => {
                words(StatusCode::FORBIDDEN, "path_denied", "Path denied", DENIED)
            }
            Self::DerivedCredential => words(StatusCode::FORBIDDEN, "derived_credential", "Derived credential", DENIED),
            Self::DestinationProhibited(_) => words(
                StatusCode::FORBIDDEN,
                "destination_prohibited",
                "Destination prohibited",
                "destination_ip_prohibited",
            ),
            Self::BrowserRefused => words(StatusCode::FORBIDDEN, "browser_refused", "Browser refused", DENIED),
            Self::TunnelDenied | Self::TunnelDeniedToClient => {
                words(StatusCode::FORBIDDEN, "tunnel_denied", "Tunnel denied", DENIED)
            }
            Self::GrantEnded => words(StatusCode::FORBIDDEN, "approval_denied", "Grant ended", DENIED),
            Self::ApprovalPending(_) => words(StatusCode::FORBIDDEN, "approval_pending", "Approval pending", DENIED),
            Self::ApprovalDenied(_) => words(StatusCode::FORBIDDEN, "approval_denied", "Approval denied", DENIED),
            Self::UseAwaiting(_) => words(StatusCode::FORBIDDEN, "approval_pending", "Approval pending", DENIED),
            Self::UseDenied(_) => words(StatusCode::FORBIDDEN, "approval_denied", "Approval denied", DENIED),
            Self::TokenQuarantined => words(StatusCode::FORBIDDEN, "token_quarantined", "Token quarantined", DENIED),
            Self::TokenRevoked => words(StatusCode::FORBIDDEN, "token_revoked", "Token revoked", DENIED),
            Self::PlaintextUpstream => {
                words(StatusCode::FORBIDDEN, "plaintext_upstream", "Plaintext upstream", CONFIGURATION)
            }
            Self::NoRoute => words(StatusCode::NOT_FOUND, "no_route", "No route", DENIED),
            Self::MethodRefused => words(StatusCode::METHOD_NOT_ALLOWED, "method_refused", "Method refused", DENIED),
            Self::RequestTimeout => words(StatusCode::REQUEST_TIMEOUT, "request_timeout", "Request timeout", MALFORMED),
            Self::BodyTimeout => words(StatusCode::REQUEST_TIMEOUT, "request_timeout", "Request timeout", MALFORMED),
            Self::BodyMalformed => words(StatusCode::BAD_REQUEST, "framing", "Malformed body", MALFORMED),
            Self::ClientGone => words(StatusCode::BAD_REQUEST, "framing", "Incomplete body", MALFORMED),
            Self::TargetTooLong => words(StatusCode::URI_TOO_LONG, "target_too_long", "Target too long", MALFORMED),
            Self::ExpectRefused => {
                words(StatusCode::EXPECTATION_FAILED, "expect_refused", "Expectation refused", DENIED)
            }
            Self::HostUnknown => words(StatusCode::MISDIRECTED_REQUEST, "host_unknown", "Unknown host", DENIED),
            Self::HeadersTooLarge => words(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                "Header fields too large",
                MALFORMED,
            ),
            Self::UpstreamConnect(_) => {
                words(StatusCode::BAD_GATEWAY, "upstream_connect", "Upstream unreachable", "destination_unavailable")
            }
            Self::UpstreamTls(_) => {
                words(StatusCode::BAD_GATEWAY, "upstream_tls", "Upstream TLS failure", "tls_protocol_error")
            }
            Self::UpstreamCertificate(_) => {
                words(StatusCode::BAD_GATEWAY, "upstream_tls", "Upstream certificate", "tls_certificate_error")
            }
            Self::UpstreamAlert(_) => {
                words(StatusCode::BAD_GATEWAY, "upstream_tls", "Upstream TLS alert", "tls_alert_received")
            }
            Self::UpstreamProtocol | Self::UpstreamAnswer(_) => {
                words(StatusCode::BAD_GATEWAY, "upstream_protocol", "Upstream protocol error", "http_protocol_error")
            }
            Self::UpstreamTimeout => {
                words(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "Upstream timeout", "http_response_timeout")
            }
            Self::ConnectTimeout(_) => {
                words(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "Upstream timeout", "connection_timeout")
            }
            Self::TokenPending => unavailable("token_pending", "Token pending"),
            Self::TokenExpired { .. } => unavailable("token_expired", "Token expired"),
            Self::TokenHeld => unavailable("token_unavailable", "Token held"),
            Self::TokenUnavailable { .. } => unavailable("token_unavailable", "Token unavailable"),
            Self::ReauthRequired => unavailable("reauth_required", "Sign-in required"),
            Self::AuditUnavailable => unavailable("audit_unavailable", "Audit trail unavailable"),
            Self::Overloaded => {
                Words { proxy_error: "connection_limit_reached", ..unavailable("overloaded", "Overloaded") }
            }
            Self::Loop => words(StatusCode::LOOP_DETECTED, "loop", "Loop", "proxy_loop_detected"),
            Self::HeaderInvalid(_) => words(StatusCode::BAD_REQUEST, "header_invalid", "Invalid header", MALFORMED),
            Self::NoRoomToSign => unavailable("overloaded", "Too many bodies to sign at a time"),
            Self::Busy => unavailable("overloaded", "Too many requests at a time"),
            Self::BodyTooLarge => words(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large", MALFORMED),
            Self::BodyUnsignable => {
                words(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large to sign", MALFORMED)
            }
            Self::RateLimited(_) | Self::RateOfClient(_) => {
                words(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests", DENIED)
            }
            Self::Throttled(_) => words(StatusCode::TOO_MANY_REQUESTS, "throttled", "More than usual", DENIED),
        }
    }

    /// How long the client had better wait, in whole seconds; `None` where waiting does not help.
    fn retry_after(&self) -> Option<u64> {
        let wait = match self {
            Self::TokenExpired { retry_after } => retry_after.unwrap_or(Duration::from_secs(1)),
            Self::TokenUnavailable { retry_after } => *retry_after,
            Self::TokenPending
            | Self::TokenHeld
            | Self::Overloaded
            | Self::NoRoomToSign
            | Self::Busy
            | Self::AuditUnavailable
            | Self::ClientUnverified => Duration::from_secs(1),
            Self::RateLimited(exceeded) | Self::RateOfClient(exceeded) | Self::Throttled(exceeded) => exceeded.wait,
            _ => return None,
        };
        Some(wait.as_millis().div_ceil(1000).clamp(1, 3600) as u64)
    }

    pub fn status(&self) -> StatusCode {
        self.words().status
    }

    pub fn reason(&self) -> &'static str {
        self.words().reason
    }

    /// Whether the connection must not be used again: where its next byte belongs is not certain.
    fn closes(&self) -> bool {
        matches!(
            self,
            Self::Framing
                | Self::HostMismatch
                | Self::RequestTimeout
                | Self::BodyTimeout
                | Self::BodyMalformed
                | Self::ClientGone
                | Self::Overloaded
                | Self::BodyTooLarge
                | Self::BodyUnsignable
        )
    }

    /// The command that gets what is missing, where people have to grant it. It holds names and ids of ours alone.
    fn request(&self, context: &Context<'_>) -> Option<String> {
        match self {
            Self::ApprovalPending(request) | Self::UseAwaiting(request) => {
                Some(format!("countersign requests approve {request} --reason TEXT"))
            }
            Self::ApprovalDenied(_) | Self::GrantEnded => {
                let token = context.token?;
                Some(format!("countersign requests submit {token} --for 1h --reason TEXT"))
            }
            Self::MethodDenied | Self::PathDenied if context.can_be_asked_for => {
                Some(command(context.token?, context.request_id))
            }
            _ => None,
        }
    }

    /// The answer: `application/problem+json` (RFC 9457) with `Proxy-Status` (RFC 9209).
    pub fn into_response(self, context: &Context<'_>) -> Response<Bytes> {
        let words = self.words();
        let detail = self.to_string();
        let mut problem = serde_json::json!({
            "type": format!("urn:countersign:{}", words.reason),
            "title": words.title,
            "status": words.status.as_u16(),
            "detail": detail,
            "reason": words.reason,
            "route": context.route.map(RouteName::as_str),
            "token": context.token.map(TokenName::as_str),
            "request_id": context.request_id,
        });
        if let Some(command) = self.request(context) {
            problem["request"] = command.into();
        }
        let mut response = Response::new(words.status, Bytes::from(format!("{problem}\n")));
        let headers = &mut response.fields;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let mut status = String::new();
        // Writing to a String does not fail.
        let _ = write!(status, "countersign; error={}; details={}", words.proxy_error, words.reason);
        if let Ok(status) = HeaderValue::from_str(&status) {
            headers.insert(PROXY_STATUS, status);
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            if let Self::RateLimited(exceeded) | Self::RateOfClient(exceeded) = &self {
                tell_rate(exceeded, seconds, headers);
            }
        }
        if matches!(self, Self::ClientAuthRequired) {
            headers.insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"countersign\""));
        }
        if self.closes() && context.version != Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if context.grpc {
            return grpc::respond(words.status, words.reason, &detail, std::mem::take(headers));
        }
        response
    }
}

/// The fields of draft-ietf-httpapi-ratelimit-headers-10: so much in so many seconds, of which nothing is left for so many.
fn tell_rate(exceeded: &Exceeded, seconds: u64, headers: &mut Fields) {
    let policy = format!("\"rate\";q={};w={}", exceeded.rate.count(), exceeded.rate.window().as_secs());
    for (name, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, format!("\"rate\";r=0;t={seconds}"))] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

fn unavailable(reason: &'static str, title: &'static str) -> Words {
    Words { status: StatusCode::SERVICE_UNAVAILABLE, reason, title, proxy_error: "proxy_internal_response" }
}

/// What a refusal may say of where it happened.
#[derive(Default)]
pub struct Context<'a> {
    pub route: Option<&'a RouteName>,
    pub token: Option<&'a TokenName>,
    pub request_id: &'a str,
    /// Whether what the request lacked is kept under this id.
    pub can_be_asked_for: bool,
    /// What the client speaks.
    pub version: Version,
    /// It reads its errors from fields of gRPC's own.
    pub grpc: bool,
}

/// `countersign_refused_total{reason}`
#[derive(Clone)]
pub struct RefusedTotal(Vec<(&'static str, IntCounter)>);

impl RefusedTotal {
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let refused = registry.counters("refused_total", "Requests that the proxy refused itself.", &["reason"])?;
        Ok(Self(REASONS.iter().map(|reason| (*reason, refused.with_label_values(&[reason]))).collect()))
    }

    pub fn count(&self, refusal: &Refusal) {
        let reason = refusal.reason();
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == reason) {
            counter.inc();
        }
    }
}

/// Numbers for refusals, unlike in other workers and other runs.
pub struct RequestIds {
    run: u64,
    last: Cell<u64>,
}

impl RequestIds {
    pub fn new() -> Self {
        Self { run: fastrand::u64(..), last: Cell::new(0) }
    }

    pub fn next(&self) -> String {
        self.last.set(self.last.get() + 1);
        format!("{:016x}-{:x}", self.run, self.last.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::PathError;
    use crate::policy::Denied;
    use crate::policy::rule::Denied as RuleDenied;
    use crate::proxy::tripwire::Cause;

    fn all() -> Vec<Refusal> {
        let second = Duration::from_secs(1);
        let request: RequestId = "00112233aabbccdd".parse().expect("an id");
        let tripped = Tripped {
            cause: Cause::OtherHost,
            key: "app".parse().expect("a name"),
            sent_by: None,
            uid: None,
            route: None,
            token: None,
        };
        vec![
            Refusal::Framing,
            Refusal::HostMismatch,
            Refusal::PathAmbiguous(PathError::NoSlash),
            Refusal::QueryAmbiguous,
            Refusal::ClientUnknown,
            Refusal::ClientAuthRequired,
            Refusal::Tripped(Box::new(tripped)),
            Refusal::JobRefused(Refused::Expired),
            Refusal::ClientUnverified,
            Refusal::RouteDenied,
            Refusal::MethodDenied,
            Refusal::PathDenied,
            Refusal::MethodDeniedToClient,
            Refusal::PathDeniedToClient,
            Refusal::DerivedCredential,
            Refusal::DestinationProhibited(String::new()),
            Refusal::BrowserRefused,
            Refusal::TunnelDenied,
            Refusal::TunnelDeniedToClient,
            Refusal::GrantEnded,
            Refusal::ApprovalPending(request),
            Refusal::ApprovalDenied(request),
            Refusal::UseAwaiting(request),
            Refusal::UseDenied(request),
            Refusal::TokenQuarantined,
            Refusal::TokenRevoked,
            Refusal::PlaintextUpstream,
            Refusal::NoRoute,
            Refusal::MethodRefused,
            Refusal::RequestTimeout,
            Refusal::BodyTimeout,
            Refusal::BodyMalformed,
            Refusal::ClientGone,
            Refusal::TargetTooLong,
            Refusal::ExpectRefused,
            Refusal::HostUnknown,
            Refusal::HeadersTooLarge,
            Refusal::UpstreamConnect(String::new()),
            Refusal::UpstreamTls(String::new()),
            Refusal::UpstreamCertificate(String::new()),
            Refusal::UpstreamAlert(String::new()),
            Refusal::UpstreamProtocol,
            Refusal::UpstreamAnswer(Fault::Interim),
            Refusal::UpstreamTimeout,
            Refusal::ConnectTimeout(String::new()),
            Refusal::TokenPending,
            Refusal::TokenExpired { retry_after: None },
            Refusal::TokenHeld,
            Refusal::TokenUnavailable { retry_after: second },
            Refusal::ReauthRequired,
            Refusal::AuditUnavailable,
            Refusal::Overloaded,
            Refusal::Loop,
            Refusal::HeaderInvalid(""),
            Refusal::Busy,
            Refusal::BodyTooLarge,
            Refusal::BodyUnsignable,
            Refusal::NoRoomToSign,
            Refusal::RateLimited(exceeded()),
            Refusal::RateOfClient(exceeded()),
            Refusal::Throttled(exceeded()),
            Refusal::ClientBlocked,
        ]
    }

    fn exceeded() -> Exceeded {
        Exceeded { rate: "50/s burst 100".parse().expect("a rate"), wait: Duration::from_millis(1) }
    }

    #[test]
    fn what_is_observed_goes_by_the_name_that_a_refusal_has() {
        for denied in [
            Denied::Client,
            Denied::Method,
            Denied::Path,
            Denied::Minting,
            Denied::Rate(exceeded()),
            Denied::OfClient(RuleDenied::Method),
            Denied::OfClient(RuleDenied::Path),
            Denied::RateOfClient(exceeded()),
        ] {
            assert_eq!(Refusal::from(denied).reason(), denied.reason());
        }
    }

    #[test]
    fn every_refusal_is_counted_under_a_known_reason_and_is_never_401() {
        let registry = Registry::new().expect("metrics");
        let refused = RefusedTotal::register(&registry).expect("metrics");
        for refusal in all() {
            assert!(REASONS.contains(&refusal.reason()), "{refusal:?}");
            assert_ne!(refusal.status(), StatusCode::UNAUTHORIZED);
            refused.count(&refusal);
        }
        for reason in REASONS {
            assert!(all().iter().any(|refusal| refusal.reason() == reason), "{reason} is nowhere");
        }
        assert!(registry.scrape().contains(r#"countersign_refused_total{reason="upstream_tls"} 3"#));
    }

    #[test]
    fn a_refusal_reads_the_same_to_people_and_programs() {
        let refusal = Refusal::TokenExpired { retry_after: Some(Duration::from_millis(2100)) };
        let context = Context { request_id: "r1", ..Context::default() };
        let response = refusal.into_response(&context);
        assert_eq!(response.status, 503);
        assert_eq!(response.fields.said("retry-after"), "3");
        assert_eq!(response.fields.said("cache-control"), "no-store");
        let status = "countersign; error=proxy_internal_response; details=token_expired";
        assert_eq!(response.fields.said("proxy-status"), status);
        let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(body["type"], "urn:countersign:token_expired");
        assert_eq!(body["request_id"], "r1");
    }
}
